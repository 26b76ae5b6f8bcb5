//! Starting the proxies, each on the core for proxies.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Lines, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::Setting;
use super::load::Shape;

/// Nothing here takes this long unless it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Who {
    Steady,
    /// Steady on epoll.
    SteadyEpoll,
    /// Another build of this program, for comparing a change with what was before it.
    Before,
    Haproxy,
    Nginx,
}

impl Who {
    pub const fn name(self) -> &'static str {
        match self {
            Who::Steady => "steady",
            Who::SteadyEpoll => "steady (epoll)",
            Who::Before => "before",
            Who::Haproxy => "haproxy",
            Who::Nginx => "nginx",
        }
    }

    pub const fn is_ours(self) -> bool {
        matches!(self, Who::Steady | Who::SteadyEpoll | Who::Before)
    }

    /// What it says its version is.
    pub fn version(self) -> String {
        let (program, flag) = match self {
            Who::Steady | Who::SteadyEpoll | Who::Before => return env!("CARGO_PKG_VERSION").to_owned(),
            Who::Haproxy => ("haproxy", "-v"),
            Who::Nginx => ("nginx", "-v"),
        };
        let Ok(output) = Command::new(program).arg(flag).output() else { return "not installed".to_owned() };
        // nginx says it on standard error.
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned()
    }
}

/// Programs to run in the place of this one.
#[derive(Clone, Debug, clap::Args)]
pub struct Builds {
    /// Another build of this program, for `--peers before`: what a change is compared with.
    #[arg(long)]
    before: Option<PathBuf>,
    /// The build to measure as Steady, in the place of this one.
    #[arg(long)]
    steady: Option<PathBuf>,
}

/// A proxy that runs; it ends with this.
#[derive(Debug)]
pub struct Proxy {
    pub who: Who,
    child: Child,
    /// Ours answers there how much it has counted.
    answers: Option<Lines<BufReader<ChildStdout>>>,
    h1: u16,
    h2c: u16,
    tls: u16,
}

impl Proxy {
    pub fn pid(&self) -> u32 {
        self.child.id()
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

    /// Batches, system calls and sends so far, where it tells.
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
    pub fn start(who: Who, setting: Setting, origin: SocketAddr, dir: &Path, builds: &Builds) -> Result<Proxy, String> {
        let explain = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => format!("{} is not installed: apt-get install nginx-light haproxy", who.name()),
            _ => format!("{} cannot be started: {error}", who.name()),
        };
        if who.is_ours() {
            return start_ours(who, setting, origin, dir, builds);
        }
        let [h1, h2c, tls] = free_ports().map_err(explain)?;
        let text = match (who, setting) {
            (Who::Haproxy, Setting::Bare) => include_str!("../../peers/haproxy-bare.cfg"),
            (Who::Haproxy, Setting::Production) => include_str!("../../peers/haproxy-production.cfg"),
            (_, Setting::Bare) => include_str!("../../peers/nginx-bare.conf"),
            (_, Setting::Production) => include_str!("../../peers/nginx-production.conf"),
        };
        let mut text = text.replace("{dir}", &dir.display().to_string()).replace("{origin}", &origin.to_string());
        for (name, port) in [("{h1}", h1), ("{h2c}", h2c), ("{tls}", tls)] {
            text = text.replace(name, &port.to_string());
        }
        let file = dir.join(format!("{}.conf", who.name()));
        fs::write(&file, text).map_err(explain)?;
        let log = File::create(dir.join(format!("{}.log", who.name()))).map_err(explain)?;
        // The kernel ends it when this process ends in whatever way.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]);
        match who {
            Who::Haproxy => command.args(["haproxy", "-db", "-f"]).arg(&file),
            _ => command.arg("nginx").arg("-p").arg(dir).arg("-c").arg(&file),
        };
        let errors = log.try_clone().map_err(explain)?;
        let child = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn().map_err(explain)?;
        let proxy = Proxy { who, child, answers: None, h1, h2c, tls };
        proxy.await_port(dir)
    }

    fn await_port(mut self, dir: &Path) -> Result<Proxy, String> {
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.tls)).is_err() {
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() || begun.elapsed() > PATIENCE {
                let log = fs::read_to_string(dir.join(format!("{}.log", self.who.name()))).unwrap_or_default();
                return Err(format!("{} does not serve: {log}", self.who.name()));
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

fn start_ours(who: Who, setting: Setting, origin: SocketAddr, dir: &Path, builds: &Builds) -> Result<Proxy, String> {
    let explain = |error: io::Error| format!("{} cannot be started: {error}", who.name());
    let own = std::env::current_exe().map_err(explain)?;
    let program = match who {
        Who::Before => builds.before.as_ref().ok_or("`before` needs --before PROGRAM, another build of this one")?,
        _ => builds.steady.as_ref().unwrap_or(&own),
    };
    let dir = dir.join(if who == Who::Before { "before" } else { "steady" });
    fs::create_dir_all(&dir).map_err(explain)?;
    let mut command = Command::new(program);
    command.args(["edge", "--setting", setting.name(), "--origin", &origin.to_string(), "--dir"]).arg(&dir);
    if who == Who::SteadyEpoll {
        command.arg("--epoll");
    }
    let certs = dir.join("certs");
    if !certs.exists() {
        fs::create_dir(&certs).map_err(explain)?;
        let parent = dir.parent().unwrap_or(&dir);
        for (from, to) in [("cert.pem", "bench.crt"), ("key.pem", "bench.key")] {
            fs::copy(parent.join(from), certs.join(to)).map_err(explain)?;
        }
    }
    let log = File::create(dir.join(format!("{}.stats", setting.name()))).map_err(explain)?;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().map_err(explain)?;
    let mut answers = child.stdout.take().map(|out| BufReader::new(out).lines());
    let line = answers.as_mut().and_then(Iterator::next).transpose().map_err(explain)?.unwrap_or_default();
    let ports: Option<(u16, u16)> =
        line.trim().split_once(' ').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let Some((plain, tls)) = ports else {
        let _ = child.wait();
        let said = fs::read_to_string(dir.join(format!("{}.stats", setting.name()))).unwrap_or_default();
        return Err(format!("{} did not say where it listens: {said}", who.name()));
    };
    Ok(Proxy { who, child, answers, h1: plain, h2c: plain, tls })
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
