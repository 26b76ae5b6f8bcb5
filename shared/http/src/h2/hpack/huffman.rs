//! The Huffman code of RFC 7541, Appendix B.
//!
//! The code is canonical: shorter codes come first, equal lengths in the order of their octets. So the lengths alone say
//! everything, and both tables are computed from them at compile time. Decoding looks at [`BITS`] bits at once, which
//! yields up to two octets; the codes that are longer (control octets and most of 0x80–0xff) are found by length.

use super::HpackError;

/// Length in bits of each octet's code; the last is EOS.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, //
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, //
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, //
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, //
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const EOS: usize = 256;
const LENGTH_MAX: usize = 30;

/// Bits that one look into the table covers. 11 resolves most pairs of letters and digits, in 8 KB.
const BITS: u32 = 11;

const CODES: [u32; 257] = codes();

const fn codes() -> [u32; 257] {
    let mut codes = [0; 257];
    let (mut code, mut length) = (0u32, 1);
    while length <= LENGTH_MAX {
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == length {
                codes[symbol] = code;
                code += 1;
            }
            symbol += 1;
        }
        code <<= 1;
        length += 1;
    }
    codes
}

/// One look: the octets found (little end first), the bits of the first and of all of them. 0 bits: a longer code.
#[derive(Clone, Copy)]
struct Look {
    octets: [u8; 2],
    bits_first: u8,
    bits: u8,
}

static LOOKS: [Look; 1 << BITS] = looks();

const fn looks() -> [Look; 1 << BITS] {
    // First one octet for every prefix, then the second from the same table.
    let mut single = [(0u8, 0u8); 1 << BITS];
    let mut symbol = 0;
    while symbol < 256 {
        let length = LENGTHS[symbol] as u32;
        if length <= BITS {
            let shift = BITS - length;
            let mut low = 0;
            while low < 1 << shift {
                single[((CODES[symbol] << shift) | low) as usize] = (symbol as u8, length as u8);
                low += 1;
            }
        }
        symbol += 1;
    }
    let mut looks = [Look { octets: [0; 2], bits_first: 0, bits: 0 }; 1 << BITS];
    let mut index = 0;
    while index < 1 << BITS {
        let (octet, bits) = single[index];
        looks[index] = Look { octets: [octet, 0], bits_first: bits, bits };
        if bits > 0 {
            let (next, next_bits) = single[(index << bits) & ((1 << BITS) - 1)];
            if next_bits > 0 && (bits + next_bits) as u32 <= BITS {
                looks[index] = Look { octets: [octet, next], bits_first: bits, bits: bits + next_bits };
            }
        }
        index += 1;
    }
    looks
}

/// For each length: the first code of it (left-aligned to 32 bits), and where its symbols start in [`SORTED`].
const FIRSTS: [(u32, u16); LENGTH_MAX + 2] = firsts();
const SORTED: [u16; 257] = sorted();

const fn sorted() -> [u16; 257] {
    let mut sorted = [0; 257];
    let (mut length, mut at) = (1, 0);
    while length <= LENGTH_MAX {
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == length {
                sorted[at] = symbol as u16;
                at += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    sorted
}

const fn firsts() -> [(u32, u16); LENGTH_MAX + 2] {
    let mut firsts = [(0, 0); LENGTH_MAX + 2];
    let (mut code, mut at, mut length) = (0u64, 0, 1);
    while length <= LENGTH_MAX + 1 {
        let aligned = code << (32 - length);
        // Past the longest code there is nothing: the code space is complete, and its end does not fit 32 bits.
        firsts[length] = (if aligned > u32::MAX as u64 { u32::MAX } else { aligned as u32 }, at);
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == length {
                code += 1;
                at += 1;
            }
            symbol += 1;
        }
        code <<= 1;
        length += 1;
    }
    firsts
}

/// The symbol and length of the code that `window` (left-aligned, filled up with ones) begins with, where it is longer
/// than [`BITS`].
#[cold]
fn long(window: u32) -> (u16, u32) {
    let mut length = BITS as usize + 1;
    while length < LENGTH_MAX && window >= FIRSTS[length + 1].0 {
        length += 1;
    }
    let (first, at) = FIRSTS[length];
    let offset = (window - first) >> (32 - length);
    (SORTED[usize::from(at) + offset as usize], length as u32)
}

/// Appends what `source` says to `out`.
///
/// # Errors
/// EOS in the string, padding of 8 bits or more or not of ones (RFC 7541 §5.2).
pub(super) fn decode(source: &[u8], out: &mut Vec<u8>) -> Result<(), HpackError> {
    let start = out.len();
    // The shortest code has 5 bits; one more for the second octet of a look that is not counted.
    out.resize(start + source.len() * 8 / 5 + 2, 0);
    let room = &mut out[start..];
    let mut written = 0;
    let (mut window, mut have, mut at) = (0u64, 0u32, 0);
    // While there are eight octets: fill to 56 bits or more, then five looks of at most 11 bits need no count. What
    // the window holds beyond `have` is what the next fill puts there again.
    'fill: while let Some(word) = source[at..].first_chunk::<8>() {
        window |= u64::from_be_bytes(*word) >> have;
        at += ((63 - have) >> 3) as usize;
        have |= 56;
        for _ in 0..5 {
            let look = LOOKS[(window >> (64 - BITS)) as usize];
            if look.bits == 0 {
                if have < LENGTH_MAX as u32 {
                    continue 'fill;
                }
                let (symbol, bits) = long((window >> 32) as u32);
                if symbol as usize == EOS {
                    return Err(HpackError::Huffman);
                }
                room[written] = symbol as u8;
                written += 1;
                window <<= bits;
                have -= bits;
                continue 'fill;
            }
            room[written..written + 2].copy_from_slice(&look.octets);
            written += 1 + usize::from(look.bits != look.bits_first);
            window <<= look.bits;
            have -= u32::from(look.bits);
        }
    }
    window &= !(u64::MAX.checked_shr(have).unwrap_or(0));
    loop {
        while have <= 56 && at < source.len() {
            window |= u64::from(source[at]) << (56 - have);
            at += 1;
            have += 8;
        }
        let last = at == source.len();
        // The end: every bit is counted, and what is missing is taken for ones.
        while have >= LENGTH_MAX as u32 || (last && have > 0) {
            let filled = if have < 64 { window | (u64::MAX >> have) } else { window };
            let look = LOOKS[(filled >> (64 - BITS)) as usize];
            let (bits, count) = if look.bits == 0 {
                let (symbol, bits) = long((filled >> 32) as u32);
                if bits > have {
                    break;
                }
                if symbol as usize == EOS {
                    return Err(HpackError::Huffman);
                }
                room[written] = symbol as u8;
                (bits, 1)
            } else if u32::from(look.bits) <= have {
                room[written..written + 2].copy_from_slice(&look.octets);
                (u32::from(look.bits), 1 + usize::from(look.bits != look.bits_first))
            } else if u32::from(look.bits_first) <= have {
                room[written] = look.octets[0];
                (u32::from(look.bits_first), 1)
            } else {
                break;
            };
            written += count;
            window <<= bits;
            have -= bits;
        }
        if last {
            break;
        }
    }
    // What is left must be fewer than 8 ones: a prefix of EOS.
    let padding_is_ones = have < 8 && window == !(u64::MAX.checked_shr(have).unwrap_or(0));
    out.truncate(start + written);
    if padding_is_ones { Ok(()) } else { Err(HpackError::Huffman) }
}

/// Octets that `source` takes when encoded.
pub(super) fn encoded_len(source: &[u8]) -> usize {
    let bits: usize = source.iter().map(|&octet| usize::from(LENGTHS[usize::from(octet)])).sum();
    bits.div_ceil(8)
}

/// Appends the encoded form of `source`.
pub(super) fn encode(source: &[u8], out: &mut Vec<u8>) {
    let (mut window, mut have) = (0u64, 0u32);
    for &octet in source {
        let length = u32::from(LENGTHS[usize::from(octet)]);
        window = (window << length) | u64::from(CODES[usize::from(octet)]);
        have += length;
        if have >= 32 {
            have -= 32;
            out.extend_from_slice(&((window >> have) as u32).to_be_bytes());
        }
    }
    while have >= 8 {
        have -= 8;
        out.push((window >> have) as u8);
    }
    if have > 0 {
        out.push(((window << (8 - have)) as u8) | (0xff >> have));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(source: &[u8]) {
        let mut encoded = Vec::new();
        encode(source, &mut encoded);
        assert_eq!(encoded.len(), encoded_len(source));
        let mut decoded = b"kept".to_vec();
        decode(&encoded, &mut decoded).unwrap();
        assert_eq!(&decoded[4..], source);
    }

    #[test]
    fn every_octet_comes_back_alone_doubled_and_among_all_others() {
        for octet in 0..=255u8 {
            for count in 1..20 {
                round(&vec![octet; count]);
            }
        }
        let all: Vec<u8> = (0..=255).collect();
        round(&all);
        let mixed: Vec<u8> = (0..=255u8).flat_map(|octet| [octet, b'a', b'0', octet.wrapping_mul(7)]).collect();
        for cut in 0..mixed.len() {
            round(&mixed[cut..]);
        }
    }

    #[test]
    fn the_codes_are_those_of_appendix_b() {
        for (octet, code) in [(b'0', 0x0), (b'a', 0x3), (b' ', 0x14), (b'&', 0xf8), (b'!', 0x3f8), (b'\\', 0x7fff0)] {
            assert_eq!(CODES[usize::from(octet)], code);
        }
        assert_eq!((CODES[0], CODES[10], CODES[EOS]), (0x1ff8, 0x3fff_fffc, 0x3fff_ffff));
    }

    #[test]
    fn padding_must_be_fewer_than_eight_ones() {
        let decode = |source: &[u8]| {
            let mut out = Vec::new();
            decode(source, &mut out).map(|()| out)
        };
        assert_eq!(decode(b"").unwrap(), b"");
        assert_eq!(decode(&[0b0001_1111]).unwrap(), b"a");
        assert!(decode(&[0b0001_1110]).is_err(), "padding of a zero");
        assert!(decode(&[0b0001_1111, 0xff]).is_err(), "padding of 11 bits");
        assert!(decode(&[0xff]).is_err(), "padding of 8 bits");
        assert!(decode(&[0xff; 4]).is_err(), "EOS");
        assert!(decode(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err(), "EOS in a long string");
        assert!(decode(&[0xfe]).is_err(), "a truncated code");
    }
}
