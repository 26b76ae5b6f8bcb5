//! A dynamic table (RFC 7541 §2.3.2): entries in order of insertion, their octets one after the other in one arena.
//!
//! The arena grows at its end; what eviction leaves at its front is reclaimed by moving the rest down once that is the
//! larger part, so each octet is moved a constant number of times. Nothing is allocated before the first insertion.

use std::collections::VecDeque;

use super::ENTRY_OVERHEAD;
use super::statics::Which;

/// One entry. The value follows the name in the arena.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    start: u32,
    pub name_len: u32,
    value_len: u32,
    pub which: Which,
    pub bad: bool,
    pub plain: bool,
    pub hash: u32,
}

/// What is kept of a field beyond its octets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub which: Which,
    /// Decoder: the field may not be used (a forbidden octet); found once, when it is inserted.
    pub bad: bool,
    /// Decoder: it means nothing and is not bad.
    pub plain: bool,
    /// Encoder: the field's hash.
    pub hash: u32,
}

impl Entry {
    fn octets(&self) -> usize {
        (self.name_len + self.value_len) as usize
    }
}

#[derive(Debug, Default)]
pub(super) struct Table {
    arena: Vec<u8>,
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
    inserted: u32,
}

impl Table {
    pub(super) fn new(max: usize) -> Table {
        Table { max, ..Table::default() }
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// Changes the most that it may hold, evicting what no longer fits.
    pub(super) fn set_max(&mut self, max: usize) {
        self.max = max;
        self.evict_to(max);
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many entries were ever inserted (wrapping): the number of the newest.
    pub(super) fn inserted(&self) -> u32 {
        self.inserted
    }

    /// The entry of this age: 0 is the newest.
    pub(super) fn by_age(&self, age: usize) -> Option<(&Entry, &[u8])> {
        let entry = self.entries.get(self.entries.len().checked_sub(age + 1)?)?;
        let start = entry.start as usize;
        Some((entry, &self.arena[start..start + entry.octets()]))
    }

    fn evict_to(&mut self, size: usize) {
        while self.size > size {
            let Some(entry) = self.entries.pop_front() else { break };
            self.size -= entry.octets() + ENTRY_OVERHEAD;
        }
        if self.entries.is_empty() {
            self.arena.clear();
        }
    }

    /// Inserts a field; one that is larger than the table empties it (RFC 7541 §4.4). Returns whether it is in the table.
    pub(super) fn insert(&mut self, kept: Kept, name: &[u8], value: &[u8]) -> bool {
        let octets = name.len() + value.len();
        let size = octets + ENTRY_OVERHEAD;
        if size > self.max {
            self.evict_to(0);
            return false;
        }
        self.evict_to(self.max - size);
        self.make_room(octets);
        let start = self.arena.len() as u32;
        self.arena.extend_from_slice(name);
        self.arena.extend_from_slice(value);
        let (name_len, value_len) = (name.len() as u32, value.len() as u32);
        let Kept { which, bad, plain, hash } = kept;
        self.entries.push_back(Entry { start, name_len, value_len, which, bad, plain, hash });
        self.size += size;
        self.inserted = self.inserted.wrapping_add(1);
        true
    }

    fn make_room(&mut self, octets: usize) {
        if self.arena.len() + octets <= self.arena.capacity() {
            return;
        }
        let dead = self.entries.front().map_or(self.arena.len(), |entry| entry.start as usize);
        let live = self.arena.len() - dead;
        if dead >= live && live + octets <= self.arena.capacity() {
            self.arena.copy_within(dead.., 0);
            self.arena.truncate(live);
            for entry in &mut self.entries {
                entry.start -= dead as u32;
            }
        } else {
            self.arena.reserve_exact(octets.max(512));
        }
    }

    /// Octets of memory that it holds.
    #[cfg(test)]
    pub(super) fn footprint(&self) -> usize {
        self.arena.capacity() + self.entries.capacity() * size_of::<Entry>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::Name;

    fn kept(hash: u32) -> Kept {
        Kept { which: Which::of(Name::Other), bad: false, plain: false, hash }
    }

    #[test]
    fn the_oldest_entries_leave_first_and_memory_stays_bounded() {
        let mut table = Table::new(4096);
        for round in 0..10_000u32 {
            let value = vec![b'v'; (round % 300) as usize];
            assert!(table.insert(kept(round), &round.to_be_bytes(), &value));
            let (entry, octets) = table.by_age(0).unwrap();
            assert_eq!((entry.hash, &octets[..4]), (round, &round.to_be_bytes()[..]));
            let oldest = table.len() - 1;
            let (entry, octets) = table.by_age(oldest).unwrap();
            assert_eq!((entry.hash, octets.len() as u32), (round - oldest as u32, 4 + (round - oldest as u32) % 300));
            assert!(table.by_age(oldest + 1).is_none());
            assert!(table.size <= 4096);
        }
        assert!(table.footprint() < 16 * 1024, "{}", table.footprint());
    }

    #[test]
    fn an_entry_larger_than_the_table_empties_it() {
        let mut table = Table::new(100);
        assert!(table.insert(kept(0), b"a", b"b"));
        assert!(!table.insert(kept(0), b"a", &[b'x'; 100]));
        assert_eq!((table.len(), table.size), (0, 0));
    }
}
