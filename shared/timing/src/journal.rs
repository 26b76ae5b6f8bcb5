//! Durations of one worker for one subject: the newest as a list, the rest in histograms.
//!
//! What a collector asks every second is which few dozen requests came since, of a thousand subjects whose memory is in no
//! cache: to find them in histograms it would read every bucket in use. So the worker writes each request down as one number
//! that holds its buckets, and counts in histograms only when the list is full. Reading what is new is then a cache line or two, and
//! so is recording.
//!
//! ```text
//!   written ─────────────────────────────────────────────▶
//!   │ in histograms, and the newest of these     │ spilled…written │
//!   │ in the list too, until overwritten         │ in the list only│
//! ```
//!
//! One thread writes, any may read, without a lock: a reader finds out afterwards whether what it read was overwritten meanwhile
//! (a sequence lock, whose numbers are `written` and `spilling`), and then reads everything or comes again.

use std::sync::OnceLock;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64, fence};

use crate::cell::Counter;
use crate::histogram::{BUCKETS, Histogram, MAX_US, bucket_of};
use crate::snapshot::Accumulator;

/// Requests in the list. A reader that comes every second reads only the list of a subject with fewer a second and worker.
const LENGTH: u64 = 256;
/// Of one bucket in an entry; three fit.
const BITS: u32 = 10;
/// In the place of a bucket: this request has no such duration.
const NONE: u32 = (1 << BITS) - 1;
/// How often a reader begins again that was overtaken by a writer which has just filled the list.
const ATTEMPTS: u32 = 4;

const _: () = assert!(BUCKETS <= NONE as usize);

/// See the module. `H` durations a request, at most 3.
pub(crate) struct Journal<const H: usize> {
    /// Requests so far.
    written: AtomicU64,
    /// Those that histograms hold, and those that they will hold when the writer is done with it.
    spilled: AtomicU64,
    spilling: AtomicU64,
    sums: [Counter; H],
    entries: [AtomicU32; LENGTH as usize],
    /// Made when the list is full for the first time.
    histograms: OnceLock<Box<[Histogram; H]>>,
}

impl<const H: usize> Journal<H> {
    pub(crate) fn new() -> Journal<H> {
        const { assert!(H as u32 * BITS <= u32::BITS) };
        Journal {
            written: AtomicU64::new(0),
            spilled: AtomicU64::new(0),
            spilling: AtomicU64::new(0),
            sums: [const { Counter::new() }; H],
            entries: [const { AtomicU32::new(0) }; LENGTH as usize],
            histograms: OnceLock::new(),
        }
    }

    /// Writes a request down: each duration that it has, in µs. The writer's alone.
    pub(crate) fn push(&self, times: [Option<u64>; H]) {
        let written = self.written.load(Relaxed);
        if written - self.spilled.load(Relaxed) == LENGTH {
            self.spill(written);
        }
        let mut entry = 0;
        for (at, us) in times.into_iter().enumerate() {
            let bucket = us.map_or(NONE, |us| bucket_of(us) as u32);
            entry |= bucket << (BITS * at as u32);
            if let Some(us) = us {
                self.sums[at].add(us.min(MAX_US));
            }
        }
        // Not to be seen before the number that came before it is.
        self.entries[(written % LENGTH) as usize].store(entry, Release);
        self.written.store(written + 1, Release);
    }

    #[cold]
    fn spill(&self, written: u64) {
        self.spilling.store(written, Relaxed);
        // Whoever sees a count of what follows sees that it is going on.
        fence(Release);
        let histograms = self.histograms.get_or_init(|| Box::new(std::array::from_fn(|_| Histogram::new())));
        for entry in &self.entries {
            each_bucket::<H>(entry.load(Relaxed), |at, bucket| histograms[at].count(bucket.into()));
        }
        self.spilled.store(written, Release);
    }

    /// Requests so far. Whoever sees a number sees what was written before it.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Acquire)
    }

    pub(crate) fn sums(&self) -> [u64; H] {
        std::array::from_fn(|at| self.sums[at].value())
    }

    /// Counts the requests after the first `seen`, and gives how many requests there were in all. `None`, with anything
    /// counted: the list does not reach back so far.
    pub(crate) fn since(&self, seen: u64, sums: &mut [Accumulator; H]) -> Option<u64> {
        let written = self.written.load(Acquire);
        if written - seen >= LENGTH {
            return None;
        }
        for number in seen..written {
            let entry = self.entries[(number % LENGTH) as usize].load(Relaxed);
            each_bucket::<H>(entry, |at, bucket| sums[at].count(bucket));
        }
        fence(Acquire);
        (self.written.load(Relaxed) - seen < LENGTH).then_some(written)
    }

    /// Adds everything, and gives how many requests that were. `None`, with nothing added: the writer was faster each time, so
    /// another look will do.
    pub(crate) fn add_to(&self, sums: &mut [Accumulator; H]) -> Option<u64> {
        let mut entries = [0; LENGTH as usize];
        for _ in 0..ATTEMPTS {
            let spilled = self.spilled.load(Acquire);
            let counted = (spilled > 0).then(|| self.histograms.get()).flatten();
            let counted = counted.map(|histograms| histograms.each_ref().map(Histogram::snapshot));
            let written = self.written.load(Acquire);
            let Some(entries) = entries.get_mut(..(written - spilled) as usize) else { continue };
            for (number, entry) in (spilled..).zip(&mut *entries) {
                *entry = self.entries[(number % LENGTH) as usize].load(Relaxed);
            }
            fence(Acquire);
            if self.spilling.load(Relaxed) != spilled {
                continue;
            }
            for (sum, counted) in sums.iter_mut().zip(counted.iter().flatten()) {
                sum.add(counted);
            }
            entries.iter().for_each(|entry| each_bucket::<H>(*entry, |at, bucket| sums[at].count(bucket)));
            sums.iter_mut().zip(self.sums()).for_each(|(sum, us)| sum.add_us(us));
            return Some(written);
        }
        None
    }
}

fn each_bucket<const H: usize>(entry: u32, mut each: impl FnMut(usize, u16)) {
    for at in 0..H {
        let bucket = entry >> (BITS * at as u32) & NONE;
        if bucket != NONE {
            each(at, bucket as u16);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Snapshot;
    use crate::histogram::Histogram;

    fn all(journal: &Journal<2>) -> [Snapshot; 2] {
        let mut sums = [(); 2].map(|()| Accumulator::new());
        journal.add_to(&mut sums).unwrap();
        sums.each_mut().map(Accumulator::take)
    }

    #[test]
    fn everything_is_the_same_before_and_after_the_list_was_full_and_what_is_new_is_told_while_it_is_there() {
        let journal = Journal::<2>::new();
        let histograms = [Histogram::new(), Histogram::new()];
        let mut random = fastrand::Rng::with_seed(1);
        for number in 0..3 * LENGTH + 7 {
            let times = [Some(random.u64(..) >> random.u32(20..60)), random.bool().then(|| random.u64(..9_000))];
            journal.push(times);
            times.iter().zip(&histograms).for_each(|(us, histogram)| us.iter().for_each(|us| histogram.record(*us)));
            assert_eq!(all(&journal), histograms.each_ref().map(Histogram::snapshot), "after {number}");
        }
        let (written, mut new) = (journal.written(), [(); 2].map(|()| Accumulator::new()));
        assert_eq!(journal.since(written - LENGTH, &mut new), None);
        assert_eq!(journal.since(written - 5, &mut new), Some(written));
        assert_eq!(new[0].take().count(), 5);
    }

    #[test]
    fn a_reader_beside_the_writer_counts_each_request_once() {
        let journal = Journal::<2>::new();
        const REQUESTS: u64 = 400_000;
        std::thread::scope(|scope| {
            scope.spawn(|| (0..REQUESTS).for_each(|number| journal.push([Some(number % 64), Some(number % 7)])));
            let (mut seen, mut whole) = (0, 0);
            while seen < REQUESTS {
                let mut new = [(); 2].map(|()| Accumulator::new());
                if let Some(written) = journal.since(seen, &mut new) {
                    let expected = [Histogram::new(), Histogram::new()];
                    for number in seen..written {
                        expected[0].count((number % 64) as usize);
                        expected[1].count((number % 7) as usize);
                    }
                    assert_eq!(new.each_mut().map(Accumulator::take), expected.each_ref().map(Histogram::snapshot));
                    seen = written;
                    continue;
                }
                let mut sums = [(); 2].map(|()| Accumulator::new());
                let Some(written) = journal.add_to(&mut sums) else { continue };
                for sum in &mut sums {
                    assert_eq!(sum.take().count(), written);
                }
                (seen, whole) = (written, whole + 1);
            }
            assert!(seen == REQUESTS && whole > 0);
        });
    }
}
