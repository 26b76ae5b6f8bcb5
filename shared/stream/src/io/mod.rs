//! The stream on tokio: over any connection, with its log in files.
//!
//! A [`Link`] is everything between this process and one peer: a stream for each mode, each with its own log and inbox,
//! over one connection at a time. It outlives connections: [`Link::attach`] gives it the next one.

mod connection;
mod driver;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

use crate::config::Config;
use crate::inbox::{Inbox, InboxError};
use crate::log::{FileDisk, Log, LogConfig, LogError, LogIdentity};
use crate::machine::{SavedError, Stream};
use crate::number::mix;
use crate::outbound::{SendError, TooLate};
use crate::rules::Sound;
use crate::stats::Stats;
use crate::types::{App, Event, Mode, Outcome, Position, StreamId};
use driver::{Command, Driver};

/// Commands that wait for the driver; a caller of `send` waits when there are as many.
const COMMANDS_MAX: usize = 4096;
/// Events that wait to be read; more are counted and logged, and lost.
const EVENTS_MAX: usize = 1024;

/// The two names of a link. The peer opens it with them the other way round.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Names {
    pub local: String,
    pub peer: String,
}

/// What to do about a log that is damaged, or whose end may be missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDamage {
    /// Refuse to open, with the report of what is lost.
    #[default]
    Refuse,
    /// Set the files aside and begin a new log. What waited is given up; the report is an event.
    BeginAnew,
}

/// One mode of a link.
pub struct Lane {
    pub mode: Mode,
    pub config: Config,
    pub log: LogConfig,
    pub on_damage: OnDamage,
    pub inbox: Box<dyn Inbox>,
}

impl Lane {
    /// A lane with the default limits.
    pub fn new(mode: Mode, inbox: impl Inbox) -> Lane {
        Lane {
            mode,
            config: Config::default(),
            log: LogConfig::default(),
            on_damage: OnDamage::default(),
            inbox: Box::new(inbox),
        }
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("mode", &self.mode).field("config", &self.config).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{}: {source}", directory.display())]
    Log { directory: PathBuf, source: LogError },
    #[error("{}: another process has this log open", directory.display())]
    Locked { directory: PathBuf },
    #[error("{}: {source}", directory.display())]
    Io { directory: PathBuf, source: io::Error },
    #[error("the inbox of mode {mode}: {source}", mode = mode.0)]
    Inbox { mode: Mode, source: InboxError },
    #[error(transparent)]
    Saved(#[from] SavedError),
}

/// What a link reports, beside the outcomes that go to their callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// Of one mode's stream. Of `Finished`, only what was dropped or withdrawn and belongs to no [`Call`] of this process.
    Stream(Mode, Event),
    /// The log of a mode was damaged and begun anew; what was lost.
    LogBegunAnew(Mode, String),
    /// The connection has ended.
    Disconnected { reason: String },
    /// A log failed. The link is over: nothing more is taken, sent or applied. Open it again.
    Failed { reason: String },
}

/// Why a connection that was attached has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Both sides have said goodbye and drained, or the deadline has passed.
    Goodbye,
    /// Another was attached in its place.
    Replaced,
    /// The peer closed it, or it failed.
    Lost(String),
    /// The link itself was closed.
    Closed,
}

/// The numbers of one mode, as of the driver's last turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub stats: Stats,
    pub established: bool,
    /// Messages of ours that are not finished, and the octets of their bodies.
    pub waiting: usize,
    pub waiting_bytes: u64,
    /// Messages of the peer's that are received and not durable, and the window that bounds them.
    pub in_hand: u64,
    pub window: u64,
    pub round_trip: Duration,
    /// Octets of memory that grow with what waits.
    pub memory: usize,
}

/// The gauges of a standing: name, help, value.
pub fn gauges(standing: &Standing) -> [(&'static str, &'static str, f64); 6] {
    let s = standing;
    [
        ("established", "1 while messages flow on the stream", f64::from(u8::from(s.established))),
        ("waiting", "Messages that are not finished", s.waiting as f64),
        ("waiting_bytes", "Octets of their bodies", s.waiting_bytes as f64),
        ("window", "Messages that the receiver holds at most", s.window as f64),
        ("round_trip_seconds", "The measured round trip", s.round_trip.as_secs_f64()),
        ("memory_bytes", "Memory that grows with what waits", s.memory as f64),
    ]
}

/// The counters of a standing that tell how a stream does: name, help, value.
pub fn counters(standing: &Standing) -> [(&'static str, &'static str, u64); 10] {
    let s = &standing.stats;
    let refused = s.data_misnumbered + s.data_damaged + s.data_outside_window + s.data_of_another_epoch;
    [
        ("connections", "Connections of the stream", s.connections),
        ("messages_sent", "First transmissions of messages", s.messages_sent),
        ("messages_sent_again", "Further transmissions", s.messages_sent_again),
        ("messages_lost", "Transmissions that were lost", s.messages_lost),
        ("messages_answered", "Messages that the peer applied and answered", s.messages_answered),
        ("messages_dropped", "Messages given up, because the peer was away for too long", s.messages_dropped),
        ("messages_applied", "Messages of the peer's that were applied", s.messages_applied),
        ("duplicates", "Messages of the peer's that came again and were not applied again", s.duplicates),
        ("refused", "Frames refused: the peer is broken, or not who it should be", refused),
        ("stuck", "Messages and batches that took too long", s.calls_stuck + s.work_stuck),
    ]
}

/// A handle on everything between here and one peer. Cheap to clone. The link ends with [`Link::close`], or when the last
/// handle ([`Sender`]s and [`Call`]s too) is gone; what is in the log stays there.
#[derive(Clone)]
pub struct Link {
    commands: mpsc::Sender<Command>,
    standing: Arc<Mutex<Vec<(Mode, Standing)>>>,
    names: Arc<Names>,
}

/// What a link reports; ends with the link.
#[derive(Debug)]
pub struct Events(mpsc::Receiver<LinkEvent>);

impl Events {
    pub async fn next(&mut self) -> Option<LinkEvent> {
        self.0.recv().await
    }
}

impl Link {
    /// Opens the logs (one directory a mode, under `directory`), asks the inboxes where they stand, and starts the driver
    /// on the current tokio runtime. There is no connection yet; messages are taken all the same.
    pub async fn open(
        names: Names,
        directory: impl AsRef<Path>,
        lanes: Vec<Lane>,
    ) -> Result<(Link, Events), OpenError> {
        let directory = directory.as_ref().to_owned();
        let shared = Arc::new(names);
        let names = Arc::clone(&shared);
        let opened = tokio::task::spawn_blocking(move || {
            lanes.into_iter().map(|lane| open_lane(&names, &directory, lane)).collect::<Result<Vec<_>, _>>()
        });
        let lanes = opened.await.expect("opening a log does not panic")?;
        let (commands, received) = mpsc::channel(COMMANDS_MAX);
        let (events, reported) = mpsc::channel(EVENTS_MAX);
        let standing = lanes.iter().map(|lane| (lane.mode(), Standing::default())).collect();
        let standing = Arc::new(Mutex::new(standing));
        tokio::spawn(Driver::new(lanes, received, events, Arc::clone(&standing)).run());
        Ok((Link { commands, standing, names: shared }, Events(reported)))
    }

    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Whether the link has ended: nothing more is taken, and its directory is free to be opened again.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.commands.is_closed()
    }

    /// The sender of one mode.
    #[must_use]
    pub fn sender(&self, mode: Mode) -> Sender {
        Sender { commands: self.commands.clone(), mode }
    }

    /// Gives the link its next connection; the one before ends. Resolves when this one has ended.
    ///
    /// The caller has made sure of who the peer is (mutual TLS); the hello's names are a check against mistakes.
    pub async fn attach(&self, connection: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Ended {
        let (ended, wait) = oneshot::channel();
        let command = Command::Attach { connection: connection::boxed(connection), ended };
        if self.commands.send(command).await.is_err() {
            return Ended::Closed;
        }
        wait.await.unwrap_or(Ended::Closed)
    }

    /// Ends the connection, if there is one. Nothing is lost: the next one resumes.
    pub async fn detach(&self) {
        let _ = self.commands.send(Command::Detach).await;
    }

    /// Says goodbye: takes nothing new, sends what waits, waits until the peer has done so too or `within` has passed.
    /// Returns how many messages are left, unfinished, in the logs. The link is closed then.
    pub async fn goodbye(&self, within: Duration) -> u64 {
        let (left, wait) = oneshot::channel();
        let _ = self.commands.send(Command::Goodbye { within, left }).await;
        wait.await.unwrap_or(0)
    }

    /// Ends the link at once. What waits stays in the log for the next time that it is opened.
    pub async fn close(&self) {
        let (done, wait) = oneshot::channel();
        let _ = self.commands.send(Command::Close { done }).await;
        let _ = wait.await;
    }

    /// The numbers of a mode; `None` if the link has no such mode.
    #[must_use]
    pub fn standing(&self, mode: Mode) -> Option<Standing> {
        let all = self.standing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.iter().find(|(which, _)| *which == mode).map(|(_, standing)| *standing)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("names", &self.names).finish_non_exhaustive()
    }
}

/// Sends messages of one mode. Cheap to clone.
#[derive(Clone)]
pub struct Sender {
    commands: mpsc::Sender<Command>,
    mode: Mode,
}

impl Sender {
    /// Sends a message. When this returns `Ok`, the message is in the log (as durable as [`crate::Sync`] says) and will
    /// be delivered, through crashes of either side; the [`Call`] resolves when it has been, and may be dropped.
    /// Cancelling this future leaves open whether the message was taken.
    pub async fn send(&self, app: App, body: impl Into<Bytes>) -> Result<Call, SendError> {
        let (kept, taken) = oneshot::channel();
        let (outcome, finished) = oneshot::channel();
        let command = Command::Send { mode: self.mode, app, body: body.into(), kept, outcome };
        self.commands.send(command).await.map_err(|_| SendError::Ended)?;
        let position = taken.await.map_err(|_| SendError::Ended)??;
        Ok(Call { commands: self.commands.clone(), mode: self.mode, position, finished })
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// A message that is in the log. Resolves to what became of it; `None` when the link ended before that (the message stays
/// in the log, and is delivered when the link is opened again).
pub struct Call {
    commands: mpsc::Sender<Command>,
    mode: Mode,
    position: Position,
    finished: oneshot::Receiver<Outcome>,
}

impl Call {
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Takes the message back if it was never sent. On `Ok` the call resolves to [`Outcome::Withdrawn`].
    pub async fn withdraw(&self) -> Result<(), TooLate> {
        let (done, wait) = oneshot::channel();
        let command = Command::Withdraw { mode: self.mode, position: self.position, done };
        self.commands.send(command).await.map_err(|_| TooLate)?;
        wait.await.unwrap_or(Err(TooLate))
    }
}

impl Future for Call {
    type Output = Option<Outcome>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Outcome>> {
        Pin::new(&mut self.finished).poll(context).map(Result::ok)
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("mode", &self.mode).field("position", &self.position).finish_non_exhaustive()
    }
}

fn open_lane(names: &Names, directory: &Path, lane: Lane) -> Result<driver::Opened, OpenError> {
    let id = StreamId::new(&names.local, &names.peer, lane.mode);
    let directory = directory.join(format!("mode-{}", lane.mode.0));
    let io = |source| OpenError::Io { directory: directory.clone(), source };
    let disk = FileDisk::new(&directory).map_err(io)?;
    let lock = std::fs::File::create(directory.join("lock")).map_err(io)?;
    if lock.try_lock().is_err() {
        return Err(OpenError::Locked { directory });
    }
    let lock = driver::Lock(lock);
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let epoch = u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX).max(1);
    let identity = LogIdentity { direction: id.direction(), epoch, boot: boot() };
    let mut begun_anew = None;
    let opened = match Log::<FileDisk, Sound>::open(disk, lane.log, identity) {
        Err(error @ (LogError::Damaged(_) | LogError::Unsynced { .. })) if lane.on_damage == OnDamage::BeginAnew => {
            begun_anew = Some(error.to_string());
            FileDisk::new(&directory).map_err(LogError::Io).and_then(|disk| Log::begin_anew(disk, lane.log, identity))
        }
        outcome => outcome,
    };
    let (log, recovered) = opened.map_err(|source| OpenError::Log { directory: directory.clone(), source })?;
    let mut inbox = lane.inbox;
    let saved = inbox.load(&id).map_err(|source| OpenError::Inbox { mode: lane.mode, source })?;
    let faults = lane.config.faults;
    let stream = Stream::open(id, lane.config, recovered, saved.as_deref(), Duration::ZERO, mix(epoch))?;
    Ok(driver::Opened { stream, log, inbox, lock, faults, begun_anew })
}

/// A number that changes when the machine starts; 1 where the system doesn't tell.
fn boot() -> u64 {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.bytes().fold(1, |sum, octet| mix(sum ^ u64::from(octet)))
}
