//! The task that turns the machines: commands, disk, inbox and connection in; whatever the machines want, out.
//!
//! It never blocks: writes to the log and batches for the inbox run on tokio's blocking threads, one of each a lane at a
//! time, so that what comes meanwhile goes together in the next. Everything else happens here, in order.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::connection::{BoxedIo, Connection, OUT_MAX};
use super::{Ended, LinkEvent, Standing};
use crate::fault::{Faults, Loss};
use crate::inbound::Batch;
use crate::inbox::{Inbox, InboxError};
use crate::log::{FileDisk, Log};
use crate::machine::Stream;
use crate::outbound::{SendError, TooLate};
use crate::record::{Bodies, Record};
use crate::types::{App, Event, Mode, Outcome, Position};
use crate::wire;

/// Commands taken at once before the machines are turned.
const COMMANDS_AT_ONCE: usize = 1024;

/// Between two tries of a batch that an inbox could not apply; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

pub(super) enum Command {
    Send {
        mode: Mode,
        app: App,
        body: Bytes,
        kept: oneshot::Sender<Result<Position, SendError>>,
        outcome: oneshot::Sender<Outcome>,
    },
    Withdraw {
        mode: Mode,
        position: Position,
        done: oneshot::Sender<Result<(), TooLate>>,
    },
    Attach {
        connection: BoxedIo,
        ended: oneshot::Sender<Ended>,
    },
    Detach,
    Goodbye {
        within: Duration,
        left: oneshot::Sender<u64>,
    },
    Close {
        done: oneshot::Sender<()>,
    },
}

/// What a blocking thread gives back.
enum Done {
    Stored {
        lane: usize,
        log: Box<Log<FileDisk>>,
        outcome: std::io::Result<()>,
    },
    /// The outer error: it panicked.
    Applied {
        lane: usize,
        inbox: Box<dyn Inbox>,
        batch: Batch,
        outcome: Result<Result<Vec<Bytes>, InboxError>, String>,
    },
}

pub(super) struct Opened {
    pub stream: Stream,
    pub log: Log<FileDisk>,
    pub inbox: Box<dyn Inbox>,
    pub lock: Lock,
    pub faults: Faults,
    pub begun_anew: Option<String>,
}

/// A folder's lock file, locked; held while the log is open.
pub(super) struct Lock(pub File);

impl Drop for Lock {
    /// Unlocks, where closing would not do: a child that was forked and has not come to its exec has the file open too.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

impl Opened {
    pub(super) fn mode(&self) -> Mode {
        self.stream.id().mode
    }
}

struct Lane {
    stream: Stream,
    /// Away while a commit runs.
    log: Option<Box<Log<FileDisk>>>,
    inbox: Option<Box<dyn Inbox>>,
    /// A batch that the inbox could not apply, and when it gets it again.
    again: Option<(Duration, Batch)>,
    pause: Duration,
    _lock: Lock,
    loss: Loss,
    begun_anew: Option<String>,
    /// Callers whose message is in no commit yet, and those whose commit runs.
    taken: Vec<(Position, oneshot::Sender<Result<Position, SendError>>)>,
    committing: Vec<(Position, oneshot::Sender<Result<Position, SendError>>)>,
    calls: HashMap<Position, oneshot::Sender<Outcome>>,
    left: Option<u64>,
}

/// The log of a lane, for a machine that wants a body: not while it is away.
struct Present<'a>(Option<&'a mut Log<FileDisk>>);

impl Bodies for Present<'_> {
    fn body(&mut self, position: Position) -> std::io::Result<Option<Bytes>> {
        match &mut self.0 {
            Some(log) => log.body(position),
            None => Ok(None),
        }
    }
}

pub(super) struct Driver {
    lanes: Vec<Lane>,
    commands: mpsc::Receiver<Command>,
    done: mpsc::UnboundedReceiver<Done>,
    finish: mpsc::UnboundedSender<Done>,
    events: mpsc::Sender<LinkEvent>,
    unread: u64,
    standing: Arc<Mutex<Vec<(Mode, Standing)>>>,
    connection: Option<Connection>,
    leaving: VecDeque<oneshot::Sender<u64>>,
    start: Instant,
}

/// What ends the driver. Who asked for it is told when the directory is free.
enum Stop {
    Closed(Option<oneshot::Sender<()>>),
    /// By goodbyes; how many messages are left in the logs.
    Left(u64),
    Failed(String),
}

impl Driver {
    pub(super) fn new(
        opened: Vec<Opened>,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<LinkEvent>,
        standing: Arc<Mutex<Vec<(Mode, Standing)>>>,
    ) -> Driver {
        let lane = |opened: Opened| Lane {
            stream: opened.stream,
            log: Some(Box::new(opened.log)),
            inbox: Some(opened.inbox),
            again: None,
            pause: PAUSE_MIN,
            _lock: opened.lock,
            loss: Loss::new(opened.faults),
            begun_anew: opened.begun_anew,
            taken: Vec::new(),
            committing: Vec::new(),
            calls: HashMap::new(),
            left: None,
        };
        let (finish, done) = mpsc::unbounded_channel();
        Driver {
            lanes: opened.into_iter().map(lane).collect(),
            commands,
            done,
            finish,
            events,
            unread: 0,
            standing,
            connection: None,
            leaving: VecDeque::new(),
            start: Instant::now(),
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    pub(super) async fn run(mut self) {
        for lane in 0..self.lanes.len() {
            if let Some(report) = self.lanes[lane].begun_anew.take() {
                tracing::error!(stream = %self.lanes[lane].stream.id(), report, "a log was begun anew");
                let mode = self.lanes[lane].stream.id().mode;
                self.report(LinkEvent::LogBegunAnew(mode, report));
            }
        }
        let stop = loop {
            if let Err(stop) = self.step().await {
                break stop;
            }
        };
        self.end_connection(Ended::Closed, "the link was closed");
        // A commit or a batch that runs is let to its end: the directory is free when the link has ended.
        while self.lanes.iter().any(|lane| lane.log.is_none() || lane.inbox.is_none()) {
            match self.done.recv().await {
                Some(Done::Stored { lane, log, .. }) => self.lanes[lane].log = Some(log),
                Some(Done::Applied { lane, inbox, .. }) => self.lanes[lane].inbox = Some(inbox),
                None => break,
            }
        }
        match stop {
            Stop::Closed(done) => {
                drop(self);
                if let Some(done) = done {
                    let _ = done.send(());
                }
            }
            Stop::Left(left) => {
                let leaving = std::mem::take(&mut self.leaving);
                drop(self);
                for leaving in leaving {
                    let _ = leaving.send(left);
                }
            }
            Stop::Failed(reason) => {
                tracing::error!(reason, "a message link has failed");
                self.report(LinkEvent::Failed { reason });
            }
        }
    }

    /// One turn of the machines, then one thing that happens.
    async fn step(&mut self) -> Result<(), Stop> {
        self.turn()?;
        let now = self.now();
        let again = |lane: &Lane| lane.again.as_ref().map(|(at, _)| *at);
        let deadlines = self.lanes.iter().flat_map(|lane| [lane.stream.deadline(now), again(lane)]);
        let deadline = deadlines.flatten().min();
        let sleep = async {
            match deadline {
                // The timer counts whole milliseconds; a deadline that is past has been seen to by this turn.
                Some(at) => tokio::time::sleep_until(self.start + at.max(now + Duration::from_millis(1))).await,
                None => std::future::pending().await,
            }
        };
        let step = async {
            match &mut self.connection {
                Some(connection) => connection.step().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            command = self.commands.recv() => {
                let Some(command) = command else {
                    return Err(Stop::Closed(None));
                };
                self.command(command)?;
                for _ in 1..COMMANDS_AT_ONCE {
                    let Ok(command) = self.commands.try_recv() else { break };
                    self.command(command)?;
                }
            }
            Some(done) = self.done.recv() => self.finished(done)?,
            outcome = step => match outcome {
                Ok(()) => self.received(),
                Err(error) => self.lost(&error.to_string()),
            },
            () = sleep => {
                let now = self.now();
                self.lanes.iter_mut().for_each(|lane| lane.stream.tick(now));
            }
        }
        Ok(())
    }

    fn command(&mut self, command: Command) -> Result<(), Stop> {
        let now = self.now();
        match command {
            Command::Send { mode, app, body, kept, outcome } => {
                let Some(lane) = self.lane(mode) else {
                    let _ = kept.send(Err(SendError::Ended));
                    return Ok(());
                };
                match lane.stream.send(now, app, body) {
                    Ok(position) => {
                        lane.taken.push((position, kept));
                        lane.calls.insert(position, outcome);
                    }
                    Err(refused) => {
                        let _ = kept.send(Err(refused));
                    }
                }
            }
            Command::Withdraw { mode, position, done } => {
                let outcome = self.lane(mode).map_or(Err(TooLate), |lane| lane.stream.withdraw(position));
                let _ = done.send(outcome);
            }
            Command::Attach { connection, ended } => {
                self.end_connection(Ended::Replaced, "another connection took its place");
                self.connection = Some(Connection::new(connection, ended));
                self.lanes.iter_mut().for_each(|lane| lane.stream.connected(now));
            }
            Command::Detach => self.end_connection(Ended::Closed, "it was detached"),
            Command::Goodbye { within, left } => {
                self.leaving.push_back(left);
                self.lanes.iter_mut().for_each(|lane| lane.stream.goodbye(now, now + within));
            }
            Command::Close { done } => return Err(Stop::Closed(Some(done))),
        }
        Ok(())
    }

    fn lane(&mut self, mode: Mode) -> Option<&mut Lane> {
        self.lanes.iter_mut().find(|lane| lane.stream.id().mode == mode)
    }

    fn finished(&mut self, done: Done) -> Result<(), Stop> {
        let now = self.now();
        match done {
            Done::Stored { lane, log, outcome } => {
                let lane = &mut self.lanes[lane];
                lane.log = Some(log);
                if let Err(error) = outcome {
                    for (_, kept) in lane.committing.drain(..).chain(lane.taken.drain(..)) {
                        let _ = kept.send(Err(SendError::Log(error.to_string())));
                    }
                    return Err(Stop::Failed(format!("{}: the log cannot be written: {error}", lane.stream.id())));
                }
                lane.stream.stored(now);
                for (position, kept) in lane.committing.drain(..) {
                    let _ = kept.send(Ok(position));
                }
            }
            Done::Applied { lane, inbox, batch, outcome } => {
                let lane = &mut self.lanes[lane];
                lane.inbox = Some(inbox);
                match outcome {
                    Ok(Ok(answers)) => {
                        lane.pause = PAUSE_MIN;
                        lane.stream.applied(now, answers);
                    }
                    Ok(Err(error)) => {
                        let pause = lane.pause;
                        tracing::warn!(stream = %batch.stream, %error, ?pause, "a batch could not be applied; it is tried again");
                        lane.again = Some((now + pause, batch));
                        lane.pause = (pause * 2).min(PAUSE_MAX);
                    }
                    Err(panic) => return Err(Stop::Failed(format!("{}: {panic}", batch.stream))),
                }
            }
        }
        Ok(())
    }

    /// Gives every whole frame to its stream.
    fn received(&mut self) {
        let now = self.now();
        let body_max = self.lanes.iter().map(|lane| lane.stream.body_max()).max().unwrap_or(0);
        let Some(mut received) = self.connection.as_mut().map(|connection| std::mem::take(&mut connection.received))
        else {
            return;
        };
        loop {
            match wire::decode(&mut received, body_max) {
                Ok(Some(frame)) => {
                    if let Some(lane) = self.lane(Mode(frame.mode))
                        && !lane.loss.of_received()
                    {
                        lane.stream.receive(now, frame);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    self.lost(&error.to_string());
                    return;
                }
            }
        }
        if let Some(connection) = &mut self.connection {
            connection.received = received;
        }
    }

    fn lost(&mut self, reason: &str) {
        self.end_connection(Ended::Lost(reason.to_owned()), reason);
    }

    fn end_connection(&mut self, how: Ended, reason: &str) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        let now = self.now();
        self.lanes.iter_mut().for_each(|lane| lane.stream.disconnected(now));
        connection.end(how);
        self.report(LinkEvent::Disconnected { reason: reason.to_owned() });
    }

    /// Asks every machine for everything it wants.
    fn turn(&mut self) -> Result<(), Stop> {
        let now = self.now();
        let mut silent = None;
        for index in 0..self.lanes.len() {
            self.start_jobs(index, now);
            self.transmit(index, now)?;
            silent = self.tell(index).or(silent);
        }
        if let Some(reason) = silent {
            self.lost(reason);
        }
        self.end_goodbye()?;
        let mut standing = self.standing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (lane, (_, standing)) in self.lanes.iter().zip(standing.iter_mut()) {
            let stream = &lane.stream;
            *standing = Standing {
                stats: *stream.stats(),
                established: stream.is_established(),
                waiting: stream.waiting(),
                waiting_bytes: stream.waiting_bytes(),
                in_hand: stream.in_hand(),
                window: stream.window(),
                round_trip: stream.round_trip(),
                memory: stream.memory(),
            };
        }
        Ok(())
    }

    fn start_jobs(&mut self, index: usize, now: Duration) {
        let lane = &mut self.lanes[index];
        if lane.log.is_some() {
            let records = lane.stream.take_records();
            if !records.is_empty() {
                let log = lane.log.take().expect("it was seen to be there");
                lane.committing.append(&mut lane.taken);
                let finish = self.finish.clone();
                if records.iter().all(|record| matches!(record, Record::Trimmed { .. })) {
                    // Goes to disk with the next record: nothing to wait for.
                    store(index, log, &records, &finish);
                } else {
                    tokio::task::spawn_blocking(move || store(index, log, &records, &finish));
                }
            }
        }
        if lane.inbox.is_none() {
            return;
        }
        let batch = match lane.again.take() {
            Some((at, batch)) if now < at => {
                lane.again = Some((at, batch));
                None
            }
            Some((_, batch)) => Some(batch),
            None => lane.stream.deliver(now),
        };
        if let Some(batch) = batch {
            let inbox = lane.inbox.take().expect("it was seen to be there");
            let finish = self.finish.clone();
            tokio::task::spawn_blocking(move || apply(index, inbox, batch, &finish));
        }
    }

    fn transmit(&mut self, index: usize, now: Duration) -> Result<(), Stop> {
        let lane = &mut self.lanes[index];
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        while connection.out.len() < OUT_MAX {
            match lane.stream.transmit(now, &mut Present(lane.log.as_deref_mut())) {
                Ok(Some(frame)) => {
                    if !lane.loss.of_sent() {
                        wire::encode(&frame, &mut connection.out);
                    }
                }
                Ok(None) => break,
                Err(error) => return Err(Stop::Failed(format!("{}: {error}", lane.stream.id()))),
            }
        }
        Ok(())
    }

    /// Hands out what a machine reports. Some: the connection is to end, for this reason.
    fn tell(&mut self, index: usize) -> Option<&'static str> {
        let mut silent = None;
        while let Some(event) = self.lanes[index].stream.event() {
            let lane = &mut self.lanes[index];
            let mode = lane.stream.id().mode;
            match event {
                Event::Finished { position, outcome } => {
                    if let Some(call) = lane.calls.remove(&position) {
                        let _ = call.send(outcome);
                    } else if !matches!(outcome, Outcome::Answered(_)) {
                        // Sent by a process that has ended: its end is worth telling only when it wasn't what was wanted.
                        self.report(LinkEvent::Stream(mode, Event::Finished { position, outcome }));
                    }
                }
                Event::Silent => silent = Some("the peer has been silent"),
                Event::Closed { left } => {
                    lane.left = Some(left);
                    self.report(LinkEvent::Stream(mode, event));
                }
                event => self.report(LinkEvent::Stream(mode, event)),
            }
        }
        silent
    }

    fn end_goodbye(&mut self) -> Result<(), Stop> {
        if self.leaving.is_empty() || self.lanes.iter().any(|lane| lane.left.is_none()) {
            return Ok(());
        }
        if self.connection.as_ref().is_some_and(|connection| !connection.is_flushed()) {
            return Ok(());
        }
        let left = self.lanes.iter().filter_map(|lane| lane.left).sum();
        self.end_connection(Ended::Goodbye, "goodbye");
        Err(Stop::Left(left))
    }

    fn report(&mut self, event: LinkEvent) {
        if self.events.try_send(event).is_err() && !self.events.is_closed() {
            self.unread += 1;
            if self.unread.is_power_of_two() {
                tracing::warn!(unread = self.unread, "events of a message link are not read and are lost");
            }
        }
    }
}

fn store(lane: usize, mut log: Box<Log<FileDisk>>, records: &[Record], finish: &mpsc::UnboundedSender<Done>) {
    let outcome = log.append(records);
    let _ = finish.send(Done::Stored { lane, log, outcome });
}

fn apply(lane: usize, mut inbox: Box<dyn Inbox>, batch: Batch, finish: &mpsc::UnboundedSender<Done>) {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| inbox.apply(&batch)));
    let outcome = outcome.map_err(|_| String::from("the inbox panicked"));
    let _ = finish.send(Done::Applied { lane, inbox, batch, outcome });
}
