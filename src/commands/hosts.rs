//! `steady hosts` and `steady events`: the machines, and what happened on them.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Out, document, list};
use crate::cli::{EventsArgs, HostsArgs, HostsCommand};
use crate::client::{Client, Method, Request};
use crate::error::Error;
use crate::show;

/// Between two questions of `events -f`.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);
/// Events of one answer while they are followed: the most that the API gives at once.
const FOLLOW_MOST: usize = 1_000;

pub async fn hosts(client: &Client, out: Out, args: &HostsArgs) -> Result<(), Error> {
    match &args.command {
        None => list_hosts(client, out).await,
        Some(HostsCommand::Rm { name }) => {
            client.send(Request::new(Method::DELETE, &host_path(name)?)).await?;
            if out.json {
                return document(&json!({"removed": name}));
            }
            show::line(&format!("{} is removed; should it come back, it registers anew", out.style.strong(name)))
        }
    }
}

async fn list_hosts(client: &Client, out: Out) -> Result<(), Error> {
    let hosts = list(client, "hosts").await?;
    if out.json {
        return document(&json!({ "hosts": hosts }));
    }
    if hosts.is_empty() {
        return show::line("No hosts: start an agent with [join] (steady join-token makes the token that it needs)");
    }
    let rows: Vec<Vec<String>> = hosts
        .iter()
        .map(|host| {
            let seen = host.get("last_seen_ms").and_then(Value::as_f64);
            let seen = seen.map(|ms| format!("{} ago", show::duration(Duration::from_millis(ms.max(0.0) as u64))));
            let capacity = host.get("capacity").unwrap_or(&Value::Null);
            let apps = match show::number(capacity, "apps_max") {
                0 => show::cell(host.get("apps")),
                most => format!("{} of {most}", show::cell(host.get("apps"))),
            };
            vec![
                show::cell(host.get("name")),
                show::cell(host.get("state")),
                show::cell(host.get("zone")),
                apps,
                show::capacity(capacity),
                show::cell(host.get("addr")),
                show::cell(host.get("version")),
                seen.unwrap_or_else(|| "never".to_owned()),
            ]
        })
        .collect();
    let head = ["NAME", "STATE", "ZONE", "APPS", "CAPACITY", "ADDRESS", "VERSION", "SEEN"];
    show::line(&show::table(&head, &rows, out.style))
}

/// The path of a host. The name is checked first, so that it cannot become another path.
pub fn host_path(host: &str) -> Result<String, Error> {
    let is_name = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    if is_name && host != "." && host != ".." {
        return Ok(format!("/v1/hosts/{host}"));
    }
    Err(Error::Usage(format!("`{host}` cannot be a host's name; `steady hosts` lists them")))
}

pub async fn events(client: &Client, out: Out, args: &EventsArgs) -> Result<(), Error> {
    let mut seen = None;
    // The newest come first; they are shown as they happened.
    let mut batch: VecDeque<Value> = ask(client, args, &[("limit", args.lines.max(1).to_string())]).await?.into();
    if args.lines == 0 {
        // Only what comes from now on.
        seen = batch.pop_front().and_then(|newest| newest.get("number").and_then(Value::as_u64));
    }
    batch.make_contiguous().reverse();
    if batch.is_empty() && seen.is_none() && !args.follow && !out.json {
        return show::line(
            "Nothing has happened yet. Hosts tell when an application starts, is ready, crashes or drains.",
        );
    }
    loop {
        for event in &batch {
            show::line(&if out.json { event.to_string() } else { told(event, out) })?;
            seen = seen.max(event.get("number").and_then(Value::as_u64));
        }
        if !args.follow {
            return Ok(());
        }
        if batch.len() < FOLLOW_MOST {
            tokio::time::sleep(FOLLOW_EVERY).await;
        }
        let after = seen.unwrap_or(0).to_string();
        batch = ask(client, args, &[("after", after), ("limit", FOLLOW_MOST.to_string())]).await?.into();
    }
}

async fn ask(client: &Client, args: &EventsArgs, query: &[(&str, String)]) -> Result<Vec<Value>, Error> {
    let mut query = query.to_vec();
    for (name, value) in [("app", &args.name), ("host", &args.host)] {
        query.extend(value.iter().map(|value| (name, value.clone())));
    }
    let mut answer = client.document(Request::new(Method::GET, "/v1/events").query(&query)).await?;
    match answer.get_mut("events").map(Value::take) {
        Some(Value::Array(events)) => Ok(events),
        _ => Err(Error::Failed("the edge's answer to /v1/events has no list of events".to_owned())),
    }
}

/// An event on a line, and a process's last words below.
fn told(event: &Value, out: Out) -> String {
    let text = |name: &str| show::cell(event.get(name));
    let what = text("event");
    let padded = format!("{what:<8}");
    let painted = match what.as_str() {
        "crashed" => out.style.bad(&padded),
        "ready" => out.style.good(&padded),
        _ => padded,
    };
    let mut line = format!(
        "{}  {:<6} {painted} {}  version {}, generation {}",
        out.style.faint(&text("at")),
        text("host"),
        out.style.strong(&text("app")),
        text("version"),
        text("generation")
    );
    if let Some(reason) = event.get("reason").and_then(Value::as_str) {
        line.push_str(&format!(": {reason}"));
    }
    match show::number(event, "cut") {
        0 => {}
        cut => line.push_str(&format!(", {cut} requests cut")),
    }
    for printed in event.get("output").and_then(Value::as_str).unwrap_or_default().lines() {
        line.push_str(&format!("\n    {}", out.style.faint(printed)));
    }
    line
}
