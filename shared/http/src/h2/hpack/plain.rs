//! HPACK alone, fields in and fields out: for tests and for the fuzz targets, which compare it with others.

use super::statics::Which;
#[cfg(feature = "fuzzing")]
use super::{Decoder, Encoder};
use super::{Fields, HpackError, Marks};

/// Names and values in their order.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Collects fields.
#[derive(Default)]
pub(super) struct Collector {
    pub arena: Vec<u8>,
    pub pairs: Pairs,
}

impl Fields for Collector {
    fn arena(&mut self) -> &mut Vec<u8> {
        &mut self.arena
    }

    fn field(&mut self, which: Which, start: usize, value: usize, _marks: Marks) -> Result<(), HpackError> {
        let name = if which.is_unnamed() { &self.arena[start..value] } else { which.name() };
        self.pairs.push((name.to_vec(), self.arena[value..].to_vec()));
        self.arena.truncate(start);
        Ok(())
    }

    fn static_field(&mut self, which: Which, value: &'static [u8]) -> Result<(), HpackError> {
        self.pairs.push((which.name().to_vec(), value.to_vec()));
        Ok(())
    }

    fn plain_field(&mut self, which: Which, octets: &[u8], name_len: usize) -> Result<(), HpackError> {
        let (name, value) = octets.split_at(name_len);
        assert!(which.is_unnamed() || which.name() == name);
        self.pairs.push((name.to_vec(), value.to_vec()));
        Ok(())
    }

    fn is_plain(which: Which) -> bool {
        which.field().is_some()
    }

    fn is_bad(_: &[u8], _: &[u8]) -> bool {
        false
    }
}

/// The decoder of one direction.
#[cfg(feature = "fuzzing")]
#[derive(Debug)]
pub struct HpackDecoder(Decoder);

#[cfg(feature = "fuzzing")]
impl Default for HpackDecoder {
    fn default() -> Self {
        HpackDecoder::new()
    }
}

#[cfg(feature = "fuzzing")]
impl HpackDecoder {
    pub fn new() -> HpackDecoder {
        HpackDecoder(Decoder::new())
    }

    /// The other side acknowledged this size of the table.
    pub fn announced(&mut self, size: usize) {
        self.0.announced(size);
    }

    /// Decodes one whole block.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(&mut self, block: &[u8]) -> Result<Pairs, &'static str> {
        let mut collector = Collector::default();
        self.0.decode(block, &mut collector).map_err(HpackError::reason)?;
        assert!(collector.arena.is_empty());
        Ok(collector.pairs)
    }
}

/// The encoder of one direction.
#[cfg(feature = "fuzzing")]
#[derive(Debug)]
pub struct HpackEncoder(Encoder);

#[cfg(feature = "fuzzing")]
impl HpackEncoder {
    /// As [`Encoder::new`].
    pub fn new(own_max: usize, huffman: bool) -> HpackEncoder {
        HpackEncoder(Encoder::new(own_max, huffman))
    }

    /// The other side's SETTINGS_HEADER_TABLE_SIZE.
    pub fn offered(&mut self, size: usize) {
        self.0.offered(size);
    }

    /// One block of fields; those that HTTP/2 may not carry are left out.
    pub fn encode(&mut self, fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let mut out = Vec::new();
        self.0.begin(&mut out);
        for (name, value) in fields {
            self.0.field(Which::from_name(name), name, value, &mut out);
        }
        out
    }
}
