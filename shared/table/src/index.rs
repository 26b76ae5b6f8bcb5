//! A hash index that is built once and then only read: slots that point to records.
//!
//! Slots lie in buckets of eight, 64 bytes, one cache line. A slot is a `u64`: zero when empty, else 32 bits of the key's
//! hash above the place of its record in units of 8 bytes, plus one. A key belongs into the bucket that the low bits of its
//! hash name, or, when that one is full, into one of the next; it is never further than [`REACH`] buckets, else the index
//! is not built (another seed is drawn, or there are more buckets). So a look-up reads one line of slots, hardly ever more
//! and never more than `REACH`, and then the record, which lies in one line too when it fits in one.

use std::marker::PhantomData;

use crate::bytes::u64_at;
use crate::hash::{Seed, hash};
use crate::record::{Layout, is_present, key};

const SLOT: usize = 8;
const LINE: usize = 64;
const SLOTS_PER_LINE: usize = LINE / SLOT;
/// The most buckets that a look-up reads. At half load a bucket runs over in 2 of 100 cases, so a chain of 8 full buckets
/// does not come about by chance, and an enemy would have to know the seed.
const REACH: usize = 8;
/// Records are placed at multiples of this.
const ALIGN: usize = 8;

/// An index over borrowed bytes.
pub(crate) struct Index<'a, L> {
    slots: &'a [u8],
    records: &'a [u8],
    layout: PhantomData<L>,
}

impl<'a, L: Layout> Index<'a, L> {
    pub fn new(slots: &'a [u8], records: &'a [u8]) -> Self {
        Index { slots, records, layout: PhantomData }
    }

    /// The record of `key`, with everything that lies behind it in the section.
    #[inline]
    pub fn find(&self, hash: u64, key: &[u8]) -> Option<&'a [u8]> {
        self.find_at(hash, key).and_then(|at| self.records.get(at..))
    }

    #[inline]
    fn find_at(&self, hash: u64, wanted: &[u8]) -> Option<usize> {
        let mask = (self.slots.len() / LINE).checked_sub(1)?;
        let tag = hash >> 32;
        let mut bucket = hash as usize & mask;
        for _ in 0..REACH {
            let line: &[u8; LINE] = self.slots.get(bucket * LINE..)?.first_chunk()?;
            for slot in line.chunks_exact(SLOT) {
                let slot = u64_at(slot, 0)?;
                if slot == 0 {
                    return None;
                }
                if slot >> 32 == tag {
                    let at = place(slot);
                    if self.records.get(at..).and_then(key::<L>) == Some(wanted) {
                        return Some(at);
                    }
                }
            }
            bucket = (bucket + 1) & mask;
        }
        None
    }

    /// Every record with its place, in the order in which they lie. Stops early where the section is not well formed.
    pub fn walk(&self) -> Walk<'a, L> {
        Walk { records: self.records, at: 0, layout: PhantomData }
    }

    /// Proves that a look-up of any key of these records finds it, that no key is there twice, that no slot points anywhere
    /// else, and that each record passes `check`. `count` is what the file claims. Errors: the place, and what is wrong.
    pub fn validate(
        &self,
        seed: Seed,
        count: u64,
        mut check: impl FnMut(&'a [u8]) -> Result<(), String>,
    ) -> Result<(), (u64, String)> {
        let fault = |at: usize, why: &str| Err((at as u64, why.to_owned()));
        if !(self.slots.len() / LINE).is_power_of_two() || !self.slots.len().is_multiple_of(LINE) {
            return fault(0, "the number of slots is not a power of two");
        }
        let mut walk = self.walk();
        let mut found = 0u64;
        for (at, record) in walk.by_ref() {
            if record[0] & !L::BASE_FLAGS != 0 {
                return fault(at, "the record has a flag that is not known");
            }
            let key = key::<L>(record).unwrap_or_default();
            check(record).map_err(|why| (at as u64, why))?;
            if self.find_at(hash(seed, key), key) != Some(at) {
                return fault(at, "the record is not where a look-up of its name goes");
            }
            found += 1;
        }
        if walk.at != self.records.len() {
            return fault(walk.at, "neither a record nor padding");
        }
        let used = self.slots.chunks_exact(SLOT).filter(|slot| slot.iter().any(|b| *b != 0)).count() as u64;
        if found != count || used != count {
            return fault(0, "the numbers of records, of slots in use and in the header differ");
        }
        Ok(())
    }
}

fn place(slot: u64) -> usize {
    (slot as u32 as usize).wrapping_sub(1).wrapping_mul(ALIGN)
}

pub(crate) struct Walk<'a, L> {
    records: &'a [u8],
    at: usize,
    layout: PhantomData<L>,
}

impl<'a, L: Layout> Iterator for Walk<'a, L> {
    type Item = (usize, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let rest = self.records.get(self.at..)?;
            let flags = *rest.first()?;
            if flags == 0 && u64_at(rest, 0)? == 0 {
                self.at += ALIGN;
                continue;
            }
            if !is_present(flags) {
                return None;
            }
            let len = L::len(rest)?;
            let padded = len.next_multiple_of(ALIGN);
            let (record, padding) = rest.get(..padded)?.split_at_checked(len)?;
            if padding.iter().any(|b| *b != 0) {
                return None;
            }
            let at = self.at;
            self.at += padded;
            return Some((at, record));
        }
    }
}

/// Records that wait for their slots.
#[derive(Debug)]
pub(crate) struct Builder<L> {
    records: Vec<u8>,
    count: usize,
    layout: PhantomData<L>,
}

/// An index that owns its bytes.
#[derive(Debug)]
pub(crate) struct Built<L> {
    pub slots: Vec<u8>,
    pub records: Vec<u8>,
    pub count: usize,
    layout: PhantomData<L>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// These keys are there more than once.
    Duplicates(Vec<Vec<u8>>),
    /// Some key would lie too far from its place: draw another seed.
    Crowded,
}

impl<L: Layout> Builder<L> {
    pub fn new() -> Self {
        Builder { records: Vec::new(), count: 0, layout: PhantomData }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    /// Adds the record that `encode` appends.
    pub fn push(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let at = self.records.len();
        encode(&mut self.records);
        let len = self.records.len() - at;
        let line_left = LINE - at % LINE;
        if len <= LINE && len > line_left {
            // Move it to the next line, so that reading it is one cache miss.
            self.records.resize(self.records.len() + line_left, 0);
            self.records.copy_within(at..at + len, at + line_left);
            self.records[at..at + line_left].fill(0);
        }
        self.records.resize(self.records.len().next_multiple_of(ALIGN), 0);
        self.count += 1;
    }

    /// Builds the slots, with at most half of them in use; `doublings` times as many doublings of that are tried when a key
    /// would lie too far away.
    pub fn build(self, seed: Seed, doublings: u32) -> Result<Built<L>, (Self, Fault)> {
        let least = self.count.div_ceil(SLOTS_PER_LINE / 2).next_power_of_two();
        for doubling in 0..=doublings {
            match self.slots(seed, least << doubling) {
                Ok(slots) => {
                    return Ok(Built { slots, records: self.records, count: self.count, layout: PhantomData });
                }
                Err(Fault::Crowded) => {}
                Err(fault) => return Err((self, fault)),
            }
        }
        Err((self, Fault::Crowded))
    }

    fn slots(&self, seed: Seed, buckets: usize) -> Result<Vec<u8>, Fault> {
        let mut slots = vec![0; buckets * LINE];
        let mut duplicates = Vec::new();
        let walk = Walk::<L> { records: &self.records, at: 0, layout: PhantomData };
        for (at, record) in walk {
            let key = key::<L>(record).unwrap_or_default();
            let hash = hash(seed, key);
            match self.free_slot(&slots, hash, key) {
                Some(Ok(slot)) => {
                    let value = (hash >> 32 << 32) | (at / ALIGN + 1) as u64;
                    slots[slot..slot + SLOT].copy_from_slice(&value.to_le_bytes());
                }
                Some(Err(Taken)) => duplicates.push(key.to_vec()),
                None => return Err(Fault::Crowded),
            }
        }
        if duplicates.is_empty() { Ok(slots) } else { Err(Fault::Duplicates(duplicates)) }
    }

    /// The byte where the key's slot goes; `Taken` when the key is there already, `None` when all within reach are taken.
    fn free_slot(&self, slots: &[u8], hash: u64, wanted: &[u8]) -> Option<Result<usize, Taken>> {
        let mask = slots.len() / LINE - 1;
        let first = hash as usize & mask;
        for step in 0..REACH {
            let line = ((first + step) & mask) * LINE;
            for slot in (line..line + LINE).step_by(SLOT) {
                let value = u64_at(slots, slot)?;
                if value == 0 {
                    return Some(Ok(slot));
                }
                if value >> 32 == hash >> 32 && key::<L>(self.records.get(place(value)..)?) == Some(wanted) {
                    return Some(Err(Taken));
                }
            }
        }
        None
    }
}

struct Taken;

impl<L: Layout> Built<L> {
    /// Without a slot: every look-up ends at once.
    pub fn empty() -> Self {
        Built { slots: Vec::new(), records: Vec::new(), count: 0, layout: PhantomData }
    }

    /// Takes the slots away again, for another seed.
    pub fn unbuild(self) -> Builder<L> {
        Builder { records: self.records, count: self.count, layout: PhantomData }
    }

    pub fn index(&self) -> Index<'_, L> {
        Index::new(&self.slots, &self.records)
    }
}
