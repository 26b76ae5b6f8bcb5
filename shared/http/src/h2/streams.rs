//! The streams of one connection: a slab of slots, and a small map from stream numbers to slots.
//!
//! The map is an open-addressing table. Stream numbers follow each other, so its hash spreads them: if it were the number
//! itself, streams that are open together would be one run of neighbours, which each removal would have to walk to its end.

use crate::codec::StreamId;

/// How far one direction of a stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// No final head yet.
    Head,
    Body,
    Done,
}

/// A stream that is open or half-closed. A closed one is not here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    pub id: u32,
    /// What we may still send; negative after the peer shrank it (RFC 9113 §6.9.2).
    pub send_window: i32,
    /// What the peer may still send.
    pub recv_window: i32,
    /// The window that the peer is to have when nothing is outstanding.
    pub recv_target: i32,
    /// Released, but not yet given back.
    pub owed: u32,
    /// Octets of the declared length that are to come; `u64::MAX`: none was declared.
    pub remaining: u64,
    pub recv: Side,
    pub send: Side,
    /// Interim responses received.
    pub interims: u32,
    /// Client: the request was HEAD. Server: the request was, or the response has a status without content.
    pub bodiless: bool,
    /// The request was CONNECT.
    pub connect: bool,
}

/// No length declared.
pub(super) const UNDECLARED: u64 = u64::MAX;

const NONE: u32 = u32::MAX;

/// A stream's own place in a map of `mask` + 1 places: the top bits of a product with the golden ratio, which spreads numbers
/// that follow each other as far apart as can be.
#[inline]
fn home(id: u32, mask: usize) -> usize {
    let mixed = u64::from((id >> 1).wrapping_mul(0x9e37_79b9));
    ((mixed * (mask as u64 + 1)) >> 32) as usize
}

#[derive(Debug)]
pub(super) struct Streams {
    /// `id` 0: free; then `owed` is the next free slot.
    slab: Vec<Stream>,
    free: u32,
    /// Slots by stream number; a power of two in size, at most half full.
    map: Vec<u32>,
    active: usize,
}

impl Streams {
    pub(super) fn new() -> Streams {
        Streams { slab: Vec::new(), free: NONE, map: Vec::new(), active: 0 }
    }

    pub(super) fn active(&self) -> usize {
        self.active
    }

    /// The slot that the next stream will have.
    pub(super) fn next_slot(&self) -> u32 {
        if self.free == NONE { self.slab.len() as u32 } else { self.free }
    }

    /// The slot of the stream with this number.
    #[inline]
    pub(super) fn find(&self, id: u32) -> Option<u32> {
        if self.active == 0 {
            return None;
        }
        let mask = self.map.len() - 1;
        let mut at = home(id, mask);
        loop {
            let slot = self.map[at];
            if slot == NONE {
                return None;
            }
            if self.slab[slot as usize].id == id {
                return Some(slot);
            }
            at = (at + 1) & mask;
        }
    }

    /// The stream in this slot.
    pub(super) fn at(&mut self, slot: u32) -> &mut Stream {
        &mut self.slab[slot as usize]
    }

    /// The stream, unless it is gone.
    #[inline]
    pub(super) fn get(&self, stream: StreamId) -> Option<&Stream> {
        self.slab.get(stream.slot as usize).filter(|found| found.id == stream.id && found.id != 0)
    }

    /// As [`Streams::get`].
    #[inline]
    pub(super) fn get_mut(&mut self, stream: StreamId) -> Option<&mut Stream> {
        self.slab.get_mut(stream.slot as usize).filter(|found| found.id == stream.id && found.id != 0)
    }

    /// Every open stream.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.slab.iter_mut().filter(|stream| stream.id != 0)
    }

    /// The first open stream in `from` or a later slot whose number is above `last`.
    pub(super) fn above(&self, last: u32, from: u32) -> Option<StreamId> {
        let slots = self.slab.iter().enumerate().skip(from as usize);
        slots.map(|(slot, stream)| StreamId { slot: slot as u32, id: stream.id }).find(|stream| stream.id > last)
    }

    pub(super) fn insert(&mut self, stream: Stream) -> StreamId {
        if (self.active + 1) * 2 > self.map.len() {
            self.grow_map();
        }
        let id = stream.id;
        let slot = self.next_slot();
        if self.free == NONE {
            self.slab.push(stream);
        } else {
            self.free = self.slab[slot as usize].owed;
            self.slab[slot as usize] = stream;
        }
        self.active += 1;
        self.place(slot, id);
        StreamId { slot, id }
    }

    fn place(&mut self, slot: u32, id: u32) {
        let mask = self.map.len() - 1;
        let mut at = home(id, mask);
        while self.map[at] != NONE {
            at = (at + 1) & mask;
        }
        self.map[at] = slot;
    }

    #[cold]
    fn grow_map(&mut self) {
        let size = (self.map.len() * 2).max(8);
        self.map.clear();
        self.map.resize(size, NONE);
        for slot in 0..self.slab.len() as u32 {
            let id = self.slab[slot as usize].id;
            if id != 0 {
                self.place(slot, id);
            }
        }
    }

    pub(super) fn remove(&mut self, slot: u32) {
        let id = self.slab[slot as usize].id;
        debug_assert_ne!(id, 0);
        let mask = self.map.len() - 1;
        let mut hole = home(id, mask);
        while self.map[hole] != slot {
            hole = (hole + 1) & mask;
        }
        // Those behind move up into the hole, unless that would put them before their own place.
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let next = self.map[at];
            if next == NONE {
                break;
            }
            let home = home(self.slab[next as usize].id, mask);
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.map[hole] = next;
                hole = at;
            }
        }
        self.map[hole] = NONE;
        self.slab[slot as usize].id = 0;
        self.slab[slot as usize].owed = self.free;
        self.free = slot;
        self.active -= 1;
    }
}

/// Streams that we reset: frames that were on their way to them are ignored (RFC 9113 §5.1, closed).
///
/// The last [`Recent::KEPT`] are known exactly; of older ones, only that they are not above the highest number ever
/// forgotten. A stream at or below that gets the benefit of the doubt.
#[derive(Debug, Default)]
pub(super) struct Recent {
    ids: [u32; Recent::KEPT],
    next: usize,
    forgotten: u32,
}

impl Recent {
    const KEPT: usize = 32;

    pub(super) fn note(&mut self, id: u32) {
        self.forgotten = self.forgotten.max(self.ids[self.next]);
        self.ids[self.next] = id;
        self.next = (self.next + 1) % Recent::KEPT;
    }

    pub(super) fn may_have(&self, id: u32) -> bool {
        id <= self.forgotten || self.ids.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(id: u32) -> Stream {
        Stream {
            id,
            send_window: 0,
            recv_window: 0,
            recv_target: 0,
            owed: 0,
            remaining: UNDECLARED,
            recv: Side::Body,
            send: Side::Head,
            interims: 0,
            bodiless: false,
            connect: false,
        }
    }

    #[test]
    fn streams_are_found_by_number_whatever_the_order_they_end_in() {
        let mut streams = Streams::new();
        let mut open: Vec<StreamId> = Vec::new();
        let mut random = 1u64;
        for number in 0..20_000u32 {
            let id = number * 2 + 1;
            open.push(streams.insert(stream(id)));
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            while open.len() > (random >> 33) as usize % 60 {
                let at = (random >> 40) as usize % open.len();
                let gone = open.swap_remove(at);
                streams.remove(gone.slot);
                assert_eq!(streams.find(gone.id), None);
                assert!(streams.get(gone).is_none());
            }
            for stream in &open {
                assert_eq!(streams.find(stream.id), Some(stream.slot));
            }
            assert_eq!(streams.active(), open.len());
        }
        assert!(streams.slab.len() <= 61, "slots are reused: {}", streams.slab.len());
        assert!(streams.map.len() <= 128);
    }

    #[test]
    fn the_streams_that_we_reset_are_remembered_and_older_ones_given_the_benefit_of_the_doubt() {
        let mut recent = Recent::default();
        for id in (1..=201).step_by(4) {
            recent.note(id);
        }
        assert!(recent.may_have(201) && recent.may_have(101) && recent.may_have(3));
        assert!(!recent.may_have(199));
    }
}
