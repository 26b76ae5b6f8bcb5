//! A move: an application's place changes, no request is lost, and no two hosts ever own it.
//!
//! ```text
//!               exclusive                        ordinary
//!   record      g+1 is taken, for ever           same
//!   prepare     new host: bundle, incoming g+1   the same, and ready
//!   route       table: both places; settled      same
//!               ── from here it only goes on ──  activate: new host is owner g+1
//!   drain       old host stops it                ── from here it only goes on ── drain
//!   activate    new host is owner g+1, ready     (done above)
//!   settle      table: the new place alone       same
//!   forget      old host forgets it              same
//! ```
//!
//! What fails before the line is undone: the table says the old place, the new host forgets, g+1 is never given out again.
//! What fails behind it is tried until it succeeds. Only when the new host cannot run the application, or is dead and
//! cannot have begun, does it go back, as owner g+2. `docs/moves.md` says what a dead host means for whom.

mod plan;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use steady_table::AppName;

use super::{AppLock, Failure, Flow, HOST_GONE, Pause};
use crate::agents::HostHandle;
use crate::agents::client::{AgentError, Drained, Placement, Role};
use crate::edge::Edge;
use crate::limits::{AGENT_ANSWER, PREPARE_ATTEMPTS, TIDY_ATTEMPTS};
use crate::older::above;
use crate::snapshot::HostState;
use crate::store::{AppRecord, MovingTo, Numbers, Write};
pub use plan::{CannotMove, begin, plan};

/// Everything that a move needs to go on from its recorded step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveState {
    next: Step,
    from: String,
    to: String,
    /// The old owner's.
    old_generation: u64,
    /// The new owner's.
    generation: u64,
    /// The one to go back with.
    back_generation: Option<u64>,
    version: u32,
    digest: String,
    exclusive: bool,
    created_at: u64,
    /// The operator says that a dead host is dead for good.
    force: bool,
    /// Why it is undone or goes back.
    reason: Option<String>,
    reason_step: Option<String>,
    /// The new host knew a greater generation than the store; this move's is one above it since.
    #[serde(default)]
    raised: bool,
    /// The new host refused it for a generation of its own: what it has, it has from elsewhere, and keeps.
    #[serde(default)]
    refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    Prepare,
    Route,
    /// Of an ordinary application: before its old place drains.
    ActivateEarly,
    Drain,
    /// Of an exclusive one: after.
    Activate,
    Settle,
    Forget,
    Undo,
    /// Take the ownership from the new host again.
    Revoke,
    /// Make the old host the owner again.
    Return,
}

/// Runs it to its end, from whatever step is recorded.
pub async fn run(lock: AppLock, mut flow: Flow<MoveState>) -> Result<(), Failure> {
    let edge = Arc::clone(lock.edge());
    let outcome = flow.steps(&edge).await;
    flow.finish(&edge, outcome).await
}

/// What activating at the new host came to.
enum Activation {
    Ready,
    /// It cannot be there, for this reason.
    Impossible {
        why: String,
        may_own: bool,
    },
}

impl Flow<MoveState> {
    async fn steps(&mut self, edge: &Edge) -> Result<(), Failure> {
        loop {
            match self.state.next {
                Step::Prepare => self.prepare(edge).await?,
                Step::Route => self.route(edge).await?,
                Step::ActivateEarly => self.activate_early(edge).await?,
                Step::Drain => self.drain(edge).await?,
                Step::Activate => self.activate(edge).await?,
                Step::Settle => self.settle_at_new(edge).await?,
                Step::Forget => return self.forget(edge).await,
                Step::Undo => return self.undo(edge).await,
                Step::Revoke => self.revoke(edge).await?,
                Step::Return => return self.go_back(edge).await,
            }
        }
    }

    /// Records the next step and what it changes in the routes.
    async fn next(&mut self, edge: &Edge, next: Step, record: Option<AppRecord>, what: String) -> Result<(), Failure> {
        self.state.next = next;
        let writes = record.map(Write::PutApp).into_iter().collect();
        self.enter(edge, next.name(), writes, what).await
    }

    /// The application at a place.
    fn record_at(&self, edge: &Edge, host: &str, generation: u64, moving: Option<MovingTo>) -> AppRecord {
        let state = &self.state;
        AppRecord {
            name: self.app().clone(),
            host: host.to_owned(),
            generation,
            moving,
            version: state.version,
            digest: state.digest.clone(),
            exclusive: state.exclusive,
            created_at: state.created_at,
            updated_at: edge.now(),
        }
    }

    fn placement(&self, role: Role, generation: u64) -> Placement {
        let (digest, exclusive) = (self.state.digest.clone(), Some(self.state.exclusive));
        Placement { generation, role, version: self.state.version, digest, exclusive }
    }

    async fn prepare(&mut self, edge: &Edge) -> Result<(), Failure> {
        let Some(new) = edge.hosts.find(&self.state.to) else {
            return self.turn_back(edge, "prepare", HOST_GONE).await;
        };
        let bundle = edge.bundles.path(&self.state.digest);
        let (app, digest) = (self.app().clone(), self.state.digest.clone());
        let placement = self.placement(Role::Incoming, self.state.generation);
        let wait = !self.state.exclusive;
        let prepared = self
            .attempt(edge, "prepare", PREPARE_ATTEMPTS, || async {
                new.client.push_bundle(&digest, &bundle).await?;
                new.client.put_app(&app, &placement, wait).await
            })
            .await;
        match prepared {
            Ok(_) => {
                let host = self.state.to.clone();
                self.done("prepare", &host, if wait { "ready" } else { "it parks what comes" });
                let moving = MovingTo { to: host.clone(), generation: self.state.generation };
                let record = self.record_at(edge, &self.state.from, self.state.old_generation, Some(moving));
                let what = format!("{app} moves from {} to {host}", self.state.from);
                match self.next(edge, Step::Route, Some(record), what).await {
                    Err(failure) if !failure.stopped => self.turn_back(edge, "route", &failure.detail).await,
                    result => result,
                }
            }
            Err(AgentError::Stale { known, .. }) if !self.state.raised => self.raise(edge, known).await,
            Err(error) => {
                self.state.refused = matches!(error, AgentError::Stale { .. });
                self.turn_back(edge, "prepare", &error.to_string()).await
            }
        }
    }

    /// The new host has seen a greater generation than the store's: the move takes one above, once. Where something newer is
    /// anywhere it takes none.
    async fn raise(&mut self, edge: &Edge, known: u64) -> Result<(), Failure> {
        let app = self.app().clone();
        let raised = match edge.store().numbers(app.clone()).await {
            Ok(given) => {
                // What this move took is nobody's: whoever has it has it from elsewhere.
                let given = Numbers { generation: self.state.generation.saturating_sub(1), ..given };
                above(edge, &app, Some(&self.state.from), given, known).await.map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        match raised {
            Ok(generation) => {
                (self.state.generation, self.state.raised) = (generation, true);
                let burn = Write::Burn(app, Numbers { generation, version: self.state.version });
                self.enter(edge, "prepare", vec![burn], String::new()).await
            }
            Err(why) => {
                self.state.refused = true;
                self.turn_back(edge, "prepare", &why).await
            }
        }
    }

    async fn route(&mut self, edge: &Edge) -> Result<(), Failure> {
        match self.settled_once(edge).await {
            Ok(()) => {}
            Err(crate::control::ControlError::Stopped) => return Err(Failure::stop("route")),
            Err(error) => return self.turn_back(edge, "route", &error.to_string()).await,
        }
        self.done("route", "", "every worker knows both places");
        let next = if self.state.exclusive { Step::Drain } else { Step::ActivateEarly };
        self.next(edge, next, None, String::new()).await
    }

    async fn activate_early(&mut self, edge: &Edge) -> Result<(), Failure> {
        let Some(new) = edge.hosts.find(&self.state.to) else {
            return self.turn_back(edge, "activate", HOST_GONE).await;
        };
        let app = self.app().clone();
        let placement = self.placement(Role::Owner, self.state.generation);
        let put = || new.client.put_app(&app, &placement, true);
        match self.attempt(edge, "activate", PREPARE_ATTEMPTS, put).await {
            Ok(_) => {
                let host = self.state.to.clone();
                self.done("activate", &host, "ready");
                self.next(edge, Step::Drain, None, String::new()).await
            }
            Err(error) => self.turn_back(edge, "activate", &error.to_string()).await,
        }
    }

    async fn drain(&mut self, edge: &Edge) -> Result<(), Failure> {
        let from = self.state.from.clone();
        let mut pause = Pause::new();
        let mut attempts = 0;
        let detail = loop {
            attempts += 1;
            let error = match self.drain_once(edge).await {
                Ok(Drained { cut, .. }) => {
                    edge.metrics.cut(cut);
                    break if cut == 0 { "nothing was cut".to_owned() } else { format!("{cut} requests were cut") };
                }
                Err(error) => error,
            };
            if matches!(error, Some(AgentError::Rejected { status: 404, .. })) {
                break "it was not there".to_owned();
            }
            let why = error.map_or("it is not in the configuration".to_owned(), |error| error.to_string());
            if self.may_skip_drain(edge, attempts) {
                break format!("skipped: {why}");
            }
            self.retry(edge, "drain", &why, &mut pause).await;
        };
        self.done("drain", &from, detail);
        let next = if self.state.exclusive { Step::Activate } else { Step::Settle };
        self.go_on_to(edge, next).await
    }

    /// One call. `None`: there is no such host to ask.
    async fn drain_once(&self, edge: &Edge) -> Result<Drained, Option<AgentError>> {
        let old = edge.hosts.find(&self.state.from).ok_or(None)?;
        Ok(old.client.drain(self.app(), self.state.old_generation, edge.drain_time()).await?)
    }

    /// Whether the move goes on without the old host's word. Of an ordinary application two copies do no harm, and the old
    /// host is put right when it returns. Of an exclusive one nothing but the operator's word replaces the host's.
    fn may_skip_drain(&self, edge: &Edge, attempts: u32) -> bool {
        if self.state.exclusive { self.is_dead(edge, &self.state.from) } else { attempts >= TIDY_ATTEMPTS }
    }

    /// Whether the host is down, and the operator says that it stays so.
    fn is_dead(&self, edge: &Edge, host: &str) -> bool {
        (self.state.force || edge.workflows.is_forced(self.app())) && edge.hosts.state(host) == HostState::Down
    }

    async fn activate(&mut self, edge: &Edge) -> Result<(), Failure> {
        match self.activate_until(edge).await {
            Activation::Ready => {
                let host = self.state.to.clone();
                self.done("activate", &host, "ready");
                self.go_on_to(edge, Step::Settle).await
            }
            Activation::Impossible { why, may_own } => {
                self.reason("activate", &why);
                let back = self.state.generation + 1;
                self.state.back_generation = Some(back);
                self.state.next = if may_own { Step::Revoke } else { Step::Return };
                let burn = Write::Burn(self.app().clone(), Numbers { generation: back, version: self.state.version });
                self.enter(edge, self.state.next.name(), vec![burn], String::new()).await
            }
        }
    }

    /// Tries until the new host is ready, says that it cannot be, or is dead without having been told.
    async fn activate_until(&mut self, edge: &Edge) -> Activation {
        // An earlier process may have told it and not lived to hear the answer.
        let mut may_own = self.resumed;
        let app = self.app().clone();
        let placement = self.placement(Role::Owner, self.state.generation);
        let mut pause = Pause::new();
        loop {
            let why = match edge.hosts.find(&self.state.to) {
                None => HOST_GONE.to_owned(),
                Some(new) => match new.client.put_app(&app, &placement, true).await {
                    Ok(_) => return Activation::Ready,
                    Err(error) => {
                        may_own |= !matches!(error, AgentError::Unreachable { .. } | AgentError::Token { .. });
                        // Where the old host is gone too, there is nowhere to go back to.
                        if !error.is_transient() && edge.hosts.state(&self.state.from) != HostState::Down {
                            return Activation::Impossible { why: error.to_string(), may_own };
                        }
                        error.to_string()
                    }
                },
            };
            let to = &self.state.to;
            let dead = edge.hosts.state(to) == HostState::Down && (!may_own || self.is_dead(edge, to));
            if dead && edge.hosts.state(&self.state.from) == HostState::Up {
                return Activation::Impossible { why, may_own: false };
            }
            self.retry(edge, "activate", &why, &mut pause).await;
        }
    }

    /// Behind the line: a routing table that refuses is a fault of ours, and is told as such.
    async fn go_on_to(&mut self, edge: &Edge, next: Step) -> Result<(), Failure> {
        let (record, what) = match next {
            Step::Settle => {
                let record = self.record_at(edge, &self.state.to, self.state.generation, None);
                (Some(record), format!("{} is on {}", self.app(), self.state.to))
            }
            _ => (None, String::new()),
        };
        self.next(edge, next, record, what).await
    }

    async fn settle_at_new(&mut self, edge: &Edge) -> Result<(), Failure> {
        self.settle(edge, "settle").await?;
        self.done("settle", "", format!("every worker knows {} alone", self.state.to));
        self.next(edge, Step::Forget, None, String::new()).await
    }

    async fn forget(&mut self, edge: &Edge) -> Result<(), Failure> {
        let (from, generation) = (self.state.from.clone(), self.state.generation);
        let detail = self.tidy(edge, "forget", &from, generation).await;
        self.done("forget", &from, detail);
        Ok(())
    }

    /// Lets a host forget the application. What cannot be done now is done when the host returns.
    async fn tidy(&self, edge: &Edge, step: &'static str, host: &str, generation: u64) -> String {
        let Some(handle) = edge.hosts.find(host) else { return "it is not in the configuration".into() };
        let app = self.app().clone();
        match self.attempt(edge, step, TIDY_ATTEMPTS, || handle.client.delete(&app, generation)).await {
            Ok(()) => String::new(),
            Err(error) => self.leave(edge, host, &error),
        }
    }

    fn reason(&mut self, step: &str, why: &str) {
        self.state.reason = Some(why.to_owned());
        self.state.reason_step = Some(step.to_owned());
    }

    async fn turn_back(&mut self, edge: &Edge, step: &str, why: &str) -> Result<(), Failure> {
        self.reason(step, why);
        let record = self.record_at(edge, &self.state.from, self.state.old_generation, None);
        let what = format!("{} stays on {}", self.app(), self.state.from);
        self.next(edge, Step::Undo, Some(record), what).await
    }

    /// The end of a move that was not made: always the reason, as a failure.
    fn not_moved(&self, what: &str) -> Failure {
        let step = self.state.reason_step.as_deref().and_then(Step::public).unwrap_or("prepare");
        let reason = self.state.reason.as_deref().unwrap_or("the reason was lost");
        Failure::new(step, what, format!("{}: {reason}", self.state.to))
    }

    async fn undo(&mut self, edge: &Edge) -> Result<(), Failure> {
        self.settle(edge, "undo").await?;
        let (to, generation) = (self.state.to.clone(), self.state.generation);
        let detail = match self.state.refused {
            true => "it keeps what it has".to_owned(),
            false => self.tidy(edge, "undo", &to, generation).await,
        };
        self.done("undo", &to, detail);
        Err(self.not_moved("not moved"))
    }

    /// The new host must not be the owner any more before the old one is; nothing but its own word, or the operator's, tells.
    async fn revoke(&mut self, edge: &Edge) -> Result<(), Failure> {
        let (to, app) = (self.state.to.clone(), self.app().clone());
        let generation = self.back_generation();
        let mut pause = Pause::new();
        let detail = loop {
            let why = match edge.hosts.find(&to) {
                None => "it is not in the configuration".to_owned(),
                Some(new) => match new.client.delete(&app, generation).await {
                    Ok(()) => break "it forgot".to_owned(),
                    // That it is not the owner is all that has to be known; what of its files is left is for its operator.
                    Err(error) => match new.client.app(&app, AGENT_ANSWER).await {
                        Ok(Some(claim)) if claim.role == Role::Absent && claim.generation >= generation => {
                            break format!("it left: {error}");
                        }
                        _ => error.to_string(),
                    },
                },
            };
            if self.is_dead(edge, &to) {
                break format!("skipped: {why}");
            }
            self.retry(edge, "revoke", &why, &mut pause).await;
        };
        self.done("revoke", &to, detail);
        self.next(edge, Step::Return, None, String::new()).await
    }

    fn back_generation(&self) -> u64 {
        self.state.back_generation.unwrap_or(self.state.generation + 1)
    }

    async fn go_back(&mut self, edge: &Edge) -> Result<(), Failure> {
        let (from, app) = (self.state.from.clone(), self.app().clone());
        let generation = self.back_generation();
        // Told first: what comes from now on parks at the old host until it knows that it is the owner again.
        let record = self.record_at(edge, &from, generation, None);
        self.next(edge, Step::Return, Some(record), format!("{app} is back on {from}")).await?;
        self.settle(edge, "return").await?;
        let placement = self.placement(Role::Owner, generation);
        let mut pause = Pause::new();
        let detail = loop {
            let Some(old) = edge.hosts.find(&from) else { break "it is not in the configuration".to_owned() };
            match self.own_again(edge, &old, &app, &placement).await {
                Ok(()) => break "ready".to_owned(),
                Err(error) if error.is_transient() => self.retry(edge, "return", &error.to_string(), &mut pause).await,
                Err(error) => {
                    self.leave(edge, &from, &error);
                    break format!("it is its owner, and cannot start it: {error}");
                }
            }
        };
        self.done("return", &from, detail);
        let to = self.state.to.clone();
        self.tidy(edge, "return", &to, generation).await;
        Err(self.not_moved("moved back"))
    }

    async fn own_again(
        &self,
        edge: &Edge,
        old: &HostHandle,
        app: &AppName,
        placement: &Placement,
    ) -> Result<(), AgentError> {
        old.client.push_bundle(&placement.digest, &edge.bundles.path(&placement.digest)).await?;
        old.client.put_app(app, placement, true).await?;
        Ok(())
    }
}

impl Step {
    /// As people see it, in the order of `docs/api.md`.
    fn name(self) -> &'static str {
        match self {
            Step::Prepare => "prepare",
            Step::Route => "route",
            Step::ActivateEarly | Step::Activate => "activate",
            Step::Drain => "drain",
            Step::Settle => "settle",
            Step::Forget => "forget",
            Step::Undo => "undo",
            Step::Revoke => "revoke",
            Step::Return => "return",
        }
    }

    fn public(name: &str) -> Option<&'static str> {
        ["prepare", "route", "drain", "activate"].into_iter().find(|known| *known == name)
    }
}
