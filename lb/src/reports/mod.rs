//! How fast applications are: what agents report and what this edge measured, kept for an hour.
//!
//! ```text
//!   agent ──reports──▶ Reports::apply ─┐                        ┌─▶ by application
//!                                      ├─▶ what is new ─▶ series ├─▶ by host
//!   workers ──meters──▶ Reports::look ─┘                        └─▶ of all
//! ```
//!
//! An agent's numbers are sums of a *life* (see [`steady_timing::Report`]); [`Known`] holds the last of each and gives what is new
//! in the next. Only what is active takes memory, and that is bounded by [`REPORTS_BYTES`](crate::limits::REPORTS_BYTES). Time
//! is an argument: since this edge began.

pub mod follow;
mod places;
pub mod series;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use steady_timing::{Accumulator, BadReport, Collector, Meters, Report, Snapshot};

use self::places::Host;
pub use self::places::{HostNow, Place};
use self::series::{Fold, Part, Series, Sum};
use crate::limits::{LIFE_NEW, METERS_QUIET, REPORTS_BYTES};

/// What workers of the edge measure of an application: the whole, and what of it no agent knows of.
pub type EdgeMeters = Meters<Arc<str>, 2>;

/// Why a report was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error(transparent)]
    Bad(#[from] BadReport),
    /// It follows one that never came: ask for a whole one.
    #[error("it follows a report that did not come")]
    OutOfStep,
    #[error("this edge has no memory left for what it tells")]
    TooMuch,
}

/// What is known of latencies. Shared by those that follow agents, the API, and the metrics.
#[derive(Debug)]
pub struct Reports {
    inner: Mutex<Inner>,
    bytes_max: usize,
}

#[derive(Debug)]
struct Inner {
    hosts: HashMap<Arc<str>, Host>,
    all: Series,
    by_host: HashMap<Arc<str>, Series>,
    by_app: HashMap<Arc<str>, Series>,
    /// Of `by_app` and `by_host`, as of their last change.
    series_bytes: usize,
    /// Of what is known of each place.
    known_bytes: usize,
    collector: Collector<Arc<str>, 2>,
    fold: Fold,
    totals: [Accumulator; 5],
    counts: Counts,
    /// The second of the last sweep.
    swept: u64,
}

/// What is counted of reports themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub taken: u64,
    pub bytes: u64,
    pub refused: u64,
    pub out_of_step: u64,
    /// Applications that were forgotten for want of memory.
    pub evicted: u64,
}

/// What is known of one application or of all, over some time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Window {
    /// Of how long.
    pub seconds: u64,
    pub sum: Sum,
}

/// How much of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    TenSeconds,
    Minute,
    Hour,
}

impl Span {
    pub const ALL: [Span; 3] = [Span::TenSeconds, Span::Minute, Span::Hour];

    pub const fn seconds(self) -> u64 {
        match self {
            Span::TenSeconds => 10,
            Span::Minute => 60,
            Span::Hour => 3600,
        }
    }

    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Span::TenSeconds => "10s",
            Span::Minute => "1m",
            Span::Hour => "1h",
        }
    }
}

/// Whom a question is about.
#[derive(Clone, Copy, Debug)]
pub enum Of<'a> {
    All,
    Host(&'a str),
    App(&'a str),
}

impl Reports {
    pub fn new(meters: Arc<EdgeMeters>) -> Reports {
        Reports::with_memory(meters, REPORTS_BYTES)
    }

    /// As [`Reports::new`], with a bound of the caller's own.
    pub fn with_memory(meters: Arc<EdgeMeters>, bytes_max: usize) -> Reports {
        let inner = Inner {
            hosts: HashMap::new(),
            all: Series::default(),
            by_host: HashMap::new(),
            by_app: HashMap::new(),
            series_bytes: 0,
            known_bytes: 0,
            collector: Collector::new(meters, 0, METERS_QUIET.as_nanos() as u64),
            fold: Fold::default(),
            totals: Default::default(),
            counts: Counts::default(),
            swept: 0,
        };
        Reports { inner: Mutex::new(inner), bytes_max }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a report of this host's agent. One that came before changes nothing.
    pub fn apply(&self, host: &str, bytes: &[u8], now: Duration) -> Result<(), Refused> {
        let decoded = Report::decode(bytes);
        let mut inner = self.inner();
        let taken = decoded.map_err(Refused::Bad).and_then(|report| inner.apply(host, report, now, self.bytes_max));
        match &taken {
            Ok(()) => inner.counts.taken += 1,
            Err(Refused::OutOfStep) => inner.counts.out_of_step += 1,
            Err(_) => inner.counts.refused += 1,
        }
        inner.counts.bytes += bytes.len() as u64;
        taken
    }

    /// Takes in what this edge's workers measured since the last look, and lets go of what is too old.
    pub fn look(&self, now: Duration) {
        let mut inner = self.inner();
        inner.look(now);
        inner.evict(now.as_secs(), self.bytes_max);
        if now.as_secs() >= inner.swept + SWEEP_EVERY {
            inner.swept = now.as_secs();
            inner.sweep(now);
        }
    }

    /// When the last report of this host came: what its being alive may be judged by.
    pub fn last(&self, host: &str) -> Option<Duration> {
        self.inner().hosts.get(host).map(|host| host.last)
    }

    /// It is no host of this edge any more.
    pub fn forget_host(&self, host: &str) {
        let mut inner = self.inner();
        if let Some(host) = inner.hosts.remove(host) {
            inner.known_bytes -= host.memory();
        }
        if let Some(series) = inner.by_host.remove(host) {
            inner.series_bytes -= series.memory();
        }
    }

    /// What happened in this span until now; of an application or host that is not active: nothing.
    pub fn window(&self, of: Of<'_>, span: Span, now: Duration) -> Window {
        self.inner().window(of, span, now)
    }

    /// Each of the last whole seconds, in order.
    pub fn each_second(&self, of: Of<'_>, seconds: u64, now: Duration, each: impl FnMut(&Sum)) {
        let inner = &mut *self.inner();
        if let Some(series) = series_of(&inner.all, &inner.by_host, &inner.by_app, of) {
            series.each_second(now.as_secs(), seconds, &mut inner.fold, each);
        }
    }

    /// Applications of which something happened within the hour, or that run somewhere.
    pub fn apps(&self) -> Vec<Arc<str>> {
        let inner = self.inner();
        let running = inner.hosts.values().flat_map(|host| host.places.keys());
        let mut apps: Vec<Arc<str>> = inner.by_app.keys().chain(running).map(Arc::clone).collect();
        apps.sort_unstable();
        apps.dedup();
        apps
    }

    /// Where an application is, by host and version.
    pub fn places(&self, app: &str) -> Vec<(Arc<str>, Place)> {
        let inner = self.inner();
        let mut found: Vec<_> =
            inner.hosts.iter().flat_map(|(name, host)| host.of(app).map(|place| (Arc::clone(name), place))).collect();
        found.sort_by(|a, b| (&a.0, a.1.version).cmp(&(&b.0, b.1.version)));
        found
    }

    /// What a host's applications come to; `None`: it never reported.
    pub fn host(&self, host: &str) -> Option<HostNow> {
        self.inner().hosts.get(host).map(Host::now)
    }

    /// Octets of memory that all this takes, as counted; see [`REPORTS_BYTES`].
    pub fn memory(&self) -> usize {
        self.inner().memory()
    }

    pub fn counts(&self) -> Counts {
        self.inner().counts
    }

    /// Applications that are active; meters that workers have open, and those that they were refused.
    pub fn active(&self) -> (usize, usize, u64) {
        let inner = self.inner();
        let meters = inner.collector.meters();
        (inner.by_app.len(), meters.opened(), meters.refused())
    }
}

/// Between two sweeps, in seconds.
const SWEEP_EVERY: u64 = 10;

fn series_of<'s>(
    all: &'s Series,
    by_host: &'s HashMap<Arc<str>, Series>,
    by_app: &'s HashMap<Arc<str>, Series>,
    of: Of<'_>,
) -> Option<&'s Series> {
    match of {
        Of::All => Some(all),
        Of::Host(host) => by_host.get(host),
        Of::App(app) => by_app.get(app),
    }
}

impl Inner {
    fn apply(&mut self, name: &str, report: Report, now: Duration, bytes_max: usize) -> Result<(), Refused> {
        let (whole, number) = (report.base == 0, report.number);
        let Inner { hosts, by_app, series_bytes, known_bytes, totals, fold, .. } = self;
        let name: Arc<str> = hosts.get_key_value(name).map_or_else(|| Arc::from(name), |(name, _)| Arc::clone(name));
        let host = hosts.entry(Arc::clone(&name)).or_insert_with(|| Host::new(now));
        if report.start == host.start && number <= host.number && !whole {
            return Ok(());
        }
        if !whole && (report.start, report.base) != (host.start, host.number) {
            return Err(Refused::OutOfStep);
        }
        if *known_bytes > bytes_max && by_app.is_empty() {
            return Err(Refused::TooMuch);
        }
        let new_since = now.min(LIFE_NEW);
        let before = host.memory();
        let mut of_host = Sum::default();
        let mut taken = Ok(());
        for entry in report.entries {
            let (app, new) = match host.take(entry, number, whole, new_since, now) {
                Ok(new) => new,
                // What came before it is known now, and so must be counted.
                Err(refused) => {
                    taken = Err(refused);
                    break;
                }
            };
            if new.is_empty() {
                continue;
            }
            for (all, one) in of_host.reported.iter_mut().zip(&new.reported) {
                *all += one;
            }
            totals.iter_mut().zip(&new.times).for_each(|(all, one)| all.add(one));
            add(by_app, &app, new, now.as_secs(), series_bytes, fold);
        }
        if whole {
            host.places.retain(|_, places| {
                places.retain(|place| place.number == number);
                !places.is_empty()
            });
            host.measure();
        }
        if taken.is_ok() {
            (host.start, host.number, host.last) = (report.start, number, now);
        }
        *known_bytes = *known_bytes + host.memory() - before;
        of_host.times = totals.each_mut().map(Accumulator::take);
        add(&mut self.by_host, &name, of_host.clone(), now.as_secs(), series_bytes, fold);
        self.all.add(of_host, now.as_secs(), fold);
        self.evict(now.as_secs(), bytes_max);
        taken
    }

    fn look(&mut self, now: Duration) {
        let Inner { collector, by_app, all, series_bytes, totals, fold, .. } = self;
        let mut served = [0; 6];
        for app in collector.look(now.as_nanos() as u64) {
            let Some(gathered) = collector.subject(&app) else { continue };
            let mut new = Sum { served: gathered.new.responses, ..Sum::default() };
            let [total, network] = &gathered.new.times;
            new.times[Part::Total as usize].clone_from(total);
            new.times[Part::Network as usize].clone_from(network);
            served.iter_mut().zip(&new.served).for_each(|(all, one)| *all += one);
            totals.iter_mut().zip(&new.times).for_each(|(all, one)| all.add(one));
            add(by_app, &app, new, now.as_secs(), series_bytes, fold);
        }
        let times = totals.each_mut().map(Accumulator::take);
        all.add(Sum { served, times, ..Sum::default() }, now.as_secs(), fold);
    }

    fn window(&mut self, of: Of<'_>, span: Span, now: Duration) -> Window {
        let Inner { all, by_host, by_app, fold, .. } = self;
        let seconds = span.seconds();
        if let Some(series) = series_of(all, by_host, by_app, of) {
            match span {
                Span::Hour => series.fold_hour(now.as_secs(), fold),
                Span::TenSeconds | Span::Minute => series.fold_seconds(now.as_secs(), seconds, fold),
            }
        }
        Window { seconds: seconds.min(now.as_secs()).max(1), sum: fold.take() }
    }

    /// Goes on with every series, and lets go of those of which nothing is left.
    fn sweep(&mut self, now: Duration) {
        self.all.advance(now.as_secs(), &mut self.fold);
        for series in [&mut self.by_app, &mut self.by_host] {
            series.retain(|_, series| {
                series.advance(now.as_secs(), &mut self.fold);
                !series.is_empty()
            });
            series.shrink_to(series.len() * 2);
        }
        self.series_bytes = self.by_app.values().chain(self.by_host.values()).map(Series::memory).sum();
        for host in self.hosts.values_mut() {
            host.measure();
        }
        self.known_bytes = self.hosts.values().map(Host::memory).sum();
    }

    fn memory(&self) -> usize {
        let keys = self.by_app.capacity();
        self.series_bytes + self.known_bytes + self.all.memory() + keys * 2 * size_of::<Arc<str>>()
    }

    /// Forgets applications, those first that are quiet for longest, until a tenth of the memory is free.
    fn evict(&mut self, now: u64, bytes_max: usize) {
        if self.series_bytes + self.known_bytes <= bytes_max {
            return;
        }
        let mut quiet: Vec<(u64, Arc<str>)> =
            self.by_app.iter().map(|(app, series)| (series.active(), Arc::clone(app))).collect();
        quiet.sort_unstable();
        for (active, app) in quiet {
            if self.series_bytes + self.known_bytes <= bytes_max / 10 * 9 {
                break;
            }
            if let Some(series) = self.by_app.remove(&app) {
                self.series_bytes -= series.memory();
                self.counts.evicted += 1;
                tracing::debug!(%app, quiet_s = now - active, "what is known of its latency is forgotten: too much is active");
            }
        }
    }
}

fn add(all: &mut HashMap<Arc<str>, Series>, key: &Arc<str>, sum: Sum, now: u64, bytes: &mut usize, fold: &mut Fold) {
    let number = all.len();
    let (before, series) = match all.get_mut(key) {
        Some(series) => (series.memory(), series),
        None => (0, all.entry(Arc::clone(key)).or_insert_with(|| Series::new(number))),
    };
    series.add(sum, now, fold);
    *bytes = *bytes + series.memory() - before;
}

/// The empty snapshot in each place.
fn none<const H: usize>() -> [Snapshot; H] {
    [const { Snapshot::EMPTY }; H]
}

#[cfg(test)]
mod tests;
