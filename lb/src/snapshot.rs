//! Where the edge's two halves meet: what control publishes for the workers, and what it asks of them.

use std::sync::Arc;
use std::time::Duration;

use steady_proxy::Bounds;
use steady_proxy::log::LogCounters;
use steady_proxy::registry::Oversight;
use steady_proxy::sample::Samples;
use steady_table::Routes;

use crate::cluster::Credentials;
use crate::data::Rules;
use crate::reports::EdgeMeters;

/// Everything a worker needs to decide about a request, in one piece, so that a change is atomic. Immutable.
#[derive(Debug)]
pub struct Snapshot {
    /// Applications, hosts and domains.
    pub routes: Arc<Routes>,
    /// What control knows of each host, by the table's host index.
    pub hosts: Vec<HostState>,
    /// TLS towards clients; without a certificate handshakes are refused.
    pub certs: crate::certs::Certs,
    /// TLS towards hosts; `None`: there is no cluster, and all are reached in the clear.
    pub cluster: Option<Arc<Credentials>>,
    pub settings: Settings,
}

/// One host as control sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostState {
    Up,
    /// Does not answer on its control side; its data path is still used.
    Suspected,
    /// Down: requests are answered 502 at once.
    Down,
}

/// What may be changed while running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// From the connection's first byte, or the end of the last response, to a whole head.
    pub header_timeout: Duration,
    /// A connection without any request.
    pub idle_timeout: Duration,
    /// From the request's end (or 100-continue) to the response's head.
    pub response_timeout: Duration,
    /// A tunnel, or a body, in which nothing moves.
    pub tunnel_timeout: Duration,
    /// A whole exchange; `None`: no bound (streams and tunnels).
    pub total_timeout: Option<Duration>,
    /// How long a request may wait for a probe's verdict.
    pub probe_timeout: Duration,
    /// How long a request may be parked at the edge.
    pub park_timeout: Duration,
    /// When hosts that fail get no requests for a while.
    pub breaker: Rules,
    /// Of the workers; `None`: those that they began with.
    pub bounds: Option<Arc<Bounds>>,
    /// Networks whose `Forwarded`/`X-Forwarded-*` are believed.
    pub trusted: Vec<Network>,
    /// Add `Server-Timing` to every answer.
    pub server_timing: bool,
    /// Hosts on this machine that did not join their cluster: reached in the clear.
    pub plain_hosts: Vec<String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            response_timeout: Duration::from_secs(60),
            tunnel_timeout: Duration::from_secs(3600),
            total_timeout: None,
            probe_timeout: Duration::from_secs(2),
            park_timeout: Duration::from_secs(30),
            breaker: Rules::default(),
            bounds: None,
            trusted: Vec::new(),
            server_timing: false,
            plain_hosts: Vec::new(),
        }
    }
}

/// An IP network, `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    pub addr: std::net::IpAddr,
    pub prefix: u8,
}

impl Network {
    /// Whether the address lies in it. Addresses of the other family never do.
    pub fn contains(&self, ip: std::net::IpAddr) -> bool {
        use std::net::IpAddr::{V4, V6};
        let shift = |width: u8| u32::from(width.saturating_sub(self.prefix));
        match (self.addr, ip) {
            (V4(net), V4(ip)) => (net.to_bits() ^ ip.to_bits()).checked_shr(shift(32)).unwrap_or(0) == 0,
            (V6(net), V6(ip)) => (net.to_bits() ^ ip.to_bits()).checked_shr(shift(128)).unwrap_or(0) == 0,
            _ => false,
        }
    }
}

/// What control asks of the data path. Implemented by the workers; by a fake in control's tests.
pub trait Plane: Send + Sync {
    /// Makes `snapshot` the truth for every request from now on, wakes the workers, and returns the publication's number.
    /// The old one is handed back to control's thread and freed there.
    fn publish(&self, snapshot: Arc<Snapshot>) -> u64;

    /// The smallest publication that every worker runs by now.
    fn settled(&self) -> u64;

    /// Stops accepting, finishes what has begun (GOAWAY, `Connection: close`), and returns at once.
    fn drain(&self, deadline: Duration);

    /// Everything that was begun before the drain has ended, or the deadline has passed.
    fn is_drained(&self) -> bool;

    /// Why the workers do not all run; `None`: they do, or have not begun.
    fn failure(&self) -> Option<String> {
        None
    }

    /// Counters for the metrics: one entry a worker.
    fn samples(&self) -> Vec<Arc<dyn Samples + Send + Sync>>;

    /// What the access log wrote and lost; `None`: there is none.
    fn log(&self) -> Option<Arc<LogCounters>> {
        None
    }

    /// The exchanges under way, for operators; `None`: there are no workers yet.
    fn oversight(&self) -> Option<Oversight> {
        None
    }

    /// Where the workers measure applications.
    fn meters(&self) -> Arc<EdgeMeters> {
        Arc::new(EdgeMeters::new(0))
    }
}
