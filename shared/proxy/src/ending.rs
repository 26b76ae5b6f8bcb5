//! How things end: exchanges, connections, and the worker itself.

use steady_http::{Reset, error::code};
use steady_ring::{ConnId, Driver, Time};

use crate::conn::{Buffers, Conn, Http, Side, Stage};
use crate::exchange::{Key, Origin, Phase};
use crate::pipe::Way;
use crate::plane::Listed;
use crate::policy::{AttemptEnd, Outcome, Policy, Record, Reply};
use crate::refusal::Refusal;
use crate::worker::{Drain, Todo, Worker};

/// The largest head whose memory an exchange that is over keeps for the next. Most are smaller; a crowd of clients with the largest
/// that may be would leave theirs in a thousand exchanges.
pub(crate) const HEAD_SPARE_MAX: usize = 8 * 1024;

impl<D: Driver, P: Policy> Worker<D, P> {
    /// Answers an exchange from here. Whatever it was doing upstream has ended.
    pub(crate) fn reply(&mut self, key: Key, reply: Reply) {
        self.detach(key, AttemptEnd::Abandoned);
        let now = self.now;
        let Some(exchange) = self.exchanges.at(key) else { return };
        debug_assert!(exchange.status == 0, "one final response an exchange");
        exchange.phase = Phase::Replying;
        exchange.activity = now;
        exchange.timing.answered = now;
        let dropped = exchange.upload.burden();
        exchange.upload.held.clear();
        exchange.upload.keep = false;
        exchange.download.renew();
        exchange.download.source_ended = true;
        exchange.download.begin_to_wait(now);
        let mut body = self.buffers.take();
        match reply {
            Reply::Refuse(refusal) => {
                exchange.refusal = Some(refusal);
                exchange.outcome = Outcome::Refused;
                self.stats.refusals[refusal.index()].add(1);
                crate::respond::refuse(refusal, &exchange.request, &mut self.scratch, &mut body);
            }
            Reply::Bare { status, field } => {
                self.scratch.reset_to_status(status);
                self.scratch.content_length = Some(0);
                if let Some((name, value)) = field {
                    self.scratch.push(name, &value);
                }
            }
        }
        exchange.download.bytes = body.len() as u64;
        let end = body.is_empty();
        exchange.download.held.begin(body);
        let source = exchange.down;
        self.answer(key, end);
        // After the head: credit says that the request has begun, and a peer that learns that first does not send it again
        // when it then reads a refusal.
        if let Some(source) = source {
            self.release(source, dropped as u32);
        }
    }

    /// Ends the attempt under way, if there is one: its stream, its place in a queue.
    pub(crate) fn detach(&mut self, key: Key, end: AttemptEnd) {
        let now = self.now;
        self.unpark_upstream(key);
        let Some(exchange) = self.exchanges.at(key) else { return };
        let Some(target) = exchange.target.take() else { return };
        let waiting = matches!(exchange.phase, Phase::Waiting { .. });
        let whole = exchange.download.source_ended && exchange.upload.sink_ended;
        let leg = exchange.up.take();
        self.policy.attempt_ended(&mut exchange.ticket, end, now);
        if waiting {
            self.leave_queue(key, target.upstream);
        }
        let Some(leg) = leg else { return };
        self.touch(leg.conn);
        let Some(conn) = self.conn(leg.conn) else { return };
        conn.unbind(leg.stream, key);
        if !whole && let Some((codec, out)) = conn.codec_and_out() {
            codec.reset(leg.stream, Reset::ours(code::CANCEL, "the exchange is over"), out);
        }
        self.upstream_free(leg.conn);
    }

    /// One end of the exchange is gone already: the leg that `way` came from.
    pub(crate) fn forget_leg(&mut self, key: Key, way: Way) {
        let Some(exchange) = self.exchanges.at(key) else { return };
        let leg = match way {
            Way::Up => exchange.down.take(),
            Way::Down => exchange.up.take(),
        };
        if let Some(leg) = leg
            && let Some(conn) = self.conn(leg.conn)
        {
            conn.unbind(leg.stream, key);
        }
    }

    /// Ends an exchange, wherever it is, and records it. The response that is not whole is cut.
    pub(crate) fn finish(&mut self, key: Key, outcome: Outcome) {
        let Some(exchange) = self.exchanges.at(key) else { return };
        if let Phase::Parked { key: place, .. } = exchange.phase {
            self.leave_parking(key, place);
        }
        let end = match outcome {
            Outcome::Complete => AttemptEnd::Complete,
            Outcome::UpstreamBroken => AttemptEnd::Broken,
            Outcome::TimedOut => AttemptEnd::TimedOut,
            Outcome::Refused | Outcome::ClientGone | Outcome::Cut => AttemptEnd::Abandoned,
        };
        self.detach(key, end);
        let Some(mut exchange) = self.exchanges.take(key) else { return };
        self.stats.exchanges_open.set(self.exchanges.len() as u64);
        exchange.timing.ended = self.now;
        let is_client = matches!(exchange.origin, Origin::Client);
        if is_client {
            self.stats.outcomes[outcome as usize].add(1);
            self.policy.finished(&Record {
                request: &exchange.request,
                ticket: &exchange.ticket,
                peer: exchange.peer,
                is_tls: exchange.is_tls,
                version: exchange.version,
                status: exchange.status,
                outcome,
                refusal: exchange.refusal,
                request_bytes: exchange.upload.bytes,
                response_bytes: exchange.download.bytes,
                attempts: exchange.attempt,
                timing: exchange.timing,
            });
        }
        if let Some(leg) = exchange.down.take() {
            let whole = exchange.download.sink_ended;
            let stop = match (whole, exchange.upload.source_ended) {
                (true, true) => None,
                (true, false) => Some(Reset::ours(code::NO_ERROR, "the response is complete")),
                (false, _) => Some(Reset::ours(code::INTERNAL_ERROR, "the response was cut")),
            };
            self.end_downstream(key, leg, whole, stop);
        }
        exchange.ticket = P::Ticket::default();
        (exchange.upload.trailers, exchange.download.trailers) = (None, None);
        // A spare exchange holds no body's memory: that is shared among all that need some.
        for held in [&mut exchange.upload.held, &mut exchange.download.held] {
            self.buffers.keep(held.take_memory(), &self.limits);
        }
        if self.spares.len() < self.limits.spare_buffers_max && exchange.request.footprint() <= HEAD_SPARE_MAX {
            self.spares.push(exchange);
        }
    }

    fn end_downstream(&mut self, key: Key, leg: crate::exchange::Leg, whole: bool, stop: Option<Reset>) {
        self.touch(leg.conn);
        let Some(conn) = self.conn(leg.conn) else { return };
        conn.unbind(leg.stream, key);
        let serial = conn.is_serial();
        if let Some(reset) = stop
            && (!serial || !whole)
            && let Some((codec, out)) = conn.codec_and_out()
        {
            codec.reset(leg.stream, reset, out);
        }
        if serial && !whole {
            // What was cut must not look complete. Its framing shows that more was to come, so that what waits to be sent, the
            // ends of answers before it among it, may go. Where only the end delimits, a reset tells.
            if matches!(&conn.http, Http::H1Server(server) if server.is_close_delimited()) {
                return self.close_by_reset(leg.conn);
            }
            return self.finish_conn(leg.conn);
        }
        self.set_paused(leg.conn, |paused| paused.body = false);
        self.refeed_later(leg.conn);
        self.check_finished(leg.conn);
        self.rest(leg.conn);
    }

    /// A connection whose last stream may just have ended begins to be idle.
    pub(crate) fn rest(&mut self, id: ConnId) {
        let now = self.now;
        let Some(conn) = self.conn(id) else { return };
        if conn.active() == 0 && conn.stage == Stage::Open {
            conn.since = now;
            self.arm_conn(id.index() as u32);
        }
    }

    fn leave_queue(&mut self, key: Key, upstream: u64) {
        if let Some(entry) = self.upstreams.get_mut(&upstream) {
            entry.leave_queue(key);
        }
    }

    /// The peer of a downstream connection is gone: so is everything it asked for.
    pub(crate) fn abandon(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        for slot in 0..conn.slots() {
            let Some(conn) = self.conn(id) else { return };
            let Some(key) = conn.bound_at(slot) else { continue };
            self.forget_leg(key, Way::Up);
            self.finish(key, Outcome::ClientGone);
        }
    }

    /// Sends what there is, then ends the connection without losing what the peer has still to read.
    pub(crate) fn finish_conn(&mut self, id: ConnId) {
        let now = self.now;
        let Some(conn) = self.conn(id) else { return };
        if conn.stage != Stage::Open {
            return;
        }
        if !conn.is_down() && conn.out.is_empty() && conn.aside.wire.is_empty() && !conn.sending {
            return self.close(id);
        }
        conn.stage = Stage::Finishing;
        conn.since = now;
        if let Side::Up { upstream } = conn.side
            && !std::mem::replace(&mut conn.retired, true)
        {
            self.leave_upstream(id, upstream, false);
            self.todo.push_back(Todo::Serve(upstream));
        }
        self.mark(id);
        self.arm_conn(id.index() as u32);
    }

    pub(crate) fn close(&mut self, id: ConnId) {
        if self.leave(id) {
            self.driver.close(id);
        }
    }

    /// Closes it so that its peer does not take the end for the end of what was being sent.
    pub(crate) fn close_by_reset(&mut self, id: ConnId) {
        if self.leave(id) {
            self.driver.reset(id);
        }
    }

    /// Has no part in anything from here on. `false`: that was so before.
    fn leave(&mut self, id: ConnId) -> bool {
        let Some(conn) = self.conn(id) else { return false };
        if conn.stage == Stage::Closed {
            return false;
        }
        let was_connecting = std::mem::replace(&mut conn.stage, Stage::Closed) == Stage::Connecting;
        let retired = conn.retired;
        if let Side::Up { upstream } = conn.side {
            self.leave_upstream(id, upstream, retired);
            if !was_connecting {
                // After a connect that failed, another one at once would fail as well.
                self.todo.push_back(Todo::Serve(upstream));
            }
        }
        true
    }

    /// The driver is done with a connection.
    pub(crate) fn closed(&mut self, id: ConnId) {
        if self.conn(id).is_none() {
            return;
        }
        let Some(conn) = self.conns[id.index()].conn.take() else { return };
        self.conns_open -= 1;
        let gauge = if conn.is_down() { &self.stats.connections_open } else { &self.stats.upstream_open };
        gauge.sub(1);
        if let Some(client) = conn.peer().filter(|_| conn.counted) {
            self.crowd.leave(client, self.now);
        }
        let Conn { out, mut aside, .. } = *conn;
        let Buffers { wire, pending } = aside.take();
        self.spare_out(out);
        for buffer in [wire, pending] {
            self.spare(buffer);
        }
    }

    /// A connection that carries nothing further ends.
    pub(crate) fn check_finished(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        if conn.stage != Stage::Open {
            return;
        }
        let over = conn.codec().is_some_and(|codec| codec.is_finished() && codec.active() == 0);
        if over {
            self.finish_conn(id);
        }
    }

    /// The peer sends no more.
    pub(crate) fn end_of_stream(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        conn.eof = true;
        match conn.stage {
            Stage::Closed => return,
            Stage::Finishing if conn.sending || !conn.out.is_empty() || !conn.aside.wire.is_empty() => return,
            Stage::Connecting | Stage::Finishing | Stage::Lingering => return self.close(id),
            Stage::Open => {}
        }
        if !conn.is_down() && conn.is_shaking() {
            self.warn_of_upstream(id, &"it ended the connection before the handshake was done");
            return self.upstream_failed(id, crate::upstream::Failure::Tls);
        }
        if conn.is_down() && !conn.aside.pending.is_empty() && conn.codec().is_some_and(|codec| codec.is_blocked()) {
            // Requests that it sent before its end come first.
            return self.after_end_of_stream(id);
        }
        self.touch(id);
        let Some(conn) = self.conn(id) else { return };
        let Some((codec, out)) = conn.codec_and_out() else { return self.close(id) };
        match codec.receive_end(out) {
            Ok(event) => {
                if let Some(event) = event {
                    self.codec_event(id, event);
                }
                self.after_end_of_stream(id);
            }
            Err(error) => {
                let Some(conn) = self.conn(id) else { return };
                if conn.is_down() {
                    // It stopped in the middle. Answers to what came before are still its.
                    self.abandon(id);
                    self.finish_conn(id);
                } else {
                    tracing::debug!(reason = error.reason, "an upstream stopped in the middle");
                    self.upstream_failed(id, crate::upstream::Failure::Broken);
                }
            }
        }
    }

    fn after_end_of_stream(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        if conn.stage != Stage::Open {
            return;
        }
        let idle = conn.active() == 0;
        let multiplexed = !conn.is_serial();
        let is_down = conn.is_down();
        match (is_down, idle, multiplexed) {
            (true, true, _) => self.finish_conn(id),
            (true, false, true) => {
                self.abandon(id);
                self.close(id);
            }
            (true, false, false) => {
                if let Some(key) = self.conn(id).and_then(|conn| conn.bound_at(0)) {
                    self.leave_if_ended(key);
                }
            }
            (false, true, _) => self.close(id),
            (false, false, true) => self.upstream_failed(id, crate::upstream::Failure::Broken),
            (false, false, false) => {}
        }
    }

    /// Has a connection end gracefully.
    pub(crate) fn go_away(&mut self, id: ConnId) {
        self.touch(id);
        let Some(conn) = self.conn(id) else { return };
        if conn.stage != Stage::Open {
            return;
        }
        if let Some((codec, out)) = conn.codec_and_out() {
            codec.go_away(out);
        }
        self.check_finished(id);
    }

    /// Stops accepting. What has begun goes on until `until`; who is connected is told that the next answer is the last, and
    /// is let go when he asks for nothing.
    pub(crate) fn drain(&mut self, until: Time) {
        if self.draining.is_some() {
            return;
        }
        self.draining = Some(Drain { since: self.now, until });
        for state in &self.listeners {
            if let Some(id) = state.id {
                self.driver.stop_listening(id);
            }
        }
        for id in self.down_ids() {
            self.go_away(id);
            self.arm_conn(id.index() as u32);
        }
    }

    fn down_ids(&self) -> Vec<ConnId> {
        self.conns
            .iter()
            .filter_map(|slot| slot.conn.as_deref())
            .filter(|conn| conn.is_down())
            .map(|conn| conn.id)
            .collect()
    }

    /// Shows the exchanges under way, and ends the chosen ones now, those that wait too.
    pub(crate) fn inspect(&mut self, refusal: Refusal, look: impl Fn(&Listed<'_, P::Ticket>) -> bool) {
        let keys: Vec<Key> = self.exchanges.keys().collect();
        let now = self.now;
        for key in keys {
            if self.exchanges.at(key).is_some_and(|exchange| look(&exchange.listed(now))) {
                self.cut(key, refusal);
            }
        }
    }

    /// Ends an exchange now: before its response has begun with an answer, after it by cutting it.
    pub(crate) fn cut(&mut self, key: Key, refusal: Refusal) {
        let Some(exchange) = self.exchanges.at(key) else { return };
        let is_question = matches!(exchange.origin, Origin::Question { .. });
        match exchange.phase {
            // Those who wait for its answer must not wait for ever.
            _ if is_question => self.fail_attempt(key, AttemptEnd::Abandoned, Refusal::Draining),
            // On its way to one of the others, or has its answer.
            Phase::Replying | Phase::Routing => {}
            Phase::Parked { key: place, .. } => {
                self.leave_parking(key, place);
                self.reply(key, Reply::Refuse(refusal));
            }
            Phase::Answering => {
                exchange.refusal = Some(refusal);
                self.finish(key, Outcome::Cut);
            }
            Phase::Waiting { .. } => self.reply(key, Reply::Refuse(refusal)),
            // It may have run.
            Phase::Attached => self.reply(key, Reply::Refuse(Refusal::Cut)),
        }
    }

    /// Everything is cut at the end of a drain.
    pub(crate) fn cut_all(&mut self) {
        // The end of a question would send those who wait for its answer on their way once more.
        self.inspect(Refusal::Draining, |listed| !listed.is_question);
        self.inspect(Refusal::Draining, |_| true);
        self.run_todo();
        self.flush_dirty();
    }
}
