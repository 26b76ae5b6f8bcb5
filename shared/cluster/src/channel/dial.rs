//! The host's side: finding an edge that answers, registering there, and answering it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::ConnectInfo;
use axum::{Extension, Router};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ClientConfig;
use serde_json::Value;

use super::{CALL_WINDOW, CALLS_MAX, CHANNEL_WINDOW, PATH, PING_EVERY, PING_TIMEOUT, Registration, UPGRADE};
use crate::connect::connect;
use crate::listen::Peer;
use crate::{Member, Role, Stream};

/// The next address is tried when the one before has not answered for so long (as RFC 8305 §5 has it for one name).
const NEXT_AFTER: Duration = Duration::from_millis(250);
/// What an edge may take to say yes or no: it writes a new host down first.
const ANSWER_TIME: Duration = Duration::from_secs(10);
const REFUSAL_OCTETS_MAX: usize = 64 * 1024;

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    #[error("no edge answers: {}", .0.iter().map(|(edge, why)| format!("{edge}: {why}")).collect::<Vec<_>>().join("; "))]
    Nobody(Vec<(SocketAddr, io::Error)>),
    #[error("the edge at {edge} broke off: {why}")]
    Broken { edge: SocketAddr, why: String },
    /// It will say the same again until somebody changes something.
    #[error("the edge at {edge} refused this host: {detail}")]
    Refused { edge: SocketAddr, detail: String },
    /// It is not ready for hosts.
    #[error("the edge at {edge} takes no hosts now: {detail}")]
    NotNow { edge: SocketAddr, detail: String },
}

/// A connection to an edge of the cluster.
#[derive(Debug)]
pub struct Dialled {
    /// Which of the addresses it is.
    pub addr: SocketAddr,
    /// Whom the edge's certificate is for.
    pub edge: Member,
    stream: Stream,
}

/// The first of these addresses at which an edge of the cluster answers. Each is given a moment before the next is tried
/// beside it, so that one that is silent delays nothing.
pub async fn dial(edges: &[SocketAddr], config: &Arc<ClientConfig>) -> Result<Dialled, DialError> {
    let mut waiting = edges.iter().copied();
    let mut trying = FuturesUnordered::new();
    let mut failed = Vec::new();
    let attempt = |addr: SocketAddr| {
        let config = Arc::clone(config);
        async move { (addr, connect(addr, config, Role::Edge.server_name()).await) }
    };
    trying.extend(waiting.next().map(attempt));
    loop {
        let next = async {
            if waiting.len() == 0 {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(NEXT_AFTER).await;
        };
        tokio::select! {
            tried = trying.next() => match tried {
                Some((addr, Ok(stream))) => match stream.member() {
                    Some(edge) => return Ok(Dialled { addr, edge, stream }),
                    None => failed.push((addr, io::Error::other("its certificate names no member"))),
                },
                Some((addr, Err(error))) => failed.push((addr, error)),
                None => return Err(DialError::Nobody(failed)),
            },
            () = next => {}
        }
        trying.extend(waiting.next().map(attempt));
    }
}

/// A channel that was granted: [`Channel::serve`] answers the edge.
#[derive(Debug)]
pub struct Channel {
    pub addr: SocketAddr,
    pub edge: Member,
    upgraded: Upgraded,
}

/// Registers this host and asks for the channel.
pub async fn register(dialled: Dialled, registration: &Registration) -> Result<Channel, DialError> {
    let Dialled { addr, edge, stream } = dialled;
    let asked = tokio::time::timeout(ANSWER_TIME, ask(stream, addr, registration)).await;
    let upgraded = asked.unwrap_or_else(|_| Err(DialError::Broken { edge: addr, why: "no answer in time".into() }))?;
    Ok(Channel { addr, edge, upgraded })
}

async fn ask(stream: Stream, edge: SocketAddr, registration: &Registration) -> Result<Upgraded, DialError> {
    let broken = |error: &dyn std::fmt::Display| DialError::Broken { edge, why: error.to_string() };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    // It ends by itself: when the connection is upgraded, or with the sender.
    tokio::spawn(connection.with_upgrades());
    let body = serde_json::to_vec(registration).map_err(|error| broken(&error))?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(PATH)
        .header(header::HOST, edge.to_string())
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, UPGRADE)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| broken(&error))?;
    let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
    let status = answer.status();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return hyper::upgrade::on(answer).await.map_err(|error| broken(&error));
    }
    let octets = Limited::new(answer.into_body(), REFUSAL_OCTETS_MAX).collect().await;
    let said: Value = octets.ok().and_then(|it| serde_json::from_slice(&it.to_bytes()).ok()).unwrap_or_default();
    let said = said.get("detail").or_else(|| said.get("title")).and_then(Value::as_str);
    let detail = said.map_or_else(|| status.to_string(), str::to_owned);
    let lasting = status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS;
    Err(if lasting { DialError::Refused { edge, detail } } else { DialError::NotNow { edge, detail } })
}

impl Channel {
    /// Answers the edge with this router until one of the two is gone; gives why. The router sees a [`Peer`] that is the edge.
    pub async fn serve(self, router: Router) -> String {
        let peer = Peer { addr: self.addr, secure: true, member: Some(self.edge) };
        let service = TowerToHyperService::new(router.layer(Extension(ConnectInfo(peer))));
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(CALL_WINDOW)
            .initial_connection_window_size(CHANNEL_WINDOW)
            .max_concurrent_streams(CALLS_MAX)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT);
        match builder.serve_connection(self.upgraded, service).await {
            Ok(()) => "the edge closed it".to_owned(),
            Err(error) => error.to_string(),
        }
    }
}
