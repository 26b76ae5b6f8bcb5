//! A store that somebody put back from a copy is older than what its hosts have: nothing that came after the copy is replaced
//! or deleted, and what has left a host comes back above whatever that host has seen.

mod support;

use std::sync::Arc;

use serde_json::Value;
use steady_lb::snapshot::HostState;
use support::*;

/// The edge's store is a copy from before `shop` went from h1 to h2. Neither host is reached yet.
async fn put_back() -> (Arc<World>, tempfile::TempDir, Life) {
    let (world, dir, life) = deployed(true).await;
    let (h1, h2) = (agent(&world, "h1"), agent(&world, "h2"));
    for host in [&h1, &h2] {
        host.die();
        life.until(|| life.edge.hosts.state(&host.name) == HostState::Down).await;
    }
    let owner = FakeApp { generation: 2, running: true, ..h1.app().unwrap() };
    h2.bundles.lock().unwrap().insert(owner.digest.clone());
    h1.apps.lock().unwrap().insert(APP.into(), FakeApp { role: "absent", running: false, ..owner.clone() });
    h2.apps.lock().unwrap().insert(APP.into(), owner);
    (world, dir, life)
}

#[tokio::test]
async fn a_store_that_is_older_than_a_host_deletes_nothing_there() {
    let (world, _dir, life) = put_back().await;
    let (h1, h2) = (agent(&world, "h1"), agent(&world, "h2"));
    world.take_journal();
    h1.revive().await;
    life.until(|| world.journal.lock().unwrap().iter().any(|line| line == "h1 PUT owner g1 v1 -> 409")).await;
    h2.revive().await;
    life.until(|| ["h1", "h2"].iter().all(|host| life.edge.hosts.state(host) == HostState::Up)).await;
    steady_lb::reconcile::host_returned(Arc::clone(&life.edge), "h2".into(), None).await;
    // Nor does it by a redeployment, nor is there a second owner.
    let lines = life.deploy_shop("two").await;
    let last = lines.last().unwrap();
    assert!(last["detail"].as_str().unwrap().contains("h2 has shop with generation 2"), "{last}");
    assert_eq!(world.owners(), [("h2".to_owned(), 2, 1)]);
    // Once somebody has decided that what h2 has is to go, the store is obeyed.
    h2.apps.lock().unwrap().insert(APP.into(), h1.app().unwrap());
    life.until(|| world.owners() == [("h1".to_owned(), 3, 1)]).await;
    life.quiesce(&world).await;
    life.assert_consistent(&world).await;
}

#[tokio::test]
async fn a_host_that_has_seen_more_than_the_store_gets_a_number_above_by_its_return_or_a_redeployment() {
    for redeployed in [false, true] {
        let (world, _dir, life) = put_back().await;
        let (h1, h2) = (agent(&world, "h1"), agent(&world, "h2"));
        h2.apps.lock().unwrap().clear();
        h2.revive().await;
        life.until(|| life.edge.hosts.state("h2") == HostState::Up).await;
        if redeployed {
            // It returns as it should be, and lets go only then.
            let left = h1.app().unwrap();
            let digest = life.edge.store().app(name(APP)).await.unwrap().unwrap().digest;
            let owner = FakeApp { role: "owner", generation: 1, version: 1, digest, running: true };
            h1.apps.lock().unwrap().insert(APP.into(), owner);
            h1.revive().await;
            life.until(|| life.edge.hosts.state("h1") == HostState::Up).await;
            steady_lb::reconcile::host_returned(Arc::clone(&life.edge), "h1".into(), None).await;
            h1.apps.lock().unwrap().insert(APP.into(), left);
            let lines = life.deploy_shop("two").await;
            assert!(done(&lines), "{lines:#?}");
        } else {
            h1.revive().await;
        }
        let version = 1 + u32::from(redeployed);
        life.until(|| world.owners() == [("h1".to_owned(), 3, version)]).await;
        life.quiesce(&world).await;
        life.assert_consistent(&world).await;
    }
}

fn refused(lines: &[Value], why: &str) {
    let last = lines.last().unwrap();
    assert!(last["done"].is_null() && last["detail"].as_str().unwrap().contains(why), "{why:?}: {lines:#?}");
}

/// What a host has from a store that knew more.
fn newer(role: &'static str, generation: u64) -> FakeApp {
    FakeApp { role, generation, version: 1, digest: "d".repeat(64), running: role == "owner" }
}

fn give(agent: &Agent, app: FakeApp) {
    agent.apps.lock().unwrap().insert(APP.into(), app);
}

#[tokio::test]
async fn a_move_to_the_host_that_has_something_newer_is_refused_and_deletes_nothing_there() {
    let (world, _dir, life) = put_back().await;
    let (h1, h2) = (agent(&world, "h1"), agent(&world, "h2"));
    h1.revive().await;
    h2.revive().await;
    life.until(|| ["h1", "h2"].iter().all(|host| life.edge.hosts.state(host) == HostState::Up)).await;
    for _ in 0..3 {
        let lines = life.move_to("h2").await;
        refused(&lines, "h2 has shop with generation 2");
        assert_eq!(world.owners(), [("h2".to_owned(), 2, 1)]);
    }
    assert_eq!(life.edge.store().numbers(name(APP)).await.unwrap().generation, 1, "no generation was given out");
}

#[tokio::test]
async fn a_move_that_its_new_host_refuses_for_something_newer_deletes_nothing_there_when_it_is_undone() {
    for exclusive in [false, true] {
        let (world, _dir, life) = deployed(exclusive).await;
        let h2 = agent(&world, "h2");
        // It does not say in time that it has something.
        h2.refuses.lock().unwrap().insert("GET".into());
        give(&h2, FakeApp { running: false, ..newer("owner", 2) });
        world.take_journal();
        let lines = life.move_to("h2").await;
        assert_eq!(lines.last().unwrap()["error"], "not moved", "{lines:#?}");
        assert_eq!(world.owners(), [("h1".to_owned(), 1, 1), ("h2".to_owned(), 2, 1)]);
        assert_eq!(place(&life.plane.newest()), "h1 g1 v1");
        assert!(!world.take_journal().iter().any(|line| line.starts_with("h2 DELETE")));
    }
}

#[tokio::test]
async fn something_newer_on_a_third_host_stops_a_move_that_would_make_it_stale() {
    let (world, _dir, life) = deployed_on(false, &["h1", "h2", "h3"]).await;
    give(&agent(&world, "h2"), newer("absent", 2));
    give(&agent(&world, "h3"), newer("owner", 2));
    let lines = life.move_to("h2").await;
    refused(&lines, "h3 has shop with generation 2");
    life.quiesce(&world).await;
    assert_eq!(world.owners(), [("h1".to_owned(), 1, 1), ("h3".to_owned(), 2, 1)]);
}

#[tokio::test]
async fn a_move_passes_the_generation_that_its_new_host_has_seen() {
    let (world, _dir, life) = deployed(true).await;
    give(&agent(&world, "h2"), newer("absent", 7));
    let lines = life.move_to("h2").await;
    assert!(done(&lines), "{lines:#?}");
    assert_eq!(place(&life.plane.newest()), "h2 g8 v1");
    life.assert_consistent(&world).await;
}

#[tokio::test]
async fn an_application_whose_own_host_is_ahead_of_the_store_does_not_begin_a_move_that_could_not_drain_it() {
    let (world, _dir, life) = deployed_on(true, &["h1", "h2", "h3"]).await;
    // Nobody can be sure of what a host has that does not answer, so that this one is not put right.
    agent(&world, "h3").die();
    let ahead = FakeApp { generation: 5, ..agent(&world, "h1").app().unwrap() };
    give(&agent(&world, "h1"), ahead);
    let lines = life.move_to("h2").await;
    refused(&lines, "h1 has shop with generation 5, of which the store knows 1");
    assert_eq!(life.edge.workflows.open(), 0);
}

#[tokio::test]
async fn a_first_deployment_passes_the_generation_that_its_host_has_seen() {
    let (world, _dir, life) = begun(true).await;
    give(&agent(&world, "h1"), newer("absent", 5));
    let lines = life.deploy_shop("one").await;
    assert!(done(&lines), "{lines:#?}");
    assert_eq!(place(&life.plane.newest()), "h1 g6 v1");
    life.assert_consistent(&world).await;
}

#[tokio::test]
async fn a_first_deployment_replaces_and_deletes_nothing_that_a_host_has_from_elsewhere() {
    for (host, generation) in [("h1", 1), ("h1", 4), ("h2", 1), ("h2", 4)] {
        let (world, _dir, life) = begun(true).await;
        give(&agent(&world, host), newer("owner", generation));
        world.take_journal();
        let lines = life.deploy_shop("one").await;
        assert_eq!(lines[0]["status"], 409, "{lines:#?}");
        refused(&lines, &format!("{host} has shop with generation {generation}"));
        life.quiesce(&world).await;
        assert_eq!(world.owners(), [(host.to_owned(), generation, 1)]);
        assert_eq!(world.take_journal(), [""; 0]);
        // Gone from there, it can be deployed.
        let path = format!("/v1/hosts/{host}/apps/{APP}?generation={generation}");
        let forgotten = life.request(reqwest::Method::DELETE, &path).send().await.unwrap();
        assert_eq!(forgotten.status(), 200);
        let lines = life.deploy_shop("one").await;
        assert!(done(&lines), "{lines:#?}");
        life.assert_consistent(&world).await;
    }
}

#[tokio::test]
async fn a_host_that_claims_an_absurd_generation_takes_no_numbers_away() {
    for seen in [u64::MAX, i64::MAX as u64 - 1] {
        let (world, _dir, life) = begun(true).await;
        let h1 = agent(&world, "h1");
        give(&h1, newer("absent", seen));
        refused(&life.deploy_shop("one").await, "no edge can have given out");
        h1.apps.lock().unwrap().clear();
        assert!(done(&life.deploy_shop("one").await));
        // By its return too.
        give(&h1, FakeApp { role: "draining", generation: seen, running: false, ..h1.app().unwrap() });
        steady_lb::reconcile::host_returned(Arc::clone(&life.edge), "h1".into(), None).await;
        assert!(life.edge.store().numbers(name(APP)).await.unwrap().generation < 10);
    }
}

#[tokio::test]
async fn a_version_of_the_owner_that_the_store_never_gave_out_is_neither_replaced_nor_moved_away_from() {
    for exclusive in [false, true] {
        let (world, _dir, life) = deployed(exclusive).await;
        let h1 = agent(&world, "h1");
        // A redeployment keeps the generation.
        let deployed = FakeApp { version: 2, digest: "e".repeat(64), ..h1.app().unwrap() };
        give(&h1, deployed);
        world.take_journal();
        steady_lb::reconcile::host_returned(Arc::clone(&life.edge), "h1".into(), None).await;
        refused(&life.move_to("h2").await, "h1 has shop with generation 1 and version 2, which it never gave out");
        let lines = life.deploy_shop("another").await;
        assert_eq!(lines[0]["status"], 409, "{lines:#?}");
        refused(&lines, "h1 has shop with generation 1 and version 2, which it never gave out");
        assert_eq!(world.owners(), [("h1".to_owned(), 1, 2)]);
        assert_eq!(world.take_journal(), [""; 0]);
        // Once somebody has decided that it is to go, the store is obeyed, and versions are given out again.
        let path = format!("/v1/hosts/h1/apps/{APP}?generation=1");
        assert_eq!(life.request(reqwest::Method::DELETE, &path).send().await.unwrap().status(), 200);
        life.quiesce(&world).await;
        assert_eq!(world.owners(), [("h1".to_owned(), 2, 1)]);
        assert!(done(&life.deploy_shop("another").await));
        life.assert_consistent(&world).await;
    }
}
