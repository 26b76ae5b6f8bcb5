//! The sending half: what waits, what is under way, what the peer is known to have.
//!
//! Positions move through four cursors, each behind the one before: `next` (given to a caller), `stored_below` (on disk,
//! so it may be sent), `sent_below` (sent on this connection), `floor` (applied by the peer and answered: trimmed). A
//! frame that was lost is known by its serial: feedback that acknowledges a later one shows it. The last frame has no
//! later one; for that there is the probe.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::config::Config;
use crate::number::Grant;
use crate::record::{Bodies, Record, Recovered};
use crate::rules::Rules;
use crate::stats::Stats;
use crate::types::{App, Epoch, Event, Outcome, Position, checksum};
use crate::wire;

/// Why a message was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("{waiting} messages wait for the peer; {max} is the limit (messages_max)")]
    TooMany { waiting: usize, max: usize },
    #[error("{waiting} octets wait for the peer; {max} is the limit (bytes_max)")]
    TooMuch { waiting: u64, max: u64 },
    #[error("a body of {length} octets; {max} is the limit (body_max)")]
    TooLong { length: usize, max: usize },
    #[error("a goodbye is under way: nothing new is taken")]
    Leaving,
    #[error("the log cannot be written: {0}")]
    Log(String),
    #[error("the link has ended")]
    Ended,
}

/// Why a message could not be withdrawn: it may have reached the peer, or it is finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too late: the message was sent, or is finished")]
pub struct TooLate;

#[derive(Debug)]
struct Entry {
    app: App,
    checksum: u32,
    length: usize,
    since: Duration,
    /// When and as which frame it was last sent on this connection.
    sent: Option<(u64, Duration)>,
    again: bool,
    ever_sent: bool,
    received: bool,
    queued: bool,
    withdrawing: bool,
    tombstone: bool,
    noticed: bool,
    answer: Bytes,
    body: Option<Bytes>,
}

/// What a commit that is under way will have stored.
#[derive(Debug)]
struct Commit {
    below: Position,
    withdrawn: Vec<Position>,
    /// What is told only when it can no longer be forgotten.
    told: Vec<Event>,
}

#[derive(Debug)]
pub(crate) struct Outbound<R> {
    direction: u32,
    pub(crate) epoch: Epoch,
    pub(crate) floor: Position,
    entries: VecDeque<Entry>,
    stored_below: Position,
    sent_below: Position,
    grants: VecDeque<Grant>,
    granted_below: Position,
    received_below: Position,
    lost: VecDeque<Position>,
    serial: u64,
    acknowledged_serial: u64,
    bytes: u64,
    cached: usize,
    records: Vec<Record>,
    committing: Option<Commit>,
    withdrawing: Vec<Position>,
    told_when_stored: Vec<Event>,
    probe_at: Option<Duration>,
    probes: u32,
    probe_now: bool,
    round_trip: Duration,
    last_immediate: Option<Duration>,
    established_at: Option<Duration>,
    /// The peer leaves: nothing that has not been sent on this connection goes out.
    pub(crate) held: bool,
    rules: std::marker::PhantomData<R>,
}

impl<R: Rules> Outbound<R> {
    pub(crate) fn new(direction: u32, recovered: Recovered, now: Duration) -> Outbound<R> {
        let mut bytes = 0;
        let entries: VecDeque<Entry> = recovered
            .pending
            .iter()
            .map(|kept| {
                bytes += kept.length as u64;
                Entry {
                    app: kept.app,
                    checksum: kept.checksum,
                    length: kept.length,
                    since: now,
                    sent: None,
                    again: false,
                    // The process that knew has ended.
                    ever_sent: true,
                    received: false,
                    queued: false,
                    withdrawing: false,
                    tombstone: kept.tombstone,
                    noticed: false,
                    answer: Bytes::new(),
                    body: None,
                }
            })
            .collect();
        let next = recovered.floor + entries.len() as u64;
        Outbound {
            direction,
            epoch: recovered.epoch,
            floor: recovered.floor,
            entries,
            stored_below: next,
            sent_below: recovered.floor,
            grants: VecDeque::new(),
            granted_below: recovered.floor,
            received_below: recovered.floor,
            lost: VecDeque::new(),
            serial: 0,
            acknowledged_serial: 0,
            bytes,
            cached: 0,
            records: Vec::new(),
            committing: None,
            withdrawing: Vec::new(),
            told_when_stored: Vec::new(),
            probe_at: None,
            probes: 0,
            probe_now: false,
            round_trip: Duration::ZERO,
            last_immediate: None,
            established_at: None,
            held: false,
            rules: std::marker::PhantomData,
        }
    }

    pub(crate) fn next(&self) -> Position {
        self.floor + self.entries.len() as u64
    }

    pub(crate) fn waiting(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Octets of memory that grow with what waits.
    pub(crate) fn memory(&self) -> usize {
        self.cached
            + self.entries.capacity() * size_of::<Entry>()
            + self.lost.capacity() * size_of::<Position>()
            + self.records.iter().map(Record::memory).sum::<usize>()
    }

    /// Nothing that was sent on this connection is unanswered, and nothing waits that may still be sent.
    pub(crate) fn drained(&self) -> bool {
        if self.held { self.sent_below <= self.floor } else { self.entries.is_empty() }
    }

    pub(crate) fn round_trip(&self) -> Duration {
        self.round_trip
    }

    fn entry(&mut self, position: Position) -> Option<&mut Entry> {
        self.entries.get_mut(usize::try_from(position.checked_sub(self.floor)?).ok()?)
    }

    pub(crate) fn send(
        &mut self,
        now: Duration,
        app: App,
        body: Bytes,
        config: &Config,
    ) -> Result<Position, SendError> {
        if body.len() > config.body_max {
            return Err(SendError::TooLong { length: body.len(), max: config.body_max });
        }
        if self.entries.len() >= config.messages_max {
            return Err(SendError::TooMany { waiting: self.entries.len(), max: config.messages_max });
        }
        if self.bytes + body.len() as u64 > config.bytes_max {
            return Err(SendError::TooMuch { waiting: self.bytes, max: config.bytes_max });
        }
        let position = self.next();
        let checksum = checksum(position, app, &body);
        self.bytes += body.len() as u64;
        let kept = self.cached + body.len() <= config.cache_max;
        if kept {
            self.cached += body.len();
        }
        self.entries.push_back(Entry {
            app,
            checksum,
            length: body.len(),
            since: now,
            sent: None,
            again: false,
            ever_sent: false,
            received: false,
            queued: false,
            withdrawing: false,
            tombstone: false,
            noticed: false,
            answer: Bytes::new(),
            body: kept.then(|| body.clone()),
        });
        self.records.push(Record::Message { position, app, checksum, body });
        Ok(position)
    }

    /// Takes a message back that was never sent on any connection. It is over when its tombstone is stored.
    pub(crate) fn withdraw(&mut self, position: Position) -> Result<(), TooLate> {
        match self.entry(position) {
            Some(entry) if !entry.ever_sent && !entry.withdrawing && !entry.tombstone => {
                entry.withdrawing = true;
                self.records.push(Record::Withdrawn { position });
                self.withdrawing.push(position);
                Ok(())
            }
            _ => Err(TooLate),
        }
    }

    /// Gives up everything that waits. It is told, and the peer greeted again, when that is stored.
    pub(crate) fn drop_all(&mut self) -> u64 {
        let mut dropped = 0;
        let next = self.next();
        for (position, entry) in (self.floor..).zip(self.entries.drain(..)) {
            if !entry.tombstone {
                dropped += 1;
                let outcome = Outcome::Dropped { in_doubt: entry.ever_sent };
                self.told_when_stored.push(Event::Finished { position, outcome });
            }
        }
        self.floor = next;
        self.sent_below = next;
        self.bytes = 0;
        self.cached = 0;
        self.withdrawing.clear();
        self.records.push(Record::Dropped { below: next });
        self.told_when_stored.push(Event::PatienceEnded { dropped });
        self.disconnected();
        dropped
    }

    /// Nothing was given up that a crash could bring back: the floor may be told.
    pub(crate) fn settled(&self) -> bool {
        self.told_when_stored.is_empty() && self.committing.as_ref().is_none_or(|commit| commit.told.is_empty())
    }

    /// What is to be appended and, by the configured kind of sync, be on disk before [`Self::stored`].
    pub(crate) fn take_records(&mut self) -> Vec<Record> {
        if self.committing.is_some() || self.records.is_empty() {
            return Vec::new();
        }
        self.committing = Some(Commit {
            below: self.next(),
            withdrawn: std::mem::take(&mut self.withdrawing),
            told: std::mem::take(&mut self.told_when_stored),
        });
        std::mem::take(&mut self.records)
    }

    pub(crate) fn stored(&mut self, now: Duration, config: &Config, events: &mut VecDeque<Event>) {
        let Some(commit) = self.committing.take() else {
            return;
        };
        events.extend(commit.told);
        self.stored_below = self.stored_below.max(commit.below);
        for position in commit.withdrawn {
            if let Some(entry) = self.entry(position) {
                entry.withdrawing = false;
                entry.tombstone = true;
                let freed = entry.body.take().map_or(0, |body| body.len());
                let length = std::mem::take(&mut entry.length) as u64;
                self.cached -= freed;
                self.bytes -= length;
                events.push_back(Event::Finished { position, outcome: Outcome::Withdrawn });
            }
        }
        if self.established_at.is_some() && self.probe_at.is_none() {
            self.arm_with(now, config, true);
        }
    }

    pub(crate) fn disconnected(&mut self) {
        self.grants.clear();
        self.lost.clear();
        self.probe_at = None;
        self.probe_now = false;
        self.probes = 0;
        self.established_at = None;
        self.held = false;
        let floor = self.floor;
        self.received_below = floor;
        self.granted_below = floor;
        for entry in &mut self.entries {
            entry.sent = None;
            entry.received = false;
            entry.queued = false;
            entry.again = false;
        }
    }

    /// Begins or goes on where the peer says that its memory ends. Returns how many had been sent before.
    pub(crate) fn established(&mut self, now: Duration, peer_received_below: Position, config: &Config) -> u64 {
        let before = self.sent_below;
        let from = peer_received_below.clamp(self.floor, self.next());
        for position in self.floor..from {
            if let Some(entry) = self.entry(position) {
                entry.received = true;
                entry.ever_sent = true;
            }
        }
        self.received_below = from;
        self.granted_below = from;
        self.sent_below = if R::RESUME_FROM_NEXT { before.max(from) } else { from };
        self.serial = 0;
        self.acknowledged_serial = 0;
        self.established_at = Some(now);
        self.arm_with(now, config, true);
        self.entries.iter().take_while(|entry| entry.ever_sent).count() as u64
    }

    fn outstanding(&self) -> bool {
        self.sent_below > self.floor || self.blocked()
    }

    /// Messages wait on disk and there is no number for them.
    fn blocked(&self) -> bool {
        !self.held && self.stored_below > self.sent_below && self.sent_below >= self.granted_below
    }

    pub(crate) fn is_waiting_for_the_peer(&self) -> bool {
        self.established_at.is_some() && self.outstanding()
    }

    /// Sets the time of the next probe: 20 ms from now, or a round trip and a bit where that is longer.
    fn arm_with(&mut self, now: Duration, config: &Config, delayed: bool) {
        let waited = config.probe_after.max(self.round_trip * 5 / 4 + config.probe_after / 4);
        let waited = waited + if delayed { config.ack_delay } else { Duration::ZERO };
        // The first repetition comes after the same time: a second loss in a row is common, a third is not.
        let waited = (waited * (1 << self.probes.saturating_sub(1).min(10))).min(Duration::from_secs(1).max(waited));
        self.probe_at = self.outstanding().then(|| now + waited);
    }

    /// What the peer's receiving half says. `false`: it contradicts itself or us, and was not believed.
    pub(crate) fn feedback(
        &mut self,
        now: Duration,
        feedback: &wire::Feedback,
        config: &Config,
        stats: &mut Stats,
        events: &mut VecDeque<Event>,
    ) -> bool {
        if feedback.epoch != self.epoch && !R::EPOCH_NOT_COMPARED {
            stats.feedback_of_another_epoch += 1;
            return false;
        }
        if feedback.received_below > self.next() || feedback.durable_below > feedback.received_below {
            stats.feedback_refused += 1;
            if !R::EPOCH_NOT_COMPARED {
                return false;
            }
        }
        self.accept_grants(&feedback.grants, stats);
        let mut progress = self.mark_received(now, feedback);
        self.find_lost(stats);
        progress |= self.accept_answers(feedback, stats, events);
        if progress {
            self.probes = 0;
            let delayed = self.sent_below > self.received_below;
            self.arm_with(now, config, delayed);
        } else if !self.outstanding() {
            self.probe_at = None;
        } else if self.probe_at.is_none() {
            self.arm_with(now, config, true);
        }
        true
    }

    fn accept_grants(&mut self, grants: &[wire::Grant], stats: &mut Stats) {
        for wire in grants {
            let Some(grant) = Grant::accept::<R>(wire, self.direction, self.epoch) else {
                stats.grants_refused += 1;
                continue;
            };
            // Each extends the last; one that comes again or after a lost one is repeated until it does.
            if grant.from != self.granted_below {
                continue;
            }
            if R::NO_TRANSMIT_AFTER_GRANT && self.blocked() {
                self.sent_below = grant.until.min(self.stored_below);
            }
            self.granted_below = grant.until;
            self.grants.push_back(grant);
        }
    }

    fn mark_received(&mut self, now: Duration, feedback: &wire::Feedback) -> bool {
        let below = feedback.received_below.min(self.next());
        let mut progress = false;
        for position in self.received_below..below {
            progress |= self.mark_one(now, position);
        }
        self.received_below = self.received_below.max(below);
        for (place, octet) in feedback.bits.iter().enumerate() {
            for bit in (0..8).filter(|bit| octet & (1 << bit) != 0) {
                progress |= self.mark_one(now, feedback.received_below.saturating_add(place as u64 * 8 + bit));
            }
        }
        progress
    }

    fn mark_one(&mut self, now: Duration, position: Position) -> bool {
        let Some(entry) = self.entry(position) else {
            return false;
        };
        if entry.received {
            return false;
        }
        entry.received = true;
        let freed = entry.body.take().map_or(0, |body| body.len());
        let (sent, again) = (entry.sent, entry.again);
        self.cached -= freed;
        if let Some((serial, at)) = sent {
            self.acknowledged_serial = self.acknowledged_serial.max(serial);
            if !again {
                let sample = now.saturating_sub(at);
                self.round_trip = if self.round_trip.is_zero() { sample } else { (self.round_trip * 7 + sample) / 8 };
            }
        }
        true
    }

    /// What was sent before something that arrived and hasn't arrived itself is lost: it goes again, at once.
    fn find_lost(&mut self, stats: &mut Stats) {
        let floor = self.floor;
        let first = usize::try_from(self.received_below.saturating_sub(floor)).unwrap_or(usize::MAX);
        let upto = usize::try_from(self.sent_below.saturating_sub(floor)).unwrap_or(usize::MAX);
        for index in first..upto.min(self.entries.len()) {
            let entry = &mut self.entries[index];
            let lost = entry.sent.is_some_and(|(serial, _)| serial < self.acknowledged_serial);
            if lost && !entry.received && !entry.queued {
                entry.queued = true;
                self.lost.push_back(floor + index as u64);
                stats.messages_lost += 1;
            }
        }
    }

    fn accept_answers(&mut self, feedback: &wire::Feedback, stats: &mut Stats, events: &mut VecDeque<Event>) -> bool {
        let mut below = feedback.answers_below.min(feedback.durable_below).min(self.next());
        if R::TRIM_AT_RECEIVED {
            below = feedback.received_below.min(self.next());
        }
        if below <= self.floor {
            return false;
        }
        if feedback.answers_from > self.floor && !R::TRIM_AT_RECEIVED {
            // The frame with the answers between was lost.
            self.probe_now = true;
            return false;
        }
        for answer in &feedback.answers {
            if answer.position < below
                && let Some(entry) = self.entry(answer.position)
            {
                entry.answer = answer.body.clone();
            }
        }
        while self.floor < below
            && let Some(entry) = self.entries.pop_front()
        {
            self.bytes -= entry.length as u64;
            self.cached -= entry.body.map_or(0, |body| body.len());
            if !entry.tombstone {
                stats.messages_answered += 1;
                let outcome = Outcome::Answered(entry.answer);
                events.push_back(Event::Finished { position: self.floor, outcome });
            }
            self.floor += 1;
        }
        self.received_below = self.received_below.max(self.floor);
        self.sent_below = self.sent_below.max(self.floor);
        while self.grants.front().is_some_and(|grant| grant.until <= self.floor) {
            self.grants.pop_front();
        }
        match self.records.last_mut() {
            Some(Record::Trimmed { below }) => *below = self.floor,
            _ => self.records.push(Record::Trimmed { below: self.floor }),
        }
        true
    }

    /// The next message that may go, or a probe that is due.
    pub(crate) fn transmit(
        &mut self,
        now: Duration,
        bodies: &mut dyn Bodies,
        config: &Config,
        stats: &mut Stats,
    ) -> std::io::Result<Option<wire::Body>> {
        if self.established_at.is_none() {
            return Ok(None);
        }
        while let Some(&position) = self.lost.front() {
            let due = self.entry(position).is_some_and(|entry| entry.queued && !entry.received);
            if due {
                let Some(body) = self.data(now, position, bodies, config, stats)? else {
                    return Ok(None);
                };
                self.lost.pop_front();
                return Ok(Some(body));
            }
            self.lost.pop_front();
        }
        if !self.held && self.sent_below < self.stored_below && self.sent_below < self.granted_below {
            if R::TOMBSTONE_SKIPPED && self.entry(self.sent_below).is_some_and(|entry| entry.tombstone) {
                self.sent_below += 1;
                return self.transmit(now, bodies, config, stats);
            }
            if let Some(body) = self.data(now, self.sent_below, bodies, config, stats)? {
                self.sent_below += 1;
                self.probes = 0;
                let delayed = !matches!(&body, wire::Body::Data(data) if data.pace.is_some_and(|pace| pace.immediate));
                self.arm_with(now, config, delayed);
                return Ok(Some(body));
            }
        }
        if self.probe_now {
            self.probe_now = false;
            stats.probes_sent += 1;
            let pace = Some(self.pace(true));
            return Ok(Some(wire::Body::Probe(wire::Probe { epoch: self.epoch, pace })));
        }
        Ok(None)
    }

    fn pace(&self, immediate: bool) -> wire::Pace {
        wire::Pace { floor: self.floor, granted_below: self.granted_below, blocked: self.blocked(), immediate }
    }

    fn data(
        &mut self,
        now: Duration,
        position: Position,
        bodies: &mut dyn Bodies,
        config: &Config,
        stats: &mut Stats,
    ) -> std::io::Result<Option<wire::Body>> {
        let Some(number) = self.grants.iter().find(|grant| grant.covers(position)).map(|grant| grant.number(position))
        else {
            return Ok(None);
        };
        let alone = position == self.floor && self.sent_below <= position + 1;
        let fresh = position == self.sent_below;
        let rested = self.last_immediate.is_none_or(|last| now >= last + config.ack_delay);
        let Some(entry) = self.entry(position) else {
            return Ok(None);
        };
        if entry.withdrawing {
            return Ok(None);
        }
        let body = match &entry.body {
            _ if entry.tombstone => Bytes::new(),
            Some(body) => body.clone(),
            None => match bodies.body(position)? {
                Some(body) => body,
                None => return Ok(None),
            },
        };
        let again = entry.sent.is_some();
        self.serial += 1;
        let serial = self.serial;
        let entry = self.entry(position).expect("it was there a moment ago");
        entry.again |= again;
        entry.sent = Some((serial, now));
        entry.ever_sent = true;
        entry.queued = false;
        let (application, tombstone) = (entry.app.0, entry.tombstone);
        let checksum = if tombstone { checksum(position, App(application), &[]) } else { entry.checksum };
        if again {
            stats.messages_sent_again += 1;
        } else {
            stats.messages_sent += 1;
        }
        let last_number = fresh && position + 1 == self.granted_below && self.stored_below > position + 1;
        let immediate = last_number || (rested && (alone || again));
        if immediate {
            self.last_immediate = Some(now);
        }
        let mut pace = self.pace(immediate);
        pace.blocked |= last_number;
        Ok(Some(wire::Body::Data(wire::Data {
            epoch: self.epoch,
            position,
            number,
            application,
            body,
            checksum,
            tombstone,
            pace: Some(pace),
        })))
    }

    /// Lets time pass: probes, and the notice of a call that is stuck.
    pub(crate) fn tick(&mut self, now: Duration, config: &Config, stats: &mut Stats, events: &mut VecDeque<Event>) {
        let Some(established_at) = self.established_at else {
            return;
        };
        if self.probe_at.is_some_and(|at| now >= at) {
            self.probes = self.probes.saturating_add(1);
            self.last_immediate = None;
            let upto = usize::try_from(self.sent_below.saturating_sub(self.floor)).unwrap_or(usize::MAX);
            let unreceived = self.entries.iter().take(upto).position(|entry| !entry.received && entry.sent.is_some());
            match unreceived {
                Some(index) if !self.entries[index].queued => {
                    self.entries[index].queued = true;
                    self.lost.push_front(self.floor + index as u64);
                    stats.probes_sent += 1;
                }
                Some(_) => {}
                None => self.probe_now = true,
            }
            self.arm_with(now, config, false);
        }
        let late = config.stuck_work + config.stuck_call_later + self.round_trip;
        let floor = self.floor;
        if let Some(entry) = self.entries.front_mut()
            && !entry.noticed
            && now >= entry.since.max(established_at) + late
        {
            entry.noticed = true;
            stats.calls_stuck += 1;
            events.push_back(Event::StuckCall { position: floor, app: entry.app });
        }
    }

    pub(crate) fn deadline(&self, config: &Config) -> Option<Duration> {
        let established_at = self.established_at?;
        let late = config.stuck_work + config.stuck_call_later + self.round_trip;
        let stuck =
            self.entries.front().filter(|entry| !entry.noticed).map(|entry| entry.since.max(established_at) + late);
        [self.probe_at, stuck].into_iter().flatten().min()
    }
}
