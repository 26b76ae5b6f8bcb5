//! What is published before the writer runs: the last good table, and then that table as the store says it.

use std::sync::Arc;

use steady_table::{Routes, TableDir};

use super::{ControlError, Published};
use crate::certs::Certs;
use crate::cluster::Credentials;
use crate::derive;
use crate::snapshot::{HostState, Plane, Settings, Snapshot};
use crate::store::{Commit, Store, StoreError, Write};

/// What the first snapshot is made of.
#[derive(Debug)]
pub struct Initial {
    pub routes: Arc<Routes>,
    pub certs: Certs,
    pub cluster: Option<Arc<Credentials>>,
    pub settings: Settings,
}

/// Publishes what is known before the store is: the last good table.
pub fn publish_first(plane: &dyn Plane, initial: &Initial) -> Published {
    let hosts = vec![HostState::Suspected; initial.routes.hosts().len()];
    let snapshot = Arc::new(Snapshot {
        routes: Arc::clone(&initial.routes),
        hosts,
        certs: initial.certs.clone(),
        cluster: initial.cluster.clone(),
        settings: initial.settings.clone(),
    });
    let publication = plane.publish(Arc::clone(&snapshot));
    Published { snapshot, publication, behind: false }
}

/// Writes the table anew where it is not what the store says, and tells how they differed. The table afterwards; on an error
/// the directory comes back, so that it can be tried again.
pub async fn reconcile_table(
    mut dir: TableDir,
    routes: Option<Arc<Routes>>,
    store: &dyn Store,
) -> Result<(TableDir, Arc<Routes>), (TableDir, ControlError)> {
    let (wanted, revision) = match compare(routes.as_deref(), store).await {
        Ok(Some(todo)) => todo,
        Ok(None) => match routes {
            Some(routes) => return Ok((dir, routes)),
            None => return Err((dir, ControlError::Table("it was there a moment ago".into()))),
        },
        Err(error) => return Err((dir, error)),
    };
    let work = tokio::task::spawn_blocking(move || {
        let result = dir.replace(wanted, revision);
        (dir, result)
    });
    match work.await {
        Ok((dir, Ok(routes))) => Ok((dir, Arc::new(routes))),
        Ok((dir, Err(error))) => Err((dir, ControlError::Table(error.to_string()))),
        // A panic of the writer is a fault of ours, and takes its directory with it.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is ending, and this with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// What the table should be and its revision; `None` if it is that already.
async fn compare(
    routes: Option<&Routes>,
    store: &dyn Store,
) -> Result<Option<(steady_table::Contents, u64)>, ControlError> {
    let contents = store.load().await?;
    let table_revision = routes.map_or(0, Routes::revision);
    let revision = contents.revision;
    if let Some(routes) = routes
        && revision == 0
        && routes.app_count() > 0
    {
        let what = format!(
            "it is new, while the routing table knows {} applications: bring the store back from a copy, or remove the \
             directory `table` beside it to begin anew",
            routes.app_count()
        );
        return Err(StoreError::Failed(what).into());
    }
    let orphans = derive::orphans(&contents);
    let (wanted, told) = derive::whole(contents);
    for reason in told {
        tracing::error!(reason, "a record of the store is left out of the routing table");
    }
    if let Some(routes) = routes {
        let found = derive::differences(routes, &wanted);
        if found.is_empty() && table_revision == revision && orphans.is_empty() {
            return Ok(None);
        }
        for difference in found {
            tracing::warn!(difference, "the routing table is not what the store says; the store wins");
        }
    }
    let mut writes = vec![Write::RaiseRevision(revision.max(table_revision.saturating_add(1)))];
    // They would come back with an application of the same name, which knows nothing of them.
    writes.extend(orphans.into_iter().map(|(domain, _)| Write::RemoveCustom(domain)));
    let what = "custom domains without an application are removed".into();
    let revision = store.commit(Commit { what, writes, ..Commit::default() }).await?;
    Ok(Some((wanted, revision)))
}
