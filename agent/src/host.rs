//! Every application of this host: finds its actor, makes one for a new name, and looks after what they share.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use steady_cluster::channel::Capacity;
use steady_cluster::channel::talk::Event;
use tokio::sync::{mpsc, oneshot};

use crate::api::memory_bytes;
use crate::config::AppsConfig;
use crate::gate::Generation;
use crate::gate::{App, Apps, Notice, Process};
use crate::logs::{AppLog, Files};
use crate::records::{Record, is_app_name};
use crate::supervise::Shared;
use crate::supervise::actor::{self, AppHandle, Coming, Command, Drained, Place, Refusal, Waiter};
use crate::supervise::known::Known;

/// Applications whose generation is kept, those that have left included (a hundred octets and a record each): years of them. It
/// answers to an edge that makes up names.
const KNOWN_MAX: usize = 1_000_000;
/// Between two collections of unused bundles.
const COLLECT_EVERY: Duration = Duration::from_secs(600);

/// The applications. Shared by the API, the notices and the end.
#[derive(Debug)]
pub struct Host {
    pub shared: Arc<Shared>,
    known: Arc<Known>,
    /// Held while room is looked for and taken.
    room: Mutex<()>,
}

/// What the workers know before anything has been started: who is whose.
pub fn apps_of(records: &[Record], config: &AppsConfig) -> Apps {
    let apps = records.iter().filter(|record| !record.is_tombstone()).map(|record| {
        let name: Arc<str> = Arc::from(record.name.as_str());
        let process = if record.may_run() { Process::Starting } else { Process::Cold };
        let app = App {
            name: Arc::clone(&name),
            role: record.role,
            generation: record.generation,
            version: record.placement.as_ref().map_or(0, |placement| placement.version),
            process,
            queue_max: config.queue_max,
            queue_wait: config.queue_wait,
            response_timeout: config.response_timeout,
        };
        (name, Arc::new(app))
    });
    Apps { apps: apps.collect() }
}

impl Host {
    /// Starts an actor for every record of what is here.
    pub fn start(shared: Arc<Shared>, records: Vec<Record>) -> Arc<Self> {
        let host = Arc::new(Self { shared, known: Arc::default(), room: Mutex::default() });
        host.known.fill(records, |record| host.make(record));
        host
    }

    fn make(&self, record: Record) -> AppHandle {
        let files = Files {
            dir: self.shared.dirs.apps.join(&record.name).join("log"),
            bytes_max: self.shared.config.get().log_bytes_max,
            files_max: self.shared.config.get().log_files_max,
        };
        let log = AppLog::open(files, &self.shared.limits);
        actor::spawn(Arc::clone(&self.shared), Arc::downgrade(&self.known), record, log)
    }

    pub fn find(&self, name: &str) -> Option<AppHandle> {
        self.known.find(name)
    }

    /// Applications that have left and have no actor any more.
    pub fn left(&self) -> usize {
        self.known.left()
    }

    /// What this host is to the application, as far as it knows any.
    pub fn record(&self, name: &str) -> Record {
        self.known.record(name)
    }

    /// By name; of those that have left, the ones that still have an actor.
    pub fn all(&self) -> Vec<AppHandle> {
        let mut all = Vec::new();
        self.known.each(|name, handle| all.push((Arc::clone(name), handle.clone())));
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all.into_iter().map(|(_, handle)| handle).collect()
    }

    fn find_or_make(&self, name: &str) -> Result<AppHandle, Refusal> {
        if !is_app_name(name) {
            return Err(Refusal::Invalid(format!(
                "`{name}` cannot name an application: 1 to 63 lower-case letters, digits and inner dashes can"
            )));
        }
        if let Some(handle) = self.find(name) {
            return Ok(handle);
        }
        if self.known.len() >= KNOWN_MAX && self.record(name).generation == Generation(0) {
            return Err(Refusal::Conflict(format!("this host remembers {KNOWN_MAX} applications already")));
        }
        Ok(self.known.find_or_make(name, |record| self.make(record)))
    }

    /// As [`Host::find_or_make`], where the application is here or there is room for it, which it has from now on. Those that
    /// have left take none.
    fn find_or_take(&self, name: &str) -> Result<(AppHandle, Coming), Refusal> {
        let _alone = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let max = self.shared.config.get().apps_max;
        if !self.find(name).is_some_and(|handle| handle.takes_room())
            && self.known.here() >= max
            && self.all().iter().filter(|handle| handle.takes_room()).count() >= max
        {
            return Err(Refusal::Conflict(format!("this host has {max} applications already (apps.apps_max)")));
        }
        let handle = self.find_or_make(name)?;
        let coming = Coming::new(&handle.coming);
        Ok((handle, coming))
    }

    pub async fn place(&self, name: &str, place: Place, ready: Option<Waiter>) -> Result<AppHandle, Refusal> {
        let (handle, coming) = self.find_or_take(name)?;
        ask(&handle, |reply| Command::Place { place, ready, coming, reply }).await?;
        Ok(handle)
    }

    /// As [`Host::place`], and returns as soon as the application's actor has it in its queue.
    pub async fn begin_place(
        &self,
        name: &str,
        place: Place,
        ready: Option<Waiter>,
    ) -> Result<oneshot::Receiver<Result<(), Refusal>>, Refusal> {
        let (handle, coming) = self.find_or_take(name)?;
        hand_over(&handle, |reply| Command::Place { place, ready, coming, reply }).await
    }

    /// As [`Host::drain`], and returns as soon as the application's actor has it in its queue.
    pub async fn begin_drain(
        &self,
        name: &str,
        generation: Generation,
        deadline: Duration,
        forget: bool,
    ) -> Result<oneshot::Receiver<Result<Drained, Refusal>>, Refusal> {
        let handle = self.find_or_make(name)?;
        hand_over(&handle, |reply| Command::Drain { generation, deadline, forget, reply }).await
    }

    /// Also for an application that is not known here: its generation is remembered.
    pub async fn drain(
        &self,
        name: &str,
        generation: Generation,
        deadline: Duration,
        forget: bool,
    ) -> Result<Drained, Refusal> {
        let handle = self.find_or_make(name)?;
        ask(&handle, |reply| Command::Drain { generation, deadline, forget, reply }).await
    }

    pub async fn restart(&self, name: &str, ready: Option<Waiter>) -> Result<AppHandle, Refusal> {
        let unknown = || Refusal::Unknown(format!("no application `{name}` on this host"));
        let handle = self.find(name).ok_or_else(unknown)?;
        ask(&handle, |reply| Command::Restart { ready, reply }).await?;
        Ok(handle)
    }

    /// What this host can carry.
    pub fn capacity(&self) -> Capacity {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from) as u64;
        let apps_max = self.shared.config.get().apps_max as u64;
        Capacity { apps_max, cpus, memory_bytes: memory_bytes() }
    }

    /// Passes on what the workers tell, until they are gone.
    pub async fn heed(&self, mut notices: mpsc::Receiver<Notice>) {
        while let Some(notice) = notices.recv().await {
            match notice {
                Notice::Wake { app } => {
                    if let Some(handle) = self.find(&app) {
                        handle.wake.notify_one();
                    }
                }
                Notice::Broken { app, instance } => {
                    if let Some(handle) = self.find(&app) {
                        // A full queue loses it: the next periodic probe finds out as well.
                        let _ = handle.commands.try_send(Command::Doubt { instance });
                    }
                }
            }
        }
    }

    /// Has every application's limits follow the configuration, for ever.
    pub async fn follow_config(&self) {
        loop {
            self.shared.config.changed().await;
            self.shared.tell(Event::Capacity(self.capacity()));
            for handle in self.all() {
                // An actor that has ended has nothing to publish.
                let _ = handle.commands.send(Command::Publish).await;
            }
        }
    }

    /// Has the actors of applications that have left end: those that are held now do so the next time.
    pub fn collect_actors(&self) {
        self.known.each(|_, handle| {
            if handle.status.borrow().is_tombstone() {
                handle.wake.notify_one();
            }
        });
    }

    /// Removes unused bundles, and actors of what has left, from time to time, for ever.
    pub async fn collect(&self) {
        loop {
            self.collect_actors();
            let (bundles, grace) = (self.shared.bundles.clone(), self.shared.limits.bundle_grace);
            match tokio::task::spawn_blocking(move || bundles.collect(grace, SystemTime::now())).await {
                Ok(Ok(count)) => self.shared.counters.bundles_collected.add(count as u64),
                Ok(Err(error)) => tracing::warn!(%error, "unused bundles could not be removed"),
                Err(error) => tracing::error!(%error, "collecting bundles failed"),
            }
            tokio::time::sleep(COLLECT_EVERY).await;
        }
    }

    /// Stops every process; returns when none is left.
    pub async fn stop(&self) {
        let stopped = self.all().into_iter().map(|handle| async move {
            let (reply, done) = oneshot::channel();
            if handle.commands.send(Command::Shutdown { reply }).await.is_ok() {
                // An error: the actor has ended already, and its processes with it.
                let _ = done.await;
            }
        });
        join_all(stopped).await;
    }
}

async fn ask<T>(
    handle: &AppHandle,
    command: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Command,
) -> Result<T, Refusal> {
    hand_over(handle, command).await?.await.map_err(|_| ending())?
}

async fn hand_over<T>(
    handle: &AppHandle,
    command: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Command,
) -> Result<oneshot::Receiver<Result<T, Refusal>>, Refusal> {
    let (reply, answer) = oneshot::channel();
    handle.commands.send(command(reply)).await.map_err(|_| ending())?;
    Ok(answer)
}

fn ending() -> Refusal {
    Refusal::Broken("the agent is stopping".to_owned())
}
