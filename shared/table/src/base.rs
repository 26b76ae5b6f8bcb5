//! The base file: a header, then six sections, each with a checksum.
//!
//! ```text
//!   0 magic "STEADYRT" · 8 format u32 · 12 zero u32 · 16 revision u64 · 24 seed u64 u64
//!  40 applications u64 · 48 custom domains u64 · 56 zero u64
//!  64 six of {offset u64, length u64, crc32c u32, zero u32}:
//!     hosts, domains, application slots, application records, custom slots, custom records
//! 208 zero · 252 crc32c of the 252 bytes before
//! ```
//!
//! Every section begins at the next multiple of 64 after the one before; the file ends where the last one does. What lies
//! between is zero. So there is one file for one table and one seed, and nothing in it that a checksum does not cover.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{Mmap, MmapOptions};

use crate::bytes::{Reader, u32_at, u64_at};
use crate::check::{self, Reasons};
use crate::error::{Damage, DamageReason};
use crate::hash::Seed;
use crate::index::{Built, Index};
use crate::lists::{Domains, decode_domains, decode_hosts, encode_domains, encode_hosts};
use crate::model::{Host, MAX_APPS};
use crate::name::{DomainName, label_fault};
use crate::record::{AppLayout, CustomLayout, Route, custom_app, key};

pub(crate) const FORMAT: u32 = 1;
const MAGIC: &[u8; 8] = b"STEADYRT";
const HEADER: usize = 256;
const HEADER_CRC: usize = HEADER - 4;
const PLACES: usize = 64;
const PLACE: usize = 24;
const ALIGN: usize = 64;
const SECTIONS: [&str; 6] = ["hosts", "domains", "app slots", "apps", "custom slots", "customs"];

/// A base file, mapped, checked and resident.
#[derive(Debug)]
pub(crate) struct Base {
    map: Mmap,
    sections: [Range<usize>; 6],
    pub seed: Seed,
    pub revision: u64,
    pub apps: usize,
    pub customs: usize,
    /// The checksum of the header, which holds those of all sections: what ties a log to this base.
    pub identity: u32,
    pub hosts: Arc<[Host]>,
    pub domains: Arc<Domains>,
}

impl Base {
    pub fn app_index(&self) -> Index<'_, AppLayout> {
        Index::new(self.section(2), self.section(3))
    }

    pub fn custom_index(&self) -> Index<'_, CustomLayout> {
        Index::new(self.section(4), self.section(5))
    }

    fn section(&self, which: usize) -> &[u8] {
        self.map.get(self.sections[which].clone()).unwrap_or_default()
    }

    /// Maps the file, reads all of it into memory and checks everything that a look-up relies on.
    pub fn open(path: &Path) -> Result<Base, Damage> {
        let damage = |reason| Damage { path: path.to_owned(), reason };
        let map = map(path).map_err(|error| damage(DamageReason::Unreadable(error.to_string())))?;
        Base::check(map).map_err(damage)
    }

    fn check(map: Mmap) -> Result<Base, DamageReason> {
        let header: &[u8; HEADER] = map.first_chunk().ok_or(DamageReason::Short(map.len() as u64))?;
        let identity = check_header(header)?;
        let mut reader = Reader(&header[16..PLACES]);
        let mut word = || reader.take(8).and_then(|b| u64_at(b, 0)).unwrap_or_default();
        let (revision, seed, apps, customs) = (word(), Seed(word(), word()), word(), word());
        if apps.max(customs) > MAX_APPS as u64 {
            return Err(DamageReason::Header("it holds more entries than a table may"));
        }
        let sections = places(&map, header)?;
        let [hosts, domains] = [0, 1].map(|at| &map[sections[at].clone()]);
        let hosts = whole(hosts, decode_hosts).map_err(|why| content(0, 0, why))?;
        let domains = Domains::new(whole(domains, decode_domains).map_err(|why| content(1, 0, why))?);
        let base = Base {
            sections,
            seed,
            revision,
            apps: apps as usize,
            customs: customs as usize,
            identity,
            hosts,
            domains: Arc::new(domains),
            map,
        };
        base.check_records()?;
        Ok(base)
    }

    fn check_records(&self) -> Result<(), DamageReason> {
        let app = |record| check_app(record, self.hosts.len());
        self.app_index().validate(self.seed, self.apps as u64, app).map_err(|(at, why)| content(3, at, why))?;
        let custom = |record| self.check_custom(record);
        self.custom_index().validate(self.seed, self.customs as u64, custom).map_err(|(at, why)| content(5, at, why))
    }

    fn check_custom(&self, record: &[u8]) -> Result<(), String> {
        let text = key::<CustomLayout>(record).and_then(|name| std::str::from_utf8(name).ok());
        let domain = DomainName::new(text.ok_or("the domain is not text")?).map_err(|bad| bad.to_string())?;
        if let Some(suffix) = self.domains.covering(domain.as_str().as_bytes()) {
            return Err(format!("the custom domain {domain} is or lies under {suffix}"));
        }
        let app = custom_app(record).ok_or("the record is cut off")?;
        match self.app_index().find(crate::hash::hash(self.seed, app), app) {
            Some(_) => Ok(()),
            None => Err(format!("the custom domain {domain} names no application of the table")),
        }
    }
}

fn check_app(record: &[u8], hosts: usize) -> Result<(), String> {
    let route = Route::parse(record).ok_or("the record is cut off")?;
    if let Some(why) = label_fault(key::<AppLayout>(record).unwrap_or_default()) {
        return Err(format!("the application's name is none: {why}"));
    }
    let mut reasons = Reasons::default();
    check::route(route, hosts, &mut reasons);
    reasons.into_text()
}

fn map(path: &Path) -> io::Result<Mmap> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    // SAFETY: the bytes of a mapping must not change while they are borrowed. A base file belongs to us: it is written under
    // another name, renamed when it is whole, and from then on never written to or truncated, only unlinked, which leaves
    // the mapping as it is. The directory is the daemon's own (mode 0700).
    unsafe { MmapOptions::new().populate().map(&file) }
}

/// Checks all of the header but the places, and answers its checksum.
fn check_header(header: &[u8; HEADER]) -> Result<u32, DamageReason> {
    let word = |at| u32_at(header, at).unwrap_or_default();
    if !header.starts_with(MAGIC) {
        return Err(DamageReason::NotATable);
    }
    if word(8) != FORMAT {
        return Err(DamageReason::Version(word(8)));
    }
    if crc32c::crc32c(&header[..HEADER_CRC]) != word(HEADER_CRC) {
        return Err(DamageReason::HeaderChecksum);
    }
    let reserved = [12..16, 56..PLACES, PLACES + SECTIONS.len() * PLACE..HEADER_CRC];
    if reserved.into_iter().any(|range| header[range].iter().any(|b| *b != 0)) {
        return Err(DamageReason::Header("a reserved field is not zero"));
    }
    Ok(word(HEADER_CRC))
}

/// Where the sections lie, once their places and checksums are known to be right.
fn places(file: &[u8], header: &[u8; HEADER]) -> Result<[Range<usize>; 6], DamageReason> {
    let mut sections = [const { 0..0 }; 6];
    let mut end = HEADER;
    for (which, name) in SECTIONS.into_iter().enumerate() {
        let place = &header[PLACES + which * PLACE..][..PLACE];
        let [offset, len] = [0, 8].map(|at| u64_at(place, at).unwrap_or_default());
        let [crc, zero] = [16, 20].map(|at| u32_at(place, at).unwrap_or_default());
        let wrong = || DamageReason::Place { section: name, offset, len, file: file.len() as u64 };
        let from = end.next_multiple_of(ALIGN);
        let to = usize::try_from(len).ok().and_then(|len| from.checked_add(len)).ok_or_else(wrong)?;
        if offset != from as u64 || to > file.len() || zero != 0 {
            return Err(wrong());
        }
        if file[end..from].iter().any(|b| *b != 0) {
            return Err(DamageReason::Header("the padding before a section is not zero"));
        }
        if crc32c::crc32c(&file[from..to]) != crc {
            return Err(DamageReason::Checksum(name));
        }
        sections[which] = from..to;
        end = to;
    }
    if end != file.len() { Err(DamageReason::Header("bytes follow the last section")) } else { Ok(sections) }
}

/// Decodes a list that must fill its section.
fn whole<T>(bytes: &[u8], decode: impl FnOnce(&mut Reader<'_>) -> Result<T, String>) -> Result<T, String> {
    let mut reader = Reader(bytes);
    let value = decode(&mut reader)?;
    if reader.0.is_empty() { Ok(value) } else { Err("bytes follow the list".into()) }
}

fn content(section: usize, at: u64, why: String) -> DamageReason {
    DamageReason::Content { section: SECTIONS[section], at, why }
}

/// What a base is written from.
pub(crate) struct Parts<'a> {
    pub revision: u64,
    pub seed: Seed,
    pub hosts: &'a [Host],
    pub domains: &'a Domains,
    pub apps: &'a Built<AppLayout>,
    pub customs: &'a Built<CustomLayout>,
}

impl Parts<'_> {
    /// Writes the whole file and syncs it.
    pub fn write(&self, file: &mut File) -> io::Result<()> {
        let (mut hosts, mut domains) = (Vec::new(), Vec::new());
        encode_hosts(self.hosts, &mut hosts);
        encode_domains(self.domains.as_slice(), &mut domains);
        let sections: [&[u8]; 6] =
            [&hosts, &domains, &self.apps.slots, &self.apps.records, &self.customs.slots, &self.customs.records];
        file.write_all(&self.header(&sections))?;
        let mut end = HEADER;
        for section in sections {
            let from = end.next_multiple_of(ALIGN);
            file.write_all(&[0; ALIGN][..from - end])?;
            file.write_all(section)?;
            end = from + section.len();
        }
        file.sync_all()
    }

    fn header(&self, sections: &[&[u8]; 6]) -> [u8; HEADER] {
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&FORMAT.to_le_bytes());
        header.extend_from_slice(&0u32.to_le_bytes());
        let counts = [self.apps.count as u64, self.customs.count as u64, 0];
        for word in [self.revision, self.seed.0, self.seed.1].into_iter().chain(counts) {
            header.extend_from_slice(&word.to_le_bytes());
        }
        let mut end = HEADER;
        for section in sections {
            let from = end.next_multiple_of(ALIGN);
            header.extend_from_slice(&(from as u64).to_le_bytes());
            header.extend_from_slice(&(section.len() as u64).to_le_bytes());
            header.extend_from_slice(&crc32c::crc32c(section).to_le_bytes());
            header.extend_from_slice(&0u32.to_le_bytes());
            end = from + section.len();
        }
        header.resize(HEADER_CRC, 0);
        let crc = crc32c::crc32c(&header);
        header.extend_from_slice(&crc.to_le_bytes());
        header.try_into().expect("the header is filled up to its checksum")
    }
}

/// The path of the base of `revision` in `dir`. The names sort as the revisions do.
pub(crate) fn path(dir: &Path, revision: u64) -> PathBuf {
    dir.join(format!("routes-{revision:020}.base"))
}
