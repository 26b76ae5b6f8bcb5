//! A small world for control's tests: hosts with fake agents, a fake data path, one journal of everything that they see in
//! its order, and a fuse that stops the edge dead at any of its effects.

#![allow(dead_code)]

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Bytes;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, head, post};
use axum::{Json, Router};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use steady_cluster::listen::{Listener as PrivateListener, Peer, Plain};
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
use steady_lb::snapshot::{HostState, Plane, Snapshot};
use steady_lb::store::sqlite::SqliteStore;
use steady_lb::store::*;
use steady_lb::workflow::{Tracker, resume_all};
use steady_proxy::sample::{Kind as SampleKind, Sample, Samples};
use steady_table::{AppName, DomainName, TableDir};
use tokio::sync::{mpsc, oneshot, watch};

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

    async fn pass(&self) {
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

    fn fuse(&self) -> Arc<Fuse> {
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

    fn check(&self) {
        let running = self.running();
        if self.exclusive && running.len() > 1 {
            self.violations.lock().unwrap().push(format!("an exclusive application runs on {running:?}"));
        }
    }

    fn take_fault(&self) -> Option<(u16, bool)> {
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

#[derive(Clone, Debug)]
pub struct FakeApp {
    pub role: &'static str,
    pub generation: u64,
    pub version: u32,
    pub digest: String,
    pub running: bool,
}

impl FakeApp {
    fn show(&self, name: &str) -> Value {
        let state = if self.running { "ready" } else { "cold" };
        json!({"name": name, "role": self.role, "generation": self.generation, "version": self.version,
               "digest": self.digest, "state": state})
    }
}

/// An agent's API over a table of applications, with the rules of `docs/api.md`.
#[derive(Debug)]
pub struct Agent {
    pub name: String,
    pub control: SocketAddr,
    pub data: SocketAddr,
    pub apps: Mutex<HashMap<String, FakeApp>>,
    pub bundles: Mutex<HashSet<String>>,
    /// Calls that are refused with 422, such as `PUT owner`; `GET`: what it has of an application, with 500.
    pub refuses: Mutex<HashSet<String>>,
    /// Calls that fail with 500 before they have an effect.
    pub fails: Mutex<HashSet<String>>,
    pub forwarded: Mutex<Vec<String>>,
    world: Arc<World>,
    task: Mutex<Option<tokio::task::JoinHandle<()>>>,
    data_listener: Mutex<Option<std::net::TcpListener>>,
}

impl Agent {
    pub async fn start(world: &Arc<World>, name: &str) -> Arc<Agent> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let data = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let agent = Arc::new(Agent {
            name: name.into(),
            control: listener.local_addr().unwrap(),
            data: data.local_addr().unwrap(),
            apps: Mutex::default(),
            bundles: Mutex::default(),
            refuses: Mutex::default(),
            fails: Mutex::default(),
            forwarded: Mutex::default(),
            world: Arc::clone(world),
            task: Mutex::default(),
            data_listener: Mutex::new(Some(data)),
        });
        agent.serve(listener);
        world.agents.lock().unwrap().push(Arc::clone(&agent));
        agent
    }

    fn serve(self: &Arc<Agent>, listener: tokio::net::TcpListener) {
        let router = agent_router(Arc::clone(self));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        *self.task.lock().unwrap() = Some(task);
    }

    /// The machine is gone: both ports refuse, its processes with it.
    pub fn die(&self) {
        self.mute();
        self.data_listener.lock().unwrap().take();
        self.apps.lock().unwrap().values_mut().for_each(|app| app.running = false);
    }

    /// Only its agent's API stops answering.
    pub fn mute(&self) {
        if let Some(task) = self.task.lock().unwrap().take() {
            task.abort();
        }
    }

    pub async fn revive(self: &Arc<Agent>) {
        let listener = loop {
            // The aborted server lets go of its port at its next turn.
            match tokio::net::TcpListener::bind(self.control).await {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        if self.data_listener.lock().unwrap().is_none() {
            *self.data_listener.lock().unwrap() = Some(std::net::TcpListener::bind(self.data).unwrap());
        }
        self.serve(listener);
    }

    pub fn app(&self) -> Option<FakeApp> {
        self.apps.lock().unwrap().get(APP).cloned()
    }

    /// One call: crash points around its effect, faults instead of its answer.
    async fn call(&self, what: String, effect: impl FnOnce(&Agent) -> Result<Value, No>) -> Response {
        let fuse = self.world.fuse();
        fuse.pass().await;
        let fault = self.world.take_fault();
        if let Some((status, false)) = fault {
            self.world.note(format!("{} {what} -> {status}", self.name));
            return problem(status, "a fault of the test", None);
        }
        if self.fails.lock().unwrap().iter().any(|failing| what.starts_with(failing.as_str())) {
            return problem(500, "its disk is full", None);
        }
        let refused = self.refuses.lock().unwrap().iter().any(|refused| what.starts_with(refused.as_str()));
        let result = if refused { Err((422, "it exits with 1".into(), None)) } else { effect(self) };
        let told = result.as_ref().map_or_else(|(status, ..)| format!(" -> {status}"), |_| String::new());
        self.world.note(format!("{} {what}{told}", self.name));
        self.world.check();
        fuse.pass().await;
        match (fault, result) {
            (Some((status, _)), _) => problem(status, "a fault of the test, after its effect", None),
            (None, Ok(value)) => Json(value).into_response(),
            (None, Err((status, detail, known))) => problem(status, &detail, known),
        }
    }

    fn newer(&self, app: &str, generation: u64) -> Result<(), No> {
        let known = self.apps.lock().unwrap().get(app).map_or(0, |app| app.generation);
        let behind = || (409, format!("generation {generation} is behind {known}"), Some(known));
        if known > generation { Err(behind()) } else { Ok(()) }
    }

    /// As [`newer`](Agent::newer); what has left comes back, and an owner becomes another, with a larger one only.
    fn comes(&self, app: &str, generation: u64, role: &str) -> Result<(), No> {
        self.newer(app, generation)?;
        let known = self.apps.lock().unwrap().get(app).filter(|known| known.generation == generation).cloned();
        match known {
            Some(known)
                if ["draining", "absent"].contains(&known.role) || (known.role, role) == ("owner", "incoming") =>
            {
                Err((409, format!("this host is {} of generation {generation}", known.role), Some(generation)))
            }
            _ => Ok(()),
        }
    }
}

/// A status, why, and the generation that is known where that is why.
type No = (u16, String, Option<u64>);

fn problem(status: u16, detail: &str, known: Option<u64>) -> Response {
    let mut body = json!({"title": "no", "detail": detail});
    if let Some(known) = known {
        body["generation"] = known.into();
    }
    (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
}

pub fn agent_router(agent: Arc<Agent>) -> Router {
    Router::new()
        .route(
            "/v1/host",
            get(async |State(agent): State<Arc<Agent>>| {
                Json(json!({"name": agent.name, "version": "1.2.3", "started_at": 1}))
            }),
        )
        .route("/v1/apps", get(agent_apps))
        .route("/v1/reports", get(agent_reports))
        .route("/v1/bundles/{digest}", head(agent_has).put(agent_bundle))
        .route("/v1/apps/{name}", get(agent_app).put(agent_put).delete(agent_delete))
        .route("/v1/apps/{name}/drain", post(agent_drain))
        .route(
            "/v1/apps/{name}/logs",
            get(async |Query(q): Query<HashMap<String, String>>| {
                format!("line one\nlines={}\n", q.get("lines").map_or("", String::as_str))
            }),
        )
        .route("/v1/echo/{*rest}", axum::routing::any(agent_echo))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(agent)
}

async fn agent_apps(State(agent): State<Arc<Agent>>) -> Json<Value> {
    let apps = agent.apps.lock().unwrap();
    // One that has left is not shown.
    let shown = apps.iter().filter(|(_, app)| app.role != "absent");
    Json(json!({"apps": shown.map(|(name, app)| app.show(name)).collect::<Vec<_>>()}))
}

async fn agent_app(State(agent): State<Arc<Agent>>, UrlPath(name): UrlPath<String>) -> Response {
    if agent.refuses.lock().unwrap().contains("GET") {
        return problem(500, "it is busy", None);
    }
    match agent.apps.lock().unwrap().get(&name).filter(|app| app.role != "absent") {
        Some(app) => Json(app.show(&name)).into_response(),
        None => problem(404, "there is no such application", None),
    }
}

/// A report that tells nothing, again and again.
async fn agent_reports() -> Response {
    let reports = futures_util::stream::unfold(0, |number| async move {
        if number > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut report = Vec::new();
        steady_timing::Report { start: 1, number: number + 1, base: number, entries: Vec::new() }.encode(&mut report);
        let framed = [&u32::try_from(report.len()).unwrap().to_be_bytes()[..], &report].concat();
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(framed)), number + 1))
    });
    axum::body::Body::from_stream(reports).into_response()
}

async fn agent_has(State(agent): State<Arc<Agent>>, UrlPath(digest): UrlPath<String>) -> StatusCode {
    if agent.bundles.lock().unwrap().contains(&digest) { StatusCode::OK } else { StatusCode::NOT_FOUND }
}

async fn agent_bundle(State(agent): State<Arc<Agent>>, UrlPath(digest): UrlPath<String>, body: Bytes) -> Response {
    use sha2::Digest;
    let found: String = sha2::Sha256::digest(&body).iter().map(|octet| format!("{octet:02x}")).collect();
    agent
        .call("bundle".into(), |agent| {
            if found != digest {
                return Err((422, "its digest is another".into(), None));
            }
            agent.bundles.lock().unwrap().insert(digest);
            Ok(json!({}))
        })
        .await
}

async fn agent_put(
    State(agent): State<Arc<Agent>>,
    UrlPath(name): UrlPath<String>,
    Query(query): Query<HashMap<String, String>>,
    Json(body): Json<Value>,
) -> Response {
    let generation = body["generation"].as_u64().unwrap();
    let role = if body["role"] == "owner" { "owner" } else { "incoming" };
    let version = body["version"].as_u64().unwrap() as u32;
    let digest = body["digest"].as_str().unwrap().to_owned();
    let wait = if query.contains_key("wait") { " wait" } else { "" };
    let what = format!("PUT {role} g{generation} v{version}{wait}");
    agent
        .call(what, |agent| {
            agent.comes(&name, generation, role)?;
            if !agent.bundles.lock().unwrap().contains(&digest) {
                return Err((422, "there is no such bundle".into(), None));
            }
            if body["exclusive"] != agent.world.exclusive {
                return Err((422, "the edge reads its bundle differently".into(), None));
            }
            let running = role == "owner" || !agent.world.exclusive;
            agent.apps.lock().unwrap().insert(name, FakeApp { role, generation, version, digest, running });
            Ok(json!({}))
        })
        .await
}

async fn agent_drain(
    State(agent): State<Arc<Agent>>,
    UrlPath(name): UrlPath<String>,
    Json(body): Json<Value>,
) -> Response {
    let generation = body["generation"].as_u64().unwrap();
    agent
        .call(format!("drain g{generation}"), |agent| {
            agent.newer(&name, generation)?;
            let mut apps = agent.apps.lock().unwrap();
            let app = apps.get_mut(&name).ok_or((404, "there is no such application".to_owned(), None))?;
            (app.role, app.running) = ("draining", false);
            Ok(json!({"cut": 0, "ms": 1}))
        })
        .await
}

async fn agent_delete(
    State(agent): State<Arc<Agent>>,
    UrlPath(name): UrlPath<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let generation: u64 = query["generation"].parse().unwrap();
    agent
        .call(format!("DELETE g{generation}"), |agent| {
            agent.newer(&name, generation)?;
            let mut apps = agent.apps.lock().unwrap();
            let app = apps.get_mut(&name).ok_or((404, "there is no such application".to_owned(), None))?;
            *app = FakeApp { role: "absent", generation, version: 0, digest: String::new(), running: false };
            Ok(json!({}))
        })
        .await
}

async fn agent_echo(State(agent): State<Arc<Agent>>, request: axum::extract::Request) -> Response {
    let authorization = request.headers().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or("");
    let seen = format!("{} {} {authorization}", request.method(), request.uri());
    agent.forwarded.lock().unwrap().push(seen);
    (StatusCode::IM_A_TEAPOT, request.into_body()).into_response()
}

/// A data path that takes up at once whatever is published, and writes down where [`APP`] is.
#[derive(Debug)]
pub struct FakePlane {
    world: Arc<World>,
    published: Mutex<Vec<Arc<Snapshot>>>,
    pub drained: AtomicU64,
}

impl FakePlane {
    pub fn new(world: &Arc<World>) -> Arc<FakePlane> {
        Arc::new(FakePlane { world: Arc::clone(world), published: Mutex::default(), drained: 0.into() })
    }

    pub fn newest(&self) -> Arc<Snapshot> {
        Arc::clone(self.published.lock().unwrap().last().expect("something was published"))
    }
}

/// Where a snapshot says the application is: `h1 g1`, or `h1>h2 g1>2`.
pub fn place(snapshot: &Snapshot) -> String {
    let Some(route) = snapshot.routes.by_name(APP) else { return "nowhere".into() };
    let name = |index| snapshot.routes.host(index).unwrap().name().to_owned();
    let host = name(route.endpoints().next().unwrap().host);
    match route.moving() {
        None => format!("{host} g{} v{}", route.generation(), route.version()),
        Some(moving) => format!("{host}>{} g{}>{}", name(moving.to), route.generation(), moving.generation),
    }
}

impl Plane for FakePlane {
    fn publish(&self, snapshot: Arc<Snapshot>) -> u64 {
        let mut published = self.published.lock().unwrap();
        let now = place(&snapshot);
        if published.last().is_none_or(|before| place(before) != now) {
            self.world.note(format!("publish {now}"));
        }
        published.push(snapshot);
        published.len() as u64
    }

    fn settled(&self) -> u64 {
        self.published.lock().unwrap().len() as u64
    }

    fn drain(&self, _: Duration) {
        self.drained.fetch_add(1, Ordering::SeqCst);
    }

    fn is_drained(&self) -> bool {
        true
    }

    fn samples(&self) -> Vec<Arc<dyn Samples + Send + Sync>> {
        struct Fixed;
        impl Samples for Fixed {
            fn visit(&self, each: &mut dyn FnMut(Sample)) {
                let (help, kind) = ("Requests that ended.", SampleKind::Counter);
                each(Sample { name: "requests_total", help, kind, label: Some(("class", "2xx")), value: 7 });
                let (help, kind) = ("Connections now.", SampleKind::Gauge);
                each(Sample { name: "connections", help, kind, label: None, value: 3 });
            }
        }
        vec![Arc::new(Fixed), Arc::new(Fixed)]
    }
}

/// SQLite with crash points around each commit.
#[derive(Debug)]
struct FusedStore {
    inner: SqliteStore,
    fuse: Arc<Fuse>,
    world: Arc<World>,
}

impl Store for FusedStore {
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            self.fuse.pass().await;
            let result = self.inner.commit(commit).await;
            self.fuse.pass().await;
            result
        })
    }

    fn load(&self) -> BoxFuture<'_, Result<Contents>> {
        self.inner.load()
    }
    fn app(&self, name: AppName) -> BoxFuture<'_, Result<Option<AppRecord>>> {
        self.inner.app(name)
    }
    fn apps_on(&self, host: String) -> BoxFuture<'_, Result<Vec<AppRecord>>> {
        self.inner.apps_on(host)
    }
    fn counts(&self) -> BoxFuture<'_, Result<HashMap<String, u64>>> {
        self.inner.counts()
    }
    fn customs_of(&self, app: AppName) -> BoxFuture<'_, Result<Vec<DomainName>>> {
        Box::pin(async move {
            let customs = self.inner.customs_of(app).await;
            let gate = self.world.customs_read.lock().unwrap().take();
            if let Some((read, go_on)) = gate {
                read.send(()).unwrap();
                go_on.await.unwrap();
            }
            customs
        })
    }
    fn custom(&self, domain: DomainName) -> BoxFuture<'_, Result<Option<AppName>>> {
        self.inner.custom(domain)
    }
    fn uses_bundle(&self, digest: String) -> BoxFuture<'_, Result<bool>> {
        self.inner.uses_bundle(digest)
    }
    fn numbers(&self, app: AppName) -> BoxFuture<'_, Result<Numbers>> {
        self.inner.numbers(app)
    }
    fn history(&self, limit: usize) -> BoxFuture<'_, Result<Vec<HistoryEntry>>> {
        self.inner.history(limit)
    }
    fn open_workflows(&self) -> BoxFuture<'_, Result<Vec<WorkflowRecord>>> {
        self.inner.open_workflows()
    }
    fn workflow(&self, id: u64) -> BoxFuture<'_, Result<Option<WorkflowRecord>>> {
        self.inner.workflow(id)
    }
    fn next_id(&self) -> BoxFuture<'_, Result<u64>> {
        self.inner.next_id()
    }
    fn meta(&self, key: &'static str) -> BoxFuture<'_, Result<Option<String>>> {
        self.inner.meta(key)
    }
    fn cursor(&self, stream: String) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        self.inner.cursor(stream)
    }
    fn events(&self, of: EventsOf) -> BoxFuture<'_, Result<Vec<(u64, EventRecord)>>> {
        self.inner.events(of)
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
         [health]\nevery = \"20ms\"\nsuspect_after = \"1s\"\ndown_after = \"60ms\"\n",
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
        let cluster = Cluster::open(&dir.join("cluster"), "edge", Vec::new(), SystemTime::now()).unwrap();
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
        let service = router(api).into_make_service_with_connect_info::<Peer>();
        tokio::spawn(async move { axum::serve(listener, service).await });
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
