//! What the API tells about an application.

use serde::Serialize;
use time::OffsetDateTime;

use crate::gate::{Protocol, Role};
use crate::records::Record;

/// The state of an application's process: `Cold` (a request or an order starts it), `Starting`, `Ready`, `Draining` (finishing
/// what has begun, or being stopped), `Crashed` (it ended by itself, and waits out its back-off), `Failed` (it cannot run until
/// someone changes something), `Stopped` (it has left this host).
pub use steady_timing::State;

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
    /// Of the process, or of what would run; 0: nothing was ever placed.
    pub version: u64,
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
        let version = record.placement.as_ref().map_or(0, |placement| placement.version);
        Self {
            record,
            state,
            version,
            pid: None,
            started_at: None,
            restarts: 0,
            last_exit: None,
            protocol: None,
            reason: None,
        }
    }

    /// Whether it was deleted, or never placed: only its generation is known.
    pub fn is_tombstone(&self) -> bool {
        self.record.is_tombstone()
    }
}
