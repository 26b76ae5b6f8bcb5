//! The hosts of the table as a worker sees them: how each is reached, how busy and how well it is.

use std::sync::Arc;
use std::time::Duration;

use steady_cluster::{Member, Role};
use steady_proxy::{Protocol, Target, UpstreamTls};
use steady_ring::Addr;
use steady_table::HostIndex;

use super::breaker::{Breaker, Streak};
use crate::snapshot::{HostState, Snapshot};

/// What of a request's body is kept until the agent has accepted the request; the agent's initial stream window.
const REPLAY_BYTES_MAX: u32 = 64 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// See the module. By the table's index.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    entries: Vec<HostEntry>,
    epoch: u64,
}

/// A host of the table, made ready for use.
#[derive(Debug)]
pub(super) struct HostEntry {
    pub name: Box<str>,
    /// `None`: the table's text is no address, which its writer has checked.
    addr: Option<Addr>,
    /// Connections are shared under this; another address, another key.
    upstream: u64,
    tls: HostTls,
    pub state: HostState,
    /// Requests of this worker that are with it now.
    pub in_flight: u32,
    pub breaker: Breaker,
    pub streak: Streak,
}

/// How a host is reached.
#[derive(Debug)]
enum HostTls {
    Clear,
    Mutual(Arc<UpstreamTls>),
    /// No certificate can say its name.
    Impossible,
}

impl Hosts {
    /// Grows when the same index means another host.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn get(&self, host: HostIndex) -> Option<&HostEntry> {
        self.entries.get(host.0 as usize)
    }

    pub(super) fn get_mut(&mut self, host: HostIndex) -> Option<&mut HostEntry> {
        self.entries.get_mut(host.0 as usize)
    }

    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    /// How many get no requests for a while.
    pub(super) fn ejected(&self) -> usize {
        self.entries.iter().filter(|entry| entry.breaker.is_open()).count()
    }

    /// Another table is in force. Gives the hosts that there were before.
    pub(super) fn published(&mut self, snapshot: &Snapshot) -> Hosts {
        let number = snapshot.cluster.as_ref().map_or(0, |credentials| credentials.number);
        let states = snapshot.hosts.iter().copied().chain(std::iter::repeat(HostState::Up));
        let entries = snapshot.routes.hosts().iter().zip(states).map(|(host, state)| {
            let known = self.entries.iter().find(|known| *known.name == *host.name());
            let addr = host.addr().parse().ok();
            // Control that has seen it come back knows better; so does one that has moved it.
            let rated =
                known.filter(|known| known.state == state || state != HostState::Up).filter(|known| known.addr == addr);
            HostEntry {
                name: host.name().into(),
                upstream: upstream_key(host.name(), host.addr(), number),
                tls: HostTls::of(snapshot, host.name()),
                state,
                in_flight: known.map_or(0, |known| known.in_flight),
                breaker: rated.map_or_else(Breaker::default, |known| known.breaker.clone()),
                streak: rated.map_or_else(Streak::default, |known| known.streak.clone()),
                addr,
            }
        });
        let mut now = Hosts { entries: entries.collect(), epoch: self.epoch };
        let stays = |(before, now): (&HostEntry, &HostEntry)| before.name == now.name;
        if now.count() < self.count() || !self.entries.iter().zip(&now.entries).all(stays) {
            now.epoch += 1;
            // What is with them ends under an index that means nothing any more.
            now.entries.iter_mut().for_each(|host| host.in_flight = 0);
        }
        std::mem::replace(self, now)
    }

    /// Where requests for this host go. `None`: it cannot be reached.
    pub(super) fn target(&self, host: HostIndex, response_timeout: Duration) -> Option<Target> {
        let entry = self.get(host)?;
        Some(Target {
            upstream: entry.upstream,
            addr: entry.addr.clone()?,
            protocol: Protocol::H2c,
            tls: match &entry.tls {
                HostTls::Clear => None,
                HostTls::Mutual(tls) => Some(Arc::clone(tls)),
                HostTls::Impossible => return None,
            },
            connect_timeout: CONNECT_TIMEOUT,
            response_timeout,
            replay_bytes_max: REPLAY_BYTES_MAX,
            pings: true,
        })
    }
}

impl HostTls {
    fn of(snapshot: &Snapshot, host: &str) -> HostTls {
        let Some(credentials) = &snapshot.cluster else { return HostTls::Clear };
        if snapshot.settings.plain_hosts.iter().any(|plain| plain == host) {
            return HostTls::Clear;
        }
        let Ok(member) = Member::new(Role::Host, host) else { return HostTls::Impossible };
        let config = Arc::clone(&credentials.data_client);
        HostTls::Mutual(Arc::new(UpstreamTls { config, name: member.server_name() }))
    }
}

/// FNV-1a over name, address and what we show: which connections are shared.
fn upstream_key(name: &str, addr: &str, credentials: u64) -> u64 {
    let bytes = name.bytes().chain([0]).chain(addr.bytes()).chain([0]).chain(credentials.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
