//! What goes next and when: messages that have a number, those that were lost, and the probe when nothing is heard.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::Outbound;
use crate::config::Config;
use crate::record::Bodies;
use crate::rules::Rules;
use crate::stats::Stats;
use crate::types::{App, Event, Position, checksum};
use crate::wire;

impl<R: Rules> Outbound<R> {
    pub(super) fn outstanding(&self) -> bool {
        self.sent_below > self.floor || self.blocked()
    }

    /// Messages wait on disk and there is no number for them.
    pub(super) fn blocked(&self) -> bool {
        !self.held && self.stored_below > self.sent_below && self.sent_below >= self.granted_below
    }

    pub(crate) fn is_waiting_for_the_peer(&self) -> bool {
        self.established_at.is_some() && self.outstanding()
    }

    /// Sets the time of the next probe: 20 ms from now, or a round trip and a bit where that is longer.
    pub(super) fn arm_with(&mut self, now: Duration, config: &Config, delayed: bool) {
        let waited = config.probe_after.max(self.round_trip * 5 / 4 + config.probe_after / 4);
        let waited = waited + if delayed { config.ack_delay } else { Duration::ZERO };
        // The first repetition comes after the same time: a second loss in a row is common, a third is not.
        let waited = (waited * (1 << self.probes.saturating_sub(1).min(10))).min(Duration::from_secs(1).max(waited));
        self.probe_at = self.outstanding().then(|| now + waited);
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
