//! Test policies: what an edge and what an agent do with the engine, and books that must balance.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use steady_http::{Head, Method};
use steady_proxy::{
    AttemptEnd, BodyFilter, Bounds, Credentials, Decision, Interim, Judgement, ParkKey, Policy, Protocol, Record,
    Refusal, Reply, Request, Target, Timeouts, Timing, UpstreamTls,
};
use steady_ring::{Addr, Time};

use super::plan::Plan;

/// What is published.
#[derive(Clone, Debug)]
pub struct Scene {
    pub targets: Vec<Place>,
    pub timeouts: Timeouts,
    /// Whether everything is parked.
    pub hold: bool,
    /// Per thousand requests: parked for a while, asked about, refused with a mark.
    pub park: u32,
    pub ask: u32,
    pub refuse: u32,
    /// How long at most something is parked.
    pub park_for: Duration,
    pub ask_for: Duration,
    /// Whether questions are answered here (agent) by "live".
    pub live: bool,
    /// Whether each octet of a response's body is sent twice.
    pub echo: bool,
    /// Whether it says in an interim response that a request is parked.
    pub tell: bool,
    pub credentials: Credentials,
    /// What it asks of the worker.
    pub bounds: Option<Arc<Bounds>>,
}

/// A filter that says everything twice, and at the end that it was the end.
#[derive(Debug)]
struct Echo;

impl BodyFilter for Echo {
    fn pass(&mut self, data: &[u8], end: bool, out: &mut Vec<u8>) {
        out.extend(data.iter().flat_map(|&octet| [octet, octet]));
        if end {
            out.extend_from_slice(b"END");
        }
    }
}

/// Somewhere to forward to.
#[derive(Clone, Debug)]
pub struct Place {
    pub key: u64,
    pub addr: Addr,
    pub protocol: Protocol,
    pub replay: u32,
    pub pings: bool,
    pub tls: Option<Arc<UpstreamTls>>,
    pub connect_timeout: Duration,
    pub response_timeout: Duration,
}

impl Place {
    pub fn h1(key: u64, addr: impl Into<Addr>) -> Place {
        Place {
            key,
            addr: addr.into(),
            protocol: Protocol::Http1,
            replay: 0,
            pings: false,
            tls: None,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(60),
        }
    }

    pub fn h2(key: u64, addr: impl Into<Addr>) -> Place {
        Place { protocol: Protocol::H2c, ..Place::h1(key, addr) }
    }

    /// As an edge's to an agent: what has not been accepted can be sent again.
    pub fn agent(key: u64, addr: impl Into<Addr>) -> Place {
        Place { replay: 64 * 1024, ..Place::h2(key, addr) }
    }
}

impl Scene {
    pub fn to(targets: Vec<Place>) -> Scene {
        Scene {
            targets,
            timeouts: Timeouts::default(),
            hold: false,
            park: 0,
            ask: 0,
            refuse: 0,
            park_for: Duration::from_secs(2),
            ask_for: Duration::from_millis(500),
            live: true,
            echo: false,
            tell: false,
            credentials: Credentials::Refused,
            bounds: None,
        }
    }
}

/// What the engine told its policy.
#[derive(Debug, Default)]
pub struct Ledger {
    pub admitted: u64,
    pub forwards: u64,
    pub ends: HashMap<&'static str, u64>,
    pub parks: u64,
    pub unparked: u64,
    pub questions: u64,
    pub answers: Vec<Option<u16>>,
    /// Of those that were admitted.
    pub finished: u64,
    /// Statuses of what could not be read, and so never was a request.
    pub unread: Vec<u16>,
    pub responded: u64,
    /// Ids of requests that were forwarded, each time.
    pub routes: Vec<u64>,
    /// How each one ended: id, status, attempts, outcome, refusal, octets up and down.
    pub records: Vec<Ended>,
}

#[derive(Clone, Debug)]
pub struct Ended {
    pub id: u64,
    pub version: u8,
    pub status: u16,
    pub attempts: u8,
    pub outcome: steady_proxy::Outcome,
    pub refusal: Option<Refusal>,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub timing: Timing,
}

impl Ledger {
    pub fn ended(&self, end: AttemptEnd) -> u64 {
        self.ends.get(name(end)).copied().unwrap_or(0)
    }

    pub fn check_balanced(&self) {
        let ended: u64 = self.ends.values().sum();
        assert_eq!(self.forwards, ended, "every Forward has one attempt_ended: {:?}", self.ends);
        assert_eq!(self.parks, self.unparked, "every Park has one unparked");
        assert_eq!(self.questions, self.answers.len() as u64, "every question has one answer");
    }

    pub fn record(&self, id: u64) -> Option<&Ended> {
        self.records.iter().find(|ended| ended.id == id)
    }
}

fn name(end: AttemptEnd) -> &'static str {
    match end {
        AttemptEnd::Complete => "complete",
        AttemptEnd::ConnectFailed => "connect_failed",
        AttemptEnd::Refused => "refused",
        AttemptEnd::Broken => "broken",
        AttemptEnd::TimedOut => "timed_out",
        AttemptEnd::Abandoned => "abandoned",
    }
}

/// What the policy remembers of an exchange: where the engine says it is.
#[derive(Debug, Default)]
pub struct Ticket {
    pub id: u64,
    forwarded: bool,
    parked: Option<ParkKey>,
    /// Times it was parked.
    waited: u32,
    admitted: bool,
    finished: bool,
    responded: bool,
}

pub struct TestPolicy {
    ledger: Rc<RefCell<Ledger>>,
    rng: fastrand::Rng,
    asking: HashMap<ParkKey, bool>,
    echo: bool,
    tell: bool,
}

impl TestPolicy {
    pub fn new(seed: u64) -> TestPolicy {
        TestPolicy {
            ledger: Rc::default(),
            rng: fastrand::Rng::with_seed(seed),
            asking: HashMap::new(),
            echo: false,
            tell: false,
        }
    }

    pub fn ledger(&self) -> Rc<RefCell<Ledger>> {
        Rc::clone(&self.ledger)
    }

    fn target(place: &Place) -> Target {
        Target {
            upstream: place.key,
            addr: place.addr.clone(),
            protocol: place.protocol,
            tls: place.tls.clone(),
            connect_timeout: place.connect_timeout,
            response_timeout: place.response_timeout,
            replay_bytes_max: place.replay,
            pings: place.pings,
        }
    }

    fn happens(&mut self, per_thousand: u32) -> bool {
        per_thousand > 0 && self.rng.u32(0..1000) < per_thousand
    }

    fn park(&mut self, scene: &Scene, request: &mut Request<'_, Ticket>, key: ParkKey) -> (ParkKey, Time) {
        request.ticket.parked = Some(key);
        request.ticket.waited += 1;
        self.ledger.borrow_mut().parks += 1;
        let nanos = scene.park_for.as_nanos() as u64;
        (key, request.now + Duration::from_nanos(self.rng.u64(nanos / 2..=nanos)))
    }
}

impl Policy for TestPolicy {
    type Snapshot = Scene;
    type Ticket = Ticket;

    fn published(&mut self, scene: &Scene) -> Timeouts {
        self.echo = scene.echo;
        self.tell = scene.tell;
        scene.timeouts
    }

    fn bounds(&self, scene: &Scene) -> Option<Arc<Bounds>> {
        scene.bounds.clone()
    }

    fn tls(&mut self, scene: &Scene, _: Option<&str>) -> Credentials {
        scene.credentials.clone()
    }

    fn filter(&mut self, _: &mut Request<'_, Ticket>, response: &mut Head) -> Option<Box<dyn BodyFilter>> {
        if !self.echo {
            return None;
        }
        response.content_length = None;
        Some(Box::new(Echo))
    }

    fn admit(&mut self, scene: &Scene, request: &mut Request<'_, Ticket>) -> Option<Reply> {
        assert!(!std::mem::replace(&mut request.ticket.admitted, true), "admitted once");
        self.ledger.borrow_mut().admitted += 1;
        if request.head.get_named(b"x-question").is_some() {
            let status = if scene.live { 200 } else { 421 };
            return Some(Reply::Bare { status, field: None });
        }
        request.ticket.id = Plan::read(request.head).map_or(0, |plan| plan.id);
        None
    }

    fn route(&mut self, scene: &Scene, request: &mut Request<'_, Ticket>) -> Decision {
        let ticket = &*request.ticket;
        assert!(ticket.admitted && !ticket.forwarded && ticket.parked.is_none() && !ticket.finished);
        if scene.hold {
            let (key, until) = self.park(scene, request, ParkKey(99));
            return Decision::Park { key, until, refusal: Refusal::ParkTimeout };
        }
        if scene.targets.is_empty() {
            return Decision::Reply(Reply::Refuse(Refusal::NoSuchApp));
        }
        if ticket.waited < 3 && self.happens(scene.ask) {
            let place = self.rng.usize(0..scene.targets.len());
            let key = ParkKey(place as u64);
            let target = Self::target(&scene.targets[place]);
            let (key, until) = self.park(scene, request, key);
            if !std::mem::replace(self.asking.entry(key).or_default(), true) {
                self.ledger.borrow_mut().questions += 1;
                let ask_until = request.now + scene.ask_for;
                return Decision::Ask { key, target, ask_until, until, refusal: Refusal::ParkTimeout };
            }
            return Decision::Park { key, until, refusal: Refusal::ParkTimeout };
        }
        if ticket.waited < 3 && self.happens(scene.park) {
            let key = ParkKey(100 + self.rng.u64(0..4));
            let (key, until) = self.park(scene, request, key);
            return Decision::Park { key, until, refusal: Refusal::ParkTimeout };
        }
        if self.happens(scene.refuse) {
            return Decision::Reply(Reply::Bare { status: 421, field: Some((b"x-refused", b"1".to_vec())) });
        }
        let place = self.rng.usize(0..scene.targets.len());
        request.ticket.forwarded = true;
        let mut ledger = self.ledger.borrow_mut();
        ledger.forwards += 1;
        ledger.routes.push(request.ticket.id);
        Decision::Forward(Self::target(&scene.targets[place]))
    }

    fn may_resume(&mut self, scene: &Scene, _: ParkKey) -> bool {
        !scene.hold && (scene.park == 0 || self.rng.bool())
    }

    fn unparked(&mut self, ticket: &mut Ticket, key: ParkKey, _: Duration) {
        assert_eq!(ticket.parked.take(), Some(key), "unparked once, from where it was");
        self.ledger.borrow_mut().unparked += 1;
    }

    fn question(&mut self, _: ParkKey, head: &mut Head) {
        head.method = Method::Head;
        head.set_authority(b"question");
        head.set_path(b"/");
        head.push(b"x-question", b"1");
    }

    fn answered(&mut self, key: ParkKey, response: Option<&Head>, _: Time) {
        assert_eq!(self.asking.insert(key, false), Some(true), "one answer a question");
        self.ledger.borrow_mut().answers.push(response.map(|head| head.status));
    }

    fn attempt_ended(&mut self, ticket: &mut Ticket, end: AttemptEnd, _: Time) {
        if !ticket.admitted {
            // A question's: it has no ticket of its own.
            return;
        }
        assert!(std::mem::take(&mut ticket.forwarded), "an attempt ends once");
        *self.ledger.borrow_mut().ends.entry(name(end)).or_default() += 1;
    }

    fn tell(&mut self, ticket: &mut Ticket, waits: Option<Duration>, head: &mut Head) -> bool {
        assert!(ticket.parked.is_some() == waits.is_some() && ticket.forwarded == waits.is_none());
        head.reset_to_status(102);
        let millis = waits.map_or(0, |waits| waits.as_millis() + 1);
        head.push(b"steady-parked", millis.to_string().as_bytes());
        self.tell
    }

    fn interim(&mut self, _: &mut Ticket, response: &Head) -> Interim {
        match response.get_named(b"steady-parked").map(|millis| std::str::from_utf8(millis).unwrap().parse().unwrap()) {
            None => Interim::Pass,
            Some(0) => Interim::Resumed,
            Some(millis) => Interim::Parked(Duration::from_millis(millis)),
        }
    }

    fn judge(&mut self, ticket: &mut Ticket, response: &mut Head) -> Judgement {
        assert!(ticket.forwarded);
        if response.get_named(b"x-refused").is_some() { Judgement::Refused } else { Judgement::Pass }
    }

    fn respond(&mut self, request: &mut Request<'_, Ticket>, _: &mut Head, _: &Timing) {
        assert!(!std::mem::replace(&mut request.ticket.responded, true), "one response an exchange");
        self.ledger.borrow_mut().responded += 1;
    }

    fn finished(&mut self, record: &Record<'_, Ticket>) {
        let ticket = record.ticket;
        assert!(!ticket.forwarded && ticket.parked.is_none(), "finished last: {ticket:?}");
        let mut ledger = self.ledger.borrow_mut();
        if !ticket.admitted {
            return ledger.unread.push(record.status);
        }
        ledger.finished += 1;
        ledger.records.push(Ended {
            id: ticket.id,
            version: record.version,
            status: record.status,
            attempts: record.attempts,
            outcome: record.outcome,
            refusal: record.refusal,
            request_bytes: record.request_bytes,
            response_bytes: record.response_bytes,
            timing: record.timing,
        });
    }
}
