//! HPACK (RFC 7541): the static table, the dynamic table of each direction, the Huffman code.
//!
//! The decoder writes names and values straight into a [`Head`](crate::Head)'s arena; the encoder appends to the output.
//! Neither allocates once its dynamic table has found its size.

mod decoder;
mod encoder;
mod huffman;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod plain;
mod statics;
mod table;

#[cfg(test)]
mod tests;

pub(super) use decoder::{Decoder, Fields, Marks};
pub(super) use encoder::Encoder;
pub(super) use statics::Which;

use std::fmt;

/// What is wrong with a header block. Each is a connection error COMPRESSION_ERROR, except [`HpackError::TooLarge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HpackError {
    /// The block ends in the middle of a field.
    Truncated,
    /// An integer that no limit of ours could allow.
    Integer,
    /// Index 0, or one beyond both tables.
    Index,
    Huffman,
    /// A table size update above what was announced, after a field, or missing where one is due.
    TableSize,
    /// The receiver of the fields has had enough ([`Fields`]): ENHANCE_YOUR_CALM.
    TooLarge,
}

impl HpackError {
    pub(super) const fn reason(self) -> &'static str {
        match self {
            HpackError::Truncated => "header block is truncated",
            HpackError::Integer => "HPACK integer is too large",
            HpackError::Index => "HPACK index is not in the tables",
            HpackError::Huffman => "HPACK string has a bad Huffman code",
            HpackError::TableSize => "HPACK table size update is wrong or missing",
            HpackError::TooLarge => "header block decodes to far more than the limit",
        }
    }
}

impl fmt::Display for HpackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

/// What an entry costs beyond its octets (RFC 7541 §4.1).
pub(super) const ENTRY_OVERHEAD: usize = 32;
