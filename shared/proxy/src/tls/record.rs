//! Where one TLS record ends and the next begins (RFC 8446 section 5.1, RFC 5246 section 6.2.1).

/// Content type, version, length.
pub(super) const HEADER: usize = 5;

/// Plaintext in one record.
pub(super) const PLAIN_MAX: usize = 1 << 14;

/// Ciphertext in one record that anyone may send: RFC 5246 allows 2048 over the plaintext, RFC 8446 allows 256.
const PAYLOAD_MAX: usize = PLAIN_MAX + 2048;

/// The most that any suite adds to a record: header, an explicit nonce (TLS 1.2) or the inner type (TLS 1.3), tag.
const OVERHEAD_MAX: usize = HEADER + 8 + 16;

/// Not the start of a TLS record, whatever follows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The length of the record that `buf` begins with, header included; `None`: the header is not whole. Judged from the
/// first octet on, so that another protocol is refused at once.
pub(super) fn length(buf: &[u8]) -> Result<Option<usize>, Malformed> {
    if buf.first().is_some_and(|kind| !(20..=24).contains(kind)) || buf.get(1).is_some_and(|major| *major != 3) {
        return Err(Malformed);
    }
    let Some(&[kind, _, _, high, low]) = buf.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let payload = usize::from(u16::from_be_bytes([high, low]));
    if payload >= PAYLOAD_MAX || (payload == 0 && kind != 23) {
        return Err(Malformed);
    }
    Ok(Some(HEADER + payload))
}

/// How many octets at the front of `buf` are whole records.
pub(super) fn whole(buf: &[u8]) -> Result<usize, Malformed> {
    let mut at = 0;
    while let Some(length) = length(&buf[at..])? {
        if length > buf.len() - at {
            break;
        }
        at += length;
    }
    Ok(at)
}

/// How many octets the incomplete record in `buf` still needs, where its header tells.
pub(super) fn missing(buf: &[u8]) -> Option<usize> {
    length(buf).ok().flatten().map(|length| length.saturating_sub(buf.len()))
}

/// Room enough for `plain` octets as records.
pub(super) fn wire_len_max(plain: usize) -> usize {
    plain + plain.div_ceil(PLAIN_MAX) * OVERHEAD_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_records_are_counted_and_the_rest_is_left() {
        let two = [23, 3, 3, 0, 1, 9, 22, 3, 1, 0, 2, 7, 7];
        for cut in 0..=two.len() {
            let expected = if cut < 6 {
                0
            } else if cut < 13 {
                6
            } else {
                13
            };
            assert_eq!(whole(&two[..cut]), Ok(expected), "cut at {cut}");
        }
        assert_eq!(missing(&two[6..11]), Some(2));
        assert_eq!(missing(&two[6..10]), None);
    }

    #[test]
    fn what_is_not_tls_is_refused_at_the_first_octet_that_shows_it() {
        assert_eq!(whole(b"G"), Err(Malformed));
        assert_eq!(whole(&[22, 2]), Err(Malformed));
        assert_eq!(whole(&[22, 3, 1, 0, 0]), Err(Malformed));
        assert_eq!(whole(&[23, 3, 3, 0, 0]), Ok(5));
        assert_eq!(whole(&[23, 3, 3, 0x48, 0]), Err(Malformed));
        assert_eq!(whole(&[23, 3, 3, 0x47, 0xff]), Ok(0));
    }
}
