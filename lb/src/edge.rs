//! What the parts of the control side share: one value, handed around as `Arc<Edge>`.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use steady_table::AppName;

use crate::agents::Hosts;
use crate::agents::health::HostEvent;
use crate::bundles::Bundles;
use crate::config::Config;
use crate::control::Control;
use crate::metrics::Metrics;
use crate::reports::Reports;
use crate::store::{Millis, Store};
use crate::workflow::Tracker;

/// What the process knows of its data path; given by whoever started it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub version: String,
    pub workers: usize,
    /// `uring` or `epoll`.
    pub io: String,
    /// Why that driver, where another was wanted.
    pub io_reason: Option<String>,
    /// Where clients connect, with the ports that were really given.
    pub listeners: Vec<Listener>,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Listener {
    pub addr: std::net::SocketAddr,
    pub tls: bool,
}

/// The wall clock, as an argument.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// The machine's clock.
pub fn system_clock() -> Clock {
    Arc::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as Millis))
}

/// The control side of one edge.
pub struct Edge {
    pub facts: Facts,
    pub begun: Instant,
    pub clock: Clock,
    /// What is in force now.
    pub config: ArcSwap<Config>,
    pub control: Control,
    pub hosts: Arc<Hosts>,
    pub bundles: Bundles,
    pub workflows: Tracker,
    pub metrics: Arc<Metrics>,
    pub reports: Arc<Reports>,
    /// Where those that watch hosts tell what they find.
    pub host_events: tokio::sync::mpsc::Sender<HostEvent>,
    /// Held while hosts are written down or forgotten.
    pub registering: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Edge").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl Edge {
    pub fn now(&self) -> Millis {
        (self.clock)()
    }

    pub fn store(&self) -> &dyn Store {
        self.control.store()
    }

    pub fn drain_time(&self) -> Duration {
        self.config.load().timeouts.drain
    }

    /// Whether this name is the operator's own.
    pub fn is_reserved(&self, app: &AppName) -> bool {
        self.config.load().reserved.contains(app)
    }
}
