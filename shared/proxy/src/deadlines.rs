//! Every wait has a deadline.
//!
//! A slot (of a connection or an exchange) has at most one entry in the timing wheel that counts. When something moves a
//! deadline further away nothing is done; when the entry fires, the slot's present occupant is asked when it is due, and
//! the entry is set anew if that is later. So a request costs no timer.

use std::time::Duration;

use steady_ring::{ConnId, Driver, Time};

use crate::conn::{Conn, Http, Side, Stage};
use crate::exchange::{Exchange, Key, Origin, Phase};
use crate::limits::{Limits, Timeouts};
use crate::policy::{AttemptEnd, Outcome, Policy, Reply};
use crate::refusal::Refusal;
use crate::stats::Late;
use crate::upstream::Failure;
use crate::worker::{Drain, Slot, TimerKey, Worker};

/// A worker that runs so much later than it wanted was stopped, or has had no processor.
const LATE_MIN: Duration = Duration::from_millis(20);
/// The longest that it waits for what came meanwhile.
const PATIENCE_MAX: Duration = Duration::from_secs(1);

impl<D: Driver, P: Policy> Worker<D, P> {
    /// Makes sure that the connection's deadline is not missed.
    pub(crate) fn arm_conn(&mut self, index: u32) {
        let Some(slot) = self.conns.get_mut(index as usize) else { return };
        let Some(conn) = slot.conn.as_deref_mut() else { return };
        let due = due(conn, &self.timeouts, &self.limits, self.draining);
        if due < slot.armed {
            slot.armed = due;
            self.timers.set(TimerKey { slot: Slot::Conn(index), at: due }, due);
        }
    }

    /// Makes sure that the exchange's deadline is not missed.
    pub(crate) fn arm_exchange(&mut self, index: u32) {
        let Some(key) = self.exchanges.occupant(index) else { return };
        let timeouts = self.timeouts;
        let Some(exchange) = self.exchanges.at(key) else { return };
        let due = exchange_due(exchange, &timeouts, &self.limits).0;
        let armed = self.exchanges.armed(index);
        if due < *armed {
            *armed = due;
            self.timers.set(TimerKey { slot: Slot::Exchange(index), at: due }, due);
        }
    }

    /// The deadlines in force have changed: shorter ones hold at once, for what waits already too.
    pub(crate) fn arm_all(&mut self) {
        for index in 0..self.conns.len() as u32 {
            self.arm_conn(index);
        }
        let keys: Vec<Key> = self.exchanges.keys().collect();
        for key in keys {
            self.arm_exchange(key.index);
        }
    }

    /// When deadlines are to be looked at next.
    #[inline]
    pub(crate) fn next_due(&self) -> Option<Time> {
        let next = self.timers.next();
        if self.patient == Time::ZERO { next } else { next.map(|at| at.max(self.patient)) }
    }

    /// Whether deadlines are not looked at yet, the first of which the worker wanted to look at at `first`. They go on while it
    /// does not run (it, or its whole machine, is stopped), and what came meanwhile may take a few batches to read. So it calls
    /// nobody late for as long as it was late itself, up to a bound, and once: one that is late all the time still keeps its
    /// deadlines.
    #[inline]
    pub(crate) fn is_patient(&mut self, first: Option<Time>) -> bool {
        let is_late = first.is_some_and(|first| self.now > first + LATE_MIN);
        (is_late || self.patient != Time::ZERO) && self.has_patience(first)
    }

    #[cold]
    fn has_patience(&mut self, first: Option<Time>) -> bool {
        self.patient = match (self.patient, first) {
            (Time::ZERO, Some(first)) => self.now + self.now.since(first).min(PATIENCE_MAX),
            (until, _) if self.now < until => until,
            _ => Time::ZERO,
        };
        self.patient != Time::ZERO
    }

    /// Runs what is due.
    pub(crate) fn expire(&mut self) {
        while let Some(TimerKey { slot, at }) = self.timers.expire(self.now) {
            match slot {
                Slot::Conn(index) => {
                    let Some(place) = self.conns.get_mut(index as usize) else { continue };
                    if place.armed != at {
                        continue;
                    }
                    place.armed = Time::MAX;
                    let Some(conn) = place.conn.as_deref_mut() else { continue };
                    let id = conn.id;
                    if due(conn, &self.timeouts, &self.limits, self.draining) <= self.now {
                        self.conn_expired(id);
                    } else {
                        self.arm_conn(index);
                    }
                }
                Slot::Exchange(index) => {
                    if *self.exchanges.armed(index) != at {
                        continue;
                    }
                    *self.exchanges.armed(index) = Time::MAX;
                    let Some(key) = self.exchanges.occupant(index) else { continue };
                    let timeouts = self.timeouts;
                    let Some(exchange) = self.exchanges.at(key) else { continue };
                    let (due, why) = exchange_due(exchange, &timeouts, &self.limits);
                    if due <= self.now && (why != Due::Pace || exchange.drips(&self.limits, self.now)) {
                        self.exchange_expired(key, why);
                    }
                    self.arm_exchange(index);
                }
            }
            // What is to be routed again must be on its way before its own time is looked at: nothing can be done about an
            // exchange that is between two places.
            self.run_todo();
        }
    }

    fn conn_expired(&mut self, id: ConnId) {
        let now = self.now;
        let Some(conn) = self.conn(id) else { return };
        if std::mem::take(&mut conn.quiet) && conn.stage == Stage::Open {
            // It would have been heard of by now if it were done: the peer does not read.
            return self.arm_conn(id.index() as u32);
        }
        if !conn.is_down() {
            if self.check_alive(id) {
                return;
            }
            let Some(conn) = self.conn(id) else { return };
            let failure = if conn.stage == Stage::Connecting { Failure::Connect } else { Failure::TimedOut };
            return self.upstream_failed(id, failure);
        }
        let idle = conn.active() == 0;
        let begun = !conn.aside.pending.is_empty();
        match conn.stage {
            Stage::Open
                if idle
                    && begun
                    && let Http::H1Server(server) = &mut conn.http =>
            {
                // Part of a head came, and then nothing: that deserves an answer.
                server.give_up();
                self.refuse_unread(id, Refusal::RequestTimeout);
                self.finish_conn(id);
            }
            Stage::Open if idle && let Http::H2Server(server) = &conn.http => {
                let told = begun || server.is_leaving() || !conn.settled;
                if !conn.settled {
                    self.stats.clients_late[Late::Begin as usize].add(1);
                }
                let Some(conn) = self.conn(id) else { return };
                conn.since = now;
                self.touch(id);
                if let Some((codec, out)) = self.conn(id).and_then(Conn::codec_and_out) {
                    if told { codec.go_away_now(out) } else { codec.go_away(out) }
                }
                self.check_finished(id);
                self.arm_conn(id.index() as u32);
            }
            Stage::Open if idle && !conn.sending => {
                if conn.is_shaking() || matches!(conn.http, Http::Proxied | Http::Unknown) {
                    self.stats.clients_late[Late::Begin as usize].add(1);
                }
                self.finish_conn(id);
            }
            stage => {
                if conn.sending && stage != Stage::Lingering {
                    self.stats.clients_late[Late::Read as usize].add(1);
                }
                self.abandon(id);
                self.close(id);
            }
        }
    }

    fn exchange_expired(&mut self, key: Key, why: Due) {
        let total = why == Due::Total;
        let Some(exchange) = self.exchanges.at(key) else { return };
        if let Origin::Question { .. } = exchange.origin {
            return self.fail_attempt(key, AttemptEnd::TimedOut, Refusal::ResponseTimeout);
        }
        match exchange.phase {
            Phase::Parked { key: place, refusal, .. } => {
                self.leave_parking(key, place);
                self.reply(key, Reply::Refuse(refusal));
            }
            Phase::Routing => {}
            Phase::Waiting { .. } => {
                let upstream = exchange.target.as_ref().map(|target| target.upstream);
                // A target that is busy is not one that cannot be reached.
                let (end, refusal) = match upstream {
                    _ if total => (AttemptEnd::Refused, Refusal::TotalTimeout),
                    Some(upstream) if self.is_queued(upstream) => (AttemptEnd::Refused, Refusal::QueueFull),
                    _ => (AttemptEnd::ConnectFailed, Refusal::ConnectFailed),
                };
                self.detach(key, end);
                self.reply(key, Reply::Refuse(refusal));
            }
            Phase::Attached if exchange.parked_upstream.is_some() && !total => {
                // It was to be answered by now by where it waited.
                self.detach(key, AttemptEnd::Abandoned);
                self.reply(key, Reply::Refuse(Refusal::ParkTimeout));
            }
            Phase::Attached => {
                let late = !exchange.is_asked() && !exchange.awaits_upstream() && !total;
                if why == Due::Pace {
                    self.stats.clients_late[Late::Send as usize].add(1);
                }
                let refusal = match (late, total) {
                    (true, _) => Refusal::RequestTimeout,
                    (false, true) => Refusal::TotalTimeout,
                    (false, false) => Refusal::ResponseTimeout,
                };
                self.detach(key, if late { AttemptEnd::Abandoned } else { AttemptEnd::TimedOut });
                self.reply(key, Reply::Refuse(refusal));
            }
            Phase::Answering => {
                if exchange.awaits_client() && !total {
                    self.stats.clients_late[Late::Read as usize].add(1);
                }
                self.finish(key, Outcome::TimedOut);
            }
            Phase::Replying => self.finish(key, Outcome::ClientGone),
        }
    }
}

/// When the connection is to be looked at.
fn due(conn: &Conn, timeouts: &Timeouts, limits: &Limits, draining: Option<Drain>) -> Time {
    let due = conn_due(conn, timeouts, limits, draining);
    match &conn.watch {
        Some(watch) if conn.stage == Stage::Open => due.min(watch.due(limits)),
        _ => due,
    }
}

/// When something must have happened on the connection.
pub(crate) fn conn_due(conn: &Conn, timeouts: &Timeouts, limits: &Limits, draining: Option<Drain>) -> Time {
    match conn.stage {
        Stage::Closed => Time::MAX,
        Stage::Connecting => conn.since + limits.connect_max,
        Stage::Lingering => conn.since + limits.linger,
        Stage::Finishing if conn.sending => conn.sending_since + limits.write_stall,
        Stage::Finishing => conn.since + limits.linger,
        Stage::Open => open_due(conn, timeouts, limits, draining),
    }
}

fn open_due(conn: &Conn, timeouts: &Timeouts, limits: &Limits, draining: Option<Drain>) -> Time {
    let is_shaking = conn.is_shaking();
    if is_shaking && !conn.is_down() {
        return conn.since + limits.handshake_max;
    }
    let is_active = conn.active() > 0;
    if conn.sending && (is_active || !conn.quiet) {
        return conn.sending_since + limits.write_stall;
    }
    if is_active {
        return Time::MAX;
    }
    match conn.side {
        Side::Up { .. } => conn.since + limits.upstream_idle,
        Side::Down { .. } => {
            let begun = is_shaking || !conn.aside.pending.is_empty();
            // An HTTP/2 client begins with its preface and its settings.
            let fresh = match conn.http {
                Http::Proxied | Http::Unknown => true,
                Http::H2Server(_) => !conn.settled,
                _ => false,
            };
            let told = matches!(&conn.http, Http::H2Server(server) if server.is_leaving());
            match draining {
                _ if begun => conn.since + timeouts.header,
                Some(drain) => conn.since.max(drain.since) + limits.leave,
                None if told => conn.since + limits.leave,
                None => conn.since + if fresh { timeouts.header } else { timeouts.idle },
            }
        }
    }
}

/// What comes due of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// Something must have happened.
    Stall,
    /// Its body must have come fast enough; whether it did is still to be seen.
    Pace,
    /// All of it must be over.
    Total,
}

/// When something must have happened in the exchange, and what.
fn exchange_due<T>(exchange: &Exchange<T>, timeouts: &Timeouts, limits: &Limits) -> (Time, Due) {
    let mut why = Due::Stall;
    let due = match (exchange.origin, exchange.phase) {
        (Origin::Question { until, .. }, _) => until,
        (_, Phase::Routing) => Time::MAX,
        (_, Phase::Parked { until, .. }) => return (until, Due::Stall),
        (_, Phase::Waiting { since }) => {
            since + exchange.target.as_ref().map_or(Duration::MAX, |target| target.connect_timeout)
        }
        (_, Phase::Attached) if let Some(until) = exchange.parked_upstream => until,
        (_, Phase::Attached) if exchange.is_asked() || exchange.awaits_upstream() => {
            let from = exchange.timing.attached.max(exchange.activity);
            from + exchange.target.as_ref().map_or(Duration::MAX, |target| target.response_timeout)
        }
        (_, Phase::Attached) => {
            let idle = exchange.activity.max(exchange.timing.attached) + timeouts.idle;
            let pace = exchange.pace_due(limits);
            if pace < idle {
                why = Due::Pace;
            }
            idle.min(pace)
        }
        (_, Phase::Answering) if exchange.awaits_client() => {
            exchange.download.since + timeouts.stall.min(limits.take_stall)
        }
        (_, Phase::Answering) => exchange.activity + timeouts.stall,
        (_, Phase::Replying) => exchange.download.since + timeouts.idle,
    };
    match timeouts.total {
        Some(total) if exchange.timing.started + total < due => (exchange.timing.started + total, Due::Total),
        _ => (due, why),
    }
}
