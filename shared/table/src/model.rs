//! What a table holds, as the control side gives it, and the changes that it makes.

use crate::name::{AppName, BadHost, DomainName, check_host};

/// Applications in one table. 16 million records stay far below what a slot can address (32 GiB of records).
pub const MAX_APPS: usize = 1 << 24;
/// Endpoints of one application; a record with as many is under 1 KiB.
pub const MAX_ENDPOINTS: usize = 64;
/// Hosts in one table. They are kept on the heap and copied when they change.
pub const MAX_HOSTS: usize = 1 << 16;
/// Wildcard domains in one table.
pub const MAX_DOMAINS: usize = 1 << 12;

/// A place in the table's list of hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostIndex(pub u32);

/// A machine with an agent: its name, and where the agent listens (`IP:PORT` or `unix:/path`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    name: Box<str>,
    addr: Box<str>,
}

impl Host {
    pub fn new(name: &str, addr: &str) -> Result<Host, BadHost> {
        check_host(name, addr)?;
        Ok(Host { name: name.into(), addr: addr.into() })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn addr(&self) -> &str {
        &self.addr
    }
}

/// One place where an application runs. Weight 0 takes no new requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub host: HostIndex,
    pub weight: u16,
    pub version: u32,
}

/// A move that has begun: `generation` is the one that `to` will own, later than the application's own (the next one,
/// unless a move that was undone took that).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Moving {
    pub from: HostIndex,
    pub to: HostIndex,
    pub generation: u64,
}

/// An application and where it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    pub name: AppName,
    /// The placement's generation; while it moves, the old owner's.
    pub generation: u64,
    /// It has data of its own: at most one host runs it.
    pub exclusive: bool,
    /// The version that is deployed.
    pub version: u32,
    pub endpoints: Vec<Endpoint>,
    pub moving: Option<Moving>,
}

/// A whole table, for [`TableDir::replace`](crate::TableDir::replace). `apps` may be any iterator, so that a million of them
/// need not be in memory at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents<I = Vec<App>> {
    pub hosts: Vec<Host>,
    /// Wildcard suffixes: `NAME.suffix` serves the application NAME.
    pub domains: Vec<DomainName>,
    pub apps: I,
    /// Custom domains: a whole host name and the application that it serves.
    pub customs: Vec<(DomainName, AppName)>,
}

/// One change of a table. The changes of one [`TableDir::apply`](crate::TableDir::apply) are made together or not at all, and
/// what they leave must be valid as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds the application or replaces it. Its generation may not go back.
    Put(App),
    /// Removes an application that exists and that no custom domain serves any more.
    Remove(AppName),
    /// A custom domain. One that serves another application must be removed first.
    PutDomain(DomainName, AppName),
    RemoveDomain(DomainName),
    /// The whole list of hosts. Applications refer to it by place.
    SetHosts(Vec<Host>),
    /// The whole list of wildcard suffixes.
    SetDomains(Vec<DomainName>),
}
