//! Buffers on the way in and out.
//!
//! Receive buffers come from one small pool per driver, registered with the kernel where it can be, so that they stay
//! hot in the cache. Send buffers are the caller's vectors, lent to the driver for the time of the send.

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;

/// A driver's receive buffers: `count` of `size` octets in one allocation that never moves.
///
/// Single-threaded. A buffer is free (known to the pool), lent (to the kernel, or to a driver about to fill it), or
/// out as a [`RecvBuf`].
#[derive(Clone)]
pub struct Pool(Rc<Inner>);

struct Inner {
    memory: NonNull<[u8]>,
    size: usize,
    /// Ids of buffers that are not lent.
    free: RefCell<Vec<u16>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: `memory` came from `Box::leak` in `Pool::new`, and the last handle to it is going.
        drop(unsafe { Box::from_raw(self.memory.as_ptr()) });
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} octets each, {} free)", self.0.size, self.0.free.borrow().len())
    }
}

impl Pool {
    /// `count` buffers of `size` octets.
    pub fn new(count: u16, size: usize) -> Pool {
        let memory = NonNull::from(Box::leak(vec![0; usize::from(count) * size].into_boxed_slice()));
        let free = RefCell::new((0..count).rev().collect());
        Pool(Rc::new(Inner { memory, size, free }))
    }

    /// Octets of one buffer.
    pub fn buffer_size(&self) -> usize {
        self.0.size
    }

    /// Where buffer `id` begins, for the kernel.
    pub(crate) fn address(&self, id: u16) -> *mut u8 {
        let offset = usize::from(id) * self.0.size;
        assert!(offset < self.0.memory.len());
        // SAFETY: `offset` is inside the allocation, as just checked.
        unsafe { self.0.memory.as_ptr().cast::<u8>().add(offset) }
    }

    /// Takes a free buffer out of the pool's sight, to be filled.
    pub(crate) fn lend(&self) -> Option<u16> {
        self.0.free.borrow_mut().pop()
    }

    /// Whether [`lend`](Pool::lend) would find one.
    pub(crate) fn has_free(&self) -> bool {
        !self.0.free.borrow().is_empty()
    }

    /// A lent buffer that was filled with `len` octets.
    pub(crate) fn filled(&self, id: u16, len: usize) -> RecvBuf {
        assert!(len <= self.0.size);
        RecvBuf { pool: self.clone(), id, len: len as u32 }
    }

    /// A lent buffer that was not filled after all.
    pub(crate) fn give_back(&self, id: u16) {
        self.0.free.borrow_mut().push(id);
    }
}

/// Received bytes. Dropping it gives the buffer back to its pool.
pub struct RecvBuf {
    pool: Pool,
    id: u16,
    len: u32,
}

impl Deref for RecvBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the buffer's first `len` octets were initialised (the pool starts zeroed), it is out as this value
        // alone, and nobody writes to it until the drop gives it back.
        unsafe { std::slice::from_raw_parts(self.pool.address(self.id), self.len as usize) }
    }
}

impl Drop for RecvBuf {
    fn drop(&mut self) {
        self.pool.give_back(self.id);
    }
}

impl fmt::Debug for RecvBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecvBuf({} octets)", self.len)
    }
}

/// What one send carries: `head`, then each segment of `tail` in order.
#[derive(Debug, Default)]
pub struct SendBuf {
    pub head: Vec<u8>,
    pub tail: Vec<Segment>,
}

impl SendBuf {
    /// Octets in all.
    pub fn len(&self) -> usize {
        self.head.len() + self.tail.iter().map(|segment| segment.as_bytes().len()).sum::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Vec<u8>> for SendBuf {
    fn from(head: Vec<u8>) -> SendBuf {
        SendBuf { head, tail: Vec::new() }
    }
}

/// A further piece of a send, sent from where it is.
#[derive(Debug)]
pub enum Segment {
    Owned(Vec<u8>),
    /// The part `start..end` of a received buffer, forwarded without a copy.
    Received {
        buf: RecvBuf,
        start: u32,
        end: u32,
    },
}

impl Segment {
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Segment::Owned(bytes) => bytes,
            Segment::Received { buf, start, end } => &buf[*start as usize..*end as usize],
        }
    }
}
