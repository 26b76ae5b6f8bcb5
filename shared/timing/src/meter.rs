//! What each worker measures of each subject (of an application, say), and the sum over all workers.
//!
//! A worker opens a [`Meter`] at its first request for a subject, which is the only time that it allocates; from then on it
//! writes plain numbers. Control holds a [`Collector`], which learns of new meters by a queue, adds up those of one subject,
//! and says what changed since it last looked.
//!
//! A subject that was quiet for long is *retired*: its meters are marked, workers drop them when they see the mark
//! ([`Meters::retirements`] tells when to look), and the collector folds them in when it holds the last reference, so that
//! nothing is lost and memory follows what is active. When the subject returns, its numbers begin at 0 in a new *life*.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crossbeam_queue::ArrayQueue;

use crate::cell::{Counter, Gauge};
use crate::histogram::Histogram;
use crate::snapshot::Snapshot;

/// Meters that may wait for the collector. Past it a worker opens its meter at a later request.
const NEW_MAX: usize = 8192;
/// Fewer requests in flight than this never count as a rise that is worth telling at once.
const RISE_MIN: u64 = 8;

/// What one worker measures of one subject: `H` durations, and the numbers below. One writer.
pub struct Meter<K, const H: usize> {
    key: K,
    /// Requests that are over. Written last of all, so that whoever sees it sees the rest.
    done: AtomicU64,
    in_flight: Gauge,
    /// So much in flight, or more, is told at once; the collector's to write.
    alarm: AtomicU64,
    /// The most in flight in `window`, seen when one began.
    peak: Gauge,
    window: Gauge,
    retired: AtomicBool,
    /// By the first digit of the status; 0: none was sent.
    responses: [Counter; 6],
    times: [Histogram; H],
}

impl<K, const H: usize> Meter<K, H> {
    fn new(key: K) -> Meter<K, H> {
        Meter {
            key,
            done: AtomicU64::new(0),
            in_flight: Gauge::new(),
            alarm: AtomicU64::new(RISE_MIN),
            peak: Gauge::new(),
            window: Gauge::new(),
            retired: AtomicBool::new(false),
            responses: [const { Counter::new() }; 6],
            times: std::array::from_fn(|_| Histogram::new()),
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
        for (histogram, us) in self.times.iter().zip(times) {
            if let Some(us) = us {
                histogram.record(us);
            }
        }
        self.done.store(self.done.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    fn peak_of(&self, window: u64) -> u64 {
        if self.window.value() == window { self.peak.value() } else { 0 }
    }
}

impl<K: fmt::Debug, const H: usize> fmt::Debug for Meter<K, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("key", &self.key).field("done", &self.done).finish_non_exhaustive()
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

/// Where workers open meters. Shared by all workers and one [`Collector`].
pub struct Meters<K, const H: usize> {
    new: ArrayQueue<Arc<Meter<K, H>>>,
    open: AtomicUsize,
    open_max: usize,
    /// Grows at each look of the collector: what a peak is the peak of.
    window: AtomicU64,
    retirements: AtomicU64,
    rising: AtomicBool,
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

/// What was measured, over all workers, since a life began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum<const H: usize> {
    pub responses: [u64; 6],
    pub times: [Snapshot; H],
}

impl<const H: usize> Default for Sum<H> {
    fn default() -> Self {
        Sum { responses: [0; 6], times: std::array::from_fn(|_| Snapshot::default()) }
    }
}

impl<const H: usize> Sum<H> {
    fn add<K>(&mut self, meter: &Meter<K, H>) {
        for (all, one) in self.responses.iter_mut().zip(&meter.responses) {
            *all = all.wrapping_add(one.value());
        }
        for (all, one) in self.times.iter_mut().zip(&meter.times) {
            let one = one.snapshot();
            if all.is_empty() { *all = one } else { all.merge(&one) }
        }
    }
}

/// One subject, as the collector's last look found it.
#[derive(Debug)]
pub struct Gathered<K, const H: usize> {
    /// Differs between any two lives of subjects of one process, and grows.
    pub life: u64,
    /// When this life began, and when it was last seen at work; the caller's clock, in ns.
    pub since_ns: u64,
    active_ns: u64,
    pub in_flight: u64,
    /// The most in flight since the look before, added up over workers: exact with one, else at most so many.
    pub peak: u64,
    /// Everything since the life began.
    pub sum: Sum<H>,
    /// Of that, the durations' buckets that changed at the last look (see [`Snapshot::changed_since`]).
    pub changed: [Snapshot; H],
    /// Of meters that are gone.
    base: Sum<H>,
    meters: Vec<Held<K, H>>,
}

struct Held<K, const H: usize> {
    meter: Arc<Meter<K, H>>,
    done: u64,
}

impl<K, const H: usize> fmt::Debug for Held<K, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("done", &self.done).finish_non_exhaustive()
    }
}

/// The one reader of all meters.
#[derive(Debug)]
pub struct Collector<K, const H: usize> {
    meters: Arc<Meters<K, H>>,
    subjects: HashMap<K, Gathered<K, H>>,
    lives: u64,
    quiet_ns: u64,
}

impl<K: Clone + Eq + Hash, const H: usize> Collector<K, H> {
    /// Subjects that are quiet for `quiet_ns` are retired. `first_life` is the number of the first life.
    pub fn new(meters: Arc<Meters<K, H>>, first_life: u64, quiet_ns: u64) -> Collector<K, H> {
        Collector { meters, subjects: HashMap::new(), lives: first_life, quiet_ns }
    }

    pub fn meters(&self) -> &Arc<Meters<K, H>> {
        &self.meters
    }

    pub fn subjects(&self) -> impl Iterator<Item = (&K, &Gathered<K, H>)> {
        self.subjects.iter()
    }

    pub fn subject(&self, key: &K) -> Option<&Gathered<K, H>> {
        self.subjects.get(key)
    }

    /// Looks at every subject and gives those where something happened since the last look. Retires and forgets what is quiet.
    pub fn look(&mut self, now_ns: u64) -> Vec<K> {
        self.adopt(now_ns);
        self.meters.rising.store(false, Ordering::Relaxed);
        let window = self.meters.window.load(Ordering::Relaxed);
        let mut changed = Vec::new();
        for (key, subject) in &mut self.subjects {
            let told = subject.in_flight;
            if subject.gather(window) || subject.in_flight > 0 || told > 0 {
                subject.active_ns = now_ns;
                changed.push(key.clone());
            }
        }
        self.meters.window.store(window + 1, Ordering::Relaxed);
        self.retire(now_ns);
        changed
    }

    /// Looks only at subjects of which twice as much is in flight as the last look told, and gives those.
    pub fn look_at_rising(&mut self, now_ns: u64) -> Vec<K> {
        self.adopt(now_ns);
        self.meters.rising.store(false, Ordering::Relaxed);
        let window = self.meters.window.load(Ordering::Relaxed);
        let mut changed = Vec::new();
        for (key, subject) in &mut self.subjects {
            let alarmed = |held: &Held<K, H>| held.meter.in_flight.value() >= held.meter.alarm.load(Ordering::Relaxed);
            if !subject.meters.iter().any(alarmed) {
                continue;
            }
            let now: u64 = subject.meters.iter().map(|held| held.meter.in_flight.value()).sum();
            if now >= RISE_MIN.max(2 * subject.in_flight) {
                subject.gather(window);
                subject.active_ns = now_ns;
                changed.push(key.clone());
            } else {
                // One worker's share only; the next rise of it is worth a look again.
                subject.set_alarms();
            }
        }
        changed
    }

    fn adopt(&mut self, now_ns: u64) {
        while let Some(meter) = self.meters.new.pop() {
            let subject = self.subjects.entry(meter.key.clone()).or_insert_with(|| {
                self.lives += 1;
                Gathered::new(self.lives, now_ns)
            });
            subject.meters.push(Held { meter, done: 0 });
        }
    }

    fn retire(&mut self, now_ns: u64) {
        let (mut retired, mut gone) = (false, 0);
        self.subjects.retain(|_, subject| {
            gone += subject.fold();
            if now_ns.saturating_sub(subject.active_ns) < self.quiet_ns {
                return true;
            }
            for held in &subject.meters {
                retired |= !held.meter.retired.swap(true, Ordering::Relaxed);
            }
            !subject.meters.is_empty()
        });
        self.meters.open.fetch_sub(gone, Ordering::Relaxed);
        if retired {
            self.meters.retirements.fetch_add(1, Ordering::Release);
        }
    }
}

impl<K, const H: usize> Gathered<K, H> {
    fn new(life: u64, now_ns: u64) -> Gathered<K, H> {
        Gathered {
            life,
            since_ns: now_ns,
            active_ns: now_ns,
            in_flight: 0,
            peak: 0,
            sum: Sum::default(),
            changed: std::array::from_fn(|_| Snapshot::default()),
            base: Sum::default(),
            meters: Vec::new(),
        }
    }

    /// Reads the meters; whether a request ended since the last time.
    fn gather(&mut self, window: u64) -> bool {
        self.in_flight = self.meters.iter().map(|held| held.meter.in_flight.value()).sum();
        self.peak = self.meters.iter().map(|held| held.meter.peak_of(window)).sum::<u64>().max(self.in_flight);
        self.set_alarms();
        let mut ended = false;
        for held in &mut self.meters {
            let done = held.meter.done.load(Ordering::Acquire);
            ended |= done != held.done;
            held.done = done;
        }
        if !ended {
            self.changed.fill(Snapshot::default());
            return false;
        }
        let mut sum = self.base.clone();
        self.meters.iter().for_each(|held| sum.add(&held.meter));
        for (changed, (now, before)) in self.changed.iter_mut().zip(sum.times.iter().zip(&self.sum.times)) {
            *changed = now.changed_since(before);
        }
        self.sum = sum;
        true
    }

    fn set_alarms(&self) {
        for held in &self.meters {
            let share = held.meter.in_flight.value();
            held.meter.alarm.store(RISE_MIN.max(2 * share), Ordering::Relaxed);
        }
    }

    /// Takes over what meters hold that no worker has any more; how many.
    fn fold(&mut self) -> usize {
        let before = self.meters.len();
        let base = &mut self.base;
        self.meters.retain_mut(|held| {
            let Some(meter) = Arc::get_mut(&mut held.meter) else { return true };
            // What its worker wrote last is told first.
            if *meter.done.get_mut() != held.done {
                return true;
            }
            base.add(meter);
            false
        });
        before - self.meters.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn collector(open_max: usize) -> Collector<&'static str, 1> {
        Collector::new(Arc::new(Meters::new(open_max)), 100, 10 * SECOND)
    }

    #[test]
    fn what_two_workers_measure_is_added_up_and_a_quiet_look_finds_nothing() {
        let mut collector = collector(10);
        let meters = Arc::clone(collector.meters());
        let (a, b) = (meters.open(|| "shop").unwrap(), meters.open(|| "shop").unwrap());
        a.record(200, [Some(10)]);
        b.record(503, [None]);
        b.record(0, [Some(20)]);
        assert_eq!(collector.look(0), ["shop"]);
        let shop = collector.subject(&"shop").unwrap();
        assert_eq!(shop.sum.responses, [1, 0, 1, 0, 0, 1]);
        assert_eq!((shop.sum.times[0].count(), shop.sum.times[0].sum()), (2, 30));
        assert_eq!(shop.changed, shop.sum.times);
        assert!(collector.look(1).is_empty());
        a.record(200, [Some(10)]);
        assert_eq!(collector.look(2), ["shop"]);
        let shop = collector.subject(&"shop").unwrap();
        assert_eq!(
            (shop.sum.times[0].count(), shop.changed[0].count()),
            (3, 2),
            "of the bucket of 10, its count of now"
        );
    }

    #[test]
    fn a_peak_between_two_looks_is_seen_though_it_is_over() {
        let mut collector = collector(10);
        let meters = Arc::clone(collector.meters());
        let meter = meters.open(|| "shop").unwrap();
        let begun: Vec<_> = (0..5).map(|_| meters.begin(&meter)).collect();
        begun.into_iter().for_each(|begun| meters.end(begun));
        let last = meters.begin(&meter);
        collector.look(0);
        let seen = |collector: &Collector<_, 1>| {
            let shop = collector.subject(&"shop").unwrap();
            (shop.in_flight, shop.peak)
        };
        assert_eq!(seen(&collector), (1, 5));
        collector.look(1);
        collector.look(2);
        assert_eq!(seen(&collector), (1, 1));
        meters.end(last);
        assert_eq!(collector.look(3), ["shop"], "that it is idle now is told too");
        assert!(collector.look(4).is_empty());
    }

    #[test]
    fn a_rise_is_worth_a_word_at_once_when_it_doubles_what_was_told() {
        let mut collector = collector(10);
        let meters = Arc::clone(collector.meters());
        let meter = meters.open(|| "shop").unwrap();
        let mut begun: Vec<_> = (1..RISE_MIN).map(|_| meters.begin(&meter)).collect();
        assert!(!meters.is_rising());
        begun.push(meters.begin(&meter));
        assert!(meters.is_rising());
        assert_eq!(collector.look_at_rising(0), ["shop"]);
        assert!(!meters.is_rising());
        begun.extend((1..RISE_MIN).map(|_| meters.begin(&meter)));
        assert!(!meters.is_rising(), "one less than twice as many");
        begun.push(meters.begin(&meter));
        assert!(meters.is_rising());
        assert_eq!(collector.look_at_rising(1), ["shop"]);
        assert_eq!(collector.subject(&"shop").unwrap().in_flight, 2 * RISE_MIN);
        begun.into_iter().for_each(|begun| meters.end(begun));
    }

    #[test]
    fn a_quiet_subject_gives_its_memory_back_and_loses_no_count_and_returns_as_another_life() {
        let mut collector = collector(1);
        let meters = Arc::clone(collector.meters());
        let meter = meters.open(|| "shop").unwrap();
        assert!(meters.open(|| "cart").is_none(), "one may be open");
        assert_eq!(meters.refused(), 1);
        meter.record(200, [Some(10)]);
        collector.look(0);
        let life = collector.subject(&"shop").unwrap().life;
        assert!(collector.look(11 * SECOND).is_empty());
        assert!(meter.is_retired() && meters.retirements() == 1);
        // The worker had not seen the mark yet.
        meter.record(200, [Some(10)]);
        drop(meter);
        assert_eq!(collector.look(12 * SECOND), ["shop"]);
        assert_eq!(collector.subject(&"shop").unwrap().sum.times[0].count(), 2);
        assert_eq!(meters.opened(), 0);
        collector.look(23 * SECOND);
        assert!(collector.subject(&"shop").is_none());
        let again = meters.open(|| "shop").unwrap();
        again.record(200, [Some(10)]);
        collector.look(24 * SECOND);
        let shop = collector.subject(&"shop").unwrap();
        assert!(shop.life > life && shop.sum.times[0].count() == 1);
    }

    #[test]
    fn what_requests_in_flight_hold_is_never_retired() {
        let mut collector = collector(1);
        let meters = Arc::clone(collector.meters());
        let meter = meters.open(|| "shop").unwrap();
        let begun = meters.begin(&meter);
        (0..30).for_each(|second| assert_eq!(collector.look(second * SECOND), ["shop"]));
        assert!(!meter.is_retired());
        meters.end(begun);
    }
}
