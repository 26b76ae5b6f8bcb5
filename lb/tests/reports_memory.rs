//! What is known of latencies stays within its bound, as the allocator counts it. In a process of its own.

use std::sync::Arc;
use std::time::Duration;

use steady_heap::{Counting, of_process};
use steady_lb::reports::{EdgeMeters, Of, Reports, Span};
use steady_timing::{Entry, Histogram, Report, State};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BOUND: usize = 3 << 20;
const APPS: usize = 150;
const SECONDS: u64 = 120;

/// One report of applications that are as varied as can be: every bucket is as likely as any other.
fn report(number: u64, second: u64, random: &mut fastrand::Rng, first: usize) -> Vec<u8> {
    let entry = |app: usize| {
        let times = [(); 3].map(|()| {
            let histogram = Histogram::new();
            (0..40).for_each(|_| histogram.record((random.f64() * 22.0).exp() as u64));
            histogram.snapshot()
        });
        Entry {
            app: format!("app-{app}"),
            version: 1,
            // Another life each time: everything in it is new.
            life: second * 1_000_000 + app as u64,
            state: State::Ready,
            responses: [0, 0, 40, 0, 0, 0],
            times,
            ..Entry::default()
        }
    };
    let entries = (first..first + APPS).map(entry).collect();
    let mut out = Vec::new();
    Report { start: 1, number, base: 0, entries }.encode(&mut out);
    out
}

#[test]
fn memory_stays_within_its_bound_however_much_is_active_and_is_given_back() {
    let mut random = fastrand::Rng::with_seed(5);
    let before = of_process();
    let reports = Reports::with_memory(Arc::new(EdgeMeters::new(0)), BOUND);
    let held = || usize::try_from((of_process() - before).octets).unwrap();
    let mut most = 0;
    for second in 0..SECONDS {
        let now = Duration::from_secs(second);
        // Others every half minute, so that what is quiet has to go.
        let bytes = report(second + 1, second, &mut random, second as usize / 30 * APPS);
        reports.apply("h1", &bytes, now).unwrap();
        drop(bytes);
        reports.look(now);
        assert!(reports.memory() <= BOUND + BOUND / 8, "{} octets counted at second {second}", reports.memory());
        most = most.max(held());
    }
    println!("at most {most} octets held, {} evicted", reports.counts().evicted);
    assert!(most <= BOUND * 2, "{most} octets are held");
    assert!(reports.counts().evicted > 0);
    // The busiest moment's applications are known; those of the beginning are not.
    assert!(reports.window(Of::Host("h1"), Span::TenSeconds, Duration::from_secs(SECONDS)).sum.reported[2] > 0);
    let empty = {
        let mut out = Vec::new();
        Report { start: 1, number: 1_000, base: 0, entries: vec![] }.encode(&mut out);
        out
    };
    let later = Duration::from_secs(SECONDS + 2 * 3600);
    reports.apply("h1", &empty, later).unwrap();
    reports.look(later);
    assert!(held() < 1 << 20, "{} octets are held of what was two hours ago", held());
    assert_eq!(reports.apps().len(), 0);
}
