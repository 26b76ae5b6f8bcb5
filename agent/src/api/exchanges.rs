//! `/v1/exchanges` and `/v1/trace`: what is under way in this host's workers, an end to one of it, and a close look at what
//! comes.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use steady_proxy::registry::{self, Busy, Oversight};
use steady_proxy::trace::{Ask, Follower, TRACES_MAX};

use super::{Api, Problem, body_of};

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Query(query): Query<registry::Query>,
) -> Result<Json<Value>, Problem> {
    let here = &api.host.shared.host_name;
    if query.host.as_ref().is_some_and(|host| host != here) {
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("this host is {here}; ask without host")));
    }
    let filter = query.filter(None).map_err(|why| Problem::new(StatusCode::BAD_REQUEST, why))?;
    let listing = ask(&api, move |oversight| oversight.registry.list(filter)).await?;
    Ok(Json(json!({"exchanges": listing.rows, "found": listing.found, "complete": listing.complete})))
}

pub(super) async fn cut(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let wanted = id.clone();
    match ask(&api, move |oversight| oversight.registry.cut(&wanted)).await? {
        0 => {
            let detail = format!("no request with the id {id} is under way here; it may have ended by itself");
            Err(Problem::new(StatusCode::NOT_FOUND, detail))
        }
        cut => Ok(Json(json!({ "cut": cut }))),
    }
}

pub(super) async fn trace(State(api): State<Arc<Api>>, body: Bytes) -> Result<Response, Problem> {
    let asked: Ask = body_of(&body)?;
    let (order, time) = asked.order().map_err(|why| Problem::new(StatusCode::BAD_REQUEST, why))?;
    let tracer = oversight(&api)?.tracer;
    let follower = Follower::start(&tracer, order, time).ok_or_else(|| {
        let detail = format!("{TRACES_MAX} traces are under way: end one, or wait for its time");
        Problem::new(StatusCode::TOO_MANY_REQUESTS, detail)
    })?;
    let lines = stream::unfold(follower, |mut follower| async {
        follower.next().await.map(|line| (Ok::<_, Infallible>(Bytes::from(line)), follower))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

fn oversight(api: &Api) -> Result<Oversight, Problem> {
    let none = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "there are no workers here");
    api.host.shared.plane.oversight().ok_or_else(none)
}

/// Asks the workers, off the runtime's thread.
async fn ask<T: Send + 'static>(
    api: &Api,
    question: impl FnOnce(Oversight) -> Result<T, Busy> + Send + 'static,
) -> Result<T, Problem> {
    let oversight = oversight(api)?;
    let unavailable = |why: String| Problem::new(StatusCode::SERVICE_UNAVAILABLE, why);
    let answer = tokio::task::spawn_blocking(move || question(oversight)).await;
    answer.map_err(|error| unavailable(error.to_string()))?.map_err(|busy| unavailable(busy.to_string()))
}
