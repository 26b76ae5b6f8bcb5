//! Requests that wait: in a parking place here, or, by its own word, at an upstream.
//!
//! A policy parks a request under a key; everything under a key is routed again together. What all of them hold is bounded,
//! in number and in octets. A policy that has somebody to tell (the agent, whose edges wait for its responses) may say so in an
//! interim response, once when the request begins to wait and once when it goes on; the other side's policy reads it. While an
//! upstream says that it waits, its response timeout does not run: the word itself says how long that may last.
//!
//! Who ends his side of an HTTP/1.1 connection may still want his answer. But while his request waits, on either side, he is
//! taken to have left: there is nothing under way that he could be waiting for, and his place is wanted.

use std::collections::HashMap;
use std::time::Duration;

use steady_ring::{Driver, Time};

use crate::exchange::{Exchange, Key, Phase};
use crate::hash::KeyHash;
use crate::policy::{Interim, ParkKey, Policy, Reply};
use crate::refusal::Refusal;
use crate::worker::{Todo, Worker};

/// The parking places of a worker.
#[derive(Debug, Default)]
pub(crate) struct Parkings {
    places: HashMap<ParkKey, Parking, KeyHash>,
    /// Exchanges in all of them, and the octets that these hold or may come to hold.
    open: usize,
    bytes: usize,
}

/// Who waits at one parking place, in the order they came.
#[derive(Debug, Default)]
struct Parking {
    keys: Vec<Key>,
    /// How many of them have left. They are taken out together, so that a crowd whose time is up costs what it is large.
    left: usize,
}

impl Parkings {
    /// The places that somebody was parked at and has not been called back from.
    pub(crate) fn keys(&self) -> impl Iterator<Item = ParkKey> + '_ {
        self.places.keys().copied()
    }
}

impl<T> Exchange<T> {
    /// Octets that it holds, or may come to hold while it is parked: of a body that is not whole yet, no more than `body_max`.
    fn parking_bytes(&self, body_max: usize) -> usize {
        let held = self.upload.held.len();
        // Nothing is read behind an upgrade that has not been granted.
        let unread = self.request.is_connect() && self.version < 20;
        let body = if self.upload.source_ended || unread {
            held
        } else {
            let declared = self.request.content_length.and_then(|length| usize::try_from(length).ok());
            declared.unwrap_or(usize::MAX).min(body_max).max(held)
        };
        self.request.footprint() + body
    }

    /// Whether it waits for something to appear, here or at its upstream, rather than for an answer.
    pub(crate) fn is_parked(&self) -> bool {
        matches!(self.phase, Phase::Parked { .. }) || self.parked_upstream.is_some()
    }
}

impl<D: Driver, P: Policy> Worker<D, P> {
    pub(crate) fn park(&mut self, key: Key, place: ParkKey, until: Time, refusal: Refusal) {
        let now = self.now;
        let Some(exchange) = self.exchanges.at(key) else { return };
        let window = self.listeners.get(exchange.listener).map_or(0, |state| state.codec_limits.stream_window as usize);
        let bytes = exchange.parking_bytes(window.max(self.limits.held_bytes_max));
        let full = self.parked.open >= self.limits.parked_max;
        if full || self.parked.bytes + bytes > self.limits.parked_bytes_max {
            self.policy.unparked(&mut exchange.ticket, place, Duration::ZERO);
            return self.reply(key, Reply::Refuse(Refusal::ParkingFull));
        }
        exchange.phase = Phase::Parked { key: place, since: now, until, refusal, bytes };
        self.parked.places.entry(place).or_default().keys.push(key);
        self.parked.open += 1;
        self.parked.bytes += bytes;
        self.stats.parked.add(1);
        self.stats.parked_open.add(1);
        self.stats.parked_bytes.set(self.parked.bytes as u64);
        self.arm_exchange(key.index);
        if !self.leave_if_ended(key) {
            self.tell(key, Some(until.since(now)));
        }
    }

    /// Everything parked there is routed again, in the order it came.
    pub(crate) fn resume(&mut self, place: ParkKey) {
        let Some(parking) = self.parked.places.remove(&place) else { return };
        for key in parking.keys {
            if self.unpark(key, place) {
                self.todo.push_back(Todo::Route(key));
            }
        }
    }

    /// Takes an exchange out of its parking place; it stays in the list, which knows that it has left.
    fn unpark(&mut self, key: Key, place: ParkKey) -> bool {
        let now = self.now;
        let Some(exchange) = self.exchanges.at(key) else { return false };
        let Phase::Parked { key: at, since, bytes, .. } = exchange.phase else { return false };
        if at != place {
            return false;
        }
        exchange.phase = Phase::Routing;
        self.policy.unparked(&mut exchange.ticket, place, now.since(since));
        self.parked.open -= 1;
        self.parked.bytes -= bytes;
        self.stats.parked_open.sub(1);
        self.stats.parked_bytes.set(self.parked.bytes as u64);
        true
    }

    /// An exchange leaves its parking place by itself.
    pub(crate) fn leave_parking(&mut self, key: Key, place: ParkKey) {
        self.unpark(key, place);
        let exchanges = &mut self.exchanges;
        let Some(parking) = self.parked.places.get_mut(&place) else { return };
        parking.left += 1;
        if parking.left * 2 > parking.keys.len() {
            parking.keys.retain(|&key| {
                let phase = exchanges.at(key).map(|exchange| exchange.phase);
                matches!(phase, Some(Phase::Parked { key: at, .. }) if at == place)
            });
            parking.left = 0;
        }
        if parking.keys.is_empty() {
            self.parked.places.remove(&place);
        }
    }

    /// Tells whoever waits for the response that the request waits, at most so long, or (`None`) that it goes on.
    pub(crate) fn tell(&mut self, key: Key, waits: Option<Duration>) {
        let Some(exchange) = self.exchanges.at(key) else { return };
        if exchange.told == waits.is_some() {
            return;
        }
        let Some(down) = exchange.down else { return };
        self.scratch.clear();
        if self.policy.tell(&mut exchange.ticket, waits, &mut self.scratch) {
            exchange.told = waits.is_some();
            self.send_head(down, false);
        }
    }

    /// An upstream's word about a request that it has: it waits there, or goes on. It has not been begun in either case.
    pub(crate) fn told(&mut self, key: Key, word: Interim) {
        let now = self.now;
        let Some(exchange) = self.exchanges.at(key) else { return };
        if exchange.phase != Phase::Attached {
            return;
        }
        match word {
            Interim::Parked(most) => {
                let until = now + most.min(self.limits.upstream_park_max) + self.limits.upstream_park_margin;
                if exchange.parked_upstream.replace(until).is_none() {
                    self.stats.upstream_parked.add(1);
                    self.stats.upstream_parked_open.add(1);
                }
                if self.leave_if_ended(key) {
                    return;
                }
            }
            Interim::Resumed => {
                // The response timeout begins.
                exchange.activity = now;
                self.unpark_upstream(key);
            }
            Interim::Pass => {}
        }
        self.arm_exchange(key.index);
    }

    /// It does not wait at its upstream any more.
    pub(crate) fn unpark_upstream(&mut self, key: Key) {
        if let Some(exchange) = self.exchanges.at(key)
            && exchange.parked_upstream.take().is_some()
        {
            self.stats.upstream_parked_open.sub(1);
        }
    }

    /// A request that waits, of a client that has ended its side: it has left. Whether that is so.
    pub(crate) fn leave_if_ended(&mut self, key: Key) -> bool {
        let down = self.exchanges.at(key).filter(|exchange| exchange.is_parked()).and_then(|exchange| exchange.down);
        let Some(id) = down.map(|leg| leg.conn) else { return false };
        let ended = self.conn(id).is_some_and(|conn| conn.eof && conn.is_serial());
        if ended {
            self.abandon(id);
            self.close(id);
        }
        ended
    }
}
