//! One start of an application: from spawn, through the probes that find it ready and healthy, to the moment when nothing
//! of it runs any more.
//!
//! [`launch`] starts it and leaves a *keeper* task with it, which owns the process for its whole life and tells the actor
//! three things: [`Event::Ready`], [`Event::Lost`] (send it nothing more) and, last, [`Event::Gone`] (its whole group is dead
//! and reaped). The actor steers the keeper by an [`Order`].

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use steady_ring::Addr;
use steady_sys::process::{Signal, signal_group};
use time::OffsetDateTime;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Shared;
use super::leftovers::{self, Started};
use super::probe::Probe;
use crate::app_spec::{Run, Spec};
use crate::bundle::Held;
use crate::gate::Protocol;
use crate::logs::{self, AppLog, Kept};
use crate::records::Placement;

/// Between two looks at the requests that are still with a process.
const DRAIN_LOOK_EVERY: Duration = Duration::from_millis(2);
/// For the rest of the output to be read once every process of the group is dead.
const OUTPUT_WITHIN: Duration = Duration::from_millis(500);
/// Between two complaints about a process that SIGKILL does not end.
const STUCK_LOOK_EVERY: Duration = Duration::from_secs(10);

/// What the keeper is to do.
#[derive(Clone, Debug)]
pub enum Order {
    Serve,
    /// Let its requests finish, then stop it.
    Retire {
        /// The publication that sends it no more requests.
        publication: u64,
        deadline: Instant,
        /// Whether the requests left at the deadline are cut by the workers, or just lose their process.
        cut: bool,
    },
}

/// What a keeper tells its actor.
#[derive(Debug)]
pub enum Event {
    Ready { instance: u64 },
    Lost { instance: u64 },
    Gone { instance: u64, end: End },
}

/// How a process ended.
#[derive(Debug)]
pub struct End {
    pub cause: Cause,
    pub exit: Exit,
    pub at: OffsetDateTime,
    pub output: String,
    /// How long it had been ready; `None`: never.
    pub served: Option<Duration>,
    /// Requests that were still with it at the deadline.
    pub cut: u64,
}

/// Why it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// By itself.
    Exited,
    /// No answer within the start time-out; what the last probe said.
    NeverReady(String),
    /// It stopped answering; what the last probe said.
    Hung(String),
    /// It was told to.
    Ordered,
}

/// Exit code or signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        Self { code: status.code(), signal: status.signal() }
    }
}

impl End {
    /// One line for people.
    pub fn reason(&self) -> String {
        match (&self.cause, self.exit.code, self.exit.signal) {
            (Cause::NeverReady(why), ..) => format!("it did not become ready: {why}"),
            (Cause::Hung(why), ..) => format!("it stopped answering and was killed: {why}"),
            (Cause::Ordered, ..) => "it was stopped".to_owned(),
            (Cause::Exited, Some(code), _) => format!("it exited with code {code}"),
            (Cause::Exited, _, Some(signal)) => format!("it was ended by signal {signal}"),
            (Cause::Exited, None, None) => "it ended".to_owned(),
        }
    }
}

/// Why a process could not be started at all.
#[derive(Debug)]
pub enum LaunchError {
    /// It cannot be, until someone changes something.
    Hopeless(String),
    /// The host could not, this time.
    Passing(String),
}

/// The actor's hold on a process.
#[derive(Debug)]
pub struct Handle {
    pub instance: u64,
    pub pid: u32,
    pub addr: Addr,
    pub protocol: Protocol,
    pub placement: Placement,
    pub started_at: OffsetDateTime,
    pub orders: watch::Sender<Order>,
    /// Makes the keeper probe now.
    pub doubt: Arc<Notify>,
}

/// Ports that starts of this agent hold, so that two are never given the same.
#[derive(Clone, Debug, Default)]
pub struct Ports {
    held: Arc<Mutex<BTreeSet<u16>>>,
}

/// A port of 127.0.0.1 that was free a moment ago; given back when dropped.
#[derive(Debug)]
struct Port {
    number: u16,
    ports: Ports,
}

impl Ports {
    fn take(&self) -> std::io::Result<Port> {
        loop {
            let number = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            if self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(number) {
                return Ok(Port { number, ports: self.clone() });
            }
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.ports.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

/// Where a start listens.
#[derive(Debug)]
enum Place {
    Tcp(Port),
    Unix(PathBuf),
}

impl Place {
    fn addr(&self) -> Addr {
        match self {
            Place::Tcp(port) => Addr::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port.number))),
            Place::Unix(path) => Addr::Unix(Arc::from(path.as_path())),
        }
    }
}

/// Starts `placement` of application `app` and leaves a keeper with it.
pub async fn launch(
    shared: &Arc<Shared>,
    app: &Arc<str>,
    log: &AppLog,
    placement: &Placement,
    events: mpsc::Sender<Event>,
) -> Result<Handle, LaunchError> {
    let held = shared.bundles.hold(&placement.digest).ok_or_else(|| {
        LaunchError::Hopeless(format!("its bundle {} is not on this host; deploy it again", placement.digest.as_str()))
    })?;
    let spec = Spec::load(&held.folder()).map_err(|error| LaunchError::Hopeless(error.to_string()))?;
    let passing = |what: &str, error: std::io::Error| LaunchError::Passing(format!("{what}: {error}"));
    let instance = shared.next_instance();
    let place = match &spec.run {
        Run::Bun { .. } => Place::Unix(shared.dirs.sockets.join(format!("{instance}.sock"))),
        Run::Command(_) => Place::Tcp(shared.ports.take().map_err(|error| passing("no port is free", error))?),
    };
    let mut command = command_for(shared, app, &spec, &held.folder(), &place, instance)
        .map_err(|error| passing("its folders cannot be made", error))?;
    let program = command.get_program().to_string_lossy().into_owned();
    let (output, write_end) = std::io::pipe().map_err(|error| passing("no pipe for its output", error))?;
    let also = write_end.try_clone().map_err(|error| passing("no pipe for its output", error))?;
    command.stdin(Stdio::null()).stdout(write_end).stderr(also);
    let spawned = shared.spawner.spawn(command).await;
    let child = spawned.map_err(|error| launch_error(&program, &spec, &error))?;
    let pid = child.id();
    let started_at = OffsetDateTime::now_utc();
    log.mark(&format!("started version {} pid {pid} at {}", placement.version, super::text_of(started_at)));
    let handle = Handle {
        instance,
        pid,
        addr: place.addr(),
        protocol: spec.protocol,
        placement: placement.clone(),
        started_at,
        orders: watch::Sender::new(Order::Serve),
        doubt: Arc::default(),
    };
    let kept = Kept::default();
    let pump = pipe::Receiver::from_owned_fd(OwnedFd::from(output))
        .map(|from| tokio::spawn(logs::pump(from, log.clone(), kept.clone(), shared.limits.output_kept_octets)));
    let probe = Probe { addr: place.addr(), protocol: spec.protocol, path: spec.health.clone(), host: app.to_string() };
    let keeper = Keeper {
        shared: Arc::clone(shared),
        app: Arc::clone(app),
        log: log.clone(),
        instance,
        child,
        pid,
        probe,
        place,
        kept,
        pump: pump.ok(),
        orders: handle.orders.subscribe(),
        doubt: Arc::clone(&handle.doubt),
        events,
        _held: held,
    };
    keeper.write_down();
    tokio::spawn(keeper.keep());
    Ok(handle)
}

fn launch_error(program: &str, spec: &Spec, error: &std::io::Error) -> LaunchError {
    use std::io::ErrorKind::{NotFound, PermissionDenied};
    let hopeless = matches!(error.kind(), NotFound | PermissionDenied);
    let what_to_do = match &spec.run {
        Run::Bun { .. } => "install Bun (npm install bun), or set apps.bun in the agent's configuration",
        Run::Command(_) => "`command` in steady.toml must name a program of the folder (./name) or of PATH, executable",
    };
    if hopeless {
        LaunchError::Hopeless(format!("`{program}` cannot be run: {error}; {what_to_do}"))
    } else {
        LaunchError::Passing(format!("`{program}` cannot be run now: {error}"))
    }
}

/// The command with a clean environment: nothing of the agent's own leaks into an application.
fn command_for(
    shared: &Shared,
    app: &str,
    spec: &Spec,
    folder: &Path,
    place: &Place,
    instance: u64,
) -> std::io::Result<Command> {
    let own = shared.dirs.apps.join(app);
    let (home, tmp) = (own.join("home"), own.join("tmp"));
    std::fs::create_dir_all(&home)?;
    std::fs::create_dir_all(&tmp)?;
    let mut command = match &spec.run {
        Run::Bun { entry } => {
            let mut command = Command::new(&shared.config.bun);
            command.arg("--preload").arg(&shared.dirs.preload).arg(folder.join(entry));
            command
        }
        Run::Command(words) => {
            let port = match place {
                Place::Tcp(port) => port.number.to_string(),
                Place::Unix(_) => String::new(),
            };
            let mut words = words.iter().map(|word| word.replace("${PORT}", &port).replace("$PORT", &port));
            let program = words.next().unwrap_or_default();
            let mut command = Command::new(if program.contains('/') { folder.join(program) } else { program.into() });
            command.args(words);
            command
        }
    };
    command.current_dir(folder).env_clear();
    for (key, default) in [("PATH", Some("/usr/local/bin:/usr/bin:/bin")), ("LANG", Some("C.UTF-8")), ("TZ", None)] {
        match (std::env::var_os(key), default) {
            (Some(value), _) => command.env(key, value),
            (None, Some(default)) => command.env(key, default),
            (None, None) => &mut command,
        };
    }
    command.env("HOME", home).env("TMPDIR", tmp).env("NODE_ENV", "production").envs(&spec.env);
    match place {
        Place::Tcp(port) => command.env("PORT", port.number.to_string()).env("HOST", "127.0.0.1"),
        Place::Unix(path) => command.env("STEADY_SOCKET", path),
    };
    command.env("STEADY_APP", app).env("STEADY_HOST", &shared.host_name);
    command
        .env("STEADY_STATE", &shared.state_mark)
        .env("STEADY_START", leftovers::start_mark(&shared.state_mark, instance));
    Ok(command)
}

/// Owns one process.
struct Keeper {
    shared: Arc<Shared>,
    app: Arc<str>,
    log: AppLog,
    instance: u64,
    child: Child,
    pid: u32,
    probe: Probe,
    place: Place,
    kept: Kept,
    pump: Option<JoinHandle<()>>,
    orders: watch::Receiver<Order>,
    doubt: Arc<Notify>,
    events: mpsc::Sender<Event>,
    _held: Held,
}

impl Keeper {
    /// Written down so that the next agent can end it if this one is killed; not synced, because what it tells of does
    /// not outlive the machine either. The environment's mark is the other way to find it, so a failure is lived with.
    fn write_down(&self) {
        let started = leftovers::see(self.pid).map(|seen| Started {
            app: self.app.to_string(),
            instance: self.instance,
            pid: self.pid,
            start_time: seen.start_time,
        });
        let Some(started) = started else { return };
        let written = serde_json::to_vec(&started)
            .map_err(std::io::Error::other)
            .and_then(|text| std::fs::write(leftovers::started_file(&self.shared.dirs.run, self.instance), text));
        if let Err(error) = written {
            tracing::warn!(app = %self.app, %error, "a start could not be written down");
        }
    }

    async fn keep(mut self) {
        let exited = Exited::watch(self.pid);
        let (cause, ready_at) = self.live(&exited).await;
        let cut = if cause == Cause::Ordered { self.drain(&exited).await } else { 0 };
        self.tell(Event::Lost { instance: self.instance }).await;
        let grace = match &cause {
            Cause::Ordered => self.shared.config.stop_timeout,
            Cause::NeverReady(_) => self.shared.limits.failed_start_grace.min(self.shared.config.stop_timeout),
            // It has gone, or it does not run its event loop: there is nobody to be asked.
            Cause::Exited | Cause::Hung(_) => Duration::ZERO,
        };
        let served = ready_at.map(|at: Instant| at.elapsed());
        let exit = self.stop(&exited, grace).await;
        let at = OffsetDateTime::now_utc();
        let end = End { cause, exit, at, output: self.kept.text(), served, cut };
        self.log.mark(&format!("pid {} ended at {}: {}", self.pid, super::text_of(at), end.reason()));
        let events = self.events.clone();
        let instance = self.instance;
        drop(self);
        // The actor may have ended with the agent.
        let _ = events.send(Event::Gone { instance, end }).await;
    }

    async fn tell(&self, event: Event) {
        // As above.
        let _ = self.events.send(event).await;
    }

    /// From the spawn until it has to go or has gone. Also: since when it was ready.
    async fn live(&self, exited: &Exited) -> (Cause, Option<Instant>) {
        tokio::select! {
            biased;
            () = exited.wait() => return (Cause::Exited, None),
            () = self.ordered() => return (Cause::Ordered, None),
            answered = self.become_ready() => {
                if let Err(why) = answered {
                    return (Cause::NeverReady(why), None);
                }
            }
        }
        let ready_at = Instant::now();
        self.tell(Event::Ready { instance: self.instance }).await;
        let cause = tokio::select! {
            biased;
            () = exited.wait() => Cause::Exited,
            () = self.ordered() => Cause::Ordered,
            why = self.hang() => Cause::Hung(why),
        };
        (cause, Some(ready_at))
    }

    /// Until the actor wants it gone; also when there is no actor any more.
    async fn ordered(&self) {
        let mut orders = self.orders.clone();
        let _ = orders.wait_for(|order| matches!(order, Order::Retire { .. })).await;
    }

    /// Probes until an answer below 500 comes.
    async fn become_ready(&self) -> Result<(), String> {
        let limits = &self.shared.limits;
        let timeout = self.shared.config.start_timeout;
        let until = Instant::now() + timeout;
        let mut last = "it was not asked".to_owned();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!(
                    "no good answer to GET {} within {timeout:?}; the last try: {last}",
                    self.probe.path
                ));
            }
            match self.probe.ask(limits.probe_timeout.min(left)).await {
                Ok(status) if status.as_u16() < 500 => return Ok(()),
                Ok(status) => last = format!("status {status}"),
                Err(error) => last = error,
            }
            tokio::time::sleep(limits.start_probe_every.min(left)).await;
        }
    }

    /// Probes from time to time, and at once when in doubt, until too many fail in a row. Any answer is a sign of life.
    async fn hang(&self) -> String {
        let limits = &self.shared.limits;
        let mut failures = 0;
        loop {
            let wait = if failures == 0 { limits.probe_every } else { limits.probe_again_after };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // Once it has failed, more reports say nothing new, and must not use up its chances.
                () = self.doubt.notified(), if failures == 0 => {
                    // Many requests may break at once; they are worth one probe.
                    tokio::time::sleep(limits.start_probe_every).await;
                }
            }
            match self.probe.ask(limits.probe_timeout).await {
                Ok(_) => failures = 0,
                Err(why) => {
                    failures += 1;
                    self.shared.counters.probe_failures.add(1);
                    if failures >= limits.probe_failures_max {
                        return why;
                    }
                }
            }
        }
    }

    /// Waits until no worker sends it anything and nothing is with it, or the deadline. Returns what was left then.
    async fn drain(&self, exited: &Exited) -> u64 {
        let mut orders = self.orders.clone();
        let plane = &self.shared.plane;
        loop {
            let order = orders.borrow_and_update().clone();
            let Order::Retire { publication, deadline, cut } = order else { return 0 };
            // In this order: what was admitted before it settled is counted by now.
            let is_settled = plane.settled() >= publication;
            let in_flight = plane.in_flight_of(&self.app, self.instance);
            if is_settled && in_flight == 0 {
                return 0;
            }
            if Instant::now() >= deadline {
                if cut && in_flight > 0 {
                    plane.cut(&self.app);
                    self.wait_for_cut().await;
                }
                return in_flight;
            }
            tokio::select! {
                () = exited.wait() => return 0,
                _ = orders.changed() => {}
                () = tokio::time::sleep(DRAIN_LOOK_EVERY) => {}
            }
        }
    }

    async fn wait_for_cut(&self) {
        let until = Instant::now() + self.shared.limits.cut_grace;
        while self.shared.plane.in_flight_of(&self.app, self.instance) > 0 && Instant::now() < until {
            tokio::time::sleep(DRAIN_LOOK_EVERY).await;
        }
    }

    /// Asks the group to end, then makes it; returns when nothing of this start runs any more and all is reaped.
    async fn stop(&mut self, exited: &Exited, grace: Duration) -> Exit {
        if !grace.is_zero() && !exited.is_now() {
            self.signal(Signal::Term);
            let _ = tokio::time::timeout(grace, exited.wait()).await;
        }
        loop {
            // Its leader is not reaped yet, so the number of the group still is its own.
            self.signal(Signal::Kill);
            if tokio::time::timeout(STUCK_LOOK_EVERY, exited.wait()).await.is_ok() {
                break;
            }
            tracing::error!(app = %self.app, pid = self.pid, "SIGKILL does not end this process: it hangs in the kernel");
        }
        let group = self.pid;
        loop {
            let mark = leftovers::start_mark(&self.shared.state_mark, self.instance);
            let killed = tokio::task::spawn_blocking(move || leftovers::kill_start(group, &mark)).await;
            match killed {
                Ok(Ok(_)) => break,
                Ok(Err(error)) => tracing::error!(app = %self.app, %error, "not started again before these are gone"),
                Err(error) => tracing::error!(app = %self.app, %error, "looking for leftovers failed"),
            }
            tokio::time::sleep(STUCK_LOOK_EVERY).await;
        }
        let exit = self.child.wait().map_or(Exit { code: None, signal: None }, Exit::from);
        if let Some(mut pump) = self.pump.take()
            && tokio::time::timeout(OUTPUT_WITHIN, &mut pump).await.is_err()
        {
            pump.abort();
        }
        if let Place::Unix(path) = &self.place {
            // It may never have been made.
            let _ = std::fs::remove_file(path);
        }
        let _ = std::fs::remove_file(leftovers::started_file(&self.shared.dirs.run, self.instance));
        exit
    }

    fn signal(&self, signal: Signal) {
        if let Err(error) = signal_group(self.pid, signal) {
            tracing::error!(app = %self.app, pid = self.pid, %error, "a process group cannot be signalled");
        }
    }
}

/// Knows when a child has ended, without reaping it.
struct Exited {
    pid: u32,
    fd: Option<AsyncFd<OwnedFd>>,
}

impl Exited {
    fn watch(pid: u32) -> Self {
        // The constructor that replaces this one is unsafe, against types whose descriptor changes; an OwnedFd's does not.
        #[allow(deprecated)]
        let fd = steady_sys::pidfd::open(pid).and_then(|fd| AsyncFd::with_interest(fd, Interest::READABLE));
        if let Err(error) = &fd {
            tracing::warn!(pid, %error, "no pidfd: this process is looked at from time to time instead");
        }
        Self { pid, fd: fd.ok() }
    }

    fn is_now(&self) -> bool {
        leftovers::see(self.pid).is_none_or(|seen| seen.is_zombie)
    }

    async fn wait(&self) {
        match &self.fd {
            // The readiness is never cleared: a process ends once.
            Some(fd) if fd.readable().await.is_ok() => {}
            _ => {
                while !self.is_now() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}
