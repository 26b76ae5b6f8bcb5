//! One exchange: a request and its response on their way between two streams.

use std::net::SocketAddr;

use steady_http::{Head, Method, StreamId};
use steady_ring::{ConnId, Time};

use crate::limits::Limits;
use crate::pipe::Pipe;
use crate::plane::Listed;
use crate::policy::{BodyFilter, Outcome, ParkKey, Protocol, Target, Timing};
use crate::refusal::Refusal;

/// An exchange of one worker: a slot and its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub index: u32,
    pub generation: u32,
}

/// One end of an exchange: a stream of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leg {
    pub conn: ConnId,
    pub stream: StreamId,
}

/// Where an exchange is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// To be routed in this batch.
    Routing,
    Parked {
        key: ParkKey,
        since: Time,
        until: Time,
        refusal: Refusal,
        /// What it holds, or may come to hold.
        bytes: usize,
    },
    /// Waits for a connection to its target.
    Waiting { since: Time },
    /// With an upstream; no response yet.
    Attached,
    /// The response's head has been sent.
    Answering,
    /// Answered from here.
    Replying,
}

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Client,
    /// The policy itself; the answer frees what is parked under the key.
    Question {
        key: ParkKey,
        until: Time,
    },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Exchange<T> {
    pub key: Key,
    pub origin: Origin,
    pub phase: Phase,
    pub down: Option<Leg>,
    pub up: Option<Leg>,
    pub request: Head,
    /// Its octets as it came.
    pub head_bytes: usize,
    pub ticket: T,
    pub target: Option<Target>,
    pub upload: Pipe,
    pub download: Pipe,
    /// Rewrites the response's body.
    pub filter: Option<Box<dyn BodyFilter>>,
    pub timing: Timing,
    /// The last time a body or a tunnel moved.
    pub activity: Time,
    pub peer: Option<SocketAddr>,
    pub listener: usize,
    pub version: u8,
    pub is_tls: bool,
    pub attempt: u8,
    /// The batch in which it was given to its upstream.
    pub attached_in: u64,
    /// Since when its body's rate is measured, and how much had come by then.
    pub paced: (Time, u64),
    /// Whether the upstream may have begun to process it.
    pub accepted: bool,
    /// Its upstream says that it waits there: until when, at the latest.
    pub parked_upstream: Option<Time>,
    /// Whoever asked was told that it waits.
    pub told: bool,
    /// A successful CONNECT or upgrade.
    pub tunnel: bool,
    pub status: u16,
    pub refusal: Option<Refusal>,
    /// How it will be recorded unless something else happens first.
    pub outcome: Outcome,
}

impl<T> Exchange<T> {
    /// As it is shown to whoever asks what is under way.
    pub(crate) fn listed(&self, now: Time) -> Listed<'_, T> {
        Listed {
            request: &self.request,
            ticket: &self.ticket,
            is_question: matches!(self.origin, Origin::Question { .. }),
            peer: self.peer,
            upstream: self.target.as_ref().map(|target| &target.addr),
            attempts: self.attempt,
            version: self.version,
            phase: match self.phase {
                Phase::Routing => "routing",
                Phase::Parked { .. } => "parked",
                Phase::Waiting { .. } => "connecting",
                Phase::Attached => "waiting",
                Phase::Answering => "answering",
                Phase::Replying => "replying",
            },
            status: self.status,
            age: now.since(self.timing.started),
            request_bytes: self.upload.bytes,
            response_bytes: self.download.bytes,
        }
    }

    /// Whether there is something for the client that it does not take: it does not read, or gives no window.
    pub(crate) fn awaits_client(&self) -> bool {
        self.phase == Phase::Answering && self.download.waiting() > 0
    }

    /// Whether there is something of the request that the upstream does not take.
    pub(crate) fn awaits_upstream(&self) -> bool {
        self.phase == Phase::Attached && self.upload.waiting() > 0
    }

    /// Whether the upstream has all that it needs to answer. Who asks for a tunnel has nothing more to say before that.
    pub(crate) fn is_asked(&self) -> bool {
        self.upload.source_ended || self.request.is_connect()
    }

    /// Whether its client has sent its body slower than it must since that was last looked at; if not, it will be looked at
    /// again. A client that is held back, or waits to be told to go on, is not slow.
    pub(crate) fn drips(&mut self, limits: &Limits, now: Time) -> bool {
        let came = self.upload.bytes - self.paced.1;
        let least = u64::from(limits.body_rate_min) * limits.body_rate_over.as_secs();
        let is_held_back = self.upload.waiting() > 0 || self.upload.bytes == 0;
        let drips = came < least && !is_held_back;
        if !drips {
            self.paced = (now, self.upload.bytes);
        }
        drips
    }

    /// When the rate of a body that is still to come is to be looked at: where it holds a connection of HTTP/1.1.
    pub(crate) fn pace_due(&self, limits: &Limits) -> Time {
        let serial = self.target.as_ref().is_some_and(|target| target.protocol == Protocol::Http1);
        if serial && limits.body_rate_min > 0 { self.paced.0 + limits.body_rate_over } else { Time::MAX }
    }

    /// Whether a response with this status has no body, whatever its head says (RFC 9110 §6.4.1).
    pub(crate) fn is_bodiless(&self, status: u16) -> bool {
        self.request.method == Method::Head || matches!(status, 204 | 304)
    }

    /// Whether it can be sent again: nothing of its body has been forgotten.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.upload.keep || self.upload.bytes == self.upload.waiting() as u64
    }
}

/// The worker's exchanges, and the generations of the free slots.
#[derive(Debug)]
pub(crate) struct Exchanges<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    open: usize,
    /// Octets of the heads of all of them.
    heads: usize,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    exchange: Option<Box<Exchange<T>>>,
    /// When this slot's entry in the timing wheel fires; `Time::MAX` when it has none.
    armed: Time,
}

impl<T> Exchanges<T> {
    pub(crate) fn new() -> Exchanges<T> {
        Exchanges { slots: Vec::new(), free: Vec::new(), open: 0, heads: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.open
    }

    /// Octets of the heads and trailers of all.
    pub(crate) fn head_bytes(&self) -> usize {
        self.heads
    }

    /// Makes a place and returns its key, for [`put`](Exchanges::put) right after.
    pub(crate) fn reserve(&mut self) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, exchange: None, armed: Time::MAX });
            (self.slots.len() - 1) as u32
        });
        self.open += 1;
        Key { index, generation: self.slots[index as usize].generation }
    }

    pub(crate) fn put(&mut self, mut exchange: Box<Exchange<T>>) {
        let index = exchange.key.index as usize;
        exchange.head_bytes = exchange.request.size();
        self.heads += exchange.head_bytes;
        self.slots[index].exchange = Some(exchange);
    }

    /// More of a head came: its trailers.
    pub(crate) fn grew(&mut self, key: Key, octets: usize) {
        if let Some(exchange) = self.at(key) {
            exchange.head_bytes += octets;
            self.heads += octets;
        }
    }

    pub(crate) fn at(&mut self, key: Key) -> Option<&mut Exchange<T>> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        slot.exchange.as_deref_mut()
    }

    /// Takes it out; the slot gets another generation.
    pub(crate) fn take(&mut self, key: Key) -> Option<Box<Exchange<T>>> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let exchange = slot.exchange.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
        self.open -= 1;
        self.heads -= exchange.head_bytes;
        Some(exchange)
    }

    /// The key of what is in slot `index` now.
    pub(crate) fn occupant(&self, index: u32) -> Option<Key> {
        let slot = self.slots.get(index as usize)?;
        slot.exchange.as_ref().map(|_| Key { index, generation: slot.generation })
    }

    pub(crate) fn armed(&mut self, index: u32) -> &mut Time {
        &mut self.slots[index as usize].armed
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Exchange<T>> {
        self.slots.iter().filter_map(|slot| slot.exchange.as_deref())
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        (0..self.slots.len() as u32).filter_map(|index| self.occupant(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::held::Total;

    #[test]
    fn the_key_of_an_exchange_that_is_over_finds_nothing_whoever_has_its_slot_now() {
        let mut exchanges = Exchanges::<()>::new();
        let open = |exchanges: &mut Exchanges<()>| {
            let key = exchanges.reserve();
            let mut exchange = Box::new(Exchange::blank(&Total::default()));
            exchange.renew(key, Origin::Client, Time::ZERO);
            exchanges.put(exchange);
            key
        };
        let first = open(&mut exchanges);
        assert!(exchanges.take(first).is_some());
        let second = open(&mut exchanges);
        assert_eq!(first.index, second.index, "slots are used again");
        assert!(exchanges.at(first).is_none() && exchanges.take(first).is_none());
        assert_eq!(exchanges.at(second).map(|exchange| exchange.key), Some(second));
        assert_eq!((exchanges.occupant(first.index), exchanges.len()), (Some(second), 1));
    }

    #[test]
    fn keys_are_told_apart_when_a_slots_generation_begins_anew() {
        let mut exchanges = Exchanges::<()>::new();
        exchanges.slots.push(Slot { generation: u32::MAX - 1, exchange: None, armed: Time::MAX });
        exchanges.free.push(0);
        let mut keys: Vec<Key> = Vec::new();
        for _ in 0..4 {
            let key = exchanges.reserve();
            let mut exchange = Box::new(Exchange::blank(&Total::default()));
            exchange.renew(key, Origin::Client, Time::ZERO);
            exchanges.put(exchange);
            assert!(keys.iter().all(|&old| exchanges.at(old).is_none()));
            assert!(exchanges.at(key).is_some() && exchanges.take(key).is_some());
            keys.push(key);
        }
        assert_eq!(keys.iter().map(|key| key.generation).collect::<Vec<_>>(), [u32::MAX - 1, u32::MAX, 0, 1]);
    }
}
