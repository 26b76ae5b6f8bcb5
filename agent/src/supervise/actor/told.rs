//! What the application is, as others see it: its record on the disk, what the workers are told, its status.

use std::sync::Arc;

use super::{Actor, Main, Refusal, blocking};
use crate::bundle::Held;
use crate::gate::{App, Process, Role};
use crate::records::{Placement, Record};
use crate::supervise::status::{State, Status};

impl Actor {
    pub(super) fn set_target(&mut self, placement: Placement, held: Held) {
        self.target = Some(placement);
        self.held = Some(held);
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, Main::Waiting | Main::Starting { .. } | Main::Ready { .. } | Main::Falling { .. })
            && self.draining.is_none()
            && !self.procs.is_empty()
    }

    pub(super) async fn save(&mut self, record: Record) -> Result<(), Refusal> {
        let (records, saved) = (self.shared.records.clone(), record.clone());
        let written = blocking(move || records.save(&saved)).await?;
        match written {
            Ok(()) => {
                self.record = record;
                Ok(())
            }
            Err(error) => {
                self.shared.counters.record_failures.add(1);
                tracing::error!(app = %self.name, %error, "a record cannot be written");
                Err(Refusal::Broken(format!("the record cannot be written: {error}; is the disk of state_dir full?")))
            }
        }
    }

    pub(super) fn publish(&self) -> u64 {
        self.status.send_replace(self.status_now());
        self.shared.changes.note(&self.name);
        if self.record.is_tombstone() {
            return self.shared.board.unset(&self.name);
        }
        self.shared.board.set(App {
            name: Arc::clone(&self.name),
            role: self.record.role,
            generation: self.record.generation,
            version: self.version_now(),
            process: self.process_now(),
            queue_max: self.shared.config.get().queue_max,
            queue_wait: self.shared.config.get().queue_wait,
            response_timeout: self.shared.config.get().response_timeout,
        })
    }

    /// Of the process that serves or starts, else of what would.
    fn version_now(&self) -> u64 {
        let process = match &self.state {
            Main::Starting { instance } | Main::Ready { instance } => self.procs.get(instance),
            _ => None,
        };
        let wanted = self.target.as_ref().or(self.record.placement.as_ref());
        process.map(|process| &process.placement).or(wanted).map_or(0, |placement| placement.version)
    }

    fn process_now(&self) -> Process {
        match &self.state {
            Main::Cold => Process::Cold,
            Main::Waiting | Main::Starting { .. } | Main::Falling { .. } => Process::Starting,
            Main::Ready { instance } => match self.procs.get(instance) {
                Some(process) => {
                    Process::Ready { addr: process.addr.clone(), protocol: process.protocol, instance: *instance }
                }
                None => Process::Starting,
            },
            Main::Crashed { reason, .. } if self.failures >= self.shared.limits.failures_before_refusal => {
                Process::Failed { reason: Arc::from(format!("{} starts in a row failed: {reason}", self.failures)) }
            }
            Main::Crashed { .. } => Process::Starting,
            Main::Failed { reason } => Process::Failed { reason: Arc::from(reason.as_str()) },
        }
    }

    pub(super) fn status_now(&self) -> Status {
        let (state, main, reason) = match &self.state {
            _ if self.draining.is_some() => (State::Draining, None, None),
            _ if self.record.role == Role::Absent => (State::Stopped, None, None),
            Main::Cold => (State::Cold, None, None),
            Main::Waiting => (State::Starting, None, None),
            Main::Starting { instance } => (State::Starting, Some(instance), None),
            Main::Ready { instance } => (State::Ready, Some(instance), None),
            Main::Falling { .. } => (State::Crashed, None, None),
            Main::Crashed { reason, .. } => (State::Crashed, None, Some(reason.clone())),
            Main::Failed { reason } => (State::Failed, None, Some(reason.clone())),
        };
        let process = main.and_then(|instance| self.procs.get(instance));
        Status {
            record: Record { placement: self.target.clone().or(self.record.placement.clone()), ..self.record.clone() },
            state,
            version: self.version_now(),
            pid: process.map(|process| process.pid),
            started_at: process.map(|process| process.started_at),
            restarts: self.restarts,
            last_exit: self.last_exit.clone(),
            protocol: process.map(|process| process.protocol),
            reason,
        }
    }
}
