//! The workers' side of the edge: the policy that finds the host for a request, and [`DataPlane`], which control holds of
//! it.

mod access_log;
mod breaker;
mod forwarded;
mod hosts;
mod measured;
mod moves;
mod policy;
mod stats;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use steady_proxy::log::{LogCounters, LogSink, LogWriter};
use steady_proxy::registry::Oversight;
use steady_proxy::sample::{Sample, Samples};
use steady_proxy::trace::Tracer;
use steady_proxy::{Blueprint, Command, Fleet, Stats};

pub use self::breaker::Rules;
pub use self::policy::EdgePolicy;
pub use self::stats::EdgeStats;

use crate::limits::METERS_MAX;
use crate::reports::EdgeMeters;
use crate::snapshot::{Plane, Snapshot};

/// The workers, as control sees them. They begin with the first snapshot that is published: until then connections wait in
/// the listeners' queues.
#[derive(Debug)]
pub struct DataPlane {
    stats: Vec<Arc<EdgeStats>>,
    meters: Arc<EdgeMeters>,
    started: OnceLock<Started>,
    waiting: Mutex<Option<Waiting>>,
    tracer: Arc<Tracer>,
    log: Option<Arc<LogCounters>>,
}

#[derive(Debug)]
struct Started {
    plane: steady_proxy::Plane<EdgePolicy>,
    fleet: Result<Fleet, String>,
}

/// What the workers will be made of.
#[derive(Debug)]
struct Waiting {
    blueprint: Blueprint,
    writers: Vec<Option<LogWriter>>,
}

/// One worker's counters: the engine's and the policy's.
struct Both(Arc<Stats>, Arc<EdgeStats>);

impl Samples for Both {
    fn visit(&self, each: &mut dyn FnMut(Sample)) {
        self.0.visit(each);
        self.1.visit(each);
    }
}

impl DataPlane {
    /// A plane for `workers` workers.
    pub fn new(workers: usize, blueprint: Blueprint, log: Option<&LogSink>) -> DataPlane {
        let stats = (0..workers).map(|_| Arc::default()).collect();
        let writers = (0..workers).map(|_| log.map(LogSink::writer)).collect();
        let waiting = Mutex::new(Some(Waiting { blueprint, writers }));
        DataPlane {
            stats,
            started: OnceLock::new(),
            waiting,
            tracer: Arc::default(),
            log: log.map(LogSink::counters),
            meters: Arc::new(EdgeMeters::new(METERS_MAX)),
        }
    }

    fn start(&self, snapshot: Arc<Snapshot>) -> Started {
        let plane = steady_proxy::Plane::new(self.stats.len(), snapshot);
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Waiting { blueprint, writers }) = waiting else {
            return Started { plane, fleet: Err("the workers were started before".to_owned()) };
        };
        let writers = Arc::new(Mutex::new(writers));
        let (stats, tracer, meters) = (self.stats.clone(), Arc::clone(&self.tracer), Arc::clone(&self.meters));
        let fleet = Fleet::start(&plane, blueprint, move |worker| {
            let writer = writers.lock().ok().and_then(|mut writers| writers.get_mut(worker)?.take());
            EdgePolicy::new(
                Arc::clone(&stats[worker]),
                writer,
                Arc::clone(&tracer),
                Arc::clone(&meters),
                fastrand::Rng::new(),
            )
        });
        Started { plane, fleet: fleet.map_err(|error| error.to_string()) }
    }

    /// Nobody accepts from the listeners any more.
    pub fn is_deaf(&self) -> bool {
        self.started.get().is_none_or(|started| started.plane.is_deaf())
    }

    /// Clients' connections that are open now.
    pub fn connections(&self) -> u64 {
        let stats = self.started.get().map(|started| started.plane.stats()).unwrap_or_default();
        stats.iter().map(|worker| worker.connections_open.value()).sum()
    }

    /// Ends the workers after their batch, and waits for them.
    pub fn stop(mut self) {
        if let Some(Started { plane, fleet }) = self.started.take() {
            plane.stop();
            if let Ok(Err(error)) = fleet.map(Fleet::join) {
                tracing::error!(%error, "a worker ended badly");
            }
        }
    }
}

impl Plane for DataPlane {
    fn publish(&self, snapshot: Arc<Snapshot>) -> u64 {
        let mut first = false;
        let started = self.started.get_or_init(|| {
            first = true;
            self.start(Arc::clone(&snapshot))
        });
        // The first one is number 1: the workers begin with it.
        if first { 1 } else { started.plane.publish(snapshot) }
    }

    fn settled(&self) -> u64 {
        self.started.get().map_or(0, |started| started.plane.settled())
    }

    fn drain(&self, deadline: Duration) {
        let Some(started) = self.started.get() else { return };
        // A full queue empties within a batch of the worker.
        while !started.plane.command(&Command::Drain { deadline }) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_drained(&self) -> bool {
        self.started.get().is_none_or(|started| started.plane.is_drained())
    }

    fn failure(&self) -> Option<String> {
        let started = self.started.get()?;
        match &started.fleet {
            Err(reason) => Some(format!("the workers could not be started: {reason}")),
            Ok(fleet) if fleet.ended().any(|worker| !started.plane.has_drained(worker)) => {
                Some("a worker has ended".to_owned())
            }
            Ok(_) => None,
        }
    }

    fn samples(&self) -> Vec<Arc<dyn Samples + Send + Sync>> {
        let Some(started) = self.started.get() else { return Vec::new() };
        let both = |(engine, edge): (Arc<Stats>, &Arc<EdgeStats>)| Arc::new(Both(engine, Arc::clone(edge))) as Arc<_>;
        started.plane.stats().into_iter().zip(&self.stats).map(both).collect()
    }

    fn log(&self) -> Option<Arc<LogCounters>> {
        self.log.clone()
    }

    fn oversight(&self) -> Option<Oversight> {
        let registry = Arc::new(self.started.get()?.plane.clone());
        Some(Oversight { registry, tracer: Arc::clone(&self.tracer) })
    }

    fn meters(&self) -> Arc<EdgeMeters> {
        Arc::clone(&self.meters)
    }
}
