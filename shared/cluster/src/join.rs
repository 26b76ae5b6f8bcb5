//! Becoming a member, and staying one: the two calls to an edge's private port, as a host makes them.
//!
//! `POST /v1/join` carries a join token's secret and a signing request; `POST /v1/renew` a signing request, from a client
//! that shows the certificate that it has. Both answer an [`Answer`]. The same request may be sent again: it gets another
//! certificate for the same key and uses the token up once.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::connect::{call, connect};
use crate::{Identity, IdentityError, JoinToken, Member, Request, Role, tls};

/// What an edge takes to answer, connection included.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// The body of `POST /v1/join`; without `Debug`, since it holds a secret.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_debug_implementations, reason = "it holds a secret")]
pub struct Join {
    /// The secret part of the token.
    pub secret: String,
    /// The host's name.
    pub name: String,
    /// PEM.
    pub request: String,
}

/// The body of `POST /v1/renew`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renew {
    pub request: String,
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The certificate and those above it: PEM.
    pub certificate: String,
    /// The authorities to trust: PEM.
    pub trust: String,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    #[error("the edge at {edge} cannot be reached: {source}")]
    Unreachable { edge: SocketAddr, source: io::Error },
    /// It will say the same again until somebody changes something.
    #[error("the edge at {edge} refused: {detail}")]
    Refused { edge: SocketAddr, detail: String },
    #[error("the edge at {edge} failed: {detail}")]
    Failed { edge: SocketAddr, detail: String },
    #[error("the edge's answer: {0}")]
    Identity(#[from] IdentityError),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Buys a certificate for the host of this name, from an edge that the token's authority vouches for.
pub async fn join(
    edge: SocketAddr,
    token: &JoinToken,
    member: &Member,
    request: &Request,
) -> Result<Identity, JoinError> {
    let config = tls::first_contact(token.authority())?;
    let body =
        json!(Join { secret: token.secret(), name: member.name().to_owned(), request: request.pem().to_owned() });
    ask(edge, config, "/v1/join", body, request).await
}

/// The next certificate of the member that `identity` is.
pub async fn renew(edge: SocketAddr, identity: &Identity, request: &Request) -> Result<Identity, JoinError> {
    let config = tls::private_client(identity)?;
    ask(edge, config, "/v1/renew", json!(Renew { request: request.pem().to_owned() }), request).await
}

async fn ask(
    edge: SocketAddr,
    config: Arc<ClientConfig>,
    path: &str,
    body: Value,
    request: &Request,
) -> Result<Identity, JoinError> {
    let unreachable = |source| JoinError::Unreachable { edge, source };
    let exchange = async {
        let stream = connect(edge, config, Role::Edge.server_name()).await?;
        call(stream, &edge.to_string(), path, &body).await
    };
    let (status, value) = tokio::time::timeout(ANSWER_TIME, exchange)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(unreachable)?;
    if !status.is_success() {
        let said = value.get("detail").or_else(|| value.get("title")).and_then(Value::as_str);
        let detail = said.map_or_else(|| status.to_string(), str::to_owned);
        let lasting = status.is_client_error() && status != 429;
        return Err(if lasting { JoinError::Refused { edge, detail } } else { JoinError::Failed { edge, detail } });
    }
    let answer: Answer = serde_json::from_value(value)
        .map_err(|error| JoinError::Failed { edge, detail: format!("it answered something else: {error}") })?;
    Ok(Identity::new(request, &answer.certificate, &answer.trust, SystemTime::now())?)
}
