//! The names that this proxy acts on or that HPACK's static table holds, so that both are found by number.

macro_rules! names {
    ($($variant:ident = $text:literal,)*) => {
        /// A field's name, where it is well known.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Name {
            $($variant,)*
            /// Any other name.
            Other,
        }

        impl Name {
            /// Every well-known name, in the order of their numbers.
            pub const ALL: &'static [Name] = &[$(Name::$variant,)*];

            /// The name in lower case; empty for [`Name::Other`].
            pub const fn as_bytes(self) -> &'static [u8] {
                match self {
                    $(Name::$variant => $text.as_bytes(),)*
                    Name::Other => b"",
                }
            }
        }
    };
}

names! {
    Accept = "accept",
    AcceptCharset = "accept-charset",
    AcceptEncoding = "accept-encoding",
    AcceptLanguage = "accept-language",
    AcceptRanges = "accept-ranges",
    AccessControlAllowOrigin = "access-control-allow-origin",
    Age = "age",
    Allow = "allow",
    AltSvc = "alt-svc",
    Authorization = "authorization",
    CacheControl = "cache-control",
    Connection = "connection",
    ContentDisposition = "content-disposition",
    ContentEncoding = "content-encoding",
    ContentLanguage = "content-language",
    ContentLength = "content-length",
    ContentLocation = "content-location",
    ContentRange = "content-range",
    ContentType = "content-type",
    Cookie = "cookie",
    Date = "date",
    ETag = "etag",
    Expect = "expect",
    Expires = "expires",
    Forwarded = "forwarded",
    From = "from",
    Host = "host",
    Http2Settings = "http2-settings",
    IfMatch = "if-match",
    IfModifiedSince = "if-modified-since",
    IfNoneMatch = "if-none-match",
    IfRange = "if-range",
    IfUnmodifiedSince = "if-unmodified-since",
    KeepAlive = "keep-alive",
    LastModified = "last-modified",
    Link = "link",
    Location = "location",
    MaxForwards = "max-forwards",
    Origin = "origin",
    Priority = "priority",
    ProxyAuthenticate = "proxy-authenticate",
    ProxyAuthorization = "proxy-authorization",
    ProxyConnection = "proxy-connection",
    Range = "range",
    Referer = "referer",
    Refresh = "refresh",
    RetryAfter = "retry-after",
    SecWebSocketAccept = "sec-websocket-accept",
    SecWebSocketKey = "sec-websocket-key",
    Server = "server",
    ServerTiming = "server-timing",
    SetCookie = "set-cookie",
    StrictTransportSecurity = "strict-transport-security",
    Te = "te",
    Traceparent = "traceparent",
    Tracestate = "tracestate",
    Trailer = "trailer",
    TransferEncoding = "transfer-encoding",
    Upgrade = "upgrade",
    UserAgent = "user-agent",
    Vary = "vary",
    Via = "via",
    WwwAuthenticate = "www-authenticate",
    XForwardedFor = "x-forwarded-for",
    XForwardedHost = "x-forwarded-host",
    XForwardedPort = "x-forwarded-port",
    XForwardedProto = "x-forwarded-proto",
    XRequestId = "x-request-id",
    // Between our own edges and agents; stripped from whatever clients and applications send.
    SteadyApp = "steady-app",
    SteadyGeneration = "steady-generation",
    SteadyProbe = "steady-probe",
    SteadyRefused = "steady-refused",
    SteadyTiming = "steady-timing",
    SteadyParked = "steady-parked",
}

/// Where the search for a name begins in [`INDEX`]: a cheap mix of its length and three of its octets.
const fn first_place(name: &[u8]) -> usize {
    if name.is_empty() {
        return 0;
    }
    let (first, middle, last) = (name[0] as usize, name[name.len() / 2] as usize, name[name.len() - 1] as usize);
    (name.len() * 97 + first * 2 + middle * 19 + last * 104) % PLACES
}

const PLACES: usize = 256;

/// No well-known name is longer.
const LEN_MAX: usize = 32;

/// The numbers of all names by [`first_place`], each in the first place that is free from there on; [`Name::Other`]'s number
/// where nothing is. Filled to less than half, so that a search is short.
static INDEX: [u8; PLACES] = {
    assert!(Name::ALL.len() * 2 < PLACES);
    let mut index = [Name::Other as u8; PLACES];
    let mut number = 0;
    while number < Name::ALL.len() {
        assert!(Name::ALL[number].as_bytes().len() <= LEN_MAX);
        let mut place = first_place(Name::ALL[number].as_bytes());
        while index[place] != Name::Other as u8 {
            place = (place + 1) % PLACES;
        }
        index[place] = number as u8;
        number += 1;
    }
    index
};

impl Name {
    /// The well-known name that these lower-case octets are.
    pub fn from_bytes(name: &[u8]) -> Name {
        let mut place = first_place(name);
        loop {
            match Name::ALL.get(usize::from(INDEX[place])) {
                None => return Name::Other,
                Some(known) if known.as_bytes() == name => return *known,
                Some(_) => place = (place + 1) % PLACES,
            }
        }
    }

    /// The well-known name that these octets are, in whatever case.
    pub fn from_any_case(name: &[u8]) -> Name {
        // Of a fixed length, so that lowering it is two instructions.
        let mut lower = [0; LEN_MAX];
        let Some(part) = lower.get_mut(..name.len()) else { return Name::Other };
        part.copy_from_slice(name);
        lower.make_ascii_lowercase();
        Name::from_bytes(&lower[..name.len()])
    }

    /// Whether it is one of our own, which no client and no application may send.
    pub fn is_reserved(name: &[u8]) -> bool {
        name.starts_with(b"steady-")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_by_its_octets() {
        for &name in Name::ALL {
            assert_eq!(Name::from_bytes(name.as_bytes()), name);
            assert_eq!(Name::from_any_case(name.as_bytes()), name);
            let capitals = name.as_bytes().to_ascii_uppercase();
            assert_eq!(Name::from_any_case(&capitals), name);
            assert_eq!(Name::from_bytes(&capitals), Name::Other, "only small letters");
        }
        // An octet that differs from a name's in the bit of the case alone, and is no letter.
        assert_eq!(Name::from_any_case(b"etag\x0d"), Name::Other);
        assert_eq!(Name::from_any_case(b"alt\x0dsvc"), Name::Other);
        assert_eq!(Name::from_any_case(b"X-Unknown"), Name::Other);
        assert_eq!(Name::from_bytes(b"x-unknown"), Name::Other);
        assert_eq!(Name::from_bytes(b"\xff"), Name::Other);
        assert_eq!(Name::from_bytes(b""), Name::Other);
        assert_eq!(Name::from_bytes(b"hos"), Name::Other);
    }
}
