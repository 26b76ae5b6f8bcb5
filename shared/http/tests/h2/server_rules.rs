//! RFC 9113 as a server must keep it.

use std::rc::Rc;

use crate::support::*;
use steady_http::error::code::*;
use steady_http::h2::Server;
use steady_http::{Codec, Head, Limit, Limits, Reset, Scheme};

fn plain() -> End<Server> {
    server(Limits::default())
}

/// These octets end the connection with this code, and a GOAWAY says so.
#[track_caller]
fn dies(end: &mut End<Server>, octets: &[u8], code: u32) {
    let error = end.hear(octets).expect_err("the connection should have ended");
    assert_eq!(error.code, code, "{error}");
    let said = end.said();
    let last = said.last().unwrap();
    assert_eq!((last.kind, u32::from_be_bytes(last.payload[4..8].try_into().unwrap())), (GOAWAY, code));
    assert_eq!(end.hear(&[]), Err(error), "and it stays ended");
    assert!(end.codec.is_finished());
}

/// These octets reset stream `id` with this code, once, and the connection goes on.
#[track_caller]
fn resets(end: &mut End<Server>, octets: &[u8], id: u32, code: u32) {
    let seen = end.hear(octets).expect("the connection should go on");
    let codes: Vec<_> = seen
        .iter()
        .filter_map(|seen| match seen {
            Seen::Reset { id, reset } => Some((*id, reset.code)),
            _ => None,
        })
        .collect();
    assert_eq!(codes, [(id, code)], "{seen:?}");
    let said: Vec<_> = end.said().into_iter().filter(|frame| frame.kind == RST_STREAM).collect();
    assert_eq!(said, [Frame { kind: RST_STREAM, flags: 0, id, payload: code.to_be_bytes().to_vec() }]);
    let next = id + 100;
    let seen = end.hear(&get(next, ES, &[])).unwrap();
    assert!(matches!(seen[..], [Seen::Head { .. }]), "{seen:?}");
}

#[track_caller]
fn head_of(fields: &[(&str, &str)]) -> String {
    let seen = plain().hear(&frame(HEADERS, EH | ES, 1, &block(fields))).unwrap();
    match &seen[..] {
        [Seen::Head { id: 1, end: true, text }] => text.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_becomes_a_canonical_head() {
    let text = head_of(&[
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/a?b=c"),
        (":authority", "A.example:8443"),
        ("host", "a.EXAMPLE:8443"),
        ("content-length", "0"),
        ("te", "trailers"),
        ("http2-settings", "AAMAAABkAAQAAP__"),
        ("cookie", "a=1"),
        ("x-y", ""),
        ("cookie", "b=2"),
    ]);
    assert_eq!(text, "GET Https A.example:8443 /a?b=c|length=0|te=trailers|cookie=a=1; b=2|x-y=");
}

#[test]
fn host_stands_in_for_a_missing_authority() {
    let text = head_of(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", "b.example")]);
    assert_eq!(text, "GET Http b.example /");
}

#[test]
fn every_form_of_target_that_is_allowed_is_taken() {
    let a = (":authority", "a:1");
    assert_eq!(head_of(&[(":method", "CONNECT"), a]), "CONNECT Https a:1 ");
    assert_eq!(head_of(&[(":method", "OPTIONS"), (":scheme", "http"), a, (":path", "*")]), "OPTIONS Http a:1 *");
    assert_eq!(head_of(&[(":method", "BREW"), (":scheme", "HTTP"), a, (":path", "/")]), "BREW Http a:1 /");
    let websocket = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), a, (":path", "/chat")];
    assert_eq!(head_of(&websocket), "CONNECT Https a:1 /chat|protocol=websocket");
}

#[test]
fn a_malformed_request_resets_its_stream_and_nothing_else() {
    let (m, s, a, p) = (GET[0], GET[1], GET[2], GET[3]);
    let c = (":method", "CONNECT");
    let w = (":protocol", "websocket");
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("no pseudo-field at all", &[("x", "y")]),
        ("an empty block", &[]),
        ("no method", &[s, a, p]),
        ("no scheme", &[m, a, p]),
        ("no path", &[m, s, a]),
        ("no authority", &[m, s, p]),
        ("an empty authority", &[m, s, p, (":authority", "")]),
        ("an empty host", &[m, s, p, ("host", "")]),
        ("an empty path", &[m, s, a, (":path", "")]),
        ("a relative path", &[m, s, a, (":path", "a")]),
        ("an asterisk that is not for OPTIONS", &[m, s, a, (":path", "*")]),
        ("a space in the path", &[m, s, a, (":path", "/a b")]),
        ("a fragment in the path", &[m, s, a, (":path", "/a#b")]),
        ("user information", &[m, s, p, (":authority", "me@a.example")]),
        ("a slash in the authority", &[m, s, p, (":authority", "a/b")]),
        ("a space in the authority", &[m, s, p, (":authority", "a b")]),
        ("an unknown scheme", &[m, (":scheme", "ftp"), a, p]),
        ("an empty method", &[(":method", ""), s, a, p]),
        ("a method that is no token", &[(":method", "GET /"), s, a, p]),
        ("method twice", &[m, m, s, a, p]),
        ("path twice", &[m, s, a, p, p]),
        ("authority twice", &[m, s, a, a, p]),
        ("scheme twice", &[m, s, s, a, p]),
        ("a pseudo-field after a field", &[m, s, a, ("x", "y"), p]),
        ("an unknown pseudo-field", &[m, s, a, p, (":x", "y")]),
        ("a bare colon", &[m, s, a, p, (":", "y")]),
        ("a response's pseudo-field", &[m, s, a, p, (":status", "200")]),
        ("CONNECT with a path", &[c, a, p]),
        ("CONNECT with a scheme", &[c, a, s]),
        ("CONNECT without an authority", &[c]),
        ("extended CONNECT without a path", &[c, w, s, a]),
        ("extended CONNECT without a scheme", &[c, w, a, p]),
        ("extended CONNECT without an authority", &[c, w, s, p]),
        ("an empty protocol", &[c, (":protocol", ""), s, a, p]),
        ("protocol without CONNECT", &[m, w, s, a, p]),
        ("a host that differs", &[m, s, a, p, ("host", "b.example")]),
        ("host twice", &[m, s, a, p, ("host", "a.example"), ("host", "a.example")]),
        ("connection", &[m, s, a, p, ("connection", "close")]),
        ("keep-alive", &[m, s, a, p, ("keep-alive", "1")]),
        ("proxy-connection", &[m, s, a, p, ("proxy-connection", "close")]),
        ("transfer-encoding", &[m, s, a, p, ("transfer-encoding", "chunked")]),
        ("upgrade", &[m, s, a, p, ("upgrade", "websocket")]),
        ("te with more", &[m, s, a, p, ("te", "trailers, deflate")]),
        ("te with another", &[m, s, a, p, ("te", "gzip")]),
        ("an upper-case name", &[m, s, a, p, ("X-y", "z")]),
        ("a name with a space", &[m, s, a, p, ("x y", "z")]),
        ("a name with a colon", &[m, s, a, p, ("x:y", "z")]),
        ("an empty name", &[m, s, a, p, ("", "z")]),
        ("a name with DEL", &[m, s, a, p, ("x\u{7f}", "z")]),
        ("a name beyond ASCII", &[m, s, a, p, ("é", "z")]),
        ("CR in a value", &[m, s, a, p, ("x", "a\rb")]),
        ("LF in a value", &[m, s, a, p, ("x", "a\nb")]),
        ("NUL in a value", &[m, s, a, p, ("x", "a\0b")]),
        ("CR LF in the path", &[m, s, a, (":path", "/\r\nx: y")]),
        ("NUL in the authority", &[m, s, p, (":authority", "a\0")]),
        ("a space before a value", &[m, s, a, p, ("x", " a")]),
        ("a tab after a value", &[m, s, a, p, ("x", "a\t")]),
        ("a length that is no number", &[m, s, a, p, ("content-length", "1x")]),
        ("a length with a sign", &[m, s, a, p, ("content-length", "+1")]),
        ("a list of lengths", &[m, s, a, p, ("content-length", "1, 1")]),
        ("a length beyond what is counted", &[m, s, a, p, ("content-length", "9223372036854775808")]),
        ("an empty length", &[m, s, a, p, ("content-length", "")]),
        ("a length beyond measure", &[m, s, a, p, ("content-length", "99999999999999999999")]),
        ("two lengths", &[m, s, a, p, ("content-length", "1"), ("content-length", "2")]),
        ("a length and no body", &[m, s, a, p, ("content-length", "1")]),
    ];
    for (what, fields) in cases {
        println!("{what}");
        resets(&mut plain(), &frame(HEADERS, EH | ES, 1, &block(fields)), 1, PROTOCOL_ERROR);
    }
}

#[test]
fn a_bad_field_is_as_bad_when_it_comes_out_of_the_dynamic_table() {
    for bad in [
        &b"\x40\x01x\x03a\rb"[..],
        b"\x40\x00\x01a",
        b"\x40\x01X\x01a",
        b"\x40\x0aconnection\x05close",
        b"\x40\x02te\x01x",
    ] {
        let mut end = plain();
        let indexed = [&block(&GET), bad].concat();
        resets(&mut end, &frame(HEADERS, EH | ES, 1, &indexed), 1, PROTOCOL_ERROR);
        let again = [block(&GET), vec![0x80 | 62]].concat();
        resets(&mut end, &frame(HEADERS, EH | ES, 201, &again), 201, PROTOCOL_ERROR);
    }
}

#[test]
fn fields_out_of_the_dynamic_table_count_against_the_limits_too() {
    let mut end = server(Limits { fields_max: 10, ..Limits::default() });
    let first = [&block(&GET)[..], b"\x40\x01x\x01y"].concat();
    assert!(matches!(end.hear(&frame(HEADERS, EH | ES, 1, &first)).unwrap()[..], [Seen::Head { .. }]));
    for (count, id, limit) in [(10, 3, None), (11, 5, Some(Limit::Fields))] {
        let block = [block(&GET), vec![0x80 | 62; count]].concat();
        let seen = end.hear(&frame(HEADERS, EH | ES, id, &block)).unwrap();
        let over = matches!(&seen[..], [Seen::Reset { reset, .. }] if reset.limit == Some(Limit::Fields));
        assert_eq!(over, limit.is_some(), "{seen:?}");
    }
}

#[test]
fn a_body_that_is_longer_or_shorter_than_declared_is_malformed() {
    let post = |id| get(id, 0, &[("content-length", "5")]);
    let mut end = plain();
    end.hear(&post(1)).unwrap();
    assert!(matches!(end.hear(&frame(DATA, 0, 1, b"abc")).unwrap()[..], [Seen::Data { end: false, .. }]));
    resets(&mut end, &frame(DATA, ES, 1, b"d"), 1, PROTOCOL_ERROR);
    let mut end = plain();
    end.hear(&post(1)).unwrap();
    resets(&mut end, &frame(DATA, 0, 1, b"abcdef"), 1, PROTOCOL_ERROR);
    let mut end = plain();
    end.hear(&post(1)).unwrap();
    resets(&mut end, &frame(HEADERS, EH | ES, 1, &block(&[("t", "v")])), 1, PROTOCOL_ERROR);
    let mut end = plain();
    end.hear(&post(1)).unwrap();
    let padded = frame(DATA, ES | 8, 1, b"\x03abcde\0\0\0");
    let seen = end.hear(&padded).unwrap();
    assert_eq!(seen, [Seen::Data { id: 1, data: b"abcde".to_vec(), flow: 9, end: true }]);
}

#[test]
fn trailers_end_a_request_and_have_no_pseudo_fields() {
    let mut end = plain();
    end.hear(&get(1, 0, &[])).unwrap();
    let trailers = [("t", "v"), ("content-length", "9"), ("host", "b")];
    let seen = end.hear(&frame(HEADERS, EH | ES, 1, &block(&trailers))).unwrap();
    assert_eq!(seen, [Seen::Trailers { id: 1, text: "t=v".into() }]);
    for (flags, fields) in
        [(EH, [("t", "v")]), (EH | ES, [(":path", "/")]), (EH | ES, [("connection", "x")]), (EH | ES, [("T", "v")])]
    {
        let mut end = plain();
        end.hear(&get(1, 0, &[])).unwrap();
        resets(&mut end, &frame(HEADERS, flags, 1, &block(&fields)), 1, PROTOCOL_ERROR);
    }
}

#[test]
fn a_tunnel_carries_data_only() {
    let mut end = plain();
    let connect = [(":method", "CONNECT"), (":authority", "a:1"), ("content-length", "3")];
    let seen = end.hear(&frame(HEADERS, EH, 1, &block(&connect))).unwrap();
    assert_eq!(seen, [Seen::Head { id: 1, end: false, text: "CONNECT Https a:1 ".into() }]);
    let mut ok = response(200, &[]);
    ok.content_length = Some(3);
    end.codec.send_head(end.ids[&1], &ok, false, &mut end.out);
    let said = end.said();
    assert_eq!(said[0].payload, [0x88], "no length in the answer to CONNECT");
    assert!(matches!(end.hear(&frame(DATA, 0, 1, b"four")).unwrap()[..], [Seen::Data { flow: 4, .. }]));
    resets(&mut end, &frame(HEADERS, EH | ES, 1, &block(&[("t", "v")])), 1, PROTOCOL_ERROR);
}

#[test]
fn the_preface_and_a_settings_frame_come_first() {
    let fresh = || End::of(Server::new(Rc::new(Limits::default()), Scheme::Https));
    dies(&mut fresh(), b"GET / HTTP/1.1\r\n\r\n", PROTOCOL_ERROR);
    let mut end = fresh();
    assert_eq!(end.hear(&PREFACE[..10]).unwrap(), []);
    assert_eq!(end.said()[0].kind, SETTINGS, "our settings do not wait");
    dies(&mut end, b"x", PROTOCOL_ERROR);
    let with = |frame: &[u8]| [PREFACE, frame].concat();
    dies(&mut fresh(), &with(&get(1, ES, &[])), PROTOCOL_ERROR);
    dies(&mut fresh(), &with(&frame(SETTINGS, 1, 0, &[])), PROTOCOL_ERROR);
    dies(&mut fresh(), &with(&frame(PING, 0, 0, &[0; 8])), PROTOCOL_ERROR);
}

#[test]
fn what_we_announce_is_in_the_first_settings() {
    let mut end = End::of(Server::new(Rc::new(Limits::default()), Scheme::Https));
    end.hear(&[]).unwrap();
    let said = end.said();
    let pairs: Vec<_> = said[0]
        .payload
        .chunks(6)
        .map(|entry| (u16::from_be_bytes([entry[0], entry[1]]), u32::from_be_bytes(entry[2..].try_into().unwrap())))
        .collect();
    assert_eq!(pairs, [(3, 128), (8, 1), (4, 65536), (6, 32768)]);
    assert_eq!((said[1].kind, said[1].id, said[1].u32()), (WINDOW_UPDATE, 0, 1024 * 1024 - 65535));
}

#[test]
fn frames_of_a_wrong_size_end_the_connection() {
    for bad in [
        frame(DATA, 0, 1, &[0; 16385]),
        frame(SETTINGS, 0, 0, &[0; 5]),
        frame(SETTINGS, 1, 0, &[0; 6]),
        frame(PING, 0, 0, &[0; 7]),
        frame(RST_STREAM, 0, 1, &[0; 3]),
        frame(WINDOW_UPDATE, 0, 0, &[0; 5]),
        frame(GOAWAY, 0, 0, &[0; 7]),
        frame(PRIORITY, 0, 1, &[0; 4]),
        frame(HEADERS, EH | 32, 3, &[0; 4]),
        frame(DATA, 8, 1, &[]),
        frame(HEADERS, EH | 8, 3, &[]),
    ] {
        let mut end = plain();
        end.hear(&get(1, 0, &[])).unwrap();
        dies(&mut end, &bad, FRAME_SIZE_ERROR);
    }
}

#[test]
fn frames_on_the_wrong_stream_end_the_connection() {
    for bad in [
        frame(DATA, 0, 0, b"x"),
        frame(DATA, 0, 3, b"x"),
        frame(DATA, 0, 2, b"x"),
        frame(HEADERS, EH, 0, &block(&GET)),
        frame(HEADERS, EH, 2, &block(&GET)),
        frame(RST_STREAM, 0, 0, &[0; 4]),
        frame(RST_STREAM, 0, 3, &[0; 4]),
        frame(WINDOW_UPDATE, 0, 3, &[0, 0, 0, 1]),
        frame(PRIORITY, 0, 0, &[0; 5]),
        frame(SETTINGS, 0, 1, &[]),
        frame(PING, 0, 1, &[0; 8]),
        frame(GOAWAY, 0, 1, &[0; 8]),
        frame(PUSH_PROMISE, EH, 1, &[0, 0, 0, 2]),
        frame(CONTINUATION, EH, 1, &[]),
        frame(DATA, 8, 1, &[1]),
        frame(DATA, 8, 1, &[5, 0, 0]),
        frame(HEADERS, EH | 8, 3, &[1]),
    ] {
        let mut end = plain();
        end.hear(&get(1, 0, &[])).unwrap();
        dies(&mut end, &bad, PROTOCOL_ERROR);
    }
}

#[test]
fn only_its_continuation_may_follow_an_unfinished_block() {
    let part = frame(HEADERS, ES, 1, &block(&GET));
    for next in [frame(PING, 0, 0, &[0; 8]), frame(CONTINUATION, EH, 3, &[]), get(3, ES, &[]), frame(99, 0, 1, &[])] {
        dies(&mut plain(), &[part.clone(), next].concat(), PROTOCOL_ERROR);
    }
    let mut end = plain();
    let whole = [part, frame(CONTINUATION, 0, 1, &[]), frame(CONTINUATION, EH, 1, &block(&[("x", "y")]))].concat();
    assert_eq!(end.hear(&whole).unwrap(), [Seen::Head { id: 1, end: true, text: "GET Https a.example /|x=y".into() }]);
}

#[test]
fn padding_and_priority_of_headers_are_passed_over() {
    let mut payload = vec![3, 0x80, 0, 0, 0, 9];
    payload.extend(block(&GET));
    payload.extend([0; 3]);
    let mut end = plain();
    let seen = end.hear(&frame(HEADERS, EH | ES | 8 | 32, 1, &payload)).unwrap();
    assert_eq!(seen, [Seen::Head { id: 1, end: true, text: "GET Https a.example /".into() }]);
    assert!(end.hear(&get(3, ES, &[])).is_ok());
}

#[test]
fn frames_that_nobody_knows_and_priority_are_ignored() {
    let mut end = plain();
    let noise = [frame(0xfa, 0xff, 7, b"noise"), frame(PRIORITY, 0, 9, &[0; 5]), get(1, ES, &[])].concat();
    assert!(matches!(end.hear(&noise).unwrap()[..], [Seen::Head { id: 1, .. }]));
}

#[test]
fn stream_numbers_only_grow() {
    for late in [1, 3] {
        let mut end = plain();
        end.hear(&get(5, 0, &[])).unwrap();
        dies(&mut end, &get(late, ES, &[]), PROTOCOL_ERROR);
    }
}

#[test]
fn frames_after_the_end_of_a_stream_are_refused() {
    let mut end = plain();
    end.hear(&get(1, ES, &[])).unwrap();
    resets(&mut end, &frame(DATA, 0, 1, b"x"), 1, STREAM_CLOSED);
    let mut end = plain();
    end.hear(&get(1, ES, &[])).unwrap();
    resets(&mut end, &get(1, ES, &[]), 1, STREAM_CLOSED);
    for late in [frame(DATA, 0, 1, b"x"), get(1, ES, &[])] {
        let mut end = plain();
        end.hear(&get(1, ES, &[])).unwrap();
        end.codec.send_head(end.ids[&1], &response(200, &[]), true, &mut end.out);
        assert_eq!(end.codec.active(), 0);
        assert_eq!(end.hear(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])).unwrap(), [], "this one is allowed");
        assert_eq!(end.hear(&frame(RST_STREAM, 0, 1, &[0; 4])).unwrap(), [], "and this");
        dies(&mut end, &late, STREAM_CLOSED);
    }
}

#[test]
fn frames_on_their_way_to_a_stream_that_we_reset_are_dropped_but_keep_the_tables_right() {
    let mut end = plain();
    end.hear(&get(1, 0, &[])).unwrap();
    end.codec.reset(end.ids[&1], Reset::ours(CANCEL, "test"), &mut end.out);
    assert_eq!(end.codec.active(), 0);
    let late = [
        frame(DATA, 0, 1, b"late"),
        frame(HEADERS, EH | ES, 1, b"\x40\x01x\x01y"),
        frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
        frame(RST_STREAM, 0, 1, &[0; 4]),
    ];
    assert_eq!(end.hear(&late.concat()).unwrap(), []);
    let next = [block(&GET), vec![0x80 | 62]].concat();
    let seen = end.hear(&frame(HEADERS, EH | ES, 3, &next)).unwrap();
    assert_eq!(seen, [Seen::Head { id: 3, end: true, text: "GET Https a.example /|x=y".into() }]);
}

#[test]
fn a_stream_reset_in_the_middle_of_a_data_frame_swallows_the_rest_of_it() {
    let mut end = plain();
    end.hear(&get(1, 0, &[])).unwrap();
    let data = frame(DATA, ES, 1, &[7; 100]);
    assert!(matches!(end.hear(&data[..50]).unwrap()[..], [Seen::Data { end: false, .. }]));
    end.codec.reset(end.ids[&1], Reset::ours(NO_ERROR, "enough"), &mut end.out);
    let seen = end.hear(&[&data[50..], &get(3, ES, &[])].concat()).unwrap();
    assert!(matches!(seen[..], [Seen::Head { id: 3, .. }]), "{seen:?}");
}

#[test]
fn a_peers_reset_frees_the_stream() {
    let mut end = plain();
    end.hear(&get(1, 0, &[])).unwrap();
    let seen = end.hear(&frame(RST_STREAM, 0, 1, &8u32.to_be_bytes())).unwrap();
    assert!(matches!(
        seen[..],
        [Seen::Reset { id: 1, reset: Reset { code: CANCEL, by_peer: true, unprocessed: false, .. } }]
    ));
    assert_eq!(end.codec.active(), 0);
    dies(&mut end, &frame(DATA, 0, 1, b"x"), STREAM_CLOSED);
}

#[test]
fn settings_are_held_to_their_ranges() {
    for (id, value, code) in [
        (2, 2, PROTOCOL_ERROR),
        (4, 0x8000_0000, FLOW_CONTROL_ERROR),
        (5, 16_383, PROTOCOL_ERROR),
        (5, 1 << 24, PROTOCOL_ERROR),
        (8, 2, PROTOCOL_ERROR),
    ] {
        dies(&mut plain(), &settings(&[(id, value)]), code);
    }
    let mut end = plain();
    assert_eq!(end.hear(&settings(&[(1, 0), (2, 1), (3, 0), (5, 16_384), (6, 1), (99, 7)])).unwrap(), [Seen::Settings]);
    assert_eq!(end.said(), [Frame { kind: SETTINGS, flags: 1, id: 0, payload: vec![] }]);
}

#[test]
fn pings_are_answered_and_answers_reported() {
    let mut end = plain();
    assert_eq!(end.hear(&frame(PING, 0, 0, b"abcdefgh")).unwrap(), []);
    assert_eq!(end.said(), [Frame { kind: PING, flags: 1, id: 0, payload: b"abcdefgh".to_vec() }]);
    assert!(end.codec.ping(*b"01234567", &mut end.out));
    assert_eq!(end.said(), [Frame { kind: PING, flags: 0, id: 0, payload: b"01234567".to_vec() }]);
    assert_eq!(end.hear(&frame(PING, 1, 0, b"01234567")).unwrap(), [Seen::Pong(*b"01234567")]);
    assert_eq!(end.hear(&frame(PING, 1, 0, b"unasked!")).unwrap(), []);
}

#[test]
fn send_windows_hold_data_back_and_writable_says_when_it_may_go_on() {
    let mut end = plain();
    end.hear(&settings(&[(4, 10)])).unwrap();
    end.hear(&get(1, ES, &[])).unwrap();
    let id = end.ids[&1];
    end.codec.send_head(id, &response(200, &[]), false, &mut end.out);
    assert_eq!(end.codec.capacity(id), 10);
    assert_eq!(end.codec.send_data(id, &[1; 15], true, &mut end.out), 10);
    assert_eq!(end.codec.capacity(id), 0);
    assert_eq!(end.codec.send_data(id, &[1; 5], true, &mut end.out), 0);
    let said = end.said();
    let data: Vec<_> = said.iter().filter(|frame| frame.kind == DATA).collect();
    assert_eq!((data.len(), data[0].payload.len(), data[0].flags), (1, 10, 0));
    assert_eq!(end.hear(&settings(&[(4, 4)])).unwrap(), [Seen::Settings], "the window is now -6");
    assert_eq!(end.hear(&frame(WINDOW_UPDATE, 0, 1, &6u32.to_be_bytes())).unwrap(), []);
    assert_eq!(end.hear(&frame(WINDOW_UPDATE, 0, 1, &2u32.to_be_bytes())).unwrap(), [Seen::Writable(Some(1))]);
    assert_eq!(end.hear(&frame(WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes())).unwrap(), [], "it was not blocked");
    assert_eq!(end.codec.send_data(id, &[1; 5], true, &mut end.out), 3);
    assert_eq!(end.hear(&settings(&[(4, 6)])).unwrap(), [Seen::Settings, Seen::Writable(None)]);
    assert_eq!(end.codec.send_data(id, &[1; 2], true, &mut end.out), 2);
    assert_eq!(end.said().last().unwrap().flags, ES);
    assert_eq!(end.codec.active(), 0);
}

#[test]
fn an_empty_window_still_lets_the_end_through() {
    let mut end = plain();
    end.hear(&settings(&[(4, 0)])).unwrap();
    end.hear(&get(1, ES, &[])).unwrap();
    let id = end.ids[&1];
    end.codec.send_head(id, &response(200, &[]), false, &mut end.out);
    assert_eq!(end.codec.send_data(id, b"x", false, &mut end.out), 0);
    end.said();
    assert_eq!(end.codec.send_data(id, b"", true, &mut end.out), 0);
    assert_eq!(end.said(), [Frame { kind: DATA, flags: ES, id: 1, payload: vec![] }]);
    assert_eq!(end.codec.active(), 0);
}

#[test]
fn the_connections_window_is_shared_and_reopens_for_all() {
    let mut end = plain();
    end.hear(&settings(&[(4, 100_000)])).unwrap();
    for id in [1, 3] {
        end.hear(&get(id, ES, &[])).unwrap();
        end.codec.send_head(end.ids[&id], &response(200, &[]), false, &mut end.out);
    }
    let (one, three) = (end.ids[&1], end.ids[&3]);
    assert_eq!(end.codec.send_data(one, &[1; 70_000], true, &mut end.out), 65_535);
    assert_eq!((end.codec.capacity(one), end.codec.capacity(three)), (0, 0));
    assert_eq!(end.hear(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9])).unwrap(), [], "the connection still blocks");
    assert_eq!(end.hear(&frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 9])).unwrap(), [Seen::Writable(None)]);
    assert_eq!(end.codec.send_data(three, &[1; 70_000], true, &mut end.out), 9);
}

#[test]
fn windows_do_not_overflow() {
    let most = 0x7fff_ffffu32.to_be_bytes();
    dies(&mut plain(), &frame(WINDOW_UPDATE, 0, 0, &most), FLOW_CONTROL_ERROR);
    dies(&mut plain(), &frame(WINDOW_UPDATE, 0, 0, &[0; 4]), PROTOCOL_ERROR);
    for (update, code) in [(most, FLOW_CONTROL_ERROR), ([0; 4], PROTOCOL_ERROR)] {
        let mut end = plain();
        end.hear(&get(1, 0, &[])).unwrap();
        resets(&mut end, &frame(WINDOW_UPDATE, 0, 1, &update), 1, code);
    }
    let mut end = plain();
    end.hear(&get(1, 0, &[])).unwrap();
    end.hear(&frame(WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes())).unwrap();
    dies(&mut end, &settings(&[(4, 0x7fff_ffff)]), FLOW_CONTROL_ERROR);
}

#[test]
fn receive_windows_are_enforced_and_given_back_in_halves() {
    let mut end = server(Limits { stream_window: 1000, ..Limits::default() });
    end.hear(&get(1, 0, &[])).unwrap();
    let id = end.ids[&1];
    assert!(matches!(end.hear(&frame(DATA, 0, 1, &[0; 1000])).unwrap()[..], [Seen::Data { flow: 1000, .. }]));
    end.said();
    end.codec.release(id, 499, &mut end.out);
    assert_eq!(end.said(), []);
    end.codec.release(id, 1, &mut end.out);
    assert_eq!(end.said(), [Frame { kind: WINDOW_UPDATE, flags: 0, id: 1, payload: 500u32.to_be_bytes().to_vec() }]);
    end.codec.grow_window(id, 3000, &mut end.out);
    assert_eq!(end.said()[0].u32(), 2000);
    end.codec.grow_window(id, 2000, &mut end.out);
    assert_eq!(end.said(), [], "it only grows");
    assert!(matches!(end.hear(&frame(DATA, 0, 1, &[0; 2500])).unwrap()[..], [Seen::Data { flow: 2500, .. }]));
    resets(&mut end, &frame(DATA, 0, 1, &[0; 1]), 1, FLOW_CONTROL_ERROR);
}

#[test]
fn before_our_settings_are_acknowledged_the_protocols_windows_hold() {
    let mut end = End::of(Server::new(Rc::new(Limits { stream_window: 10, ..Limits::default() }), Scheme::Https));
    let hello = [PREFACE, &settings(&[]), &get(1, 0, &[]), &frame(DATA, 0, 1, &[0; 1000])].concat();
    let seen = end.hear(&hello).unwrap();
    assert!(matches!(seen[..], [Seen::Settings, Seen::Head { .. }, Seen::Data { flow: 1000, .. }]));
    resets(&mut end, &[frame(SETTINGS, 1, 0, &[]), frame(DATA, 0, 1, b"x")].concat(), 1, FLOW_CONTROL_ERROR);
}

#[test]
fn the_connections_receive_window_is_enforced_and_given_back_on_receipt() {
    let mut end = server(Limits { connection_window: 65_535, ..Limits::default() });
    end.hear(&get(1, 0, &[])).unwrap();
    end.codec.reset(end.ids[&1], Reset::ours(CANCEL, "test"), &mut end.out);
    end.said();
    for _ in 0..100 {
        assert_eq!(end.hear(&frame(DATA, 0, 1, &[0; 16_000])).unwrap(), []);
    }
    let given: u32 =
        end.said().iter().filter(|frame| frame.kind == WINDOW_UPDATE && frame.id == 0).map(Frame::u32).sum();
    assert!((1_600_000 - 40_000..=1_600_000).contains(&given), "what is dropped is given back too: {given}");
}

#[test]
fn the_padding_of_empty_data_is_given_back_by_the_codec() {
    let mut end = server(Limits { stream_window: 100, ..Limits::default() });
    end.hear(&get(1, 0, &[])).unwrap();
    for _ in 0..10 {
        let mut payload = vec![59];
        payload.extend([0; 59]);
        assert_eq!(end.hear(&frame(DATA, 8, 1, &payload)).unwrap(), []);
    }
    let given: u32 = end.said().iter().filter(|frame| frame.id == 1).map(Frame::u32).sum();
    assert_eq!(given, 600);
}

#[test]
fn more_streams_than_announced_are_refused_as_unprocessed() {
    let mut end = server(Limits { streams_max: 2, ..Limits::default() });
    end.hear(&[get(1, 0, &[]), get(3, 0, &[])].concat()).unwrap();
    let seen = end.hear(&get(5, ES, &[])).unwrap();
    let [Seen::Reset { id: 5, reset }] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((reset.code, reset.unprocessed, reset.limit), (REFUSED_STREAM, true, Some(Limit::Streams)));
    end.codec.reset(end.ids[&1], Reset::ours(CANCEL, "test"), &mut end.out);
    assert!(matches!(end.hear(&get(7, ES, &[])).unwrap()[..], [Seen::Head { id: 7, .. }]));
}

#[test]
fn a_head_over_a_limit_is_answered_and_the_tables_stay_right() {
    let limits = Limits { head_bytes_max: 1000, fields_max: 10, target_bytes_max: 50, ..Limits::default() };
    let many: Vec<_> = (0..11).map(|_| ("a", "b")).collect();
    let (large, path) = ("v".repeat(900), format!("/{}", "p".repeat(50)));
    let oversized = [
        (block(&GET.iter().chain(&many).copied().collect::<Vec<_>>()), 431u16, Limit::Fields),
        (block(&GET.iter().chain(&[("large", &large[..])]).copied().collect::<Vec<_>>()), 431, Limit::HeadBytes),
        (block(&[GET[0], GET[1], GET[2], (":path", &path)]), 414, Limit::TargetBytes),
    ];
    for (mut fields, status, limit) in oversized {
        for flags in [EH, EH | ES] {
            let mut end = server(limits.clone());
            fields.extend(b"\x40\x01x\x01y");
            let seen = end.hear(&frame(HEADERS, flags, 1, &fields)).unwrap();
            let [Seen::Reset { id: 1, reset }] = &seen[..] else { panic!("{seen:?}") };
            assert_eq!((reset.code, reset.limit), (NO_ERROR, Some(limit)));
            let mut client = client(Limits::default(), &[]);
            steady_http::Client::open(&mut client.codec, &request("GET", "/", &[]), true, &mut client.out);
            let heard = client.hear(&end.out).unwrap();
            assert!(
                matches!(&heard[0], Seen::Head { end: true, text, .. } if *text == status.to_string()),
                "{heard:?}"
            );
            assert_eq!(end.said().len(), if flags & ES == 0 { 2 } else { 1 }, "a reset only where more may come");
            let next = [block(&GET), vec![0x80 | 62]].concat();
            let seen = end.hear(&frame(HEADERS, EH | ES, 3, &next)).unwrap();
            assert_eq!(seen, [Seen::Head { id: 3, end: true, text: "GET Https a.example /|x=y".into() }]);
            fields.truncate(fields.len() - 5);
        }
    }
}

#[test]
fn going_away_takes_what_was_sent_before_the_peer_knew() {
    let mut end = plain();
    end.hear(&get(1, ES, &[])).unwrap();
    end.codec.go_away(&mut end.out);
    end.codec.go_away(&mut end.out);
    let said = end.said();
    let [notice, ping] = &said[..] else { panic!("{said:?}") };
    assert_eq!((notice.kind, &notice.payload[..]), (GOAWAY, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0][..]));
    assert_eq!((ping.kind, ping.flags), (PING, 0));
    // Somebody else's acknowledgement proves nothing.
    end.hear(&frame(PING, 1, 0, &[7; 8])).unwrap();
    assert!(matches!(end.hear(&get(3, ES, &[])).unwrap()[..], [Seen::Head { id: 3, .. }]));
    assert!(!end.codec.is_finished() && end.said().is_empty());
    end.hear(&frame(PING, 1, 0, &ping.payload)).unwrap();
    assert_eq!(end.said(), [Frame { kind: GOAWAY, flags: 0, id: 0, payload: vec![0, 0, 0, 3, 0, 0, 0, 0] }]);
    assert!(end.codec.is_finished() && end.codec.active() == 2);
    assert!(end.hear(&get(5, ES, &[])).unwrap().is_empty(), "after the last GOAWAY nothing is taken");
    end.codec.go_away_now(&mut end.out);
    assert!(end.said().is_empty(), "it is said once");
}

#[test]
fn going_away_now_lets_streams_finish_and_ignores_later_ones() {
    let mut end = plain();
    end.hear(&get(1, 0, &[])).unwrap();
    end.codec.go_away_now(&mut end.out);
    end.codec.go_away(&mut end.out);
    end.codec.go_away_now(&mut end.out);
    let said = end.said();
    assert_eq!(said, [Frame { kind: GOAWAY, flags: 0, id: 0, payload: vec![0, 0, 0, 1, 0, 0, 0, 0] }]);
    assert!(end.codec.is_finished());
    let late = [frame(HEADERS, EH, 3, &block(&GET)), frame(DATA, ES, 3, b"x"), frame(DATA, ES, 1, b"y")].concat();
    assert_eq!(end.hear(&late).unwrap(), [Seen::Data { id: 1, data: b"y".to_vec(), flow: 1, end: true }]);
    end.codec.send_head(end.ids[&1], &response(200, &[]), true, &mut end.out);
    assert_eq!(end.codec.active(), 0);
}

#[test]
fn a_clients_goaway_ends_nothing() {
    let mut end = plain();
    let goaway = frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xff]);
    assert_eq!(end.hear(&goaway).unwrap(), [Seen::GoAway { last: 0, code: 0xff }]);
    assert!(!end.codec.is_finished());
    assert!(matches!(end.hear(&get(1, ES, &[])).unwrap()[..], [Seen::Head { id: 1, .. }]));
}

#[test]
fn a_body_that_may_not_be_there_is_dropped() {
    for (method, status) in [("HEAD", 200), ("GET", 204), ("GET", 304)] {
        let mut end = plain();
        let fields = [(":method", method), GET[1], GET[2], GET[3]];
        end.hear(&frame(HEADERS, EH | ES, 1, &block(&fields))).unwrap();
        let id = end.ids[&1];
        end.codec.send_head(id, &response(status, &[]), false, &mut end.out);
        assert!(end.codec.capacity(id) > 1 << 40);
        assert_eq!(end.codec.send_data(id, b"body", false, &mut end.out), 4);
        assert_eq!(end.codec.send_data(id, b"body", true, &mut end.out), 4);
        let data: Vec<_> = end.said().into_iter().filter(|frame| frame.kind == DATA).collect();
        assert_eq!(data, [Frame { kind: DATA, flags: ES, id: 1, payload: vec![] }]);
        assert_eq!(end.codec.active(), 0);
    }
}

#[test]
fn calls_on_a_stream_that_is_gone_do_nothing() {
    let mut end = plain();
    end.hear(&get(1, ES, &[])).unwrap();
    let id = end.ids[&1];
    end.hear(&frame(RST_STREAM, 0, 1, &[0; 4])).unwrap();
    end.hear(&get(3, 0, &[])).unwrap();
    assert_eq!(end.ids[&3].slot, id.slot, "the slot is used again");
    end.said();
    end.codec.send_head(id, &response(200, &[]), true, &mut end.out);
    assert_eq!(end.codec.send_data(id, b"x", true, &mut end.out), 1, "taken, so that nobody waits");
    end.codec.send_trailers(id, &Head::new(), &mut end.out);
    end.codec.release(id, 1 << 20, &mut end.out);
    end.codec.grow_window(id, 1 << 20, &mut end.out);
    end.codec.reset(id, Reset::ours(CANCEL, "test"), &mut end.out);
    assert_eq!(end.said(), []);
    assert_eq!(end.codec.active(), 1);
}

#[test]
fn a_fin_is_fine_between_exchanges_and_an_error_within_one() {
    let mut end = plain();
    assert_eq!(end.codec.receive_end(&mut end.out), Ok(None));
    assert!(end.codec.is_finished());
    let mut silent = Server::new(Rc::new(Limits::default()), Scheme::Https);
    assert_eq!(silent.receive_end(&mut Vec::new()), Ok(None), "one that only knocked");
    let mut end = plain();
    end.hear(&get(1, 0, &[])).unwrap();
    assert!(end.codec.receive_end(&mut end.out).is_err());
}
