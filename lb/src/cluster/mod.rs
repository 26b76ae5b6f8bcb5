//! The edge's part in its cluster: the authority, the edge's own certificate, and who may join.
//!
//! The authority is in `state_dir/cluster` and made at first start. The edge gives itself a certificate whenever it starts
//! and a third into its life; what is published of it ([`Cluster::published`]) is what the private port and the workers use
//! from the next connection on.

pub mod tokens;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::{ClientConfig, ServerConfig};
use steady_cluster::authority::AuthorityError;
use steady_cluster::identity::{IdentityError, Request};
use steady_cluster::join::Answer;
use steady_cluster::member::BadName;
use steady_cluster::{Authority, Identity, JoinToken, Member, Role, fingerprint, tls};
use tokio::sync::{Mutex, watch};

use self::tokens::{Entry, Refused, Tokens, Wanted};
use crate::control::ControlError;
use crate::edge::Edge;
use crate::store::{Commit, StoreError, Write};

/// How often the edge looks whether its certificate is to be replaced.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Where the store keeps the book of join tokens.
const TOKENS: &str = "join_tokens";

/// See the module.
#[derive(Debug)]
pub struct Cluster {
    authority: Authority,
    /// This edge.
    member: Member,
    published: watch::Sender<Arc<Credentials>>,
    private_server: watch::Sender<Option<Arc<ServerConfig>>>,
    private_client: watch::Sender<Option<Arc<ClientConfig>>>,
    /// Held while the book is read, changed and written.
    book: Mutex<()>,
}

/// What this edge shows, and whom it trusts, in the forms that connections take.
#[derive(Debug)]
pub struct Credentials {
    pub identity: Identity,
    /// Tells one from the one before: connections are not shared between them.
    pub number: u64,
    /// Towards hosts' data ports.
    pub data_client: Arc<ClientConfig>,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    #[error("the cluster's authority: {0}")]
    Authority(#[from] AuthorityError),
    #[error("this edge's own certificate: {0}")]
    Identity(#[from] IdentityError),
    #[error("TLS in the cluster: {0}")]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Name(#[from] BadName),
}

/// Why a host gets no certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinRefused {
    #[error(transparent)]
    Token(#[from] Refused),
    #[error(transparent)]
    Name(#[from] BadName),
    #[error("{0}")]
    Request(AuthorityError),
    /// It has shown no certificate, or that of no host that this edge knows.
    #[error("{0}")]
    NotMember(String),
    #[error("{0}")]
    Store(#[from] ControlError),
    #[error("{0}")]
    Wanted(String),
}

impl From<StoreError> for JoinRefused {
    fn from(error: StoreError) -> JoinRefused {
        JoinRefused::Store(error.into())
    }
}

impl Cluster {
    /// Opens the authority of `dir`, or makes it, and gives this edge a certificate.
    pub fn open(dir: &Path, name: &str, now: SystemTime) -> Result<Arc<Cluster>, ClusterError> {
        let authority = Authority::open(dir, now)?;
        let member = Member::new(Role::Edge, name)?;
        let identity = own(&authority, &member, now)?;
        let (private_server, private_client) = (tls::private_server(&identity)?, tls::private_client(&identity)?);
        let credentials = Credentials { data_client: tls::data_client(&identity)?, number: 0, identity };
        Ok(Arc::new(Cluster {
            authority,
            member,
            published: watch::Sender::new(Arc::new(credentials)),
            private_server: watch::Sender::new(Some(private_server)),
            private_client: watch::Sender::new(Some(private_client)),
            book: Mutex::new(()),
        }))
    }

    /// The credentials in use, and whenever they change.
    pub fn published(&self) -> watch::Receiver<Arc<Credentials>> {
        self.published.subscribe()
    }

    /// For the private port.
    pub fn private_server(&self) -> steady_cluster::listen::Configs {
        self.private_server.subscribe()
    }

    /// Towards agents' private ports.
    pub fn private_client(&self) -> steady_cluster::connect::Configs {
        self.private_client.subscribe()
    }

    /// The certificates that everybody here trusts, as PEM.
    pub fn trust(&self) -> &str {
        self.authority.trust()
    }

    /// Replaces this edge's certificate when its time comes; never returns.
    pub async fn renew(&self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            look.tick().await;
            let now = SystemTime::now();
            if !self.published.borrow().identity.is_due(now) {
                continue;
            }
            match self.replace(now) {
                Ok(()) => tracing::info!("this edge has a new certificate"),
                Err(error) => tracing::error!(%error, "this edge keeps its certificate; it is tried again"),
            }
        }
    }

    fn replace(&self, now: SystemTime) -> Result<(), ClusterError> {
        let identity = own(&self.authority, &self.member, now)?;
        self.private_server.send_replace(Some(tls::private_server(&identity)?));
        self.private_client.send_replace(Some(tls::private_client(&identity)?));
        let number = self.published.borrow().number + 1;
        let credentials = Credentials { data_client: tls::data_client(&identity)?, number, identity };
        self.published.send_replace(Arc::new(credentials));
        Ok(())
    }

    /// Makes a join token.
    pub async fn make_token(&self, edge: &Edge, wanted: Wanted) -> Result<(JoinToken, Entry), JoinRefused> {
        if let Some(host) = &wanted.host {
            Member::new(Role::Host, host)?;
        }
        let token = JoinToken::new(self.authority.fingerprint());
        let _held = self.book.lock().await;
        let mut book = read(edge).await?;
        let entry = book.add(&token, wanted, edge.now()).map_err(JoinRefused::Wanted)?;
        write(edge, &book, format!("join token {}", entry.id())).await?;
        Ok((token, entry))
    }

    /// Those that are still good.
    pub async fn tokens(&self, edge: &Edge) -> Result<Vec<Entry>, JoinRefused> {
        Ok(read(edge).await?.list(edge.now()).cloned().collect())
    }

    /// `false`: there is none of this id.
    pub async fn revoke_token(&self, edge: &Edge, id: &str) -> Result<bool, JoinRefused> {
        let _held = self.book.lock().await;
        let mut book = read(edge).await?;
        let found = book.revoke(id);
        if found {
            write(edge, &book, format!("join token {id} is revoked")).await?;
        }
        Ok(found)
    }

    /// Lets a host in: `POST /v1/join`.
    pub async fn join(&self, edge: &Edge, secret: &str, name: &str, request: &str) -> Result<Answer, JoinRefused> {
        let member = Member::new(Role::Host, name)?;
        let _held = self.book.lock().await;
        let mut book = read(edge).await?;
        let spent = book.spend(secret, name, &fingerprint(request.as_bytes()), edge.now())?;
        // Before the use is written: a request that is not one costs nothing. Before the answer: a use is never given twice.
        let answer = self.issue(&member, request)?;
        if spent {
            write(edge, &book, format!("host {name} joined")).await?;
        }
        tracing::info!(host = name, "joined");
        Ok(answer)
    }

    /// The next certificate of a host that shows its present one: `POST /v1/renew`.
    pub fn renew_host(&self, edge: &Edge, member: &Member, request: &str) -> Result<Answer, JoinRefused> {
        if member.role() != Role::Host || edge.hosts.find(member.name()).is_none() {
            let what = format!("{member} is no host of this edge: name it in the configuration, or let it join again");
            return Err(JoinRefused::NotMember(what));
        }
        self.issue(member, request)
    }

    fn issue(&self, member: &Member, request: &str) -> Result<Answer, JoinRefused> {
        let certificate = self.authority.issue(request, member, SystemTime::now()).map_err(JoinRefused::Request)?;
        Ok(Answer { certificate, trust: self.authority.trust().to_owned() })
    }
}

fn own(authority: &Authority, member: &Member, now: SystemTime) -> Result<Identity, ClusterError> {
    let request = Request::new()?;
    let certificate = authority.issue(request.pem(), member, now)?;
    Ok(Identity::new(&request, &certificate, authority.trust(), now)?)
}

async fn read(edge: &Edge) -> Result<Tokens, JoinRefused> {
    let Some(text) = edge.store().meta(TOKENS).await? else { return Ok(Tokens::default()) };
    serde_json::from_str(&text).map_err(|error| StoreError::Corrupt { what: format!("{TOKENS}: {error}") }.into())
}

async fn write(edge: &Edge, book: &Tokens, what: String) -> Result<(), JoinRefused> {
    let text = serde_json::to_string(book).map_err(|error| StoreError::Failed(error.to_string()))?;
    let commit = Commit { at_ms: edge.now(), what, expect: Vec::new(), writes: vec![Write::SetMeta(TOKENS, text)] };
    edge.control.commit(commit).await?;
    Ok(())
}
