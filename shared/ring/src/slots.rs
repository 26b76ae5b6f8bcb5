//! Slots with generations: where a driver keeps its connections.

use crate::ConnId;

/// A slab whose ids are never valid twice: taking a value out moves its slot on to the next generation. Freed slots are
/// reused last in, first out, so that the table stays short and warm, but never before [`rest_ended`](Slots::rest_ended):
/// the caller of a driver hears of the end of a connection when it runs its batch, and may ask for new ones before that.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    /// The generation that a new slot begins with.
    first: u32,
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    /// Freed since the last batch was handed over.
    resting: Vec<u32>,
}

/// A generation that no slot ever has: it is the listeners', where they share a space of tokens with connections. At ten thousand
/// connections a second the slot that is used again each time would come to it in five days.
pub(crate) const NO_GENERATION: u32 = u32::MAX;

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Slots<T> {
    /// `first`: the generation that slots begin with, 0 but where its end is to be seen.
    pub(crate) fn new(first: u32) -> Self {
        Slots { first, slots: Vec::new(), free: Vec::new(), resting: Vec::new() }
    }

    /// Values in it.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len() - self.resting.len()
    }

    pub(crate) fn insert(&mut self, value: T) -> ConnId {
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.value = Some(value);
            return ConnId::new(index, slot.generation);
        }
        let index = u32::try_from(self.slots.len()).expect("fewer connections than descriptors");
        self.slots.push(Slot { generation: self.first, value: Some(value) });
        ConnId::new(index, self.first)
    }

    pub(crate) fn get(&mut self, id: ConnId) -> Option<&mut T> {
        self.slots.get_mut(id.index()).filter(|slot| slot.generation == id.generation())?.value.as_mut()
    }

    pub(crate) fn remove(&mut self, id: ConnId) -> Option<T> {
        let slot = self.slots.get_mut(id.index()).filter(|slot| slot.generation == id.generation())?;
        let value = slot.value.take()?;
        let next = slot.generation.wrapping_add(1);
        slot.generation = if next == NO_GENERATION { 0 } else { next };
        self.resting.push(id.index() as u32);
        Some(value)
    }

    /// The batch that told of the freed slots has been run: they may be used again.
    pub(crate) fn rest_ended(&mut self) {
        self.free.append(&mut self.resting);
    }

    /// The ids in it, lowest slot first.
    pub(crate) fn ids(&self) -> impl Iterator<Item = ConnId> + '_ {
        let taken = self.slots.iter().enumerate().filter(|(_, slot)| slot.value.is_some());
        taken.map(|(index, slot)| ConnId::new(index as u32, slot.generation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_worthless_once_its_value_was_taken_out() {
        let mut slots = Slots::new(0);
        let first = slots.insert('a');
        assert_eq!(slots.remove(first), Some('a'));
        let meanwhile = slots.insert('c');
        assert_ne!(first.index(), meanwhile.index(), "nobody has been told that it is free");
        slots.rest_ended();
        let second = slots.insert('b');
        assert_eq!(first.index(), second.index());
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get(second), Some(&mut 'b'));
        assert_eq!(slots.len(), 2);
    }

    #[test]
    fn the_generation_after_the_last_is_the_first_and_none_is_the_listeners() {
        let mut slots = Slots::new(NO_GENERATION - 2);
        let mut ids = Vec::new();
        for value in 0..4 {
            let id = slots.insert(value);
            assert_eq!(slots.get(id), Some(&mut value.clone()));
            assert_eq!(slots.remove(id), Some(value));
            assert_eq!(slots.get(id), None);
            slots.rest_ended();
            ids.push((id.index(), id.generation()));
        }
        assert_eq!(ids, [(0, NO_GENERATION - 2), (0, NO_GENERATION - 1), (0, 0), (0, 1)]);
    }
}
