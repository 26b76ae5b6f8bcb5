//! One application's actor: it alone decides what of the application runs here, and what the workers are told.
//!
//! It waits for commands of the API, wakes of the workers, events of its processes' keepers and its own back-off, handles
//! one at a time, and publishes after each change. It holds at most one process that serves (`main`), one new version on
//! trial beside it (`next`, ordinary applications only), and old ones that finish. An exclusive application is started
//! only when none of its processes is left.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::process::{self, Cause, End, Event, Handle, LaunchError, Order};
use super::status::{LastExit, State, Status};
use super::{Shared, backoff};
use crate::app_spec::Spec;
use crate::bundle::Held;
use crate::gate::{App, Generation, Process, Role};
use crate::logs::AppLog;
use crate::records::{Digest, Placement, Record, role_name};

/// Commands that wait for a drain to end.
const DEFERRED_MAX: usize = 16;
/// Starts in a row that may fail because another program took the port, before that counts as a crash.
const PORT_CLASHES_MAX: u32 = 3;

/// What this host is to become for the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub generation: Generation,
    /// [`Role::Owner`] or [`Role::Incoming`].
    pub role: Role,
    pub version: u64,
    pub digest: Digest,
}

/// Why a command was refused; for the API.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It contradicts what is known here.
    #[error("{0}")]
    Conflict(String),
    /// It cannot be done as it is.
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Unknown(String),
    /// This host fails; nothing has changed.
    #[error("{0}")]
    Broken(String),
}

/// Why a start that somebody waits for came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFailure {
    pub reason: String,
    pub output: String,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Requests that were cut at the deadline.
    pub cut: u64,
    pub took: Duration,
}

pub type Waiter = oneshot::Sender<Result<(), StartFailure>>;
type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

#[derive(Debug)]
pub enum Command {
    /// `ready` hears when what was placed serves, or cannot.
    Place {
        place: Place,
        ready: Option<Waiter>,
        reply: Reply<()>,
    },
    Drain {
        generation: Generation,
        deadline: Duration,
        forget: bool,
        reply: Reply<Drained>,
    },
    Restart {
        ready: Option<Waiter>,
        reply: Reply<()>,
    },
    /// A worker met a broken connection.
    Doubt {
        instance: u64,
    },
    /// The agent ends: stop everything, change no record.
    Shutdown {
        reply: oneshot::Sender<()>,
    },
}

/// How others reach an actor. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AppHandle {
    pub commands: mpsc::Sender<Command>,
    /// A wake is never lost and never queued twice.
    pub wake: Arc<Notify>,
    pub status: watch::Receiver<Status>,
    pub log: AppLog,
}

/// Starts the actor of `record`'s application. If it may run here it is started at once.
pub fn spawn(shared: Arc<Shared>, record: Record, log: AppLog) -> AppHandle {
    let (commands, inbox) = mpsc::channel(shared.limits.commands_max);
    let (events_in, events) = mpsc::channel(16);
    let wake = Arc::new(Notify::new());
    let status = watch::Sender::new(Status::new(record.clone()));
    let handle = AppHandle { commands, wake: Arc::clone(&wake), status: status.subscribe(), log: log.clone() };
    let actor = Actor {
        name: Arc::from(record.name.as_str()),
        held: record.placement.as_ref().and_then(|placement| shared.bundles.hold(&placement.digest)),
        target: record.placement.clone(),
        shared,
        record,
        log,
        state: Main::Cold,
        next: None,
        procs: HashMap::new(),
        rollback: None,
        draining: None,
        deferred: VecDeque::new(),
        waiters: Vec::new(),
        failures: 0,
        clashes: 0,
        restarts: 0,
        last_exit: None,
        events_in,
        status,
        wake,
    };
    tokio::spawn(actor.run(inbox, events));
    handle
}

/// The process that serves, or should.
#[derive(Debug)]
enum Main {
    Cold,
    /// To be started as soon as nothing of the application runs.
    Waiting,
    Starting {
        instance: u64,
    },
    Ready {
        instance: u64,
    },
    /// Its process is going, unasked; what follows is decided when it has gone.
    Falling {
        instance: u64,
    },
    Crashed {
        until: Instant,
        reason: String,
    },
    Failed {
        reason: String,
    },
}

/// A new version on trial beside the one that serves.
#[derive(Debug)]
struct Next {
    instance: u64,
    placement: Placement,
    held: Held,
    waiters: Vec<Waiter>,
}

#[derive(Debug)]
struct Draining {
    deadline: Instant,
    cut: u64,
    forget: bool,
    replies: Vec<(Instant, Reply<Drained>)>,
}

struct Actor {
    name: Arc<str>,
    shared: Arc<Shared>,
    record: Record,
    log: AppLog,
    /// What `main` is started from. Differs from the record's while an exclusive new version is on trial.
    target: Option<Placement>,
    /// Keeps `target`'s bundle.
    held: Option<Held>,
    state: Main,
    next: Option<Next>,
    /// Every process that is not gone, whatever it is to us.
    procs: HashMap<u64, Handle>,
    /// What to go back to when `target` cannot be.
    rollback: Option<(Placement, Option<Held>)>,
    draining: Option<Draining>,
    deferred: VecDeque<Command>,
    waiters: Vec<Waiter>,
    /// Crashes in a row.
    failures: u32,
    clashes: u32,
    restarts: u64,
    last_exit: Option<LastExit>,
    events_in: mpsc::Sender<Event>,
    status: watch::Sender<Status>,
    wake: Arc<Notify>,
}

impl Actor {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>, mut events: mpsc::Receiver<Event>) {
        if self.record.may_run() {
            self.start_when_alone().await;
        }
        self.publish();
        loop {
            let backoff_ends = match &self.state {
                Main::Crashed { until, .. } => Some(*until),
                _ => None,
            };
            tokio::select! {
                Some(event) = events.recv() => self.on_event(event).await,
                command = inbox.recv() => match command {
                    Some(Command::Shutdown { reply }) => return self.shut_down(&mut events, reply).await,
                    Some(command) => self.on_command(command).await,
                    None => return,
                },
                () = self.wake.notified() => self.on_wake().await,
                () = sleep_until(backoff_ends) => {
                    self.restarts += 1;
                    self.start_when_alone().await;
                    self.publish();
                }
            }
        }
    }

    async fn on_command(&mut self, command: Command) {
        let must_wait = matches!(command, Command::Place { .. } | Command::Restart { .. });
        if must_wait && self.draining.is_some() && self.deferred.len() < DEFERRED_MAX {
            self.deferred.push_back(command);
            return;
        }
        match command {
            Command::Place { place, ready, reply } => {
                let answer = self.place(place, ready).await;
                // Whoever asked may have left; here and below.
                let _ = reply.send(answer);
            }
            Command::Restart { ready, reply } => {
                let answer = self.restart(ready).await;
                let _ = reply.send(answer);
            }
            Command::Drain { generation, deadline, forget, reply } => {
                self.drain(generation, deadline, forget, reply).await;
            }
            Command::Doubt { instance } => {
                if let Some(process) = self.procs.get(&instance) {
                    process.doubt.notify_one();
                }
            }
            Command::Shutdown { .. } => {}
        }
    }

    async fn on_wake(&mut self) {
        if matches!(self.state, Main::Cold) && self.record.may_run() {
            self.shared.counters.wakes.add(1);
            self.start_when_alone().await;
            self.publish();
        }
    }

    // Placing.

    async fn place(&mut self, place: Place, ready: Option<Waiter>) -> Result<(), Refusal> {
        self.check_generation(&place)?;
        let held = self.shared.bundles.hold(&place.digest).ok_or_else(|| {
            let digest = place.digest.as_str();
            Refusal::Invalid(format!(
                "bundle {digest} is not on this host; send it with PUT /v1/bundles/{digest} first"
            ))
        })?;
        let folder = held.folder();
        let spec = blocking(move || Spec::load(&folder)).await?.map_err(|error| Refusal::Invalid(error.to_string()))?;
        let placement = Placement { version: place.version, digest: place.digest, exclusive: spec.exclusive };
        let is_on_trial = self.next.as_ref().is_some_and(|next| next.placement == placement);
        let is_same = is_on_trial || (self.next.is_none() && self.target.as_ref() == Some(&placement));
        let keeps_old = !is_same && self.is_running();
        let may_run = place.role == Role::Owner || !placement.exclusive;
        // A version that has not proven itself is not recorded in the place of one that has.
        let recorded = self.record.placement.clone().filter(|_| may_run && (is_same || keeps_old));
        let record = Record {
            name: self.record.name.clone(),
            role: place.role,
            generation: place.generation,
            placement: recorded.or_else(|| Some(placement.clone())),
        };
        self.save(record).await?;
        if !may_run {
            // An exclusive application that is only to come: prepared, and surely not running.
            self.supersede();
            self.rollback = None;
            self.set_target(placement, held);
            self.state = Main::Cold;
            self.retire_all(self.shared.config.drain_timeout);
            answer(ready, Ok(()));
            return Ok(());
        }
        if is_same {
            self.go_on(ready).await;
        } else if !keeps_old {
            self.supersede();
            self.failures = 0;
            self.set_target(placement, held);
            self.waiters.extend(ready);
            self.start_when_alone().await;
        } else if placement.exclusive || self.target.as_ref().is_some_and(|old| old.exclusive) {
            self.replace_alone(placement, held, ready);
        } else {
            self.try_beside(placement, held, ready).await;
        }
        self.publish();
        Ok(())
    }

    fn check_generation(&self, place: &Place) -> Result<(), Refusal> {
        let (known, asked) = (self.record.generation, place.generation);
        let conflict = |why: String| Err(Refusal::Conflict(why));
        if asked < known {
            return conflict(format!("generation {known} is known here, {asked} is older; place it with a larger one"));
        }
        if asked > known {
            return Ok(());
        }
        match (self.record.role, place.role) {
            (Role::Draining | Role::Absent, _) => {
                conflict(format!("generation {known} has left this host; place it with a larger one"))
            }
            (Role::Owner, Role::Incoming) => conflict(format!(
                "this host is {} of generation {known}; drain it, or come with a larger one",
                role_name(self.record.role)
            )),
            _ => Ok(()),
        }
    }

    /// The same version again: nothing changes but the record, and what does not run is started.
    async fn go_on(&mut self, ready: Option<Waiter>) {
        if let Some(next) = &mut self.next {
            next.waiters.extend(ready);
            return;
        }
        match self.state {
            Main::Ready { .. } => answer(ready, Ok(())),
            Main::Cold | Main::Failed { .. } => {
                self.waiters.extend(ready);
                self.failures = 0;
                self.start_when_alone().await;
            }
            _ => self.waiters.extend(ready),
        }
    }

    /// A new version of an exclusive application: the old one stops first, and comes back if the new one cannot be.
    fn replace_alone(&mut self, placement: Placement, held: Held, ready: Option<Waiter>) {
        self.supersede();
        if self.rollback.is_none()
            && let Some(old) = self.record.placement.clone()
        {
            self.rollback = Some((old, self.held.take()));
        }
        self.set_target(placement, held);
        self.waiters.extend(ready);
        self.failures = 0;
        self.state = Main::Waiting;
        self.retire_all(self.shared.config.drain_timeout);
    }

    /// A new version of an ordinary application: on trial beside the old one.
    async fn try_beside(&mut self, placement: Placement, held: Held, ready: Option<Waiter>) {
        self.supersede();
        match self.launch(&placement).await {
            Ok(instance) => self.next = Some(Next { instance, placement, held, waiters: ready.into_iter().collect() }),
            Err(LaunchError::Hopeless(reason) | LaunchError::Passing(reason)) => {
                answer(ready, Err(StartFailure { reason, output: String::new() }));
            }
        }
    }

    /// Gives up the version on trial for another.
    fn supersede(&mut self) {
        let failure =
            || StartFailure { reason: "another version was placed meanwhile".to_owned(), output: String::new() };
        if let Some(next) = self.next.take() {
            self.retire(next.instance, 0, Duration::ZERO, false);
            next.waiters.into_iter().for_each(|waiter| answer(Some(waiter), Err(failure())));
        }
        self.waiters.drain(..).for_each(|waiter| answer(Some(waiter), Err(failure())));
    }

    async fn restart(&mut self, ready: Option<Waiter>) -> Result<(), Refusal> {
        let may_run = self.record.may_run();
        let (Some(target), true) = (self.target.clone(), may_run) else {
            return Err(Refusal::Conflict(format!(
                "this host is {} of it and does not run it; nothing to restart",
                role_name(self.record.role)
            )));
        };
        let held = self.shared.bundles.hold(&target.digest);
        let held =
            held.ok_or_else(|| Refusal::Conflict("its bundle is not on this host; deploy it again".to_owned()))?;
        self.restarts += 1;
        match self.state {
            Main::Ready { .. } if !target.exclusive => self.try_beside(target, held, ready).await,
            Main::Ready { .. } | Main::Starting { .. } | Main::Falling { .. } | Main::Waiting => {
                self.waiters.extend(ready);
                self.state = Main::Waiting;
                self.retire_all(self.shared.config.drain_timeout);
            }
            Main::Cold | Main::Crashed { .. } | Main::Failed { .. } => {
                self.waiters.extend(ready);
                self.failures = 0;
                self.start_when_alone().await;
            }
        }
        self.publish();
        Ok(())
    }

    // Draining.

    async fn drain(&mut self, generation: Generation, deadline: Duration, forget: bool, reply: Reply<Drained>) {
        let began = Instant::now();
        let refused = self.begin_drain(generation, forget).await;
        if let Err(refusal) = refused {
            let _ = reply.send(Err(refusal));
            return;
        }
        if self.record.role == Role::Absent {
            let _ = reply.send(Ok(Drained::default()));
            return;
        }
        let at = began + deadline;
        match &mut self.draining {
            Some(draining) => {
                draining.deadline = draining.deadline.min(at);
                draining.forget |= forget;
                draining.replies.push((began, reply));
            }
            None => {
                self.shared.counters.drains.add(1);
                self.draining = Some(Draining { deadline: at, cut: 0, forget, replies: vec![(began, reply)] });
            }
        }
        self.leave().await;
    }

    /// Checks the generation and records that this host leaves.
    async fn begin_drain(&mut self, generation: Generation, forget: bool) -> Result<(), Refusal> {
        let known = self.record.generation;
        let mut record = self.record.clone();
        record.generation = known.max(generation);
        if self.record.role == Role::Absent {
            if forget {
                record.placement = None;
            }
            if record != self.record {
                self.save(record).await?;
                if forget {
                    self.forget_files().await;
                }
                self.publish();
            }
            return Ok(());
        }
        if generation < known {
            return Err(Refusal::Conflict(format!(
                "generation {known} is known here, {generation} is older; it may be this host's again"
            )));
        }
        record.role = Role::Draining;
        if record == self.record { Ok(()) } else { self.save(record).await }
    }

    /// Publishes that this host leaves, and lets every process finish.
    async fn leave(&mut self) {
        let Some(draining) = &self.draining else { return };
        let deadline = draining.deadline;
        let failure = || StartFailure { reason: "it is leaving this host".to_owned(), output: String::new() };
        if let Some(next) = self.next.take() {
            next.waiters.into_iter().for_each(|waiter| answer(Some(waiter), Err(failure())));
        }
        self.waiters.drain(..).for_each(|waiter| answer(Some(waiter), Err(failure())));
        self.rollback = None;
        if !matches!(self.state, Main::Starting { .. } | Main::Ready { .. } | Main::Falling { .. }) {
            // Nothing of it may rise again: no back-off, no start that waits.
            self.state = Main::Cold;
        }
        let publication = self.publish();
        for process in self.procs.values() {
            process.orders.send_replace(Order::Retire { publication, deadline, cut: true });
        }
        if self.procs.is_empty() {
            self.finish_drain().await;
        }
    }

    async fn finish_drain(&mut self) {
        let Some(draining) = self.draining.take() else { return };
        let mut record = self.record.clone();
        record.role = Role::Absent;
        if draining.forget {
            record.placement = None;
        }
        self.state = Main::Cold;
        let saved = self.save(record).await;
        if saved.is_ok() && draining.forget {
            self.forget_files().await;
        }
        self.publish();
        self.shared.counters.requests_cut.add(draining.cut);
        for (began, reply) in draining.replies {
            let drained = Drained { cut: draining.cut, took: began.elapsed() };
            let _ = reply.send(saved.clone().map(|()| drained));
        }
        while let Some(command) = self.deferred.pop_front() {
            // A deferred command cannot begin a drain, so this ends.
            Box::pin(self.on_command(command)).await;
        }
    }

    async fn forget_files(&mut self) {
        self.target = None;
        self.held = None;
        self.last_exit = None;
        self.restarts = 0;
        let own = self.shared.dirs.apps.join(&*self.name);
        let removed = blocking(move || {
            for folder in ["log", "home", "tmp"] {
                match std::fs::remove_dir_all(own.join(folder)) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            Ok(())
        });
        if let Ok(Err(error)) = removed.await {
            tracing::warn!(app = %self.name, %error, "files of a deleted application could not be removed");
        }
    }

    // Starting and stopping.

    /// Starts `target` now, or as soon as what must not run beside it has gone.
    async fn start_when_alone(&mut self) {
        let Some(target) = self.target.clone() else { return };
        if target.exclusive && !self.procs.is_empty() {
            self.state = Main::Waiting;
            return;
        }
        match self.launch(&target).await {
            Ok(instance) => self.state = Main::Starting { instance },
            Err(LaunchError::Hopeless(reason)) => self.cannot_be(reason, String::new(), true).await,
            Err(LaunchError::Passing(reason)) => self.cannot_be(reason, String::new(), false).await,
        }
    }

    async fn launch(&mut self, placement: &Placement) -> Result<u64, LaunchError> {
        self.shared.counters.starts.add(1);
        let launched = process::launch(&self.shared, &self.name, &self.log, placement, self.events_in.clone()).await;
        match launched {
            Ok(handle) => {
                let instance = handle.instance;
                self.procs.insert(instance, handle);
                Ok(instance)
            }
            Err(error) => {
                self.shared.counters.start_failures.add(1);
                let (LaunchError::Hopeless(reason) | LaunchError::Passing(reason)) = &error;
                self.log.mark(&format!("version {} not started: {reason}", placement.version));
                Err(error)
            }
        }
    }

    /// `target` did not come up: back to the old version when there is one, else again after a wait, or never.
    async fn cannot_be(&mut self, reason: String, output: String, is_hopeless: bool) {
        let failure = StartFailure { reason: reason.clone(), output };
        self.waiters.drain(..).for_each(|waiter| answer(Some(waiter), Err(failure.clone())));
        if let Some((old, held)) = self.rollback.take() {
            self.log.mark(&format!("back to version {}: {reason}", old.version));
            self.target = Some(old);
            self.held = held;
            return Box::pin(self.start_when_alone()).await;
        }
        if is_hopeless {
            self.state = Main::Failed { reason };
            return;
        }
        self.failures += 1;
        let limits = &self.shared.limits;
        let wait = backoff::delay(self.failures, limits.backoff_first, limits.backoff_last, fastrand::f64());
        self.state = Main::Crashed { until: Instant::now() + wait, reason };
    }

    fn retire(&self, instance: u64, publication: u64, within: Duration, cut: bool) {
        if let Some(process) = self.procs.get(&instance) {
            let deadline = Instant::now() + within;
            process.orders.send_replace(Order::Retire { publication, deadline, cut });
        }
    }

    /// Lets every process finish and stop. The state says already what follows; it is published first, so that no worker
    /// sends them anything new.
    fn retire_all(&mut self, within: Duration) {
        let publication = self.publish();
        for instance in self.procs.keys() {
            self.retire(*instance, publication, within, false);
        }
    }

    async fn shut_down(mut self, events: &mut mpsc::Receiver<Event>, reply: oneshot::Sender<()>) {
        self.state = Main::Cold;
        self.next = None;
        self.retire_all(Duration::ZERO);
        while !self.procs.is_empty() {
            match events.recv().await {
                Some(Event::Gone { instance, .. }) => drop(self.procs.remove(&instance)),
                Some(_) => {}
                None => break,
            }
        }
        let _ = reply.send(());
    }

    // What the processes do.

    async fn on_event(&mut self, event: Event) {
        match event {
            Event::Ready { instance } => self.on_ready(instance).await,
            Event::Lost { instance } => {
                if matches!(self.state, Main::Ready { instance: main } if main == instance) {
                    self.state = Main::Falling { instance };
                    self.publish();
                }
            }
            Event::Gone { instance, end } => self.on_gone(instance, end).await,
        }
    }

    async fn on_ready(&mut self, instance: u64) {
        if self.next.as_ref().is_some_and(|next| next.instance == instance) {
            return self.promote().await;
        }
        if !matches!(self.state, Main::Starting { instance: main } if main == instance) || self.draining.is_some() {
            return;
        }
        self.shared.counters.ready.add(1);
        if self.record.placement != self.target {
            let mut record = self.record.clone();
            record.placement = self.target.clone();
            if let Err(refusal) = self.save(record).await {
                // It must not serve what a restarted agent would not know. Told to go, it counts as a failed start.
                self.log.mark(&format!("not put to use: {refusal}"));
                return self.retire(instance, 0, Duration::ZERO, false);
            }
        }
        self.rollback = None;
        self.clashes = 0;
        self.state = Main::Ready { instance };
        self.publish();
        self.waiters.drain(..).for_each(|waiter| answer(Some(waiter), Ok(())));
    }

    /// The new version answers: it takes over, and the old one finishes.
    async fn promote(&mut self) {
        let Some(next) = self.next.take() else { return };
        self.shared.counters.ready.add(1);
        let mut record = self.record.clone();
        record.placement = Some(next.placement.clone());
        if let Err(refusal) = self.save(record).await {
            self.retire(next.instance, 0, Duration::ZERO, false);
            let failure = StartFailure { reason: refusal.to_string(), output: String::new() };
            next.waiters.into_iter().for_each(|waiter| answer(Some(waiter), Err(failure.clone())));
            return;
        }
        let old: Vec<u64> = self.procs.keys().copied().filter(|instance| *instance != next.instance).collect();
        self.set_target(next.placement, next.held);
        self.failures = 0;
        self.state = Main::Ready { instance: next.instance };
        let publication = self.publish();
        for instance in old {
            self.retire(instance, publication, self.shared.config.drain_timeout, false);
        }
        let waiters = self.waiters.drain(..).chain(next.waiters);
        waiters.for_each(|waiter| answer(Some(waiter), Ok(())));
    }

    async fn on_gone(&mut self, instance: u64, end: End) {
        self.procs.remove(&instance);
        if let Some(draining) = &mut self.draining {
            draining.cut += end.cut;
            if self.procs.is_empty() {
                self.finish_drain().await;
            }
            return;
        }
        self.count(&end);
        let is_main = matches!(self.state,
            Main::Starting { instance: main } | Main::Ready { instance: main } | Main::Falling { instance: main }
                if main == instance);
        if self.next.as_ref().is_some_and(|next| next.instance == instance) {
            self.note_exit(&end);
            if let Some(next) = self.next.take() {
                let failure = StartFailure { reason: end.reason(), output: end.output };
                next.waiters.into_iter().for_each(|waiter| answer(Some(waiter), Err(failure.clone())));
            }
        } else if is_main {
            self.note_exit(&end);
            self.on_main_gone(end).await;
        }
        if matches!(self.state, Main::Waiting) && self.procs.is_empty() {
            self.start_when_alone().await;
        }
        self.publish();
    }

    async fn on_main_gone(&mut self, end: End) {
        let is_clash = end.served.is_none() && is_port_clash(&end.output) && self.clashes < PORT_CLASHES_MAX;
        if is_clash {
            self.clashes += 1;
            self.log.mark("its port was taken by another program; again with another");
            return self.start_when_alone().await;
        }
        if end.served.is_some_and(|served| served >= self.shared.limits.backoff_reset_after) {
            self.failures = 0;
        }
        self.cannot_be(end.reason(), end.output, false).await;
    }

    fn count(&self, end: &End) {
        let counters = &self.shared.counters;
        match (&end.cause, end.served) {
            (Cause::Ordered, _) => {}
            (Cause::Hung(_), _) => counters.hung.add(1),
            (_, None) => counters.start_failures.add(1),
            (_, Some(_)) => counters.crashes.add(1),
        }
        counters.requests_cut.add(end.cut);
    }

    fn note_exit(&mut self, end: &End) {
        tracing::warn!(app = %self.name, reason = end.reason(), "an application's process has ended");
        self.last_exit = Some(LastExit {
            code: end.exit.code,
            signal: end.exit.signal,
            at: super::text_of(end.at),
            reason: end.reason(),
            output: end.output.clone(),
        });
    }

    // What others are told.

    fn set_target(&mut self, placement: Placement, held: Held) {
        self.target = Some(placement);
        self.held = Some(held);
    }

    fn is_running(&self) -> bool {
        matches!(self.state, Main::Waiting | Main::Starting { .. } | Main::Ready { .. } | Main::Falling { .. })
            && self.draining.is_none()
            && !self.procs.is_empty()
    }

    async fn save(&mut self, record: Record) -> Result<(), Refusal> {
        let (records, saved) = (self.shared.records.clone(), record.clone());
        let written = blocking(move || records.save(&saved)).await?;
        match written {
            Ok(()) => {
                self.record = record;
                Ok(())
            }
            Err(error) => {
                self.shared.counters.record_failures.add(1);
                tracing::error!(app = %self.name, %error, "a record cannot be written");
                Err(Refusal::Broken(format!("the record cannot be written: {error}; is the disk of state_dir full?")))
            }
        }
    }

    fn publish(&self) -> u64 {
        self.status.send_replace(self.status_now());
        self.shared.board.set(App {
            name: Arc::clone(&self.name),
            role: self.record.role,
            generation: self.record.generation,
            process: self.process_now(),
            queue_max: self.shared.config.queue_max,
            queue_wait: self.shared.config.queue_wait,
            response_timeout: self.shared.config.response_timeout,
        })
    }

    fn process_now(&self) -> Process {
        match &self.state {
            Main::Cold => Process::Cold,
            Main::Waiting | Main::Starting { .. } | Main::Falling { .. } => Process::Starting,
            Main::Ready { instance } => match self.procs.get(instance) {
                Some(process) => {
                    Process::Ready { addr: process.addr.clone(), protocol: process.protocol, instance: *instance }
                }
                None => Process::Starting,
            },
            Main::Crashed { reason, .. } if self.failures >= self.shared.limits.failures_before_refusal => {
                Process::Failed { reason: Arc::from(format!("{} starts in a row failed: {reason}", self.failures)) }
            }
            Main::Crashed { .. } => Process::Starting,
            Main::Failed { reason } => Process::Failed { reason: Arc::from(reason.as_str()) },
        }
    }

    fn status_now(&self) -> Status {
        let (state, main, reason) = match &self.state {
            _ if self.draining.is_some() => (State::Draining, None, None),
            _ if self.record.role == Role::Absent => (State::Stopped, None, None),
            Main::Cold => (State::Cold, None, None),
            Main::Waiting => (State::Starting, None, None),
            Main::Starting { instance } => (State::Starting, Some(instance), None),
            Main::Ready { instance } => (State::Ready, Some(instance), None),
            Main::Falling { .. } => (State::Crashed, None, None),
            Main::Crashed { reason, .. } => (State::Crashed, None, Some(reason.clone())),
            Main::Failed { reason } => (State::Failed, None, Some(reason.clone())),
        };
        let process = main.and_then(|instance| self.procs.get(instance));
        Status {
            record: Record { placement: self.target.clone().or(self.record.placement.clone()), ..self.record.clone() },
            state,
            pid: process.map(|process| process.pid),
            started_at: process.map(|process| process.started_at),
            restarts: self.restarts,
            last_exit: self.last_exit.clone(),
            protocol: process.map(|process| process.protocol),
            reason,
        }
    }
}

/// Tells somebody who waits; they may have left.
fn answer(waiter: Option<Waiter>, result: Result<(), StartFailure>) {
    if let Some(waiter) = waiter {
        let _ = waiter.send(result);
    }
}

fn is_port_clash(output: &str) -> bool {
    let output = output.to_ascii_lowercase();
    output.contains("address already in use") || output.contains("eaddrinuse")
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Refusal::Broken(format!("the agent failed: {error}")))
}
