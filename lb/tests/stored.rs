//! What is stored, what is in the routing table, and what is answered: they agree whatever cannot be written, whoever leaves and
//! whatever an earlier program left.

mod support;

use serde_json::json;
use steady_lb::control::ControlError;
use steady_lb::store::sqlite::SqliteStore;
use steady_lb::store::{AppRecord, HostRecord, Store, Write};
use steady_table::DomainName;
use support::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn put_custom(domain: &str) -> Write {
    Write::PutCustom(DomainName::new(domain).unwrap(), name(APP))
}

/// A table that cannot be written, until it is let go of.
struct Blocked(std::path::PathBuf);

impl Blocked {
    /// With a change that is stored and which the table does not have.
    async fn begin(life: &Life, dir: &tempfile::TempDir) -> Blocked {
        let record = HostRecord {
            name: "h9".into(),
            addr: "127.0.0.1:9".into(),
            control: "127.0.0.1:9".into(),
            token_file: String::new(),
        };
        life.edge.control.commit(change(vec![Write::PutHost(record)])).await.unwrap();
        // Where each new table is written aside: a file cannot take a directory's place.
        let blocked = Blocked(dir.path().join("table").join("routes.tmp"));
        std::fs::create_dir(&blocked.0).unwrap();
        let stored = life.edge.control.commit(change(vec![Write::RemoveHost("h9".into())])).await;
        assert!(matches!(stored, Err(ControlError::Table(_))), "{stored:?}");
        assert!(life.edge.control.published().behind);
        blocked
    }

    fn end(self) {
        std::fs::remove_dir(self.0).unwrap();
    }
}

#[tokio::test]
async fn a_change_that_finds_the_table_behind_is_not_stored_and_says_so() {
    let (world, dir, life) = deployed(true).await;
    let blocked = Blocked::begin(&life, &dir).await;
    let control = &life.edge.control;
    let refused = control.commit(change(vec![put_custom("shop.example")])).await;
    assert!(matches!(refused, Err(ControlError::Behind(_))), "{refused:?}");
    let patch = || {
        let body = json!({"custom_domains": {"shop.example": APP}}).to_string();
        answer(life.request(reqwest::Method::PATCH, "/v1/routes").body(body))
    };
    let (status, problem) = patch().await;
    assert_eq!((status, &problem["title"]), (503, &json!("nothing was changed")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("repeat"), "{problem}");
    assert!(life.edge.store().customs_of(name(APP)).await.unwrap().is_empty());
    blocked.end();
    assert_eq!(patch().await.0, 200);
    assert!(!control.published().behind);
    assert_eq!(life.edge.store().customs_of(name(APP)).await.unwrap().len(), 1);
    life.assert_consistent(&world).await;
}

#[tokio::test]
async fn a_move_keeps_its_steps_while_the_table_cannot_be_written() {
    let (world, dir, life) = deployed(true).await;
    let h1 = agent(&world, "h1");
    h1.refuses.lock().unwrap().insert("drain".into());
    let path = format!("/v1/apps/{APP}/move");
    let request = life.request(reqwest::Method::POST, &path).body(json!({"to": "h2"}).to_string());
    let mut lines = request.send().await.unwrap();
    let mut text = String::new();
    let mut until = async |what: &str| {
        while !text.contains(what) {
            let more = tokio::time::timeout(PATIENCE, lines.chunk()).await.expect("it goes on").unwrap();
            text.push_str(std::str::from_utf8(&more.unwrap_or_else(|| panic!("no {what}: {text}"))).unwrap());
        }
    };
    until("\"step\":\"drain\"").await;
    let blocked = Blocked::begin(&life, &dir).await;
    h1.refuses.lock().unwrap().clear();
    // Owned by its new host, which the routes cannot be told yet.
    until("\"step\":\"settle\"").await;
    blocked.end();
    until("\"done\":true").await;
    let record = life.edge.store().app(name(APP)).await.unwrap().unwrap();
    assert_eq!((record.host.as_str(), record.generation, record.moving), ("h2", 2, None));
    life.assert_consistent(&world).await;
}

#[tokio::test]
async fn an_application_does_not_go_while_a_custom_domain_serves_it() {
    let (world, _dir, life) = deployed(true).await;
    let control = &life.edge.control;
    let custom = DomainName::new("shop.example").unwrap();
    control.commit(change(vec![put_custom("shop.example")])).await.unwrap();
    let refused = control.commit(change(vec![Write::RemoveApp(name(APP))])).await;
    let Err(ControlError::Refused(reasons)) = refused else { panic!("{refused:?}") };
    assert!(reasons.len() == 1 && reasons[0].contains("shop.example"), "{reasons:?}");
    assert!(!control.published().behind);
    life.assert_consistent(&world).await;
    // Not with another's removal either, but with its own.
    control.commit(change(vec![put_custom("too.example")])).await.unwrap();
    let one = vec![Write::RemoveCustom(custom.clone()), Write::RemoveApp(name(APP))];
    assert!(matches!(control.commit(change(one)).await, Err(ControlError::Refused(_))));
    let too = DomainName::new("too.example").unwrap();
    let both = vec![Write::RemoveCustom(custom), Write::RemoveApp(name(APP)), Write::RemoveCustom(too)];
    control.commit(change(both)).await.unwrap();
    assert_eq!(place(&life.plane.newest()), "nowhere");
}

#[tokio::test]
async fn a_custom_domain_that_comes_while_its_application_is_removed_goes_with_it() {
    let (world, _dir, life) = deployed(true).await;
    let ((read, was_read), (go_on, told)) = (tokio::sync::oneshot::channel(), tokio::sync::oneshot::channel());
    *world.customs_read.lock().unwrap() = Some((read, told));
    let meddle = async {
        was_read.await.unwrap();
        life.edge.control.commit(change(vec![put_custom("shop.example")])).await.unwrap();
        go_on.send(()).unwrap();
    };
    let (lines, ()) = tokio::join!(life.remove(), meddle);
    assert!(done(&lines), "{lines:#?}");
    assert!(life.edge.store().load().await.unwrap().customs.is_empty());
    assert!(!life.edge.control.published().behind);
    life.assert_consistent(&world).await;
}

#[tokio::test]
async fn a_store_with_a_custom_domain_of_no_application_is_served_without_it() {
    let world = World::new(false);
    Agent::start(&world, "h1").await;
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&dir.path().join("store.db")).unwrap();
    store.commit(change(vec![put_custom("shop.example")])).await.unwrap();
    drop(store);
    let life = Life::begin(&world, dir.path(), Fuse::new(u64::MAX)).await;
    assert!(life.edge.store().load().await.unwrap().customs.is_empty());
    // One of that name begins without it, and can be removed again.
    assert!(done(&life.deploy_shop("one").await));
    assert_eq!(life.plane.newest().routes.custom_count(), 0);
    assert!(done(&life.remove().await));
    life.assert_consistent(&world).await;
}

#[tokio::test]
async fn a_table_that_could_not_be_written_is_written_by_itself_once_it_can_be() {
    let (world, dir, life) = deployed(true).await;
    let blocked = Blocked::begin(&life, &dir).await;
    assert_eq!(life.plane.newest().routes.hosts().len(), 3);
    blocked.end();
    life.until(|| !life.edge.control.published().behind).await;
    assert_eq!(life.plane.newest().routes.hosts().len(), 2);
    life.assert_consistent(&world).await;
}

/// A store that holds `shop` on `host`, and a custom domain of it.
async fn stored(dir: &tempfile::TempDir, host: HostRecord, domains: &[&str], custom: &str) {
    let app = AppRecord {
        name: name(APP),
        host: host.name.clone(),
        generation: 1,
        moving: None,
        version: 1,
        digest: "d".repeat(64),
        exclusive: false,
        created_at: 0,
        updated_at: 0,
    };
    let domains = domains.iter().map(|domain| DomainName::new(domain).unwrap()).collect();
    let writes = vec![Write::PutHost(host), Write::SetDomains(domains), Write::PutApp(app), put_custom(custom)];
    let store = SqliteStore::open(&dir.path().join("store.db")).unwrap();
    store.commit(change(writes)).await.unwrap();
}

fn host_record(name: &str, addr: &str) -> HostRecord {
    HostRecord { name: name.into(), addr: addr.into(), control: "127.0.0.1:9".into(), token_file: "t".into() }
}

#[tokio::test]
async fn a_custom_domain_of_an_application_that_the_table_leaves_out_can_be_removed() {
    for with_its_application in [false, true] {
        let world = World::new(false);
        let dir = tempfile::tempdir().unwrap();
        stored(&dir, host_record("h9", "no address"), &["steady.test"], "shop.example").await;
        let life = Life::begin(&world, dir.path(), Fuse::new(u64::MAX)).await;
        assert_eq!(place(&life.plane.newest()), "nowhere");
        if with_its_application {
            let lines = life.remove().await;
            assert!(done(&lines), "{lines:#?}");
        } else {
            let body = json!({"custom_domains": {"shop.example": null}}).to_string();
            let (status, told) = answer(life.request(reqwest::Method::PATCH, "/v1/routes").body(body.clone())).await;
            assert_eq!(status, 200, "{told}");
            let again = answer(life.request(reqwest::Method::PATCH, "/v1/routes").body(body)).await;
            assert_eq!(again.0, 422, "there is none any more");
        }
        assert!(life.edge.store().load().await.unwrap().customs.is_empty());
    }
}

#[tokio::test]
async fn a_store_with_a_custom_domain_under_a_suffix_is_served_without_it() {
    let world = World::new(false);
    let dir = tempfile::tempdir().unwrap();
    stored(&dir, host_record("h9", "127.0.0.1:9"), &["steady.test"], "x.steady.test").await;
    let life = Life::begin(&world, dir.path(), Fuse::new(u64::MAX)).await;
    assert_eq!(place(&life.plane.newest()), "h9 g1 v1");
    assert_eq!(life.plane.newest().routes.custom_count(), 0);
}

/// A host that registered once, and is not there.
async fn registered(life: &Life, host: &str) {
    let record = HostRecord { control: String::new(), token_file: String::new(), ..host_record(host, "127.0.0.1:9") };
    life.edge.control.commit(change(vec![Write::PutHost(record.clone())])).await.unwrap();
    life.edge.hosts.put(record).unwrap().unwrap();
}

#[tokio::test]
async fn a_host_is_forgotten_though_the_table_cannot_be_written_just_then() {
    let (world, dir, life) = deployed(true).await;
    registered(&life, "h8").await;
    std::fs::create_dir(dir.path().join("table").join("routes.tmp")).unwrap();
    let gone = answer(life.request(reqwest::Method::DELETE, "/v1/hosts/h8")).await;
    assert_eq!(gone.0, 204, "{}", gone.1);
    assert!(life.edge.control.published().behind);
    assert_eq!(life.get("/v1/hosts/h8").await.0, 404);
    std::fs::remove_dir(dir.path().join("table").join("routes.tmp")).unwrap();
    life.until(|| !life.edge.control.published().behind).await;
    life.assert_consistent(&world).await;
}

#[tokio::test]
async fn a_host_is_forgotten_whole_though_the_client_that_asked_has_left() {
    let (_world, _dir, life) = deployed(true).await;
    registered(&life, "h8").await;
    let hold = life.edge.control.hold().await.unwrap();
    let mut client = tokio::net::TcpStream::connect(life.addr).await.unwrap();
    let request = format!("DELETE /v1/hosts/h8 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", life.token);
    client.write_all(request.as_bytes()).await.unwrap();
    life.until(|| life.edge.registering.try_lock().is_err()).await;
    client.shutdown().await.unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    // The edge has noticed; what was asked goes on.
    drop(hold);
    let begun = std::time::Instant::now();
    while life.edge.store().load().await.unwrap().hosts.iter().any(|host| host.name == "h8") {
        assert!(begun.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    }
    life.until(|| life.edge.registering.try_lock().is_ok()).await;
    assert!(life.edge.hosts.find("h8").is_none(), "the store has forgotten it");
}
