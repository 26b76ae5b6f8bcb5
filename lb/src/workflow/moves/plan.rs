//! Whether a move can be begun, and its record.

use steady_table::AppName;

use super::{MoveState, Step};
use crate::older::{Older, look};
use crate::snapshot::HostState;
use crate::store::{AppRecord, Kind, Numbers, StoreError, Write};
use crate::workflow::{AppLock, Failure, Flow, Progress};

/// Why a move cannot be begun; nothing was recorded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CannotMove {
    #[error("there is no application {0}")]
    NoApp(AppName),
    #[error("there is no host {0}: name one of the configuration")]
    NoHost(String),
    #[error("{app} is on {host} already")]
    Already { app: AppName, host: String },
    #[error("{host} is not up: wait until it is, or name another host")]
    TargetNotUp { host: String },
    #[error(
        "{app} is exclusive and its host {host} does not answer its agent's port, but its data port does: it may be running \
         there. Bring the agent back, or switch the machine off, and repeat"
    )]
    MayRun { app: AppName, host: String },
    #[error(
        "{app} is exclusive and its host {host} is down: if it came back by itself, two hosts would write its data. Make sure \
         that the machine is off, then repeat with --force (\"force\": true)"
    )]
    NeedsForce { app: AppName, host: String },
    #[error(
        "{host} has {app} with generation {found}, of which the store knows {known}: it is put right by itself once every host can be \
         asked; the log says what is in the way"
    )]
    NotRight { app: AppName, host: String, found: u64, known: u64 },
    #[error(transparent)]
    Older(#[from] Older),
    #[error("the store failed: {0}")]
    Store(#[from] StoreError),
}

/// Looks whether the application can be moved, and gives what [`begin`] needs.
pub async fn plan(lock: &AppLock, to: &str, force: bool) -> Result<AppRecord, CannotMove> {
    let edge = lock.edge();
    let app = edge.store().app(lock.app.clone()).await?.ok_or_else(|| CannotMove::NoApp(lock.app.clone()))?;
    if edge.hosts.find(to).is_none() {
        return Err(CannotMove::NoHost(to.to_owned()));
    }
    if app.host == to {
        return Err(CannotMove::Already { app: app.name, host: to.to_owned() });
    }
    if edge.hosts.state(to) != HostState::Up {
        return Err(CannotMove::TargetNotUp { host: to.to_owned() });
    }
    if app.exclusive {
        let (app_name, host) = (app.name.clone(), app.host.clone());
        match edge.hosts.state(&app.host) {
            HostState::Up => {}
            HostState::Suspected => return Err(CannotMove::MayRun { app: app_name, host }),
            HostState::Down if force => {}
            HostState::Down => return Err(CannotMove::NeedsForce { app: app_name, host }),
        }
    }
    let given = edge.store().numbers(app.name.clone()).await?.with(&app);
    match look(edge, &app.name, given).await {
        // A newer version nobody puts right.
        Err(Older::Ahead { app: name, host, generation, version }) if host == app.host && version <= given.version => {
            Err(CannotMove::NotRight { app: name, host, found: generation, known: given.generation })
        }
        looked => looked.map(|()| app).map_err(CannotMove::Older),
    }
}

/// Records the intent. The generation is taken from here on, whatever becomes of the move.
pub async fn begin(
    lock: &AppLock,
    app: &AppRecord,
    to: &str,
    force: bool,
    progress: Progress,
) -> Result<Flow<MoveState>, Failure> {
    let edge = lock.edge();
    let numbers = edge.store().numbers(app.name.clone()).await;
    let numbers = numbers.map_err(|error| Failure::new("record", "the store failed", error))?;
    let generation = numbers.generation.max(app.generation) + 1;
    let state = MoveState {
        next: Step::Prepare,
        from: app.host.clone(),
        to: to.to_owned(),
        old_generation: app.generation,
        generation,
        back_generation: None,
        version: app.version,
        digest: app.digest.clone(),
        exclusive: app.exclusive,
        created_at: app.created_at,
        force,
        reason: None,
        reason_step: None,
        raised: false,
        refused: false,
    };
    let burn = Write::Burn(app.name.clone(), Numbers { generation, version: app.version });
    let mut flow = Flow::begin(edge, Kind::Move, &app.name, "prepare", state, vec![burn], progress).await?;
    flow.done("record", "", format!("generation {generation}"));
    Ok(flow)
}
