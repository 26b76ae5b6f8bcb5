//! Timers in user space: a hierarchical timing wheel (Varghese and Lauck, 1987).
//!
//! Time is cut into ticks of 2²⁰ ns (1.05 ms). Six wheels of 64 slots: a slot of the first is one tick, a slot of each
//! further one is a whole turn of the wheel before it. A timer goes into the finest wheel that reaches its tick, and
//! moves down when the clock comes to its slot. A bitmap a wheel says which slots hold anything, so that empty time
//! is skipped and not walked through.
//!
//! There is no cancelling: the caller keeps its real deadline with its own state, ignores a key that is not due any
//! more, and sets it again where the deadline moved. So a timer that is moved at every request costs nothing per
//! request.

use crate::Time;

/// Nanoseconds in a tick, as a power of two.
const TICK_BITS: u32 = 20;
/// Slots of a wheel, as a power of two.
const WHEEL_BITS: u32 = 6;
const SLOTS: usize = 1 << WHEEL_BITS;
/// Six wheels of 64 reach 2³⁶ ticks: two years. What lies further goes into the last slot and is put off again from
/// there.
const WHEELS: usize = 6;
const REACH: u64 = 1 << (WHEEL_BITS * WHEELS as u32);

const NONE: u32 = u32::MAX;

/// Keys with the time that each is due. Never fires early, at most one tick (1.05 ms) late.
///
/// [`set`](Timers::set) is O(1); a timer moves down at most five times in its life. Memory is reused: nothing is
/// allocated once as many timers were set as ever are at once.
#[derive(Debug)]
pub struct Timers<K> {
    /// The tick up to which everything was looked at.
    now: u64,
    entries: Vec<Entry<K>>,
    /// Head of the list of unused entries.
    free: u32,
    /// Heads of the slots' lists.
    slots: [[u32; SLOTS]; WHEELS],
    occupied: [u64; WHEELS],
    /// The tick at which the clock comes to the first occupied slot; `u64::MAX` when none is. Asked for at every wait, and
    /// seldom another.
    next: u64,
    /// Head of the list of entries that are due.
    due: u32,
    len: usize,
}

#[derive(Debug)]
struct Entry<K> {
    key: K,
    tick: u64,
    next: u32,
}

/// The first tick that is not before `at`: firing there is never early.
fn tick_after(at: Time) -> u64 {
    at.as_nanos().div_ceil(1 << TICK_BITS)
}

impl<K: Copy> Timers<K> {
    pub fn new(now: Time) -> Timers<K> {
        Timers {
            now: now.as_nanos() >> TICK_BITS,
            entries: Vec::new(),
            free: NONE,
            slots: [[NONE; SLOTS]; WHEELS],
            occupied: [0; WHEELS],
            next: u64::MAX,
            due: NONE,
            len: 0,
        }
    }

    /// Timers set and not yet expired.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `key` is to come out of [`expire`](Timers::expire) once `at` has passed. The same key may be set many times,
    /// and comes out as often.
    pub fn set(&mut self, key: K, at: Time) {
        let entry = Entry { key, tick: tick_after(at), next: NONE };
        let index = if self.free == NONE {
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).expect("fewer timers than 2^32")
        } else {
            let index = self.free;
            self.free = std::mem::replace(&mut self.entries[index as usize], entry).next;
            index
        };
        self.len += 1;
        self.place(index);
    }

    /// A time before which nothing is due: good for [`Driver::wait`](crate::Driver::wait). `None` when nothing is set.
    pub fn next(&self) -> Option<Time> {
        let tick = if self.due != NONE { self.now } else { self.next };
        (tick != u64::MAX).then(|| Time::from_nanos(tick.saturating_mul(1 << TICK_BITS)))
    }

    /// A key that is due at `now`, in no particular order within a tick; repeat until `None`.
    pub fn expire(&mut self, now: Time) -> Option<K> {
        if self.due == NONE {
            self.advance(now.as_nanos() >> TICK_BITS);
        }
        let index = self.due;
        if index == NONE {
            return None;
        }
        let entry = &mut self.entries[index as usize];
        self.due = std::mem::replace(&mut entry.next, self.free);
        self.free = index;
        self.len -= 1;
        Some(entry.key)
    }

    /// Puts an entry into the list where it belongs as of `self.now`.
    fn place(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        if entry.tick <= self.now {
            entry.next = std::mem::replace(&mut self.due, index);
            return;
        }
        let ahead = (entry.tick - self.now).min(REACH - 1);
        let wheel = ((u64::BITS - 1 - ahead.leading_zeros()) / WHEEL_BITS) as usize;
        let slot = slot_of(self.now + ahead, wheel);
        let shift = wheel as u32 * WHEEL_BITS;
        self.next = self.next.min((self.now + ahead) >> shift << shift);
        entry.next = std::mem::replace(&mut self.slots[wheel][slot], index);
        self.occupied[wheel] |= 1 << slot;
    }

    /// The tick at which the clock comes to the first occupied slot.
    fn next_slot(&self) -> u64 {
        let occupied = (0..WHEELS).filter(|&wheel| self.occupied[wheel] != 0);
        let ticks = occupied.map(|wheel| {
            let shift = wheel as u32 * WHEEL_BITS;
            let turn = self.now >> shift;
            // The slot under the hand was emptied when the hand came; what is in it now is a whole turn ahead.
            let after = (turn + 1) as u32 & (SLOTS as u32 - 1);
            let distance = u64::from(self.occupied[wheel].rotate_right(after).trailing_zeros()) + 1;
            (turn + distance) << shift
        });
        ticks.min().unwrap_or(u64::MAX)
    }

    /// Moves the clock on to `to`, or to the first tick at which something is due.
    fn advance(&mut self, to: u64) {
        while self.due == NONE {
            let tick = self.next;
            if tick > to {
                self.now = self.now.max(to);
                return;
            }
            self.now = tick;
            // Every wheel whose hand moves at this tick, the coarsest first: it refills the finer ones.
            for wheel in (0..WHEELS).rev() {
                if tick.trailing_zeros() >= wheel as u32 * WHEEL_BITS {
                    self.empty(wheel, slot_of(tick, wheel));
                }
            }
            self.next = self.next_slot();
        }
    }

    /// Places every entry of a slot anew.
    fn empty(&mut self, wheel: usize, slot: usize) {
        self.occupied[wheel] &= !(1 << slot);
        let mut index = std::mem::replace(&mut self.slots[wheel][slot], NONE);
        while index != NONE {
            let next = self.entries[index as usize].next;
            self.place(index);
            index = next;
        }
    }
}

/// The slot of `wheel` that holds `tick`.
fn slot_of(tick: u64, wheel: usize) -> usize {
    (tick >> (wheel as u32 * WHEEL_BITS)) as usize & (SLOTS - 1)
}
