//! Starting the application's process, and ending what runs.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{Actor, Main, StartFailure, answer};
use steady_cluster::channel::talk::Kind;

use crate::records::Placement;
use crate::supervise::backoff;
use crate::supervise::process::{self, Event, LaunchError, Order};

impl Actor {
    /// Starts `target` now, or as soon as what must not run beside it has gone.
    pub(super) async fn start_when_alone(&mut self) {
        let Some(target) = self.target.clone() else { return };
        if self.runs_exclusive() || (target.exclusive && !self.procs.is_empty()) {
            self.state = Main::Waiting;
            return;
        }
        match self.launch(&target).await {
            Ok(instance) => self.state = Main::Starting { instance },
            Err(LaunchError::Hopeless(reason)) => self.cannot_be(reason, String::new(), true).await,
            Err(LaunchError::Passing(reason)) => self.cannot_be(reason, String::new(), false).await,
        }
    }

    /// Whether a process is left that owns the application's data, whatever is to run since it was started.
    pub(super) fn runs_exclusive(&self) -> bool {
        self.procs.values().any(|process| process.placement.exclusive)
    }

    pub(super) async fn launch(&mut self, placement: &Placement) -> Result<u64, LaunchError> {
        self.shared.counters.starts.add(1);
        let launched = process::launch(&self.shared, &self.name, &self.log, placement, self.events_in.clone()).await;
        match launched {
            Ok(handle) => {
                let instance = handle.instance;
                self.procs.insert(instance, handle);
                self.tell(Kind::Started, instance, placement.version);
                Ok(instance)
            }
            Err(error) => {
                self.shared.counters.start_failures.add(1);
                let (LaunchError::Hopeless(reason) | LaunchError::Passing(reason)) = &error;
                self.log.mark(&format!("version {} not started: {reason}", placement.version));
                Err(error)
            }
        }
    }

    /// `target` did not come up: back to the old version when there is one, else again after a wait, or never.
    pub(super) async fn cannot_be(&mut self, reason: String, output: String, is_hopeless: bool) {
        let failure = StartFailure { reason: reason.clone(), output };
        self.waiters.drain(..).for_each(|waiter| answer(Some(waiter), Err(failure.clone())));
        if let Some((old, held)) = self.rollback.take() {
            self.log.mark(&format!("back to version {}: {reason}", old.version));
            self.target = Some(old);
            self.held = held;
            return Box::pin(self.start_when_alone()).await;
        }
        if is_hopeless {
            self.state = Main::Failed { reason };
            return;
        }
        self.failures += 1;
        let limits = &self.shared.limits;
        let wait = backoff::delay(self.failures, limits.backoff_first, limits.backoff_last, fastrand::f64());
        self.state = Main::Crashed { until: Instant::now() + wait, reason };
    }

    pub(super) fn retire(&self, instance: u64, publication: u64, within: Duration, cut: bool) {
        if let Some(process) = self.procs.get(&instance) {
            let deadline = Instant::now() + within;
            process.orders.send_replace(Order::Retire { publication, deadline, cut });
        }
    }

    /// Lets every process finish and stop. The state says already what follows; it is published first, so that no worker
    /// sends them anything new.
    pub(super) fn retire_all(&mut self, within: Duration) {
        let publication = self.publish();
        for instance in self.procs.keys() {
            self.retire(*instance, publication, within, false);
        }
    }

    pub(super) async fn shut_down(mut self, events: &mut mpsc::Receiver<Event>, reply: oneshot::Sender<()>) {
        self.state = Main::Cold;
        self.next = None;
        self.retire_all(Duration::ZERO);
        while !self.procs.is_empty() {
            match events.recv().await {
                Some(Event::Gone { instance, .. }) => drop(self.procs.remove(&instance)),
                Some(_) => {}
                None => break,
            }
        }
        let _ = reply.send(());
    }
}
