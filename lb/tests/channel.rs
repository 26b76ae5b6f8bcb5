//! Hosts that register: over real TLS, with fake agents behind the channel that they open.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State;
use axum::http::Request;
use axum::routing::post;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use steady_cluster::channel::dial::{DialError, dial, register};
use steady_cluster::channel::pipe::pipe;
use steady_cluster::channel::talk::{self, Event, MODE, Order, Outcome, What};
use steady_cluster::channel::{Capacity, Claim, Registration, VERSION};
use steady_cluster::join::join;
use steady_cluster::{Identity, JoinToken, Member, Role, tls};
use steady_lb::agents::orders::{GivenUp, NoOutcome};
use steady_lb::config::{Config, HostConfig};
use steady_lb::snapshot::HostState;
use steady_stream::io::{Lane, Link, Names};
use steady_stream::{App, MemoryInbox, Mode};
use support::*;
use tower::ServiceExt as _;

async fn begun() -> (tempfile::TempDir, Arc<World>, Life) {
    let world = World::new(false);
    let dir = tempfile::tempdir().unwrap();
    let life = Life::begin(&world, dir.path(), Fuse::new(u64::MAX)).await;
    (dir, world, life)
}

async fn joined(life: &Life, name: &str) -> Identity {
    let (status, made) = answer(life.request(reqwest::Method::POST, "/v1/join-tokens").json(&json!({}))).await;
    assert_eq!(status, 201, "{made}");
    let token: JoinToken = made["token"].as_str().unwrap().parse().unwrap();
    let member = Member::new(Role::Host, name).unwrap();
    join(life.addr, &token, &member, &steady_cluster::Request::new().unwrap()).await.unwrap()
}

fn registration(agent: &Agent) -> Registration {
    Registration {
        channel: VERSION,
        name: agent.name.clone(),
        zone: "cellar".into(),
        start: 1,
        version: "1.2.3".into(),
        data: agent.data.to_string(),
        control: "127.0.0.1:9912".into(),
        capacity: Capacity { apps_max: 10_000, cpus: 2, memory_bytes: 1 << 30 },
        apps: Vec::new(),
    }
}

/// Opens a channel and answers the edge over it; the task is the connection.
async fn connect(
    edges: &[SocketAddr],
    identity: &Identity,
    agent: &Arc<Agent>,
    wants: &Registration,
) -> Result<tokio::task::JoinHandle<String>, DialError> {
    connect_as(Talk::open(agent).await, edges, identity, agent, wants).await
}

/// With a stream that may have a past.
async fn connect_as(
    talk: Talk,
    edges: &[SocketAddr],
    identity: &Identity,
    agent: &Arc<Agent>,
    wants: &Registration,
) -> Result<tokio::task::JoinHandle<String>, DialError> {
    let dialled = dial(edges, &tls::private_client(identity).unwrap()).await?;
    let channel = register(dialled, wants).await?;
    let router = agent_router(Arc::clone(agent)).route(talk::PATH, post(stream).with_state(talk));
    Ok(tokio::spawn(channel.serve(router)))
}

/// The host's end of the message stream: each order is one call of the fake agent's API.
#[derive(Clone)]
struct Talk {
    link: Link,
    /// Once: from the first placement on nothing of the stream arrives, and whoever waits for that is told.
    cut: Arc<std::sync::Mutex<Option<tokio::sync::oneshot::Sender<()>>>>,
    _dir: Arc<tempfile::TempDir>,
}

impl Talk {
    async fn open(agent: &Arc<Agent>) -> Talk {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let (taken, mut orders) = tokio::sync::mpsc::unbounded_channel::<Order>();
        let inbox = MemoryInbox::new(move |_, message| {
            taken.send(serde_json::from_slice(&message.body).unwrap()).ok();
            Bytes::new()
        });
        let names = Names { local: agent.name.clone(), peer: "edge".into() };
        let (link, _events) = Link::open(names, dir.path(), vec![Lane::new(Mode(MODE), inbox)]).await.unwrap();
        let (sender, router) = (link.sender(Mode(MODE)), agent_router(Arc::clone(agent)));
        tokio::spawn(async move {
            while let Some(order) = orders.recv().await {
                let outcome = carry_out(router.clone(), order).await;
                let event = serde_json::to_vec(&Event::Outcome(outcome)).unwrap();
                let Ok(_) = sender.send(App(0), event).await else { return };
            }
        });
        Talk { link, cut: Arc::default(), _dir: dir }
    }
}

/// Of an order, as it travels.
const PLACES: &[u8] = br#""what":"place""#;

async fn stream(State(talk): State<Talk>, body: Body) -> Body {
    let (writing, answer) = pipe();
    let cut = Arc::clone(&talk.cut);
    let arrives = body.into_data_stream().take_while(move |chunk| {
        let places = chunk.as_ref().is_ok_and(|chunk| chunk.windows(PLACES.len()).any(|part| part == PLACES));
        let told = cut.lock().unwrap().take_if(|_| places).map(|tell| tell.send(()));
        std::future::ready(told.is_none())
    });
    tokio::spawn(async move { talk.link.attach(writing.and(arrives)).await });
    answer
}

async fn carry_out(router: Router, order: Order) -> Outcome {
    let Order { id, app, generation, what } = order;
    let request = match what {
        What::Place { role, version, digest, exclusive, wait_ms } => {
            let wait = wait_ms.map_or(String::new(), |ms| format!("?wait={ms}ms"));
            let body = json!({"generation": generation, "role": role, "version": version, "digest": digest, "exclusive": exclusive});
            let request = Request::put(format!("/v1/apps/{app}{wait}")).header("content-type", "application/json");
            request.body(Body::from(body.to_string()))
        }
        What::Drain { within_ms } => {
            let body = json!({"generation": generation, "deadline_ms": within_ms});
            let request = Request::post(format!("/v1/apps/{app}/drain")).header("content-type", "application/json");
            request.body(Body::from(body.to_string()))
        }
        What::Forget => Request::delete(format!("/v1/apps/{app}?generation={generation}")).body(Body::empty()),
    };
    let answer = router.oneshot(request.unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    let said: Value = serde_json::from_slice(&to_bytes(answer.into_body(), 1 << 20).await.unwrap()).unwrap_or_default();
    let detail = said["detail"].as_str().unwrap_or_default().to_owned();
    let generation = said["generation"].as_u64();
    Outcome { id, status, detail, generation, cut: said["cut"].as_u64().unwrap_or(0), ..Outcome::default() }
}

/// From now on a registered host that does not report is suspected soon.
fn suspect_soon(life: &Life) {
    let mut config: Config = (*life.edge.config.load_full()).clone();
    config.health.suspect_after = Duration::from_millis(100);
    life.edge.config.store(Arc::new(config));
}

/// An agent whose control port nobody can reach.
async fn agent(world: &Arc<World>, name: &str) -> Arc<Agent> {
    let agent = Agent::start(world, name).await;
    agent.mute();
    agent
}

fn refused(error: DialError) -> String {
    match error {
        DialError::Refused { detail, .. } => detail,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_host_that_registers_is_used_as_one_that_the_configuration_names() {
    let (_dir, world, life) = begun().await;
    let h1 = agent(&world, "h1").await;
    let identity = joined(&life, "h1").await;
    let channel = connect(&[life.addr], &identity, &h1, &registration(&h1)).await.unwrap();
    life.until(|| life.edge.hosts.state("h1") == HostState::Up).await;
    let (_, shown) = life.get("/v1/hosts/h1").await;
    assert_eq!(
        (&shown["addr"], &shown["zone"], &shown["capacity"]["apps_max"], &shown["registered"]),
        (&json!(h1.data.to_string()), &json!("cellar"), &json!(10_000), &json!(true)),
    );
    // Deployments, and what is passed through, go over the channel: there is no other way to this agent.
    assert!(done(&life.deploy("/v1/apps/shop", "one").await));
    let (status, logs) = life.get("/v1/hosts/h1/apps/shop/logs?lines=3").await;
    assert_eq!((status, logs), (200, Value::String("line one\nlines=3\n".into())));
    life.assert_consistent(&world).await;
    // An edge that starts again knows it from its store.
    let known = life.edge.store().load().await.unwrap().hosts;
    assert_eq!(known.iter().map(|host| (&*host.name, host.is_registered())).collect::<Vec<_>>(), [("h1", true)]);
    assert!(!channel.is_finished());
}

#[tokio::test]
async fn an_order_in_doubt_arrives_before_what_undoes_it_however_late() {
    for undone in ["h1 DELETE g1", "h1 PUT owner g1 v1"] {
        let (_dir, world, life) = begun().await;
        let h1 = agent(&world, "h1").await;
        h1.bundles.lock().unwrap().insert("d".into());
        let identity = joined(&life, "h1").await;
        let talk = Talk::open(&h1).await;
        let (cut, told) = tokio::sync::oneshot::channel();
        *talk.cut.lock().unwrap() = Some(cut);
        let channel = connect_as(talk.clone(), &[life.addr], &identity, &h1, &registration(&h1)).await.unwrap();
        let slot = life.edge.hosts.slot("h1");
        let place = |version| What::Place {
            role: steady_cluster::channel::Hold::Owner,
            version,
            digest: "d".into(),
            exclusive: Some(false),
            wait_ms: None,
        };
        let hopeless = async {
            told.await.unwrap();
            "the test has cut it".to_owned()
        };
        let order = slot.orders.order(APP, 1, place(2), GivenUp::TakenBack, PATIENCE, hopeless);
        assert!(matches!(order.await, Err(NoOutcome::InDoubt(_))));
        channel.abort();
        life.until(|| slot.open().is_none()).await;
        let gone = || std::future::ready("the host is gone".to_owned());
        // What was never sent is taken back; what undoes stays, once however often it is tried.
        let again = slot.orders.order(APP, 1, place(2), GivenUp::TakenBack, PATIENCE, gone());
        assert!(matches!(again.await, Err(NoOutcome::Unsent(_))));
        let undo = if undone.contains("DELETE") { What::Forget } else { place(1) };
        for _ in 0..3 {
            let undo = slot.orders.order(APP, 1, undo.clone(), GivenUp::Stays, PATIENCE, gone());
            assert!(matches!(undo.await, Err(NoOutcome::InDoubt(_))));
        }
        world.take_journal();
        connect_as(talk, &[life.addr], &identity, &h1, &registration(&h1)).await.unwrap();
        let last = || world.journal.lock().unwrap().iter().filter(|line| line.starts_with("h1")).count() >= 2;
        life.until(last).await;
        // One more, so that everything before it is there.
        let last = slot.orders.order(
            APP,
            9,
            What::Drain { within_ms: 1 },
            GivenUp::TakenBack,
            PATIENCE,
            std::future::pending(),
        );
        last.await.unwrap();
        let journal = world.take_journal();
        assert_eq!(journal, ["h1 PUT owner g1 v2", undone, "h1 drain g9"]);
    }
}

#[tokio::test]
async fn what_a_host_registers_with_is_put_right_at_once() {
    let (_dir, world, life) = begun().await;
    let h1 = agent(&world, "h1").await;
    let identity = joined(&life, "h1").await;
    let channel = connect(&[life.addr], &identity, &h1, &registration(&h1)).await.unwrap();
    life.until(|| life.edge.hosts.state("h1") == HostState::Up).await;
    assert!(done(&life.deploy("/v1/apps/shop", "one").await));
    channel.abort();
    // It comes back without its memory.
    h1.apps.lock().unwrap().clear();
    h1.bundles.lock().unwrap().clear();
    let again = Registration { start: 2, ..registration(&h1) };
    loop {
        // Until the edge has noticed that the first is gone, it is another agent of the same name.
        match connect(&[life.addr], &identity, &h1, &again).await {
            Ok(_) => break,
            Err(error) => assert!(refused(error).contains("another agent"), "only that is no reason to wait"),
        }
        tokio::task::yield_now().await;
    }
    life.until(|| h1.app().is_some_and(|app| app.running)).await;
    // And one with something that this edge never gave it is told to forget what it once had.
    let stale = Claim {
        name: "shop".into(),
        role: steady_cluster::channel::Hold::Owner,
        generation: 1,
        version: 1,
        digest: String::new(),
        state: "ready".into(),
    };
    let h2 = agent(&world, "h2").await;
    // Should the edge ask it itself, it says the same.
    let (digest, running) = (String::new(), false);
    let has = FakeApp { role: "owner", generation: 1, version: 1, digest, running };
    h2.apps.lock().unwrap().insert("shop".into(), has);
    let other = joined(&life, "h2").await;
    let wants = Registration { apps: vec![stale], ..registration(&h2) };
    connect(&[life.addr], &other, &h2, &wants).await.unwrap();
    life.until(|| world.journal.lock().unwrap().iter().any(|line| line.starts_with("h2 DELETE g1"))).await;
}

#[tokio::test]
async fn a_host_is_not_taken_for_another_and_hears_why() {
    let (_dir, world, life) = begun().await;
    let h1 = agent(&world, "h1").await;
    let identity = joined(&life, "h1").await;
    let edges = [life.addr];
    let wrong = Registration { name: "h2".into(), ..registration(&h1) };
    let said = refused(connect(&edges, &identity, &h1, &wrong).await.unwrap_err());
    assert!(said.contains("\"h2\"") && said.contains("mend the name"), "{said}");
    let old = Registration { channel: VERSION + 1, ..registration(&h1) };
    let said = refused(connect(&edges, &identity, &h1, &old).await.unwrap_err());
    assert!(said.contains("run the same program"), "{said}");
    let nowhere = Registration { data: "somewhere".into(), ..registration(&h1) };
    assert!(!refused(connect(&edges, &identity, &h1, &nowhere).await.unwrap_err()).is_empty());
    // A second agent with the same certificate, while the first reports.
    let first = connect(&edges, &identity, &h1, &registration(&h1)).await.unwrap();
    life.until(|| life.edge.hosts.state("h1") == HostState::Up).await;
    let second = Registration { start: 2, ..registration(&h1) };
    let said = refused(connect(&edges, &identity, &h1, &second).await.unwrap_err());
    assert!(said.contains("another agent with the name h1 is connected"), "{said}");
    assert!(!first.is_finished());
    // The same process, which has lost sight of its first connection, is.
    connect(&edges, &identity, &h1, &registration(&h1)).await.unwrap();
    assert!(first.await.is_ok());
    let (_, text) = life.get("/metrics").await;
    let text = text.as_str().unwrap();
    assert!(text.contains(r#"steady_lb_registrations_total{outcome="taken"} 2"#), "{text}");
    assert!(text.contains(r#"steady_lb_registrations_total{outcome="refused"} 4"#), "{text}");
}

#[tokio::test]
async fn nobody_but_a_host_of_the_cluster_gets_a_channel() {
    let (_dir, _world, life) = begun().await;
    let (status, said) = answer(life.request(reqwest::Method::POST, "/v1/channel").json(&json!({}))).await;
    assert_eq!(status, 403, "{said}");
    assert!(said["detail"].as_str().unwrap().contains("certificate"), "{said}");
}

#[tokio::test]
async fn an_address_that_is_dead_or_silent_does_not_keep_a_host_from_its_edge() {
    let (_dir, world, life) = begun().await;
    let h1 = agent(&world, "h1").await;
    let identity = joined(&life, "h1").await;
    let nobodys = Port::take();
    let dead = nobodys.addr;
    // It takes connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let edges = [dead, silent.local_addr().unwrap(), life.addr];
    connect(&edges, &identity, &h1, &registration(&h1)).await.unwrap();
    life.until(|| life.edge.hosts.state("h1") == HostState::Up).await;
    let nobody = dial(&[dead], &tls::private_client(&identity).unwrap()).await.unwrap_err().to_string();
    assert!(nobody.contains(&dead.to_string()) && nobody.contains("refused"), "{nobody}");
}

#[tokio::test]
async fn a_host_that_stops_reporting_is_suspected_and_down_once_its_data_path_is_gone_too() {
    let (_dir, world, life) = begun().await;
    let h1 = agent(&world, "h1").await;
    let identity = joined(&life, "h1").await;
    let channel = connect(&[life.addr], &identity, &h1, &registration(&h1)).await.unwrap();
    life.until(|| life.edge.hosts.state("h1") == HostState::Up).await;
    channel.abort();
    suspect_soon(&life);
    life.until(|| life.edge.hosts.state("h1") == HostState::Suspected).await;
    let remove = || answer(life.request(reqwest::Method::DELETE, "/v1/hosts/h1"));
    h1.die();
    life.until(|| life.edge.hosts.state("h1") == HostState::Down).await;
    // Then it can be removed, and comes back by registering.
    assert_eq!(remove().await.0, 204);
    assert_eq!(life.get("/v1/hosts").await.1, json!({"hosts": []}));
    connect(&[life.addr], &identity, &h1, &registration(&h1)).await.unwrap();
    life.until(|| life.edge.hosts.state("h1") == HostState::Up).await;
}

#[tokio::test]
async fn a_host_is_removed_when_it_is_gone_and_carries_nothing_and_else_the_reason_is_said() {
    let (_dir, world, life) = begun().await;
    let h1 = agent(&world, "h1").await;
    let identity = joined(&life, "h1").await;
    let channel = connect(&[life.addr], &identity, &h1, &registration(&h1)).await.unwrap();
    life.until(|| life.edge.hosts.state("h1") == HostState::Up).await;
    let refused = async |why: &str| {
        let (status, said) = answer(life.request(reqwest::Method::DELETE, "/v1/hosts/h1")).await;
        assert_eq!(status, 409, "{said}");
        assert!(said["detail"].as_str().unwrap().contains(why), "{said}");
    };
    refused("stop its agent first").await;
    assert!(done(&life.deploy("/v1/apps/shop", "one").await));
    channel.abort();
    suspect_soon(&life);
    h1.die();
    life.until(|| life.edge.hosts.state("h1") == HostState::Down).await;
    refused("still has applications: move them first").await;
    assert_eq!(life.edge.store().load().await.unwrap().hosts.len(), 1, "nothing was changed");
}

#[tokio::test]
async fn more_applications_than_are_put_right_at_once_all_are_when_their_host_returns_empty() {
    let (_dir, world, life) = begun().await;
    let h1 = agent(&world, "h1").await;
    let identity = joined(&life, "h1").await;
    let channel = connect(&[life.addr], &identity, &h1, &registration(&h1)).await.unwrap();
    life.until(|| life.edge.hosts.state("h1") == HostState::Up).await;
    let names: Vec<String> = (0..24).map(|number| format!("app-{number}")).collect();
    for name in &names {
        assert!(done(&life.deploy(&format!("/v1/apps/{name}"), "one").await));
    }
    channel.abort();
    h1.apps.lock().unwrap().clear();
    h1.bundles.lock().unwrap().clear();
    let again = Registration { start: 2, ..registration(&h1) };
    while connect(&[life.addr], &identity, &h1, &again).await.is_err() {
        tokio::task::yield_now().await;
    }
    life.until(|| names.iter().all(|name| h1.apps.lock().unwrap().get(name).is_some_and(|app| app.running))).await;
}

#[tokio::test]
async fn a_host_that_is_forgotten_as_it_comes_does_not_stay_connected_to_nothing() {
    let (_dir, world, life) = begun().await;
    let h1 = agent(&world, "h1").await;
    let identity = joined(&life, "h1").await;
    let channel = connect(&[life.addr], &identity, &h1, &registration(&h1)).await.unwrap();
    let slot = life.edge.hosts.slot("h1");
    life.until(|| slot.open().is_some()).await;
    let open = slot.open().unwrap();
    life.edge.hosts.remove("h1");
    assert!(slot.attach(open.calls.clone(), open.peer, open.registration.clone()).is_none());
    assert!(slot.open().is_none());
    channel.await.unwrap();
}

#[tokio::test]
async fn a_host_that_the_configuration_comes_to_name_while_it_registers_is_not_taken() {
    let (_dir, world, life) = begun().await;
    let h1 = agent(&world, "h1").await;
    let identity = joined(&life, "h1").await;
    let held = life.edge.registering.lock().await;
    let before = Arc::strong_count(&life.edge);
    let named = async {
        // Once for its call, and once for what writes it down, which waits.
        life.until(|| Arc::strong_count(&life.edge) >= before + 2).await;
        let mut config: Config = (*life.edge.config.load_full()).clone();
        let (name, addr) = ("h1".to_owned(), h1.data.to_string());
        config.hosts.push(HostConfig { name, addr, control: h1.control, token_file: None });
        life.edge.config.store(Arc::new(config));
        drop(held);
    };
    let (wants, edges) = (registration(&h1), [life.addr]);
    let (registers, ()) = tokio::join!(connect(&edges, &identity, &h1, &wants), named);
    assert!(refused(registers.unwrap_err()).contains("[[host]]"));
    assert!(life.edge.store().load().await.unwrap().hosts.is_empty() && life.edge.hosts.all().is_empty());
}
