//! This host as a member of its cluster: it joins, renews, and its ports use what it has.
//!
//! One task, [`Membership::keep`]. Without a certificate it reads the join token's file and asks one edge after the other,
//! again and again, so that it does not matter what was started first. With one, it looks once a minute whether a third of
//! its life has passed, and then asks for the next with a new key. What it has is in `identity.json` in the state folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use steady_cluster::identity::{IdentityError, Request};
use steady_cluster::join::{JoinError, join, renew};
use steady_cluster::member::BadName;
use steady_cluster::token::BadToken;
use steady_cluster::{Identity, JoinToken, Member, Role, tls};
use tokio::sync::watch;

use crate::config::JoinConfig;

/// Between two attempts to join: the first pause, and the longest.
const JOIN_AGAIN: Duration = Duration::from_millis(100);
const JOIN_AGAIN_MAX: Duration = Duration::from_secs(2);
/// How often the certificate's age is looked at, and renewal is tried again.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub struct Membership {
    member: Member,
    config: JoinConfig,
    file: PathBuf,
    /// The request that is out, until it is answered.
    request: PathBuf,
    published: watch::Sender<Option<Arc<Credentials>>>,
    private_server: watch::Sender<Option<Arc<ServerConfig>>>,
    failures: AtomicU64,
    renewals: AtomicU64,
}

/// What this host shows and whom it lets in, in the forms that its ports take.
#[derive(Debug)]
pub struct Credentials {
    pub identity: Identity,
    /// For the data port: edges of the cluster and nobody else.
    pub data_server: Arc<ServerConfig>,
}

/// Why this host is no member now.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    #[error(transparent)]
    Name(#[from] BadName),
    #[error("this host's certificate: {0}")]
    Identity(#[from] IdentityError),
    #[error("TLS in the cluster: {0}")]
    Tls(#[from] rustls::Error),
    #[error("{} cannot be read: {source}; write a join token there (`steady join-token` on the edge makes one)", path.display())]
    NoToken { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    Token { path: PathBuf, source: BadToken },
    /// What each edge said: one that cannot be reached may hide another's reason.
    #[error("{}", .0.iter().map(JoinError::to_string).collect::<Vec<_>>().join("; "))]
    Join(Vec<JoinError>),
}

impl Membership {
    /// Reads what this host has; nothing is asked of anybody yet.
    pub fn open(state_dir: &Path, name: &str, config: JoinConfig) -> Result<Arc<Membership>, MembershipError> {
        let member = Member::new(Role::Host, name)?;
        let file = state_dir.join("identity.json");
        // One that was made for another name is of no use to this one.
        let identity = Identity::load(&file)?.filter(|identity| *identity.member() == member);
        let membership = Arc::new(Membership {
            member,
            config,
            file,
            request: state_dir.join("join-request.json"),
            published: watch::Sender::new(None),
            private_server: watch::Sender::new(None),
            failures: AtomicU64::new(0),
            renewals: AtomicU64::new(0),
        });
        if let Some(identity) = identity {
            membership.publish(identity)?;
        }
        Ok(membership)
    }

    /// What this host has, and whenever it changes.
    pub fn published(&self) -> watch::Receiver<Option<Arc<Credentials>>> {
        self.published.subscribe()
    }

    /// Where edges are.
    pub fn edges(&self) -> &[std::net::SocketAddr] {
        &self.config.edges
    }

    /// For the control port.
    pub fn private_server(&self) -> steady_cluster::listen::Configs {
        self.private_server.subscribe()
    }

    /// Attempts to join or renew that failed, and those that did not.
    pub fn counts(&self) -> (u64, u64) {
        (self.failures.load(Ordering::Relaxed), self.renewals.load(Ordering::Relaxed))
    }

    /// Seconds that the certificate is still good for; negative when it is over; `None` without one.
    pub fn seconds_left(&self, now: SystemTime) -> Option<i64> {
        let published = self.published.borrow();
        let until = published.as_ref()?.identity.not_after();
        Some(match until.duration_since(now) {
            Ok(left) => left.as_secs() as i64,
            Err(over) => -(over.duration().as_secs() as i64),
        })
    }

    /// Joins, and renews for ever.
    pub async fn keep(&self) {
        let mut told = String::new();
        let mut pause = JOIN_AGAIN;
        loop {
            let held = self.published.borrow().clone();
            let now = SystemTime::now();
            let done = match &held {
                Some(held) if !held.identity.is_due(now) => {
                    tokio::time::sleep(LOOK_EVERY).await;
                    continue;
                }
                Some(held) if !held.identity.is_over(now) => self.renew(&held.identity).await,
                _ => self.join().await,
            };
            match done {
                Ok(()) => {
                    self.renewals.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(member = %self.member, "this host has a new certificate");
                    pause = JOIN_AGAIN;
                    told.clear();
                }
                Err(error) => {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    let said = error.to_string();
                    // What is tried every two seconds is said when it changes.
                    if said != told {
                        tracing::warn!("no certificate yet; it is tried again: {said}");
                        told = said;
                    }
                    let usable = held.is_some_and(|held| !held.identity.is_over(now));
                    let most = if usable { LOOK_EVERY } else { JOIN_AGAIN_MAX };
                    tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                    pause = (pause * 2).min(most);
                }
            }
        }
    }

    async fn join(&self) -> Result<(), MembershipError> {
        let path = &self.config.token_file;
        let text = tokio::fs::read_to_string(path).await;
        let text = text.map_err(|source| MembershipError::NoToken { path: path.clone(), source })?;
        let token: JoinToken = text.parse().map_err(|source| MembershipError::Token { path: path.clone(), source })?;
        // The same is sent until it is answered, by whatever process, so that the token is spent once.
        let request = Request::kept(&self.request)?;
        let mut said = Vec::new();
        for edge in &self.config.edges {
            match join(*edge, &token, &self.member, &request).await {
                Ok(identity) => {
                    self.take(identity)?;
                    // One that stays is good for the next time as well.
                    let _ = std::fs::remove_file(&self.request);
                    return Ok(());
                }
                Err(error) => said.push(error),
            }
        }
        if said.is_empty() { Ok(()) } else { Err(MembershipError::Join(said)) }
    }

    async fn renew(&self, identity: &Identity) -> Result<(), MembershipError> {
        let request = Request::new()?;
        let mut said = Vec::new();
        for edge in &self.config.edges {
            match renew(*edge, identity, &request).await {
                Ok(identity) => return self.take(identity),
                Err(error) => said.push(error),
            }
        }
        if said.is_empty() { Ok(()) } else { Err(MembershipError::Join(said)) }
    }

    /// Kept first, then used: what was shown to others is there after a crash.
    fn take(&self, identity: Identity) -> Result<(), MembershipError> {
        identity.save(&self.file)?;
        self.publish(identity)
    }

    fn publish(&self, identity: Identity) -> Result<(), MembershipError> {
        let private = tls::private_server(&identity)?;
        let data_server = tls::data_server(&identity)?;
        self.private_server.send_replace(Some(private));
        self.published.send_replace(Some(Arc::new(Credentials { identity, data_server })));
        Ok(())
    }
}
