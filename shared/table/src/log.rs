//! The log of changes beside a base: a header that names the base, then one entry per [`TableDir::apply`](crate::TableDir::apply).
//!
//! ```text
//! header   0 magic "STEADYOV" · 8 format u32 · 12 identity of the base u32 · 16 revision of the base u64 · 24 zero u32
//!         28 crc32c of the 28 bytes before
//! entry    0 length of the changes u32 · 4 crc32c of what follows u32 · 8 revision u64 · 16 changes
//! change   1 put: length u32, record · 2 remove: name · 3 put domain: domain, name · 4 remove domain: domain
//!          5 hosts: list · 6 domains: list
//! ```
//!
//! An entry is appended with one write and one sync. Reading stops at the first entry that is not whole: if that is where the
//! file ends, a write was cut off, which is how a power failure looks; anything else is damage.

use std::path::{Path, PathBuf};

use crate::base::Base;
use crate::bytes::{Reader, put_short_text, u32_at, u64_at};
use crate::error::DamageReason;
use crate::lists::{decode_domains, decode_hosts, encode_domains, encode_hosts};
use crate::model::Change;
use crate::name::{AppName, DomainName};
use crate::record::{Route, encode_app};

const MAGIC: &[u8; 8] = b"STEADYOV";
const FORMAT: u32 = 1;
pub(crate) const HEADER: usize = 32;
const ENTRY_HEAD: usize = 16;

/// One batch of changes and where it lies.
pub(crate) struct Entry {
    pub at: usize,
    pub revision: u64,
    pub changes: Vec<Change>,
}

/// What a log holds: the whole entries, where they end, and what is wrong after them.
pub(crate) struct Contents {
    pub entries: Vec<Entry>,
    pub end: usize,
    pub damage: Option<DamageReason>,
}

pub(crate) fn path(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("routes-{base:020}.log"))
}

pub(crate) fn header(base: &Base) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    out[12..16].copy_from_slice(&base.identity.to_le_bytes());
    out[16..24].copy_from_slice(&base.revision.to_le_bytes());
    let crc = crc32c::crc32c(&out[..28]);
    out[28..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// `None` when the entry would be longer than its length field can say.
pub(crate) fn entry(revision: u64, changes: &[Change]) -> Option<Vec<u8>> {
    let mut out = vec![0; 8];
    out.extend_from_slice(&revision.to_le_bytes());
    changes.iter().for_each(|change| encode(change, &mut out));
    let len = u32::try_from(out.len() - ENTRY_HEAD).ok()?;
    let crc = crc32c::crc32c(&out[8..]);
    out[..4].copy_from_slice(&len.to_le_bytes());
    out[4..8].copy_from_slice(&crc.to_le_bytes());
    Some(out)
}

fn encode(change: &Change, out: &mut Vec<u8>) {
    match change {
        Change::Put(app) => {
            out.push(1);
            let at = out.len();
            out.extend_from_slice(&[0; 4]);
            encode_app(app, out);
            let len = (out.len() - at - 4) as u32;
            out[at..at + 4].copy_from_slice(&len.to_le_bytes());
        }
        Change::Remove(name) => {
            out.push(2);
            put_short_text(out, name.as_str());
        }
        Change::PutDomain(domain, app) => {
            out.push(3);
            put_short_text(out, domain.as_str());
            put_short_text(out, app.as_str());
        }
        Change::RemoveDomain(domain) => {
            out.push(4);
            put_short_text(out, domain.as_str());
        }
        Change::SetHosts(hosts) => {
            out.push(5);
            encode_hosts(hosts, out);
        }
        Change::SetDomains(domains) => {
            out.push(6);
            encode_domains(domains, out);
        }
    }
}

/// Reads a log that was written for `base`.
pub(crate) fn read(bytes: &[u8], base: &Base) -> Contents {
    let stop = |entries, end, damage| Contents { entries, end, damage: Some(damage) };
    let Some(head) = bytes.first_chunk::<HEADER>() else {
        return stop(Vec::new(), 0, DamageReason::Short(bytes.len() as u64));
    };
    if *head != header(base) {
        return stop(Vec::new(), 0, DamageReason::OtherBase);
    }
    let (mut entries, mut at, mut revision) = (Vec::new(), HEADER, base.revision);
    while at < bytes.len() {
        match read_entry(bytes, at, revision) {
            Ok((entry, end)) => {
                revision = entry.revision;
                entries.push(entry);
                at = end;
            }
            Err(damage) => return stop(entries, at, damage),
        }
    }
    Contents { entries, end: at, damage: None }
}

fn read_entry(bytes: &[u8], at: usize, after: u64) -> Result<(Entry, usize), DamageReason> {
    let torn = || DamageReason::TornTail(at as u64);
    let wrong = |why: &str| DamageReason::LogEntry { at: at as u64, why: why.to_owned() };
    let rest = &bytes[at..];
    let head = rest.first_chunk::<ENTRY_HEAD>().ok_or_else(torn)?;
    let [len, crc] = [0, 4].map(|at| u32_at(head, at).unwrap_or_default());
    let whole = rest.get(8..ENTRY_HEAD + len as usize).ok_or_else(torn)?;
    let end = at + ENTRY_HEAD + len as usize;
    if crc32c::crc32c(whole) != crc {
        return Err(if end == bytes.len() { torn() } else { wrong("its checksum does not match") });
    }
    let revision = u64_at(whole, 0).unwrap_or_default();
    if revision <= after {
        return Err(wrong("its revision does not follow the one before"));
    }
    let mut reader = Reader(&whole[8..]);
    let mut changes = Vec::new();
    while !reader.0.is_empty() {
        changes.push(decode(&mut reader).map_err(|why| wrong(&why))?);
    }
    Ok((Entry { at, revision, changes }, end))
}

fn decode(reader: &mut Reader<'_>) -> Result<Change, String> {
    let cut = "a change is cut off";
    let bad = |bad: crate::BadName| bad.to_string();
    Ok(match reader.u8().ok_or(cut)? {
        1 => {
            let len = reader.u32().ok_or(cut)?;
            let record = reader.take(len as usize).ok_or(cut)?;
            let app = Route::parse(record).and_then(Route::to_app).ok_or("an application's record is not one")?;
            let mut again = Vec::new();
            if app.endpoints.len() <= crate::MAX_ENDPOINTS {
                encode_app(&app, &mut again);
            }
            if again != record {
                return Err("an application's record is not in its one form".into());
            }
            Change::Put(app)
        }
        2 => Change::Remove(AppName::new(reader.short_text().ok_or(cut)?).map_err(bad)?),
        3 => {
            let domain = DomainName::new(reader.short_text().ok_or(cut)?).map_err(bad)?;
            Change::PutDomain(domain, AppName::new(reader.short_text().ok_or(cut)?).map_err(bad)?)
        }
        4 => Change::RemoveDomain(DomainName::new(reader.short_text().ok_or(cut)?).map_err(bad)?),
        5 => Change::SetHosts(decode_hosts(reader)?.to_vec()),
        6 => Change::SetDomains(decode_domains(reader)?),
        other => return Err(format!("there is no change of kind {other}")),
    })
}
