//! What the edge knows for certain: hosts, applications, domains, the history of the routes, and workflows under way.
//!
//! The routing table is derived from this and never the other way round. [`Store`] is the seam: one machine keeps it in
//! SQLite ([`sqlite`]); several will keep it in etcd. Whatever implements it passes the suite in [`conformance`].

#[cfg(test)]
pub(crate) mod conformance;
pub mod sqlite;

use std::collections::HashMap;
use std::fmt;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use steady_cluster::channel::talk::AppEvent;
use steady_table::{AppName, DomainName};

/// Milliseconds since 1970-01-01 UTC.
pub type Millis = u64;

/// A machine that runs applications: the configuration names it, or it has registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    pub name: String,
    /// Its data port: `IP:PORT` or `unix:/path`.
    pub addr: String,
    /// Its agent's API: `IP:PORT`; empty: it registers, and is reached over its channel.
    pub control: String,
    pub token_file: String,
}

impl HostRecord {
    /// Whether the host itself told of it; otherwise the configuration did.
    pub fn is_registered(&self) -> bool {
        self.control.is_empty()
    }
}

/// An application and the one place where it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppRecord {
    pub name: AppName,
    /// The owner. While it moves: the old one.
    pub host: String,
    /// The owner's generation.
    pub generation: u64,
    pub moving: Option<MovingTo>,
    pub version: u32,
    /// SHA-256 of the bundle, 64 hexadecimal digits.
    pub digest: String,
    pub exclusive: bool,
    pub created_at: Millis,
    pub updated_at: Millis,
}

/// A move that the table tells of: both places are known, the old one owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MovingTo {
    pub to: String,
    pub generation: u64,
}

/// The greatest numbers that were ever given out for an application, burnt ones included. They outlive the application, so
/// that one of the same name never meets its predecessor's numbers on a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    pub generation: u64,
    pub version: u32,
}

impl Numbers {
    /// With those of a record, which are given out too.
    pub fn with(self, record: &AppRecord) -> Numbers {
        Numbers { generation: self.generation.max(record.generation), version: self.version.max(record.version) }
    }
}

/// A workflow: recorded before each step's effect, so that it can be taken up again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkflowRecord {
    /// Unique and growing.
    pub id: u64,
    pub kind: Kind,
    pub app: AppName,
    /// The step that is about to have its effect, for people.
    pub step: String,
    /// What the workflow needs to go on from there.
    pub state: serde_json::Value,
    pub started: Millis,
    pub finished: Option<Millis>,
    /// Why it ended without doing what it was asked to.
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Deploy,
    Move,
    Remove,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Deploy, Kind::Move, Kind::Remove];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Deploy => "deploy",
            Kind::Move => "move",
            Kind::Remove => "remove",
        }
    }

    pub fn parse(text: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One change of the routes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HistoryEntry {
    pub revision: u64,
    pub at_ms: Millis,
    pub what: String,
}

/// Something that happened to an application on a host, as the host told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord {
    pub host: String,
    pub event: AppEvent,
}

/// Which events; all that is given must hold. The newest first; with `after`, those with greater numbers, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventsOf {
    pub host: Option<String>,
    pub app: Option<String>,
    pub after: Option<u64>,
    pub limit: usize,
}

/// Everything that the table is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Grows with every commit that changes the routes.
    pub revision: u64,
    /// In the order in which they were first put; the table's host index is the place in this list.
    pub hosts: Vec<HostRecord>,
    pub domains: Vec<DomainName>,
    /// By name.
    pub apps: Vec<AppRecord>,
    /// By domain.
    pub customs: Vec<(DomainName, AppName)>,
}

/// What must be so for a commit to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The application has this generation; `None`: it does not exist.
    Generation(AppName, Option<u64>),
}

/// One write of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Adds a host at the end of the list, or changes one in its place.
    PutHost(HostRecord),
    RemoveHost(String),
    /// Adds or replaces; also raises the application's [`Numbers`] to what the record holds.
    PutApp(AppRecord),
    RemoveApp(AppName),
    /// Raises the application's [`Numbers`] to at least these.
    Burn(AppName, Numbers),
    PutCustom(DomainName, AppName),
    RemoveCustom(DomainName),
    SetDomains(Vec<DomainName>),
    PutWorkflow(WorkflowRecord),
    /// Raises the revision to at least this, where a table is ahead of its store.
    RaiseRevision(u64),
    SetMeta(&'static str, String),
    /// Adds an event; of many the oldest go.
    AddEvent(EventRecord),
    /// Where the stream of this name stands: in one commit with what its messages did.
    SetCursor(String, Vec<u8>),
}

impl Write {
    /// Whether the routing table shows it.
    pub fn changes_routes(&self) -> bool {
        match self {
            Write::PutHost(_) | Write::RemoveHost(_) | Write::PutApp(_) | Write::RemoveApp(_) => true,
            Write::PutCustom(..) | Write::RemoveCustom(_) | Write::SetDomains(_) => true,
            Write::Burn(..) | Write::PutWorkflow(_) | Write::RaiseRevision(_) | Write::SetMeta(..) => false,
            Write::AddEvent(_) | Write::SetCursor(..) => false,
        }
    }
}

/// Writes that happen together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    pub at_ms: Millis,
    /// For the history, where the routes change.
    pub what: String,
    pub expect: Vec<Expect>,
    pub writes: Vec<Write>,
}

impl Commit {
    pub fn changes_routes(&self) -> bool {
        self.writes.iter().any(Write::changes_routes)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Someone changed the application in between; nothing was written.
    #[error("{app} has generation {found:?} and not {expected:?}: look at it again and repeat")]
    Conflict { app: AppName, expected: Option<u64>, found: Option<u64> },
    /// What is stored cannot be: another program wrote it, or the disk lost it.
    #[error(
        "the store holds something that it never wrote ({what}): restore its file from a copy, or remove it to begin anew"
    )]
    Corrupt { what: String },
    /// A newer program wrote it.
    #[error("the store has schema {found}, this program knows {known}: run the newer program")]
    Newer { found: u32, known: u32 },
    /// With what to do about it.
    #[error("{0}")]
    Failed(String),
    #[error("the store is closed")]
    Closed,
}

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// The seam. Every method is atomic; a commit that answered `Ok` survives the loss of power.
pub trait Store: Send + Sync + fmt::Debug {
    /// Writes all of it or nothing. The revision afterwards: one more than before when the commit changes the routes.
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<u64>>;

    /// Everything the table is made from, as of one moment.
    fn load(&self) -> BoxFuture<'_, Result<Contents>>;

    fn app(&self, name: AppName) -> BoxFuture<'_, Result<Option<AppRecord>>>;

    /// Applications whose owner, or the target of whose move, is this host.
    fn apps_on(&self, host: String) -> BoxFuture<'_, Result<Vec<AppRecord>>>;

    /// How many applications each host owns; hosts without any are left out.
    fn counts(&self) -> BoxFuture<'_, Result<HashMap<String, u64>>>;

    /// Custom domains of one application, sorted.
    fn customs_of(&self, app: AppName) -> BoxFuture<'_, Result<Vec<DomainName>>>;

    /// The application that a custom domain serves.
    fn custom(&self, domain: DomainName) -> BoxFuture<'_, Result<Option<AppName>>>;

    /// Whether an application, or a workflow under way, needs the bundle.
    fn uses_bundle(&self, digest: String) -> BoxFuture<'_, Result<bool>>;

    /// All zero for a name that never was.
    fn numbers(&self, app: AppName) -> BoxFuture<'_, Result<Numbers>>;

    /// The newest first.
    fn history(&self, limit: usize) -> BoxFuture<'_, Result<Vec<HistoryEntry>>>;

    /// Unfinished workflows, the oldest first.
    fn open_workflows(&self) -> BoxFuture<'_, Result<Vec<WorkflowRecord>>>;

    fn workflow(&self, id: u64) -> BoxFuture<'_, Result<Option<WorkflowRecord>>>;

    /// A number that was never given before, for a workflow.
    fn next_id(&self) -> BoxFuture<'_, Result<u64>>;

    fn meta(&self, key: &'static str) -> BoxFuture<'_, Result<Option<String>>>;

    /// What [`Write::SetCursor`] last stored for the stream.
    fn cursor(&self, stream: String) -> BoxFuture<'_, Result<Option<Vec<u8>>>>;

    /// With their numbers, which grow; the newest first.
    fn events(&self, of: EventsOf) -> BoxFuture<'_, Result<Vec<(u64, EventRecord)>>>;
}
