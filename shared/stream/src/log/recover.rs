//! Reading a log back.

use std::collections::VecDeque;

use super::format::{self, BATCH_HEAD, HEAD, SegmentHead};
use super::{Damage, Disk, LogError, LogIdentity, Place, Segment, segment_name};
use crate::record::{Kept, Record, Recovered};
use crate::rules::Rules;
use crate::types::Position;

pub(super) struct Found {
    pub recovered: Recovered,
    pub places: VecDeque<Place>,
    pub segments: VecDeque<Segment>,
    pub spares: Vec<String>,
    pub batch: u64,
}

/// How far reading has come.
struct Reading {
    found: Found,
    tombstones: Vec<bool>,
    floor_told: Position,
}

pub(super) fn read<R: Rules>(disk: &mut impl Disk, identity: &LogIdentity) -> Result<Found, LogError> {
    let mut numbers = Vec::new();
    let mut spares = Vec::new();
    for name in disk.list()? {
        if let Some(number) = name.strip_prefix("segment-").and_then(|hex| u64::from_str_radix(hex, 16).ok()) {
            numbers.push(number);
        } else if name.starts_with("spare-") {
            spares.push(name);
        }
    }
    numbers.sort_unstable();
    let found = Found {
        recovered: Recovered::new(identity.epoch),
        places: VecDeque::new(),
        segments: VecDeque::new(),
        spares,
        batch: 1,
    };
    let mut reading = Reading { found, tombstones: Vec::new(), floor_told: 1 };
    let last = numbers.last().copied();
    for number in numbers {
        reading.segment::<R>(disk, identity, number, last == Some(number))?;
    }
    reading.finish(identity, disk)
}

impl Reading {
    fn segment<R: Rules>(
        &mut self,
        disk: &mut impl Disk,
        identity: &LogIdentity,
        number: u64,
        last: bool,
    ) -> Result<(), LogError> {
        let name = segment_name(number);
        let length = usize::try_from(disk.length(&name)?).expect("a segment fits in memory");
        let octets = disk.read_at(&name, 0, length)?;
        let head = SegmentHead::decode(&octets).filter(|head| head.segment == number);
        let Some(head) = head else {
            // A crash while it was being made leaves a last segment without a head, and nothing of its own after it.
            let unborn = if self.found.segments.is_empty() {
                length <= HEAD
            } else {
                !holds_a_batch(&octets, 0, number, self.found.recovered.epoch, 0)
            };
            if last && unborn {
                disk.remove(&name)?;
                return Ok(());
            }
            return Err(self.damage(name, 0, "a segment without its head", self.next()..self.next()));
        };
        if head.direction != identity.direction {
            return Err(LogError::Another { file: name });
        }
        let first = self.found.segments.is_empty();
        if first {
            self.found.recovered.epoch = head.epoch;
            self.found.recovered.floor = head.next;
            self.floor_told = head.floor;
            self.found.batch = head.batch;
        }
        if head.epoch != self.found.recovered.epoch || head.batch != self.found.batch || head.next != self.next() {
            let lost = self.next()..head.next.max(self.next());
            return Err(self.damage(name, 0, "a segment that does not follow the one before", lost));
        }
        self.floor_told = self.floor_told.max(head.floor);
        self.found.segments.push_back(Segment { number, below: 0 });
        let end = self.batches::<R>(&octets, number);
        if last && holds_a_batch(&octets, end, number, head.epoch, self.found.batch) {
            let lost = self.next()..self.next() + 1;
            return Err(self.damage(name, end as u64, "a batch that was durable is bad", lost));
        }
        Ok(())
    }

    /// Takes the good batches of a segment, in order. Returns where they end.
    fn batches<R: Rules>(&mut self, octets: &[u8], number: u64) -> usize {
        let epoch = self.found.recovered.epoch;
        let mut end = HEAD;
        while let Some((sequence, length)) = format::batch_at(&octets[end..], number, epoch, R::TORN_RECORD_ACCEPTED) {
            if sequence != self.found.batch {
                break;
            }
            let batch = &octets[end..end + length];
            let mut offset = BATCH_HEAD;
            while let Some((record, after)) = format::record_at(batch, offset) {
                self.record(&record, number, (end + after) as u64);
                offset = after;
            }
            end += length;
            self.found.batch += 1;
        }
        end
    }

    fn record(&mut self, record: &Record, segment: u64, after: u64) {
        let below = match record {
            Record::Message { position, app, checksum, body } => {
                if *position != self.next() {
                    return;
                }
                let length = u32::try_from(body.len()).expect("it was written with that length");
                let offset = after - u64::from(length);
                self.found.places.push_back(Place { segment, offset, length, checksum: *checksum, app: *app });
                self.tombstones.push(false);
                position + 1
            }
            Record::Withdrawn { position } => {
                let index =
                    position.checked_sub(self.found.recovered.floor).and_then(|index| usize::try_from(index).ok());
                if let Some(tombstone) = index.and_then(|index| self.tombstones.get_mut(index)) {
                    *tombstone = true;
                }
                position + 1
            }
            Record::Trimmed { below } | Record::Dropped { below } => {
                self.floor_told = self.floor_told.max(*below);
                return;
            }
        };
        let last = self.found.segments.back_mut().expect("a record is in a segment");
        last.below = last.below.max(below);
    }

    fn next(&self) -> Position {
        self.found.recovered.floor + self.found.places.len() as u64
    }

    fn finish(mut self, identity: &LogIdentity, disk: &mut impl Disk) -> Result<Found, LogError> {
        let next = self.next();
        if self.found.segments.is_empty() {
            return Ok(self.found);
        }
        let first = self.found.recovered.floor;
        if self.floor_told < first || self.floor_told > next {
            let lost = self.floor_told.min(first)..self.floor_told.max(first);
            return Err(self.damage(String::from("the directory"), 0, "segments are missing", lost));
        }
        let skipped = usize::try_from(self.floor_told - first).expect("counted");
        self.found.places.drain(..skipped);
        self.tombstones.drain(..skipped);
        self.found.recovered.floor = self.floor_told;
        self.found.recovered.pending = self
            .found
            .places
            .iter()
            .zip(&self.tombstones)
            .map(|(place, &tombstone)| Kept {
                app: place.app,
                checksum: place.checksum,
                length: if tombstone { 0 } else { place.length as usize },
                tombstone,
            })
            .collect();
        let newest = self.found.segments.back().expect("there is one").number;
        let head = SegmentHead::decode(&disk.read_at(&segment_name(newest), 0, HEAD)?);
        let boot = head.map_or(0, |head| head.unsynced_boot);
        if boot != 0 && boot != identity.boot {
            return Err(LogError::Unsynced { readable: self.found.recovered.pending.len() });
        }
        Ok(self.found)
    }

    fn damage(&self, file: String, offset: u64, what: &'static str, lost: std::ops::Range<Position>) -> LogError {
        let floor = self.floor_told.max(self.found.recovered.floor);
        let readable = usize::try_from(self.next().saturating_sub(floor)).unwrap_or(usize::MAX);
        LogError::Damaged(Damage { file, offset, what, lost, readable })
    }
}

/// Whether a good batch of this segment with a sequence from `from` on lies anywhere behind `start`.
fn holds_a_batch(octets: &[u8], start: usize, segment: u64, epoch: u64, from: u64) -> bool {
    (start..octets.len().saturating_sub(BATCH_HEAD)).any(|offset| {
        let sequence = octets[offset + 8..].first_chunk().map_or(0, |octets| u64::from_le_bytes(*octets));
        // Sequences are consecutive: anything further on than the file has octets isn't one.
        let near = sequence >= from && sequence - from <= octets.len() as u64;
        near && format::batch_at(&octets[offset..], segment, epoch, false).is_some()
    })
}
