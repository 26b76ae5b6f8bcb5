//! hyper, as an application and as a client. It cannot send 1xx, nor see those of HTTP/2.

use std::convert::Infallible;
use std::net::SocketAddr;

use base64::Engine as _;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::ext::Protocol as Extended;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use sha2::Digest as _;
use steady_agent::gate::Protocol;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

type Body = BoxBody<Bytes, Infallible>;

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8).collect()
}

fn sha256(octets: &[u8]) -> String {
    sha2::Sha256::digest(octets).iter().map(|octet| format!("{octet:02x}")).collect()
}

fn full(body: Vec<u8>) -> Body {
    Full::new(Bytes::from(body)).boxed()
}

/// A body of unknown length in pieces, then trailers.
fn streamed(body: Vec<u8>, trailers: &[(&'static str, &str)]) -> Body {
    let pieces = body.chunks(9_000).map(|piece| Frame::data(Bytes::copy_from_slice(piece))).collect::<Vec<_>>();
    let trailers: HeaderMap = trailers
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
        .collect();
    let all = pieces.into_iter().chain([Frame::trailers(trailers)]).map(Ok);
    http_body_util::BodyExt::boxed(StreamBody::new(futures_util::stream::iter(all)))
}

fn pairs(map: &HeaderMap) -> Vec<(String, String)> {
    map.iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect()
}

/// Starts an application, in a thread of its own that lives as long as the tests do.
pub fn serve(protocol: Protocol) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        super::house::h2c::runtime().block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                tokio::spawn(async move {
                    let (io, service) = (TokioIo::new(stream), hyper::service::service_fn(answer));
                    // The peer may go at any moment; everything else is a failure that its request shows.
                    match protocol {
                        Protocol::Http1 => {
                            let builder = hyper::server::conn::http1::Builder::new();
                            _ = builder.serve_connection(io, service).with_upgrades().await;
                        }
                        Protocol::H2c => {
                            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                            builder.initial_stream_window_size(3_000).enable_connect_protocol();
                            _ = builder.serve_connection(io, service).await;
                        }
                    }
                });
            }
        });
    });
    addr
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let target = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    if path == "/ws" {
        return Ok(websocket(&mut request));
    }
    let (head, body) = request.into_parts();
    // A client that breaks off is not answered, whatever is said here.
    let Ok(collected) = body.collect().await else { return Ok(Response::new(full(Vec::new()))) };
    let trailers = collected.trailers().map(pairs).unwrap_or_default();
    let body = collected.to_bytes();
    let number = || query.parse::<usize>().unwrap();
    let response = Response::builder();
    Ok(match path {
        "/facts" => {
            let facts = json!({
                "method": head.method.as_str(), "target": target, "fields": pairs(&head.headers), "length": body.len(),
                "sha256": sha256(&body), "trailers": trailers,
            });
            response.body(full(facts.to_string().into_bytes())).unwrap()
        }
        "/big" if head.method == Method::HEAD => {
            response.header(header::CONTENT_LENGTH, number()).body(full(Vec::new())).unwrap()
        }
        "/big" => response.body(full(pattern(number()))).unwrap(),
        "/summed" => {
            let whole = pattern(number());
            let sum = sha256(&whole);
            response.header(header::TRAILER, "x-sum").body(streamed(whole, &[("x-sum", &sum)])).unwrap()
        }
        "/hints" => response.body(full(b"hinted".to_vec())).unwrap(),
        "/status" => response.status(number() as u16).header(header::ETAG, "\"a\"").body(full(Vec::new())).unwrap(),
        "/fields" => {
            let many = (0..number()).fold(response, |it, at| it.header(format!("x-field-{at}"), "v".repeat(200)));
            many.body(full(b"fields".to_vec())).unwrap()
        }
        _ => response.status(404).body(full(Vec::new())).unwrap(),
    })
}

/// Takes the upgrade (RFC 6455 §4.2.2) or the extended CONNECT (RFC 8441 §5), and sends frames back.
fn websocket(request: &mut Request<Incoming>) -> Response<Body> {
    let response = match request.headers().get(header::SEC_WEBSOCKET_KEY) {
        Some(key) if request.method() == Method::GET => {
            let digest = sha1::Sha1::digest([key.as_bytes(), b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat());
            Response::builder()
                .status(101)
                .header(header::CONNECTION, "upgrade")
                .header(header::UPGRADE, "websocket")
                .header(header::SEC_WEBSOCKET_ACCEPT, base64::engine::general_purpose::STANDARD.encode(digest))
        }
        _ => {
            assert_eq!(request.extensions().get::<Extended>().map(AsRef::as_ref), Some(&b"websocket"[..]));
            Response::builder()
        }
    };
    tokio::spawn(echo(hyper::upgrade::on(request)));
    response.body(full(Vec::new())).unwrap()
}

async fn echo(on: OnUpgrade) -> Option<()> {
    let mut io = TokioIo::new(on.await.ok()?);
    loop {
        let (first, payload) = hear(&mut io).await?;
        io.write_all(&frame(if first == 0x89 { 0x8a } else { first }, &payload, None)).await.ok()?;
        io.flush().await.ok()?;
        if first == 0x88 {
            return io.shutdown().await.ok();
        }
    }
}

/// A frame: its first octet and its payload, unmasked (RFC 6455 §5.2).
async fn hear(io: &mut (impl AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let (first, second) = (io.read_u8().await.ok()?, io.read_u8().await.ok()?);
    let length = match second & 0x7f {
        126 => u64::from(io.read_u16().await.ok()?),
        127 => io.read_u64().await.ok()?,
        short => u64::from(short),
    };
    let mut mask = [0; 4];
    if second & 0x80 != 0 {
        io.read_exact(&mut mask).await.ok()?;
    }
    let mut payload = vec![0; length as usize];
    io.read_exact(&mut payload).await.ok()?;
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(octet, mask)| *octet ^= mask);
    Some((first, payload))
}

fn frame(first: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..126 => frame.push(masked | len as u8),
        len @ 126..65_536 => frame.extend([&[masked | 126][..], &(len as u16).to_be_bytes()].concat()),
        len => frame.extend([&[masked | 127][..], &(len as u64).to_be_bytes()].concat()),
    }
    frame.extend(mask.into_iter().flatten());
    let mask = mask.unwrap_or_default();
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(octet, mask)| octet ^ mask));
    frame
}

/// One connection to the edge.
enum Client {
    One(hyper::client::conn::http1::SendRequest<Body>),
    Two(hyper::client::conn::http2::SendRequest<Body>),
}

struct Got {
    status: u16,
    fields: HeaderMap,
    body: Bytes,
    trailers: HeaderMap,
}

impl Client {
    async fn open(edge: SocketAddr, two: bool) -> Client {
        let stream = TcpStream::connect(edge).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let io = TokioIo::new(stream);
        if two {
            let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
            let (send, connection) = builder.initial_stream_window_size(5_000).handshake(io).await.unwrap();
            tokio::spawn(async move { _ = connection.await });
            Client::Two(send)
        } else {
            let (send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(async move { _ = connection.with_upgrades().await });
            Client::One(send)
        }
    }

    async fn send(&mut self, name: &str, mut request: Request<Body>) -> Response<Incoming> {
        let host = format!("{name}.steady.page");
        match self {
            Client::One(send) => {
                request.headers_mut().insert(header::HOST, HeaderValue::from_str(&host).unwrap());
                send.ready().await.unwrap();
                send.send_request(request).await.unwrap()
            }
            Client::Two(send) => {
                *request.uri_mut() = format!("http://{host}{}", request.uri()).parse().unwrap();
                send.ready().await.unwrap();
                send.send_request(request).await.unwrap()
            }
        }
    }

    async fn ask(&mut self, name: &str, method: Method, target: &str, body: Body) -> Got {
        let mut request = Request::builder().method(method).uri(target).body(body).unwrap();
        if matches!(self, Client::One(_)) {
            request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        if request.body().size_hint().exact().is_none() {
            // Over HTTP/1.1 it sends none that it has not announced.
            request.headers_mut().insert(header::TRAILER, HeaderValue::from_static("x-end"));
        }
        let (head, body) = self.send(name, request).await.into_parts();
        let body = body.collect().await.unwrap();
        let trailers = body.trailers().cloned().unwrap_or_default();
        Got { status: head.status.as_u16(), fields: head.headers, body: body.to_bytes(), trailers }
    }

    async fn facts(&mut self, name: &str, method: Method, target: &str, body: Body) -> Value {
        let got = self.ask(name, method, target, body).await;
        assert_eq!(got.status, 200, "{name}");
        serde_json::from_slice(&got.body).unwrap()
    }

    async fn websocket(&mut self, name: &str) -> TokioIo<hyper::upgrade::Upgraded> {
        let request = Request::builder().uri("/ws").header(header::SEC_WEBSOCKET_VERSION, "13");
        let request = match self {
            Client::One(_) => request
                .header(header::CONNECTION, "upgrade")
                .header(header::UPGRADE, "websocket")
                .header(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
            Client::Two(_) => request.method(Method::CONNECT).extension(Extended::from_static("websocket")),
        };
        let response = self.send(name, request.body(full(Vec::new())).unwrap()).await;
        let wanted = if matches!(self, Client::One(_)) { 101 } else { 200 };
        assert_eq!(response.status(), wanted, "{name}");
        TokioIo::new(hyper::upgrade::on(response).await.unwrap())
    }
}

/// Everything, over a connection of each version.
pub fn visit(edge: SocketAddr, name: &str) {
    super::house::h2c::runtime().block_on(async {
        for two in [false, true] {
            let mut client = Client::open(edge, two).await;
            check(&mut client, name).await;
            talk(client.websocket(name).await, name).await;
        }
    });
}

async fn check(client: &mut Client, name: &str) {
    for size in [1, 3_000, 100_000] {
        let body = pattern(size);
        let facts = client.facts(name, Method::POST, "/facts?a=b", full(body.clone())).await;
        assert_eq!((&facts["target"], &facts["length"]), (&json!("/facts?a=b"), &json!(size)), "{name}");
        let facts = client.facts(name, Method::PUT, "/facts", streamed(body.clone(), &[("x-end", "of it")])).await;
        assert_eq!((&facts["length"], &facts["sha256"]), (&json!(size), &json!(sha256(&body))), "{name}");
        assert_eq!(facts["trailers"], json!([["x-end", "of it"]]), "{name}");
    }
    assert!(client.ask(name, Method::GET, "/big?300000", full(Vec::new())).await.body == pattern(300_000));
    let got = client.ask(name, Method::HEAD, "/big?300000", full(Vec::new())).await;
    assert_eq!(
        (got.status, got.body.len(), &got.fields[header::CONTENT_LENGTH]),
        (200, 0, &HeaderValue::from(300_000))
    );
    let got = client.ask(name, Method::GET, "/summed?70000", full(Vec::new())).await;
    assert_eq!(got.trailers["x-sum"].to_str().unwrap(), sha256(&got.body), "{name}");
    assert_eq!(client.ask(name, Method::GET, "/hints", full(Vec::new())).await.body, "hinted");
    for status in [204, 304] {
        let got = client.ask(name, Method::GET, &format!("/status?{status}"), full(Vec::new())).await;
        assert_eq!(
            (got.status, got.body.len(), got.fields[header::ETAG].as_bytes()),
            (status, 0, &b"\"a\""[..]),
            "{name}"
        );
    }
    let got = client.ask(name, Method::GET, "/fields?40", full(Vec::new())).await;
    assert!((0..40).all(|at| got.fields[format!("x-field-{at}")] == "v".repeat(200)), "{name}");
}

async fn talk(io: impl AsyncRead + AsyncWrite + Unpin, name: &str) {
    const CLOSE: u8 = 0x08;
    let mut said =
        vec![(0x81, b"one".to_vec()), (0x01, b"two ".to_vec()), (0x80, b"pieces".to_vec()), (0x89, b"?".to_vec())];
    said.extend([0, 125, 126, 65_535, 65_536].map(|size| (0x82, pattern(size))));
    said.extend((0..300).map(|at| (0x81, at.to_string().into_bytes())));
    said.push((0x80 | CLOSE, vec![0x0b, 0xb8]));
    let octets: Vec<u8> =
        said.iter().flat_map(|(first, payload)| frame(*first, payload, Some([7, 77, 177, 200]))).collect();
    let (mut reader, mut writer) = tokio::io::split(io);
    let speak = async {
        writer.write_all(&octets).await.unwrap();
        writer.flush().await.unwrap();
    };
    let listen = async {
        let mut heard = Vec::new();
        while heard.last().is_none_or(|(first, _)| first & 0x0f != CLOSE) {
            heard.push(hear(&mut reader).await.expect("a close at the end"));
        }
        heard
    };
    let ((), heard) = tokio::join!(speak, listen);
    // A ping is answered with a pong; all else comes back as it went, in other pieces perhaps.
    said.iter_mut().filter(|(first, _)| *first == 0x89).for_each(|(first, _)| *first = 0x8a);
    assert!(messages(heard) == messages(said), "{name}");
}

/// Puts messages together: the opcode and the payload of each.
fn messages(frames: Vec<(u8, Vec<u8>)>) -> Vec<(u8, Vec<u8>)> {
    let mut whole: Vec<(u8, Vec<u8>)> = Vec::new();
    for (first, payload) in frames {
        match (first & 0x0f, whole.last_mut()) {
            (0, Some((_, before))) => before.extend(payload),
            (kind, _) => whole.push((kind, payload)),
        }
    }
    whole
}
