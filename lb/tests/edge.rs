//! The private port as a client sees it, and a whole edge from its start to its end.

mod support;

use std::path::Path;
use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};
use steady_lb::certs::Certs;
use steady_lb::config::Config;
use steady_lb::edge::system_clock;
use steady_lb::signals::Order;
use steady_lb::{Parts, Ready, RunError, run};
use support::*;
use tokio::sync::{mpsc, oneshot, watch};

async fn begun() -> (Arc<World>, tempfile::TempDir, Life) {
    let world = World::new(false);
    Agent::start(&world, "h1").await;
    Agent::start(&world, "h2").await;
    let dir = tempfile::tempdir().unwrap();
    let life = Life::begin(&world, dir.path(), Fuse::new(u64::MAX)).await;
    (world, dir, life)
}

#[tokio::test]
async fn nothing_is_told_without_the_token_but_health_readiness_and_metrics() {
    let (_world, _dir, life) = begun().await;
    for path in ["/v1/status", "/v1/apps", "/v1/apps/x", "/v1/routes", "/v1/hosts/h1/echo/x", "/v1/none"] {
        let url = format!("http://{}{path}", life.addr);
        let (status, problem) = answer(life.http.get(&url)).await;
        assert_eq!((status, &problem["status"]), (401, &json!(401)), "{path}");
        assert_eq!(answer(life.http.get(&url).bearer_auth("wrong")).await.0, 401);
        let response = life.http.get(&url).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        let (status, _) = answer(life.http.get(format!("http://{}{path}", life.addr))).await;
        assert_eq!(status, 200, "{path}");
    }
    assert_eq!(life.get("/v1/none").await.0, 404);
    assert_eq!(answer(life.request(Method::POST, "/v1/apps")).await.0, 405);
}

#[tokio::test]
async fn names_that_are_none_or_reserved_are_refused_before_anything_happens() {
    let (world, _dir, life) = begun().await;
    world.take_journal();
    for hostile in ["UPPER", "-a", "a-", "a_b", "a.b", "a%2e%2e", "a%2fb", "%00", &"a".repeat(64), "caf%C3%A9"] {
        let path = format!("/v1/apps/{hostile}");
        let lines = life.deploy(&path, "x").await;
        assert_eq!(lines[0]["status"], 422, "{hostile}: {lines:?}");
        assert_eq!(life.get(&path).await.0, 404, "{hostile}");
        assert_eq!(answer(life.request(Method::DELETE, &path)).await.0, 404, "{hostile}");
    }
    for reserved in ["api", "www"] {
        let lines = life.deploy(&format!("/v1/apps/{reserved}"), "x").await;
        assert!(lines[0]["detail"].as_str().unwrap().contains("reserved"), "{lines:?}");
    }
    assert_eq!(life.deploy("/v1/apps/fine?host=none", "x").await[0]["status"], 404);
    assert_eq!(life.deploy("/v1/apps/fine?hots=h1", "x").await[0]["status"], 400);
    let broken = life.flow(life.request(Method::PUT, "/v1/apps/fine").body("no bundle")).await;
    assert_eq!(broken[0]["status"], 422);
    assert!(world.take_journal().is_empty());
}

#[tokio::test]
async fn a_new_application_goes_to_the_host_with_the_fewest() {
    let (_world, _dir, life) = begun().await;
    let mut placed = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let lines = life.deploy(&format!("/v1/apps/{name}"), name).await;
        placed.push(lines.last().unwrap()["app"]["hosts"][0].clone());
    }
    assert_eq!(placed, ["h1", "h2", "h1", "h2"]);
    let (_, hosts) = life.get("/v1/hosts").await;
    let first = &hosts["hosts"][0];
    assert_eq!((&first["name"], &first["state"], &first["apps"]), (&json!("h1"), &json!("up"), &json!(2)));
    assert_eq!(first["version"], "1.2.3");
    assert!(first["last_seen_ms"].is_u64());
    let (_, apps) = life.get("/v1/apps").await;
    assert_eq!(apps["apps"].as_array().unwrap().len(), 4);
    assert!(apps["apps"].as_array().unwrap().iter().all(|app| app["state"] == "ready"));
    let elsewhere = life.deploy("/v1/apps/a?host=h2", "a").await;
    assert_eq!(elsewhere[0]["status"], 409);
    let (_, status) = life.get("/v1/status").await;
    assert_eq!((&status["apps"], &status["hosts"], &status["io"]), (&json!(4), &json!(2), &json!("epoll")));
}

#[tokio::test]
async fn a_workflow_answers_in_lines_of_json() {
    let (_world, _dir, life) = begun().await;
    let bundle = pack(&[("index.ts", "x")]);
    let response = life.request(Method::PUT, "/v1/apps/shop?host=h1").body(bundle).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let text = response.text().await.unwrap();
    assert!(text.ends_with('\n'));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (last, steps) = lines.split_last().unwrap();
    assert!(steps.iter().all(|line| line["step"].is_string() && line["ms"].is_u64()), "{lines:#?}");
    assert!(last["done"] == true && last["ms"].is_u64() && last["app"]["name"] == "shop");
    let again = life.move_to("h1").await;
    assert_eq!((&again[0]["status"], again.len()), (&json!(409), 1));
    assert_eq!(life.move_to("nowhere").await[0]["status"], 404);
    assert_eq!(life.move_with(json!({"too": "h2"})).await[0]["status"], 400);
}

#[tokio::test]
async fn routes_show_how_they_came_about_and_change_whole_or_not_at_all() {
    let (_world, _dir, life) = begun().await;
    life.deploy_shop("x").await;
    let patch = |body: Value| life.request(Method::PATCH, "/v1/routes").body(body.to_string());
    let custom = json!({"custom_domains": {"shop.example": "shop"}, "domains": ["steady.test", "other.test"]});
    let (status, routes) = answer(patch(custom)).await;
    assert_eq!(status, 200, "{routes}");
    assert_eq!(routes["custom_domains"], json!({"shop.example": "shop"}));
    let newest = &routes["history"][0];
    assert_eq!(newest["revision"], routes["revision"]);
    assert!(newest["what"].as_str().unwrap().contains("shop.example is shop"), "{newest}");
    assert!(newest["time"].as_str().unwrap().ends_with('Z'));
    assert!(routes["history"][1]["what"].as_str().unwrap().contains("shop version 1 on h1"));

    let wrong = json!({
        "domains": ["example", "example", "Bad"],
        "custom_domains": {"a.example": "nobody", "gone.test": null},
        "more": 1
    });
    let (status, problem) = answer(patch(wrong)).await;
    assert_eq!((status, problem["reasons"].as_array().unwrap().len()), (422, 2), "what cannot be read is told first");
    let wrong = json!({
        "domains": ["example", "example"],
        "custom_domains": {"a.example": "nobody", "gone.test": null}
    });
    let (status, problem) = answer(patch(wrong)).await;
    let reasons = problem["reasons"].as_array().unwrap();
    for part in ["example is given twice", "shop.example (of shop)", "nobody, which does not exist", "gone.test"] {
        assert!(reasons.iter().any(|reason| reason.as_str().unwrap().contains(part)), "{part}: {problem:#}");
    }
    assert_eq!(status, 422);
    assert_eq!(life.get("/v1/routes").await.1["revision"], routes["revision"], "nothing was changed");

    let (_, app) = life.get("/v1/apps/shop").await;
    assert_eq!(app["custom_domains"], json!(["shop.example"]));
    assert!(done(&life.remove().await), "its domains go with it");
    assert_eq!(life.get("/v1/routes").await.1["custom_domains"], json!({}));
}

#[tokio::test]
async fn a_hosts_agent_is_reached_through_the_edge_with_the_edges_token() {
    let (world, _dir, life) = begun().await;
    let path = "/v1/hosts/h2/echo/a%2Fb/c?x=%20y";
    let response = life.request(Method::POST, path).body("streamed").send().await.unwrap();
    assert_eq!(response.status(), 418);
    assert_eq!(response.text().await.unwrap(), "streamed");
    let agents = world.agents.lock().unwrap().clone();
    let seen = agents[1].forwarded.lock().unwrap().clone();
    assert_eq!(seen, ["POST /v1/echo/a%2Fb/c?x=%20y Bearer agent-token-of-the-test"]);
    assert_eq!(life.get("/v1/hosts/none/host").await.0, 404);
    agents[1].mute();
    life.until(|| life.edge.hosts.state("h2") != steady_lb::snapshot::HostState::Up).await;
    assert_eq!(life.get("/v1/hosts/h2/echo/x").await.0, 502);

    life.deploy_shop("x").await;
    let response = life.request(Method::GET, "/v1/apps/shop/logs?lines=5").send().await.unwrap();
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/plain"));
    assert_eq!(response.text().await.unwrap(), "line one\nlines=5\n");
}

/// A whole edge, started as the command starts it.
struct Whole {
    orders: mpsc::Sender<Order>,
    ready: Ready,
    plane: Arc<FakePlane>,
    task: tokio::task::JoinHandle<Result<steady_lb::Ended, RunError>>,
    http: reqwest::Client,
    /// Its own, which ends with it, as the command's does.
    runtime: tokio::runtime::Runtime,
    certs: watch::Sender<Certs>,
}

fn write_config(dir: &Path, world: &World, more: &str) -> std::path::PathBuf {
    let mut text = format!(
        "state_dir = \"{0}/state\"\ndomains = [\"steady.test\"]\n{more}\n[private]\naddr = \"127.0.0.1:0\"\n\
         [health]\nevery = \"20ms\"\ndown_after = \"60ms\"\n",
        dir.display()
    );
    std::fs::write(dir.join("agent-token"), "agent-token-of-the-test").unwrap();
    for agent in world.agents.lock().unwrap().iter() {
        text += &format!(
            "[[host]]\nname = {:?}\naddr = \"{}\"\ncontrol = \"{}\"\ntoken_file = \"{}/agent-token\"\n",
            agent.name,
            agent.data,
            agent.control,
            dir.display()
        );
    }
    let (file, aside) = (dir.join("lb.toml"), dir.join("lb.toml.new"));
    // Whole at once: an edge may be reading it.
    std::fs::write(&aside, text).unwrap();
    std::fs::rename(&aside, &file).unwrap();
    file
}

impl Whole {
    async fn begin(world: &Arc<World>, file: &Path) -> Whole {
        let plane = FakePlane::new(world);
        let (orders, orders_in) = mpsc::channel(4);
        let (certs, certs_in) = watch::channel(Certs::default());
        let (ready, told) = oneshot::channel();
        let parts = Parts {
            facts: facts(),
            clock: system_clock(),
            config_file: Some(file.into()),
            orders: orders_in,
            certs: certs_in,
            on_reload: Box::new(|| {}),
            ready: Some(ready),
            upgrade: steady_lb::upgrade::Parts::default(),
        };
        let config = Config::load(file).unwrap();
        let plane_dyn: Arc<dyn steady_lb::snapshot::Plane> = Arc::clone(&plane) as _;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let task = runtime.spawn(run(config, plane_dyn, parts));
        let ready = told.await.expect("it begins");
        Whole { orders, ready, plane, task, http: reqwest::Client::new(), runtime, certs }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let token = std::fs::read_to_string(&self.ready.token_file).unwrap();
        self.http.request(method, format!("http://{}{path}", self.ready.private)).bearer_auth(token.trim())
    }

    async fn until(&self, path: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
        let begun = std::time::Instant::now();
        loop {
            let (status, value) = answer(self.request(Method::GET, path)).await;
            if wanted(status, &value) {
                return value;
            }
            assert!(begun.elapsed() < PATIENCE, "{path}: {status} {value:#}");
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    async fn until_hosts(&self, up: u64) {
        self.until("/v1/status", |_, status| status["hosts_up"] == up).await;
    }

    async fn stop(self) -> Arc<FakePlane> {
        self.orders.send(Order::Stop).await.unwrap();
        self.task.await.unwrap().unwrap();
        let runtime = self.runtime;
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE)).await.unwrap();
        self.plane
    }
}

/// Waits until the store of an edge that has ended is one file: its thread closes it behind the edge, and until then what
/// was committed last may stand in the log beside it alone.
async fn store_closed(state: &Path) {
    let begun = std::time::Instant::now();
    while state.join("store.db-wal").exists() {
        assert!(begun.elapsed() < PATIENCE, "the store is not closed");
        tokio::task::yield_now().await;
    }
}

async fn world_with_hosts() -> Arc<World> {
    let world = World::new(false);
    Agent::start(&world, "h1").await;
    Agent::start(&world, "h2").await;
    world
}

#[tokio::test]
async fn an_edge_begins_serves_and_ends_and_finds_everything_again() {
    let world = world_with_hosts().await;
    let dir = tempfile::tempdir().unwrap();
    let file = write_config(dir.path(), &world, "");
    let edge = Whole::begin(&world, &file).await;
    edge.until_hosts(2).await;
    let put = edge.request(Method::PUT, "/v1/apps/shop?host=h1").body(pack(&[("index.ts", "x")]));
    assert!(put.send().await.unwrap().text().await.unwrap().contains("\"done\":true"));
    let plane = edge.stop().await;
    assert_eq!(plane.drained.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert_eq!(place(&plane.newest()), "h1 g1 v1");

    let edge = Whole::begin(&world, &file).await;
    assert_eq!(place(&edge.plane.newest()), "h1 g1 v1", "the table is there before anything else");
    edge.until_hosts(2).await;
    let app = edge.until("/v1/apps/shop", |status, _| status == 200).await;
    assert_eq!(app["hosts"], json!(["h1"]));
    edge.stop().await;
}

#[tokio::test]
async fn the_bundle_that_a_host_runs_outlives_a_store_that_does_not_know_it() {
    let world = world_with_hosts().await;
    let dir = tempfile::tempdir().unwrap();
    let file = write_config(dir.path(), &world, "");
    let (state, copy) = (dir.path().join("state"), dir.path().join("copy.db"));
    for text in ["one", "two"] {
        let edge = Whole::begin(&world, &file).await;
        edge.until_hosts(2).await;
        let put = edge.request(Method::PUT, "/v1/apps/shop?host=h1").body(pack(&[("index.ts", text)]));
        assert!(put.send().await.unwrap().text().await.unwrap().contains("\"done\":true"));
        edge.stop().await;
        store_closed(&state).await;
        if text == "one" {
            std::fs::copy(state.join("store.db"), &copy).unwrap();
        }
    }
    std::fs::copy(&copy, state.join("store.db")).unwrap();
    let (h1, h2) = (agent(&world, "h1"), agent(&world, "h2"));
    let newer = state.join("bundles").join(format!("{}.tar.gz", h1.app().unwrap().digest));
    let stray = state.join("bundles").join(format!("{}.tar.gz", "a".repeat(64)));
    std::fs::write(&stray, "left over").unwrap();
    h2.die();
    let edge = Whole::begin(&world, &file).await;
    edge.until("/v1/hosts/h2", |_, host| host["state"] == "down").await;
    edge.until_hosts(1).await;
    assert!(newer.exists() && stray.exists(), "one of the hosts has not said yet what it has");
    h2.revive().await;
    let begun = std::time::Instant::now();
    while stray.exists() {
        assert!(begun.elapsed() < PATIENCE, "what nobody needs stays");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    assert!(newer.exists(), "nobody has the newer version any more but its host");
    assert_eq!(world.owners(), [("h1".to_owned(), 1, 2)]);
    edge.stop().await;
    assert!(newer.exists(), "what goes goes in no order");
}

#[tokio::test]
async fn an_edge_whose_store_is_broken_serves_from_its_table_and_says_so() {
    let world = world_with_hosts().await;
    let dir = tempfile::tempdir().unwrap();
    let file = write_config(dir.path(), &world, "");
    let edge = Whole::begin(&world, &file).await;
    edge.until_hosts(2).await;
    let put = edge.request(Method::PUT, "/v1/apps/shop?host=h1").body(pack(&[("index.ts", "x")]));
    put.send().await.unwrap().text().await.unwrap();
    edge.stop().await;

    store_closed(&dir.path().join("state")).await;
    for content in [Some("this is no database, and long enough to be sure of it".repeat(100)), None] {
        let store = dir.path().join("state/store.db");
        match &content {
            Some(content) => std::fs::write(&store, content).unwrap(),
            None => std::fs::remove_file(&store).unwrap(),
        }
        let edge = Whole::begin(&world, &file).await;
        assert_eq!(place(&edge.plane.newest()), "h1 g1 v1");
        let problem = edge.until("/v1/apps", |status, value| {
            status == 503 && !value["detail"].as_str().unwrap_or("").contains("it is starting")
        });
        let problem = problem.await;
        assert!(problem["detail"].as_str().unwrap().contains("last good table"), "{problem}");
        assert_eq!(answer(edge.request(Method::GET, "/readyz")).await.0, 200, "it does serve");
        edge.stop().await;
    }
}

#[tokio::test]
async fn a_reload_takes_hosts_domains_and_timeouts_and_a_wrong_file_changes_nothing() {
    let world = world_with_hosts().await;
    let dir = tempfile::tempdir().unwrap();
    let file = write_config(dir.path(), &world, "");
    let edge = Whole::begin(&world, &file).await;
    edge.until_hosts(2).await;
    let changed = edge.request(Method::PATCH, "/v1/routes").body(json!({"domains": ["api.test"]}).to_string());
    assert_eq!(answer(changed).await.0, 200);

    std::fs::write(&file, "nonsense = 1").unwrap();
    // It attends to one after the other: when the second has been taken, the first is done.
    for _ in 0..2 {
        edge.orders.send(Order::Reload).await.unwrap();
    }
    let taken = |_: u16, _: &Value| edge.orders.capacity() == edge.orders.max_capacity();
    edge.until("/v1/status", taken).await;
    assert_eq!(edge.until("/v1/status", |status, _| status == 200).await["hosts"], 2);
    assert_eq!(edge.until("/v1/routes", |status, _| status == 200).await["domains"], json!(["api.test"]));
    let text = std::fs::read_to_string(write_config(dir.path(), &world, "")).unwrap();
    Agent::start(&world, "h3").await;
    write_config(dir.path(), &world, "");
    edge.orders.send(Order::Reload).await.unwrap();
    edge.until_hosts(3).await;
    let routes = edge.until("/v1/routes", |status, _| status == 200).await;
    assert_eq!(routes["domains"], json!(["api.test"]), "what the API said holds until the file says something new");

    let timeouts = text.replace("[health]", "[timeouts]\nidle = \"5s\"\n[health]").replace("steady.test", "new.test");
    std::fs::write(&file, timeouts).unwrap();
    edge.orders.send(Order::Reload).await.unwrap();
    edge.until("/v1/routes", |_, routes| routes["domains"] == json!(["new.test"])).await;
    edge.until_hosts(2).await;
    let settings = edge.plane.newest().settings.clone();
    assert_eq!(settings.idle_timeout, std::time::Duration::from_secs(5));
    edge.stop().await;
}

#[tokio::test]
async fn hosts_of_the_configuration_come_into_force_by_themselves_when_the_table_can_be_written_again() {
    let world = world_with_hosts().await;
    let dir = tempfile::tempdir().unwrap();
    let file = write_config(dir.path(), &world, "");
    let edge = Whole::begin(&world, &file).await;
    edge.until_hosts(2).await;
    let blocked = dir.path().join("state/table/routes.tmp");
    std::fs::create_dir(&blocked).unwrap();
    // One goes, which has the table written anew, and one comes.
    world.agents.lock().unwrap().remove(1);
    Agent::start(&world, "h3").await;
    write_config(dir.path(), &world, "");
    edge.orders.send(Order::Reload).await.unwrap();
    let names =
        |hosts: &Value| hosts["hosts"].as_array().unwrap().iter().map(|host| host["name"].clone()).collect::<Vec<_>>();
    edge.until("/v1/hosts", |_, hosts| names(hosts) == ["h1", "h3"]).await;
    edge.until("/v1/hosts/h3", |_, host| host["state"] == "up").await;
    assert!(answer(edge.request(Method::GET, "/readyz")).await.1.as_str().unwrap().contains("cannot be written"));
    // What comes while the table is behind is not stored, and tried again.
    Agent::start(&world, "h4").await;
    let more = std::fs::read_to_string(write_config(dir.path(), &world, "")).unwrap();
    std::fs::write(&file, more.replace("steady.test", "new.test")).unwrap();
    edge.orders.send(Order::Reload).await.unwrap();
    std::fs::remove_dir(&blocked).unwrap();
    edge.until("/v1/hosts", |_, hosts| names(hosts) == ["h1", "h3", "h4"]).await;
    edge.until("/v1/routes", |_, routes| routes["domains"] == json!(["new.test"]) && routes["settled"] == true).await;
    let hosts: Vec<_> = edge.plane.newest().routes.hosts().iter().map(|host| host.name().to_owned()).collect();
    assert_eq!(hosts, ["h1", "h3", "h4"]);
    edge.stop().await;
}

#[tokio::test]
async fn a_host_that_was_down_at_another_address_is_not_down_at_its_new_one() {
    let world = world_with_hosts().await;
    let dir = tempfile::tempdir().unwrap();
    let file = write_config(dir.path(), &world, "");
    let edge = Whole::begin(&world, &file).await;
    edge.until_hosts(2).await;
    let h1 = Arc::clone(&world.agents.lock().unwrap()[0]);
    h1.die();
    edge.until("/v1/hosts/h1", |_, host| host["state"] == "down").await;
    // It answers at its data port only: a machine whose agent is on its way.
    let data = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let moved = text.replace(&format!("addr = \"{}\"", h1.data), &format!("addr = \"{}\"", data.local_addr().unwrap()));
    std::fs::write(&file, moved).unwrap();
    edge.orders.send(Order::Reload).await.unwrap();
    edge.until("/v1/hosts/h1", |_, host| host["state"] == "suspected").await;
    let begun = std::time::Instant::now();
    while edge.plane.newest().hosts[0] != steady_lb::snapshot::HostState::Suspected {
        assert!(begun.elapsed() < PATIENCE, "the workers answer 502 for it");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    edge.stop().await;
}

#[tokio::test]
async fn an_edge_without_its_store_hears_of_certificates_and_reads_its_configuration_when_the_store_is_there() {
    let world = world_with_hosts().await;
    let dir = tempfile::tempdir().unwrap();
    let file = write_config(dir.path(), &world, "");
    let edge = Whole::begin(&world, &file).await;
    edge.until_hosts(2).await;
    edge.stop().await;
    let (store, kept) = (dir.path().join("state/store.db"), dir.path().join("kept.db"));
    store_closed(&dir.path().join("state")).await;
    std::fs::rename(&store, &kept).unwrap();
    std::fs::create_dir(&store).unwrap();

    let edge = Whole::begin(&world, &file).await;
    edge.until("/v1/apps", |status, value| status == 503 && value["detail"].as_str().unwrap().contains("opened")).await;
    let renewed = Certs::default();
    edge.certs.send(renewed.clone()).unwrap();
    let begun = std::time::Instant::now();
    while !Arc::ptr_eq(&edge.plane.newest().certs.set, &renewed.set) {
        assert!(begun.elapsed() < PATIENCE, "the workers still have the certificates that run out");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    assert_eq!(answer(edge.request(Method::GET, "/readyz")).await.0, 200);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("[health]", "[timeouts]\nidle = \"5s\"\n[health]")).unwrap();
    edge.orders.send(Order::Reload).await.unwrap();
    std::fs::remove_dir(&store).unwrap();
    std::fs::rename(&kept, &store).unwrap();
    edge.until_hosts(2).await;
    let begun = std::time::Instant::now();
    while edge.plane.newest().settings.idle_timeout != std::time::Duration::from_secs(5) {
        assert!(begun.elapsed() < PATIENCE, "what it was told is forgotten");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    assert!(Arc::ptr_eq(&edge.plane.newest().certs.set, &renewed.set));
    edge.stop().await;
}

#[tokio::test]
async fn a_question_for_events_that_is_wrong_is_told_what_it_may_say() {
    let (_world, _dir, life) = begun().await;
    let (status, problem) = life.get("/v1/events?limit=many").await;
    assert_eq!((status, &problem["status"]), (400, &json!(400)), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("it takes host, app, after and limit"), "{problem}");
    let (status, none) = life.get(&format!("/v1/events?after={}", u64::MAX)).await;
    assert_eq!((status, none), (200, json!({"events": []})));
}

#[tokio::test]
async fn a_second_edge_on_one_directory_is_told_who_holds_it() {
    let world = world_with_hosts().await;
    let dir = tempfile::tempdir().unwrap();
    let file = write_config(dir.path(), &world, "");
    let edge = Whole::begin(&world, &file).await;
    let (_orders, orders) = mpsc::channel(1);
    let (_certs, certs) = watch::channel(Certs::default());
    let parts = Parts {
        facts: facts(),
        clock: system_clock(),
        config_file: None,
        orders,
        certs,
        on_reload: Box::new(|| {}),
        ready: None,
        upgrade: steady_lb::upgrade::Parts::default(),
    };
    let refused = run(Config::load(&file).unwrap(), FakePlane::new(&world), parts).await.unwrap_err();
    assert!(refused.to_string().contains(&format!("held by process {}", std::process::id())), "{refused}");
    edge.stop().await;
}
