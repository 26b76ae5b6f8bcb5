//! One attempt after another: where an exchange is sent, where it waits, what came back, and whether it may be sent again.

use steady_http::{Name, Reset, StreamId};
use steady_ring::{ConnId, Driver, Time};

use crate::conn::Conn;
use crate::downstream::request_of;
use crate::exchange::{Exchange, Key, Leg, Origin, Phase};
use crate::pipe::Way;
use crate::policy::{AttemptEnd, Decision, Interim, Judgement, Outcome, ParkKey, Policy, Reply, Request, Target};
use crate::refusal::Refusal;
use crate::stats::Late;
use crate::upstream::Upstream;
use crate::worker::{Todo, Worker, lookup};

impl<D: Driver, P: Policy> Worker<D, P> {
    /// Asks the policy where an exchange goes, and sends it on its way.
    pub(crate) fn route(&mut self, key: Key) {
        let now = self.now;
        let Some(exchange) = self.exchanges.at(key) else { return };
        if exchange.phase != Phase::Routing {
            return;
        }
        let conn = exchange.down.and_then(|leg| self.conns.get(leg.conn.index())?.conn.as_deref());
        let server_name = conn.and_then(Conn::server_name);
        let mut request = request_of!(exchange, server_name, now);
        match self.policy.route(&self.snapshot, &mut request) {
            Decision::Forward(target) => self.forward(key, target),
            Decision::Park { key: place, until, refusal } => self.park(key, place, until, refusal),
            Decision::Ask { key: place, target, ask_until, until, refusal } => {
                self.park(key, place, until, refusal);
                self.ask(place, target, ask_until);
            }
            Decision::Reply(reply) => self.reply(key, reply),
        }
    }

    /// Sends the policy's own question.
    fn ask(&mut self, place: ParkKey, target: Target, until: Time) {
        let key = self.exchanges.reserve();
        let mut exchange = self.spares.pop().unwrap_or_else(|| Box::new(Exchange::blank(&self.held)));
        exchange.renew(key, Origin::Question { key: place, until }, self.now);
        exchange.upload.source_ended = true;
        exchange.version = 20;
        self.policy.question(place, &mut exchange.request);
        self.exchanges.put(exchange);
        self.stats.questions.add(1);
        self.arm_exchange(key.index);
        self.forward(key, target);
    }

    fn forward(&mut self, key: Key, target: Target) {
        let now = self.now;
        let Some(exchange) = self.exchanges.at(key) else { return };
        exchange.timing.routed = now;
        exchange.attempt = exchange.attempt.saturating_add(1);
        exchange.phase = Phase::Waiting { since: now };
        exchange.upload.keep = target.replay_bytes_max > 0 && !exchange.accepted;
        // No more than the source gives without getting credit back.
        let window = self.listeners.get(exchange.listener).map_or(u32::MAX, |state| state.codec_limits.stream_window);
        exchange.upload.keep_max = (target.replay_bytes_max.min(window) as usize).min(self.limits.held_bytes_max);
        let upstream = target.upstream;
        self.upstreams.entry(upstream).or_insert_with(|| Upstream::new(target.clone()));
        exchange.target = Some(target);
        self.arm_exchange(key.index);
        self.tell(key, None);
        if !self.assign(key, upstream) {
            self.wait_for(key, upstream);
        }
    }

    /// An informational response is in `scratch`.
    pub(crate) fn interim(&mut self, id: ConnId, stream: StreamId) {
        let Some(key) = self.bound(Leg { conn: id, stream }) else { return };
        let Some(exchange) = self.exchanges.at(key) else { return };
        let Some(down) = exchange.down else { return };
        match self.policy.interim(&mut exchange.ticket, &self.scratch) {
            Interim::Pass => {}
            word => return self.told(key, word),
        }
        self.accept(key);
        let Some(exchange) = self.exchanges.at(key) else { return };
        if exchange.phase != Phase::Attached {
            return;
        }
        // As in trailers: what is between our own machines ends here, whoever sent it.
        self.scratch.retain(|field| !Name::is_reserved(field.name));
        if lookup(&mut self.conns, down.conn).is_some_and(|conn| conn.is_clogged(&self.limits)) {
            // Interim responses are hints, but for the one that a client may wait for.
            if self.scratch.status != 100 {
                return;
            }
            self.scratch.reset_to_status(100);
        }
        self.send_head(down, false);
    }

    /// Sends what is in `scratch` as a head.
    pub(crate) fn send_head(&mut self, down: Leg, end: bool) {
        self.touch(down.conn);
        let Some(slot) = self.conns.get_mut(down.conn.index()) else { return };
        let Some(conn) = slot.conn.as_deref_mut().filter(|conn| conn.id == down.conn) else { return };
        if let Some((codec, out)) = conn.codec_and_out() {
            codec.send_head(down.stream, &self.scratch, end, out);
        }
    }

    /// A final response's head is in `scratch`.
    pub(crate) fn response(&mut self, id: ConnId, stream: StreamId, end: bool) {
        let Some(key) = self.bound(Leg { conn: id, stream }) else { return };
        let now = self.now;
        let Some(exchange) = self.exchanges.at(key) else { return };
        if exchange.phase != Phase::Attached {
            return;
        }
        if exchange.parked_upstream.is_some() {
            self.unpark_upstream(key);
        }
        let Some(exchange) = self.exchanges.at(key) else { return };
        exchange.timing.answered = now;
        exchange.timing.own = self.batches.cost(exchange.attached_in).min(now.since(exchange.timing.attached));
        exchange.activity = now;
        exchange.download.source_ended = end;
        if let Origin::Question { key: place, .. } = exchange.origin {
            self.policy.answered(place, Some(&self.scratch), now);
            self.finish(key, Outcome::Complete);
            return self.resume(place);
        }
        if self.policy.judge(&mut exchange.ticket, &mut self.scratch) == Judgement::Refused {
            return self.fail_attempt(key, AttemptEnd::Refused, Refusal::Refused);
        }
        self.accept(key);
        let Some(exchange) = self.exchanges.at(key) else { return };
        exchange.tunnel = exchange.request.is_connect() && (200..300).contains(&self.scratch.status);
        if exchange.tunnel {
            self.stats.tunnels.add(1);
        } else if !end && !exchange.is_bodiless(self.scratch.status) {
            let conn = exchange.down.and_then(|leg| self.conns.get(leg.conn.index())?.conn.as_deref());
            let mut request = request_of!(exchange, conn.and_then(Conn::server_name), now);
            exchange.filter = self.policy.filter(&mut request, &mut self.scratch);
        }
        self.answer(key, end);
    }

    /// Sends the head in `scratch` to the client; what follows it comes through the download pipe.
    pub(crate) fn answer(&mut self, key: Key, end: bool) {
        let now = self.now;
        let Some(exchange) = self.exchanges.at(key) else { return };
        let Some(down) = exchange.down else { return };
        let conn = self.conns.get(down.conn.index()).and_then(|slot| slot.conn.as_deref());
        let is_choked = conn.is_some_and(|conn| conn.is_choked(&self.limits));
        let timing = exchange.timing;
        let mut request = request_of!(exchange, conn.and_then(Conn::server_name), now);
        self.policy.respond(&mut request, &mut self.scratch, &timing);
        exchange.status = self.scratch.status;
        self.stats.responses[usize::from(self.scratch.status / 100).min(5)].add(1);
        if exchange.phase == Phase::Attached {
            exchange.phase = Phase::Answering;
        }
        if is_choked {
            self.stats.clients_late[Late::Read as usize].add(1);
            return self.finish(key, Outcome::Cut);
        }
        exchange.download.sink_ended = end;
        let tunnel = exchange.tunnel;
        self.send_head(down, end);
        if tunnel {
            // What the client sent ahead of the grant.
            self.refeed_later(down.conn);
        }
        if !end {
            self.arm_exchange(key.index);
            self.pump(key, Way::Down);
        } else {
            self.progress(key);
        }
    }

    /// An attempt came to nothing before its response began: another one, where that is safe; otherwise an answer.
    pub(crate) fn fail_attempt(&mut self, key: Key, end: AttemptEnd, refusal: Refusal) {
        self.detach(key, end);
        let attempts_max = self.limits.attempts_max;
        let now = self.now;
        let Some(exchange) = self.exchanges.at(key) else { return };
        if let Origin::Question { key: place, .. } = exchange.origin {
            self.policy.answered(place, None, now);
            self.finish(key, Outcome::Refused);
            return self.resume(place);
        }
        if end.is_unprocessed() && exchange.attempt < attempts_max && exchange.is_repeatable() {
            exchange.upload.rewind();
            exchange.download.source_ended = false;
            exchange.phase = Phase::Routing;
            self.stats.retries.add(1);
            self.todo.push_back(Todo::Route(key));
        } else {
            self.reply(key, Reply::Refuse(refusal));
        }
    }

    /// The stream of an exchange was reset from the other side, or by the codec.
    pub(crate) fn upstream_reset(&mut self, key: Key, reset: Reset) {
        let Some(exchange) = self.exchanges.at(key) else { return };
        let answering = exchange.phase == Phase::Answering;
        let whole = exchange.download.source_ended;
        let leg = exchange.up;
        self.forget_leg(key, Way::Down);
        if answering && whole {
            self.outlive_upstream(key);
        } else if answering {
            self.finish(key, Outcome::UpstreamBroken);
        } else if reset.unprocessed {
            self.fail_attempt(key, AttemptEnd::Refused, Refusal::Refused);
        } else {
            let refusal = if reset.by_peer { Refusal::UpstreamBroken } else { Refusal::BadResponse };
            self.fail_attempt(key, AttemptEnd::Broken, refusal);
        }
        if let Some(leg) = leg {
            self.upstream_free(leg.conn);
        }
    }
}
