//! One application's actor: it alone decides what of the application runs here, and what the workers are told.
//!
//! It waits for commands of the API, wakes of the workers, events of its processes' keepers and its own back-off, handles
//! one at a time, and publishes after each change. It holds at most one process that serves (`main`), one new version on
//! trial beside it (`next`, ordinary applications only), and old ones that finish. An exclusive application is started
//! only when none of its processes is left.

mod heard;
mod leaving;
mod placing;
mod starting;
mod told;

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::Shared;
use super::known::Known;
use super::process::{Event, Handle};
use super::status::{LastExit, Status};
use crate::bundle::Held;
use crate::gate::{Generation, Role};
use crate::logs::AppLog;
use crate::records::{Digest, Placement, Record};

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
    /// As the edge reads the bundle; `None`: it does not say.
    pub exclusive: Option<bool>,
}

/// Why a command was refused; for the API.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It contradicts what is known here.
    #[error("{0}")]
    Conflict(String),
    /// Its generation is behind what is known here.
    #[error("{why}")]
    Stale { known: Generation, why: String },
    /// It cannot be done as it is.
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Unknown(String),
    /// This host fails; nothing has changed.
    #[error("{0}")]
    Broken(String),
}

impl Refusal {
    /// As HTTP has it.
    pub fn status(&self) -> u16 {
        match self {
            Refusal::Conflict(_) | Refusal::Stale { .. } => 409,
            Refusal::Invalid(_) => 422,
            Refusal::Unknown(_) => 404,
            Refusal::Broken(_) => 503,
        }
    }

    /// The generation that is known here, where that is the reason.
    pub fn known(&self) -> Option<u64> {
        match self {
            Refusal::Stale { known, .. } => Some(known.0),
            _ => None,
        }
    }
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
        coming: Coming,
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
    /// The configuration has changed.
    Publish,
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
    /// Placements that the actor has and has not published.
    pub coming: Arc<AtomicUsize>,
}

impl AppHandle {
    /// Whether it counts among those that are here: it is, or may be in a moment.
    pub fn takes_room(&self) -> bool {
        // In this order: a placement is published before it is no longer coming.
        self.coming.load(Ordering::Acquire) > 0 || !self.status.borrow().is_tombstone()
    }
}

/// A placement's room on this host, until it is published or refused.
#[derive(Debug)]
pub struct Coming(Arc<AtomicUsize>);

impl Coming {
    pub fn new(count: &Arc<AtomicUsize>) -> Coming {
        count.fetch_add(1, Ordering::Relaxed);
        Coming(Arc::clone(count))
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// Starts the actor of `record`'s application. If it may run here it is started at once.
/// Once it has left for good, it takes itself out of `known`.
pub fn spawn(shared: Arc<Shared>, known: Weak<Known>, record: Record, log: AppLog) -> AppHandle {
    let (commands, inbox) = mpsc::channel(shared.limits.commands_max);
    let (events_in, events) = mpsc::channel(16);
    let wake = Arc::new(Notify::new());
    let status = watch::Sender::new(Status::new(record.clone()));
    let (seen, coming) = (status.subscribe(), Arc::default());
    let handle = AppHandle { commands, wake: Arc::clone(&wake), status: seen, log: log.clone(), coming };
    let actor = Actor {
        name: Arc::from(record.name.as_str()),
        held: record.placement.as_ref().and_then(|placement| shared.bundles.hold(&placement.digest)),
        target: record.placement.clone(),
        shared,
        known,
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
    /// Not owned: it ends when nobody knows it any more.
    known: Weak<Known>,
    record: Record,
    log: AppLog,
    /// What `main` is started from. Differs from the record's while a new version is on trial with none beside it.
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
                () = self.wake.notified() => {
                    if self.may_end() && self.is_let_go(&inbox) {
                        return self.shared.counters.log_lost.add(self.log.lost_total());
                    }
                    self.on_wake().await;
                }
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
            Command::Place { reply, .. } | Command::Restart { reply, .. } if self.draining.is_some() => {
                let why =
                    format!("it is leaving this host, and {DEFERRED_MAX} commands wait for that already; come again");
                let _ = reply.send(Err(Refusal::Broken(why)));
            }
            Command::Place { place, ready, coming, reply } => {
                let answer = self.place(place, ready).await;
                drop(coming);
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
            Command::Publish => drop(self.publish()),
            Command::Shutdown { .. } => {}
        }
    }

    /// Whether nothing is left to do: it was forgotten, and only its generation is to be known.
    fn may_end(&self) -> bool {
        self.record.is_tombstone() && self.procs.is_empty() && self.draining.is_none() && self.deferred.is_empty()
    }

    /// Takes it out of what is known. `false`: somebody holds it still.
    fn is_let_go(&self, inbox: &mpsc::Receiver<Command>) -> bool {
        self.known.upgrade().is_some_and(|known| known.leave(&self.name, self.record.generation, inbox))
    }

    async fn on_wake(&mut self) {
        if matches!(self.state, Main::Cold) && self.record.may_run() {
            self.shared.counters.wakes.add(1);
            self.start_when_alone().await;
            self.publish();
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
