//! Connections from clients: accepting them, and the requests that come over them.

use std::net::SocketAddr;

use steady_http::{Error, Event, Head, StreamId};
use steady_ring::{ConnId, Driver, ListenerId};

use crate::conn::{Conn, Http, Secure, Side, Stage};
use crate::ending::HEAD_SPARE_MAX;
use crate::exchange::{Exchange, Key, Leg, Origin, Phase};
use crate::held::Total;
use crate::limits::Limits;
use crate::pipe::{Pipe, Way};
use crate::policy::{Outcome, Policy, Record, Reply, Request, Timing};
use crate::refusal::Refusal;
use crate::tls::Acceptor;
use crate::worker::{Todo, Worker};

/// Borrows what a policy sees of an exchange, field by field, so that the worker's other parts stay free.
macro_rules! request_of {
    ($exchange:expr, $server_name:expr, $now:expr) => {
        Request {
            head: &mut $exchange.request,
            ticket: &mut $exchange.ticket,
            peer: $exchange.peer,
            listener: $exchange.listener,
            server_name: $server_name,
            is_tls: $exchange.is_tls,
            version: $exchange.version,
            attempt: $exchange.attempt,
            now: $now,
        }
    };
}
pub(crate) use request_of;

impl<D: Driver, P: Policy> Worker<D, P> {
    pub(crate) fn accepted(&mut self, listener: ListenerId, id: ConnId, peer: Option<SocketAddr>) {
        self.stats.connections_accepted.add(1);
        let Some(index) = self.listeners.iter().position(|state| state.id == Some(listener)) else {
            return self.driver.close(id);
        };
        // One that was on its way when a drain began is served: its client knows of nothing.
        if self.conns_open >= self.limits.connections_max {
            self.stats.connections_refused.add(1);
            return self.driver.close(id);
        }
        let config = &self.listeners[index].config;
        let http = if config.proxy_protocol { Http::Proxied } else { Http::Unknown };
        let secure = if config.tls { Secure::Hello(Acceptor::default()) } else { Secure::Plain };
        let mut conn =
            Conn::new(id, Side::Down { listener: index as u16, peer: peer.into() }, http, Stage::Open, self.now);
        conn.secure = secure;
        if !config.proxy_protocol {
            let Some(counted) = self.enter(peer) else { return self.driver.close(id) };
            conn.counted = counted;
        }
        self.insert(conn);
    }

    /// What a codec reports, of either side.
    pub(crate) fn codec_event(&mut self, id: ConnId, event: Event<'_>) {
        let Some(conn) = self.conn(id) else { return };
        let is_down = conn.is_down();
        match event {
            Event::Head { stream, end } if is_down => self.request(id, stream, end),
            Event::Head { stream, end } => self.response(id, stream, end),
            Event::Interim { stream } => self.interim(id, stream),
            Event::Data { stream, data, flow, end } => {
                let way = if is_down { Way::Up } else { Way::Down };
                self.deliver(way, Leg { conn: id, stream }, data, flow, end);
            }
            Event::Trailers { stream } => {
                let way = if is_down { Way::Up } else { Way::Down };
                self.deliver_trailers(way, Leg { conn: id, stream });
            }
            Event::Reset { stream, reset } => {
                self.stats.limit(reset.limit);
                if is_down && !reset.by_peer && reset.limit.is_none() {
                    self.misunderstood(reset.reason);
                }
                let Some(key) = self.bound(Leg { conn: id, stream }) else { return };
                if is_down {
                    self.forget_leg(key, Way::Up);
                    if !self.is_draining_tunnel(key) {
                        self.finish(key, Outcome::ClientGone);
                    }
                    self.rest(id);
                } else {
                    self.upstream_reset(key, reset);
                }
            }
            Event::Writable { stream: Some(stream) } => {
                if let Some(key) = self.bound(Leg { conn: id, stream }) {
                    self.accept_implied(key, is_down);
                    self.pump(key, if is_down { Way::Down } else { Way::Up });
                }
            }
            Event::Writable { stream: None } => self.pump_credited(id),
            Event::Settings | Event::GoAway { .. } if !is_down => {
                conn.settled |= matches!(event, Event::Settings);
                self.upstream_changed(id);
            }
            Event::Settings => {
                // An HTTP/2 client has said all that it must before it asks.
                if let Some(conn) = self.conn(id) {
                    conn.settled = true;
                }
            }
            Event::GoAway { .. } | Event::Pong { .. } => {}
        }
    }

    /// A tunnel whose client has ended it, with octets of his still on their way to the upstream.
    fn is_draining_tunnel(&mut self, key: Key) -> bool {
        self.exchanges.at(key).is_some_and(|exchange| {
            exchange.tunnel && exchange.upload.source_ended && exchange.upload.waiting() > 0 && exchange.up.is_some()
        })
    }

    /// A request's head is in `scratch`.
    fn request(&mut self, id: ConnId, stream: StreamId, end: bool) {
        let now = self.now;
        let Some(conn) = self.conn(id) else { return };
        let version = match &conn.http {
            Http::H2Server(_) => 20,
            Http::H1Server(server) if server.is_http10() => 10,
            _ => 11,
        };
        let is_tls = conn.is_tls();
        let Side::Down { listener, peer } = conn.side else { return };
        if version == 20 { &self.stats.requests_h2 } else { &self.stats.requests_h1 }.add(1);
        let key = self.exchanges.reserve();
        let mut exchange = self.spares.pop().unwrap_or_else(|| Box::new(Exchange::blank(&self.held)));
        exchange.renew(key, Origin::Client, now);
        if self.scratch.footprint() > HEAD_SPARE_MAX.max(4 * self.scratch.size()) {
            // What was read before it was far larger, and its memory would stay with this one, which is counted by its size.
            exchange.request = self.scratch.clone();
            self.scratch = Head::new();
        } else {
            std::mem::swap(&mut exchange.request, &mut self.scratch);
        }
        exchange.down = Some(Leg { conn: id, stream });
        exchange.peer = peer.addr();
        exchange.listener = listener.into();
        exchange.version = version;
        exchange.is_tls = is_tls;
        exchange.upload.source_ended = end;
        self.exchanges.put(exchange);
        self.stats.exchanges_open.set(self.exchanges.len() as u64);
        if let Some(conn) = self.conn(id) {
            conn.bind(stream, key);
        }
        self.arm_exchange(key.index);
        if self.draining.is_some() {
            // A request that was on its way when the drain began is served; the connection ends after it.
            self.go_away(id);
        }
        // First, whatever becomes of it: what a client says of itself must not get into the log or the answer.
        if let Some(reply) = self.admit(key) {
            return self.reply(key, reply);
        }
        if self.has_no_room_for(key) {
            self.reply(key, Reply::Refuse(Refusal::Overloaded));
            // Who does not take even that at once gets no place by being refused one.
            return self.finish(key, Outcome::Cut);
        }
        self.todo.push_back(Todo::Route(key));
    }

    /// Whether a request that has come is one too many, or its head is large where all of them are.
    fn has_no_room_for(&mut self, key: Key) -> bool {
        self.exchanges.len() > self.limits.exchanges_max || self.is_head_too_large(key)
    }

    /// Whether a head, with its trailers, is large where all of them together are.
    pub(crate) fn is_head_too_large(&mut self, key: Key) -> bool {
        let Limits { exchanges_max, heads_bytes_max, .. } = self.limits;
        let is_large = |head: usize| head > heads_bytes_max / exchanges_max.max(1);
        self.exchanges.head_bytes() > heads_bytes_max
            && self.exchanges.at(key).is_some_and(|exchange| is_large(exchange.head_bytes))
    }

    fn admit(&mut self, key: Key) -> Option<Reply> {
        let exchange = self.exchanges.at(key)?;
        let conn = exchange.down.and_then(|leg| self.conns.get(leg.conn.index())?.conn.as_deref());
        let server_name = conn.and_then(Conn::server_name);
        let mut request = request_of!(exchange, server_name, self.now);
        self.policy.admit(&self.snapshot, &mut request)
    }

    /// The peer broke HTTP's rules; the connection cannot go on.
    pub(crate) fn codec_failed(&mut self, id: ConnId, error: &Error) {
        self.stats.limit(error.limit);
        tracing::debug!(reason = error.reason, status = error.status, "a peer broke the rules");
        let Some(conn) = self.conn(id) else { return };
        if !conn.is_down() {
            return self.upstream_failed(id, crate::upstream::Failure::Rules);
        }
        if matches!(conn.http, Http::H1Server(_)) {
            self.refuse_unread(id, Refusal::BadRequest { status: error.status });
        } else if error.limit.is_none() {
            self.misunderstood(error.reason);
        }
        self.abandon(id);
        self.finish_conn(id);
    }

    /// A client of HTTP/2 has broken a rule: its stream or its connection is reset. It counts as the bad request that HTTP/1.1 answers.
    fn misunderstood(&mut self, reason: &str) {
        self.stats.refusals[Refusal::BadRequest { status: 400 }.index()].add(1);
        tracing::debug!(reason, "a client broke the rules");
    }

    /// An HTTP/1.1 request that cannot be read is answered before the connection ends, unless an answer has begun.
    pub(crate) fn refuse_unread(&mut self, id: ConnId, refusal: Refusal) {
        let status = refusal.status();
        self.touch(id);
        let mut body = Vec::new();
        crate::respond::refuse(refusal, &Head::new(), &mut self.scratch, &mut body);
        let Some(slot) = self.conns.get_mut(id.index()) else { return };
        let Some(conn) = slot.conn.as_deref_mut() else { return };
        let Http::H1Server(server) = &mut conn.http else { return };
        if !server.refuse(&self.scratch, &body, &mut conn.out.bytes) {
            return;
        }
        let (is_tls, peer) = (conn.is_tls(), conn.peer());
        self.stats.refusals[refusal.index()].add(1);
        self.stats.responses[usize::from(status / 100).min(5)].add(1);
        let now = self.now;
        // For the log: a request that could not be read has nothing to show but that it came.
        self.policy.finished(&Record {
            request: &Head::new(),
            ticket: &P::Ticket::default(),
            peer,
            is_tls,
            version: 11,
            status,
            outcome: Outcome::Refused,
            refusal: Some(refusal),
            request_bytes: 0,
            response_bytes: body.len() as u64,
            attempts: 0,
            timing: Timing::at(now),
        });
    }
}

impl<T: Default> Exchange<T> {
    /// An exchange to be [renewed](Exchange::renew).
    pub(crate) fn blank(total: &Total) -> Exchange<T> {
        Exchange {
            key: Key { index: 0, generation: 0 },
            origin: Origin::Client,
            phase: Phase::Routing,
            down: None,
            up: None,
            request: Head::new(),
            head_bytes: 0,
            ticket: T::default(),
            target: None,
            upload: Pipe::new(total),
            download: Pipe::new(total),
            filter: None,
            timing: Timing::default(),
            activity: steady_ring::Time::ZERO,
            peer: None,
            listener: 0,
            version: 11,
            is_tls: false,
            attempt: 0,
            attached_in: 0,
            paced: (steady_ring::Time::ZERO, 0),
            accepted: false,
            parked_upstream: None,
            told: false,
            tunnel: false,
            status: 0,
            refusal: None,
            outcome: Outcome::Complete,
        }
    }

    /// Makes it a new one, keeping its memory.
    pub(crate) fn renew(&mut self, key: Key, origin: Origin, now: steady_ring::Time) {
        self.key = key;
        self.origin = origin;
        self.phase = Phase::Routing;
        self.down = None;
        self.up = None;
        self.request.clear();
        self.ticket = T::default();
        self.target = None;
        self.upload.renew();
        self.download.renew();
        self.filter = None;
        self.timing = Timing::at(now);
        self.activity = now;
        self.peer = None;
        self.listener = 0;
        self.version = 11;
        self.is_tls = false;
        self.attempt = 0;
        self.accepted = false;
        self.parked_upstream = None;
        self.told = false;
        self.tunnel = false;
        self.status = 0;
        self.refusal = None;
        self.outcome = Outcome::Complete;
    }
}
