//! One start of an application, as its actor sees it: a handle, the orders it takes, and what it tells.
//!
//! [`launch`] starts it and leaves a *keeper* task with it, which owns the process for its whole life and tells the actor
//! four things: [`Event::Ready`], [`Event::Sound`] (it was doubted, and answers), [`Event::Lost`] (send it nothing more) and, last,
//! [`Event::Gone`] (its whole group is dead and reaped). The actor steers the keeper by an [`Order`].

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use steady_ring::Addr;
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub use super::launch::launch;
use crate::gate::Protocol;
use crate::records::Placement;

/// What the keeper is to do.
#[derive(Clone, Debug)]
pub enum Order {
    Serve,
    /// Let its requests finish, then stop it.
    Retire {
        /// The publication that sends it no more requests.
        publication: u64,
        deadline: Instant,
        /// Whether the requests left at the deadline are cut by the workers, or just lose their process.
        cut: bool,
    },
}

/// What a keeper tells its actor.
#[derive(Debug)]
pub enum Event {
    Ready { instance: u64 },
    Sound { instance: u64 },
    Lost { instance: u64 },
    Gone { instance: u64, end: End },
}

/// How a process ended.
#[derive(Debug)]
pub struct End {
    pub cause: Cause,
    pub exit: Exit,
    pub at: OffsetDateTime,
    pub output: String,
    /// How long it had been ready; `None`: never.
    pub served: Option<Duration>,
    /// Requests that were still with it at the deadline.
    pub cut: u64,
}

/// Why it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// By itself.
    Exited,
    /// No answer within the start time-out; what the last probe said.
    NeverReady(String),
    /// It stopped answering; what the last probe said.
    Hung(String),
    /// It was told to.
    Ordered,
}

/// Exit code or signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        Self { code: status.code(), signal: status.signal() }
    }
}

impl End {
    /// One line for people.
    pub fn reason(&self) -> String {
        match (&self.cause, self.exit.code, self.exit.signal) {
            (Cause::NeverReady(why), ..) => format!("it did not become ready: {why}"),
            (Cause::Hung(why), ..) => format!("it stopped answering and was killed: {why}"),
            (Cause::Ordered, ..) => "it was stopped".to_owned(),
            (Cause::Exited, Some(code), _) => format!("it exited with code {code}"),
            (Cause::Exited, _, Some(signal)) => format!("it was ended by signal {signal}"),
            (Cause::Exited, None, None) => "it ended".to_owned(),
        }
    }
}

/// Why a process could not be started at all.
#[derive(Debug)]
pub enum LaunchError {
    /// It cannot be, until someone changes something.
    Hopeless(String),
    /// The host could not, this time.
    Passing(String),
}

/// The actor's hold on a process.
#[derive(Debug)]
pub struct Handle {
    pub instance: u64,
    pub pid: u32,
    pub addr: Addr,
    pub protocol: Protocol,
    pub placement: Placement,
    pub started_at: OffsetDateTime,
    pub orders: watch::Sender<Order>,
    /// Makes the keeper probe now.
    pub doubt: Arc<Notify>,
}
