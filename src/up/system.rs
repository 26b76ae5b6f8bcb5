//! The daemons of one `up`: started, kept running, stopped.
//!
//! A daemon that dies is started again at once, on the same ports and from its own state; one that keeps dying waits longer
//! each time. `children.json` and `up.json` always name the processes that run now.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use serde_json::Value;
use steady_sys::kin::Kin;
use tokio::task::JoinSet;

use crate::cli::UpArgs;
use crate::error::Error;
use crate::up::child::{self, Named, Ready, Running, Spec};
use crate::up::config::{self, Edge, Host, Join};
use crate::up::place::{Place, Recorded, make_private, write_aside};
use crate::up::say::Say;
use crate::up::{rotate, up_json};

/// The drain (`config::DRAIN`) and a little more; then SIGKILL.
const EDGE_STOP_TIMEOUT: Duration = Duration::from_secs(8);
/// Applications get their own SIGTERM and 5 s first.
const AGENTS_STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// The first restart is at once; from the second in a row on it waits this long, doubled each time, up to the maximum.
const RESTART_DELAY: Duration = Duration::from_millis(100);
const RESTART_DELAY_MAX: Duration = Duration::from_secs(10);
/// Having run for this long, a daemon's next end counts as its first again.
const STEADY_AFTER: Duration = Duration::from_secs(30);
/// Which of the daemons the edge is.
const EDGE: usize = 0;
/// Has the edge read its configuration again.
const SIGHUP: i32 = 1;
/// Between two looks at the size of the logs.
const ROTATE_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct System {
    pub say: Say,
    place: Place,
    args: UpArgs,
    program: PathBuf,
    edge: Edge,
    hosts: Vec<Host>,
    bun: PathBuf,
    /// The edge ([`EDGE`]), then the hosts in order.
    daemons: Vec<Daemon>,
    /// What `up.json` says besides what is known here; once announced.
    announced: Option<(PathBuf, Vec<String>)>,
    /// `children.json` or `up.json` could not be written: the disk may be full. They are written again.
    unwritten: bool,
    events: JoinSet<Event>,
}

#[derive(Debug)]
struct Daemon {
    spec: Spec,
    kin: Option<Kin>,
    since: Instant,
    /// Ends in a row, without a healthy run between.
    ends: u32,
    /// Handed to the task that waits for its end by [`System::keep`].
    running: Option<Running>,
}

#[derive(Debug)]
enum Event {
    Ended {
        daemon: usize,
        status: std::io::Result<ExitStatus>,
    },
    /// Time to start it again.
    Due {
        daemon: usize,
    },
    /// It says where it listens, or did not come up.
    Back {
        daemon: usize,
        running: Box<Running>,
        result: Result<Ready, Error>,
    },
}

impl System {
    pub fn new(place: Place, args: UpArgs, say: Say) -> Result<System, Error> {
        let program = std::env::current_exe()
            .map_err(|error| Error::Failed(format!("cannot find this program's own file: {error}")))?;
        let edge = Edge { http: args.http, https: args.https, private: args.private };
        Ok(System {
            say,
            place,
            args,
            program,
            edge,
            hosts: Vec::new(),
            bun: PathBuf::new(),
            daemons: Vec::new(),
            announced: None,
            unwritten: false,
            events: JoinSet::new(),
        })
    }

    pub fn dir(&self) -> &Path {
        self.place.dir()
    }

    pub fn edge(&self) -> Edge {
        self.edge
    }

    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter()
    }

    /// Samples are spread over the hosts in turn.
    pub fn host_name(&self, index: usize) -> String {
        self.hosts[index % self.hosts.len()].name.clone()
    }

    /// A host that a sample, placed by [`System::host_name`], is not on.
    pub fn other_host(&self, app: &str) -> Option<String> {
        let home = if app == "clock" { 1 } else { 0 };
        (self.hosts.len() > 1).then(|| self.host_name(home + 1))
    }

    pub fn token_file(&self) -> PathBuf {
        self.dir().join("lb/token")
    }

    /// The authority of the cluster, by which the private port is known.
    pub fn private_ca(&self) -> PathBuf {
        self.dir().join("lb/cluster/ca.pem")
    }

    /// Process numbers: the edge's, and each host's by name.
    pub fn pids(&self) -> (u32, BTreeMap<&str, u32>) {
        let pid = |daemon: &Daemon| daemon.kin.map_or(0, |kin| kin.pid);
        let (edge, agents): (Vec<&Daemon>, Vec<&Daemon>) =
            self.daemons.iter().partition(|daemon| daemon.spec.role == "lb");
        let agents = agents.into_iter().map(|daemon| (daemon.spec.name.as_str(), pid(daemon))).collect();
        (edge.first().map_or(0, |daemon| pid(daemon)), agents)
    }

    /// Starts the edge, which knows no host yet, and waits until it says where it listens; its private address.
    pub async fn start_edge(&mut self) -> Result<String, Error> {
        let began = Instant::now();
        let state_dir = self.dir().join("lb");
        make_private(&state_dir)?;
        self.write_config(EDGE)?;
        self.start(Spec { name: "edge".to_owned(), role: "lb", state_dir })?;
        let ready = self.first_ready(EDGE).await.map_err(|error| match error {
            Error::Failed(text) => Error::Failed(format!(
                "{text}\n  If an address is in use: --http 127.0.0.1:0 (and --https, --private) takes any that is free"
            )),
            other => other,
        })?;
        let on = |tls: bool| ready.listeners.iter().find(|listener| listener.tls == tls).map(|listener| listener.addr);
        self.edge = match (on(false), on(true), ready.private) {
            (Some(http), Some(https), Some(private)) => Edge { http, https, private },
            _ => return Err(incomplete(&self.daemons[EDGE].spec)),
        };
        self.write_config(EDGE)?;
        let Edge { http, https, private } = self.edge;
        self.say.done("edge", &format!("http {http} · https {https} · private {private}"), Some(began.elapsed()));
        Ok(private.to_string())
    }

    /// Whether some host has no certificate of the cluster yet.
    pub fn needs_join_token(&self) -> bool {
        let joined = |index: u16| self.dir().join(format!("h{index}")).join("identity.json").exists();
        !self.args.plain_hosts && !(1..=self.args.hosts).all(joined)
    }

    /// Where the hosts find the token that lets them join.
    pub fn join_token_file(&self) -> PathBuf {
        self.dir().join("join-token")
    }

    pub fn host_count(&self) -> u16 {
        self.args.hosts
    }

    /// Starts every host at once, waits until all say where they listen, and has the edge know them.
    pub async fn start_hosts(&mut self, bun: &Path) -> Result<(), Error> {
        self.bun = bun.to_owned();
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        let began = Instant::now();
        for index in 1..=self.args.hosts {
            let name = format!("h{index}");
            let state_dir = self.dir().join(&name);
            let token_file = self.args.plain_hosts.then(|| state_dir.join("token"));
            self.hosts.push(Host { name: name.clone(), addr: any, control: any, token_file });
            make_private(&state_dir)?;
            self.write_config(self.hosts.len())?;
            self.start(Spec { name, role: "agent", state_dir })?;
        }
        for index in 0..self.hosts.len() {
            let daemon = index + 1;
            let ready = self.first_ready(daemon).await?;
            let (data, control) = match (ready.data, ready.control) {
                (Some(data), Some(control)) => (data, control),
                _ => return Err(incomplete(&self.daemons[daemon].spec)),
            };
            self.hosts[index].addr = data;
            self.hosts[index].control = control;
            self.write_config(daemon)?;
            self.say.done(&format!("host {}", self.hosts[index].name), &data.to_string(), Some(began.elapsed()));
        }
        self.write_config(EDGE)?;
        if let Some(kin) = self.daemons[EDGE].kin
            && let Err(error) = kin.signal(SIGHUP)
        {
            return Err(Error::Failed(format!("the edge cannot be told of its hosts: {error}")));
        }
        Ok(())
    }

    /// Writes `up.json` for the first time: from now on it is kept current.
    pub fn announce(&mut self, ca: &Path, apps: Vec<String>) -> Result<(), Error> {
        self.announced = Some((ca.to_owned(), apps));
        self.write_up_json()
    }

    pub fn up_json(&self) -> Value {
        let (ca, apps) = self.announced.clone().unwrap_or_default();
        up_json(self, &ca, &apps)
    }

    /// Starts again what ends, for ever.
    pub async fn keep(&mut self) -> Result<(), Error> {
        for daemon in 0..self.daemons.len() {
            if let Some(running) = self.daemons[daemon].running.take() {
                self.watch(daemon, Box::new(running));
            }
        }
        let mut rotate = tokio::time::interval(ROTATE_EVERY);
        loop {
            tokio::select! {
                Some(event) = self.events.join_next() => {
                    let event = event.map_err(|error| Error::Failed(format!("a watcher ended: {error}")))?;
                    self.handle(event);
                }
                _ = rotate.tick() => {
                    self.bound_logs();
                    if self.unwritten {
                        self.write_down();
                    }
                }
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Ended { daemon, status } => {
                let how = status.map_or_else(|error| error.to_string(), child::describe);
                self.ended(daemon, &how);
            }
            Event::Due { daemon } => match self.daemons[daemon].spec.spawn(&self.program) {
                Ok(running) => {
                    let mut running = Box::new(running);
                    self.daemons[daemon].kin = Some(running.kin);
                    self.daemons[daemon].since = Instant::now();
                    self.write_down();
                    let spec = self.daemons[daemon].spec.clone();
                    self.events.spawn(async move {
                        let result = spec.ready(&mut running).await;
                        Event::Back { daemon, running, result }
                    });
                }
                Err(error) => self.ended(daemon, &error.to_string()),
            },
            Event::Back { daemon, running, result } => {
                let pid = running.kin.pid;
                match result {
                    Ok(_) => {
                        let name = self.daemons[daemon].spec.name.clone();
                        let took = self.daemons[daemon].since.elapsed();
                        self.write_down();
                        self.say.done(&name, &format!("is back, process {pid}"), Some(took));
                        self.watch(daemon, running);
                    }
                    Err(error) => {
                        self.say.failed(&self.daemons[daemon].spec.name, &error.to_string());
                        // Hung or dead: it makes room for the next one either way.
                        let _ = running.kin.signal(9);
                        self.watch(daemon, running);
                    }
                }
            }
        }
    }

    /// Writes down which processes run now. What cannot be written ends nothing: it is told once, and tried again.
    fn write_down(&mut self) {
        let written = self.record().and_then(|()| self.write_up_json());
        if let Err(error) = &written
            && !self.unwritten
        {
            self.say.failed("up", &format!("cannot write which processes run: {error}; it is tried again"));
        }
        self.unwritten = written.is_err();
    }

    /// Plans the next start of a daemon that is no more.
    fn ended(&mut self, daemon: usize, how: &str) {
        let it = &mut self.daemons[daemon];
        it.kin = None;
        it.ends = if it.since.elapsed() >= STEADY_AFTER { 1 } else { it.ends + 1 };
        let delay = restart_delay(it.ends);
        let when = if delay.is_zero() { "now".to_owned() } else { format!("in {}", crate::show::duration(delay)) };
        self.say.failed(&it.spec.name, &format!("ended ({how}); starting it again {when}"));
        self.events.spawn(async move {
            tokio::time::sleep(delay).await;
            Event::Due { daemon }
        });
    }

    fn watch(&mut self, daemon: usize, mut running: Box<Running>) {
        self.events.spawn(async move { Event::Ended { daemon, status: running.process.wait().await } });
    }

    /// Stops everything: the edge drains while the hosts still answer, then the hosts stop their applications.
    pub async fn stop(&mut self) {
        let _ = std::fs::remove_file(self.place.up_json());
        let (edge, agents) = self.alive();
        if edge.is_empty() && agents.is_empty() {
            return;
        }
        self.say.line("");
        let began = Instant::now();
        let killed = child::end(&edge, EDGE_STOP_TIMEOUT).await;
        self.say_ended("edge", "drained and stopped", &killed, began);
        let began = Instant::now();
        let killed = child::end(&agents, AGENTS_STOP_TIMEOUT).await;
        self.say_ended("hosts", "stopped, with their applications", &killed, began);
        let _ = self.place.record(&[]);
    }

    /// Ends everything at once: somebody pressed Ctrl-C twice.
    pub async fn kill(&mut self) {
        let (edge, agents) = self.alive();
        child::end(&[edge, agents].concat(), Duration::ZERO).await;
        let _ = self.place.record(&[]);
    }

    fn say_ended(&self, what: &str, well: &str, killed: &[String], began: Instant) {
        if killed.is_empty() {
            self.say.done(what, well, Some(began.elapsed()));
        } else {
            self.say.failed(what, &format!("had to be killed: {}", killed.join(", ")));
        }
    }

    /// The edge, if it runs, and the hosts that do.
    fn alive(&self) -> (Vec<Named>, Vec<Named>) {
        let named = self.daemons.iter().filter_map(|daemon| Some((daemon.spec.name.clone(), daemon.kin?)));
        named.partition(|(name, _)| name == "edge")
    }

    fn start(&mut self, spec: Spec) -> Result<(), Error> {
        let running = spec.spawn(&self.program)?;
        self.daemons.push(Daemon {
            spec,
            kin: Some(running.kin),
            since: Instant::now(),
            ends: 0,
            running: Some(running),
        });
        self.record()
    }

    async fn first_ready(&mut self, daemon: usize) -> Result<Ready, Error> {
        let Daemon { spec, running, .. } = &mut self.daemons[daemon];
        match running {
            Some(running) => spec.ready(running).await,
            None => Err(incomplete(spec)),
        }
    }

    fn record(&self) -> Result<(), Error> {
        let children: Vec<Recorded> =
            self.daemons.iter().filter_map(|daemon| Some(daemon.spec.recorded(daemon.kin?))).collect();
        self.place.record(&children)
    }

    fn write_up_json(&self) -> Result<(), Error> {
        if self.announced.is_none() {
            return Ok(());
        }
        write_aside(&self.place.up_json(), format!("{}\n", self.up_json()).as_bytes())
    }

    /// The configuration of a daemon by its index.
    fn write_config(&self, index: usize) -> Result<(), Error> {
        let dir = self.dir();
        let Some(host) = index.checked_sub(1).and_then(|index| self.hosts.get(index)) else {
            let state_dir = dir.join("lb");
            // The others register by themselves.
            let named = self.hosts.iter().filter(|host| host.token_file.is_some()).cloned().collect();
            let lb = config::Lb::new(dir, &state_dir, &self.args, self.edge, named);
            return config::write(&state_dir.join("lb.toml"), &lb);
        };
        let state_dir = dir.join(&host.name);
        let join = Join { edges: [self.edge.private], token_file: self.join_token_file() };
        let join = (!self.args.plain_hosts).then_some(join);
        let agent = config::Agent::new(&host.name, &state_dir, &self.args, host.addr, host.control, join, &self.bun);
        config::write(&state_dir.join("agent.toml"), &agent)
    }

    fn bound_logs(&self) {
        for daemon in &self.daemons {
            if let Some(kin) = daemon.kin
                && let Err(error) = rotate::bound(&daemon.spec, kin)
            {
                self.say.failed(&daemon.spec.name, &format!("cannot bound its logs: {error}"));
            }
        }
    }
}

fn restart_delay(ends: u32) -> Duration {
    match ends {
        0 | 1 => Duration::ZERO,
        n => (RESTART_DELAY * 2u32.saturating_pow(n - 2)).min(RESTART_DELAY_MAX),
    }
}

fn incomplete(spec: &Spec) -> Error {
    Error::Failed(format!(
        "{} is ready but does not say where it listens; its log is {}",
        spec.name,
        spec.log().display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_later_ones_wait_longer_up_to_a_bound() {
        let delays: Vec<u128> = [1, 2, 3, 4, 60].map(|ends| restart_delay(ends).as_millis()).into();
        assert_eq!(delays, [0, 100, 200, 400, 10_000]);
    }
}
