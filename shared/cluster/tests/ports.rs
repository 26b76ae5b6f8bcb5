//! A private port over real sockets: whom it lets in, and for how long.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::post;
use rustls::ClientConfig;
use serde_json::{Value, json};
use steady_cluster::connect::{call, connect};
use steady_cluster::listen::{Listener, Peer, Plain, STRANGERS_MAX};
use steady_cluster::serve::serve_within;
use steady_cluster::{Authority, Identity, Member, Request, Role, Stream, tls};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// Far beyond what anything here takes; a wait that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// What strangers have for a head, where it must not pass and where it must.
const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(100);

const ASK: &[u8] = b"POST /who HTTP/1.1\r\nhost: port\r\n\r\n";

/// The authority of a cluster, with an edge and a host.
struct Cluster {
    authority: Authority,
    edge: Identity,
    host: Identity,
    _dir: TempDir,
}

impl Cluster {
    fn new() -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path(), SystemTime::now()).unwrap();
        let (edge, host) = (identity(&authority, Role::Edge, "e"), identity(&authority, Role::Host, "h1"));
        Cluster { authority, edge, host, _dir: dir }
    }

    fn stranger(&self) -> Arc<ClientConfig> {
        tls::first_contact(self.authority.fingerprint()).unwrap()
    }

    fn member(&self) -> Arc<ClientConfig> {
        tls::private_client(&self.host).unwrap()
    }
}

fn identity(authority: &Authority, role: Role, name: &str) -> Identity {
    let request = Request::new().unwrap();
    let now = SystemTime::now();
    let certificate = authority.issue(request.pem(), &Member::new(role, name).unwrap(), now).unwrap();
    Identity::new(&request, &certificate, authority.trust(), now).unwrap()
}

/// A port that answers who asks: at once at `/who`, and once it may at `/late`.
struct Port {
    addr: SocketAddr,
    configs: watch::Sender<Option<Arc<rustls::ServerConfig>>>,
    /// Whether somebody has asked at `/late`.
    asked_late: watch::Receiver<bool>,
    may_answer: watch::Sender<bool>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Port {
    async fn open(identity: Option<&Identity>, head_time: Duration) -> Port {
        let configs = watch::Sender::new(identity.map(|identity| tls::private_server(identity).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let listener = Listener::new(listener, configs.subscribe(), Plain::Loopback).unwrap();
        let who = |ConnectInfo(peer): ConnectInfo<Peer>| async move {
            let member = peer.member.map_or_else(|| "nobody".to_owned(), |member| member.to_string());
            axum::Json(json!([peer.secure, member]))
        };
        let (asked, asked_late) = watch::channel(false);
        let (may_answer, may) = watch::channel(false);
        let late = move || {
            let (asked, mut may) = (asked.clone(), may.clone());
            async move {
                asked.send_replace(true);
                may.wait_for(|may| *may).await.unwrap();
            }
        };
        let router = Router::new().route("/who", post(who)).route("/late", post(late));
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(serve_within(head_time, listener, router, async { drop(stopped.await) }));
        Port { addr, configs, asked_late, may_answer, stop, serving }
    }

    /// A connection. A machine so slow that the client gives up says nothing about the port.
    async fn reach(&self, config: Arc<ClientConfig>) -> io::Result<Stream> {
        let reached = async {
            loop {
                match connect(self.addr, Arc::clone(&config), Role::Edge.server_name()).await {
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                    reached => return reached,
                }
            }
        };
        in_time(reached).await
    }

    async fn ask(&self, config: Arc<ClientConfig>) -> io::Result<Value> {
        let stream = self.reach(config).await?;
        in_time(call(stream, "port", "/who", &json!({}))).await.map(|(_, who)| who)
    }

    /// Asks at `/late`, and is waiting for the answer.
    async fn ask_late(&mut self, config: Arc<ClientConfig>) -> JoinHandle<io::Result<(hyper::StatusCode, Value)>> {
        for _ in 0..100 {
            let stream = self.reach(Arc::clone(&config)).await.unwrap();
            let mut asks = tokio::spawn(async move { call(stream, "port", "/late", &json!({})).await });
            let asked = in_time(async {
                tokio::select! {
                    asked = self.asked_late.wait_for(|asked| *asked) => asked.is_ok(),
                    // A slow machine: it was let go of before it could ask.
                    _ = &mut asks => false,
                }
            });
            if asked.await {
                return asks;
            }
        }
        panic!("it is let go of each time, before it could ask");
    }

    /// Returns when a stranger has been let go of that came after this was called: the time for a head has passed.
    async fn see_one_let_go(&self, config: Arc<ClientConfig>) {
        let mut stranger = self.reach(config).await.unwrap();
        say(&mut stranger, b"P").await;
        hear_the_end(&mut stranger).await;
    }
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it does not come to pass")
}

/// A port that has let go already shows in what comes back.
async fn say(stream: &mut Stream, octets: &[u8]) {
    let _ = stream.write_all(octets).await;
    let _ = stream.flush().await;
}

/// An answer of `/who`.
async fn hear(stream: &mut Stream) -> String {
    let mut heard = Vec::new();
    while !heard.ends_with(b"]") {
        assert_ne!(in_time(stream.read_buf(&mut heard)).await.unwrap(), 0, "the port has let go");
    }
    String::from_utf8(heard).unwrap()
}

async fn hear_the_end(stream: &mut Stream) {
    // Whichever way it ends.
    let _ = in_time(stream.read_to_end(&mut Vec::new())).await;
}

#[tokio::test]
async fn it_tells_members_from_others_and_tls_from_plain_http() {
    let cluster = Cluster::new();
    let port = Port::open(Some(&cluster.edge), LONG).await;
    assert_eq!(port.ask(cluster.member()).await.unwrap(), json!([true, "host h1"]));
    assert_eq!(port.ask(cluster.stranger()).await.unwrap(), json!([true, "nobody"]));
    let plain = Stream::Plain(TcpStream::connect(port.addr).await.unwrap());
    assert_eq!(call(plain, "port", "/who", &json!({})).await.unwrap().1, json!([false, "nobody"]));
}

#[tokio::test]
async fn one_that_says_nothing_delays_nobody_and_a_new_certificate_is_used_at_once() {
    let cluster = Cluster::new();
    let port = Port::open(None, LONG).await;
    let _silent = TcpStream::connect(port.addr).await.unwrap();
    assert!(port.reach(cluster.stranger()).await.is_err(), "there is no certificate yet");
    port.configs.send_replace(Some(tls::private_server(&cluster.edge).unwrap()));
    assert_eq!(port.ask(cluster.stranger()).await.unwrap(), json!([true, "nobody"]));
}

#[tokio::test]
async fn strangers_have_a_bounded_number_of_places_and_members_are_let_in_beside_them() {
    let cluster = Cluster::new();
    let port = Port::open(Some(&cluster.edge), LONG).await;
    let mut strangers = Vec::new();
    for _ in 0..STRANGERS_MAX {
        strangers.push(port.reach(cluster.stranger()).await.unwrap());
    }
    // The last of them may be on its way to its place yet.
    in_time(async { while port.ask(cluster.stranger()).await.is_ok() {} }).await;
    assert_eq!(port.ask(cluster.member()).await.unwrap(), json!([true, "host h1"]));
    drop(strangers);
    in_time(async { while port.ask(cluster.stranger()).await.is_err() {} }).await;
}

#[tokio::test]
async fn strangers_that_stop_half_way_or_stay_after_their_answer_are_let_go_of_and_their_places_are_free() {
    let cluster = Cluster::new();
    let port = Port::open(Some(&cluster.edge), SHORT).await;
    let mut strangers = Vec::new();
    for said in [b"".as_slice(), b"P", &ASK[..ASK.len() / 2], ASK].into_iter().cycle().take(STRANGERS_MAX) {
        let mut stranger = port.reach(cluster.stranger()).await.unwrap();
        say(&mut stranger, said).await;
        strangers.push(stranger);
    }
    in_time(async { while port.ask(cluster.stranger()).await.is_err() {} }).await;
    for stranger in &mut strangers {
        hear_the_end(stranger).await;
    }
}

#[tokio::test]
async fn a_stranger_gets_an_answer_that_takes_longer_than_it_may_be_silent_itself() {
    let cluster = Cluster::new();
    let mut port = Port::open(Some(&cluster.edge), SHORT).await;
    let asks = port.ask_late(cluster.stranger()).await;
    port.see_one_let_go(cluster.stranger()).await;
    port.may_answer.send_replace(true);
    assert_eq!(in_time(asks).await.unwrap().unwrap().0, 200);
}

#[tokio::test]
async fn members_and_clients_of_this_machine_may_be_quiet() {
    let cluster = Cluster::new();
    let port = Port::open(Some(&cluster.edge), SHORT).await;
    let member = port.reach(cluster.member()).await.unwrap();
    let plain = Stream::Plain(TcpStream::connect(port.addr).await.unwrap());
    let (half, rest) = ASK.split_at(ASK.len() / 2);
    let mut quiet = [member, plain];
    for stream in &mut quiet {
        say(stream, ASK).await;
        hear(stream).await;
    }
    port.see_one_let_go(cluster.stranger()).await;
    for stream in &mut quiet {
        say(stream, half).await;
    }
    port.see_one_let_go(cluster.stranger()).await;
    for stream in &mut quiet {
        say(stream, rest).await;
        assert!(hear(stream).await.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn a_port_that_is_told_to_end_answers_what_is_under_way() {
    let cluster = Cluster::new();
    let mut port = Port::open(Some(&cluster.edge), LONG).await;
    let _idle = port.reach(cluster.stranger()).await.unwrap();
    let asks = port.ask_late(cluster.member()).await;
    port.stop.send(()).unwrap();
    in_time(async { while TcpStream::connect(port.addr).await.is_ok() {} }).await;
    assert!(!port.serving.is_finished());
    port.may_answer.send_replace(true);
    assert_eq!(in_time(asks).await.unwrap().unwrap().0, 200);
    in_time(port.serving).await.unwrap();
}
