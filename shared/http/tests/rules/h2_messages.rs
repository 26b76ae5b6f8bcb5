//! RFC 9113 §8 and RFC 8441: requests in frames.

use steady_http::error::code::*;
use steady_http::{Codec, Limits};

use crate::support::*;

type Fields<'f> = &'f [(&'f str, &'f str)];

const POST: Fields = &[(":method", "POST"), (":scheme", "https"), (":authority", "a.example"), (":path", "/")];
const CONNECT: Fields = &[(":method", "CONNECT"), (":authority", "a.example:443")];
const WEBSOCKET: Fields = &[
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "https"),
    (":authority", "a.example"),
    (":path", "/chat"),
];

fn plain() -> End<steady_http::h2::Server> {
    server(Limits::default())
}

fn hear(flags: u8, fields: Fields<'_>) -> Vec<Seen> {
    plain().hear(&frame(HEADERS, EH | flags, 1, &block(fields))).unwrap()
}

#[track_caller]
fn taken(fields: Fields<'_>) -> String {
    match &hear(ES, fields)[..] {
        [Seen::Head { text, .. }] => text.clone(),
        other => panic!("{fields:?}: {other:?}"),
    }
}

/// §8.1.1: a stream error PROTOCOL_ERROR, and nothing else is touched.
#[track_caller]
fn malformed(fields: Fields<'_>) {
    let mut end = plain();
    let seen = end.hear(&[frame(HEADERS, EH | ES, 1, &block(fields)), get(3, ES, &[])].concat()).unwrap();
    let right =
        matches!(&seen[..], [Seen::Reset { id: 1, reset }, Seen::Head { id: 3, .. }] if reset.code == PROTOCOL_ERROR);
    assert!(right, "{fields:?}: {seen:?}");
}

fn with<'f>(base: Fields<'f>, more: Fields<'f>) -> Vec<(&'f str, &'f str)> {
    [base, more].concat()
}

fn without<'f>(base: Fields<'f>, name: &str) -> Vec<(&'f str, &'f str)> {
    base.iter().copied().filter(|(it, _)| *it != name).collect()
}

fn changed<'f>(base: Fields<'f>, name: &str, value: &'f str) -> Vec<(&'f str, &'f str)> {
    base.iter().map(|&(it, old)| (it, if it == name { value } else { old })).collect()
}

#[test]
fn rfc_9113_8_1_a_message_is_a_head_its_data_and_trailers_that_end_the_stream() {
    let mut end = plain();
    let trailers = frame(HEADERS, EH | ES, 1, &block(&[("x-sum", "1")]));
    let octets = [frame(HEADERS, EH, 1, &block(POST)), frame(DATA, 0, 1, b"body"), trailers].concat();
    let seen = end.hear(&octets).unwrap();
    let whole =
        matches!(&seen[..], [Seen::Head { .. }, Seen::Data { .. }, Seen::Trailers { text, .. }] if text == "x-sum=1");
    assert!(whole, "{seen:?}");
}

#[test]
fn rfc_9113_8_1_trailers_that_do_not_end_the_stream_are_malformed() {
    let mut end = plain();
    let trailers = frame(HEADERS, EH, 1, &block(&[("x-sum", "1")]));
    let seen = end.hear(&[frame(HEADERS, EH, 1, &block(POST)), trailers].concat()).unwrap();
    assert!(matches!(&seen[1..], [Seen::Reset { reset, .. }] if reset.code == PROTOCOL_ERROR), "{seen:?}");
}

#[test]
fn rfc_9113_8_1_1_a_body_is_as_long_as_content_length_says() {
    for (length, data, end_with, fine) in [
        ("4", &b"body"[..], ES, true),
        ("3", b"body", ES, false),
        ("5", b"body", ES, false),
        ("5", b"body", 0, true), // More may come.
        ("3", b"body", 0, false),
        ("0", b"", ES, true),
    ] {
        let mut end = plain();
        end.hear(&frame(HEADERS, EH, 1, &block(&with(POST, &[("content-length", length)])))).unwrap();
        let seen = end.hear(&frame(DATA, end_with, 1, data)).unwrap();
        assert_eq!(matches!(seen[..], [Seen::Data { .. }]), fine, "{length}: {seen:?}");
    }
    assert!(matches!(hear(ES, &with(POST, &[("content-length", "1")]))[..], [Seen::Reset { .. }]));
    let mut end = plain();
    end.hear(&frame(HEADERS, EH, 1, &block(&with(POST, &[("content-length", "5")])))).unwrap();
    let trailers = frame(HEADERS, EH | ES, 1, &block(&[("x-sum", "1")]));
    assert!(matches!(end.hear(&trailers).unwrap()[..], [Seen::Reset { .. }]), "trailers end it as well");
}

#[test]
fn rfc_9113_8_2_names_are_lower_case() {
    for name in ["X-Upper", "x-uppeR", "Host"] {
        malformed(&with(POST, &[(name, "a")]));
    }
}

#[test]
fn rfc_9113_8_2_1_names_and_values_have_no_octet_that_could_frame_anything() {
    for octet in (0u8..=0x20).chain(b'A'..=b'Z').chain(0x7f..=0xff).chain([b':']) {
        let name = [b"x", &[octet][..], b"x"].concat();
        let mut fields: Vec<(Vec<u8>, Vec<u8>)> =
            POST.iter().map(|(n, v)| (n.as_bytes().into(), v.as_bytes().into())).collect();
        fields.push((name, b"a".to_vec()));
        let seen = plain().hear(&frame(HEADERS, EH | ES, 1, &block(&fields))).unwrap();
        assert!(
            matches!(&seen[..], [Seen::Reset { reset, .. }] if reset.code == PROTOCOL_ERROR),
            "{octet:#x}: {seen:?}"
        );
    }
    for value in ["a\0b", "a\rb", "a\nb", "a\r\nx: b", "a\r\n\r\nGET / HTTP/1.1\r\n", " a", "a ", "\ta", "a\t"] {
        malformed(&with(POST, &[("x", value)]));
    }
    malformed(&with(POST, &[("", "a")]));
    assert!(taken(&with(POST, &[("x", ""), ("y", "a \t b"), ("z", "caf\u{e9}")])).contains("|x=|y=a \t b|"));
}

#[test]
fn rfc_9113_8_2_2_fields_of_a_connection_are_malformed_and_te_says_trailers_or_nothing() {
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
        malformed(&with(POST, &[(name, "x")]));
    }
    for value in ["gzip", "trailers, gzip", "", "trailers;q=1"] {
        malformed(&with(POST, &[("te", value)]));
    }
    for same in ["trailers", "Trailers"] {
        assert!(taken(&with(POST, &[("te", same)])).ends_with("|te=trailers"));
    }
}

#[test]
fn rfc_9113_8_2_3_crumbs_of_a_cookie_are_one_cookie_again() {
    let text = taken(&with(POST, &[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", "c=3")]));
    assert!(text.ends_with("|cookie=a=1; b=2; c=3|x=y"), "{text}");
    // Joined with white space at its end it would be malformed on the next hop (§8.2.1).
    let text =
        taken(&with(POST, &[("cookie", ""), ("cookie", "a=1"), ("cookie", ""), ("cookie", "b=2"), ("cookie", "")]));
    assert!(text.ends_with("|cookie=a=1; b=2"), "{text}");
    assert!(taken(&with(POST, &[("cookie", ""), ("cookie", "")])).ends_with("|cookie="));
}

#[test]
fn rfc_9113_8_3_pseudo_fields_are_known_come_first_and_once() {
    malformed(&with(POST, &[(":unknown", "x")]));
    malformed(&with(POST, &[(":status", "200")]));
    for name in [":method", ":scheme", ":authority", ":path"] {
        let value = POST.iter().find(|(it, _)| *it == name).unwrap().1;
        malformed(&with(POST, &[(name, value)]));
        malformed(&with(&with(&without(POST, name), &[("x", "y")]), &[(name, value)]));
    }
    let mut end = plain();
    let trailers = frame(HEADERS, EH | ES, 1, &block(&[(":path", "/")]));
    let seen = end.hear(&[frame(HEADERS, EH, 1, &block(POST)), trailers].concat()).unwrap();
    assert!(matches!(seen[1..], [Seen::Reset { .. }]), "{seen:?}");
}

#[test]
fn rfc_9113_8_3_1_method_scheme_and_path_are_there_and_not_empty() {
    for name in [":method", ":scheme", ":path"] {
        malformed(&without(POST, name));
        malformed(&changed(POST, name, ""));
    }
    for path in ["x", "?q", "http://a.example/", "*", "/a b", "/a\r\nb", "/a#b", "/\u{7f}"] {
        malformed(&changed(POST, ":path", path));
    }
    assert!(taken(&changed(&changed(POST, ":path", "*"), ":method", "OPTIONS")).ends_with(" *"));
    for method in ["GE T", "GET ", "G\rT", "GET/", "\u{e9}"] {
        malformed(&changed(POST, ":method", method));
    }
}

#[test]
fn rfc_9113_8_3_1_the_authority_has_no_user_and_is_a_name_or_an_address_with_an_optional_port() {
    for wrong in
        ["user@a.example", "user:pw@a.example", "a b", "a/b", "a\r\nb", "a.example:80:80", "a,b", "a:x", "[::1", ""]
    {
        malformed(&changed(POST, ":authority", wrong));
    }
    for right in ["a.example", "A.example:8443", "127.0.0.1:1", "[::1]:443", "[2001:db8::1]"] {
        assert!(taken(&changed(POST, ":authority", right)).contains(right));
    }
}

#[test]
fn rfc_9113_8_3_1_host_stands_in_for_the_authority_and_must_agree_with_it_once_both_are_normal() {
    let bare = without(POST, ":authority");
    malformed(&bare);
    assert_eq!(taken(&with(&bare, &[("host", "b.example")])), "POST Https b.example /");
    for same in ["a.example", "A.EXAMPLE", "a.example:443"] {
        assert_eq!(taken(&with(POST, &[("host", same)])), "POST Https a.example /", "{same}");
    }
    for other in ["b.example", "a.example:80", "a.example.", "", "a.example, a.example"] {
        malformed(&with(POST, &[("host", other)]));
    }
    malformed(&with(POST, &[("host", "a.example"), ("host", "a.example")]));
}

#[test]
fn rfc_9113_8_5_connect_has_an_authority_with_a_port_and_neither_scheme_nor_path() {
    assert_eq!(taken(CONNECT), "CONNECT Https a.example:443 ");
    malformed(&without(CONNECT, ":authority"));
    malformed(&changed(CONNECT, ":authority", "a.example"));
    malformed(&with(CONNECT, &[(":scheme", "https")]));
    malformed(&with(CONNECT, &[(":path", "/")]));
}

#[test]
fn rfc_9113_8_5_a_tunnel_carries_data_and_no_trailers() {
    let mut end = plain();
    end.hear(&frame(HEADERS, EH, 1, &block(CONNECT))).unwrap();
    end.codec.send_head(end.ids[&1], &response(200, &[]), false, &mut end.out);
    assert!(matches!(end.hear(&frame(DATA, 0, 1, b"x")).unwrap()[..], [Seen::Data { .. }]));
    let seen = end.hear(&frame(HEADERS, EH | ES, 1, &block(&[("x", "y")]))).unwrap();
    assert!(matches!(seen[..], [Seen::Reset { .. }]), "{seen:?}");
}

#[test]
fn rfc_8441_3_the_server_says_that_it_takes_extended_connect() {
    let mut end = End::of(steady_http::h2::Server::new(Default::default(), steady_http::Scheme::Https));
    end.hear(PREFACE).unwrap();
    let ours = end.said().remove(0);
    assert!(ours.payload.chunks(6).any(|entry| entry == [0, 8, 0, 0, 0, 1]), "{ours:?}");
}

#[test]
fn rfc_8441_4_an_extended_connect_has_scheme_path_and_authority_and_its_method_is_connect() {
    assert_eq!(taken(WEBSOCKET), "CONNECT Https a.example /chat|protocol=websocket");
    assert!(taken(&changed(WEBSOCKET, ":protocol", "WebSocket")).ends_with("|protocol=websocket"));
    for name in [":scheme", ":path", ":authority"] {
        malformed(&without(WEBSOCKET, name));
    }
    for path in ["", "chat", "*", "http://a.example/chat"] {
        malformed(&changed(WEBSOCKET, ":path", path));
    }
    malformed(&changed(WEBSOCKET, ":method", "GET"));
    malformed(&changed(WEBSOCKET, ":protocol", ""));
    malformed(&changed(WEBSOCKET, ":protocol", "web socket"));
    malformed(&with(WEBSOCKET, &[(":protocol", "websocket")]));
}

#[test]
fn rfc_9110_7_8_a_protocol_is_a_name_and_perhaps_a_version() {
    for protocol in ["", "/", "a/", "/1", "a//b", "a/b/c", "a b", "a,b"] {
        malformed(&changed(WEBSOCKET, ":protocol", protocol));
    }
    assert!(taken(&changed(WEBSOCKET, ":protocol", "a/1.0")).ends_with("|protocol=a/1.0"));
}

#[test]
fn a_tunnel_of_another_http_or_of_tls_is_refused_as_its_upgrade_is_not_carried() {
    // Behind an HTTP/1.1 origin that grants it, its client would speak past everything that is between.
    for protocol in ["h2c", "H2C", "h2", "HTTP/2.0", "http", "TLS/1.0", "tls"] {
        malformed(&changed(WEBSOCKET, ":protocol", protocol));
    }
    for protocol in ["connect-udp", "h2cat", "foo/2"] {
        assert!(taken(&changed(WEBSOCKET, ":protocol", protocol)).ends_with(&format!("|protocol={protocol}")));
    }
}

#[test]
fn rfc_8441_5_a_granted_one_is_a_tunnel_that_ends_with_its_streams_sides() {
    let mut end = plain();
    end.hear(&frame(HEADERS, EH, 1, &block(WEBSOCKET))).unwrap();
    end.codec.send_head(end.ids[&1], &response(200, &[]), false, &mut end.out);
    let seen = end.hear(&frame(DATA, ES, 1, b"bye")).unwrap();
    assert!(matches!(&seen[..], [Seen::Data { end: true, data, .. }] if data == b"bye"));
    assert_eq!(end.codec.active(), 1, "our side goes on");
    end.codec.send_data(end.ids[&1], b"bye", true, &mut end.out);
    assert_eq!(end.codec.active(), 0);
}

#[test]
fn rfc_9113_8_1_an_answer_may_be_whole_before_the_request_is_and_the_rest_is_told_off_without_error() {
    let mut end = plain();
    end.hear(&frame(HEADERS, EH, 1, &block(POST))).unwrap();
    let stream = end.ids[&1];
    end.codec.send_head(stream, &response(413, &[]), true, &mut end.out);
    assert_eq!(end.codec.active(), 1, "the request may go on");
    end.codec.reset(stream, steady_http::Reset::ours(NO_ERROR, "enough"), &mut end.out);
    let said = end.said();
    assert_eq!((said[1].kind, said[1].u32()), (RST_STREAM, NO_ERROR));
}

#[test]
fn rfc_9110_15_4_5_answers_that_have_no_content_send_none() {
    for (method, status) in [("HEAD", 200), ("GET", 204), ("GET", 304)] {
        let mut end = plain();
        end.hear(&frame(HEADERS, EH | ES, 1, &block(&changed(POST, ":method", method)))).unwrap();
        let stream = end.ids[&1];
        end.codec.send_head(stream, &response(status, &[]), false, &mut end.out);
        end.codec.send_data(stream, b"content", true, &mut end.out);
        let sent: usize = end.said().iter().filter(|frame| frame.kind == DATA).map(|frame| frame.payload.len()).sum();
        assert_eq!(sent, 0, "{method} {status}");
    }
}
