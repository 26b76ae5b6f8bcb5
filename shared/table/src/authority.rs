//! The authority of a request (RFC 9110 §4.2, RFC 3986 §3.2), reduced to the host name that a table knows: lower case, no
//! port, no trailing dot. No allocation: the name is written to a buffer of the caller.

use crate::name::HOST_NAME_MAX;

const LABEL_MAX: usize = 63;

/// Room for any host name.
pub(crate) type NameBuf = [u8; 256];

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Authority<'b> {
    /// A host name, and the length of its first label when it has more than one.
    Name { host: &'b [u8], first: Option<usize> },
    /// An IPv6 (or later) address in brackets.
    Literal,
    /// Not an authority: user information, a character that no host name has, an empty label, something too long, a port
    /// that is none.
    Bad,
}

/// What each byte of a host name becomes; 0 for those that none has.
const LOWER: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        if b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b == b'.' {
            table[byte] = b.to_ascii_lowercase();
        }
        byte += 1;
    }
    table
};

pub(crate) fn parse<'b>(authority: &[u8], buf: &'b mut NameBuf) -> Authority<'b> {
    if authority.first() == Some(&b'[') {
        return literal(authority);
    }
    let mut len = 0;
    let mut label_from = 0;
    let mut first = None;
    for byte in authority {
        let lower = LOWER[usize::from(*byte)];
        if lower == 0 {
            if *byte == b':' && is_port(&authority[len + 1..]) {
                break;
            }
            return Authority::Bad;
        }
        if len > HOST_NAME_MAX {
            return Authority::Bad;
        }
        if lower == b'.' {
            if !(1..=LABEL_MAX).contains(&(len - label_from)) {
                return Authority::Bad;
            }
            first = first.or(Some(len));
            label_from = len + 1;
        }
        buf[len] = lower;
        len += 1;
    }
    if label_from == len && len > 0 {
        // One trailing dot: the name is absolute. Every dot before it closed a label of at least one byte.
        len -= 1;
        first = first.filter(|dot| *dot < len);
    } else if len - label_from > LABEL_MAX {
        return Authority::Bad;
    }
    if len == 0 || len > HOST_NAME_MAX {
        return Authority::Bad;
    }
    Authority::Name { host: &buf[..len], first }
}

/// The authority less the port that it ends with; as it is when it ends with none. (An address in brackets is no name with a
/// port either way.)
pub(crate) fn without_port(authority: &[u8]) -> &[u8] {
    let digits = authority.iter().rev().take(5).take_while(|byte| byte.is_ascii_digit()).count();
    match authority[..authority.len() - digits].split_last() {
        Some((b':', host)) if is_port(&authority[authority.len() - digits..]) => host,
        _ => authority,
    }
}

/// RFC 3986 allows an empty port; a number must be one of TCP.
fn is_port(text: &[u8]) -> bool {
    text.len() <= 5
        && text.iter().all(u8::is_ascii_digit)
        && text.iter().fold(0u32, |n, digit| n * 10 + u32::from(digit - b'0')) <= 65_535
}

fn literal(authority: &[u8]) -> Authority<'static> {
    let Some(end) = authority.iter().position(|b| *b == b']') else { return Authority::Bad };
    let address = std::str::from_utf8(&authority[1..end]).ok().and_then(|a| a.parse::<std::net::Ipv6Addr>().ok());
    let after = &authority[end + 1..];
    let port = after.is_empty() || (after[0] == b':' && is_port(&after[1..]));
    if address.is_some() && port { Authority::Literal } else { Authority::Bad }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(authority: &str) -> Option<(String, Option<usize>)> {
        match parse(authority.as_bytes(), &mut [0; 256]) {
            Authority::Name { host, first } => Some((String::from_utf8(host.to_vec()).unwrap(), first)),
            _ => None,
        }
    }

    #[test]
    fn case_port_and_one_trailing_dot_do_not_matter() {
        for text in [
            "shop.steady.page",
            "SHOP.Steady.Page",
            "shop.steady.page.",
            "shop.steady.page:8080",
            "shop.steady.page.:",
            "shop.steady.page:65535",
        ] {
            assert_eq!(name(text), Some(("shop.steady.page".into(), Some(4))), "{text}");
        }
        assert_eq!(name("localhost."), Some(("localhost".into(), None)));
        assert_eq!(name("a_b-c.x"), Some(("a_b-c.x".into(), Some(5))));
    }

    #[test]
    fn what_is_no_authority_is_bad() {
        let long_label = format!("{}.x", "a".repeat(64));
        let last_label = format!("x.{}", "a".repeat(64));
        let long = format!("{}aaaa", "a.".repeat(125));
        for text in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a..",
            ":80",
            "a:b",
            "a:1:2",
            "a:65536",
            "a:000080",
            "user@a",
            "a/b",
            "a b",
            "a\0",
            "ä.de",
            "a%41",
            "a,b",
            "[::1",
            "[::1]x",
            "[::1]:x",
            "[]",
            "[v1.a]",
            "[fe80::1%25lo]",
            &long_label,
            &last_label,
            &long,
        ] {
            assert_eq!(parse(text.as_bytes(), &mut [0; 256]), Authority::Bad, "{text:?}");
        }
    }

    #[test]
    fn the_longest_name_passes_with_a_dot_and_a_port() {
        let long = format!("{}aaa", "a.".repeat(125));
        assert_eq!(long.len(), 253);
        assert_eq!(name(&format!("{long}.:65535")), Some((long, Some(1))));
        assert_eq!(name(&format!("{}.x", "a".repeat(63))).unwrap().1, Some(63));
    }

    #[test]
    fn an_address_in_brackets_is_a_literal() {
        for text in ["[::1]", "[::1]:80", "[2001:DB8::1]:"] {
            assert_eq!(parse(text.as_bytes(), &mut [0; 256]), Authority::Literal, "{text}");
        }
    }
}
