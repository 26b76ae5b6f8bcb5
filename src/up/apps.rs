//! The applications of a system that begins: the samples are deployed once, what was deployed earlier starts by itself, and a check
//! mark stands only beside what answers.
//!
//! Hosts start their applications before Bun has been fetched, so that those that need none serve meanwhile. One whose program
//! is not there is not tried again by itself; hence all that had failed by then are started again.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::{Client, Method, Request};
use crate::commands;
use crate::error::Error;
use crate::up::samples::{Needs, SAMPLES, Sample};
use crate::up::system::System;

/// An application that has not answered by then is told of as one that does not; it goes on starting.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// One that ends each time it starts is told of after so many restarts; it is started again for ever, later and later.
const RESTARTS_TOLD: u64 = 2;
const ANSWER_POLL: Duration = Duration::from_millis(20);

/// How Bun came to be here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    WasThere,
    /// After the hosts had started what they have.
    Fetched,
}

/// Deploys the samples that are not there yet and waits for all applications, telling of each. The names of all.
pub async fn bring_up(
    client: &Client,
    state: &Path,
    bun: &Result<Runtime, String>,
    system: &System,
) -> Result<Vec<String>, Error> {
    let earlier = commands::list(client, "apps").await?;
    if *bun == Ok(Runtime::Fetched) {
        start_failed_again(client, &earlier).await;
    }
    let began = Instant::now();
    for (index, sample) in SAMPLES.iter().enumerate() {
        if earlier.iter().any(|app| name_of(app) == sample.name) {
            sample.unpack(state)?;
        } else if let Err(error) = deploy_sample(client, state, sample, &system.host_name(index), bun, system).await {
            system.say.failed(sample.name, &error.to_string());
        }
    }
    for app in &earlier {
        match answers(client, name_of(app), began + ANSWER_TIMEOUT).await {
            Ok(app) => say_answers(system, &app, began),
            Err(error) => system.say.failed(name_of(app), &error.to_string()),
        }
    }
    let apps = commands::list(client, "apps").await?;
    Ok(apps.iter().map(|app| name_of(app).to_owned()).collect())
}

/// Deploying is done when the application answers.
async fn deploy_sample(
    client: &Client,
    state: &Path,
    sample: &Sample,
    host: &str,
    bun: &Result<Runtime, String>,
    system: &System,
) -> Result<(), Error> {
    let began = Instant::now();
    let packed = sample.pack(state)?;
    let lacks = match (sample.needs, bun) {
        (Needs::Bun, Err(why)) => Some(why.as_str()),
        _ => sample.lacks(),
    };
    if let Some(lacks) = lacks {
        return Err(Error::Failed(format!("skipped: {lacks}")));
    }
    let done = commands::send_deploy(client, packed, Some(host), |_: &Value| Ok(())).await?;
    say_answers(system, &done.app, began);
    Ok(())
}

/// Has those that could not be started begin anew. Whether they come up, and why not, shows when they are waited for.
async fn start_failed_again(client: &Client, apps: &[Value]) {
    for app in apps.iter().filter(|app| text(app, "state") == "failed") {
        let path = format!("/v1/hosts/{}/apps/{}/restart", host_of(app), name_of(app));
        let _ = client.send(Request::new(Method::POST, &path)).await;
    }
}

/// Waits until the application's host has had an answer from it; the application as it then is.
async fn answers(client: &Client, name: &str, deadline: Instant) -> Result<Value, Error> {
    loop {
        // Asked anew each time: a move that a killed system had begun is brought to its end meanwhile.
        let app = client.json(&format!("/v1/apps/{name}")).await?;
        if text(&app, "state") == "ready" {
            return Ok(app);
        }
        let host = host_of(&app);
        let there = client.json(&format!("/v1/hosts/{host}/apps/{name}")).await.unwrap_or_default();
        let state = text(&there, "state");
        let restarts = there.get("restarts").and_then(Value::as_u64).unwrap_or(0);
        let given_up = state == "failed" || (state == "crashed" && restarts >= RESTARTS_TOLD);
        if given_up || Instant::now() > deadline {
            let why = text(&there, "reason");
            let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
            return Err(Error::Failed(format!(
                "does not answer: {state} on {host}{why}; `steady logs {name}` tells more"
            )));
        }
        tokio::time::sleep(ANSWER_POLL).await;
    }
}

fn say_answers(system: &System, app: &Value, began: Instant) {
    let url = format!("http://{}.localhost:{}", name_of(app), system.edge().http.port());
    system.say.done(name_of(app), &format!("on {:<4} {url}", host_of(app)), Some(began.elapsed()));
}

fn name_of(app: &Value) -> &str {
    text(app, "name")
}

/// An application is on one host; while it moves, the first is where it comes from.
fn host_of(app: &Value) -> &str {
    app.get("hosts").and_then(Value::as_array).and_then(|hosts| hosts.first()?.as_str()).unwrap_or("-")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or("")
}
