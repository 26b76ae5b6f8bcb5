//! What the edge tells applications about the client: `X-Forwarded-*`, `Forwarded`, `X-Request-Id`, `traceparent`.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use fastrand::Rng;
use steady_http::{Field, Head, Name, Scheme};

use crate::snapshot::Network;

/// The longest `X-Request-Id` that is taken over from a trusted client.
const REQUEST_ID_MAX: usize = 128;

/// Writes all of them into a request's head, believing what is there only from trusted networks. Takes out what nobody but an
/// edge may say.
pub(super) fn write(head: &mut Head, peer: Option<SocketAddr>, trusted: bool, rng: &mut Rng, scratch: &mut Vec<u8>) {
    head.retain(|field| !is_ours(&field) && (trusted || field.id != Name::XForwardedPort));
    request_id(head, trusted, rng);
    traceparent(head, rng);
    let ip = peer.map(|peer| peer.ip().to_canonical());
    scratch.clear();
    if trusted {
        for earlier in head.all(Name::XForwardedFor) {
            scratch.extend_from_slice(earlier);
            scratch.extend_from_slice(b", ");
        }
    }
    match ip {
        Some(ip) => push_ip(scratch, ip),
        // A unix socket has no address to tell.
        None => scratch.extend_from_slice(b"unknown"),
    }
    head.set(Name::XForwardedFor, scratch);
    if !trusted || head.get(Name::XForwardedProto).is_none() {
        let scheme = head.scheme.as_bytes();
        head.set(Name::XForwardedProto, scheme);
    }
    if !trusted || head.get(Name::XForwardedHost).is_none() {
        scratch.clear();
        scratch.extend_from_slice(head.authority());
        head.set(Name::XForwardedHost, scratch);
    }
    forwarded(head, ip, trusted, scratch);
}

/// A field between edges and agents; or the twin, with underscores, of one that an application believes because an edge wrote it:
/// CGI and what came of it make one variable of both (RFC 3875 §4.1.18).
fn is_ours(field: &Field<'_>) -> bool {
    if field.id != Name::Other || !field.name.contains(&b'_') {
        return Name::is_reserved(field.name);
    }
    let mut dashed = [0; 32];
    let Some(dashed) = dashed.get_mut(..field.name.len()) else { return false };
    dashed.copy_from_slice(field.name);
    dashed.iter_mut().filter(|octet| **octet == b'_').for_each(|octet| *octet = b'-');
    use Name::{Traceparent, Tracestate, XForwardedFor, XForwardedHost, XForwardedPort, XForwardedProto, XRequestId};
    let told = [XForwardedFor, XForwardedHost, XForwardedPort, XForwardedProto, XRequestId, Traceparent, Tracestate];
    Name::is_reserved(dashed) || told.contains(&Name::from_bytes(dashed))
}

/// RFC 7239: an element of our own, behind those of a trusted proxy.
fn forwarded(head: &mut Head, ip: Option<IpAddr>, trusted: bool, scratch: &mut Vec<u8>) {
    scratch.clear();
    if trusted {
        for earlier in head.all(Name::Forwarded) {
            scratch.extend_from_slice(earlier);
            scratch.extend_from_slice(b", ");
        }
    }
    scratch.extend_from_slice(b"for=");
    match ip {
        Some(ip @ IpAddr::V4(_)) => push_ip(scratch, ip),
        Some(ip @ IpAddr::V6(_)) => {
            scratch.extend_from_slice(b"\"[");
            push_ip(scratch, ip);
            scratch.extend_from_slice(b"]\"");
        }
        None => scratch.extend_from_slice(b"unknown"),
    }
    push_host(scratch, head.authority());
    let proto: &[u8] = if head.scheme == Scheme::Https { b";proto=https" } else { b";proto=http" };
    scratch.extend_from_slice(proto);
    head.set(Name::Forwarded, scratch);
}

/// The `host` of an element, quoted where it is no token (RFC 9110 §5.6.2). An authority that quoting would not make safe is
/// left out; routing refuses it anyway.
fn push_host(out: &mut Vec<u8>, authority: &[u8]) {
    if authority.iter().any(|&byte| byte == b'"' || byte == b'\\') {
        return;
    }
    let is_token = authority.iter().all(|&byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    let quote: &[u8] = if is_token { b"" } else { b"\"" };
    for part in [b";host=", quote, authority, quote] {
        out.extend_from_slice(part);
    }
}

fn request_id(head: &mut Head, trusted: bool, rng: &mut Rng) {
    let keep = trusted
        && head.get(Name::XRequestId).is_some_and(|id| {
            (1..=REQUEST_ID_MAX).contains(&id.len())
                && id.iter().all(|&byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        });
    if !keep {
        let mut id = [0; 32];
        hex(&mut id, rng);
        head.set(Name::XRequestId, &id);
    }
}

/// W3C Trace Context: passed on where it is valid, begun where it is not there.
fn traceparent(head: &mut Head, rng: &mut Rng) {
    if head.get(Name::Traceparent).is_some_and(is_traceparent) {
        return;
    }
    head.remove(Name::Tracestate);
    let mut value = *b"00-00000000000000000000000000000000-0000000000000000-00";
    hex(&mut value[3..35], rng);
    hex(&mut value[36..52], rng);
    head.set(Name::Traceparent, &value);
}

fn is_traceparent(value: &[u8]) -> bool {
    let hexes = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    value.len() == 55
        && value[..3] == *b"00-"
        && value[35] == b'-'
        && value[52] == b'-'
        && hexes(&value[3..35])
        && hexes(&value[36..52])
        && hexes(&value[53..])
        && value[3..35].iter().any(|&byte| byte != b'0')
        && value[36..52].iter().any(|&byte| byte != b'0')
}

/// Fills it with random hexadecimal digits, not all zero.
fn hex(out: &mut [u8], rng: &mut Rng) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for chunk in out.chunks_mut(16) {
        let mut bits = rng.u64(1..);
        for digit in chunk {
            *digit = DIGITS[(bits & 15) as usize];
            bits >>= 4;
        }
    }
    if let Some(first) = out.first_mut().filter(|first| **first == b'0') {
        *first = b'1';
    }
}

/// Appends an address; the common kind without the formatting machinery.
pub(super) fn push_ip(out: &mut Vec<u8>, ip: IpAddr) {
    let IpAddr::V4(v4) = ip else {
        // Writing to a vector cannot fail.
        let _ = write!(out, "{ip}");
        return;
    };
    for (at, octet) in v4.octets().into_iter().enumerate() {
        if at > 0 {
            out.push(b'.');
        }
        let mut digits = [0; 20];
        out.extend_from_slice(steady_http::decimal(u64::from(octet), &mut digits));
    }
}

/// Whether the peer's own word about the client is believed.
pub(super) fn is_trusted(peer: Option<SocketAddr>, networks: &[Network]) -> bool {
    peer.is_some_and(|peer| {
        let ip = peer.ip().to_canonical();
        networks.iter().any(|network| network.contains(ip))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(fields: &[(&[u8], &[u8])], trusted: bool) -> Head {
        let mut head = Head::new();
        head.set_authority(b"shop.steady.page");
        for (name, value) in fields {
            head.push(name, value);
        }
        let peer = Some("[::ffff:192.0.2.7]:4000".parse().unwrap());
        write(&mut head, peer, trusted, &mut Rng::with_seed(1), &mut Vec::new());
        head
    }

    #[test]
    fn a_strangers_word_about_himself_is_replaced() {
        let head = told(
            &[
                (b"x-forwarded-for", b"10.0.0.1"),
                (b"x-forwarded-proto", b"https"),
                (b"x-forwarded-host", b"bank"),
                (b"forwarded", b"for=10.0.0.1"),
                (b"x-request-id", b"mine"),
                (b"x-forwarded-port", b"444"),
                (b"x_forwarded_for", b"10.0.0.1"),
                (b"x-forwarded_host", b"bank"),
                (b"x_request_id", b"mine"),
                (b"steady-app", b"bank"),
                (b"steady_app", b"bank"),
                (b"x_own", b"stays"),
            ],
            false,
        );
        let names: Vec<&[u8]> = head.fields().map(|field| field.name).filter(|name| name.contains(&b'_')).collect();
        assert_eq!(names, [b"x_own"]);
        assert_eq!((head.get(Name::XForwardedPort), head.get(Name::SteadyApp)), (None, None));
        assert_eq!(head.get(Name::XForwardedFor), Some(&b"192.0.2.7"[..]));
        assert_eq!(head.get(Name::XForwardedProto), Some(&b"http"[..]));
        assert_eq!(head.get(Name::XForwardedHost), Some(&b"shop.steady.page"[..]));
        assert_eq!(head.get(Name::Forwarded), Some(&b"for=192.0.2.7;host=shop.steady.page;proto=http"[..]));
        assert_ne!(head.get(Name::XRequestId), Some(&b"mine"[..]));
    }

    #[test]
    fn a_trusted_proxy_is_continued() {
        let head = told(
            &[
                (b"x-forwarded-for", b"10.0.0.1"),
                (b"x-forwarded-proto", b"https"),
                (b"forwarded", b"for=10.0.0.1"),
                (b"x-request-id", b"mine"),
                (b"x-forwarded-port", b"444"),
                (b"x_forwarded_for", b"10.0.0.1"),
            ],
            true,
        );
        assert_eq!(head.get(Name::XForwardedPort), Some(&b"444"[..]));
        assert_eq!(head.get_named(b"x_forwarded_for"), None, "which of two would be believed is not ours to say");
        assert_eq!(head.get(Name::XForwardedFor), Some(&b"10.0.0.1, 192.0.2.7"[..]));
        assert_eq!(head.get(Name::XForwardedProto), Some(&b"https"[..]));
        assert_eq!(
            head.get(Name::Forwarded),
            Some(&b"for=10.0.0.1, for=192.0.2.7;host=shop.steady.page;proto=http"[..])
        );
        assert_eq!(head.get(Name::XRequestId), Some(&b"mine"[..]));
    }

    #[test]
    fn what_is_no_token_is_quoted() {
        let told = |peer: &str, authority: &[u8]| {
            let mut head = Head::new();
            head.set_authority(authority);
            write(&mut head, Some(peer.parse().unwrap()), false, &mut Rng::with_seed(1), &mut Vec::new());
            String::from_utf8(head.get(Name::Forwarded).unwrap().to_vec()).unwrap()
        };
        assert_eq!(told("[2001:db8::1]:9", b"a.b:80"), "for=\"[2001:db8::1]\";host=\"a.b:80\";proto=http");
        assert_eq!(told("192.0.2.7:9", b"a\";for=b"), "for=192.0.2.7;proto=http");
    }

    #[test]
    fn a_trace_is_passed_on_when_it_is_valid_and_begun_when_it_is_not() {
        let good = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(told(&[(b"traceparent", good)], false).get(Name::Traceparent), Some(&good[..]));
        let bad: [&[u8]; 3] = [b"", b"00-x", b"00-00000000000000000000000000000000-00f067aa0ba902b7-01"];
        for bad in bad {
            let head = told(&[(b"traceparent", bad), (b"tracestate", b"a=b")], false);
            assert!(is_traceparent(head.get(Name::Traceparent).unwrap()));
            assert_eq!(head.get(Name::Tracestate), None);
        }
    }
}
