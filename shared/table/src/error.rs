//! What can go wrong, sorted by who is at fault: the disk, the file, or what we were asked to write.

use std::path::PathBuf;

use crate::model::{HostIndex, MAX_APPS, MAX_DOMAINS, MAX_ENDPOINTS, MAX_HOSTS};
use crate::name::{AppName, DomainName};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk. The table that was published before is untouched, on disk and in memory.
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    /// A file that was just written does not read back as it should.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The change or the contents break a rule; every reason is listed (up to a bound). Nothing was written.
    #[error("the table was not changed: {}", list(.0))]
    Invalid(Vec<Invalid>),
    /// Another process writes this directory.
    #[error("{} is in use by another process: stop it, or give this one a directory of its own", path.display())]
    Held { path: PathBuf },
    /// Revisions only grow.
    #[error("revision {given} does not follow {current}: use {} or later", current.saturating_add(1))]
    StaleRevision { current: u64, given: u64 },
    /// No seed of several spreads the names well enough. It does not happen by chance; look at where seeds come from.
    #[error("the names crowd the table's index under {seeds} different seeds: check the source of randomness")]
    Crowded { seeds: u32 },
    /// The `Routes` given to `apply` are not the newest of this directory.
    #[error("changes were made to revision {given}, but the newest is {current}: make them again on that one")]
    NotCurrent { current: u64, given: u64 },
}

fn list(reasons: &[Invalid]) -> String {
    reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A rule that contents or changes break.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    #[error("application {app} has no endpoint")]
    NoEndpoint { app: String },
    #[error("application {app} has {count} endpoints, the most is {MAX_ENDPOINTS}")]
    TooManyEndpoints { app: String, count: usize },
    #[error("application {app} has no endpoint with a weight above 0")]
    NoWeight { app: String },
    #[error("application {app} names host {} of a list of {hosts}", host.0)]
    UnknownHost { app: String, host: HostIndex, hosts: usize },
    #[error("application {app} has two endpoints of one version on host {}", host.0)]
    DuplicateEndpoint { app: String, host: HostIndex },
    #[error("application {app} is exclusive and has {count} endpoints")]
    ExclusiveTwice { app: String, count: usize },
    #[error("application {app} moves from host {} to itself", host.0)]
    MovesNowhere { app: String, host: HostIndex },
    #[error("application {app} has generation {generation} and moves to {moving}, not to a later one")]
    MoveGeneration { app: String, generation: u64, moving: u64 },
    #[error("application {app} would go back from generation {had} to {given}")]
    GenerationBack { app: String, had: u64, given: u64 },
    #[error("the name {app} is reserved")]
    Reserved { app: AppName },
    #[error("application {app} is given twice")]
    DuplicateApp { app: AppName },
    #[error("there is no application {app}")]
    UnknownApp { app: AppName },
    #[error("application {app} still serves {domain}: remove that domain too")]
    StillServes { app: AppName, domain: DomainName },
    #[error("custom domain {domain} is given twice")]
    CustomTwice { domain: DomainName },
    #[error("custom domain {domain} serves {app}: remove it from there first")]
    DuplicateCustom { domain: DomainName, app: AppName },
    #[error("custom domain {domain} names the application {app}, which does not exist")]
    CustomWithoutApp { domain: DomainName, app: AppName },
    #[error("there is no custom domain {domain}")]
    UnknownCustom { domain: DomainName },
    #[error("custom domain {domain} is or lies under {suffix}, whose names are applications")]
    CustomUnderSuffix { domain: DomainName, suffix: DomainName },
    #[error("host {name} is given twice")]
    DuplicateHost { name: String },
    #[error("{count} hosts, the most is {MAX_HOSTS}")]
    TooManyHosts { count: usize },
    #[error("domain {domain} is given twice")]
    DuplicateDomain { domain: DomainName },
    #[error("{count} domains, the most is {MAX_DOMAINS}")]
    TooManyDomains { count: usize },
    #[error("more than {MAX_APPS} applications or custom domains")]
    TooManyEntries,
    #[error("and {count} more")]
    More { count: usize },
}

/// A file that cannot be trusted, or the part of it that was left out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is damaged: {reason}", path.display())]
pub struct Damage {
    pub path: PathBuf,
    pub reason: DamageReason,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DamageReason {
    #[error("it cannot be read ({0})")]
    Unreadable(String),
    #[error("it ends in its header, after {0} bytes")]
    Short(u64),
    #[error("it does not begin as a routing table does")]
    NotATable,
    #[error("its format is version {0}, this program reads version {expected}", expected = crate::base::FORMAT)]
    Version(u32),
    #[error("the checksum of its header does not match")]
    HeaderChecksum,
    #[error("a field of its header cannot be: {0}")]
    Header(&'static str),
    #[error("its section {section} lies from {offset} for {len} bytes, which cannot be in a file of {file} bytes")]
    Place { section: &'static str, offset: u64, len: u64, file: u64 },
    #[error("the checksum of its section {0} does not match")]
    Checksum(&'static str),
    #[error("section {section}, byte {at}: {why}")]
    Content { section: &'static str, at: u64, why: String },
    #[error("its revision is {found}, its name says {named}")]
    Name { found: u64, named: u64 },
    #[error("the log was not written for this base")]
    OtherBase,
    #[error("its log is cut off at byte {0}: the write of the last change did not end")]
    TornTail(u64),
    #[error("the entry at byte {at} of its log cannot be used and was left out with all that follow: {why}")]
    LogEntry { at: u64, why: String },
}
