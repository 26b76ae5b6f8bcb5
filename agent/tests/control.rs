//! The control side against real processes, with a fake data path.

mod rig;

use std::sync::Arc;
use std::time::Duration;

use rig::*;
use serde_json::json;
use steady_agent::Agent;
use steady_agent::gate::{Generation, Notice, Process, Role};
use steady_agent::limits::Limits;

fn app(text: &str) -> Vec<(&'static str, String)> {
    vec![("steady.toml", TOML.to_owned()), ("app.py", server(text))]
}

async fn bundle(client: &Client, files: &[(&'static str, String)]) -> String {
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    client.bundle(&files).await
}

fn exclusive(text: &str) -> Vec<(&'static str, String)> {
    vec![("steady.toml", TOML_EXCLUSIVE.to_owned()), ("app.py", server(text))]
}

fn broken() -> Vec<(&'static str, String)> {
    let code = "import sys\nprint('no database', flush=True)\nsys.exit(3)\n";
    vec![("steady.toml", TOML.to_owned()), ("app.py", code.to_owned())]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_placed_application_starts_answers_and_is_told_to_the_workers() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path()).await;
    let digest = bundle(&rig.client, &app("one")).await;
    let (status, shown) = rig.client.place("shop", 1, "owner", 3, &digest).await;
    assert_eq!(status, 200, "{shown}");
    assert_eq!((&shown["state"], &shown["version"], &shown["role"]), (&json!("ready"), &json!(3), &json!("owner")));
    let ready = rig.plane.until_ready("shop").await;
    assert_eq!(ready.get("/").await, "one");
    assert_eq!(ready.get("/pid").await, shown["pid"].to_string());
    let env: serde_json::Value = serde_json::from_str(&ready.get("/env").await).unwrap();
    assert_eq!((&env["STEADY_APP"], &env["STEADY_HOST"]), (&json!("shop"), &json!("h1")));
    assert!(env.get("CARGO_MANIFEST_DIR").is_none(), "the environment is clean: {env}");
    let text = rig.client.log_with("shop", "hello from one").await;
    assert!(text.contains(&format!("--- started version 3 pid {}", shown["pid"])), "{text}");
    let pid = shown["pid"].as_u64().unwrap();
    rig.stop().await;
    assert!(!runs(pid), "nothing runs when the agent has stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_is_followed_by_a_start_after_the_back_off_while_requests_wait() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path()).await;
    let digest = bundle(&rig.client, &app("one")).await;
    rig.client.place("shop", 1, "owner", 1, &digest).await;
    let first = rig.plane.until_ready("shop").await;
    first.get("/crash").await;
    let second = rig.plane.until_another_ready("shop", first.instance).await;
    assert_eq!(second.get("/").await, "one");
    let between = rig.plane.history("shop").into_iter().rev().skip(1);
    let between: Vec<_> = between.take_while(|app| !matches!(app.process, Process::Ready { .. })).collect();
    assert!(!between.is_empty() && between.iter().all(|app| app.process == Process::Starting), "{between:?}");
    let shown = rig.client.app("shop").await;
    assert_eq!((&shown["restarts"], &shown["last_exit"]["code"]), (&json!(1), &json!(7)));
    assert!(shown["last_exit"]["output"].as_str().unwrap().contains("crashing now"), "{shown}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stops_answering_is_killed_and_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start_with(config(dir.path()), quick_limits()).await;
    let digest = bundle(&rig.client, &app("one")).await;
    let (_, shown) = rig.client.place("shop", 1, "owner", 1, &digest).await;
    let first = rig.plane.until_ready("shop").await;
    let hanging = first.clone();
    let request = tokio::spawn(async move { hanging.get("/hang").await });
    let second = rig.plane.until_another_ready("shop", first.instance).await;
    assert_eq!(second.get("/").await, "one");
    assert!(!runs(shown["pid"].as_u64().unwrap()));
    request.await.unwrap();
    let shown = rig.client.app("shop").await;
    assert!(shown["last_exit"]["reason"].as_str().unwrap().contains("stopped answering"), "{shown}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_of_a_broken_connection_makes_it_look_at_once() {
    let dir = tempfile::tempdir().unwrap();
    // Without the report the next probe would be an hour away.
    let limits = Limits { probe_every: Duration::from_secs(3600), ..quick_limits() };
    let rig = Rig::start_with(config(dir.path()), limits).await;
    let digest = bundle(&rig.client, &app("one")).await;
    rig.client.place("shop", 1, "owner", 1, &digest).await;
    let first = rig.plane.until_ready("shop").await;
    let hanging = first.clone();
    let request = tokio::spawn(async move { hanging.get("/hang").await });
    // The server is single-threaded: it hangs once it has begun with this request, and a report before that says nothing.
    let second = loop {
        rig.notices.send(Notice::Broken { app: "shop".into(), instance: first.instance }).await.unwrap();
        let ready = rig.plane.until_another_ready("shop", first.instance);
        if let Ok(ready) = tokio::time::timeout(Duration::from_secs(1), ready).await {
            break ready;
        }
    };
    assert_ne!(second.instance, first.instance);
    request.await.unwrap();
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_answers_when_it_is_doubted_is_published_again_so_that_workers_try_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { probe_every: Duration::from_secs(3600), probe_timeout: PATIENCE, ..quick_limits() };
    let rig = Rig::start_with(config(dir.path()), limits).await;
    let digest = bundle(&rig.client, &app("one")).await;
    rig.client.place("shop", 1, "owner", 1, &digest).await;
    let ready = rig.plane.until_ready("shop").await;
    for _ in 0..2 {
        let before = Arc::clone(rig.plane.history("shop").last().unwrap());
        rig.notices.send(Notice::Broken { app: "shop".into(), instance: ready.instance }).await.unwrap();
        let again = rig.plane.until("shop", |app| !std::ptr::eq(app, &*before)).await;
        assert_eq!(again.process, before.process, "it is what it was");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_version_that_cannot_be_is_told_with_its_last_output_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path()).await;
    let digest = bundle(&rig.client, &broken()).await;
    let (status, problem) = rig.client.place("shop", 1, "owner", 1, &digest).await;
    assert_eq!(status, 422, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("exited with code 3"), "{problem}");
    assert!(problem["output"].as_str().unwrap().contains("no database"), "{problem}");
    // After enough failures in a row nobody is kept waiting for it.
    let app = rig.plane.until("shop", |app| matches!(app.process, Process::Failed { .. })).await;
    let Process::Failed { reason } = &app.process else { unreachable!() };
    assert!(reason.contains("exited with code 3"), "{reason}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_version_takes_over_and_the_old_one_stays_until_its_requests_are_done() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path()).await;
    let (one, two) = (bundle(&rig.client, &app("one")).await, bundle(&rig.client, &app("two")).await);
    let (_, shown) = rig.client.place("shop", 1, "owner", 1, &one).await;
    let old_pid = shown["pid"].as_u64().unwrap();
    let old = rig.plane.until_ready("shop").await;
    rig.plane.set_in_flight(old.instance, 1);
    let (status, shown) = rig.client.place("shop", 1, "owner", 2, &two).await;
    assert_eq!((status, &shown["version"]), (200, &json!(2)));
    let new = rig.plane.until_another_ready("shop", old.instance).await;
    assert_eq!((new.get("/").await, old.get("/").await), ("two".to_owned(), "one".to_owned()));
    let first_ready = rig.plane.history("shop").iter().position(|app| matches!(app.process, Process::Ready { .. }));
    let since = rig.plane.history("shop").split_off(first_ready.unwrap());
    assert!(since.iter().all(|app| matches!(app.process, Process::Ready { .. })), "it was ready all the time");
    rig.plane.set_in_flight(old.instance, 0);
    until_gone(old_pid).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_version_that_cannot_be_leaves_the_old_one_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path()).await;
    let (one, bad) = (bundle(&rig.client, &app("one")).await, bundle(&rig.client, &broken()).await);
    let (_, before) = rig.client.place("shop", 1, "owner", 1, &one).await;
    let (status, problem) = rig.client.place("shop", 1, "owner", 2, &bad).await;
    assert_eq!(status, 422, "{problem}");
    let shown = rig.client.app("shop").await;
    assert_eq!((&shown["state"], &shown["version"], &shown["pid"]), (&json!("ready"), &json!(1), &before["pid"]));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_version_that_cannot_be_leaves_the_old_one_that_was_in_back_off_also_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    // Only going back to the old version starts it again: its back-off is longer than any test.
    let hour = Duration::from_secs(3600);
    let limits = Limits { backoff_first: hour, backoff_last: hour, ..Limits::default() };
    let rig = Rig::start_with(config(dir.path()), limits.clone()).await;
    let (one, bad) = (bundle(&rig.client, &app("one")).await, bundle(&rig.client, &broken()).await);
    assert_eq!(rig.client.place("shop", 1, "owner", 1, &one).await.0, 200);
    let first = rig.plane.until_ready("shop").await;
    first.get("/crash").await;
    rig.client.until("shop", |app| app["state"] == "crashed" && app["last_exit"].is_object()).await;
    let (status, problem) = rig.client.place("shop", 1, "owner", 2, &bad).await;
    assert_eq!(status, 422, "{problem}");
    assert_eq!(rig.plane.until_another_ready("shop", first.instance).await.get("/").await, "one");
    assert_eq!(rig.client.app("shop").await["version"], 1);
    rig.stop().await;
    let rig = Rig::start_with(config(dir.path()), limits).await;
    assert_eq!(rig.plane.until_ready("shop").await.get("/").await, "one");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_took_over_while_another_was_tried_is_the_one_that_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let hour = Duration::from_secs(3600);
    let slow = Limits { backoff_first: hour, backoff_last: hour, ..Limits::default() };
    let rig = Rig::start_with(config(dir.path()), slow).await;
    let (one, three) = (bundle(&rig.client, &app("one")).await, bundle(&rig.client, &app("three")).await);
    let never = "import time\nwhile True: time.sleep(1000)\n";
    let two = rig.client.bundle(&[("steady.toml", TOML), ("app.py", never)]).await;
    assert_eq!(rig.client.place("shop", 1, "owner", 1, &one).await.0, 200);
    let first = rig.plane.until_ready("shop").await;
    first.get("/crash").await;
    rig.client.until("shop", |app| app["state"] == "crashed" && app["last_exit"].is_object()).await;
    let client = rig.client.clone();
    let second = tokio::spawn(async move { client.place("shop", 1, "owner", 2, &two).await });
    rig.client.until("shop", |app| app["version"] == 2 && app["pid"].is_u64()).await;
    assert_eq!(rig.client.place("shop", 1, "owner", 3, &three).await.0, 200);
    assert_eq!(second.await.unwrap().0, 422, "another was placed meanwhile");
    let third = rig.plane.until_another_ready("shop", first.instance).await;
    third.get("/crash").await;
    // There is a reason once it waits, and not while its process is still going.
    let crashed = rig.client.until("shop", |app| app["state"] == "crashed" && app["reason"].is_string()).await;
    assert_eq!(crashed["version"], 3, "{crashed}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exclusive_application_never_runs_twice_and_comes_back_when_its_new_version_cannot_be() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path()).await;
    // Every version holds this lock for its life, and says so when another one holds it.
    let lock = dir.path().join("data.lock");
    let locked = |text: &str, code: &str| {
        let take = format!(
            "import fcntl, sys\nf = open({:?}, 'w')\ntry: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n\
             except OSError:\n    print('TWICE', flush=True); sys.exit(9)\n{code}\n",
            lock.to_str().unwrap()
        );
        vec![("steady.toml", TOML_EXCLUSIVE.to_owned()), ("app.py", take + &server(text))]
    };
    let one = bundle(&rig.client, &locked("one", "")).await;
    let two = bundle(&rig.client, &locked("two", "")).await;
    let bad = bundle(&rig.client, &locked("bad", "sys.exit(3)")).await;
    assert_eq!(rig.client.place("shop", 1, "owner", 1, &one).await.0, 200);
    let (status, shown) = rig.client.place("shop", 1, "owner", 2, &two).await;
    assert_eq!((status, &shown["version"], &shown["exclusive"]), (200, &json!(2), &json!(true)), "{shown}");
    let (status, problem) = rig.client.place("shop", 1, "owner", 3, &bad).await;
    assert_eq!(status, 422, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("code 3"), "{problem}");
    let shown = rig.client.until("shop", |app| app["state"] == "ready").await;
    assert_eq!(shown["version"], 2);
    assert_eq!(rig.plane.until_ready("shop").await.get("/").await, "two");
    let (_, text) = rig.client.text("GET", "/v1/apps/shop/logs?lines=1000", b"").await;
    assert!(!text.contains("TWICE"), "{text}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_starts_beside_an_exclusive_version_that_still_finishes_whatever_was_placed_since() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path()).await;
    let one = bundle(&rig.client, &exclusive("one")).await;
    let (two, three) = (bundle(&rig.client, &app("two")).await, bundle(&rig.client, &app("three")).await);
    let (_, shown) = rig.client.place("shop", 1, "owner", 1, &one).await;
    let first = rig.plane.until_ready("shop").await;
    rig.plane.set_in_flight(first.instance, 1);
    let place = |version: u64, digest: &str| {
        let (client, digest) = (rig.client.clone(), digest.to_owned());
        tokio::spawn(async move { client.place("shop", 1, "owner", version, &digest).await })
    };
    let second = place(2, &two);
    rig.client.until("shop", |app| app["version"] == 2).await;
    let third = place(3, &three);
    // It waits as the second does; on trial beside the first it would not be what is to run.
    let waits = rig.client.until("shop", |app| app["version"] == 3).await;
    assert_eq!(waits["state"], "starting", "{waits}");
    assert!(runs(shown["pid"].as_u64().unwrap()), "its request is not done");
    rig.plane.set_in_flight(first.instance, 0);
    assert_eq!(third.await.unwrap().0, 200);
    assert_eq!(second.await.unwrap().0, 422, "another was placed meanwhile");
    assert_eq!(rig.plane.until_another_ready("shop", first.instance).await.get("/").await, "three");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incoming_exclusive_application_is_prepared_and_started_only_by_its_activation() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path()).await;
    let digest = bundle(&rig.client, &exclusive("one")).await;
    let (status, shown) = rig.client.place("shop", 2, "incoming", 1, &digest).await;
    assert_eq!((status, &shown["state"], &shown["role"]), (200, &json!("cold"), &json!("incoming")));
    for _ in 0..2 {
        rig.notices.send(Notice::Wake { app: "shop".into() }).await.unwrap();
    }
    // When the second has been taken, the first is with the application's actor. That takes wakes and commands in no order, but
    // not sixteen commands before one wake.
    let taken = async {
        while rig.notices.capacity() < rig.notices.max_capacity() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, taken).await.unwrap();
    for _ in 0..16 {
        let (status, problem) = rig.client.call("POST", "/v1/apps/shop/restart", b"").await;
        assert_eq!(status, 409, "it does not run here: {problem}");
    }
    let (status, shown) = rig.client.place("shop", 2, "owner", 1, &digest).await;
    assert_eq!((status, &shown["state"]), (200, &json!("ready")));
    let incoming = rig.plane.history("shop").into_iter().filter(|app| app.role == Role::Incoming);
    assert!(incoming.map(|app| app.process.clone()).all(|process| process == Process::Cold));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_refuses_waits_cuts_stops_and_leaves_a_tombstone() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path()).await;
    let digest = bundle(&rig.client, &app("one")).await;
    let (_, shown) = rig.client.place("shop", 4, "owner", 1, &digest).await;
    let pid = shown["pid"].as_u64().unwrap();
    let ready = rig.plane.until_ready("shop").await;
    rig.plane.set_in_flight(ready.instance, 2);
    let client = rig.client.clone();
    let body = |deadline_ms: u64| json!({"generation": 4, "deadline_ms": deadline_ms}).to_string();
    let long = body(600_000);
    let draining = tokio::spawn(async move { client.call("POST", "/v1/apps/shop/drain", long.as_bytes()).await });
    rig.plane.until_role("shop", Role::Draining).await;
    assert!(runs(pid), "it runs while requests are with it");
    // The sooner of the two holds, for both.
    let sooner = rig.client.call("POST", "/v1/apps/shop/drain", body(0).as_bytes()).await;
    for (status, drained) in [sooner, draining.await.unwrap()] {
        assert_eq!((status, &drained["cut"]), (200, &json!(2)), "{drained}");
    }
    assert_eq!(rig.plane.cuts(), ["shop"]);
    assert!(!runs(pid));
    let absent = rig.plane.until_role("shop", Role::Absent).await;
    assert_eq!(absent.generation, Generation(4));
    let again = rig.client.call("POST", "/v1/apps/shop/drain", json!({"generation": 4}).to_string().as_bytes()).await;
    assert_eq!((again.0, &again.1["cut"]), (200, &json!(0)), "idempotent");
    for generation in [3, 4] {
        let (status, problem) = rig.client.place("shop", generation, "owner", 1, &digest).await;
        assert_eq!(
            (status, &problem["generation"]),
            (409, &json!(4)),
            "what is known here, so that one above it can come"
        );
    }
    assert_eq!(rig.client.place("shop", 5, "owner", 1, &digest).await.0, 200, "a larger generation may come back");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_application_is_not_found_but_its_generation_stays_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path()).await;
    let digest = bundle(&rig.client, &app("one")).await;
    rig.client.place("shop", 4, "owner", 1, &digest).await;
    assert_eq!(rig.client.call("DELETE", "/v1/apps/shop?generation=3", b"").await.0, 409);
    assert_eq!(rig.client.call("DELETE", "/v1/apps/shop?generation=4", b"").await.0, 200);
    assert_eq!(rig.client.call("GET", "/v1/apps/shop", b"").await.0, 404);
    assert_eq!(rig.client.place("shop", 5, "owner", 1, &bundle(&rig.client, &app("two")).await).await.0, 200);
    let text = rig.client.log_with("shop", "hello from two").await;
    assert!(!text.contains("hello from one"), "its log is its own: {text}");
    assert_eq!(rig.client.call("DELETE", "/v1/apps/shop?generation=5", b"").await.0, 200);
    rig.stop().await;
    let rig = Rig::start(dir.path()).await;
    let (_, metrics) = rig.client.text("GET", "/metrics", b"").await;
    assert!(metrics.contains("\nsteady_agent_tombstones 1\n"), "{metrics}");
    assert_eq!(rig.client.place("shop", 5, "owner", 1, &digest).await.0, 409);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_has_left_takes_no_place_of_one_that_comes() {
    let dir = tempfile::tempdir().unwrap();
    let mut narrow = config(dir.path());
    narrow.apps.apps_max = 1;
    let rig = Rig::start_with(narrow, quick_limits()).await;
    let digest = bundle(&rig.client, &app("one")).await;
    for name in ["shop", "blog"] {
        assert_eq!(rig.client.place(name, 1, "owner", 1, &digest).await.0, 200, "{name}");
        let (status, problem) = rig.client.place("another", 1, "owner", 1, &digest).await;
        assert!(problem["detail"].as_str().unwrap().contains("apps_max"), "{problem}");
        assert_eq!((status, &problem["generation"]), (409, &json!(null)), "a larger one would not help: {problem}");
        assert_eq!(rig.client.call("DELETE", &format!("/v1/apps/{name}?generation=1"), b"").await.0, 200);
    }
    assert_eq!(rig.client.place("news", 1, "owner", 1, &digest).await.0, 200);
    assert_eq!(rig.client.place("shop", 2, "owner", 1, &digest).await.0, 409, "one that comes back is one that comes");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_agent_starts_again_what_it_owns() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path()).await;
    let digest = bundle(&rig.client, &app("one")).await;
    rig.client.place("shop", 1, "owner", 1, &digest).await;
    rig.stop().await;
    let agent = Agent::open(config(dir.path())).await.unwrap();
    let known = agent.apps();
    assert_eq!((known.apps["shop"].role, known.apps["shop"].generation), (Role::Owner, Generation(1)));
    drop(agent);
    let rig = Rig::start(dir.path()).await;
    assert_eq!(rig.plane.until_ready("shop").await.get("/").await, "one");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_without_the_token_are_refused_and_the_open_ones_answer() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path()).await;
    for token in ["", "wrong", &rig.client.token[1..], &format!("{}0", rig.client.token)] {
        let stranger = Client { token: token.to_owned(), ..rig.client.clone() };
        let (status, problem) = stranger.call("GET", "/v1/apps", b"").await;
        assert_eq!((status, &problem["status"]), (401, &json!(401)));
    }
    let stranger = Client { token: String::new(), ..rig.client.clone() };
    assert_eq!(stranger.call("GET", "/healthz", b"").await.0, 200);
    let (status, text) = stranger.text("GET", "/metrics", b"").await;
    assert_eq!(status, 200);
    for line in [
        "steady_agent_requests_total{worker=\"0\"} 42",
        "steady_agent_apps{state=\"ready\"} 0",
        "steady_agent_api_refused_total 4",
    ] {
        assert!(text.contains(line), "{line} is not in:\n{text}");
    }
    let (_, host) = rig.client.call("GET", "/v1/host", b"").await;
    assert_eq!((&host["name"], &host["io"], &host["apps"]), (&json!("h1"), &json!("fake"), &json!(0)));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_placed_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path()).await;
    let (status, problem) = rig.client.place("shop", 1, "owner", 1, &"0".repeat(64)).await;
    assert!(status == 422 && problem["detail"].as_str().unwrap().contains("PUT /v1/bundles/"), "{problem}");
    let empty = rig.client.bundle(&[("README", "nothing to run")]).await;
    let (status, problem) = rig.client.place("shop", 1, "owner", 1, &empty).await;
    assert!(status == 422 && problem["detail"].as_str().unwrap().contains("index.ts"), "{problem}");
    let missing = rig.client.bundle(&[("steady.toml", "command = [\"./nothing\"]")]).await;
    let (status, problem) = rig.client.place("shop", 1, "owner", 1, &missing).await;
    assert!(status == 422 && problem["detail"].as_str().unwrap().contains("cannot be run"), "{problem}");
    assert_eq!(rig.client.app("shop").await["state"], "failed");
    assert_eq!(rig.client.place("no.such", 1, "owner", 1, &empty).await.0, 422);
    assert_eq!(rig.client.place("shop", 1, "boss", 1, &empty).await.0, 400);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_agent_on_the_same_folder_says_who_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = Agent::open(config(dir.path())).await.unwrap();
    let error = Agent::open(config(dir.path())).await.unwrap_err().to_string();
    assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
    drop(first);
    Agent::open(config(dir.path())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_agent_on_the_folder_of_one_that_runs_leaves_its_applications_alone() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path()).await;
    let digest = bundle(&rig.client, &app("one")).await;
    let (_, shown) = rig.client.place("shop", 1, "owner", 1, &digest).await;
    let error = Agent::open(config(dir.path())).await.unwrap_err().to_string();
    assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
    assert!(runs(shown["pid"].as_u64().unwrap()));
    assert_eq!(rig.plane.until_ready("shop").await.get("/").await, "one");
    rig.stop().await;
    Agent::open(config(dir.path())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_of_an_application_end_with_it_even_when_they_left_its_group() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path()).await;
    let pids = dir.path().join("pids");
    let start = format!(
        "import subprocess\na = subprocess.Popen(['sleep', '600'])\n\
         b = subprocess.Popen(['sleep', '600'], start_new_session=True)\nopen({:?}, 'w').write(f'{{a.pid}} {{b.pid}}')\n",
        pids.to_str().unwrap()
    );
    let files = vec![("steady.toml", TOML.to_owned()), ("app.py", start + &server("one"))];
    let digest = bundle(&rig.client, &files).await;
    rig.client.place("shop", 1, "owner", 1, &digest).await;
    let children: Vec<u64> =
        std::fs::read_to_string(&pids).unwrap().split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert!(children.iter().all(|pid| runs(*pid)));
    rig.client.call("POST", "/v1/apps/shop/drain", json!({"generation": 1}).to_string().as_bytes()).await;
    assert!(!children.iter().any(|pid| runs(*pid)));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_replaces_the_process_beside_the_old_one_or_after_it_when_exclusive() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path()).await;
    for (name, files) in [("shop", app("one")), ("books", exclusive("two"))] {
        let digest = bundle(&rig.client, &files).await;
        let (_, before) = rig.client.place(name, 1, "owner", 1, &digest).await;
        let (status, after) = rig.client.call("POST", &format!("/v1/apps/{name}/restart?wait=60s"), b"").await;
        assert_eq!((status, &after["state"], &after["restarts"]), (200, &json!("ready"), &json!(1)), "{after}");
        assert_ne!(before["pid"], after["pid"]);
        until_gone(before["pid"].as_u64().unwrap()).await;
    }
    assert_eq!(rig.client.call("POST", "/v1/apps/nothing/restart", b"").await.0, 404);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_ignores_sigterm_is_killed_after_its_time_and_one_that_heeds_it_ends_well() {
    let deaf = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n".to_owned() + &server("deaf");
    let heeding = "import signal, sys\ndef bye(*a):\n    print('saved', flush=True); sys.exit(0)\n\
                   signal.signal(signal.SIGTERM, bye)\n"
        .to_owned()
        + &server("heeding");
    let short = Duration::from_millis(200);
    for (name, code, wanted, stop_timeout) in
        [("deaf", deaf, "--- pid", short), ("heeding", heeding, "saved", PATIENCE)]
    {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.apps.stop_timeout = stop_timeout;
        let rig = Rig::start_with(config, Limits::default()).await;
        let digest = rig.client.bundle(&[("steady.toml", TOML), ("app.py", &code)]).await;
        let (_, shown) = rig.client.place(name, 1, "owner", 1, &digest).await;
        let body = json!({"generation": 1}).to_string();
        let (status, _) = rig.client.call("POST", &format!("/v1/apps/{name}/drain"), body.as_bytes()).await;
        assert_eq!(status, 200);
        assert!(!runs(shown["pid"].as_u64().unwrap()));
        rig.client.log_with(name, wanted).await;
        assert_eq!(rig.client.app(name).await["state"], "stopped");
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_in_the_middle_of_a_start_ends_it_and_tells_those_who_wait() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path()).await;
    let never = "import time\nprint('thinking', flush=True)\nwhile True: time.sleep(1000)\n";
    let digest = rig.client.bundle(&[("steady.toml", TOML), ("app.py", never)]).await;
    let (client, named) = (rig.client.clone(), digest.clone());
    let placing = tokio::spawn(async move { client.place("shop", 1, "owner", 1, &named).await });
    let shown = rig.client.until("shop", |app| app["state"] == "starting" && app["pid"].is_u64()).await;
    let body = json!({"generation": 1}).to_string();
    let (status, drained) = rig.client.call("POST", "/v1/apps/shop/drain", body.as_bytes()).await;
    assert_eq!((status, &drained["cut"]), (200, &json!(0)));
    assert!(!runs(shown["pid"].as_u64().unwrap()));
    let (status, problem) = placing.await.unwrap();
    assert!(status == 422 && problem["detail"].as_str().unwrap().contains("leaving"), "{problem}");
    // A larger generation may come straight after.
    let good = bundle(&rig.client, &app("one")).await;
    assert_eq!(rig.client.place("shop", 2, "owner", 2, &good).await.0, 200);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_does_not_answer_in_time_is_ended_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.apps.start_timeout = Duration::from_millis(300);
    let limits = Limits { failed_start_grace: Duration::from_millis(50), ..Limits::default() };
    let rig = Rig::start_with(config, limits).await;
    let never = "import time\nprint('thinking', flush=True)\nwhile True: time.sleep(1000)\n";
    let digest = rig.client.bundle(&[("steady.toml", TOML), ("app.py", never)]).await;
    let (status, problem) = rig.client.place("shop", 1, "owner", 1, &digest).await;
    assert!(status == 422 && problem["detail"].as_str().unwrap().contains("did not become ready"), "{problem}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_that_comes_during_a_drain_than_may_wait_for_it_is_refused_and_the_rest_is_done_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path()).await;
    let digest = bundle(&rig.client, &app("one")).await;
    rig.client.place("shop", 1, "owner", 1, &digest).await;
    let ready = rig.plane.until_ready("shop").await;
    rig.plane.set_in_flight(ready.instance, 1);
    let client = rig.client.clone();
    let body = json!({"generation": 1, "deadline_ms": 600_000}).to_string();
    let draining = tokio::spawn(async move { client.call("POST", "/v1/apps/shop/drain", body.as_bytes()).await });
    rig.plane.until_role("shop", Role::Draining).await;
    let mut places = tokio::task::JoinSet::new();
    for generation in 2..=18 {
        let (client, digest) = (rig.client.clone(), digest.clone());
        places.spawn(async move { client.place("shop", generation, "owner", 1, &digest).await });
    }
    let first = tokio::time::timeout(PATIENCE, places.join_next()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.0, 503, "{}", first.1);
    rig.plane.set_in_flight(ready.instance, 0);
    assert_eq!(tokio::time::timeout(PATIENCE, draining).await.unwrap().unwrap().0, 200);
    let rest = tokio::time::timeout(PATIENCE, places.join_all()).await.unwrap();
    // Those that a larger one came before are behind it.
    assert!(rest.iter().all(|(status, _)| [200, 409].contains(status)), "{rest:?}");
    assert!(rest.iter().any(|(status, _)| *status == 200), "{rest:?}");
    rig.client.until("shop", |app| app["role"] == "owner" && app["state"] == "ready").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_a_deleted_application_are_gone_before_its_record_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path()).await;
    let digest = bundle(&rig.client, &app("one")).await;
    rig.client.place("shop", 1, "owner", 1, &digest).await;
    let drain = json!({"generation": 1}).to_string();
    assert_eq!(rig.client.call("POST", "/v1/apps/shop/drain", drain.as_bytes()).await.0, 200);
    // Its record cannot be written: as if the agent were killed at that moment.
    let (home, aside) = (dir.path().join("apps/shop/home"), dir.path().join("apps/shop/.record.json.new"));
    std::fs::create_dir(&aside).unwrap();
    assert_eq!(rig.client.call("DELETE", "/v1/apps/shop?generation=1", b"").await.0, 503);
    assert!(!home.exists(), "the next application of the name would have them");
    std::fs::remove_dir(&aside).unwrap();
    assert_eq!(rig.client.call("DELETE", "/v1/apps/shop?generation=1", b"").await.0, 200);
    assert_eq!(rig.client.call("GET", "/v1/apps/shop", b"").await.0, 404);
    rig.stop().await;
}
