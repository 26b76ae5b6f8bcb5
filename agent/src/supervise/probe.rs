//! One real HTTP request to a process, and whether it was answered.

use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use steady_ring::Addr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::gate::Protocol;

/// Why a probe had no answer; for people.
pub type ProbeError = String;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Probe {
    pub addr: Addr,
    pub protocol: Protocol,
    pub path: String,
    /// The host field: the application's name.
    pub host: String,
}

impl Probe {
    /// Asks once, on a connection of its own. Any HTTP answer is `Ok`, whatever its status.
    pub async fn ask(&self, timeout: Duration) -> Result<StatusCode, ProbeError> {
        let asked = async {
            match &self.addr {
                Addr::Tcp(addr) => self.ask_on(TcpStream::connect(addr).await.map_err(no_connection)?).await,
                Addr::Unix(path) => self.ask_on(UnixStream::connect(path).await.map_err(no_connection)?).await,
            }
        };
        tokio::time::timeout(timeout, asked).await.map_err(|_| format!("no answer within {timeout:?}"))?
    }

    async fn ask_on(&self, io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<StatusCode, ProbeError> {
        let request = self.request()?;
        let no_answer = |error: hyper::Error| format!("no HTTP answer: {error}");
        let io = TokioIo::new(io);
        match self.protocol {
            Protocol::Http1 => {
                let (mut sender, connection) = conn::http1::handshake(io).await.map_err(no_answer)?;
                let driven = AbortOnDrop(tokio::spawn(connection));
                let answer = sender.send_request(request).await.map_err(no_answer)?;
                drop(driven);
                Ok(answer.status())
            }
            Protocol::H2c => {
                let executor = TokioExecutor::new();
                let (mut sender, connection) = conn::http2::handshake(executor, io).await.map_err(no_answer)?;
                let driven = AbortOnDrop(tokio::spawn(connection));
                let answer = sender.send_request(request).await.map_err(no_answer)?;
                drop(driven);
                Ok(answer.status())
            }
        }
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, ProbeError> {
        let builder = Request::builder().method(Method::GET).header("user-agent", "steady-probe");
        let built = match self.protocol {
            Protocol::Http1 => {
                builder.uri(&self.path).header("host", &self.host).header("connection", "close").body(Empty::new())
            }
            Protocol::H2c => builder.uri(format!("http://{}{}", self.host, self.path)).body(Empty::new()),
        };
        built.map_err(|error| format!("the health path cannot be asked for: {error}"))
    }
}

fn no_connection(error: std::io::Error) -> ProbeError {
    format!("no connection: {error}")
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
