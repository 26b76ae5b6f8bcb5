//! A histogram of durations, log-linear: 32 buckets of equal width in every octave.
//!
//! Values below 64 µs have a bucket each. Above, the octave `[2ᵉ, 2ᵉ⁺¹)` is cut into 32, so that a bucket is at most 1/32
//! (3.1 %) of its values wide. Buckets end with the one that holds an hour; what is longer counts there.
//!
//! ```text
//!   value   0 1 2 … 63 │ 64 66 68 … 126 │ 128 132 … 252 │ …
//!   bucket  0 1 2 … 63 │ 64 65 66 …  95 │  96  97 … 127 │ …
//! ```
//!
//! All buckets are there from the start, so that recording never allocates: fewer than 900 counters, 7 KiB. They have 64 bits
//! because a busy bucket passes 2³² within days, and what is exported may not stop growing.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::snapshot::Snapshot;

/// The longest duration that is told apart, one hour in µs. Longer ones count as this.
pub const MAX_US: u64 = 3_600_000_000;
/// Sub-buckets of an octave.
const SUB: u64 = 32;
const SUB_BITS: u32 = SUB.ilog2();
/// Buckets of a histogram: the last is the one of [`MAX_US`].
pub const BUCKETS: usize = bucket_of(MAX_US) + 1;

/// The bucket of a value.
pub(crate) const fn bucket_of(value: u64) -> usize {
    let value = if value > MAX_US { MAX_US } else { value };
    if value < 2 * SUB {
        return value as usize;
    }
    let shift = value.ilog2() - SUB_BITS;
    ((shift as u64) * SUB + (value >> shift)) as usize
}

/// The least value of a bucket.
pub(crate) const fn least_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * SUB {
        return bucket;
    }
    let shift = bucket / SUB - 1;
    (bucket % SUB + SUB) << shift
}

/// The greatest value of a bucket.
pub(crate) const fn greatest_of(bucket: usize) -> u64 {
    if bucket + 1 == BUCKETS { MAX_US } else { least_of(bucket + 1) - 1 }
}

/// A histogram that one thread records into and any thread may [`snapshot`](Histogram::snapshot). No locks, no locked
/// instructions, no allocation after [`new`](Histogram::new). See [`Counter`](crate::Counter) for why one writer only.
pub struct Histogram {
    counts: Box<[AtomicU64; BUCKETS]>,
    sum: AtomicU64,
    /// Which runs of [`SUB`] buckets are in use, a bit each: a snapshot reads no others.
    used: AtomicU32,
}

const _: () = assert!(BUCKETS.div_ceil(SUB as usize) <= u32::BITS as usize);

impl Histogram {
    pub fn new() -> Histogram {
        Histogram {
            counts: Box::new([const { AtomicU64::new(0) }; BUCKETS]),
            sum: AtomicU64::new(0),
            used: AtomicU32::new(0),
        }
    }

    /// Counts one duration in µs.
    pub fn record(&self, us: u64) {
        self.count(bucket_of(us));
        self.sum.store(self.sum.load(Relaxed).saturating_add(us.min(MAX_US)), Relaxed);
    }

    /// Counts one duration by its bucket; its time is not in the sum.
    pub(crate) fn count(&self, bucket: usize) {
        let (used, bit) = (self.used.load(Relaxed), 1 << (bucket / SUB as usize));
        if used & bit == 0 {
            self.used.store(used | bit, Relaxed);
        }
        let count = &self.counts[bucket];
        count.store(count.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// What has been recorded. While the writer is at work, the newest values may be in the sum and not yet in the counts, or
    /// the other way round.
    pub fn snapshot(&self) -> Snapshot {
        let used = self.used.load(Relaxed);
        let runs = self.counts.chunks(SUB as usize).enumerate().filter(|(run, _)| used & (1 << run) != 0);
        let counts = runs.flat_map(|(run, counts)| {
            let loaded =
                counts.iter().enumerate().map(move |(at, count)| (run * SUB as usize + at, count.load(Relaxed)));
            loaded.filter(|(_, count)| *count > 0)
        });
        Snapshot::from_counts(counts.map(|(bucket, count)| (bucket as u16, count)), self.sum.load(Relaxed))
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram::new()
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.snapshot(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::COUNT_MAX;

    #[test]
    fn buckets_follow_one_another_without_a_gap_and_none_is_wider_than_a_thirty_second() {
        for bucket in 0..BUCKETS {
            let (least, greatest) = (least_of(bucket), greatest_of(bucket));
            assert_eq!((bucket_of(least), bucket_of(greatest)), (bucket, bucket));
            assert!((greatest - least) * 32 <= least, "{bucket}: {least} to {greatest}");
            assert!(bucket == 0 || greatest_of(bucket - 1) + 1 == least);
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert_eq!(greatest_of(BUCKETS - 1), MAX_US);
    }

    #[test]
    fn counts_near_their_end_are_told_apart_and_then_held_there() {
        let histogram = Histogram::new();
        for us in [10, 10_000] {
            histogram.record(us);
            histogram.counts[bucket_of(us)].store(COUNT_MAX - 2, Relaxed);
        }
        histogram.sum.store(u64::MAX - 3, Relaxed);
        let earlier = histogram.snapshot();
        histogram.record(10);
        histogram.record(10_000);
        let later = histogram.snapshot();
        assert_eq!((later.count(), later.sum()), (2 * (COUNT_MAX - 1), u64::MAX));
        assert_eq!(later.since(&earlier).count(), 2, "what is new is still told apart");
        let mut both = later.clone();
        both.merge(&later);
        let mut sent = Vec::new();
        both.encode(&mut sent);
        let both = Snapshot::decode(&sent).unwrap();
        assert_eq!((both.count(), both.count_up_to(10)), (2 * COUNT_MAX, COUNT_MAX), "each is held at its end");
        assert!(both.quantile(0.4) < both.quantile(0.6));
    }

    #[test]
    fn a_histogram_takes_less_than_eight_kibibytes() {
        const { assert!(BUCKETS * size_of::<AtomicU64>() + size_of::<Histogram>() < 8192) };
    }
}
