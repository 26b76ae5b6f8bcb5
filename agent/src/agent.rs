//! The control side as a whole: opening the state folder, running, and stopping in the right order.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::future::Future;
use std::io::{self, Read, Seek, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use steady_cluster::listen::{Listener, Plain};
use steady_cluster::serve::serve;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::api::{self, Api, Facts, Token};
use crate::bundle::Bundles;
use crate::channel::Channel;
use crate::config::{Config, Live};
use crate::gate::{Apps, Notice, Plane};
use crate::host::{self, Host};
use crate::limits::{EVENTS_MAX, Limits};
use crate::membership::{Membership, MembershipError};
use crate::metrics::Metrics;
use crate::records::{Record, Records, replace_file};
use crate::reports::Hub;
use crate::supervise::spawner::Spawner;
use crate::supervise::{Board, Changes, Counters, Dirs, PlaneRef, Shared, leftovers, ports};
use crate::talk::Talk;

const PRELOAD: &str = include_str!("preload.ts");
/// Octets of a unix socket's path, with its closing zero (unix(7)).
const SOCKET_PATH_MAX: usize = 108;
/// `/` + 20 digits + `.sock` + the closing zero.
const SOCKET_NAME_OCTETS: usize = 27;
/// Between two looks whether the workers have drained.
const DRAINED_LOOK_EVERY: Duration = Duration::from_millis(10);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{dir} is in use by another agent ({holder}); stop it, or give this one another state_dir")]
    Held { dir: PathBuf, holder: String },
    #[error("{what} {path}: {source}")]
    Path { what: &'static str, path: PathBuf, source: io::Error },
    #[error("processes of an earlier agent are still there: {0}; nothing is started beside them")]
    Leftovers(io::Error),
    #[error("the records of this host cannot be read: {0}")]
    Records(io::Error),
    #[error("control.addr {addr} cannot be listened on: {source}")]
    Listen { addr: SocketAddr, source: io::Error },
    #[error("no thread can be started: {0}")]
    Thread(io::Error),
    #[error(transparent)]
    Membership(#[from] MembershipError),
    #[error("the API has ended: {0}")]
    Serve(io::Error),
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Path { what, path, source }
}

/// An agent that has taken its state folder and its control port, and runs nothing yet.
#[derive(Debug)]
pub struct Agent {
    config: Config,
    state_dir: PathBuf,
    live: Arc<Live>,
    limits: Limits,
    dirs: Dirs,
    mark: String,
    token: Token,
    bundles: Bundles,
    records: Records,
    known: Vec<Record>,
    listener: TcpListener,
    membership: Option<Arc<Membership>>,
    leftovers_killed: usize,
    lock: Lock,
}

impl Agent {
    /// Takes the lock, ends what a predecessor left running, reads the records, and binds the control port. Blocks for
    /// as long as leftovers take to end.
    pub async fn open(config: Config) -> Result<Self, Error> {
        Self::open_with(config, Limits::default()).await
    }

    /// Like [`Agent::open`], with limits of the caller's own.
    pub async fn open_with(config: Config, limits: Limits) -> Result<Self, Error> {
        let dir = std::path::absolute(&config.state_dir).map_err(at("state_dir", &config.state_dir))?;
        private_folder(&dir)?;
        let lock = lock(&dir)?;
        let mark = read_or_make(&dir.join("mark"))?;
        let dirs = Dirs {
            apps: dir.join("apps"),
            run: dir.join("run"),
            sockets: socket_folder(&dir, &mark)?,
            preload: dir.join("preload.ts"),
        };
        private_folder(&dirs.apps)?;
        private_folder(&dirs.run)?;
        let leftovers_killed = leftovers::kill_leftovers(&dirs.run, &mark).map_err(Error::Leftovers)?;
        if leftovers_killed > 0 {
            tracing::warn!(count = leftovers_killed, "processes of an earlier agent were still running and were ended");
        }
        clear_sockets(&dirs.sockets)?;
        replace_file(&dir, "preload.ts", PRELOAD.as_bytes()).map_err(at("cannot write", &dirs.preload))?;
        let token = Token::new(read_or_make(&config.token_file)?);
        let bundles = Bundles::open(&dir, config.bundles.clone()).map_err(at("cannot use", &dir))?;
        let records = Records::new(dirs.apps.clone());
        let known = records.load_all().map_err(Error::Records)?;
        let joined = config.join.clone().map(|join| Membership::open(&dir, &config.name, join));
        let membership = joined.transpose()?;
        let addr = config.control_addr;
        let listener = TcpListener::bind(addr).await.map_err(|source| Error::Listen { addr, source })?;
        let live = Arc::new(Live::new(config.apps.clone()));
        Ok(Self {
            config,
            state_dir: dir,
            live,
            limits,
            dirs,
            mark,
            token,
            bundles,
            records,
            known,
            listener,
            membership,
            leftovers_killed,
            lock,
        })
    }

    /// Where the API listens.
    pub fn control_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// This host as a member of its cluster, if it is to be one.
    pub fn membership(&self) -> Option<Arc<Membership>> {
        self.membership.clone()
    }

    /// What this host knows it owns: the workers' first truth, before they accept anything.
    pub fn apps(&self) -> Apps {
        host::apps_of(&self.known, &self.config.apps)
    }

    /// What may change while it runs.
    pub fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live)
    }

    /// Runs until `shutdown`, then drains the workers, stops every application, and returns. `addr` and `io` are what the
    /// data path is bound to and runs on.
    pub async fn run(
        self,
        plane: Arc<dyn Plane>,
        notices: mpsc::Receiver<Notice>,
        addr: String,
        io: String,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let mut running = self.start(PlaneRef(plane), notices, addr, io)?;
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            served = &mut running.served => Err(Error::Serve(match served {
                Ok(()) => io::Error::other("it returned"),
                Err(error) => io::Error::other(error),
            })),
        };
        running.stop(ended.is_ok()).await;
        ended
    }

    fn start(
        self,
        plane: PlaneRef,
        notices: mpsc::Receiver<Notice>,
        addr: String,
        io: String,
    ) -> Result<Running, Error> {
        let first = self.apps();
        let counters = Counters::default();
        counters.leftovers_killed.add(self.leftovers_killed as u64);
        let (events, told) = mpsc::channel(EVENTS_MAX);
        let shared = Arc::new(Shared {
            config: Arc::clone(&self.live),
            limits: self.limits,
            dirs: self.dirs,
            host_name: self.config.name.clone(),
            state_mark: self.mark,
            spawner: Spawner::start().map_err(Error::Thread)?,
            bundles: self.bundles,
            records: self.records,
            plane: plane.clone(),
            board: Board::new(plane.clone(), first),
            changes: Changes::default(),
            ports: ports::Ports::default(),
            counters,
            instances: AtomicU64::new(first_instance(SystemTime::now())),
            events,
        });
        shared.board.publish_all();
        let host = Host::start(shared, self.known);
        let control = self.listener.local_addr().map_err(Error::Serve)?.to_string();
        let facts = Facts { addr, control, io, started_at: OffsetDateTime::now_utc() };
        let hub = Hub::new(Arc::clone(&host) as _);
        let (configs, plain) = match &self.membership {
            Some(membership) => (membership.private_server(), Plain::Loopback),
            // Then the configuration keeps this port on this machine.
            None => (watch::channel(None).1, Plain::Anybody),
        };
        let listener = Listener::new(self.listener, configs, plain).map_err(Error::Serve)?;
        let mut tasks = JoinSet::new();
        let zone = self.config.zone.clone();
        let channel = self.membership.clone().map(|it| Channel::new(it, Arc::clone(&host), facts.clone(), zone));
        let talk = channel.as_ref().map(|_| Talk::new(&self.state_dir, Arc::clone(&host), self.config.faults));
        if let Some(talk) = talk.clone() {
            tasks.spawn(async move { talk.tell(told).await });
        }
        if let Some(membership) = self.membership.clone() {
            tasks.spawn(async move { membership.keep().await });
        }
        let router = api::router(Arc::new(Api {
            host: Arc::clone(&host),
            metrics: Metrics::default(),
            token: self.token,
            facts,
            reports: Arc::clone(&hub),
            membership: self.membership,
            channel: channel.clone(),
            talk,
            refused: listener.refused(),
        }));
        if let Some(channel) = channel {
            let router = router.clone();
            tasks.spawn(async move { channel.keep(router).await });
        }
        let (end_api, api_ends) = oneshot::channel::<()>();
        let served = tokio::spawn(async move {
            // Its answers under way are not waited for: followed logs have no end of their own.
            tokio::select! {
                () = serve(listener, router, std::future::pending()) => {}
                _ = api_ends => {}
            }
        });
        let (heeding, collecting, following) = (Arc::clone(&host), Arc::clone(&host), Arc::clone(&host));
        tasks.spawn(async move { following.follow_config().await });
        tasks.spawn(async move { heeding.heed(notices).await });
        tasks.spawn(async move { collecting.collect().await });
        tasks.spawn(async move { hub.run().await });
        Ok(Running { host, plane, live: self.live, tasks, served, end_api, _lock: self.lock })
    }
}

/// An agent that runs.
struct Running {
    host: Arc<Host>,
    plane: PlaneRef,
    live: Arc<Live>,
    /// All that goes on beside the API.
    tasks: JoinSet<()>,
    served: JoinHandle<()>,
    end_api: oneshot::Sender<()>,
    /// Until the applications have ended: whoever gets it ends what it finds of them.
    _lock: Lock,
}

impl Running {
    /// Drains the workers, then ends the applications. `serves`: the API has not ended by itself.
    async fn stop(mut self, serves: bool) {
        tracing::info!("stopping: the workers drain first, then the applications end");
        let drain_timeout = self.live.get().drain_timeout;
        self.plane.drain(drain_timeout);
        let until = tokio::time::Instant::now() + drain_timeout;
        while !self.plane.is_drained() && tokio::time::Instant::now() < until {
            tokio::time::sleep(DRAINED_LOOK_EVERY).await;
        }
        // Before the applications: nothing may be placed while they are stopped.
        self.tasks.abort_all();
        let _ = self.end_api.send(());
        if serves {
            let _ = self.served.await;
        }
        self.host.stop().await;
    }
}

/// Opens and runs an agent: [`Agent::open`] and [`Agent::run`] in one, for callers that need nothing between.
pub async fn run(
    config: Config,
    plane: Arc<dyn Plane>,
    notices: mpsc::Receiver<Notice>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let (addr, io) = (config.data_addr.to_string(), format!("{:?}", config.io).to_lowercase());
    Agent::open(config).await?.run(plane, notices, addr, io, shutdown).await
}

/// Makes a folder that only we may enter, with those above it.
fn private_folder(dir: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at("cannot make the folder", dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(at("cannot make private", dir))
}

/// One agent a state folder. The lock ends with the process, however it ends.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    /// Unlocks, where closing would not do: a child that was forked and has not come to its exec has the file open too.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// Takes it, or says who has it.
fn lock(dir: &Path) -> Result<Lock, Error> {
    let path = dir.join("lock");
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = opened.map_err(at("cannot open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Who it is is a help; that somebody is, is certain.
            let _ = file.read_to_string(&mut holder);
            let holder = if holder.is_empty() { "unknown".to_owned() } else { holder.trim().to_owned() };
            return Err(Error::Held { dir: dir.to_owned(), holder });
        }
        Err(TryLockError::Error(source)) => return Err(Error::Path { what: "cannot lock", path, source }),
    }
    let written =
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "pid {}", std::process::id()));
    written.map_err(at("cannot write", &path))?;
    Ok(Lock(file))
}

/// A secret text from a 0600 file; made of 256 random bits when there is none.
fn read_or_make(path: &Path) -> Result<String, Error> {
    match fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at("cannot read", path)(error)),
    }
    let mut random = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut random))
        .map_err(at("no randomness for", path))?;
    let text = crate::bundle::hex(&random);
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let written = opened.and_then(|mut file| writeln!(file, "{text}").and_then(|()| file.sync_all()));
    written.map_err(at("cannot write", path))?;
    Ok(text)
}

/// Where Bun applications listen. A unix socket's path is short, and a state folder's may not be: then a folder of ours
/// under XDG_RUNTIME_DIR or /tmp.
fn socket_folder(state_dir: &Path, mark: &str) -> Result<PathBuf, Error> {
    let fits = |dir: &Path| dir.as_os_str().len() + SOCKET_NAME_OCTETS <= SOCKET_PATH_MAX;
    let own = state_dir.join("sock");
    if fits(&own) {
        private_folder(&own)?;
        return Ok(own);
    }
    let name = format!("steady-{}", &mark[..mark.len().min(16)]);
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join(&name)).filter(|dir| fits(dir));
    let dir = runtime.unwrap_or_else(|| Path::new("/tmp").join(&name));
    match DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(at("cannot make the folder", &dir)(error));
        }
        _ => {}
    }
    // Others can write to /tmp: it must be a folder of ours, and no link to another.
    let meta = fs::symlink_metadata(&dir).map_err(at("cannot look at", &dir))?;
    let ours = fs::metadata(state_dir).map_err(at("cannot look at", state_dir))?.uid();
    if !meta.is_dir() || meta.uid() != ours || meta.mode() & 0o077 != 0 {
        let source = io::Error::other("it is there already and is not a private folder of ours; remove it");
        return Err(Error::Path { what: "cannot use", path: dir, source });
    }
    Ok(dir)
}

fn clear_sockets(dir: &Path) -> Result<(), Error> {
    let entries = fs::read_dir(dir).map_err(at("cannot read", dir))?;
    for entry in entries.flatten() {
        fs::remove_file(entry.path()).map_err(at("cannot remove", &entry.path()))?;
    }
    Ok(())
}

/// Instances grow over restarts of the agent, and fit a JSON number: a thousand starts a millisecond.
pub(crate) fn first_instance(now: SystemTime) -> u64 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0).saturating_mul(1000)
}
