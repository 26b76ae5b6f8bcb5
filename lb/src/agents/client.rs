//! A client of one agent's API (`docs/api.md`, "The agent"): every call has a deadline, an answer that is read into memory
//! has a bound, and a failure says whether the agent may have acted.

mod exchange;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use futures_util::TryStreamExt;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use steady_cluster::Member;
use steady_cluster::channel::Registration;
use steady_cluster::channel::talk::{Outcome, What};
pub use steady_cluster::channel::{Claim as AppStatus, Hold as Role};
use steady_cluster::connect::{Configs, Connector};
use steady_table::AppName;
use tokio_util::io::ReaderStream;

use super::channel::Slot;
use super::orders::{GivenUp, NoOutcome};
use crate::limits::{AGENT_ANSWER, AGENT_CONNECT, AGENT_GRACE, AGENT_READY_WAIT, AGENT_UPLOAD, ORDER_PATIENCE};

/// Connections to one agent that are kept while nothing is asked, and for how long.
const IDLE_CONNECTIONS: usize = 4;
const IDLE_TIME: Duration = Duration::from_secs(30);

/// `GET /v1/host`; fields that this program does not act on are passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HostInfo {
    pub name: String,
    pub version: String,
    /// Differs between any two starts of the agent; text or number, as the agent writes it.
    pub started_at: Value,
}

impl HostInfo {
    /// As a host that registers tells of it.
    pub fn of(registration: &Registration) -> HostInfo {
        let Registration { name, version, start, .. } = registration;
        HostInfo { name: name.clone(), version: version.clone(), started_at: (*start).into() }
    }
}

/// What a drain came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Drained {
    /// Requests that were cut at the deadline.
    pub cut: u64,
    pub ms: u64,
}

/// What a host is to be to an application: the body of `PUT /v1/apps/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Placement {
    pub generation: u64,
    pub role: Role,
    pub version: u32,
    pub digest: String,
    /// As this edge reads the bundle's `steady.toml`: a host that reads it differently refuses. `None`: it is not known any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclusive: Option<bool>,
}

/// Why a call to an agent did not do what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// No connection came about: the agent knows nothing of this call.
    #[error("its agent cannot be reached {at}: {why}")]
    Unreachable { at: String, why: String },
    /// The connection broke or the deadline passed: the agent may or may not have acted.
    #[error("its agent did not answer {at}: {why}")]
    NoAnswer { at: String, why: String },
    /// The agent knows a greater generation, or has let go of this one. `known`: its own.
    #[error("its agent refused: {detail}")]
    Stale { known: u64, detail: String },
    /// The agent understood and said no.
    #[error("{detail}")]
    Rejected { status: u16, detail: String },
    /// The token is wrong or cannot be read.
    #[error("the token in {} is not good for its agent: {why}", file.display())]
    Token { file: PathBuf, why: String },
    /// A bundle that is to be pushed cannot be read here.
    #[error("the bundle {} cannot be read: {why}", file.display())]
    Bundle { file: PathBuf, why: String },
}

impl AgentError {
    /// The agent may have done what it was asked.
    pub fn may_have_acted(&self) -> bool {
        matches!(self, AgentError::NoAnswer { .. })
    }

    /// Asking again may help without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            AgentError::Unreachable { .. } | AgentError::NoAnswer { .. } | AgentError::Token { .. } => true,
            AgentError::Rejected { status, .. } => *status == 429 || *status >= 500,
            AgentError::Stale { .. } | AgentError::Bundle { .. } => false,
        }
    }
}

/// A handle to one agent. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AgentClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// In errors: `at IP:PORT`, `over its channel`.
    at: String,
    /// In the requests' `authority`; nobody looks it up.
    authority: String,
    access: Access,
    /// Read at first use, and again after a 401: a token may be replaced while we run.
    token: Mutex<Option<HeaderValue>>,
    way: Way,
}

/// How a call gets there.
#[derive(Debug)]
enum Way {
    /// By connections of our own.
    Dial(Box<Client<Connector, Body>>),
    /// Over the connection that the host has opened.
    Channel(Arc<Slot>),
}

/// By what an agent lets us in.
#[derive(Debug)]
enum Access {
    /// The token in this file.
    Token(PathBuf),
    /// What was shown when the connection was made.
    Certificate,
}

impl AgentClient {
    /// An agent on this machine, by its token, in the clear.
    pub fn new(addr: SocketAddr, token_file: impl Into<PathBuf>) -> AgentClient {
        AgentClient::with(addr, Connector::plain(addr), Access::Token(token_file.into()))
    }

    /// The agent of a host that joined: TLS both ways, and its certificate must name it.
    pub fn of_member(addr: SocketAddr, member: &Member, tls: Configs) -> AgentClient {
        AgentClient::with(addr, Connector::tls(addr, tls, member.server_name()), Access::Certificate)
    }

    /// The agent of a host that registered.
    pub fn over_channel(host: &str, slot: Arc<Slot>) -> AgentClient {
        let (at, authority) = ("over its channel".to_owned(), host.to_owned());
        let (access, token, way) = (Access::Certificate, Mutex::new(None), Way::Channel(slot));
        AgentClient { inner: Arc::new(Inner { at, authority, access, token, way }) }
    }

    fn with(addr: SocketAddr, connector: Connector, access: Access) -> AgentClient {
        let http = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIME)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .pool_timer(TokioTimer::new())
            // A request on a kept connection that broke is sent again only when nothing of it was written.
            .retry_canceled_requests(true)
            .build(connector);
        let (at, authority) = (format!("at {addr}"), addr.to_string());
        AgentClient {
            inner: Arc::new(Inner { at, authority, access, token: Mutex::new(None), way: Way::Dial(Box::new(http)) }),
        }
    }

    /// `GET /v1/host`.
    pub async fn host(&self, deadline: Duration) -> Result<HostInfo, AgentError> {
        self.json(Method::GET, "/v1/host", None, deadline).await
    }

    /// `GET /v1/apps`: every application this host knows, tombstones excluded or `absent`.
    pub async fn apps(&self, deadline: Duration) -> Result<Vec<AppStatus>, AgentError> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Answer {
            Bare(Vec<AppStatus>),
            Named { apps: Vec<AppStatus> },
        }
        match self.json(Method::GET, "/v1/apps", None, deadline).await? {
            Answer::Bare(apps) | Answer::Named { apps } => Ok(apps),
        }
    }

    /// `GET /v1/apps/NAME`: what this host says of one application; `None` where it has none of that name.
    pub async fn app(&self, app: &AppName, deadline: Duration) -> Result<Option<AppStatus>, AgentError> {
        match self.json(Method::GET, &format!("/v1/apps/{app}"), None, deadline).await {
            Ok(status) => Ok(Some(status)),
            Err(AgentError::Rejected { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `GET /v1/reports`: its reports, without end.
    pub async fn reports(&self) -> Result<hyper::body::Incoming, AgentError> {
        let answer = self.send(Method::GET, "/v1/reports", Body::empty(), None, AGENT_ANSWER).await?;
        if answer.status().is_success() { Ok(answer.into_body()) } else { Err(self.refusal(answer).await) }
    }

    /// Makes sure that the host has the bundle: asks, and sends it where it is missing.
    pub async fn push_bundle(&self, digest: &str, file: &Path) -> Result<bool, AgentError> {
        let path = format!("/v1/bundles/{digest}");
        let asked = self.send(Method::HEAD, &path, Body::empty(), None, AGENT_ANSWER).await?;
        match asked.status() {
            status if status.is_success() => return Ok(false),
            StatusCode::NOT_FOUND => {}
            _ => return Err(self.refusal(asked).await),
        }
        let unreadable = |error: std::io::Error| AgentError::Bundle { file: file.to_owned(), why: error.to_string() };
        let opened = tokio::fs::File::open(file).await.map_err(unreadable)?;
        let length = opened.metadata().await.map_err(unreadable)?.len();
        let body = Body::from_stream(ReaderStream::new(opened));
        let answer =
            self.send(Method::PUT, &path, body, Some(("application/gzip", Some(length))), AGENT_UPLOAD).await?;
        if answer.status().is_success() { Ok(true) } else { Err(self.refusal(answer).await) }
    }

    /// `PUT /v1/apps/NAME`: what the host is to the application from now on. With `wait`, answers once it is ready.
    pub async fn put_app(&self, app: &AppName, placement: &Placement, wait: bool) -> Result<(), AgentError> {
        self.place(app, placement, wait, GivenUp::TakenBack).await
    }

    /// As [`put_app`](AgentClient::put_app), waiting, in place of another placement that the host may have or still get: a
    /// registered host gets this one behind it, however late.
    pub async fn put_back(&self, app: &AppName, placement: &Placement) -> Result<(), AgentError> {
        self.place(app, placement, true, GivenUp::Stays).await
    }

    async fn place(
        &self,
        app: &AppName,
        placement: &Placement,
        wait: bool,
        given_up: GivenUp,
    ) -> Result<(), AgentError> {
        if let Way::Channel(slot) = &self.inner.way {
            let Placement { generation, role, version, digest, exclusive } = placement.clone();
            let wait_ms = wait.then_some(AGENT_READY_WAIT.as_millis() as u64);
            let deadline = if wait { AGENT_READY_WAIT + AGENT_GRACE } else { AGENT_ANSWER };
            let what = What::Place { role, version, digest, exclusive, wait_ms };
            return self.order(slot, app, generation, what, given_up, deadline).await.map(drop);
        }
        let (query, deadline) = match wait {
            true => (format!("?wait={}s", AGENT_READY_WAIT.as_secs()), AGENT_READY_WAIT + AGENT_GRACE),
            false => (String::new(), AGENT_ANSWER),
        };
        let path = format!("/v1/apps/{app}{query}");
        self.json::<Value>(Method::PUT, &path, Some(json!(placement)), deadline).await.map(drop)
    }

    /// `POST /v1/apps/NAME/drain`: answers when it is drained and its process has stopped.
    pub async fn drain(&self, app: &AppName, generation: u64, within: Duration) -> Result<Drained, AgentError> {
        let within_ms = within.as_millis() as u64;
        // Cut at `within`; then the process gets its time to stop.
        let deadline = within + AGENT_ANSWER + AGENT_GRACE;
        if let Way::Channel(slot) = &self.inner.way {
            let what = What::Drain { within_ms };
            let Outcome { cut, ms, .. } = self.order(slot, app, generation, what, GivenUp::TakenBack, deadline).await?;
            return Ok(Drained { cut, ms });
        }
        let body = json!({"generation": generation, "deadline_ms": within_ms});
        self.json(Method::POST, &format!("/v1/apps/{app}/drain"), Some(body), deadline).await
    }

    /// `DELETE /v1/apps/NAME`. One that is not there is deleted. A registered host gets to know, however late.
    pub async fn delete(&self, app: &AppName, generation: u64) -> Result<(), AgentError> {
        let path = format!("/v1/apps/{app}?generation={generation}");
        let deadline = AGENT_READY_WAIT + AGENT_GRACE;
        if let Way::Channel(slot) = &self.inner.way {
            return self.order(slot, app, generation, What::Forget, GivenUp::Stays, deadline).await.map(drop);
        }
        let answer = self.send(Method::DELETE, &path, Body::empty(), None, deadline).await?;
        match answer.status() {
            status if status.is_success() || status == StatusCode::NOT_FOUND => Ok(()),
            _ => Err(self.refusal(answer).await),
        }
    }

    /// Has a registered host do something, by the message stream.
    async fn order(
        &self,
        slot: &Slot,
        app: &AppName,
        generation: u64,
        what: What,
        given_up: GivenUp,
        deadline: Duration,
    ) -> Result<Outcome, AgentError> {
        let hopeless = async {
            slot.closed_for(ORDER_PATIENCE).await;
            format!("the host has not been connected for {} s", ORDER_PATIENCE.as_secs())
        };
        let outcome = slot.orders.order(app.as_str(), generation, what, given_up, deadline, hopeless).await;
        let outcome = outcome.map_err(|error| match error {
            NoOutcome::Unsent(why) => self.unreachable(why),
            NoOutcome::InDoubt(why) => self.no_answer(why),
        })?;
        let detail = match outcome.output.as_deref() {
            Some(output) if !output.is_empty() => format!("{}\n{output}", outcome.detail),
            _ => outcome.detail.clone(),
        };
        match outcome.status {
            200..300 => Ok(outcome),
            status => Err(refused(status, outcome.generation, detail)),
        }
    }

    /// Sends a request as it is, with our token in place of the client's, and gives back the head; both bodies stream.
    pub async fn forward(
        &self,
        mut request: Request<Body>,
        path_and_query: &str,
    ) -> Result<Response<Body>, AgentError> {
        *request.uri_mut() = self.uri(path_and_query)?;
        request.headers_mut().remove(HOST);
        for name in ["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "proxy-connection"] {
            request.headers_mut().remove(name);
        }
        request.headers_mut().remove(AUTHORIZATION);
        self.authorize(&mut request).await?;
        let answer = self.exchange(request, AGENT_UPLOAD).await?;
        Ok(answer.map(Body::new))
    }
}

/// A host's no. It knows a generation only where that is the reason; without one it is about something else (it is full), and may
/// change by itself: then what was asked is to be undone as anything that may have been heard.
fn refused(status: u16, known: Option<u64>, detail: String) -> AgentError {
    match (status, known) {
        (409, Some(known)) => AgentError::Stale { known, detail },
        _ => AgentError::Rejected { status, detail },
    }
}

/// Whether something takes a TCP (or unix) connection at a host's data port.
pub async fn data_port_answers(addr: &str) -> bool {
    let connect = async {
        match addr.strip_prefix("unix:") {
            Some(path) => tokio::net::UnixStream::connect(path).await.is_ok(),
            None => tokio::net::TcpStream::connect(addr).await.is_ok(),
        }
    };
    tokio::time::timeout(AGENT_CONNECT, connect).await.unwrap_or(false)
}

/// The stream of a body that came from an agent, with its errors as I/O errors.
pub fn body_stream(body: Body) -> impl futures_util::Stream<Item = std::io::Result<bytes::Bytes>> {
    TryStreamExt::map_err(body.into_data_stream(), std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_refuses_for_another_reason_than_a_generation_knows_none() {
        let detail = || "why".to_owned();
        assert_eq!(refused(409, Some(7), detail()), AgentError::Stale { known: 7, detail: detail() });
        // A full host: what it refused is undone there, as anything it may have heard.
        assert_eq!(refused(409, None, detail()), AgentError::Rejected { status: 409, detail: detail() });
        assert_eq!(refused(422, Some(7), detail()), AgentError::Rejected { status: 422, detail: detail() });
        assert!(!refused(409, None, detail()).is_transient());
    }
}
