//! A removal: the routes forget the application first, so that nobody is sent there any more, then its host does.
//!
//! A host that cannot be reached does not hold it up: it is told when it returns. The numbers of the application stay in the
//! store, so that one of the same name begins above them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use steady_table::{AppName, DomainName};

use super::deploy::discard;
use super::{AppLock, Failure, Flow, Progress};
use crate::edge::Edge;
use crate::limits::TIDY_ATTEMPTS;
use crate::store::{AppRecord, Kind, StoreError, Write};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveState {
    next: Step,
    host: String,
    generation: u64,
    digest: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    Route,
    Settle,
    Forget,
}

/// The application as it is; `None` if there is none.
pub async fn plan(lock: &AppLock) -> Result<Option<AppRecord>, StoreError> {
    lock.edge().store().app(lock.app.clone()).await
}

pub async fn begin(lock: &AppLock, app: AppRecord, progress: Progress) -> Result<Flow<RemoveState>, Failure> {
    let state = RemoveState { next: Step::Route, host: app.host, generation: app.generation, digest: app.digest };
    let mut flow = Flow::begin(lock.edge(), Kind::Remove, &app.name, "route", state, Vec::new(), progress).await?;
    flow.done("record", "", "");
    Ok(flow)
}

/// Runs it to its end, from whatever step is recorded.
pub async fn run(lock: AppLock, mut flow: Flow<RemoveState>) -> Result<(), Failure> {
    let edge = Arc::clone(lock.edge());
    let digest = flow.state.digest.clone();
    let outcome = flow.steps(&edge).await;
    let outcome = flow.finish(&edge, outcome).await;
    if outcome.is_ok() {
        discard(&edge, digest).await;
    }
    outcome
}

impl Flow<RemoveState> {
    async fn steps(&mut self, edge: &Edge) -> Result<(), Failure> {
        loop {
            match self.state.next {
                Step::Route => self.route(edge).await?,
                Step::Settle => {
                    self.settle(edge, "route").await?;
                    self.done("route", "", "nobody is sent there any more");
                    self.state.next = Step::Forget;
                    self.enter(edge, "forget", Vec::new(), String::new()).await?;
                }
                Step::Forget => return self.forget(edge).await,
            }
        }
    }

    async fn route(&mut self, edge: &Edge) -> Result<(), Failure> {
        let app = self.app().clone();
        let mut known = customs(edge, &app).await?;
        self.state.next = Step::Settle;
        loop {
            let mut writes: Vec<Write> = known.iter().cloned().map(Write::RemoveCustom).collect();
            writes.push(Write::RemoveApp(app.clone()));
            let refused = match self.enter(edge, "route", writes, format!("{app} is removed")).await {
                Err(failure) if !failure.stopped => failure,
                result => return result,
            };
            // A custom domain may have come or gone since they were looked at: that is no reason to leave it.
            let now = customs(edge, &app).await?;
            if now == known {
                return Err(refused);
            }
            known = now;
        }
    }

    async fn forget(&mut self, edge: &Edge) -> Result<(), Failure> {
        let (host, app, generation) = (self.state.host.clone(), self.app().clone(), self.state.generation);
        let detail = match edge.hosts.find(&host) {
            None => "it is not in the configuration".to_owned(),
            Some(handle) => {
                match self.attempt(edge, "forget", TIDY_ATTEMPTS, || handle.client.delete(&app, generation)).await {
                    Ok(()) => String::new(),
                    Err(error) => self.leave(edge, &host, &error),
                }
            }
        };
        self.done("forget", &host, detail);
        Ok(())
    }
}

async fn customs(edge: &Edge, app: &AppName) -> Result<Vec<DomainName>, Failure> {
    let customs = edge.store().customs_of(app.clone()).await;
    customs.map_err(|error| Failure::new("route", "the store failed", error))
}
