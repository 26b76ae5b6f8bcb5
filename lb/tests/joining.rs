//! How a host becomes a member: over real TLS, at an edge's private port.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use steady_cluster::connect::{call, connect};
use steady_cluster::join::{Join, JoinError, join, renew};
use steady_cluster::{Identity, JoinToken, Member, Request, Role, tls};
use support::*;

async fn begun() -> (tempfile::TempDir, Life) {
    let world = World::new(false);
    Agent::start(&world, "h1").await;
    let dir = tempfile::tempdir().unwrap();
    let life = Life::begin(&world, dir.path(), Fuse::new(u64::MAX)).await;
    (dir, life)
}

async fn token(life: &Life, wanted: Value) -> JoinToken {
    let (status, made) = answer(life.request(reqwest::Method::POST, "/v1/join-tokens").json(&wanted)).await;
    assert_eq!(status, 201, "{made}");
    made["token"].as_str().unwrap().parse().unwrap()
}

fn host(name: &str) -> Member {
    Member::new(Role::Host, name).unwrap()
}

async fn joined(life: &Life, name: &str) -> Identity {
    let token = token(life, json!({})).await;
    join(life.addr, &token, &host(name), &Request::new().unwrap()).await.unwrap()
}

fn refused(error: JoinError) -> String {
    match error {
        JoinError::Refused { detail, .. } => detail,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_join_token_buys_a_certificate_in_the_host_s_name_and_the_certificate_buys_the_next() {
    let (_dir, life) = begun().await;
    let identity = joined(&life, "h1").await;
    assert_eq!(identity.member(), &host("h1"));
    let next = renew(life.addr, &identity, &Request::new().unwrap()).await.unwrap();
    assert_eq!(next.member(), &host("h1"));
    assert!(next.trusts_as(&identity));
    let (_, text) = life.get("/metrics").await;
    let text = text.as_str().unwrap();
    assert!(text.contains(r#"steady_lb_certificates_total{call="join",outcome="issued"} 1"#), "{text}");
    assert!(text.contains(r#"steady_lb_certificates_total{call="renew",outcome="issued"} 1"#), "{text}");
}

#[tokio::test]
async fn a_token_is_spent_once_however_often_its_answer_is_lost() {
    let (_dir, life) = begun().await;
    let token = token(&life, json!({"host": "h1"})).await;
    let request = Request::new().unwrap();
    assert!(refused(join(life.addr, &token, &host("h2"), &request).await.unwrap_err()).contains("\"h1\""));
    for _ in 0..3 {
        join(life.addr, &token, &host("h1"), &request).await.unwrap();
    }
    let other = Request::new().unwrap();
    assert!(refused(join(life.addr, &token, &host("h1"), &other).await.unwrap_err()).contains("spent"));
}

#[tokio::test]
async fn tokens_are_listed_without_their_secret_and_can_be_revoked() {
    let (_dir, life) = begun().await;
    let token = token(&life, json!({"uses": 3, "ttl_s": 60})).await;
    let (_, listed) = life.get("/v1/join-tokens").await;
    assert_eq!(listed["tokens"][0]["uses_left"], 3);
    assert!(!listed.to_string().contains(&token.secret()));
    let id = listed["tokens"][0]["id"].as_str().unwrap();
    let path = format!("/v1/join-tokens/{id}");
    let revoke = || life.request(reqwest::Method::DELETE, &path);
    assert_eq!(answer(revoke()).await.0, 204);
    assert_eq!(answer(revoke()).await.0, 404);
    let failed = join(life.addr, &token, &host("h1"), &Request::new().unwrap()).await.unwrap_err();
    assert!(refused(failed).contains("revoked"));
    assert_eq!(life.get("/v1/join-tokens").await.1, json!({"tokens": []}));
}

#[tokio::test]
async fn a_host_gives_its_token_to_nobody_but_an_edge_of_the_authority_that_the_token_names() {
    let (_dir, life) = begun().await;
    let stranger = JoinToken::new([3; 32]);
    let failed = join(life.addr, &stranger, &host("h1"), &Request::new().unwrap()).await.unwrap_err();
    assert!(matches!(failed, JoinError::Unreachable { .. }), "{failed:?}");
    assert!(failed.to_string().contains("UnknownIssuer"), "{failed}");
}

/// Calls as a client with this TLS.
async fn post(
    addr: SocketAddr,
    config: Arc<rustls::ClientConfig>,
    path: &str,
    body: &Value,
) -> std::io::Result<(u16, Value)> {
    let stream = connect(addr, config, Role::Edge.server_name()).await?;
    let (status, value) = call(stream, "edge", path, body).await?;
    Ok((status.as_u16(), value))
}

#[tokio::test]
async fn nobody_gets_a_certificate_without_a_good_token_or_a_host_s_certificate() {
    let (_dir, life) = begun().await;
    let good = token(&life, json!({})).await;
    let anybody = tls::first_contact(good.authority()).unwrap();
    let request = Request::new().unwrap();
    let asked = |secret: &str, name: &str, request: &str| {
        json!(Join { secret: secret.into(), name: name.into(), request: request.into() })
    };
    for (body, wanted) in [
        (asked("", "h1", request.pem()), 403),
        (asked(&"0".repeat(64), "h1", request.pem()), 403),
        (asked(&good.secret(), "H1", request.pem()), 422),
        (asked(&good.secret(), "h1", "nonsense"), 422),
        (json!({"secret": "x"}), 422),
    ] {
        let (status, said) = post(life.addr, Arc::clone(&anybody), "/v1/join", &body).await.unwrap();
        assert_eq!(status, wanted, "{body} {said}");
    }
    let body = json!({"request": request.pem()});
    assert_eq!(post(life.addr, anybody, "/v1/renew", &body).await.unwrap().0, 403, "no certificate");
    // The token was not spent by requests that could not be served.
    join(life.addr, &good, &host("h1"), &request).await.unwrap();
    // A host that is none of this edge's any more is not prolonged.
    let gone = joined(&life, "gone").await;
    assert!(
        refused(renew(life.addr, &gone, &Request::new().unwrap()).await.unwrap_err()).contains("no host of this edge")
    );
}

#[tokio::test]
async fn a_member_of_another_cluster_is_refused_in_the_handshake() {
    let (_dir, life) = begun().await;
    let (_other_dir, other) = begun().await;
    let theirs = joined(&other, "h1").await;
    let ours = joined(&life, "h1").await;
    assert!(renew(life.addr, &theirs, &Request::new().unwrap()).await.is_err());
    assert!(renew(life.addr, &ours, &Request::new().unwrap()).await.is_ok());
}

#[tokio::test]
async fn a_join_token_is_for_whom_it_was_asked_for_whatever_the_content_type() {
    let (_dir, life) = begun().await;
    let ask = |body: &'static str| answer(life.request(reqwest::Method::POST, "/v1/join-tokens").body(body));
    let (status, made) = ask(r#"{"host": "h7", "uses": 3}"#).await;
    assert_eq!((status, &made["host"], &made["uses"]), (201, &json!("h7"), &json!(3)), "{made}");
    assert_eq!(ask("").await.1["uses"], 1);
    let (status, problem) = ask(r#"{"hosts": "h7"}"#).await;
    assert_eq!(status, 400);
    assert!(problem["detail"].as_str().unwrap().contains("each optional"), "{problem}");
}
