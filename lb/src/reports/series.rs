//! What happened lately to one application, one host or all of them: by seconds for a minute, and by minutes for an hour.
//!
//! A second that is over is kept encoded (a few dozen octets when little happened); a minute is added up from its seconds when it
//! is over, which not all series find at once: each has its own place in the minute. What is empty takes nothing. Time is
//! the caller's, in whole seconds since some beginning.

use std::collections::VecDeque;

use steady_timing::{Accumulator, Snapshot, varint};

/// How far back the seconds and the minutes reach, in seconds.
pub const SECONDS_KEPT: u64 = 60;
pub const HOUR: u64 = 3600;
const MINUTE: u64 = 60;

/// A part of requests' time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Part {
    /// From the request's head at this edge to the response's.
    Total,
    /// Of that, what no agent knows of: the network, this edge's own work, waiting here.
    Network,
    Application,
    /// Waiting at the agent: for the application to start, or for a connection to it.
    Queue,
    /// The agent's own work.
    Own,
}

impl Part {
    pub const ALL: [Part; 5] = [Part::Total, Part::Network, Part::Application, Part::Queue, Part::Own];

    /// The name in the API and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Part::Total => "total",
            Part::Network => "network",
            Part::Application => "application",
            Part::Queue => "queue",
            Part::Own => "own",
        }
    }
}

/// What happened in some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Requests that this edge answered, by the first digit of the status (0: none was sent).
    pub served: [u64; 6],
    /// Requests that agents told of, of all edges.
    pub reported: [u64; 6],
    /// By [`Part`].
    pub times: [Snapshot; 5],
}

impl Sum {
    pub fn is_empty(&self) -> bool {
        self.served == [0; 6] && self.reported == [0; 6] && self.times.iter().all(Snapshot::is_empty)
    }

    fn merge(&mut self, other: Sum) {
        let counts = self.served.iter_mut().chain(&mut self.reported);
        for (all, one) in counts.zip(other.served.iter().chain(&other.reported)) {
            *all = all.saturating_add(*one);
        }
        for (all, one) in self.times.iter_mut().zip(other.times) {
            if all.is_empty() { *all = one } else { all.merge(&one) }
        }
    }

    /// Octets of memory beside the value itself.
    fn heap(&self) -> usize {
        self.times.iter().map(|times| times.memory() - size_of::<Snapshot>()).sum()
    }

    fn encode(&self, [out, scratch]: &mut [Vec<u8>; 2]) -> Box<[u8]> {
        out.clear();
        for count in self.served.iter().chain(&self.reported) {
            varint::put(*count, out);
        }
        for times in &self.times {
            scratch.clear();
            if !times.is_empty() {
                times.encode(scratch);
            }
            varint::put(scratch.len() as u64, out);
            out.extend_from_slice(scratch);
        }
        out.as_slice().into()
    }
}

/// Adds up sums; kept from one question to the next, because it is large.
#[derive(Debug, Default)]
pub struct Fold {
    served: [u64; 6],
    reported: [u64; 6],
    times: [Accumulator; 5],
    octets: [Vec<u8>; 2],
}

impl Fold {
    fn add(&mut self, sum: &Sum) {
        self.add_counts(sum.served.iter().chain(&sum.reported).copied());
        self.times.iter_mut().zip(&sum.times).for_each(|(all, one)| all.add(one));
    }

    fn add_counts(&mut self, counts: impl Iterator<Item = u64>) {
        for (all, one) in self.served.iter_mut().chain(&mut self.reported).zip(counts) {
            *all = all.saturating_add(one);
        }
    }

    /// `None`: the bytes are not ours, which cannot be; what was read until there is added.
    fn add_encoded(&mut self, mut bytes: &[u8]) -> Option<()> {
        let mut counts = [0; 12];
        for count in &mut counts {
            *count = varint::take(&mut bytes)?;
        }
        self.add_counts(counts.into_iter());
        for all in &mut self.times {
            let length = usize::try_from(varint::take(&mut bytes)?).ok()?;
            let (snapshot, rest) = bytes.split_at_checked(length)?;
            bytes = rest;
            if !snapshot.is_empty() {
                all.add_encoded(snapshot).ok()?;
            }
        }
        Some(())
    }

    /// The sum; begins anew.
    pub fn take(&mut self) -> Sum {
        let (served, reported) = (std::mem::take(&mut self.served), std::mem::take(&mut self.reported));
        Sum { served, reported, times: self.times.each_mut().map(Accumulator::take) }
    }
}

/// A second or a minute that is over.
#[derive(Debug)]
struct Slot {
    at: u64,
    bytes: Box<[u8]>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Series {
    /// The second under way, and its number.
    second: Sum,
    second_at: u64,
    /// Those that are over; of the minute under way, all.
    seconds: VecDeque<Slot>,
    minutes: VecDeque<Slot>,
    /// How much earlier than on a full minute its minutes begin, in seconds.
    phase: u64,
    slot_bytes: usize,
    /// When something was last added.
    active: u64,
}

impl Series {
    /// Another number spreads the work of series that are made together.
    pub fn new(number: usize) -> Series {
        Series { phase: number as u64 % MINUTE, ..Series::default() }
    }

    /// Adds what happened at second `now`; earlier than the last one counts as that. `fold` is empty, before and after.
    pub fn add(&mut self, sum: Sum, now: u64, fold: &mut Fold) {
        if sum.is_empty() {
            return;
        }
        self.advance(now, fold);
        self.active = self.active.max(now);
        self.second.merge(sum);
    }

    /// Goes on to second `now`, and lets go of what is too old.
    pub fn advance(&mut self, now: u64, fold: &mut Fold) {
        if now <= self.second_at {
            return;
        }
        let second = std::mem::take(&mut self.second);
        let at = std::mem::replace(&mut self.second_at, now);
        if !second.is_empty() {
            let bytes = second.encode(&mut fold.octets);
            self.slot_bytes += push(&mut self.seconds, at, bytes);
        }
        let (over, minute) = (self.minute_of(at), self.minute_of(now));
        if minute > over {
            self.fold_minute(over, fold);
            let sum = fold.take();
            if !sum.is_empty() {
                let bytes = sum.encode(&mut fold.octets);
                self.slot_bytes += push(&mut self.minutes, over, bytes);
            }
        }
        self.slot_bytes -= drop_before(&mut self.seconds, now.saturating_sub(SECONDS_KEPT));
        self.slot_bytes -= drop_before(&mut self.minutes, minute.saturating_sub(HOUR / MINUTE));
    }

    fn minute_of(&self, second: u64) -> u64 {
        (second + self.phase) / MINUTE
    }

    /// Adds the seconds of a minute that are over; they are all still there when it is the last.
    fn fold_minute(&self, minute: u64, fold: &mut Fold) {
        let slots = self.seconds.iter().rev().take_while(|slot| self.minute_of(slot.at) >= minute);
        slots.for_each(|slot| add_slot(slot, fold));
    }

    /// Nothing of the last hour is left.
    pub fn is_empty(&self) -> bool {
        self.seconds.is_empty() && self.minutes.is_empty() && self.second.is_empty()
    }

    /// The second in which something was last added.
    pub fn active(&self) -> u64 {
        self.active
    }

    /// Octets of memory that it takes.
    pub fn memory(&self) -> usize {
        let slots = (self.seconds.capacity() + self.minutes.capacity()) * size_of::<Slot>();
        size_of::<Series>() + slots + self.slot_bytes + self.second.heap()
    }

    /// Adds to `fold` what happened in the last `seconds` (at most a minute) whole seconds before `now`.
    pub fn fold_seconds(&self, now: u64, seconds: u64, fold: &mut Fold) {
        let from = now.saturating_sub(seconds);
        if (from..now).contains(&self.second_at) {
            fold.add(&self.second);
        }
        let slots = self.seconds.iter().rev().skip_while(|slot| slot.at >= now);
        slots.take_while(|slot| slot.at >= from).for_each(|slot| add_slot(slot, fold));
    }

    /// Adds to `fold` what happened in the last hour, to the minute.
    pub fn fold_hour(&self, now: u64, fold: &mut Fold) {
        fold.add(&self.second);
        self.fold_minute(self.minute_of(self.second_at), fold);
        let from = self.minute_of(now).saturating_sub(HOUR / MINUTE);
        self.minutes.iter().filter(|slot| slot.at >= from).for_each(|slot| add_slot(slot, fold));
    }

    /// Each of the last `seconds` whole seconds before `now`, in order; what is empty too.
    pub fn each_second(&self, now: u64, seconds: u64, fold: &mut Fold, mut each: impl FnMut(&Sum)) {
        let mut slots = self.seconds.iter().peekable();
        for at in now.saturating_sub(seconds)..now {
            while slots.next_if(|slot| slot.at < at).is_some() {}
            if let Some(slot) = slots.next_if(|slot| slot.at == at) {
                add_slot(slot, fold);
            } else if self.second_at == at {
                fold.add(&self.second);
            }
            each(&fold.take());
        }
    }
}

fn push(slots: &mut VecDeque<Slot>, at: u64, bytes: Box<[u8]>) -> usize {
    let size = bytes.len();
    slots.push_back(Slot { at, bytes });
    size
}

fn drop_before(slots: &mut VecDeque<Slot>, from: u64) -> usize {
    let mut dropped = 0;
    while let Some(slot) = slots.pop_front_if(|slot| slot.at < from) {
        dropped += slot.bytes.len();
    }
    if slots.is_empty() {
        slots.shrink_to_fit();
    }
    dropped
}

fn add_slot(slot: &Slot, fold: &mut Fold) {
    let read = fold.add_encoded(&slot.bytes);
    debug_assert!(read.is_some(), "what was encoded here is read here");
}

#[cfg(test)]
mod tests {
    use super::*;
    use steady_timing::Histogram;

    fn sum(values: &[u64]) -> Sum {
        let histogram = Histogram::new();
        values.iter().for_each(|us| histogram.record(*us));
        let mut sum = Sum::default();
        sum.served[2] = values.len() as u64;
        sum.reported[2] = values.len() as u64;
        sum.times[Part::Total as usize] = histogram.snapshot();
        sum.times[Part::Own as usize] = histogram.snapshot();
        sum
    }

    fn folded(fold: impl FnOnce(&mut Fold)) -> Sum {
        let mut all = Fold::default();
        fold(&mut all);
        all.take()
    }

    #[test]
    fn windows_hold_exactly_what_happened_in_them() {
        let (mut series, mut fold) = (Series::default(), Fold::default());
        for second in 0..3 * HOUR {
            series.add(sum(&[second]), second, &mut fold);
        }
        let now = 3 * HOUR;
        series.advance(now, &mut fold);
        let last = |n: u64| sum(&(now - n..now).collect::<Vec<_>>());
        for seconds in [1, 10, 60] {
            assert_eq!(folded(|fold| series.fold_seconds(now, seconds, fold)), last(seconds), "{seconds} s");
        }
        assert_eq!(folded(|fold| series.fold_hour(now, fold)), last(HOUR));
        let mut each = Vec::new();
        series.each_second(now, 5, &mut Fold::default(), |sum| each.push(sum.clone()));
        assert_eq!(each, (now - 5..now).map(|second| sum(&[second])).collect::<Vec<_>>());
    }

    #[test]
    fn the_second_under_way_counts_once_it_is_over_and_in_the_hour_at_once() {
        let (mut series, mut fold) = (Series::new(3), Fold::default());
        series.add(sum(&[7]), 100, &mut fold);
        assert!(folded(|fold| series.fold_seconds(100, 10, fold)).is_empty());
        assert_eq!(folded(|fold| series.fold_seconds(101, 10, fold)), sum(&[7]), "though nobody has advanced it");
        assert_eq!(folded(|fold| series.fold_hour(100, fold)), sum(&[7]));
        series.advance(101, &mut fold);
        assert_eq!(folded(|fold| series.fold_seconds(101, 10, fold)), sum(&[7]));
        assert!(folded(|fold| series.fold_seconds(111, 10, fold)).is_empty());
    }

    #[test]
    fn after_a_quiet_hour_nothing_is_left() {
        let (mut series, mut fold) = (Series::new(7), Fold::default());
        (0..200).for_each(|second| series.add(sum(&[second, 5_000_000]), second, &mut fold));
        assert!(series.memory() > 3_000, "{}", series.memory());
        series.advance(200 + HOUR, &mut fold);
        assert!(!series.is_empty(), "the last minute is not an hour ago");
        series.advance(300 + HOUR, &mut fold);
        assert!(series.is_empty() && series.slot_bytes == 0);
        assert!(series.memory() < 1_000, "{}", series.memory());
    }
}
