//! The private port: `docs/api.md`, "The edge". JSON over HTTP/1.1 behind a token; problems as `application/problem+json`.
//!
//! It answers from the first moment, even while the store cannot be opened: then everything but health, readiness and
//! metrics is a 503 that says why, and the data path serves from its table.

mod apps;
mod channel;
mod events;
mod exchanges;
mod hosts;
mod join;
mod latency;
mod operation;
mod problem;
mod routes;
mod token;

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use axum::extract::{DefaultBodyLimit, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::control::Published;
use crate::edge::{Edge, Facts};
use crate::limits::API_BODY_BYTES;
use crate::metrics::{LatencyNow, Metrics, Now};
use crate::snapshot::{Plane, Snapshot};
use crate::upgrade::Elders;
pub use problem::Problem;
use steady_cluster::listen::Refused;
pub use token::{Token, TokenError};

/// What the private port knows: little at first, the whole edge once its store is open.
pub struct Api {
    edge: OnceLock<Arc<Edge>>,
    /// Why there is no edge yet.
    waiting: ArcSwap<String>,
    /// What was published before the store was open.
    first: ArcSwapOption<Published>,
    stopping: std::sync::atomic::AtomicBool,
    cluster: Arc<Cluster>,
    token: Token,
    facts: Facts,
    begun: Instant,
    plane: Arc<dyn Plane>,
    metrics: Arc<Metrics>,
    elders: Arc<Elders>,
    /// Connections that the port did not let in.
    refused: OnceLock<Arc<Refused>>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("edge", &self.edge.get()).finish_non_exhaustive()
    }
}

impl Api {
    pub fn new(
        token: Token,
        cluster: Arc<Cluster>,
        facts: Facts,
        plane: Arc<dyn Plane>,
        metrics: Arc<Metrics>,
        elders: Arc<Elders>,
    ) -> Arc<Api> {
        Arc::new(Api {
            edge: OnceLock::new(),
            waiting: ArcSwap::from_pointee("it is starting".to_owned()),
            first: ArcSwapOption::empty(),
            stopping: false.into(),
            cluster,
            refused: OnceLock::new(),
            token,
            facts,
            begun: Instant::now(),
            plane,
            metrics,
            elders,
        })
    }

    /// A table is in force, whatever becomes of the store.
    pub fn published(&self, first: Published) {
        self.first.store(Some(Arc::new(first)));
    }

    /// The store cannot be used yet, for this reason.
    pub fn wait_for(&self, reason: String) {
        self.waiting.store(Arc::new(reason));
    }

    /// What the port that serves this counts.
    pub fn count_refused(&self, refused: Arc<Refused>) {
        // There is one port.
        let _ = self.refused.set(refused);
    }

    /// The control side is there.
    pub fn open(&self, edge: Arc<Edge>) {
        // It is only ever opened once.
        let _ = self.edge.set(edge);
    }

    /// Not ready any more: whoever balances in front of us looks elsewhere.
    pub fn stop(&self) {
        self.stopping.store(true, std::sync::atomic::Ordering::Release);
    }

    /// The token's file is read again.
    pub fn reload_token(&self) -> Result<(), TokenError> {
        self.token.reload()
    }

    /// What the workers were last given; `None`: nothing yet.
    fn snapshot(&self) -> Option<Arc<Snapshot>> {
        match self.edge.get() {
            Some(edge) => Some(Arc::clone(&edge.control.published().snapshot)),
            None => self.first.load().as_ref().map(|first| Arc::clone(&first.snapshot)),
        }
    }

    /// Why it is not ready, if it is not.
    fn unready(&self) -> Option<String> {
        if self.stopping.load(std::sync::atomic::Ordering::Acquire) {
            return Some("it is stopping".into());
        }
        let lacks_certificates = self.snapshot().is_some_and(|snapshot| snapshot.certs.config.is_none());
        if lacks_certificates && self.facts.listeners.iter().any(|listener| listener.tls) {
            return Some(
                "a listener has tls = true, and no certificate can be used: steady lb --check says why".into(),
            );
        }
        match (self.edge.get(), &*self.first.load()) {
            (Some(edge), _) if edge.control.is_settled() => None,
            (Some(edge), _) if edge.control.published().behind => Some("the routing table cannot be written".into()),
            (None, Some(first)) if self.plane.settled() >= first.publication => None,
            (Some(_), _) | (None, Some(_)) => Some("not every worker runs the routing table yet".into()),
            (None, None) => Some(format!("there is no routing table yet: {}", self.waiting.load())),
        }
    }
}

/// The edge, for handlers; a 503 while there is none.
pub(crate) struct Running(pub Arc<Edge>);

impl FromRequestParts<Arc<Api>> for Running {
    type Rejection = Problem;

    async fn from_request_parts(_: &mut Parts, api: &Arc<Api>) -> Result<Running, Problem> {
        api.edge.get().map(|edge| Running(Arc::clone(edge))).ok_or_else(|| {
            let why = api.waiting.load();
            Problem::new(
                503,
                "the control side is not there yet",
                format!("{why}; requests are served from the last good table"),
            )
        })
    }
}

/// All of it.
pub fn router(api: Arc<Api>) -> Router {
    let guarded = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/apps", get(apps::list))
        .route("/v1/apps/{name}", get(apps::show).put(apps::deploy).delete(apps::remove))
        .route("/v1/apps/{name}/move", post(apps::move_app))
        .route("/v1/apps/{name}/logs", get(apps::logs))
        .route("/v1/apps/{name}/latency", get(latency::app))
        .route("/v1/latency", get(latency::all))
        .route("/v1/events", get(events::list))
        .route("/v1/hosts", get(hosts::list))
        .route("/v1/hosts/{host}", get(hosts::show).delete(hosts::remove))
        .route("/v1/hosts/{host}/{*rest}", any(hosts::forward))
        .route("/v1/exchanges", get(exchanges::list))
        .route("/v1/exchanges/{id}", delete(exchanges::cut))
        .route("/v1/trace", post(exchanges::trace))
        .route("/v1/routes", get(routes::show).patch(routes::change))
        .route("/v1/join-tokens", get(join::list).post(join::make))
        .route("/v1/join-tokens/{id}", delete(join::revoke))
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&api), guard));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        // These carry their own proof: a join token, a certificate.
        .route("/v1/join", post(join::join))
        .route("/v1/renew", post(join::renew))
        .route("/v1/channel", post(channel::open))
        .merge(guarded)
        .layer(DefaultBodyLimit::max(API_BODY_BYTES))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), count))
        .with_state(api)
}

async fn guard(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    if !api.token.admits(request.headers()) {
        let detail = format!("send \"Authorization: Bearer TOKEN\" with the token from {}", api.token.file().display());
        let mut response = Problem::new(401, "the token is missing or wrong", detail).into_response();
        response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        return response;
    }
    next.run(request).await
}

async fn count(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    api.metrics.api_request(response.status().as_u16());
    response
}

async fn nothing_here() -> Problem {
    Problem::new(404, "there is nothing at this path", "docs/api.md lists what there is")
}

async fn wrong_method() -> Problem {
    Problem::new(405, "this path does not take that method", "docs/api.md lists what it takes")
}

async fn readyz(State(api): State<Arc<Api>>) -> Response {
    match api.unready() {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn metrics(State(api): State<Arc<Api>>) -> Response {
    let snapshot = api.snapshot();
    let certificates = snapshot.as_ref().map(|snapshot| &snapshot.certs.set);
    let mut now = Now {
        uptime: api.begun.elapsed(),
        apps: snapshot.as_ref().map_or(0, |snapshot| snapshot.routes.app_count()),
        workflows_open: 0,
        old_processes: api.elders.alive().len(),
        certificates: certificates.map_or(0, |set| set.len()),
        certificates_end: certificates.and_then(|set| set.first_end()),
        hosts: Vec::new(),
        streams: Vec::new(),
        latency: None,
    };
    if let Some(edge) = api.edge.get() {
        now.workflows_open = edge.workflows.open();
        now.hosts = edge.hosts.all().iter().map(|host| host.state()).collect();
        now.streams = edge.hosts.standings();
        now.latency = Some(LatencyNow::of(edge));
    }
    if let Some(refused) = api.refused.get() {
        api.metrics.private_refused(refused.value());
    }
    let text = api.metrics.render(&now, &api.plane.samples(), api.plane.log().as_deref());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn status(State(api): State<Arc<Api>>, Running(edge): Running) -> Json<Value> {
    let published = edge.control.published();
    let hosts = edge.hosts.all();
    Json(json!({
        "version": api.facts.version,
        "revision": published.snapshot.routes.revision(),
        "workers": api.facts.workers,
        "io": api.facts.io,
        "io_reason": api.facts.io_reason,
        "uptime_ms": api.begun.elapsed().as_millis() as u64,
        "apps": published.snapshot.routes.app_count(),
        "hosts": hosts.len(),
        "hosts_up": hosts.iter().filter(|host| host.state() == crate::snapshot::HostState::Up).count(),
        "workflows_open": edge.workflows.open(),
        "listeners": api.facts.listeners,
        "tls": published.snapshot.certs.config.is_some(),
    }))
}

/// Does it whether or not the client stays for the answer, so that what the store knows and what this process knows never part.
pub(crate) async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    let done = tokio::spawn(work).await;
    done.unwrap_or_else(|_| Err(Problem::new(503, "the edge is stopping", "repeat when it is back")))
}

/// Milliseconds since 1970 as RFC 3339 text.
pub(crate) fn timestamp(at_ms: u64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000).ok();
    at.and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok()).unwrap_or_default()
}

/// Takes away what belongs to the connection to the agent (RFC 9110 §7.6.1).
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    for name in ["connection", "keep-alive", "proxy-authenticate", "te", "trailer", "transfer-encoding", "upgrade"] {
        headers.remove(name);
    }
}
