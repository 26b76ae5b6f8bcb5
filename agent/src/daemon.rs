//! `steady agent`: from a configuration file to a running host.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::json;
use steady_proxy::log::{LogHandle, LogSink};
use steady_proxy::{Blueprint, Bounds, Listener, daemon};
use steady_ring::Addr;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::agent::Agent;
use crate::config::{Config, Io as IoChoice, Live, LogFormat};
use crate::data::DataPlane;
use crate::gate::Plane;
use crate::membership::Credentials;

/// Notices of the workers that may wait for control. Past it the next request for the application repeats its own.
const NOTICES_MAX: usize = 1024;

/// Runs the agent of this file, or with `check` only says what is wrong with it.
pub fn main(file: &Path, check: bool) -> ExitCode {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if check {
        println!("{}: good", file.display());
        let running = daemon::started_with(&config.state_dir).and_then(|running| Config::load(&running).ok());
        if let Some(running) = running {
            let reload = running.reload(&config);
            daemon::say_reload(&reload.live, &reload.restart);
        }
        return ExitCode::SUCCESS;
    }
    daemon::start_log(config.log.format == LogFormat::Json, &config.log.level);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let served = match builder.worker_threads(1).thread_name("control").enable_all().build() {
        Ok(runtime) => runtime.block_on(serve(config, file)),
        Err(error) => Err(format!("the control side's runtime cannot be started: {error}")),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            tracing::error!("{reason}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: Config, file: &Path) -> Result<(), String> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    daemon::raise_descriptors();
    let choice = match config.io {
        IoChoice::Auto => steady_ring::Choice::Auto,
        IoChoice::Uring => steady_ring::Choice::Uring,
        IoChoice::Epoll => steady_ring::Choice::Epoll,
    };
    let io = daemon::Io::choose(choice, daemon::workers(config.workers))?;
    let log = config.log.requests.as_deref().map(|path| {
        LogSink::open(path).map_err(|error| format!("the request log {} cannot be opened: {error}", path.display()))
    });
    let log = log.transpose()?;
    let hangup = signal(SignalKind::hangup()).map_err(|error| error.to_string())?;

    // What an earlier agent left is ended, and what this host owns is known, before anybody can connect.
    let (workers, data, state_dir) =
        (daemon::workers(config.workers), config.data_addr.clone(), config.state_dir.clone());
    let timeouts = config.timeouts;
    let agent = Agent::open(config.clone()).await.map_err(|error| error.to_string())?;
    let control = agent.control_addr().map_err(|error| error.to_string())?;
    let (socket, data) = listen(data)?;
    let plane = Arc::new(DataPlane::new(workers));
    plane.publish(Arc::new(agent.apps()));
    let secure = agent.membership().map(|membership| follow(membership.published(), Arc::clone(&plane)));
    let (notices_in, notices) = mpsc::channel(NOTICES_MAX);
    let Bounds { worker: limits, clients, upstreams } = (*config.bounds).clone();
    let worker = steady_proxy::Config {
        listeners: vec![Listener { tls: secure.is_some(), proxy_protocol: false, limits: clients }],
        limits,
        upstream_limits: upstreams,
    };
    let blueprint =
        Blueprint { uring: io.uring, ring: steady_ring::Config::default(), worker, sockets: vec![socket], pin: false };
    let fleet = plane.start(blueprint, notices_in, timeouts, log.as_ref());
    let fleet = fleet.map_err(|error| format!("the workers cannot be started: {error}"))?;

    daemon::keep_config(&state_dir, file);
    let ready = state_dir.join("ready.json");
    let told = json!({ "pid": std::process::id(), "data": data.to_string(), "control": control });
    daemon::write_whole(&ready, told.to_string().as_bytes())
        .map_err(|error| format!("{}: {error}", ready.display()))?;
    let reloading = Reloading {
        file: file.to_owned(),
        config,
        live: agent.live(),
        plane: Arc::clone(&plane),
        log: log.as_ref().map(LogSink::handle),
    };
    let reloading = tokio::spawn(reloading.follow(hangup));
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let io = io.name().to_owned();
    let ended = agent.run(Arc::clone(&plane) as Arc<dyn Plane>, notices, data.to_string(), io, stop).await;
    // Nobody should take a stale file for a running agent; one that is gone already is as good.
    let _ = std::fs::remove_file(&ready);
    reloading.abort();
    if let Some(secure) = secure {
        secure.abort();
    }
    plane.stop();
    if let Err(error) = fleet.join() {
        tracing::error!(%error, "a worker ended badly");
    }
    ended.map_err(|error| error.to_string())
}

/// The data path's socket, and the address that it got.
fn listen(addr: Addr) -> Result<(OwnedFd, Addr), String> {
    match addr {
        Addr::Tcp(addr) => daemon::listen(addr).map(|(socket, addr)| (socket, Addr::Tcp(addr))),
        Addr::Unix(path) => match steady_ring::listen_unix(&path, 1024) {
            Ok(socket) => Ok((socket, Addr::Unix(path))),
            Err(error) => Err(format!("cannot listen on {}: {error}", path.display())),
        },
    }
}

/// Hands the workers what this host is a member by: what there is at once, and whenever it changes.
fn follow(
    mut published: watch::Receiver<Option<Arc<Credentials>>>,
    plane: Arc<DataPlane>,
) -> tokio::task::JoinHandle<()> {
    let take = move |credentials: Option<Arc<Credentials>>| {
        if let Some(credentials) = credentials {
            plane.set_tls(Arc::clone(&credentials.data_server));
        }
    };
    take(published.borrow_and_update().clone());
    tokio::spawn(async move {
        while published.changed().await.is_ok() {
            take(published.borrow_and_update().clone());
        }
    })
}

/// What SIGHUP does.
struct Reloading {
    file: PathBuf,
    /// What is in force.
    config: Config,
    live: Arc<Live>,
    plane: Arc<DataPlane>,
    log: Option<LogHandle>,
}

impl Reloading {
    async fn follow(mut self, mut hangup: Signal) {
        while hangup.recv().await.is_some() {
            if let Some(log) = &self.log {
                log.reopen();
            }
            self.read();
        }
    }

    /// Reads the configuration again. A file that is wrong changes nothing.
    fn read(&mut self) {
        let new = match Config::load(&self.file) {
            Ok(new) => new,
            Err(error) => return tracing::error!(%error, "the configuration stays as it was"),
        };
        let reload = self.config.reload(&new);
        for key in &reload.restart {
            tracing::warn!(key, "it takes effect at the next start");
        }
        if reload.live.contains(&"log.level") {
            daemon::set_log_level(&reload.effective.log.level);
        }
        self.config = reload.effective;
        self.live.set(self.config.apps.clone());
        if reload.live.contains(&"limits") {
            self.plane.set_bounds(Arc::clone(&self.config.bounds));
        }
        if reload.live.contains(&"timeouts") {
            self.plane.set_timeouts(self.config.timeouts);
        }
        tracing::info!(live = ?reload.live, "the configuration was read again");
    }
}
