//! A house without its control sides: an edge's workers, agents' workers and an origin, on real sockets in one process. A
//! test plays control: it publishes tables to the edge and roles to the agents, and sees both at once.
//!
//! Each test file includes this module and uses a part of it.
#![allow(dead_code)]

pub mod fake;
pub mod h2c;
pub mod origin;

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use steady_agent::gate::{App, Apps, Generation, Notice, Plane as _, Process, Protocol, Role};
use steady_lb::snapshot::{HostState, Plane as _, Settings, Snapshot};
use steady_proxy::log::LogSink;
use steady_proxy::sample::Samples;
use steady_proxy::{Blueprint, Config, Fleet, Limits, Listener};
use steady_table::{AppName, Change, Contents, DomainName, Endpoint, Host, HostIndex, Moving, Routes, TableDir};

use origin::Origin;

/// The edge's plain listener, the one that wants the PROXY protocol, the one for TLS, and the one for both.
const LISTENERS: usize = 4;

/// What a house is built from.
pub struct Setup {
    pub uring: bool,
    /// Workers of the edge and of each agent.
    pub workers: usize,
    pub agents: usize,
    pub settings: Settings,
    pub limits: Limits,
    /// The certificates of the TLS listener: each one's names.
    pub certs: Vec<Vec<&'static str>>,
    /// Access and request logs are written.
    pub logs: bool,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            uring: true,
            workers: 1,
            agents: 1,
            settings: Settings::default(),
            limits: Limits::default(),
            certs: Vec::new(),
            logs: false,
        }
    }
}

pub struct House {
    pub plain: SocketAddr,
    pub proxied: SocketAddr,
    pub tls: SocketAddr,
    pub tls_proxied: SocketAddr,
    pub agents: Vec<Agent>,
    /// Where the table says that the hosts are: the agents, unless a test puts something else in the place of one.
    pub hosts: Vec<SocketAddr>,
    pub origin: Origin,
    pub edge: Option<steady_lb::data::DataPlane>,
    table: Mutex<TableDir>,
    revision: AtomicU64,
    settings: Settings,
    certs: steady_lb::certs::Certs,
    states: Vec<HostState>,
    logs: Vec<LogSink>,
    pub dir: tempfile::TempDir,
}

impl Drop for House {
    fn drop(&mut self) {
        if let Some(edge) = self.edge.take() {
            edge.stop();
        }
        for agent in &mut self.agents {
            agent.stop();
        }
    }
}

impl House {
    /// A house whose agents know nothing and whose table has no application yet.
    pub fn build(setup: Setup) -> House {
        let dir = tempfile::tempdir().unwrap();
        let mut logs = Vec::new();
        let mut log = |name: &str| {
            setup.logs.then(|| logs.push(LogSink::open(&dir.path().join(name)).unwrap()));
            logs.len().checked_sub(1)
        };
        let edge_log = log("access.jsonl");
        let agent_logs: Vec<_> = (0..setup.agents).map(|at| log(&format!("requests-{at}.jsonl"))).collect();
        let agents: Vec<_> = agent_logs.into_iter().map(|log| Agent::start(&setup, log.map(|at| &logs[at]))).collect();

        let (sockets, addrs): (Vec<OwnedFd>, Vec<SocketAddr>) = (0..LISTENERS).map(|_| listen()).unzip();
        let limits = steady_http::Limits { stream_window: 96 * 1024, ..steady_http::Limits::default() };
        let listener = |tls, proxy_protocol| Listener { tls, proxy_protocol, limits: limits.clone() };
        let listeners = [(false, false), (false, true), (true, false), (true, true)];
        let listeners = listeners.map(|(tls, proxy_protocol)| listener(tls, proxy_protocol)).to_vec();
        let blueprint = blueprint(&setup, sockets, listeners);
        let edge = steady_lb::data::DataPlane::new(setup.workers, blueprint, edge_log.map(|at| &logs[at]));
        let (table, _, _) = TableDir::open(dir.path().join("routes")).unwrap();
        let house = House {
            plain: addrs[0],
            proxied: addrs[1],
            tls: addrs[2],
            tls_proxied: addrs[3],
            hosts: agents.iter().map(|agent| agent.addr).collect(),
            agents,
            origin: Origin::start(),
            edge: Some(edge),
            table: Mutex::new(table),
            revision: AtomicU64::new(0),
            certs: certificates(dir.path(), &setup.certs),
            settings: setup.settings,
            states: vec![HostState::Up; setup.agents],
            logs,
            dir,
        };
        house.route(Vec::new());
        house
    }

    /// The usual one: `echo` runs on the first agent, generation 1.
    pub fn with_echo(setup: Setup) -> House {
        let house = House::build(setup);
        house.agents[0].set(house.ready("echo", 1));
        house.route(vec![placed("echo", 0, 1)]);
        house
    }

    pub fn edge(&self) -> &steady_lb::data::DataPlane {
        self.edge.as_ref().unwrap()
    }

    /// A table with these applications alone; every worker runs by it when this returns.
    pub fn route(&self, apps: Vec<steady_table::App>) {
        let contents = self.contents(apps);
        let routes = self.build_table(contents);
        self.publish(routes);
    }

    /// Writes the next whole table.
    pub fn build_table<I>(&self, contents: Contents<I>) -> Routes
    where
        I: IntoIterator<Item = steady_table::App>,
    {
        let revision = self.revision.fetch_add(1, Ordering::Relaxed) + 1;
        self.table.lock().unwrap().replace(contents, revision).unwrap()
    }

    pub fn contents<I>(&self, apps: I) -> Contents<I> {
        let host = |(at, addr): (usize, &SocketAddr)| Host::new(&format!("h{}", at + 1), &addr.to_string()).unwrap();
        let domain = |name: &str| DomainName::new(name).unwrap();
        Contents {
            hosts: self.hosts.iter().enumerate().map(host).collect(),
            domains: vec![domain("localhost"), domain("steady.page"), domain("steady.sh")],
            apps,
            customs: vec![],
        }
    }

    /// Writes a table that differs from this one.
    pub fn change_table(&self, routes: &Routes, changes: &[Change]) -> Routes {
        let revision = self.revision.fetch_add(1, Ordering::Relaxed) + 1;
        self.table.lock().unwrap().apply(routes, changes, revision).unwrap()
    }

    pub fn publish(&self, routes: impl Into<Arc<Routes>>) {
        self.publish_with(routes.into(), &self.settings, &self.states);
    }

    pub fn publish_with(&self, routes: Arc<Routes>, settings: &Settings, states: &[HostState]) {
        let edge = self.edge();
        let version = edge.publish(Arc::new(Snapshot {
            routes,
            hosts: states.to_vec(),
            certs: self.certs.clone(),
            cluster: None,
            settings: settings.clone(),
        }));
        crate::support::eventually("every worker of the edge takes the publication", || {
            (edge.settled() >= version).then_some(())
        });
    }

    /// An application that this agent owns and whose process is the origin.
    pub fn ready(&self, name: &str, generation: u64) -> App {
        app(name, Role::Owner, generation, self.process())
    }

    /// The origin as an application's process.
    pub fn process(&self) -> Process {
        Process::Ready { addr: self.origin.addr.into(), protocol: Protocol::Http1, instance: 7 }
    }

    /// A counter of the edge, summed over its workers (and its labels).
    pub fn count(&self, name: &str) -> u64 {
        sum(self.edge().samples(), name, None)
    }

    pub fn count_of(&self, name: &str, label: &str) -> u64 {
        sum(self.edge().samples(), name, Some(label))
    }
}

/// The sum of a counter over everything that is sampled.
pub fn sum(samples: Vec<Arc<dyn Samples + Send + Sync>>, name: &str, label: Option<&str>) -> u64 {
    let mut total = 0;
    for worker in samples {
        worker.visit(&mut |sample| {
            let labelled = label.is_none() || sample.label.map(|(_, value)| value) == label;
            if sample.name == name && labelled {
                total += sample.value;
            }
        });
    }
    total
}

/// One host: its agent's workers, and what the test told them.
pub struct Agent {
    pub addr: SocketAddr,
    pub plane: Arc<steady_agent::data::DataPlane>,
    pub notices: Mutex<tokio::sync::mpsc::Receiver<Notice>>,
    apps: Mutex<HashMap<Arc<str>, Arc<App>>>,
    fleet: Option<Fleet>,
}

impl Agent {
    fn start(setup: &Setup, log: Option<&LogSink>) -> Agent {
        let (socket, addr) = listen();
        let plane = Arc::new(steady_agent::data::DataPlane::new(setup.workers));
        let (sender, notices) = tokio::sync::mpsc::channel(64);
        // As an agent's daemon has them: many streams from one edge, a stream window that is what the edge keeps.
        let limits = steady_http::Limits {
            head_bytes_max: 48 * 1024,
            fields_max: 160,
            streams_max: 1024,
            resets_max: 100_000,
            control_frames_max: 100_000,
            stream_window: 64 * 1024,
            connection_window: 16 * 1024 * 1024,
            ..steady_http::Limits::default()
        };
        let listener = Listener { tls: false, proxy_protocol: false, limits };
        let mut blueprint = blueprint(setup, vec![socket], vec![listener]);
        // Its clients are edges, which judge their own.
        blueprint.worker.limits.take_stall = Duration::MAX;
        blueprint.worker.limits.bodies_bytes_max = usize::MAX;
        let fleet = plane.start(blueprint, sender, Default::default(), log).unwrap();
        Agent { addr, plane, notices: Mutex::new(notices), apps: Mutex::default(), fleet: Some(fleet) }
    }

    /// Puts an application in force; every worker runs by it when this returns.
    pub fn set(&self, app: App) {
        self.apps.lock().unwrap().insert(Arc::clone(&app.name), Arc::new(app));
        self.publish();
    }

    pub fn forget(&self, name: &str) {
        self.apps.lock().unwrap().remove(name);
        self.publish();
    }

    fn publish(&self) {
        let version = self.plane.publish(Arc::new(Apps { apps: self.apps.lock().unwrap().clone() }));
        crate::support::eventually("every worker of the agent takes the publication", || {
            (self.plane.settled() >= version).then_some(())
        });
    }

    pub fn count(&self, name: &str) -> u64 {
        sum(self.plane.samples(), name, None)
    }

    /// Ends its workers: nobody listens on its port any more.
    pub fn stop(&mut self) {
        if let Some(fleet) = self.fleet.take() {
            self.plane.stop();
            fleet.join().unwrap();
        }
    }
}

pub fn app(name: &str, role: Role, generation: u64, process: Process) -> App {
    App {
        name: name.into(),
        role,
        generation: Generation(generation),
        version: 1,
        process,
        queue_max: 100,
        queue_wait: Duration::from_secs(60),
        response_timeout: Duration::from_secs(60),
    }
}

/// An application in one place.
pub fn placed(name: &str, host: u32, generation: u64) -> steady_table::App {
    steady_table::App {
        name: AppName::new(name).unwrap(),
        generation,
        exclusive: false,
        version: 1,
        endpoints: vec![Endpoint { host: HostIndex(host), weight: 1, version: 1 }],
        moving: None,
    }
}

/// One that moves from the first host to the second, from generation 1 to 2.
pub fn moving(name: &str) -> steady_table::App {
    let moving = Some(Moving { from: HostIndex(0), to: HostIndex(1), generation: 2 });
    steady_table::App { exclusive: true, moving, ..placed(name, 0, 1) }
}

fn blueprint(setup: &Setup, sockets: Vec<OwnedFd>, listeners: Vec<Listener>) -> Blueprint {
    let upstream_limits = steady_http::Limits::default();
    Blueprint {
        uring: setup.uring,
        ring: steady_ring::Config::default(),
        worker: Config { listeners, limits: setup.limits.clone(), upstream_limits },
        sockets,
        pin: false,
    }
}

/// A socket that listens on a port of its own.
pub fn listen() -> (OwnedFd, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener.into(), addr)
}

/// Certificates by an authority of their own, which is written to `ca.pem`.
fn certificates(dir: &Path, names: &[Vec<&str>]) -> steady_lb::certs::Certs {
    if names.is_empty() {
        return Default::default();
    }
    let certs = dir.join("certs");
    std::fs::create_dir(&certs).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    // With the name of those that it signs, OpenSSL would take them for self-signed.
    params.distinguished_name.push(rcgen::DnType::CommonName, "the authority of a house");
    let key = rcgen::KeyPair::generate().unwrap();
    std::fs::write(dir.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    for (at, names) in names.iter().enumerate() {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let leaf = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::write(certs.join(format!("{at}.crt")), leaf.pem()).unwrap();
        std::fs::write(certs.join(format!("{at}.key")), key.serialize_pem()).unwrap();
    }
    let set = steady_lb::certs::CertDir::open(&certs, std::time::SystemTime::now()).unwrap().set();
    let config = steady_proxy::tls::server_config(set.clone(), None, &[b"h2", b"http/1.1"]).unwrap();
    steady_lb::certs::Certs { set, config: Some(Arc::new(config)) }
}

/// Runs the test on a house of each driver.
pub fn both(setup: impl Fn() -> Setup, test: impl Fn(&mut House)) {
    for uring in [true, false] {
        test(&mut House::with_echo(Setup { uring, ..setup() }));
    }
}
