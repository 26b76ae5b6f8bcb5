//! Whether the store is an older copy than what a host has: then somebody put it back, and what the host has is not the store's to
//! replace or delete, and no generation may be given out that would make it stale.
//!
//! A store gives out each generation and version once, so that a host which holds a greater one than it ever gave out has it
//! from a newer store. Nothing else tells; hosts are asked before a generation is given out ([`look`]), and where one is
//! given out to pass another that the store does not know ([`above`]). The application's own host is asked before a version is
//! given out ([`look_at`]).

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use steady_table::AppName;

use crate::agents::HostHandle;
use crate::agents::client::{AgentError, AppStatus, Role};
use crate::edge::Edge;
use crate::limits::{AGENT_ANSWER, ASKED_AT_ONCE, GENERATION_MOST, STATE_ANSWER};
use crate::snapshot::HostState;
use crate::store::Numbers;

/// What makes the store the older of the two, or leaves it open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Older {
    #[error(
        "this store is an older copy: {host} has {app} with generation {generation} and version {version}, which it never gave out. \
         Put a newer copy back; or save what {host} has of it, and have its agent forget it \
         (DELETE /v1/hosts/{host}/apps/{app}?generation={generation})"
    )]
    Ahead { app: AppName, host: String, generation: u64, version: u32 },
    #[error(
        "this store is an older copy, and {host} may have what came after it but cannot be asked ({error}): start it, or remove it for good"
    )]
    Unasked { host: String, error: AgentError },
    #[error(
        "a host says that it has seen generation {seen} of {app}, which no edge can have given out: mend its record of {app}"
    )]
    Absurd { app: AppName, seen: u64 },
}

/// Whether a host holds something that a store with these numbers never gave out.
pub fn is_ahead(claim: &AppStatus, given: Numbers) -> bool {
    (claim.role != Role::Absent && claim.generation > given.generation) || is_newer(claim, given)
}

/// Whether a host holds a version that a store with these numbers never gave out. Of the host that owns the application by the
/// store this alone makes the store the older one: a greater generation is passed by one above, and nothing is lost by that.
pub fn is_newer(claim: &AppStatus, given: Numbers) -> bool {
    claim.role != Role::Absent && claim.version > given.version
}

/// Before the store gives out a generation of the application: whether a host that is up holds something newer. One that does
/// not answer in time, or is not up, is passed over: a move away from a dead host must not wait for another one.
pub async fn look(edge: &Edge, app: &AppName, given: Numbers) -> Result<(), Older> {
    let up = edge.hosts.all().into_iter().filter(|host| host.state() == HostState::Up).collect();
    for (host, answer) in ask(up, app, STATE_ANSWER).await {
        if let Ok(Some(claim)) = answer {
            refuse_ahead(app, host, &claim, given)?;
        }
    }
    Ok(())
}

/// Before the store gives out a version of an application that it has: whether the application's own host has a newer one.
/// As with [`look`], one that does not answer in time is passed over.
pub async fn look_at(owner: &HostHandle, app: &AppName, given: Numbers) -> Result<(), Older> {
    match owner.client.app(app, STATE_ANSWER).await {
        Ok(Some(claim)) if is_newer(&claim, given) => Err(ahead(app, owner.record.name.clone(), &claim)),
        _ => Ok(()),
    }
}

/// A generation of the application above what its host has `seen` and what the store gave out. Where the store never gave out
/// what was seen, the application may have gone to another host since: then every host but `owner` must say first that it has
/// nothing newer, or that would be deleted as stale from now on.
pub async fn above(edge: &Edge, app: &AppName, owner: Option<&str>, given: Numbers, seen: u64) -> Result<u64, Older> {
    // What a host says is not to be trusted with the numbers that are left.
    if seen >= GENERATION_MOST {
        return Err(Older::Absurd { app: app.clone(), seen });
    }
    if seen > given.generation {
        let others = edge.hosts.all().into_iter().filter(|other| Some(&*other.record.name) != owner).collect();
        for (host, answer) in ask(others, app, AGENT_ANSWER).await {
            if let Some(claim) = answer.map_err(|error| Older::Unasked { host: host.clone(), error })? {
                refuse_ahead(app, host, &claim, given)?;
            }
        }
    }
    Ok(seen.max(given.generation) + 1)
}

fn refuse_ahead(app: &AppName, host: String, claim: &AppStatus, given: Numbers) -> Result<(), Older> {
    if is_ahead(claim, given) { Err(ahead(app, host, claim)) } else { Ok(()) }
}

fn ahead(app: &AppName, host: String, claim: &AppStatus) -> Older {
    Older::Ahead { app: app.clone(), host, generation: claim.generation, version: claim.version }
}

/// What each of these hosts says of the application, by its name.
async fn ask(
    hosts: Vec<Arc<HostHandle>>,
    app: &AppName,
    within: Duration,
) -> Vec<(String, Result<Option<AppStatus>, AgentError>)> {
    let asked = hosts.into_iter().map(|host| async move {
        let answer = host.client.app(app, within).await;
        (host.record.name.clone(), answer)
    });
    stream::iter(asked).buffered(ASKED_AT_ONCE).collect().await
}
