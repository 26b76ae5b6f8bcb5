//! Connections to private ports, and one call over one.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::{TlsConnector, TlsStream};

use crate::stream::Stream;

/// TCP and TLS: it is near, or it is not there.
pub const CONNECT_TIME: Duration = Duration::from_secs(3);
/// Certificates and words.
const ANSWER_OCTETS_MAX: usize = 256 * 1024;

/// The configuration in use; `None`: there is none yet, and nobody can be reached.
pub type Configs = watch::Receiver<Option<Arc<ClientConfig>>>;

/// A TLS connection to `addr`, whose certificate must be `name`'s.
pub async fn connect(addr: SocketAddr, config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Stream> {
    let connect = async {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        Ok(Stream::Tls(Box::new(TlsStream::Client(stream))))
    };
    tokio::time::timeout(CONNECT_TIME, connect).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// One request with a JSON body on a connection of its own, and its answer.
pub async fn call(stream: Stream, host: &str, path: &str, body: &Value) -> io::Result<(StatusCode, Value)> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .map_err(io::Error::other)?;
    let answer = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = answer.status();
    let octets = Limited::new(answer.into_body(), ANSWER_OCTETS_MAX).collect().await.map_err(io::Error::other)?;
    connection.abort();
    let octets = octets.to_bytes();
    Ok((status, serde_json::from_slice(&octets).unwrap_or(Value::Null)))
}

/// How a hyper client reaches one member: TLS under its name, or plain TCP.
#[derive(Clone, Debug)]
pub struct Connector {
    addr: SocketAddr,
    tls: Option<(Configs, ServerName<'static>)>,
}

impl Connector {
    pub fn plain(addr: SocketAddr) -> Connector {
        Connector { addr, tls: None }
    }

    pub fn tls(addr: SocketAddr, configs: Configs, name: ServerName<'static>) -> Connector {
        Connector { addr, tls: Some((configs, name)) }
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Stream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Connector { addr, tls } = self.clone();
        Box::pin(async move {
            let Some((configs, name)) = tls else {
                let connect = tokio::time::timeout(CONNECT_TIME, TcpStream::connect(addr));
                let stream = connect.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
                stream.set_nodelay(true)?;
                return Ok(TokioIo::new(Stream::Plain(stream)));
            };
            let config = configs.borrow().clone();
            let config = config.ok_or_else(|| io::Error::other("there is no certificate of our own yet"))?;
            connect(addr, config, name).await.map(TokioIo::new)
        })
    }
}
