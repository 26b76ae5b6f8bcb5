//! What is recorded, added up and sent is what happened.

use proptest::prelude::*;
use steady_timing::{BadSnapshot, BadTiming, Histogram, MAX_US, RequestTiming, Snapshot};

fn recorded(values: &[u64]) -> Snapshot {
    let histogram = Histogram::new();
    values.iter().for_each(|us| histogram.record(*us));
    histogram.snapshot()
}

fn encoded(snapshot: &Snapshot) -> Vec<u8> {
    let mut out = Vec::new();
    snapshot.encode(&mut out);
    out
}

/// Durations of all sizes, as many small as large ones.
fn durations(most: usize) -> impl Strategy<Value = Vec<u64>> {
    let any_size = (0u32..33, any::<u64>()).prop_map(|(bits, value)| value & ((1 << bits) - 1));
    prop::collection::vec(any_size, 0..most)
}

proptest! {
    #[test]
    fn the_sum_of_two_snapshots_is_the_snapshot_of_all_values(a in durations(300), b in durations(300)) {
        let all = [&a[..], &b[..]].concat();
        let (mut ab, mut ba) = (recorded(&a), recorded(&b));
        ba.merge(&ab);
        ab.merge(&recorded(&b));
        prop_assert_eq!(&ab, &recorded(&all));
        prop_assert_eq!(&ba, &ab);
        prop_assert_eq!(ab.count(), all.len() as u64);
        prop_assert_eq!(ab.sum(), all.iter().map(|us| us.min(&MAX_US)).sum::<u64>());
        prop_assert_eq!(ab.since(&recorded(&a)), recorded(&b));
    }

    #[test]
    fn a_quantile_is_within_a_thirty_second_of_the_exact_one(mut values in durations(500), q in 0.0f64..=1.0) {
        prop_assume!(!values.is_empty());
        let found = recorded(&values).quantile(q).unwrap();
        values.sort_unstable();
        let rank = ((q * values.len() as f64).ceil() as usize).max(1);
        let exact = values[rank - 1].min(MAX_US);
        prop_assert!(found.abs_diff(exact) * 32 <= exact, "{} for {}", found, exact);
    }

    #[test]
    fn a_snapshot_comes_back_from_its_bytes(values in durations(500)) {
        let snapshot = recorded(&values);
        prop_assert_eq!(Snapshot::decode(&encoded(&snapshot)), Ok(snapshot));
    }

    #[test]
    fn whatever_decodes_is_in_its_one_form(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = [&[1u8][..], &bytes].concat();
        if let Ok(snapshot) = Snapshot::decode(&bytes) {
            prop_assert_eq!(encoded(&snapshot), bytes);
        }
    }

    #[test]
    fn a_snapshot_that_was_changed_is_refused_or_another_in_its_one_form(
        values in durations(60), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
    ) {
        let mut bytes = encoded(&recorded(&values));
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
            prop_assert!(Snapshot::decode(&bytes).is_err());
        } else {
            bytes[at] = byte;
            if let Ok(snapshot) = Snapshot::decode(&bytes) {
                prop_assert_eq!(encoded(&snapshot), bytes);
                let _ = (snapshot.quantile(0.5), snapshot.count());
            }
        }
    }

    #[test]
    fn a_timing_comes_back_from_its_text(parts in any::<[u64; 5]>()) {
        let [queue, connect, application, streaming, own] = parts;
        let timing = RequestTiming { queue, connect, application, streaming, own };
        let mut text = Vec::new();
        timing.encode(&mut text);
        prop_assert!(text.len() <= RequestTiming::TEXT_MAX);
        prop_assert_eq!(RequestTiming::parse(&text), Ok(timing));
    }

    #[test]
    fn a_text_that_parses_is_the_text_of_that_timing(text in "q=[0-9]{1,21},c=[0-9]{1,3},a=[0-9 ]{0,3},s=[+0-9]{1,3},o=[0-9]{1,3},?") {
        if let Ok(timing) = RequestTiming::parse(text.as_bytes()) {
            let mut again = Vec::new();
            timing.encode(&mut again);
            prop_assert_eq!(again, text.into_bytes());
        }
    }
}

#[test]
fn a_thousand_durations_of_a_service_take_at_most_400_bytes() {
    // Log-normal around 2 ms with a tail to seconds: the sum of 12 uniform numbers is near enough to normal.
    let mut random = fastrand::Rng::with_seed(7);
    for sigma in [0.3, 0.7, 1.2] {
        let values: Vec<u64> = (0..1000)
            .map(|_| {
                let normal: f64 = (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
                (2000.0 * (sigma * normal).exp()) as u64
            })
            .collect();
        let size = encoded(&recorded(&values)).len();
        assert!(size <= 400, "{size} bytes at sigma {sigma}");
    }
}

#[test]
fn an_empty_histogram_has_no_quantile_and_one_small_form() {
    let empty = Histogram::new().snapshot();
    assert!(empty.is_empty());
    assert_eq!((empty.count(), empty.sum(), empty.quantile(0.5)), (0, 0, None));
    assert_eq!(encoded(&empty), [1, 0, 0]);
}

#[test]
fn counts_up_to_a_bound_hold_whole_buckets() {
    let snapshot = recorded(&[1, 10, 100, 1_000, MAX_US, u64::MAX]);
    let counts = [0, 1, 9, 10, 99, 101, 100_000, MAX_US, u64::MAX].map(|us| snapshot.count_up_to(us));
    assert_eq!(counts, [0, 1, 1, 2, 2, 3, 4, 6, 6]);
}

#[test]
fn bytes_that_are_no_snapshot_are_refused_with_the_reason() {
    let refused: [(&[u8], BadSnapshot); 8] = [
        (&[], BadSnapshot::Format),
        (&[2, 0, 0], BadSnapshot::Format),
        (&[1, 0], BadSnapshot::Number),
        (&[1, 1, 0], BadSnapshot::Number),
        (&[1, 1, 0, 0xf0, 0x80, 0x00], BadSnapshot::Number),
        (&[1, 1, 0, 0xf0, 0xff, 0x7f], BadSnapshot::Bucket),
        (&[1, 0xff, 0x7f, 0], BadSnapshot::Bucket),
        (&[1, 0, 0, 0], BadSnapshot::Trailing),
    ];
    for (bytes, why) in refused {
        assert_eq!(Snapshot::decode(bytes), Err(why), "{bytes:?}");
    }
}

#[test]
fn the_text_of_a_timing_is_read_strictly() {
    let timing = RequestTiming { queue: 12, connect: 3, application: 456, streaming: 0, own: 9 };
    assert_eq!(RequestTiming::parse(b"q=12,c=3,a=456,s=0,o=9"), Ok(timing));
    assert_eq!(timing.total(), 480);
    for text in [
        "",
        "q=12",
        "q=12,c=3,a=456,s=0,o=",
        "q=12,c=3,a=456,s=0,o=9,",
        "q=012,c=3,a=456,s=0,o=9",
        "c=3,q=12,a=456,s=0,o=9",
        "q=+1,c=3,a=456,s=0,o=9",
        "q=-1,c=3,a=456,s=0,o=9",
        "q=1, c=3,a=456,s=0,o=9",
        "q=1.5,c=3,a=456,s=0,o=9",
        "q=18446744073709551616,c=3,a=456,s=0,o=9",
        "Q=1,c=3,a=456,s=0,o=9",
        "q=1,c=3,a=456,s=0,o=9\0",
    ] {
        assert_eq!(RequestTiming::parse(text.as_bytes()), Err(BadTiming), "{text:?}");
    }
}

#[test]
fn a_server_timing_value_is_in_milliseconds() {
    let timing = RequestTiming { queue: 12, connect: 3_000, application: 1_234_567, streaming: 0, own: 100 };
    let mut out = Vec::new();
    timing.server_timing(&mut out);
    let expected = "queue;dur=0.012, connect;dur=3, application;dur=1234.567, streaming;dur=0, own;dur=0.100";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}
