//! Control from its API to the hosts: what is done in which order, and what is left of it when anything fails or the edge
//! dies at any point.

mod support;

use std::sync::Arc;

use serde_json::{Value, json};
use steady_lb::agents::health::HostEvent;
use steady_lb::limits::CHANGES_WAITING_MAX;
use steady_lb::snapshot::HostState;
use steady_lb::store::{Kind, WorkflowRecord, Write};
use steady_lb::workflow::Tracker;
use support::*;

fn steps(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter_map(|line| line["step"].as_str()).collect()
}

#[tokio::test]
async fn a_deployment_starts_at_the_host_before_anyone_is_sent_there() {
    let (world, _dir, life) = begun(false).await;
    world.take_journal();
    let lines = life.deploy_shop("one").await;
    assert_eq!(world.take_journal(), ["h1 bundle", "h1 PUT owner g1 v1 wait", "publish h1 g1 v1"]);
    assert_eq!(steps(&lines), ["record", "push", "start", "route"]);
    let app = &lines.last().unwrap()["app"];
    assert_eq!((&app["name"], &app["state"], &app["hosts"]), (&json!("shop"), &json!("ready"), &json!(["h1"])));
    assert_eq!(app["urls"], json!(["http://shop.steady.test:8080/"]));

    let lines = life.deploy_shop("two").await;
    assert!(done(&lines), "{lines:#?}");
    assert_eq!(world.take_journal(), ["h1 bundle", "h1 PUT owner g1 v2 wait", "publish h1 g1 v2"]);
    life.assert_consistent(&world).await;
}

#[tokio::test]
async fn a_version_that_cannot_start_leaves_the_old_one_and_its_reason_reaches_the_user() {
    let (world, _dir, life) = deployed(true).await;
    agent(&world, "h1").refuses.lock().unwrap().insert("PUT owner g1 v2".into());
    let lines = life.deploy_shop("two").await;
    let last = lines.last().unwrap();
    assert_eq!(last["step"], "start");
    assert!(last["detail"].as_str().unwrap().contains("it exits with 1"), "{last}");
    life.assert_consistent(&world).await;
    assert_eq!(place(&life.plane.newest()), "h1 g1 v1");
    // Its number is not given again.
    assert!(done(&life.deploy_shop("three").await));
    assert_eq!(place(&life.plane.newest()), "h1 g1 v3");
}

#[tokio::test]
async fn a_version_that_one_attempt_may_have_started_is_undone_though_later_ones_were_never_sent() {
    let (world, _dir, life) = deployed(true).await;
    // The bundle, then the start: that one takes effect, and its answer is lost.
    *world.fault.lock().unwrap() = Some((1, 500, true));
    let h1 = agent(&world, "h1");
    let cut = async {
        life.until(|| world.journal.lock().unwrap().iter().any(|line| line == "h1 PUT owner g1 v2 wait")).await;
        h1.mute();
    };
    let (lines, ()) = tokio::join!(life.deploy_shop("two"), cut);
    let undo = lines.iter().find(|line| line["step"] == "undo" && line["host"] == "h1").unwrap();
    assert!(undo["detail"].as_str().unwrap().starts_with("it is put right when it answers"), "{lines:#?}");
    h1.revive().await;
    life.until(|| world.owners() == [("h1".to_owned(), 1, 1)]).await;
    life.quiesce(&world).await;
    life.assert_consistent(&world).await;
}

#[tokio::test]
async fn an_exclusive_application_stops_at_its_old_host_before_it_starts_at_the_new_one() {
    let (world, _dir, life) = deployed(true).await;
    world.take_journal();
    let lines = life.move_to("h2").await;
    assert!(done(&lines), "{lines:#?}");
    assert_eq!(
        world.take_journal(),
        [
            "h2 bundle",
            "h2 PUT incoming g2 v1",
            "publish h1>h2 g1>2",
            "h1 drain g1",
            "h2 PUT owner g2 v1 wait",
            "publish h2 g2 v1",
            "h1 DELETE g2",
        ]
    );
    assert_eq!(steps(&lines), ["record", "prepare", "route", "drain", "activate", "settle", "forget"]);
    life.assert_consistent(&world).await;
}

#[tokio::test]
async fn an_ordinary_application_is_ready_at_its_new_host_before_the_old_one_drains() {
    let (world, _dir, life) = deployed(false).await;
    world.take_journal();
    assert!(done(&life.move_to("h2").await));
    assert_eq!(
        world.take_journal(),
        [
            "h2 bundle",
            "h2 PUT incoming g2 v1 wait",
            "publish h1>h2 g1>2",
            "h2 PUT owner g2 v1 wait",
            "h1 drain g1",
            "publish h2 g2 v1",
            "h1 DELETE g2",
        ]
    );
    life.assert_consistent(&world).await;
    assert!(done(&life.move_to("h1").await));
    life.assert_consistent(&world).await;
}

#[tokio::test]
async fn a_move_that_fails_before_the_hand_over_is_undone_and_burns_its_generation() {
    for exclusive in [false, true] {
        let (world, _dir, life) = deployed(exclusive).await;
        agent(&world, "h2").refuses.lock().unwrap().insert("PUT incoming g2".into());
        let lines = life.move_to("h2").await;
        assert_eq!(lines.last().unwrap()["error"], "not moved", "{lines:#?}");
        life.assert_consistent(&world).await;
        assert_eq!(place(&life.plane.newest()), "h1 g1 v1");
        assert!(done(&life.move_to("h2").await));
        assert_eq!(place(&life.plane.newest()), "h2 g3 v1");
        life.assert_consistent(&world).await;
    }
}

#[tokio::test]
async fn an_exclusive_application_that_cannot_start_at_its_new_host_goes_back() {
    let (world, _dir, life) = deployed(true).await;
    agent(&world, "h2").refuses.lock().unwrap().insert("PUT owner".into());
    world.take_journal();
    let lines = life.move_to("h2").await;
    let last = lines.last().unwrap();
    assert_eq!((&last["error"], &last["step"]), (&json!("moved back"), &json!("activate")));
    let journal = world.take_journal();
    let at =
        |what: &str| journal.iter().position(|line| line == what).unwrap_or_else(|| panic!("{what}: {journal:#?}"));
    assert!(at("h2 DELETE g3") < at("publish h1 g3 v1"), "{journal:#?}");
    assert!(at("publish h1 g3 v1") < at("h1 PUT owner g3 v1 wait"), "{journal:#?}");
    life.assert_consistent(&world).await;
}

#[tokio::test]
async fn an_exclusive_application_goes_back_although_its_files_at_the_new_host_cannot_be_removed() {
    let (world, _dir, life) = deployed(true).await;
    agent(&world, "h2").refuses.lock().unwrap().extend(["PUT owner".into(), "files".into()]);
    let lines = life.move_to("h2").await;
    assert_eq!(lines.last().unwrap()["error"], "moved back");
    assert_eq!(world.owners(), [("h1".to_owned(), 3, 1)]);
}

#[tokio::test]
async fn an_exclusive_application_leaves_a_dead_host_only_by_force_and_the_host_is_put_right_when_it_returns() {
    let (world, _dir, life) = deployed(true).await;
    let h1 = agent(&world, "h1");
    h1.die();
    life.until(|| life.edge.hosts.state("h1") == HostState::Down).await;
    let refused = life.move_to("h2").await;
    assert_eq!(refused[0]["status"], 409);
    assert!(refused[0]["detail"].as_str().unwrap().contains("force"), "{refused:?}");
    assert!(done(&life.move_with(json!({"to": "h2", "force": true})).await));
    assert_eq!(place(&life.plane.newest()), "h2 g2 v1");
    assert_eq!(h1.app().unwrap().role, "owner", "it knows nothing of it yet");
    h1.revive().await;
    life.until(|| h1.app().unwrap().role == "absent").await;
    life.quiesce(&world).await;
    life.assert_consistent(&world).await;
}

#[tokio::test]
async fn force_is_of_the_move_that_brought_it_and_gone_when_that_is_refused() {
    let (_world, _dir, life) = deployed(true).await;
    let workflows = &life.edge.workflows;
    let lock = Tracker::try_lock(&life.edge, &name(APP)).unwrap();
    // Two that will be refused: it is there already, and there is no such host.
    let (one, two, ()) = tokio::join!(
        life.move_with(json!({"to": "h1", "force": true})),
        life.move_with(json!({"to": "h7", "force": true})),
        async {
            while workflows.waiting_forced(&name(APP)) < 2 {
                tokio::task::yield_now().await;
            }
            drop(lock);
        },
    );
    assert!(one.last().unwrap()["error"].is_string() && two.last().unwrap()["error"].is_string(), "{one:#?} {two:#?}");
    assert_eq!(workflows.waiting_forced(&name(APP)), 0, "a later move would skip the drain of a host that is down");
}

#[tokio::test]
async fn a_host_whose_agent_is_silent_but_serves_is_not_taken_for_dead() {
    let (world, _dir, life) = deployed(true).await;
    agent(&world, "h1").mute();
    life.until(|| life.edge.hosts.state("h1") == HostState::Suspected).await;
    let refused = life.move_with(json!({"to": "h2", "force": true})).await;
    assert_eq!(refused[0]["status"], 409);
    life.assert_consistent(&world).await;
}

#[tokio::test]
async fn an_ordinary_application_leaves_a_dead_host_without_asking() {
    let (world, _dir, life) = deployed(false).await;
    let h1 = agent(&world, "h1");
    h1.die();
    life.until(|| life.edge.hosts.state("h1") == HostState::Down).await;
    let lines = life.move_to("h2").await;
    assert!(done(&lines), "{lines:#?}");
    h1.revive().await;
    life.until(|| h1.app().unwrap().role == "absent").await;
    life.quiesce(&world).await;
    life.assert_consistent(&world).await;
}

#[tokio::test]
async fn a_host_that_lost_everything_gets_its_applications_again() {
    let (world, _dir, life) = deployed(true).await;
    let h1 = agent(&world, "h1");
    h1.die();
    life.until(|| life.edge.hosts.state("h1") == HostState::Down).await;
    h1.apps.lock().unwrap().clear();
    h1.bundles.lock().unwrap().clear();
    h1.revive().await;
    life.until(|| world.owners() == [("h1".to_owned(), 1, 1)]).await;
    life.quiesce(&world).await;
    life.assert_consistent(&world).await;
}

#[tokio::test]
async fn a_host_that_returns_again_and_again_is_put_right_by_one_task() {
    let (world, _dir, life) = deployed(true).await;
    let lock = Tracker::try_lock(&life.edge, &name(APP)).unwrap();
    agent(&world, "h1").apps.lock().unwrap().clear();
    // Each task holds the edge.
    let before = Arc::strong_count(&life.edge);
    for _ in 0..50 {
        let returned = HostEvent::Returned { host: "h1".into(), claims: None };
        life.edge.host_events.send(returned).await.unwrap();
    }
    // What comes behind them is seen when they were.
    let last = HostEvent::State { host: "h1".into(), state: HostState::Suspected };
    life.edge.host_events.send(last).await.unwrap();
    life.until(|| life.plane.newest().hosts[0] == HostState::Suspected).await;
    let tasks = Arc::strong_count(&life.edge).saturating_sub(before);
    assert!(tasks <= 2, "{tasks} tasks for two hosts");
    // The last return is not lost: what the host lost is given again when the application is free.
    drop(lock);
    life.until(|| world.owners() == [("h1".to_owned(), 1, 1)]).await;
    life.assert_consistent(&world).await;
}

#[tokio::test]
async fn a_removed_application_is_unknown_to_the_workers_before_its_host_forgets_it() {
    let (world, _dir, life) = deployed(true).await;
    world.take_journal();
    let lines = life.remove().await;
    assert!(done(&lines), "{lines:#?}");
    assert_eq!(world.take_journal(), ["publish nowhere", "h1 DELETE g1"]);
    life.assert_consistent(&world).await;
    assert_eq!(life.get("/v1/apps/shop").await.0, 404);
    assert!(done(&life.deploy_shop("again").await));
    assert_eq!(place(&life.plane.newest()), "h1 g2 v2", "its numbers go on");
}

#[tokio::test]
async fn changes_of_one_application_come_one_after_the_other() {
    let (world, _dir, life) = deployed(true).await;
    let (a, b, c, d) = tokio::join!(
        life.deploy_shop("two"),
        life.move_to("h2"),
        life.deploy_shop("three"),
        life.move_with(json!({"to": "h2", "force": false})),
    );
    life.quiesce(&world).await;
    life.assert_consistent(&world).await;
    assert!(done(&a) && done(&c), "{a:#?} {c:#?}");
    assert!(done(&b) != done(&d), "one of two moves to one place is too many: {b:#?} {d:#?}");
    assert_eq!(place(&life.plane.newest()), "h2 g2 v3");
}

#[tokio::test]
async fn what_could_not_be_tidied_up_at_a_host_is_put_right_though_the_host_never_went_away() {
    let (world, _dir, life) = deployed(false).await;
    let h1 = agent(&world, "h1");
    h1.fails.lock().unwrap().insert("DELETE".into());
    let lines = life.move_to("h2").await;
    assert!(done(&lines), "{lines:#?}");
    assert_eq!(h1.app().unwrap().role, "draining");
    h1.fails.lock().unwrap().clear();
    life.until(|| h1.app().unwrap().role == "absent").await;
    life.assert_consistent(&world).await;
}

#[tokio::test]
async fn so_many_changes_of_one_application_wait_and_no_more_but_a_move_by_force() {
    let (_world, dir, life) = deployed(true).await;
    let lock = Tracker::try_lock(&life.edge, &name(APP)).unwrap();
    let waiting = futures_util::future::join_all((0..CHANGES_WAITING_MAX).map(|_| life.move_to("h1")));
    let meddle = async {
        life.until(|| life.edge.workflows.waiting(&name(APP)) == CHANGES_WAITING_MAX).await;
        let refused = life.move_to("h1").await;
        assert_eq!(refused[0]["status"], 429, "{refused:#?}");
        let bundles = || std::fs::read_dir(dir.path().join("bundles")).unwrap().count();
        assert_eq!(life.deploy_shop("two").await[0]["status"], 429);
        assert_eq!(bundles(), 1, "what was not taken leaves nothing");
        let forced = life.move_with(json!({"to": "h1", "force": true}));
        let let_go = async {
            life.until(|| life.edge.workflows.waiting_forced(&name(APP)) == 1).await;
            drop(lock);
        };
        tokio::join!(forced, let_go).0
    };
    let (lines, forced) = tokio::join!(waiting, meddle);
    for lines in lines.iter().chain([&forced]) {
        assert_eq!(lines[0]["step"], "wait", "{lines:#?}");
        assert!(lines.last().unwrap()["error"].is_string(), "it is there already: {lines:#?}");
    }
}

#[tokio::test]
async fn a_deployment_that_is_refused_behind_its_upload_leaves_no_bundle() {
    let (_world, dir, life) = deployed(true).await;
    let lock = Tracker::try_lock(&life.edge, &name(APP)).unwrap();
    let let_go = async {
        life.until(|| life.edge.workflows.waiting(&name(APP)) == 1).await;
        drop(lock);
    };
    let path = format!("/v1/apps/{APP}?host=h2");
    let (lines, ()) = tokio::join!(life.deploy(&path, "two"), let_go);
    assert!(lines.last().unwrap()["detail"].as_str().unwrap().contains("is on h1"), "{lines:#?}");
    assert_eq!(std::fs::read_dir(dir.path().join("bundles")).unwrap().count(), 1);
}

/// What is done to an edge that has `shop` on h1 (or, for the first deployment, nothing).
#[derive(Clone, Copy, Debug, PartialEq)]
enum Deed {
    First,
    Replace,
    Move,
    Remove,
}

async fn act(life: &Life, deed: Deed) -> Vec<Value> {
    match deed {
        Deed::First => life.deploy_shop("one").await,
        Deed::Replace => life.deploy_shop("two").await,
        Deed::Move => life.move_to("h2").await,
        Deed::Remove => life.remove().await,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Lets the edge die at its every effect in turn, before it and behind it, and begin again.
fn dies_everywhere(deed: Deed, exclusive: bool) {
    let mut deaths = 0;
    for passes in 0.. {
        let outside = runtime();
        let world = World::new(exclusive);
        let dir = tempfile::tempdir().unwrap();
        outside.block_on(async {
            Agent::start(&world, "h1").await;
            Agent::start(&world, "h2").await;
        });
        let first = runtime();
        let life = first.block_on(Life::begin(&world, dir.path(), Fuse::new(u64::MAX)));
        if deed != Deed::First {
            assert!(done(&first.block_on(life.deploy_shop("one"))));
        }
        drop(life);
        first.shutdown_timeout(PATIENCE);

        let fuse = Fuse::new(u64::MAX);
        let second = runtime();
        let survived = second.block_on(async {
            let life = Life::begin(&world, dir.path(), Arc::clone(&fuse)).await;
            fuse.set(passes);
            tokio::select! {
                lines = act(&life, deed) => { assert!(done(&lines), "{lines:#?}"); true }
                () = fuse.blown() => false,
            }
        });
        second.shutdown_timeout(PATIENCE);
        let third = runtime();
        third.block_on(async {
            let life = Life::begin(&world, dir.path(), Fuse::new(u64::MAX)).await;
            life.quiesce(&world).await;
            life.assert_consistent(&world).await;
            // It is not only consistent but alive.
            if deed == Deed::Move || deed == Deed::Replace {
                assert!(done(&life.deploy_shop("after").await));
                life.assert_consistent(&world).await;
            }
        });
        third.shutdown_timeout(PATIENCE);
        outside.shutdown_timeout(PATIENCE);
        if survived {
            break;
        }
        deaths += 1;
    }
    // A record, an effect on a host and a route at the least, each with a death before and behind it.
    assert!(deaths >= 6, "only {deaths} deaths");
}

#[test]
fn a_first_deployment_survives_a_death_anywhere() {
    dies_everywhere(Deed::First, true);
}

#[test]
fn a_replacement_survives_a_death_anywhere() {
    dies_everywhere(Deed::Replace, true);
}

#[test]
fn a_move_of_an_exclusive_application_survives_a_death_anywhere() {
    dies_everywhere(Deed::Move, true);
}

#[test]
fn a_move_of_an_ordinary_application_survives_a_death_anywhere() {
    dies_everywhere(Deed::Move, false);
}

#[test]
fn a_removal_survives_a_death_anywhere() {
    dies_everywhere(Deed::Remove, true);
}

/// Lets each call to an agent fail in turn: refused, broken before its effect, broken behind it.
async fn fails_everywhere(deed: Deed, exclusive: bool) {
    for (status, effect) in [(422, false), (500, false), (500, true)] {
        for call in 0.. {
            let (world, _dir, life) =
                if deed == Deed::First { begun(exclusive).await } else { deployed(exclusive).await };
            *world.fault.lock().unwrap() = Some((call, status, effect));
            let lines = act(&life, deed).await;
            assert!(done(&lines) || lines.last().unwrap()["error"].is_string(), "{lines:#?}");
            life.quiesce(&world).await;
            life.assert_consistent(&world).await;
            if world.fault.lock().unwrap().is_some() {
                assert!(done(&lines), "nothing failed: {lines:#?}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_deployment_is_whole_or_undone_whichever_call_fails() {
    fails_everywhere(Deed::First, true).await;
    fails_everywhere(Deed::Replace, true).await;
}

#[tokio::test]
async fn a_move_is_whole_or_undone_whichever_call_fails() {
    fails_everywhere(Deed::Move, true).await;
    fails_everywhere(Deed::Move, false).await;
}

#[tokio::test]
async fn a_removal_is_carried_through_whichever_call_fails() {
    fails_everywhere(Deed::Remove, true).await;
}

#[test]
fn a_workflow_that_cannot_be_taken_up_keeps_no_other_from_going_on() {
    let outside = runtime();
    let world = World::new(true);
    let dir = tempfile::tempdir().unwrap();
    outside.block_on(async {
        Agent::start(&world, "h1").await;
        Agent::start(&world, "h2").await;
    });
    let first = runtime();
    first.block_on(async {
        let fuse = Fuse::new(u64::MAX);
        let life = Life::begin(&world, dir.path(), Arc::clone(&fuse)).await;
        assert!(done(&life.deploy_shop("one").await));
        // Of a program that is newer than this one.
        let workflow = WorkflowRecord {
            id: 0,
            kind: Kind::Move,
            app: name("other"),
            step: "teleport".into(),
            state: json!({"next": "teleport"}),
            started: 0,
            finished: None,
            error: None,
        };
        life.edge.control.commit(change(vec![Write::PutWorkflow(workflow)])).await.unwrap();
        fuse.set(4);
        tokio::select! {
            lines = life.move_to("h2") => panic!("{lines:#?}"),
            () = fuse.blown() => {}
        }
    });
    first.shutdown_timeout(PATIENCE);
    let second = runtime();
    second.block_on(async {
        let life = Life::begin(&world, dir.path(), Fuse::new(u64::MAX)).await;
        life.until(|| world.owners() == [("h2".to_owned(), 2, 1)]).await;
        assert!(Tracker::try_lock(&life.edge, &name("other")).is_none(), "nothing is begun on top of it");
    });
    second.shutdown_timeout(PATIENCE);
}
