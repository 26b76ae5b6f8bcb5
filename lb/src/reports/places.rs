//! What is known of each application on each host: how it is now, and the sums from which the next report is told apart.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use steady_timing::{Entry, Snapshot, State};

use super::series::{Part, Sum};
use super::{Refused, none};

/// An unknown life in a report that follows another is one that began since: no older than two reports are apart.
const LIFE_AGE_MS: u64 = 2_500;

/// The last sums of one life.
#[derive(Clone, Debug, Default)]
pub(super) struct Known<const H: usize>(Option<Box<Sums<H>>>);

#[derive(Clone, Debug)]
struct Sums<const H: usize> {
    life: u64,
    responses: [u64; 6],
    times: [Snapshot; H],
}

impl<const H: usize> Known<H> {
    pub(super) fn is_of(&self, life: u64) -> bool {
        self.0.as_ref().is_some_and(|sums| sums.life == life)
    }

    /// Takes over newer sums, whole or what of them changed, and gives what is new in them. A life that was not known is all
    /// new, unless it was `counted` from before.
    pub(super) fn advance(
        &mut self,
        life: u64,
        responses: [u64; 6],
        times: &[Snapshot; H],
        is_new: bool,
    ) -> ([Snapshot; H], [u64; 6]) {
        if !self.is_of(life) {
            self.0 = Some(Box::new(Sums { life, responses, times: times.clone() }));
            return if is_new { (times.clone(), responses) } else { (none(), [0; 6]) };
        }
        let Some(sums) = &mut self.0 else { return (none(), [0; 6]) };
        let mut new = none();
        for (new, (known, now)) in new.iter_mut().zip(sums.times.iter_mut().zip(times)) {
            *new = known.advance(now);
        }
        let mut counts = [0; 6];
        for (new, (known, now)) in counts.iter_mut().zip(sums.responses.iter_mut().zip(responses)) {
            *new = now.saturating_sub(*known);
            *known = now.max(*known);
        }
        (new, counts)
    }

    pub(super) fn memory(&self) -> usize {
        let sums = self.0.as_ref().map_or(0, |sums| sums.times.iter().map(Snapshot::memory).sum::<usize>() + 64);
        size_of::<Self>() + sums
    }
}

/// One version of an application on one host, as last told.
#[derive(Clone, Debug)]
pub struct Place {
    pub version: u64,
    pub state: State,
    pub in_flight: u64,
    pub peak: u64,
    pub queued: u64,
    /// Thousandths of a core, over the last time between two reports of it.
    pub cpu_milli: u64,
    pub memory_bytes: u64,
    cpu_us: u64,
    /// When it was told.
    at: Duration,
    /// The report that told it.
    pub(super) number: u64,
    known: Known<3>,
}

/// One host's agent.
#[derive(Debug)]
pub(super) struct Host {
    pub start: u64,
    pub number: u64,
    /// When its last report came.
    pub last: Duration,
    pub places: HashMap<Arc<str>, Vec<Place>>,
    memory: usize,
}

/// What a host's applications come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostNow {
    /// When its last report came.
    pub last: Duration,
    /// Applications whose process is ready.
    pub ready: usize,
    pub in_flight: u64,
    pub queued: u64,
    pub cpu_milli: u64,
    pub memory_bytes: u64,
}

impl Host {
    pub(super) fn new(now: Duration) -> Host {
        Host { start: 0, number: 0, last: now, places: HashMap::new(), memory: 0 }
    }

    /// Takes in one entry, and gives the application with what is new of it. `new_since`: lives no older than this are counted
    /// from their beginning though they were not known.
    pub(super) fn take(
        &mut self,
        entry: Entry,
        number: u64,
        whole: bool,
        new_since: Duration,
        now: Duration,
    ) -> Result<(Arc<str>, Sum), Refused> {
        let app = match self.places.get_key_value(entry.app.as_str()) {
            Some((app, _)) => Arc::clone(app),
            None => Arc::from(entry.app.as_str()),
        };
        let places = self.places.entry(Arc::clone(&app)).or_default();
        let at = places.iter().position(|place| place.version == entry.version).unwrap_or_else(|| {
            self.memory += size_of::<Place>() + size_of::<Vec<Place>>() + 2 * app.len();
            places.push(Place::new(entry.version, &entry, now));
            places.len() - 1
        });
        let place = &mut places[at];
        let mut sum = Sum::default();
        if entry.life != 0 {
            let is_known = place.known.is_of(entry.life);
            if !whole && !is_known && entry.age_ms > LIFE_AGE_MS {
                return Err(Refused::OutOfStep);
            }
            let before = place.known.memory();
            let is_new = Duration::from_millis(entry.age_ms) <= new_since;
            let (times, responses) = place.known.advance(entry.life, entry.responses, &entry.times, is_new);
            self.memory = self.memory + place.known.memory() - before;
            sum.reported = responses;
            let [application, queue, own] = times;
            sum.times[Part::Application as usize] = application;
            sum.times[Part::Queue as usize] = queue;
            sum.times[Part::Own as usize] = own;
        }
        place.tell(&entry, number, now);
        Ok((app, sum))
    }

    /// Counts the memory anew, after something was let go.
    pub(super) fn measure(&mut self) {
        let places = self.places.iter().flat_map(|(app, places)| places.iter().map(move |place| (app, place)));
        let one = |(app, place): (&Arc<str>, &Place)| {
            size_of::<Place>() + size_of::<Vec<Place>>() + 2 * app.len() + place.known.memory() - size_of::<Known<3>>()
        };
        self.memory = places.map(one).sum();
    }

    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    /// Where an application is on this host; versions that have left it are not.
    pub(super) fn of(&self, app: &str) -> impl Iterator<Item = Place> {
        let places = self.places.get(app).into_iter().flatten();
        places.filter(|place| place.state != State::Stopped || place.in_flight > 0).cloned()
    }

    pub(super) fn now(&self) -> HostNow {
        let mut now = HostNow { last: self.last, ..HostNow::default() };
        for place in self.places.values().flatten() {
            now.ready += usize::from(place.state == State::Ready);
            now.in_flight += place.in_flight;
            now.queued += place.queued;
            now.cpu_milli += place.cpu_milli;
            now.memory_bytes += place.memory_bytes;
        }
        now
    }
}

impl Place {
    fn new(version: u64, entry: &Entry, now: Duration) -> Place {
        Place {
            version,
            state: entry.state,
            in_flight: 0,
            peak: 0,
            queued: 0,
            cpu_milli: 0,
            memory_bytes: 0,
            cpu_us: entry.cpu_us,
            at: now,
            number: 0,
            known: Known::default(),
        }
    }

    fn tell(&mut self, entry: &Entry, number: u64, now: Duration) {
        // Less than before: another process, which began at 0.
        let used = entry.cpu_us.checked_sub(self.cpu_us).unwrap_or(entry.cpu_us);
        let passed = now.saturating_sub(self.at);
        // Reports that come at once, one after the other, would divide by nearly nothing.
        if passed >= Duration::from_millis(500) {
            self.cpu_milli = (used as f64 / passed.as_micros() as f64 * 1e3) as u64;
            (self.cpu_us, self.at) = (entry.cpu_us, now);
        }
        self.state = entry.state;
        (self.in_flight, self.peak, self.queued) = (entry.in_flight, entry.peak, entry.queued);
        self.memory_bytes = entry.memory_bytes;
        self.number = number;
    }
}
