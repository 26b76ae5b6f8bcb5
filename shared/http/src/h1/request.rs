//! A request's head.

use super::fields::{Facts, parse_head};
use super::scan::{bad, is_token, list, over, token_len};
use crate::authority::Authority;
use crate::error::Error;
use crate::head::{Head, Method, Name, Scheme, is_carried};
use crate::limits::{Limit, Limits};

/// How the octets after a request's head are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Length(u64),
    Chunked,
    /// Plain CONNECT: a tunnel, if it is granted.
    Connect,
    /// An upgrade, if it is granted.
    Upgrade,
}

/// What a request's head says beyond the canonical head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub http10: bool,
    /// The client means to use the connection further.
    pub keep: bool,
    pub content: Content,
}

/// Parses a whole head, its final empty line included, into `head`.
///
/// # Errors
/// With the status to answer.
pub(super) fn parse(block: &[u8], scheme: Scheme, head: &mut Head, limits: &Limits) -> Result<Request, Error> {
    head.clear();
    head.scheme = scheme;
    let line = Line::parse(block, limits)?;
    head.set_method(line.method);
    let facts = parse_head(line.rest, head, limits)?;
    resolve_target(line.target, line.http10, &facts, head)?;
    let content = content(line.http10, &facts, head)?;
    if facts.te_trailers {
        head.push_known(Name::Te, b"trailers");
    }
    if line.http10 && head.get(Name::Expect).is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue")) {
        // RFC 9110 §10.1.1: to be ignored; and HTTP/1.0 has no interim response to answer with.
        head.remove(Name::Expect);
    }
    let keep = !facts.close && (!line.http10 || facts.keep_alive);
    Ok(Request { http10: line.http10, keep, content })
}

/// The request line, and what follows it.
struct Line<'i> {
    method: &'i [u8],
    target: &'i [u8],
    http10: bool,
    rest: &'i [u8],
}

impl<'i> Line<'i> {
    fn parse(block: &'i [u8], limits: &Limits) -> Result<Line<'i>, Error> {
        let (method, after) = block.split_at(token_len(block));
        let after = match after {
            [b' ', after @ ..] if !method.is_empty() => after,
            _ => return Err(bad("malformed method")),
        };
        // A fragment is never sent; who sees the path end there and who does not would disagree (RFC 9112 §3.2).
        let is_target = |octet: &u8| matches!(octet, 0x21..=0x7e) && *octet != b'#';
        let len = after.iter().position(|octet| !is_target(octet)).unwrap_or(after.len());
        let (target, after) = after.split_at(len);
        if target.len() > limits.target_bytes_max {
            return Err(over(Limit::TargetBytes, 414, "request target too long"));
        }
        let after = match after {
            [b' ', after @ ..] if !target.is_empty() => after,
            _ => return Err(bad("malformed request target")),
        };
        let (http10, rest) = version(after)?;
        match rest {
            [b'\r', b'\n', rest @ ..] => Ok(Line { method, target, http10, rest }),
            _ => Err(bad("malformed request line")),
        }
    }
}

/// Reads `HTTP/1.x`: whether it is 1.0, and what follows.
///
/// # Errors
/// 505 for other versions, 400 for what is none.
pub(super) fn version(input: &[u8]) -> Result<(bool, &[u8]), Error> {
    match input {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor, rest @ ..] => match (major, minor) {
            (b'1', b'1') => Ok((false, rest)),
            (b'1', b'0') => Ok((true, rest)),
            (b'0'..=b'9', b'0'..=b'9') => {
                Err(Error { status: 505, code: 0, reason: "HTTP version other than 1.0 and 1.1", limit: None })
            }
            _ => Err(bad("malformed HTTP version")),
        },
        _ => Err(bad("malformed HTTP version")),
    }
}

/// The four forms of a target (RFC 9112 §3.2) and `Host`, into the head's authority and path.
fn resolve_target(target: &[u8], http10: bool, facts: &Facts<'_>, head: &mut Head) -> Result<(), Error> {
    const DISAGREE: Error = bad("Host and the target's authority differ");
    let host = match facts.host {
        Some(value) => Some((value, Authority::parse(value).ok_or(bad("malformed Host"))?)),
        None if http10 => None,
        None => return Err(bad("no Host")),
    };
    if head.method == Method::Connect {
        let authority = Authority::parse(target).filter(Authority::has_port).ok_or(bad("CONNECT without host:port"))?;
        if host.is_some_and(|(_, host)| !authority.covers(&host)) {
            return Err(DISAGREE);
        }
        head.set_authority(target);
        return Ok(());
    }
    if matches!(target, [b'/', ..]) || (target == b"*" && head.method == Method::Options) {
        head.set_authority(host.map_or(&b""[..], |(value, _)| value));
        head.set_path(target);
        return Ok(());
    }
    let (text, path, default) = absolute(target, head.scheme)?;
    let authority = Authority::parse(text).ok_or(bad("malformed authority in the target"))?;
    if host.is_some_and(|(_, host)| !authority.agrees_with(&host, default)) {
        return Err(DISAGREE);
    }
    head.set_authority(text);
    match path {
        [] if head.method == Method::Options => head.set_path(b"*"),
        [b'/', ..] => head.set_path(path),
        _ => head.set_path_below_root(path),
    }
    Ok(())
}

/// Splits an absolute-form target into authority, path with query, and the scheme's port.
fn absolute(target: &[u8], scheme: Scheme) -> Result<(&[u8], &[u8], u16), Error> {
    let colon = memchr::memmem::find(target, b"://").ok_or(bad("malformed request target"))?;
    let (named, rest) = (&target[..colon], &target[colon + 3..]);
    // A target may not claim the protection that the connection lacks, nor the lack of it (RFC 9110 §7.4).
    if !named.eq_ignore_ascii_case(scheme.as_bytes()) {
        return Err(bad("the target's scheme is not this listener's"));
    }
    let end = rest.iter().position(|octet| matches!(octet, b'/' | b'?')).unwrap_or(rest.len());
    let default = if scheme == Scheme::Https { 443 } else { 80 };
    Ok((&rest[..end], &rest[end..], default))
}

/// The body's framing (RFC 9112 §6.3), or the tunnel that is asked for; completes the head accordingly.
fn content(http10: bool, facts: &Facts<'_>, head: &mut Head) -> Result<Content, Error> {
    if http10 && facts.chunked {
        return Err(bad("Transfer-Encoding in HTTP/1.0"));
    }
    if head.method == Method::Connect {
        // Content of CONNECT has no meaning (RFC 9110 §9.3.6), and tunnel octets must not be taken for it.
        if facts.chunked || facts.content_length.is_some() {
            return Err(bad("CONNECT with content"));
        }
        return Ok(Content::Connect);
    }
    head.content_length = facts.content_length;
    if facts.chunked {
        return Ok(Content::Chunked);
    }
    let length = facts.content_length.unwrap_or(0);
    let may_upgrade = facts.upgrade_nominated && !http10 && head.method == Method::Get && length == 0;
    if let Some(protocol) = facts.upgrade.filter(|_| may_upgrade).and_then(upgrade_protocol) {
        head.method = Method::Connect;
        head.content_length = None;
        if protocol.eq_ignore_ascii_case(b"websocket") {
            head.set_protocol(b"websocket");
            if head.all(Name::SecWebSocketKey).count() > 1 {
                return Err(bad("Sec-WebSocket-Key twice"));
            }
        } else {
            head.set_protocol(protocol);
        }
        return Ok(Content::Upgrade);
    }
    Ok(Content::Length(length))
}

/// The first protocol of an `Upgrade` field that is carried through.
fn upgrade_protocol(value: &[u8]) -> Option<&[u8]> {
    list(value).find(|protocol| {
        let mut parts = protocol.splitn(2, |&octet| octet == b'/');
        is_carried(protocol) && is_token(parts.next().unwrap_or_default()) && parts.next().is_none_or(is_token)
    })
}

/// Whether a 101's `Upgrade` field names the protocol that was asked for.
pub(super) fn names_protocol(value: &[u8], protocol: &[u8]) -> bool {
    list(value).any(|member| member.eq_ignore_ascii_case(protocol))
}
