//! Bytes in and out of a connection: TLS, which version of HTTP it is, the codec's turns, and the one send of a batch.

use std::rc::Rc;

use steady_http::{Codec as _, Scheme, h1, h2};
use steady_ring::{ConnId, Driver, RecvBuf, SendBuf};

use crate::conn::{Http, Paused, Secure, Side, Stage};
use crate::policy::Policy;
use crate::proxy_protocol;
use crate::tls::{Fault, Tls, TlsError};
use crate::upstream::Failure;
use crate::worker::{Todo, Worker, lookup};

/// What an HTTP/2 client says first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl<D: Driver, P: Policy> Worker<D, P> {
    /// Bytes came from the network.
    pub(crate) fn received(&mut self, id: ConnId, buf: RecvBuf) {
        let now = self.now;
        let Some(conn) = self.conn(id) else { return };
        if let Some(watch) = &mut conn.watch {
            watch.heard(now);
        }
        match conn.stage {
            Stage::Open => {}
            // What a refused peer still sends is read and thrown away, until it ends or its time is out.
            Stage::Connecting | Stage::Finishing | Stage::Lingering | Stage::Closed => return,
        }
        if matches!(conn.http, Http::Proxied) {
            self.receive_proxy_header(id, &buf);
        } else {
            self.incoming = (buf.is_worth_keeping() && matches!(conn.secure, Secure::Plain)).then(|| buf.clone());
            self.receive_wire(id, &buf);
            self.incoming = None;
        }
    }

    /// Bytes behind the PROXY protocol's header, if there was one.
    fn receive_wire(&mut self, id: ConnId, bytes: &[u8]) {
        let Some(conn) = self.conn(id) else { return };
        match &mut conn.secure {
            Secure::Plain => self.feed(id, bytes),
            Secure::Hello(_) => self.receive_hello(id, bytes),
            Secure::Parked(_) => self.receive_parked(id, bytes),
            Secure::Tls(_) => self.receive_tls(id, bytes),
        }
    }

    fn receive_proxy_header(&mut self, id: ConnId, bytes: &[u8]) {
        let Some(conn) = self.conn(id) else { return };
        conn.aside.pending.extend_from_slice(bytes);
        match proxy_protocol::parse(&conn.aside.pending) {
            Ok(None) => {}
            Ok(Some(header)) => {
                let rest = conn.aside.pending.split_off(header.consumed);
                conn.aside.pending = Vec::new();
                conn.http = Http::Unknown;
                if let Side::Down { peer, .. } = &mut conn.side
                    && header.source.is_some()
                {
                    *peer = header.source.into();
                }
                if self.enter_late(id, header.source) && !rest.is_empty() {
                    self.receive_wire(id, &rest);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a connection without a good PROXY header");
                self.stats.connections_refused.add(1);
                self.close(id);
            }
        }
    }

    fn receive_tls(&mut self, id: ConnId, bytes: &[u8]) {
        let now = self.now;
        let mut plain = std::mem::take(&mut self.plain);
        let Some(slot) = self.conns.get_mut(id.index()) else { return };
        let Some(conn) = slot.conn.as_deref_mut() else { return };
        let Secure::Tls(tls) = &mut conn.secure else { return };
        let was_handshaking = tls.is_handshaking();
        let result = tls.receive(bytes, &mut self.tls_scratch, &mut plain, &mut conn.aside.wire);
        let shaken = was_handshaking && !tls.is_handshaking();
        let resumed = shaken && tls.is_resumed();
        if shaken {
            conn.since = now;
        }
        self.mark(id);
        if shaken {
            self.stats.tls_handshakes.add(1);
            self.stats.tls_resumed.add(u64::from(resumed));
        }
        match result {
            Ok(()) => self.after_tls(id, &plain),
            Err(error) => {
                // What was intact before the damage still counts.
                if !plain.is_empty() {
                    self.after_tls(id, &plain);
                }
                self.tls_failed(id, &error);
            }
        }
        plain.clear();
        self.plain = plain;
    }

    /// Decrypted bytes, and perhaps the end of a handshake or of the connection.
    pub(crate) fn after_tls(&mut self, id: ConnId, plain: &[u8]) {
        let Some(conn) = self.conn(id) else { return };
        let Secure::Tls(tls) = &conn.secure else { return };
        let closed = tls.peer_closed();
        if !tls.is_handshaking() && matches!(conn.http, Http::Unknown) {
            match (conn.is_down(), tls.alpn()) {
                (true, Some(b"h2")) => self.speak_h2(id),
                (true, Some(_)) => self.speak_h1(id),
                (true, None) => {}
                (false, alpn) => {
                    let is_h2 = alpn == Some(b"h2");
                    self.upstream_shaken(id, is_h2);
                }
            }
        }
        if !plain.is_empty() {
            self.feed(id, plain);
        }
        if closed {
            self.end_of_stream(id);
        }
    }

    pub(crate) fn tls_failed(&mut self, id: ConnId, error: &TlsError) {
        self.stats.tls_failed.add(1);
        let Some(conn) = self.conn(id) else { return };
        if !conn.is_down() {
            // A server judges our certificate after we take the handshake for done; until its settings have come, it has done
            // nothing that we asked for.
            let refused = error.fault() == Fault::PeerRefused && !conn.settled;
            let failure = if conn.is_shaking() || refused { Failure::Tls } else { Failure::Broken };
            self.warn_of_upstream(id, error);
            return self.upstream_failed(id, failure);
        }
        tracing::debug!(%error, "TLS failed");
        if error.is_certificate() {
            self.stats.client_certificates_refused.add(1);
        }
        self.abandon(id);
        self.finish_conn(id);
    }

    /// Cleartext for the codec, behind what it could not use before.
    pub(crate) fn feed(&mut self, id: ConnId, bytes: &[u8]) {
        let Some(conn) = self.conn(id) else { return };
        if conn.aside.pending.is_empty() {
            let consumed = self.parse(id, bytes);
            if consumed < bytes.len() {
                self.keep_pending(id, &bytes[consumed..]);
            }
        } else {
            let mut pending = std::mem::take(&mut conn.aside.pending);
            pending.extend_from_slice(bytes);
            let consumed = self.parse(id, &pending);
            self.put_back(id, pending, consumed);
        }
    }

    /// Another turn for input that waited.
    pub(crate) fn refeed(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        conn.refeed = false;
        if conn.stage != Stage::Open {
            return;
        }
        if !conn.aside.pending.is_empty() {
            let pending = std::mem::take(&mut conn.aside.pending);
            let consumed = self.parse(id, &pending);
            self.put_back(id, pending, consumed);
        }
        if self.conn(id).is_some_and(|conn| conn.eof) {
            self.end_of_stream(id);
        }
    }

    /// Asks for another turn, after what is under way.
    pub(crate) fn refeed_later(&mut self, id: ConnId) {
        if let Some(conn) = self.conn(id)
            && !conn.refeed
            && (!conn.aside.pending.is_empty() || conn.eof)
        {
            conn.refeed = true;
            self.todo.push_back(Todo::Refeed(id));
        }
    }

    fn put_back(&mut self, id: ConnId, mut pending: Vec<u8>, consumed: usize) {
        pending.drain(..consumed);
        let Some(conn) = self.conn(id) else { return self.spare(pending) };
        // Parsing may have put input back itself only by a bug: nothing feeds a connection while it is being fed.
        debug_assert!(conn.aside.pending.is_empty());
        if pending.is_empty() || conn.stage != Stage::Open {
            self.spare(pending);
        } else {
            conn.aside.pending = pending;
        }
        self.balance_pending(id);
    }

    fn keep_pending(&mut self, id: ConnId, rest: &[u8]) {
        let mut buffer = self.buffers.take();
        let now = self.now;
        match self.conn(id) {
            Some(conn) if conn.stage == Stage::Open => {
                buffer.extend_from_slice(rest);
                conn.aside.pending = buffer;
                if conn.active() == 0 {
                    // The first octets of a head: its deadline begins.
                    conn.since = now;
                }
                self.arm_conn(id.index() as u32);
            }
            _ => self.spare(buffer),
        }
        self.balance_pending(id);
    }

    /// Stops reading a connection that pipelines more than is kept; goes on once it has been used.
    fn balance_pending(&mut self, id: ConnId) {
        let max = self.limits.pending_bytes_max;
        let Some(conn) = self.conn(id) else { return };
        let blocked = conn.codec().is_some_and(|codec| codec.is_blocked());
        let bound = if conn.paused.pending { max / 2 } else { max };
        let too_much = blocked && conn.aside.pending.len() > bound;
        self.set_paused(id, |paused| paused.pending = too_much);
    }

    /// Gives the codec its turns over `input`; returns how much of it is done with.
    fn parse(&mut self, id: ConnId, input: &[u8]) -> usize {
        let mut total = 0;
        loop {
            let rest = &input[total..];
            let Some(conn) = lookup(&mut self.conns, id).filter(|conn| conn.stage == Stage::Open) else {
                return input.len();
            };
            if matches!(conn.http, Http::Unknown) {
                if !self.detect(id, rest) {
                    return total;
                }
                continue;
            }
            if conn.is_clogged(&self.limits) {
                self.set_paused(id, |paused| paused.output = true);
                return total;
            }
            if conn.unsent && !rest.is_empty() {
                // Behind an answer, and the request that got the connection then has not left: this answers nothing, whatever it
                // looks like (RFC 9112 §9.2).
                tracing::debug!("an upstream said more than its answer");
                self.upstream_failed(id, Failure::Rules);
                return input.len();
            }
            conn.touch(&mut self.buffers, &mut self.dirty);
            if let Http::H2Server(codec) = &mut conn.http {
                codec.at_second(self.second);
            }
            let Some((codec, out)) = conn.codec_and_out() else { return total };
            match codec.receive(rest, &mut self.scratch, out) {
                Ok(step) => {
                    total += step.consumed;
                    match step.event {
                        Some(event) => self.codec_event(id, event),
                        None => break,
                    }
                }
                Err(error) => {
                    self.codec_failed(id, &error);
                    return input.len();
                }
            }
        }
        self.check_finished(id);
        total
    }

    /// Finds out the version of a cleartext connection by its first octets. `false`: too few to tell.
    fn detect(&mut self, id: ConnId, input: &[u8]) -> bool {
        let compared = input.len().min(PREFACE.len());
        // `PRI` is no method that anybody may use (RFC 9113 §11.4), so four octets tell.
        if input[..compared] != PREFACE[..compared] {
            self.speak_h1(id);
        } else if compared >= 4 {
            self.speak_h2(id);
        } else {
            return false;
        }
        true
    }

    fn speak_h1(&mut self, id: ConnId) {
        let Some((limits, scheme)) = self.codec_parts(id) else { return };
        if let Some(conn) = self.conn(id) {
            conn.http = Http::H1Server(h1::Server::new(limits, scheme));
        }
    }

    fn speak_h2(&mut self, id: ConnId) {
        let Some((limits, scheme)) = self.codec_parts(id) else { return };
        if let Some(conn) = self.conn(id) {
            conn.http = Http::H2Server(Box::new(h2::Server::new(limits, scheme)));
        }
    }

    fn codec_parts(&mut self, id: ConnId) -> Option<(Rc<steady_http::Limits>, Scheme)> {
        let conn = self.conn(id)?;
        let scheme = if conn.is_tls() { Scheme::Https } else { Scheme::Http };
        let Side::Down { listener, .. } = conn.side else { return None };
        Some((Rc::clone(&self.listeners[usize::from(listener)].codec_limits), scheme))
    }

    /// Makes sure that `conn.out` has memory before a codec writes to it, and that it is flushed after the batch.
    pub(crate) fn touch(&mut self, id: ConnId) {
        if let Some(conn) = lookup(&mut self.conns, id) {
            conn.touch(&mut self.buffers, &mut self.dirty);
        }
    }

    pub(crate) fn sent(&mut self, id: ConnId, buf: SendBuf) {
        self.spare_out(buf);
        let now = self.now;
        let Some(conn) = self.conn(id) else { return };
        conn.sending = false;
        // A quiet send was taken as done when it began.
        if !std::mem::take(&mut conn.quiet) && conn.active() == 0 && conn.is_down() {
            // Until now its client had something to read. (What an idle upstream is sent is no use of it.)
            conn.since = now;
        }
        let starved = std::mem::take(&mut conn.starved);
        let upstream = conn.upstream().filter(|_| std::mem::take(&mut conn.full));
        let clogged = conn.paused.output;
        self.mark(id);
        if starved {
            self.pump_all(id);
        }
        if let Some(upstream) = upstream {
            self.todo.push_back(Todo::Serve(upstream));
        }
        if clogged {
            self.set_paused(id, |paused| paused.output = false);
            self.refeed_later(id);
        }
    }

    /// Has the connection looked at when the batch is over, without giving it memory.
    pub(crate) fn mark(&mut self, id: ConnId) {
        if let Some(conn) = self.conn(id)
            && !conn.dirty
        {
            conn.dirty = true;
            self.dirty.push(id);
        }
    }

    /// The connections that have something to say say it, each with one send.
    pub(crate) fn flush_dirty(&mut self) {
        self.pump_unsent();
        let mut dirty = std::mem::take(&mut self.dirty);
        // Flushing may make others dirty only through `close`, which sends nothing: one pass is enough.
        for id in dirty.drain(..) {
            self.flush(id);
        }
        std::mem::swap(&mut self.dirty, &mut dirty);
        self.dirty.append(&mut dirty);
    }

    fn flush(&mut self, id: ConnId) {
        let now = self.now;
        let Some(slot) = self.conns.get_mut(id.index()) else { return };
        let Some(conn) = slot.conn.as_deref_mut().filter(|conn| conn.id == id) else { return };
        conn.dirty = false;
        if conn.sending || matches!(conn.stage, Stage::Closed | Stage::Connecting) {
            return;
        }
        if let Secure::Tls(tls) = &mut conn.secure {
            if !tls.is_handshaking() && !conn.out.is_empty() {
                if conn.aside.wire.capacity() == 0 {
                    conn.aside.wire = self.buffers.take();
                }
                let sent = tls.send(&conn.out.bytes, &mut conn.aside.wire);
                conn.out.clear();
                if sent.is_err() {
                    return self.tls_is_over(id);
                }
            }
            if conn.stage == Stage::Finishing {
                tls.close(&mut conn.aside.wire);
            }
        }
        let empty = if conn.is_tls() { conn.aside.wire.is_empty() } else { conn.out.is_empty() };
        if empty {
            // With a handshake under way `out` waits for its end.
            let waits = !conn.out.is_empty();
            let idle = if waits { SendBuf::default() } else { std::mem::take(&mut conn.out) };
            let wire = conn.aside.take_wire();
            self.spare_out(idle);
            self.spare(wire);
            if !waits {
                self.nothing_to_send(id);
            }
            return;
        }
        let buf = if conn.is_tls() {
            if conn.out.is_empty() {
                self.buffers.keep(std::mem::take(&mut conn.out.bytes), &self.limits);
            }
            SendBuf::from(conn.aside.take_wire())
        } else {
            std::mem::take(&mut conn.out)
        };
        conn.sending = true;
        conn.unsent = false;
        conn.sending_since = now;
        conn.quiet = conn.sends_quietly();
        if conn.quiet {
            if conn.active() == 0 && conn.is_down() {
                conn.since = now;
            }
            self.driver.send_quietly(id, buf);
        } else {
            self.driver.send(id, buf);
        }
        self.arm_conn(id.index() as u32);
    }

    /// The session can carry nothing more: its keys are used up, and its version has no others.
    #[cold]
    fn tls_is_over(&mut self, id: ConnId) {
        if self.conn(id).is_some_and(|conn| !conn.is_down()) {
            return self.upstream_failed(id, Failure::Broken);
        }
        self.abandon(id);
        self.close(id);
    }

    /// Everything is out: what was to happen after it.
    fn nothing_to_send(&mut self, id: ConnId) {
        let now = self.now;
        let Some(conn) = self.conn(id) else { return };
        if conn.stage != Stage::Finishing {
            return;
        }
        conn.stage = Stage::Lingering;
        conn.since = now;
        if conn.eof {
            return self.close(id);
        }
        conn.paused = Paused::default();
        self.driver.shutdown(id);
        self.driver.resume(id);
        self.arm_conn(id.index() as u32);
    }

    /// Changes why a connection is not read, and has the driver stop or go on where that changes anything.
    pub(crate) fn set_paused(&mut self, id: ConnId, change: impl FnOnce(&mut Paused)) {
        let Some(conn) = self.conn(id) else { return };
        let before = conn.paused.any();
        change(&mut conn.paused);
        let after = conn.paused.any();
        match (before, after) {
            (false, true) => self.driver.pause(id),
            (true, false) => self.driver.resume(id),
            _ => {}
        }
    }

    /// A TLS client towards an upstream begins its handshake.
    pub(crate) fn begin_tls(&mut self, id: ConnId, tls: Tls) {
        if let Some(conn) = self.conn(id) {
            conn.secure = Secure::Tls(Box::new(tls));
        }
        self.mark(id);
    }
}
