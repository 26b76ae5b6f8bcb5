//! The agent's private API (docs/api.md, "The agent"): JSON over HTTP/1.1, a bearer token, problem+json errors.

mod exchanges;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use serde_json::json;
use steady_cluster::Role as MemberRole;
use steady_cluster::channel::{pipe::pipe, talk};
use steady_cluster::listen::{Peer, Refused};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::oneshot;

use crate::bundle::BundleError;
use crate::channel::Channel;
use crate::gate::{Generation, Protocol, Role};
use crate::host::Host;
use crate::membership::Membership;
use crate::metrics::Metrics;
use crate::records::{Digest, role_name};
use crate::reports::Hub;
use crate::supervise::actor::{AppHandle, Drained, Place, Refusal, StartFailure};
use crate::supervise::status::Status;
use crate::supervise::text_of;
use crate::talk::Talk;

const LINES_DEFAULT: usize = 100;
/// A drain without `deadline_ms` gets the configured one; one with it is held to an hour.
const DRAIN_MAX: Duration = Duration::from_secs(3600);

/// What the handlers need.
#[derive(Debug)]
pub struct Api {
    pub host: Arc<Host>,
    pub metrics: Metrics,
    pub token: Token,
    pub facts: Facts,
    pub reports: Arc<Hub>,
    pub membership: Option<Arc<Membership>>,
    pub channel: Option<Arc<Channel>>,
    pub talk: Option<Arc<Talk>>,
    /// Connections that the control port did not let in.
    pub refused: Arc<Refused>,
}

impl Api {
    /// Why no edge can give this host anything to do, if none can.
    fn unready(&self, now: std::time::SystemTime) -> Option<&'static str> {
        match self.membership.as_ref()?.seconds_left(now) {
            None => return Some("this host has not joined its cluster yet: its log says why"),
            Some(..=0) => return Some("this host's certificate is over: its log says why it has no other"),
            Some(_) => {}
        }
        let is_open = self.channel.as_ref().is_some_and(|channel| channel.counts().0);
        (!is_open).then_some("this host has no channel to an edge: its log says why")
    }
}

/// What `GET /v1/host` tells that does not change.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The data port's address, as bound.
    pub addr: String,
    /// Where this API listens.
    pub control: String,
    /// The driver in use.
    pub io: String,
    pub started_at: time::OffsetDateTime,
}

/// The secret that every call under `/v1` must carry.
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Compares in a time that depends on the lengths only.
    fn is(&self, offered: &str) -> bool {
        let (a, b) = (self.0.as_bytes(), offered.as_bytes());
        let difference = a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b));
        std::hint::black_box(difference) == 0 && a.len() == b.len()
    }
}

/// Everything the control port answers.
pub fn router(api: Arc<Api>) -> Router {
    let json_max = api.host.shared.limits.api_body_octets_max;
    let closed = Router::new()
        .route("/v1/host", get(host))
        .route("/v1/apps", get(apps))
        .route("/v1/reports", get(reports))
        .route(talk::PATH, post(talk_stream))
        .route("/v1/apps/{name}", get(app).put(place).delete(remove))
        .route("/v1/apps/{name}/drain", post(drain))
        .route("/v1/apps/{name}/restart", post(restart))
        .route("/v1/apps/{name}/logs", get(logs))
        .route("/v1/exchanges", get(exchanges::list))
        .route("/v1/exchanges/{id}", delete(exchanges::cut))
        .route("/v1/trace", post(exchanges::trace))
        .layer(DefaultBodyLimit::max(json_max))
        .route("/v1/bundles/{digest}", put(put_bundle).get(has_bundle))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), check_token));
    Router::new()
        .merge(closed)
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "there is no such call; docs/api.md lists them") })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method; see docs/api.md")
        })
        .with_state(api)
}

/// An error as RFC 9457 has it.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    /// The last output of the process that could not be.
    output: Option<String>,
    /// What is known here, where that is the reason.
    generation: Option<u64>,
}

impl Problem {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), output: None, generation: None }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let mut body =
            json!({"type": "about:blank", "title": title, "status": self.status.as_u16(), "detail": self.detail});
        if let Some(output) = self.output {
            body["output"] = output.into();
        }
        if let Some(generation) = self.generation {
            body["generation"] = generation.into();
        }
        (self.status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Problem { generation: refusal.known(), ..Problem::new(status, refusal.to_string()) }
    }
}

impl From<BundleError> for Problem {
    fn from(error: BundleError) -> Self {
        let status = match &error {
            BundleError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            BundleError::Transfer(_) => StatusCode::BAD_REQUEST,
            BundleError::Store(_) => StatusCode::INSUFFICIENT_STORAGE,
            BundleError::OtherDigest { .. } | BundleError::Unpack(_) => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Problem::new(status, format!("the bundle is refused: {error}"))
    }
}

async fn check_token(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    // An edge of the cluster has proved who it is when it connected.
    let edge =
        request.extensions().get::<ConnectInfo<Peer>>().is_some_and(|ConnectInfo(peer)| peer.is(MemberRole::Edge));
    if edge {
        return next.run(request).await;
    }
    let offered = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let offered =
        offered.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    if offered.is_some_and(|(_, token)| api.token.is(token.trim())) {
        return next.run(request).await;
    }
    api.host.shared.counters.api_refused.add(1);
    let detail = "send `Authorization: Bearer TOKEN` with the token from this agent's control.token_file";
    let mut response = Problem::new(StatusCode::UNAUTHORIZED, detail).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    response
}

async fn readyz(State(api): State<Arc<Api>>) -> Response {
    match api.unready(std::time::SystemTime::now()) {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn metrics(State(api): State<Arc<Api>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], api.metrics.render(&api))
}

async fn host(State(api): State<Arc<Api>>) -> Json<serde_json::Value> {
    let apps = api.host.all().iter().filter(|handle| !handle.status.borrow().is_tombstone()).count();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    Json(json!({
        "name": api.host.shared.host_name,
        "addr": api.facts.addr,
        "version": env!("CARGO_PKG_VERSION"),
        "started_at": text_of(api.facts.started_at),
        "apps": apps,
        "cpus": cpus,
        "memory_bytes": memory_bytes(),
        "io": api.facts.io,
    }))
}

/// The machine's memory (proc_meminfo(5)); 0 when it cannot be told.
pub(crate) fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    total.map_or(0, |kib: u64| kib * 1024)
}

async fn apps(State(api): State<Arc<Api>>) -> Json<serde_json::Value> {
    let all = api.host.all();
    let shown = all.iter().map(|handle| handle.status.borrow().clone()).filter(|status| !status.is_tombstone());
    Json(json!({"apps": shown.map(|status| show(&api, &status)).collect::<Vec<_>>()}))
}

async fn app(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Result<Json<serde_json::Value>, Problem> {
    let handle = known(&api, &name)?;
    let status = handle.status.borrow().clone();
    Ok(Json(show(&api, &status)))
}

fn known(api: &Api, name: &str) -> Result<AppHandle, Problem> {
    let found = api.host.find(name).filter(|handle| !handle.status.borrow().is_tombstone());
    found.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format!("no application `{name}` on this host")))
}

fn show(api: &Api, status: &Status) -> serde_json::Value {
    let record = &status.record;
    let plane = &api.host.shared.plane;
    let placement = record.placement.as_ref();
    json!({
        "name": record.name,
        "role": role_name(record.role),
        "generation": record.generation.0,
        "version": placement.map(|placement| placement.version),
        "digest": placement.map(|placement| placement.digest.as_str()),
        "exclusive": placement.is_some_and(|placement| placement.exclusive),
        "state": status.state.name(),
        "reason": status.reason,
        "pid": status.pid,
        "started_at": status.started_at.map(text_of),
        "restarts": status.restarts,
        "last_exit": status.last_exit,
        "in_flight": plane.in_flight(&record.name),
        "queued": plane.parked(&record.name),
        "protocol": status.protocol.map(|protocol| match protocol {
            Protocol::Http1 => "http1",
            Protocol::H2c => "h2c",
        }),
    })
}

// Bundles.

fn digest_of(text: &str) -> Result<Digest, Problem> {
    let wrong = || Problem::new(StatusCode::BAD_REQUEST, "a bundle is named by 64 lower-case hexadecimal digits");
    Digest::parse(text).ok_or_else(wrong)
}

async fn has_bundle(State(api): State<Arc<Api>>, Path(digest): Path<String>) -> Result<StatusCode, Problem> {
    let is_here = api.host.shared.bundles.renew(&digest_of(&digest)?);
    if is_here { Ok(StatusCode::OK) } else { Err(Problem::new(StatusCode::NOT_FOUND, "this bundle is not here")) }
}

async fn put_bundle(
    State(api): State<Arc<Api>>,
    Path(digest): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<serde_json::Value>), Problem> {
    let digest = digest_of(&digest)?;
    let shared = &api.host.shared;
    match shared.bundles.put(&digest, body.into_data_stream()).await {
        Ok(()) => {
            shared.counters.bundles_stored.add(1);
            Ok((StatusCode::CREATED, Json(json!({"digest": digest.as_str()}))))
        }
        Err(error) => {
            shared.counters.bundles_refused.add(1);
            Err(error.into())
        }
    }
}

// Applications.

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlaceBody {
    generation: u64,
    role: String,
    version: u64,
    digest: String,
    /// As whoever asks reads the bundle.
    exclusive: Option<bool>,
}

#[derive(Deserialize)]
struct WaitQuery {
    wait: Option<String>,
}

fn body_of<T: for<'de> Deserialize<'de>>(body: &Bytes) -> Result<T, Problem> {
    let wrong =
        |error| Problem::new(StatusCode::BAD_REQUEST, format!("the body is not what docs/api.md says: {error}"));
    serde_json::from_slice(body).map_err(wrong)
}

fn wait_of(api: &Api, query: &WaitQuery) -> Result<Option<Duration>, Problem> {
    let Some(text) = &query.wait else { return Ok(None) };
    let wait = steady_sys::text::parse_duration(text)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("wait: {error}")))?;
    Ok(Some(wait.min(api.host.shared.limits.api_wait_max)))
}

async fn place(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    Query(query): Query<WaitQuery>,
    body: Bytes,
) -> Result<Json<serde_json::Value>, Problem> {
    let wait = wait_of(&api, &query)?;
    let body: PlaceBody = body_of(&body)?;
    let role = match body.role.as_str() {
        "owner" => Role::Owner,
        "incoming" => Role::Incoming,
        other => {
            let detail = format!("role is `{other}`, and must be owner or incoming; to take it away, drain it");
            return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
        }
    };
    let digest = digest_of(&body.digest)?;
    let PlaceBody { generation, version, exclusive, .. } = body;
    let place = Place { generation: Generation(generation), role, version, digest, exclusive };
    let (ready, heard) = oneshot::channel();
    let handle = api.host.place(&name, place, wait.is_some().then_some(ready)).await?;
    wait_until_ready(wait, heard).await?;
    let status = handle.status.borrow().clone();
    Ok(Json(show(&api, &status)))
}

async fn wait_until_ready(
    wait: Option<Duration>,
    heard: oneshot::Receiver<Result<(), StartFailure>>,
) -> Result<(), Problem> {
    let Some(wait) = wait else { return Ok(()) };
    match tokio::time::timeout(wait, heard).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(failure))) => Err(Problem {
            output: Some(failure.output),
            ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, failure.reason)
        }),
        Ok(Err(_)) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping")),
        Err(_) => {
            let detail = format!("it is not ready after {wait:?} and goes on starting; ask again for its state");
            Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, detail))
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainBody {
    generation: u64,
    deadline_ms: Option<u64>,
}

async fn drain(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Json<serde_json::Value>, Problem> {
    let body: DrainBody = body_of(&body)?;
    let deadline = body.deadline_ms.map_or(api.host.shared.config.get().drain_timeout, Duration::from_millis);
    let drained = api.host.drain(&name, Generation(body.generation), deadline.min(DRAIN_MAX), false).await?;
    Ok(Json(show_drained(drained)))
}

fn show_drained(drained: Drained) -> serde_json::Value {
    json!({"cut": drained.cut, "ms": u64::try_from(drained.took.as_millis()).unwrap_or(u64::MAX)})
}

#[derive(Deserialize)]
struct RemoveQuery {
    generation: Option<u64>,
}

async fn remove(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> Result<Json<serde_json::Value>, Problem> {
    let missing = || Problem::new(StatusCode::BAD_REQUEST, "say which: ?generation=G, the one that is to end");
    let generation = Generation(query.generation.ok_or_else(missing)?);
    let drained = api.host.drain(&name, generation, api.host.shared.config.get().drain_timeout, true).await?;
    Ok(Json(show_drained(drained)))
}

async fn restart(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    Query(query): Query<WaitQuery>,
) -> Result<Json<serde_json::Value>, Problem> {
    known(&api, &name)?;
    let wait = wait_of(&api, &query)?;
    let (ready, heard) = oneshot::channel();
    let handle = api.host.restart(&name, wait.is_some().then_some(ready)).await?;
    wait_until_ready(wait, heard).await?;
    let status = handle.status.borrow().clone();
    Ok(Json(show(&api, &status)))
}

// Reports.

/// Reports without end: each as its length in 32 bits, big-endian, and its bytes.
async fn reports(State(api): State<Arc<Api>>) -> Response {
    let reports = stream::unfold(api.reports.listen(), |mut reports| async move {
        let report = reports.next().await?;
        let length = u32::try_from(report.len()).ok()?;
        let framed = [&length.to_be_bytes()[..], &report].concat();
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(framed)), reports))
    });
    let headers = [(header::CONTENT_TYPE, "application/vnd.steady.reports"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(reports)).into_response()
}

// The message stream.

/// Its octets, both ways, for the edge at the other end of a channel.
async fn talk_stream(
    State(api): State<Arc<Api>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Body,
) -> Result<Body, Problem> {
    let edge = peer.member.filter(|member| member.role() == MemberRole::Edge);
    let (Some(edge), Some(talk)) = (edge, api.talk.clone()) else {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "the message stream is for the edge that this host registered at",
        ));
    };
    let (writing, answer) = pipe();
    let connection = writing.and(body.into_data_stream());
    tokio::spawn(async move {
        match talk.attach(edge.name(), connection).await {
            Ok(ended) => tracing::debug!(%edge, ?ended, "a connection of the message stream has ended"),
            Err(error) => tracing::error!(%edge, %error, "the message stream cannot be opened"),
        }
    });
    Ok(answer)
}

// Logs.

#[derive(Deserialize)]
struct LogsQuery {
    lines: Option<usize>,
    #[serde(default)]
    follow: bool,
}

async fn logs(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    Query(query): Query<LogsQuery>,
) -> Result<Response, Problem> {
    let log = known(&api, &name)?.log;
    let lines = query.lines.unwrap_or(LINES_DEFAULT).min(api.host.shared.limits.log_lines_max);
    // Before the tail is read, so that nothing falls between; what is in both is told by its number.
    let live = log.follow();
    let tail = log.tail(lines).await;
    let tail = tail.map_err(|error| Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("its log: {error}")))?;
    let first = stream::once(async move { Ok::<_, std::convert::Infallible>(Bytes::from(tail.bytes)) });
    let body = if query.follow {
        let rest = stream::unfold((live, tail.last), |(mut live, last)| async move {
            loop {
                match live.recv().await {
                    Ok(piece) if piece.number > last => return Some((Ok(piece.bytes), (live, last))),
                    Ok(_) => {}
                    Err(RecvError::Lagged(count)) => {
                        let note = format!("\n--- {count} pieces of output skipped: this reader is too slow\n");
                        return Some((Ok(Bytes::from(note)), (live, last)));
                    }
                    Err(RecvError::Closed) => return None,
                }
            }
        });
        Body::from_stream(first.chain(rest))
    } else {
        Body::from_stream(first)
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    Ok((headers, body).into_response())
}
