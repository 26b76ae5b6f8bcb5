//! The hosts: a client to each agent, and what is known of each right now.

pub mod channel;
pub mod client;
pub mod health;
pub mod orders;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use steady_cluster::connect::Configs;
use steady_cluster::{Member, Role};
use steady_stream::io::Standing;
use steady_table::AppName;

use crate::snapshot::HostState;
use crate::store::HostRecord;
use channel::Slot;
use client::{AgentClient, HostInfo};
use orders::{Orders, Streams};

/// Every host that the store knows.
#[derive(Debug)]
pub struct Hosts {
    by_name: DashMap<String, Arc<HostHandle>>,
    /// The channels of hosts that register.
    slots: DashMap<String, Arc<Slot>>,
    /// How hosts that joined are reached.
    tls: Configs,
    streams: Streams,
}

/// One host: how to talk to its agent, and what the health check last found.
#[derive(Debug)]
pub struct HostHandle {
    pub record: HostRecord,
    pub client: AgentClient,
    /// Of a host that registers.
    pub slot: Option<Arc<Slot>>,
    live: Mutex<Live>,
}

/// What is known of a host now.
#[derive(Clone, Debug)]
pub struct Live {
    pub state: HostState,
    /// Its agent's last answer.
    pub seen: Option<Instant>,
    pub info: Option<HostInfo>,
}

/// A host's record names an address that is none. The configuration is checked, so another program wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "host {host} with the control address {control:?} cannot be reached so: correct its name (lower case) or its address in the configuration"
)]
pub struct BadControl {
    pub host: String,
    pub control: String,
}

impl HostHandle {
    /// One that registers, with the slot of its channel.
    fn registered(record: HostRecord, slot: Arc<Slot>) -> HostHandle {
        let client = AgentClient::over_channel(&record.name, Arc::clone(&slot));
        HostHandle { record, client, slot: Some(slot), live: Mutex::new(Live::unknown()) }
    }

    /// One that is reached at its address. `tls`: what an edge shows to hosts that joined.
    fn dialled(record: HostRecord, tls: &Configs) -> Result<HostHandle, BadControl> {
        let addr: SocketAddr = record
            .control
            .parse()
            .map_err(|_| BadControl { host: record.name.clone(), control: record.control.clone() })?;
        let client = match &*record.token_file {
            "" => {
                let member = Member::new(Role::Host, &record.name);
                let member =
                    member.map_err(|_| BadControl { host: record.name.clone(), control: record.control.clone() })?;
                AgentClient::of_member(addr, &member, tls.clone())
            }
            file => AgentClient::new(addr, file),
        };
        Ok(HostHandle { record, client, slot: None, live: Mutex::new(Live::unknown()) })
    }

    /// How many applications it can carry, as far as it said.
    pub fn apps_max(&self) -> u64 {
        let said = self.slot.as_ref().and_then(|slot| slot.orders.capacity()).map_or(0, |capacity| capacity.apps_max);
        if said == 0 { u64::MAX } else { said }
    }

    pub fn live(&self) -> Live {
        self.live.lock().expect("no holder panics").clone()
    }

    pub fn state(&self) -> HostState {
        self.live.lock().expect("no holder panics").state
    }

    pub(crate) fn set_live(&self, change: impl FnOnce(&mut Live)) {
        change(&mut self.live.lock().expect("no holder panics"));
    }
}

impl Live {
    /// Nothing is known yet: its data path is used, it is not preferred, and nothing is placed on it.
    fn unknown() -> Live {
        Live { state: HostState::Suspected, seen: None, info: None }
    }
}

impl Hosts {
    /// None yet; those that join are reached with `tls`, those that register over `streams` too.
    pub fn new(tls: Configs, streams: Streams) -> Hosts {
        Hosts { by_name: DashMap::new(), slots: DashMap::new(), tls, streams }
    }

    pub fn find(&self, name: &str) -> Option<Arc<HostHandle>> {
        self.by_name.get(name).map(|entry| Arc::clone(&entry))
    }

    /// By name.
    pub fn all(&self) -> Vec<Arc<HostHandle>> {
        let mut all: Vec<_> = self.by_name.iter().map(|entry| Arc::clone(&entry)).collect();
        all.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        all
    }

    /// A host that no record names is as good as down.
    pub fn state(&self, name: &str) -> HostState {
        self.find(name).map_or(HostState::Down, |host| host.state())
    }

    /// Adds a host, or replaces one whose record changed. `Some`: the handle is new and wants watching.
    pub fn put(&self, record: HostRecord) -> Result<Option<Arc<HostHandle>>, BadControl> {
        if self.find(&record.name).is_some_and(|known| known.record == record) {
            return Ok(None);
        }
        let handle = Arc::new(if record.is_registered() {
            let slot = self.slot(&record.name);
            HostHandle::registered(record, slot)
        } else {
            // Nobody uses its channel any more.
            self.slots.remove(&record.name).inspect(|(_, slot)| slot.close());
            HostHandle::dialled(record, &self.tls)?
        });
        self.by_name.insert(handle.record.name.clone(), Arc::clone(&handle));
        Ok(Some(handle))
    }

    pub fn remove(&self, name: &str) {
        self.by_name.remove(name);
        self.slots.remove(name).inspect(|(_, slot)| slot.close());
    }

    /// How the streams with hosts that registered stand, by host.
    pub fn standings(&self) -> Vec<(String, Standing)> {
        let standing =
            |host: &Arc<HostHandle>| Some((host.record.name.clone(), host.slot.as_ref()?.orders.standing()?));
        self.all().iter().filter_map(standing).collect()
    }

    /// The channel of a host that registers, or may.
    pub fn slot(&self, name: &str) -> Arc<Slot> {
        let new = || Arc::new(Slot::new(Orders::new(name, self.streams.clone())));
        Arc::clone(&self.slots.entry(name.to_owned()).or_insert_with(new))
    }

    /// Whether this handle is still the one of its host.
    pub fn is_current(&self, handle: &Arc<HostHandle>) -> bool {
        self.find(&handle.record.name).is_some_and(|known| Arc::ptr_eq(&known, handle))
    }
}

/// The state of one application, asked of its host; `unknown` when the host does not say in time.
pub async fn app_state(hosts: &Hosts, host: &str, app: &AppName, within: Duration) -> String {
    let Some(handle) = hosts.find(host) else { return "unknown".into() };
    match handle.client.apps(within).await {
        Ok(apps) => apps.into_iter().find(|status| status.name == app.as_str()).map_or("unknown".into(), |s| s.state),
        Err(_) => "unknown".into(),
    }
}

pub fn state_name(state: HostState) -> &'static str {
    match state {
        HostState::Up => "up",
        HostState::Suspected => "suspected",
        HostState::Down => "down",
    }
}
