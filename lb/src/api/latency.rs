//! `/v1/latency` and `/v1/apps/NAME/latency`: how fast applications are, from what agents report and this edge measures.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use steady_timing::{Snapshot, State};

use super::{Problem, Running, apps};
use crate::agents::state_name;
use crate::edge::Edge;
use crate::reports::series::{Part, SECONDS_KEPT, Sum};
use crate::reports::{Of, Place, Span, Window};

/// Applications that one answer lists unless more are asked for, and at most.
const APPS_DEFAULT: usize = 100;
const APPS_MAX: usize = 10_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Applications to list: the busiest.
    apps: Option<usize>,
    /// Seconds of history of each.
    #[serde(default)]
    spark: u64,
}

pub async fn all(Running(edge): Running, query: Result<Query<Asked>, QueryRejection>) -> Result<Json<Value>, Problem> {
    let Query(asked) = query.map_err(|error| {
        Problem::new(400, "the query is wrong", format!("{error}; it takes apps=N and spark=SECONDS"))
    })?;
    let (reports, now) = (&edge.reports, edge.begun.elapsed());
    let spark = asked.spark.min(SECONDS_KEPT);
    let mut busy: Vec<_> = reports
        .apps()
        .into_iter()
        .map(|app| {
            let window = reports.window(Of::App(&app), Span::TenSeconds, now);
            (app, window)
        })
        .collect();
    let active = busy.len();
    // By name already, which a stable sort keeps among equals.
    busy.sort_by_key(|(_, window)| std::cmp::Reverse(requests(&window.sum)));
    busy.truncate(asked.apps.unwrap_or(APPS_DEFAULT).min(APPS_MAX));
    let apps: Vec<Value> = busy
        .iter()
        .map(|(app, window)| {
            let mut shown = describe(&edge, app);
            shown["10s"] = show(window);
            if spark > 0 {
                shown["spark"] = sparks(&edge, Of::App(app), spark, now);
            }
            shown
        })
        .collect();
    let hosts: Vec<Value> = edge
        .hosts
        .all()
        .iter()
        .map(|host| {
            let name = &host.record.name;
            let told = reports.host(name);
            let mut shown = told.map_or_else(
                || json!({}),
                |told| {
                    json!({
                        "reported_ms": now.saturating_sub(told.last).as_millis() as u64,
                        "ready": told.ready,
                        "in_flight": told.in_flight,
                        "queued": told.queued,
                        "cpu": told.cpu_milli as f64 / 1e3,
                        "memory_bytes": told.memory_bytes,
                    })
                },
            );
            shown["name"] = json!(name);
            shown["state"] = json!(state_name(host.state()));
            let open = host.slot.as_ref().and_then(|slot| slot.open());
            shown["zone"] = json!(open.as_ref().map(|open| &*open.registration.zone));
            shown["capacity"] = json!(open.and_then(|_| host.slot.as_ref()?.orders.capacity()));
            shown["10s"] = show(&reports.window(Of::Host(name), Span::TenSeconds, now));
            shown
        })
        .collect();
    let mut whole = windows(&edge, Of::All, now);
    if spark > 0 {
        whole["spark"] = sparks(&edge, Of::All, spark, now);
    }
    Ok(Json(json!({"all": whole, "hosts": hosts, "apps": apps, "active": active})))
}

pub async fn app(Running(edge): Running, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    let record = apps::find(&edge, &name).await?;
    let now = edge.begun.elapsed();
    let app = record.name.as_str();
    let mut shown = describe(&edge, app);
    shown["windows"] = windows(&edge, Of::App(app), now);
    shown["spark"] = sparks(&edge, Of::App(app), SECONDS_KEPT, now);
    Ok(Json(shown))
}

/// How an application is now, and where.
fn describe(edge: &Edge, app: &str) -> Value {
    let places = edge.reports.places(app);
    let sum = |of: fn(&Place) -> u64| places.iter().map(|(_, place)| of(place)).sum::<u64>();
    let listed: Vec<Value> = places
        .iter()
        .map(|(host, place)| {
            json!({
                "host": &**host,
                "version": place.version,
                "state": place.state.name(),
                "in_flight": place.in_flight,
                "in_flight_max": place.peak,
                "queued": place.queued,
                "cpu": place.cpu_milli as f64 / 1e3,
                "memory_bytes": place.memory_bytes,
            })
        })
        .collect();
    json!({
        "name": app,
        "state": places.iter().map(|(_, place)| place.state).min_by_key(|state| rank(*state)).map_or("unknown", State::name),
        "in_flight": sum(|place| place.in_flight),
        "queued": sum(|place| place.queued),
        "cpu": sum(|place| place.cpu_milli) as f64 / 1e3,
        "memory_bytes": sum(|place| place.memory_bytes),
        "places": listed,
    })
}

/// Which of several places' states speaks for the application: the best.
fn rank(state: State) -> u8 {
    match state {
        State::Ready => 0,
        State::Starting => 1,
        State::Cold => 2,
        State::Draining => 3,
        State::Crashed => 4,
        State::Failed => 5,
        State::Stopped => 6,
    }
}

fn windows(edge: &Edge, of: Of<'_>, now: Duration) -> Value {
    let each = Span::ALL.map(|span| (span.name().to_owned(), show(&edge.reports.window(of, span, now))));
    Value::Object(each.into_iter().collect())
}

/// Requests of each second, and what they took.
fn sparks(edge: &Edge, of: Of<'_>, seconds: u64, now: Duration) -> Value {
    let (mut counts, mut failed, mut p50, mut p99) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    edge.reports.each_second(of, seconds, now, |sum| {
        let times = whole(sum);
        counts.push(requests(sum));
        failed.push(errors(sum));
        p50.push(times.quantile(0.5));
        p99.push(times.quantile(0.99));
    });
    json!({"requests": counts, "errors": failed, "p50_us": p50, "p99_us": p99})
}

/// What people mean by how long it takes: what this edge measured; of an application that is asked elsewhere only, its own time.
fn whole(sum: &Sum) -> &Snapshot {
    let total = &sum.times[Part::Total as usize];
    if total.is_empty() { &sum.times[Part::Application as usize] } else { total }
}

/// Requests that this edge served; if it was another edge that did, those.
fn counts(sum: &Sum) -> &[u64; 6] {
    if sum.served == [0; 6] { &sum.reported } else { &sum.served }
}

fn requests(sum: &Sum) -> u64 {
    counts(sum).iter().sum()
}

/// Answered with 5xx, or not at all.
fn errors(sum: &Sum) -> u64 {
    counts(sum)[5]
}

pub(super) fn show(window: &Window) -> Value {
    let Window { seconds, sum } = window;
    let count = requests(sum);
    let mut shown = Map::new();
    shown.insert("seconds".into(), json!(seconds));
    shown.insert("requests".into(), json!(count));
    shown.insert("rate".into(), json!((count as f64 / *seconds as f64 * 100.0).round() / 100.0));
    shown.insert("errors".into(), json!(errors(sum)));
    shown.insert("served".into(), classes(&sum.served));
    shown.insert("reported".into(), classes(&sum.reported));
    for (part, times) in Part::ALL.iter().zip(&sum.times) {
        shown.insert(part.name().into(), percentiles(times));
    }
    Value::Object(shown)
}

fn classes(counts: &[u64; 6]) -> Value {
    let names = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
    Value::Object(names.iter().zip(counts).map(|(name, count)| ((*name).to_owned(), json!(count))).collect())
}

fn percentiles(times: &Snapshot) -> Value {
    if times.is_empty() {
        return Value::Null;
    }
    json!({
        "count": times.count(),
        "mean_us": times.sum() / times.count().max(1),
        "p50_us": times.quantile(0.5),
        "p90_us": times.quantile(0.9),
        "p99_us": times.quantile(0.99),
        "p999_us": times.quantile(0.999),
    })
}
