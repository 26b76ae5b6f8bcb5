//! A whole control side on ephemeral ports with a fake data path, and the small programs that it supervises.
#![allow(dead_code)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use steady_agent::gate::{App, Apps, Notice, Plane, Process, Role};
use steady_agent::limits::Limits;
use steady_agent::{Agent, Config, Error};
use steady_proxy::sample::{Kind, Sample, Samples};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};

/// Far beyond what anything here takes; a wait that reaches it has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Records what control publishes, and has the requests in flight that a test says.
#[derive(Debug)]
pub struct FakePlane {
    published: watch::Sender<(u64, Arc<Apps>)>,
    history: Mutex<Vec<Arc<Apps>>>,
    in_flight: Mutex<HashMap<u64, u64>>,
    cut: Mutex<Vec<String>>,
}

impl Default for FakePlane {
    fn default() -> Self {
        Self {
            published: watch::Sender::new((0, Arc::default())),
            history: Mutex::default(),
            in_flight: Mutex::default(),
            cut: Mutex::default(),
        }
    }
}

struct OneSample;

impl Samples for OneSample {
    fn visit(&self, each: &mut dyn FnMut(Sample)) {
        each(Sample { name: "requests_total", help: "Requests", kind: Kind::Counter, label: None, value: 42 });
    }
}

impl Plane for FakePlane {
    fn publish(&self, apps: Arc<Apps>) -> u64 {
        self.history.lock().unwrap().push(Arc::clone(&apps));
        let mut number = 0;
        self.published.send_modify(|published| {
            number = published.0 + 1;
            *published = (number, apps);
        });
        number
    }

    fn settled(&self) -> u64 {
        self.published.borrow().0
    }

    fn in_flight(&self, _app: &str) -> u64 {
        self.in_flight.lock().unwrap().values().sum()
    }

    fn in_flight_of(&self, _app: &str, instance: u64) -> u64 {
        self.in_flight.lock().unwrap().get(&instance).copied().unwrap_or(0)
    }

    fn parked(&self, _app: &str) -> u64 {
        0
    }

    fn cut(&self, app: &str) {
        self.cut.lock().unwrap().push(app.to_owned());
        self.in_flight.lock().unwrap().clear();
    }

    fn drain(&self, _deadline: Duration) {}

    fn is_drained(&self) -> bool {
        true
    }

    fn samples(&self) -> Vec<Arc<dyn Samples + Send + Sync>> {
        vec![Arc::new(OneSample)]
    }
}

impl FakePlane {
    pub fn set_in_flight(&self, instance: u64, count: u64) {
        self.in_flight.lock().unwrap().insert(instance, count);
    }

    pub fn cuts(&self) -> Vec<String> {
        self.cut.lock().unwrap().clone()
    }

    pub fn history(&self, name: &str) -> Vec<Arc<App>> {
        self.history.lock().unwrap().iter().filter_map(|apps| apps.apps.get(name).cloned()).collect()
    }

    /// Waits for a publication in which `name` is as `wanted`.
    pub async fn until(&self, name: &str, wanted: impl Fn(&App) -> bool) -> Arc<App> {
        let mut published = self.published.subscribe();
        let found = published.wait_for(|(_, apps)| apps.apps.get(name).is_some_and(|app| wanted(app)));
        let found = tokio::time::timeout(PATIENCE, found).await;
        match found {
            Ok(found) => Arc::clone(&found.unwrap().1.apps[name]),
            Err(_) => panic!("never published; the last was {:?}", self.history(name).last()),
        }
    }

    pub async fn until_ready(&self, name: &str) -> Ready {
        Ready::of(&*self.until(name, |app| matches!(app.process, Process::Ready { .. })).await)
    }

    pub async fn until_another_ready(&self, name: &str, than: u64) -> Ready {
        let another = |app: &App| matches!(app.process, Process::Ready { instance, .. } if instance != than);
        Ready::of(&*self.until(name, another).await)
    }

    pub async fn until_role(&self, name: &str, role: Role) -> Arc<App> {
        self.until(name, |app| app.role == role).await
    }
}

/// A ready process.
#[derive(Clone, Debug)]
pub struct Ready {
    pub addr: steady_ring::Addr,
    pub instance: u64,
}

impl Ready {
    fn of(app: &App) -> Self {
        let Process::Ready { addr, instance, .. } = &app.process else { panic!("{app:?} is not ready") };
        Self { addr: addr.clone(), instance: *instance }
    }

    /// The body of an answer to `GET path`.
    pub async fn get(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let text = match &self.addr {
            steady_ring::Addr::Tcp(addr) => talk(TcpStream::connect(addr).await.unwrap(), request.as_bytes()).await,
            steady_ring::Addr::Unix(path) => talk(UnixStream::connect(path).await.unwrap(), request.as_bytes()).await,
        };
        String::from_utf8_lossy(&text).split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned())
    }
}

async fn talk(mut io: impl AsyncReadExt + AsyncWriteExt + Unpin, request: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    let talk = async {
        io.write_all(request).await.unwrap();
        // A peer that resets has said all that it will.
        let _ = io.read_to_end(&mut answer).await;
    };
    tokio::time::timeout(PATIENCE, talk).await.unwrap();
    answer
}

/// A running agent.
pub struct Rig {
    pub plane: Arc<FakePlane>,
    pub notices: mpsc::Sender<Notice>,
    pub client: Client,
    end: oneshot::Sender<()>,
    ran: tokio::task::JoinHandle<Result<(), Error>>,
}

pub fn config(dir: &Path) -> Config {
    let bun = bun().unwrap_or_else(|| "bun".to_owned());
    format!(
        "name = \"h1\"\nstate_dir = {:?}\n[data]\naddr = \"127.0.0.1:0\"\n[control]\naddr = \"127.0.0.1:0\"\n\
         [apps]\nbun = {bun:?}\nstart_timeout = \"30s\"\nstop_timeout = \"5s\"\nlog_bytes_max = \"16KiB\"\n\
         [bundles]\nbytes_max = \"1MiB\"\nunpacked_bytes_max = \"4MiB\"\nfiles_max = 50\n",
        dir.to_str().unwrap()
    )
    .parse()
    .unwrap()
}

pub fn quick_limits() -> Limits {
    Limits {
        probe_every: Duration::from_millis(50),
        probe_again_after: Duration::from_millis(20),
        probe_timeout: Duration::from_millis(500),
        ..Limits::default()
    }
}

impl Rig {
    pub async fn start(dir: &Path) -> Self {
        Self::start_with(config(dir), Limits::default()).await
    }

    pub async fn start_with(config: Config, limits: Limits) -> Self {
        let dir = config.state_dir.clone();
        let agent = Agent::open_with(config, limits).await.unwrap();
        let addr = agent.control_addr().unwrap();
        let token = std::fs::read_to_string(dir.join("token")).unwrap().trim().to_owned();
        let plane = Arc::new(FakePlane::default());
        let (notices, heard) = mpsc::channel(16);
        let (end, ends) = oneshot::channel::<()>();
        let workers = Arc::clone(&plane) as Arc<dyn Plane>;
        let ran = tokio::spawn(agent.run(workers, heard, "127.0.0.1:1".into(), "fake".into(), async {
            let _ = ends.await;
        }));
        Self { plane, notices, client: Client { addr: addr.to_string(), token }, end, ran }
    }

    pub async fn stop(self) {
        self.end.send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.ran).await.unwrap().unwrap().unwrap();
    }
}

/// A client of the API.
#[derive(Clone, Debug)]
pub struct Client {
    pub addr: String,
    pub token: String,
}

impl Client {
    pub async fn call(&self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let (status, text) = self.text(method, path, body).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub async fn text(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: agent\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
            self.token,
            body.len()
        );
        let io = TcpStream::connect(&self.addr).await.unwrap();
        let answer = talk(io, &[head.as_bytes(), body].concat()).await;
        let answer = String::from_utf8(answer).unwrap();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        (status.unwrap_or_else(|| panic!("no status in {answer:?}")), body.to_owned())
    }

    /// Sends a folder; gives its digest.
    pub async fn bundle(&self, files: &[(&str, &str)]) -> String {
        let archive = pack(files);
        let digest = digest(&archive);
        let (status, body) = self.call("PUT", &format!("/v1/bundles/{digest}"), &archive).await;
        assert_eq!(status, 201, "{body}");
        digest
    }

    pub async fn place(&self, name: &str, generation: u64, role: &str, version: u64, digest: &str) -> (u16, Value) {
        let body = json!({"generation": generation, "role": role, "version": version, "digest": digest});
        self.call("PUT", &format!("/v1/apps/{name}?wait=60s"), body.to_string().as_bytes()).await
    }

    pub async fn app(&self, name: &str) -> Value {
        self.call("GET", &format!("/v1/apps/{name}"), b"").await.1
    }

    /// Its log, once `wanted` is in it: what a process writes comes a moment behind what it does.
    pub async fn log_with(&self, name: &str, wanted: &str) -> String {
        let path = format!("/v1/apps/{name}/logs?lines=100");
        let begun = Instant::now();
        loop {
            let (_, text) = self.text("GET", &path, b"").await;
            if text.contains(wanted) {
                return text;
            }
            assert!(begun.elapsed() < PATIENCE, "{wanted} is not in:\n{text}");
            tokio::task::yield_now().await;
        }
    }

    /// Asks until the application is as `wanted`.
    pub async fn until(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let asked = async {
            loop {
                let app = self.app(name).await;
                if wanted(&app) {
                    return app;
                }
                tokio::task::yield_now().await;
            }
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(app) => app,
            Err(_) => panic!("never so; at last {}", self.app(name).await),
        }
    }
}

pub fn digest(octets: &[u8]) -> String {
    Sha256::digest(octets).iter().map(|octet| format!("{octet:02x}")).collect()
}

pub fn pack(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

/// An HTTP server in Python: `/` says `TEXT`, `/pid` its pid, `/crash` ends it, `/hang` stops its only thread for good,
/// `/env` its environment. It writes "hello from TEXT" when it starts.
pub fn server(text: &str) -> String {
    format!(
        r#"
import http.server, json, os, sys, time
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    def log_message(self, *a): pass
    def do_GET(self):
        if self.path == "/crash":
            print("crashing now", flush=True); os._exit(7)
        if self.path == "/hang":
            while True: time.sleep(1000)
        body = {{"/pid": str(os.getpid()), "/env": json.dumps(dict(os.environ))}}.get(self.path, "{text}").encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
http.server.HTTPServer.address_family
s = http.server.HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), H)
print("hello from {text}", flush=True)
s.serve_forever()
"#
    )
}

pub const TOML: &str = "command = [\"python3\", \"-S\", \"app.py\"]\n";
pub const TOML_EXCLUSIVE: &str = "command = [\"python3\", \"-S\", \"app.py\"]\nexclusive = true\n";

/// STEADY_BUN, or bun of PATH. With STEADY_REQUIRE_BUN set, having neither is a failure.
pub fn bun() -> Option<String> {
    let found = find_bun();
    let required = std::env::var_os("STEADY_REQUIRE_BUN").is_some_and(|value| !value.is_empty());
    assert!(found.is_some() || !required, "STEADY_REQUIRE_BUN is set, but there is no bun in PATH");
    found
}

fn find_bun() -> Option<String> {
    let named = std::env::var("STEADY_BUN").ok().filter(|path| !path.is_empty());
    named.or_else(|| {
        let path = std::env::var_os("PATH")?;
        let found = std::env::split_paths(&path).map(|dir| dir.join("bun")).find(|path| path.is_file());
        found.and_then(|path: PathBuf| path.to_str().map(str::to_owned))
    })
}

/// Whether a process runs (a zombie does not).
pub fn runs(pid: u64) -> bool {
    steady_agent::supervise::leftovers::see(pid as u32).is_some_and(|seen| !seen.is_zombie)
}

pub async fn until_gone(pid: u64) {
    let gone = async {
        while runs(pid) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}
