//! What an edge hears from outside while it runs: orders to read its configuration again, to stop or to be replaced, a process
//! that comes to replace it, and new certificates.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::configured::{apply_domains, apply_hosts};
use super::serving::watch_new;
use crate::api::Api;
use crate::certs::Certs;
use crate::config::Config;
use crate::control::Control;
use crate::edge::Edge;
use crate::signals::Order;
use crate::upgrade::{self, Desk, Heir};

/// See the module.
pub(super) struct Outside {
    pub orders: mpsc::Receiver<Order>,
    pub certs: watch::Receiver<Certs>,
    pub desk: Option<Desk>,
    pub upgrade: upgrade::Parts,
    pub config_file: Option<PathBuf>,
    pub on_reload: Box<dyn Fn() + Send + Sync>,
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
    pub async fn without_store(&mut self) -> Option<Heir> {
        let mut orders_alive = true;
        loop {
            tokio::select! {
                order = self.orders.recv(), if orders_alive => match order {
                    Some(Order::Stop) => return None,
                    Some(Order::Upgrade) => self.summon(),
                    Some(Order::Reload) => {}
                    // Nobody can order anything any more: run on.
                    None => orders_alive = false,
                },
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
        let (mut certs_alive, mut orders_alive) = (true, true);
        loop {
            tokio::select! {
                order = self.orders.recv(), if orders_alive => match order {
                    Some(Order::Stop) => return None,
                    Some(Order::Reload) => self.reload(edge, api).await,
                    Some(Order::Upgrade) => self.summon(),
                    None => orders_alive = false,
                },
                changed = self.certs.changed(), if certs_alive => match changed {
                    Ok(()) => {
                        let now = self.certs.borrow_and_update().clone();
                        edge.control.set_certs(now).await;
                    }
                    Err(_) => certs_alive = false,
                },
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

    /// Reads the configuration again. A file that is wrong changes nothing.
    async fn reload(&self, edge: &Arc<Edge>, api: &Api) {
        (self.on_reload)();
        self.upgrade.elders.reopen_logs();
        if let Err(error) = api.reload_token() {
            tracing::error!(%error, "the old token stays");
        }
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
}
