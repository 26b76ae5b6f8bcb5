//! How the application leaves this host: its requests finish, its processes end, its generation stays.

use std::sync::Arc;
use std::time::Duration;

use steady_cluster::channel::talk::{AppEvent, Kind};
use tokio::time::Instant;

use super::{Actor, Drained, Draining, Main, Refusal, Reply, StartFailure, answer, blocking};
use crate::gate::{Generation, Role};
use crate::supervise::process::Order;

impl Actor {
    pub(super) async fn drain(
        &mut self,
        generation: Generation,
        deadline: Duration,
        forget: bool,
        reply: Reply<Drained>,
    ) {
        let began = Instant::now();
        let refused = self.begin_drain(generation, forget).await;
        if let Err(refusal) = refused {
            let _ = reply.send(Err(refusal));
            return;
        }
        if self.record.role == Role::Absent {
            let _ = reply.send(Ok(Drained::default()));
            return;
        }
        let at = began + deadline;
        match &mut self.draining {
            Some(draining) => {
                draining.deadline = draining.deadline.min(at);
                draining.forget |= forget;
                draining.replies.push((began, reply));
            }
            None => {
                self.shared.counters.drains.add(1);
                self.draining = Some(Draining { deadline: at, cut: 0, forget, replies: vec![(began, reply)] });
            }
        }
        self.leave().await;
    }

    /// Checks the generation and records that this host leaves.
    async fn begin_drain(&mut self, generation: Generation, forget: bool) -> Result<(), Refusal> {
        let known = self.record.generation;
        let mut record = self.record.clone();
        record.generation = known.max(generation);
        if self.record.role == Role::Absent {
            let is_to_forget = forget && self.record.placement.is_some();
            // First, and whatever becomes of the files.
            if record != self.record {
                self.save(record.clone()).await?;
                self.publish();
            }
            if is_to_forget {
                self.forget_files().await?;
                record.placement = None;
                self.save(record).await?;
                self.publish();
            }
            return Ok(());
        }
        if generation < known {
            let why = format!("generation {known} is known here, {generation} is older; it may be this host's again");
            return Err(Refusal::Stale { known, why });
        }
        record.role = Role::Draining;
        if record == self.record { Ok(()) } else { self.save(record).await }
    }

    /// Publishes that this host leaves, and lets every process finish.
    async fn leave(&mut self) {
        let Some(draining) = &self.draining else { return };
        let deadline = draining.deadline;
        let failure = || StartFailure { reason: "it is leaving this host".to_owned(), output: String::new() };
        if let Some(next) = self.next.take() {
            next.waiters.into_iter().for_each(|waiter| answer(Some(waiter), Err(failure())));
        }
        self.waiters.drain(..).for_each(|waiter| answer(Some(waiter), Err(failure())));
        self.rollback = None;
        if !matches!(self.state, Main::Starting { .. } | Main::Ready { .. } | Main::Falling { .. }) {
            // Nothing of it may rise again: no back-off, no start that waits.
            self.state = Main::Cold;
        }
        let publication = self.publish();
        for process in self.procs.values() {
            process.orders.send_replace(Order::Retire { publication, deadline, cut: true });
        }
        if self.procs.is_empty() {
            self.finish_drain().await;
        }
    }

    pub(super) async fn finish_drain(&mut self) {
        let Some(draining) = self.draining.take() else { return };
        let mut record = self.record.clone();
        record.role = Role::Absent;
        self.state = Main::Cold;
        let mut forgotten = Ok(());
        if draining.forget {
            forgotten = self.forget_files().await;
            if forgotten.is_ok() {
                record.placement = None;
            }
        }
        let saved = self.save(record).await.and(forgotten);
        self.publish();
        self.tell_more(AppEvent { kind: Kind::Drained, cut: draining.cut, ..self.event() });
        self.shared.counters.requests_cut.add(draining.cut);
        for (began, reply) in draining.replies {
            let drained = Drained { cut: draining.cut, took: began.elapsed() };
            let _ = reply.send(saved.clone().map(|()| drained));
        }
        while let Some(command) = self.deferred.pop_front() {
            // A deferred command cannot begin a drain, so this ends.
            Box::pin(self.on_command(command)).await;
        }
    }

    /// Before its record says so: a crash between the two leaves it to be forgotten again, and nothing for the next of its name.
    /// On an error something is left in its place, and its record must not say that it is forgotten.
    async fn forget_files(&mut self) -> Result<(), Refusal> {
        self.target = None;
        self.held = None;
        self.last_exit = None;
        self.restarts = 0;
        let (bundles, own) = (self.shared.bundles.clone(), self.shared.dirs.apps.join(&*self.name));
        let name = Arc::clone(&self.name);
        let discarded = blocking(move || {
            // Each, whatever comes of the other.
            ["home", "tmp"].map(|folder| bundles.discard(&own.join(folder), &format!("{name}.{folder}")))
        });
        let discarded = discarded.await;
        let logs = self.log.remove().await;
        let removed = discarded?.into_iter().chain([logs]).collect::<std::io::Result<()>>();
        removed.map_err(|error| {
            tracing::error!(app = %self.name, %error, "files of a deleted application cannot be removed");
            Refusal::Broken(format!(
                "its files cannot be removed: {error}; see to it, then delete the application again"
            ))
        })
    }
}
