//! A response's head.

use super::fields::{Facts, parse_head};
use super::request::version;
use super::scan::{bad, value_len};
use crate::error::Error;
use crate::head::Head;
use crate::limits::Limits;

/// What a response's head says beyond the canonical head.
#[derive(Debug)]
pub(super) struct Response<'i> {
    /// The server means to use the connection further.
    pub keep: bool,
    pub facts: Facts<'i>,
}

/// Parses a whole head, its final empty line included, into `head`.
///
/// # Errors
/// Anything malformed, ambiguous or beyond a limit.
pub(super) fn parse<'i>(block: &'i [u8], head: &mut Head, limits: &Limits) -> Result<Response<'i>, Error> {
    head.clear();
    let (http10, after) = version(block)?;
    let (status, after) = match after {
        [b' ', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', after @ ..] => {
            let digit = |octet: &u8| u16::from(octet - b'0');
            (digit(a) * 100 + digit(b) * 10 + digit(c), after)
        }
        _ => return Err(bad("malformed status line")),
    };
    // The space before an empty reason is often left out.
    let after = match after {
        [b' ', reason @ ..] => &reason[value_len(reason)..],
        after => after,
    };
    let [b'\r', b'\n', lines @ ..] = after else { return Err(bad("malformed status line")) };
    head.status = status;
    let facts = parse_head(lines, head, limits)?;
    if http10 && facts.chunked {
        return Err(bad("Transfer-Encoding in HTTP/1.0"));
    }
    head.content_length = facts.content_length;
    let keep = !facts.close && (!http10 || facts.keep_alive);
    Ok(Response { keep, facts })
}
