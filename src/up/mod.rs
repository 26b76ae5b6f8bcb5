//! `steady up`: a whole system on this machine, behaving as in production: one edge and its hosts, each a process of its own.
//!
//! The order: hold the directory and end what a killed `up` left; certificates; the edge; a join token for hosts that have not
//! joined; hosts, which the edge is then told of; the samples and what was deployed earlier ([`apps`]); then `up.json`. Ports left to the system (0) are fixed after the first start, so that a
//! daemon that dies comes back where it was. [`system`] keeps the daemons running; stopping goes the other way round: the edge
//! drains first, while the hosts still answer.

mod apps;
mod bun;
mod certs;
mod child;
mod config;
mod place;
mod rotate;
mod samples;
mod say;
mod system;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::UpArgs;
use crate::client::Client;
use crate::commands;
use crate::error::Error;
use crate::up::apps::Runtime;
use crate::up::bun::Bun;
use crate::up::config::Host;
use crate::up::place::Place;
use crate::up::samples::SAMPLES;
use crate::up::say::Say;
use crate::up::system::System;

/// From the edge's listening to its having a store, a table and its hosts: moments, unless a killed move is being resumed.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(30);
/// The hosts join at once, or something is wrong.
const JOIN_TOKEN_TTL: Duration = Duration::from_secs(300);
const CONTROL_POLL: Duration = Duration::from_millis(20);

/// Runs until it is told to stop.
pub fn run(dir: &Path, args: &UpArgs, json: bool) -> Result<(), Error> {
    // One thread: children end with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Failed(format!("cannot start a runtime: {error}")))?;
    runtime.block_on(async {
        let mut stop = Stop::new()?;
        let say = Say::new(json);
        let place = Place::hold(dir)?;
        let left = place.end_leftovers()?;
        if !left.is_empty() {
            say.done("leftovers", &format!("ended what a killed `up` had left: {}", left.join(", ")), None);
        }
        let mut system = System::new(place, args.clone(), say)?;
        let result = tokio::select! {
            result = serve(&mut system, dir) => result,
            () = stop.asked() => Ok(()),
        };
        tokio::select! {
            () = system.stop() => {}
            () = stop.asked() => system.kill().await,
        }
        result
    })
}

/// Brings everything up and keeps it up; returns only when something fails before the system is ready.
async fn serve(system: &mut System, dir: &Path) -> Result<(), Error> {
    let began = Instant::now();
    let say = system.say;
    say.title(&format!("steady {} in {}", env!("CARGO_PKG_VERSION"), dir.display()));
    let state = system.dir().to_owned();
    let sample_names: Vec<&str> = SAMPLES.iter().map(|sample| sample.name).collect();
    let names = certs::names(&config::DOMAINS, &sample_names);
    let certs = certs::ensure(&state, &names, OffsetDateTime::now_utc())?;
    let kind = if certs.new_ca { "a new local authority" } else { "the local authority" };
    say.done("certificates", &format!("{kind}: {}", say::short(&certs.ca)), None);

    let bun = Bun::look(&state).await;
    let private = system.start_edge().await?;
    let client = Client::of_own_edge(&private, &system.token_file(), &system.private_ca(), dir)?;
    control_side_answers(&client).await?;
    if system.needs_join_token() {
        let hosts = u32::from(system.host_count());
        let made = commands::make_join_token(&client, JOIN_TOKEN_TTL, hosts, None).await?;
        let token = crate::show::cell(made.get("token"));
        place::write_aside_mode(&system.join_token_file(), token.as_bytes(), 0o600)?;
    }
    system.start_hosts(&bun.path()).await?;
    edge_knows_its_hosts(&client, system).await?;
    // It has done its work; nobody should find it lying about.
    let _ = std::fs::remove_file(system.join_token_file());
    let bun = have_bun(&state, bun, say).await;
    let apps = apps::bring_up(&client, &state, &bun, system).await?;
    let ca = certs.ca.clone();
    system.announce(&ca, apps.clone())?;
    if say.json {
        println!("{}", system.up_json());
    } else {
        say.ready(began.elapsed(), &commands_to_try(system, &apps));
    }
    system.keep().await
}

/// Waits until the edge's control side is there (it serves from the last good table before) and has met every host: only
/// then can something be deployed.
async fn edge_knows_its_hosts(client: &Client, system: &System) -> Result<(), Error> {
    let deadline = Instant::now() + CONTROL_TIMEOUT;
    loop {
        let missing = match commands::list(client, "hosts").await {
            Ok(hosts) => {
                let up: Vec<&Value> =
                    hosts.iter().filter(|host| host.get("state").and_then(Value::as_str) == Some("up")).collect();
                let is_up = |host: &Host| {
                    let addr = host.addr.to_string();
                    let found = up.iter().find(|up| up.get("name").and_then(Value::as_str) == Some(&host.name));
                    found.is_some_and(|up| up.get("addr").and_then(Value::as_str) == Some(&addr))
                };
                let names: Vec<&str> = system.hosts().filter(|host| !is_up(host)).map(|host| &*host.name).collect();
                if names.is_empty() {
                    return Ok(());
                }
                format!("the edge does not reach {}", names.join(", "))
            }
            Err(error) => error.to_string(),
        };
        if Instant::now() > deadline {
            return Err(Error::Failed(format!("{missing} (waited {} s)", CONTROL_TIMEOUT.as_secs())));
        }
        tokio::time::sleep(CONTROL_POLL).await;
    }
}

/// Waits until the edge's store is open: before that it makes no token and reads no configuration again.
async fn control_side_answers(client: &Client) -> Result<(), Error> {
    let deadline = Instant::now() + CONTROL_TIMEOUT;
    loop {
        match commands::list(client, "hosts").await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => tokio::time::sleep(CONTROL_POLL).await,
        }
    }
}

/// Bun as applications need it, or why there is none.
async fn have_bun(state: &Path, bun: Bun, say: Say) -> Result<Runtime, String> {
    match bun {
        Bun::Found { path, version } => {
            say.done("bun", &format!("{version}, {}", say::short(&path)), None);
            Ok(Runtime::WasThere)
        }
        Bun::Missing => {
            Err("needs Bun, and there is neither bun nor npm on PATH.\n    Install Bun (https://bun.sh), or \
                             npm, which fetches it, then start again"
                .to_owned())
        }
        Bun::Fetchable { path } => {
            let began = Instant::now();
            say.doing("bun", &format!("not on PATH: npm fetches it into {} (once)", say::short(&state.join("bun"))));
            let version = bun::fetch(state).await.map_err(|error| format!("needs Bun: {error}"))?;
            say.done("bun", &format!("{version}, {}", say::short(&path)), Some(began.elapsed()));
            Ok(Runtime::Fetched)
        }
    }
}

/// A curl, a deploy and a move, to copy.
fn commands_to_try(system: &System, apps: &[String]) -> Vec<String> {
    let steady = say::program(system.dir());
    let example = |name: &str| {
        let here = Path::new("examples").join(name);
        if here.is_dir() { here.display().to_string() } else { say::short(&system.dir().join("examples").join(name)) }
    };
    let app = apps.iter().find(|app| *app == "hello").or(apps.first()).map_or("hello", String::as_str);
    let source = if app == "clock" { example("clock") } else { example("hello") };
    let port = system.edge().http.port();
    let mut lines =
        vec![format!("curl http://{app}.localhost:{port}/"), format!("{steady} deploy {source} --name mine")];
    match system.other_host(app) {
        Some(host) => lines.push(format!("{steady} move {app} --to {host}")),
        None => lines.push(format!("{steady} logs {app} -f")),
    }
    lines
}

/// Ctrl-C, or a polite kill.
#[derive(Debug)]
struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Stop {
    fn new() -> Result<Stop, Error> {
        let on = |kind| signal(kind).map_err(|error| Error::Failed(format!("cannot listen for signals: {error}")));
        Ok(Stop {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hangup: on(SignalKind::hangup())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// What `DIR/up.json` says.
fn up_json(system: &System, ca: &Path, apps: &[String]) -> Value {
    let edge = system.edge();
    let hosts: Vec<Value> = system.hosts().map(|host| json!({"name": host.name, "addr": host.addr})).collect();
    let (edge_pid, agent_pids) = system.pids();
    json!({
        "http": edge.http,
        "https": edge.https,
        "private": edge.private,
        "token_file": system.token_file(),
        "private_ca": system.private_ca(),
        "ca": ca,
        "domains": config::DOMAINS,
        "hosts": hosts,
        "apps": apps,
        "pids": {"edge": edge_pid, "agents": agent_pids},
    })
}
