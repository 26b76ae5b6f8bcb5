//! The static table (RFC 7541, Appendix A), by number and by name.

use crate::head::Name;

/// What a field is, as a small number: that of its [`Name`], or, above those, a pseudo-field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::h2) struct Which(u8);

impl Which {
    pub(in crate::h2) const AUTHORITY: Which = Which(Name::Other as u8 + 1);
    pub(in crate::h2) const METHOD: Which = Which(Name::Other as u8 + 2);
    pub(in crate::h2) const PATH: Which = Which(Name::Other as u8 + 3);
    pub(in crate::h2) const SCHEME: Which = Which(Name::Other as u8 + 4);
    pub(in crate::h2) const STATUS: Which = Which(Name::Other as u8 + 5);
    pub(in crate::h2) const PROTOCOL: Which = Which(Name::Other as u8 + 6);
    /// Any other name that begins with a colon.
    pub(in crate::h2) const UNKNOWN_PSEUDO: Which = Which(Name::Other as u8 + 7);

    /// How many values [`Which::number`] has.
    pub(in crate::h2) const COUNT: usize = Name::Other as usize + 8;

    /// A field that is not a pseudo-field.
    #[inline]
    pub(in crate::h2) const fn of(name: Name) -> Which {
        Which(name as u8)
    }

    /// The reverse; `None` for pseudo-fields.
    #[inline]
    pub(in crate::h2) fn field(self) -> Option<Name> {
        match Name::ALL.get(usize::from(self.0)) {
            Some(&name) => Some(name),
            None if self == Which::of(Name::Other) => Some(Name::Other),
            None => None,
        }
    }

    /// To index tables by.
    #[inline]
    pub(in crate::h2) const fn number(self) -> usize {
        self.0 as usize
    }

    /// The name, where this says it; empty for [`Name::Other`] and [`Which::UNKNOWN_PSEUDO`].
    #[inline]
    pub(in crate::h2) fn name(self) -> &'static [u8] {
        NAMES[self.number()]
    }

    /// Whether the name is to be looked for elsewhere, see [`Which::name`].
    #[inline]
    pub(in crate::h2) const fn is_unnamed(self) -> bool {
        self.0 == Which::UNKNOWN_PSEUDO.0 || self.0 == Name::Other as u8
    }

    pub(in crate::h2) fn from_name(name: &[u8]) -> Which {
        if name.first() != Some(&b':') {
            return Which::of(Name::from_bytes(name));
        }
        match name {
            b":authority" => Which::AUTHORITY,
            b":method" => Which::METHOD,
            b":path" => Which::PATH,
            b":scheme" => Which::SCHEME,
            b":status" => Which::STATUS,
            b":protocol" => Which::PROTOCOL,
            _ => Which::UNKNOWN_PSEUDO,
        }
    }
}

/// Names by [`Which::number`].
static NAMES: [&[u8]; Which::COUNT] = {
    let mut names: [&[u8]; Which::COUNT] = [b""; Which::COUNT];
    let mut known = 0;
    while known < Name::ALL.len() {
        names[known] = Name::ALL[known].as_bytes();
        known += 1;
    }
    names[Which::AUTHORITY.number()] = b":authority";
    names[Which::METHOD.number()] = b":method";
    names[Which::PATH.number()] = b":path";
    names[Which::SCHEME.number()] = b":scheme";
    names[Which::STATUS.number()] = b":status";
    names[Which::PROTOCOL.number()] = b":protocol";
    names
};

/// Entries of the static table; the dynamic table's indices follow.
pub(super) const STATIC_COUNT: usize = 61;

/// The static table; entry 0 does not exist.
pub(super) static STATICS: [(Which, &[u8]); STATIC_COUNT + 1] = ENTRIES;

const ENTRIES: [(Which, &[u8]); STATIC_COUNT + 1] = {
    [
        (Which::UNKNOWN_PSEUDO, b""),
        (Which::AUTHORITY, b""),
        (Which::METHOD, b"GET"),
        (Which::METHOD, b"POST"),
        (Which::PATH, b"/"),
        (Which::PATH, b"/index.html"),
        (Which::SCHEME, b"http"),
        (Which::SCHEME, b"https"),
        (Which::STATUS, b"200"),
        (Which::STATUS, b"204"),
        (Which::STATUS, b"206"),
        (Which::STATUS, b"304"),
        (Which::STATUS, b"400"),
        (Which::STATUS, b"404"),
        (Which::STATUS, b"500"),
        (Which::of(Name::AcceptCharset), b""),
        (Which::of(Name::AcceptEncoding), b"gzip, deflate"),
        (Which::of(Name::AcceptLanguage), b""),
        (Which::of(Name::AcceptRanges), b""),
        (Which::of(Name::Accept), b""),
        (Which::of(Name::AccessControlAllowOrigin), b""),
        (Which::of(Name::Age), b""),
        (Which::of(Name::Allow), b""),
        (Which::of(Name::Authorization), b""),
        (Which::of(Name::CacheControl), b""),
        (Which::of(Name::ContentDisposition), b""),
        (Which::of(Name::ContentEncoding), b""),
        (Which::of(Name::ContentLanguage), b""),
        (Which::of(Name::ContentLength), b""),
        (Which::of(Name::ContentLocation), b""),
        (Which::of(Name::ContentRange), b""),
        (Which::of(Name::ContentType), b""),
        (Which::of(Name::Cookie), b""),
        (Which::of(Name::Date), b""),
        (Which::of(Name::ETag), b""),
        (Which::of(Name::Expect), b""),
        (Which::of(Name::Expires), b""),
        (Which::of(Name::From), b""),
        (Which::of(Name::Host), b""),
        (Which::of(Name::IfMatch), b""),
        (Which::of(Name::IfModifiedSince), b""),
        (Which::of(Name::IfNoneMatch), b""),
        (Which::of(Name::IfRange), b""),
        (Which::of(Name::IfUnmodifiedSince), b""),
        (Which::of(Name::LastModified), b""),
        (Which::of(Name::Link), b""),
        (Which::of(Name::Location), b""),
        (Which::of(Name::MaxForwards), b""),
        (Which::of(Name::ProxyAuthenticate), b""),
        (Which::of(Name::ProxyAuthorization), b""),
        (Which::of(Name::Range), b""),
        (Which::of(Name::Referer), b""),
        (Which::of(Name::Refresh), b""),
        (Which::of(Name::RetryAfter), b""),
        (Which::of(Name::Server), b""),
        (Which::of(Name::SetCookie), b""),
        (Which::of(Name::StrictTransportSecurity), b""),
        (Which::of(Name::TransferEncoding), b""),
        (Which::of(Name::UserAgent), b""),
        (Which::of(Name::Vary), b""),
        (Which::of(Name::Via), b""),
        (Which::of(Name::WwwAuthenticate), b""),
    ]
};

/// The first static entry with each name ([`Which::number`]); 0 where there is none.
pub(super) static STATIC_NAMES: [u8; Which::COUNT] = {
    let mut names = [0; Which::COUNT];
    let mut index = STATIC_COUNT;
    while index > 0 {
        names[ENTRIES[index].0.number()] = index as u8;
        index -= 1;
    }
    names
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_static_table_is_that_of_appendix_a() {
        for (index, name) in [
            (1, "authority"),
            (15, "accept-charset"),
            (23, "authorization"),
            (28, "content-length"),
            (32, "cookie"),
            (33, "date"),
            (38, "host"),
            (46, "location"),
            (54, "server"),
            (58, "user-agent"),
            (61, "www-authenticate"),
        ] {
            let found = STATICS[index].0.name();
            assert_eq!(found.strip_prefix(b":").unwrap_or(found), name.as_bytes());
        }
        for (index, (which, _)) in STATICS.iter().enumerate().skip(1) {
            assert_eq!(Which::from_name(which.name()), *which, "{index}");
            assert!(STATIC_NAMES[which.number()] as usize <= index);
        }
        assert_eq!(Which::from_name(b":nonsense"), Which::UNKNOWN_PSEUDO);
    }

    #[test]
    fn numbers_are_distinct() {
        let mut seen = [false; Which::COUNT];
        for &name in Name::ALL {
            assert!(!std::mem::replace(&mut seen[Which::of(name).number()], true));
        }
        for (which, _) in &STATICS[..15] {
            seen[which.number()] = true;
        }
        seen[Which::PROTOCOL.number()] = true;
        assert_eq!(seen.iter().filter(|seen| !**seen).count(), 1, "only Other is left");
    }
}
