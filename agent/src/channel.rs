//! This host's way to an edge: one connection that it opens, keeps, and opens again (`docs/decisions/channel.md`).
//!
//! One task, [`Channel::keep`]: with a certificate it dials the edges of `[join]`, registers with everything that this host is
//! and has, and then answers what the edge asks with the same router as the control port, until the connection ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use steady_cluster::channel::dial::{DialError, dial, register};
use steady_cluster::channel::{Claim, Hold, Registration, VERSION};
use steady_cluster::tls;

use crate::agent::first_instance;
use crate::api::Facts;
use crate::gate::Role;
use crate::host::Host;
use crate::membership::{Credentials, Membership};
use crate::supervise::status::Status;

/// Between two rounds of dialling: the first pause, the longest, and the longest after a refusal, which only a change by
/// somebody ends.
const AGAIN: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(2);
const REFUSED_AGAIN_MAX: Duration = Duration::from_secs(15);
/// A channel that held for so long ended for another reason than the one before.
const HELD: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub struct Channel {
    membership: Arc<Membership>,
    host: Arc<Host>,
    facts: Facts,
    zone: String,
    start: u64,
    is_open: AtomicBool,
    opened: AtomicU64,
    failed: AtomicU64,
}

impl Channel {
    pub fn new(membership: Arc<Membership>, host: Arc<Host>, facts: Facts, zone: String) -> Arc<Channel> {
        let start = first_instance(SystemTime::now());
        let (is_open, opened, failed) = Default::default();
        Arc::new(Channel { membership, host, facts, zone, start, is_open, opened, failed })
    }

    /// Whether it is open; how often it was opened, and how often it could not be.
    pub fn counts(&self) -> (bool, u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (self.is_open.load(Ordering::Relaxed), read(&self.opened), read(&self.failed))
    }

    /// Keeps a channel open, for ever. `router`: what edges may ask.
    pub async fn keep(&self, router: Router) {
        let mut credentials = self.membership.published();
        let mut edges = self.membership.edges().to_vec();
        let mut told = String::new();
        let mut pause = AGAIN;
        loop {
            // The sender lives as long as the membership.
            let held = credentials.wait_for(Option::is_some).await.ok().and_then(|held| held.clone());
            let Some(held) = held else { return };
            let most = match self.once(&held, &mut edges, &router, &mut told).await {
                Ok(lasted) => {
                    if lasted >= HELD {
                        pause = AGAIN;
                    }
                    AGAIN_MAX
                }
                Err(error) => {
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    let said = error.to_string();
                    // What is tried every two seconds is said when it changes.
                    if said != told {
                        tracing::warn!("no channel to an edge; it is tried again: {said}");
                        told = said;
                    }
                    if matches!(error, DialError::Refused { .. }) { REFUSED_AGAIN_MAX } else { AGAIN_MAX }
                }
            };
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(most);
        }
    }

    /// One channel, from the dialling to its end; how long it held. The edge that answered comes first the next time, one that
    /// refused last.
    async fn once(
        &self,
        held: &Credentials,
        edges: &mut [SocketAddr],
        router: &Router,
        told: &mut String,
    ) -> Result<Duration, DialError> {
        let unusable = |error: rustls::Error| DialError::Nobody(vec![(edges[0], std::io::Error::other(error))]);
        let config = tls::private_client(&held.identity).map_err(unusable)?;
        let dialled = dial(edges, &config).await?;
        let at = edges.iter().position(|edge| *edge == dialled.addr).unwrap_or(0);
        let registered = register(dialled, &self.registration()).await;
        let channel = match registered {
            Ok(channel) => channel,
            Err(error) => {
                edges[at..].rotate_left(1);
                return Err(error);
            }
        };
        edges[..=at].rotate_right(1);
        self.opened.fetch_add(1, Ordering::Relaxed);
        told.clear();
        let (addr, begun) = (channel.addr, Instant::now());
        tracing::info!(edge = %channel.edge, %addr, "this host has its channel");
        let open = Opened::new(&self.is_open);
        let why = channel.serve(router.clone()).await;
        drop(open);
        tracing::warn!(%addr, why, after = ?begun.elapsed(), "the channel has ended; it is opened again");
        Ok(begun.elapsed())
    }

    /// Everything that an edge has to know of this host, now.
    fn registration(&self) -> Registration {
        let shared = &self.host.shared;
        let known = self.host.all();
        Registration {
            channel: VERSION,
            name: shared.host_name.clone(),
            zone: self.zone.clone(),
            start: self.start,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            data: self.facts.addr.clone(),
            control: self.facts.control.clone(),
            capacity: self.host.capacity(),
            apps: known.iter().filter_map(|handle| claim(&handle.status.borrow())).collect(),
        }
    }
}

/// True as long as it lives, however its owner ends.
struct Opened<'a>(&'a AtomicBool);

impl<'a> Opened<'a> {
    fn new(flag: &'a AtomicBool) -> Opened<'a> {
        flag.store(true, Ordering::Relaxed);
        Opened(flag)
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// What this host is to one application; `None` of one that has left.
fn claim(status: &Status) -> Option<Claim> {
    if status.is_tombstone() {
        return None;
    }
    let record = &status.record;
    let placement = record.placement.as_ref();
    Some(Claim {
        name: record.name.clone(),
        role: match record.role {
            Role::Owner => Hold::Owner,
            Role::Incoming => Hold::Incoming,
            Role::Draining => Hold::Draining,
            Role::Absent => Hold::Absent,
        },
        generation: record.generation.0,
        version: placement.map_or(0, |placement| u32::try_from(placement.version).unwrap_or(u32::MAX)),
        digest: placement.map_or_else(String::new, |placement| placement.digest.as_str().to_owned()),
        state: status.state.name().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use steady_cluster::channel::REGISTRATION_OCTETS_MAX;

    use super::*;
    use crate::limits::APPS_MAX;

    #[test]
    fn a_host_with_all_that_it_may_have_can_still_register() {
        let claim = Claim {
            name: "n".repeat(63),
            role: Hold::Incoming,
            generation: u64::MAX,
            version: u32::MAX,
            digest: "d".repeat(64),
            state: "starting".to_owned(),
        };
        let registration = Registration {
            name: "h".repeat(63),
            zone: "z".repeat(1024),
            data: "unix:/".repeat(100),
            apps: vec![claim; APPS_MAX as usize],
            ..Registration::default()
        };
        let octets = serde_json::to_vec(&registration).unwrap().len();
        assert!(octets <= REGISTRATION_OCTETS_MAX, "{octets}");
    }
}
