//! The decoder: header blocks into fields, written where a [`Fields`] says.

use super::statics::{STATIC_COUNT, STATICS, Which};
use super::table::{Kept, Table};
use super::{HpackError, huffman};

/// What a literal's representation, or its octets, say beyond its name and value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::h2) struct Marks {
    /// It has an octet that [`Fields::is_bad`] found.
    pub bad: bool,
    /// No table may keep it, here or at any hop after this (RFC 7541 §6.2.3).
    pub never_indexed: bool,
}

/// Takes the fields of a block as they are decoded.
///
/// For every field the decoder appends its name (unless [`Which::name`] gives it) and then its value to the arena, and
/// calls [`Fields::field`], which may leave them there or take them off again.
pub(in crate::h2) trait Fields {
    /// The octets that names and values are appended to.
    fn arena(&mut self) -> &mut Vec<u8>;

    /// A field whose value is what the arena has from `value` on, and whose name, where `which` does not give it, is what
    /// the arena has from `start` to `value`.
    ///
    /// # Errors
    /// [`HpackError::TooLarge`] when this is more than a whole block may be.
    fn field(&mut self, which: Which, start: usize, value: usize, marks: Marks) -> Result<(), HpackError>;

    /// A field of the static table with its value; nothing was appended.
    ///
    /// # Errors
    /// As [`Fields::field`].
    fn static_field(&mut self, which: Which, value: &'static [u8]) -> Result<(), HpackError>;

    /// A field that is [`Fields::is_plain`] and not bad: its name, of `name_len` octets, and its value. Nothing was appended.
    ///
    /// # Errors
    /// As [`Fields::field`].
    fn plain_field(&mut self, which: Which, octets: &[u8], name_len: usize) -> Result<(), HpackError>;

    /// Whether fields of this name mean nothing to the receiver.
    fn is_plain(which: Which) -> bool;

    /// Whether the field may not be used; asked once for each literal, `name` empty where the table gave it.
    fn is_bad(name: &[u8], value: &[u8]) -> bool;
}

/// Octets that no integer exceeds (a string length, an index, a table size), so that nothing overflows.
const INTEGER_MAX: usize = 1 << 28;

/// The state of one direction.
#[derive(Debug)]
pub(in crate::h2) struct Decoder {
    table: Table,
    /// The most that the peer's encoder may use: what we announced.
    allowed: usize,
    /// The peer must begin its next block with a table size update (RFC 9113 §4.3.1).
    update_due: bool,
}

impl Decoder {
    /// The table has the protocol's initial size until [`Decoder::announced`].
    pub(in crate::h2) fn new() -> Decoder {
        Decoder { table: Table::new(4096), allowed: 4096, update_due: false }
    }

    /// The peer acknowledged our SETTINGS_HEADER_TABLE_SIZE. (A larger table is the peer's to ask for by an update, so
    /// until the acknowledgement it cannot, and after it, it may.)
    pub(in crate::h2) fn announced(&mut self, size: usize) {
        self.allowed = size;
        self.update_due = self.table.max() > size;
    }

    /// Decodes one whole block.
    ///
    /// # Errors
    /// The connection cannot go on: the tables of the two sides may differ from here on.
    pub(in crate::h2) fn decode<F: Fields>(&mut self, block: &[u8], fields: &mut F) -> Result<(), HpackError> {
        let mut block = block;
        let mut any = false;
        while let [first, rest @ ..] = block {
            let first = *first;
            block = rest;
            if first & 0xe0 == 0x20 {
                let size = integer(first, 5, &mut block)?;
                if any || size > self.allowed {
                    return Err(HpackError::TableSize);
                }
                self.table.set_max(size);
                self.update_due = false;
                continue;
            }
            any = true;
            if self.update_due {
                return Err(HpackError::TableSize);
            }
            if first & 0x80 != 0 {
                let index = if first < 0xff { usize::from(first & 0x7f) } else { integer(first, 7, &mut block)? };
                self.indexed(index, fields)?;
            } else {
                self.literal(first, &mut block, fields)?;
            }
        }
        if self.update_due { Err(HpackError::TableSize) } else { Ok(()) }
    }

    fn indexed<F: Fields>(&mut self, index: usize, fields: &mut F) -> Result<(), HpackError> {
        if index <= STATIC_COUNT {
            if index == 0 {
                return Err(HpackError::Index);
            }
            let (which, value) = STATICS[index];
            return fields.static_field(which, value);
        }
        let (entry, octets) = self.table.by_age(index - STATIC_COUNT - 1).ok_or(HpackError::Index)?;
        let name_len = entry.name_len as usize;
        if entry.plain {
            return fields.plain_field(entry.which, octets, name_len);
        }
        let arena = fields.arena();
        let start = arena.len();
        let marks = Marks { bad: entry.bad, never_indexed: false };
        if entry.which.is_unnamed() {
            arena.extend_from_slice(octets);
            fields.field(entry.which, start, start + name_len, marks)
        } else {
            arena.extend_from_slice(&octets[name_len..]);
            fields.field(entry.which, start, start, marks)
        }
    }

    fn literal<F: Fields>(&mut self, first: u8, block: &mut &[u8], fields: &mut F) -> Result<(), HpackError> {
        let indexing = first & 0x40 != 0;
        let index = integer(first, if indexing { 6 } else { 4 }, block)?;
        let arena = fields.arena();
        let start = arena.len();
        let which = if index == 0 {
            string(block, arena)?;
            let which = Which::from_name(&arena[start..]);
            if !which.is_unnamed() {
                arena.truncate(start);
            }
            which
        } else if index <= STATIC_COUNT {
            STATICS[index].0
        } else {
            let (entry, octets) = self.table.by_age(index - STATIC_COUNT - 1).ok_or(HpackError::Index)?;
            if entry.which.is_unnamed() {
                arena.extend_from_slice(&octets[..entry.name_len as usize]);
            }
            entry.which
        };
        let value_at = arena.len();
        string(block, arena)?;
        let (name, value) = arena[start..].split_at(value_at - start);
        let bad = F::is_bad(name, value) || (which.is_unnamed() && name.is_empty());
        if indexing {
            let name = if which.is_unnamed() { name } else { which.name() };
            self.table.insert(Kept { which, bad, plain: !bad && F::is_plain(which), hash: 0 }, name, value);
        }
        fields.field(which, start, value_at, Marks { bad, never_indexed: first & 0xf0 == 0x10 })
    }
}

/// An integer whose first octet was taken, with a prefix of this many bits (RFC 7541 §5.1).
fn integer(first: u8, prefix_bits: u32, block: &mut &[u8]) -> Result<usize, HpackError> {
    let mask = (1usize << prefix_bits) - 1;
    let mut value = usize::from(first) & mask;
    if value < mask {
        return Ok(value);
    }
    for shift in (0..=28).step_by(7) {
        let [octet, rest @ ..] = *block else { return Err(HpackError::Truncated) };
        *block = rest;
        value += usize::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return if value <= INTEGER_MAX { Ok(value) } else { Err(HpackError::Integer) };
        }
    }
    Err(HpackError::Integer)
}

/// Appends a string literal (RFC 7541 §5.2).
fn string(block: &mut &[u8], arena: &mut Vec<u8>) -> Result<(), HpackError> {
    let [first, rest @ ..] = *block else { return Err(HpackError::Truncated) };
    let first = *first;
    *block = rest;
    let len = integer(first, 7, block)?;
    let (octets, rest) = block.split_at_checked(len).ok_or(HpackError::Truncated)?;
    *block = rest;
    if first & 0x80 != 0 {
        huffman::decode(octets, arena)
    } else {
        arena.extend_from_slice(octets);
        Ok(())
    }
}
