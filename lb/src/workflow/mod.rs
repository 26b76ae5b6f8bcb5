//! Workflows: deploy, move and remove, as steps that survive a crash of this process.
//!
//! A step is recorded before it has its effect, in one commit with whatever that step changes in the routes; every effect on
//! a host can be repeated. So a workflow that is taken up again begins with the recorded step and loses nothing by doing it
//! twice. One at a time runs for an application ([`Tracker::lock`]); its caller may leave, it goes on.

pub mod deploy;
pub mod moves;
pub mod progress;
pub mod remove;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use serde::Serialize;
use serde::de::DeserializeOwned;
use steady_table::AppName;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::agents::client::AgentError;
use crate::agents::health::HostEvent;
use crate::control::ControlError;
use crate::edge::Edge;
use crate::limits::{RETRY_FIRST, RETRY_MOST};
use crate::store::{Commit, Kind, StoreError, WorkflowRecord, Write};
pub use progress::{Progress, ProgressStream};

/// Why nothing can be done at a host that was there when the work began.
const HOST_GONE: &str =
    "its host is no longer known here: it was removed (steady hosts rm), or the configuration names it no more";

/// Why a workflow did not do what it was asked to. Unless [`Failure::stopped`], everything is as it was before, as far as the
/// text does not say otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub step: &'static str,
    pub what: String,
    pub detail: String,
    /// This process is ending: the workflow stays open and is taken up at the next start.
    pub stopped: bool,
}

impl Failure {
    pub fn new(step: &'static str, what: impl Into<String>, detail: impl ToString) -> Failure {
        Failure { step, what: what.into(), detail: detail.to_string(), stopped: false }
    }

    fn stop(step: &'static str) -> Failure {
        let (what, detail) = ("the edge is stopping", "it is taken up again when the edge is back");
        Failure { step, what: what.into(), detail: detail.into(), stopped: true }
    }
}

/// Keeps workflows of one application apart, and counts them.
#[derive(Debug, Default)]
pub struct Tracker {
    locks: DashMap<AppName, Arc<Mutex<()>>>,
    /// Applications for whose lock forced moves wait, and how many: a move under way goes on without its dead host.
    forced: DashMap<AppName, usize>,
    open: AtomicUsize,
}

/// An application's lock; whoever holds it may change the application.
#[derive(Debug)]
pub struct AppLock {
    /// Dropped first, so that the count below is right.
    guard: Option<OwnedMutexGuard<()>>,
    pub app: AppName,
    edge: Arc<Edge>,
}

impl Drop for AppLock {
    fn drop(&mut self) {
        self.guard = None;
        let locks = &self.edge.workflows.locks;
        locks.remove_if(&self.app, |_, lock| Arc::strong_count(lock) == 1);
    }
}

impl Tracker {
    fn entry(&self, app: &AppName) -> Arc<Mutex<()>> {
        Arc::clone(&self.locks.entry(app.clone()).or_default())
    }

    /// The lock, if nobody has it.
    pub fn try_lock(edge: &Arc<Edge>, app: &AppName) -> Option<AppLock> {
        let guard = edge.workflows.entry(app).try_lock_owned().ok()?;
        Some(AppLock { guard: Some(guard), app: app.clone(), edge: Arc::clone(edge) })
    }

    /// Waits for the lock; first come, first served.
    pub async fn lock(edge: &Arc<Edge>, app: &AppName) -> AppLock {
        let guard = edge.workflows.entry(app).lock_owned().await;
        AppLock { guard: Some(guard), app: app.clone(), edge: Arc::clone(edge) }
    }

    /// How many changes of the application wait for its lock.
    pub fn waiting(&self, app: &AppName) -> usize {
        // The table has it, and whoever holds it.
        self.locks.get(app).map_or(0, |lock| Arc::strong_count(&lock).saturating_sub(2))
    }

    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Lets a move that waits for a dead host go on without it, as long as what comes back lives: while another one that
    /// was forced waits its turn. So nothing of it is left to moves that come later, whatever becomes of that one.
    pub fn force(edge: &Arc<Edge>, app: &AppName) -> Forcing {
        *edge.workflows.forced.entry(app.clone()).or_default() += 1;
        Forcing { app: app.clone(), edge: Arc::clone(edge) }
    }

    /// How many moves that were forced wait for the application's lock.
    pub fn waiting_forced(&self, app: &AppName) -> usize {
        self.forced.get(app).map_or(0, |waiting| *waiting)
    }

    fn is_forced(&self, app: &AppName) -> bool {
        self.forced.contains_key(app)
    }
}

/// See [`Tracker::force`].
#[derive(Debug)]
pub struct Forcing {
    app: AppName,
    edge: Arc<Edge>,
}

impl Drop for Forcing {
    fn drop(&mut self) {
        self.edge.workflows.forced.remove_if_mut(&self.app, |_, waiting| {
            *waiting -= 1;
            *waiting == 0
        });
    }
}

/// One workflow under way: its record, and where its progress is told.
#[derive(Debug)]
pub struct Flow<S> {
    record: WorkflowRecord,
    /// What the steps work on; recorded with each.
    pub state: S,
    pub progress: Progress,
    begun: Instant,
    step_begun: Instant,
    /// It was begun by an earlier process.
    pub resumed: bool,
}

impl<S: Serialize + DeserializeOwned + Send> Flow<S> {
    /// Records the intent, with what belongs to it in the same commit.
    pub async fn begin(
        edge: &Edge,
        kind: Kind,
        app: &AppName,
        step: &'static str,
        state: S,
        writes: Vec<Write>,
        progress: Progress,
    ) -> Result<Flow<S>, Failure> {
        let id = edge.store().next_id().await.map_err(|error| {
            edge.metrics.commit_failed();
            Failure::new(step, "the store failed", error)
        })?;
        let record = WorkflowRecord {
            id,
            kind,
            app: app.clone(),
            step: step.into(),
            state: serde_json::Value::Null,
            started: edge.now(),
            finished: None,
            error: None,
        };
        let begun = Instant::now();
        let mut flow = Flow { record, state, progress, begun, step_begun: begun, resumed: false };
        let commit = flow.commit(edge, step, writes, String::new());
        match edge.control.commit(commit).await {
            Ok(_) => {
                edge.workflows.open.fetch_add(1, Ordering::Relaxed);
                Ok(flow)
            }
            Err(error) => Err(Failure::new(step, "it could not be begun", error)),
        }
    }

    /// Takes a recorded workflow up.
    pub fn resume(edge: &Edge, record: WorkflowRecord, progress: Progress) -> Result<Flow<S>, StoreError> {
        let state = serde_json::from_value(record.state.clone())
            .map_err(|error| StoreError::Corrupt { what: format!("workflow {}: {error}", record.id) })?;
        edge.workflows.open.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        Ok(Flow { record, state, progress, begun, step_begun: begun, resumed: true })
    }

    pub fn app(&self) -> &AppName {
        &self.record.app
    }

    fn commit(&mut self, edge: &Edge, step: &'static str, mut writes: Vec<Write>, what: String) -> Commit {
        self.record.step = step.into();
        self.record.state = serde_json::to_value(&self.state).expect("a state of plain fields becomes JSON");
        writes.push(Write::PutWorkflow(self.record.clone()));
        Commit { at_ms: edge.now(), what, expect: Vec::new(), writes }
    }

    /// Records that `step` is next, with what it changes in the routes. A store or table that fails is tried again until it
    /// does not: nothing else can be done that would be right. [`ControlError::Refused`] comes back.
    pub async fn enter(
        &mut self,
        edge: &Edge,
        step: &'static str,
        writes: Vec<Write>,
        what: String,
    ) -> Result<(), Failure> {
        self.step_begun = Instant::now();
        let mut pause = Pause::new();
        loop {
            let commit = self.commit(edge, step, writes.clone(), what.clone());
            match edge.control.commit(commit).await {
                // It is stored, and the table follows as soon as it can be written; whoever needs it settled finds out there.
                Ok(_) | Err(ControlError::Table(_)) => return Ok(()),
                Err(ControlError::Stopped | ControlError::Store(StoreError::Closed)) => {
                    return Err(Failure::stop(step));
                }
                Err(error @ ControlError::Refused(_)) => {
                    return Err(Failure::new(step, "the routing table does not take it", error));
                }
                Err(error) => self.retry(edge, step, &error.to_string(), &mut pause).await,
            }
        }
    }

    /// Tells that a step is done.
    pub fn done(&mut self, step: &'static str, host: &str, detail: impl Into<String>) {
        self.progress.line(step, host, &detail.into(), self.step_begun.elapsed());
        self.step_begun = Instant::now();
    }

    /// Tells why, and waits longer each time.
    pub async fn retry(&self, edge: &Edge, step: &'static str, why: &str, pause: &mut Pause) {
        let wait = pause.next();
        edge.metrics.retried();
        tracing::warn!(app = %self.record.app, workflow = self.record.id, step, why, ?wait, "a step is tried again");
        let again = format!("{why}; again in {}", steady_sys::text::format_duration(wait));
        self.progress.line(step, "", &again, self.step_begun.elapsed());
        tokio::time::sleep(wait).await;
    }

    /// Waits until the workers run what is published; tried again until they do.
    pub async fn settle(&self, edge: &Edge, step: &'static str) -> Result<(), Failure> {
        let mut pause = Pause::new();
        loop {
            match self.settled_once(edge).await {
                Ok(()) => return Ok(()),
                Err(ControlError::Stopped) => return Err(Failure::stop(step)),
                Err(error) => self.retry(edge, step, &error.to_string(), &mut pause).await,
            }
        }
    }

    /// Waits until the workers run what is published, and that is what the store says.
    pub async fn settled_once(&self, edge: &Edge) -> Result<(), ControlError> {
        if edge.control.published().behind {
            edge.control.catch_up().await?;
        }
        edge.control.settle().await
    }

    /// Repeats a call to an agent at most `attempts` times as long as repeating may help. The last error of those.
    pub async fn attempt<T, F>(
        &self,
        edge: &Edge,
        step: &'static str,
        attempts: u32,
        call: impl Fn() -> F,
    ) -> Result<T, AgentError>
    where
        F: Future<Output = Result<T, AgentError>>,
    {
        let mut pause = Pause::new();
        for _ in 1..attempts {
            match call().await {
                Err(error) if error.is_transient() => self.retry(edge, step, &error.to_string(), &mut pause).await,
                result => return result,
            }
        }
        call().await
    }

    /// Something is left to do at a host, and how it went: it is put right as one that returns, as soon as this is over.
    fn leave(&self, edge: &Edge, host: &str, error: &AgentError) -> String {
        let (events, host) = (edge.host_events.clone(), host.to_owned());
        tokio::spawn(async move {
            // Nobody takes it when the edge is ending.
            let _ = events.send(HostEvent::Returned { host, claims: None }).await;
        });
        format!("it is put right when it answers: {error}")
    }

    /// Records the end. The store is tried until it takes it.
    pub async fn finish(mut self, edge: &Edge, outcome: Result<(), Failure>) -> Result<(), Failure> {
        if outcome.as_ref().is_err_and(|failure| failure.stopped) {
            return outcome;
        }
        self.record.finished = Some(edge.now());
        self.record.error = outcome.as_ref().err().map(|failure| format!("{}: {}", failure.what, failure.detail));
        self.enter(edge, "end", Vec::new(), String::new()).await?;
        edge.workflows.open.fetch_sub(1, Ordering::Relaxed);
        edge.metrics.workflow_ended(self.record.kind, outcome.is_ok(), self.begun.elapsed());
        match &outcome {
            Ok(()) => tracing::info!(app = %self.record.app, kind = %self.record.kind, "done"),
            Err(failure) => {
                let Failure { step, what, detail, .. } = failure;
                tracing::warn!(app = %self.record.app, kind = %self.record.kind, step, what, detail, "not done");
            }
        }
        outcome
    }
}

/// Pauses between attempts: doubling, bounded.
#[derive(Debug)]
pub struct Pause(Duration);

impl Pause {
    pub fn new() -> Pause {
        Pause(RETRY_FIRST)
    }

    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(RETRY_MOST);
        pause
    }
}

impl Default for Pause {
    fn default() -> Self {
        Pause::new()
    }
}

/// Takes up what an earlier process left under way. Their locks are held when this returns. One that cannot be taken up keeps
/// its application's lock, so that nothing is begun on top of it, and none of the others from theirs.
pub fn resume_all(edge: &Arc<Edge>, open: Vec<WorkflowRecord>) {
    for record in open {
        let (app, id) = (record.app.clone(), record.id);
        let Some(lock) = Tracker::try_lock(edge, &app) else {
            tracing::error!(%app, id, "a second workflow of one application is not taken up");
            continue;
        };
        tracing::info!(%app, kind = %record.kind, step = record.step, "a workflow is taken up again");
        if let Err((lock, error)) = resume(edge, lock, record) {
            tracing::error!(%app, id, %error, "a workflow is not taken up, and its application not changed: run the program that began it");
            std::mem::forget(lock);
        }
    }
}

fn resume(edge: &Arc<Edge>, lock: AppLock, record: WorkflowRecord) -> Result<(), (AppLock, StoreError)> {
    let (progress, _nobody) = Progress::new();
    match record.kind {
        Kind::Deploy => match Flow::resume(edge, record, progress) {
            Ok(flow) => drop(tokio::spawn(deploy::run(lock, flow))),
            Err(error) => return Err((lock, error)),
        },
        Kind::Move => match Flow::resume(edge, record, progress) {
            Ok(flow) => drop(tokio::spawn(moves::run(lock, flow))),
            Err(error) => return Err((lock, error)),
        },
        Kind::Remove => match Flow::resume(edge, record, progress) {
            Ok(flow) => drop(tokio::spawn(remove::run(lock, flow))),
            Err(error) => return Err((lock, error)),
        },
    }
    Ok(())
}

impl AppLock {
    pub fn edge(&self) -> &Arc<Edge> {
        &self.edge
    }
}
