//! RFC 9113 and RFC 8441 for one who asks.

use std::rc::Rc;

use steady_http::error::code::*;
use steady_http::h2::Client;
use steady_http::{Client as _, Codec, Head, Limits, Method, Scheme};

use crate::support::*;

/// A client that has asked on stream 1, `head_of` it.
fn asked(method: &str) -> End<Client> {
    let mut end = client(Limits::default(), &[]);
    let stream = end.codec.open(&request(method, "/", &[]), true, &mut end.out).unwrap();
    end.ids.insert(stream.id, stream);
    end.out.clear();
    end
}

fn status(flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, EH | flags, 1, &block(fields))
}

#[track_caller]
fn malformed(octets: &[u8]) {
    let mut end = asked("GET");
    let seen = end.hear(octets).unwrap();
    assert!(matches!(seen.last(), Some(Seen::Reset { reset, .. }) if reset.code == PROTOCOL_ERROR), "{seen:?}");
    assert!(end.said().iter().any(|frame| frame.kind == RST_STREAM));
}

#[track_caller]
fn ends(octets: &[u8], code: u32) {
    let mut end = asked("GET");
    let error = end.hear(octets).expect_err("the connection goes on");
    assert_eq!(error.code, code, "{error}");
    assert_eq!(end.said().last().unwrap().kind, GOAWAY);
}

#[test]
fn rfc_9113_3_4_a_client_says_its_preface_and_settings_first() {
    let mut end = End::of(Client::new(Rc::new(Limits::default()), Scheme::Http));
    end.codec.start(&mut end.out);
    assert!(end.out.starts_with(PREFACE));
    assert_eq!(end.said()[0].kind, SETTINGS);
    assert_eq!(end.hear(&frame(PING, 0, 0, &[0; 8])).unwrap_err().code, PROTOCOL_ERROR, "and hears SETTINGS first");
}

#[test]
fn rfc_9113_5_1_1_streams_of_a_client_are_odd_and_grow() {
    let mut end = client(Limits::default(), &[]);
    let ids: Vec<_> =
        (0..4).map(|_| end.codec.open(&request("GET", "/", &[]), true, &mut end.out).unwrap().id).collect();
    assert_eq!(ids, [1, 3, 5, 7]);
}

#[test]
fn rfc_9113_5_1_frames_on_streams_that_are_idle_or_the_servers_end_the_connection() {
    for id in [3, 2, 4] {
        ends(&frame(DATA, 0, id, b"x"), PROTOCOL_ERROR);
        ends(&frame(HEADERS, EH, id, &block(&[(":status", "200")])), PROTOCOL_ERROR);
        ends(&frame(RST_STREAM, 0, id, &[0; 4]), PROTOCOL_ERROR);
        ends(&frame(WINDOW_UPDATE, 0, id, &[0, 0, 0, 1]), PROTOCOL_ERROR);
    }
}

#[test]
fn rfc_9113_5_1_2_no_more_streams_are_open_than_the_server_allows() {
    let mut end = client(Limits::default(), &[(3, 2)]);
    let mut open = || end.codec.open(&request("GET", "/", &[]), true, &mut end.out).is_some();
    assert_eq!([open(), open(), open()], [true, true, false]);
    end.hear(&settings(&[(3, 0)])).unwrap();
    assert_eq!(end.codec.available(), 0);
}

#[test]
fn rfc_9113_6_6_a_push_that_was_forbidden_ends_the_connection() {
    ends(&frame(PUSH_PROMISE, EH, 1, &[&[0, 0, 0, 2][..], &block(&GET)].concat()), PROTOCOL_ERROR);
}

#[test]
fn rfc_9113_6_5_2_a_server_may_not_enable_push() {
    ends(&settings(&[(2, 1)]), PROTOCOL_ERROR);
    assert!(asked("GET").hear(&settings(&[(2, 0)])).is_ok());
}

#[test]
fn rfc_9113_6_8_after_goaway_no_stream_is_opened_and_those_above_its_last_were_not_processed() {
    let mut end = asked("GET");
    let second = end.codec.open(&request("GET", "/", &[]), true, &mut end.out).unwrap();
    let seen = end.hear(&frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])).unwrap();
    let unprocessed = matches!(&seen[..], [Seen::GoAway { last: 1, .. }, Seen::Reset { id, reset }] if *id == second.id && reset.unprocessed);
    assert!(unprocessed, "{seen:?}");
    assert_eq!(end.codec.available(), 0);
    assert!(matches!(end.hear(&status(ES, &[(":status", "200")])).unwrap()[..], [Seen::Head { id: 1, .. }]));
}

#[test]
fn rfc_9113_8_1_interim_heads_come_before_the_final_one_and_end_nothing() {
    let mut end = asked("GET");
    let octets = [status(0, &[(":status", "103"), ("link", "</a>")]), status(ES, &[(":status", "200")])].concat();
    let seen = end.hear(&octets).unwrap();
    assert!(matches!(&seen[..], [Seen::Interim { .. }, Seen::Head { end: true, .. }]), "{seen:?}");
    malformed(&status(ES, &[(":status", "103")]));
    malformed(&status(0, &[(":status", "101")]));
}

#[test]
fn rfc_9113_8_1_data_before_the_head_is_malformed() {
    malformed(&frame(DATA, 0, 1, b"x"));
}

#[test]
fn rfc_9113_8_1_1_a_body_is_as_long_as_content_length_says_but_in_answers_without_content() {
    malformed(&[status(0, &[(":status", "200"), ("content-length", "3")]), frame(DATA, ES, 1, b"body")].concat());
    malformed(&[status(0, &[(":status", "200"), ("content-length", "5")]), frame(DATA, ES, 1, b"body")].concat());
    malformed(&status(ES, &[(":status", "200"), ("content-length", "5")]));
    for (method, code) in [("HEAD", "200"), ("GET", "304"), ("HEAD", "404")] {
        let mut end = asked(method);
        let seen = end.hear(&status(ES, &[(":status", code), ("content-length", "5")])).unwrap();
        assert!(matches!(&seen[..], [Seen::Head { end: true, .. }]), "{method} {code}: {seen:?}");
    }
}

#[test]
fn rfc_9113_8_2_fields_of_an_answer_are_held_to_the_rules_of_any() {
    for (name, value) in [
        ("X", "a"),
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        ("x", "a\r\nb"),
        ("x", " a"),
        ("a b", "c"),
    ] {
        malformed(&status(ES, &[(":status", "200"), (name, value)]));
    }
}

#[test]
fn rfc_9113_8_3_2_an_answer_has_one_status_of_three_digits_and_no_other_pseudo_field() {
    for fields in [
        &[("x", "y")][..],
        &[(":status", "200"), (":status", "200")],
        &[(":status", "20")],
        &[(":status", "2000")],
        &[(":status", "2x0")],
        &[(":status", "+20")],
        &[(":status", "099")],
        &[(":status", "")],
        &[("x", "y"), (":status", "200")],
        &[(":status", "200"), (":path", "/")],
        &[(":status", "200"), (":new", "/")],
    ] {
        malformed(&status(ES, fields));
    }
}

#[test]
fn rfc_9113_8_2_2_fields_of_one_connection_are_not_sent() {
    let mut head = request("GET", "/", &[]);
    for name in
        ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings", "host"]
    {
        head.push(name.as_bytes(), b"x");
    }
    let mut near = client(Limits::default(), &[]);
    near.codec.open(&head, true, &mut near.out).unwrap();
    let mut far = server(Limits::default());
    let seen = far.hear(&near.out).unwrap();
    assert!(matches!(&seen[..], [Seen::Head { text, .. }] if text == "GET Https a.example /"), "{seen:?}");
}

#[test]
fn rfc_9113_8_5_connect_is_sent_without_scheme_and_path() {
    let mut head = Head::new();
    head.method = Method::Connect;
    head.set_authority(b"a.example:443");
    let mut near = client(Limits::default(), &[]);
    near.codec.open(&head, false, &mut near.out).unwrap();
    let seen = server(Limits::default()).hear(&near.out).unwrap();
    assert!(matches!(&seen[..], [Seen::Head { text, .. }] if text == "CONNECT Https a.example:443 "), "{seen:?}");
}

#[test]
fn rfc_8441_3_extended_connect_waits_for_leave_and_leave_is_not_taken_back() {
    let mut head = request("CONNECT", "/chat", &[]);
    head.set_protocol(b"websocket");
    let mut end = client(Limits::default(), &[]);
    assert!(end.codec.open(&head, false, &mut end.out).is_none());
    end.hear(&settings(&[(8, 1)])).unwrap();
    assert!(end.codec.open(&head, false, &mut end.out).is_some());
    assert_eq!(end.hear(&settings(&[(8, 0)])).unwrap_err().code, PROTOCOL_ERROR);
}

#[test]
fn rfc_9113_8_7_a_refused_stream_may_be_sent_again_and_others_may_not() {
    for (code, unprocessed) in [(REFUSED_STREAM, true), (CANCEL, false), (INTERNAL_ERROR, false), (NO_ERROR, false)] {
        let seen = asked("GET").hear(&frame(RST_STREAM, 0, 1, &code.to_be_bytes())).unwrap();
        assert!(matches!(&seen[..], [Seen::Reset { reset, .. }] if reset.unprocessed == unprocessed), "{code}");
    }
}

#[test]
fn rfc_9113_6_9_a_client_sends_no_more_than_both_windows_allow() {
    let mut end = client(Limits::default(), &[(4, 10)]);
    let stream = end.codec.open(&request("POST", "/", &[]), false, &mut end.out).unwrap();
    assert_eq!(end.codec.send_data(stream, &[0; 100], false, &mut end.out), 10);
    end.hear(&frame(WINDOW_UPDATE, 0, stream.id, &1_000_000u32.to_be_bytes())).unwrap();
    assert_eq!(end.codec.send_data(stream, &vec![0; 100_000], false, &mut end.out), 65_525);
}
