//! A host that becomes a member, through its own death: at an edge that is the authority and nothing else.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use steady_agent::config::JoinConfig;
use steady_agent::membership::Membership;
use steady_cluster::join::{Answer, Join};
use steady_cluster::listen::{Listener, Plain};
use steady_cluster::serve::serve;
use steady_cluster::{Authority, Identity, JoinToken, Member, Request, Role, tls};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

/// Far beyond what anything here takes; a wait that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Signs what comes once it may, and tells of each request.
struct Edge {
    authority: Authority,
    answers: watch::Receiver<bool>,
    asked: mpsc::UnboundedSender<String>,
}

async fn sign(State(edge): State<Arc<Edge>>, Json(join): Json<Join>) -> Json<Answer> {
    edge.asked.send(join.request.clone()).unwrap();
    edge.answers.clone().wait_for(|answers| *answers).await.unwrap();
    let member = Member::new(Role::Host, &join.name).unwrap();
    let certificate = edge.authority.issue(&join.request, &member, SystemTime::now()).unwrap();
    Json(Answer { certificate, trust: edge.authority.trust().to_owned() })
}

/// One life of an agent, as far as it is a member: the task that ends with its process.
fn life(dir: &Path, join: JoinConfig) -> (Arc<Membership>, tokio::task::JoinHandle<()>) {
    let membership = Membership::open(dir, "h1", join).unwrap();
    let keeps = Arc::clone(&membership);
    (membership, tokio::spawn(async move { keeps.keep().await }))
}

#[tokio::test]
async fn an_agent_that_died_before_it_had_its_certificate_asks_with_the_same_request_again() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open(&dir.path().join("ca"), SystemTime::now()).unwrap();
    let (request, now) = (Request::new().unwrap(), SystemTime::now());
    let own = authority.issue(request.pem(), &Member::new(Role::Edge, "lb").unwrap(), now).unwrap();
    let identity = Identity::new(&request, &own, authority.trust(), now).unwrap();
    let token_file = dir.path().join("token");
    std::fs::write(&token_file, JoinToken::new(authority.fingerprint()).to_string()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let join = JoinConfig { edges: vec![listener.local_addr().unwrap()], token_file };
    let (_configs, config) = watch::channel(Some(tls::private_server(&identity).unwrap()));
    let listener = Listener::new(listener, config, Plain::Loopback).unwrap();
    let ((may, answers), (asked, mut requests)) = (watch::channel(false), mpsc::unbounded_channel());
    let edge = Arc::new(Edge { authority, answers, asked });
    let router = Router::new().route("/v1/join", post(sign)).with_state(edge);
    tokio::spawn(serve(listener, router, std::future::pending()));
    let (_, first) = life(dir.path(), join.clone());
    let sent = tokio::time::timeout(PATIENCE, requests.recv()).await.unwrap().unwrap();
    // The token is spent by now, and the answer is nobody's.
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    may.send_replace(true);
    let (membership, second) = life(dir.path(), join);
    let again = tokio::time::timeout(PATIENCE, requests.recv()).await.unwrap().unwrap();
    assert_eq!(sent, again);
    let mut published = membership.published();
    let joined = published.wait_for(Option::is_some);
    tokio::time::timeout(PATIENCE, joined).await.unwrap().unwrap();
    let request = dir.path().join("join-request.json");
    let forgotten = async {
        while request.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, forgotten).await.expect("the next certificate gets a key of its own");
    second.abort();
}
