//! Reports of a host: what is in them, when they come, and that whoever misses one gets everything.

mod rig;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rig::{Rig, TOML, server};
use steady_agent::gate::{AppMeters, Subject};
use steady_agent::reports::{AppNow, Hub, Reports, Source};
use steady_agent::supervise::Changes;
use steady_timing::{Entry, Report, State};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Applications without processes.
struct Apps {
    apps: Mutex<BTreeMap<Arc<str>, State>>,
    meters: Arc<AppMeters>,
    changes: Changes,
}

impl Apps {
    fn new(names: &[&str]) -> Arc<Apps> {
        let apps = names.iter().map(|name| (Arc::from(*name), State::Ready)).collect();
        Arc::new(Apps { apps: Mutex::new(apps), meters: Arc::new(AppMeters::new(100)), changes: Changes::default() })
    }

    fn set(&self, name: &str, state: State) {
        let name: Arc<str> = Arc::from(name);
        self.apps.lock().unwrap().insert(Arc::clone(&name), state);
        self.changes.note(&name);
    }

    fn now(state: State) -> AppNow {
        AppNow { version: 1, state, pid: None, queued: 0 }
    }
}

impl Source for Apps {
    fn app(&self, name: &str) -> Option<AppNow> {
        self.apps.lock().unwrap().get(name).copied().map(Apps::now)
    }

    fn each(&self, each: &mut dyn FnMut(Arc<str>, AppNow)) {
        let apps = self.apps.lock().unwrap().clone();
        apps.into_iter().for_each(|(name, state)| each(name, Apps::now(state)));
    }

    fn meters(&self) -> Arc<AppMeters> {
        Arc::clone(&self.meters)
    }

    fn changes(&self) -> &Changes {
        &self.changes
    }
}

fn subject(app: &str) -> Subject {
    Subject { app: Arc::from(app), version: 1 }
}

async fn next(reports: &mut Reports) -> Report {
    Report::decode(&reports.next().await.unwrap()).unwrap()
}

fn names(report: &Report) -> Vec<&str> {
    let mut names: Vec<&str> = report.entries.iter().map(|entry| entry.app.as_str()).collect();
    names.sort_unstable();
    names
}

/// A hub at work, on time that only passes when everybody waits.
fn start(apps: &Arc<Apps>) -> Arc<Hub> {
    let hub = Hub::new(Arc::clone(apps) as _);
    let runs = Arc::clone(&hub);
    tokio::spawn(async move { runs.run().await });
    hub
}

#[tokio::test(start_paused = true)]
async fn the_first_report_tells_of_everything_and_those_that_follow_of_what_is_active() {
    let apps = Apps::new(&["quiet", "shop"]);
    let hub = start(&apps);
    let mut reports = hub.listen();
    let first = next(&mut reports).await;
    assert_eq!((first.base, names(&first)), (0, vec!["quiet", "shop"]));
    let meter = apps.meters.open(|| subject("shop")).unwrap();
    meter.record(200, [Some(1_000), Some(5), Some(40)]);
    let mut number = first.number;
    let told = loop {
        let report = next(&mut reports).await;
        assert_eq!((report.start, report.base, report.number), (first.start, number, number + 1));
        number += 1;
        if !report.entries.is_empty() {
            break report;
        }
    };
    let [Entry { responses, times, state, .. }] = &told.entries[..] else { panic!("{told:?}") };
    assert_eq!((responses[2], times[0].count(), *state), (1, 1, State::Ready));
    let before = Instant::now();
    assert_eq!(names(&next(&mut reports).await), Vec::<&str>::new(), "nothing happened");
    assert!(before.elapsed() <= Duration::from_millis(1_001));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_wait_is_told_within_a_tenth_of_a_second() {
    let apps = Apps::new(&["quiet", "shop"]);
    let hub = start(&apps);
    let mut reports = hub.listen();
    next(&mut reports).await;
    let meter = apps.meters.open(|| subject("shop")).unwrap();
    let mut begun = vec![apps.meters.begin(&meter)];
    for at_ms in [1_300, 1_420, 2_777] {
        // Between two of those that come anyway.
        tokio::time::sleep(Duration::from_millis(at_ms % 1_000)).await;
        while next(&mut reports).await.entries.first().is_none_or(|entry| entry.in_flight != begun.len() as u64) {}
        begun.extend((0..begun.len().max(8)).map(|_| apps.meters.begin(&meter)));
        let before = Instant::now();
        while next(&mut reports).await.entries.first().is_none_or(|entry| entry.in_flight != begun.len() as u64) {}
        assert!(before.elapsed() <= Duration::from_millis(100), "{:?}", before.elapsed());
        apps.set("quiet", State::Crashed);
        let before = Instant::now();
        while !next(&mut reports).await.entries.iter().any(|entry| entry.state == State::Crashed) {}
        assert!(before.elapsed() <= Duration::from_millis(100), "{:?}", before.elapsed());
        apps.set("quiet", State::Ready);
    }
    begun.into_iter().for_each(|begun| apps.meters.end(begun));
}

#[tokio::test(start_paused = true)]
async fn who_is_too_slow_or_asks_anew_gets_everything() {
    let apps = Apps::new(&["shop"]);
    let hub = start(&apps);
    let mut reports = hub.listen();
    next(&mut reports).await;
    let meter = apps.meters.open(|| subject("shop")).unwrap();
    for _ in 0..3 {
        meter.record(200, [Some(1_000), Some(5), Some(40)]);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let late = next(&mut reports).await;
    assert_eq!((late.base, late.entries[0].times[0].count()), (0, 3));
    reports.begin_anew();
    let mut again = next(&mut reports).await;
    // The clock of lives is the machine's.
    again.entries[0].age_ms = late.entries[0].age_ms;
    assert_eq!(again, late);
}

#[tokio::test]
async fn an_edge_follows_reports_over_the_api() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path()).await;
    let mut io = TcpStream::connect(&rig.client.addr).await.unwrap();
    let head = format!("GET /v1/reports HTTP/1.0\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n", rig.client.token);
    io.write_all(head.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(&head));
    let digest = rig.client.bundle(&[("steady.toml", TOML), ("app.py", &server("x"))]).await;
    assert_eq!(rig.client.place("web", 1, "owner", 3, &digest).await.0, 200);
    let ready = async {
        loop {
            let mut bytes = vec![0; io.read_u32().await.unwrap() as usize];
            io.read_exact(&mut bytes).await.unwrap();
            let report = Report::decode(&bytes).unwrap();
            if let Some(entry) = report.entries.into_iter().find(|entry| entry.app == "web" && entry.memory_bytes > 0) {
                return entry;
            }
        }
    };
    let entry = tokio::time::timeout(rig::PATIENCE, ready).await.unwrap();
    assert_eq!(entry.version, 3);
    assert!(matches!(entry.state, State::Starting | State::Ready), "{entry:?}");
    rig.stop().await;
}
