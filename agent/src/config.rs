//! The agent's configuration: one TOML file, every fault of it told at once (docs/configuration.md).

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use steady_cluster::{Member, Role};
use steady_proxy::{Bounds, Timeouts};
use steady_ring::Addr;
use steady_stream::Faults;

pub mod bounds;
mod reload;

pub use reload::{Live, Reload};

use crate::limits::APPS_MAX;
use crate::toml_read::{self, Fault, Reader};

/// Longer than an edge's, and than what an operator is likely to set there: an edge that gives up says so, and one that is gone is
/// noticed by what is sent to it.
pub const TIMEOUTS: Timeouts = Timeouts {
    header: Duration::from_secs(10),
    idle: Duration::from_secs(15 * 60),
    stall: Duration::from_secs(24 * 60 * 60),
    total: None,
};

/// Which driver the workers run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Io {
    #[default]
    Auto,
    Uring,
    Epoll,
}

/// How the daemon's own log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// The whole file, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This host's name, as the edge knows it.
    pub name: String,
    pub state_dir: PathBuf,
    /// 0: one per core that this process may use.
    pub workers: usize,
    pub io: Io,
    /// Where edges forward to: over mutual TLS, or h2c on this machine when this host does not join.
    pub data_addr: Addr,
    pub control_addr: SocketAddr,
    /// Made (0600) when it is not there.
    pub token_file: PathBuf,
    /// `None`: this host joins no cluster, and is reached in the clear from this machine alone.
    pub join: Option<JoinConfig>,
    /// Where this host stands, as edges show it; empty: not said.
    pub zone: String,
    /// Frames of the message stream to lose on purpose.
    pub faults: Faults,
    pub apps: AppsConfig,
    /// Of the workers. Clients' patience is the edges' to bound, so that these are longer: [`TIMEOUTS`].
    pub timeouts: Timeouts,
    /// Of the workers.
    pub bounds: Arc<Bounds>,
    pub bundles: BundleLimits,
    pub log: LogConfig,
}

/// `[join]`: the cluster that this host is a member of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinConfig {
    /// Private addresses of its edges; any that answers will do.
    pub edges: Vec<SocketAddr>,
    /// Where the join token is, until this host has a certificate.
    pub token_file: PathBuf,
}

/// `[apps]`: what holds for every application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppsConfig {
    /// The Bun to run TypeScript with: a path, or a name that is looked for in PATH.
    pub bun: String,
    /// Requests that may wait for one application.
    pub queue_max: u32,
    pub queue_wait: Duration,
    /// From spawn to the first HTTP answer.
    pub start_timeout: Duration,
    /// From SIGTERM to SIGKILL.
    pub stop_timeout: Duration,
    /// For the requests of an old version, of a removed application, and of this daemon when it stops.
    pub drain_timeout: Duration,
    pub response_timeout: Duration,
    pub log_bytes_max: u64,
    /// Files of one application's log, the current one included.
    pub log_files_max: u32,
    /// Applications that this host takes.
    pub apps_max: usize,
}

/// `[bundles]`: what a folder that is sent here may be. They answer to a compression bomb and to a full disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleLimits {
    pub bytes_max: u64,
    pub unpacked_bytes_max: u64,
    pub files_max: u64,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The request log, JSON lines; `-` is standard output; `None`: not written.
    pub requests: Option<PathBuf>,
    pub format: LogFormat,
    pub level: String,
}

impl Default for AppsConfig {
    fn default() -> Self {
        Self {
            bun: "bun".to_owned(),
            queue_max: 1000,
            queue_wait: Duration::from_secs(30),
            start_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
            response_timeout: Duration::from_secs(60),
            log_bytes_max: 10 << 20,
            log_files_max: 5,
            apps_max: 10_000,
        }
    }
}

impl Default for BundleLimits {
    fn default() -> Self {
        Self { bytes_max: 512 << 20, unpacked_bytes_max: 2 << 30, files_max: 200_000 }
    }
}

/// A configuration that cannot be used: everything that is wrong with it.
#[derive(Debug)]
pub struct ConfigError {
    pub path: Option<PathBuf>,
    pub faults: Vec<Fault>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{} cannot be used:", path.display())?,
            None => f.write_str("the configuration cannot be used:")?,
        }
        self.faults.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads and checks a file. The error tells every fault.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let in_file = |faults| ConfigError { path: Some(path.to_owned()), faults };
        let text = std::fs::read_to_string(path).map_err(|error| {
            in_file(vec![Fault { key: String::new(), message: format!("it cannot be read: {error}") }])
        })?;
        text.parse().map_err(|error: ConfigError| in_file(error.faults))
    }
}

impl FromStr for Config {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let table = toml_read::parse(text).map_err(|fault| ConfigError { path: None, faults: vec![fault] })?;
        let mut faults = Vec::new();
        let config = read(table, &mut faults);
        match config {
            Some(config) if faults.is_empty() => Ok(config),
            _ => Err(ConfigError { path: None, faults }),
        }
    }
}

fn read(table: toml::Table, faults: &mut Vec<Fault>) -> Option<Config> {
    let mut reader = Reader::new(table, faults);
    let name = reader.text_required("name", "h1");
    if let Some(name) = &name
        && !is_host_name(name)
    {
        reader.fault::<()>("name", "must be 1 to 63 letters, digits, dots or dashes".to_owned());
    }
    let zone = reader.text("zone").unwrap_or_default();
    let state_dir = reader.text_required("state_dir", "/var/lib/steady/agent").map(PathBuf::from);
    let workers = reader.number("workers", 0, 1024).unwrap_or(0) as usize;
    let io = reader.parsed("io", read_io).unwrap_or_default();
    let data_addr = reader.section("data", |data| {
        data.text_required("addr", "0.0.0.0:9911")
            .and_then(|text| text.parse().map_err(|error| data.fault::<()>("addr", error)).ok())
    });
    let (control_addr, token_file) = reader.section("control", |control| {
        let addr = control.text_required("addr", "127.0.0.1:9912").and_then(|text| {
            let parsed = text.parse();
            parsed
                .map_err(|_| control.fault::<()>("addr", format!("`{text}` is not IP:PORT, like 127.0.0.1:9912")))
                .ok()
        });
        (addr, control.text("token_file").map(PathBuf::from))
    });
    let joins = reader.has("join");
    let join = reader.section("join", |join| if joins { read_join(join) } else { None });
    if !joins {
        let clear = "without [join] this host is reached in the clear, from this machine alone: write [join], or listen \
                     on 127.0.0.1";
        if let Some(Addr::Tcp(addr)) = &data_addr
            && !is_loopback(addr)
        {
            reader.fault::<()>("data.addr", clear.to_owned());
        }
        if control_addr.as_ref().is_some_and(|addr| !is_loopback(addr)) {
            reader.fault::<()>("control.addr", clear.to_owned());
        }
    } else if let Some(Err(error)) = name.as_deref().map(|name| Member::new(Role::Host, name)) {
        reader.fault::<()>("name", error.to_string());
    }
    let apps = reader.section("apps", read_apps);
    let timeouts = reader.section("timeouts", read_timeouts);
    let bounds = reader.section("limits", bounds::read);
    let bundles = reader.section("bundles", read_bundles);
    let log = reader.section("log", read_log);
    let faults = reader.section("faults", read_faults);
    reader.finish();
    let state_dir = state_dir?;
    let token_file = token_file.unwrap_or_else(|| state_dir.join("token"));
    Some(Config {
        name: name?,
        state_dir: state_dir.clone(),
        workers,
        io,
        data_addr: data_addr?,
        control_addr: control_addr?,
        token_file,
        zone,
        faults,
        join: join.map(|(edges, file)| JoinConfig {
            edges,
            token_file: file.unwrap_or_else(|| state_dir.join("join-token")),
        }),
        apps,
        timeouts,
        bounds,
        bundles,
        log,
    })
}

fn read_join(join: &mut Reader<'_>) -> Option<(Vec<SocketAddr>, Option<PathBuf>)> {
    let texts = join.texts("edges");
    let token_file = join.text("token_file").map(PathBuf::from);
    let mut edges = Vec::new();
    for text in texts.iter().flatten() {
        match text.parse::<SocketAddr>() {
            Ok(addr) if addr.port() > 0 => edges.push(addr),
            _ => join.fault("edges", format!("`{text}` is not IP:PORT, like 10.0.0.9:9900"))?,
        }
    }
    if edges.is_empty() {
        return join.fault("edges", "names no edge: write edges = [\"10.0.0.9:9900\"]".to_owned());
    }
    Some((edges, token_file))
}

fn is_loopback(addr: &SocketAddr) -> bool {
    addr.ip().to_canonical().is_loopback()
}

fn read_apps(apps: &mut Reader<'_>) -> AppsConfig {
    let default = AppsConfig::default();
    let read = AppsConfig {
        bun: apps.text("bun").unwrap_or(default.bun),
        queue_max: apps.number("queue_max", 0, 1_000_000).map_or(default.queue_max, |n| n as u32),
        queue_wait: apps.duration("queue_wait").unwrap_or(default.queue_wait),
        start_timeout: apps.duration("start_timeout").unwrap_or(default.start_timeout),
        stop_timeout: apps.duration("stop_timeout").unwrap_or(default.stop_timeout),
        drain_timeout: apps.duration("drain_timeout").unwrap_or(default.drain_timeout),
        response_timeout: apps.duration("response_timeout").unwrap_or(default.response_timeout),
        log_bytes_max: apps.size("log_bytes_max").unwrap_or(default.log_bytes_max),
        log_files_max: apps.number("log_files_max", 1, 1000).map_or(default.log_files_max, |n| n as u32),
        apps_max: apps.number("apps_max", 1, APPS_MAX).map_or(default.apps_max, |n| n as usize),
    };
    if read.start_timeout.is_zero() {
        apps.fault::<()>("start_timeout", "must be longer than 0: nothing would ever start".to_owned());
    }
    if read.log_bytes_max < 4096 {
        apps.fault::<()>("log_bytes_max", "must be at least 4KiB: each file would hold next to nothing".to_owned());
    }
    read
}

fn read_timeouts(timeouts: &mut Reader<'_>) -> Timeouts {
    let mut read = |key, default| {
        match timeouts.duration(key) {
            Some(Duration::ZERO) => {
                timeouts.fault(key, "must be longer than 0: nothing would ever be answered".to_owned())
            }
            read => read,
        }
        .unwrap_or(default)
    };
    let (idle, stall) = (read("idle", TIMEOUTS.idle), read("tunnel", TIMEOUTS.stall));
    Timeouts { idle, stall, ..TIMEOUTS }
}

fn read_bundles(bundles: &mut Reader<'_>) -> BundleLimits {
    let default = BundleLimits::default();
    BundleLimits {
        bytes_max: bundles.size("bytes_max").unwrap_or(default.bytes_max),
        unpacked_bytes_max: bundles.size("unpacked_bytes_max").unwrap_or(default.unpacked_bytes_max),
        files_max: bundles.number("files_max", 1, u64::from(u32::MAX)).unwrap_or(default.files_max),
    }
}

fn read_faults(faults: &mut Reader<'_>) -> Faults {
    let one_in = |count: Option<u64>| count.map_or(0, |count| count as u32);
    Faults {
        lose_sent_one_in: one_in(faults.number("lose_sent_one_in", 2, 1_000_000)),
        lose_received_one_in: one_in(faults.number("lose_received_one_in", 2, 1_000_000)),
        seed: faults.number("seed", 0, i64::MAX as u64).unwrap_or(0),
    }
}

fn read_log(log: &mut Reader<'_>) -> LogConfig {
    LogConfig {
        requests: log.text("requests").map(PathBuf::from),
        format: log
            .parsed("format", |text| match text {
                "text" => Ok(LogFormat::Text),
                "json" => Ok(LogFormat::Json),
                _ => Err(format!("`{text}` is not one of: text, json")),
            })
            .unwrap_or_default(),
        level: log.parsed("level", steady_proxy::daemon::check_level).unwrap_or_else(|| "info".to_owned()),
    }
}

fn read_io(text: &str) -> Result<Io, String> {
    match text {
        "auto" => Ok(Io::Auto),
        "uring" => Ok(Io::Uring),
        "epoll" => Ok(Io::Epoll),
        _ => Err(format!("`{text}` is not one of: auto, uring, epoll")),
    }
}

fn is_host_name(name: &str) -> bool {
    (1..=63).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = r#"
        name = "h1"
        state_dir = "/var/lib/steady/agent"
        [data]
        addr = "127.0.0.1:9911"
        [control]
        addr = "127.0.0.1:9912"
    "#;

    #[test]
    fn the_least_file_gets_every_default() {
        let config: Config = LEAST.parse().unwrap();
        assert_eq!(config.apps, AppsConfig::default());
        assert_eq!(config.bundles, BundleLimits::default());
        assert_eq!(config.token_file, Path::new("/var/lib/steady/agent/token"));
        assert_eq!(config.io, Io::Auto);
    }

    #[test]
    fn the_documented_example_is_read_as_documented() {
        let page = include_str!("../../docs/configuration.md");
        let example = page.split("## The host").nth(1).unwrap().split("```toml").nth(1).unwrap();
        let config: Config = example.split("```").next().unwrap().parse().unwrap();
        assert_eq!(config.apps, AppsConfig::default());
        assert_eq!(config.timeouts, TIMEOUTS);
        assert_eq!(config.bundles, BundleLimits::default());
        assert_eq!(config.log.requests.as_deref(), Some(Path::new("/var/log/steady-agent/requests.jsonl")));
    }

    #[test]
    fn a_host_waits_longer_than_the_documented_edge() {
        let page = include_str!("../../docs/configuration.md");
        let mut seconds = page.lines().filter_map(|line| {
            let value = line.strip_prefix("idle = ").or(line.strip_prefix("tunnel = "))?;
            steady_sys::text::parse_duration(value.split('"').nth(1)?).ok()
        });
        let mut next = || seconds.next().unwrap();
        let (edge, host) = ((next(), next()), (next(), next()));
        assert_eq!(host, (TIMEOUTS.idle, TIMEOUTS.stall));
        assert!(host.0 > 4 * edge.0 && host.1 > 4 * edge.1);
        let error = format!("{LEAST}[timeouts]\ntunnel = \"0s\"\n").parse::<Config>().unwrap_err().to_string();
        assert!(error.contains("timeouts.tunnel: must be longer"), "{error}");
    }

    #[test]
    fn limits_are_read_documented_and_held_to_their_ranges() {
        let page = include_str!("../../docs/configuration.md");
        let example = page.split("## The host").nth(1).unwrap().split("```toml").nth(1).unwrap();
        let example = example.split("```").next().unwrap();
        assert_eq!(*example.parse::<Config>().unwrap().bounds, bounds::default());
        for key in bounds::keys() {
            assert!(example.lines().any(|line| line.starts_with(&format!("{} = ", key.name))), "{}", key.name);
        }
        let config: Config = format!("{LEAST}[limits]\nbody_rate_min = 0\nlinger = \"1s\"").parse().unwrap();
        assert_eq!((config.bounds.worker.body_rate_min, config.bounds.worker.linger), (0, Duration::from_secs(1)));
        let error = format!("{LEAST}[limits]\nfields_max = 1\ntake_stall = \"1s\"").parse::<Config>().unwrap_err();
        let error = error.to_string();
        assert!(error.contains("limits.fields_max: it is 1: write a number from 32 to 10000"), "{error}");
        assert!(error.contains("limits.take_stall: is not a known key"), "{error}");
    }

    #[test]
    fn every_fault_is_told_at_once_with_its_key_and_what_to_do() {
        let error = r#"
            io = "kqueue"
            colour = "blue"
            [data]
            addr = "somewhere"
            [apps]
            queue_wait = "10"
            que_max = 5
            log_bytes_max = 1
            [log]
            level = "warning"
        "#
        .parse::<Config>()
        .unwrap_err()
        .to_string();
        for part in [
            "name: is missing: write name = \"h1\"",
            "state_dir: is missing",
            "io: `kqueue` is not one of: auto, uring, epoll",
            "colour: is not a known key",
            "data.addr: `somewhere` is not an address",
            "control.addr: is missing",
            "apps.queue_wait: \"10\" is not a duration",
            "apps.que_max: is not a known key",
            "apps.log_bytes_max: must be at least 4KiB",
            "log.level: \"warning\" is no level: write one of off, error, warn",
        ] {
            assert!(error.contains(part), "{part:?} is not in:\n{error}");
        }
    }

    #[test]
    fn a_slip_of_one_letter_is_answered_with_the_key_that_was_meant() {
        let error = format!("{LEAST}[apps]\nqueue-max = 5\nbunn = \"x\"").parse::<Config>().unwrap_err().to_string();
        assert!(error.contains("apps.queue-max: is not a known key; did you mean `queue_max`?"), "{error}");
        assert!(error.contains("did you mean `bun`?"), "{error}");
    }

    #[test]
    fn a_host_that_does_not_join_is_reached_from_its_own_machine_alone() {
        let open = LEAST.replace("127.0.0.1", "10.0.0.1");
        let error = open.parse::<Config>().unwrap_err().to_string();
        for part in ["data.addr: without [join]", "control.addr: without [join]"] {
            assert!(error.contains(part), "{part:?} is not in:\n{error}");
        }
        let joined: Config = format!("{open}[join]\nedges = [\"10.0.0.9:9900\"]\n").parse().unwrap();
        let token_file = PathBuf::from("/var/lib/steady/agent/join-token");
        assert_eq!(joined.join, Some(JoinConfig { edges: vec!["10.0.0.9:9900".parse().unwrap()], token_file }));
        for wrong in ["edges = []", "edges = [\"edge\"]", "token_file = \"t\""] {
            let error = format!("{open}[join]\n{wrong}\n").parse::<Config>().unwrap_err().to_string();
            assert!(error.contains("join.edges: "), "{error}");
        }
    }

    #[test]
    fn what_is_not_toml_says_where() {
        let error = "name = \n".parse::<Config>().unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }
}
