//! From decoded fields to a canonical head: what RFC 9113 §8 demands of requests, responses and trailers.
//!
//! Fields are checked as they arrive, and the first fault is kept; the block is decoded to its end all the same, because
//! the compression state depends on it. A head over a limit is cut (what follows is decoded and dropped) until it is
//! [`EXCESS`] times over, which ends the connection: decoding for nothing is work that the peer chose.

use crate::authority::Authority;
use crate::head::{Head, Method, Name, Scheme, is_carried, parse_length};
use crate::limits::{Limit, Limits};

use super::hpack::{Fields, HpackError, Marks, Which};

/// How many times `head_bytes_max` one block may decode to before the connection ends instead of the stream.
pub(super) const EXCESS: usize = 4;

/// What a block is to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Response,
    Trailers,
    /// Decoded for the table's sake only.
    Discarded,
}

/// What came of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Fine,
    Malformed(&'static str),
    Over(Limit),
}

const AUTHORITY: u8 = 1;
const METHOD: u8 = 2;
const PATH: u8 = 4;
const SCHEME: u8 = 8;
const STATUS: u8 = 16;
const PROTOCOL: u8 = 32;

/// The names that [`Message::regular`] does more with than keep.
const HANDLED: [Name; 10] = [
    Name::Connection,
    Name::ContentLength,
    Name::Cookie,
    Name::Host,
    Name::Http2Settings,
    Name::KeepAlive,
    Name::ProxyConnection,
    Name::Te,
    Name::TransferEncoding,
    Name::Upgrade,
];

/// One head under construction.
#[derive(Debug)]
pub(super) struct Message<'h> {
    head: &'h mut Head,
    limits: &'h Limits,
    kind: Kind,
    /// The pseudo-fields seen, by the bits above.
    seen: u8,
    /// A field that is not a pseudo-field was seen.
    regular: bool,
    cookies: u32,
    /// Octets as RFC 9113 §10.5.1 counts them.
    octets: usize,
    /// Where the value of `host` is in the arena, and its length.
    host: Option<(usize, usize)>,
    fault: Option<&'static str>,
    over: Option<Limit>,
}

impl<'h> Message<'h> {
    pub(super) fn new(head: &'h mut Head, limits: &'h Limits, kind: Kind) -> Message<'h> {
        head.clear();
        Message {
            head,
            limits,
            kind,
            seen: 0,
            regular: false,
            cookies: 0,
            octets: 0,
            host: None,
            fault: None,
            over: None,
        }
    }

    /// Says whether the head is whole and right. `scheme` is that of requests that name none (CONNECT).
    pub(super) fn finish(mut self, scheme: Scheme) -> Verdict {
        if let Some(limit) = self.over {
            return Verdict::Over(limit);
        }
        if let Some(fault) = self.fault {
            return Verdict::Malformed(fault);
        }
        let whole = match self.kind {
            Kind::Request => self.finish_request(scheme),
            Kind::Response if self.seen & STATUS == 0 => Err("response without :status"),
            Kind::Response | Kind::Trailers | Kind::Discarded => Ok(()),
        };
        match whole {
            Ok(()) => Verdict::Fine,
            Err(fault) => Verdict::Malformed(fault),
        }
    }

    fn finish_request(&mut self, scheme: Scheme) -> Result<(), &'static str> {
        let connect = self.head.is_connect();
        let required = if connect && self.seen & PROTOCOL == 0 {
            if self.seen & (PATH | SCHEME) != 0 {
                return Err("CONNECT with :path or :scheme");
            }
            self.head.scheme = scheme;
            METHOD | AUTHORITY
        } else if connect {
            METHOD | AUTHORITY | PATH | SCHEME
        } else if self.seen & PROTOCOL != 0 {
            return Err(":protocol without CONNECT");
        } else {
            METHOD | PATH | SCHEME
        };
        if self.seen & required != required {
            return Err("request lacks a pseudo-field");
        }
        if let Some((start, len)) = self.host {
            if self.seen & AUTHORITY == 0 {
                self.head.place_authority(start, len);
            } else {
                let default = if self.head.scheme == Scheme::Https { 443 } else { 80 };
                let host = Authority::parse(&self.head.arena()[start..start + len]);
                let own = Authority::parse(self.head.authority());
                if !host.zip(own).is_some_and(|(host, own)| host.agrees_with(&own, default)) {
                    return Err("host differs from :authority");
                }
            }
        } else if self.seen & AUTHORITY == 0 {
            return Err("request without :authority or host");
        }
        if connect {
            if self.seen & PROTOCOL == 0 && !Authority::parse(self.head.authority()).is_some_and(|own| own.has_port()) {
                return Err("CONNECT without a port");
            }
            // A tunnel has no length (RFC 9110 §9.3.6).
            self.head.content_length = None;
        }
        let asterisk = self.head.path() == b"*" && self.head.method == Method::Options;
        if self.seen & PATH != 0 && !self.head.path().starts_with(b"/") && !asterisk {
            return Err(":path is not absolute");
        }
        if self.cookies > 1 {
            self.head.join_cookies();
        }
        Ok(())
    }

    /// Counts one field; `true` when it is to be looked at.
    #[inline]
    fn admit(&mut self, name_len: usize, value_len: usize) -> Result<bool, HpackError> {
        self.octets += name_len + value_len + 32;
        if self.octets > self.limits.head_bytes_max {
            if self.octets > self.limits.head_bytes_max.saturating_mul(EXCESS) {
                return Err(HpackError::TooLarge);
            }
            self.over = self.over.or(Some(Limit::HeadBytes));
        }
        Ok(self.fault.is_none() && self.over.is_none() && self.kind != Kind::Discarded)
    }

    /// A field that is not a pseudo-field; its octets are in the arena.
    fn regular(&mut self, id: Name, start: usize, value: usize, marks: Marks) -> Result<(), &'static str> {
        self.regular = true;
        match id {
            Name::Connection | Name::KeepAlive | Name::ProxyConnection | Name::TransferEncoding | Name::Upgrade => {
                return Err("connection-specific field");
            }
            Name::Http2Settings => return self.drop_from(start),
            Name::ContentLength | Name::Host | Name::Te if self.kind == Kind::Trailers => return self.drop_from(start),
            Name::Te if !self.value(value).eq_ignore_ascii_case(b"trailers") => {
                return Err("te other than trailers");
            }
            // Canonical: HTTP/2 has it in no other case.
            Name::Te => self.head.arena_mut()[value..].make_ascii_lowercase(),
            Name::Host => return self.take_host(value),
            Name::ContentLength => {
                let length = parse_length(self.value(value)).ok_or("content-length is not a number")?;
                if self.head.content_length.is_some_and(|other| other != length) {
                    return Err("content-length twice");
                }
                self.head.content_length = Some(length);
                return self.drop_from(start);
            }
            Name::Cookie => self.cookies += 1,
            _ => {}
        }
        if self.head.field_count() >= self.limits.fields_max {
            self.over = Some(Limit::Fields);
            return self.drop_from(start);
        }
        self.head.place_field(id, start, value);
        if marks.never_indexed {
            self.head.mark_never_indexed();
        }
        Ok(())
    }

    fn value(&mut self, value: usize) -> &[u8] {
        &self.head.arena_mut()[value..]
    }

    fn drop_from(&mut self, start: usize) -> Result<(), &'static str> {
        self.head.arena_mut().truncate(start);
        Ok(())
    }

    fn take_host(&mut self, value: usize) -> Result<(), &'static str> {
        if self.kind != Kind::Request {
            return self.drop_from(value);
        }
        if self.host.is_some() {
            return Err("host twice");
        }
        if Authority::parse(self.value(value)).is_none() {
            return Err("host is not an authority");
        }
        self.host = Some((value, self.value(value).len()));
        Ok(())
    }

    /// Marks a pseudo-field as seen, where it may be.
    fn mark(&mut self, bit: u8) -> Result<(), &'static str> {
        let allowed = match self.kind {
            Kind::Request => AUTHORITY | METHOD | PATH | SCHEME | PROTOCOL,
            Kind::Response => STATUS,
            Kind::Trailers | Kind::Discarded => 0,
        };
        if bit & allowed == 0 {
            return Err("pseudo-field that is unknown or out of place");
        }
        if self.regular {
            return Err("pseudo-field after a field");
        }
        if self.seen & bit != 0 {
            return Err("pseudo-field twice");
        }
        self.seen |= bit;
        Ok(())
    }

    /// A pseudo-field; its value is the arena from `value` on.
    fn pseudo(&mut self, which: Which, value: usize) -> Result<(), &'static str> {
        self.mark(bit(which))?;
        let text = self.value(value);
        match which {
            Which::METHOD => {
                if text.is_empty() || !text.iter().all(|&octet| is_token(octet)) {
                    return Err(":method is not a token");
                }
                self.head.place_method(value);
            }
            Which::SCHEME => {
                let scheme = match () {
                    () if text.eq_ignore_ascii_case(b"https") => Scheme::Https,
                    () if text.eq_ignore_ascii_case(b"http") => Scheme::Http,
                    () => return Err(":scheme is neither http nor https"),
                };
                self.head.scheme = scheme;
                self.head.arena_mut().truncate(value);
            }
            Which::PATH => {
                if has_foreign_octet(text) {
                    return Err(":path has an octet that no target has");
                }
                if text.len() > self.limits.target_bytes_max {
                    self.over = Some(Limit::TargetBytes);
                    return self.drop_from(value);
                }
                self.head.place_path(value);
            }
            Which::AUTHORITY => {
                if Authority::parse(text).is_none() {
                    return Err(":authority is not an authority");
                }
                let len = text.len();
                self.head.place_authority(value, len);
            }
            Which::PROTOCOL => {
                // As in `Upgrade` (RFC 9110 §7.8): what HTTP/1.1 behind us reads as no protocol is none here.
                let is_part = |part: &[u8]| !part.is_empty() && part.iter().all(|&octet| is_token(octet));
                if !text.splitn(2, |&octet| octet == b'/').all(is_part) {
                    return Err(":protocol is not a token, nor a token and a version");
                }
                if !is_carried(text) {
                    return Err(":protocol is another HTTP, or TLS");
                }
                // As HTTP/1.1's codec has it: a protocol's name is compared in any case (RFC 9110 §7.8).
                if text.eq_ignore_ascii_case(b"websocket") {
                    self.head.arena_mut()[value..].make_ascii_lowercase();
                }
                self.head.place_protocol(value);
            }
            Which::STATUS => {
                self.head.status = parse_status(text).ok_or(":status is not a status")?;
                self.head.arena_mut().truncate(value);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Fields for Message<'_> {
    fn arena(&mut self) -> &mut Vec<u8> {
        self.head.arena_mut()
    }

    #[inline]
    fn field(&mut self, which: Which, start: usize, value: usize, marks: Marks) -> Result<(), HpackError> {
        let name_len = if which.is_unnamed() { value - start } else { which.name().len() };
        let value_len = self.head.arena_mut().len() - value;
        if !self.admit(name_len, value_len)? {
            self.head.arena_mut().truncate(start);
            return Ok(());
        }
        let checked = match which.field() {
            _ if marks.bad => Err("field has a forbidden octet"),
            Some(id) => self.regular(id, start, value, marks),
            None => self.pseudo(which, value),
        };
        if let Err(fault) = checked {
            self.fault = Some(fault);
            self.head.arena_mut().truncate(start);
        }
        Ok(())
    }

    #[inline]
    fn static_field(&mut self, which: Which, text: &'static [u8]) -> Result<(), HpackError> {
        if !matches!(which, Which::METHOD | Which::SCHEME | Which::STATUS) {
            let start = self.head.arena_mut().len();
            self.head.arena_mut().extend_from_slice(text);
            return self.field(which, start, start, Marks::default());
        }
        // The most frequent fields of all; what the table says needs no check.
        if !self.admit(which.name().len(), text.len())? {
            return Ok(());
        }
        if let Err(fault) = self.mark(bit(which)) {
            self.fault = Some(fault);
            return Ok(());
        }
        match which {
            Which::METHOD => self.head.method = Method::from_bytes(text),
            Which::SCHEME => self.head.scheme = if text == b"https" { Scheme::Https } else { Scheme::Http },
            _ => self.head.status = parse_status(text).unwrap_or(0),
        }
        Ok(())
    }

    #[inline]
    fn plain_field(&mut self, which: Which, octets: &[u8], name_len: usize) -> Result<(), HpackError> {
        if !self.admit(name_len, octets.len() - name_len)? {
            return Ok(());
        }
        self.regular = true;
        if self.head.field_count() >= self.limits.fields_max {
            self.over = Some(Limit::Fields);
            return Ok(());
        }
        let Some(id) = which.field() else { return Ok(()) };
        let arena = self.head.arena_mut();
        let start = arena.len();
        // A name that the number says is not stored.
        let from = if id == Name::Other { 0 } else { name_len };
        arena.extend_from_slice(&octets[from..]);
        self.head.place_field(id, start, start + name_len - from);
        Ok(())
    }

    fn is_plain(which: Which) -> bool {
        which.field().is_some_and(|id| !HANDLED.contains(&id))
    }

    fn is_bad(name: &[u8], value: &[u8]) -> bool {
        is_bad_value(value) || (!name.is_empty() && name[0] != b':' && !name.iter().all(|&octet| is_name(octet)))
    }
}

fn bit(which: Which) -> u8 {
    match which {
        Which::AUTHORITY => AUTHORITY,
        Which::METHOD => METHOD,
        Which::PATH => PATH,
        Which::SCHEME => SCHEME,
        Which::STATUS => STATUS,
        Which::PROTOCOL => PROTOCOL,
        _ => 0,
    }
}

/// Control octets other than tab, or white space at either end (RFC 9113 §8.2.1, and RFC 9110 §5.5 for the rest).
fn is_bad_value(value: &[u8]) -> bool {
    let white = |octet: Option<&u8>| matches!(octet, Some(b' ' | b'\t'));
    white(value.first())
        || white(value.last())
        // Without a branch in it, so that it runs over many octets at once.
        || value.iter().fold(false, |bad, &octet| bad | ((octet < b' ') & (octet != b'\t')) | (octet == 0x7f))
}

fn has_foreign_octet(text: &[u8]) -> bool {
    // As above.
    text.iter().fold(false, |bad, &octet| bad | (octet <= b' ') | (octet == 0x7f) | (octet == b'#'))
}

const TOKEN: u8 = 1;
const NAME: u8 = 2;

/// What each octet may be part of.
static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut octet = 0x21;
    while octet < 0x7f {
        let byte = octet as u8;
        let token = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        if token {
            classes[octet] |= TOKEN;
        }
        if token && !byte.is_ascii_uppercase() {
            classes[octet] |= NAME;
        }
        octet += 1;
    }
    classes
};

fn is_token(octet: u8) -> bool {
    CLASSES[usize::from(octet)] & TOKEN != 0
}

fn is_name(octet: u8) -> bool {
    CLASSES[usize::from(octet)] & NAME != 0
}

fn parse_status(text: &[u8]) -> Option<u16> {
    let [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] = text else { return None };
    Some(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
}
