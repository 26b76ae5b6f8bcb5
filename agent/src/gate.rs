//! Where the agent's two halves meet: what control publishes for the workers, and what it asks of them.
//!
//! Control owns the life of every application and publishes an immutable [`Apps`] after each change. A worker that gets a
//! request looks its application up there: it forwards to the ready process, parks the request and asks control to wake
//! the application, or refuses it with a mark that lets the edge send it elsewhere.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use steady_proxy::log::LogCounters;
use steady_proxy::registry::Oversight;
use steady_proxy::sample::Samples;
use steady_ring::Addr;
use steady_timing::{Meters, Pen};

/// A placement's number: it grows with every move of the application. A host that holds a smaller one is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What this host is to an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It runs here, or may be started here.
    Owner,
    /// It will run here: prepare, park requests, never start it if it is exclusive.
    Incoming,
    /// It is leaving: finish what has begun, refuse what has not.
    Draining,
    /// It is not here (any more): refuse.
    Absent,
}

/// What an application speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    /// HTTP/2 with prior knowledge, cleartext.
    H2c,
}

/// Whether a request can be forwarded to the application's process now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Process {
    /// Not running; a wake starts it. Requests park.
    Cold,
    /// Starting, or starting again after a crash within its back-off. Requests park.
    Starting,
    /// A real HTTP answer came from this address. `instance` differs between any two starts on this host.
    Ready { addr: Addr, protocol: Protocol, instance: u64 },
    /// It cannot run until someone changes something (the reason is for people). Requests get 502.
    Failed { reason: Arc<str> },
}

/// One application as the workers see it.
#[derive(Clone, Debug)]
pub struct App {
    pub name: Arc<str>,
    pub role: Role,
    pub generation: Generation,
    /// Of what runs, or would; 0: nothing was ever placed here.
    pub version: u64,
    pub process: Process,
    /// Requests that may wait at once, over all workers, before their bodies are read.
    pub queue_max: u32,
    /// How long one may wait.
    pub queue_wait: Duration,
    /// The application's own deadline for the head of its response.
    pub response_timeout: Duration,
}

/// What is measured: one version of an application.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    pub app: Arc<str>,
    pub version: u64,
}

/// What each worker measures of it: durations of the application, of waiting for it, and of the agent itself.
pub type AppPen = Pen<Subject, 3>;
pub type AppMeters = Meters<Subject, 3>;

/// Every application this host knows. Immutable; replaced whole.
#[derive(Clone, Debug, Default)]
pub struct Apps {
    pub apps: HashMap<Arc<str>, Arc<App>>,
}

/// What control asks of the data path. Implemented by the workers; by a fake in control's tests.
pub trait Plane: Send + Sync {
    /// Makes `apps` the truth for every request from now on, wakes the workers, and returns the publication's number.
    fn publish(&self, apps: Arc<Apps>) -> u64;

    /// The smallest publication that every worker runs by now. Once it reaches a number, no worker admits a request by
    /// an older truth.
    fn settled(&self) -> u64;

    /// Requests of this application that are with its process now, over all workers (tunnels and streams included).
    fn in_flight(&self, app: &str) -> u64;

    /// Those of them that are with one process of it: during a change of versions the old one ends when it has none.
    fn in_flight_of(&self, app: &str, instance: u64) -> u64;

    /// Requests of this application that are parked now, over all workers.
    fn parked(&self, app: &str) -> u64;

    /// Ends every request of this application that is still with its process (the drain deadline passed). The count
    /// shows in the metrics.
    fn cut(&self, app: &str);

    /// Stops accepting, finishes what has begun, and returns at once; `is_drained` tells the end.
    fn drain(&self, deadline: Duration);

    fn is_drained(&self) -> bool;

    /// Counters for the metrics: one entry a worker.
    fn samples(&self) -> Vec<Arc<dyn Samples + Send + Sync>>;

    /// What the request log wrote and lost; `None`: there is none.
    fn log(&self) -> Option<Arc<LogCounters>> {
        None
    }

    /// The exchanges under way, for operators; `None`: there are no workers.
    fn oversight(&self) -> Option<Oversight> {
        None
    }

    /// Where the workers measure applications.
    fn meters(&self) -> Arc<AppMeters> {
        Arc::new(AppMeters::new(0))
    }
}

/// What a worker tells control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A request waits for this application: start it.
    Wake { app: Arc<str> },
    /// The application's process refused a connection or broke one: look at it.
    Broken { app: Arc<str>, instance: u64 },
}
