//! Authorities: `Host`, `:authority`, and the authority of a target. Both versions take the same ones, so that a name that
//! one hop reads is the name that the next one reads.

/// A host and, where it was given, a port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Authority<'i> {
    host: &'i [u8],
    port: Option<u16>,
}

/// The octets of a name.
static NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut octet = 0;
    while octet < 256 {
        let c = octet as u8;
        table[octet] = c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b'~');
        octet += 1;
    }
    table
};

impl<'i> Authority<'i> {
    /// Parses `host[:port]`. Stricter than RFC 3986 §3.2: no user, no percent-encoding or sub-delimiters, no empty host or
    /// port. What no name server and no certificate can hold is no name of ours.
    pub fn parse(text: &'i [u8]) -> Option<Authority<'i>> {
        let (host, rest) = match text {
            [b'[', ..] => {
                let (host, rest) = text.split_at(memchr::memchr(b']', text)? + 1);
                let inner = &host[1..host.len() - 1];
                let is_address = |octet: &u8| octet.is_ascii_hexdigit() || matches!(octet, b':' | b'.');
                (host, (inner.len() >= 2 && inner.iter().all(is_address)).then_some(rest)?)
            }
            _ => text.split_at(text.iter().position(|&octet| !NAME[usize::from(octet)]).unwrap_or(text.len())),
        };
        if host.is_empty() {
            return None;
        }
        match rest {
            [] => Some(Authority { host, port: None }),
            [b':', digits @ ..] => Some(Authority { host, port: Some(port(digits)?) }),
            _ => None,
        }
    }

    pub fn has_port(&self) -> bool {
        self.port.is_some()
    }

    /// Whether both name the same place, where an absent port is `default`.
    pub fn agrees_with(&self, other: &Authority<'_>, default: u16) -> bool {
        self.host.eq_ignore_ascii_case(other.host) && self.port.unwrap_or(default) == other.port.unwrap_or(default)
    }

    /// Whether both name the same host, and the same port if `other` has one.
    pub fn covers(&self, other: &Authority<'_>) -> bool {
        self.host.eq_ignore_ascii_case(other.host) && (other.port.is_none() || self.port == other.port)
    }
}

fn port(digits: &[u8]) -> Option<u16> {
    if !(1..=5).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    digits.iter().fold(0u32, |port, digit| port * 10 + u32::from(digit - b'0')).try_into().ok()
}
