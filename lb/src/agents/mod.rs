//! The hosts: a client to each agent, and what is known of each right now.

pub mod channel;
pub mod client;
pub mod health;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use steady_cluster::connect::Configs;
use steady_cluster::{Member, Role};
use steady_table::AppName;

use crate::snapshot::HostState;
use crate::store::HostRecord;
use channel::Slot;
use client::{AgentClient, HostInfo};

/// Every host that the store knows.
#[derive(Debug, Default)]
pub struct Hosts {
    by_name: DashMap<String, Arc<HostHandle>>,
    /// The channels of hosts that register.
    slots: DashMap<String, Arc<Slot>>,
    /// How hosts that joined are reached; `None`: there is no cluster.
    tls: Option<Configs>,
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
    fn dialled(record: HostRecord, tls: Option<&Configs>) -> Result<HostHandle, BadControl> {
        let addr: SocketAddr = record
            .control
            .parse()
            .map_err(|_| BadControl { host: record.name.clone(), control: record.control.clone() })?;
        let client = match (&*record.token_file, tls) {
            ("", Some(tls)) => {
                let member = Member::new(Role::Host, &record.name);
                let member =
                    member.map_err(|_| BadControl { host: record.name.clone(), control: record.control.clone() })?;
                AgentClient::of_member(addr, &member, tls.clone())
            }
            (file, _) => AgentClient::new(addr, file),
        };
        Ok(HostHandle { record, client, slot: None, live: Mutex::new(Live::unknown()) })
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
    /// None yet; those that join are reached with these.
    pub fn new(tls: Configs) -> Hosts {
        Hosts { tls: Some(tls), ..Hosts::default() }
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
            HostHandle::dialled(record, self.tls.as_ref())?
        });
        self.by_name.insert(handle.record.name.clone(), Arc::clone(&handle));
        Ok(Some(handle))
    }

    pub fn remove(&self, name: &str) {
        self.by_name.remove(name);
        self.slots.remove(name).inspect(|(_, slot)| slot.close());
    }

    /// The channel of a host that registers, or may.
    pub fn slot(&self, name: &str) -> Arc<Slot> {
        Arc::clone(&self.slots.entry(name.to_owned()).or_default())
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
