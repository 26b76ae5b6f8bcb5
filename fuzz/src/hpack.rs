//! HPACK: decoded as another implementation decodes it; what ours encodes, both decode to what was encoded.

use loona_hpack::Decoder as TheirDecoder;
use steady_http::fuzzing::{HpackDecoder, HpackEncoder};

use crate::Octets;

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// The first octet chooses between the two.
pub fn hpack(data: &[u8]) {
    let mut octets = Octets(data);
    if octets.one() & 1 == 0 { decode(octets) } else { encode(octets) }
}

/// Blocks, each after the two octets of its length.
fn decode(mut octets: Octets<'_>) {
    let mut ours = HpackDecoder::new();
    let mut theirs = TheirDecoder::new();
    theirs.set_max_allowed_table_size(4096);
    while !octets.is_empty() {
        let len = usize::from(octets.two() & 0x3ff);
        let block = octets.some(len);
        let mine = ours.decode(block);
        let other = theirs_of(&mut theirs, block);
        match (mine, other) {
            (Ok(mine), Some(other)) => assert_eq!(mine, other),
            // Theirs refuses by rules of its own (two size updates, for one); ours is held to the RFC by tests.
            (Ok(_), None) => return,
            (Err(_), _) => return,
        }
    }
}

fn theirs_of(decoder: &mut TheirDecoder<'_>, block: &[u8]) -> Option<Fields> {
    let mut fields = Vec::new();
    let done = decoder.decode_with_cb(block, |name, value| fields.push((name.into_owned(), value.into_owned())));
    done.is_ok().then_some(fields)
}

/// Blocks of fields from a small alphabet, so that they repeat; sizes of the table change between them.
fn encode(mut octets: Octets<'_>) {
    const NAMES: &[&[u8]] = &[
        b":path",
        b":authority",
        b":status",
        b"cookie",
        b"accept",
        b"x-a",
        b"x-b",
        b"x-longer-name-than-others",
        b"date",
        b"content-length",
        b"set-cookie",
        b"etag",
        b"x-request-id",
        b"server",
    ];
    let huffman = octets.one() & 1 == 1;
    let own = usize::from(octets.two() & 0x1fff);
    let mut encoder = HpackEncoder::new(own, huffman);
    let mut decoder = HpackDecoder::new();
    let mut theirs = TheirDecoder::new();
    theirs.set_max_allowed_table_size(4096);
    while !octets.is_empty() {
        let how = octets.one();
        if how & 0x80 != 0 {
            let size = usize::from(octets.two() & 0x0fff);
            encoder.offered(size);
            decoder.announced(size);
            theirs.set_max_allowed_table_size(size);
        }
        let mut fields = Fields::new();
        for _ in 0..how & 0x0f {
            let name = NAMES[usize::from(octets.one()) % NAMES.len()].to_vec();
            let len = octets.one();
            let value = match len {
                0..16 => vec![b'v'; usize::from(octets.one()) * 8],
                _ => octets.some(usize::from(len % 16)).to_vec(),
            };
            fields.push((name, value));
        }
        let block = encoder.encode(&fields);
        assert_eq!(decoder.decode(&block).as_ref(), Ok(&fields));
        if let Some(other) = theirs_of(&mut theirs, &block) {
            assert_eq!(other, fields);
        } else {
            return;
        }
    }
}
