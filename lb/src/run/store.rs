//! The store of an edge that begins: opened, and tried again until it can be.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use steady_table::{Routes, TableDir};

use super::RunError;
use crate::api::Api;
use crate::control::reconcile_table;
use crate::store::sqlite::SqliteStore;
use crate::store::{self, Contents, Store, WorkflowRecord};

/// How long until a store that cannot be opened is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(5);

/// The store, and the table as it says.
pub(super) struct Opened {
    pub store: Arc<dyn Store>,
    /// Ends when the store's file is closed.
    pub thread: std::thread::JoinHandle<()>,
    pub dir: TableDir,
    pub routes: Arc<Routes>,
    /// What it has, and the workflows that were under way.
    pub contents: Contents,
    pub workflows: Vec<WorkflowRecord>,
}

/// Opens the store and brings the table to what it says. With a table to serve from, it is tried until it can be.
pub(super) async fn open_store(
    path: &Path,
    mut dir: TableDir,
    mut routes: Option<Arc<Routes>>,
    api: &Api,
) -> Result<Opened, RunError> {
    loop {
        let owned = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || SqliteStore::open_with_thread(&owned)).await;
        let problem = match opened {
            Ok(Ok((store, thread))) => {
                let store: Arc<dyn Store> = Arc::new(store);
                match reconcile_table(dir, routes.clone(), &*store).await {
                    Ok((now_dir, now)) => match read(&*store).await {
                        Ok((contents, workflows)) => {
                            return Ok(Opened { store, thread, dir: now_dir, routes: now, contents, workflows });
                        }
                        Err(error) => {
                            (dir, routes) = (now_dir, Some(now));
                            error.to_string()
                        }
                    },
                    Err((back, error)) => {
                        dir = back;
                        error.to_string()
                    }
                }
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        if routes.is_none() {
            return Err(RunError::Nothing(problem));
        }
        tracing::error!(problem, "serving from the last good routing table alone; the store is tried again");
        api.wait_for(problem);
        tokio::time::sleep(STORE_AGAIN).await;
    }
}

async fn read(store: &dyn Store) -> store::Result<(Contents, Vec<WorkflowRecord>)> {
    Ok((store.load().await?, store.open_workflows().await?))
}
