//! Buffers on the way in and out.
//!
//! Receive buffers come from one pool per driver, registered with the kernel where it can be; few are in use at a time, so
//! that they stay hot in the cache. Send buffers are the caller's vectors, lent to the driver for the time of the send.
//! What is only passed on need not be copied from the one to the other: a [`Piece`] of a received buffer can be kept, and
//! spliced into a send.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::rc::Rc;

/// Octets that are worth keeping as a [`Piece`]: fewer are copied for less than the kernel's work with one more segment.
const PIECE_BYTES_MIN: usize = 1_024;

/// Pieces that a list has room for when it is made: a few frames. Lists are used again, and most never grow.
const PIECES_FIRST: usize = 16;

/// A driver's receive buffers: `count` of `size` octets in one allocation that never moves.
///
/// Single-threaded. A buffer is free (known to the pool), lent (to the kernel, or to a driver about to fill it), or
/// out as a [`RecvBuf`] and the [`Piece`]s of it.
#[derive(Clone)]
pub struct Pool(Rc<Inner>);

struct Inner {
    memory: NonNull<[u8]>,
    size: usize,
    /// Ids of buffers that are not lent.
    free: RefCell<Vec<u16>>,
    /// By id: the values that a buffer that is out is seen through.
    holders: Box<[Cell<u16>]>,
    /// Pieces in all, which may be half as many as there are buffers: however long they are kept, receiving goes on.
    pieces: Cell<usize>,
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
        let holders = vec![Cell::new(0); usize::from(count)].into_boxed_slice();
        Pool(Rc::new(Inner { memory, size, free, holders, pieces: Cell::new(0) }))
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
        self.0.holders[usize::from(id)].set(1);
        RecvBuf { pool: self.clone(), id, len: len as u32 }
    }

    /// A lent buffer that was not filled after all.
    pub(crate) fn give_back(&self, id: u16) {
        self.0.free.borrow_mut().push(id);
    }
}

/// Received bytes. When it and all pieces of it are dropped, the buffer goes back to its pool.
pub struct RecvBuf {
    pool: Pool,
    id: u16,
    len: u32,
}

impl RecvBuf {
    /// Whether any part of it could be [kept](RecvBuf::keep).
    #[inline]
    pub fn is_worth_keeping(&self) -> bool {
        self.len as usize >= PIECE_BYTES_MIN
    }

    /// Keeps `part` of this buffer beyond the batch, without a copy. `None`: it is to be copied, because it lies elsewhere,
    /// is small, or because as many pieces are kept already as may be.
    pub fn keep(&self, part: &[u8]) -> Option<Piece> {
        let pool = &self.pool.0;
        if part.len() < PIECE_BYTES_MIN || (pool.pieces.get() + 1) * 2 > pool.holders.len() {
            return None;
        }
        let start = (part.as_ptr() as usize).checked_sub(self.as_ptr() as usize)?;
        let end = start.checked_add(part.len()).filter(|end| *end <= self.len())?;
        Some(Piece::new(Memory::Received(self.clone()), start, end))
    }
}

/// Another value of the same buffer, not of its octets.
impl Clone for RecvBuf {
    fn clone(&self) -> RecvBuf {
        let holders = &self.pool.0.holders[usize::from(self.id)];
        holders.set(holders.get().checked_add(1).expect("far fewer values of one buffer than that"));
        RecvBuf { pool: self.pool.clone(), id: self.id, len: self.len }
    }
}

impl Deref for RecvBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the buffer's first `len` octets were initialised (the pool starts zeroed), and nobody writes to them
        // until the last of the values that it is out as was dropped and gave it back.
        unsafe { std::slice::from_raw_parts(self.pool.address(self.id), self.len as usize) }
    }
}

impl Drop for RecvBuf {
    fn drop(&mut self) {
        let holders = &self.pool.0.holders[usize::from(self.id)];
        holders.set(holders.get() - 1);
        if holders.get() == 0 {
            self.pool.give_back(self.id);
        }
    }
}

impl fmt::Debug for RecvBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecvBuf({} octets)", self.len)
    }
}

/// Octets that are sent from where they are.
#[derive(Debug)]
pub struct Piece {
    memory: Memory,
    start: u32,
    end: u32,
}

#[derive(Debug)]
enum Memory {
    Received(RecvBuf),
    Owned(Rc<[u8]>),
}

impl Piece {
    fn new(memory: Memory, start: usize, end: usize) -> Piece {
        if let Memory::Received(buf) = &memory {
            let pieces = &buf.pool.0.pieces;
            pieces.set(pieces.get() + 1);
        }
        Piece { memory, start: start as u32, end: end as u32 }
    }

    /// The octets of `range` as a piece of their own.
    ///
    /// # Panics
    /// When they are not all in this one.
    pub fn part(&self, range: Range<usize>) -> Piece {
        assert!(range.start <= range.end && range.end <= self.len());
        let memory = match &self.memory {
            Memory::Received(buf) => Memory::Received(buf.clone()),
            Memory::Owned(bytes) => Memory::Owned(Rc::clone(bytes)),
        };
        Piece::new(memory, self.start as usize + range.start, self.start as usize + range.end)
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all: &[u8] = match &self.memory {
            Memory::Received(buf) => buf,
            Memory::Owned(bytes) => bytes,
        };
        &all[self.start as usize..self.end as usize]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Memory::Received(buf) = &self.memory {
            let pieces = &buf.pool.0.pieces;
            pieces.set(pieces.get() - 1);
        }
    }
}

/// From memory of its own.
impl From<Vec<u8>> for Piece {
    fn from(bytes: Vec<u8>) -> Piece {
        let end = bytes.len();
        Piece::new(Memory::Owned(bytes.into()), 0, end)
    }
}

/// What one send carries: `bytes`, with pieces between them.
#[derive(Debug, Default)]
pub struct SendBuf {
    pub bytes: Vec<u8>,
    pieces: Option<Pieces>,
}

/// The pieces of a send: apart, because few sends have any. A list can be used again.
#[derive(Debug)]
pub struct Pieces(Box<List>);

#[derive(Debug)]
struct List {
    splices: Vec<Splice>,
    /// Octets of all of them.
    len: usize,
}

/// A piece and its place: in front of `bytes[at]`.
#[derive(Debug)]
struct Splice {
    at: usize,
    piece: Piece,
}

impl SendBuf {
    /// Octets in all.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() + self.pieces.as_ref().map_or(0, |pieces| pieces.0.len)
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether all of it is in `bytes`.
    pub fn is_plain(&self) -> bool {
        self.pieces.as_ref().is_none_or(|pieces| pieces.0.splices.is_empty())
    }

    /// Puts `piece` in front of `bytes[at]`, behind the pieces that are there.
    ///
    /// # Panics
    /// When a piece lies further on, or `at` beyond the end.
    pub fn splice(&mut self, at: usize, piece: Piece) {
        let Pieces(pieces) = self.pieces.get_or_insert_with(|| {
            let splices = Vec::with_capacity(PIECES_FIRST);
            Pieces(Box::new(List { splices, len: 0 }))
        });
        assert!(at <= self.bytes.len() && pieces.splices.last().is_none_or(|last| last.at <= at));
        pieces.len += piece.len();
        pieces.splices.push(Splice { at, piece });
    }

    /// Whether it has a list for pieces.
    #[inline]
    pub fn has_list(&self) -> bool {
        self.pieces.is_some()
    }

    /// Gives it an empty list, as [`take_list`](SendBuf::take_list) returns it, in the place of an empty one or none.
    pub fn give_list(&mut self, list: Pieces) {
        debug_assert!(self.is_plain() && list.0.splices.is_empty());
        self.pieces = Some(list);
    }

    /// Lets go of the pieces; their list, for reuse.
    #[inline]
    pub fn take_list(&mut self) -> Option<Pieces> {
        let Pieces(mut list) = self.pieces.take()?;
        list.splices.clear();
        list.len = 0;
        Some(Pieces(list))
    }

    /// Lets go of the pieces and forgets the octets; memory stays for reuse.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.pieces = self.take_list();
    }

    /// Its octets in order. Empty slices are among them.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let splices = self.pieces.as_ref().map_or(&[][..], |pieces| &pieces.0.splices);
        let starts = std::iter::once(0).chain(splices.iter().map(|splice| splice.at));
        let ends = splices.iter().map(|splice| splice.at).chain(std::iter::once(self.bytes.len()));
        let between = starts.zip(ends).map(|(start, end)| &self.bytes[start..end]);
        let pieces = splices.iter().map(|splice| &*splice.piece).chain(std::iter::once(&[][..]));
        between.zip(pieces).flat_map(|(bytes, piece)| [bytes, piece])
    }
}

impl From<Vec<u8>> for SendBuf {
    fn from(bytes: Vec<u8>) -> SendBuf {
        SendBuf { bytes, ..SendBuf::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(pool: &Pool) -> RecvBuf {
        pool.filled(pool.lend().unwrap(), pool.buffer_size())
    }

    #[test]
    fn a_buffer_goes_back_when_it_and_all_its_pieces_are_gone() {
        let pool = Pool::new(2, 4_096);
        let buf = filled(&pool);
        let piece = buf.keep(&buf[1_000..3_000]).unwrap();
        let part = piece.part(500..2_000);
        assert_eq!((piece.len(), part.len()), (2_000, 1_500));
        assert_eq!(part.as_ptr(), buf[1_500..].as_ptr());
        let other = filled(&pool);
        drop((buf, piece));
        assert!(!pool.has_free());
        drop(part);
        assert!(pool.has_free());
        drop(other);
    }

    #[test]
    fn half_of_the_buffers_can_be_kept_and_no_more() {
        let pool = Pool::new(4, 4_096);
        let (first, second, third) = (filled(&pool), filled(&pool), filled(&pool));
        let kept = [first.keep(&first).unwrap(), second.keep(&second).unwrap()];
        assert!(third.keep(&third).is_none());
        drop(kept);
        assert!(third.keep(&third).is_some());
    }

    #[test]
    fn what_is_small_or_lies_elsewhere_is_not_kept() {
        let pool = Pool::new(4, 4_096);
        let (buf, other) = (filled(&pool), filled(&pool));
        assert!(buf.keep(&buf[..PIECE_BYTES_MIN - 1]).is_none());
        assert!(buf.keep(&buf[..PIECE_BYTES_MIN]).is_some());
        assert!(buf.keep(&other).is_none() && other.keep(&buf).is_none());
        assert!(buf.keep(&vec![0; 2_000]).is_none());
    }

    #[test]
    fn pieces_lie_between_the_octets_where_they_were_put() {
        let mut buf = SendBuf::from(b"abcd".to_vec());
        for (at, text) in [(0, "1"), (2, "2"), (2, "3"), (4, "4")] {
            buf.splice(at, Piece::from(text.as_bytes().to_vec()));
        }
        assert_eq!(buf.slices().collect::<Vec<_>>().concat(), b"1ab23cd4");
        assert_eq!(buf.len(), 8);
        buf.clear();
        assert!(buf.is_empty() && buf.is_plain());
    }
}
