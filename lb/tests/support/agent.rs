//! A fake agent: the API of a host over a table of applications, with crash points around each effect.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, head, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};

use super::{APP, World};

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
    /// Calls that are refused with 422, such as `PUT owner`; `GET`: what it has of an application, with 500; `files`: those of an
    /// application that leaves stay, with 503.
    pub refuses: Mutex<HashSet<String>>,
    /// Calls that fail with 500 before they have an effect.
    pub fails: Mutex<HashSet<String>>,
    pub forwarded: Mutex<Vec<String>>,
    world: Arc<World>,
    pub(super) task: Mutex<Option<tokio::task::JoinHandle<()>>>,
    data_listener: Mutex<Option<TcpListener>>,
    control_port: Port,
    data_port: Port,
}

/// A port that is a test's while this lives, whether somebody listens there or not: this socket never does, and nobody else is given
/// its number meanwhile.
#[derive(Debug)]
pub struct Port {
    pub addr: SocketAddr,
    _kept: TcpSocket,
}

impl Port {
    pub fn take() -> Port {
        let kept = Port::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Port { addr: kept.local_addr().unwrap(), _kept: kept }
    }

    /// Fails while another listens.
    pub fn listen(&self) -> io::Result<TcpListener> {
        Port::bind(self.addr)?.listen(1024)
    }

    fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
        let socket = TcpSocket::new_v4()?;
        // So that several may be bound, of which one listens.
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        Ok(socket)
    }
}

impl Agent {
    pub async fn start(world: &Arc<World>, name: &str) -> Arc<Agent> {
        let (control_port, data_port) = (Port::take(), Port::take());
        let listener = control_port.listen().unwrap();
        let agent = Arc::new(Agent {
            name: name.into(),
            control: control_port.addr,
            data: data_port.addr,
            apps: Mutex::default(),
            bundles: Mutex::default(),
            refuses: Mutex::default(),
            fails: Mutex::default(),
            forwarded: Mutex::default(),
            world: Arc::clone(world),
            task: Mutex::default(),
            data_listener: Mutex::new(Some(data_port.listen().unwrap())),
            control_port,
            data_port,
        });
        agent.serve(listener);
        world.agents.lock().unwrap().push(Arc::clone(&agent));
        agent
    }

    fn serve(self: &Arc<Agent>, listener: TcpListener) {
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
            match self.control_port.listen() {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        if self.data_listener.lock().unwrap().is_none() {
            *self.data_listener.lock().unwrap() = Some(self.data_port.listen().unwrap());
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
    let is_shown = |app: &&FakeApp| app.role != "absent" || !app.digest.is_empty();
    match agent.apps.lock().unwrap().get(&name).filter(is_shown) {
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
            let stays = agent.refuses.lock().unwrap().contains("files");
            let digest = if stays { app.digest.clone() } else { String::new() };
            *app = FakeApp { role: "absent", generation, version: 0, digest, running: false };
            if stays { Err((503, "its files cannot be removed".into(), None)) } else { Ok(json!({})) }
        })
        .await
}

async fn agent_echo(State(agent): State<Arc<Agent>>, request: axum::extract::Request) -> Response {
    let authorization = request.headers().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or("");
    let seen = format!("{} {} {authorization}", request.method(), request.uri());
    agent.forwarded.lock().unwrap().push(seen);
    (StatusCode::IM_A_TEAPOT, request.into_body()).into_response()
}
