//! Field lines: into the head what is end to end, into [`Facts`] what concerns this connection alone.

use super::scan::{bad, is_token, list, over, token_len, trim, value_len};
use crate::error::Error;
use crate::head::{Head, Name, parse_length};
use crate::limits::{Limit, Limits};

/// Names that one message may nominate with `Connection` beyond the usual ones.
const NOMINATED_MAX: usize = 16;

/// What a head says about its connection and its framing.
#[derive(Debug, Default)]
pub(super) struct Facts<'i> {
    pub host: Option<&'i [u8]>,
    pub content_length: Option<u64>,
    pub chunked: bool,
    /// `Connection` holds `close`.
    pub close: bool,
    /// `Connection` holds `keep-alive`.
    pub keep_alive: bool,
    /// `Connection` holds `upgrade`.
    pub upgrade_nominated: bool,
    /// The first `Upgrade` field's value.
    pub upgrade: Option<&'i [u8]>,
    /// `TE` holds `trailers`.
    pub te_trailers: bool,
    nominated: [&'i [u8]; NOMINATED_MAX],
    nominated_count: usize,
}

/// Parses the field lines of a head. `block` begins with the first of them and ends with the empty line.
///
/// # Errors
/// Anything malformed, ambiguous or beyond a limit; the status is for the server role.
pub(super) fn parse_head<'i>(block: &'i [u8], head: &mut Head, limits: &Limits) -> Result<Facts<'i>, Error> {
    let mut facts = Facts::default();
    let mut coded = false;
    each(block, limits, |name, value| {
        match head.push_parsed(name, value) {
            Name::Host => {
                if facts.host.replace(value).is_some() {
                    return Err(bad("Host twice"));
                }
            }
            Name::ContentLength => {
                let length = parse_length(value).ok_or(const { bad("malformed Content-Length") })?;
                if facts.content_length.replace(length).is_some() {
                    return Err(bad("Content-Length twice"));
                }
            }
            Name::TransferEncoding => {
                if std::mem::replace(&mut coded, true) {
                    return Err(bad("Transfer-Encoding twice"));
                }
                transfer_encoding(value)?;
                facts.chunked = true;
            }
            Name::Connection => facts.connection(value)?,
            Name::Upgrade => facts.upgrade = facts.upgrade.or(Some(value)),
            Name::Te => facts.te_trailers |= list(value).any(|member| member.eq_ignore_ascii_case(b"trailers")),
            Name::KeepAlive | Name::ProxyConnection | Name::Http2Settings => {}
            _ => return Ok(()),
        }
        head.pop();
        Ok(())
    })?;
    if facts.chunked && facts.content_length.is_some() {
        return Err(bad("Content-Length with Transfer-Encoding"));
    }
    let nominated = &facts.nominated[..facts.nominated_count];
    if !nominated.is_empty() {
        head.retain(|field| !nominated.iter().any(|name| name.eq_ignore_ascii_case(field.name)));
    }
    Ok(facts)
}

/// Parses trailers, and drops those that may not be among them.
///
/// # Errors
/// As [`parse_head`].
pub(super) fn parse_trailers(block: &[u8], head: &mut Head, limits: &Limits) -> Result<(), Error> {
    head.clear();
    each(block, limits, |name, value| {
        if is_forbidden_in_trailers(head.push_parsed(name, value)) {
            head.pop();
        }
        Ok(())
    })
}

/// Walks the lines of a block that [`block_len`](super::scan::block_len) has measured.
fn each<'i>(
    block: &'i [u8],
    limits: &Limits,
    mut take: impl FnMut(&'i [u8], &'i [u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut rest = block;
    let mut count = 0;
    loop {
        let name_len = token_len(rest);
        if name_len == 0 {
            return match rest {
                b"\r\n" => Ok(()),
                [b' ' | b'\t', ..] => Err(bad("folded line, or white space before a name")),
                [b':', ..] => Err(bad("empty field name")),
                [b'\r', ..] => Err(bad("bare CR")),
                _ => Err(bad("malformed field name")),
            };
        }
        let (name, after) = rest.split_at(name_len);
        let after = match after {
            [b':', after @ ..] => after,
            [b' ' | b'\t', ..] => return Err(bad("white space in or after a field name")),
            _ => return Err(bad("malformed field name")),
        };
        let (value, end) = after.split_at(value_len(after));
        rest = match end {
            [b'\r', b'\n', rest @ ..] => rest,
            [b'\r', ..] => return Err(bad("bare CR")),
            _ => return Err(bad("control octet in a field")),
        };
        count += 1;
        if count > limits.fields_max {
            return Err(over(Limit::Fields, 431, "too many fields"));
        }
        take(name, trim(value))?;
    }
}

/// Accepts `chunked` alone. Other codings under a final `chunked` are 501; all else has no length and is 400 (RFC 9112 §6.1, §6.3).
fn transfer_encoding(value: &[u8]) -> Result<(), Error> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let is_chunked = |member: &[u8]| member.eq_ignore_ascii_case(b"chunked");
    let well_formed = value.split(|&octet| octet == b',').map(trim).all(is_token);
    let once = list(value).filter(|member| is_chunked(member)).count() == 1;
    if well_formed && once && list(value).last().is_some_and(is_chunked) {
        return Err(Error { status: 501, code: 0, reason: "transfer coding other than chunked", limit: None });
    }
    Err(bad("malformed Transfer-Encoding"))
}

impl<'i> Facts<'i> {
    /// Takes in a `Connection` field (RFC 9110 §7.6.1).
    fn connection(&mut self, value: &'i [u8]) -> Result<(), Error> {
        for option in list(value) {
            if !is_token(option) {
                return Err(bad("malformed Connection"));
            }
            let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
            if is("close") {
                self.close = true;
            } else if is("keep-alive") {
                self.keep_alive = true;
            } else if is("upgrade") {
                self.upgrade_nominated = true;
            } else if is("host") || is("content-length") || is("transfer-encoding") {
                return Err(bad("Connection nominates a field of framing or routing"));
            } else if !is("te") && !is("http2-settings") {
                let slot = self.nominated.get_mut(self.nominated_count).ok_or(bad("Connection nominates too much"))?;
                *slot = option;
                self.nominated_count += 1;
            }
        }
        Ok(())
    }
}

/// Fields that concern one connection or the message's framing: never among a canonical head's fields, and never written
/// from one.
pub(super) fn is_of_connection(name: Name) -> bool {
    use Name::*;
    matches!(
        name,
        Connection
            | ContentLength
            | Host
            | Http2Settings
            | KeepAlive
            | ProxyConnection
            | Te
            | TransferEncoding
            | Upgrade
    )
}

/// Fields that have no meaning, or a dangerous one, after the body (RFC 9110 §6.5.1): framing, routing, request modifiers,
/// authentication, response control, and what says how to process the content.
pub(super) fn is_forbidden_in_trailers(name: Name) -> bool {
    use Name::*;
    is_of_connection(name)
        || matches!(name, Authorization | ProxyAuthenticate | ProxyAuthorization | WwwAuthenticate | Cookie | SetCookie)
        || matches!(name, CacheControl | Expect | IfMatch | IfModifiedSince | IfNoneMatch | IfRange | IfUnmodifiedSince)
        || matches!(name, MaxForwards | Range | Age | Date | Expires | Location | RetryAfter | Vary)
        || matches!(name, ContentEncoding | ContentRange | ContentType | Trailer)
        || matches!(name, Forwarded | XForwardedFor | XForwardedHost | XForwardedPort | XForwardedProto)
}
