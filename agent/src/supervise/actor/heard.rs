//! What the processes' keepers tell, and what follows from it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use steady_cluster::channel::talk::{AppEvent, Event as Told, Kind};

use super::{Actor, Main, PORT_CLASHES_MAX, StartFailure, answer, is_port_clash};
use crate::supervise::process::{Cause, End, Event};
use crate::supervise::status::LastExit;
use crate::supervise::text_of;
use crate::supervise::told;

impl Actor {
    pub(super) async fn on_event(&mut self, event: Event) {
        match event {
            Event::Ready { instance } => self.on_ready(instance).await,
            Event::Sound { instance } => {
                if matches!(self.state, Main::Ready { instance: main } if main == instance) {
                    // The same word as before; that it comes again lets the workers try again.
                    self.publish();
                }
            }
            Event::Lost { instance } => {
                if matches!(self.state, Main::Ready { instance: main } if main == instance) {
                    self.state = Main::Falling { instance };
                    self.publish();
                }
            }
            Event::Gone { instance, end } => self.on_gone(instance, end).await,
        }
    }

    /// Has the edge told of one of this application's processes.
    pub(super) fn tell(&self, kind: Kind, instance: u64, version: u64) {
        self.tell_more(AppEvent { kind, instance, version, ..self.event() });
    }

    pub(super) fn tell_more(&self, event: AppEvent) {
        let (reason, output) = (told(event.reason), told(event.output));
        self.shared.tell(Told::App(AppEvent { reason, output, ..event }));
    }

    pub(super) fn event(&self) -> AppEvent {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        AppEvent {
            app: self.name.to_string(),
            kind: Kind::Started,
            generation: self.record.generation.0,
            version: 0,
            instance: 0,
            at_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            reason: String::new(),
            output: String::new(),
            cut: 0,
        }
    }

    async fn on_ready(&mut self, instance: u64) {
        if self.next.as_ref().is_some_and(|next| next.instance == instance) {
            return self.promote().await;
        }
        if !matches!(self.state, Main::Starting { instance: main } if main == instance) || self.draining.is_some() {
            return;
        }
        self.shared.counters.ready.add(1);
        if self.record.placement != self.target {
            let mut record = self.record.clone();
            record.placement = self.target.clone();
            if let Err(refusal) = self.save(record).await {
                // It must not serve what a restarted agent would not know. Told to go, it counts as a failed start.
                self.log.mark(&format!("not put to use: {refusal}"));
                return self.retire(instance, 0, Duration::ZERO, false);
            }
        }
        self.rollback = None;
        self.clashes = 0;
        self.state = Main::Ready { instance };
        self.publish();
        self.tell(Kind::Ready, instance, self.target.as_ref().map_or(0, |target| target.version));
        self.waiters.drain(..).for_each(|waiter| answer(Some(waiter), Ok(())));
    }

    /// The new version answers: it takes over, and the old one finishes.
    async fn promote(&mut self) {
        let Some(next) = self.next.take() else { return };
        self.shared.counters.ready.add(1);
        let mut record = self.record.clone();
        record.placement = Some(next.placement.clone());
        if let Err(refusal) = self.save(record).await {
            self.retire(next.instance, 0, Duration::ZERO, false);
            let failure = StartFailure { reason: refusal.to_string(), output: String::new() };
            next.waiters.into_iter().for_each(|waiter| answer(Some(waiter), Err(failure.clone())));
            return;
        }
        let old: Vec<u64> = self.procs.keys().copied().filter(|instance| *instance != next.instance).collect();
        self.set_target(next.placement, next.held);
        self.rollback = None;
        self.failures = 0;
        self.state = Main::Ready { instance: next.instance };
        let publication = self.publish();
        self.tell(Kind::Ready, next.instance, self.target.as_ref().map_or(0, |target| target.version));
        for instance in old {
            self.retire(instance, publication, self.shared.config.get().drain_timeout, false);
        }
        let waiters = self.waiters.drain(..).chain(next.waiters);
        waiters.for_each(|waiter| answer(Some(waiter), Ok(())));
    }

    async fn on_gone(&mut self, instance: u64, end: End) {
        let version = self.procs.remove(&instance).map_or(0, |process| process.placement.version);
        if !matches!(end.cause, Cause::Ordered) {
            let (reason, output) = (end.reason(), end.output.clone());
            self.tell_more(AppEvent { kind: Kind::Crashed, instance, version, reason, output, ..self.event() });
        }
        if let Some(draining) = &mut self.draining {
            draining.cut += end.cut;
            if self.procs.is_empty() {
                self.finish_drain().await;
            }
            return;
        }
        self.count(&end);
        let is_main = matches!(self.state,
            Main::Starting { instance: main } | Main::Ready { instance: main } | Main::Falling { instance: main }
                if main == instance);
        if self.next.as_ref().is_some_and(|next| next.instance == instance) {
            self.note_exit(&end);
            if let Some(next) = self.next.take() {
                let failure = StartFailure { reason: end.reason(), output: end.output };
                next.waiters.into_iter().for_each(|waiter| answer(Some(waiter), Err(failure.clone())));
            }
        } else if is_main {
            self.note_exit(&end);
            self.on_main_gone(end).await;
        }
        if matches!(self.state, Main::Waiting) && self.procs.is_empty() {
            self.start_when_alone().await;
        }
        self.publish();
    }

    async fn on_main_gone(&mut self, end: End) {
        let is_clash = end.served.is_none() && is_port_clash(&end.output) && self.clashes < PORT_CLASHES_MAX;
        if is_clash {
            self.clashes += 1;
            self.log.mark("its port was taken by another program; again with another");
            return self.start_when_alone().await;
        }
        if end.served.is_some_and(|served| served >= self.shared.limits.backoff_reset_after) {
            self.failures = 0;
        }
        self.cannot_be(end.reason(), end.output, false).await;
    }

    fn count(&self, end: &End) {
        let counters = &self.shared.counters;
        match (&end.cause, end.served) {
            (Cause::Ordered, _) => {}
            (Cause::Hung(_), _) => counters.hung.add(1),
            (_, None) => counters.start_failures.add(1),
            (_, Some(_)) => counters.crashes.add(1),
        }
        counters.requests_cut.add(end.cut);
    }

    fn note_exit(&mut self, end: &End) {
        tracing::warn!(app = %self.name, reason = end.reason(), "an application's process has ended");
        self.last_exit = Some(LastExit {
            code: end.exit.code,
            signal: end.exit.signal,
            at: text_of(end.at),
            reason: end.reason(),
            output: end.output.clone(),
        });
    }
}
