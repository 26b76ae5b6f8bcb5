//! The receiving half: what has arrived, what has been applied and is on disk, and what the sender is told of both.
//!
//! `received` lives in memory and is lost with it; `durable` comes back from the inbox, which stores it in the same
//! transaction as the effects. Only `durable`, and the answers below it, let the sender forget. Numbers are granted a
//! quarter of the window at a time, never further than a window past `durable`: so what is held here is bounded.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use crate::config::Config;
use crate::number::{Grant, mix};
use crate::rules::Rules;
use crate::stats::Stats;
use crate::types::{App, Epoch, Event, Message, Position, StreamId, checksum};
use crate::wire;

/// Octets of bodies that a receiver holds at most while an earlier one is missing; a message past it is as if lost.
const HELD_MAX: usize = 16 << 20;
/// Octets of answers in one frame.
const ANSWERS_MAX: usize = 256 << 10;

/// Consecutive messages for the inbox, to be applied in one transaction together with [`Batch::seal`].
#[derive(Clone, Debug)]
pub struct Batch {
    pub stream: StreamId,
    /// In order. A withdrawn message leaves a hole; a batch may be of holes alone, and is stored all the same.
    pub messages: Vec<Message>,
    pub(crate) epoch: Epoch,
    pub(crate) from: Position,
    pub(crate) until: Position,
    answers: BTreeMap<Position, Bytes>,
    floor: Position,
}

impl Batch {
    /// What to store, in the same transaction as the effects, under this stream's name. `answers`: one for each message.
    ///
    /// # Panics
    /// If there is not one answer for each message.
    #[must_use]
    pub fn seal(&self, answers: &[Bytes]) -> Vec<u8> {
        assert_eq!(answers.len(), self.messages.len(), "one answer for each message of the batch");
        let kept = self.answers.iter().map(|(position, body)| (*position, body));
        let new = self.messages.iter().map(|message| message.position).zip(answers);
        let answers = kept
            .chain(new)
            .filter(|(_, body)| !body.is_empty())
            .map(|(position, body)| wire::Answer { position, body: body.clone() })
            .collect();
        wire::Saved { epoch: self.epoch, durable_below: self.until, answers, floor: self.floor }.encode_to_vec()
    }

    /// The positions that are on disk once the batch is.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<Position> {
        self.from..self.until
    }

    /// The log that the messages come from.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
}

#[derive(Debug)]
struct Held {
    app: App,
    body: Bytes,
    tombstone: bool,
}

#[derive(Debug)]
struct Work {
    epoch: Epoch,
    from: Position,
    until: Position,
    /// Of the messages; `None` where a position is a tombstone.
    positions: Vec<Position>,
    app: App,
    since: Duration,
    noticed: bool,
}

#[derive(Debug)]
pub(crate) struct Inbound<R> {
    stream: StreamId,
    direction: u32,
    pub(crate) epoch: Epoch,
    pub(crate) durable_below: Position,
    /// The first position that has not been handed to the inbox.
    deliver_next: Position,
    /// From `deliver_next` on.
    held: VecDeque<Option<Held>>,
    held_bytes: usize,
    received_below: Position,
    window: u64,
    grants: VecDeque<Grant>,
    granted_until: Position,
    /// The end of the numbers that the sender is known to have.
    granted_known: Position,
    seed: u64,
    /// Of `[peer_floor, durable_below)`; one that isn't here is empty.
    answers: BTreeMap<Position, Bytes>,
    peer_floor: Position,
    answers_sent_below: Position,
    unacknowledged: u64,
    due_at: Option<Duration>,
    /// Feedback is wanted as soon as everything below is durable.
    owed_below: Position,
    now: bool,
    work: Option<Work>,
    established: bool,
    rules: std::marker::PhantomData<R>,
}

impl<R: Rules> Inbound<R> {
    pub(crate) fn new(
        stream: StreamId,
        saved: Option<&[u8]>,
        config: &Config,
        seed: u64,
    ) -> Result<Inbound<R>, prost::DecodeError> {
        let saved = match saved {
            Some(saved) => wire::Saved::decode(saved)?,
            None => wire::Saved { epoch: 0, durable_below: 1, answers: Vec::new(), floor: 1 },
        };
        let below = saved.durable_below.max(1);
        Ok(Inbound {
            direction: stream.reversed().direction(),
            stream,
            epoch: saved.epoch,
            durable_below: below,
            deliver_next: below,
            held: VecDeque::new(),
            held_bytes: 0,
            received_below: below,
            window: config.window,
            grants: VecDeque::new(),
            granted_until: below,
            granted_known: below,
            seed,
            answers: saved.answers.into_iter().map(|answer| (answer.position, answer.body)).collect(),
            peer_floor: saved.floor,
            answers_sent_below: below,
            unacknowledged: 0,
            due_at: None,
            owed_below: 0,
            now: false,
            work: None,
            established: false,
            rules: std::marker::PhantomData,
        })
    }

    pub(crate) fn received_below(&self) -> Position {
        self.received_below
    }

    pub(crate) fn window(&self) -> u64 {
        self.window
    }

    /// Messages received and not yet durable: never more than the window.
    pub(crate) fn in_hand(&self) -> u64 {
        self.held.iter().flatten().count() as u64 + (self.deliver_next - self.durable_below)
    }

    pub(crate) fn memory(&self) -> usize {
        self.held_bytes
            + self.held.capacity() * size_of::<Option<Held>>()
            + self.answers.values().map(|answer| answer.len() + 48).sum::<usize>()
    }

    pub(crate) fn disconnected(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
        self.received_below = self.deliver_next;
        self.grants.clear();
        self.due_at = None;
        self.now = false;
        self.unacknowledged = 0;
        self.owed_below = 0;
        self.established = false;
    }

    /// What the peer's hello says of its log. `Err`: it is older than the one known.
    pub(crate) fn greet(&mut self, hello: &wire::Hello, events: &mut VecDeque<Event>) -> Result<(), Event> {
        let begun_anew = hello.epoch != self.epoch && !R::EPOCH_NOT_COMPARED;
        if begun_anew && hello.epoch < self.epoch {
            return Err(Event::PeerIsStale { epoch: hello.epoch, known: self.epoch });
        }
        if begun_anew {
            if self.epoch != 0 {
                events.push_back(Event::PeerBegunAnew { epoch: hello.epoch, was: self.epoch });
            }
            self.epoch = hello.epoch;
            self.answers.clear();
            self.move_to(hello.floor);
        } else if hello.floor > self.deliver_next {
            events.push_back(Event::Gap { from: self.deliver_next, until: hello.floor });
            self.move_to(hello.floor);
        }
        if self.epoch == 0 {
            self.epoch = hello.epoch;
        }
        self.established = true;
        self.grants.clear();
        self.granted_until = self.received_below;
        self.granted_known = self.received_below;
        // A sender whose last trim was not on disk begins lower than it was; what it has forgotten to have heard is empty.
        self.peer_floor = hello.floor.clamp(1, self.durable_below);
        self.answers = self.answers.split_off(&self.peer_floor);
        self.answers_sent_below = self.peer_floor;
        self.top_up();
        self.now = true;
        Ok(())
    }

    fn move_to(&mut self, floor: Position) {
        let floor = floor.max(1);
        self.deliver_next = floor;
        self.received_below = floor;
        self.durable_below = floor;
        self.peer_floor = floor;
    }

    fn forget_answers(&mut self, floor: Position) {
        if floor > self.peer_floor || self.answers.first_key_value().is_some_and(|(first, _)| *first < floor) {
            self.peer_floor = self.peer_floor.max(floor).min(self.durable_below);
            self.answers = self.answers.split_off(&self.peer_floor);
        }
        self.answers_sent_below = self.answers_sent_below.max(self.peer_floor);
    }

    /// Grants a quarter of the window at a time, up to a window past what is durable.
    fn top_up(&mut self) {
        let limit = self.durable_below + self.window + u64::from(R::WINDOW_OFF_BY_ONE);
        let quarter = (self.window / 4).max(1);
        while self.granted_until + quarter <= limit {
            self.seed = mix(self.seed);
            let until = self.granted_until + quarter;
            self.grants.push_back(Grant::new(self.direction, self.epoch, self.granted_until, until, self.seed));
            self.granted_until = until;
        }
    }

    /// What the sender says of itself with anything it sends.
    pub(crate) fn pace(&mut self, pace: &wire::Pace, config: &Config, stats: &mut Stats) {
        self.forget_answers(pace.floor);
        self.granted_known = self.granted_known.max(pace.granted_below.min(self.granted_until));
        while self.grants.front().is_some_and(|grant| grant.until <= self.durable_below) {
            self.grants.pop_front();
        }
        if pace.blocked && pace.granted_below == self.granted_until && self.window < config.window_max {
            self.window = (self.window * 2).min(config.window_max);
            stats.pool_doubled += 1;
            self.top_up();
            self.now = true;
        }
        if pace.blocked && self.granted_known < self.granted_until {
            self.now = true;
        }
    }

    pub(crate) fn data(&mut self, now: Duration, data: wire::Data, config: &Config, stats: &mut Stats) {
        if !self.established || (data.epoch != self.epoch && !R::EPOCH_NOT_COMPARED) {
            stats.data_of_another_epoch += 1;
            return;
        }
        let pace = data.pace.unwrap_or_default();
        self.pace(&pace, config, stats);
        let position = data.position;
        let app = App(data.application);
        if position < self.received_below || self.slot(position).is_some_and(|slot| slot.is_some()) {
            stats.duplicates += 1;
            self.answers_sent_below = self.peer_floor;
            self.owe(now, position + 1, pace.immediate, config);
            return;
        }
        if position >= self.granted_until {
            stats.data_outside_window += 1;
            self.now = true;
            return;
        }
        let number = self.grants.iter().find(|grant| grant.covers(position)).map(|grant| grant.number(position));
        if number != Some(data.number) {
            stats.data_misnumbered += 1;
            self.now = true;
            return;
        }
        if checksum(position, app, &data.body) != data.checksum || data.body.len() > config.body_max {
            stats.data_damaged += 1;
            self.now = true;
            return;
        }
        if self.held_bytes + data.body.len() > HELD_MAX && position != self.received_below {
            stats.data_without_room += 1;
            return;
        }
        stats.messages_received += 1;
        self.hold(position, Held { app, body: data.body, tombstone: data.tombstone });
        self.unacknowledged += 1;
        self.owe(now, position + 1, pace.immediate, config);
        if self.unacknowledged >= self.window / 4 {
            self.now = true;
        }
    }

    fn slot(&self, position: Position) -> Option<&Option<Held>> {
        self.held.get(usize::try_from(position.checked_sub(self.deliver_next)?).ok()?)
    }

    fn hold(&mut self, position: Position, held: Held) {
        let index = usize::try_from(position - self.deliver_next).expect("within the window");
        // A position further on than the next shows that what is between is missing: ask for it at once.
        if index > self.held.len() {
            self.now = true;
        }
        while self.held.len() <= index {
            self.held.push_back(None);
        }
        self.held_bytes += held.body.len();
        self.held[index] = Some(held);
        while self.slot(self.received_below).is_some_and(Option::is_some) {
            self.received_below += 1;
        }
    }

    /// Feedback is wanted: soon, or once this position is durable, when the sender waits for it.
    fn owe(&mut self, now: Duration, below: Position, immediate: bool, config: &Config) {
        if immediate {
            if below <= self.durable_below {
                self.now = true;
            } else {
                self.owed_below = self.owed_below.max(below);
            }
            // A missing one before it keeps it from being applied: the sender must hear that.
            self.now |= below > self.received_below;
        }
        self.due_at = Some(self.due_at.unwrap_or(now + config.ack_delay));
    }

    pub(crate) fn probed(&mut self, probe: &wire::Probe, config: &Config, stats: &mut Stats) {
        if !self.established || (probe.epoch != self.epoch && !R::EPOCH_NOT_COMPARED) {
            stats.data_of_another_epoch += 1;
            return;
        }
        self.pace(&probe.pace.unwrap_or_default(), config, stats);
        self.answers_sent_below = self.peer_floor;
        self.now = true;
    }

    /// The next consecutive messages, once the batch before them is durable.
    pub(crate) fn deliver(&mut self, now: Duration, config: &Config) -> Option<Batch> {
        if self.work.is_some() || self.received_below == self.deliver_next {
            return None;
        }
        let from = self.deliver_next;
        let mut messages = Vec::new();
        while self.deliver_next < self.received_below && messages.len() < config.batch_max {
            let held = self.held.pop_front().flatten().expect("everything below `received_below` is held");
            self.held_bytes -= held.body.len();
            if !held.tombstone {
                messages.push(Message { position: self.deliver_next, app: held.app, body: held.body });
            }
            self.deliver_next += 1;
        }
        self.work = Some(Work {
            epoch: self.epoch,
            from,
            until: self.deliver_next,
            positions: messages.iter().map(|message| message.position).collect(),
            app: messages.first().map_or(App(0), |message| message.app),
            since: now,
            noticed: false,
        });
        let (stream, epoch, until) = (self.stream.clone(), self.epoch, self.deliver_next);
        Some(Batch { stream, messages, epoch, from, until, answers: self.answers.clone(), floor: self.peer_floor })
    }

    /// The batch that was handed out is applied and on disk, with these answers.
    pub(crate) fn applied(&mut self, now: Duration, answers: Vec<Bytes>, config: &Config, stats: &mut Stats) {
        let Some(work) = self.work.take() else {
            return;
        };
        stats.messages_applied += work.positions.len() as u64;
        if work.epoch != self.epoch {
            return;
        }
        let new = work.positions.into_iter().zip(answers);
        let floor = self.peer_floor;
        self.answers.extend(new.filter(|(position, body)| *position >= floor && !body.is_empty()));
        self.durable_below = self.durable_below.max(work.until);
        if !self.established {
            return;
        }
        self.top_up();
        if self.owed_below != 0 && self.owed_below <= self.durable_below {
            self.owed_below = 0;
            self.now = true;
        }
        self.due_at = Some(self.due_at.unwrap_or(now + config.ack_delay));
    }

    /// Feedback goes at once, whatever it says.
    pub(crate) fn answer_now(&mut self) {
        self.now = true;
    }

    /// Whether feedback is to go alone now; it may ride on anything whenever there is some.
    pub(crate) fn feedback_due(&self, now: Duration) -> bool {
        self.established && (self.now || self.due_at.is_some_and(|at| now >= at))
    }

    pub(crate) fn feedback_rides(&self) -> bool {
        self.established && (self.now || self.due_at.is_some())
    }

    pub(crate) fn feedback(&mut self) -> wire::Feedback {
        self.now = false;
        self.due_at = None;
        self.unacknowledged = 0;
        let first = usize::try_from(self.received_below - self.deliver_next).expect("within the window");
        let mut bits = vec![0; self.held.len().saturating_sub(first).div_ceil(8)];
        for (index, _) in self.held.iter().skip(first).enumerate().filter(|(_, slot)| slot.is_some()) {
            bits[index / 8] |= 1 << (index % 8);
        }
        let answers_from = self.answers_sent_below.clamp(self.peer_floor, self.durable_below.max(self.peer_floor));
        let mut answers = Vec::new();
        let mut answers_below = self.durable_below.max(answers_from);
        let mut octets = 0;
        for (&position, body) in self.answers.range(answers_from..) {
            if octets + body.len() > ANSWERS_MAX && !answers.is_empty() {
                answers_below = position;
                self.now = true;
                break;
            }
            octets += body.len() + 16;
            answers.push(wire::Answer { position, body: body.clone() });
        }
        self.answers_sent_below = answers_below;
        wire::Feedback {
            epoch: self.epoch,
            received_below: self.received_below,
            bits: bits.into(),
            durable_below: self.durable_below,
            answers_from,
            answers_below,
            answers,
            grants: self.grants.iter().filter(|grant| grant.until > self.granted_known).map(Into::into).collect(),
        }
    }

    pub(crate) fn tick(&mut self, now: Duration, config: &Config, stats: &mut Stats, events: &mut VecDeque<Event>) {
        if let Some(work) = &mut self.work
            && !work.noticed
            && now >= work.since + config.stuck_work
        {
            work.noticed = true;
            stats.work_stuck += 1;
            events.push_back(Event::StuckWork { position: work.from, app: work.app });
        }
    }

    pub(crate) fn deadline(&self, now: Duration, config: &Config) -> Option<Duration> {
        let stuck = self.work.as_ref().filter(|work| !work.noticed).map(|work| work.since + config.stuck_work);
        let due = if self.established && self.now { Some(now) } else { self.due_at };
        [due, stuck].into_iter().flatten().min()
    }
}
