//! An edge whose store is open: what was under way is taken up, hosts are watched, and put right as they return.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::configured::apply;
use crate::agents::health::{HostEvent, Pace, watch as watch_host};
use crate::agents::{HostHandle, state_name};
use crate::cluster::Credentials;
use crate::edge::Edge;
use crate::limits::{AGENT_ANSWER, RETRY_FIRST, RETRY_MOST};
use crate::reconcile::Returns;
use crate::reports::follow;
use crate::snapshot::HostState;
use crate::store::{Contents, HostRecord, WorkflowRecord};
use crate::workflow::deploy::discard;
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
    // The contents are older than this, but nobody can register before the private API is open.
    let registering = edge.registering.lock().await;
    let applied = apply(edge, &edge.config.load_full(), &contents, &registering).await;
    drop(registering);
    new.extend(applied.new);
    let unused = unused_bundles(edge, &contents, &workflows).await;
    resume_all(edge, workflows);
    tokio::spawn(sweep_bundles(Arc::clone(edge), unused));
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
        tell_state(&edge, &handle.record.name).await;
        watch_host(Arc::clone(&edge.hosts), handle, pace, edge.host_events.clone()).await;
    });
}

/// The bundles that neither an application nor a workflow needs.
async fn unused_bundles(edge: &Edge, contents: &Contents, workflows: &[WorkflowRecord]) -> HashSet<String> {
    let mut used: HashSet<String> = contents.apps.iter().map(|app| app.digest.clone()).collect();
    for workflow in workflows {
        used.extend(workflow.state.get("digest").and_then(|digest| digest.as_str()).map(str::to_owned));
        used.extend(workflow.state.pointer("/old/digest").and_then(|digest| digest.as_str()).map(str::to_owned));
    }
    let bundles = edge.bundles.clone();
    let found = tokio::task::spawn_blocking(move || bundles.unused(&used)).await;
    found.map_err(io::Error::other).flatten().unwrap_or_else(|error| {
        tracing::warn!(%error, "bundles that nobody needs stay");
        HashSet::new()
    })
}

/// Removes `unused` bundles once every host has said what it has: a store that was put back from a copy does not know the newest
/// bundles, and what a host has of them is kept until somebody has decided which is right.
async fn sweep_bundles(edge: Arc<Edge>, mut unused: HashSet<String>) {
    let mut heard = HashSet::new();
    let mut pause = RETRY_FIRST;
    while !unused.is_empty() {
        let hosts = edge.hosts.all();
        for host in hosts.iter().filter(|host| host.state() == HostState::Up) {
            if !heard.contains(&host.record.name)
                && let Ok(claims) = host.client.apps(AGENT_ANSWER).await
            {
                for claim in claims {
                    unused.remove(&claim.digest);
                }
                heard.insert(host.record.name.clone());
            }
        }
        if hosts.iter().all(|host| heard.contains(&host.record.name)) {
            tracing::info!(bundles = unused.len(), "bundles that nobody needs are removed");
            for digest in unused.drain() {
                discard(&edge, digest).await;
            }
        } else {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MOST);
        }
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
                    tracing::warn!(host, state = state_name(state), "its agent does not answer");
                }
                tell_state(&edge, &host).await;
            }
            HostEvent::Returned { host, claims } => returns.returned(host, claims),
        }
    }
}

/// Has the workers know a host as it is now, whichever of its handles has changed. Of one that is replaced while it is told of, what
/// its successor has told may have come first: it is looked at again.
async fn tell_state(edge: &Edge, host: &str) {
    while let Some(handle) = edge.hosts.find(host) {
        let state = handle.state();
        edge.control.set_host(host, state).await;
        if edge.hosts.state(host) == state {
            return;
        }
    }
}
