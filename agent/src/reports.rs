//! What this host tells edges of the applications that are active (docs/how-it-works.md, "Reports").
//!
//! One task looks at the workers' meters every second, and at once when much more is in flight or a state changes; each look
//! makes a report. Whoever listens holds [`Reports`] and takes one after the other: the newest that follows the last one it
//! took, or a whole one when there is none such. How the bytes travel is not known here.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use steady_timing::{Collector, Gathered, Snapshot, State, Told, Writer};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::agent::first_instance;
use crate::gate::{AppMeters, Subject};
use crate::host::Host;
use crate::limits::{METERS_QUIET, PROCESSES_EVERY, REPORT_EVERY, REPORT_LOOK};
use crate::supervise::Changes;
use crate::supervise::status::Status;
use crate::usage::{Process, Usage, sessions};

/// Where the hub learns how applications are.
pub trait Source: Send + Sync {
    /// One application now; `None`: there is none of that name here.
    fn app(&self, name: &str) -> Option<AppNow>;

    /// Every application that is here.
    fn each(&self, each: &mut dyn FnMut(Arc<str>, AppNow));

    /// Where the workers measure.
    fn meters(&self) -> Arc<AppMeters>;

    fn changes(&self) -> &Changes;
}

/// How an application is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppNow {
    pub version: u64,
    pub state: State,
    pub pid: Option<u32>,
    /// Requests that wait for it.
    pub queued: u64,
}

impl AppNow {
    fn of(status: &Status, queued: u64) -> AppNow {
        AppNow { version: status.version, state: status.state, pid: status.pid, queued }
    }
}

impl Source for Host {
    fn app(&self, name: &str) -> Option<AppNow> {
        let handle = self.find(name)?;
        let now = AppNow::of(&handle.status.borrow(), self.shared.plane.parked(name));
        Some(now)
    }

    fn each(&self, each: &mut dyn FnMut(Arc<str>, AppNow)) {
        for handle in self.all() {
            let status = handle.status.borrow().clone();
            if !status.is_tombstone() {
                let name = status.record.name.as_str();
                each(Arc::from(name), AppNow::of(&status, self.shared.plane.parked(name)));
            }
        }
    }

    fn meters(&self) -> Arc<AppMeters> {
        self.shared.plane.meters()
    }

    fn changes(&self) -> &Changes {
        &self.shared.changes
    }
}

/// Makes the reports of this host.
pub struct Hub {
    source: Arc<dyn Source>,
    inner: Mutex<Inner>,
    /// The number of the newest report.
    made: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    collector: Collector<Subject, 3>,
    usage: Usage,
    start: u64,
    begun: Instant,
    number: u64,
    /// The newest report, for those who have the one before.
    next: Bytes,
    writer: Writer,
}

/// How one listener gets reports.
#[derive(Debug)]
pub struct Reports {
    hub: Arc<Hub>,
    made: watch::Receiver<u64>,
    /// The number of the last report that it took; 0: none.
    taken: u64,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("made", &self.made.borrow()).finish_non_exhaustive()
    }
}

impl Hub {
    pub fn new(source: Arc<dyn Source>) -> Arc<Hub> {
        let start = first_instance(SystemTime::now());
        let quiet_ns = METERS_QUIET.as_nanos() as u64;
        let collector = Collector::new(source.meters(), start, quiet_ns);
        let inner = Inner {
            collector,
            usage: Usage::default(),
            start,
            begun: Instant::now(),
            number: 1,
            next: Bytes::new(),
            writer: Writer::new(),
        };
        Arc::new(Hub { source, inner: Mutex::new(inner), made: watch::Sender::new(1) })
    }

    /// A listener, whose first report is a whole one.
    pub fn listen(self: &Arc<Self>) -> Reports {
        Reports { hub: Arc::clone(self), made: self.made.subscribe(), taken: 0 }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes reports, for ever.
    pub async fn run(&self) {
        let mut every = tokio::time::interval(REPORT_EVERY);
        let mut look = tokio::time::interval(REPORT_LOOK);
        let mut processes = tokio::time::interval(PROCESSES_EVERY);
        for interval in [&mut every, &mut look, &mut processes] {
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let mut changed = false;
        loop {
            tokio::select! {
                _ = every.tick() => {
                    changed = false;
                    self.make(Look::Every);
                }
                () = self.source.changes().noted() => changed = true,
                _ = look.tick() => {
                    let rising = self.inner().collector.meters().is_rising();
                    if std::mem::take(&mut changed) || rising {
                        self.make(Look::Rising);
                    }
                }
                _ = processes.tick() => {
                    // Nobody listens: nobody asks what processes use.
                    if self.made.receiver_count() > 0
                        && let Ok(all) = tokio::task::spawn_blocking(sessions).await
                    {
                        self.see(&all);
                    }
                }
            }
        }
    }

    /// Takes in which processes there are, by session. The next report tells of those whose memory is another now, in use or not.
    pub fn see(&self, sessions: &HashMap<u32, Vec<Process>>) {
        let changed = self.inner().usage.seen(sessions);
        for app in &changed {
            self.source.changes().note(app);
        }
    }

    /// Makes the next report.
    pub fn make(&self, look: Look) {
        let mut inner = self.inner();
        let now_ns = u64::try_from(inner.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let active = match look {
            Look::Every => inner.collector.look(now_ns),
            Look::Rising => inner.collector.look_at_rising(now_ns),
        };
        let changed = self.source.changes().take();
        inner.number += 1;
        let number = inner.number;
        inner.next = Bytes::new();
        if self.made.receiver_count() > 0 {
            self.write(&mut inner, &active, &changed, now_ns);
            inner.finish(number - 1);
        }
        drop(inner);
        self.made.send_replace(number);
    }

    /// Writes what belongs into a report that follows another.
    fn write(&self, inner: &mut Inner, active: &[Subject], changed: &HashSet<Arc<str>>, now_ns: u64) {
        let Inner { collector, usage, writer, .. } = inner;
        let mut desk = Desk { source: &*self.source, usage, now_ns };
        for subject in active {
            if let Some(gathered) = collector.subject(subject) {
                writer.push(&desk.told(subject, Some((gathered, gathered.changed.each_ref()))));
            }
        }
        if changed.is_empty() {
            return;
        }
        let told: HashSet<&Subject> = active.iter().collect();
        for name in changed {
            let Some(now) = self.source.app(name) else { continue };
            let subject = Subject { app: Arc::clone(name), version: now.version };
            if !told.contains(&subject) {
                // What changed at its last look was told then.
                let known = collector.subject(&subject).map(|known| (known, [&NOTHING; 3]));
                writer.push(&desk.told(&subject, known));
            }
        }
    }

    /// A whole report.
    fn whole(&self) -> (u64, Bytes) {
        let mut inner = self.inner();
        let now_ns = u64::try_from(inner.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let Inner { collector, usage, start, number, writer, .. } = &mut *inner;
        let mut desk = Desk { source: &*self.source, usage, now_ns };
        let mut measured: HashMap<Arc<str>, HashSet<u64>> = HashMap::new();
        for (subject, gathered) in collector.subjects() {
            writer.push(&desk.told(subject, Some((gathered, gathered.sum.times.each_ref()))));
            measured.entry(Arc::clone(&subject.app)).or_default().insert(subject.version);
        }
        self.source.each(&mut |app, now| {
            if !measured.get(&app).is_some_and(|versions| versions.contains(&now.version)) {
                writer.push(&desk.told(&Subject { app, version: now.version }, None));
            }
        });
        let mut out = Vec::new();
        writer.finish(*start, *number, 0, &mut out);
        (*number, out.into())
    }
}

impl Inner {
    /// What was written is the newest report; it follows `base`.
    fn finish(&mut self, base: u64) {
        let mut out = Vec::new();
        self.writer.finish(self.start, self.number, base, &mut out);
        self.next = out.into();
    }
}

static NOTHING: Snapshot = Snapshot::EMPTY;

/// What entries of one report are made with.
struct Desk<'a> {
    source: &'a dyn Source,
    usage: &'a mut Usage,
    now_ns: u64,
}

impl Desk<'_> {
    /// One entry, with what was measured and the durations that are to be told of it.
    fn told<'a>(
        &mut self,
        subject: &'a Subject,
        measured: Option<(&'a Gathered<Subject, 3>, [&'a Snapshot; 3])>,
    ) -> Told<'a> {
        let (mut state, mut pid, mut queued) = (State::Stopped, None, 0);
        match self.source.app(&subject.app) {
            Some(now) if now.version == subject.version => (state, pid, queued) = (now.state, now.pid, now.queued),
            // An old version that finishes.
            Some(_) if measured.is_some_and(|(gathered, _)| gathered.in_flight > 0) => state = State::Draining,
            Some(_) | None => {}
        }
        let (cpu_us, memory_bytes) = pid.map_or((0, 0), |pid| self.usage.of(&subject.app, pid));
        let gathered = measured.map(|(gathered, _)| gathered);
        Told {
            app: &subject.app,
            version: subject.version,
            life: gathered.map_or(0, |gathered| gathered.life),
            age_ms: gathered.map_or(0, |gathered| self.now_ns.saturating_sub(gathered.since_ns) / 1_000_000),
            state,
            in_flight: gathered.map_or(0, |gathered| gathered.in_flight),
            peak: gathered.map_or(0, |gathered| gathered.peak),
            queued,
            cpu_us,
            memory_bytes,
            responses: gathered.map_or([0; 6], |gathered| gathered.sum.responses),
            times: measured.map_or([&NOTHING; 3], |(_, times)| times),
        }
    }
}

/// What a report is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Everything that is active.
    Every,
    /// What cannot wait for that: much more is in flight, or a state changed.
    Rising,
}

impl Reports {
    /// The next report, whenever there is one; at once, the first time. Cancel safe. `None`: there will be no more.
    pub async fn next(&mut self) -> Option<Bytes> {
        if self.taken > 0 {
            let taken = self.taken;
            let number = *self.made.wait_for(|number| *number > taken).await.ok()?;
            if number == taken + 1 {
                let inner = self.hub.inner();
                if inner.number == number && !inner.next.is_empty() {
                    self.taken = number;
                    return Some(inner.next.clone());
                }
            }
        }
        let (number, bytes) = self.hub.whole();
        self.taken = number;
        Some(bytes)
    }

    /// The other side lost its place: the next report is a whole one.
    pub fn begin_anew(&mut self) {
        self.taken = 0;
    }
}
