//! The one reader of all [meters](crate::Meters): adds up those of each subject, and says what changed since it last looked.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::meter::{Meter, Meters, RISE_MIN};
use crate::snapshot::{Accumulator, Snapshot};

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
    /// Of that, what was not there at the look before.
    pub new: Sum<H>,
    /// Of meters that are gone.
    base: Sum<H>,
    meters: Vec<Held<K, H>>,
}

struct Held<K, const H: usize> {
    meter: Arc<Meter<K, H>>,
    /// Requests of its that are in the sum.
    done: u64,
    /// As many as were read, while others are still to be.
    read: u64,
}

impl<K, const H: usize> fmt::Debug for Held<K, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("done", &self.done).finish_non_exhaustive()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Collector<K, const H: usize> {
    meters: Arc<Meters<K, H>>,
    subjects: HashMap<K, Gathered<K, H>>,
    lives: u64,
    quiet_ns: u64,
    desk: Desk<H>,
}

/// Room to work in, kept from one subject to the next.
#[derive(Debug)]
struct Desk<const H: usize> {
    sums: [Accumulator; H],
}

impl<K: Clone + Eq + Hash, const H: usize> Collector<K, H> {
    /// Subjects that are quiet for `quiet_ns` are retired. `first_life` is the number of the first life.
    pub fn new(meters: Arc<Meters<K, H>>, first_life: u64, quiet_ns: u64) -> Collector<K, H> {
        let desk = Desk { sums: std::array::from_fn(|_| Accumulator::new()) };
        Collector { meters, subjects: HashMap::new(), lives: first_life, quiet_ns, desk }
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
            if subject.gather(window, &mut self.desk) || subject.in_flight > 0 || told > 0 {
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
                subject.gather(window, &mut self.desk);
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
            subject.meters.push(Held { meter, done: 0, read: 0 });
        }
    }

    fn retire(&mut self, now_ns: u64) {
        let (mut retired, mut gone) = (false, 0);
        self.subjects.retain(|_, subject| {
            gone += subject.fold(&mut self.desk);
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
            changed: [const { Snapshot::EMPTY }; H],
            new: Sum::default(),
            base: Sum::default(),
            meters: Vec::new(),
        }
    }

    /// Reads the meters; whether a request ended since the last time.
    fn gather(&mut self, window: u64, desk: &mut Desk<H>) -> bool {
        self.in_flight = self.meters.iter().map(|held| held.meter.in_flight.value()).sum();
        self.peak = self.meters.iter().map(|held| held.meter.peak_of(window)).sum::<u64>().max(self.in_flight);
        self.set_alarms();
        let is_news = |held: &Held<K, H>| held.meter.times.written() != held.done;
        if !self.meters.iter().any(is_news) || !(self.gather_new(desk) || self.gather_all(desk)) {
            self.changed.fill(Snapshot::EMPTY);
            self.new = Sum::default();
            return false;
        }
        let before = std::mem::replace(&mut self.sum.responses, self.base.responses);
        self.meters.iter().for_each(|held| add_responses(&mut self.sum.responses, &held.meter));
        self.new.responses = std::array::from_fn(|class| self.sum.responses[class].wrapping_sub(before[class]));
        true
    }

    /// Adds what is new in the meters' lists; `false`, and nothing has changed: one of them does not reach back far enough.
    fn gather_new(&mut self, desk: &mut Desk<H>) -> bool {
        let mut sums = self.base.times.each_ref().map(Snapshot::sum);
        for held in &mut self.meters {
            let Some(written) = held.meter.times.since(held.done, &mut desk.sums) else {
                desk.sums.iter_mut().for_each(Accumulator::clear);
                return false;
            };
            held.read = written;
            sums.iter_mut().zip(held.meter.times.sums()).for_each(|(all, one)| *all = all.saturating_add(one));
        }
        self.meters.iter_mut().for_each(|held| held.done = held.read);
        for (at, more) in desk.sums.iter_mut().enumerate() {
            self.sum.times[at].count_more(more, sums[at], &mut self.changed[at], &mut self.new.times[at]);
        }
        true
    }

    /// Adds everything up anew; `false`, and nothing has changed: a worker was too fast, and another look will do.
    fn gather_all(&mut self, desk: &mut Desk<H>) -> bool {
        desk.sums.iter_mut().zip(&self.base.times).for_each(|(all, base)| all.add(base));
        for held in &mut self.meters {
            let Some(written) = held.meter.times.add_to(&mut desk.sums) else {
                desk.sums.iter_mut().for_each(Accumulator::clear);
                return false;
            };
            held.read = written;
        }
        self.meters.iter_mut().for_each(|held| held.done = held.read);
        for (at, all) in desk.sums.iter_mut().enumerate() {
            let now = all.take();
            self.changed[at] = now.changed_since(&self.sum.times[at]);
            self.new.times[at] = now.since(&self.sum.times[at]);
            self.sum.times[at] = now;
        }
        true
    }

    fn set_alarms(&self) {
        for held in &self.meters {
            let share = held.meter.in_flight.value();
            held.meter.alarm.store(RISE_MIN.max(2 * share), Ordering::Relaxed);
        }
    }

    /// Takes over what meters hold that no worker has any more; how many.
    fn fold(&mut self, desk: &mut Desk<H>) -> usize {
        let before = self.meters.len();
        let base = &mut self.base;
        self.meters.retain_mut(|held| {
            // What its worker wrote last is told first.
            let is_over = Arc::get_mut(&mut held.meter).is_some_and(|meter| meter.times.written() == held.done);
            if !is_over || held.meter.times.add_to(&mut desk.sums).is_none() {
                return true;
            }
            base.times.iter_mut().zip(&mut desk.sums).for_each(|(all, one)| all.merge(&one.take()));
            add_responses(&mut base.responses, &held.meter);
            false
        });
        before - self.meters.len()
    }
}

fn add_responses<K, const H: usize>(all: &mut [u64; 6], meter: &Meter<K, H>) {
    for (all, one) in all.iter_mut().zip(&meter.responses) {
        *all = all.wrapping_add(one.value());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::Histogram;

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
    fn a_busy_subject_is_summed_exactly_whether_the_looks_are_near_or_far_apart() {
        let mut collector = collector(10);
        let meters = Arc::clone(collector.meters());
        let (a, b) = (meters.open(|| "shop").unwrap(), meters.open(|| "shop").unwrap());
        let (all, mut random, mut told) = (Histogram::new(), fastrand::Rng::with_seed(2), Snapshot::EMPTY);
        for (second, count) in (1..).zip([3, 700, 40, 1, 5_000, 255, 256, 257, 0, 9]) {
            for number in 0..count {
                let us = random.u64(..) >> random.u32(30..60);
                if number % 3 == 0 { &a } else { &b }.record(200, [Some(us)]);
                all.record(us);
            }
            collector.look(second);
            let shop = collector.subject(&"shop").unwrap();
            assert_eq!(shop.sum.times[0], all.snapshot());
            if count > 0 {
                assert_eq!(shop.changed[0], all.snapshot().changed_since(&told));
                assert_eq!(shop.new.times[0], all.snapshot().since(&told));
                assert_eq!(shop.new.responses, [0, 0, count, 0, 0, 0]);
            }
            told = all.snapshot();
        }
        // And once its workers have gone.
        drop((a, b));
        collector.look(20);
        assert_eq!(meters.opened(), 0);
        let c = meters.open(|| "shop").unwrap();
        c.record(200, [Some(7)]);
        all.record(7);
        collector.look(21);
        assert_eq!(collector.subject(&"shop").unwrap().sum.times[0], all.snapshot());
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
