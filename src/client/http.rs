//! HTTP/1.1 with an edge's private port: requests, answers that may be streamed, and why one did not come.
//!
//! The connections are [`Connector`]s of `shared/cluster`, TLS or plain: how an edge is spoken to is decided before
//! ([`reach`](super::reach)), and nothing in an answer changes it (no redirects, no proxies of the environment).

use std::error::Error as Cause;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
pub use hyper::{Method, StatusCode};
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use steady_cluster::Stream;
use steady_cluster::connect::Connector;
use tower::Service;

/// An answer that is read whole. `GET /v1/latency` of ten thousand applications has some 40 MiB.
const ANSWER_OCTETS_MAX: usize = 256 << 20;

/// One edge.
#[derive(Clone, Debug)]
pub struct Http {
    client: Client<Ways, Full<Bytes>>,
    /// `https://10.0.0.9:9900`: for messages, and where requests go.
    base: String,
    authorization: HeaderValue,
}

impl Http {
    /// `ways`: connectors to the addresses that `authority` stands for, to be tried in this order.
    pub fn new(ways: Vec<Connector>, authority: &str, secure: bool, authorization: HeaderValue) -> Http {
        let client = Client::builder(TokioExecutor::new()).build(Ways(ways.into()));
        let scheme = if secure { "https" } else { "http" };
        Http { client, base: format!("{scheme}://{authority}"), authorization }
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    pub async fn send(&self, request: Request) -> Result<Response, Broken> {
        let Request { method, path, content_type, body } = request;
        let mut made = hyper::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(AUTHORIZATION, self.authorization.clone());
        if let Some(content_type) = content_type {
            made = made.header(CONTENT_TYPE, content_type);
        }
        let made = made.body(Full::new(body)).map_err(|error| Broken::answer(&error))?;
        let (head, body) = self.client.request(made).await.map_err(|error| Broken::of(&error))?.into_parts();
        Ok(Response { status: head.status, body })
    }
}

/// What is asked. `path` and values of the query are encoded already, or need not be.
#[derive(Clone, Debug)]
pub struct Request {
    method: Method,
    path: String,
    content_type: Option<&'static str>,
    body: Bytes,
}

impl Request {
    pub fn new(method: Method, path: &str) -> Request {
        Request { method, path: path.to_owned(), content_type: None, body: Bytes::new() }
    }

    /// Whether it may change something.
    pub fn changes(&self) -> bool {
        self.method != Method::GET
    }

    /// With these behind what the path has of a query.
    pub fn query(mut self, pairs: &[(&str, impl AsRef<str>)]) -> Request {
        for (name, value) in pairs {
            let mark = if self.path.contains('?') { '&' } else { '?' };
            self.path.push_str(&format!("{mark}{name}={}", encoded(value.as_ref())));
        }
        self
    }

    pub fn json(self, body: &Value) -> Request {
        self.body("application/json", body.to_string())
    }

    pub fn body(self, content_type: &'static str, body: impl Into<Bytes>) -> Request {
        Request { content_type: Some(content_type), body: body.into(), ..self }
    }
}

/// Any text as a segment of a path, or a value of a query (RFC 3986 §2.1).
pub fn encoded(text: &str) -> String {
    text.bytes()
        .map(|octet| match octet {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(octet).to_string(),
            _ => format!("%{octet:02X}"),
        })
        .collect()
}

/// An answer whose head is there.
#[derive(Debug)]
pub struct Response {
    status: StatusCode,
    body: Incoming,
}

impl Response {
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The next piece of the body; `None`: it has ended.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(Broken::answer(&error)),
                Some(Ok(frame)) => {
                    // Trailers say nothing here.
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    pub async fn text(self) -> Result<String, Broken> {
        let body = Limited::new(self.body, ANSWER_OCTETS_MAX).collect().await.map_err(|error| match error
            .downcast_ref::<LengthLimitError>(
        ) {
            Some(_) => Broken::Answer(format!("it has more than {ANSWER_OCTETS_MAX} octets")),
            None => Broken::answer(&*error),
        })?;
        Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    }

    pub async fn json(self) -> Result<Value, Broken> {
        serde_json::from_str(&self.text().await?).map_err(|error| Broken::Answer(format!("it is not JSON: {error}")))
    }
}

/// Why there is no answer, or only a part of one.
#[derive(Debug)]
pub enum Broken {
    /// No connection came about: nothing was asked.
    Connect(String),
    /// Whoever is there shows a certificate that is not of the cluster: nothing was asked.
    Certificate(String),
    /// The connection broke; what was asked may be done all the same.
    Answer(String),
}

impl Broken {
    fn of(error: &legacy::Error) -> Broken {
        if !error.is_connect() {
            return Broken::answer(error);
        }
        match is_of_certificate(error) {
            true => Broken::Certificate(last_cause(error)),
            false => Broken::Connect(last_cause(error)),
        }
    }

    fn answer(error: &(dyn Cause + 'static)) -> Broken {
        Broken::Answer(last_cause(error))
    }
}

fn is_of_certificate(error: &(dyn Cause + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(rustls::Error::InvalidCertificate(_)) = inner.and_then(|inner| inner.downcast_ref()) {
            return true;
        }
        next = error.source();
    }
    false
}

fn last_cause(error: &(dyn Cause + 'static)) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

/// Connectors to every address of one name: the first that answers is used.
#[derive(Clone, Debug)]
struct Ways(Arc<[Connector]>);

impl Service<hyper::Uri> for Ways {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Stream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: hyper::Uri) -> Self::Future {
        let ways = Arc::clone(&self.0);
        Box::pin(async move {
            let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
            for way in ways.iter() {
                match way.clone().call(uri.clone()).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => failed = error,
                }
            }
            Err(failed)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_joined_to_the_path_with_its_values_encoded() {
        let request = Request::new(Method::GET, "/v1/events").query(&[("app", "a&b=c d"), ("limit", "1")]);
        assert_eq!(request.path, "/v1/events?app=a%26b%3Dc%20d&limit=1");
        assert_eq!(request.query(&[("host", "h1")]).path, "/v1/events?app=a%26b%3Dc%20d&limit=1&host=h1");
    }
}
