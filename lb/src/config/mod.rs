//! The edge's configuration: one TOML file, as `docs/configuration.md` describes it.
//!
//! Reading is pure and says everything that is wrong at once ([`Problem`]); [`Config::check_files`] looks at the machine.
//! [`Config::reload`] sorts what another version of the file changes into what takes effect now and what needs a restart.

pub mod bounds;
mod read;
mod reload;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use steady_cluster::{Member, Role};
use steady_proxy::Bounds;
use steady_stream::Faults;
use steady_table::{AppName, DomainName, Host};

use crate::certs::{self, CertDir};
use crate::data::Rules;
use crate::limits::BUNDLE_BYTES;
use crate::snapshot::{Network, Settings};
pub use read::Problem;
use read::{Problems, Section};
pub use reload::Reload;

/// More workers than any machine has cores.
const WORKERS_MOST: usize = 1024;
const FAILURES_MOST: usize = 1_000_000;
/// More pairs than can be looked at each second.
const PAIRS_MOST: usize = 1_000_000;

/// Names that a wildcard domain does not give to applications unless the configuration says so: those that people take for
/// the operator's own, and those that mail and certificate authorities trust (RFC 2142).
const RESERVED: &[&str] = &[
    "api",
    "www",
    "admin",
    "administrator",
    "hostmaster",
    "postmaster",
    "webmaster",
    "root",
    "mail",
    "smtp",
    "status",
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub state_dir: PathBuf,
    /// 0: one per core.
    pub workers: usize,
    pub io: Io,
    pub domains: Vec<DomainName>,
    /// Names that no application may have.
    pub reserved: Vec<AppName>,
    pub listen: Vec<Listen>,
    pub tls: Option<Tls>,
    pub private: Private,
    pub cluster: Cluster,
    pub hosts: Vec<HostConfig>,
    pub timeouts: Timeouts,
    pub health: Health,
    pub breaker: Rules,
    /// Of the workers.
    pub bounds: Arc<Bounds>,
    /// A bundle as it is uploaded, in octets.
    pub bundle_bytes_max: u64,
    pub log: Log,
    pub forwarded: Forwarded,
    /// Frames of the message streams to lose on purpose.
    pub faults: Faults,
}

/// Which driver carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    Auto,
    Uring,
    Epoll,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub addr: SocketAddr,
    pub tls: bool,
    /// PROXY v1 or v2 is required on every connection.
    pub proxy_protocol: bool,
}

impl Listen {
    /// `[::]` takes IPv4 too, unless another of `all` listens on IPv4 addresses of its port.
    pub fn is_v6_only(&self, all: &[Listen]) -> bool {
        self.addr.is_ipv6() && all.iter().any(|other| other.addr.is_ipv4() && other.addr.port() == self.addr.port())
    }

    /// The kernel does not let both listen: they are the same, or one is all addresses of the other's family.
    fn excludes(&self, other: &Listen) -> bool {
        let (one, two) = (self.addr, other.addr);
        let same_family = one.is_ipv4() == two.is_ipv4();
        let overlap = one.ip() == two.ip() || one.ip().is_unspecified() || two.ip().is_unspecified();
        one.port() == two.port() && one.port() != 0 && same_family && overlap
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub dir: PathBuf,
    pub tickets: bool,
    /// Pairs in the directory.
    pub pairs_max: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Private {
    pub addr: SocketAddr,
    pub token_file: PathBuf,
}

/// This edge as a member of its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// What its certificate calls it.
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    pub name: String,
    /// `IP:PORT` or `unix:/path`.
    pub addr: String,
    pub control: SocketAddr,
    /// Of an agent on this machine that has not joined: reached in the clear. `None`: it joined, TLS both ways.
    pub token_file: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub header: Duration,
    pub idle: Duration,
    pub response: Duration,
    pub tunnel: Duration,
    pub total: Option<Duration>,
    pub probe: Duration,
    pub park: Duration,
    pub drain: Duration,
    /// What a process still carries that was replaced.
    pub upgrade: Duration,
}

/// How hosts are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Between two questions to one host.
    pub every: Duration,
    /// Without a report for so long, a host that registered is suspected.
    pub suspect_after: Duration,
    /// Silence after which a host whose data port refuses too is down.
    pub down_after: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `-`: stdout.
    pub access: Option<PathBuf>,
    pub format: LogFormat,
    pub level: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    pub trusted: Vec<Network>,
    pub server_timing: bool,
}

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(pub Vec<Problem>);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if place == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

impl Config {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Config, Invalid> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Invalid(vec![Problem { key: String::new(), what: format!("{} cannot be read: {error}", path.display()) }])
        })?;
        Config::parse(&text)
    }

    /// Reads the text of a file. All that is wrong is said at once.
    pub fn parse(text: &str) -> Result<Config, Invalid> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            Invalid(vec![Problem { key: String::new(), what: format!("this is not TOML: {error}") }])
        })?;
        let problems = Problems::default();
        let config = read_root(Section::new(String::new(), Some(table), &problems), &problems);
        match (config, problems.into_vec()) {
            (Some(config), found) if found.is_empty() => Ok(config),
            (_, found) => Err(Invalid(found)),
        }
    }

    /// What the machine lacks to run this: files that cannot be read or used, directories that are not there.
    pub fn check_files(&self, now: SystemTime) -> Vec<Problem> {
        let mut found = Vec::new();
        for (place, host) in self.hosts.iter().enumerate() {
            if let Some(file) = &host.token_file
                && let Err(error) = std::fs::read_to_string(file)
            {
                let what = format!("{} cannot be read: {error}; copy the agent's token there", file.display());
                found.push(Problem { key: format!("host[{place}].token_file"), what });
            }
        }
        if let Some(tls) = &self.tls {
            let what = self.check_certificates(tls, now).into_iter();
            found.extend(what.map(|what| Problem { key: "tls.dir".into(), what }));
        }
        found
    }

    fn check_certificates(&self, tls: &Tls, now: SystemTime) -> Vec<String> {
        let dir = tls.dir.display();
        match CertDir::check(&tls.dir, tls.pairs_max, now) {
            Err(error) => vec![format!("{dir} cannot be read: {error}; make it and put NAME.crt and NAME.key there")],
            Ok((errors, usable)) => {
                let mut what: Vec<String> = errors.iter().map(ToString::to_string).collect();
                if usable == 0 && self.listen.iter().any(|listen| listen.tls) {
                    what.push(format!("{dir} has no usable pair: a listener has tls = true, and refuses every client"));
                }
                what
            }
        }
    }

    /// What the workers need of it.
    pub fn settings(&self) -> Settings {
        let t = &self.timeouts;
        Settings {
            header_timeout: t.header,
            idle_timeout: t.idle,
            response_timeout: t.response,
            tunnel_timeout: t.tunnel,
            total_timeout: t.total,
            probe_timeout: t.probe,
            park_timeout: t.park,
            breaker: self.breaker.clone(),
            bounds: Some(Arc::clone(&self.bounds)),
            trusted: self.forwarded.trusted.clone(),
            server_timing: self.forwarded.server_timing,
            plain_hosts: self.hosts.iter().filter(|host| host.token_file.is_some()).map(|h| h.name.clone()).collect(),
        }
    }
}

fn read_root(mut root: Section, problems: &Problems) -> Option<Config> {
    let state_dir = root.required("state_dir", "\"/var/lib/steady/lb\"", |s| s.text("state_dir")).map(PathBuf::from);
    let workers = root.count("workers", 0, WORKERS_MOST);
    let io = root.parsed("io", parse_io).unwrap_or(Io::Auto);
    let domains =
        root.required("domains", "[\"steady.page\"]", |s| s.list("domains", parse_domain)).unwrap_or_default();
    let reserved = root.list("reserved", parse_app).unwrap_or_else(|| {
        RESERVED.iter().map(|name| AppName::new(name).expect("the list holds application names")).collect()
    });
    let listen = root.sections("listen").into_iter().filter_map(read_listen).collect::<Vec<_>>();
    let tls = read_tls(root.section("tls"));
    let private = read_private(root.section("private"), state_dir.as_deref());
    let cluster = read_cluster(root.section("cluster"));
    let hosts: Vec<HostConfig> = root.sections("host").into_iter().filter_map(read_host).collect();
    let timeouts = read_timeouts(root.section("timeouts"));
    let health = read_health(root.section("health"));
    let breaker = read_breaker(root.section("breaker"));
    let mut limits = root.section("limits");
    let bounds = bounds::read(&mut limits);
    let bundle_bytes_max = limits.size("bundle_bytes_max", BUNDLE_BYTES);
    limits.finish();
    let log = read_log(root.section("log"));
    let forwarded = read_forwarded(root.section("forwarded"));
    let faults = read_faults(root.section("faults"));
    root.finish();

    for (place, domain) in domains.iter().enumerate() {
        if domains[..place].contains(domain) {
            problems.add(format!("domains[{place}]"), format!("{domain} is given twice: leave one out"));
        }
    }
    for (place, host) in hosts.iter().enumerate() {
        if hosts[..place].iter().any(|other| other.name == host.name) {
            problems
                .add(format!("host[{place}].name"), format!("{:?} is given twice: give each host its own", host.name));
        }
        if hosts[..place].iter().any(|other| other.addr == host.addr) {
            problems.add(format!("host[{place}].addr"), format!("{:?} is another host's address too", host.addr));
        }
    }
    for (place, one) in listen.iter().enumerate() {
        if let Some(other) = listen[..place].iter().find(|other| one.excludes(other)) {
            let what = match one.addr == other.addr {
                true => format!("{} is given twice: leave one out", one.addr),
                false => format!("{} and {} cannot both be listened on: leave one out", one.addr, other.addr),
            };
            problems.add(format!("listen[{place}].addr"), what);
        }
    }
    if tls.is_none() && listen.iter().any(|listen| listen.tls) {
        problems.add("tls.dir", "a listener has tls = true: write [tls] with dir = \"/etc/steady/certs\"");
    }
    Some(Config {
        state_dir: state_dir?,
        workers,
        io,
        domains,
        reserved,
        listen,
        tls,
        private: private?,
        cluster,
        hosts,
        timeouts,
        health,
        breaker,
        bounds,
        bundle_bytes_max,
        log,
        forwarded,
        faults,
    })
}

fn read_listen(mut section: Section) -> Option<Listen> {
    let addr = section.required("addr", "\"0.0.0.0:443\"", |s| s.parsed("addr", parse_addr));
    let tls = section.flag("tls", false);
    let proxy_protocol = section.flag("proxy_protocol", false);
    section.finish();
    Some(Listen { addr: addr?, tls, proxy_protocol })
}

fn read_tls(mut section: Section) -> Option<Tls> {
    if !section.present {
        return None;
    }
    let dir = section.required("dir", "\"/etc/steady/certs\"", |s| s.text("dir"));
    let tickets = section.flag("tickets", true);
    let pairs_max = section.count("pairs_max", certs::PAIRS_MAX, PAIRS_MOST);
    if pairs_max == 0 {
        section.problem("pairs_max", "it is 0, so that no certificate could be used: write a larger number");
    }
    section.finish();
    Some(Tls { dir: dir?.into(), tickets, pairs_max })
}

fn read_private(mut section: Section, state_dir: Option<&Path>) -> Option<Private> {
    let addr = match section.parsed("addr", parse_addr) {
        Some(addr) => addr,
        None => SocketAddr::from(([127, 0, 0, 1], 9900)),
    };
    let token_file = section.text("token_file").map(PathBuf::from);
    section.finish();
    Some(Private { addr, token_file: token_file.or_else(|| state_dir.map(|dir| dir.join("token")))? })
}

fn read_cluster(mut section: Section) -> Cluster {
    let name = section.parsed("name", |text| match Member::new(Role::Edge, text) {
        Ok(member) => Ok(member.name().to_owned()),
        Err(error) => Err(error.to_string()),
    });
    section.finish();
    Cluster { name: name.unwrap_or_else(|| "edge".to_owned()) }
}

fn read_host(mut section: Section) -> Option<HostConfig> {
    let name = section.required("name", "\"h1\"", |s| s.text("name"));
    let addr = section.required("addr", "\"10.0.0.1:9911\"", |s| s.text("addr"));
    let control = section.required("control", "\"10.0.0.1:9912\"", |s| s.parsed("control", parse_peer));
    let token_file = section.text("token_file").map(PathBuf::from);
    if let (Some(name), Some(addr)) = (&name, &addr)
        && let Err(error) = Host::new(name, addr)
    {
        section.problem(if Host::new(name, "127.0.0.1:1").is_err() { "name" } else { "addr" }, error.to_string());
    }
    match (&token_file, &name) {
        (Some(_), _) => {
            let is_here =
                |text: &str| text.parse().is_ok_and(|addr: SocketAddr| addr.ip().to_canonical().is_loopback());
            let data_is_here = addr.as_ref().is_none_or(|addr| addr.starts_with("unix:") || is_here(addr));
            for (key, here) in [("addr", data_is_here), ("control", control.is_none_or(|c| is_here(&c.to_string())))] {
                if !here {
                    section.problem(
                        key,
                        "a host with a token_file is reached in the clear, which is for loopback \
                        addresses only: leave token_file out, and let the host join (docs/security.md)"
                            .to_owned(),
                    );
                }
            }
        }
        (None, Some(name)) => {
            if let Err(error) = Member::new(Role::Host, name) {
                section.problem("name", error.to_string());
            }
        }
        (None, None) => {}
    }
    section.finish();
    Some(HostConfig { name: name?, addr: addr?, control: control?, token_file })
}

fn read_timeouts(mut section: Section) -> Timeouts {
    let mut read = |key, default| section.duration(key).unwrap_or(Duration::from_secs(default));
    let (header, idle, response, tunnel) =
        (read("header", 10), read("idle", 75), read("response", 60), read("tunnel", 3600));
    let (probe, park, drain, upgrade) = (read("probe", 2), read("park", 30), read("drain", 30), read("upgrade", 600));
    let total = section.duration("total");
    section.finish();
    Timeouts { header, idle, response, tunnel, total, probe, park, drain, upgrade }
}

fn read_health(mut section: Section) -> Health {
    let every = section.duration("every").unwrap_or(Duration::from_secs(1));
    let suspect_after = section.duration("suspect_after").unwrap_or(Duration::from_secs(3));
    let down_after = section.duration("down_after").unwrap_or(Duration::from_secs(10));
    section.finish();
    Health { every, suspect_after, down_after }
}

fn read_breaker(mut section: Section) -> Rules {
    let default = Rules::default();
    let connect_failures = section.count("connect_failures", default.connect_failures as usize, FAILURES_MOST) as u32;
    let errors = section.count("errors", default.errors as usize, FAILURES_MOST) as u32;
    let base = section.duration("base").unwrap_or(default.base);
    let max = section.duration("max").unwrap_or(default.max);
    section.finish();
    Rules { connect_failures, errors, base, max: max.max(base) }
}

fn read_faults(mut section: Section) -> Faults {
    let mut one_in = |key| section.count(key, 0, 1_000_000) as u32;
    let (lose_sent_one_in, lose_received_one_in) = (one_in("lose_sent_one_in"), one_in("lose_received_one_in"));
    let seed = section.count("seed", 0, usize::MAX) as u64;
    section.finish();
    Faults { lose_sent_one_in, lose_received_one_in, seed }
}

fn read_log(mut section: Section) -> Log {
    let access = section.text("access").map(PathBuf::from);
    let format = section.parsed("format", |text| match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        other => Err(format!("it is {other:?}: write \"text\" or \"json\"")),
    });
    let level = section.parsed("level", steady_proxy::daemon::check_level).unwrap_or_else(|| "info".into());
    section.finish();
    Log { access, format: format.unwrap_or(LogFormat::Text), level }
}

fn read_forwarded(mut section: Section) -> Forwarded {
    let trusted = section.list("trusted", parse_network).unwrap_or_default();
    let server_timing = section.flag("server_timing", false);
    section.finish();
    Forwarded { trusted, server_timing }
}

fn parse_io(text: &str) -> Result<Io, String> {
    match text {
        "auto" => Ok(Io::Auto),
        "uring" => Ok(Io::Uring),
        "epoll" => Ok(Io::Epoll),
        other => Err(format!("it is {other:?}: write \"auto\", \"uring\" or \"epoll\"")),
    }
}

fn parse_domain(text: &str) -> Result<DomainName, String> {
    DomainName::new(text).map_err(|error| error.to_string())
}

fn parse_app(text: &str) -> Result<AppName, String> {
    AppName::new(text).map_err(|error| error.to_string())
}

fn parse_addr(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no address: write IP:PORT, such as \"0.0.0.0:443\" or \"[::]:443\""))
}

/// An address to connect to.
fn parse_peer(text: &str) -> Result<SocketAddr, String> {
    let addr = parse_addr(text)?;
    if addr.port() == 0 { Err(format!("{text:?} has port 0, where nothing can be reached")) } else { Ok(addr) }
}

/// `10.0.0.0/8`, or one address.
pub fn parse_network(text: &str) -> Result<Network, String> {
    let wrong = || format!("{text:?} is no network: write an address and a prefix, such as \"10.0.0.0/8\"");
    let (addr, prefix) = text.split_once('/').map_or((text, None), |(addr, prefix)| (addr, Some(prefix)));
    let addr: IpAddr = addr.parse().map_err(|_| wrong())?;
    let most = if addr.is_ipv4() { 32 } else { 128 };
    let prefix: u8 = prefix.map_or(Ok(most), |prefix| prefix.parse().map_err(|_| wrong()))?;
    if prefix > most {
        return Err(format!("{text:?} has a prefix above {most}"));
    }
    let kept = match addr {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(u32::from(32 - prefix)).unwrap_or(0)).into()),
        IpAddr::V6(v6) => {
            IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(u32::from(128 - prefix)).unwrap_or(0)).into())
        }
    };
    if kept != addr {
        return Err(format!("{text:?} has bits beyond its prefix: did you mean \"{kept}/{prefix}\"?"));
    }
    Ok(Network { addr, prefix })
}

#[cfg(test)]
mod tests;
