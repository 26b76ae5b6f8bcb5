//! The sending half: what waits, what is under way, what the peer is known to have.
//!
//! Positions move through four cursors, each behind the one before: `next` (given to a caller), `stored_below` (on disk,
//! so it may be sent), `sent_below` (sent on this connection), `floor` (applied by the peer and answered: trimmed). A
//! frame that was lost is known by its serial: feedback that acknowledges a later one shows it. The last frame has no
//! later one; for that there is the probe.
//!
//! What waits and what is stored is here; `feedback` takes in what the peer says of it, `transmit` gives what goes next.

mod feedback;
mod transmit;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::config::Config;
use crate::number::Grant;
use crate::record::{Record, Recovered};
use crate::rules::Rules;
use crate::types::{App, Epoch, Event, Outcome, Position, checksum};

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
}
