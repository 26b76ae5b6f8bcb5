//! The provided-buffer ring: a [`Pool`] that the kernel picks receive buffers from (`io_uring_register_buf_ring(3)`).

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::queue::Queue;
use crate::Pool;

/// Buffers that the kernel has at first, and at least. It takes them in turn, so that all of those that it has are touched
/// again and again: few stay in the cache. One receive takes at most 32 at a time (the kernel's MULTISHOT_MAX_RETRY).
const LENT_FIRST: usize = 8;

/// Rounds after which fewer are lent again, if none of them needed more than half.
const CALM_ROUNDS: u32 = 4_096;

/// The one group of provided buffers that a driver has.
pub(super) const GROUP: u16 = 0;

/// A ring of `count` entries in pages of its own, with a pool of as many buffers behind it.
pub(super) struct BufRing {
    entries: NonNull<BufRingEntry>,
    bytes: usize,
    mask: u16,
    /// Our side of the ring; the kernel reads its copy in the first entry.
    tail: u16,
    /// Buffers that the kernel has.
    lent: usize,
    /// Buffers that it is to have, at most; the others rest.
    lent_max: usize,
    /// Rounds that got by with half of them.
    calm: u32,
    /// Buffers that came back since the last round, and what was in them.
    used: usize,
    used_bytes: usize,
    pool: Pool,
}

impl BufRing {
    /// `count` is a power of two up to 32,768 (the kernel's limit); the caller checked it.
    pub(super) fn register(queue: &Queue, count: u16, size: usize) -> io::Result<BufRing> {
        let bytes = usize::from(count) * size_of::<BufRingEntry>();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping touches no memory that exists.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let entries = NonNull::new(memory.cast()).expect("mmap never maps page zero");
        let mut ring = BufRing {
            entries,
            bytes,
            mask: count - 1,
            tail: 0,
            lent: 0,
            lent_max: LENT_FIRST.min(usize::from(count)),
            calm: 0,
            used: 0,
            used_bytes: 0,
            pool: Pool::new(count, size),
        };
        // SAFETY: the mapping is page-aligned, zeroed, of `count` entries, and stays until `drop`, which the driver
        // lets run only after it has closed the queue.
        unsafe { queue.submitter().register_buf_ring_with_flags(memory as u64, count, GROUP, 0)? };
        ring.replenish(0);
        Ok(ring)
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Buffers that the kernel has left.
    pub(super) fn lent(&self) -> usize {
        self.lent
    }

    /// The kernel used up one buffer, for so many octets.
    pub(super) fn taken(&mut self, len: usize) {
        self.lent -= 1;
        self.used += 1;
        self.used_bytes += len;
    }

    /// Lends more when many connections found none, which is what a crowd of small messages does; fewer again when it has
    /// gone. Connections with much to say are served as well from few buffers that stay warm; and what is lent is what one round can
    /// bring of bodies that nobody takes, before any of them is paused.
    fn adapt(&mut self, starved: usize) {
        let count = usize::from(self.mask) + 1;
        let (used, bytes) = (std::mem::take(&mut self.used), std::mem::take(&mut self.used_bytes));
        if used * 2 >= self.lent_max && bytes * 2 > used * self.pool.buffer_size() {
            self.lent_max = (self.lent_max / 2).max(LENT_FIRST.min(count));
            self.calm = 0;
        } else if starved * 4 > self.lent_max {
            self.lent_max = (self.lent_max * 2).min(count);
            self.calm = 0;
        } else if self.lent * 2 < self.lent_max {
            self.calm = 0;
        } else if self.lent_max > LENT_FIRST {
            self.calm += 1;
            if self.calm >= CALM_ROUNDS {
                self.lent_max /= 2;
                self.calm = 0;
            }
        }
    }

    /// Hands free buffers to the kernel, as many as it is to have: one release store for the whole batch. `starved`:
    /// connections that found none since the last call.
    pub(super) fn replenish(&mut self, starved: usize) {
        self.adapt(starved);
        let before = self.tail;
        while self.lent < self.lent_max
            && let Some(id) = self.pool.lend()
        {
            // SAFETY: the index is masked to the ring, and an entry between the kernel's head and our tail is never
            // rewritten, because there are as many entries as buffers.
            let entry = unsafe { self.entries.add(usize::from(self.tail & self.mask)).as_mut() };
            entry.set_addr(self.pool.address(id) as u64);
            entry.set_len(self.pool.buffer_size() as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            self.lent += 1;
        }
        if self.tail != before {
            // SAFETY: the tail lies in the first entry, aligned, and is only accessed atomically: by us here, by the
            // kernel with an acquire load.
            let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
            tail.store(self.tail, Ordering::Release);
        }
    }
}

impl Drop for BufRing {
    fn drop(&mut self) {
        // SAFETY: mapped in `register` with this length; the queue that knew it is closed.
        unsafe { libc::munmap(self.entries.as_ptr().cast(), self.bytes) };
    }
}
