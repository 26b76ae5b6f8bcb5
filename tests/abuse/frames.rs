//! HTTP/2 by hand: frames as an attacker makes them, and what comes back.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use crate::support::PATIENCE;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const ENHANCE_YOUR_CALM: u32 = 0xb;
pub const CANCEL: u32 = 8;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

pub fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

/// A literal without indexing (RFC 7541 §6.2.2), its strings as they are and shorter than 127 octets or encoded as §5.1 says.
pub fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        integer(&mut out, text.len());
        out.extend(text);
    }
    out
}

/// A string's length, without Huffman.
pub fn integer(out: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        return out.push(value as u8);
    }
    out.push(127);
    value -= 127;
    while value >= 128 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The header block of a request for the application of the house.
pub fn block(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let request = [(":method", method), (":scheme", "http"), (":authority", "echo.localhost"), (":path", path)];
    let fields = request.iter().chain(more);
    fields.flat_map(|(name, value)| field(name.as_bytes(), value.as_bytes())).collect()
}

pub fn get(stream: u32, flags: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &block("GET", "/attack", &[]))
}

pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

/// The stream of a round.
pub fn nth(round: u32) -> u32 {
    round * 2 + 1
}

/// What came back in all.
#[derive(Debug)]
pub struct Heard(Vec<u8>);

impl Heard {
    /// Kind, flags, stream and payload.
    pub fn frames(&self) -> Vec<(u8, u8, u32, &[u8])> {
        let mut rest = &self.0[..];
        let mut frames = Vec::new();
        while let [a, b, c, kind, flags, s0, s1, s2, s3, tail @ ..] = rest {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            let Some((payload, after)) = tail.split_at_checked(length) else { break };
            frames.push((*kind, *flags, u32::from_be_bytes([*s0, *s1, *s2, *s3]), payload));
            rest = after;
        }
        frames
    }

    /// The code of the GOAWAY that ended it.
    pub fn goaway(&self) -> Option<u32> {
        let frames = self.frames();
        let (.., payload) = frames.iter().rev().find(|(kind, ..)| *kind == GOAWAY)?;
        Some(u32::from_be_bytes(payload.get(4..8)?.try_into().ok()?))
    }
}

/// A connection over which HTTP/2 has begun.
#[derive(Debug)]
pub struct Attacker {
    stream: TcpStream,
    heard: Vec<u8>,
}

impl Attacker {
    pub fn open(addr: SocketAddr) -> Attacker {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut attacker = Attacker { stream, heard: Vec::new() };
        attacker.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        attacker.say(&frame(SETTINGS, 0, 0, &[]));
        attacker
    }

    /// Whether it could be said.
    pub fn say(&mut self, octets: &[u8]) -> bool {
        self.stream.write_all(octets).is_ok()
    }

    /// Says one round after the other, hearing meanwhile, until the other side ends it.
    pub fn flood(mut self, round: impl Fn(u32) -> Vec<u8>) -> Heard {
        let deadline = Instant::now() + PATIENCE;
        for number in 0.. {
            if !self.say(&round(number)) || self.hear_what_is_there() {
                break;
            }
            assert!(Instant::now() < deadline, "nothing answered {number} rounds");
        }
        self.hear_all()
    }

    /// Takes what has come. Whether the other side has ended it.
    fn hear_what_is_there(&mut self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let mut buffer = [0; 4096];
        let before = self.heard.len();
        let ended = loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => break true,
                Ok(read) => self.heard.extend(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    break self.heard.len() > before && Heard(self.heard.clone()).goaway().is_some();
                }
                Err(_) => break true,
            }
        };
        self.stream.set_nonblocking(false).unwrap();
        ended
    }

    /// Hears until these frames are there, or the end.
    pub fn hear_until(&mut self, is_enough: impl Fn(&[(u8, u8, u32, &[u8])]) -> bool) -> Heard {
        let mut buffer = [0; 4096];
        loop {
            let heard = Heard(self.heard.clone());
            if is_enough(&heard.frames()) {
                return heard;
            }
            match self.stream.read(&mut buffer) {
                Ok(0) | Err(_) => return heard,
                Ok(read) => self.heard.extend(&buffer[..read]),
            }
        }
    }

    /// Everything until the end, be it a reset.
    pub fn hear_all(mut self) -> Heard {
        let _ = self.stream.read_to_end(&mut self.heard);
        Heard(self.heard)
    }
}
