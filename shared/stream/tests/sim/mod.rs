//! Two peers under a seed: the real machine and the real log, on a disk that loses what was not synced and a network
//! that loses, repeats and reorders, with crashes of each, lost disks, and disconnections of minutes.
//!
//! Every message has a number of its own. What must hold is checked as it happens: nothing is applied twice, out of
//! order or altered; nothing that was withdrawn or dropped for certain is applied; what a receiver holds stays within its
//! window; and once the trouble is over, everything that was taken is applied and answered, and the wire falls silent.

pub mod disk;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use disk::SimDisk;
use steady_stream::{
    App, Batch, Config, Event, Log, LogConfig, LogIdentity, Mode, Outcome, Position, Record, Rules, Stream, StreamId,
    wire,
};

pub type Id = u64;

/// What is to happen in one history.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub config: Config,
    pub log: LogConfig,
    /// One way.
    pub delay: Duration,
    pub lose_one_in: u32,
    /// Frames are repeated and overtake each other.
    pub wild: bool,
    /// Crashes, lost disks and disconnections, until this time.
    pub trouble_until: Duration,
    /// Between two messages of each node; `None`: it sends nothing of itself.
    pub every: [Option<Duration>; 2],
    /// No message after this.
    pub send_until: Duration,
    /// No connection from the first of these times to the second.
    pub away: Option<(Duration, Duration)>,
    /// A commit and a batch of the inbox take at most this.
    pub work: Duration,
}

impl Plan {
    /// Trouble of every kind for some minutes, one in ten lost on both legs, everything small so that every edge is met.
    pub fn troubled(seed: u64) -> Plan {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5eed);
        let config = Config {
            window: 8,
            window_max: 32,
            batch_max: 1 + rng.usize(..8),
            cache_max: 2000,
            messages_max: 300,
            bytes_max: 60_000,
            patience: Duration::from_secs(60),
            ..Config::default()
        };
        Plan {
            seed,
            config,
            log: LogConfig { segment_bytes: if rng.bool() { 2048 } else { 16_384 }, ..LogConfig::default() },
            delay: Duration::from_micros(rng.u64(100..50_000)),
            lose_one_in: 10,
            wild: rng.bool(),
            trouble_until: Duration::from_secs(240),
            every: [Some(Duration::from_millis(800)), Some(Duration::from_millis(1500))],
            send_until: Duration::from_secs(240),
            away: None,
            work: Duration::from_millis(20),
        }
    }

    /// No trouble but the given loss, at a round trip of 20 ms.
    #[allow(dead_code)]
    pub fn quiet(every: Duration, lose_one_in: u32, for_how_long: Duration) -> Plan {
        Plan {
            seed: 7,
            config: Config::default(),
            log: LogConfig::default(),
            delay: Duration::from_millis(10),
            lose_one_in,
            wild: false,
            trouble_until: Duration::ZERO,
            every: [Some(every), None],
            send_until: for_how_long,
            away: None,
            work: Duration::from_millis(1),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Given to `send`; not yet known to be stored.
    Taken,
    Kept,
    /// May be lost with the disk it was on, or with the process before it was kept; at most once applied.
    Uncertain,
    /// Must never be applied.
    Never,
    Answered,
}

#[derive(Debug)]
struct Sent {
    fate: Fate,
    position: Position,
    /// Which life of the sender's process it belongs to.
    life: u32,
    at: Duration,
    applied: bool,
    /// The receiver's store was lost after it was applied.
    body: Bytes,
}

struct Running<R: Rules> {
    stream: Stream<R>,
    log: Log<SimDisk, R>,
    commit: Option<(Duration, Vec<Record>)>,
    work: Option<(Duration, Batch)>,
}

/// The receiver's store: effects and cursor.
#[derive(Default)]
struct Store {
    saved: Option<Vec<u8>>,
    last_applied: BTreeMap<u64, Id>,
}

struct Node<R: Rules> {
    disk: SimDisk,
    store: Store,
    running: Option<Running<R>>,
    life: u32,
    restart_at: Option<Duration>,
    sent: BTreeMap<Id, Sent>,
    by_position: BTreeMap<Position, Id>,
    next_send: Option<Duration>,
    closed: bool,
}

/// What a history came to.
#[derive(Clone, Debug, Default)]
pub struct Outcomes {
    pub messages: u64,
    pub answered: u64,
    pub frames: u64,
    pub latencies: Vec<Duration>,
    pub memory_max: usize,
    pub waiting_max: usize,
    pub refused: u64,
    pub dropped: u64,
    pub withdrawn: u64,
    pub crashes: u64,
    pub disks_lost: u64,
    pub disconnections: u64,
    pub ended_at: Duration,
}

pub struct World<R: Rules> {
    plan: Plan,
    rng: fastrand::Rng,
    now: Duration,
    nodes: [Node<R>; 2],
    connected: bool,
    connect_at: Option<Duration>,
    wire: [VecDeque<(Duration, Bytes)>; 2],
    trouble_at: Option<Duration>,
    next_id: Id,
    pub outcomes: Outcomes,
    trace: bool,
}

type Verdict = Result<(), String>;

macro_rules! ensure {
    ($condition:expr, $($why:tt)*) => { if !$condition { return Err(format!($($why)*)); } };
}

fn stream_id(node: usize) -> StreamId {
    let names = ["agent", "edge"];
    StreamId::new(names[node], names[1 - node], Mode(0))
}

fn answer_to(body: &[u8]) -> Bytes {
    // One in four answers nothing.
    if body[0].is_multiple_of(4) { Bytes::new() } else { Bytes::copy_from_slice(&body[..8]) }
}

impl<R: Rules> World<R> {
    pub fn new(plan: Plan) -> World<R> {
        let node = |every: Option<Duration>| Node {
            disk: SimDisk::default(),
            store: Store::default(),
            running: None,
            life: 0,
            restart_at: Some(Duration::ZERO),
            sent: BTreeMap::new(),
            by_position: BTreeMap::new(),
            next_send: every,
            closed: false,
        };
        let trouble = (plan.trouble_until > Duration::ZERO).then(|| Duration::from_millis(500));
        World {
            rng: fastrand::Rng::with_seed(plan.seed),
            now: Duration::ZERO,
            nodes: [node(plan.every[0]), node(plan.every[1])],
            connected: false,
            connect_at: None,
            wire: [VecDeque::new(), VecDeque::new()],
            trouble_at: trouble,
            next_id: 1,
            outcomes: Outcomes::default(),
            trace: std::env::var_os("SIM_TRACE").is_some(),
            plan,
        }
    }

    /// Runs the whole history. The error says what was broken, and when.
    pub fn run(mut self) -> Result<Outcomes, String> {
        match self.history() {
            Ok(()) => {
                self.outcomes.ended_at = self.now;
                Ok(self.outcomes)
            }
            Err(why) => Err(format!("seed {}, at {:?}: {why}", self.plan.seed, self.now)),
        }
    }

    fn history(&mut self) -> Verdict {
        let over = self.plan.send_until.max(self.plan.trouble_until);
        if let Some((from, to)) = self.plan.away {
            self.until(from, |_| false)?;
            self.disconnect(to - from);
        }
        self.until(over, |_| false)?;
        self.trouble_at = None;
        if !self.connected {
            self.connect_at = Some(self.now + Duration::from_secs(1));
        }
        self.nodes.iter_mut().for_each(|node| node.next_send = None);
        // Everything must be answered soon: the longest wait is a restart, a connection and some probes.
        let limit = over + Duration::from_secs(60);
        self.until(limit, |world| {
            let done = |running: &Running<R>| running.stream.waiting() == 0 && running.commit.is_none();
            world.nodes.iter().all(|node| node.running.as_ref().is_some_and(done))
        })?;
        for (which, node) in self.nodes.iter().enumerate() {
            let waiting = node.running.as_ref().map_or(usize::MAX, |running| running.stream.waiting());
            if waiting != 0 && self.trace {
                for node in &self.nodes {
                    println!("{:#?}", node.running.as_ref().map(|running| &running.stream));
                }
            }
            ensure!(waiting == 0, "node {which} still waits for {waiting} messages a minute after the trouble");
            for (id, sent) in &node.sent {
                let lost = matches!(sent.fate, Fate::Kept | Fate::Answered) && !sent.applied;
                ensure!(
                    !lost,
                    "message {id} of node {which} ({:?}, position {}) was never applied",
                    sent.fate,
                    sent.position
                );
            }
        }
        // Then the wire falls silent.
        let settle = self.now + Duration::from_secs(3);
        self.until(settle, |_| false)?;
        let before = self.outcomes.frames;
        self.until(settle + Duration::from_secs(20), |_| false)?;
        ensure!(self.outcomes.frames == before, "{} frames with nothing to say", self.outcomes.frames - before);
        self.farewell()
    }

    fn farewell(&mut self) -> Verdict {
        let now = self.now;
        let leaver = usize::from(self.rng.bool());
        if let Some(running) = &mut self.nodes[leaver].running {
            running.stream.goodbye(now, now + Duration::from_secs(30));
        }
        self.until(now + Duration::from_secs(31), |world| world.nodes[leaver].closed)?;
        ensure!(self.nodes[leaver].closed, "the goodbye did not end");
        Ok(())
    }

    fn until(&mut self, end: Duration, done: impl Fn(&World<R>) -> bool) -> Verdict {
        let mut turns_at_once = 0;
        loop {
            self.turn()?;
            if done(self) {
                return Ok(());
            }
            let next = self.next_time();
            if next > end {
                self.now = self.now.max(end);
                return Ok(());
            }
            turns_at_once = if next <= self.now { turns_at_once + 1 } else { 0 };
            ensure!(turns_at_once < 10_000, "the machines turn without time passing");
            self.now = self.now.max(next);
        }
    }

    fn next_time(&self) -> Duration {
        let both_run = self.nodes.iter().all(|node| node.running.is_some());
        let mut next = [self.connect_at.filter(|_| both_run), self.trouble_at]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(Duration::MAX);
        for (which, node) in self.nodes.iter().enumerate() {
            let running = node.running.as_ref();
            let times = [
                node.restart_at,
                node.next_send,
                running.and_then(|running| running.stream.deadline(self.now)),
                running.and_then(|running| running.commit.as_ref().map(|commit| commit.0)),
                running.and_then(|running| running.work.as_ref().map(|work| work.0)),
                self.wire[which].iter().map(|frame| frame.0).min(),
            ];
            next = times.into_iter().flatten().fold(next, Duration::min);
        }
        next
    }

    fn turn(&mut self) -> Verdict {
        if self.trouble_at.is_some_and(|at| at <= self.now) {
            self.trouble()?;
        }
        for which in 0..2 {
            if self.nodes[which].restart_at.is_some_and(|at| at <= self.now) {
                self.start(which)?;
            }
        }
        if self.connect_at.is_some_and(|at| at <= self.now) && self.nodes.iter().all(|node| node.running.is_some()) {
            self.connect_at = None;
            self.connected = true;
            for node in &mut self.nodes {
                node.running.as_mut().expect("both run").stream.connected(self.now);
            }
        }
        for which in 0..2 {
            self.say(which);
            self.hear(which);
            self.work(which)?;
            self.pump(which)?;
        }
        Ok(())
    }

    fn start(&mut self, which: usize) -> Verdict {
        let node = &mut self.nodes[which];
        node.restart_at = None;
        node.life += 1;
        let identity = LogIdentity {
            direction: stream_id(which).direction(),
            epoch: 1 + u64::try_from(self.now.as_nanos()).unwrap(),
            boot: 1,
        };
        let (log, recovered) = Log::<SimDisk, R>::open(node.disk.clone(), self.plan.log, identity)
            .map_err(|error| format!("node {which} cannot start: {error}"))?;
        if self.trace {
            println!("{:?} {which} starts: {recovered:?}", self.now);
        }
        let seed = self.rng.u64(..);
        let stream = Stream::open(
            stream_id(which),
            self.plan.config.clone(),
            recovered,
            node.store.saved.as_deref(),
            self.now,
            seed,
        )
        .map_err(|error| error.to_string())?;
        node.running = Some(Running { stream, log, commit: None, work: None });
        self.connect_later();
        Ok(())
    }

    fn connect_later(&mut self) {
        if !self.connected && self.connect_at.is_none() {
            self.connect_at = Some(self.now + Duration::from_millis(self.rng.u64(1..500)));
        }
    }

    fn disconnect(&mut self, reconnect_in: Duration) {
        self.connected = false;
        self.wire.iter_mut().for_each(VecDeque::clear);
        for node in &mut self.nodes {
            if let Some(running) = &mut node.running {
                running.stream.disconnected(self.now);
            }
        }
        self.connect_at = Some(self.now + reconnect_in);
    }

    fn trouble(&mut self) -> Verdict {
        let more = self.now + Duration::from_millis(self.rng.u64(200..20_000));
        self.trouble_at = (more < self.plan.trouble_until).then_some(more);
        match self.rng.u8(..20) {
            0..8 => {
                let which = usize::from(self.rng.bool());
                self.crash(which)?;
            }
            8..15 => {
                self.outcomes.disconnections += 1;
                let away = Duration::from_millis(self.rng.u64(1..5000));
                self.disconnect(away);
            }
            15 => {
                self.outcomes.disconnections += 1;
                let away = Duration::from_secs(self.rng.u64(10..120));
                self.disconnect(away);
                // Nothing else that would bring them together sooner; or something.
                if self.rng.bool() {
                    self.trouble_at = Some(self.now + away).filter(|at| *at < self.plan.trouble_until);
                }
            }
            16 => {
                let which = usize::from(self.rng.bool());
                self.crash(which)?;
                self.lose_disk(which);
            }
            17 => {
                // In the middle of a large write.
                let which = self.burst();
                self.pump(which)?;
                self.crash(which)?;
            }
            _ => {
                self.burst();
            }
        }
        Ok(())
    }

    /// More at once than the window holds, and some of it withdrawn.
    fn burst(&mut self) -> usize {
        let which = usize::from(self.rng.bool());
        for _ in 0..self.rng.u32(1..60) {
            self.send(which);
        }
        for _ in 0..self.rng.u32(..5) {
            let node = &mut self.nodes[which];
            let Some((&position, _)) = node.by_position.iter().next_back() else { continue };
            let position = position.saturating_sub(self.rng.u64(..10));
            if let Some(running) = &mut node.running {
                let _ = running.stream.withdraw(position);
            }
        }
        which
    }

    fn crash(&mut self, which: usize) -> Verdict {
        let machine = self.rng.bool();
        let node = &mut self.nodes[which];
        let Some(mut running) = node.running.take() else { return Ok(()) };
        self.outcomes.crashes += 1;
        if let Some((_, records)) = running.commit.take() {
            // It was somewhere in the middle of its write.
            node.disk.fuse(self.rng.u32(..8));
            let _ = running.log.append(&records);
            // What was being dropped or withdrawn is so or isn't; nobody is left to be told.
            for sent in node.sent.values_mut().filter(|sent| sent.fate == Fate::Kept) {
                let given_up = records.iter().any(|record| match record {
                    Record::Dropped { below } => sent.position < *below,
                    Record::Withdrawn { position } => sent.position == *position,
                    _ => false,
                });
                if given_up {
                    sent.fate = Fate::Uncertain;
                }
            }
        }
        let half_done = running.work.take().filter(|_| self.rng.bool());
        if let Some((_, batch)) = half_done {
            self.transaction(which, &batch, !R::CURSOR_APART_FROM_EFFECT)?;
        }
        drop(running);
        let node = &mut self.nodes[which];
        if machine {
            node.disk.crashed(&mut self.rng);
        } else {
            node.disk.killed();
        }
        for sent in node.sent.values_mut().filter(|sent| sent.fate == Fate::Taken) {
            sent.fate = Fate::Uncertain;
        }
        node.by_position.clear();
        node.restart_at = Some(self.now + Duration::from_millis(self.rng.u64(5..4000)));
        if self.trace {
            println!("{:?} {which} crashes, machine: {machine}", self.now);
        }
        let again = Duration::from_millis(self.rng.u64(1..2000));
        self.disconnect(again);
        Ok(())
    }

    fn lose_disk(&mut self, which: usize) {
        self.outcomes.disks_lost += 1;
        let node = &mut self.nodes[which];
        node.disk.wiped();
        for sent in node.sent.values_mut().filter(|sent| matches!(sent.fate, Fate::Kept | Fate::Taken)) {
            sent.fate = Fate::Uncertain;
        }
        if self.trace {
            println!("{:?} {which} lost its disk", self.now);
        }
    }

    fn say(&mut self, which: usize) {
        while let Some(at) = self.nodes[which].next_send.filter(|at| *at <= self.now) {
            let every = self.plan.every[which].expect("only who sends has a next time");
            let every = if self.plan.trouble_until.is_zero() {
                every
            } else {
                Duration::from_micros(self.rng.u64(1..=2 * u64::try_from(every.as_micros()).unwrap()))
            };
            let next = at + every;
            self.nodes[which].next_send = (next < self.plan.send_until).then_some(next);
            self.send(which);
        }
    }

    fn send(&mut self, which: usize) {
        let id = self.next_id;
        let length = match self.rng.u8(..8) {
            _ if self.plan.trouble_until.is_zero() => 100,
            0 => self.rng.usize(8..1800),
            _ => self.rng.usize(8..300),
        };
        let mut body = id.to_le_bytes().to_vec();
        body.resize(length, (id % 251) as u8);
        let body = Bytes::from(body);
        let node = &mut self.nodes[which];
        let Some(running) = &mut node.running else { return };
        match running.stream.send(self.now, App(id), body.clone()) {
            Ok(position) => {
                self.next_id += 1;
                self.outcomes.messages += 1;
                node.by_position.insert(position, id);
                let sent = Sent { fate: Fate::Taken, position, life: node.life, at: self.now, applied: false, body };
                node.sent.insert(id, sent);
            }
            Err(_) => self.outcomes.refused += 1,
        }
    }

    fn hear(&mut self, which: usize) {
        loop {
            let due = self.wire[which].iter().position(|frame| frame.0 <= self.now);
            let Some(octets) = due.and_then(|index| self.wire[which].remove(index)) else { return };
            let mut octets = BytesMut::from(&octets.1[..]);
            let frame = wire::decode(&mut octets, self.plan.config.body_max).expect("we wrote it").expect("whole");
            if let Some(running) = &mut self.nodes[which].running {
                running.stream.receive(self.now, frame);
            }
        }
    }

    /// Ends commits and batches whose time has come.
    fn work(&mut self, which: usize) -> Verdict {
        let Some(running) = &mut self.nodes[which].running else { return Ok(()) };
        if let Some((_, records)) = running.commit.take_if(|commit| commit.0 <= self.now) {
            running.log.append(&records).map_err(|error| format!("node {which}: {error}"))?;
            running.stream.stored(self.now);
            let node = &mut self.nodes[which];
            for record in &records {
                if let Record::Message { position, .. } = record
                    && let Some(id) = node.by_position.get(position)
                    && let Some(sent) = node.sent.get_mut(id)
                    && sent.fate == Fate::Taken
                {
                    sent.fate = Fate::Kept;
                }
            }
        }
        let Some(running) = &mut self.nodes[which].running else { return Ok(()) };
        if let Some((_, batch)) = running.work.take_if(|work| work.0 <= self.now) {
            let answers = self.transaction(which, &batch, true)?;
            if let Some(running) = &mut self.nodes[which].running {
                running.stream.applied(self.now, answers);
            }
        }
        Ok(())
    }

    /// The inbox of a node applies a batch; the cursor is stored with it, as it must be, or not.
    fn transaction(&mut self, which: usize, batch: &Batch, with_cursor: bool) -> Result<Vec<Bytes>, String> {
        let mut answers = Vec::new();
        for message in &batch.messages {
            let id = u64::from_le_bytes(*message.body.first_chunk().ok_or("a message without its number")?);
            let now = self.now;
            let sent =
                self.nodes[1 - which].sent.get_mut(&id).ok_or(format!("message {id} was applied and never sent"))?;
            if self.trace {
                println!("{now:?} {which} applies {id} at {}", message.position);
            }
            ensure!(!sent.applied, "message {id} (position {}) was applied twice", message.position);
            ensure!(sent.body == message.body, "message {id} arrived altered");
            ensure!(message.app == App(id), "message {id} arrived for another application");
            ensure!(sent.fate != Fate::Never, "message {id} was withdrawn or dropped, and applied");
            ensure!(sent.position == message.position, "message {id} changed its position");
            sent.applied = true;
            let last = self.nodes[which].store.last_applied.entry(0).or_default();
            ensure!(*last < id, "message {id} was applied after {last}");
            *last = id;
            answers.push(answer_to(&message.body));
        }
        if with_cursor {
            self.nodes[which].store.saved = Some(batch.seal(&answers));
        }
        Ok(answers)
    }

    fn pump(&mut self, which: usize) -> Verdict {
        let now = self.now;
        let Some(running) = &mut self.nodes[which].running else { return Ok(()) };
        running.stream.tick(now);
        if running.commit.is_none() {
            let records = running.stream.take_records();
            if !records.is_empty() {
                let takes = Duration::from_micros(self.rng.u64(..u64::try_from(self.plan.work.as_micros()).unwrap()));
                running.commit = Some((now + takes, records));
            }
        }
        if running.work.is_none()
            && let Some(batch) = running.stream.deliver(now)
        {
            let takes = Duration::from_micros(self.rng.u64(..u64::try_from(self.plan.work.as_micros()).unwrap()));
            running.work = Some((now + takes, batch));
        }
        while let Some(frame) =
            running.stream.transmit(now, &mut running.log).map_err(|error| format!("node {which}: {error}"))?
        {
            self.outcomes.frames += 1;
            let copies = if self.plan.wild && self.rng.u8(..20) == 0 { 2 } else { 1 };
            for _ in 0..copies {
                if !self.connected || (self.plan.lose_one_in > 0 && self.rng.u32(..self.plan.lose_one_in) == 0) {
                    continue;
                }
                let late = if self.plan.wild && self.rng.u8(..10) == 0 {
                    self.plan.delay * self.rng.u32(..4)
                } else {
                    Duration::ZERO
                };
                let mut octets = BytesMut::new();
                wire::encode(&frame, &mut octets);
                self.wire[1 - which].push_back((now + self.plan.delay + late, octets.freeze()));
            }
        }
        let (in_hand, window) = (running.stream.in_hand(), running.stream.window());
        ensure!(in_hand <= window, "node {which} holds {in_hand} messages, its window is {window}");
        ensure!(window <= self.plan.config.window_max.max(self.plan.config.window), "the window grew to {window}");
        self.outcomes.memory_max = self.outcomes.memory_max.max(running.stream.memory());
        self.outcomes.waiting_max = self.outcomes.waiting_max.max(running.stream.waiting());
        self.tell(which)
    }

    fn tell(&mut self, which: usize) -> Verdict {
        let mut silent = false;
        let mut told = HashSet::new();
        loop {
            let node = &mut self.nodes[which];
            let Some(event) = node.running.as_mut().and_then(|running| running.stream.event()) else { break };
            if self.trace {
                println!("{:?} {which} {event:?}", self.now);
            }
            match event {
                Event::Finished { position, outcome } => {
                    ensure!(told.insert(position), "position {position} was finished twice");
                    self.finished(which, position, outcome)?;
                }
                Event::Silent => silent = true,
                Event::Closed { left } => {
                    ensure!(left == 0, "{left} messages were left at the goodbye");
                    node.closed = true;
                }
                Event::PeerIsStale { .. } | Event::PeerIsAnother { .. } => {
                    return Err(format!("node {which}: {event:?}"));
                }
                _ => {}
            }
        }
        if silent && self.connected {
            self.disconnect(Duration::from_millis(100));
        }
        Ok(())
    }

    fn finished(&mut self, which: usize, position: Position, outcome: Outcome) -> Verdict {
        let node = &mut self.nodes[which];
        let Some(id) = node.by_position.remove(&position) else {
            // Of a life before; what became of it is checked at the end.
            if let Outcome::Dropped { .. } = outcome {
                let old = node.sent.values_mut().filter(|sent| sent.position == position && sent.fate == Fate::Kept);
                old.for_each(|sent| sent.fate = Fate::Uncertain);
            }
            return Ok(());
        };
        let sent = node.sent.get_mut(&id).expect("it was sent");
        ensure!(sent.life == node.life, "a message of another life");
        match outcome {
            Outcome::Answered(answer) => {
                ensure!(sent.applied, "message {id} was answered and not applied");
                ensure!(answer == answer_to(&sent.body), "message {id} got the answer {answer:?}");
                sent.fate = Fate::Answered;
                self.outcomes.answered += 1;
                self.outcomes.latencies.push(self.now - sent.at);
            }
            Outcome::Withdrawn => {
                ensure!(!sent.applied, "message {id} was withdrawn after it was applied");
                sent.fate = Fate::Never;
                self.outcomes.withdrawn += 1;
            }
            Outcome::Dropped { in_doubt } => {
                ensure!(in_doubt || !sent.applied, "message {id} was dropped without a doubt after it was applied");
                sent.fate = if in_doubt { Fate::Uncertain } else { Fate::Never };
                self.outcomes.dropped += 1;
            }
        }
        Ok(())
    }
}
