//! What an edge hears from outside while it runs: orders to read its configuration again, to stop or to be replaced, a process
//! that comes to replace it, and new certificates.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::configured::{Applied, apply};
use super::serving::watch_new;
use crate::api::Api;
use crate::certs::Certs;
use crate::cluster::Credentials;
use crate::config::Config;
use crate::control::{Control, Initial, Published, publish_first};
use crate::edge::Edge;
use crate::limits::RETRY_MOST;
use crate::signals::Order;
use crate::snapshot::{Plane, Settings};
use crate::upgrade::{self, Desk, Heir};

/// See the module.
pub(super) struct Outside {
    pub orders: mpsc::Receiver<Order>,
    pub certs: watch::Receiver<Certs>,
    pub desk: Option<Desk>,
    pub upgrade: upgrade::Parts,
    pub config_file: Option<PathBuf>,
    pub on_reload: Box<dyn Fn() + Send + Sync>,
    pub pending: Pending,
}

/// What of it has ended, and what is still to be done.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Nobody can order anything any more, or will have other certificates: run on.
    pub orders_ended: bool,
    pub certs_ended: bool,
    /// It was told to read the configuration before there was a store to bring to it.
    pub unread: bool,
    /// Hosts and domains of the configuration could not be stored: it is tried until they are.
    pub unapplied: bool,
}

/// An edge that serves from its table alone, until its store is there.
pub(super) struct Unstored<'e> {
    pub plane: &'e dyn Plane,
    pub api: &'e Api,
    pub settings: Settings,
    pub credentials: watch::Receiver<Arc<Credentials>>,
    /// `None`: there never was a table.
    pub first: Option<Published>,
}

impl Unstored<'_> {
    /// The same table with the certificates of now: a store that is broken for long must not have them run out.
    fn publish(&mut self, certs: Certs) {
        let Some(first) = &self.first else { return };
        let routes = Arc::clone(&first.snapshot.routes);
        let cluster = Some(self.credentials.borrow_and_update().clone());
        let published = publish_first(self.plane, &Initial { routes, certs, cluster, settings: self.settings.clone() });
        self.api.published(published.clone());
        self.first = Some(published);
    }
}

/// Brings hosts and domains to what the configuration says, unless that has to be tried again.
async fn apply_again(edge: &Arc<Edge>) -> bool {
    let registering = edge.registering.lock().await;
    let contents = match edge.store().load().await {
        Ok(contents) => contents,
        Err(error) => {
            tracing::error!(%error, "hosts and domains of the configuration are not in force; it is tried again");
            return false;
        }
    };
    let Applied { new, again } = apply(edge, &edge.config.load_full(), &contents, &registering).await;
    new.into_iter().for_each(|handle| watch_new(edge, handle));
    !again
}

/// The next process that wants to take over, as long as there is a desk.
async fn next_heir(desk: Option<&mut Desk>) -> Heir {
    match desk {
        Some(desk) => desk.next().await,
        None => std::future::pending().await,
    }
}

impl Outside {
    /// Obeys while there is no store: until told to stop, or until another process has taken over.
    pub async fn without_store(&mut self, unstored: &mut Unstored<'_>) -> Option<Heir> {
        loop {
            tokio::select! {
                order = self.orders.recv(), if !self.pending.orders_ended => match order {
                    Some(Order::Stop) => return None,
                    Some(Order::Upgrade) => self.summon(),
                    Some(Order::Reload) => {
                        self.reopen(unstored.api);
                        self.pending.unread = true;
                        tracing::warn!("the configuration is read again when the store is there");
                    }
                    None => self.pending.orders_ended = true,
                },
                changed = self.certs.changed(), if !self.pending.certs_ended => match changed {
                    Ok(()) => unstored.publish(self.certs.borrow_and_update().clone()),
                    Err(_) => self.pending.certs_ended = true,
                },
                Ok(()) = unstored.credentials.changed() => unstored.publish(self.certs.borrow().clone()),
                heir = next_heir(self.desk.as_mut()) => {
                    if let Some(heir) = self.give_way(heir, None).await {
                        return Some(heir);
                    }
                }
            }
        }
    }

    /// Obeys until told to stop, or until another process has taken over.
    pub async fn obey(&mut self, edge: &Arc<Edge>, api: &Api) -> Option<Heir> {
        if self.pending.unread {
            self.read_again(edge).await;
        }
        loop {
            tokio::select! {
                order = self.orders.recv(), if !self.pending.orders_ended => match order {
                    Some(Order::Stop) => return None,
                    Some(Order::Reload) => {
                        self.reopen(api);
                        self.read_again(edge).await;
                    }
                    Some(Order::Upgrade) => self.summon(),
                    None => self.pending.orders_ended = true,
                },
                changed = self.certs.changed(), if !self.pending.certs_ended => match changed {
                    Ok(()) => {
                        let now = self.certs.borrow_and_update().clone();
                        edge.control.set_certs(now).await;
                    }
                    Err(_) => self.pending.certs_ended = true,
                },
                () = tokio::time::sleep(RETRY_MOST), if self.pending.unapplied => self.pending.unapplied = !apply_again(edge).await,
                heir = next_heir(self.desk.as_mut()) => {
                    if let Some(heir) = self.give_way(heir, Some(&edge.control)).await {
                        return Some(heir);
                    }
                }
            }
        }
    }

    async fn give_way(&self, heir: Heir, control: Option<&Control>) -> Option<Heir> {
        heir.take_over(control, self.upgrade.offer.as_ref()?).await
    }

    fn summon(&self) {
        match &self.desk {
            Some(desk) => desk.summon(),
            None => tracing::error!("this process cannot be replaced without a restart"),
        }
    }

    /// Opens again what may be another file now: logs, certificates, the token.
    fn reopen(&self, api: &Api) {
        (self.on_reload)();
        self.upgrade.elders.reopen_logs();
        if let Err(error) = api.reload_token() {
            tracing::error!(%error, "the old token stays");
        }
    }

    /// Reads the configuration again. A file that is wrong changes nothing.
    async fn read_again(&mut self, edge: &Arc<Edge>) {
        self.pending.unread = false;
        let Some(file) = &self.config_file else { return };
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
        self.pending.unapplied = !apply_again(edge).await;
        tracing::info!(live = ?reload.live, "the configuration was read again");
    }
}
