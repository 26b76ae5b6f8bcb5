//! The workers' side of the agent: the policy that finds the process for a request, and [`DataPlane`], which control
//! holds of it.

mod counts;
mod policy;
mod request_log;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use steady_proxy::log::LogCounters;
use steady_proxy::registry::Oversight;
use steady_proxy::sample::Samples;
use steady_proxy::trace::Tracer;
use steady_proxy::{Bounds, Command, Fleet, Listed, Timeouts};
use tokio::sync::mpsc;

pub use self::counts::View;
pub use self::policy::AgentPolicy;

use self::counts::Ledger;
use crate::gate::{AppMeters, Apps, Notice, Plane};
use crate::limits::METERS_MAX;

/// The workers, as control sees them.
#[derive(Debug)]
pub struct DataPlane {
    plane: steady_proxy::Plane<AgentPolicy>,
    ledger: Ledger,
    tracer: Arc<Tracer>,
    meters: Arc<AppMeters>,
    /// What was published last; held while the next is.
    last: Mutex<Last>,
    log: OnceLock<Arc<LogCounters>>,
}

#[derive(Debug, Default)]
struct Last {
    apps: Arc<Apps>,
    tls: Option<Arc<ServerConfig>>,
    bounds: Option<Arc<Bounds>>,
    timeouts: Option<Timeouts>,
}

impl DataPlane {
    /// A plane for `workers` workers, with no application yet.
    pub fn new(workers: usize) -> DataPlane {
        let plane = steady_proxy::Plane::new(workers, Arc::new(View::default()));
        DataPlane {
            plane,
            ledger: Ledger::new(workers),
            tracer: Arc::default(),
            last: Mutex::default(),
            log: OnceLock::new(),
            meters: Arc::new(AppMeters::new(METERS_MAX)),
        }
    }

    /// Starts the workers. What they have to tell goes to `notices`.
    ///
    /// # Errors
    /// When a thread or a driver cannot be had.
    pub fn start(
        &self,
        blueprint: steady_proxy::Blueprint,
        notices: mpsc::Sender<Notice>,
        timeouts: Timeouts,
        log: Option<&steady_proxy::log::LogSink>,
    ) -> std::io::Result<Fleet> {
        if let Some(sink) = log {
            let _ = self.log.set(sink.counters());
        }
        let writers: Vec<_> = (0..self.plane.seats()).map(|_| log.map(|sink| sink.writer())).collect();
        let writers = Arc::new(Mutex::new(writers));
        let (tracer, meters) = (Arc::clone(&self.tracer), Arc::clone(&self.meters));
        Fleet::start(&self.plane, blueprint, move |worker| {
            let writer = writers.lock().ok().and_then(|mut writers| writers.get_mut(worker)?.take());
            AgentPolicy::new(worker, notices.clone(), timeouts, writer, Arc::clone(&tracer), Arc::clone(&meters))
        })
    }

    /// TLS with the edges, from the next connection on.
    pub fn set_tls(&self, tls: Arc<ServerConfig>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.tls = Some(tls);
        self.publish_last(&last);
    }

    /// Other bounds than the workers have.
    pub fn set_bounds(&self, bounds: Arc<Bounds>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.bounds = Some(bounds);
        self.publish_last(&last);
    }

    /// Other time-outs than the workers have, for what is under way too.
    pub fn set_timeouts(&self, timeouts: Timeouts) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.timeouts = Some(timeouts);
        self.publish_last(&last);
    }

    fn publish_last(&self, last: &Last) -> u64 {
        let view = self.ledger.view(&last.apps, last.tls.clone(), last.bounds.clone());
        self.plane.publish(Arc::new(View { timeouts: last.timeouts, ..view }))
    }

    /// What one worker is made of beside its driver, for a caller that turns the workers itself instead of
    /// [`start`](DataPlane::start)ing threads.
    pub fn part(
        &self,
        worker: usize,
        notices: mpsc::Sender<Notice>,
        timeouts: Timeouts,
    ) -> (steady_proxy::Seat<AgentPolicy>, AgentPolicy) {
        (
            self.plane.seat(worker),
            AgentPolicy::new(worker, notices, timeouts, None, Arc::clone(&self.tracer), Arc::clone(&self.meters)),
        )
    }

    /// Ends the workers after their batch.
    pub fn stop(&self) {
        self.plane.stop();
    }
}

impl Plane for DataPlane {
    fn publish(&self, apps: Arc<Apps>) -> u64 {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.apps = apps;
        self.publish_last(&last)
    }

    fn settled(&self) -> u64 {
        self.plane.settled()
    }

    fn in_flight(&self, app: &str) -> u64 {
        self.ledger.in_flight(app, None)
    }

    fn in_flight_of(&self, app: &str, instance: u64) -> u64 {
        self.ledger.in_flight(app, Some(instance))
    }

    fn parked(&self, app: &str) -> u64 {
        self.ledger.parked(app)
    }

    fn cut(&self, app: &str) {
        let name: Arc<str> = app.into();
        // A full queue empties within a batch of the worker.
        while !self.plane.command(&Command::Inspect(cut_chooser(&name))) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn drain(&self, deadline: Duration) {
        while !self.plane.command(&Command::Drain { deadline }) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_drained(&self) -> bool {
        self.plane.is_drained()
    }

    fn samples(&self) -> Vec<Arc<dyn Samples + Send + Sync>> {
        self.plane.stats().into_iter().map(|stats| stats as Arc<dyn Samples + Send + Sync>).collect()
    }

    fn log(&self) -> Option<Arc<LogCounters>> {
        self.log.get().cloned()
    }

    fn oversight(&self) -> Option<Oversight> {
        Some(Oversight { registry: Arc::new(self.plane.clone()), tracer: Arc::clone(&self.tracer) })
    }

    fn meters(&self) -> Arc<AppMeters> {
        Arc::clone(&self.meters)
    }
}

fn cut_chooser(name: &Arc<str>) -> steady_proxy::Look<policy::Ticket> {
    let name = Arc::clone(name);
    Arc::new(move |listed: &Listed<'_, policy::Ticket>| listed.ticket.is_for(&name))
}
