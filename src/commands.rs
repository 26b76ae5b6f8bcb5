//! The commands that are clients of the private API: ask, show, and nothing else.

mod hosts;
mod watch;

use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::{Command, DeployArgs, JoinTokenArgs, LogsArgs, MoveArgs, Reach, RmArgs};
use crate::client::{Client, Done, Method, Request};
use crate::error::Error;
use crate::pack::{self, Packed};
use crate::show::{self, Style};
use crate::top;

/// Runs one command to its end.
pub fn run(reach: &Reach, json: bool, command: Command) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Failed(format!("cannot start a runtime: {error}")))?;
    let out = Out { json, style: Style::of(&io::stdout()) };
    runtime.block_on(async {
        match command {
            Command::Deploy(args) => deploy(reach, out, &args).await,
            Command::Apps => apps(&Client::reach(reach)?, out).await,
            Command::Hosts(args) => hosts::hosts(&Client::reach(reach)?, out, &args).await,
            Command::Events(args) => hosts::events(&Client::reach(reach)?, out, &args).await,
            Command::Logs(args) => logs(&Client::reach(reach)?, out, &args).await,
            Command::Move(args) => move_app(&Client::reach(reach)?, out, &args).await,
            Command::Requests(args) => watch::requests(&Client::reach(reach)?, out, &args).await,
            Command::Trace(args) => watch::trace(&Client::reach(reach)?, out, &args).await,
            Command::Rm(args) => rm(&Client::reach(reach)?, out, &args).await,
            Command::JoinToken(args) => join_token(&Client::reach(reach)?, out, &args).await,
            Command::Status => status(&Client::reach(reach)?, out).await,
            Command::Top(args) => top::run(&Client::reach(reach)?, out, &args).await,
            Command::Up(_) | Command::Lb(_) | Command::Agent(_) => {
                Err(Error::Failed("a daemon is not a client of the private API".to_owned()))
            }
        }
    })
}

/// How the answer is shown.
#[derive(Clone, Copy, Debug)]
pub struct Out {
    pub json: bool,
    pub style: Style,
}

async fn deploy(reach: &Reach, out: Out, args: &DeployArgs) -> Result<(), Error> {
    let packed = pack::pack(&args.path, args.name.as_deref())?;
    let client = Client::reach(reach)?;
    if !out.json {
        let size = bytes(packed.archive.len());
        let files = if packed.files == 1 { "1 file".to_owned() } else { format!("{} files", packed.files) };
        show::line(&format!("Deploying {} ({files}, {size} packed)", out.style.strong(&packed.name)))?;
    }
    let name = packed.name.clone();
    let done = send_deploy(&client, packed, args.host.as_deref(), |value| show_step(out, value)).await?;
    if out.json {
        return Ok(());
    }
    let host = show::cell(done.app.get("hosts"));
    show::line(&format!("{} runs on {host}{}", out.style.strong(&name), took(&done)))?;
    for url in urls(&done.app) {
        show::line(&format!("  {url}"))?;
    }
    Ok(())
}

/// The deployment itself; `up` uses it for its samples.
pub async fn send_deploy(
    client: &Client,
    packed: Packed,
    host: Option<&str>,
    each: impl FnMut(&Value) -> Result<(), Error>,
) -> Result<Done, Error> {
    let mut request = Request::new(Method::PUT, &format!("/v1/apps/{}", packed.name));
    if let Some(host) = host {
        request = request.query(&[("host", host)]);
    }
    client.steps(request.body("application/gzip", packed.archive), each).await
}

async fn move_app(client: &Client, out: Out, args: &MoveArgs) -> Result<(), Error> {
    let mut body = json!({"to": args.to});
    if args.force {
        body["force"] = true.into();
    }
    let request = Request::new(Method::POST, &format!("{}/move", app_path(&args.name)?)).json(&body);
    if !out.json {
        show::line(&format!("Moving {} to {}", out.style.strong(&args.name), args.to))?;
    }
    let done = client.steps(request, |value| show_step(out, value)).await?;
    if out.json {
        return Ok(());
    }
    show::line(&format!("{} runs on {}{}", out.style.strong(&args.name), args.to, took(&done)))
}

async fn rm(client: &Client, out: Out, args: &RmArgs) -> Result<(), Error> {
    let request = Request::new(Method::DELETE, &app_path(&args.name)?);
    let done = client.steps(request, |value| show_step(out, value)).await?;
    if out.json {
        return Ok(());
    }
    show::line(&format!("{} is removed{}", out.style.strong(&args.name), took(&done)))
}

async fn apps(client: &Client, out: Out) -> Result<(), Error> {
    let apps = list(client, "apps").await?;
    if out.json {
        return document(&json!({ "apps": apps }));
    }
    if apps.is_empty() {
        return show::line("No applications yet. Deploy one: steady deploy PATH --name NAME");
    }
    let rows: Vec<Vec<String>> = apps
        .iter()
        .map(|app| {
            let first_url = urls(app).into_iter().next().unwrap_or_else(|| "-".to_owned());
            vec![
                show::cell(app.get("name")),
                show::cell(app.get("state")),
                place(app),
                show::cell(app.get("generation")),
                show::cell(app.get("version")),
                first_url,
            ]
        })
        .collect();
    show::line(&show::table(&["NAME", "STATE", "HOST", "GENERATION", "VERSION", "URL"], &rows, out.style))
}

async fn join_token(client: &Client, out: Out, args: &JoinTokenArgs) -> Result<(), Error> {
    if let Some(id) = &args.revoke {
        if !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Error::Usage(format!(
                "{id:?} is no id of a join token; `steady join-token --list` shows them"
            )));
        }
        client.send(Request::new(Method::DELETE, &format!("/v1/join-tokens/{id}"))).await?;
        return if out.json { document(&json!({"revoked": id})) } else { show::line(&format!("{id} is revoked")) };
    }
    if args.list {
        let listed = client.json("/v1/join-tokens").await?;
        let tokens = listed.get("tokens").and_then(Value::as_array).cloned().unwrap_or_default();
        if out.json {
            return document(&listed);
        }
        if tokens.is_empty() {
            return show::line("No join token is good now. Make one: steady join-token");
        }
        let row = |token: &Value| ["id", "host", "uses_left", "until"].map(|key| show::cell(token.get(key))).to_vec();
        let rows: Vec<Vec<String>> = tokens.iter().map(row).collect();
        return show::line(&show::table(&["ID", "HOST", "USES LEFT", "UNTIL"], &rows, out.style));
    }
    let made = make_join_token(client, args.ttl, args.uses, args.host.as_deref()).await?;
    if out.json {
        return document(&made);
    }
    // The token alone, so that it can be sent to a file.
    show::line(&show::cell(made.get("token")))
}

/// A join token as the edge describes it; `up` uses it for its own hosts.
pub async fn make_join_token(client: &Client, ttl: Duration, uses: u32, host: Option<&str>) -> Result<Value, Error> {
    let asked = json!({"ttl_s": ttl.as_secs(), "uses": uses, "host": host});
    client.document(Request::new(Method::POST, "/v1/join-tokens").json(&asked)).await
}

async fn logs(client: &Client, out: Out, args: &LogsArgs) -> Result<(), Error> {
    let follow = if args.follow { "true" } else { "false" };
    let request = Request::new(Method::GET, &format!("{}/logs", app_path(&args.name)?))
        .query(&[("lines", args.lines.to_string().as_str()), ("follow", follow)]);
    let mut response = client.send(request).await?;
    let mut pending = Vec::new();
    loop {
        // A reader that leaves is noticed at the next write; the edge's end of a followed log ends the command.
        let Some(chunk) = response.chunk().await.map_err(|broken| client.broken(broken))? else { break };
        if !out.json {
            show::raw(&chunk)?;
            continue;
        }
        pending.extend_from_slice(&chunk);
        while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            log_line(&line[..end])?;
        }
    }
    if pending.is_empty() { Ok(()) } else { log_line(&pending) }
}

fn log_line(line: &[u8]) -> Result<(), Error> {
    show::line(&json!({"line": String::from_utf8_lossy(line)}).to_string())
}

async fn status(client: &Client, out: Out) -> Result<(), Error> {
    let status = client.json("/v1/status").await?;
    if out.json {
        return document(&status);
    }
    let fields =
        status.as_object().ok_or_else(|| Error::Failed("the edge's status is not a JSON object".to_owned()))?;
    let width = fields.keys().map(|key| key.chars().count()).max().unwrap_or(0);
    for (key, value) in fields {
        let text = match (key.as_str(), value) {
            ("uptime_s", value) => value.as_f64().map(|s| show::duration(Duration::from_secs(s.max(0.0) as u64))),
            ("uptime_ms", value) => value.as_f64().map(|ms| show::duration(Duration::from_millis(ms.max(0.0) as u64))),
            ("listeners", Value::Array(listeners)) => {
                Some(listeners.iter().map(listener).collect::<Vec<_>>().join(", "))
            }
            _ => None,
        };
        let text = text.unwrap_or_else(|| show::cell(Some(value)));
        let label = format!("{:width$}", key.trim_end_matches("_ms").trim_end_matches("_s"));
        show::line(&format!("{}  {text}", out.style.faint(&label)))?;
    }
    Ok(())
}

fn listener(value: &Value) -> String {
    let addr = show::cell(value.get("addr"));
    match value.get("tls").and_then(Value::as_bool) {
        Some(true) => format!("{addr} (tls)"),
        _ => addr,
    }
}

/// A collection of the API: `{"apps": […]}`.
pub async fn list(client: &Client, what: &str) -> Result<Vec<Value>, Error> {
    match client.json(&format!("/v1/{what}")).await? {
        Value::Array(values) => Ok(values),
        Value::Object(mut object) => match object.remove(what) {
            Some(Value::Array(values)) => Ok(values),
            _ => Err(Error::Failed(format!("the edge's answer to /v1/{what} has no list of {what}"))),
        },
        _ => Err(Error::Failed(format!("the edge's answer to /v1/{what} is not a list"))),
    }
}

/// The path of an application. The name is checked first, so that it cannot become another path.
fn app_path(name: &str) -> Result<String, Error> {
    pack::check_name(name)?;
    Ok(format!("/v1/apps/{name}"))
}

fn place(app: &Value) -> String {
    let hosts = show::cell(app.get("hosts"));
    match app.get("moving").and_then(|moving| moving.get("to")).and_then(Value::as_str) {
        Some(to) => format!("{hosts} → {to}"),
        None => hosts,
    }
}

fn urls(app: &Value) -> Vec<String> {
    let urls = app.get("urls").and_then(Value::as_array);
    urls.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn took(done: &Done) -> String {
    done.ms.map(|ms| format!(", {}", show::duration(Duration::from_secs_f64(ms.max(0.0) / 1e3)))).unwrap_or_default()
}

fn show_step(out: Out, value: &Value) -> Result<(), Error> {
    if out.json {
        return show::line(&value.to_string());
    }
    show::step(value, out.style).map_or(Ok(()), |text| show::line(&text))
}

pub fn document(value: &Value) -> Result<(), Error> {
    show::line(&format!("{value:#}"))
}

pub fn bytes(count: usize) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{:.1} KiB", count as f64 / 1024.0),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}
