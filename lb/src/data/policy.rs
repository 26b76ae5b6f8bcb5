//! The edge's policy: which host a request goes to.

mod balance;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use steady_http::{Head, Method, Name};
use steady_proxy::log::{LogWriter, json};
use steady_proxy::trace::{Story, Tracer};
use steady_proxy::{
    AttemptEnd, Bounds, Credentials, Decision, Interim, Judgement, ParkKey, Policy, Record, Refusal, Reply, Request,
    Timeouts, Timing,
};
use steady_ring::Time;
use steady_table::{HostIndex, Moving, Resolution, Route, Routes};
use steady_timing::RequestTiming;

use super::breaker::Rated;
use super::hosts::{HostEntry, Hosts};
use super::measured::Measured;
use super::moves::{self, Moves, Step};
use super::stats::EdgeStats;
use super::{access_log, forwarded};
use crate::reports::EdgeMeters;
use crate::snapshot::{Settings, Snapshot};

/// See the module. One a worker.
#[derive(Debug)]
pub struct EdgePolicy {
    stats: Arc<EdgeStats>,
    log: Option<LogWriter>,
    tracer: Arc<Tracer>,
    stamps: json::Timestamps,
    rng: Rng,
    settings: Settings,
    hosts: Hosts,
    moves: Moves,
    /// What the table said of an application when requests for it began to wait.
    waiting: HashMap<ParkKey, Placement>,
    scratch: Vec<u8>,
    measured: Measured,
    /// Applications that fail on one of their hosts.
    rated: Rated,
}

/// Where the table places an application.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Placement {
    name: Box<str>,
    generation: u64,
    moving: Option<Moving>,
}

/// What the policy remembers of a request.
#[derive(Debug, Default)]
pub struct Ticket {
    /// Of which hosts the indexes here are: [`Hosts::epoch`].
    epoch: u64,
    /// Where the attempt under way goes.
    host: Option<HostIndex>,
    generation: u64,
    /// Counted as in flight there.
    counted: bool,
    /// The last host that was tried; for the log.
    last: Option<HostIndex>,
    /// An agent refused it, or could not be reached, in this placement.
    refused: Option<(HostIndex, u64)>,
    /// It was the agent's own, marked word.
    by_agent: bool,
    /// The application, as a key.
    pub(super) app: Option<u64>,
    /// It has other hosts to go to.
    rated: bool,
    /// The answer under way is an error.
    erred: bool,
    /// Behind which move's question it began to wait, and how many answers the old host had given then.
    asked: Option<(ParkKey, u64)>,
    /// The deadline of its first parking, which later ones keep.
    until: Option<Time>,
    /// What the agent measured.
    pub(super) timing: RequestTiming,
    /// What happened to it, when it is traced.
    story: Option<Box<Story>>,
}

impl Ticket {
    /// The indexes that it has mean nothing any more.
    fn forget_hosts(&mut self, epoch: u64) {
        self.epoch = epoch;
        (self.host, self.last, self.refused) = (None, None, None);
        (self.counted, self.rated, self.erred) = (false, false, false);
    }
}

impl EdgePolicy {
    /// The policy of one worker. `rng` spreads requests over endpoints and makes request ids.
    pub fn new(
        stats: Arc<EdgeStats>,
        log: Option<LogWriter>,
        tracer: Arc<Tracer>,
        meters: Arc<EdgeMeters>,
        rng: Rng,
    ) -> EdgePolicy {
        EdgePolicy {
            stats,
            log,
            tracer,
            stamps: json::Timestamps::default(),
            rng,
            settings: Settings::default(),
            hosts: Hosts::default(),
            moves: Moves::default(),
            waiting: HashMap::new(),
            scratch: Vec::new(),
            measured: Measured::new(meters),
            rated: Rated::default(),
        }
    }

    fn resolve(&mut self, snapshot: &Snapshot, request: &mut Request<'_, Ticket>) -> Decision {
        let refusal = match snapshot.routes.resolve(request.head.authority()) {
            Resolution::App(route) => return self.place(&route, request),
            Resolution::NoSuchApp => Refusal::NoSuchApp,
            Resolution::NotOurs => Refusal::NotOurs,
            Resolution::Bad => Refusal::BadAuthority,
        };
        Decision::Reply(Reply::Refuse(refusal))
    }

    /// Adds the decision to the request's story, if it has one.
    fn trace(&self, request: &mut Request<'_, Ticket>, decision: &Decision) {
        let now = request.now;
        if request.ticket.story.is_none() {
            let subject = Self::subject(request.head, request.ticket);
            request.ticket.story = self.tracer.begin(subject, request.head, request.peer, now);
        }
        let host = last(&self.hosts, request.ticket);
        if let Some(story) = &mut request.ticket.story {
            story.routed(decision, host.map_or("", |entry| &*entry.name), now);
        }
    }

    /// Where a request for this application goes now.
    fn place(&mut self, route: &Route<'_>, request: &mut Request<'_, Ticket>) -> Decision {
        request.head.set(Name::SteadyApp, route.name().as_bytes());
        request.ticket.app = Some(route.app_id());
        if request.ticket.epoch != self.hosts.epoch() {
            request.ticket.forget_hosts(self.hosts.epoch());
        }
        if let Some(moving) = route.moving() {
            return self.place_moving(route, moving, request);
        }
        let generation = route.generation();
        let Some(host) = self.pick(route, request.ticket, request.now) else {
            return Decision::Reply(Reply::Refuse(Refusal::HostDown));
        };
        if request.ticket.refused == Some((host, generation)) && request.ticket.by_agent {
            // The agent knows better than this table: the next one will say where to.
            return self.park(route, request);
        }
        self.forward(host, generation, request)
    }

    fn place_moving(&mut self, route: &Route<'_>, moving: Moving, request: &mut Request<'_, Ticket>) -> Decision {
        let generation = route.generation();
        let known = self.moves.of(route, moving);
        if request.ticket.refused == Some((moving.from, generation)) {
            known.not_live = true;
        }
        let place = moves::place(route.app_id(), Some(moving));
        let asked = request.ticket.asked.filter(|&(at, _)| at == place).map(|(_, answers)| answers);
        let step = known.step(asked);
        request.ticket.asked = Some((place, known.answers()));
        match step {
            Step::Old => self.forward(moving.from, generation, request),
            Step::New => {
                self.stats.fallbacks.add(1);
                if request.ticket.refused == Some((moving.to, moving.generation)) {
                    return self.park(route, request);
                }
                self.forward(moving.to, moving.generation, request)
            }
            Step::Wait => self.park(route, request),
            Step::Ask => {
                let Some(target) = self.hosts.target(moving.from, self.settings.probe_timeout) else {
                    return Decision::Reply(Reply::Refuse(Refusal::HostDown));
                };
                let Decision::Park { key, until, refusal } = self.park(route, request) else {
                    return Decision::Reply(Reply::Refuse(Refusal::ParkTimeout));
                };
                if let Some(known) = self.moves.known(key) {
                    known.asking = true;
                }
                self.stats.probes.add(1);
                let ask_until = request.now + self.settings.probe_timeout;
                Decision::Ask { key, target, ask_until, until, refusal }
            }
        }
    }

    /// Has it wait for another table, or for the verdict about a move.
    fn park(&mut self, route: &Route<'_>, request: &mut Request<'_, Ticket>) -> Decision {
        let until = *request.ticket.until.get_or_insert(request.now + self.settings.park_timeout);
        if until <= request.now {
            return Decision::Reply(Reply::Refuse(Refusal::ParkTimeout));
        }
        let key = moves::place(route.app_id(), route.moving());
        let placement = Placement { name: route.name().into(), generation: route.generation(), moving: route.moving() };
        self.waiting.insert(key, placement);
        Decision::Park { key, until, refusal: Refusal::ParkTimeout }
    }

    fn forward(&mut self, host: HostIndex, generation: u64, request: &mut Request<'_, Ticket>) -> Decision {
        let Some(target) = self.hosts.target(host, self.settings.response_timeout) else {
            return Decision::Reply(Reply::Refuse(Refusal::HostDown));
        };
        let mut digits = [0; 20];
        request.head.set(Name::SteadyGeneration, steady_http::decimal(generation, &mut digits));
        let ticket = &mut *request.ticket;
        ticket.host = Some(host);
        ticket.last = Some(host);
        ticket.generation = generation;
        ticket.counted = true;
        ticket.by_agent = false;
        if let Some(entry) = self.hosts.get_mut(host) {
            entry.in_flight += 1;
        }
        Decision::Forward(target)
    }

    /// Whether the certificate that the client was shown is good for what it asks for now.
    fn is_directed(snapshot: &Snapshot, request: &Request<'_, Ticket>) -> bool {
        if !request.is_tls {
            return true;
        }
        let authority = request.head.authority();
        let end = authority.iter().rposition(|&byte| byte == b':').unwrap_or(authority.len());
        let host = std::str::from_utf8(&authority[..end]).unwrap_or_default();
        // An absolute name; server names are without its dot (RFC 6066 §3).
        let host = host.strip_suffix('.').unwrap_or(host);
        request.server_name.is_some_and(|name| name.eq_ignore_ascii_case(host))
            || snapshot.certs.set.covers(request.server_name, host)
    }
}

impl Policy for EdgePolicy {
    type Snapshot = Snapshot;
    type Ticket = Ticket;

    fn published(&mut self, snapshot: &Snapshot) -> Timeouts {
        let before = self.hosts.published(snapshot);
        self.rated.retain(|host| {
            let [before, now] = [&before, &self.hosts].map(|hosts| hosts.get(host).map(|entry| &entry.name));
            before == now
        });
        self.moves.published(&snapshot.routes);
        // What is no longer known here is routed again.
        self.waiting.retain(|_, before| is_placed(&snapshot.routes, before));
        self.settings = snapshot.settings.clone();
        Timeouts {
            header: self.settings.header_timeout,
            idle: self.settings.idle_timeout,
            stall: self.settings.tunnel_timeout,
            total: self.settings.total_timeout,
        }
    }

    fn bounds(&self, snapshot: &Snapshot) -> Option<Arc<Bounds>> {
        snapshot.settings.bounds.clone()
    }

    fn tls(&mut self, snapshot: &Snapshot, _: Option<&str>) -> Credentials {
        snapshot.certs.config.clone().map_or(Credentials::Refused, Credentials::Known)
    }

    fn admit(&mut self, snapshot: &Snapshot, request: &mut Request<'_, Ticket>) -> Option<Reply> {
        let head = &mut *request.head;
        let trusted = forwarded::is_trusted(request.peer, &self.settings.trusted);
        forwarded::write(head, request.peer, trusted, &mut self.rng, &mut self.scratch);
        if head.method == Method::Trace || (head.is_connect() && head.protocol().is_empty()) {
            return Some(Reply::Refuse(Refusal::MethodRefused));
        }
        if !Self::is_directed(snapshot, request) {
            return Some(Reply::Refuse(Refusal::Misdirected));
        }
        None
    }

    fn route(&mut self, snapshot: &Snapshot, request: &mut Request<'_, Ticket>) -> Decision {
        let decision = self.resolve(snapshot, request);
        self.trace(request, &decision);
        decision
    }

    fn may_resume(&mut self, snapshot: &Snapshot, key: ParkKey) -> bool {
        let Some(before) = self.waiting.get(&key) else { return true };
        !is_placed(&snapshot.routes, before)
    }

    fn unparked(&mut self, ticket: &mut Ticket, _: ParkKey, waited: Duration) {
        self.stats.waited(waited);
        if let Some(story) = &mut ticket.story {
            story.waited(waited);
        }
    }

    fn question(&mut self, key: ParkKey, head: &mut Head) {
        let Some(known) = self.moves.known(key) else { return };
        head.method = Method::Head;
        head.set_authority(known.name.as_bytes());
        head.set_path(b"/");
        let mut digits = [0; 20];
        head.push_known(Name::SteadyApp, known.name.as_bytes());
        head.push_known(Name::SteadyGeneration, steady_http::decimal(known.generation, &mut digits));
        head.push_known(Name::SteadyProbe, b"1");
    }

    fn answered(&mut self, key: ParkKey, response: Option<&Head>, _: Time) {
        let live = response.is_some_and(|head| head.status == 200);
        if let Some(known) = self.moves.known(key) {
            known.answered(live);
        }
        if live { &self.stats.verdicts_live } else { &self.stats.verdicts_not_live }.add(1);
    }

    fn attempt_ended(&mut self, ticket: &mut Ticket, end: AttemptEnd, now: Time) {
        if let Some(story) = &mut ticket.story {
            story.attempt_ended(end, now);
        }
        let Some(host) = ticket.host.take() else { return };
        if ticket.epoch != self.hosts.epoch() {
            // The index is another host's now, or nobody's, who is not to be told.
            if end.is_unprocessed() {
                self.stats.refused.add(u64::from(ticket.by_agent));
            }
            ticket.forget_hosts(self.hosts.epoch());
            return;
        }
        if std::mem::take(&mut ticket.counted)
            && let Some(entry) = self.hosts.get_mut(host)
        {
            entry.in_flight = entry.in_flight.saturating_sub(1);
        }
        self.rate(host, ticket, end, now);
        if end.is_unprocessed() {
            self.stats.refused.add(u64::from(ticket.by_agent));
            ticket.refused = Some((host, ticket.generation));
        }
    }

    fn interim(&mut self, _: &mut Ticket, response: &Head) -> Interim {
        let millis = response.get(Name::SteadyParked).and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
        match millis {
            None => Interim::Pass,
            Some(0) => Interim::Resumed,
            Some(millis) => Interim::Parked(Duration::from_millis(millis)),
        }
    }

    fn judge(&mut self, ticket: &mut Ticket, response: &mut Head) -> Judgement {
        let refused = response.get(Name::SteadyRefused).is_some();
        if let Some(timing) = response.get(Name::SteadyTiming) {
            ticket.timing = RequestTiming::parse(timing).unwrap_or_default();
        }
        response.retain(|field| !Name::is_reserved(field.name));
        // A stream that was refused without this mark (a GOAWAY, too many streams) may do better right away.
        ticket.by_agent = refused;
        ticket.erred = response.status >= 500;
        if refused { Judgement::Refused } else { Judgement::Pass }
    }

    fn respond(&mut self, request: &mut Request<'_, Ticket>, response: &mut Head, _: &Timing) {
        if let Some(id) = request.head.get(Name::XRequestId) {
            response.set(Name::XRequestId, id);
        }
        if self.settings.server_timing {
            self.scratch.clear();
            request.ticket.timing.server_timing(&mut self.scratch);
            response.push_known(Name::ServerTiming, &self.scratch);
        }
        if let Some(story) = &mut request.ticket.story {
            story.answered(response, request.now);
        }
    }

    fn subject<'r>(request: &'r Head, _: &'r Ticket) -> &'r [u8] {
        request.get(Name::SteadyApp).unwrap_or_default()
    }

    fn finished(&mut self, record: &Record<'_, Ticket>) {
        if let Some(story) = &record.ticket.story {
            let agent = &record.ticket.timing;
            story.end(record, &format!(",\"agent_queue_us\":{},\"application_us\":{}", agent.queue, agent.application));
        }
        self.measured.record(record);
        let host = last(&self.hosts, record.ticket).map_or("", |entry| &*entry.name);
        if let Some(log) = &mut self.log {
            log.line(|out| access_log::write(out, record, host, &mut self.stamps));
        }
    }

    fn due(&self) -> Option<Time> {
        self.log.as_ref().and_then(LogWriter::due).map(|due| Time::ZERO + due)
    }

    fn batch_ended(&mut self, now: Time) {
        self.measured.batch_ended();
        if let Some(log) = &mut self.log {
            log.tick(now.since(Time::ZERO));
        }
    }
}

/// The last host that was tried, if it is still known under its index.
fn last<'h>(hosts: &'h Hosts, ticket: &Ticket) -> Option<&'h HostEntry> {
    ticket.last.filter(|_| ticket.epoch == hosts.epoch()).and_then(|host| hosts.get(host))
}

/// Whether the table still places an application as it did.
fn is_placed(routes: &Routes, before: &Placement) -> bool {
    routes
        .by_name(&before.name)
        .is_some_and(|route| route.generation() == before.generation && route.moving() == before.moving)
}

#[cfg(test)]
mod tests {
    use steady_table::{App, AppName, Contents, DomainName, Endpoint, Host, TableDir};

    use super::*;
    use crate::snapshot::HostState;

    /// A table of these hosts, with an application on the last.
    fn snapshot(hosts: &[&str]) -> Snapshot {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = Endpoint { host: HostIndex(hosts.len() as u32 - 1), version: 1, weight: 1 };
        let name = AppName::new("shop").unwrap();
        let app = App { name, generation: 1, exclusive: false, version: 1, endpoints: vec![endpoint], moving: None };
        let contents = Contents {
            hosts: hosts.iter().map(|name| Host::new(name, "127.0.0.1:9").unwrap()).collect(),
            domains: vec![DomainName::new("steady.page").unwrap()],
            apps: vec![app],
            customs: Vec::new(),
        };
        let routes = TableDir::open(dir.path()).unwrap().0.replace(contents, 1).unwrap();
        Snapshot {
            routes: Arc::new(routes),
            hosts: vec![HostState::Up; hosts.len()],
            certs: crate::certs::Certs::default(),
            cluster: None,
            settings: Settings::default(),
        }
    }

    fn route(policy: &mut EdgePolicy, snapshot: &Snapshot, ticket: &mut Ticket) {
        let mut head = Head::new();
        head.set_authority(b"shop.steady.page");
        let (now, peer) = (Time::ZERO, None);
        let mut request = Request {
            head: &mut head,
            ticket,
            peer,
            listener: 0,
            server_name: None,
            is_tls: false,
            version: 11,
            attempt: 0,
            now,
        };
        assert!(matches!(policy.route(snapshot, &mut request), Decision::Forward(_)));
    }

    fn in_flight(policy: &EdgePolicy) -> Vec<u32> {
        let hosts = 0..policy.hosts.count() as u32;
        hosts.map(|host| policy.hosts.get(HostIndex(host)).unwrap().in_flight).collect()
    }

    #[test]
    fn a_request_that_ends_after_its_hosts_index_changed_is_charged_to_no_other_host() {
        let meters = Arc::new(EdgeMeters::new(4));
        let mut policy = EdgePolicy::new(Arc::default(), None, Arc::default(), meters, Rng::with_seed(1));
        let (before, after) = (snapshot(&["a", "b", "c"]), snapshot(&["b", "c"]));
        policy.published(&before);
        let (mut old, mut new) = (Ticket::default(), Ticket::default());
        route(&mut policy, &before, &mut old);
        assert_eq!(in_flight(&policy), [0, 0, 1]);
        // `a` is removed: what was 2 is 1 now.
        policy.published(&after);
        route(&mut policy, &after, &mut new);
        policy.attempt_ended(&mut old, AttemptEnd::ConnectFailed, Time::ZERO);
        assert!(last(&policy.hosts, &old).is_none(), "the log does not name another");
        assert_eq!(in_flight(&policy), [0, 1]);
        policy.attempt_ended(&mut new, AttemptEnd::Complete, Time::ZERO);
        assert_eq!(in_flight(&policy), [0, 0]);
        // One more at the end changes no index.
        let epoch = policy.hosts.epoch();
        policy.published(&snapshot(&["b", "c", "d"]));
        assert_eq!(policy.hosts.epoch(), epoch);
    }
}
