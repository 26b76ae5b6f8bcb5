//! The PROXY protocol's header, versions 1 and 2 (haproxy, `doc/proxy-protocol.txt`): who the client of a balancer before
//! us is.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, CRLF included.
const LINE_MAX: usize = 107;
/// Addresses and extensions of version 2 that are read; more is refused rather than kept.
const V2_BODY_MAX: usize = 2048;

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The client's address; `None` when the header says that there is none to tell (UNKNOWN, LOCAL).
    pub source: Option<SocketAddr>,
    /// Octets that the header takes.
    pub consumed: usize,
}

/// The octets are no PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Reads the header at the front of a connection; `None`: it is not whole.
///
/// # Errors
/// What came is no header, or one against the specification.
pub fn parse(input: &[u8]) -> Result<Option<Header>, Malformed> {
    let compared = input.len().min(SIGNATURE.len());
    if input[..compared] == SIGNATURE[..compared] {
        return if compared < SIGNATURE.len() { Ok(None) } else { parse_v2(input) };
    }
    let compared = input.len().min(6);
    if input[..compared] != b"PROXY "[..compared] {
        return Err(Malformed("neither version of the PROXY header"));
    }
    match input.iter().take(LINE_MAX).position(|&byte| byte == b'\n') {
        Some(end) => parse_v1(&input[..=end]).map(Some),
        None if input.len() >= LINE_MAX => Err(Malformed("the PROXY line is too long")),
        None => Ok(None),
    }
}

fn parse_v1(line: &[u8]) -> Result<Header, Malformed> {
    let consumed = line.len();
    let line = line.strip_suffix(b"\r\n").ok_or(Malformed("the PROXY line must end with CRLF"))?;
    let line = std::str::from_utf8(line).map_err(|_| Malformed("the PROXY line is not ASCII"))?;
    let mut words = line.split(' ').skip(1);
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return Ok(Header { source: None, consumed });
    }
    let mut word = || words.next().ok_or(Malformed("the PROXY line lacks an address or a port"));
    let (source, destination, source_port, destination_port) = (word()?, word()?, word()?, word()?);
    if words.next().is_some() {
        return Err(Malformed("the PROXY line goes on after its ports"));
    }
    let address = |text: &str| -> Result<IpAddr, Malformed> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| Malformed("no IPv4 address")),
            "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| Malformed("no IPv6 address")),
            _ => Err(Malformed("the PROXY line's family is none of TCP4, TCP6 and UNKNOWN")),
        }
    };
    let port = |text: &str| -> Result<u16, Malformed> {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
        if plain { text.parse().map_err(|_| Malformed("no port")) } else { Err(Malformed("no port")) }
    };
    address(destination)?;
    port(destination_port)?;
    Ok(Header { source: Some(SocketAddr::new(address(source)?, port(source_port)?)), consumed })
}

fn parse_v2(input: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some(&[version_command, family, high, low]) = input.get(12..16) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if version_command >> 4 != 2 {
        return Err(Malformed("the PROXY header's version is not 2"));
    }
    if length > V2_BODY_MAX {
        return Err(Malformed("the PROXY header is too long"));
    }
    let Some(body) = input.get(16..16 + length) else { return Ok(None) };
    let consumed = 16 + length;
    let source = match version_command & 0xf {
        0 => None,
        1 => match family {
            0x11 => {
                let fixed: [u8; 12] = prefix(body)?;
                let [a, b, c, d, _, _, _, _, port @ .., _, _] = fixed;
                Some(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes(port)))
            }
            0x21 => {
                let fixed: [u8; 36] = prefix(body)?;
                let mut address = [0; 16];
                address.copy_from_slice(&fixed[..16]);
                let port = u16::from_be_bytes([fixed[32], fixed[33]]);
                Some(SocketAddr::new(Ipv6Addr::from(address).into(), port))
            }
            // Unix sockets and what else there may be: a connection, but no address that we use.
            _ => None,
        },
        _ => return Err(Malformed("the PROXY header's command is neither LOCAL nor PROXY")),
    };
    Ok(Some(Header { source, consumed }))
}

fn prefix<const N: usize>(body: &[u8]) -> Result<[u8; N], Malformed> {
    body.first_chunk().copied().ok_or(Malformed("the PROXY header is too short for its family"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(family: u8, command: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn a_line_of_version_1_tells_the_client() {
        let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nGET /";
        let header = parse(line).unwrap().unwrap();
        assert_eq!(header.source, Some("192.0.2.1:56324".parse().unwrap()));
        assert_eq!(&line[header.consumed..], b"GET /");
        let line = b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n";
        assert_eq!(parse(line).unwrap().unwrap().source, Some("[2001:db8::1]:1".parse().unwrap()));
        assert_eq!(parse(b"PROXY UNKNOWN whatever\r\n").unwrap().unwrap().source, None);
    }

    #[test]
    fn a_block_of_version_2_tells_the_client() {
        let body = [192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 0x04, 0x01, 0xbb, 9, 9];
        let header = parse(&v2(0x11, 1, &body)).unwrap().unwrap();
        assert_eq!(header.source, Some("192.0.2.1:56324".parse().unwrap()));
        assert_eq!(header.consumed, 16 + body.len());
        assert_eq!(parse(&v2(0x11, 0, &body)).unwrap().unwrap().source, None);
    }

    #[test]
    fn every_prefix_of_a_header_asks_for_more() {
        let body = [192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 0x04, 0x01, 0xbb];
        for whole in [v2(0x11, 1, &body), b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n".to_vec()] {
            for end in 0..whole.len() {
                assert_eq!(parse(&whole[..end]), Ok(None), "{end}");
            }
        }
    }

    #[test]
    fn lies_are_refused() {
        for bad in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 192.0.2.1 192.0.2.2 56324\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443 9\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 056 443\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 +56 443\r\n",
            b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 70000 443\r\n",
            b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
            &[b"PROXY "[..].to_vec(), vec![b'x'; 200]].concat(),
            &v2(0x11, 1, &[1, 2, 3]),
            &v2(0x11, 7, &[0; 12]),
        ] {
            assert!(parse(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
