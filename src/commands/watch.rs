//! `steady requests` and `steady trace`: what is under way, and a close look at what comes.

use std::time::Duration;

use serde_json::{Value, json};

use super::hosts::host_path;
use super::{Out, bytes, document};
use crate::cli::{RequestsArgs, TraceArgs};
use crate::client::{Client, Lines, Method, Request, encoded};
use crate::error::Error;
use crate::pack;
use crate::show;

pub async fn requests(client: &Client, out: Out, args: &RequestsArgs) -> Result<(), Error> {
    if let Some(id) = &args.cut {
        return cut(client, out, args, id).await;
    }
    let mut query = vec![("limit", args.limit.to_string())];
    for (name, value) in [("app", &args.name), ("host", &args.host), ("older", &args.older)] {
        query.extend(value.iter().map(|value| (name, value.clone())));
    }
    let path = format!("{}/exchanges", at(args.at.as_deref())?);
    let answer = client.document(Request::new(Method::GET, &path).query(&query)).await?;
    if out.json {
        return document(&answer);
    }
    let rows: Vec<Vec<String>> =
        answer.get("exchanges").and_then(Value::as_array).into_iter().flatten().map(row).collect();
    let found = answer.get("found").and_then(Value::as_u64).unwrap_or(0) as usize;
    if rows.is_empty() {
        show::line("Nothing is under way.")?;
    } else {
        let head = ["ID", "APP", "HOST", "STATE", "STATUS", "AGE", "IN", "OUT", "CLIENT", "REQUEST"];
        show::line(&show::table(&head, &rows, out.style))?;
    }
    if found > rows.len() {
        show::line(&format!("{} more; --limit shows them", found - rows.len()))?;
    }
    if answer.get("complete").and_then(Value::as_bool) == Some(false) {
        show::line("A worker did not answer in time: this is not all.")?;
    }
    Ok(())
}

fn row(exchange: &Value) -> Vec<String> {
    let text = |name: &str| show::cell(exchange.get(name));
    let number = |name: &str| exchange.get(name).and_then(Value::as_u64).unwrap_or(0);
    let host = if exchange.get("host").is_some_and(Value::is_string) { text("host") } else { text("upstream") };
    let status = number("status");
    vec![
        text("id"),
        text("app"),
        host,
        text("state"),
        if status == 0 { "-".to_owned() } else { status.to_string() },
        show::duration(Duration::from_millis(number("age_ms"))),
        bytes(number("request_bytes") as usize),
        bytes(number("response_bytes") as usize),
        text("client"),
        format!("{} {}", text("method"), text("path")),
    ]
}

async fn cut(client: &Client, out: Out, args: &RequestsArgs, id: &str) -> Result<(), Error> {
    // An id of a trusted proxy may have anything in it, so that it is encoded as a segment of the path.
    let path = format!("{}/exchanges/{}", at(args.at.as_deref())?, encoded(id));
    let answer = client.document(Request::new(Method::DELETE, &path)).await?;
    if out.json {
        return document(&answer);
    }
    let count = answer.get("cut").and_then(Value::as_u64).unwrap_or(0);
    show::line(&format!("{count} cut"))
}

pub async fn trace(client: &Client, out: Out, args: &TraceArgs) -> Result<(), Error> {
    pack::check_name(&args.name)?;
    let mut body = json!({"app": args.name, "for": args.time, "requests": args.requests});
    if let Some(id) = &args.id {
        body["id"] = id.as_str().into();
    }
    if let Some(client) = &args.client {
        body["client"] = client.to_string().into();
    }
    let path = format!("{}/trace", at(args.at.as_deref())?);
    let mut lines = Lines::of(client.send(Request::new(Method::POST, &path).json(&body)).await?);
    if !out.json {
        let name = out.style.strong(&args.name);
        show::line(&format!("Following {name}: at most {} requests within {}", args.requests, args.time))?;
    }
    while let Some(line) = lines.next(client).await? {
        if out.json {
            show::line(&line)?;
            continue;
        }
        let value: Value = serde_json::from_str(&line)
            .map_err(|_| Error::Failed(format!("the edge answered a line that is not JSON: {line}")))?;
        if value.get("done").is_some() {
            let number = |name: &str| value.get(name).and_then(Value::as_u64).unwrap_or(0);
            let lost = match number("dropped") {
                0 => String::new(),
                lost => format!("; {lost} more came too fast to be shown"),
            };
            show::line(&format!("{} requests{lost}", number("requests")))?;
        } else {
            show::line(&story(&value, out))?;
        }
    }
    Ok(())
}

/// A request on a line of its own, and what happened to it below.
fn story(value: &Value, out: Out) -> String {
    let text = |name: &str| show::cell(value.get(name));
    let us = |value: Option<&Value>| show::duration(Duration::from_micros(value.and_then(Value::as_u64).unwrap_or(0)));
    let status = match value.get("status").and_then(Value::as_u64) {
        None | Some(0) => "no answer".to_owned(),
        Some(status) => status.to_string(),
    };
    let head = format!(
        "{} {}{}  {status} {}  {}",
        text("method"),
        text("authority"),
        text("path"),
        text("outcome"),
        us(value.get("total_us"))
    );
    let mut lines = vec![format!("{}  {}", out.style.strong(&head), out.style.faint(&text("id")))];
    for event in value.get("events").and_then(Value::as_array).into_iter().flatten() {
        let mut line = format!("  {:>8}  {:<13}", us(event.get("at_us")), show::cell(event.get("what")));
        for (name, value) in event.as_object().into_iter().flatten() {
            match name.as_str() {
                "at_us" | "what" => {}
                "fields" => line.push_str(&format!(" [{}]", show::cell(Some(value)))),
                "waited_us" => line.push_str(&format!(" after {}", us(Some(value)))),
                "at_most_ms" => line.push_str(&format!(" at most {} ms", show::cell(Some(value)))),
                _ => line.push_str(&format!(" {}", show::cell(Some(value)))),
            }
        }
        lines.push(line.trim_end().to_owned());
    }
    let parts = [
        ("queue", "queue_us"),
        ("connect", "connect_us"),
        ("upstream", "upstream_us"),
        ("application", "application_us"),
        ("streaming", "streaming_us"),
        ("own", "own_us"),
    ];
    let parts = parts.iter().filter(|(_, key)| value.get(*key).is_some());
    let parts: Vec<String> = parts.map(|(name, key)| format!("{name} {}", us(value.get(*key)))).collect();
    lines.push(out.style.faint(&format!("  {}", parts.join(", "))));
    lines.join("\n")
}

/// The API of the edge, or of a host's agent through it.
fn at(host: Option<&str>) -> Result<String, Error> {
    let Some(host) = host else { return Ok("/v1".to_owned()) };
    host_path(host)
}
