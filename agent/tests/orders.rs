//! The host's side of the message stream: orders of an edge against real processes, through the death of the agent.

mod rig;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use futures_util::stream;
use rig::*;
use serde_json::Value;
use steady_agent::config::{AppsConfig, Live};
use steady_agent::gate::{Apps, Generation, Role};
use steady_agent::host::Host;
use steady_agent::limits::{Limits, TOLD_OCTETS_MAX};
use steady_agent::records::{Digest, Records};
use steady_agent::supervise::actor::Place;
use steady_agent::supervise::spawner::Spawner;
use steady_agent::supervise::{Board, Changes, Counters, Dirs, PlaneRef, Shared, leftovers, ports};
use steady_agent::talk::Talk;
use steady_cluster::channel::Hold;
use steady_cluster::channel::talk::{Event, Kind, MODE, Order, Outcome, What, app_id};
use steady_stream::io::{Lane, Link, Names};
use steady_stream::{App, Faults, FileInbox, Mode};
use tokio::sync::mpsc;

/// A host and its edge, for as long as the runtime lives that they began in.
struct Life {
    host: Arc<Host>,
    talk: Arc<Talk>,
    edge: Link,
    told: mpsc::UnboundedReceiver<Event>,
    /// By order, of those that nobody has asked for yet.
    outcomes: HashMap<u64, Outcome>,
    orders: u64,
}

/// One life of both: it ends as by kill -9, and nothing is told that it does.
fn life<T>(dir: &Path, story: impl AsyncFnOnce(&mut Life) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let end = runtime.block_on(async { story(&mut Life::begin(dir).await).await });
    runtime.shutdown_timeout(PATIENCE);
    end
}

impl Life {
    async fn begin(dir: &Path) -> Life {
        let state = dir.join("h1");
        let config = config(&state);
        let of = |name: &str| state.join(name);
        let dirs = Dirs { apps: of("apps"), run: of("run"), sockets: of("sock"), preload: of("preload.ts") };
        for folder in [&dirs.apps, &dirs.run, &dirs.sockets] {
            std::fs::create_dir_all(folder).unwrap();
        }
        let mark = format!("test-orders-{}", dir.display());
        leftovers::kill_leftovers(&dirs.run, &mark).unwrap();
        let plane = PlaneRef(Arc::new(FakePlane::default()));
        let records = Records::new(dirs.apps.clone());
        let known = records.load_all().unwrap();
        let (events, told) = mpsc::channel(1000);
        let shared = Shared {
            config: Arc::new(Live::new(config.apps.clone())),
            limits: Limits::default(),
            dirs,
            host_name: "h1".to_owned(),
            state_mark: mark,
            spawner: Spawner::start().unwrap(),
            bundles: steady_agent::bundle::Bundles::open(&state, config.bundles.clone()).unwrap(),
            records,
            plane: plane.clone(),
            board: Board::new(plane, Apps::default()),
            changes: Changes::default(),
            ports: ports::Ports::default(),
            counters: Counters::default(),
            instances: AtomicU64::new(1),
            events,
        };
        let host = Host::start(Arc::new(shared), known);
        let talk = Talk::new(&state, Arc::clone(&host), Faults::default());
        tokio::spawn({
            let talk = Arc::clone(&talk);
            async move { talk.tell(told).await }
        });
        let (tell, told) = mpsc::unbounded_channel();
        let inbox = FileInbox::open(dir.join("edge-inbox"), move |_, message| {
            tell.send(serde_json::from_slice(&message.body).unwrap()).ok();
            Bytes::new()
        });
        let names = Names { local: "edge".into(), peer: "h1".into() };
        let lane = Lane::new(Mode(MODE), inbox.unwrap());
        let (edge, _) = Link::open(names, dir.join("edge"), vec![lane]).await.unwrap();
        Life { host, talk, edge, told, outcomes: HashMap::new(), orders: 0 }
    }

    /// A connection between the two.
    fn connect(&self) {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (edge, talk) = (self.edge.clone(), Arc::clone(&self.talk));
        tokio::spawn(async move { edge.attach(ours).await });
        tokio::spawn(async move { talk.attach("edge", theirs).await.unwrap() });
    }

    async fn bundle(&self, files: &[(&str, &str)]) -> String {
        let archive = pack(files);
        let digest = digest(&archive);
        let body = stream::iter([Ok::<_, std::io::Error>(Bytes::from(archive))]);
        self.host.shared.bundles.put(&Digest::parse(&digest).unwrap(), body).await.unwrap();
        digest
    }

    /// Into the edge's log; the order's number.
    async fn order(&mut self, app: &str, generation: u64, what: What) -> u64 {
        self.orders += 1;
        let order = Order { id: self.orders, app: app.to_owned(), generation, what };
        let body = serde_json::to_vec(&order).unwrap();
        self.edge.sender(Mode(MODE)).send(App(app_id(app)), body).await.unwrap();
        self.orders
    }

    /// What came of it.
    async fn outcome(&mut self, id: u64) -> Outcome {
        let heard = async {
            loop {
                if let Some(outcome) = self.outcomes.remove(&id) {
                    return outcome;
                }
                if let Event::Outcome(outcome) = self.told.recv().await.unwrap() {
                    self.outcomes.insert(outcome.id, outcome);
                }
            }
        };
        tokio::time::timeout(PATIENCE, heard).await.unwrap()
    }

    fn set_apps_max(&self, apps_max: usize) {
        let config = &self.host.shared.config;
        config.set(AppsConfig { apps_max, ..(*config.get()).clone() });
    }

    /// Processes that were started.
    fn starts(&self) -> u64 {
        self.host.shared.counters.starts.value()
    }

    /// Has it done; what came of it.
    async fn done(&mut self, app: &str, generation: u64, what: What) -> Outcome {
        let id = self.order(app, generation, what).await;
        self.outcome(id).await
    }
}

fn place(version: u32, digest: &str) -> What {
    let (digest, wait_ms) = (digest.to_owned(), Some(60_000));
    What::Place { role: Hold::Owner, version, digest, exclusive: None, wait_ms }
}

fn app(code: &str) -> [(&'static str, &str); 2] {
    [("steady.toml", TOML), ("app.py", code)]
}

#[test]
fn an_order_that_a_later_one_overrides_before_it_was_begun_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    life(dir.path(), async |life| {
        let digest = life.bundle(&app(&server("one"))).await;
        // All are in the edge's log before the host is there.
        let gone = life.order("gone", 1, place(1, &digest)).await;
        let old = life.order("shop", 1, place(1, &digest)).await;
        let forgotten = life.order("gone", 1, What::Forget).await;
        let new = life.order("shop", 1, place(2, &digest)).await;
        // Of an older placement: it says nothing of the newer.
        let stale = life.order("shop", 0, What::Forget).await;
        life.connect();
        let mut statuses = Vec::new();
        for id in [gone, old, forgotten, stale, new] {
            statuses.push(life.outcome(id).await.status);
        }
        assert_eq!(statuses, [422, 422, 200, 409, 200]);
        assert_eq!((life.starts(), life.host.record("shop").placement.unwrap().version), (1, 2));
        assert!(life.host.record("gone").is_tombstone());
    });
}

#[test]
fn an_application_that_edge_and_host_read_differently_is_refused_and_what_runs_stays() {
    let dir = tempfile::tempdir().unwrap();
    life(dir.path(), async |life| {
        let ordinary = life.bundle(&app(&server("ordinary"))).await;
        let exclusive = life.bundle(&[("steady.toml", TOML_EXCLUSIVE), ("app.py", &server("exclusive"))]).await;
        life.connect();
        let placed = |version, digest: &str, exclusive| {
            let (digest, wait_ms) = (digest.to_owned(), Some(60_000));
            What::Place { role: Hold::Owner, version, digest, exclusive: Some(exclusive), wait_ms }
        };
        assert_eq!(life.done("shop", 1, placed(1, &ordinary, false)).await.status, 200);
        let before = life.host.record("shop");
        for (version, digest, said) in [(2, &exclusive, false), (3, &ordinary, true)] {
            let refused = life.done("shop", 2, placed(version, digest, said)).await;
            assert_eq!(refused.status, 422);
            assert!(refused.detail.contains("the edge reads") && refused.detail.contains(digest), "{}", refused.detail);
        }
        assert_eq!((life.host.record("shop"), life.starts()), (before, 1));
        assert_eq!(life.done("shop", 2, placed(2, &exclusive, true)).await.status, 200);
    });
}

#[test]
fn what_an_agent_had_taken_when_it_was_killed_is_done_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("h1/apps/shop/home");
    life(dir.path(), async |life| {
        let digest = life.bundle(&app(&server("one"))).await;
        life.connect();
        assert_eq!(life.done("shop", 1, place(1, &digest)).await.status, 200);
        assert_eq!(life.done("shop", 1, What::Drain { within_ms: 1 }).await.status, 200);
        std::fs::write(home.join("secret"), "of the first").unwrap();
        // Its actors end, and what it takes from now on is on disk alone.
        life.host.stop().await;
        assert_eq!(life.done("shop", 1, What::Forget).await.status, 503);
        assert_eq!(life.done("shop", 2, place(2, &digest)).await.status, 503);
    });
    life(dir.path(), async |life| {
        life.connect();
        let heard = async {
            loop {
                if let Event::App(event) = life.told.recv().await.unwrap()
                    && event.kind == Kind::Ready
                {
                    return event.version;
                }
            }
        };
        assert_eq!(tokio::time::timeout(PATIENCE, heard).await.unwrap(), 2);
        assert!(!home.join("secret").exists(), "it was another's");
        assert_eq!(life.host.record("shop").role, Role::Owner);
    });
}

#[test]
fn what_is_left_of_a_host_that_an_application_has_left_is_forgotten_by_the_next_agent() {
    let dir = tempfile::tempdir().unwrap();
    life(dir.path(), async |life| {
        let digest = life.bundle(&app(&server("one"))).await;
        life.connect();
        assert_eq!(life.done("shop", 1, place(1, &digest)).await.status, 200);
        assert_eq!(life.done("shop", 1, What::Drain { within_ms: 1 }).await.status, 200);
        life.host.stop().await;
        assert_eq!(life.done("shop", 1, What::Forget).await.status, 503);
    });
    let record = || -> Value {
        serde_json::from_slice(&std::fs::read(dir.path().join("h1/apps/shop/record.json")).unwrap()).unwrap()
    };
    assert!(!record()["placement"].is_null());
    life(dir.path(), async |life| {
        life.connect();
        // The outcome of an order of before: to whoever asks no more.
        life.outcome(3).await;
        assert!(life.host.record("shop").is_tombstone());
    });
    assert!(record()["placement"].is_null());
    assert!(!dir.path().join("h1/apps/shop/home").exists());
}

#[test]
fn an_application_that_was_forgotten_costs_its_generation_alone_and_no_command_for_it_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    life(dir.path(), async |life| {
        let digest = life.bundle(&app(&server("one"))).await;
        life.connect();
        assert_eq!(life.done("shop", 1, place(1, &digest)).await.status, 200);
        assert_eq!(life.done("shop", 2, What::Forget).await.status, 200);
        let host = Arc::clone(&life.host);
        let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
        let collecting = tokio::spawn(async move {
            while stopped.try_recv().is_err() {
                host.collect_actors();
                tokio::task::yield_now().await;
            }
        });
        let gone = async {
            while life.host.find("shop").is_some() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.unwrap();
        assert_eq!((life.host.left(), life.host.record("shop").generation), (1, Generation(2)));
        for generation in 3..300 {
            let drained = life.host.drain("shop", Generation(generation), PATIENCE, true);
            tokio::time::timeout(PATIENCE, drained).await.unwrap().unwrap();
            assert_eq!(life.host.record("shop").generation, Generation(generation));
        }
        stop.send(()).unwrap();
        collecting.await.unwrap();
        assert_eq!(life.done("shop", 299, place(2, &digest)).await.status, 409);
        assert_eq!(life.done("shop", 300, place(2, &digest)).await.status, 200);
    });
}

#[test]
fn an_order_that_was_refused_is_not_done_by_the_next_agent_when_the_reason_has_gone() {
    let dir = tempfile::tempdir().unwrap();
    life(dir.path(), async |life| {
        life.set_apps_max(1);
        let digest = life.bundle(&app(&server("one"))).await;
        life.connect();
        assert_eq!(life.done("other", 1, place(1, &digest)).await.status, 200);
        let refused = life.done("shop", 1, place(1, &digest)).await;
        assert_eq!((refused.status, refused.generation), (409, None), "{}", refused.detail);
        // Not by an order: nothing else is written beside it.
        life.host.drain("other", Generation(2), PATIENCE, true).await.unwrap();
    });
    life(dir.path(), async |life| {
        life.connect();
        // Behind what is left of before.
        assert_eq!(life.done("other", 3, What::Forget).await.status, 200);
        life.host.drain("shop", Generation(0), PATIENCE, false).await.unwrap();
        assert_eq!((life.host.record("shop").generation, life.starts()), (Generation(0), 0));
    });
}

#[test]
fn an_order_stays_on_disk_until_it_has_ended_whatever_comes_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    life(dir.path(), async |life| {
        let digest = life.bundle(&app(&server("one"))).await;
        life.connect();
        assert_eq!(life.done("shop", 1, place(1, &digest)).await.status, 200);
        assert_eq!(life.done("shop", 1, What::Forget).await.status, 200);
        life.host.stop().await;
        // Nothing of the placement is recorded when it is taken back, and something else comes.
        assert_eq!(life.done("shop", 2, place(2, &digest)).await.status, 503);
        assert_eq!(life.done("shop", 2, What::Forget).await.status, 503);
        assert_eq!(life.done("shop", 0, What::Forget).await.status, 503);
    });
    life(dir.path(), async |life| {
        life.connect();
        assert_eq!(life.outcome(4).await.status, 200);
        assert_eq!((life.host.record("shop").generation, life.starts()), (Generation(2), 0));
    });
}

#[test]
fn folders_that_an_application_made_unremovable_go_with_it_when_it_is_forgotten() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("h1/apps/shop");
    life(dir.path(), async |life| {
        let digest = life.bundle(&app(&server("one"))).await;
        life.connect();
        assert_eq!(life.done("shop", 1, place(1, &digest)).await.status, 200);
        for folder in [own.join("home"), own.join("tmp")] {
            std::fs::create_dir_all(folder.join("cache")).unwrap();
            std::fs::write(folder.join("cache/file"), "x").unwrap();
            for folder in [folder.join("cache"), folder] {
                std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o555)).unwrap();
            }
        }
        assert_eq!(life.done("shop", 1, What::Forget).await.status, 200);
        assert!(life.host.record("shop").is_tombstone());
    });
    assert!(!own.join("home").exists() && !own.join("tmp").exists());
    assert_eq!(std::fs::read_dir(dir.path().join("h1/incoming")).unwrap().count(), 0);
}

#[test]
fn a_refusal_that_repeats_what_a_bundle_says_at_length_is_heard_and_what_follows_it_too() {
    let dir = tempfile::tempdir().unwrap();
    life(dir.path(), async |life| {
        // Written twice with what it needs to be text, it is longer than a message may be.
        let package = format!(r#"{{"main": "../{}"}}"#, r"\u0001".repeat(100_000));
        let digest = life.bundle(&[("package.json", &package)]).await;
        life.connect();
        let refused = life.done("shop", 1, place(1, &digest)).await;
        assert_eq!(refused.status, 422);
        assert!(refused.detail.starts_with("package.json: ") && refused.detail.len() <= TOLD_OCTETS_MAX);
        assert_eq!(life.done("shop", 1, What::Forget).await.status, 200);
    });
}

#[test]
fn what_one_edge_cannot_have_heard_the_next_one_hears_in_its_order() {
    let dir = tempfile::tempdir().unwrap();
    life(dir.path(), async |life| {
        let digest = Digest::parse(&life.bundle(&app(&server("one"))).await).unwrap();
        // Of the first edge comes nothing, so that nothing can be sent to it.
        let (_silent, theirs) = tokio::io::duplex(1 << 20);
        let talk = Arc::clone(&life.talk);
        tokio::spawn(async move { talk.attach("silent", theirs).await.unwrap() });
        let begun = async {
            while life.talk.standing().is_none() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, begun).await.unwrap();
        let (ready, heard) = tokio::sync::oneshot::channel();
        let place = Place { generation: Generation(1), role: Role::Owner, version: 1, digest, exclusive: None };
        life.host.place("shop", place, Some(ready)).await.unwrap();
        heard.await.unwrap().unwrap();
        life.connect();
        for wanted in [Kind::Started, Kind::Ready] {
            let Event::App(event) = tokio::time::timeout(PATIENCE, life.told.recv()).await.unwrap().unwrap() else {
                panic!("nothing else has happened")
            };
            assert_eq!(event.kind, wanted);
        }
    });
}

#[test]
fn a_burst_of_placements_is_taken_no_further_than_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    life(dir.path(), async |life| {
        life.set_apps_max(2);
        let digest = Digest::parse(&life.bundle(&app(&server("one"))).await).unwrap();
        let mut answers = Vec::new();
        for name in ["a", "b", "c", "d"] {
            let (generation, digest) = (Generation(1), digest.clone());
            let place = Place { generation, role: Role::Owner, version: 1, digest, exclusive: None };
            answers.push(life.host.begin_place(name, place, None).await);
        }
        let (taken, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!((taken.len(), refused.len()), (2, 2));
        for taken in taken {
            taken.unwrap().await.unwrap().unwrap();
        }
        // What was refused for another reason leaves its room to the next.
        life.set_apps_max(3);
        for _ in 0..2 {
            let (generation, digest) = (Generation(1), Digest::parse(&"0".repeat(64)).unwrap());
            let place = Place { generation, role: Role::Owner, version: 1, digest, exclusive: None };
            let refused = life.host.place("e", place, None).await.unwrap_err();
            assert_eq!(refused.status(), 422, "{refused}");
        }
        let place = Place { generation: Generation(1), role: Role::Owner, version: 1, digest, exclusive: None };
        life.host.place("f", place, None).await.unwrap();
    });
}
