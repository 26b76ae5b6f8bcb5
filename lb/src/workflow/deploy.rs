//! A deployment: a new application, or a new version of one on the host it has.
//!
//! `push` brings the bundle to the host, `start` makes the host its owner and waits until it is ready, `route` stores it and
//! tells the workers. Until `route` nothing is said to anyone: when it cannot be ready, the old version is still there (the
//! host sees to that), and the user gets the reason with the application's last output.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use steady_table::AppName;

use super::{AppLock, Failure, Flow, HOST_GONE, Progress};
use crate::agents::HostHandle;
use crate::agents::client::{AgentError, Placement, Role};
use crate::bundles::Received;
use crate::edge::Edge;
use crate::limits::{PREPARE_ATTEMPTS, TIDY_ATTEMPTS};
use crate::older::{Older, above, look, look_at};
use crate::snapshot::HostState;
use crate::store::{AppRecord, Kind, Numbers, StoreError, Write};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployState {
    next: Step,
    host: String,
    generation: u64,
    version: u32,
    digest: String,
    exclusive: bool,
    created_at: u64,
    /// What was there before.
    old: Option<Old>,
    reason: Option<String>,
    reason_step: Option<String>,
    /// The host may have taken the new version over without our hearing of it.
    unsure: bool,
    /// Its host knew a greater generation than the store, which has one above it since.
    #[serde(default)]
    raised: bool,
    /// The host refused it for a generation of its own: what it has, it has from elsewhere, and keeps.
    #[serde(default)]
    refused: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Old {
    version: u32,
    digest: String,
    #[serde(default)]
    exclusive: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    Push,
    Start,
    Route,
    Undo,
}

/// Why a deployment cannot be begun; nothing was recorded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CannotDeploy {
    #[error("the name {0} is reserved: choose another")]
    Reserved(AppName),
    #[error("there is no host {0}: name one of the configuration")]
    NoHost(String),
    #[error("{app} is on {host}: deploy it there, then move it")]
    Elsewhere { app: AppName, host: String },
    #[error("{host} is not up: wait until it is, or name another host")]
    NotUp { host: String },
    #[error("no host is up and has room: look at GET /v1/hosts")]
    NoneUp,
    #[error(transparent)]
    Older(#[from] Older),
    #[error("the store failed: {0}")]
    Store(#[from] StoreError),
}

/// Where it will run, and what is there now.
#[derive(Clone, Debug)]
pub struct Plan {
    host: String,
    old: Option<AppRecord>,
}

/// Looks whether the application can be deployed: to `host`, to the host it has, or to the one with the fewest applications.
pub async fn plan(lock: &AppLock, host: Option<&str>) -> Result<Plan, CannotDeploy> {
    let edge = lock.edge();
    let old = edge.store().app(lock.app.clone()).await?;
    if edge.is_reserved(&lock.app) && old.is_none() {
        return Err(CannotDeploy::Reserved(lock.app.clone()));
    }
    if let Some(host) = host
        && edge.hosts.find(host).is_none()
    {
        return Err(CannotDeploy::NoHost(host.to_owned()));
    }
    let chosen = match (&old, host) {
        (Some(old), Some(host)) if old.host != host => {
            return Err(CannotDeploy::Elsewhere { app: lock.app.clone(), host: old.host.clone() });
        }
        (Some(old), _) => old.host.clone(),
        (None, Some(host)) => host.to_owned(),
        (None, None) => least_loaded(edge).await?,
    };
    let up = edge.hosts.find(&chosen).filter(|handle| handle.state() == HostState::Up);
    let Some(handle) = up else { return Err(CannotDeploy::NotUp { host: chosen }) };
    let given = edge.store().numbers(lock.app.clone()).await?;
    match &old {
        // It gets a generation, beside which what a host has from a newer store would count as left over.
        None => look(edge, &lock.app, given).await?,
        // It gets a version, in whose place the host may have a newer store's.
        Some(old) => look_at(&handle, &lock.app, given.with(old)).await?,
    }
    Ok(Plan { host: chosen, old })
}

/// Of the hosts that are up and have room, the one with the fewest applications; of equals, the first by name.
async fn least_loaded(edge: &Edge) -> Result<String, CannotDeploy> {
    let counts = edge.store().counts().await?;
    let load = |name: &String| counts.get(name).copied().unwrap_or(0);
    let takes = |host: &Arc<HostHandle>| host.state() == HostState::Up && load(&host.record.name) < host.apps_max();
    let up = edge.hosts.all().into_iter().filter(takes);
    up.map(|host| host.record.name.clone()).min_by_key(load).ok_or(CannotDeploy::NoneUp)
}

/// Records the intent. From here on the bundle is kept by its record.
pub async fn begin(
    lock: &AppLock,
    plan: Plan,
    bundle: Received,
    progress: Progress,
) -> Result<Flow<DeployState>, Failure> {
    let edge = lock.edge();
    let numbers = edge.store().numbers(lock.app.clone()).await;
    let numbers = numbers.map_err(|error| Failure::new("record", "the store failed", error))?;
    let state = DeployState {
        next: Step::Push,
        host: plan.host,
        // A replacement stays where it is, so its placement's number does too.
        generation: plan.old.as_ref().map_or(numbers.generation + 1, |old| old.generation),
        version: numbers.version + 1,
        digest: bundle.digest.clone(),
        exclusive: bundle.exclusive,
        created_at: plan.old.as_ref().map_or(edge.now(), |old| old.created_at),
        old: plan.old.map(|old| Old { version: old.version, digest: old.digest, exclusive: Some(old.exclusive) }),
        reason: None,
        reason_step: None,
        unsure: false,
        raised: false,
        refused: false,
    };
    let burnt = Numbers { generation: state.generation, version: state.version };
    let writes = vec![Write::Burn(lock.app.clone(), burnt)];
    let (detail, host) = (format!("version {}, {} octets", state.version, bundle.bytes), state.host.clone());
    let mut flow = Flow::begin(edge, Kind::Deploy, &lock.app, "push", state, writes, progress).await?;
    flow.done("record", &host, detail);
    Ok(flow)
}

/// Runs it to its end, from whatever step is recorded.
pub async fn run(lock: AppLock, mut flow: Flow<DeployState>) -> Result<(), Failure> {
    let edge = Arc::clone(lock.edge());
    let state = flow.state.clone();
    let outcome = flow.steps(&edge).await;
    let useless = match &outcome {
        Ok(()) => state.old.map(|old| old.digest),
        Err(failure) if failure.stopped => None,
        Err(_) => Some(state.digest),
    };
    let outcome = flow.finish(&edge, outcome).await;
    if let Some(digest) = useless {
        discard(&edge, digest).await;
    }
    outcome
}

/// Removes a bundle that nothing needs any more.
pub(crate) async fn discard(edge: &Edge, digest: String) {
    match edge.store().uses_bundle(digest.clone()).await {
        Ok(true) => {}
        Ok(false) => {
            let bundles = edge.bundles.clone();
            let removed = tokio::task::spawn_blocking(move || bundles.remove(&digest)).await;
            if let Ok(Err(error)) = removed {
                tracing::warn!(%error, "a bundle that nobody needs stays until the next start");
            }
        }
        Err(error) => tracing::warn!(%error, "a bundle that nobody needs stays until the next start"),
    }
}

impl Flow<DeployState> {
    async fn steps(&mut self, edge: &Edge) -> Result<(), Failure> {
        loop {
            match self.state.next {
                Step::Push => self.push(edge).await?,
                Step::Start => self.start(edge).await?,
                Step::Route => return self.route(edge).await,
                Step::Undo => return self.undo(edge).await,
            }
        }
    }

    async fn push(&mut self, edge: &Edge) -> Result<(), Failure> {
        let host = self.state.host.clone();
        let Some(handle) = edge.hosts.find(&host) else {
            return self.turn_back(edge, "push", HOST_GONE, false).await;
        };
        let (digest, bundle) = (self.state.digest.clone(), edge.bundles.path(&self.state.digest));
        match self.attempt(edge, "push", PREPARE_ATTEMPTS, || handle.client.push_bundle(&digest, &bundle)).await {
            Ok(sent) => {
                self.done("push", &host, if sent { "sent" } else { "it had it" });
                self.state.next = Step::Start;
                self.enter(edge, "start", Vec::new(), String::new()).await
            }
            Err(error) => self.turn_back(edge, "push", &error.to_string(), false).await,
        }
    }

    async fn start(&mut self, edge: &Edge) -> Result<(), Failure> {
        let host = self.state.host.clone();
        let Some(handle) = edge.hosts.find(&host) else {
            return self.turn_back(edge, "start", HOST_GONE, false).await;
        };
        let app = self.app().clone();
        let state = &self.state;
        let placement = self.placement(state.version, &state.digest, Some(state.exclusive));
        // Of any attempt: that a later one could not be sent says nothing of those before it.
        let unsure = AtomicBool::new(false);
        let put = async || {
            let answer = handle.client.put_app(&app, &placement, true).await;
            unsure.fetch_or(answer.as_ref().is_err_and(may_have_taken_over), Ordering::Relaxed);
            answer
        };
        match self.attempt(edge, "start", PREPARE_ATTEMPTS, put).await {
            Ok(_) => {
                self.done("start", &host, "ready");
                self.state.next = Step::Route;
                let record = self.record(edge);
                let what = format!("{app} version {} on {host}", self.state.version);
                match self.enter(edge, "route", vec![Write::PutApp(record)], what).await {
                    Err(failure) if !failure.stopped => self.turn_back(edge, "route", &failure.detail, true).await,
                    result => result,
                }
            }
            Err(AgentError::Stale { known, .. }) if !self.state.raised => self.raise(edge, known).await,
            Err(error) => {
                self.state.refused = matches!(error, AgentError::Stale { .. });
                self.turn_back(edge, "start", &error.to_string(), unsure.into_inner()).await
            }
        }
    }

    /// The host has seen a greater generation than the store's: the application gets one above, and is started with that. Once;
    /// a host's number does not grow by itself.
    async fn raise(&mut self, edge: &Edge, known: u64) -> Result<(), Failure> {
        match self.raised(edge, known).await {
            Ok((generation, old)) => {
                (self.state.generation, self.state.raised) = (generation, true);
                let (app, host) = (self.app().clone(), self.state.host.clone());
                let burnt = Write::Burn(app.clone(), Numbers { generation, version: self.state.version });
                let what = format!("{app} on {host} has generation {generation}");
                self.enter(edge, "start", old.map(Write::PutApp).into_iter().chain([burnt]).collect(), what).await
            }
            Err(why) => {
                self.state.refused = true;
                self.turn_back(edge, "start", &why, false).await
            }
        }
    }

    /// The generation above `known`, and what is replaced with it.
    async fn raised(&self, edge: &Edge, known: u64) -> Result<(u64, Option<AppRecord>), String> {
        let app = self.app();
        let old = edge.store().app(app.clone()).await.map_err(|error| error.to_string())?;
        let mut given = edge.store().numbers(app.clone()).await.map_err(|error| error.to_string())?;
        // What this deployment took is nobody's: whoever has it has it from elsewhere.
        given.version = self.state.version.saturating_sub(1);
        if old.is_none() {
            given.generation = self.state.generation.saturating_sub(1);
        }
        // One that replaces nothing may replace nothing that its own host has from elsewhere either.
        let owner = old.as_ref().map(|old| old.host.as_str());
        let generation = above(edge, app, owner, given, known).await.map_err(|error| error.to_string())?;
        Ok((generation, old.map(|old| AppRecord { generation, updated_at: edge.now(), ..old })))
    }

    fn placement(&self, version: u32, digest: &str, exclusive: Option<bool>) -> Placement {
        let (generation, digest) = (self.state.generation, digest.to_owned());
        Placement { generation, role: Role::Owner, version, digest, exclusive }
    }

    fn record(&self, edge: &Edge) -> AppRecord {
        let state = &self.state;
        AppRecord {
            name: self.app().clone(),
            host: state.host.clone(),
            generation: state.generation,
            moving: None,
            version: state.version,
            digest: state.digest.clone(),
            exclusive: state.exclusive,
            created_at: state.created_at,
            updated_at: edge.now(),
        }
    }

    async fn route(&mut self, edge: &Edge) -> Result<(), Failure> {
        self.settle(edge, "route").await?;
        self.done("route", "", "every worker knows it");
        Ok(())
    }

    async fn turn_back(&mut self, edge: &Edge, step: &str, why: &str, unsure: bool) -> Result<(), Failure> {
        // A start that was taken up again may have been heard before.
        self.state.unsure = unsure || (self.resumed && step == "start") || self.state.raised;
        self.state.reason = Some(why.to_owned());
        self.state.reason_step = Some(step.to_owned());
        self.state.next = Step::Undo;
        self.enter(edge, "undo", Vec::new(), String::new()).await
    }

    /// A new application is forgotten by its host. Of a replaced one the host keeps the old version by itself, unless it may
    /// have taken the new one over: then it is told.
    async fn undo(&mut self, edge: &Edge) -> Result<(), Failure> {
        let (host, app) = (self.state.host.clone(), self.app().clone());
        if let Some(handle) = edge.hosts.find(&host) {
            let undone = match &self.state.old {
                None if self.state.refused => Ok(()),
                None => {
                    let generation = self.state.generation;
                    self.attempt(edge, "undo", TIDY_ATTEMPTS, || handle.client.delete(&app, generation)).await
                }
                Some(old) if self.state.unsure => {
                    let placement = self.placement(old.version, &old.digest, old.exclusive);
                    self.attempt(edge, "undo", TIDY_ATTEMPTS, || handle.client.put_back(&app, &placement)).await
                }
                Some(_) => Ok(()),
            };
            let detail = undone.map_or_else(|error| self.leave(edge, &host, &error), |()| String::new());
            self.done("undo", &host, detail);
        }
        let step = match self.state.reason_step.as_deref() {
            Some("push") => "push",
            Some("route") => "route",
            _ => "start",
        };
        let what = if self.state.old.is_some() { "not deployed; the old version stays" } else { "not deployed" };
        let reason = self.state.reason.as_deref().unwrap_or("the reason was lost");
        Err(Failure::new(step, what, format!("{host}: {reason}")))
    }
}

/// Whether a host may have taken a version over, or may yet, though a call failed so.
fn may_have_taken_over(error: &AgentError) -> bool {
    !matches!(error, AgentError::Rejected { status: ..500, .. } | AgentError::Unreachable { .. })
}
