//! The records of the two indexes, as they lie in the base, the overlay and the log; all numbers little-endian.
//!
//! ```text
//! application  0 flags u8 · 1 name length u8 · 2 endpoints u16 · 4 version u32 · 8 id u64 · 16 generation u64
//!              24 name · then, if moving: from u32, to u32, generation u64
//!              then per endpoint: host u32, version u32, weight u16
//! custom       0 flags u8 · 1 name length u8 · 2 length of the application's name u8 · 3 zero · 4 name · application's name
//! ```

use crate::bytes::{u16_at, u32_at, u64_at};
use crate::model::{App, Endpoint, HostIndex, MAX_ENDPOINTS, Moving};
use crate::name::{AppName, DomainName};

/// Set in every record, so that a zero byte is padding.
const PRESENT: u8 = 0x80;
const EXCLUSIVE: u8 = 0x01;
const MOVING: u8 = 0x02;
/// Overlay only: the entry of the base no longer exists.
const REMOVED: u8 = 0x04;
/// Overlay only: the base has an entry of this name.
const OVERRIDES: u8 = 0x08;

const APP_HEAD: usize = 24;
const MOVING_LEN: usize = 16;
const ENDPOINT_LEN: usize = 10;
const CUSTOM_HEAD: usize = 4;

/// How an index finds its way in a record.
pub(crate) trait Layout {
    /// Where the key begins; its length is in byte 1.
    const KEY_AT: usize;
    /// The bits that byte 0 may have in a base.
    const BASE_FLAGS: u8;
    /// The record's length without padding; `None` when the head is cut off.
    fn len(record: &[u8]) -> Option<usize>;
}

/// The record's key. `None` when it is cut off.
pub(crate) fn key<L: Layout>(record: &[u8]) -> Option<&[u8]> {
    let len = usize::from(*record.get(1)?);
    record.get(L::KEY_AT..L::KEY_AT + len)
}

pub(crate) fn is_removed(record: &[u8]) -> bool {
    record.first().is_some_and(|flags| flags & REMOVED != 0)
}

pub(crate) fn overrides(record: &[u8]) -> bool {
    record.first().is_some_and(|flags| flags & OVERRIDES != 0)
}

pub(crate) fn is_present(flags: u8) -> bool {
    flags & PRESENT != 0
}

/// Marks an encoded record as the overlay's word on an entry that the base has.
pub(crate) fn mark_override(record: &mut [u8]) {
    record[0] |= OVERRIDES;
}

/// Takes the overlay's marks off a record that becomes part of a base.
pub(crate) fn unmark(record: &mut [u8]) {
    record[0] &= !OVERRIDES;
}

#[derive(Debug)]
pub(crate) enum AppLayout {}

impl Layout for AppLayout {
    const KEY_AT: usize = APP_HEAD;
    const BASE_FLAGS: u8 = PRESENT | EXCLUSIVE | MOVING;

    fn len(record: &[u8]) -> Option<usize> {
        let head = record.first_chunk::<4>()?;
        let moving = if head[0] & MOVING != 0 { MOVING_LEN } else { 0 };
        let endpoints = usize::from(u16::from_le_bytes([head[2], head[3]])) * ENDPOINT_LEN;
        Some(APP_HEAD + usize::from(head[1]) + moving + endpoints)
    }
}

#[derive(Debug)]
pub(crate) enum CustomLayout {}

impl Layout for CustomLayout {
    const KEY_AT: usize = CUSTOM_HEAD;
    const BASE_FLAGS: u8 = PRESENT;

    fn len(record: &[u8]) -> Option<usize> {
        let head = record.first_chunk::<4>()?;
        Some(CUSTOM_HEAD + usize::from(head[1]) + usize::from(head[2]))
    }
}

/// What the table knows of one application: a view of its record, valid as long as the [`Routes`](crate::Routes) it came from.
#[derive(Clone, Copy, Debug)]
pub struct Route<'a> {
    name: &'a [u8],
    exclusive: bool,
    version: u32,
    id: u64,
    generation: u64,
    moving: Option<Moving>,
    endpoints: &'a [u8],
}

impl<'a> Route<'a> {
    /// The application's name as a key: see [`AppName::id`].
    pub fn app_id(&self) -> u64 {
        self.id
    }

    pub fn name(&self) -> &'a str {
        // Checked when the file was opened; a page that rots afterwards reads as no name.
        std::str::from_utf8(self.name).unwrap_or_default()
    }

    /// The placement's generation; while the application moves, the old owner's.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn is_exclusive(&self) -> bool {
        self.exclusive
    }

    /// The deployed version.
    pub fn version(&self) -> u32 {
        self.version
    }

    pub fn moving(&self) -> Option<Moving> {
        self.moving
    }

    /// Where it runs: at least one, at most [`MAX_ENDPOINTS`].
    pub fn endpoints(&self) -> impl ExactSizeIterator<Item = Endpoint> + Clone + use<'a> {
        self.endpoints.chunks_exact(ENDPOINT_LEN).map(|bytes| Endpoint {
            host: HostIndex(u32_at(bytes, 0).unwrap_or_default()),
            version: u32_at(bytes, 4).unwrap_or_default(),
            weight: u16_at(bytes, 8).unwrap_or_default(),
        })
    }

    /// The record that begins at `bytes`; `None` when it is cut off.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Route<'a>> {
        let head = bytes.first_chunk::<APP_HEAD>()?;
        let body = bytes.get(APP_HEAD..AppLayout::len(head)?)?;
        let (name, mut rest) = body.split_at_checked(head[1].into())?;
        let mut moving = None;
        if head[0] & MOVING != 0 {
            let from = HostIndex(u32_at(rest, 0)?);
            let to = HostIndex(u32_at(rest, 4)?);
            moving = Some(Moving { from, to, generation: u64_at(rest, 8)? });
            rest = rest.get(MOVING_LEN..)?;
        }
        Some(Route {
            name,
            exclusive: head[0] & EXCLUSIVE != 0,
            version: u32_at(head, 4)?,
            id: u64_at(head, 8)?,
            generation: u64_at(head, 16)?,
            moving,
            endpoints: rest,
        })
    }

    /// The application as it was given; `None` when the record's name is no name or its id is not the name's.
    pub(crate) fn to_app(self) -> Option<App> {
        let name = AppName::new(self.name()).ok()?;
        (name.id() == self.id).then(|| App {
            name,
            generation: self.generation,
            exclusive: self.exclusive,
            version: self.version,
            endpoints: self.endpoints().collect(),
            moving: self.moving,
        })
    }
}

/// Appends the record of an application. It has no more than [`MAX_ENDPOINTS`] endpoints (`check` has seen it).
pub(crate) fn encode_app(app: &App, out: &mut Vec<u8>) {
    debug_assert!(app.endpoints.len() <= MAX_ENDPOINTS);
    let name = app.name.as_str().as_bytes();
    let exclusive = if app.exclusive { EXCLUSIVE } else { 0 };
    let moving = if app.moving.is_some() { MOVING } else { 0 };
    out.extend_from_slice(&[PRESENT | exclusive | moving, name.len() as u8]);
    out.extend_from_slice(&(app.endpoints.len() as u16).to_le_bytes());
    out.extend_from_slice(&app.version.to_le_bytes());
    out.extend_from_slice(&app.name.id().to_le_bytes());
    out.extend_from_slice(&app.generation.to_le_bytes());
    out.extend_from_slice(name);
    if let Some(moving) = app.moving {
        out.extend_from_slice(&moving.from.0.to_le_bytes());
        out.extend_from_slice(&moving.to.0.to_le_bytes());
        out.extend_from_slice(&moving.generation.to_le_bytes());
    }
    for endpoint in &app.endpoints {
        out.extend_from_slice(&endpoint.host.0.to_le_bytes());
        out.extend_from_slice(&endpoint.version.to_le_bytes());
        out.extend_from_slice(&endpoint.weight.to_le_bytes());
    }
}

/// Appends the record that says that the base's application of this name is gone.
pub(crate) fn encode_removed_app(name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&[PRESENT | REMOVED | OVERRIDES, name.len() as u8]);
    out.extend_from_slice(&[0; APP_HEAD - 2]);
    out.extend_from_slice(name.as_bytes());
}

pub(crate) fn encode_custom(domain: &DomainName, app: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&[PRESENT, domain.as_str().len() as u8, app.len() as u8, 0]);
    out.extend_from_slice(domain.as_str().as_bytes());
    out.extend_from_slice(app.as_bytes());
}

pub(crate) fn encode_removed_custom(domain: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&[PRESENT | REMOVED | OVERRIDES, domain.len() as u8, 0, 0]);
    out.extend_from_slice(domain.as_bytes());
}

/// The application that a custom domain's record names.
pub(crate) fn custom_app(record: &[u8]) -> Option<&[u8]> {
    let from = CUSTOM_HEAD + usize::from(*record.get(1)?);
    record.get(from..CustomLayout::len(record)?)
}
