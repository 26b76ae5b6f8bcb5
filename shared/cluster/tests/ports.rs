//! A private port's listener over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::post;
use serde_json::{Value, json};
use steady_cluster::connect::{call, connect};
use steady_cluster::listen::{Listener, Peer, Plain, STRANGERS_MAX};
use steady_cluster::{Authority, Identity, Member, Request, Role, Stream, tls};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

fn identity(authority: &Authority, role: Role, name: &str) -> Identity {
    let request = Request::new().unwrap();
    let now = SystemTime::now();
    let certificate = authority.issue(request.pem(), &Member::new(role, name).unwrap(), now).unwrap();
    Identity::new(&request, &certificate, authority.trust(), now).unwrap()
}

/// A port that answers who asks.
async fn port(identity: Option<&Identity>) -> (SocketAddr, watch::Sender<Option<Arc<rustls::ServerConfig>>>) {
    let configs = watch::Sender::new(identity.map(|identity| tls::private_server(identity).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let listener = Listener::new(listener, configs.subscribe(), Plain::Loopback).unwrap();
    let who = |ConnectInfo(peer): ConnectInfo<Peer>| async move {
        let member = peer.member.map_or_else(|| "nobody".to_owned(), |member| member.to_string());
        axum::Json(json!([peer.secure, member]))
    };
    let service = Router::new().route("/who", post(who)).into_make_service_with_connect_info::<Peer>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    (addr, configs)
}

async fn who(stream: Stream) -> Value {
    call(stream, "port", "/who", &json!({})).await.unwrap().1
}

#[tokio::test]
async fn it_tells_members_from_others_and_tls_from_plain_http() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open(dir.path(), SystemTime::now()).unwrap();
    let (edge, host) = (identity(&authority, Role::Edge, "e"), identity(&authority, Role::Host, "h1"));
    let (addr, _configs) = port(Some(&edge)).await;
    let name = Role::Edge.server_name();
    let as_host = connect(addr, tls::private_client(&host).unwrap(), name.clone()).await.unwrap();
    assert_eq!(who(as_host).await, json!([true, "host h1"]));
    let first = tls::first_contact(authority.fingerprint()).unwrap();
    assert_eq!(who(connect(addr, first, name).await.unwrap()).await, json!([true, "nobody"]));
    assert_eq!(who(Stream::Plain(TcpStream::connect(addr).await.unwrap())).await, json!([false, "nobody"]));
}

#[tokio::test]
async fn one_that_says_nothing_delays_nobody_and_a_new_certificate_is_used_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open(dir.path(), SystemTime::now()).unwrap();
    let (addr, configs) = port(None).await;
    let _silent = TcpStream::connect(addr).await.unwrap();
    let first = || tls::first_contact(authority.fingerprint()).unwrap();
    let name = Role::Edge.server_name();
    assert!(connect(addr, first(), name.clone()).await.is_err(), "there is no certificate yet");
    let edge = identity(&authority, Role::Edge, "e");
    configs.send_replace(Some(tls::private_server(&edge).unwrap()));
    assert_eq!(who(connect(addr, first(), name).await.unwrap()).await, json!([true, "nobody"]));
}

#[tokio::test]
async fn strangers_have_a_bounded_number_of_places_and_members_are_let_in_beside_them() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open(dir.path(), SystemTime::now()).unwrap();
    let (edge, host) = (identity(&authority, Role::Edge, "e"), identity(&authority, Role::Host, "h1"));
    let (addr, _configs) = port(Some(&edge)).await;
    let name = Role::Edge.server_name();
    let first = tls::first_contact(authority.fingerprint()).unwrap();
    let ask = async || call(connect(addr, Arc::clone(&first), name.clone()).await?, "port", "/who", &json!({})).await;
    let mut strangers = Vec::new();
    for _ in 0..STRANGERS_MAX {
        strangers.push(connect(addr, Arc::clone(&first), name.clone()).await.unwrap());
    }
    // The last of them may be on its way to its place yet.
    while ask().await.is_ok() {}
    let as_host = connect(addr, tls::private_client(&host).unwrap(), name.clone()).await.unwrap();
    assert_eq!(who(as_host).await, json!([true, "host h1"]));
    drop(strangers);
    while ask().await.is_err() {}
}
