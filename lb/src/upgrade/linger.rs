//! What an old process does once it was replaced: it carries what it has to its end, and follows the routing table that the
//! new one writes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use steady_proxy::log::{LogHandle, LogSink};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

use super::old::Heir;
use super::wire::{self, Message};
use crate::control::Published;
use crate::data::DataPlane;
use crate::limits::{UPGRADE_STORE, UPGRADE_TABLE_LOOK};
use crate::signals::{self, Order};
use crate::snapshot::{HostState, Plane, Snapshot};

/// How long the control side's tasks may take to notice that their runtime ends.
const RUNTIME: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Debug)]
pub struct Lingering {
    pub heir: Heir,
    pub plane: Arc<DataPlane>,
    pub published: Option<Arc<Published>>,
    pub store: Option<thread::JoinHandle<()>>,
    /// When what is left is cut.
    pub until: Instant,
    pub table: PathBuf,
    pub log: Option<LogSink>,
}

impl Lingering {
    /// Ends the control side with its runtime, lets the new process have everything, and goes on until nothing is left to
    /// carry. The workers drain already.
    pub fn run(self, control: Runtime) -> Result<(), String> {
        let Lingering { heir, plane, published, store, until, table, log } = self;
        let pid = heir.pid;
        let stream = control.block_on(async { heir.into_std() });
        // With the runtime everything ends that could change anything: workflows, watches, connections of the private port.
        control.shutdown_timeout(RUNTIME);
        let begun = Instant::now();
        let has_let_go = || plane.is_deaf() && store.as_ref().is_none_or(thread::JoinHandle::is_finished);
        while !has_let_go() && begun.elapsed() < UPGRADE_STORE {
            thread::sleep(LOOK);
        }
        let told = stream.and_then(|mut stream| wire::send_blocking(&mut stream, &Message::Yours));
        if let Err(error) = told {
            tracing::error!(pid, %error, "the new process ended as it took over: start an edge");
        }
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        let handle = log.as_ref().map(LogSink::handle);
        let follow = published.map(|published| Follower::new(table, published));
        runtime.block_on(carry(&plane, until, follow, handle.as_ref()))?;
        if let Some(plane) = Arc::into_inner(plane) {
            plane.stop();
        }
        Ok(())
    }
}

async fn carry(
    plane: &DataPlane,
    until: Instant,
    mut follow: Option<Follower>,
    log: Option<&LogHandle>,
) -> Result<(), String> {
    let orders = signals::listen().map_err(|error| error.to_string())?;
    let connections = plane.connections();
    tracing::info!(connections, "replaced: what is left is carried to its end");
    let told = obey(orders, log);
    tokio::pin!(told);
    let mut table = tokio::time::interval(UPGRADE_TABLE_LOOK);
    let mut drained = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            () = &mut told => {
                let connections = plane.connections();
                tracing::warn!(connections, "told to end: what is left is cut");
                return Ok(());
            }
            _ = drained.tick() => {
                if plane.is_drained() {
                    let cut = Instant::now() >= until;
                    tracing::info!(cut, "nothing is left; the old process ends");
                    return Ok(());
                }
                if let Some(reason) = plane.failure() {
                    return Err(reason);
                }
            }
            _ = table.tick() => {
                if let Some(follow) = &mut follow {
                    follow.look(plane);
                }
            }
        }
    }
}

/// Returns when it is told to end.
async fn obey(mut orders: mpsc::Receiver<Order>, log: Option<&LogHandle>) {
    while let Some(order) = orders.recv().await {
        match order {
            Order::Stop => return,
            Order::Reload => {
                if let Some(log) = log {
                    log.reopen();
                }
            }
            Order::Upgrade => tracing::warn!("this process was replaced: tell the one that took its place"),
        }
    }
    std::future::pending().await
}

/// Publishes to the draining workers what the new process writes to the table's files, so that a late request on an old
/// connection still finds an application that has moved.
struct Follower {
    dir: PathBuf,
    last: Arc<Snapshot>,
    states: HashMap<String, HostState>,
    seen: Option<Seen>,
}

/// Names, lengths and times of the table's files.
type Seen = Vec<(std::ffi::OsString, u64, Option<SystemTime>)>;

impl Follower {
    fn new(dir: PathBuf, published: Arc<Published>) -> Follower {
        let last = Arc::clone(&published.snapshot);
        let names = last.routes.hosts().iter().map(|host| host.name().to_owned());
        let states = names.zip(last.hosts.iter().copied()).collect();
        Follower { dir, last, states, seen: None }
    }

    fn look(&mut self, plane: &dyn Plane) {
        let now = seen(&self.dir);
        if now.is_none() || now == self.seen {
            return;
        }
        let routes = match steady_table::open_latest(&self.dir) {
            Ok((Some(routes), _)) => routes,
            // A file that is being replaced; the next look finds it whole.
            Ok((None, _)) | Err(_) => return,
        };
        self.seen = now;
        if routes.revision() <= self.last.routes.revision() {
            return;
        }
        let state = |name: &str| self.states.get(name).copied().unwrap_or(HostState::Suspected);
        self.last = Arc::new(Snapshot {
            hosts: routes.hosts().iter().map(|host| state(host.name())).collect(),
            routes: Arc::new(routes),
            certs: self.last.certs.clone(),
            cluster: self.last.cluster.clone(),
            settings: self.last.settings.clone(),
        });
        plane.publish(Arc::clone(&self.last));
    }
}

fn seen(dir: &Path) -> Option<Seen> {
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(dir).ok()? {
        let entry = entry.ok()?;
        let about = entry.metadata().ok()?;
        seen.push((entry.file_name(), about.len(), about.modified().ok()));
    }
    seen.sort();
    Some(seen)
}
