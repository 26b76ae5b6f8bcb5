//! The durable log of one direction of one stream: segments of batches of records in one directory.
//!
//! [`Log::append`] writes records as one batch (or each as its own) and syncs it. A segment that is full is followed by
//! a new one, made of a spare file where there is one; its head says where the log stands, and once that is durable the
//! segments wholly below the floor become spares. [`Log::open`] reads everything back: a batch that a crash cut short at
//! the end was never acknowledged, and is forgotten; anything else that does not fit is damage, and is refused with a
//! report of what is lost.

mod disk;
mod format;
mod recover;

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;

use bytes::Bytes;

pub use disk::{Disk, FileDisk};
use format::{HEAD, SegmentHead};

use crate::config::Sync;
use crate::record::{Bodies, Record, Recovered};
use crate::rules::{Rules, Sound};
use crate::types::{Epoch, Position, checksum};

/// How a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    pub sync: Sync,
    /// Octets after which a segment is followed by another. 8 MiB.
    pub segment_bytes: u64,
    /// Files that wait to be segments again. 2.
    pub spares_max: usize,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig { sync: Sync::default(), segment_bytes: 8 << 20, spares_max: 2 }
    }
}

/// Whose log it is, and what the machine says of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// [`crate::StreamId::direction`].
    pub direction: u32,
    /// The epoch of the log if it has to be begun: the wall clock in nanoseconds since 1970.
    pub epoch: Epoch,
    /// Changes when the machine starts; only [`Sync::Never`] looks at it.
    pub boot: u64,
}

/// What is wrong with a log, and what is lost by beginning a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub file: String,
    pub offset: u64,
    pub what: &'static str,
    /// The positions known to be lost or unreadable; empty where that can't be told.
    pub lost: Range<Position>,
    /// Messages that could be read and were not answered.
    pub readable: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error(
        "the log is damaged: {what} in {file} at octet {offset}; positions {from} to {until} are lost, {readable} \
         unanswered messages are readable: put the files back, or begin a new log, which gives up both",
        what = .0.what, file = .0.file, offset = .0.offset, from = .0.lost.start, until = .0.lost.end, readable = .0.readable
    )]
    Damaged(Damage),
    #[error("the log was never synced and the machine has started since: its end may be missing; begin a new one")]
    Unsynced { readable: usize },
    #[error("{file} belongs to another stream: every stream needs a directory of its own")]
    Another { file: String },
    #[error("the log cannot be read or written: {0}")]
    Io(#[from] io::Error),
}

#[derive(Clone, Copy, Debug)]
struct Place {
    segment: u64,
    offset: u64,
    length: u32,
    checksum: u32,
    app: crate::types::App,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    number: u64,
    /// The end of the positions that it says anything about.
    below: Position,
}

/// An open log. One process at a time; the driver's part to see to.
#[derive(Debug)]
pub struct Log<D: Disk, R: Rules = Sound> {
    disk: D,
    config: LogConfig,
    identity: LogIdentity,
    segments: VecDeque<Segment>,
    spares: Vec<String>,
    end: u64,
    batch: u64,
    floor: Position,
    places: VecDeque<Place>,
    /// A floor that goes to disk with the next record. If it is lost, the peer says it again.
    trimmed: Option<Position>,
    buffer: Vec<u8>,
    failed: bool,
    rules: PhantomData<R>,
}

fn segment_name(number: u64) -> String {
    format!("segment-{number:016x}")
}

impl<D: Disk, R: Rules> Log<D, R> {
    /// Opens what is there, or begins a log.
    pub fn open(mut disk: D, config: LogConfig, identity: LogIdentity) -> Result<(Log<D, R>, Recovered), LogError> {
        let found = recover::read::<R>(&mut disk, &identity)?;
        let mut log = Log {
            disk,
            config,
            identity: LogIdentity { epoch: found.recovered.epoch, ..identity },
            segments: found.segments,
            spares: found.spares,
            end: 0,
            batch: found.batch,
            floor: found.recovered.floor,
            places: found.places,
            trimmed: None,
            buffer: Vec::new(),
            failed: false,
            rules: PhantomData,
        };
        // What was read may be in the system's memory only, left by a process that died before its sync: make it durable
        // before anything is built on it.
        if let Some(last) = log.segments.back().filter(|_| config.sync != Sync::Never) {
            log.disk.sync(&segment_name(last.number))?;
            log.disk.sync_names()?;
        }
        // Nothing is ever written behind an end that a crash may have torn.
        log.roll()?;
        Ok((log, found.recovered))
    }

    /// Sets aside what is there, under names that begin with `set-aside-`, and begins a log of a new epoch. Everything
    /// that waited is given up.
    pub fn begin_anew(
        mut disk: D,
        config: LogConfig,
        identity: LogIdentity,
    ) -> Result<(Log<D, R>, Recovered), LogError> {
        for name in disk.list()? {
            if name.starts_with("segment-") {
                disk.rename(&name, &format!("set-aside-{:016x}-{name}", identity.epoch))?;
            }
        }
        disk.sync_names()?;
        Log::open(disk, config, identity)
    }

    fn next(&self) -> Position {
        self.floor + self.places.len() as u64
    }

    /// Begins a segment and, when that is durable, recycles those that are wholly below the floor.
    fn roll(&mut self) -> io::Result<()> {
        let number = self.segments.back().map_or(1, |segment| segment.number + 1);
        let name = segment_name(number);
        if let Some(spare) = self.spares.pop() {
            self.disk.rename(&spare, &name)?;
            // Else a crash could bring back the file's former name with what is now written into it.
            if self.config.sync != Sync::Never {
                self.disk.sync_names()?;
            }
        }
        let head = SegmentHead {
            segment: number,
            epoch: self.identity.epoch,
            floor: self.floor,
            next: self.next(),
            batch: self.batch,
            unsynced_boot: if self.config.sync == Sync::Never { self.identity.boot } else { 0 },
            direction: self.identity.direction,
        };
        self.disk.write_at(&name, 0, &head.encode())?;
        if self.config.sync != Sync::Never {
            self.disk.sync(&name)?;
            self.disk.sync_names()?;
        }
        self.segments.push_back(Segment { number, below: 0 });
        self.end = HEAD as u64;
        while self.segments.len() > 1 && self.segments[0].below <= self.floor {
            let old = segment_name(self.segments[0].number);
            if self.spares.len() < self.config.spares_max {
                let spare = format!("spare-{:016x}", self.segments[0].number);
                self.disk.rename(&old, &spare)?;
                self.spares.push(spare);
            } else {
                self.disk.remove(&old)?;
            }
            self.segments.pop_front();
        }
        Ok(())
    }

    /// Appends records in order. When it returns, they are as durable as [`LogConfig::sync`] says. After an error nothing
    /// more is taken: what a failed sync left on disk can't be known; open the log again.
    pub fn append(&mut self, records: &[Record]) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier write to the log failed; it must be opened again"));
        }
        let mut lasting = Vec::with_capacity(records.len());
        for record in records {
            match record {
                Record::Trimmed { below } => {
                    self.trim(*below);
                    self.trimmed = Some(*below);
                }
                record => lasting.push(record),
            }
        }
        let outcome = match self.config.sync {
            _ if lasting.is_empty() => Ok(()),
            Sync::PerMessage => lasting.iter().try_for_each(|record| self.batch(std::slice::from_ref(record))),
            Sync::PerBatch | Sync::Never => self.batch(&lasting),
        };
        self.failed = outcome.is_err();
        outcome
    }

    /// Writes one batch, and syncs it.
    fn batch(&mut self, records: &[&Record]) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        format::begin_batch(&mut buffer);
        if let Some(below) = self.trimmed.take() {
            format::put(&mut buffer, &Record::Trimmed { below });
        }
        let starts: Vec<usize> = records.iter().map(|record| format::put(&mut buffer, record)).collect();
        if self.end > HEAD as u64 && self.end + buffer.len() as u64 > self.config.segment_bytes {
            self.roll()?;
        }
        let segment = *self.segments.back().expect("an open log has a segment");
        format::end_batch(&mut buffer, segment.number, self.identity.epoch, self.batch);
        let name = segment_name(segment.number);
        self.disk.write_at(&name, self.end, &buffer)?;
        if self.config.sync != Sync::Never {
            self.disk.sync(&name)?;
        }
        for (record, start) in records.iter().zip(starts) {
            self.note(record, segment.number, self.end + start as u64);
        }
        self.end += buffer.len() as u64;
        self.batch += 1;
        if buffer.capacity() <= 1 << 20 {
            self.buffer = buffer;
        }
        Ok(())
    }

    fn note(&mut self, record: &Record, segment: u64, offset: u64) {
        let last = self.segments.back_mut().expect("an open log has a segment");
        match record {
            Record::Message { position, app, checksum, body } => {
                last.below = last.below.max(position + 1);
                let length = u32::try_from(body.len()).expect("bodies are bounded");
                self.places.push_back(Place { segment, offset, length, checksum: *checksum, app: *app });
            }
            Record::Withdrawn { position } => last.below = last.below.max(position + 1),
            Record::Trimmed { below } | Record::Dropped { below } => self.trim(*below),
        }
    }

    fn trim(&mut self, below: Position) {
        while self.floor < below && self.places.pop_front().is_some() {
            self.floor += 1;
        }
    }

    /// The octets of segments and spares on disk.
    pub fn disk_bytes(&mut self) -> io::Result<u64> {
        let names: Vec<String> = self
            .segments
            .iter()
            .map(|segment| segment_name(segment.number))
            .chain(self.spares.iter().cloned())
            .collect();
        names.iter().map(|name| self.disk.length(name)).sum()
    }

    /// The disk, when the log is no longer wanted.
    pub fn into_disk(self) -> D {
        self.disk
    }
}

impl<D: Disk, R: Rules> Bodies for Log<D, R> {
    fn body(&mut self, position: Position) -> io::Result<Option<Bytes>> {
        let place = position.checked_sub(self.floor).and_then(|index| self.places.get(usize::try_from(index).ok()?));
        let Some(place) = place.copied() else {
            return Err(io::Error::other(format!("the log does not hold position {position}")));
        };
        let body = self.disk.read_at(&segment_name(place.segment), place.offset, place.length as usize)?;
        if body.len() != place.length as usize || checksum(position, place.app, &body) != place.checksum {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("position {position} in {} is damaged: it cannot be sent", segment_name(place.segment)),
            ));
        }
        Ok(Some(body.into()))
    }
}
