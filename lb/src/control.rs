//! The one writer of what the workers see.
//!
//! ```text
//!   commit ─▶ would the table take it? ─▶ store ─▶ table file ─▶ snapshot ─▶ Plane::publish ─▶ every worker runs it
//! ```
//!
//! One task does this for one commit after another, so that store, table and snapshot never disagree about the order, and a
//! caller that goes away leaves nothing half done. The store wins: when the table's file cannot be written, it is written
//! anew from the store with the next change, and again by itself until it can be. Snapshots that the workers have let go of are
//! freed here, not by them.

mod start;

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use steady_table::{DomainName, Routes, TableDir};
use tokio::sync::{mpsc, oneshot};

use crate::certs::Certs;
use crate::cluster::Credentials;
use crate::derive::{self, Derived, derive};
use crate::limits::{CONTROL_QUEUE, RETRY_FIRST, RETRY_MOST, SETTLE};
use crate::metrics::Metrics;
use crate::snapshot::{HostState, Plane, Settings, Snapshot};
use crate::store::{Commit, Store, StoreError, Write};
pub use start::{Initial, publish_first, reconcile_table};

/// Looks at what the workers have reached, at first and at most this often.
const SETTLE_LOOK_FIRST: Duration = Duration::from_micros(50);
const SETTLE_LOOK_MOST: Duration = Duration::from_millis(5);
/// How often snapshots that nobody uses any more are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// A handle to the writer. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    commands: mpsc::Sender<Command>,
    published: Arc<ArcSwap<Published>>,
    plane: Arc<dyn Plane>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("publication", &self.published().publication).finish_non_exhaustive()
    }
}

/// What the workers were last given.
#[derive(Clone, Debug)]
pub struct Published {
    pub snapshot: Arc<Snapshot>,
    /// Its number; [`Control::settle`] waits for it.
    pub publication: u64,
    /// The table is behind the store, because its file could not be written.
    pub behind: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The routing table does not take this change; every reason is named. Nothing was changed.
    #[error("{}", .0.join("; "))]
    Refused(Vec<String>),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store has the change, the table's file not yet.
    #[error(
        "the change is stored, but the routing table cannot be written: {0}; look at the disk of state_dir. It comes into force by \
         itself as soon as that has room"
    )]
    Table(String),
    /// The table still misses an earlier change, because its file cannot be written, so that this one could not be judged.
    /// Nothing was changed.
    #[error(
        "nothing was changed, because the routing table misses an earlier change and cannot be written: {0}; look at the disk \
         of state_dir, then repeat"
    )]
    Behind(String),
    /// Some worker did not take a publication up.
    #[error("a worker still runs an older routing table after {} s", SETTLE.as_secs())]
    Unsettled,
    #[error("the edge is stopping")]
    Stopped,
}

enum Command {
    Commit(Commit, oneshot::Sender<Result<u64, ControlError>>),
    CatchUp(oneshot::Sender<Result<(), ControlError>>),
    Host(String, HostState),
    Settings(Box<Settings>),
    Certs(Certs),
    Cluster(Arc<Credentials>),
    /// Rest, after saying so, until told how it goes on.
    Hold(oneshot::Sender<()>, oneshot::Receiver<()>),
}

/// The writer rests as long as this lives: what is asked of it waits. See [`Control::hold`].
#[derive(Debug)]
pub struct Hold(oneshot::Sender<()>);

impl Hold {
    /// The writer ends: the table's directory is let go of, and whatever waited is told that the edge is stopping.
    pub fn end(self) {
        // A writer that is gone has ended.
        let _ = self.0.send(());
    }
}

impl Control {
    /// Starts the writer on what [`reconcile_table`] gave, and publishes it. It ends when every handle is dropped.
    pub fn start(
        dir: TableDir,
        initial: Initial,
        first: Option<Published>,
        store: Arc<dyn Store>,
        plane: Arc<dyn Plane>,
        metrics: Arc<Metrics>,
    ) -> Control {
        let published = publish_first(&*plane, &initial);
        let old = first.map(|first| (published.publication, first.snapshot)).into_iter().collect();
        let published = Arc::new(ArcSwap::from_pointee(published));
        let (commands, queue) = mpsc::channel(CONTROL_QUEUE);
        let writer = Writer {
            dir: Some(dir),
            routes: initial.routes,
            states: HashMap::new(),
            certs: initial.certs,
            cluster: initial.cluster,
            settings: initial.settings,
            store: Arc::clone(&store),
            plane: Arc::clone(&plane),
            published: Arc::clone(&published),
            old,
            behind: None,
            metrics: Arc::clone(&metrics),
        };
        tokio::spawn(writer.run(queue));
        Control { commands, published, plane, store, metrics }
    }

    /// Makes a change: stored, in the table's file, and published. The publication's number. On [`ControlError::Refused`],
    /// [`ControlError::Store`] and [`ControlError::Behind`] nothing was changed; on [`ControlError::Table`] it is stored.
    pub async fn commit(&self, commit: Commit) -> Result<u64, ControlError> {
        let (done, answer) = oneshot::channel();
        self.commands.send(Command::Commit(commit, done)).await.map_err(|_| ControlError::Stopped)?;
        answer.await.map_err(|_| ControlError::Stopped)?
    }

    /// Writes the table anew if it is behind the store.
    pub async fn catch_up(&self) -> Result<(), ControlError> {
        let (done, answer) = oneshot::channel();
        self.commands.send(Command::CatchUp(done)).await.map_err(|_| ControlError::Stopped)?;
        answer.await.map_err(|_| ControlError::Stopped)?
    }

    /// What the workers were last given.
    pub fn published(&self) -> Arc<Published> {
        self.published.load_full()
    }

    /// Waits until every worker runs what is published now, or something newer.
    pub async fn settle(&self) -> Result<(), ControlError> {
        let publication = self.published().publication;
        let begin = Instant::now();
        let mut pause = SETTLE_LOOK_FIRST;
        while self.plane.settled() < publication {
            if begin.elapsed() > SETTLE {
                return Err(ControlError::Unsettled);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(SETTLE_LOOK_MOST);
        }
        self.metrics.settled(begin.elapsed());
        Ok(())
    }

    /// Whether every worker runs what was published last, and that is what the store says.
    pub fn is_settled(&self) -> bool {
        let published = self.published();
        !published.behind && self.plane.settled() >= published.publication
    }

    pub async fn set_host(&self, host: &str, state: HostState) {
        self.tell(Command::Host(host.to_owned(), state)).await;
    }

    pub async fn set_settings(&self, settings: Settings) {
        self.tell(Command::Settings(Box::new(settings))).await;
    }

    pub async fn set_certs(&self, certs: Certs) {
        self.tell(Command::Certs(certs)).await;
    }

    pub async fn set_cluster(&self, credentials: Arc<Credentials>) {
        self.tell(Command::Cluster(credentials)).await;
    }

    /// Has the writer finish what it does and then rest: nothing changes any more in store, table and snapshot. `None`: it has
    /// ended.
    pub async fn hold(&self) -> Option<Hold> {
        let ((rests, rested), (go_on, told)) = (oneshot::channel(), oneshot::channel());
        self.commands.send(Command::Hold(rests, told)).await.ok()?;
        rested.await.ok()?;
        Some(Hold(go_on))
    }

    pub fn plane(&self) -> &dyn Plane {
        &*self.plane
    }

    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    async fn tell(&self, command: Command) {
        // A writer that is gone has nobody to tell it to.
        let _ = self.commands.send(command).await;
    }
}

struct Writer {
    /// Away only while a blocking call has it.
    dir: Option<TableDir>,
    routes: Arc<Routes>,
    states: HashMap<String, HostState>,
    certs: Certs,
    cluster: Option<Arc<Credentials>>,
    settings: Settings,
    store: Arc<dyn Store>,
    plane: Arc<dyn Plane>,
    published: Arc<ArcSwap<Published>>,
    /// What was published before, and the publication that replaced it.
    old: Vec<(u64, Arc<Snapshot>)>,
    /// The table misses what the store has; when it is written anew.
    behind: Option<Again>,
    metrics: Arc<Metrics>,
}

/// When something that failed is tried again.
#[derive(Clone, Copy, Debug)]
struct Again {
    at: tokio::time::Instant,
    pause: Duration,
}

impl Again {
    fn after(last: Option<Again>) -> Again {
        let pause = last.map_or(RETRY_FIRST, |last| (last.pause * 2).min(RETRY_MOST));
        Again { at: tokio::time::Instant::now() + pause, pause }
    }
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            let again = self.behind.map(|again| again.at);
            tokio::select! {
                command = queue.recv() => {
                    let Some(command) = command else { return };
                    if self.handle(command).await.is_break() {
                        return;
                    }
                }
                () = tokio::time::sleep_until(again.unwrap_or_else(tokio::time::Instant::now)), if again.is_some() => {
                    if self.catch_up().await.is_ok() {
                        tracing::info!("the routing table is what the store says again");
                    }
                }
                _ = sweep.tick() => self.sweep(),
            }
        }
    }

    async fn handle(&mut self, command: Command) -> ControlFlow<()> {
        match command {
            Command::Commit(commit, done) => {
                let result = self.commit(commit).await;
                if let Err(error) = &result {
                    self.metrics.commit_failed();
                    tracing::warn!(%error, "a change was not made");
                }
                // Whoever asked may have left; what is done is done.
                let _ = done.send(result);
            }
            Command::CatchUp(done) => {
                let result = if self.behind.is_some() { self.catch_up().await } else { Ok(()) };
                let _ = done.send(result);
            }
            Command::Hold(rests, told) => {
                // Where nobody waits for it any more it goes on at once.
                if rests.send(()).is_ok() && told.await.is_ok() {
                    return ControlFlow::Break(());
                }
            }
            Command::Host(host, state) => {
                // One of whom nothing is known is suspected.
                if self.states.insert(host, state).unwrap_or(HostState::Suspected) != state {
                    self.publish();
                }
            }
            Command::Settings(settings) => {
                if *settings != self.settings {
                    self.settings = *settings;
                    self.publish();
                }
            }
            Command::Cluster(credentials) => {
                self.cluster = Some(credentials);
                self.publish();
            }
            Command::Certs(certs) => {
                self.certs = certs;
                self.publish();
            }
        }
        ControlFlow::Continue(())
    }

    async fn commit(&mut self, commit: Commit) -> Result<u64, ControlError> {
        if !commit.changes_routes() {
            self.store.commit(commit).await?;
            self.metrics.committed();
            return Ok(self.published.load().publication);
        }
        if self.behind.is_some() {
            self.catch_up().await.map_err(|error| match error {
                ControlError::Table(why) => ControlError::Behind(why),
                error => error,
            })?;
        }
        let left_out = self.left_out(&commit).await?;
        let derived = derive(&self.routes, &commit, &left_out).map_err(ControlError::Refused)?;
        let revision = self.store.commit(commit).await?;
        self.metrics.committed();
        let written = match derived {
            Derived::Changes(changes) => {
                let routes = Arc::clone(&self.routes);
                self.write(move |dir| dir.apply(&routes, &changes, revision)).await
            }
            // The revision counts what the store says; the table follows with the next change.
            Derived::Nothing => return Ok(self.published.load().publication),
            Derived::Anew => self.write_anew(revision).await,
        };
        match written {
            Ok(()) => Ok(self.publish()),
            Err(error) => {
                tracing::error!(%error, "the routing table is written anew from the store");
                self.behind = Some(Again::after(None));
                // Whatever fails here, a store that cannot be read included: the change itself is stored.
                self.catch_up().await.map_err(|error| match error {
                    ControlError::Table(why) => ControlError::Table(why),
                    error => ControlError::Table(error.to_string()),
                })?;
                Ok(self.published.load().publication)
            }
        }
    }

    /// Custom domains that the commit removes and that only the store has: those of an application that is left out of the table.
    async fn left_out(&self, commit: &Commit) -> Result<HashSet<DomainName>, ControlError> {
        let mut left_out = HashSet::new();
        for write in &commit.writes {
            if let Write::RemoveCustom(domain) = write
                && self.routes.custom_domain(domain.as_str()).is_none()
                && self.store.custom(domain.clone()).await?.is_some()
            {
                left_out.insert(domain.clone());
            }
        }
        Ok(left_out)
    }

    /// Brings the table to what the store says, and tells everyone whether it is.
    async fn catch_up(&mut self) -> Result<(), ControlError> {
        let result = self.write_ahead().await;
        self.behind = result.is_err().then(|| Again::after(self.behind));
        self.publish();
        result
    }

    async fn write_ahead(&mut self) -> Result<(), ControlError> {
        let ahead = Commit {
            writes: vec![Write::RaiseRevision(self.routes.revision().saturating_add(1))],
            ..Commit::default()
        };
        let revision = self.store.commit(ahead).await?;
        self.write_anew(revision).await
    }

    async fn write_anew(&mut self, revision: u64) -> Result<(), ControlError> {
        let (contents, told) = derive::whole(self.store.load().await?);
        for reason in told {
            tracing::error!(reason, "a record of the store is left out of the routing table");
        }
        self.write(move |dir| dir.replace(contents, revision)).await
    }

    async fn write(
        &mut self,
        work: impl FnOnce(&mut TableDir) -> steady_table::Result<Routes> + Send + 'static,
    ) -> Result<(), ControlError> {
        let Some(mut dir) = self.dir.take() else {
            return Err(ControlError::Table("an earlier write of it panicked; restart this edge".into()));
        };
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&mut dir);
            (dir, result)
        });
        let (dir, result) = done.await.map_err(|error| ControlError::Table(error.to_string()))?;
        self.dir = Some(dir);
        self.routes = Arc::new(result.map_err(|error| ControlError::Table(error.to_string()))?);
        Ok(())
    }

    fn publish(&mut self) -> u64 {
        let known = |name: &str| self.states.get(name).copied().unwrap_or(HostState::Suspected);
        let snapshot = Arc::new(Snapshot {
            hosts: self.routes.hosts().iter().map(|host| known(host.name())).collect(),
            routes: Arc::clone(&self.routes),
            certs: self.certs.clone(),
            cluster: self.cluster.clone(),
            settings: self.settings.clone(),
        });
        let publication = self.plane.publish(Arc::clone(&snapshot));
        let behind = self.behind.is_some();
        let before = self.published.swap(Arc::new(Published { snapshot, publication, behind }));
        self.old.push((publication, Arc::clone(&before.snapshot)));
        self.metrics.published(self.routes.revision());
        drop(before);
        self.sweep();
        publication
    }

    /// Frees what was replaced, once no worker runs it and nobody else holds it.
    fn sweep(&mut self) {
        let settled = self.plane.settled();
        let in_use =
            |(replaced_by, snapshot): &(u64, Arc<Snapshot>)| settled < *replaced_by || Arc::strong_count(snapshot) > 1;
        // A large table takes milliseconds to unmap; that is ours to spend, not a worker's.
        self.old.retain(in_use);
        self.metrics.snapshots_held(self.old.len() + 1);
    }
}
