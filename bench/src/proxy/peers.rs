//! Starting the proxies, each on the core for proxies and in a directory of its own.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Lines, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::Setting;
use super::shape::{Life, Shape};
use super::who::Who;

/// Nothing here takes this long unless it fails; a table of a million applications is made in a few seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Programs to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Builds {
    /// Another build of this program, for `--peers before`: what a change is compared with.
    #[arg(long)]
    before: Option<PathBuf>,
    /// The build to measure as Steady, in the place of this one.
    #[arg(long)]
    steady: Option<PathBuf>,
    /// Envoy, where it is not in PATH.
    #[arg(long, default_value = "envoy")]
    pub envoy: PathBuf,
    /// Where the baselines were built: `cargo build --release --manifest-path bench/baselines/Cargo.toml`.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/baselines/target/release"))]
    baselines: PathBuf,
}

impl Builds {
    /// Whether this one could be started.
    pub fn has(&self, who: Who) -> bool {
        match who {
            Who::Envoy => Command::new(&self.envoy).arg("--version").output().is_ok_and(|said| said.status.success()),
            _ => self.baseline(who).exists(),
        }
    }

    fn baseline(&self, who: Who) -> PathBuf {
        self.baselines.join(format!("baseline-{}", who.key()))
    }
}

/// What every start needs.
#[derive(Clone, Copy, Debug)]
pub struct Stage<'a> {
    pub setting: Setting,
    pub origin: SocketAddr,
    /// Certificates are in it.
    pub dir: &'a Path,
    pub builds: &'a Builds,
}

/// A proxy that runs; it ends with this.
#[derive(Debug)]
pub struct Proxy {
    who: Who,
    child: Child,
    /// Ours answers there how much it has counted.
    answers: Option<Lines<BufReader<ChildStdout>>>,
    h1: u16,
    h2c: u16,
    tls: u16,
    /// In a chain: who stands between it and the application.
    behind: Option<Box<Proxy>>,
}

impl Proxy {
    /// Of all that stands between the load and the origin.
    pub fn pids(&self) -> Vec<u32> {
        let mut pids = self.behind.as_ref().map(|behind| behind.pids()).unwrap_or_default();
        pids.push(self.child.id());
        pids
    }

    /// Applications that its table has.
    pub fn apps(&self) -> u32 {
        self.who.tables().0
    }

    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub fn addr(&self, shape: Shape) -> SocketAddr {
        let port = if shape.tls {
            self.tls
        } else if shape.h2 {
            self.h2c
        } else {
            self.h1
        };
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// Batches, system calls and allocations so far, where it tells.
    pub fn counts(&mut self) -> Option<[u64; 3]> {
        self.child.stdin.as_mut()?.write_all(b"\n").ok()?;
        let line = self.answers.as_mut()?.next()?.ok()?;
        let mut counts = line.split(' ').map(|text| text.parse().unwrap_or(0));
        Some([counts.next()?, counts.next()?, counts.next()?])
    }

    /// Starts one. The calling thread's core is the proxy's.
    ///
    /// # Errors
    /// A sentence that says what to do.
    pub fn start(who: Who, stage: Stage<'_>) -> Result<Proxy, String> {
        let explain = |error: io::Error| format!("its directory cannot be made: {error}");
        let dir = stage.dir.join(who.key());
        fs::create_dir_all(&dir).map_err(explain)?;
        for name in ["cert.pem", "key.pem", "both.pem"] {
            fs::copy(stage.dir.join(name), dir.join(name)).map_err(explain)?;
        }
        let inner = Stage { dir: &dir, ..stage };
        match who {
            Who::Chain => {
                let agent = start_own(who, inner, &["agent"])?;
                let origin = SocketAddr::from(([127, 0, 0, 1], agent.h1));
                let mut edge = start_ours(who, Stage { origin, ..inner })?;
                edge.behind = Some(Box::new(agent));
                Ok(edge)
            }
            Who::PeerChain => {
                let nginx = Proxy::start(Who::Nginx, inner)?;
                let origin = SocketAddr::from(([127, 0, 0, 1], nginx.h2c));
                let mut haproxy = Proxy::start(Who::Haproxy, Stage { origin, ..inner })?;
                haproxy.behind = Some(Box::new(nginx));
                Ok(haproxy)
            }
            Who::Monoio | Who::TokioUring | Who::Floor => start_baseline(who, inner),
            own if own.is_ours() => start_ours(own, inner),
            _ => start_peer(who, inner),
        }
    }

    fn await_port(mut self, log: &Path) -> Result<Proxy, String> {
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.tls)).is_err() {
            if !self.is_alive() || begun.elapsed() > PATIENCE {
                let said = fs::read_to_string(log).unwrap_or_default();
                return Err(format!("{} does not serve: {}", self.who.name(), brief(&said)));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(self)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Ours end when their standard input does.
        let piped = self.child.stdin.take().is_some();
        if !piped {
            let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        }
        let _ = self.child.wait();
    }
}

impl Who {
    /// Whether it can be asked in this way at all.
    pub fn serves(self, shape: Shape) -> bool {
        let simple = !shape.tls && !shape.h2 && shape.life == Life::Kept;
        match self {
            Who::Floor => simple && shape.upload == 0 && shape.download == 100,
            Who::Monoio | Who::TokioUring => simple,
            _ => true,
        }
    }
}

/// The end of what a program said, on one line of a table.
fn brief(said: &str) -> String {
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join("; ").replace('|', "/")
}

fn start_peer(who: Who, stage: Stage<'_>) -> Result<Proxy, String> {
    let Stage { setting, origin, dir, builds } = stage;
    let explain = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => format!("{} is not installed: {}", who.name(), who.how_to_install()),
        _ => format!("{} cannot be started: {error}", who.name()),
    };
    let [h1, h2c, tls] = free_ports().map_err(explain)?;
    let text = match (who, setting) {
        (Who::Haproxy, Setting::Bare) => include_str!("../../peers/haproxy-bare.cfg"),
        (Who::Haproxy, Setting::Production) => include_str!("../../peers/haproxy-production.cfg"),
        (Who::Envoy, Setting::Bare) => include_str!("../../peers/envoy-bare.yaml"),
        (Who::Envoy, Setting::Production) => include_str!("../../peers/envoy-production.yaml"),
        (_, Setting::Bare) => include_str!("../../peers/nginx-bare.conf"),
        (_, Setting::Production) => include_str!("../../peers/nginx-production.conf"),
    };
    let mut text = text.replace("{dir}", &dir.display().to_string()).replace("{origin}", &origin.to_string());
    for (name, port) in [("{h1}", h1), ("{h2c}", h2c), ("{tls}", tls), ("{origin_port}", origin.port())] {
        text = text.replace(name, &port.to_string());
    }
    let file = dir.join(if who == Who::Envoy { "envoy.yaml" } else { "configuration" });
    fs::write(&file, text).map_err(explain)?;
    let said = dir.join("output");
    let output = File::create(&said).map_err(explain)?;
    // The kernel ends it when this process ends in whatever way.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]);
    match who {
        Who::Haproxy => command.args(["haproxy", "-db", "-f"]).arg(&file),
        Who::Envoy => command
            .arg(&builds.envoy)
            .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"])
            .arg(&file),
        _ => command.arg("nginx").arg("-p").arg(dir).arg("-c").arg(&file),
    };
    let errors = output.try_clone().map_err(explain)?;
    let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn().map_err(explain)?;
    let proxy = Proxy { who, child, answers: None, h1, h2c, tls, behind: None };
    proxy.await_port(&said)
}

fn start_ours(who: Who, stage: Stage<'_>) -> Result<Proxy, String> {
    let explain = |error: io::Error| format!("{} cannot be started: {error}", who.name());
    let certs = stage.dir.join("certs");
    fs::create_dir_all(&certs).map_err(explain)?;
    for (from, to) in [("cert.pem", "bench.crt"), ("key.pem", "bench.key")] {
        fs::copy(stage.dir.join(from), certs.join(to)).map_err(explain)?;
    }
    let (apps, change) = who.tables();
    let apps = apps.to_string();
    let mut words = vec!["edge", "--setting", stage.setting.name(), "--apps", &apps, "--change", change];
    if who == Who::SteadyEpoll {
        words.push("--epoll");
    }
    // A build of before may know no tables.
    if who == Who::Before {
        words.truncate(3);
    }
    start_own(who, stage, &words)
}

/// This program (or another build of it) in one of its hidden parts, which says its ports first.
fn start_own(who: Who, stage: Stage<'_>, words: &[&str]) -> Result<Proxy, String> {
    let explain = |error: io::Error| format!("{} cannot be started: {error}", who.name());
    let own = std::env::current_exe().map_err(explain)?;
    let program = match who {
        Who::Before => {
            stage.builds.before.as_ref().ok_or("`before` needs --before PROGRAM, another build of this one")?
        }
        _ => stage.builds.steady.as_ref().unwrap_or(&own),
    };
    let mut command = Command::new(program);
    command.args(words).arg("--origin").arg(stage.origin.to_string()).arg("--dir").arg(stage.dir);
    speaking(who, command, stage.dir)
}

fn start_baseline(who: Who, stage: Stage<'_>) -> Result<Proxy, String> {
    let program = stage.builds.baseline(who);
    if !program.exists() {
        return Err(format!("{} is not built: {}", who.name(), who.how_to_install()));
    }
    let mut command = Command::new(program);
    command.arg(stage.origin.to_string());
    speaking(who, command, stage.dir)
}

/// Starts a program that says its port (for HTTP) and perhaps another (for TLS) on its first line, and ends with its input.
fn speaking(who: Who, mut command: Command, dir: &Path) -> Result<Proxy, String> {
    let explain = |error: io::Error| format!("{} cannot be started: {error}", who.name());
    let said = dir.join("errors");
    let errors = File::create(&said).map_err(explain)?;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).spawn().map_err(explain)?;
    let mut answers = child.stdout.take().map(|out| BufReader::new(out).lines());
    let line = answers.as_mut().and_then(Iterator::next).transpose().map_err(explain)?.unwrap_or_default();
    let ports: Vec<u16> = line.split_whitespace().filter_map(|port| port.parse().ok()).collect();
    let Some(&plain) = ports.first() else {
        drop(child.stdin.take());
        let _ = child.wait();
        let said = fs::read_to_string(&said).unwrap_or_default();
        return Err(format!("{} did not say where it listens: {}", who.name(), brief(&said)));
    };
    let tls = ports.get(1).copied().unwrap_or(plain);
    let answers = if who.is_ours() { answers } else { None };
    Ok(Proxy { who, child, answers, h1: plain, h2c: plain, tls, behind: None })
}

/// Ports that nobody has. Whoever takes one in the moment before the proxy does is an error that is seen.
fn free_ports() -> io::Result<[u16; 3]> {
    let sockets = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0"));
    let mut ports = [0; 3];
    for (port, socket) in ports.iter_mut().zip(&sockets) {
        *port = socket.as_ref().map_err(|error| io::Error::from(error.kind()))?.local_addr()?.port();
    }
    Ok(ports)
}
