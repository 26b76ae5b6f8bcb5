//! What the API tells about an application.

use serde::Serialize;
use time::OffsetDateTime;

use crate::gate::{Protocol, Role};
use crate::records::Record;

/// The state of an application's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Not running; a request or an order starts it.
    Cold,
    Starting,
    Ready,
    /// Finishing what has begun, or being stopped.
    Draining,
    /// It ended by itself, and waits out its back-off.
    Crashed,
    /// It cannot run until someone changes something.
    Failed,
    /// It has left this host.
    Stopped,
}

impl State {
    pub const ALL: [State; 7] =
        [State::Cold, State::Starting, State::Ready, State::Draining, State::Crashed, State::Failed, State::Stopped];

    pub fn name(self) -> &'static str {
        match self {
            State::Cold => "cold",
            State::Starting => "starting",
            State::Ready => "ready",
            State::Draining => "draining",
            State::Crashed => "crashed",
            State::Failed => "failed",
            State::Stopped => "stopped",
        }
    }
}

/// How the last process that ended unasked did so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LastExit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub at: String,
    pub reason: String,
    pub output: String,
}

/// A snapshot of one application, made after each change.
#[derive(Clone, Debug)]
pub struct Status {
    pub record: Record,
    pub state: State,
    pub pid: Option<u32>,
    pub started_at: Option<OffsetDateTime>,
    pub restarts: u64,
    pub last_exit: Option<LastExit>,
    pub protocol: Option<Protocol>,
    /// Why it is in state failed, or waits.
    pub reason: Option<String>,
}

impl Status {
    pub fn new(record: Record) -> Self {
        let state = if record.role == Role::Absent { State::Stopped } else { State::Cold };
        Self { record, state, pid: None, started_at: None, restarts: 0, last_exit: None, protocol: None, reason: None }
    }

    /// Whether it was deleted, or never placed: only its generation is known.
    pub fn is_tombstone(&self) -> bool {
        self.record.role == Role::Absent && self.record.placement.is_none()
    }
}
