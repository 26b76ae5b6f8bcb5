//! What an edge has before its store: its directory, its authority, a table to serve from, and the private port.

use std::sync::Arc;

use steady_cluster::listen::{Closing, Listener, Plain};
use steady_cluster::serve::serve;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::table::{Table, open_table, take_table};
use super::{PRIVATE, Parts, Ready, RunError};
use crate::agents::Hosts;
use crate::agents::orders::Streams;
use crate::api::{Api, Token, router};
use crate::bundles::Bundles;
use crate::cluster::{Cluster, ClusterError};
use crate::config::Config;
use crate::control::Initial;
use crate::limits::UPGRADE_API;
use crate::metrics::Metrics;
use crate::snapshot::Plane;
use crate::state_dir::StateDir;
use crate::store::Store;
use crate::upgrade::{self, Desk, Taking};

/// See the module.
pub(super) struct Base {
    pub state: StateDir,
    pub metrics: Arc<Metrics>,
    pub cluster: Arc<Cluster>,
    pub bundles: Bundles,
    pub desk: Option<Desk>,
    pub api: Arc<Api>,
    pub port: Port,
}

impl Base {
    /// Opens everything in the order in which it may fail, and answers at the private port.
    pub async fn open(
        config: &Config,
        plane: &Arc<dyn Plane>,
        parts: &mut Parts,
        mut taking: Option<&mut Taking>,
    ) -> Result<(Base, Table), RunError> {
        let state = match taking.as_deref_mut().and_then(Taking::lock) {
            Some(lock) => StateDir::inherit(&config.state_dir, lock),
            None => StateDir::hold(&config.state_dir)?,
        };
        let metrics = Arc::new(Metrics::new(&parts.facts.version, &parts.facts.io));
        // Without its authority an edge reaches no host that joined: nothing would be served.
        let cluster = open_cluster(&state, config)?;
        let token = Token::open(&config.private.token_file)?;
        let listener = bind(config, parts.upgrade.private.take()).await?;
        let initial = |routes| Initial {
            routes,
            certs: parts.certs.borrow().clone(),
            cluster: Some(cluster.published().borrow().clone()),
            settings: config.settings(),
        };
        let table = match taking {
            None => open_table(&state, &**plane, &initial)?,
            Some(taking) => {
                take_table(taking, &state, plane, &parts.upgrade, parts.facts.io == "uring", &initial).await?
            }
        };
        let bundles = Bundles::open(state.path("bundles"))?;
        let desk = open_desk(&state, &parts.upgrade, config, &listener);
        let token_file = token.file().to_owned();
        let api = Api::new(
            token,
            Arc::clone(&cluster),
            parts.facts.clone(),
            Arc::clone(plane),
            Arc::clone(&metrics),
            Arc::clone(&parts.upgrade.elders),
        );
        if let Some(first) = table.first.clone() {
            api.published(first);
        }
        let (port, private) = Port::open(config, listener, &cluster, &api)?;
        if let Some(ready) = parts.ready.take() {
            let _ = ready.send(Ready { private, token_file });
        }
        Ok((Base { state, metrics, cluster, bundles, desk, api, port }, table))
    }

    /// The hosts, of whom none is known yet.
    pub fn hosts(&self, config: &Config, store: Arc<dyn Store>) -> Arc<Hosts> {
        let (dir, edge) = (self.state.path("stream"), config.cluster.name.clone());
        Arc::new(Hosts::new(self.cluster.private_client(), Streams { dir, edge, store, faults: config.faults }))
    }
}

fn unopened(config: &Config) -> impl Fn(std::io::Error) -> RunError {
    let addr = config.private.addr;
    move |source| RunError::Private { addr, source }
}

async fn bind(config: &Config, inherited: Option<std::net::TcpListener>) -> Result<TcpListener, RunError> {
    let bound = match inherited {
        Some(inherited) => inherited.set_nonblocking(true).and_then(|()| TcpListener::from_std(inherited)),
        None => TcpListener::bind(config.private.addr).await,
    };
    bound.map_err(unopened(config))
}

/// The private port, and what is renewed as long as it answers.
pub(super) struct Port {
    closing: Closing,
    /// Dropping it stops the port too.
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
    renewing: JoinHandle<()>,
}

impl Port {
    fn open(
        config: &Config,
        listener: TcpListener,
        cluster: &Arc<Cluster>,
        api: &Arc<Api>,
    ) -> Result<(Port, std::net::SocketAddr), RunError> {
        let private = listener.local_addr().map_err(unopened(config))?;
        let listener = Listener::new(listener, cluster.private_server(), Plain::Loopback)
            .map_err(|source| RunError::Private { addr: private, source })?;
        api.count_refused(listener.refused());
        let closing = listener.closing();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(serve(listener, router(Arc::clone(api)), async { drop(stopped.await) }));
        let renewed = Arc::clone(cluster);
        let renewing = tokio::spawn(async move { renewed.renew().await });
        tracing::info!(%private, "the private port answers");
        Ok((Port { closing, stop, serving, renewing }, private))
    }

    /// Ends it. For an heir, which has the same port, calls that are under way get a moment.
    pub async fn close(mut self, for_an_heir: bool) {
        if for_an_heir {
            let _ = tokio::time::timeout(UPGRADE_API, self.closing.close()).await;
        }
        let _ = self.stop.send(());
        if for_an_heir {
            let _ = tokio::time::timeout(UPGRADE_API, &mut self.serving).await;
        }
        // Streams of the private port (followed logs) have no end of their own.
        self.serving.abort();
        self.renewing.abort();
    }
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

fn open_cluster(state: &StateDir, config: &Config) -> Result<Arc<Cluster>, ClusterError> {
    Cluster::open(&state.path("cluster"), &config.cluster.name, std::time::SystemTime::now())
}
