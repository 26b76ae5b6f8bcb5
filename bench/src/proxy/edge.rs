//! `steady-bench edge`: the edge's data plane as a process of its own, beside the other proxies. In the setting `production`
//! it is the edge's own policy, with a table that names the origin as the host and the access log in a file; in `bare` a
//! policy that only forwards. The table may have many applications, and change while it serves ([`super::tables`]).

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use steady_lb::certs::{CertDir, Certs};
use steady_lb::data::DataPlane;
use steady_lb::snapshot::{Plane as _, Settings, Snapshot};
use steady_proxy::log::LogSink;
use steady_proxy::sample::Samples;
use steady_proxy::tls::{self, TicketKeys};
use steady_proxy::{Blueprint, Fleet, Limits, Listener, Plane, daemon};

use super::Setting;
use super::bare::{Bare, Only};
use super::tables::{Change, Tables};

const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];
/// As the edge has it.
const CLIENT_WINDOW: u32 = 96 * 1024;
/// What [`answer`] tells.
const COUNTS: [&str; 2] = ["batches_total", "syscalls_total"];

#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long)]
    setting: Setting,
    #[arg(long)]
    origin: SocketAddr,
    /// Certificates are in its `certs`; the table and the log are made here.
    #[arg(long)]
    dir: PathBuf,
    /// Serve with epoll.
    #[arg(long)]
    epoll: bool,
    /// Applications in the table, in `production`.
    #[arg(long, default_value_t = 1)]
    apps: u32,
    /// What happens to the table meanwhile.
    #[arg(long, default_value = "none")]
    change: Change,
}

/// Serves until standard input ends.
pub fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    daemon::raise_descriptors();
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let (plain, plain_addr) = daemon::listen(local)?;
    let (secure, secure_addr) = daemon::listen(local)?;
    let listener = |tls| {
        let limits = steady_http::Limits { stream_window: CLIENT_WINDOW, ..steady_http::Limits::default() };
        Listener { tls, proxy_protocol: false, limits }
    };
    let worker = steady_proxy::Config {
        listeners: vec![listener(false), listener(true)],
        limits: Limits::default(),
        upstream_limits: steady_http::Limits::default(),
    };
    let blueprint = Blueprint {
        uring: !args.epoll,
        ring: steady_ring::Config::default(),
        worker,
        sockets: vec![plain, secure],
        pin: true,
    };
    let certs = certs(&args.dir)?;
    let ports = [plain_addr.port(), secure_addr.port()];
    match args.setting {
        Setting::Bare => {
            let tls = certs.config.ok_or("there is no certificate")?;
            let plane: Plane<Bare> = Plane::new(1, Arc::new(Only { origin: args.origin, tls }));
            let fleet = Fleet::start(&plane, blueprint, |_| Bare)?;
            answer(ports, || plane.stats().into_iter().map(|stats| stats as Arc<_>).collect())?;
            plane.stop();
            fleet.join()?;
        }
        Setting::Production => {
            let log = LogSink::open(&args.dir.join("steady-access.log"))?;
            let plane = DataPlane::new(1, blueprint, Some(&log));
            let tables = Tables::open(&args.dir, args.origin, args.apps, args.change)?;
            let plane = Arc::new(plane);
            let snapshot = move |routes: Arc<steady_table::Routes>| {
                let hosts = tables_hosts(&routes);
                Snapshot { routes, hosts, certs: certs.clone(), cluster: None, settings: Settings::default() }
            };
            plane.publish(Arc::new(snapshot(tables.first())));
            let publisher = Arc::clone(&plane);
            let stop = tables.change_for_ever(move |routes| {
                publisher.publish(Arc::new(snapshot(routes)));
            })?;
            answer(ports, || plane.samples())?;
            stop();
            if let Some(plane) = Arc::into_inner(plane) {
                plane.stop();
            }
        }
    }
    Ok(())
}

/// Says where it listens, then, for each line of standard input, what was counted so far: batches and system calls of the
/// workers, allocations of the process. Returns when it ends.
fn answer(ports: [u16; 2], samples: impl Fn() -> Vec<Arc<dyn Samples + Send + Sync>>) -> io::Result<()> {
    println!("{} {}", ports[0], ports[1]);
    for line in io::stdin().lines() {
        line?;
        let mut counts = [0; 2];
        for sample in samples() {
            sample.visit(&mut |sample| {
                let at = COUNTS.iter().position(|name| *name == sample.name);
                if let Some(at) = at {
                    counts[at] += sample.value;
                }
            });
        }
        println!("{} {} {}", counts[0], counts[1], steady_heap::of_process().allocations);
    }
    Ok(())
}

fn certs(dir: &Path) -> Result<Certs, Box<dyn Error>> {
    let set = CertDir::open(&dir.join("certs"), SystemTime::now())?.set();
    let tickets = Arc::new(TicketKeys::in_memory(SystemTime::now())?);
    let config = tls::server_config(Arc::clone(&set) as Arc<_>, Some(tickets), ALPN)?;
    Ok(Certs { set, config: Some(Arc::new(config)) })
}

fn tables_hosts(routes: &steady_table::Routes) -> Vec<steady_lb::snapshot::HostState> {
    routes.hosts().iter().map(|_| steady_lb::snapshot::HostState::Up).collect()
}
