//! `/v1/exchanges` and `/v1/trace`: what is under way in this edge's workers, an end to one of it, and a close look at what
//! comes.
//!
//! Both need the workers alone: they answer also while the store cannot be opened.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use steady_proxy::registry::{self, Busy, Oversight};
use steady_proxy::trace::{Ask, Follower, TRACES_MAX};

use super::{Api, Problem};

pub async fn list(
    State(api): State<Arc<Api>>,
    query: Result<Query<registry::Query>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let wrong = |why: String| Problem::new(400, "the query is wrong", why);
    let Query(query) = query.map_err(|error| wrong(format!("{error}; it takes app, host, id, older, limit")))?;
    let hosts = hosts(&api);
    let upstream = match &query.host {
        None => None,
        Some(name) => {
            let known = hosts.iter().find(|(_, known)| *known == name);
            Some(known.map(|(addr, _)| addr.clone()).ok_or_else(|| Problem::no_host(name))?)
        }
    };
    let filter = query.filter(upstream).map_err(wrong)?;
    let listing = ask(&api, move |oversight| oversight.registry.list(filter)).await?;
    let rows = listing.rows.iter().map(|row| {
        let mut shown = json!(row);
        shown["host"] = row.upstream.as_ref().and_then(|addr| hosts.get(addr)).cloned().into();
        shown
    });
    Ok(Json(json!({
        "exchanges": rows.collect::<Vec<_>>(),
        "found": listing.found,
        "complete": listing.complete,
    })))
}

pub async fn cut(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let wanted = id.clone();
    match ask(&api, move |oversight| oversight.registry.cut(&wanted)).await? {
        0 => {
            let detail = "it may have ended by itself; steady requests (GET /v1/exchanges) lists what is under way";
            Err(Problem::new(404, format!("no request with the id {id} is under way"), detail))
        }
        cut => Ok(Json(json!({ "cut": cut }))),
    }
}

pub async fn trace(State(api): State<Arc<Api>>, body: Bytes) -> Result<Response, Problem> {
    let wrong = |why: String| Problem::new(400, "the body is wrong", why);
    let asked: Ask = serde_json::from_slice(&body).map_err(|error| {
        wrong(format!("{error}; send {{\"app\": \"NAME\", \"for\": \"60s\", \"requests\": 100}}, and id or client to follow one flow"))
    })?;
    let (order, time) = asked.order().map_err(wrong)?;
    let tracer = oversight(&api)?.tracer;
    let follower = Follower::start(&tracer, order, time).ok_or_else(|| {
        Problem::new(
            429,
            "too many traces at once",
            format!("{TRACES_MAX} are under way: end one, or wait for its time"),
        )
    })?;
    let lines = stream::unfold(follower, |mut follower| async {
        follower.next().await.map(|line| (Ok::<_, Infallible>(Bytes::from(line)), follower))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

fn oversight(api: &Api) -> Result<Oversight, Problem> {
    let none =
        || Problem::new(503, "there are no workers yet", "they begin with the first routing table: repeat later");
    api.plane.oversight().ok_or_else(none)
}

/// Asks the workers, off the runtime's thread.
async fn ask<T: Send + 'static>(
    api: &Api,
    question: impl FnOnce(Oversight) -> Result<T, Busy> + Send + 'static,
) -> Result<T, Problem> {
    let oversight = oversight(api)?;
    match tokio::task::spawn_blocking(move || question(oversight)).await {
        Ok(answer) => answer.map_err(|busy| Problem::new(503, "the workers are busy", busy)),
        Err(error) => Err(Problem::new(500, "the workers could not be asked", error)),
    }
}

/// Names of the hosts by the address that their requests go to.
fn hosts(api: &Api) -> HashMap<String, String> {
    let routes = match api.edge.get() {
        Some(edge) => Some(Arc::clone(&edge.control.published().snapshot.routes)),
        None => api.first.load().as_ref().map(|first| Arc::clone(&first.snapshot.routes)),
    };
    let routes = routes.iter().flat_map(|routes| routes.hosts());
    routes.map(|host| (host.addr().to_owned(), host.name().to_owned())).collect()
}
