//! What the peer's receiving half says: numbers that it grants, what has arrived, what is lost, what is answered.

use std::collections::VecDeque;
use std::time::Duration;

use super::Outbound;
use crate::config::Config;
use crate::number::Grant;
use crate::record::Record;
use crate::rules::Rules;
use crate::stats::Stats;
use crate::types::{Event, Outcome, Position};
use crate::wire;

impl<R: Rules> Outbound<R> {
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
}
