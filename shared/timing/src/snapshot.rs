//! What a histogram held at one moment: to add up, to ask for quantiles, to send.
//!
//! Encoded: a format byte (1), the number of buckets in use, the sum, and then each bucket in use, ascending. A bucket is one
//! byte: above, the number of empty buckets before it, below, its count less one, four bits each. Where four bits are not
//! enough they are 15 and the rest follows (of the gap first). All longer numbers are in seven bits a byte. So a bucket is
//! mostly one or two bytes, and a thousand durations of a service take 100 to 300.

use std::fmt;

use crate::histogram::{BUCKETS, bucket_of, greatest_of, least_of};
use crate::varint;

/// The first byte of an encoded snapshot.
const FORMAT: u8 = 1;

/// Counts by bucket, and the sum of the values in µs. Adding two is exact: it is the snapshot of all their values.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Buckets in use, ascending, none with a count of 0.
    counts: Vec<(u16, u64)>,
    count: u64,
    sum: u64,
}

/// Why bytes are not a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSnapshot {
    #[error("a snapshot of another format")]
    Format,
    #[error("a snapshot that is cut off, or a number in it that is too large or longer than it need be")]
    Number,
    #[error("a snapshot with a bucket that does not exist")]
    Bucket,
    #[error("bytes after the end of a snapshot")]
    Trailing,
}

impl Snapshot {
    /// Of no values.
    pub const EMPTY: Snapshot = Snapshot { counts: Vec::new(), count: 0, sum: 0 };

    /// `counts` is ascending and has no 0.
    pub(crate) fn from_counts(counts: impl Iterator<Item = (u16, u64)>, sum: u64) -> Snapshot {
        let counts: Vec<_> = counts.collect();
        let count = counts.iter().fold(0u64, |all, (_, count)| all.saturating_add(*count));
        Snapshot { counts, count, sum }
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum in µs, exact; each no more than [`MAX_US`](crate::MAX_US).
    pub fn sum(&self) -> u64 {
        self.sum
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds the values of `other`.
    pub fn merge(&mut self, other: &Snapshot) {
        if other.counts.is_empty() {
            self.sum = self.sum.saturating_add(other.sum);
            return;
        }
        let (mut ours, mut theirs) = (self.counts.iter().copied().peekable(), other.counts.iter().copied().peekable());
        let mut merged = Vec::with_capacity(self.counts.len().max(other.counts.len()));
        loop {
            let next = match (ours.peek(), theirs.peek()) {
                (Some(a), Some(b)) if a.0 == b.0 => {
                    let both = (a.0, a.1.saturating_add(b.1));
                    theirs.next();
                    ours.next().map(|_| both)
                }
                (Some(a), Some(b)) if a.0 > b.0 => theirs.next(),
                (Some(_), _) => ours.next(),
                (None, _) => theirs.next(),
            };
            match next {
                Some(next) => merged.push(next),
                None => break,
            }
        }
        *self = Snapshot::from_counts(merged.into_iter(), self.sum.saturating_add(other.sum));
    }

    /// The values that came after `earlier`, an older snapshot of the same histogram. What only `earlier` has is left out.
    pub fn since(&self, earlier: &Snapshot) -> Snapshot {
        let before = |bucket: u16| {
            let found = earlier.counts.binary_search_by_key(&bucket, |(bucket, _)| *bucket);
            found.map_or(0, |at| earlier.counts[at].1)
        };
        let counts = self.counts.iter().map(|(bucket, count)| (*bucket, count.saturating_sub(before(*bucket))));
        Snapshot::from_counts(counts.filter(|(_, count)| *count > 0), self.sum.saturating_sub(earlier.sum))
    }

    /// The part of this that is not as `earlier` has it: the buckets that changed, each with its count of now, and the sum
    /// of now. For a reader that has `earlier` and [`advance`](Snapshot::advance)s it.
    pub fn changed_since(&self, earlier: &Snapshot) -> Snapshot {
        let mut before = earlier.counts.iter().peekable();
        let changed = self.counts.iter().filter(|now| {
            while before.next_if(|then| then.0 < now.0).is_some() {}
            before.peek() != Some(now)
        });
        Snapshot::from_counts(changed.copied(), self.sum)
    }

    /// Takes over what `newer`, a later snapshot of the same histogram or the changed part of one, has more, and gives just
    /// that: the values that are new. What is not newer changes nothing, so that a snapshot may come twice, late or not at
    /// all, and no value is counted twice.
    pub fn advance(&mut self, newer: &Snapshot) -> Snapshot {
        let mut new = Vec::with_capacity(newer.counts.len());
        let mut unknown = Vec::new();
        let mut at = 0;
        for &(bucket, count) in &newer.counts {
            at += self.counts[at..].iter().take_while(|(known, _)| *known < bucket).count();
            match self.counts.get_mut(at).filter(|(known, _)| *known == bucket) {
                Some((_, known)) if count > *known => new.push((bucket, count - std::mem::replace(known, count))),
                Some(_) => {}
                None => {
                    new.push((bucket, count));
                    unknown.push((bucket, count));
                }
            }
        }
        let sum = newer.sum.saturating_sub(self.sum);
        self.sum = self.sum.max(newer.sum);
        if !unknown.is_empty() {
            self.counts.extend(unknown);
            self.counts.sort_unstable_by_key(|(bucket, _)| *bucket);
        }
        let new = Snapshot::from_counts(new.into_iter(), sum);
        self.count = self.count.saturating_add(new.count);
        new
    }

    /// Octets of memory that it takes.
    pub fn memory(&self) -> usize {
        size_of::<Snapshot>() + self.counts.capacity() * size_of::<(u16, u64)>()
    }

    /// The value in µs that a share `q` (0 to 1) of all values does not exceed: the middle of the bucket of the value of that
    /// rank (the nearest-rank definition), so at most 1/64 away from it. `None` when there are no values.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let rank = ((q.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut below = 0u64;
        for (bucket, count) in &self.counts {
            below = below.saturating_add(*count);
            if below >= rank {
                let bucket = usize::from(*bucket);
                return Some(least_of(bucket).midpoint(greatest_of(bucket)));
            }
        }
        None
    }

    /// How many values there are of at most `us`, counting whole buckets whose greatest value is: for cumulative buckets of an
    /// exposition format, whose bounds then hold to within a bucket.
    pub fn count_up_to(&self, us: u64) -> u64 {
        let last = bucket_of(us);
        let whole = if greatest_of(last) <= us { last + 1 } else { last };
        let counts = self.counts.iter().take_while(|(bucket, _)| usize::from(*bucket) < whole);
        counts.fold(0, |all, (_, count)| all.saturating_add(*count))
    }

    /// Appends the encoded form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(FORMAT);
        varint::put(self.counts.len() as u64, out);
        varint::put(self.sum, out);
        let mut next = 0;
        for (bucket, count) in &self.counts {
            let (gap, more) = (u64::from(bucket - next), count - 1);
            let (low_gap, low_more) = (gap.min(SHORT_GAP), more.min(SHORT_MORE));
            out.push((low_gap as u8) << 4 | low_more as u8);
            if low_gap == SHORT_GAP {
                varint::put(gap - SHORT_GAP, out);
            }
            if low_more == SHORT_MORE {
                varint::put(more - SHORT_MORE, out);
            }
            next = bucket + 1;
        }
    }

    /// Reads an encoded snapshot. There is one form of each, and nothing else is read. The sum is taken as it is: a snapshot
    /// beside a writer at work may have one that its counts do not.
    pub fn decode(mut bytes: &[u8]) -> Result<Snapshot, BadSnapshot> {
        let bytes = &mut bytes;
        if take_byte(bytes) != Some(FORMAT) {
            return Err(BadSnapshot::Format);
        }
        let used = varint::take(bytes).ok_or(BadSnapshot::Number)?;
        let sum = varint::take(bytes).ok_or(BadSnapshot::Number)?;
        if used > BUCKETS as u64 {
            return Err(BadSnapshot::Bucket);
        }
        let mut counts = Vec::with_capacity((used as usize).min(bytes.len()));
        let mut next = 0u64;
        for _ in 0..used {
            let head = take_byte(bytes).ok_or(BadSnapshot::Number)?;
            let gap = extended(head >> 4, SHORT_GAP, bytes)?;
            let count = extended(head & 15, SHORT_MORE, bytes)?.checked_add(1).ok_or(BadSnapshot::Number)?;
            let bucket = next.checked_add(gap).filter(|bucket| *bucket < BUCKETS as u64).ok_or(BadSnapshot::Bucket)?;
            counts.push((bucket as u16, count));
            next = bucket + 1;
        }
        if !bytes.is_empty() {
            return Err(BadSnapshot::Trailing);
        }
        Ok(Snapshot::from_counts(counts.into_iter(), sum))
    }
}

/// Adds up many snapshots: one pass over each, and none over the sum.
pub struct Accumulator {
    counts: Box<[u64; BUCKETS]>,
    sum: u64,
}

impl Accumulator {
    pub fn new() -> Accumulator {
        Accumulator { counts: Box::new([0; BUCKETS]), sum: 0 }
    }

    pub fn add(&mut self, snapshot: &Snapshot) {
        for (bucket, count) in &snapshot.counts {
            let all = &mut self.counts[usize::from(*bucket)];
            *all = all.saturating_add(*count);
        }
        self.sum = self.sum.saturating_add(snapshot.sum);
    }

    /// The sum; begins anew.
    pub fn take(&mut self) -> Snapshot {
        let used = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let snapshot = Snapshot::from_counts(used.map(|(bucket, count)| (bucket as u16, *count)), self.sum);
        self.counts.fill(0);
        self.sum = 0;
        snapshot
    }
}

impl Default for Accumulator {
    fn default() -> Self {
        Accumulator::new()
    }
}

impl fmt::Debug for Accumulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accumulator").field("sum_us", &self.sum).finish_non_exhaustive()
    }
}

/// What four bits say when a number with the rest follows.
const SHORT_GAP: u64 = 15;
const SHORT_MORE: u64 = 15;

fn extended(low: u8, most: u64, bytes: &mut &[u8]) -> Result<u64, BadSnapshot> {
    let low = u64::from(low);
    if low < most {
        return Ok(low);
    }
    varint::take(bytes).and_then(|rest| rest.checked_add(most)).ok_or(BadSnapshot::Number)
}

fn take_byte(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Snapshot");
        out.field("count", &self.count).field("sum_us", &self.sum);
        for (name, q) in [("p50_us", 0.5), ("p99_us", 0.99), ("max_us", 1.0)] {
            out.field(name, &self.quantile(q));
        }
        out.finish()
    }
}
