//! From a configuration and a data path to a running edge, and back.
//!
//! The order matters: the last good table is published before anything that can fail is opened, so that an edge serves with
//! nothing else alive. Then the private port answers, then the store is opened (and tried again until it can be), then what
//! was under way is taken up, and only then hosts are watched.

mod base;
mod configured;
mod ending;
mod outside;
mod serving;
mod store;
mod table;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};

use crate::api::TokenError;
use crate::bundles::BundleError;
use crate::certs::Certs;
use crate::cluster::ClusterError;
use crate::config::{Config, Timeouts};
use crate::control::{Control, Initial, Published};
use crate::edge::{Clock, Edge, Facts};
use crate::limits::HOST_EVENTS;
use crate::reports::Reports;
use crate::signals::Order;
use crate::snapshot::Plane;
use crate::state_dir::StateDirError;
use crate::systemd;
use crate::upgrade::{self, Heir, TakeError, Taking};
use crate::workflow::Tracker;
use base::Base;
use ending::shut_down;
use outside::{Outside, Pending, Unstored};
pub(crate) use serving::watch_new;
use store::open_store;

/// The private port among the listening sockets.
pub(crate) const PRIVATE: &str = "private";
/// The directory of the routing table, in the state directory.
pub(crate) const TABLE: &str = "table";
/// The file of the store, in the state directory.
const STORE: &str = "store.db";

/// What an edge runs with, beside its configuration.
pub struct Parts {
    pub facts: Facts,
    pub clock: Clock,
    /// Read again on [`Order::Reload`]; `None`: there is no file.
    pub config_file: Option<PathBuf>,
    pub orders: mpsc::Receiver<Order>,
    /// TLS towards clients, whenever it changes; `None` in it: no certificate yet.
    pub certs: watch::Receiver<Certs>,
    /// Called on [`Order::Reload`] too: reopens logs, looks at certificates.
    pub on_reload: Box<dyn Fn() + Send + Sync>,
    /// Told once the private port answers.
    pub ready: Option<oneshot::Sender<Ready>>,
    /// How this process takes the place of another, and another its own.
    pub upgrade: upgrade::Parts,
}

/// How a run ended.
#[derive(Debug)]
pub enum Ended {
    /// By an order. What is left ends with the runtime: then the store's thread closes its file, if there was one.
    Stopped(Option<std::thread::JoinHandle<()>>),
    /// Another process is the edge now. The workers drain, and wait for nobody else.
    Replaced(Box<Replaced>),
}

/// What is left to do for a process that was replaced: see [`upgrade::Lingering`].
#[derive(Debug)]
pub struct Replaced {
    pub heir: Heir,
    /// `None`: there never was a table.
    pub published: Option<Arc<Published>>,
    /// Ends once the store is closed.
    pub store: Option<std::thread::JoinHandle<()>>,
    /// When what is left is cut.
    pub until: Instant,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// Where the private port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    pub private: SocketAddr,
    pub token_file: PathBuf,
}

/// Why an edge could not begin. Once it runs, nothing ends it but an order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Bundles(#[from] BundleError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("the routing table: {0}")]
    Table(#[from] steady_table::Error),
    #[error("the private port {addr} cannot be opened: {source}")]
    Private { addr: SocketAddr, source: io::Error },
    #[error("there is no routing table to serve from, and the store cannot be used: {0}")]
    Nothing(String),
    #[error(transparent)]
    Take(#[from] TakeError),
    #[error("nothing was taken over: {0}")]
    NotTaken(String),
}

/// Runs an edge's control side on `plane` until it is told to stop, or replaced. Call it on a runtime that ends with it.
pub async fn run(config: Config, plane: Arc<dyn Plane>, mut parts: Parts) -> Result<Ended, RunError> {
    let mut taking = parts.upgrade.taking.take();
    let ended = hold_and_serve(config, plane, parts, taking.as_mut()).await;
    if let (Err(error), Some(taking)) = (&ended, &mut taking) {
        taking.fail(&error.to_string()).await;
    }
    ended
}

async fn hold_and_serve(
    config: Config,
    plane: Arc<dyn Plane>,
    mut parts: Parts,
    taking: Option<&mut Taking>,
) -> Result<Ended, RunError> {
    let (mut base, table) = Base::open(&config, &plane, &mut parts, taking).await?;
    let Parts { facts, clock, config_file, orders, certs, on_reload, upgrade, .. } = parts;
    let (desk, pending) = (base.desk.take(), Pending::default());
    let mut outside = Outside { orders, certs, desk, upgrade, config_file, on_reload, pending };
    let store_file = base.state.path(STORE);
    let mut unstored = Unstored {
        plane: &*plane,
        api: &base.api,
        settings: config.settings(),
        credentials: base.cluster.published(),
        first: table.first,
    };
    // Until the store is there, only an order to stop matters, or a process that replaces this one.
    let opened = tokio::select! {
        opened = open_store(&store_file, table.dir, table.routes, &base.api) => Ok(opened?),
        heir = outside.without_store(&mut unstored) => Err(heir),
    };
    let (first, mut credentials) = (unstored.first, unstored.credentials);
    let (heir, left) = match opened {
        Err(heir) => (heir, Left { published: first.map(Arc::new), timeouts: config.timeouts, store: None }),
        Ok(opened) => {
            let (store, dir, routes) = (opened.store, opened.dir, opened.routes);
            let initial = Initial {
                routes,
                certs: outside.certs.borrow_and_update().clone(),
                cluster: Some(credentials.borrow_and_update().clone()),
                settings: config.settings(),
            };
            let hosts = base.hosts(&config, Arc::clone(&store));
            let metrics = Arc::clone(&base.metrics);
            let control = Control::start(dir, initial, first, store, Arc::clone(&plane), Arc::clone(&metrics));
            let (host_events, events) = mpsc::channel(HOST_EVENTS);
            let edge = Arc::new(Edge {
                facts,
                begun: Instant::now(),
                clock,
                config: ArcSwap::from_pointee(config),
                control,
                hosts,
                bundles: base.bundles.clone(),
                workflows: Tracker::default(),
                metrics,
                reports: Arc::new(Reports::new(plane.meters())),
                host_events,
                registering: tokio::sync::Mutex::default(),
            });
            outside.pending.unapplied =
                !serving::begin(&edge, opened.contents, opened.workflows, credentials, events).await;
            base.api.open(Arc::clone(&edge));
            let heir = outside.obey(&edge, &base.api).await;
            let timeouts = edge.config.load().timeouts.clone();
            (heir, Left { published: Some(edge.control.published()), timeouts, store: Some(opened.thread) })
        }
    };
    Ok(end(&*plane, base, outside, heir, left).await)
}

/// What remains of an edge's control side when it ends.
struct Left {
    published: Option<Arc<Published>>,
    timeouts: Timeouts,
    /// Ends once the store is closed.
    store: Option<std::thread::JoinHandle<()>>,
}

/// Lets the data path finish, or carry what it has beside an heir, and ends the private port.
async fn end(plane: &dyn Plane, base: Base, mut outside: Outside, heir: Option<Heir>, left: Left) -> Ended {
    base.api.stop();
    if let Some(offer) = &outside.upgrade.offer {
        offer.close();
    }
    let until = Instant::now() + left.timeouts.upgrade;
    match &heir {
        None => {
            systemd::notify("STOPPING=1");
            shut_down(plane, &outside.upgrade.elders, left.timeouts.drain, &mut outside.orders).await;
        }
        Some(_) => plane.drain(left.timeouts.upgrade),
    }
    base.port.close(heir.is_some()).await;
    match heir {
        None => Ended::Stopped(left.store),
        Some(heir) => Ended::Replaced(Box::new(Replaced { heir, published: left.published, store: left.store, until })),
    }
}
