//! From a configuration and a data path to a running edge, and back.
//!
//! The order matters: the last good table is published before anything that can fail is opened, so that an edge serves with
//! nothing else alive. Then the private port answers, then the store is opened (and tried again until it can be), then what
//! was under way is taken up, and only then hosts are watched.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use steady_cluster::listen::{Listener, Peer, Plain};
use steady_table::{DomainName, Options, Routes, TableDir};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

use crate::agents::health::{HostEvent, Pace, watch as watch_host};
use crate::agents::orders::Streams;
use crate::agents::{HostHandle, Hosts};
use crate::api::{Api, Token, TokenError, router};
use crate::bundles::{BundleError, Bundles};
use crate::certs::Certs;
use crate::cluster::{Cluster, ClusterError};
use crate::config::{Config, HostConfig, Problem};
use crate::control::{Control, ControlError, Initial, Published, publish_first, reconcile_table};
use crate::edge::{Clock, Edge, Facts};
use crate::limits::{SETTLE, UPGRADE_API, UPGRADE_GIVE_UP};
use crate::metrics::Metrics;
use crate::reconcile::Returns;
use crate::reports::{Reports, follow};
use crate::signals::Order;
use crate::snapshot::{HostState, Plane};
use crate::state_dir::{StateDir, StateDirError};
use crate::store::sqlite::SqliteStore;
use crate::store::{Commit, Contents, HostRecord, Store, Write};
use crate::systemd;
use crate::upgrade::{self, Desk, Heir, TakeError, Taking};
use crate::workflow::{Tracker, resume_all};

/// How long until a store that cannot be opened is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(5);
/// How often the end of a drain is looked for.
const DRAIN_LOOK: Duration = Duration::from_millis(10);
/// How often it is looked whether new workers serve.
const START_LOOK: Duration = Duration::from_millis(1);
/// The private port among the listening sockets.
pub(crate) const PRIVATE: &str = "private";
/// The directory of the routing table, in the state directory.
pub(crate) const TABLE: &str = "table";
/// What was last read from `domains` of the configuration, so that a change of the file is told from a change by the API.
const CONFIGURED_DOMAINS: &str = "configured_domains";

/// What an edge runs with, beside its configuration.
pub struct Parts {
    pub facts: Facts,
    pub clock: Clock,
    /// Read again on [`Order::Reload`]; `None`: there is no file.
    pub config_file: Option<PathBuf>,
    pub orders: mpsc::Receiver<Order>,
    /// TLS towards clients, whenever it changes; `None` in it: no certificate yet.
    pub certs: watch::Receiver<Certs>,
    /// Called on [`Order::Reload`] too: reopens logs, looks at certificates.
    pub on_reload: Box<dyn Fn() + Send + Sync>,
    /// Told once the private port answers.
    pub ready: Option<oneshot::Sender<Ready>>,
    /// How this process takes the place of another, and another its own.
    pub upgrade: upgrade::Parts,
}

/// How a run ended.
#[derive(Debug)]
pub enum Ended {
    /// By an order; nothing is left.
    Stopped,
    /// Another process is the edge now. The workers drain, and wait for nobody else.
    Replaced(Box<Replaced>),
}

/// What is left to do for a process that was replaced: see [`upgrade::Lingering`].
#[derive(Debug)]
pub struct Replaced {
    pub heir: Heir,
    /// `None`: there never was a table.
    pub published: Option<Arc<Published>>,
    /// Ends once the store is closed.
    pub store: Option<std::thread::JoinHandle<()>>,
    /// When what is left is cut.
    pub until: Instant,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// Where the private port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    pub private: SocketAddr,
    pub token_file: PathBuf,
}

/// Why an edge could not begin. Once it runs, nothing ends it but an order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Bundles(#[from] BundleError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("the routing table: {0}")]
    Table(#[from] steady_table::Error),
    #[error("the private port {addr} cannot be opened: {source}")]
    Private { addr: SocketAddr, source: io::Error },
    #[error("there is no routing table to serve from, and the store cannot be used: {0}")]
    Nothing(String),
    #[error(transparent)]
    Take(#[from] TakeError),
    #[error("nothing was taken over: {0}")]
    NotTaken(String),
}

/// What `--check` says of a file: everything that is wrong with it and with what it names.
pub fn check(file: &Path) -> Vec<Problem> {
    match Config::load(file) {
        Ok(config) => config.check_files(),
        Err(invalid) => invalid.0,
    }
}

/// Runs an edge's control side on `plane` until it is told to stop, or replaced. Call it on a runtime that ends with it.
pub async fn run(config: Config, plane: Arc<dyn Plane>, mut parts: Parts) -> Result<Ended, RunError> {
    let mut taking = parts.upgrade.taking.take();
    let ended = hold_and_serve(config, plane, parts, taking.as_mut()).await;
    if let (Err(error), Some(taking)) = (&ended, &mut taking) {
        taking.fail(&error.to_string()).await;
    }
    ended
}

async fn hold_and_serve(
    config: Config,
    plane: Arc<dyn Plane>,
    mut parts: Parts,
    mut taking: Option<&mut Taking>,
) -> Result<Ended, RunError> {
    let state = match taking.as_deref_mut().and_then(Taking::lock) {
        Some(lock) => StateDir::inherit(&config.state_dir, lock),
        None => StateDir::hold(&config.state_dir)?,
    };
    let metrics = Arc::new(Metrics::new(&parts.facts.version, &parts.facts.io));
    // Without its authority an edge reaches no host that joined: nothing would be served.
    let cluster = open_cluster(&state, &config)?;
    let mut credentials = cluster.published();
    let token = Token::open(&config.private.token_file)?;
    let token_file = token.file().to_owned();
    let private = match parts.upgrade.private.take() {
        Some(inherited) => inherited.set_nonblocking(true).and_then(|()| TcpListener::from_std(inherited)),
        None => TcpListener::bind(config.private.addr).await,
    };
    let unopened = |source| RunError::Private { addr: config.private.addr, source };
    let listener = private.map_err(unopened)?;
    let private = listener.local_addr().map_err(unopened)?;
    let initial = |routes: Arc<Routes>| Initial {
        routes,
        certs: parts.certs.borrow().clone(),
        cluster: Some(cluster.published().borrow().clone()),
        settings: config.settings(),
    };
    let Table { dir, routes, first } = match taking {
        None => open_table(&state, &*plane, &initial)?,
        Some(taking) => take_table(taking, &state, &plane, &parts.upgrade, parts.facts.io == "uring", &initial).await?,
    };
    let bundles = Bundles::open(state.path("bundles"))?;
    let mut desk = open_desk(&state, &parts.upgrade, &config, &listener);

    let api = Api::new(
        token,
        Arc::clone(&cluster),
        parts.facts.clone(),
        Arc::clone(&plane),
        Arc::clone(&metrics),
        Arc::clone(&parts.upgrade.elders),
    );
    if let Some(first) = first.clone() {
        api.published(first);
    }
    let (stop_serving, stopped) = oneshot::channel::<()>();
    let listener = Listener::new(listener, cluster.private_server(), Plain::Loopback)
        .map_err(|source| RunError::Private { addr: private, source })?;
    api.count_refused(listener.refused());
    let closing = listener.closing();
    let service = router(Arc::clone(&api)).into_make_service_with_connect_info::<Peer>();
    let serve = axum::serve(listener, service).with_graceful_shutdown(async {
        // Dropping the sender stops it too.
        let _ = stopped.await;
    });
    let mut serving = tokio::spawn(async move { serve.await });
    let renewed = Arc::clone(&cluster);
    let renewing = tokio::spawn(async move { renewed.renew().await });
    tracing::info!(%private, "the private port answers");
    let Parts { facts, clock, config_file, mut orders, mut certs, on_reload, ready, upgrade } = parts;
    if let Some(ready) = ready {
        let _ = ready.send(Ready { private, token_file });
    }

    // Until the store is there, only an order to stop matters, or a process that replaces this one.
    let store_path = state.path("store.db");
    let mut published = first.clone().map(Arc::new);
    let mut timeouts = config.timeouts.clone();
    let mut store_thread = None;
    let opened = tokio::select! {
        opened = open_store(&store_path, dir, routes, &api) => Ok(opened?),
        heir = without_store(&mut orders, desk.as_mut(), &upgrade) => Err(heir),
    };
    let heir = match opened {
        Err(heir) => heir,
        Ok(Opened { store, thread, dir, routes }) => {
            let initial = Initial {
                routes,
                certs: certs.borrow_and_update().clone(),
                cluster: Some(credentials.borrow_and_update().clone()),
                settings: config.settings(),
            };
            let (events_in, events) = mpsc::channel(64);
            let streams = Streams {
                dir: state.path("stream"),
                edge: config.cluster.name.clone(),
                store: Arc::clone(&store),
                faults: config.faults,
            };
            let control = Control::start(dir, initial, first, store, Arc::clone(&plane), Arc::clone(&metrics));
            let edge = Arc::new(Edge {
                facts,
                begun: Instant::now(),
                clock,
                config: ArcSwap::from_pointee(config.clone()),
                control,
                hosts: Arc::new(Hosts::new(cluster.private_client(), streams)),
                bundles,
                workflows: Tracker::default(),
                metrics,
                reports: Arc::new(Reports::new(plane.meters())),
                host_events: events_in,
                registering: tokio::sync::Mutex::default(),
            });
            tokio::spawn(follow::look(Arc::clone(&edge.reports), edge.begun));
            let following = Arc::clone(&edge);
            tokio::spawn(async move {
                while credentials.changed().await.is_ok() {
                    let now = credentials.borrow_and_update().clone();
                    following.control.set_cluster(now).await;
                }
            });
            begin(&edge).await;
            tokio::spawn(follow_hosts(Arc::clone(&edge), events));
            api.open(Arc::clone(&edge));
            let reloading = Reloading { file: config_file.as_deref(), done: &*on_reload };
            let heir = obey(&edge, &api, &reloading, &mut orders, &mut certs, desk.as_mut(), &upgrade).await;
            published = Some(edge.control.published());
            timeouts = edge.config.load().timeouts.clone();
            store_thread = Some(thread);
            heir
        }
    };
    api.stop();
    if let Some(offer) = &upgrade.offer {
        offer.close();
    }
    if heir.is_none() {
        systemd::notify("STOPPING=1");
        shut_down(&*plane, timeouts.drain, &mut orders).await;
    } else {
        plane.drain(timeouts.upgrade);
    }
    let until = Instant::now() + timeouts.upgrade;
    if heir.is_some() {
        let _ = tokio::time::timeout(UPGRADE_API, closing.close()).await;
    }
    let _ = stop_serving.send(());
    if heir.is_some() {
        let _ = tokio::time::timeout(UPGRADE_API, &mut serving).await;
    }
    // Streams of the private port (followed logs) have no end of their own.
    serving.abort();
    renewing.abort();
    Ok(match heir {
        None => Ended::Stopped,
        Some(heir) => Ended::Replaced(Box::new(Replaced { heir, published, store: store_thread, until })),
    })
}

/// The table that an edge begins with, published if there is one.
struct Table {
    dir: TableDir,
    routes: Option<Arc<Routes>>,
    first: Option<Published>,
}

fn open_table_dir(state: &StateDir) -> steady_table::Result<(TableDir, Option<Routes>)> {
    let options = Options { reserved: Vec::new(), ..Options::default() };
    let (dir, routes, damage) = TableDir::open_with(state.path(TABLE), options)?;
    for damage in damage {
        tracing::error!(%damage, "passed over");
    }
    Ok((dir, routes))
}

fn open_table(
    state: &StateDir,
    plane: &dyn Plane,
    initial: &impl Fn(Arc<Routes>) -> Initial,
) -> Result<Table, RunError> {
    let (dir, routes) = open_table_dir(state)?;
    let routes = routes.map(Arc::new);
    let first = routes.as_ref().map(|routes| publish_first(plane, &initial(Arc::clone(routes))));
    Ok(Table { dir, routes, first })
}

/// Serves from the old process' table, and gets it when that process has let go. On an error the old one is the edge as before.
async fn take_table(
    taking: &mut Taking,
    state: &StateDir,
    plane: &Arc<dyn Plane>,
    parts: &upgrade::Parts,
    uring: bool,
    initial: &impl Fn(Arc<Routes>) -> Initial,
) -> Result<Table, RunError> {
    SqliteStore::check(&state.path("store.db")).map_err(|error| RunError::NotTaken(error.to_string()))?;
    if let (Some(text), Some(tickets)) = (taking.prepared().await?, &parts.tickets)
        && let Err(error) = tickets.adopt(&text, std::time::SystemTime::now())
    {
        tracing::warn!(%error, "the old process' ticket keys cannot be used: clients make full handshakes");
    }
    let (routes, damage) = steady_table::open_latest(state.path(TABLE))?;
    for damage in damage {
        tracing::error!(%damage, "passed over");
    }
    let first = routes.map(|routes| publish_first(&**plane, &initial(Arc::new(routes))));
    if let Some(first) = &first {
        all_serve(&**plane, first.publication).await?;
    }
    if let Err(error) = taking.serving().await {
        // It goes on, so what came here meanwhile is finished and no more taken.
        plane.drain(UPGRADE_GIVE_UP);
        let begun = Instant::now();
        while !plane.is_drained() && begun.elapsed() < UPGRADE_GIVE_UP {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
        return Err(error.into());
    }
    if let Some(offer) = &parts.offer
        && let Err(error) = offer.set_blocking(uring)
    {
        tracing::warn!(%error, "the listeners stay as the old process had them, which costs a little more");
    }
    if let Err(error) = state.sign() {
        tracing::warn!(%error, "the lock of the state directory names the old process");
    }
    parts.elders.cap();
    let (dir, routes) = open_table_dir(state)?;
    Ok(Table { dir, routes: routes.map(Arc::new), first })
}

/// Waits until every worker accepts and runs this publication.
async fn all_serve(plane: &dyn Plane, publication: u64) -> Result<(), RunError> {
    let begun = Instant::now();
    while plane.settled() < publication {
        if let Some(reason) = plane.failure() {
            return Err(RunError::NotTaken(reason));
        }
        if begun.elapsed() > SETTLE {
            return Err(RunError::NotTaken(format!("not every worker serves after {} s", SETTLE.as_secs())));
        }
        tokio::time::sleep(START_LOOK).await;
    }
    Ok(())
}

/// Where a process that replaces this one finds it. An edge that cannot be replaced serves all the same.
fn open_desk(state: &StateDir, parts: &upgrade::Parts, config: &Config, private: &TcpListener) -> Option<Desk> {
    let offer = parts.offer.as_ref()?;
    let opened = offer
        .add(PRIVATE, config.private.addr, private)
        .and_then(|()| offer.set_lock(state.lock()))
        .and_then(|()| Desk::open(&config.state_dir, Arc::clone(offer), parts.successor.clone()));
    opened.inspect_err(|error| tracing::error!(%error, "this process cannot be replaced without a restart")).ok()
}

/// The next process that wants to take over, as long as there is a desk.
async fn next_heir(desk: Option<&mut Desk>) -> Heir {
    match desk {
        Some(desk) => desk.next().await,
        None => std::future::pending().await,
    }
}

fn summon(desk: Option<&Desk>) {
    match desk {
        Some(desk) => desk.summon(),
        None => tracing::error!("this process cannot be replaced without a restart"),
    }
}

/// Obeys while there is no store: until told to stop, or until another process has taken over.
async fn without_store(
    orders: &mut mpsc::Receiver<Order>,
    mut desk: Option<&mut Desk>,
    parts: &upgrade::Parts,
) -> Option<Heir> {
    let mut orders_alive = true;
    loop {
        tokio::select! {
            order = orders.recv(), if orders_alive => match order {
                Some(Order::Stop) => return None,
                Some(Order::Upgrade) => summon(desk.as_deref()),
                Some(Order::Reload) => {}
                // Nobody can order anything any more: run on.
                None => orders_alive = false,
            },
            heir = next_heir(desk.as_deref_mut()) => {
                let Some(offer) = &parts.offer else { continue };
                if let Some(heir) = heir.take_over(None, offer).await {
                    return Some(heir);
                }
            }
        }
    }
}

fn open_cluster(state: &StateDir, config: &Config) -> Result<Arc<Cluster>, ClusterError> {
    let mut edges = config.cluster.edges.clone();
    let own = config.private.addr;
    if edges.is_empty() && !own.ip().is_unspecified() && own.port() != 0 {
        edges.push(own);
    }
    Cluster::open(&state.path("cluster"), &config.cluster.name, edges, std::time::SystemTime::now())
}

/// The store, and the table as it says.
struct Opened {
    store: Arc<dyn Store>,
    /// Ends when the store's file is closed.
    thread: std::thread::JoinHandle<()>,
    dir: TableDir,
    routes: Arc<Routes>,
}

/// Opens the store and brings the table to what it says. With a table to serve from, it is tried until it can be.
async fn open_store(
    path: &Path,
    mut dir: TableDir,
    routes: Option<Arc<Routes>>,
    api: &Api,
) -> Result<Opened, RunError> {
    loop {
        let owned = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || SqliteStore::open_with_thread(&owned)).await;
        let problem = match opened {
            Ok(Ok((store, thread))) => {
                let store: Arc<dyn Store> = Arc::new(store);
                match reconcile_table(dir, routes.clone(), &*store).await {
                    Ok((dir, routes)) => return Ok(Opened { store, thread, dir, routes }),
                    Err((back, error)) => {
                        dir = back;
                        error.to_string()
                    }
                }
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        if routes.is_none() {
            return Err(RunError::Nothing(problem));
        }
        tracing::error!(problem, "serving from the last good routing table alone; the store is tried again");
        api.wait_for(problem);
        tokio::time::sleep(STORE_AGAIN).await;
    }
}

/// Takes up what the store knows: hosts of it and of the configuration, domains, bundles, workflows. Hosts are watched last:
/// by then each workflow that was under way holds its application, so that nobody puts that right behind its back.
async fn begin(edge: &Arc<Edge>) {
    let config = edge.config.load_full();
    let mut new = Vec::new();
    match edge.store().load().await {
        Ok(contents) => {
            new.extend(contents.hosts.iter().filter_map(|record| put_host(edge, record.clone())));
            new.extend(apply_hosts(edge, &config.hosts, &contents).await);
            apply_domains(edge, &config.domains, &contents).await;
            sweep_bundles(edge, &contents).await;
        }
        Err(error) => tracing::error!(%error, "the store cannot be read"),
    }
    if let Err(error) = resume_all(edge).await {
        tracing::error!(%error, "workflows that were under way are not taken up");
    }
    new.into_iter().for_each(|handle| watch_new(edge, handle));
}

/// The handle, if it is new and wants watching.
fn put_host(edge: &Edge, record: HostRecord) -> Option<Arc<HostHandle>> {
    edge.hosts.put(record).unwrap_or_else(|error| {
        tracing::error!(%error, "a host is left out");
        None
    })
}

/// Watches a host and follows its reports, until another handle takes this one's place.
pub(crate) fn watch_new(edge: &Arc<Edge>, handle: Arc<HostHandle>) {
    let paced = Arc::clone(edge);
    let pace = move || {
        let health = &paced.config.load().health;
        Pace { every: health.every, suspect_after: health.suspect_after, down_after: health.down_after }
    };
    tokio::spawn(follow::follow(Arc::clone(&edge.reports), Arc::clone(&edge.hosts), Arc::clone(&handle), edge.begun));
    tokio::spawn(watch_host(Arc::clone(&edge.hosts), handle, pace, edge.host_events.clone()));
}

/// Brings the hosts to what the configuration says. One that still has applications stays, with a warning.
/// The handles that are new.
async fn apply_hosts(edge: &Edge, wanted: &[HostConfig], contents: &Contents) -> Vec<Arc<HostHandle>> {
    let wanted: Vec<HostRecord> = wanted
        .iter()
        .map(|host| HostRecord {
            name: host.name.clone(),
            addr: host.addr.clone(),
            control: host.control.to_string(),
            token_file: host.token_file.as_deref().map_or_else(String::new, |file| file.to_string_lossy().into_owned()),
        })
        .collect();
    let mut writes: Vec<Write> = Vec::new();
    let mut removed = Vec::new();
    for known in &contents.hosts {
        if known.is_registered() || wanted.iter().any(|host| host.name == known.name) {
            continue;
        }
        let uses = |app: &crate::store::AppRecord| {
            app.host == known.name || app.moving.as_ref().is_some_and(|moving| moving.to == known.name)
        };
        if contents.apps.iter().any(uses) {
            let host = &known.name;
            tracing::warn!(
                host,
                "it is not in the configuration any more, but has applications: it stays until they moved"
            );
        } else {
            removed.push(known.name.clone());
            writes.push(Write::RemoveHost(known.name.clone()));
        }
    }
    writes.extend(wanted.iter().filter(|host| !contents.hosts.contains(host)).cloned().map(Write::PutHost));
    if !writes.is_empty() {
        let what = format!("hosts: {}", wanted.iter().map(|host| host.name.as_str()).collect::<Vec<_>>().join(", "));
        if let Err(error) = commit(edge, what, writes).await {
            tracing::error!(%error, "the hosts of the configuration are not in force");
            return Vec::new();
        }
    }
    removed.iter().for_each(|name| edge.hosts.remove(name));
    wanted.into_iter().filter_map(|record| put_host(edge, record)).collect()
}

/// Brings the domains to what the configuration says, if that changed since it was last applied: until then what the API
/// was told holds.
async fn apply_domains(edge: &Edge, wanted: &[DomainName], contents: &Contents) {
    let text = wanted.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    if matches!(edge.store().meta(CONFIGURED_DOMAINS).await, Ok(Some(known)) if known == text) {
        return;
    }
    let mut writes = vec![Write::SetMeta(CONFIGURED_DOMAINS, text.clone())];
    if contents.domains != wanted {
        writes.push(Write::SetDomains(wanted.to_vec()));
    }
    if let Err(error) = commit(edge, format!("domains: {text}"), writes).await {
        tracing::error!(%error, "the domains of the configuration are not in force");
    }
}

async fn commit(edge: &Edge, what: String, writes: Vec<Write>) -> Result<u64, ControlError> {
    edge.control.commit(Commit { at_ms: edge.now(), what, expect: Vec::new(), writes }).await
}

/// Removes bundles that neither an application nor a workflow needs.
async fn sweep_bundles(edge: &Edge, contents: &Contents) {
    let Ok(open) = edge.store().open_workflows().await else { return };
    let mut used: HashSet<String> = contents.apps.iter().map(|app| app.digest.clone()).collect();
    for workflow in open {
        used.extend(workflow.state.get("digest").and_then(|digest| digest.as_str()).map(str::to_owned));
        used.extend(workflow.state.pointer("/old/digest").and_then(|digest| digest.as_str()).map(str::to_owned));
    }
    let bundles = edge.bundles.clone();
    match tokio::task::spawn_blocking(move || bundles.sweep(&used)).await {
        Ok(Ok(0)) => {}
        Ok(Ok(removed)) => tracing::info!(removed, "bundles that nobody needs are gone"),
        Ok(Err(error)) => tracing::warn!(%error, "bundles that nobody needs stay"),
        Err(error) => tracing::warn!(%error, "bundles that nobody needs stay"),
    }
}

/// Carries what the watch finds to the workers, and puts hosts right that return.
async fn follow_hosts(edge: Arc<Edge>, mut events: mpsc::Receiver<HostEvent>) {
    let mut returns = Returns::new(Arc::clone(&edge));
    while let Some(event) = events.recv().await {
        match event {
            HostEvent::State { host, state } => {
                if state == HostState::Up {
                    tracing::info!(host, "up");
                } else {
                    tracing::warn!(host, state = crate::agents::state_name(state), "its agent does not answer");
                }
                edge.control.set_host(&host, state).await;
            }
            HostEvent::Returned { host, claims } => returns.returned(host, claims),
        }
    }
}

/// What a reload reads and whom it tells.
struct Reloading<'r> {
    file: Option<&'r Path>,
    done: &'r (dyn Fn() + Send + Sync),
}

/// Obeys until told to stop, or until another process has taken over.
async fn obey(
    edge: &Arc<Edge>,
    api: &Api,
    reloading: &Reloading<'_>,
    orders: &mut mpsc::Receiver<Order>,
    certs: &mut watch::Receiver<Certs>,
    mut desk: Option<&mut Desk>,
    parts: &upgrade::Parts,
) -> Option<Heir> {
    let mut certs_alive = true;
    let mut orders_alive = true;
    loop {
        tokio::select! {
            order = orders.recv(), if orders_alive => match order {
                Some(Order::Stop) => return None,
                Some(Order::Reload) => {
                    (reloading.done)();
                    parts.elders.reopen_logs();
                    reload(edge, api, reloading.file).await;
                }
                Some(Order::Upgrade) => summon(desk.as_deref()),
                None => orders_alive = false,
            },
            changed = certs.changed(), if certs_alive => match changed {
                Ok(()) => {
                    let now = certs.borrow_and_update().clone();
                    edge.control.set_certs(now).await;
                }
                Err(_) => certs_alive = false,
            },
            heir = next_heir(desk.as_deref_mut()) => {
                let Some(offer) = &parts.offer else { continue };
                if let Some(heir) = heir.take_over(Some(&edge.control), offer).await {
                    return Some(heir);
                }
            }
        }
    }
}

/// Reads the configuration again. A file that is wrong changes nothing.
async fn reload(edge: &Arc<Edge>, api: &Api, file: Option<&Path>) {
    if let Err(error) = api.reload_token() {
        tracing::error!(%error, "the old token stays");
    }
    let Some(file) = file else { return };
    let new = match Config::load(file) {
        Ok(new) => new,
        Err(invalid) => {
            for problem in invalid.0 {
                tracing::error!(%problem, "the configuration stays as it was");
            }
            return;
        }
    };
    let reload = edge.config.load().reload(&new);
    for key in &reload.restart {
        tracing::warn!(key, "it takes effect at the next start");
    }
    let effective = Arc::new(reload.effective);
    if reload.live.contains(&"log.level") {
        steady_proxy::daemon::set_log_level(&effective.log.level);
    }
    edge.config.store(Arc::clone(&effective));
    edge.control.set_settings(effective.settings()).await;
    match edge.store().load().await {
        Ok(contents) => {
            for handle in apply_hosts(edge, &effective.hosts, &contents).await {
                watch_new(edge, handle);
            }
            apply_domains(edge, &effective.domains, &contents).await;
        }
        Err(error) => tracing::error!(%error, "hosts and domains stay as they were"),
    }
    tracing::info!(live = ?reload.live, "the configuration was read again");
}

async fn stop_ordered(orders: &mut mpsc::Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        if order == Order::Stop {
            return;
        }
    }
    // Nobody can order anything any more: run on.
    std::future::pending().await
}

/// Lets the data path finish. A second order to stop ends it at once.
async fn shut_down(plane: &dyn Plane, deadline: Duration, orders: &mut mpsc::Receiver<Order>) {
    tracing::info!(?deadline, "stopping: what was begun is finished");
    plane.drain(deadline);
    let begun = Instant::now();
    let drained = async {
        // The data path keeps the deadline itself; a little more is for it to say so.
        while !plane.is_drained() && begun.elapsed() < deadline + Duration::from_secs(1) {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    };
    tokio::select! {
        () = drained => {}
        () = stop_ordered(orders) => tracing::warn!("told again: what was begun is cut"),
    }
}
