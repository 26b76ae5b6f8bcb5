//! The encoder: what repeats becomes one octet, what does not is sent as it is.
//!
//! # What is indexed
//! Each name has a [`Policy`]:
//! - **Index** (most names, unknown ones too; `date` as well, which a busy connection repeats for a second): a field not in the table is inserted. A name whose values keep changing is
//!   found out by a small counter and no longer inserted, but for a try now and then, so that it cannot flush the rest.
//! - **Plain**, what is new in (almost) every message: `content-length`, validators, ranges, request
//!   ids, trace context, forwarding addresses, our own timing. The value is never inserted; a name that the static
//!   table lacks is inserted once, with the value at hand, and referred to from then on.
//! - **Secret**, what an attacker who can make the other side encode might guess octet by octet (RFC 7541 §7.1):
//!   credentials, cookies, `:path`. Never indexed, and marked so for every hop after us; as is what came so marked.
//! - **Drop**: fields of one HTTP/1.1 connection, which HTTP/2 may not carry (RFC 9113 §8.2.2).
//!
//! # How it is found
//! First the newest entry of the same well-known name is compared, then a small hash of entry numbers is asked. Entry
//! numbers only grow, so eviction needs no work there: a number that is no longer in the table is an empty place.

use super::huffman;
use super::statics::{STATIC_COUNT, STATIC_NAMES, Which};
use super::table::{Kept, Table};
use crate::head::Name;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Index,
    Plain,
    Secret,
    Drop,
}

static POLICIES: [Policy; Which::COUNT] = {
    let mut policies = [Policy::Index; Which::COUNT];
    let mut plain = 0;
    while plain < PLAIN.len() {
        policies[Which::of(PLAIN[plain]).number()] = Policy::Plain;
        plain += 1;
    }
    policies[Which::PATH.number()] = Policy::Secret;
    let mut secret = 0;
    while secret < SECRET.len() {
        policies[Which::of(SECRET[secret]).number()] = Policy::Secret;
        secret += 1;
    }
    let mut drop = 0;
    while drop < DROP.len() {
        policies[Which::of(DROP[drop]).number()] = Policy::Drop;
        drop += 1;
    }
    policies
};

const PLAIN: [Name; 26] = [
    Name::Age,
    Name::ContentLength,
    Name::ContentLocation,
    Name::ContentRange,
    Name::ETag,
    Name::Expires,
    Name::Forwarded,
    Name::IfMatch,
    Name::IfModifiedSince,
    Name::IfNoneMatch,
    Name::IfRange,
    Name::IfUnmodifiedSince,
    Name::LastModified,
    Name::Location,
    Name::Range,
    Name::SecWebSocketAccept,
    Name::SecWebSocketKey,
    Name::ServerTiming,
    Name::Traceparent,
    Name::Tracestate,
    Name::XForwardedFor,
    Name::XRequestId,
    Name::SteadyParked,
    Name::SteadyProbe,
    Name::SteadyRefused,
    Name::SteadyTiming,
];

const SECRET: [Name; 4] = [Name::Authorization, Name::Cookie, Name::ProxyAuthorization, Name::SetCookie];

const DROP: [Name; 7] = [
    Name::Connection,
    Name::Host,
    Name::Http2Settings,
    Name::KeepAlive,
    Name::ProxyConnection,
    Name::TransferEncoding,
    Name::Upgrade,
];

/// Places of the hash; a power of two, at least twice the entries of a table of 4096 octets.
const PLACES: usize = 256;
/// Places looked at for one field.
const PROBES: usize = 4;
/// A name that missed this many times more than it hit is not inserted.
const MISSES_MAX: u8 = 16;
/// An entry may take this part of the table at most, so that one large value does not flush it.
const ENTRY_SHARE: usize = 4;

/// What finds entries; made with the first insertion.
#[derive(Debug)]
struct Finder {
    /// Entry numbers by hash.
    places: [u32; PLACES],
    /// The newest entry's number by [`Which::number`].
    newest: [u32; Which::COUNT],
    /// Insertions less hits, by a hash of the name.
    misses: [u8; 64],
}

/// The state of one direction.
#[derive(Debug)]
pub(in crate::h2) struct Encoder {
    table: Table,
    finder: Option<Box<Finder>>,
    /// The most that we use, whatever the peer offers.
    own_max: usize,
    /// Table size updates due at the next block's start: the smallest size meanwhile, and the one in force now.
    update: Option<(usize, usize)>,
    /// Whether strings that are not inserted are Huffman-coded where that is shorter. (Inserted ones always are: once.)
    huffman: bool,
}

impl Encoder {
    /// `own_max`: octets of table that we use at most. The peer's side has 4096 until its settings say otherwise.
    pub(in crate::h2) fn new(own_max: usize, huffman: bool) -> Encoder {
        let size = own_max.min(4096);
        let update = (size < 4096).then_some((size, size));
        Encoder { table: Table::new(size), finder: None, own_max, update, huffman }
    }

    /// The peer's SETTINGS_HEADER_TABLE_SIZE.
    pub(in crate::h2) fn offered(&mut self, size: usize) {
        let size = size.min(self.own_max);
        let (least, now) = self.update.unwrap_or((self.table.max(), self.table.max()));
        if size != now || self.update.is_some() {
            self.update = Some((least.min(size), size));
            self.table.set_max(size);
        }
    }

    /// Begins a block: says what must be said of the table's size.
    pub(in crate::h2) fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some((least, now)) = self.update.take() {
            if least < now {
                integer(least, 5, 0x20, out);
            }
            integer(now, 5, 0x20, out);
        }
    }

    /// A field that the static table has whole.
    pub(in crate::h2) fn static_field(&mut self, index: u8, out: &mut Vec<u8>) {
        out.push(0x80 | index);
    }

    /// Any field. `name` is the whole name; `which` what it is known as.
    pub(in crate::h2) fn field(&mut self, which: Which, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let number = which.number();
        match POLICIES[number] {
            Policy::Index => {
                if which == Which::of(Name::AcceptEncoding) && value == b"gzip, deflate" {
                    return out.push(0x80 | 16);
                }
                self.index(which, name, value, out);
            }
            Policy::Plain => {
                let index = usize::from(STATIC_NAMES[number]);
                if index > 0 {
                    integer(index, 4, 0, out);
                    return self.string(value, self.huffman, out);
                }
                match self.newest(which) {
                    Some(age) => {
                        integer(STATIC_COUNT + 1 + age, 4, 0, out);
                        self.string(value, self.huffman, out);
                    }
                    None => self.insert(which, name, value, hash(which, name, value), out),
                }
            }
            Policy::Secret => self.literal(which, name, value, 0x10, out),
            Policy::Drop => {}
        }
    }

    /// A field that its sender marked so, see [`Marks`](super::Marks): it goes on as it came.
    pub(in crate::h2) fn never_indexed(&mut self, which: Which, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        if POLICIES[which.number()] != Policy::Drop {
            self.literal(which, name, value, 0x10, out);
        }
    }

    /// The age of the newest entry of a well-known name.
    fn newest(&self, which: Which) -> Option<usize> {
        let age = self.age(self.finder.as_ref()?.newest[which.number()])?;
        // A number comes again after 2^32 insertions.
        self.table.by_age(age).filter(|(entry, _)| entry.which == which).map(|_| age)
    }

    /// The age of the entry with this number, while it is in the table.
    fn age(&self, number: u32) -> Option<usize> {
        let age = self.table.inserted().wrapping_sub(number) as usize;
        (age < self.table.len()).then_some(age)
    }

    fn index(&mut self, which: Which, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        if !which.is_unnamed()
            && let Some(age) = self.newest(which)
            && let Some((entry, octets)) = self.table.by_age(age)
            && octets[entry.name_len as usize..] == *value
        {
            self.hit(which, name);
            return integer(STATIC_COUNT + 1 + age, 7, 0x80, out);
        }
        let hash = hash(which, name, value);
        if let Some(age) = self.find(which, name, value, hash) {
            self.hit(which, name);
            return integer(STATIC_COUNT + 1 + age, 7, 0x80, out);
        }
        if let Some(finder) = &mut self.finder {
            let misses = &mut finder.misses[misses_place(which, name)];
            *misses = misses.wrapping_add(1);
            if *misses > MISSES_MAX {
                // Wrapping gives the name its chance again.
                return self.literal(which, name, value, 0, out);
            }
        }
        self.insert(which, name, value, hash, out);
    }

    fn hit(&mut self, which: Which, name: &[u8]) {
        if let Some(finder) = &mut self.finder {
            let misses = &mut finder.misses[misses_place(which, name)];
            *misses = misses.saturating_sub(1);
        }
    }

    fn find(&self, which: Which, name: &[u8], value: &[u8], hash: u32) -> Option<usize> {
        let finder = self.finder.as_ref()?;
        (0..PROBES).find_map(|probe| {
            let age = self.age(finder.places[(hash as usize + probe) % PLACES])?;
            let (entry, octets) = self.table.by_age(age)?;
            let (entry_name, entry_value) = octets.split_at(entry.name_len as usize);
            (entry.hash == hash && entry.which == which && entry_value == value && entry_name == name).then_some(age)
        })
    }

    /// A literal with incremental indexing; without, where the entry would be too large.
    fn insert(&mut self, which: Which, name: &[u8], value: &[u8], hash: u32, out: &mut Vec<u8>) {
        if name.len() + value.len() + super::ENTRY_OVERHEAD > self.table.max() / ENTRY_SHARE {
            return self.literal(which, name, value, 0, out);
        }
        self.name(which, name, 6, 0x40, out);
        self.string(value, true, out);
        self.table.insert(Kept { which, bad: false, plain: false, hash }, name, value);
        let number = self.table.inserted();
        let finder = self.finder.get_or_insert_with(|| {
            // No number that is live soon: as if long evicted.
            let dead = number.wrapping_sub(u32::MAX / 2);
            Box::new(Finder { places: [dead; PLACES], newest: [dead; Which::COUNT], misses: [0; 64] })
        });
        finder.newest[which.number()] = number;
        let live = self.table.len();
        let place = (0..PROBES)
            .map(|probe| (hash as usize + probe) % PLACES)
            .find(|&place| number.wrapping_sub(finder.places[place]) as usize >= live)
            .unwrap_or(hash as usize % PLACES);
        finder.places[place] = number;
    }

    /// A literal that is not inserted; `pattern` 0x10: nor ever to be, by anyone.
    fn literal(&self, which: Which, name: &[u8], value: &[u8], pattern: u8, out: &mut Vec<u8>) {
        self.name(which, name, 4, pattern, out);
        self.string(value, self.huffman, out);
    }

    fn name(&self, which: Which, name: &[u8], prefix_bits: u32, pattern: u8, out: &mut Vec<u8>) {
        let index = usize::from(STATIC_NAMES[which.number()]);
        if index > 0 {
            return integer(index, prefix_bits, pattern, out);
        }
        if !which.is_unnamed()
            && let Some(age) = self.newest(which)
        {
            return integer(STATIC_COUNT + 1 + age, prefix_bits, pattern, out);
        }
        out.push(pattern);
        self.string(name, true, out);
    }

    fn string(&self, octets: &[u8], huffman: bool, out: &mut Vec<u8>) {
        if huffman {
            let len = huffman::encoded_len(octets);
            if len < octets.len() {
                integer(len, 7, 0x80, out);
                return huffman::encode(octets, out);
            }
        }
        integer(octets.len(), 7, 0, out);
        out.extend_from_slice(octets);
    }
}

/// Appends an integer (RFC 7541 §5.1).
#[inline]
fn integer(value: usize, prefix_bits: u32, pattern: u8, out: &mut Vec<u8>) {
    let mask = (1 << prefix_bits) - 1;
    if value < mask {
        return out.push(pattern | value as u8);
    }
    out.push(pattern | mask as u8);
    integer_rest(value - mask, out);
}

fn integer_rest(mut rest: usize, out: &mut Vec<u8>) {
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// A cheap hash: the length, the first and the last octets. What differs only in the middle shares its places.
fn hash(which: Which, name: &[u8], value: &[u8]) -> u32 {
    let mut state = which.number() as u64 ^ ((value.len() as u64) << 16);
    if which.is_unnamed() {
        state ^= edges(name).rotate_left(17) ^ ((name.len() as u64) << 40);
    }
    let mixed = (state.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ edges(value)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (mixed >> 32) as u32
}

fn edges(octets: &[u8]) -> u64 {
    if let (Some(first), Some(last)) = (octets.first_chunk::<8>(), octets.last_chunk::<8>()) {
        return u64::from_le_bytes(*first).rotate_left(23).wrapping_add(u64::from_le_bytes(*last));
    }
    octets.iter().fold(0, |state, &octet| (state << 8) | u64::from(octet))
}

fn misses_place(which: Which, name: &[u8]) -> usize {
    if which.is_unnamed() { hash(which, name, b"") as usize % 64 } else { which.number() % 64 }
}
