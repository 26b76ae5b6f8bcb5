//! Finding ends and forbidden octets quickly.

use crate::error::Error;
use crate::limits::Limit;

/// A refusal of what the peer sent. The client role turns the status into 502.
pub(super) const fn bad(reason: &'static str) -> Error {
    Error { status: 400, code: 0, reason, limit: None }
}

/// A refusal by a limit.
pub(super) const fn over(limit: Limit, status: u16, reason: &'static str) -> Error {
    Error { status, code: 0, reason, limit: Some(limit) }
}

/// RFC 9110 §5.6.2.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut octet = 0;
    while octet < 256 {
        let c = octet as u8;
        table[octet] = c.is_ascii_alphanumeric()
            || matches!(c, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_')
            || matches!(c, b'`' | b'|' | b'~');
        octet += 1;
    }
    table
};

/// How many octets at the front are token characters.
pub(super) fn token_len(input: &[u8]) -> usize {
    let is_token = |octet: &u8| TOKEN[usize::from(*octet)];
    let mut at = 0;
    // Four for one branch.
    while let Some((block, _)) = input[at..].split_first_chunk::<4>() {
        if !block.iter().fold(true, |all, octet| all & is_token(octet)) {
            break;
        }
        at += block.len();
    }
    at + input[at..].iter().take_while(|octet| is_token(octet)).count()
}

/// Whether it is a token: not empty, and nothing else in it.
pub(super) fn is_token(input: &[u8]) -> bool {
    !input.is_empty() && token_len(input) == input.len()
}

/// Whether an octet may stand in a field's value.
const fn is_value(octet: u8) -> bool {
    (octet >= 0x20 && octet != 0x7f) || octet == b'\t'
}

/// How many octets at the front may stand in a field's value (RFC 9110 §5.5): visible ones, SP, HTAB and obs-text; so
/// what comes next, if anything, is a control.
pub(super) fn value_len(input: &[u8]) -> usize {
    let mut at = 0;
    while let Some((block, _)) = input[at..].split_first_chunk::<8>() {
        let controls = controls(u64::from_le_bytes(*block));
        if controls == 0 {
            at += block.len();
            continue;
        }
        at += (controls.trailing_zeros() / 8) as usize;
        if input[at] != b'\t' {
            return at;
        }
        at += 1;
    }
    at + input[at..].iter().position(|&octet| !is_value(octet)).unwrap_or(input.len() - at)
}

/// Where the first of eight octets is that is a control (HTAB, too): the lowest bit set is the top bit of that octet, the least
/// significant octet being the first.
fn controls(octets: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const TOPS: u64 = ONES << 7;
    // Subtracting borrows where the octet was less. A borrow reaches into the octets above it, so that the lowest one found
    // is right and those above it need not be.
    let below_space = octets.wrapping_sub(ONES * 0x20) & !octets;
    let without_delete = octets ^ (ONES * 0x7f);
    let delete = without_delete.wrapping_sub(ONES) & !without_delete;
    (below_space | delete) & TOPS
}

/// Without the white space around it.
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The members of a comma-separated list, empty ones left out (RFC 9110 §5.6.1).
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&octet| octet == b',').map(trim).filter(|member| !member.is_empty())
}

/// The length of the block of lines at the front of `input`, its final empty line included, or `None` while that has not
/// arrived. Octets before `scanned` were looked at by an earlier call.
///
/// # Errors
/// A line that ends in a bare LF; or the block is longer than `max` ([`Limit::HeadBytes`], 431).
pub(super) fn block_len(input: &[u8], scanned: &mut u32, max: usize) -> Result<Option<usize>, Error> {
    let within = &input[..input.len().min(max)];
    let from = (*scanned as usize).min(within.len());
    for found in memchr::memchr_iter(b'\n', &within[from..]) {
        let at = from + found;
        match &within[..at] {
            [b'\r'] | [.., b'\n', b'\r'] => {
                *scanned = 0;
                return Ok(Some(at + 1));
            }
            [.., b'\r'] => {}
            _ => return Err(bad("bare LF")),
        }
    }
    *scanned = within.len() as u32;
    if within.len() < max {
        return Ok(None);
    }
    Err(over(Limit::HeadBytes, 431, "the head or the trailers are too large"))
}

/// The octets of one line at the front of `input` without its CRLF, or `None` while it has not arrived.
///
/// # Errors
/// A bare LF, or a line longer than `max`, which is what `too_long` says.
pub(super) fn line<'i>(
    input: &'i [u8],
    scanned: &mut u32,
    max: usize,
    too_long: Error,
) -> Result<Option<&'i [u8]>, Error> {
    let within = &input[..input.len().min(max.saturating_add(2))];
    let from = (*scanned as usize).min(within.len());
    if let Some(found) = memchr::memchr(b'\n', &within[from..]) {
        *scanned = 0;
        return match &within[..from + found] {
            [line @ .., b'\r'] => Ok(Some(line)),
            _ => Err(bad("bare LF")),
        };
    }
    *scanned = within.len() as u32;
    if within.len() < max.saturating_add(2) { Ok(None) } else { Err(too_long) }
}
