//! A small world for control's tests: hosts with fake agents, a fake data path, one journal of everything that they see in
//! its order, and a fuse that stops the edge dead at any of its effects.

#![allow(dead_code, unused_imports)]

mod agent;
mod parts;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use steady_cluster::listen::{Listener as PrivateListener, Plain};
use steady_cluster::serve::serve;
use steady_lb::agents::Hosts;
use steady_lb::agents::health::{HostEvent, Pace, watch as watch_host};
use steady_lb::agents::orders::Streams;
use steady_lb::api::{Api, Token, router};
use steady_lb::bundles::Bundles;
use steady_lb::certs::Certs;
use steady_lb::cluster::Cluster;
use steady_lb::config::Config;
use steady_lb::control::{Control, Initial, reconcile_table};
use steady_lb::edge::{Edge, Facts, Listener};
use steady_lb::metrics::Metrics;
use steady_lb::snapshot::{HostState, Plane};
use steady_lb::store::sqlite::SqliteStore;
use steady_lb::store::*;
use steady_lb::workflow::{Tracker, resume_all};
use steady_table::{AppName, DomainName, TableDir};
use tokio::sync::{mpsc, oneshot, watch};

pub use agent::{Agent, FakeApp, Port, agent_router};
use parts::FusedStore;
pub use parts::{FakePlane, place};

pub const APP: &str = "shop";
/// Nothing here takes this long unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Stops whoever passes it for the n-th time, and all who come later.
#[derive(Debug)]
pub struct Fuse {
    left: AtomicU64,
    blown: watch::Sender<bool>,
}

impl Fuse {
    pub fn new(passes: u64) -> Arc<Fuse> {
        Arc::new(Fuse { left: passes.into(), blown: watch::Sender::new(false) })
    }

    /// From now on.
    pub fn set(&self, passes: u64) {
        self.left.store(passes, Ordering::SeqCst);
    }

    pub(super) async fn pass(&self) {
        let passed = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            left.checked_sub(u64::from(left != u64::MAX)).filter(|_| left > 0)
        });
        if passed.is_err() {
            self.blown.send_replace(true);
            std::future::pending::<()>().await;
        }
    }

    pub async fn blown(&self) {
        let mut blown = self.blown.subscribe();
        blown.wait_for(|blown| *blown).await.unwrap();
    }
}

/// What everybody sees and writes down.
#[derive(Debug)]
pub struct World {
    pub journal: Mutex<Vec<String>>,
    pub violations: Mutex<Vec<String>>,
    pub fuse: Mutex<Arc<Fuse>>,
    pub exclusive: bool,
    pub agents: Mutex<Vec<Arc<Agent>>>,
    /// Answers to give instead: the n-th call from now, its status, and whether it has its effect all the same.
    pub fault: Mutex<Option<(u64, u16, bool)>>,
    /// Told when the edge has read an application's custom domains, which it sees only when this says so.
    pub customs_read: Mutex<Option<(oneshot::Sender<()>, oneshot::Receiver<()>)>>,
}

impl World {
    pub fn new(exclusive: bool) -> Arc<World> {
        Arc::new(World {
            journal: Mutex::default(),
            violations: Mutex::default(),
            fuse: Mutex::new(Fuse::new(u64::MAX)),
            exclusive,
            agents: Mutex::default(),
            fault: Mutex::default(),
            customs_read: Mutex::default(),
        })
    }

    pub fn note(&self, what: String) {
        self.journal.lock().unwrap().push(what);
    }

    pub fn take_journal(&self) -> Vec<String> {
        std::mem::take(&mut self.journal.lock().unwrap())
    }

    pub(super) fn fuse(&self) -> Arc<Fuse> {
        Arc::clone(&self.fuse.lock().unwrap())
    }

    /// Hosts where a process of the application runs.
    pub fn running(&self) -> Vec<String> {
        let agents = self.agents.lock().unwrap();
        let runs = |agent: &&Arc<Agent>| agent.apps.lock().unwrap().get(APP).is_some_and(|app| app.running);
        agents.iter().filter(runs).map(|agent| agent.name.clone()).collect()
    }

    /// Hosts that say they own it, with their generation and version.
    pub fn owners(&self) -> Vec<(String, u64, u32)> {
        let agents = self.agents.lock().unwrap();
        let mut owners = Vec::new();
        for agent in agents.iter() {
            if let Some(app) = agent.apps.lock().unwrap().get(APP).filter(|app| app.role == "owner") {
                owners.push((agent.name.clone(), app.generation, app.version));
            }
        }
        owners
    }

    pub(super) fn check(&self) {
        let running = self.running();
        if self.exclusive && running.len() > 1 {
            self.violations.lock().unwrap().push(format!("an exclusive application runs on {running:?}"));
        }
    }

    pub(super) fn take_fault(&self) -> Option<(u16, bool)> {
        let mut fault = self.fault.lock().unwrap();
        match fault.as_mut() {
            Some((0, status, effect)) => {
                let found = (*status, *effect);
                *fault = None;
                Some(found)
            }
            Some((left, ..)) => {
                *left -= 1;
                None
            }
            None => None,
        }
    }
}

/// One life of an edge, on a state directory that outlives it.
pub struct Life {
    pub edge: Arc<Edge>,
    pub plane: Arc<FakePlane>,
    pub addr: SocketAddr,
    pub token: String,
    pub http: reqwest::Client,
}

pub fn config(dir: &Path) -> Config {
    let text = format!(
        "state_dir = {:?}\ndomains = [\"steady.test\"]\n[private]\naddr = \"127.0.0.1:0\"\n\
         [health]\nevery = \"20ms\"\nsuspect_after = \"30s\"\ndown_after = \"60ms\"\n",
        dir.display().to_string()
    );
    Config::parse(&text).unwrap()
}

pub fn facts() -> Facts {
    let listeners = vec![Listener { addr: "127.0.0.1:8080".parse().unwrap(), tls: false }];
    Facts { version: "0.1.0".into(), workers: 2, io: "epoll".into(), io_reason: None, listeners }
}

impl Life {
    /// Begins as the real one does, with crash points in the store and the agents.
    pub async fn begin(world: &Arc<World>, dir: &Path, fuse: Arc<Fuse>) -> Life {
        let plane = FakePlane::new(world);
        // The predecessor's last blocking call may still be letting go of the directory.
        let (table, routes, damage) = loop {
            match TableDir::open(dir.join("table")) {
                Err(steady_table::Error::Held { .. }) => tokio::task::yield_now().await,
                opened => break opened.unwrap(),
            }
        };
        assert!(damage.is_empty(), "{damage:?}");
        let open = SqliteStore::open(&dir.join("store.db")).unwrap();
        let (table, routes) = reconcile_table(table, routes.map(Arc::new), &open).await.map_err(|(_, e)| e).unwrap();
        let store: Arc<dyn Store> =
            Arc::new(FusedStore { inner: open, fuse: Arc::clone(&fuse), world: Arc::clone(world) });
        let metrics = Arc::new(Metrics::new("0.1.0", "epoll"));
        let config = config(dir);
        let initial = Initial { routes, certs: Certs::default(), cluster: None, settings: config.settings() };
        let plane_dyn: Arc<dyn Plane> = Arc::clone(&plane) as _;
        let kept = Arc::clone(&store);
        let control = Control::start(table, initial, None, store, Arc::clone(&plane_dyn), Arc::clone(&metrics));
        let cluster = Cluster::open(&dir.join("cluster"), "edge", SystemTime::now()).unwrap();
        let faults = Default::default();
        let streams = Streams { dir: dir.join("stream"), edge: "edge".into(), store: kept, faults };
        let (events_in, events) = mpsc::channel(64);
        let edge = Arc::new(Edge {
            facts: facts(),
            begun: Instant::now(),
            clock: Arc::new(|| 1_700_000_000_000),
            config: Arc::new(config).into(),
            control,
            hosts: Arc::new(Hosts::new(cluster.private_client(), streams)),
            bundles: Bundles::open(dir.join("bundles")).unwrap(),
            workflows: Tracker::default(),
            metrics: Arc::clone(&metrics),
            reports: Arc::new(steady_lb::reports::Reports::new(plane_dyn.meters())),
            host_events: events_in,
            registering: tokio::sync::Mutex::default(),
        });
        let token_file = dir.join("token");
        let token = Token::open(&token_file).unwrap();
        let text = std::fs::read_to_string(&token_file).unwrap().trim().to_owned();
        let api = Api::new(token, Arc::clone(&cluster), facts(), plane_dyn, metrics, Arc::default());
        api.open(Arc::clone(&edge));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let listener = PrivateListener::new(listener, cluster.private_server(), Plain::Loopback).unwrap();
        tokio::spawn(serve(listener, router(api), std::future::pending()));
        let life = Life { edge, plane, addr, token: text, http: reqwest::Client::new() };
        life.meet_hosts(world, dir, events).await;
        *world.fuse.lock().unwrap() = Arc::clone(&fuse);
        life
    }

    async fn meet_hosts(&self, world: &Arc<World>, dir: &Path, mut events: mpsc::Receiver<HostEvent>) {
        let known = self.edge.store().load().await.unwrap().hosts;
        let agents = world.agents.lock().unwrap().clone();
        if known.is_empty() {
            let writes = vec![Write::SetDomains(vec![DomainName::new("steady.test").unwrap()])];
            let commit = Commit { at_ms: 0, what: "domains".into(), expect: vec![], writes };
            self.edge.control.commit(commit).await.unwrap();
        }
        let mut handles = Vec::new();
        for agent in &agents {
            let token_file = dir.join("agent-token");
            std::fs::write(&token_file, "agent-token-of-the-test\n").unwrap();
            let record = HostRecord {
                name: agent.name.clone(),
                addr: agent.data.to_string(),
                control: agent.control.to_string(),
                token_file: token_file.display().to_string(),
            };
            if !known.contains(&record) {
                let writes = vec![Write::PutHost(record.clone())];
                let commit = Commit { at_ms: 0, what: "host".into(), expect: vec![], writes };
                self.edge.control.commit(commit).await.unwrap();
            }
            handles.push(self.edge.hosts.put(record).unwrap().unwrap());
        }
        *world.fuse.lock().unwrap() = Fuse::new(u64::MAX);
        resume_all(&self.edge, self.edge.store().open_workflows().await.unwrap());
        for handle in handles {
            let pace = || Pace {
                every: Duration::from_millis(20),
                suspect_after: Duration::from_secs(3),
                down_after: Duration::from_millis(60),
            };
            tokio::spawn(watch_host(Arc::clone(&self.edge.hosts), handle, pace, self.edge.host_events.clone()));
        }
        let edge = Arc::clone(&self.edge);
        let mut returns = steady_lb::reconcile::Returns::new(Arc::clone(&edge));
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                match event {
                    HostEvent::State { host, state } => edge.control.set_host(&host, state).await,
                    HostEvent::Returned { host, claims } => returns.returned(host, claims),
                }
            }
        });
        for agent in &agents {
            let alive = agent.task.lock().unwrap().is_some();
            let wanted = if alive { HostState::Up } else { HostState::Down };
            self.until(|| self.edge.hosts.state(&agent.name) == wanted).await;
        }
    }

    /// Waits for something that is observed.
    pub async fn until(&self, condition: impl Fn() -> bool) {
        let begun = Instant::now();
        while !condition() {
            assert!(begun.elapsed() < PATIENCE, "it did not come about");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.addr)).bearer_auth(&self.token)
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        answer(self.request(reqwest::Method::GET, path)).await
    }

    /// The lines of a workflow; a refusal as its one line.
    pub async fn flow(&self, request: reqwest::RequestBuilder) -> Vec<Value> {
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        if !status.is_success() {
            return vec![serde_json::from_str(&text).unwrap()];
        }
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub async fn deploy(&self, path: &str, text: &str) -> Vec<Value> {
        let bundle = pack(&[("index.ts", text), ("steady.toml", &format!("exclusive = {}", self.is_exclusive()))]);
        self.flow(self.request(reqwest::Method::PUT, path).body(bundle)).await
    }

    pub fn is_exclusive(&self) -> bool {
        self.plane.world.exclusive
    }

    pub async fn deploy_shop(&self, text: &str) -> Vec<Value> {
        let host = if self.edge.store().app(name(APP)).await.unwrap().is_none() { "?host=h1" } else { "" };
        self.deploy(&format!("/v1/apps/{APP}{host}"), text).await
    }

    pub async fn move_to(&self, host: &str) -> Vec<Value> {
        self.move_with(json!({"to": host})).await
    }

    pub async fn move_with(&self, body: Value) -> Vec<Value> {
        let request = self.request(reqwest::Method::POST, &format!("/v1/apps/{APP}/move")).body(body.to_string());
        self.flow(request).await
    }

    pub async fn remove(&self) -> Vec<Value> {
        self.flow(self.request(reqwest::Method::DELETE, &format!("/v1/apps/{APP}"))).await
    }

    /// Waits until nothing is under way, then puts both hosts right as their return would.
    pub async fn quiesce(&self, world: &World) {
        let begun = Instant::now();
        while !self.edge.store().open_workflows().await.unwrap().is_empty() {
            assert!(begun.elapsed() < PATIENCE, "a workflow does not end: {:?}", world.journal.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let agents = world.agents.lock().unwrap().clone();
        for agent in agents {
            steady_lb::reconcile::host_returned(Arc::clone(&self.edge), agent.name.clone(), None).await;
        }
    }

    /// Store, table, workers and hosts agree, and nobody but the owner has it.
    pub async fn assert_consistent(&self, world: &World) {
        let violations = world.violations.lock().unwrap().clone();
        assert!(violations.is_empty(), "{violations:?}\n{:#?}", world.journal.lock().unwrap());
        let record = self.edge.store().app(name(APP)).await.unwrap();
        let wanted =
            record.as_ref().map_or("nowhere".into(), |r| format!("{} g{} v{}", r.host, r.generation, r.version));
        let context = format!("{record:?}\n{:#?}", world.journal.lock().unwrap());
        assert_eq!(place(&self.plane.newest()), wanted, "{context}");
        let owner: Vec<_> = record.iter().map(|r| (r.host.clone(), r.generation, r.version)).collect();
        assert_eq!(world.owners(), owner, "{context}");
        let running: Vec<_> = record.iter().map(|r| r.host.clone()).collect();
        assert_eq!(world.running(), running, "{context}");
        assert_eq!(self.edge.workflows.open(), 0, "{context}");
    }
}

/// Two hosts, and an edge that has deployed `shop` on the first.
pub async fn deployed(exclusive: bool) -> (Arc<World>, tempfile::TempDir, Life) {
    deployed_on(exclusive, &["h1", "h2"]).await
}

pub async fn deployed_on(exclusive: bool, hosts: &[&str]) -> (Arc<World>, tempfile::TempDir, Life) {
    let (world, dir, life) = begun_on(exclusive, hosts).await;
    let lines = life.deploy_shop("one").await;
    assert!(done(&lines), "{lines:#?}");
    (world, dir, life)
}

/// Two hosts, and an edge that knows them.
pub async fn begun(exclusive: bool) -> (Arc<World>, tempfile::TempDir, Life) {
    begun_on(exclusive, &["h1", "h2"]).await
}

pub async fn begun_on(exclusive: bool, hosts: &[&str]) -> (Arc<World>, tempfile::TempDir, Life) {
    let world = World::new(exclusive);
    for host in hosts {
        Agent::start(&world, host).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let life = Life::begin(&world, dir.path(), Fuse::new(u64::MAX)).await;
    (world, dir, life)
}

pub fn agent(world: &World, name: &str) -> Arc<Agent> {
    let agents = world.agents.lock().unwrap();
    Arc::clone(agents.iter().find(|agent| agent.name == name).unwrap())
}

pub fn change(writes: Vec<Write>) -> Commit {
    Commit { at_ms: 0, what: "a change".into(), expect: Vec::new(), writes }
}

pub fn name(text: &str) -> AppName {
    AppName::new(text).unwrap()
}

pub async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

pub fn pack(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

pub fn done(lines: &[Value]) -> bool {
    lines.last().is_some_and(|line| line["done"] == true)
}
