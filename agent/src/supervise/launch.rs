//! Starting a process: its place to listen, its command and environment, its output; then a keeper has it.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use steady_ring::Addr;
use time::OffsetDateTime;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};

use super::keeper::Keeper;
use super::ports::Port;
use super::probe::Probe;
use super::process::{Event, Handle, LaunchError, Order};
use super::{Shared, leftovers};
use crate::app_spec::{Run, Spec};
use crate::logs::{self, AppLog, Kept};
use crate::records::Placement;

/// Where a start listens.
#[derive(Debug)]
pub(super) enum Place {
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
        Run::Command(_) => {
            Place::Tcp(shared.ports.take(fastrand::u32(..)).map_err(|error| passing("no port is free", error))?)
        }
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
            let mut command = Command::new(&shared.config.get().bun);
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
