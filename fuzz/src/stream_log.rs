//! The message stream's log: whatever its files hold, it is opened and can be gone on with, or it is refused with a reason.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use bytes::Bytes;
use steady_stream::{App, Disk, Log, LogConfig, LogError, LogIdentity, Record, Recovered, Sound, checksum};

use crate::Octets;

const EPOCH: u64 = 10;

/// A disk in memory.
#[derive(Clone, Debug, Default)]
struct Memory(BTreeMap<String, Vec<u8>>);

impl Memory {
    fn file(&mut self, name: &str) -> io::Result<&mut Vec<u8>> {
        self.0.get_mut(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for Memory {
    fn list(&mut self) -> io::Result<Vec<String>> {
        Ok(self.0.keys().cloned().collect())
    }

    fn length(&mut self, name: &str) -> io::Result<u64> {
        Ok(self.file(name)?.len() as u64)
    }

    fn read_at(&mut self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let file = self.file(name)?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(file.len());
        Ok(file[from..from.saturating_add(length).min(file.len())].to_vec())
    }

    fn write_at(&mut self, name: &str, offset: u64, octets: &[u8]) -> io::Result<()> {
        let (file, from) = (self.0.entry(name.to_owned()).or_default(), offset as usize);
        file.resize(file.len().max(from + octets.len()), 0);
        file[from..from + octets.len()].copy_from_slice(octets);
        Ok(())
    }

    fn sync(&mut self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let octets = self.0.remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.0.insert(to.to_owned(), octets);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.0.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_names(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const IDENTITY: LogIdentity = LogIdentity { direction: 9, epoch: EPOCH, boot: 1 };
const SMALL: LogConfig = LogConfig { sync: steady_stream::Sync::PerBatch, segment_bytes: 200, spares_max: 1 };
const HEAD: usize = 72;
const BATCH_HEAD: usize = 16;

type MemoryLog = Log<Memory, Sound>;

fn message(position: u64, body: &[u8]) -> Record {
    let body = Bytes::copy_from_slice(body);
    Record::Message { position, app: App(5), checksum: checksum(position, App(5), &body), body }
}

/// A log of a few segments with a bit of everything.
fn good() -> Memory {
    let (mut log, _) = MemoryLog::open(Memory::default(), SMALL, IDENTITY).expect("an empty disk");
    for position in 1..12 {
        let mut records = vec![message(position, &[b'm'; 30])];
        match position % 4 {
            1 => records.push(Record::Withdrawn { position }),
            2 => records.push(Record::Trimmed { below: position.saturating_sub(4) }),
            3 => records.push(Record::Dropped { below: position.saturating_sub(5).max(1) }),
            _ => {}
        }
        log.append(&records).expect("memory");
    }
    log.into_disk()
}

/// Changes to a good log: which file, where, which octet, or where it ends; with an even first octet every checksum is then
/// made right again.
pub fn stream_log(data: &[u8]) {
    let mut octets = Octets(data);
    let how = octets.one();
    let mut disk = good();
    let names: Vec<String> = disk.0.keys().cloned().collect();
    while !octets.is_empty() {
        let (which, at, octet) = (octets.one(), usize::from(octets.one()), octets.one());
        let name = &names[usize::from(which & 0x3f) % names.len()];
        let Ok(file) = disk.file(name) else { continue };
        match which >> 6 {
            0 | 1 if !file.is_empty() => {
                let len = file.len();
                file[at % len] = octet;
            }
            2 => file.truncate(file.len() * usize::from(octet) / 256),
            _ if octet & 0x0f == 0 => _ = disk.0.remove(name),
            _ => file.extend(vec![octet; at]),
        }
    }
    if how & 1 == 0 {
        disk.0.values_mut().for_each(fix);
    }
    opens_or_says_why(disk);
}

fn opens_or_says_why(disk: Memory) {
    let (mut log, found) = match MemoryLog::open(disk.clone(), SMALL, IDENTITY) {
        Ok(opened) => opened,
        Err(LogError::Io(error)) => panic!("memory does not fail: {error}"),
        Err(refused) => {
            assert!(!refused.to_string().is_empty());
            // What is refused can always be set aside.
            let anew = LogIdentity { epoch: EPOCH + 1, ..IDENTITY };
            let (_, found) = MemoryLog::begin_anew(disk, SMALL, anew).expect("a log that is begun anew");
            assert_eq!(found, Recovered::new(EPOCH + 1));
            return;
        }
    };
    // What was read is there when it is opened again, and so is what is written behind it.
    let Some(next) = found.floor.checked_add(found.pending.len() as u64).filter(|&next| next < u64::MAX - 1) else {
        return;
    };
    log.append(&[message(next, b"one more")]).expect("memory");
    let (_, again) = MemoryLog::open(log.into_disk(), SMALL, IDENTITY).expect("what was just written");
    let mut expected: VecDeque<_> = found.pending.into();
    expected.push_back(steady_stream::Kept {
        app: App(5),
        checksum: checksum(next, App(5), b"one more"),
        length: 8,
        tombstone: false,
    });
    assert_eq!((again.epoch, again.floor), (found.epoch, found.floor));
    assert_eq!(VecDeque::from(again.pending), expected);
}

/// The checksum of a segment's head and of each of its batches, as far as their lengths lead.
fn fix(octets: &mut Vec<u8>) {
    if octets.len() < HEAD {
        return;
    }
    octets[..8].copy_from_slice(b"STDYLOG1");
    let sum = crc32c::crc32c(&octets[..HEAD - 4]);
    octets[HEAD - 4..HEAD].copy_from_slice(&sum.to_le_bytes());
    let salt = crc32c::crc32c(&octets[8..24]);
    let mut at = HEAD;
    while let Some(length) = octets.get(at + 4..at + 8) {
        let length = u32::from_le_bytes(length.try_into().expect("four octets")) as usize;
        let Some(content) = octets.get(at + 4..at + BATCH_HEAD + length) else { return };
        let sum = crc32c::crc32c_append(salt, content);
        octets[at..at + 4].copy_from_slice(&sum.to_le_bytes());
        at += BATCH_HEAD + length;
    }
}
