//! Reports: nothing is counted twice or lost, whatever becomes of them on their way; and they are small.

use proptest::prelude::*;
use steady_timing::{Accumulator, BadReport, Entry, Histogram, Report, Snapshot, State};

fn recorded(values: &[u64]) -> Snapshot {
    let histogram = Histogram::new();
    values.iter().for_each(|us| histogram.record(*us));
    histogram.snapshot()
}

fn durations(most: usize) -> impl Strategy<Value = Vec<u64>> {
    let any_size = (0u32..33, any::<u64>()).prop_map(|(bits, value)| value & ((1 << bits) - 1));
    prop::collection::vec(any_size, 0..most)
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    durations(40).prop_map(|values| recorded(&values))
}

fn entry() -> impl Strategy<Value = Entry> {
    let numbers = any::<([u64; 8], [u64; 6])>();
    let times = (snapshot(), snapshot(), snapshot());
    ("[a-z0-9-]{1,63}", numbers, 0..State::ALL.len(), times).prop_map(|(app, (numbers, responses), state, times)| {
        let [version, life, age_ms, in_flight, peak, queued, cpu_us, memory_bytes] = numbers;
        let state = State::ALL[state];
        let times = [times.0, times.1, times.2];
        Entry { app, version, life, age_ms, state, in_flight, peak, queued, cpu_us, memory_bytes, responses, times }
    })
}

fn encoded(report: &Report) -> Vec<u8> {
    let mut out = Vec::new();
    report.encode(&mut out);
    out
}

proptest! {
    #[test]
    fn a_report_comes_back_from_its_bytes_and_a_cut_one_does_not(
        head in any::<(u64, u64, u64)>(), entries in prop::collection::vec(entry(), 0..5), at in any::<prop::sample::Index>(),
    ) {
        let report = Report { start: head.0, number: head.1, base: head.2, entries };
        let bytes = encoded(&report);
        prop_assert!(Report::decode(&bytes[..at.index(bytes.len())]).is_err());
        prop_assert_eq!(Report::decode(&bytes), Ok(report));
    }

    #[test]
    fn whatever_decodes_is_in_its_one_form(entries in prop::collection::vec(entry(), 1..3), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = encoded(&Report { start: 1, number: 2, base: 1, entries });
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(report) = Report::decode(&bytes) {
            prop_assert_eq!(encoded(&report), bytes);
        }
    }

    /// Values come in rounds, and after each the whole or what changed since the round before is sent; some of it is lost or comes
    /// twice. What the receiver adds up is exact for what it got, and exact for all once a whole one came.
    #[test]
    fn differences_add_up_to_everything_whatever_is_lost_or_comes_twice(
        rounds in prop::collection::vec((durations(30), 0..5u8), 1..12),
    ) {
        let histogram = Histogram::new();
        let (mut sent, mut known, mut sum) = (Snapshot::default(), Snapshot::default(), Accumulator::new());
        for (values, fate) in &rounds {
            values.iter().for_each(|us| histogram.record(*us));
            let now = histogram.snapshot();
            let changed = now.changed_since(&sent);
            match fate {
                0 => {}
                1 => {
                    sum.add(&known.advance(&changed));
                    prop_assert!(known.advance(&changed).is_empty(), "the second time it is nothing new");
                }
                2 => sum.add(&known.advance(&now)),
                3 => {
                    sum.add(&known.advance(&now));
                    prop_assert!(known.advance(&sent).is_empty(), "an old one that comes late is nothing new");
                }
                _ => sum.add(&known.advance(&changed)),
            }
            sent = now;
        }
        sum.add(&known.advance(&sent));
        prop_assert_eq!(&known, &sent);
        prop_assert_eq!(sum.take(), sent);
    }

    #[test]
    fn many_added_up_are_the_snapshot_of_all_values(parts in prop::collection::vec(durations(60), 0..8), q in 0.0f64..=1.0) {
        let mut sum = Accumulator::new();
        parts.iter().for_each(|values| sum.add(&recorded(values)));
        let merged = sum.take();
        prop_assert_eq!(&merged, &recorded(&parts.concat()));
        prop_assert!(sum.take().is_empty());
        // And so its quantiles are those of all values, to within a bucket.
        let mut all = parts.concat();
        prop_assume!(!all.is_empty());
        all.sort_unstable();
        let exact = all[((q * all.len() as f64).ceil() as usize).max(1) - 1].min(steady_timing::MAX_US);
        prop_assert!(merged.quantile(q).unwrap().abs_diff(exact) * 32 <= exact);
    }
}

/// What services are like, 1,000 requests each.
fn services(random: &mut fastrand::Rng) -> Vec<(&'static str, Vec<u64>)> {
    let normal = |random: &mut fastrand::Rng| (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
    let lognormal = |random: &mut fastrand::Rng, median: f64, sigma: f64| {
        (0..1000).map(|_| (median * (sigma * normal(random)).exp()) as u64).collect::<Vec<_>>()
    };
    let steady = lognormal(random, 2_000.0, 0.3);
    let spread = lognormal(random, 20_000.0, 1.0);
    let mut cached = lognormal(random, 300.0, 0.25);
    cached.splice(700.., lognormal(random, 45_000.0, 0.5).into_iter().take(300));
    let mut stalled = lognormal(random, 1_000.0, 0.4);
    stalled.splice(990.., (0..10).map(|at| 1_000_000 + at * 250_000));
    let pareto = (0..1000).map(|_| (1_000.0 / (1.0 - random.f64()).powf(1.0 / 1.5)) as u64).collect();
    let sleeps = (0..1000).map(|_| 100_000 + random.u64(0..300)).collect();
    vec![
        ("steady", steady),
        ("spread", spread),
        ("a cache in front", cached),
        ("stalls", stalled),
        ("a heavy tail", pareto),
        ("one that sleeps", sleeps),
    ]
}

#[test]
fn a_thousand_requests_take_at_most_400_bytes_and_their_percentiles_are_within_a_bucket() {
    let mut random = fastrand::Rng::with_seed(11);
    for (name, mut values) in services(&mut random) {
        let snapshot = recorded(&values);
        let mut bytes = Vec::new();
        snapshot.encode(&mut bytes);
        println!("{name}: {} bytes", bytes.len());
        assert!(bytes.len() <= 400, "{name}: {} bytes", bytes.len());
        values.sort_unstable();
        for q in [0.5, 0.9, 0.99, 0.999] {
            let exact = values[((q * 1000.0_f64).ceil() as usize).max(1) - 1];
            let found = snapshot.quantile(q).unwrap();
            assert!(found.abs_diff(exact) * 32 <= exact, "{name}: p{q} is {found}, exactly {exact}");
        }
    }
}

#[test]
fn bytes_that_are_no_report_are_refused_with_the_reason() {
    let entry = Entry { app: "shop".into(), ..Entry::default() };
    let good = encoded(&Report { start: 5, number: 1, base: 0, entries: vec![entry] });
    assert!(Report::decode(&good).is_ok());
    let at_state = 1 + 4 + 1 + 4 + 3;
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        Report::decode(&bytes).unwrap_err()
    };
    assert_eq!(Report::decode(&[]), Err(BadReport::Format));
    assert_eq!(changed(0, 2), BadReport::Format);
    assert_eq!(changed(4, 2), BadReport::Number, "an entry more than there is");
    assert_eq!(changed(5, 0), BadReport::Name);
    assert_eq!(changed(5, 64), BadReport::Name);
    assert_eq!(changed(6, 0xff), BadReport::Name);
    assert_eq!(changed(at_state, 7), BadReport::State);
    let trailing = [&good[..], &[0]].concat();
    assert_eq!(Report::decode(&trailing), Err(BadReport::Trailing));
}
