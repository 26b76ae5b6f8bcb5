//! The incoming side of a message after its head.

use super::fields::parse_trailers;
use super::scan::{bad, block_len, line, over};
use crate::error::Error;
use crate::head::Head;
use crate::limits::{Limit, Limits};

/// What is still to come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Body {
    /// Nothing.
    #[default]
    Ended,
    /// This many octets, at least one.
    Length(u64),
    /// A chunk's size line.
    ChunkLine,
    /// This many octets of a chunk, at least one.
    Chunk(u64),
    /// The CRLF after a chunk's octets.
    ChunkEnd,
    /// Trailers, or the empty line.
    Trailers,
    /// Whatever comes until the peer closes.
    UntilClose,
    /// A tunnel has been asked for and not granted: nothing is read.
    Held,
    /// A tunnel.
    Tunnel,
}

/// What [`Body::receive`] found, at the front of its input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'i> {
    /// Nothing to report; `consumed` octets are done with.
    Nothing {
        consumed: usize,
    },
    Data {
        consumed: usize,
        data: &'i [u8],
        end: bool,
    },
    /// The trailers are in the head. The body has ended.
    Trailers {
        consumed: usize,
    },
}

impl Body {
    pub fn of_length(length: u64) -> Body {
        if length == 0 { Body::Ended } else { Body::Length(length) }
    }

    /// Reads up to the next octets of content, or the end.
    ///
    /// # Errors
    /// Broken chunk framing, bad trailers, or a limit.
    pub fn receive<'i>(
        &mut self,
        input: &'i [u8],
        scanned: &mut u32,
        head: &mut Head,
        limits: &Limits,
    ) -> Result<Piece<'i>, Error> {
        let mut consumed = 0;
        loop {
            let rest = &input[consumed..];
            match *self {
                Body::Ended | Body::Held => return Ok(Piece::Nothing { consumed }),
                Body::UntilClose | Body::Tunnel if rest.is_empty() => return Ok(Piece::Nothing { consumed }),
                Body::UntilClose | Body::Tunnel => {
                    return Ok(Piece::Data { consumed: input.len(), data: rest, end: false });
                }
                Body::Length(_) | Body::Chunk(_) if rest.is_empty() => return Ok(Piece::Nothing { consumed }),
                Body::Length(left) => {
                    let data = prefix(rest, left);
                    *self = Body::of_length(left - data.len() as u64);
                    let end = *self == Body::Ended;
                    return Ok(Piece::Data { consumed: consumed + data.len(), data, end });
                }
                Body::Chunk(left) => {
                    let data = prefix(rest, left);
                    consumed += data.len();
                    let left = left - data.len() as u64;
                    *self = if left == 0 { Body::ChunkEnd } else { Body::Chunk(left) };
                    // The common end is taken along, so that the last octets and the end are one event.
                    let end = left == 0 && input[consumed..].starts_with(b"\r\n0\r\n\r\n");
                    if end {
                        consumed += 7;
                        *self = Body::Ended;
                    }
                    return Ok(Piece::Data { consumed, data, end });
                }
                Body::ChunkEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        consumed += 2;
                        *self = Body::ChunkLine;
                    }
                    [] | [b'\r'] => return Ok(Piece::Nothing { consumed }),
                    _ => return Err(bad("a chunk is longer than its size")),
                },
                Body::ChunkLine => {
                    const TOO_LONG: Error = over(Limit::ChunkLine, 400, "a chunk's size line is too long");
                    let Some(text) = line(rest, scanned, limits.chunk_line_bytes_max, TOO_LONG)? else {
                        return Ok(Piece::Nothing { consumed });
                    };
                    consumed += text.len() + 2;
                    *self = match chunk_size(text)? {
                        0 => Body::Trailers,
                        size => Body::Chunk(size),
                    };
                }
                Body::Trailers => {
                    let Some(len) = block_len(rest, scanned, limits.head_bytes_max)? else {
                        return Ok(Piece::Nothing { consumed });
                    };
                    *self = Body::Ended;
                    consumed += len;
                    if len == 2 {
                        return Ok(Piece::Data { consumed, data: &[], end: true });
                    }
                    parse_trailers(&rest[..len], head, limits)?;
                    return Ok(Piece::Trailers { consumed });
                }
            }
        }
    }
}

fn prefix(input: &[u8], len: u64) -> &[u8] {
    &input[..usize::try_from(len).unwrap_or(usize::MAX).min(input.len())]
}

/// Reads a chunk's size line (RFC 9112 §7.1): hexadecimal digits, then nothing or `;` and extensions, which are dropped. White
/// space before the `;` is refused though the grammar's BWS allows it: recipients disagree about it.
fn chunk_size(line: &[u8]) -> Result<u64, Error> {
    let len = line.iter().position(|octet| !octet.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, extensions) = line.split_at(len);
    if digits.is_empty() {
        return Err(bad("malformed chunk size"));
    }
    if digits.len() > 16 {
        return Err(bad("chunk size too large"));
    }
    if !extensions.is_empty() && (extensions[0] != b';' || super::scan::value_len(extensions) != extensions.len()) {
        return Err(bad("malformed chunk extension"));
    }
    Ok(digits.iter().fold(0, |size, &digit| size << 4 | u64::from(hex_digit(digit))))
}

/// The value of an octet that is a hexadecimal digit.
fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}
