//! `/v1/hosts`, and the way through to each host's agent.

use std::collections::HashMap;

use axum::Json;
use axum::body::Body;
use axum::extract::{OriginalUri, Path};
use axum::http::Request;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::{Problem, Running, strip_hop_by_hop};
use crate::agents::{HostHandle, state_name};

pub async fn list(Running(edge): Running) -> Result<Json<Value>, Problem> {
    let counts = edge.store().counts().await?;
    let hosts: Vec<Value> = edge.hosts.all().iter().map(|host| render(host, &counts)).collect();
    Ok(Json(json!({"hosts": hosts})))
}

pub async fn show(Running(edge): Running, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    let host = edge.hosts.find(&name).ok_or_else(|| Problem::no_host(&name))?;
    Ok(Json(render(&host, &edge.store().counts().await?)))
}

fn render(host: &HostHandle, counts: &HashMap<String, u64>) -> Value {
    let (record, live) = (&host.record, host.live());
    json!({
        "name": record.name,
        "addr": record.addr,
        "control": record.control,
        "state": state_name(live.state),
        "apps": counts.get(&record.name).copied().unwrap_or(0),
        "version": live.info.map(|info| info.version),
        "last_seen_ms": live.seen.map(|seen| seen.elapsed().as_millis() as u64),
    })
}

/// Passes a request on, with our token in place of the client's; both bodies stream.
pub async fn forward(
    Running(edge): Running,
    Path((name, _)): Path<(String, String)>,
    OriginalUri(uri): OriginalUri,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let host = edge.hosts.find(&name).ok_or_else(|| Problem::no_host(&name))?;
    // The rest as the client wrote it: decoding it and encoding it again could make it another path.
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let rest = path.strip_prefix("/v1/hosts/").and_then(|rest| rest.split_once('/')).map_or("", |(_, rest)| rest);
    let mut answer = host.client.forward(request, &format!("/v1/{rest}")).await?;
    strip_hop_by_hop(answer.headers_mut());
    Ok(answer.into_response())
}
