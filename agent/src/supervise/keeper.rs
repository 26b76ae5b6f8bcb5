//! A process's keeper: from its first probe through the time when it serves to the moment when nothing of it runs any more.

use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use steady_sys::process::{Signal, signal_group};
use time::OffsetDateTime;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Shared;
use super::launch::Place;
use super::leftovers::{self, Started};
use super::probe::Probe;
use super::process::{Cause, End, Event, Exit, Order};
use crate::bundle::Held;
use crate::logs::{AppLog, Kept};

/// Between two looks at the requests that are still with a process.
const DRAIN_LOOK_EVERY: Duration = Duration::from_millis(2);
/// For the rest of the output to be read once every process of the group is dead.
const OUTPUT_WITHIN: Duration = Duration::from_millis(500);
/// Between two complaints about a process that SIGKILL does not end.
const STUCK_LOOK_EVERY: Duration = Duration::from_secs(10);

/// Owns one process.
pub(super) struct Keeper {
    pub shared: Arc<Shared>,
    pub app: Arc<str>,
    pub log: AppLog,
    pub instance: u64,
    pub child: Child,
    pub pid: u32,
    pub probe: Probe,
    pub place: Place,
    pub kept: Kept,
    pub pump: Option<JoinHandle<()>>,
    pub orders: watch::Receiver<Order>,
    pub doubt: Arc<Notify>,
    pub events: mpsc::Sender<Event>,
    pub _held: Held,
}

impl Keeper {
    /// Written down so that the next agent can end it if this one is killed; not synced, because what it tells of does
    /// not outlive the machine either. The environment's mark is the other way to find it, so a failure is lived with.
    pub fn write_down(&self) {
        let started = leftovers::see(self.pid).map(|seen| Started {
            app: self.app.to_string(),
            instance: self.instance,
            pid: self.pid,
            start_time: seen.start_time,
        });
        let Some(started) = started else { return };
        let written = serde_json::to_vec(&started)
            .map_err(std::io::Error::other)
            .and_then(|text| std::fs::write(leftovers::started_file(&self.shared.dirs.run, self.instance), text));
        if let Err(error) = written {
            tracing::warn!(app = %self.app, %error, "a start could not be written down");
        }
    }

    pub async fn keep(mut self) {
        let exited = Exited::watch(self.pid);
        let (cause, ready_at) = self.live(&exited).await;
        let cut = if cause == Cause::Ordered { self.drain(&exited).await } else { 0 };
        self.tell(Event::Lost { instance: self.instance }).await;
        let grace = match &cause {
            Cause::Ordered => self.shared.config.get().stop_timeout,
            Cause::NeverReady(_) => self.shared.limits.failed_start_grace.min(self.shared.config.get().stop_timeout),
            // It has gone, or it does not run its event loop: there is nobody to be asked.
            Cause::Exited | Cause::Hung(_) => Duration::ZERO,
        };
        let served = ready_at.map(|at: Instant| at.elapsed());
        let exit = self.stop(&exited, grace).await;
        let at = OffsetDateTime::now_utc();
        let end = End { cause, exit, at, output: self.kept.text(), served, cut };
        self.log.mark(&format!("pid {} ended at {}: {}", self.pid, super::text_of(at), end.reason()));
        let events = self.events.clone();
        let instance = self.instance;
        drop(self);
        // The actor may have ended with the agent.
        let _ = events.send(Event::Gone { instance, end }).await;
    }

    async fn tell(&self, event: Event) {
        // As above.
        let _ = self.events.send(event).await;
    }

    /// From the spawn until it has to go or has gone. Also: since when it was ready.
    async fn live(&self, exited: &Exited) -> (Cause, Option<Instant>) {
        tokio::select! {
            biased;
            () = exited.wait() => return (Cause::Exited, None),
            () = self.ordered() => return (Cause::Ordered, None),
            answered = self.become_ready() => {
                if let Err(why) = answered {
                    return (Cause::NeverReady(why), None);
                }
            }
        }
        let ready_at = Instant::now();
        self.tell(Event::Ready { instance: self.instance }).await;
        let cause = tokio::select! {
            biased;
            () = exited.wait() => Cause::Exited,
            () = self.ordered() => Cause::Ordered,
            why = self.hang() => Cause::Hung(why),
        };
        (cause, Some(ready_at))
    }

    /// Until the actor wants it gone; also when there is no actor any more.
    async fn ordered(&self) {
        let mut orders = self.orders.clone();
        let _ = orders.wait_for(|order| matches!(order, Order::Retire { .. })).await;
    }

    /// Probes until an answer below 500 comes.
    async fn become_ready(&self) -> Result<(), String> {
        let limits = &self.shared.limits;
        let timeout = self.shared.config.get().start_timeout;
        let until = Instant::now() + timeout;
        let mut last = "it was not asked".to_owned();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!(
                    "no good answer to GET {} within {timeout:?}; the last try: {last}",
                    self.probe.path
                ));
            }
            match self.probe.ask(limits.probe_timeout.min(left)).await {
                Ok(status) if status.as_u16() < 500 => return Ok(()),
                Ok(status) => last = format!("status {status}"),
                Err(error) => last = error,
            }
            tokio::time::sleep(limits.start_probe_every.min(left)).await;
        }
    }

    /// Probes from time to time, and at once when in doubt, until too many fail in a row. Any answer is a sign of life, which a
    /// worker that has doubted is told: it sends nothing more until it hears that it may.
    async fn hang(&self) -> String {
        let limits = &self.shared.limits;
        let mut failures = 0;
        let mut doubted = false;
        let mut sound_at: Option<Instant> = None;
        loop {
            let wait = if failures == 0 { limits.probe_every } else { limits.probe_again_after };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // Once it has failed, more reports say nothing new, and must not use up its chances.
                () = self.doubt.notified(), if failures == 0 => {
                    doubted = true;
                    // Many requests may break at once; they are worth one probe. One that goes on to break some is not
                    // published without end for that.
                    let rest = sound_at.map_or(Duration::ZERO, |at| limits.probe_again_after.saturating_sub(at.elapsed()));
                    tokio::time::sleep(limits.start_probe_every.max(rest)).await;
                }
            }
            match self.probe.ask(limits.probe_timeout).await {
                Ok(_) => {
                    failures = 0;
                    if std::mem::take(&mut doubted) {
                        sound_at = Some(Instant::now());
                        self.tell(Event::Sound { instance: self.instance }).await;
                    }
                }
                Err(why) => {
                    failures += 1;
                    self.shared.counters.probe_failures.add(1);
                    if failures >= limits.probe_failures_max {
                        return why;
                    }
                }
            }
        }
    }

    /// Waits until no worker sends it anything and nothing is with it, or the deadline. Returns what was left then.
    async fn drain(&self, exited: &Exited) -> u64 {
        let mut orders = self.orders.clone();
        let plane = &self.shared.plane;
        loop {
            let order = orders.borrow_and_update().clone();
            let Order::Retire { publication, deadline, cut } = order else { return 0 };
            // In this order: what was admitted before it settled is counted by now.
            let is_settled = plane.settled() >= publication;
            let in_flight = plane.in_flight_of(&self.app, self.instance);
            if is_settled && in_flight == 0 {
                return 0;
            }
            if Instant::now() >= deadline {
                if cut && in_flight > 0 {
                    plane.cut(&self.app);
                    self.wait_for_cut().await;
                }
                return in_flight;
            }
            tokio::select! {
                () = exited.wait() => return 0,
                _ = orders.changed() => {}
                () = tokio::time::sleep(DRAIN_LOOK_EVERY) => {}
            }
        }
    }

    async fn wait_for_cut(&self) {
        let until = Instant::now() + self.shared.limits.cut_grace;
        while self.shared.plane.in_flight_of(&self.app, self.instance) > 0 && Instant::now() < until {
            tokio::time::sleep(DRAIN_LOOK_EVERY).await;
        }
    }

    /// Asks the group to end, then makes it; returns when nothing of this start runs any more and all is reaped.
    async fn stop(&mut self, exited: &Exited, grace: Duration) -> Exit {
        if !grace.is_zero() && !exited.is_now() {
            self.signal(Signal::Term);
            let _ = tokio::time::timeout(grace, exited.wait()).await;
        }
        loop {
            // Its leader is not reaped yet, so the number of the group still is its own.
            self.signal(Signal::Kill);
            if tokio::time::timeout(STUCK_LOOK_EVERY, exited.wait()).await.is_ok() {
                break;
            }
            tracing::error!(app = %self.app, pid = self.pid, "SIGKILL does not end this process: it hangs in the kernel");
        }
        let group = self.pid;
        loop {
            let mark = leftovers::start_mark(&self.shared.state_mark, self.instance);
            let killed = tokio::task::spawn_blocking(move || leftovers::kill_start(group, &mark)).await;
            match killed {
                Ok(Ok(_)) => break,
                Ok(Err(error)) => tracing::error!(app = %self.app, %error, "not started again before these are gone"),
                Err(error) => tracing::error!(app = %self.app, %error, "looking for leftovers failed"),
            }
            tokio::time::sleep(STUCK_LOOK_EVERY).await;
        }
        let exit = self.child.wait().map_or(Exit { code: None, signal: None }, Exit::from);
        if let Some(mut pump) = self.pump.take()
            && tokio::time::timeout(OUTPUT_WITHIN, &mut pump).await.is_err()
        {
            pump.abort();
        }
        if let Place::Unix(path) = &self.place {
            // It may never have been made.
            let _ = std::fs::remove_file(path);
        }
        let _ = std::fs::remove_file(leftovers::started_file(&self.shared.dirs.run, self.instance));
        exit
    }

    fn signal(&self, signal: Signal) {
        if let Err(error) = signal_group(self.pid, signal) {
            tracing::error!(app = %self.app, pid = self.pid, %error, "a process group cannot be signalled");
        }
    }
}

/// Knows when a child has ended, without reaping it.
struct Exited {
    pid: u32,
    fd: Option<AsyncFd<OwnedFd>>,
}

impl Exited {
    fn watch(pid: u32) -> Self {
        // The constructor that replaces this one has its caller vouch that the descriptor stays the same; an OwnedFd's does.
        #[allow(deprecated)]
        let fd = steady_sys::pidfd::open(pid).and_then(|fd| AsyncFd::with_interest(fd, Interest::READABLE));
        if let Err(error) = &fd {
            tracing::warn!(pid, %error, "no pidfd: this process is looked at from time to time instead");
        }
        Self { pid, fd: fd.ok() }
    }

    fn is_now(&self) -> bool {
        leftovers::see(self.pid).is_none_or(|seen| seen.is_zombie)
    }

    async fn wait(&self) {
        match &self.fd {
            // The readiness is never cleared: a process ends once.
            Some(fd) if fd.readable().await.is_ok() => {}
            _ => {
                while !self.is_now() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}
