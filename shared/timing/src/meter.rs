//! What each worker measures of each subject (of an application, say), and the sum over all workers.
//!
//! A worker opens a [`Meter`] at its first request for a subject, and makes its histograms when that gets busy: it allocates at no
//! other time, and writes plain numbers. Control holds a [`Collector`](crate::Collector), which learns of new meters by a queue, adds up those of one subject,
//! and says what changed since it last looked.
//!
//! A subject that was quiet for long is *retired*: its meters are marked, workers drop them when they see the mark
//! ([`Meters::retirements`] tells when to look), and the collector folds them in when it holds the last reference, so that
//! nothing is lost and memory follows what is active. When the subject returns, its numbers begin at 0 in a new *life*.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crossbeam_queue::ArrayQueue;

use crate::cell::{Counter, Gauge};
use crate::journal::Journal;

/// Meters that may wait for the collector. Past it a worker opens its meter at a later request.
const NEW_MAX: usize = 8192;
/// Fewer requests in flight than this never count as a rise that is worth telling at once.
pub(crate) const RISE_MIN: u64 = 8;

/// What one worker measures of one subject: `H` durations, and the numbers below. One writer.
pub struct Meter<K, const H: usize> {
    pub(crate) key: K,
    pub(crate) in_flight: Gauge,
    /// So much in flight, or more, is told at once; the collector's to write.
    pub(crate) alarm: AtomicU64,
    /// The most in flight in `window`, seen when one began.
    peak: Gauge,
    window: Gauge,
    pub(crate) retired: AtomicBool,
    /// By the first digit of the status; 0: none was sent.
    pub(crate) responses: [Counter; 6],
    /// Written last of all, so that whoever sees that a request is over sees the rest of it.
    pub(crate) times: Journal<H>,
}

impl<K, const H: usize> Meter<K, H> {
    fn new(key: K) -> Meter<K, H> {
        Meter {
            key,
            in_flight: Gauge::new(),
            alarm: AtomicU64::new(RISE_MIN),
            peak: Gauge::new(),
            window: Gauge::new(),
            retired: AtomicBool::new(false),
            responses: [const { Counter::new() }; 6],
            times: Journal::new(),
        }
    }

    pub fn key(&self) -> &K {
        &self.key
    }

    /// The subject was quiet for long: open another for its next request.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// A request is over: its status (0: none), and each duration that it has, in µs.
    pub fn record(&self, status: u16, times: [Option<u64>; H]) {
        self.responses[usize::from(status / 100).min(5)].add(1);
        self.times.push(times);
    }

    /// The most in flight in this window, as far as the worker saw it.
    pub(crate) fn peak_of(&self, window: u64) -> u64 {
        if self.window.value() == window { self.peak.value() } else { 0 }
    }
}

impl<K: fmt::Debug, const H: usize> fmt::Debug for Meter<K, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("key", &self.key).field("done", &self.times.written()).finish_non_exhaustive()
    }
}

/// A worker's hold on its meter: cheap to clone for that worker, and for nobody else.
#[derive(Debug)]
pub struct Pen<K, const H: usize>(Rc<Open<K, H>>);

/// What a collector shares with one worker.
#[derive(Debug)]
struct Open<K, const H: usize>(Arc<Meter<K, H>>);

impl<K, const H: usize> Clone for Pen<K, H> {
    fn clone(&self) -> Self {
        Pen(Rc::clone(&self.0))
    }
}

impl<K, const H: usize> std::ops::Deref for Pen<K, H> {
    type Target = Meter<K, H>;

    fn deref(&self) -> &Meter<K, H> {
        &self.0.0
    }
}

/// A request that is counted as in flight; give it back to [`Meters::end`].
#[derive(Debug)]
#[must_use = "a request that began must end"]
pub struct Begun<K, const H: usize>(Pen<K, H>);

/// Where workers open meters. Shared by all workers and one [`Collector`](crate::Collector).
pub struct Meters<K, const H: usize> {
    pub(crate) new: ArrayQueue<Arc<Meter<K, H>>>,
    pub(crate) open: AtomicUsize,
    open_max: usize,
    /// Grows at each look of the collector: what a peak is the peak of.
    pub(crate) window: AtomicU64,
    pub(crate) retirements: AtomicU64,
    pub(crate) rising: AtomicBool,
    refused: AtomicU64,
}

impl<K, const H: usize> Meters<K, H> {
    /// For at most `open_max` meters at once, over all workers: what they measure may take `open_max` × `H` × 7 KiB.
    pub fn new(open_max: usize) -> Meters<K, H> {
        Meters {
            new: ArrayQueue::new(NEW_MAX),
            open: AtomicUsize::new(0),
            open_max,
            window: AtomicU64::new(1),
            retirements: AtomicU64::new(0),
            rising: AtomicBool::new(false),
            refused: AtomicU64::new(0),
        }
    }

    /// A meter for a worker of its own. `None` (and counted): too many are open or wait for the collector; this request stays
    /// unmeasured, which costs nothing: `key` is not asked for.
    pub fn open(&self, key: impl FnOnce() -> K) -> Option<Pen<K, H>> {
        if !self.new.is_full() && self.open.load(Ordering::Relaxed) < self.open_max {
            if self.open.fetch_add(1, Ordering::Relaxed) < self.open_max {
                let meter = Arc::new(Meter::new(key()));
                if self.new.push(Arc::clone(&meter)).is_ok() {
                    return Some(Pen(Rc::new(Open(meter))));
                }
            }
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// Meters that were not opened, because of the bound.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Meters that are open now.
    pub fn opened(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Grows when meters were retired: let go of those that [are](Meter::is_retired).
    pub fn retirements(&self) -> u64 {
        self.retirements.load(Ordering::Acquire)
    }

    /// A request is with the subject.
    pub fn begin(&self, meter: &Pen<K, H>) -> Begun<K, H> {
        let in_flight = meter.in_flight.value() + 1;
        meter.in_flight.set(in_flight);
        let window = self.window.load(Ordering::Relaxed);
        if meter.window.value() != window {
            meter.window.set(window);
            meter.peak.set(in_flight);
        } else if in_flight > meter.peak.value() {
            meter.peak.set(in_flight);
        }
        if in_flight >= meter.alarm.load(Ordering::Relaxed) {
            self.rising.store(true, Ordering::Relaxed);
        }
        Begun(meter.clone())
    }

    pub fn end(&self, begun: Begun<K, H>) {
        begun.0.in_flight.sub(1);
    }

    /// Whether more is in flight somewhere than was told to be worth a word at once. Cleared by the collector's look.
    pub fn is_rising(&self) -> bool {
        self.rising.load(Ordering::Relaxed)
    }
}

impl<K, const H: usize> fmt::Debug for Meters<K, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meters").field("open", &self.opened()).field("refused", &self.refused()).finish_non_exhaustive()
    }
}
