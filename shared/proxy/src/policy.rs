//! The seam between the engine and what it is used for.
//!
//! The engine knows connections, exchanges, parking and retrying; a [`Policy`] knows what a request is for. The edge's
//! policy finds the host, the agent's finds the process. An engine that knows what a "host" or an "app" is has gone wrong.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use steady_http::Head;
use steady_ring::{Addr, Time};

use crate::bounds::Bounds;
use crate::limits::Timeouts;
use crate::refusal::Refusal;

/// Decides about requests. One instance a worker, on its thread: plain state, no locks.
///
/// # The calls for one exchange, in order
/// `admit` once; then, an attempt at a time, `route` → (`Park` → `unparked` → `route` …) → `Forward` → `attempt_ended`;
/// `respond` for the response that will be sent; `finished` once, however it ended. For every `Forward` there is exactly one
/// `attempt_ended`, for every `Park` exactly one `unparked`, so that a policy can count what is where.
pub trait Policy: Sized + 'static {
    /// What control publishes, whole.
    type Snapshot: Send + Sync + 'static;
    /// What the policy remembers of one exchange.
    type Ticket: Default + 'static;

    /// A new snapshot is in force, before any request is routed by it. Returns the deadlines it asks for.
    fn published(&mut self, snapshot: &Self::Snapshot) -> Timeouts;

    /// The bounds that this snapshot asks for; `None`: those that are in force stay.
    fn bounds(&self, snapshot: &Self::Snapshot) -> Option<Arc<Bounds>> {
        let _ = snapshot;
        None
    }

    /// The TLS configuration for a client that asks for this name (`None`: it sent none).
    fn tls(&mut self, snapshot: &Self::Snapshot, server_name: Option<&str>) -> Credentials;

    /// A request's head came: clean it, note who asked. An answer given here ends it (responder before routing).
    fn admit(&mut self, snapshot: &Self::Snapshot, request: &mut Request<'_, Self::Ticket>) -> Option<Reply>;

    /// Where to, under this snapshot. Called again for each attempt and each time the exchange leaves a parking place.
    fn route(&mut self, snapshot: &Self::Snapshot, request: &mut Request<'_, Self::Ticket>) -> Decision;

    /// Whether what is parked under `key` should be routed again under this snapshot.
    fn may_resume(&mut self, snapshot: &Self::Snapshot, key: ParkKey) -> bool;

    /// The exchange left its parking place: it is routed again, or its client left, or its time ran out.
    fn unparked(&mut self, ticket: &mut Self::Ticket, key: ParkKey, waited: Duration);

    /// Writes the request of a [`Decision::Ask`] into an empty head.
    fn question(&mut self, key: ParkKey, head: &mut Head);

    /// The answer to it: the response's head, or `None` when there was none in time. What is parked under `key` is routed
    /// again right after.
    fn answered(&mut self, key: ParkKey, response: Option<&Head>, now: Time);

    /// An attempt is over: its upstream stream has ended, or never began.
    fn attempt_ended(&mut self, ticket: &mut Self::Ticket, end: AttemptEnd, now: Time);

    /// The request begins to wait, for so long at most, or (`None`) it goes on: fills the head of an interim response that tells
    /// whoever sent it. `false`: nobody is told.
    fn tell(&mut self, ticket: &mut Self::Ticket, waits: Option<Duration>, head: &mut Head) -> bool {
        let _ = (ticket, waits, head);
        false
    }

    /// An interim response's head as it came from upstream. Reserved fields are taken out of what passes.
    fn interim(&mut self, ticket: &mut Self::Ticket, response: &Head) -> Interim {
        let _ = (ticket, response);
        Interim::Pass
    }

    /// The final response's head as it came from upstream: clean it, or call it a refusal of the attempt.
    fn judge(&mut self, ticket: &mut Self::Ticket, response: &mut Head) -> Judgement;

    /// Something that rewrites the body of this response on its way (compression, injection). It must leave the head true:
    /// a [`content_length`](Head::content_length) that no longer holds is to be removed. Not asked for tunnels and responses without a body.
    fn filter(&mut self, request: &mut Request<'_, Self::Ticket>, response: &mut Head) -> Option<Box<dyn BodyFilter>> {
        let _ = (request, response);
        None
    }

    /// Last touch on a response's head before it is sent, whether it came from upstream or from here.
    fn respond(&mut self, request: &mut Request<'_, Self::Ticket>, response: &mut Head, timing: &Timing);

    /// The exchange is over.
    fn finished(&mut self, record: &Record<'_, Self::Ticket>);

    /// What a request is for, as operators call it; empty while that is not known.
    fn subject<'r>(request: &'r Head, ticket: &'r Self::Ticket) -> &'r [u8] {
        let _ = (request, ticket);
        b""
    }

    /// When [`batch_ended`](Policy::batch_ended) must be called next even if nothing happens.
    fn due(&self) -> Option<Time> {
        None
    }

    /// The batch is over: hand on what was gathered (log lines). Never blocks.
    fn batch_ended(&mut self, now: Time) {
        let _ = now;
    }
}

/// What a handshake goes on with.
#[derive(Clone, Debug)]
pub enum Credentials {
    Known(Arc<rustls::ServerConfig>),
    /// Not here yet, and asked for: the handshake waits for another snapshot, within the header time-out.
    Awaited,
    /// This name is not served.
    Refused,
}

/// Rewrites a body as it passes.
pub trait BodyFilter: std::fmt::Debug {
    /// Takes the next octets and appends what is to be sent instead; `end`: nothing follows. It is called with `end` once,
    /// unless the response is cut.
    fn pass(&mut self, data: &[u8], end: bool, out: &mut Vec<u8>);
}

/// One request as the policy sees it.
#[derive(Debug)]
pub struct Request<'r, T> {
    pub head: &'r mut Head,
    pub ticket: &'r mut T,
    /// The client's address (from PROXY protocol where the listener speaks it); `None` on unix sockets.
    pub peer: Option<SocketAddr>,
    /// Which listener it came in by: its index in the worker's configuration.
    pub listener: usize,
    /// The name the client's TLS asked for; `None` without TLS or without SNI.
    pub server_name: Option<&'r str>,
    pub is_tls: bool,
    /// HTTP version it came in: 10, 11 or 20.
    pub version: u8,
    /// 0 for the first attempt.
    pub attempt: u8,
    pub now: Time,
}

/// A parking place: what the parked wait for (a probe's verdict, an application's start).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParkKey(pub u64);

/// What to do with a request.
#[derive(Debug)]
pub enum Decision {
    /// Send it there.
    Forward(Target),
    /// Wait until [`Policy::may_resume`] or [`Policy::answered`] for this key; at `until` answer with the refusal.
    Park { key: ParkKey, until: Time, refusal: Refusal },
    /// As `Park`, and send the policy's own question there; no answer by `ask_until` is an answer too.
    Ask { key: ParkKey, target: Target, ask_until: Time, until: Time, refusal: Refusal },
    /// Answer from here.
    Reply(Reply),
}

/// An answer from here.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A short page for people, problem+json for programs.
    Refuse(Refusal),
    /// A status without a body, and at most one field.
    Bare { status: u16, field: Option<(&'static [u8], Vec<u8>)> },
}

/// An upstream and how to treat it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Which upstream it is: connections are shared under this key. A process that was started anew, or an address that
    /// changed, has another key.
    pub upstream: u64,
    pub addr: Addr,
    pub protocol: Protocol,
    /// TLS towards it. Another configuration wants another key: open connections keep theirs to their end.
    pub tls: Option<Arc<UpstreamTls>>,
    pub connect_timeout: Duration,
    /// From the request's end to the response's head.
    pub response_timeout: Duration,
    /// Octets of the request's body kept until the upstream has accepted the request, so that it can be sent again. 0: a
    /// request that has begun is never sent again.
    pub replay_bytes_max: u32,
    /// HTTP/2: whether it is asked for a sign of life when it is silent. For one on another machine, which can vanish without a
    /// word; a process on this one cannot.
    pub pings: bool,
}

/// TLS towards an upstream: whom to trust, what to show, and whose certificate it must be.
#[derive(Clone, Debug)]
pub struct UpstreamTls {
    pub config: Arc<rustls::ClientConfig>,
    pub name: rustls::pki_types::ServerName<'static>,
}

/// What an upstream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    /// HTTP/2 from the first octet; over TLS it must be what ALPN agrees on.
    H2c,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// A whole response came.
    Complete,
    /// No connection could be made: provably unprocessed.
    ConnectFailed,
    /// Provably unprocessed: REFUSED_STREAM, a GOAWAY that excludes it, a marked refusal.
    Refused,
    /// The connection or the stream broke after the request had begun.
    Broken,
    /// No response in time.
    TimedOut,
    /// The client left, or this side cut it.
    Abandoned,
}

impl AttemptEnd {
    /// The name in traces.
    pub const fn name(self) -> &'static str {
        match self {
            AttemptEnd::Complete => "complete",
            AttemptEnd::ConnectFailed => "connect_failed",
            AttemptEnd::Refused => "refused",
            AttemptEnd::Broken => "broken",
            AttemptEnd::TimedOut => "timed_out",
            AttemptEnd::Abandoned => "abandoned",
        }
    }

    /// Whether the request may be sent again.
    pub const fn is_unprocessed(self) -> bool {
        matches!(self, AttemptEnd::ConnectFailed | AttemptEnd::Refused)
    }
}

/// What a response's head is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The application's answer.
    Pass,
    /// The upstream's own refusal, marked as such: the request was not begun.
    Refused,
}

/// What an interim response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interim {
    /// For the client.
    Pass,
    /// Word between our own: the request waits at the upstream, for so long at most. It is not begun, and it may still be
    /// refused.
    Parked(Duration),
    /// And now it goes on.
    Resumed,
}

/// How an exchange ended, for logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// The whole response was sent.
    Complete,
    /// Answered from here.
    Refused,
    /// The client left before the end.
    ClientGone,
    /// The upstream broke off after its response had begun.
    UpstreamBroken,
    /// A deadline passed after the response had begun.
    TimedOut,
    /// Cut by this side: drain deadline, operator, memory.
    Cut,
}

impl Outcome {
    pub const ALL: [Outcome; 6] = [
        Outcome::Complete,
        Outcome::Refused,
        Outcome::ClientGone,
        Outcome::UpstreamBroken,
        Outcome::TimedOut,
        Outcome::Cut,
    ];

    /// The name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Complete => "complete",
            Outcome::Refused => "refused",
            Outcome::ClientGone => "client_gone",
            Outcome::UpstreamBroken => "upstream_broken",
            Outcome::TimedOut => "timed_out",
            Outcome::Cut => "cut",
        }
    }
}

/// When what happened to an exchange; a stage that was not reached has the time of the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// The request's head was there.
    pub started: Time,
    /// It was (last) routed: what came before is queueing.
    pub routed: Time,
    /// It was given to an upstream connection.
    pub attached: Time,
    /// The response's head came.
    pub answered: Time,
    /// It was over.
    pub ended: Time,
    /// Of the time between `attached` and `answered`: until the request had left us.
    pub own: Duration,
}

impl Timing {
    /// Everything at one moment.
    pub(crate) fn at(now: Time) -> Timing {
        Timing { started: now, routed: now, attached: now, answered: now, ended: now, own: Duration::ZERO }
    }
}

/// An exchange that is over.
#[derive(Debug)]
pub struct Record<'r, T> {
    pub request: &'r Head,
    pub ticket: &'r T,
    pub peer: Option<SocketAddr>,
    pub is_tls: bool,
    pub version: u8,
    /// The status that was sent; 0 when none was.
    pub status: u16,
    pub outcome: Outcome,
    /// Why, when it was answered from here, or when an answer that had begun was cut.
    pub refusal: Option<Refusal>,
    /// Octets of the request's body that came, and of the response's body that were handed to the connection.
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub attempts: u8,
    pub timing: Timing,
}

impl<T> Record<'_, T> {
    /// Whether no upstream answered it. An answer that was cut has a refusal too, and the status of whoever gave it, which only by
    /// chance is the refusal's.
    pub fn is_from_here(&self) -> bool {
        self.refusal.is_some_and(|refusal| refusal.status() == self.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_was_cut_is_not_from_here_and_a_refusal_is_whatever_its_client_does() {
        let of = |status, outcome, refusal| {
            Record {
                request: &Head::new(),
                ticket: &(),
                peer: None,
                is_tls: false,
                version: 11,
                status,
                outcome,
                refusal,
                request_bytes: 0,
                response_bytes: 0,
                attempts: 1,
                timing: Timing::default(),
            }
            .is_from_here()
        };
        assert!(!of(200, Outcome::Complete, None) && !of(200, Outcome::Cut, Some(Refusal::Draining)));
        for outcome in [Outcome::Refused, Outcome::ClientGone, Outcome::Cut] {
            assert!(of(503, outcome, Some(Refusal::Overloaded)));
        }
    }
}
