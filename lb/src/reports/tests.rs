use super::*;
use steady_timing::{Entry, Histogram, State};

const SECOND: Duration = Duration::from_secs(1);

/// An agent with one application, as far as reports go.
struct Agent {
    start: u64,
    number: u64,
    times: Histogram,
    told: Snapshot,
    count: u64,
    born: Duration,
}

impl Agent {
    fn new(start: u64, born: Duration) -> Agent {
        Agent { start, number: 0, times: Histogram::new(), told: Snapshot::EMPTY, count: 0, born }
    }

    fn serve(&mut self, us: &[u64]) {
        us.iter().for_each(|us| self.times.record(*us));
        self.count += us.len() as u64;
    }

    fn report(&mut self, whole: bool, now: Duration) -> Vec<u8> {
        let times = self.times.snapshot();
        let told = std::mem::replace(&mut self.told, times.clone());
        let shown = if whole { times } else { times.changed_since(&told) };
        let entry = Entry {
            app: "shop".into(),
            version: 1,
            life: self.start + 1,
            age_ms: (now - self.born).as_millis() as u64,
            state: State::Ready,
            cpu_us: self.count * 1_000,
            memory_bytes: 5 << 20,
            responses: [0, 0, self.count, 0, 0, 0],
            times: [shown.clone(), Snapshot::EMPTY, shown],
            ..Entry::default()
        };
        self.number += 1;
        let base = if whole { 0 } else { self.number - 1 };
        let mut out = Vec::new();
        Report { start: self.start, number: self.number, base, entries: vec![entry] }.encode(&mut out);
        out
    }
}

fn reports() -> Reports {
    Reports::new(Arc::new(EdgeMeters::new(16)))
}

/// Requests of `shop` by its agents, and how many application times are known, within the hour.
fn counted(reports: &Reports, now: Duration) -> (u64, u64) {
    let sum = reports.window(Of::App("shop"), Span::Hour, now).sum;
    (sum.reported.iter().sum(), sum.times[Part::Application as usize].count())
}

#[test]
fn reports_that_are_lost_or_come_twice_neither_lose_nor_double_a_request() {
    let reports = reports();
    let mut agent = Agent::new(7, 100 * SECOND);
    let mut now = 100 * SECOND;
    agent.serve(&[10, 20]);
    let first = agent.report(true, now);
    reports.apply("h1", &first, now).unwrap();
    assert_eq!(counted(&reports, now), (2, 2));
    reports.apply("h1", &first, now).unwrap();
    now += SECOND;
    agent.serve(&[10, 30_000]);
    let second = agent.report(false, now);
    reports.apply("h1", &second, now).unwrap();
    reports.apply("h1", &second, now).unwrap();
    assert_eq!(counted(&reports, now), (4, 4));
    agent.serve(&[10, 77]);
    let _lost = agent.report(false, now);
    agent.serve(&[500]);
    let after = agent.report(false, now);
    assert_eq!(reports.apply("h1", &after, now), Err(Refused::OutOfStep));
    assert_eq!(counted(&reports, now), (4, 4));
    reports.apply("h1", &agent.report(true, now), now).unwrap();
    assert_eq!(counted(&reports, now), (7, 7));
    assert_eq!(reports.counts().out_of_step, 1);
    assert_eq!(reports.last("h1"), Some(now));
    for of in [Of::All, Of::Host("h1")] {
        assert_eq!(reports.window(of, Span::Hour, now).sum.reported[2], 7);
    }
}

#[test]
fn a_report_that_is_refused_half_way_counts_what_it_changed() {
    let reports = reports();
    let now = 100 * SECOND;
    let entry = |app: &str, life, age_ms, count| Entry {
        app: app.into(),
        life,
        age_ms,
        responses: [0, 0, count, 0, 0, 0],
        ..Entry::default()
    };
    let tell = |number, base, entries| {
        let mut out = Vec::new();
        Report { start: 7, number, base, entries }.encode(&mut out);
        reports.apply("h1", &out, now)
    };
    tell(1, 0, vec![entry("shop", 1, 0, 5)]).unwrap();
    // A life that this edge should have heard of long ago.
    assert_eq!(tell(2, 1, vec![entry("shop", 1, 1_000, 7), entry("cart", 2, 60_000, 3)]), Err(Refused::OutOfStep));
    tell(2, 0, vec![entry("shop", 1, 1_000, 7), entry("cart", 2, 60_000, 3)]).unwrap();
    for of in [Of::All, Of::Host("h1")] {
        assert_eq!(reports.window(of, Span::Hour, now).sum.reported[2], 10);
    }
}

#[test]
fn an_agent_that_starts_anew_is_counted_from_its_beginning() {
    let reports = reports();
    let mut agent = Agent::new(7, 10 * SECOND);
    agent.serve(&[10; 5]);
    reports.apply("h1", &agent.report(true, 11 * SECOND), 11 * SECOND).unwrap();
    let mut agent = Agent::new(8, 12 * SECOND);
    agent.serve(&[10; 3]);
    reports.apply("h1", &agent.report(true, 13 * SECOND), 13 * SECOND).unwrap();
    assert_eq!(counted(&reports, 13 * SECOND), (8, 8));
}

#[test]
fn what_an_agent_counted_before_this_edge_began_is_not_of_now() {
    let reports = reports();
    let now = 5 * SECOND;
    let mut agent = Agent::new(7, Duration::ZERO);
    agent.serve(&[10; 1_000]);
    // Its life is a minute old, this edge five seconds.
    let mut older = agent.report(true, 60 * SECOND);
    reports.apply("h1", &older, now).unwrap();
    assert_eq!(counted(&reports, now), (0, 0));
    agent.serve(&[10; 3]);
    older = agent.report(false, 61 * SECOND);
    reports.apply("h1", &older, now + SECOND).unwrap();
    assert_eq!(counted(&reports, now + SECOND), (3, 3));
}

#[test]
fn how_an_application_is_now_is_what_was_told_last() {
    let reports = reports();
    let mut agent = Agent::new(7, Duration::ZERO);
    reports.apply("h1", &agent.report(true, SECOND), SECOND).unwrap();
    agent.serve(&[10; 100]);
    reports.apply("h1", &agent.report(false, 2 * SECOND), 2 * SECOND).unwrap();
    let places = reports.places("shop");
    let [(host, place)] = &places[..] else { panic!("{places:?}") };
    assert_eq!((&**host, place.version, place.state), ("h1", 1, State::Ready));
    assert_eq!((place.cpu_milli, place.memory_bytes), (100, 5 << 20), "100 ms of processor time in a second");
    assert_eq!(reports.host("h1").unwrap().ready, 1);
    assert_eq!(reports.apps(), [Arc::from("shop")]);
    // A whole report without it: it is gone.
    let mut out = Vec::new();
    Report { start: 7, number: 9, base: 0, entries: vec![] }.encode(&mut out);
    reports.apply("h1", &out, 3 * SECOND).unwrap();
    assert!(reports.places("shop").is_empty());
    reports.forget_host("h1");
    assert_eq!((reports.host("h1"), reports.last("h1")), (None, None));
}

#[test]
fn what_workers_measure_is_the_edges_own_view() {
    let meters = Arc::new(EdgeMeters::new(16));
    let reports = Reports::new(Arc::clone(&meters));
    let worker = meters.open(|| "shop".into()).unwrap();
    worker.record(200, [Some(1_000), Some(40)]);
    worker.record(502, [Some(9), None]);
    reports.look(SECOND);
    reports.look(2 * SECOND);
    worker.record(200, [Some(1_000), Some(40)]);
    reports.look(3 * SECOND);
    for of in [Of::App("shop"), Of::All] {
        let sum = reports.window(of, Span::TenSeconds, 4 * SECOND).sum;
        assert_eq!(sum.served, [0, 0, 2, 0, 0, 1]);
        assert_eq!(sum.times[Part::Total as usize].count(), 3);
        assert_eq!((sum.times[Part::Network as usize].count(), sum.times[Part::Network as usize].sum()), (2, 80));
    }
}

#[test]
fn bytes_that_are_no_report_are_refused_and_counted() {
    let reports = reports();
    assert!(matches!(reports.apply("h1", b"nonsense", SECOND), Err(Refused::Bad(_))));
    assert_eq!((reports.counts().refused, reports.counts().taken), (1, 0));
    assert_eq!(reports.last("h1"), None);
}
