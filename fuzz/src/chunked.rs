//! The chunked coding against a decoder of a few lines that was written from RFC 9112 §7.1 alone.

use std::rc::Rc;

use steady_http::h1::Server;
use steady_http::{Event, Limits, Scheme};

use crate::Octets;
use crate::drive::Driven;
use crate::message::Message;

const HEAD: &[u8] = b"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";

/// The first octet: how the rest is cut.
pub fn chunked(data: &[u8]) {
    let mut octets = Octets(data);
    let piece = usize::from(octets.one());
    let input = octets.0;
    let limits = Limits { chunk_line_bytes_max: usize::MAX / 2, head_bytes_max: usize::MAX / 2, ..Limits::default() };
    let mut driven = Driven::new(Server::new(Rc::new(limits), Scheme::Http));
    let mut message = Message::default();
    let mut body = Vec::new();
    driven.hear(&[HEAD, input].concat(), piece, |_, event, head, _| {
        if let Event::Data { data, .. } = event {
            body.extend_from_slice(data);
        }
        message.take(event, head);
    });
    match reference(input) {
        Read::Whole { content, consumed, trailers } => {
            if driven.error.is_some() {
                assert!(trailers || has_odd_extension(input), "refused: {:?}", driven.error);
                return;
            }
            assert!(message.whole);
            assert_eq!(body, content);
            assert_eq!(driven.left(), input.len() - consumed);
        }
        Read::Partial { content } => {
            assert!(!message.whole, "an end that is not there");
            // What is wrong may show before what is missing.
            if driven.error.is_none() {
                assert_eq!(body, content);
            }
        }
        Read::Wrong { content } => {
            assert!(!message.whole, "an end of what is broken");
            assert!(content.starts_with(&body));
        }
    }
}

enum Read {
    Whole { content: Vec<u8>, consumed: usize, trailers: bool },
    Partial { content: Vec<u8> },
    Wrong { content: Vec<u8> },
}

fn reference(input: &[u8]) -> Read {
    let mut content = Vec::new();
    let mut at = 0;
    loop {
        let Some(len) = input[at..].windows(2).position(|pair| pair == b"\r\n") else {
            return Read::Partial { content };
        };
        let line = &input[at..at + len];
        at += len + 2;
        let digits = line.iter().take_while(|octet| octet.is_ascii_hexdigit()).count();
        let size = std::str::from_utf8(&line[..digits]).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
        let (Some(size), true) = (size, line[digits..].is_empty() || line[digits] == b';') else {
            return Read::Wrong { content };
        };
        if size == 0 {
            break;
        }
        let rest = &input[at..];
        if (rest.len() as u64) < size {
            content.extend_from_slice(rest);
            return Read::Partial { content };
        }
        let (data, rest) = rest.split_at(size as usize);
        content.extend_from_slice(data);
        at += data.len();
        match rest {
            [b'\r', b'\n', ..] => at += 2,
            [] | [b'\r'] => return Read::Partial { content },
            _ => return Read::Wrong { content },
        }
    }
    if input[at..].starts_with(b"\r\n") {
        return Read::Whole { content, consumed: at + 2, trailers: false };
    }
    match input[at..].windows(4).position(|four| four == b"\r\n\r\n") {
        Some(len) => Read::Whole { content, consumed: at + len + 4, trailers: true },
        None => Read::Partial { content },
    }
}

/// Extensions hold octets that we refuse and this decoder does not look at, and sizes more digits than any size has.
fn has_odd_extension(input: &[u8]) -> bool {
    let control = |&octet: &u8| (octet < 0x20 && octet != b'\t') || octet == 0x7f;
    let lines = input.split(|&octet| octet == b'\n');
    input.contains(&b';') && input.iter().any(control) || lines.map(<[u8]>::len).any(|len| len > 16)
}
