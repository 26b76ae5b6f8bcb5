//! An edge whose store is open: what was under way is taken up, hosts are watched, and put right as they return.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::configured::apply;
use crate::agents::HostHandle;
use crate::agents::health::{HostEvent, Pace, watch as watch_host};
use crate::cluster::Credentials;
use crate::edge::Edge;
use crate::reconcile::Returns;
use crate::reports::follow;
use crate::snapshot::HostState;
use crate::store::{Contents, HostRecord, WorkflowRecord};
use crate::workflow::resume_all;

/// Takes up what the store knows: hosts of it and of the configuration, domains, bundles, workflows. Hosts are watched last:
/// by then each workflow that was under way holds its application, so that nobody puts that right behind its back. Whether hosts and
/// domains are as the configuration says.
pub(super) async fn begin(
    edge: &Arc<Edge>,
    contents: Contents,
    workflows: Vec<WorkflowRecord>,
    credentials: watch::Receiver<Arc<Credentials>>,
    events: mpsc::Receiver<HostEvent>,
) -> bool {
    tokio::spawn(follow::look(Arc::clone(&edge.reports), edge.begun));
    tokio::spawn(follow_credentials(Arc::clone(edge), credentials));
    let mut new: Vec<_> = contents.hosts.iter().filter_map(|record| put_host(edge, record.clone())).collect();
    let applied = apply(edge, &edge.config.load_full(), &contents).await;
    new.extend(applied.new);
    sweep_bundles(edge, &contents, &workflows).await;
    resume_all(edge, workflows);
    new.into_iter().for_each(|handle| watch_new(edge, handle));
    tokio::spawn(follow_hosts(Arc::clone(edge), events));
    !applied.again
}

/// Carries this edge's certificates to the workers, as they are renewed.
async fn follow_credentials(edge: Arc<Edge>, mut credentials: watch::Receiver<Arc<Credentials>>) {
    while credentials.changed().await.is_ok() {
        let now = credentials.borrow_and_update().clone();
        edge.control.set_cluster(now).await;
    }
}

/// The handle, if it is new and wants watching.
pub(super) fn put_host(edge: &Edge, record: HostRecord) -> Option<Arc<HostHandle>> {
    edge.hosts.put(record).unwrap_or_else(|error| {
        tracing::error!(%error, "a host is left out");
        None
    })
}

/// Watches a host and follows its reports, until another handle takes this one's place.
pub(crate) fn watch_new(edge: &Arc<Edge>, handle: Arc<HostHandle>) {
    let paced = Arc::clone(edge);
    let pace = move || {
        let health = &paced.config.load().health;
        Pace { every: health.every, suspect_after: health.suspect_after, down_after: health.down_after }
    };
    tokio::spawn(follow::follow(Arc::clone(&edge.reports), Arc::clone(&edge.hosts), Arc::clone(&handle), edge.begun));
    let edge = Arc::clone(edge);
    tokio::spawn(async move {
        // What was found of it at another address says nothing of this one.
        edge.control.set_host(&handle.record.name, HostState::Suspected).await;
        watch_host(Arc::clone(&edge.hosts), handle, pace, edge.host_events.clone()).await;
    });
}

/// Removes bundles that neither an application nor a workflow needs.
async fn sweep_bundles(edge: &Edge, contents: &Contents, workflows: &[WorkflowRecord]) {
    let mut used: HashSet<String> = contents.apps.iter().map(|app| app.digest.clone()).collect();
    for workflow in workflows {
        used.extend(workflow.state.get("digest").and_then(|digest| digest.as_str()).map(str::to_owned));
        used.extend(workflow.state.pointer("/old/digest").and_then(|digest| digest.as_str()).map(str::to_owned));
    }
    let bundles = edge.bundles.clone();
    match tokio::task::spawn_blocking(move || bundles.sweep(&used)).await {
        Ok(Ok(0)) => {}
        Ok(Ok(removed)) => tracing::info!(removed, "bundles that nobody needs are gone"),
        Ok(Err(error)) => tracing::warn!(%error, "bundles that nobody needs stay"),
        Err(error) => tracing::warn!(%error, "bundles that nobody needs stay"),
    }
}

/// Carries what the watch finds to the workers, and puts hosts right that return.
async fn follow_hosts(edge: Arc<Edge>, mut events: mpsc::Receiver<HostEvent>) {
    let mut returns = Returns::new(Arc::clone(&edge));
    while let Some(event) = events.recv().await {
        match event {
            HostEvent::State { host, state } => {
                if state == HostState::Up {
                    tracing::info!(host, "up");
                } else {
                    tracing::warn!(host, state = crate::agents::state_name(state), "its agent does not answer");
                }
                edge.control.set_host(&host, state).await;
            }
            HostEvent::Returned { host, claims } => returns.returned(host, claims),
        }
    }
}
