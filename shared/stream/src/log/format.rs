//! The log's octets. All numbers little-endian.
//!
//! A segment is a head of 72 octets and then batches. A batch is what one sync made durable: `crc32c · length · sequence`
//! (4, 4 and 8 octets) and its records. Its checksum also covers the segment's number and epoch, so that what a recycled
//! file still holds of its former life is never taken for a batch. A batch is begun only after the one before is durable:
//! a bad batch before a good one is damage, a bad one at the end is a write that the crash cut short.

use bytes::Bytes;

use crate::record::Record;
use crate::types::{App, Epoch, POSITION_MAX, Position};

pub(super) const HEAD: usize = 72;
pub(super) const BATCH_HEAD: usize = 16;
const MAGIC: &[u8; 8] = b"STDYLOG1";

/// The head of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHead {
    pub segment: u64,
    pub epoch: Epoch,
    /// When the segment was begun: the floor, the next position, the first batch's sequence.
    pub floor: Position,
    pub next: Position,
    pub batch: u64,
    /// Which boot of the machine wrote it, if it isn't synced; else 0.
    pub unsynced_boot: u64,
    pub direction: u32,
}

impl SegmentHead {
    pub(super) fn encode(&self) -> [u8; HEAD] {
        let mut octets = [0; HEAD];
        octets[..8].copy_from_slice(MAGIC);
        let numbers = [self.segment, self.epoch, self.floor, self.next, self.batch, self.unsynced_boot];
        for (place, number) in numbers.into_iter().enumerate() {
            octets[8 + place * 8..16 + place * 8].copy_from_slice(&number.to_le_bytes());
        }
        octets[56..60].copy_from_slice(&self.direction.to_le_bytes());
        let sum = crc32c::crc32c(&octets[..68]);
        octets[68..].copy_from_slice(&sum.to_le_bytes());
        octets
    }

    pub(super) fn decode(octets: &[u8]) -> Option<SegmentHead> {
        let octets = octets.first_chunk::<HEAD>()?;
        if &octets[..8] != MAGIC || u32_at(octets, 68)? != crc32c::crc32c(&octets[..68]) {
            return None;
        }
        let head = SegmentHead {
            segment: u64_at(octets, 8)?,
            epoch: u64_at(octets, 16)?,
            floor: u64_at(octets, 24)?,
            next: u64_at(octets, 32)?,
            batch: u64_at(octets, 40)?,
            unsynced_boot: u64_at(octets, 48)?,
            direction: u32_at(octets, 56)?,
        };
        [head.segment, head.floor, head.next, head.batch].iter().all(|&it| it <= POSITION_MAX).then_some(head)
    }
}

/// Starts a batch: room for its head.
pub(super) fn begin_batch(into: &mut Vec<u8>) {
    into.clear();
    into.resize(BATCH_HEAD, 0);
}

/// Appends a record. Returns where its body begins, counted from the start of the batch.
pub(super) fn put(into: &mut Vec<u8>, record: &Record) -> usize {
    match record {
        Record::Message { position, app, checksum, body } => {
            into.push(1);
            into.extend_from_slice(&position.to_le_bytes());
            into.extend_from_slice(&app.0.to_le_bytes());
            into.extend_from_slice(&checksum.to_le_bytes());
            into.extend_from_slice(&u32::try_from(body.len()).expect("bodies are bounded").to_le_bytes());
            into.extend_from_slice(body);
            into.len() - body.len()
        }
        Record::Withdrawn { position } => mark(into, 2, *position),
        Record::Trimmed { below } => mark(into, 3, *below),
        Record::Dropped { below } => mark(into, 4, *below),
    }
}

fn mark(into: &mut Vec<u8>, kind: u8, position: Position) -> usize {
    into.push(kind);
    into.extend_from_slice(&position.to_le_bytes());
    into.len()
}

/// Fills in the head.
pub(super) fn end_batch(batch: &mut [u8], segment: u64, epoch: Epoch, sequence: u64) {
    let length = u32::try_from(batch.len() - BATCH_HEAD).expect("a batch is under 4 GiB");
    batch[4..8].copy_from_slice(&length.to_le_bytes());
    batch[8..16].copy_from_slice(&sequence.to_le_bytes());
    let sum = sum(segment, epoch, &batch[4..]);
    batch[..4].copy_from_slice(&sum.to_le_bytes());
}

fn sum(segment: u64, epoch: Epoch, octets: &[u8]) -> u32 {
    let salt = crc32c::crc32c_append(crc32c::crc32c(&segment.to_le_bytes()), &epoch.to_le_bytes());
    crc32c::crc32c_append(salt, octets)
}

/// A whole batch at the front of `octets`: its sequence and its length with the head. `trusting` skips the checksum.
pub(super) fn batch_at(octets: &[u8], segment: u64, epoch: Epoch, trusting: bool) -> Option<(u64, usize)> {
    let length = u32_at(octets, 4)? as usize;
    let whole = octets.get(..BATCH_HEAD.checked_add(length)?)?;
    let good = length > 0 && (trusting || u32_at(octets, 0)? == sum(segment, epoch, &whole[4..]));
    good.then_some((u64_at(octets, 8)?, whole.len()))
}

/// The next record at `offset` of a batch, and where the one after it begins.
pub(super) fn record_at(batch: &[u8], offset: usize) -> Option<(Record, usize)> {
    let number = u64_at(batch, offset + 1).filter(|&number| number <= POSITION_MAX)?;
    let marked = offset + 9;
    match batch.get(offset)? {
        1 => {
            let length = u32_at(batch, offset + 21)? as usize;
            let body = batch.get(offset + 25..(offset + 25).checked_add(length)?)?;
            let record = Record::Message {
                position: number,
                app: App(u64_at(batch, offset + 9)?),
                checksum: u32_at(batch, offset + 17)?,
                body: Bytes::copy_from_slice(body),
            };
            Some((record, offset + 25 + length))
        }
        2 => Some((Record::Withdrawn { position: number }, marked)),
        3 => Some((Record::Trimmed { below: number }, marked)),
        4 => Some((Record::Dropped { below: number }, marked)),
        _ => None,
    }
}

fn u32_at(octets: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*octets.get(offset..)?.first_chunk()?))
}

fn u64_at(octets: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*octets.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_no_log_reaches_are_damage_whatever_the_checksum_says() {
        let good = SegmentHead { segment: 1, epoch: 7, floor: 1, next: 1, batch: 1, unsynced_boot: 0, direction: 9 };
        assert_eq!(SegmentHead::decode(&good.encode()), Some(good));
        for far in [u64::MAX, POSITION_MAX + 1] {
            for bad in [
                SegmentHead { segment: far, ..good },
                SegmentHead { floor: far, ..good },
                SegmentHead { next: far, ..good },
                SegmentHead { batch: far, ..good },
            ] {
                assert_eq!(SegmentHead::decode(&bad.encode()), None);
            }
            let mut octets = Vec::new();
            put(&mut octets, &Record::Withdrawn { position: far });
            assert_eq!(record_at(&octets, 0), None);
        }
    }
}
