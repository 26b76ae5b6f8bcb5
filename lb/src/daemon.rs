//! `steady lb`: from a configuration file to a running edge.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use steady_proxy::log::LogSink;
use steady_proxy::tls::TicketKeys;
use steady_proxy::{Blueprint, Bounds, Listener, daemon};
use steady_sys::net::is_v6_only;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::certs::{self, Certs};
use crate::config::{Config, Io as IoChoice, Listen, LogFormat};
use crate::data::DataPlane;
use crate::edge::{self, Facts};
use crate::limits::UPGRADE_STORE;
use crate::run::{Ended, PRIVATE, Parts, Ready, Replaced, TABLE, run};
use crate::signals::{self, Order};
use crate::snapshot::Plane;
use crate::systemd;
use crate::upgrade::{self, Elders, Inherited, Lingering, Offer, Successor, Taking};

const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

/// Runs the edge of this file, or with `check` only says what is wrong with it. With `upgrade` it takes the place of the one
/// that runs in the same state directory, if one does.
pub fn main(file: &Path, check: bool, upgrade: bool) -> ExitCode {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(invalid) => {
            for problem in invalid.0 {
                eprintln!("{}: {problem}", file.display());
            }
            return ExitCode::FAILURE;
        }
    };
    if check {
        return say_check(&config, file);
    }
    daemon::start_log(config.log.format == LogFormat::Json, &config.log.level);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let served = match builder.worker_threads(1).thread_name("control").enable_all().build() {
        Ok(runtime) => match runtime.block_on(serve(config, file, upgrade)) {
            Ok(After::Carry(lingering)) => lingering.run(runtime),
            Ok(After::Close(store)) => {
                close(runtime, store);
                Ok(())
            }
            Err(reason) => Err(reason),
        },
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

/// The code of a `--check` that found the file itself good, and something that it names not: the edge would run, and not all of it
/// would work.
const NAMES_WRONG: u8 = 3;

/// What is wrong with what the file names, or what SIGHUP would change in the edge that runs with another version of it.
fn say_check(config: &Config, file: &Path) -> ExitCode {
    let problems = config.check_files(SystemTime::now());
    for problem in &problems {
        eprintln!("{}: {problem}", file.display());
    }
    if !problems.is_empty() {
        return ExitCode::from(NAMES_WRONG);
    }
    println!("{}: good", file.display());
    let running = daemon::started_with(&config.state_dir).and_then(|running| Config::load(&running).ok());
    if let Some(running) = running {
        let reload = running.reload(config);
        daemon::say_reload(&reload.live, &reload.restart);
    }
    ExitCode::SUCCESS
}

/// How long the control side's tasks may take to notice that their runtime ends.
const CLOSE: Duration = Duration::from_secs(2);
const CLOSE_LOOK: Duration = Duration::from_millis(5);
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What is left to do once the control side has ended.
enum After {
    Carry(Box<Lingering>),
    Close(Option<JoinHandle<()>>),
}

/// Ends the control side with its runtime, so that the store's file is whole, and says so if it is not: who copies it then has all of it.
fn close(runtime: tokio::runtime::Runtime, store: Option<JoinHandle<()>>) {
    runtime.shutdown_timeout(CLOSE);
    let begun = Instant::now();
    while store.as_ref().is_some_and(|store| !store.is_finished()) && begun.elapsed() < UPGRADE_STORE {
        std::thread::sleep(CLOSE_LOOK);
    }
    if store.is_some_and(|store| !store.is_finished()) {
        tracing::warn!(
            "the disk is too slow for the store to be closed: a copy of it needs store.db-wal beside store.db"
        );
    }
}

/// Serves until it is told to stop, or replaced: then there is something left to do.
async fn serve(config: Config, file: &Path, upgrade: bool) -> Result<After, String> {
    let say = |error: &dyn std::fmt::Display| error.to_string();
    let orders = signals::listen().map_err(|error| say(&error))?;
    daemon::raise_descriptors();
    let elders = Arc::<Elders>::default();
    let (mut taking, mut inherited) = (None, systemd::sockets()?);
    if upgrade {
        match Taking::begin(&config.state_dir, VERSION, &elders).await.map_err(|error| say(&error))? {
            Some((old, sockets)) => (taking, inherited) = (Some(old), sockets),
            None => tracing::info!("no edge runs in this state directory: there is nothing to take over"),
        }
    }
    let (ready_file, table) = (config.state_dir.join("ready.json"), config.state_dir.join(TABLE));
    let Prepared { plane, log, mut parts, watched } = match prepare(&config, file, &mut inherited, &elders, orders) {
        Ok(prepared) => prepared,
        Err(why) => {
            if let Some(taking) = &mut taking {
                taking.fail(&why).await;
            }
            return Err(why);
        }
    };
    for left in inherited.left() {
        tracing::warn!(socket = left, "the configuration names it no more: it is not listened on any further");
    }
    drop(inherited);
    parts.upgrade.taking = taking;
    let ended = run(config, Arc::clone(&plane) as Arc<dyn Plane>, parts).await;
    watched.abort();
    let failure = plane.failure();
    match ended.map_err(|error| say(&error))? {
        Ended::Replaced(replaced) => {
            let Replaced { heir, published, store, until } = *replaced;
            Ok(After::Carry(Box::new(Lingering { heir, plane, published, store, until, table, log })))
        }
        Ended::Stopped(store) => {
            // Nobody should take a stale file for a running edge; one that is gone already is as good.
            let _ = std::fs::remove_file(&ready_file);
            if let Some(plane) = Arc::into_inner(plane) {
                plane.stop();
            }
            failure.map_or(Ok(After::Close(store)), Err)
        }
    }
}

/// Everything that can be had before the state directory is held.
struct Prepared {
    plane: Arc<DataPlane>,
    log: Option<LogSink>,
    parts: Parts,
    watched: tokio::task::JoinHandle<()>,
}

fn prepare(
    config: &Config,
    file: &Path,
    inherited: &mut Inherited,
    elders: &Arc<Elders>,
    orders: mpsc::Receiver<Order>,
) -> Result<Prepared, String> {
    let workers = daemon::workers(config.workers);
    let io = daemon::Io::choose(driver(config.io), workers)?;
    let log = config.log.access.as_deref().map(|path| {
        LogSink::open(path).map_err(|error| format!("the access log {} cannot be opened: {error}", path.display()))
    });
    let log = log.transpose()?;
    let reload = Arc::new(Notify::new());
    let (certs, tickets) = watch_certs(config, &reload)?;
    let offer = Arc::new(Offer::new(tickets.clone(), Arc::clone(elders), VERSION));

    let Opened { sockets, listeners, addrs } = open_listeners(config, inherited, &offer)?;
    let private = inherited.take(PRIVATE, config.private.addr).map(|(listener, _)| listener);
    let Bounds { worker, upstreams, .. } = (*config.bounds).clone();
    let worker = steady_proxy::Config { listeners, limits: worker, upstream_limits: upstreams };
    let blueprint = Blueprint { uring: io.uring, ring: steady_ring::Config::default(), worker, sockets, pin: true };
    let plane = Arc::new(DataPlane::new(workers, blueprint, log.as_ref()));

    let facts = Facts {
        version: VERSION.to_owned(),
        workers,
        io: io.name().to_owned(),
        io_reason: io.fallback.as_ref().map(|(why, _)| why.clone()),
        listeners: addrs.clone(),
    };
    let (tell_ready, ready) = oneshot::channel::<Ready>();
    tokio::spawn(say_ready(ready, config.state_dir.clone(), file.to_owned(), addrs, config.private.token_file.clone()));
    let log_handle = log.as_ref().map(LogSink::handle);
    let on_reload = move || {
        reload.notify_one();
        if let Some(log) = &log_handle {
            log.reopen();
        }
    };
    let (watched, orders) = watch_workers(Arc::clone(&plane), orders);
    let parts = Parts {
        facts,
        clock: edge::system_clock(),
        config_file: Some(file.to_owned()),
        orders,
        certs,
        on_reload: Box::new(on_reload),
        ready: Some(tell_ready),
        upgrade: upgrade::Parts {
            taking: None,
            private,
            offer: Some(offer),
            tickets,
            elders: Arc::clone(elders),
            successor: Successor::of_this(file),
        },
    };
    Ok(Prepared { plane, log, parts, watched })
}

fn driver(choice: IoChoice) -> steady_ring::Choice {
    match choice {
        IoChoice::Auto => steady_ring::Choice::Auto,
        IoChoice::Uring => steady_ring::Choice::Uring,
        IoChoice::Epoll => steady_ring::Choice::Epoll,
    }
}

/// Where clients connect: each socket, how it is served, and the address that it was really given.
struct Opened {
    sockets: Vec<OwnedFd>,
    listeners: Vec<Listener>,
    addrs: Vec<edge::Listener>,
}

/// The listeners of the configuration: inherited ones where there are, and all of them on offer to the next process.
fn open_listeners(config: &Config, inherited: &mut Inherited, offer: &Offer) -> Result<Opened, String> {
    let mut opened = Opened { sockets: Vec::new(), listeners: Vec::new(), addrs: Vec::new() };
    for listen in &config.listen {
        let name = if listen.tls { "https" } else { "http" };
        for (socket, addr) in open(listen, name, listen.is_v6_only(&config.listen), inherited)? {
            // The one of IPv4 that comes with another stays what it is to the next process.
            let named = if addr.is_ipv4() == listen.addr.is_ipv4() { listen.addr } else { addr };
            offer.add(name, named, &socket).map_err(|error| error.to_string())?;
            opened.sockets.push(socket);
            opened.addrs.push(edge::Listener { addr, tls: listen.tls });
            let limits = config.bounds.clients.clone();
            opened.listeners.push(Listener { tls: listen.tls, proxy_protocol: listen.proxy_protocol, limits });
        }
    }
    Ok(opened)
}

/// The socket of one listener, and where it is. A socket stays as it was opened: where `[::]` was opened for IPv6 alone, because IPv4 had a
/// listener beside it that it is to take the place of now, that one's socket goes on as a second.
fn open(
    listen: &Listen,
    name: &str,
    v6_only: bool,
    inherited: &mut Inherited,
) -> Result<Vec<(OwnedFd, SocketAddr)>, String> {
    let Some((first, addr)) = inherited.take(name, listen.addr) else {
        let opened = if v6_only { daemon::listen_v6_only(listen.addr) } else { daemon::listen(listen.addr) };
        return opened.map(|opened| vec![opened]);
    };
    let lacks_v4 = addr.ip() == Ipv6Addr::UNSPECIFIED && !v6_only && is_v6_only(&first).is_ok_and(|only| only);
    let mut all = vec![(first.into(), addr)];
    if lacks_v4 {
        match inherited.take(name, SocketAddr::from((Ipv4Addr::UNSPECIFIED, addr.port()))) {
            Some((second, addr)) => all.push((second.into(), addr)),
            None => tracing::warn!(%addr, "this socket was opened for IPv6 alone: a restart opens it for IPv4 too"),
        }
    }
    Ok(all)
}

type Watched = (tokio::sync::watch::Receiver<Certs>, Option<Arc<TicketKeys>>);

/// Certificates as they are on disk, and as they change. Without `[tls]` there are none.
fn watch_certs(config: &Config, reload: &Arc<Notify>) -> Result<Watched, String> {
    let Some(tls) = &config.tls else {
        let (sender, receiver) = tokio::sync::watch::channel(Certs::default());
        drop(sender);
        return Ok((receiver, None));
    };
    let path = config.state_dir.join("ticket-keys");
    let tickets = if tls.tickets {
        std::fs::create_dir_all(&config.state_dir).map_err(|error| error.to_string())?;
        let keys = TicketKeys::open(&path, SystemTime::now());
        Some(Arc::new(keys.map_err(|error| format!("the ticket keys {}: {error}", path.display()))?))
    } else {
        None
    };
    let certs = certs::watch(&tls.dir, tls.pairs_max, tickets.clone(), ALPN, Arc::clone(reload))
        .map_err(|error| error.to_string())?;
    Ok((certs, tickets))
}

/// Writes where everything listens once the private port answers, and tells the supervisor which process is the edge.
async fn say_ready(
    ready: oneshot::Receiver<Ready>,
    state_dir: std::path::PathBuf,
    config: std::path::PathBuf,
    listeners: Vec<edge::Listener>,
    token_file: std::path::PathBuf,
) {
    let Ok(ready) = ready.await else { return };
    daemon::keep_config(&state_dir, &config);
    // A relative one is of this process's directory, which nobody who reads this is in.
    let token_file = std::path::absolute(&token_file).unwrap_or(token_file);
    let private = ready.private;
    let contents =
        json!({ "pid": std::process::id(), "listeners": listeners, "private": private, "token_file": token_file });
    let file = state_dir.join("ready.json");
    if let Err(error) = daemon::write_whole(&file, contents.to_string().as_bytes()) {
        tracing::error!(%error, file = %file.display(), "cannot say that it is ready");
    }
    systemd::notify(&format!("MAINPID={}\nREADY=1\nSTATUS=serving", std::process::id()));
}

/// Stops the edge when a worker fails: a supervisor restarts it whole, rather than have it serve with fewer.
fn watch_workers(
    plane: Arc<DataPlane>,
    mut orders: mpsc::Receiver<Order>,
) -> (tokio::task::JoinHandle<()>, mpsc::Receiver<Order>) {
    let (send, receive) = mpsc::channel(8);
    let watch = tokio::spawn(async move {
        let mut look = tokio::time::interval(Duration::from_millis(500));
        loop {
            let order = tokio::select! {
                order = orders.recv() => order,
                _ = look.tick() => plane.failure().map(|reason| {
                    tracing::error!(reason, "stopping");
                    Order::Stop
                }),
            };
            match order {
                Some(order) if send.send(order).await.is_err() => return,
                Some(_) | None => {}
            }
        }
    });
    (watch, receive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_of_both_families_keeps_the_two_sockets_that_there_were_for_it() {
        let listen = |addr: SocketAddr| Listen { addr, tls: false, proxy_protocol: false };
        let (v4, at_v4) = daemon::listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
        let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, at_v4.port()));
        // A machine without IPv6 has nothing to tell.
        let Ok((v6, _)) = daemon::listen_v6_only(both) else { return };
        let inherit = |v4: &OwnedFd, v6: &OwnedFd| {
            let mut inherited = Inherited::default();
            for (socket, addr) in [(v4, at_v4), (v6, both)] {
                inherited.add("http", Some(addr), socket.try_clone().unwrap()).unwrap();
            }
            inherited
        };
        let opened = |addr, v6_only, inherited: &mut Inherited| -> Vec<SocketAddr> {
            let opened = open(&listen(addr), "http", v6_only, inherited).unwrap();
            opened.into_iter().map(|(_, addr)| addr).collect()
        };
        assert_eq!(opened(both, false, &mut inherit(&v4, &v6)), [both, at_v4]);
        let mut apart = inherit(&v4, &v6);
        assert_eq!(opened(both, true, &mut apart), [both]);
        assert_eq!(opened(at_v4, false, &mut apart), [at_v4]);
    }
}
