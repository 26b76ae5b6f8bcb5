//! What an agent tells an edge, every second and when something happens, of the applications that are active.
//!
//! A report is not durable and need not be: its numbers are sums since a life began, and the newest wins. One is *whole* (all
//! that the agent knows) or follows another of the same agent's start, its *base*: then it tells of what changed since, and
//! of durations only the buckets that changed, with their counts of now. Whoever has not got the base asks for a whole one. So a
//! report that is lost, late or twice there costs nothing and no request is counted twice.
//!
//! ```text
//!   report   format 1 · start · number · base (0: whole) · entries · each entry
//!   entry    application (length, UTF-8) · version · life · age ms · state · in flight · peak · queued · CPU µs · memory ·
//!            6 response counts · 3 snapshots (length, bytes)
//! ```
//!
//! All numbers are in seven bits a byte, lowest first, in their shortest form. Decoding reads this form and nothing else, and
//! never takes more memory than a small multiple of its input.

use crate::snapshot::{BadSnapshot, Snapshot};
use crate::varint;

const FORMAT: u8 = 1;
/// Octets of an application's name: a label of a host name (RFC 1035 §2.3.4).
const NAME_MAX: u64 = 63;

/// How an application is, on its host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    Cold,
    Starting,
    #[default]
    Ready,
    Draining,
    Crashed,
    Failed,
    /// It has left the host.
    Stopped,
}

impl State {
    pub const ALL: [State; 7] =
        [State::Cold, State::Starting, State::Ready, State::Draining, State::Crashed, State::Failed, State::Stopped];

    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            State::Cold => "cold",
            State::Starting => "starting",
            State::Ready => "ready",
            State::Draining => "draining",
            State::Crashed => "crashed",
            State::Failed => "failed",
            State::Stopped => "stopped",
        }
    }
}

/// One report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Differs between any two starts of an agent, and grows.
    pub start: u64,
    /// From 1, and grows.
    pub number: u64,
    /// The report that this one follows; 0: none, it is whole.
    pub base: u64,
    pub entries: Vec<Entry>,
}

/// One version of an application on its host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub app: String,
    pub version: u64,
    /// What the sums below are counted from: another life begins at 0. 0: nothing was measured yet.
    pub life: u64,
    /// How long ago that was.
    pub age_ms: u64,
    pub state: State,
    /// With its process now, and the most since the report before.
    pub in_flight: u64,
    pub peak: u64,
    /// Waiting for it now.
    pub queued: u64,
    /// Of its processes, since they began.
    pub cpu_us: u64,
    /// Resident, now.
    pub memory_bytes: u64,
    /// Requests that are over, by the first digit of their status; 0: none was sent.
    pub responses: [u64; 6],
    /// Durations of the application, of waiting for it, and of the agent itself. In a report with a base only what changed.
    pub times: [Snapshot; 3],
}

/// An [`Entry`] to be encoded, whose parts belong to somebody else.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    pub app: &'a str,
    pub version: u64,
    pub life: u64,
    pub age_ms: u64,
    pub state: State,
    pub in_flight: u64,
    pub peak: u64,
    pub queued: u64,
    pub cpu_us: u64,
    pub memory_bytes: u64,
    pub responses: [u64; 6],
    pub times: [&'a Snapshot; 3],
}

/// Encodes a report entry by entry, without holding them.
#[derive(Debug, Default)]
pub struct Writer {
    entries: Vec<u8>,
    count: u64,
    scratch: Vec<u8>,
}

/// Why bytes are not a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadReport {
    #[error("a report of another format: edge and agent are of versions that do not fit")]
    Format,
    #[error("a report that is cut off, or a number in it that is too large or longer than it need be")]
    Number,
    #[error("a report with a name that cannot be an application's")]
    Name,
    #[error("a report with a state that does not exist")]
    State,
    #[error(transparent)]
    Snapshot(#[from] BadSnapshot),
    #[error("bytes after the end of a report")]
    Trailing,
}

impl Writer {
    pub fn new() -> Writer {
        Writer::default()
    }

    pub fn push(&mut self, entry: &Told<'_>) {
        entry.encode(&mut self.scratch, &mut self.entries);
        self.count += 1;
    }

    /// Appends the report of these entries; begins anew, with the memory that it has.
    pub fn finish(&mut self, start: u64, number: u64, base: u64, out: &mut Vec<u8>) {
        out.reserve(self.entries.len() + 40);
        out.push(FORMAT);
        for number in [start, number, base, self.count] {
            varint::put(number, out);
        }
        out.append(&mut self.entries);
        self.count = 0;
    }
}

impl Report {
    /// Appends the encoded form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new();
        self.entries.iter().for_each(|entry| writer.push(&entry.told()));
        writer.finish(self.start, self.number, self.base, out);
    }

    pub fn decode(mut bytes: &[u8]) -> Result<Report, BadReport> {
        let bytes = &mut bytes;
        let (format, rest) = bytes.split_first().ok_or(BadReport::Format)?;
        if *format != FORMAT {
            return Err(BadReport::Format);
        }
        *bytes = rest;
        let (start, number, base) = (take(bytes)?, take(bytes)?, take(bytes)?);
        let count = take(bytes)?;
        // An entry has 20 octets at the least: the count is not believed beyond what can follow.
        let mut entries = Vec::with_capacity(count.min(bytes.len() as u64 / 20) as usize);
        for _ in 0..count {
            entries.push(Entry::decode(bytes)?);
        }
        if bytes.is_empty() { Ok(Report { start, number, base, entries }) } else { Err(BadReport::Trailing) }
    }
}

impl Told<'_> {
    fn encode(&self, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
        varint::put(self.app.len() as u64, out);
        out.extend_from_slice(self.app.as_bytes());
        for number in [self.version, self.life, self.age_ms] {
            varint::put(number, out);
        }
        out.push(self.state as u8);
        for number in [self.in_flight, self.peak, self.queued, self.cpu_us, self.memory_bytes] {
            varint::put(number, out);
        }
        self.responses.iter().for_each(|count| varint::put(*count, out));
        for times in self.times {
            scratch.clear();
            if !times.is_empty() {
                times.encode(scratch);
            }
            varint::put(scratch.len() as u64, out);
            out.extend_from_slice(scratch);
        }
    }
}

impl Entry {
    /// As it is encoded.
    pub fn told(&self) -> Told<'_> {
        Told {
            app: &self.app,
            version: self.version,
            life: self.life,
            age_ms: self.age_ms,
            state: self.state,
            in_flight: self.in_flight,
            peak: self.peak,
            queued: self.queued,
            cpu_us: self.cpu_us,
            memory_bytes: self.memory_bytes,
            responses: self.responses,
            times: self.times.each_ref(),
        }
    }

    fn decode(bytes: &mut &[u8]) -> Result<Entry, BadReport> {
        let length = Some(take(bytes)?).filter(|length| (1..=NAME_MAX).contains(length)).ok_or(BadReport::Name)?;
        let app = std::str::from_utf8(take_bytes(bytes, length)?).map_err(|_| BadReport::Name)?.to_owned();
        let (version, life, age_ms) = (take(bytes)?, take(bytes)?, take(bytes)?);
        let state = take_bytes(bytes, 1)?[0];
        let state = *State::ALL.get(usize::from(state)).ok_or(BadReport::State)?;
        let mut entry = Entry { app, version, life, age_ms, state, ..Entry::default() };
        let Entry { in_flight, peak, queued, cpu_us, memory_bytes, responses, times, .. } = &mut entry;
        for number in [in_flight, peak, queued, cpu_us, memory_bytes].into_iter().chain(responses) {
            *number = take(bytes)?;
        }
        for times in times {
            let length = take(bytes)?;
            let snapshot = take_bytes(bytes, length)?;
            if !snapshot.is_empty() {
                *times =
                    Some(Snapshot::decode(snapshot)?).filter(|times| !times.is_empty()).ok_or(BadReport::Number)?;
            }
        }
        Ok(entry)
    }
}

fn take(bytes: &mut &[u8]) -> Result<u64, BadReport> {
    varint::take(bytes).ok_or(BadReport::Number)
}

fn take_bytes<'b>(bytes: &mut &'b [u8], length: u64) -> Result<&'b [u8], BadReport> {
    let length = usize::try_from(length).ok().filter(|length| *length <= bytes.len()).ok_or(BadReport::Number)?;
    let (taken, rest) = bytes.split_at(length);
    *bytes = rest;
    Ok(taken)
}
