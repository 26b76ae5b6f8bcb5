//! The agent's policy: which process a request goes to, or where it waits.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use steady_http::{Head, Method, Name};
use steady_proxy::log::{LogWriter, json};
use steady_proxy::trace::{Story, Tracer};
use steady_proxy::{
    AttemptEnd, Bounds, Credentials, Decision, Judgement, ParkKey, Policy, Record, Refusal, Reply, Request, Target,
    Timeouts, Timing,
};
use steady_ring::Time;
use steady_timing::{Begun, RequestTiming};
use tokio::sync::mpsc;

use super::counts::{Seen, View};
use super::request_log;
use crate::gate::{AppMeters, AppPen, Generation, Notice, Process, Protocol, Role, Subject};

/// Marks a refusal as the agent's own, so that the edge knows that the request was not begun.
const REFUSED: &[u8] = Name::SteadyRefused.as_bytes();
/// 102 Processing (RFC 2518 §10.1). The edge takes what comes with the field out, so that no client sees it.
const INTERIM: u16 = 102;
/// A process is on this machine: a connect that takes longer will not come.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// See the module. One a worker.
#[derive(Debug)]
pub struct AgentPolicy {
    worker: usize,
    notices: mpsc::Sender<Notice>,
    timeouts: Timeouts,
    apps: HashMap<Arc<str>, Rc<Local>>,
    /// Parking places of this publication, by key.
    places: HashMap<ParkKey, Arc<str>>,
    log: Option<LogWriter>,
    stamps: json::Timestamps,
    tracer: Arc<Tracer>,
    scratch: Vec<u8>,
    meters: Arc<AppMeters>,
    /// Retirements that were heeded.
    retirements: u64,
}

/// An application as this worker sees it, between two publications.
#[derive(Debug)]
struct Local {
    seen: Seen,
    /// Control has been asked to start it, and will publish when it has.
    woken: std::cell::Cell<bool>,
    /// The process that was ready refused a connection: wait for another.
    broken: std::cell::Cell<bool>,
    /// What is parked should be routed again under this publication.
    changed: bool,
    /// Where its requests are measured; opened with the first.
    meter: RefCell<Option<AppPen>>,
}

/// What the policy remembers of a request.
#[derive(Debug, Default)]
pub struct Ticket {
    app: Option<Rc<Local>>,
    generation: Generation,
    probe: bool,
    /// Counted as in flight, with this application.
    counted: Option<Rc<Local>>,
    begun: Option<Begun<Subject, 3>>,
    /// Refused so that the edge tries elsewhere: no request of this host.
    elsewhere: bool,
    parked: Option<Rc<Local>>,
    /// The deadline of its first parking, which later ones keep.
    until: Option<Time>,
    /// What happened to it, when it is traced.
    story: Option<Box<Story>>,
}

impl Ticket {
    /// Whether it is with a process of this application.
    pub(super) fn is_for(&self, name: &str) -> bool {
        self.counted.as_ref().is_some_and(|local| &*local.seen.app.name == name)
    }

    pub(super) fn app(&self) -> Option<&str> {
        self.app.as_ref().map(|local| &*local.seen.app.name)
    }
}

impl AgentPolicy {
    pub(super) fn new(
        worker: usize,
        notices: mpsc::Sender<Notice>,
        timeouts: Timeouts,
        log: Option<LogWriter>,
        tracer: Arc<Tracer>,
        meters: Arc<AppMeters>,
    ) -> AgentPolicy {
        AgentPolicy {
            worker,
            notices,
            timeouts,
            apps: HashMap::new(),
            places: HashMap::new(),
            log,
            stamps: json::Timestamps::default(),
            tracer,
            scratch: Vec::new(),
            meters,
            retirements: 0,
        }
    }

    /// Where this worker measures the application. `None`: too much is measured already.
    fn meter(&self, local: &Local) -> Option<AppPen> {
        let mut held = local.meter.borrow_mut();
        if held.as_ref().is_none_or(|meter| meter.is_retired()) {
            let app = &local.seen.app;
            *held = self.meters.open(|| Subject { app: Arc::clone(&app.name), version: app.version });
        }
        held.clone()
    }

    /// A refusal that the edge takes as "not begun, try elsewhere".
    fn refuse(ticket: &mut Ticket, why: &'static [u8]) -> Decision {
        ticket.elsewhere = true;
        Decision::Reply(Reply::Bare { status: 421, field: Some((REFUSED, why.to_vec())) })
    }

    /// Has the request wait, within the application's bounds.
    fn park(&mut self, local: &Rc<Local>, request: &mut Request<'_, Ticket>, refusal: Refusal) -> Decision {
        let app = &local.seen.app;
        let until = *request.ticket.until.get_or_insert(request.now + app.queue_wait);
        if until <= request.now {
            return Decision::Reply(Reply::Refuse(refusal));
        }
        if local.seen.parked.sum() >= u64::from(app.queue_max) {
            return Decision::Reply(Reply::Refuse(Refusal::QueueFull));
        }
        local.seen.parked.of(self.worker).add(1);
        request.ticket.parked = Some(Rc::clone(local));
        Decision::Park { key: ParkKey(local.seen.place), until, refusal }
    }

    fn wake(&self, local: &Local) {
        if local.woken.get() {
            return;
        }
        // A full mailbox means that control is busy with other wakes; the next request for it asks again.
        let sent = self.notices.try_send(Notice::Wake { app: Arc::clone(&local.seen.app.name) });
        local.woken.set(sent.is_ok());
    }

    fn use_process(&mut self, local: &Rc<Local>, request: &mut Request<'_, Ticket>) -> Decision {
        match &local.seen.app.process {
            Process::Ready { addr, protocol, instance } if !local.broken.get() => {
                local.seen.in_flight.of(self.worker).add(1);
                request.ticket.counted = Some(Rc::clone(local));
                request.ticket.begun = self.meter(local).map(|meter| self.meters.begin(&meter));
                Decision::Forward(Target {
                    upstream: *instance,
                    addr: addr.clone(),
                    protocol: match protocol {
                        Protocol::Http1 => steady_proxy::Protocol::Http1,
                        Protocol::H2c => steady_proxy::Protocol::H2c,
                    },
                    tls: None,
                    connect_timeout: CONNECT_TIMEOUT,
                    response_timeout: local.seen.app.response_timeout,
                    replay_bytes_max: 0,
                    pings: false,
                })
            }
            Process::Failed { .. } => Decision::Reply(Reply::Refuse(Refusal::AppFailed)),
            Process::Cold => {
                if local.seen.app.role == Role::Owner {
                    self.wake(local);
                }
                self.park(local, request, Refusal::ParkTimeout)
            }
            Process::Starting | Process::Ready { .. } => self.park(local, request, Refusal::ParkTimeout),
        }
    }

    fn resolve(&mut self, request: &mut Request<'_, Ticket>) -> Decision {
        // The application as this publication has it, whatever an earlier one said.
        let local = request.ticket.app().and_then(|name| self.apps.get(name)).map(Rc::clone);
        let Some(local) = local else { return Self::refuse(request.ticket, b"unknown") };
        request.ticket.app = Some(Rc::clone(&local));
        let app = &local.seen.app;
        if request.ticket.generation > app.generation {
            // This host is behind the edge: control will catch up, and publish.
            return self.park(&local, request, Refusal::ParkTimeout);
        }
        match app.role {
            Role::Owner | Role::Incoming => self.use_process(&local, request),
            Role::Draining => Self::refuse(request.ticket, b"draining"),
            Role::Absent => Self::refuse(request.ticket, b"absent"),
        }
    }

    /// Adds the decision to the request's story, if it has one.
    fn trace(&self, request: &mut Request<'_, Ticket>, decision: &Decision) {
        let now = request.now;
        if request.ticket.story.is_none() {
            let subject = Self::subject(request.head, request.ticket);
            request.ticket.story = self.tracer.begin(subject, request.head, request.peer, now);
        }
        if let Some(story) = &mut request.ticket.story {
            story.routed(decision, "", now);
        }
    }

    /// Whether the edge's probe is answered "live": this host owns the application and accepts, asleep included.
    fn is_live(&self, ticket: &Ticket) -> bool {
        let Some(local) = &ticket.app else { return false };
        let app = &local.seen.app;
        app.role == Role::Owner && app.generation >= ticket.generation
    }
}

impl Policy for AgentPolicy {
    type Snapshot = View;
    type Ticket = Ticket;

    fn bounds(&self, view: &View) -> Option<Arc<Bounds>> {
        view.bounds.clone()
    }

    fn published(&mut self, view: &View) -> Timeouts {
        let mut apps = HashMap::with_capacity(view.apps.len());
        // Who waits for one that has left is routed again, and refused.
        self.places.clear();
        for (name, seen) in &view.apps {
            self.places.insert(ParkKey(seen.place), Arc::clone(name));
            let kept = self.apps.get(name).filter(|old| Arc::ptr_eq(&old.seen.app, &seen.app));
            let local = kept.map_or_else(
                || {
                    let before = self.apps.get(name).filter(|old| old.seen.app.version == seen.app.version);
                    Rc::new(Local {
                        seen: seen.clone(),
                        woken: false.into(),
                        broken: false.into(),
                        changed: true,
                        meter: before.map_or_else(RefCell::default, |old| old.meter.clone()),
                    })
                },
                |old| {
                    // The same word from control as before: what this worker learnt since still holds.
                    Rc::new(Local {
                        seen: seen.clone(),
                        woken: old.woken.clone(),
                        broken: old.broken.clone(),
                        changed: false,
                        meter: old.meter.clone(),
                    })
                },
            );
            apps.insert(Arc::clone(name), local);
        }
        self.apps = apps;
        self.timeouts = view.timeouts.unwrap_or(self.timeouts);
        self.timeouts
    }

    fn tls(&mut self, view: &View, _: Option<&str>) -> Credentials {
        // A host that is about to join has its certificate in a moment.
        view.tls.clone().map_or(Credentials::Awaited, Credentials::Known)
    }

    fn admit(&mut self, _: &View, request: &mut Request<'_, Ticket>) -> Option<Reply> {
        let head = &mut *request.head;
        let ticket = &mut *request.ticket;
        let app = head.get(Name::SteadyApp).and_then(|name| std::str::from_utf8(name).ok());
        ticket.app = app.and_then(|name| self.apps.get(name)).map(Rc::clone);
        ticket.generation = head.get(Name::SteadyGeneration).and_then(number).map(Generation).unwrap_or_default();
        ticket.probe = head.get(Name::SteadyProbe).is_some();
        head.retain(|field| !Name::is_reserved(field.name));
        if ticket.probe {
            let status = if head.method == Method::Head && self.is_live(ticket) { 200 } else { 421 };
            return Some(Reply::Bare { status, field: None });
        }
        None
    }

    fn route(&mut self, _: &View, request: &mut Request<'_, Ticket>) -> Decision {
        let decision = self.resolve(request);
        self.trace(request, &decision);
        decision
    }

    fn may_resume(&mut self, _: &View, key: ParkKey) -> bool {
        let Some(name) = self.places.get(&key) else { return true };
        self.apps.get(name).is_none_or(|local| local.changed)
    }

    fn unparked(&mut self, ticket: &mut Ticket, _: ParkKey, waited: Duration) {
        if let Some(story) = &mut ticket.story {
            story.waited(waited);
        }
        if let Some(local) = ticket.parked.take() {
            local.seen.parked.of(self.worker).sub(1);
        }
    }

    fn question(&mut self, _: ParkKey, _: &mut Head) {}

    fn answered(&mut self, _: ParkKey, _: Option<&Head>, _: Time) {}

    fn attempt_ended(&mut self, ticket: &mut Ticket, end: AttemptEnd, now: Time) {
        if let Some(story) = &mut ticket.story {
            story.attempt_ended(end, now);
        }
        let Some(local) = ticket.counted.take() else { return };
        local.seen.in_flight.of(self.worker).sub(1);
        if let Some(begun) = ticket.begun.take() {
            self.meters.end(begun);
        }
        let Process::Ready { instance, .. } = local.seen.app.process else { return };
        if !matches!(end, AttemptEnd::ConnectFailed | AttemptEnd::Broken | AttemptEnd::TimedOut) {
            return;
        }
        // Control looks at its processes by itself, too; a full mailbox only delays that.
        let told = self.notices.try_send(Notice::Broken { app: Arc::clone(&local.seen.app.name), instance }).is_ok();
        // Nothing more is sent to it until control, which looks at it now, says that it may be. Where control was not told it
        // would say nothing.
        if end == AttemptEnd::ConnectFailed && told {
            local.broken.set(true);
            // The publication may have changed since the request was routed; what counts is the instance.
            if let Some(current) = self.apps.get(&local.seen.app.name)
                && current.seen.app.process == local.seen.app.process
            {
                current.broken.set(true);
            }
        }
    }

    fn tell(&mut self, _: &mut Ticket, waits: Option<Duration>, head: &mut Head) -> bool {
        head.reset_to_status(INTERIM);
        // Rounded up: nothing at all means that it goes on.
        let millis = waits.map_or(0, |waits| u64::try_from(waits.as_millis()).unwrap_or(u64::MAX).saturating_add(1));
        head.push_known(Name::SteadyParked, steady_http::decimal(millis, &mut [0; 20]));
        true
    }

    fn judge(&mut self, _: &mut Ticket, response: &mut Head) -> Judgement {
        response.retain(|field| !Name::is_reserved(field.name));
        Judgement::Pass
    }

    fn respond(&mut self, request: &mut Request<'_, Ticket>, response: &mut Head, timing: &Timing) {
        if request.ticket.probe {
            return;
        }
        let so_far = Timing { ended: request.now, ..*timing };
        self.scratch.clear();
        request_timing(&so_far).encode(&mut self.scratch);
        response.push_known(Name::SteadyTiming, &self.scratch);
        if let Some(story) = &mut request.ticket.story {
            story.answered(response, request.now);
        }
    }

    fn subject<'r>(_: &'r Head, ticket: &'r Ticket) -> &'r [u8] {
        ticket.app().unwrap_or_default().as_bytes()
    }

    fn finished(&mut self, record: &Record<'_, Ticket>) {
        if record.ticket.probe {
            return;
        }
        if let Some(story) = &record.ticket.story {
            story.end(record, "");
        }
        let timing = request_timing(&record.timing);
        if !record.ticket.elsewhere
            && let Some(local) = &record.ticket.app
            && let Some(meter) = self.meter(local)
        {
            let answered = !record.is_from_here() && record.status != 0;
            let own = |us| answered.then_some(us);
            meter.record(record.status, [own(timing.application), Some(timing.queue), own(timing.own)]);
        }
        if let Some(log) = &mut self.log {
            let stamps = &mut self.stamps;
            log.line(|out| request_log::write(out, record, &timing, stamps));
        }
    }

    fn due(&self) -> Option<Time> {
        self.log.as_ref().and_then(LogWriter::due).map(|due| Time::ZERO + due)
    }

    fn batch_ended(&mut self, now: Time) {
        let retirements = self.meters.retirements();
        if retirements != self.retirements {
            self.retirements = retirements;
            for local in self.apps.values() {
                local.meter.borrow_mut().take_if(|meter| meter.is_retired());
            }
        }
        if let Some(log) = &mut self.log {
            log.tick(now.since(Time::ZERO));
        }
    }
}

/// Where the time of an exchange went, in µs.
fn request_timing(timing: &Timing) -> RequestTiming {
    let micros = |from: Time, to: Time| u64::try_from(to.since(from).as_micros()).unwrap_or(u64::MAX);
    RequestTiming {
        queue: micros(timing.started, timing.routed),
        connect: micros(timing.routed, timing.attached),
        application: micros(timing.attached + timing.own, timing.answered),
        streaming: micros(timing.answered, timing.ended),
        own: u64::try_from(timing.own.as_micros()).unwrap_or(u64::MAX),
    }
}

/// A decimal number without sign.
fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::data::counts::Ledger;
    use crate::gate::{App, Apps};

    #[test]
    fn a_process_that_refused_is_left_alone_only_where_control_was_told_and_until_it_says_the_same_again() {
        let (notices, mut told) = mpsc::channel(1);
        let (tracer, meters) = (Arc::default(), Arc::new(AppMeters::new(1)));
        let mut policy = AgentPolicy::new(0, notices.clone(), Timeouts::default(), None, tracer, meters);
        let ledger = Ledger::new(1);
        let name: Arc<str> = "shop".into();
        let view = || {
            let app = App {
                name: Arc::clone(&name),
                role: Role::Owner,
                generation: Generation(1),
                version: 1,
                process: Process::Ready {
                    addr: SocketAddr::from(([127, 0, 0, 1], 1)).into(),
                    protocol: Protocol::Http1,
                    instance: 7,
                },
                queue_max: 9,
                queue_wait: Duration::from_secs(1),
                response_timeout: Duration::from_secs(1),
            };
            ledger.view(&Apps { apps: [(Arc::clone(&name), Arc::new(app))].into() }, None, None)
        };
        // Whether a request is forwarded; the connect fails.
        let tried = |policy: &mut AgentPolicy, view: &View| {
            let (mut head, mut ticket) = (Head::new(), Ticket::default());
            head.push_known(Name::SteadyApp, b"shop");
            let mut request = Request {
                head: &mut head,
                ticket: &mut ticket,
                peer: None,
                listener: 0,
                server_name: None,
                is_tls: false,
                version: 20,
                attempt: 0,
                now: Time::ZERO,
            };
            assert!(policy.admit(view, &mut request).is_none());
            let forwarded = matches!(policy.route(view, &mut request), Decision::Forward(_));
            policy.attempt_ended(&mut ticket, AttemptEnd::ConnectFailed, Time::ZERO);
            forwarded
        };
        let first = view();
        policy.published(&first);
        notices.try_send(Notice::Wake { app: "another".into() }).unwrap();
        assert!(tried(&mut policy, &first) && tried(&mut policy, &first), "nobody would look, or say that it is well");
        told.try_recv().unwrap();
        assert!(tried(&mut policy, &first));
        assert_eq!(told.try_recv(), Ok(Notice::Broken { app: Arc::clone(&name), instance: 7 }));
        assert!(!tried(&mut policy, &first));
        let again = view();
        policy.published(&again);
        assert!(tried(&mut policy, &again));
        policy.published(&ledger.view(&Apps::default(), None, None));
        assert!(policy.places.is_empty() && policy.apps.is_empty(), "what has left is not kept");
    }
}
