//! How the application leaves this host: its requests finish, its processes end, its generation stays.

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
            if forget {
                record.placement = None;
            }
            if record != self.record {
                if forget {
                    self.forget_files().await;
                }
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
        if draining.forget {
            record.placement = None;
        }
        self.state = Main::Cold;
        if draining.forget {
            self.forget_files().await;
        }
        let saved = self.save(record).await;
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
    async fn forget_files(&mut self) {
        self.target = None;
        self.held = None;
        self.last_exit = None;
        self.restarts = 0;
        let own = self.shared.dirs.apps.join(&*self.name);
        let removed = blocking(move || {
            for folder in ["home", "tmp"] {
                match std::fs::remove_dir_all(own.join(folder)) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            Ok(())
        });
        let removed = removed.await.and_then(|removed| removed.map_err(|error| Refusal::Broken(error.to_string())));
        let logs = self.log.remove().await.map_err(|error| Refusal::Broken(error.to_string()));
        if let Err(error) = removed.and(logs) {
            tracing::warn!(app = %self.name, %error, "files of a deleted application could not be removed");
        }
    }
}
