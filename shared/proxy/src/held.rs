//! What of a body waits between two connections.
//!
//! Octets that can stay in the buffer they were received in do; the others are copied into one vector. Both are kept in the
//! order they came, as chunks. What was sent stays in front while it may have to be sent again.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::Deref;
use std::rc::Rc;

use steady_ring::Piece;

use crate::spares::Spares;

/// Chunks that a list has room for when it is made.
const CHUNKS_FIRST: usize = 16;

/// Chunks whose list a body that is over may keep for the next.
const CHUNKS_SPARE_MAX: usize = 64;

/// Octets that all bodies of a worker hold together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Total(Rc<Cell<usize>>);

impl Total {
    pub(crate) fn octets(&self) -> usize {
        self.0.get()
    }

    fn add(&self, octets: usize) {
        self.0.set(self.0.get() + octets);
    }

    fn sub(&self, octets: usize) {
        self.0.set(self.0.get() - octets);
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Held {
    total: Total,
    /// Copied octets; chunks point into it.
    bytes: Vec<u8>,
    chunks: VecDeque<Chunk>,
    /// Octets of all chunks, and how many of them were sent.
    len: usize,
    sent: usize,
    /// Chunks that were sent whole, and octets that were sent of the next.
    past: usize,
    within: usize,
}

#[derive(Debug)]
enum Chunk {
    Copied { start: usize, len: usize },
    Piece(Piece),
}

impl Chunk {
    fn len(&self) -> usize {
        match self {
            Chunk::Copied { len, .. } => *len,
            Chunk::Piece(piece) => piece.len(),
        }
    }
}

/// Octets that are offered to a sink: to be copied, or the part of a piece from `start` on, `len` of them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Octets<'a> {
    Copied(&'a [u8]),
    Piece { piece: &'a Piece, start: usize, len: usize },
}

impl Octets<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Octets::Copied(data) => data.len(),
            Octets::Piece { len, .. } => *len,
        }
    }
}

impl Deref for Octets<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Octets::Copied(data) => data,
            Octets::Piece { piece, start, len } => &piece[*start..*start + *len],
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.total.sub(self.len);
    }
}

impl Held {
    /// Holds nothing; what it will hold counts towards `total`.
    pub(crate) fn new(total: &Total) -> Held {
        let (bytes, chunks) = (Vec::new(), VecDeque::new());
        Held { total: total.clone(), bytes, chunks, len: 0, sent: 0, past: 0, within: 0 }
    }

    /// Octets in all, those included that were sent and are kept.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn sent(&self) -> usize {
        self.sent
    }

    /// Octets that were not sent.
    pub(crate) fn waiting(&self) -> usize {
        self.len - self.sent
    }

    /// Holds these octets and nothing else.
    pub(crate) fn begin(&mut self, bytes: Vec<u8>) {
        self.clear();
        self.len = bytes.len();
        self.total.add(self.len);
        self.bytes = bytes;
        if self.len > 0 {
            self.add(Chunk::Copied { start: 0, len: self.len });
        }
    }

    /// Keeps octets where they are.
    pub(crate) fn push(&mut self, piece: Piece) {
        self.len += piece.len();
        self.total.add(piece.len());
        self.add(Chunk::Piece(piece));
    }

    /// Keeps a copy of octets. Where there is no room behind the others and what was sent is of no use any more (`settled`),
    /// these move to the front, if that at least halves them: a sink that takes an octet at a time must not have the rest
    /// moved each time.
    pub(crate) fn push_copy(&mut self, data: &[u8], settled: bool, spares: &mut Spares) {
        if data.is_empty() {
            return;
        }
        if self.bytes.capacity() == 0 {
            self.bytes = spares.take();
        }
        if settled && self.bytes.len() + data.len() > self.bytes.capacity() {
            self.make_room();
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(data);
        self.len += data.len();
        self.total.add(data.len());
        let chunks = self.chunks.len();
        match self.chunks.back_mut() {
            // A chunk that was sent whole has been passed, and does not grow.
            Some(Chunk::Copied { len, .. }) if self.past < chunks => *len += data.len(),
            _ => self.add(Chunk::Copied { start, len: data.len() }),
        }
    }

    fn add(&mut self, chunk: Chunk) {
        if self.chunks.capacity() == 0 {
            self.chunks.reserve(CHUNKS_FIRST);
        }
        self.chunks.push_back(chunk);
    }

    fn make_room(&mut self) {
        let first = self.chunks.iter().position(|chunk| matches!(chunk, Chunk::Copied { .. }));
        let gone = match first.map(|at| (at, &self.chunks[at])) {
            Some((at, Chunk::Copied { start, .. })) => start + if at == 0 { self.within } else { 0 },
            _ => self.bytes.len(),
        };
        if gone < self.bytes.len() / 2 || self.past > 0 {
            return;
        }
        self.bytes.drain(..gone);
        if first == Some(0) {
            self.len -= self.within;
            self.sent -= self.within;
            self.total.sub(self.within);
        }
        for (at, chunk) in self.chunks.iter_mut().enumerate() {
            if let Chunk::Copied { start, len } = chunk {
                if at == 0 {
                    *len -= self.within;
                    *start += self.within;
                }
                *start -= gone;
            }
        }
        if first == Some(0) {
            self.within = 0;
        }
    }

    /// The next octets that lie together, up to `most`; none when nothing waits.
    pub(crate) fn next(&self, most: usize) -> Option<Octets<'_>> {
        let chunk = self.chunks.get(self.past)?;
        let start = self.within;
        let len = (chunk.len() - start).min(most);
        Some(match chunk {
            Chunk::Copied { start: from, .. } => Octets::Copied(&self.bytes[from + start..from + start + len]),
            Chunk::Piece(piece) => Octets::Piece { piece, start, len },
        })
    }

    /// The first `len` of the octets that [`next`](Held::next) gave were sent.
    pub(crate) fn advance(&mut self, len: usize) {
        self.sent += len;
        self.within += len;
        if self.chunks.get(self.past).is_some_and(|chunk| chunk.len() == self.within) {
            self.past += 1;
            self.within = 0;
        }
    }

    /// Forgets what was sent. What is left of a chunk is not moved for that.
    #[inline]
    pub(crate) fn settle(&mut self) {
        if self.past > 0 {
            self.drop_past();
        }
    }

    fn drop_past(&mut self) {
        for chunk in self.chunks.drain(..self.past) {
            self.len -= chunk.len();
            self.sent -= chunk.len();
            self.total.sub(chunk.len());
        }
        self.past = 0;
        if self.chunks.is_empty() {
            self.bytes.clear();
        }
    }

    /// Everything is to be sent anew.
    pub(crate) fn rewind(&mut self) {
        (self.sent, self.past, self.within) = (0, 0, 0);
    }

    /// Forgets everything; memory stays.
    pub(crate) fn clear(&mut self) {
        if self.chunks.is_empty() {
            // Most bodies pass without waiting.
            debug_assert!(self.is_empty() && self.bytes.is_empty());
            return;
        }
        self.bytes.clear();
        self.chunks.clear();
        self.total.sub(self.len);
        (self.len, self.sent, self.past, self.within) = (0, 0, 0, 0);
    }

    /// Forgets everything and gives the memory for copies away.
    #[inline]
    pub(crate) fn take_memory(&mut self) -> Vec<u8> {
        if self.chunks.capacity() > 0 {
            self.clear();
            if self.chunks.capacity() > CHUNKS_SPARE_MAX {
                self.chunks = VecDeque::new();
            }
        }
        std::mem::take(&mut self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(held: &mut Held, most: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < most
            && let Some(octets) = held.next(most - all.len())
        {
            all.extend_from_slice(&octets);
            let len = octets.len();
            held.advance(len);
        }
        all
    }

    #[test]
    fn octets_leave_in_the_order_they_came_wherever_they_lie_and_whatever_is_kept() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (mut held, mut spares) = (Held::new(&Total::default()), Spares::default());
            let (mut next, mut expected) = (0u8, 0u8);
            let kept_for = rng.usize(0..10);
            for round in 0..200 {
                let kept = round < kept_for;
                let data: Vec<u8> = (0..rng.usize(1..40)).map(|_| (next, next = next.wrapping_add(1)).0).collect();
                match rng.u8(0..3) {
                    0 => held.push(Piece::from(data)),
                    _ => held.push_copy(&data, !kept, &mut spares),
                }
                for got in taken(&mut held, rng.usize(0..44)) {
                    assert_eq!(got, expected);
                    expected = expected.wrapping_add(1);
                }
                if kept && rng.u8(0..8) == 0 {
                    held.rewind();
                    expected = 0;
                }
                if !kept {
                    held.settle();
                }
                assert_eq!(held.waiting() % 256, usize::from(next.wrapping_sub(expected)) % 256);
            }
            assert!(held.bytes.capacity() < 20_000, "what was sent leaves memory");
        }
    }

    #[test]
    fn what_was_sent_leaves_memory_by_halves() {
        let (mut held, mut spares) = (Held::new(&Total::default()), Spares::default());
        held.begin(Vec::with_capacity(100));
        let all: Vec<u8> = (0..held.bytes.capacity() as u8).collect();
        held.push_copy(&all, true, &mut spares);
        taken(&mut held, all.len() - 10);
        held.settle();
        assert_eq!((held.bytes.len(), held.waiting()), (all.len(), 10), "nothing is moved before there is need");
        held.push_copy(&[7], true, &mut spares);
        assert_eq!((held.bytes.len(), held.waiting()), (11, 11));
        assert_eq!(taken(&mut held, 100), [&all[all.len() - 10..], &[7]].concat());
        held.settle();
        assert_eq!((held.bytes.len(), held.len()), (0, 0));
    }

    #[test]
    fn what_is_kept_can_be_sent_again() {
        let (mut held, mut spares) = (Held::new(&Total::default()), Spares::default());
        held.push_copy(b"ab", false, &mut spares);
        held.push(Piece::from(b"cd".to_vec()));
        held.push_copy(b"ef", false, &mut spares);
        assert_eq!(taken(&mut held, 3), b"abc");
        assert_eq!((held.len(), held.sent(), held.waiting()), (6, 3, 3));
        held.rewind();
        assert_eq!(taken(&mut held, 9), b"abcdef");
        assert_eq!((held.len(), held.waiting()), (6, 0));
        held.settle();
        assert!(held.is_empty());
    }
}
