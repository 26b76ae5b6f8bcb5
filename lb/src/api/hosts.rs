//! `/v1/hosts`, and the way through to each host's agent.

use std::collections::HashMap;

use axum::Json;
use axum::body::Body;
use axum::extract::{OriginalUri, Path};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::{Problem, Running, strip_hop_by_hop, to_its_end};
use crate::agents::{HostHandle, state_name};
use crate::control::ControlError;
use crate::edge::Edge;
use crate::snapshot::HostState;
use crate::store::{Commit, Write};

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
    let open = host.slot.as_ref().and_then(|slot| slot.open());
    let said = open.as_ref().map(|open| &open.registration);
    let control = if record.is_registered() { said.map(|said| &*said.control) } else { Some(&*record.control) };
    json!({
        "name": record.name,
        "addr": record.addr,
        "control": control,
        "state": state_name(live.state),
        "apps": counts.get(&record.name).copied().unwrap_or(0),
        "version": live.info.map(|info| info.version),
        "last_seen_ms": live.seen.map(|seen| seen.elapsed().as_millis() as u64),
        "registered": record.is_registered(),
        "connected_ms": open.as_ref().map(|open| open.since.elapsed().as_millis() as u64),
        "from": open.as_ref().map(|open| open.peer),
        "zone": said.map(|said| &*said.zone),
        "capacity": open.as_ref().and_then(|_| host.slot.as_ref()?.orders.capacity()),
    })
}

/// Forgets a host that registered and is gone for good. One that comes back registers anew.
pub async fn remove(Running(edge): Running, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    to_its_end(async move { forget(&edge, name).await }).await
}

async fn forget(edge: &Edge, name: String) -> Result<StatusCode, Problem> {
    let _one_at_a_time = edge.registering.lock().await;
    let host = edge.hosts.find(&name).ok_or_else(|| Problem::no_host(&name))?;
    let refused = |why: &str| Problem::new(409, format!("{name} is not removed"), why);
    let slot = host.slot.as_ref().ok_or_else(|| refused("the configuration names it: take it out there"))?;
    if host.state() == HostState::Up || slot.open().is_some() {
        return Err(refused("it is there: stop its agent first"));
    }
    let (what, writes) = (format!("host {name} is forgotten"), vec![Write::RemoveHost(name.clone())]);
    match edge.control.commit(Commit { at_ms: edge.now(), what, expect: Vec::new(), writes }).await {
        Err(ControlError::Refused(reasons)) => return Err(refused(&reasons.join("; "))),
        // It is stored; the table follows.
        Ok(_) | Err(ControlError::Table(_)) => {}
        Err(error) => return Err(error.into()),
    }
    edge.hosts.remove(&name);
    Ok(StatusCode::NO_CONTENT)
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
