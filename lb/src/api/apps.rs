//! `/v1/apps`.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, RawQuery};
use axum::http::{Request, header};
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use steady_table::AppName;
use tokio::sync::Semaphore;

use super::operation::{Operation, launch};
use super::{Problem, Running, strip_hop_by_hop, timestamp};
use crate::agents;
use crate::agents::client::body_stream;
use crate::edge::Edge;
use crate::limits::{STATE_ANSWER, UPLOAD_STALL, UPLOADS};
use crate::store::AppRecord;
use crate::workflow::{Tracker, deploy};

static UPLOADING: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(UPLOADS));

pub async fn list(Running(edge): Running) -> Result<Json<Value>, Problem> {
    let contents = edge.store().load().await?;
    let states = states(&edge).await;
    let mut apps = Vec::with_capacity(contents.apps.len());
    let mut customs: HashMap<AppName, Vec<String>> = HashMap::new();
    for (domain, app) in contents.customs {
        customs.entry(app).or_default().push(domain.to_string());
    }
    for record in &contents.apps {
        let state = states.get(&(record.host.clone(), record.name.to_string()));
        let state = state.map_or("unknown", String::as_str);
        apps.push(render(&edge, record, state, customs.remove(&record.name).unwrap_or_default()));
    }
    Ok(Json(json!({"apps": apps})))
}

/// What every host says of its applications, by host and name.
async fn states(edge: &Edge) -> HashMap<(String, String), String> {
    let asked = edge.hosts.all().into_iter().map(|host| async move {
        let apps = host.client.apps(STATE_ANSWER).await.unwrap_or_default();
        apps.into_iter().map(|app| ((host.record.name.clone(), app.name), app.state)).collect::<Vec<_>>()
    });
    join_all(asked).await.into_iter().flatten().collect()
}

pub async fn show(Running(edge): Running, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    let record = find(&edge, &name).await?;
    Ok(Json(describe(&edge, &record, None).await))
}

/// An application as the API shows it; its state is asked of its host unless it is known.
pub async fn describe(edge: &Edge, record: &AppRecord, state: Option<&str>) -> Value {
    let state = match state {
        Some(state) => state.to_owned(),
        None => agents::app_state(&edge.hosts, &record.host, &record.name, STATE_ANSWER).await,
    };
    let customs = edge.store().customs_of(record.name.clone()).await.unwrap_or_default();
    render(edge, record, &state, customs.iter().map(ToString::to_string).collect())
}

fn render(edge: &Edge, record: &AppRecord, state: &str, customs: Vec<String>) -> Value {
    let moving = record
        .moving
        .as_ref()
        .map(|moving| json!({"from": record.host, "to": moving.to, "generation": moving.generation}));
    json!({
        "name": record.name.as_str(),
        "generation": record.generation,
        "version": record.version,
        "digest": record.digest,
        "exclusive": record.exclusive,
        "hosts": [record.host],
        "moving": moving,
        "state": state,
        "urls": urls(edge, &record.name, &customs),
        "custom_domains": customs,
        "created_at": timestamp(record.created_at),
        "updated_at": timestamp(record.updated_at),
    })
}

/// Where people reach it: every name under every listener, with the port where it is not the scheme's own.
fn urls(edge: &Edge, app: &AppName, customs: &[String]) -> Vec<String> {
    let published = edge.control.published();
    let names: Vec<String> = published
        .snapshot
        .routes
        .domains()
        .iter()
        .map(|domain| format!("{app}.{domain}"))
        .chain(customs.iter().cloned())
        .collect();
    let mut urls = Vec::new();
    for listener in &edge.facts.listeners {
        let (scheme, usual) = if listener.tls { ("https", 443) } else { ("http", 80) };
        let port = listener.addr.port();
        let port = if port == usual { String::new() } else { format!(":{port}") };
        for name in &names {
            let url = format!("{scheme}://{name}{port}/");
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
    }
    urls
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployQuery {
    host: Option<String>,
}

pub async fn deploy(
    Running(edge): Running,
    Path(name): Path<String>,
    query: Result<Query<DeployQuery>, axum::extract::rejection::QueryRejection>,
    body: Body,
) -> Result<Response, Problem> {
    let Query(DeployQuery { host }) =
        query.map_err(|error| Problem::new(400, "the query is wrong", format!("{error}; it takes host=NAME")))?;
    let app = AppName::new(&name).map_err(|error| Problem::new(422, "this is no application's name", error))?;
    // What can be refused is refused before the upload; it is judged again under the lock.
    if let Some(lock) = Tracker::try_lock(&edge, &app) {
        deploy::plan(&lock, host.as_deref()).await?;
    }
    let _permit = UPLOADING
        .try_acquire()
        .map_err(|_| Problem::new(429, "too many uploads at once", format!("{UPLOADS} are under way: repeat later")))?;
    let most = edge.config.load().bundle_bytes_max;
    let bundle = edge.bundles.receive(Box::pin(body_stream(body)), most, UPLOAD_STALL).await?;
    launch(edge, app, Operation::Deploy { host, bundle }).await
}

pub async fn remove(Running(edge): Running, Path(name): Path<String>) -> Result<Response, Problem> {
    let app = AppName::new(&name).map_err(|_| Problem::no_app(&name))?;
    launch(edge, app, Operation::Remove).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveBody {
    to: String,
    /// The operator says that a host which is down will not come back by itself.
    #[serde(default)]
    force: bool,
}

pub async fn move_app(
    Running(edge): Running,
    Path(name): Path<String>,
    body: axum::body::Bytes,
) -> Result<Response, Problem> {
    let app = AppName::new(&name).map_err(|_| Problem::no_app(&name))?;
    let body: MoveBody = serde_json::from_slice(&body)
        .map_err(|error| Problem::new(400, "the body is wrong", format!("{error}; send {{\"to\": \"HOST\"}}")))?;
    launch(edge, app, Operation::Move { to: body.to, force: body.force }).await
}

pub async fn logs(
    Running(edge): Running,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let record = find(&edge, &name).await?;
    let host = edge.hosts.find(&record.host).ok_or_else(|| Problem::no_host(&record.host))?;
    let query = query.map_or_else(String::new, |query| format!("?{query}"));
    let path = format!("/v1/apps/{}/logs{query}", record.name);
    let mut answer = host.client.forward(Request::new(Body::empty()), &path).await?;
    strip_hop_by_hop(answer.headers_mut());
    if answer.status().is_success() && !answer.headers().contains_key(header::CONTENT_TYPE) {
        let text = header::HeaderValue::from_static("text/plain; charset=utf-8");
        answer.headers_mut().insert(header::CONTENT_TYPE, text);
    }
    Ok(answer.into_response())
}

pub(super) async fn find(edge: &Edge, name: &str) -> Result<AppRecord, Problem> {
    let app = AppName::new(name).map_err(|_| Problem::no_app(name))?;
    edge.store().app(app).await?.ok_or_else(|| Problem::no_app(name))
}
