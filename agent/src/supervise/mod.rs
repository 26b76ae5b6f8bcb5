//! The life of applications: one actor each, and what all of them share.
//!
//! [`actor`] decides (which version, when to start, what the workers are told), [`known`] finds it, `launch` starts a process
//! and `keeper` keeps it, [`process`] is what both and the actor say to each other, [`ports`] are theirs, [`probe`] asks
//! whether it answers, [`spawner`] starts it so that it cannot outlive the agent, [`leftovers`] ends what slipped away.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use steady_cluster::channel::talk::Event;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{Notify, mpsc};

use crate::bundle::Bundles;
use crate::config::Live;
use crate::gate::{App, Apps, Plane};
use crate::limits::{Limits, TOLD_OCTETS_MAX};
use crate::records::Records;

pub mod actor;
pub mod backoff;
mod keeper;
pub mod known;
mod launch;
pub mod leftovers;
pub mod ports;
pub mod probe;
pub mod process;
pub mod spawner;
pub mod status;

/// Folders and files in `state_dir`.
#[derive(Clone, Debug)]
pub struct Dirs {
    /// `apps/NAME/`: record, log, home, tmp.
    pub apps: PathBuf,
    /// What runs now, written down.
    pub run: PathBuf,
    /// Where Bun applications listen; short enough for a socket's address.
    pub sockets: PathBuf,
    pub preload: PathBuf,
}

/// What every actor needs.
#[derive(Debug)]
pub struct Shared {
    pub config: Arc<Live>,
    pub limits: Limits,
    pub dirs: Dirs,
    pub host_name: String,
    /// Every process's `STEADY_STATE`.
    pub state_mark: String,
    pub spawner: spawner::Spawner,
    pub bundles: Bundles,
    pub records: Records,
    pub plane: PlaneRef,
    pub board: Board,
    pub changes: Changes,
    pub ports: ports::Ports,
    pub counters: Counters,
    pub instances: AtomicU64,
    /// What edges are told; see [`Shared::tell`].
    pub events: mpsc::Sender<Event>,
}

impl Shared {
    /// Has an edge told. Past [`EVENTS_MAX`](crate::limits::EVENTS_MAX) that wait it is counted and lost: no application waits for a disk.
    pub fn tell(&self, event: Event) {
        // A host that belongs to no cluster has nobody to tell.
        if let Err(mpsc::error::TrySendError::Full(_)) = self.events.try_send(event) {
            self.counters.events_lost.add(1);
        }
    }

    fn next_instance(&self) -> u64 {
        self.instances.fetch_add(1, Ordering::Relaxed)
    }
}

/// The data path.
#[derive(Clone)]
pub struct PlaneRef(pub Arc<dyn Plane>);

impl std::fmt::Debug for PlaneRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Plane")
    }
}

impl std::ops::Deref for PlaneRef {
    type Target = dyn Plane;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

/// What the workers are told: every application, replaced one at a time, published whole.
#[derive(Debug)]
pub struct Board {
    plane: PlaneRef,
    apps: Mutex<HashMap<Arc<str>, Arc<App>>>,
}

impl Board {
    /// `apps` are published with the first change; see [`Board::publish_all`].
    pub fn new(plane: PlaneRef, apps: Apps) -> Self {
        Self { plane, apps: Mutex::new(apps.apps) }
    }

    pub fn publish_all(&self) -> u64 {
        let apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        self.plane.publish(Arc::new(Apps { apps: apps.clone() }))
    }

    /// Publishes `app` in the place of what was known of it. Under the lock, so that publications are in order.
    pub fn set(&self, app: App) -> u64 {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        apps.insert(Arc::clone(&app.name), Arc::new(app));
        self.plane.publish(Arc::new(Apps { apps: apps.clone() }))
    }

    /// As [`Board::set`], of an application that has left: to the workers it is as one that was never here.
    pub fn unset(&self, name: &str) -> u64 {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        apps.remove(name);
        self.plane.publish(Arc::new(Apps { apps: apps.clone() }))
    }
}

/// Applications whose state changed, for whoever reports: each once, however often it did.
#[derive(Debug, Default)]
pub struct Changes {
    names: Mutex<HashSet<Arc<str>>>,
    noted: Notify,
}

impl Changes {
    pub fn note(&self, app: &Arc<str>) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(app));
        self.noted.notify_one();
    }

    /// Returns when something was noted, or was before.
    pub async fn noted(&self) {
        self.noted.notified().await;
    }

    pub fn take(&self) -> HashSet<Arc<str>> {
        std::mem::take(&mut *self.names.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What supervision counts, over all applications.
#[derive(Debug, Default)]
pub struct Counters {
    pub starts: Counter,
    pub ready: Counter,
    pub start_failures: Counter,
    pub crashes: Counter,
    pub hung: Counter,
    pub probe_failures: Counter,
    pub drains: Counter,
    pub requests_cut: Counter,
    pub wakes: Counter,
    pub record_failures: Counter,
    pub leftovers_killed: Counter,
    pub bundles_stored: Counter,
    pub bundles_refused: Counter,
    pub bundles_collected: Counter,
    pub api_refused: Counter,
    pub events_lost: Counter,
    /// Octets of the logs of applications that have left.
    pub log_lost: Counter,
}

/// A time as the API and the logs write it.
pub fn text_of(at: OffsetDateTime) -> String {
    let whole = at.replace_nanosecond(at.millisecond() as u32 * 1_000_000).unwrap_or(at);
    whole.format(&Rfc3339).unwrap_or_default()
}

/// A text that is told, cut at [`TOLD_OCTETS_MAX`].
pub fn told(mut text: String) -> String {
    if text.len() > TOLD_OCTETS_MAX {
        text.truncate(text.floor_char_boundary(TOLD_OCTETS_MAX - '…'.len_utf8()));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_told_has_an_end_between_two_characters() {
        for (text, octets) in [("a", TOLD_OCTETS_MAX), ("ä", TOLD_OCTETS_MAX - 1)] {
            let long = text.repeat(TOLD_OCTETS_MAX / text.len());
            assert_eq!(told(long.clone()), long);
            let cut = told(long + text);
            assert!(cut.ends_with('…') && cut.starts_with(text));
            assert_eq!(cut.len(), octets);
        }
    }
}
