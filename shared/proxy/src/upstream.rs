//! Connections to targets: finding or opening one for an exchange, and what becomes of it.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use steady_http::{Client, h1, h2};
use steady_ring::{ConnId, Driver, Op};

use crate::conn::{Conn, Http, Side, Stage};
use crate::exchange::{Key, Leg, Origin, Phase};
use crate::liveness::Watch;
use crate::pipe::Way;
use crate::policy::{AttemptEnd, Outcome, Policy, Protocol, Target};
use crate::refusal::Refusal;
use crate::tls::Tls;
use crate::worker::Worker;

/// The connections to one target, and who waits for one.
#[derive(Debug)]
pub(crate) struct Upstream {
    target: Target,
    /// HTTP/2: those that carry requests. HTTP/1.1: those that are idle, the last used last.
    ready: Vec<ConnId>,
    opening: Vec<ConnId>,
    /// Open and opening.
    open: usize,
    waiting: VecDeque<Key>,
}

/// How a connection to an upstream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Connect,
    /// TLS did not come about: nothing was asked of it.
    Tls,
    /// Reset, or ended in the middle.
    Broken,
    /// It broke HTTP's rules.
    Rules,
    TimedOut,
}

impl Failure {
    fn attempt_end(self) -> AttemptEnd {
        match self {
            Failure::Connect | Failure::Tls => AttemptEnd::ConnectFailed,
            Failure::Broken | Failure::Rules => AttemptEnd::Broken,
            Failure::TimedOut => AttemptEnd::TimedOut,
        }
    }

    fn refusal(self) -> Refusal {
        match self {
            Failure::Connect => Refusal::ConnectFailed,
            Failure::Tls => Refusal::UpstreamTls,
            Failure::Broken => Refusal::UpstreamBroken,
            Failure::Rules => Refusal::BadResponse,
            Failure::TimedOut => Refusal::ResponseTimeout,
        }
    }
}

impl<D: Driver, P: Policy> Worker<D, P> {
    /// Gives the exchange to a connection that has room. `false`: there is none now.
    pub(crate) fn assign(&mut self, key: Key, upstream: u64) -> bool {
        let is_question =
            self.exchanges.at(key).is_some_and(|exchange| matches!(exchange.origin, Origin::Question { .. }));
        let needs_settings = self.exchanges.at(key).is_some_and(|exchange| !exchange.request.protocol().is_empty());
        loop {
            let Some(entry) = self.upstreams.get_mut(&upstream) else { return false };
            let found = match entry.target.protocol {
                Protocol::Http1 => entry.ready.pop(),
                Protocol::H2c => {
                    let out_max = self.limits.up_out_bytes_max;
                    let mut find = |spent_too: bool| {
                        entry.ready.iter().copied().find(|id| {
                            let conn = self.conns.get_mut(id.index()).and_then(|slot| slot.conn.as_deref_mut());
                            conn.is_some_and(|conn| {
                                conn.has_room(is_question, needs_settings, out_max)
                                    && (spent_too || !conn.is_window_spent())
                            })
                        })
                    };
                    // One whose window is spent is only good while no other may be opened.
                    let may_open = entry.open < self.limits.h2_connections_max;
                    find(false).or_else(|| if may_open { None } else { find(true) })
                }
            };
            let Some(id) = found else { return false };
            match self.attach(key, id) {
                Attached::Yes => return true,
                Attached::Unfit => {
                    // The connection is fine, but cannot carry this request (extended CONNECT to a peer without it).
                    self.fail_attempt(key, AttemptEnd::Broken, Refusal::UpstreamBroken);
                    return true;
                }
                Attached::Gone => {
                    if let Some(entry) = self.upstreams.get_mut(&upstream) {
                        entry.ready.retain(|&other| other != id);
                    }
                }
            }
        }
    }

    /// Queues it, and opens a connection where more are allowed.
    pub(crate) fn wait_for(&mut self, key: Key, upstream: u64) {
        let limits = &self.limits;
        let Some(entry) = self.upstreams.get_mut(&upstream) else { return };
        if entry.waiting.len() >= limits.waiting_max {
            // Not the upstream's word: it would be as full a moment later.
            return self.fail_attempt(key, AttemptEnd::Abandoned, Refusal::QueueFull);
        }
        entry.waiting.push_back(key);
        self.open_for_waiting(upstream);
    }

    /// Opens connections for those who wait, as many as they need and are allowed.
    fn open_for_waiting(&mut self, upstream: u64) {
        loop {
            let limits = &self.limits;
            let Some(entry) = self.upstreams.get_mut(&upstream) else { return };
            let (max, needed) = match entry.target.protocol {
                Protocol::Http1 => (limits.h1_connections_max, entry.waiting.len()),
                Protocol::H2c => (limits.h2_connections_full_max, entry.waiting.len().min(1)),
            };
            if entry.open >= max || entry.opening.len() >= needed {
                return;
            }
            if entry.target.protocol == Protocol::H2c && entry.open >= limits.h2_connections_max {
                let mut conns =
                    entry.ready.iter().map(|id| self.conns.get(id.index()).and_then(|slot| slot.conn.as_deref()));
                if !conns.all(|conn| conn.is_some_and(Conn::is_full)) {
                    return;
                }
            }
            entry.open += 1;
            let id = self.driver.connect(&entry.target.addr);
            entry.opening.push(id);
            self.stats.upstream_connects.add(1);
            let conn = Conn::new(id, Side::Up { upstream }, Http::Unknown, Stage::Connecting, self.now);
            self.insert(conn);
        }
    }

    /// A connect of ours succeeded.
    pub(crate) fn connected(&mut self, id: ConnId) {
        let now = self.now;
        let Some(conn) = self.conn(id) else { return };
        let Side::Up { upstream } = conn.side else { return };
        if conn.stage != Stage::Connecting {
            return;
        }
        conn.stage = Stage::Open;
        conn.since = now;
        let Some(entry) = self.upstreams.get_mut(&upstream) else { return self.close(id) };
        let Some(secured) = entry.target.tls.clone() else { return self.begin_http(id) };
        let mut wire = self.buffers.take();
        let tls = Tls::client(Arc::clone(&secured.config), secured.name.clone(), &mut wire);
        if let Some(conn) = self.conn(id) {
            conn.aside.wire = wire;
        }
        match tls {
            Ok(tls) => self.begin_tls(id, tls),
            Err(error) => self.tls_failed(id, &error),
        }
        self.arm_conn(id.index() as u32);
    }

    /// TLS with an upstream has come about; `is_h2`: that is what was agreed on.
    pub(crate) fn upstream_shaken(&mut self, id: ConnId, is_h2: bool) {
        let now = self.now;
        let Some(conn) = self.conn(id) else { return };
        conn.since = now;
        let Side::Up { upstream } = conn.side else { return };
        let Some(entry) = self.upstreams.get(&upstream) else { return self.close(id) };
        if entry.target.protocol == Protocol::H2c && !is_h2 {
            self.warn_of_upstream(id, &"it does not speak HTTP/2 over TLS");
            return self.upstream_failed(id, Failure::Tls);
        }
        self.begin_http(id);
    }

    /// Says in the log why an upstream is not used, once a second at most: every request may meet it.
    pub(crate) fn warn_of_upstream(&mut self, id: ConnId, why: &dyn std::fmt::Display) {
        if !self.may_warn() {
            return;
        }
        let Some(conn) = self.conn(id) else { return };
        let Side::Up { upstream } = conn.side else { return };
        let Some(entry) = self.upstreams.get(&upstream) else { return };
        let addr = &entry.target.addr;
        tracing::warn!(%addr, "TLS with an upstream failed: {why}");
    }

    /// The connection can carry requests: those who wait get it.
    fn begin_http(&mut self, id: ConnId) {
        let limits = std::rc::Rc::clone(&self.upstream_limits);
        let Some(conn) = self.conn(id) else { return };
        let Side::Up { upstream } = conn.side else { return };
        let scheme = if conn.is_tls() { steady_http::Scheme::Https } else { steady_http::Scheme::Http };
        let Some(entry) = self.upstreams.get_mut(&upstream) else { return self.close(id) };
        entry.opening.retain(|&other| other != id);
        entry.ready.push(id);
        let protocol = entry.target.protocol;
        let watch = (entry.target.pings && protocol == Protocol::H2c).then(|| Box::new(Watch::new(self.now)));
        self.touch(id);
        let seed = self.rng.u64(..);
        let Some(conn) = self.conn(id) else { return };
        conn.watch = watch;
        conn.http = match protocol {
            Protocol::Http1 => Http::H1Client(Box::new(h1::Client::new(limits).with_seed(seed))),
            Protocol::H2c => {
                let mut client = Box::new(h2::Client::new(limits, scheme));
                client.start(&mut conn.out.bytes);
                Http::H2Client(client)
            }
        };
        self.arm_conn(id.index() as u32);
        self.serve_waiting(upstream);
    }

    /// Those who wait get what is free, and new connections where that is not enough.
    pub(crate) fn serve(&mut self, upstream: u64) {
        self.serve_waiting(upstream);
        self.open_for_waiting(upstream);
    }

    /// Whether an exchange that waits does so for its turn, rather than for a target that does not answer.
    pub(crate) fn is_queued(&self, upstream: u64) -> bool {
        self.upstreams.get(&upstream).is_some_and(|entry| entry.open > entry.opening.len())
    }

    /// Gives those who wait what has become free.
    fn serve_waiting(&mut self, upstream: u64) {
        loop {
            let Some(entry) = self.upstreams.get_mut(&upstream) else { return };
            let Some(&key) = entry.waiting.front() else { return };
            let waits = self.exchanges.at(key).is_some_and(|exchange| matches!(exchange.phase, Phase::Waiting { .. }));
            if waits && !self.assign(key, upstream) {
                return;
            }
            if let Some(entry) = self.upstreams.get_mut(&upstream)
                && entry.waiting.front() == Some(&key)
            {
                entry.waiting.pop_front();
            }
        }
    }

    /// Opens a stream for the exchange.
    fn attach(&mut self, key: Key, id: ConnId) -> Attached {
        if !self.is_usable(id) {
            return Attached::Gone;
        }
        self.touch(id);
        let now = self.now;
        let Some(exchange) = self.exchanges.at(key) else { return Attached::Gone };
        let upload = &exchange.upload;
        let end = upload.source_ended && upload.held.is_empty() && upload.trailers.is_none();
        let conn = self.conns.get_mut(id.index()).and_then(|slot| slot.conn.as_deref_mut());
        let Some(conn) = conn.filter(|conn| conn.id == id) else { return Attached::Gone };
        let opened = match &mut conn.http {
            Http::H1Client(client) => {
                conn.unsent = true;
                client.open(&exchange.request, end, &mut conn.out.bytes)
            }
            Http::H2Client(client) => client.open(&exchange.request, end, &mut conn.out.bytes),
            _ => return Attached::Gone,
        };
        let Some(stream) = opened else {
            let usable = conn.client().is_some_and(|client| client.available() > 0);
            return if usable { Attached::Unfit } else { Attached::Gone };
        };
        conn.bind(stream, key);
        exchange.up = Some(Leg { conn: id, stream });
        exchange.phase = Phase::Attached;
        exchange.timing.attached = now;
        exchange.attached_in = self.batches.number();
        exchange.paced = (now, exchange.upload.bytes);
        exchange.timing.answered = now;
        exchange.upload.sink_ended = end;
        let grow = exchange.down.filter(|_| !exchange.upload.keep && !exchange.upload.source_ended);
        if !end {
            self.pump(key, Way::Up);
        }
        if let Some(source) = grow {
            self.grow(source);
        }
        self.arm_exchange(key.index);
        Attached::Yes
    }

    /// A connection to an upstream is over: what it carried fails, what waited for it tries elsewhere.
    pub(crate) fn upstream_failed(&mut self, id: ConnId, failure: Failure) {
        let Some(conn) = self.conn(id) else { return };
        if conn.stage == Stage::Closed {
            return;
        }
        let Side::Up { upstream } = conn.side else { return };
        let was_connecting = conn.stage == Stage::Connecting;
        let was_shaking = conn.is_shaking();
        // It has never been ready: what waits has no other, or it would be asked for again and again.
        let was_opening = matches!(conn.http, Http::Unknown);
        let failure = match failure {
            _ if was_connecting => Failure::Connect,
            _ if was_shaking => Failure::Tls,
            other => other,
        };
        let unused = matches!(failure, Failure::Connect | Failure::Tls);
        // A server may end an idle connection in the very batch in which we give it a request.
        let end = if conn.unsent && !unused { AttemptEnd::Refused } else { failure.attempt_end() };
        let slots = conn.slots();
        let keys: Vec<Key> = (0..slots).filter_map(|slot| conn.bound_at(slot)).collect();
        if unused {
            self.stats.upstream_connect_failed.add(1);
        }
        if failure == Failure::Tls {
            self.stats.upstream_tls_failed.add(1);
        }
        self.close(id);
        for key in keys {
            let Some(exchange) = self.exchanges.at(key) else { continue };
            if exchange.up.is_none_or(|leg| leg.conn != id) {
                continue;
            }
            let answering = exchange.phase == Phase::Answering;
            let whole = exchange.download.source_ended;
            let outcome = if failure == Failure::TimedOut { Outcome::TimedOut } else { Outcome::UpstreamBroken };
            self.forget_leg(key, Way::Down);
            if answering && whole {
                self.outlive_upstream(key);
            } else if answering {
                self.finish(key, outcome);
            } else {
                self.fail_attempt(key, end, failure.refusal());
            }
        }
        if was_opening {
            self.fail_waiting(upstream, failure.refusal());
        }
    }

    /// No connection could be made: those that waited fail, unless another connection still lives.
    fn fail_waiting(&mut self, upstream: u64, refusal: Refusal) {
        let Some(entry) = self.upstreams.get_mut(&upstream) else { return };
        if entry.open > 0 {
            return;
        }
        let waiting = std::mem::take(&mut entry.waiting);
        self.upstreams.remove(&upstream);
        for key in waiting {
            if self.exchanges.at(key).is_some_and(|exchange| matches!(exchange.phase, Phase::Waiting { .. })) {
                self.fail_attempt(key, AttemptEnd::ConnectFailed, refusal);
            }
        }
    }

    pub(crate) fn failed(&mut self, id: ConnId, op: Op, error: &io::Error) {
        let Some(conn) = self.conn(id) else { return };
        if conn.is_down() {
            self.abandon(id);
            return self.close(id);
        }
        tracing::debug!(%error, ?op, "an upstream connection failed");
        let failure = if op == Op::Connect { Failure::Connect } else { Failure::Broken };
        self.upstream_failed(id, failure);
    }

    /// The peer's settings changed, or it goes away: more, or fewer, streams can be opened.
    pub(crate) fn upstream_changed(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        let Side::Up { upstream } = conn.side else { return };
        if conn.codec().is_some_and(|codec| codec.is_finished())
            && let Some(entry) = self.upstreams.get_mut(&upstream)
        {
            // It carries what it has to its end and takes nothing new.
            let before = entry.ready.len();
            entry.ready.retain(|&other| other != id);
            if entry.ready.len() < before {
                entry.open -= 1;
                if let Some(conn) = self.conn(id) {
                    conn.retired = true;
                }
            }
        }
        self.serve(upstream);
    }

    /// A stream of the connection has ended: it can carry another, or is to be closed.
    pub(crate) fn upstream_free(&mut self, id: ConnId) {
        let now = self.now;
        let Some(conn) = self.conn(id) else { return };
        let Side::Up { upstream } = conn.side else { return };
        if conn.stage != Stage::Open {
            return;
        }
        let active = conn.active();
        let finished = conn.codec().is_some_and(|codec| codec.is_finished());
        if active == 0 {
            conn.since = now;
            if finished || conn.eof {
                self.finish_conn(id);
            } else if matches!(conn.http, Http::H1Client(_))
                && let Some(entry) = self.upstreams.get_mut(&upstream)
                && !entry.ready.contains(&id)
            {
                entry.ready.push(id);
            }
            self.set_paused(id, |paused| paused.body = false);
            self.arm_conn(id.index() as u32);
        }
        self.serve(upstream);
    }

    /// Takes a connection that is being closed out of its upstream's lists.
    pub(crate) fn leave_upstream(&mut self, id: ConnId, upstream: u64, retired: bool) {
        let Some(entry) = self.upstreams.get_mut(&upstream) else { return };
        entry.ready.retain(|&other| other != id);
        entry.opening.retain(|&other| other != id);
        if !retired {
            entry.open -= 1;
        }
        if entry.open == 0 && entry.waiting.is_empty() {
            self.upstreams.remove(&upstream);
        }
    }
}

/// What became of an attempt to use a connection.
enum Attached {
    Yes,
    /// It cannot carry this request.
    Unfit,
    /// It carries nothing more.
    Gone,
}

impl Upstream {
    /// An exchange no longer waits here.
    pub(crate) fn leave_queue(&mut self, key: Key) {
        self.waiting.retain(|&other| other != key);
    }

    pub(crate) fn new(target: Target) -> Upstream {
        Upstream { target, ready: Vec::new(), opening: Vec::new(), open: 0, waiting: VecDeque::new() }
    }
}

impl Conn {
    /// Whether an HTTP/2 connection can take one more stream. The last that the peer allows is kept for questions, so that a
    /// full connection can still be asked; unless it is the only one.
    fn has_room(&mut self, is_question: bool, needs_settings: bool, out_max: usize) -> bool {
        if needs_settings && !self.settled {
            // Whether the peer takes extended CONNECT is known once its settings are.
            return false;
        }
        if self.out.len() >= out_max && !is_question {
            self.full = true;
            return false;
        }
        let Some(client) = self.client() else { return false };
        let reserve = usize::from(!is_question && client.active() > 0);
        client.available() > reserve
    }

    /// Whether it carries as many streams as it may, but for the one that is kept for questions.
    fn is_full(&self) -> bool {
        matches!(&self.http, Http::H2Client(client) if client.available() <= 1)
    }

    /// Whether bodies on it wait for the peer's credit for the whole connection.
    fn is_window_spent(&self) -> bool {
        matches!(&self.http, Http::H2Client(client) if client.is_window_spent())
    }

    /// The codec in the client role.
    fn client(&mut self) -> Option<&mut dyn Client> {
        match &mut self.http {
            Http::H1Client(client) => Some(client.as_mut()),
            Http::H2Client(client) => Some(client.as_mut()),
            _ => None,
        }
    }
}
