//! When a host returns: what it has is compared with what the store says it should have, and put right.
//!
//! What to do is decided without I/O ([`decide`]): stale claims are deleted, missing or older placements are given again, and
//! what this store never knew is left alone and told, because deleting it could destroy what another edge owns, or what came
//! after the copy of the store that was put back. An
//! application that has a workflow under way is that workflow's business.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use steady_table::AppName;
use tokio::sync::watch;

use crate::agents::HostHandle;
use crate::agents::client::{AgentError, AppStatus, Placement, Role};
use crate::control::ControlError;
use crate::edge::Edge;
use crate::limits::{AGENT_ANSWER, RECONCILED_AT_ONCE, RETRY_FIRST, RETRY_MOST};
use crate::older::{Older, above, is_ahead, is_newer};
use crate::snapshot::HostState;
use crate::store::{AppRecord, Commit, Numbers, StoreError, Write};
use crate::workflow::Tracker;

/// What is wrong with one application on one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Make the host the owner, as the store says.
    Own,
    /// The host has seen a greater generation than the store's: make it the owner with one above both.
    OwnAbove(u64),
    /// It lives elsewhere, or nowhere any more: the host forgets it.
    Forget { generation: u64 },
    /// The host's version is one that the store never gave out, or, where it lives elsewhere by the store, its generation: the
    /// store is the older of the two, and what the host has is not its to replace or delete.
    Ahead { generation: u64, version: u32 },
    /// This store never knew it.
    Unknown,
}

/// What to do about an application of which a host says `claim` and the store `record`.
pub fn decide(host: &str, record: Option<&AppRecord>, claim: Option<&AppStatus>, numbers: Numbers) -> Option<Repair> {
    let held = claim.filter(|claim| claim.role != Role::Absent);
    match (record, held) {
        (Some(record), _) if record.host == host => {
            let right = held.is_some_and(|claim| {
                claim.role == Role::Owner
                    && claim.generation == record.generation
                    && claim.version == record.version
                    && claim.digest == record.digest
            });
            match claim {
                _ if right => None,
                Some(claim) if is_newer(claim, numbers.with(record)) => {
                    Some(Repair::Ahead { generation: claim.generation, version: claim.version })
                }
                Some(claim) if claim.generation > record.generation => Some(Repair::OwnAbove(claim.generation)),
                // A drained owner is not made one again by its own number: its host has let go of it.
                Some(claim) if claim.generation == record.generation && claim.role != Role::Owner => {
                    Some(Repair::OwnAbove(claim.generation))
                }
                _ => Some(Repair::Own),
            }
        }
        (Some(record), Some(claim)) if is_ahead(claim, numbers.with(record)) => {
            Some(Repair::Ahead { generation: claim.generation, version: claim.version })
        }
        (Some(record), Some(claim)) => Some(Repair::Forget { generation: record.generation.max(claim.generation) }),
        (None, Some(claim)) if !is_ahead(claim, numbers) => Some(Repair::Forget { generation: numbers.generation }),
        (None, Some(_)) => Some(Repair::Unknown),
        (_, None) => None,
    }
}

/// Why a host is not put right yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotYet {
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("{0} of its applications have a workflow under way")]
    Busy(usize),
    #[error(transparent)]
    Older(#[from] Older),
}

/// What a host just said that it has; `None`: it is asked.
type Claims = Option<Vec<AppStatus>>;

/// Puts hosts right as they return: one task a host, however often it does. One that tries again is woken by a newer return.
#[derive(Debug)]
pub struct Returns {
    edge: Arc<Edge>,
    hosts: HashMap<String, watch::Sender<Claims>>,
}

impl Returns {
    pub fn new(edge: Arc<Edge>) -> Returns {
        Returns { edge, hosts: HashMap::new() }
    }

    /// Has the host put right; of what it said, the newest counts.
    pub fn returned(&mut self, host: String, claims: Claims) {
        // The task of a host that is known no more ends with its sender.
        self.hosts.retain(|name, news| !news.is_closed() && self.edge.hosts.find(name).is_some());
        if let Some(news) = self.hosts.get(&host) {
            news.send_replace(claims);
            return;
        }
        let (news, mut told) = watch::channel(claims);
        told.mark_changed();
        let (edge, name) = (Arc::clone(&self.edge), host.clone());
        tokio::spawn(async move {
            while told.changed().await.is_ok() {
                put_right(&edge, &name, &mut told).await;
            }
        });
        self.hosts.insert(host, news);
    }
}

/// Puts a host right that has just returned.
pub async fn host_returned(edge: Arc<Edge>, host: String, claims: Claims) {
    let (_no_news, mut told) = watch::channel(claims);
    put_right(&edge, &host, &mut told).await;
}

/// Puts a host right; tried again until it is, or the host is gone again.
async fn put_right(edge: &Arc<Edge>, host: &str, told: &mut watch::Receiver<Claims>) {
    let mut pause = RETRY_FIRST;
    let mut claims = told.borrow_and_update().clone();
    loop {
        let Some(handle) = edge.hosts.find(host) else { return };
        match pass(edge, &handle, claims.take()).await {
            Ok(()) => return,
            Err(NotYet::Store(StoreError::Closed) | NotYet::Control(ControlError::Stopped)) => return,
            // Somebody has to decide.
            Err(error @ NotYet::Older(_)) => tracing::error!(host, %error, "the host is not as it should be"),
            Err(error) => tracing::info!(host, %error, "the host is not as it should be yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {
                pause = (pause * 2).min(RETRY_MOST);
                // When it comes back it is announced again.
                if edge.hosts.state(host) != HostState::Up {
                    return;
                }
            }
            news = told.changed() => {
                if news.is_err() {
                    return;
                }
                claims = told.borrow_and_update().clone();
                pause = RETRY_FIRST;
            }
        }
    }
}

/// Looks at everything once, several applications at a time.
async fn pass(edge: &Arc<Edge>, handle: &HostHandle, claims: Option<Vec<AppStatus>>) -> Result<(), NotYet> {
    let host = handle.record.name.as_str();
    let claims = match claims {
        Some(claims) => claims,
        None => handle.client.apps(AGENT_ANSWER).await?,
    };
    let claims: HashMap<String, AppStatus> = claims.into_iter().map(|claim| (claim.name.clone(), claim)).collect();
    let mut names: Vec<AppName> =
        edge.store().apps_on(host.to_owned()).await?.into_iter().map(|record| record.name).collect();
    names.extend(claims.keys().filter_map(|name| AppName::new(name).ok()));
    names.sort();
    names.dedup();
    let all = names.into_iter().map(|name| {
        let claim = claims.get(name.as_str()).cloned();
        async move { one(edge, handle, &name, claim.as_ref()).await }
    });
    let mut all = stream::iter(all).buffer_unordered(RECONCILED_AT_ONCE);
    let (mut busy, mut failed) = (0, None);
    while let Some(done) = all.next().await {
        match done {
            Ok(()) => {}
            Err(NotYet::Busy(more)) => busy += more,
            Err(error) => failed = Some(error),
        }
    }
    match (failed, busy) {
        (Some(error), _) => Err(error),
        (None, 0) => Ok(()),
        (None, busy) => Err(NotYet::Busy(busy)),
    }
}

/// Looks at one application, and puts it right.
async fn one(edge: &Arc<Edge>, handle: &HostHandle, name: &AppName, claim: Option<&AppStatus>) -> Result<(), NotYet> {
    let host = handle.record.name.as_str();
    let _lock = Tracker::try_lock(edge, name).ok_or(NotYet::Busy(1))?;
    // Asked again under the lock: a workflow may have ended in between.
    let record = edge.store().app(name.clone()).await?;
    let numbers = edge.store().numbers(name.clone()).await?;
    let Some(repair) = decide(host, record.as_ref(), claim, numbers) else { return Ok(()) };
    let repair_is_left = matches!(repair, Repair::Ahead { .. });
    tracing::warn!(app = %name, host, ?repair, "a host has something other than the store says");
    match mend(edge, handle, name, record, numbers, repair).await {
        Ok(()) => edge.metrics.reconciled(),
        // Nothing that is tried again here helps; the next time that it returns it is told again.
        Err(error @ NotYet::Older(Older::Ahead { .. })) if repair_is_left => {
            tracing::error!(app = %name, host, %error, "it is left alone")
        }
        Err(error @ NotYet::Older(Older::Absurd { .. })) => {
            tracing::error!(app = %name, host, %error, "it is left alone");
        }
        // One that cannot run there stays its host's to report; the others go on.
        Err(NotYet::Agent(error)) if !error.is_transient() => {
            tracing::error!(app = %name, host, %error, "an application could not be put right");
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn mend(
    edge: &Edge,
    handle: &HostHandle,
    name: &AppName,
    record: Option<AppRecord>,
    numbers: Numbers,
    repair: Repair,
) -> Result<(), NotYet> {
    match (repair, record) {
        (Repair::Forget { generation }, _) => Ok(handle.client.delete(name, generation).await?),
        (Repair::Ahead { generation, version }, _) => {
            let (app, host) = (name.clone(), handle.record.name.clone());
            Err(Older::Ahead { app, host, generation, version }.into())
        }
        (Repair::Own, Some(record)) => match own(edge, handle, &record).await {
            // Of what has left it a host shows nothing until it is asked to take it again.
            Err(NotYet::Agent(AgentError::Stale { known, .. })) => {
                own_above(edge, handle, record, numbers, known).await
            }
            result => result,
        },
        (Repair::OwnAbove(seen), Some(record)) => own_above(edge, handle, record, numbers, seen).await,
        (Repair::Unknown, _) | (_, None) => {
            tracing::warn!(app = %name, host = handle.record.name, "this edge never knew that application; it is left alone");
            Ok(())
        }
    }
}

async fn own_above(
    edge: &Edge,
    handle: &HostHandle,
    mut record: AppRecord,
    numbers: Numbers,
    seen: u64,
) -> Result<(), NotYet> {
    record.generation = above(edge, &record.name, Some(&record.host), numbers.with(&record), seen).await?;
    record.updated_at = edge.now();
    let what = format!("{} on {} has generation {}", record.name, record.host, record.generation);
    let writes = vec![Write::PutApp(record.clone())];
    edge.control.commit(Commit { at_ms: edge.now(), what, expect: Vec::new(), writes }).await?;
    own(edge, handle, &record).await
}

async fn own(edge: &Edge, handle: &HostHandle, record: &AppRecord) -> Result<(), NotYet> {
    handle.client.push_bundle(&record.digest, &edge.bundles.path(&record.digest)).await?;
    let placement = Placement {
        generation: record.generation,
        role: Role::Owner,
        version: record.version,
        digest: record.digest.clone(),
        exclusive: Some(record.exclusive),
    };
    // Not waited for: one slow application shall not keep the others from being given.
    handle.client.put_app(&record.name, &placement, false).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(host: &str, generation: u64) -> AppRecord {
        AppRecord {
            name: AppName::new("shop").unwrap(),
            host: host.into(),
            generation,
            moving: None,
            version: 2,
            digest: "d".into(),
            exclusive: true,
            created_at: 0,
            updated_at: 0,
        }
    }

    fn claim(role: Role, generation: u64) -> AppStatus {
        let (name, digest, state) = ("shop".into(), "d".into(), "ready".into());
        AppStatus { name, role, generation, version: 2, digest, state }
    }

    fn numbers(generation: u64) -> Numbers {
        Numbers { generation, version: 2 }
    }

    #[test]
    fn a_host_that_has_what_it_should_is_left_alone() {
        assert_eq!(decide("h1", Some(&record("h1", 3)), Some(&claim(Role::Owner, 3)), numbers(3)), None);
        assert_eq!(decide("h2", Some(&record("h1", 3)), None, numbers(3)), None);
        assert_eq!(decide("h2", Some(&record("h1", 3)), Some(&claim(Role::Absent, 2)), numbers(3)), None);
    }

    #[test]
    fn a_stale_owner_is_told_to_forget_with_a_number_that_it_accepts() {
        let repair = decide("h1", Some(&record("h2", 4)), Some(&claim(Role::Owner, 3)), numbers(4));
        assert_eq!(repair, Some(Repair::Forget { generation: 4 }));
        let burnt = decide("h1", Some(&record("h2", 4)), Some(&claim(Role::Incoming, 5)), numbers(5));
        assert_eq!(burnt, Some(Repair::Forget { generation: 5 }));
    }

    #[test]
    fn what_is_newer_than_anything_that_the_store_gave_out_is_left_alone() {
        let newer = decide("h1", Some(&record("h2", 4)), Some(&claim(Role::Owner, 6)), numbers(5));
        assert_eq!(newer, Some(Repair::Ahead { generation: 6, version: 2 }));
        let mut deployed = claim(Role::Owner, 4);
        deployed.version = 3;
        let newer = decide("h1", Some(&record("h2", 4)), Some(&deployed), numbers(5));
        assert_eq!(newer, Some(Repair::Ahead { generation: 4, version: 3 }));
        assert_eq!(decide("h1", None, Some(&deployed), numbers(5)), Some(Repair::Unknown));
    }

    #[test]
    fn an_owner_whose_version_the_store_never_gave_out_is_not_told_to_run_an_older_one() {
        for (role, generation) in [(Role::Owner, 3), (Role::Owner, 5), (Role::Draining, 3)] {
            let mut deployed = claim(role, generation);
            (deployed.version, deployed.digest) = (3, "e".into());
            let newer = decide("h1", Some(&record("h1", 3)), Some(&deployed), numbers(3));
            assert_eq!(newer, Some(Repair::Ahead { generation, version: 3 }), "{role:?}");
            // One that was given out and did not come to be the application's is replaced.
            let given = Numbers { generation: 3, version: 3 };
            let replaced = decide("h1", Some(&record("h1", 3)), Some(&deployed), given);
            assert!(matches!(replaced, Some(Repair::Own | Repair::OwnAbove(_))), "{role:?}: {replaced:?}");
        }
    }

    #[test]
    fn what_was_lost_or_is_older_is_given_again() {
        assert_eq!(decide("h1", Some(&record("h1", 3)), None, numbers(3)), Some(Repair::Own));
        assert_eq!(decide("h1", Some(&record("h1", 3)), Some(&claim(Role::Owner, 2)), numbers(3)), Some(Repair::Own));
        let mut other = claim(Role::Owner, 3);
        other.digest = "e".into();
        assert_eq!(decide("h1", Some(&record("h1", 3)), Some(&other), numbers(3)), Some(Repair::Own));
    }

    #[test]
    fn a_host_that_has_seen_more_than_the_store_gets_a_number_above() {
        let tombstone = claim(Role::Absent, 7);
        assert_eq!(decide("h1", Some(&record("h1", 3)), Some(&tombstone), numbers(5)), Some(Repair::OwnAbove(7)));
        let draining = claim(Role::Draining, 3);
        assert_eq!(decide("h1", Some(&record("h1", 3)), Some(&draining), numbers(3)), Some(Repair::OwnAbove(3)));
    }

    #[test]
    fn a_removed_application_is_forgotten_and_a_stranger_is_left_alone() {
        let known = decide("h1", None, Some(&claim(Role::Owner, 3)), numbers(3));
        assert_eq!(known, Some(Repair::Forget { generation: 3 }));
        assert_eq!(decide("h1", None, Some(&claim(Role::Owner, 3)), numbers(0)), Some(Repair::Unknown));
    }
}
