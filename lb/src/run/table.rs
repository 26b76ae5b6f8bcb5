//! The routing table that an edge begins with: its own last good one, or that of the process whose place it takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use steady_table::{Options, Routes, TableDir};

use super::ending::DRAIN_LOOK;
use super::{RunError, STORE, TABLE};
use crate::control::{Initial, Published, publish_first};
use crate::limits::{SETTLE, UPGRADE_GIVE_UP};
use crate::snapshot::Plane;
use crate::state_dir::StateDir;
use crate::store::sqlite::SqliteStore;
use crate::upgrade::{self, Taking};

/// How often it is looked whether new workers serve.
const START_LOOK: Duration = Duration::from_millis(1);

/// The table that an edge begins with, published if there is one.
pub(super) struct Table {
    pub dir: TableDir,
    pub routes: Option<Arc<Routes>>,
    pub first: Option<Published>,
}

fn open_table_dir(state: &StateDir) -> steady_table::Result<(TableDir, Option<Routes>)> {
    let options = Options { reserved: Vec::new(), ..Options::default() };
    let (dir, routes, damage) = TableDir::open_with(state.path(TABLE), options)?;
    for damage in damage {
        tracing::error!(%damage, "passed over");
    }
    Ok((dir, routes))
}

pub(super) fn open_table(
    state: &StateDir,
    plane: &dyn Plane,
    initial: &impl Fn(Arc<Routes>) -> Initial,
) -> Result<Table, RunError> {
    let (dir, routes) = open_table_dir(state)?;
    let routes = routes.map(Arc::new);
    let first = routes.as_ref().map(|routes| publish_first(plane, &initial(Arc::clone(routes))));
    Ok(Table { dir, routes, first })
}

/// Serves from the old process' table, and gets it when that process has let go. On an error the old one is the edge as before.
pub(super) async fn take_table(
    taking: &mut Taking,
    state: &StateDir,
    plane: &Arc<dyn Plane>,
    parts: &upgrade::Parts,
    uring: bool,
    initial: &impl Fn(Arc<Routes>) -> Initial,
) -> Result<Table, RunError> {
    SqliteStore::check(&state.path(STORE)).map_err(|error| RunError::NotTaken(error.to_string()))?;
    if let (Some(text), Some(tickets)) = (taking.prepared().await?, &parts.tickets)
        && let Err(error) = tickets.adopt(&text, std::time::SystemTime::now())
    {
        tracing::warn!(%error, "the old process' ticket keys cannot be used: clients make full handshakes");
    }
    let (routes, damage) = steady_table::open_latest(state.path(TABLE))?;
    for damage in damage {
        tracing::error!(%damage, "passed over");
    }
    let first = routes.map(|routes| publish_first(&**plane, &initial(Arc::new(routes))));
    if let Some(first) = &first {
        all_serve(&**plane, first.publication).await?;
    }
    if let Err(error) = taking.serving().await {
        // It goes on, so what came here meanwhile is finished and no more taken.
        plane.drain(UPGRADE_GIVE_UP);
        let begun = Instant::now();
        while !plane.is_drained() && begun.elapsed() < UPGRADE_GIVE_UP {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
        return Err(error.into());
    }
    if let Some(offer) = &parts.offer
        && let Err(error) = offer.set_blocking(uring)
    {
        tracing::warn!(%error, "the listeners stay as the old process had them, which costs a little more");
    }
    if let Err(error) = state.sign() {
        tracing::warn!(%error, "the lock of the state directory names the old process");
    }
    parts.elders.cap();
    let (dir, routes) = open_table_dir(state)?;
    Ok(Table { dir, routes: routes.map(Arc::new), first })
}

/// Waits until every worker accepts and runs this publication.
async fn all_serve(plane: &dyn Plane, publication: u64) -> Result<(), RunError> {
    let begun = Instant::now();
    while plane.settled() < publication {
        if let Some(reason) = plane.failure() {
            return Err(RunError::NotTaken(reason));
        }
        if begun.elapsed() > SETTLE {
            return Err(RunError::NotTaken(format!("not every worker serves after {} s", SETTLE.as_secs())));
        }
        tokio::time::sleep(START_LOOK).await;
    }
    Ok(())
}
