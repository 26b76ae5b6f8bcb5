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
    counts: Vec<Used>,
    count: u64,
    sum: u64,
}

/// A bucket in use: its number in the upper bits, its count in the others. In order by bucket.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Used(u64);

/// The greatest count of a bucket: what is more stays at this.
pub(crate) const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
const COUNT_BITS: u32 = 54;

const _: () = assert!(BUCKETS <= 1 << (u64::BITS - COUNT_BITS));

impl Used {
    fn new(bucket: u16, count: u64) -> Used {
        Used(u64::from(bucket) << COUNT_BITS | count.min(COUNT_MAX))
    }

    fn bucket(self) -> u16 {
        (self.0 >> COUNT_BITS) as u16
    }

    fn count(self) -> u64 {
        self.0 & COUNT_MAX
    }
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
        Snapshot::of(counts.map(|(bucket, count)| Used::new(bucket, count)).collect(), sum)
    }

    fn of(counts: Vec<Used>, sum: u64) -> Snapshot {
        let count = counts.iter().fold(0u64, |all, used| all.saturating_add(used.count()));
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
                (Some(a), Some(b)) if a.bucket() == b.bucket() => {
                    let both = Used::new(a.bucket(), a.count().saturating_add(b.count()));
                    theirs.next();
                    ours.next().map(|_| both)
                }
                (Some(a), Some(b)) if a.bucket() > b.bucket() => theirs.next(),
                (Some(_), _) => ours.next(),
                (None, _) => theirs.next(),
            };
            match next {
                Some(next) => merged.push(next),
                None => break,
            }
        }
        *self = Snapshot::of(merged, self.sum.saturating_add(other.sum));
    }

    /// The values that came after `earlier`, an older snapshot of the same histogram. What only `earlier` has is left out.
    pub fn since(&self, earlier: &Snapshot) -> Snapshot {
        let before = |bucket: u16| {
            let found = earlier.counts.binary_search_by_key(&bucket, |used| used.bucket());
            found.map_or(0, |at| earlier.counts[at].count())
        };
        let counts = self.counts.iter().map(|used| (used.bucket(), used.count().saturating_sub(before(used.bucket()))));
        Snapshot::from_counts(counts.filter(|(_, count)| *count > 0), self.sum.saturating_sub(earlier.sum))
    }

    /// The part of this that is not as `earlier` has it: the buckets that changed, each with its count of now, and the sum
    /// of now. For a reader that has `earlier` and [`advance`](Snapshot::advance)s it.
    pub fn changed_since(&self, earlier: &Snapshot) -> Snapshot {
        let mut before = earlier.counts.iter().peekable();
        let changed = self.counts.iter().filter(|now| {
            while before.next_if(|then| then.bucket() < now.bucket()).is_some() {}
            before.peek() != Some(now)
        });
        Snapshot::of(changed.copied().collect(), self.sum)
    }

    /// Adds the values of `more`, which is empty then. `changed` becomes the part that changed so, as
    /// [`changed_since`](Snapshot::changed_since) would have it, and `new` what was added, as [`since`](Snapshot::since) would. `sum` is
    /// that of now.
    pub(crate) fn count_more(&mut self, more: &mut Accumulator, sum: u64, changed: &mut Snapshot, new: &mut Snapshot) {
        (changed.count, changed.sum) = (0, sum);
        (new.count, new.sum) = (0, sum.saturating_sub(self.sum));
        changed.counts.clear();
        new.counts.clear();
        self.sum = sum;
        let mut at = 0;
        more.drain(|bucket, more| {
            at += self.counts[at..].iter().take_while(|used| used.bucket() < bucket).count();
            match self.counts.get_mut(at).filter(|used| used.bucket() == bucket) {
                Some(used) => *used = Used::new(bucket, used.count().saturating_add(more)),
                None => self.counts.insert(at, Used::new(bucket, more)),
            }
            changed.counts.push(self.counts[at]);
            changed.count = changed.count.saturating_add(self.counts[at].count());
            new.counts.push(Used::new(bucket, more));
            new.count = new.count.saturating_add(more);
        });
        self.count = self.count.saturating_add(new.count);
    }

    /// Takes over what `newer`, a later snapshot of the same histogram or the changed part of one, has more, and gives just
    /// that: the values that are new. What is not newer changes nothing, so that a snapshot may come twice, late or not at
    /// all, and no value is counted twice.
    pub fn advance(&mut self, newer: &Snapshot) -> Snapshot {
        let mut new = Vec::with_capacity(newer.counts.len());
        let mut at = 0;
        for now in &newer.counts {
            at += self.counts[at..].iter().take_while(|known| known.bucket() < now.bucket()).count();
            match self.counts.get_mut(at).filter(|known| known.bucket() == now.bucket()) {
                Some(known) if now.count() > known.count() => {
                    new.push(Used::new(now.bucket(), now.count() - known.count()));
                    *known = *now;
                }
                Some(_) => {}
                None => {
                    new.push(*now);
                    self.counts.insert(at, *now);
                }
            }
        }
        let sum = newer.sum.saturating_sub(self.sum);
        self.sum = self.sum.max(newer.sum);
        let new = Snapshot::of(new, sum);
        self.count = self.count.saturating_add(new.count);
        new
    }

    /// Octets of memory that it takes.
    pub fn memory(&self) -> usize {
        size_of::<Snapshot>() + self.counts.capacity() * size_of::<Used>()
    }

    /// The value in µs that a share `q` (0 to 1) of all values does not exceed: the middle of the bucket of the value of that
    /// rank (the nearest-rank definition), so at most 1/64 away from it. `None` when there are no values.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let rank = ((q.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut below = 0u64;
        for used in &self.counts {
            below = below.saturating_add(used.count());
            if below >= rank {
                let bucket = usize::from(used.bucket());
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
        let counts = self.counts.iter().take_while(|used| usize::from(used.bucket()) < whole);
        counts.fold(0, |all, used| all.saturating_add(used.count()))
    }

    /// Appends the encoded form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(FORMAT);
        varint::put(self.counts.len() as u64, out);
        varint::put(self.sum, out);
        let mut next = 0;
        for used in &self.counts {
            let (gap, more) = (u64::from(used.bucket() - next), used.count() - 1);
            let (low_gap, low_more) = (gap.min(SHORT_GAP), more.min(SHORT_MORE));
            out.push((low_gap as u8) << 4 | low_more as u8);
            if low_gap == SHORT_GAP {
                varint::put(gap - SHORT_GAP, out);
            }
            if low_more == SHORT_MORE {
                varint::put(more - SHORT_MORE, out);
            }
            next = used.bucket() + 1;
        }
    }

    /// Reads an encoded snapshot. There is one form of each, and nothing else is read. The sum is taken as it is: a snapshot
    /// beside a writer at work may have one that its counts do not.
    pub fn decode(bytes: &[u8]) -> Result<Snapshot, BadSnapshot> {
        let mut reading = Reading::begin(bytes)?;
        let mut counts = Vec::with_capacity(reading.left.min(bytes.len()));
        while let Some(used) = reading.next()? {
            counts.push(used);
        }
        Ok(Snapshot::of(counts, reading.sum))
    }
}

/// An encoded snapshot, bucket by bucket.
struct Reading<'b> {
    bytes: &'b [u8],
    left: usize,
    next: u64,
    sum: u64,
}

impl<'b> Reading<'b> {
    fn begin(mut bytes: &'b [u8]) -> Result<Reading<'b>, BadSnapshot> {
        if take_byte(&mut bytes) != Some(FORMAT) {
            return Err(BadSnapshot::Format);
        }
        let used = varint::take(&mut bytes).ok_or(BadSnapshot::Number)?;
        let sum = varint::take(&mut bytes).ok_or(BadSnapshot::Number)?;
        if used > BUCKETS as u64 {
            return Err(BadSnapshot::Bucket);
        }
        Ok(Reading { bytes, left: used as usize, next: 0, sum })
    }

    /// `None`: that was all, and nothing else followed.
    fn next(&mut self) -> Result<Option<Used>, BadSnapshot> {
        if self.left == 0 {
            return if self.bytes.is_empty() { Ok(None) } else { Err(BadSnapshot::Trailing) };
        }
        self.left -= 1;
        let head = take_byte(&mut self.bytes).ok_or(BadSnapshot::Number)?;
        let gap = extended(head >> 4, SHORT_GAP, &mut self.bytes)?;
        let more = extended(head & 15, SHORT_MORE, &mut self.bytes)?;
        if more >= COUNT_MAX {
            return Err(BadSnapshot::Number);
        }
        let bucket = self.next.checked_add(gap).filter(|bucket| *bucket < BUCKETS as u64).ok_or(BadSnapshot::Bucket)?;
        self.next = bucket + 1;
        Ok(Some(Used::new(bucket as u16, more + 1)))
    }
}

/// Adds up many snapshots: one pass over each, and none over the sum.
pub struct Accumulator {
    counts: Box<[u64; BUCKETS]>,
    sum: u64,
    /// Which runs of [`RUN`] buckets are in use, a bit each.
    used: u32,
}

const RUN: usize = 32;
const _: () = assert!(BUCKETS.div_ceil(RUN) <= u32::BITS as usize);

impl Accumulator {
    pub fn new() -> Accumulator {
        Accumulator { counts: Box::new([0; BUCKETS]), sum: 0, used: 0 }
    }

    pub fn add(&mut self, snapshot: &Snapshot) {
        snapshot.counts.iter().for_each(|used| self.count_many(used.bucket(), used.count()));
        self.add_us(snapshot.sum);
    }

    /// Adds an encoded snapshot, up to where its bytes are none.
    pub fn add_encoded(&mut self, bytes: &[u8]) -> Result<(), BadSnapshot> {
        let mut reading = Reading::begin(bytes)?;
        while let Some(used) = reading.next()? {
            self.count_many(used.bucket(), used.count());
        }
        self.add_us(reading.sum);
        Ok(())
    }

    /// Counts a value by its bucket; its time is not in the sum.
    pub(crate) fn count(&mut self, bucket: u16) {
        self.count_many(bucket, 1);
    }

    pub(crate) fn add_us(&mut self, us: u64) {
        self.sum = self.sum.saturating_add(us);
    }

    fn count_many(&mut self, bucket: u16, more: u64) {
        let bucket = usize::from(bucket);
        self.used |= 1 << (bucket / RUN);
        self.counts[bucket] = self.counts[bucket].saturating_add(more);
    }

    /// The sum; begins anew.
    pub fn take(&mut self) -> Snapshot {
        let (mut counts, sum) = (Vec::new(), self.sum);
        self.drain(|bucket, count| counts.push(Used::new(bucket, count)));
        Snapshot::of(counts, sum)
    }

    /// Begins anew.
    pub(crate) fn clear(&mut self) {
        self.drain(|_, _| ());
    }

    /// Gives each bucket in use with its count, ascending, and begins anew.
    fn drain(&mut self, mut each: impl FnMut(u16, u64)) {
        while self.used != 0 {
            let first = self.used.trailing_zeros() as usize * RUN;
            self.used &= self.used - 1;
            for (bucket, count) in (first..).zip(self.counts[first..].iter_mut().take(RUN)) {
                if *count > 0 {
                    each(bucket as u16, std::mem::take(count));
                }
            }
        }
        self.sum = 0;
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
