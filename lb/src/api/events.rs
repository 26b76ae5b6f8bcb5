//! `GET /v1/events`: what happened to applications, as their hosts told it.

use axum::Json;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Problem, Running, timestamp};
use crate::limits::{EVENTS_SHOWN, EVENTS_SHOWN_MOST};
use crate::store::{EventRecord, EventsOf};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    host: Option<String>,
    app: Option<String>,
    /// Only those with greater numbers, the oldest first: for whoever follows.
    after: Option<u64>,
    limit: Option<usize>,
}

pub async fn list(Running(edge): Running, query: Result<Query<Asked>, QueryRejection>) -> Result<Json<Value>, Problem> {
    let Query(asked) = query.map_err(|error| {
        Problem::new(400, "the query is wrong", format!("{error}; it takes host, app, after and limit"))
    })?;
    let limit = asked.limit.unwrap_or(EVENTS_SHOWN).min(EVENTS_SHOWN_MOST);
    let found = edge.store().events(EventsOf { host: asked.host, app: asked.app, after: asked.after, limit }).await?;
    Ok(Json(json!({"events": found.iter().map(render).collect::<Vec<_>>()})))
}

fn render((number, record): &(u64, EventRecord)) -> Value {
    let event = &record.event;
    let said = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "number": number,
        "at": timestamp(event.at_ms),
        "host": record.host,
        "app": event.app,
        "event": event.kind.as_str(),
        "generation": event.generation,
        "version": event.version,
        "instance": event.instance,
        "reason": said(&event.reason),
        "output": said(&event.output),
        "cut": event.cut,
    })
}
