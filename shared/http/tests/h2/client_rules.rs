//! RFC 9113 as a client must keep it.

use std::rc::Rc;

use crate::support::*;
use steady_http::error::code::*;
use steady_http::h2::Client;
use steady_http::{Client as _, Codec, Head, Limit, Limits, Payload, Place, Reset, Scheme, StreamId};

fn plain() -> End<Client> {
    client(Limits::default(), &[])
}

fn open(end: &mut End<Client>, head: &Head, done: bool) -> StreamId {
    end.codec.open(head, done, &mut end.out).expect("a stream")
}

fn asked(method: &str) -> (End<Client>, StreamId) {
    let mut end = plain();
    let id = open(&mut end, &request(method, "/", &[]), true);
    end.out.clear();
    (end, id)
}

fn answer(id: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, EH | flags, id, &block(fields))
}

#[track_caller]
fn dies(end: &mut End<Client>, octets: &[u8], code: u32) {
    let error = end.hear(octets).expect_err("the connection should have ended");
    assert_eq!((error.code, error.status), (code, 502), "{error}");
    assert_eq!(end.said().last().unwrap().kind, GOAWAY);
    assert_eq!(end.codec.available(), 0);
}

#[track_caller]
fn resets(end: &mut End<Client>, octets: &[u8], code: u32) -> Reset {
    let seen = end.hear(octets).unwrap();
    let Some(Seen::Reset { id, reset }) = seen.last() else { panic!("{seen:?}") };
    assert_eq!(reset.code, code, "{reset:?}");
    assert_eq!(end.codec.active(), 0);
    let said: Vec<_> = end.said().into_iter().filter(|frame| frame.kind == RST_STREAM).collect();
    assert_eq!((said.len(), said[0].id, said[0].u32()), (1, *id, code));
    *reset
}

#[test]
fn the_preface_and_settings_go_out_first_and_once() {
    let mut end = End::of(Client::new(Rc::new(Limits::default()), Scheme::Http));
    end.codec.start(&mut end.out);
    end.codec.start(&mut end.out);
    assert!(end.out.starts_with(PREFACE));
    let said = end.said();
    assert_eq!(said.iter().map(|frame| frame.kind).collect::<Vec<_>>(), [SETTINGS, WINDOW_UPDATE]);
    assert_eq!(said[0].payload[..6], [0, 2, 0, 0, 0, 0], "no push");
    let mut end = End::of(Client::new(Rc::new(Limits::default()), Scheme::Http));
    open(&mut end, &request("GET", "/", &[]), true);
    assert!(end.out.starts_with(PREFACE), "open starts too");
}

#[test]
fn a_response_becomes_a_canonical_head() {
    let (mut end, id) = asked("GET");
    let early = answer(1, 0, &[(":status", "103"), ("link", "</a>")]);
    assert_eq!(end.hear(&early).unwrap(), [Seen::Interim { id: 1, text: "103|link=</a>".into() }]);
    let last = answer(1, 0, &[(":status", "200"), ("content-length", "2"), ("host", "x"), ("a", "b")]);
    assert_eq!(end.hear(&last).unwrap(), [Seen::Head { id: 1, end: false, text: "200|length=2|a=b".into() }]);
    let body = [frame(DATA, 0, 1, b"ok"), answer(1, ES, &[("t", "v")])].concat();
    let seen = end.hear(&body).unwrap();
    assert_eq!(
        seen,
        [Seen::Data { id: 1, data: b"ok".to_vec(), flow: 2, end: false }, Seen::Trailers { id: 1, text: "t=v".into() }]
    );
    assert_eq!((end.codec.active(), id.id), (0, 1));
}

#[test]
fn a_malformed_response_resets_its_stream() {
    let s = (":status", "200");
    let cases: &[(u8, &[(&str, &str)])] = &[
        (0, &[("a", "b")]),
        (0, &[s, s]),
        (0, &[("a", "b"), s]),
        (0, &[(":status", "20")]),
        (0, &[(":status", "2000")]),
        (0, &[(":status", "099")]),
        (0, &[(":status", "2x0")]),
        (0, &[s, (":path", "/")]),
        (0, &[s, ("connection", "close")]),
        (0, &[s, ("transfer-encoding", "chunked")]),
        (0, &[s, ("te", "gzip")]),
        (0, &[s, ("A", "b")]),
        (0, &[s, ("a", "b\n")]),
        (0, &[(":status", "101")]),
        (ES, &[(":status", "100")]),
        (ES, &[s, ("content-length", "1")]),
    ];
    for (flags, fields) in cases {
        println!("{fields:?}");
        let (mut end, _) = asked("GET");
        resets(&mut end, &answer(1, *flags, fields), PROTOCOL_ERROR);
    }
    let (mut end, _) = asked("GET");
    resets(&mut end, &frame(DATA, 0, 1, b"x"), PROTOCOL_ERROR);
}

#[test]
fn the_length_of_an_answer_without_content_is_not_checked_but_its_content_is() {
    for (method, status) in [("HEAD", "200"), ("GET", "304")] {
        let (mut end, _) = asked(method);
        let seen = end.hear(&answer(1, ES, &[(":status", status), ("content-length", "9")])).unwrap();
        assert!(matches!(&seen[..], [Seen::Head { end: true, .. }]), "{seen:?}");
    }
    for (method, status) in [("HEAD", "200"), ("GET", "304"), ("GET", "204")] {
        let (mut end, _) = asked(method);
        end.hear(&answer(1, 0, &[(":status", status)])).unwrap();
        resets(&mut end, &frame(DATA, ES, 1, b"x"), PROTOCOL_ERROR);
        let (mut end, _) = asked(method);
        end.hear(&answer(1, 0, &[(":status", status)])).unwrap();
        let seen = end.hear(&frame(DATA, ES, 1, b"")).unwrap();
        assert_eq!(seen, [Seen::Data { id: 1, data: vec![], flow: 0, end: true }]);
    }
}

#[test]
fn interim_responses_without_end_are_cut_short() {
    let mut end = client(Limits { interim_max: 3, ..Limits::default() }, &[]);
    open(&mut end, &request("GET", "/", &[]), true);
    end.out.clear();
    let interim = answer(1, 0, &[(":status", "100")]);
    for _ in 0..3 {
        assert!(matches!(end.hear(&interim).unwrap()[..], [Seen::Interim { .. }]));
    }
    assert_eq!(resets(&mut end, &interim, ENHANCE_YOUR_CALM).limit, Some(Limit::Interim));
}

#[test]
fn a_response_over_a_limit_resets_its_stream_with_the_limit() {
    let mut end = client(Limits { fields_max: 1, ..Limits::default() }, &[]);
    open(&mut end, &request("GET", "/", &[]), true);
    end.out.clear();
    let reset = resets(&mut end, &answer(1, 0, &[(":status", "200"), ("a", ""), ("b", "")]), ENHANCE_YOUR_CALM);
    assert_eq!(reset.limit, Some(Limit::Fields));
}

#[test]
fn what_a_server_may_not_do_ends_the_connection() {
    for (bad, code) in [
        (frame(PUSH_PROMISE, EH, 1, &[0, 0, 0, 2]), PROTOCOL_ERROR),
        (answer(2, ES, &[(":status", "200")]), PROTOCOL_ERROR),
        (answer(3, ES, &[(":status", "200")]), PROTOCOL_ERROR),
        (frame(DATA, 0, 3, b"x"), PROTOCOL_ERROR),
        (frame(RST_STREAM, 0, 3, &[0; 4]), PROTOCOL_ERROR),
        (settings(&[(2, 1)]), PROTOCOL_ERROR),
        (frame(HEADERS, EH, 1, &[0x80]), COMPRESSION_ERROR),
    ] {
        let (mut end, _) = asked("GET");
        dies(&mut end, &bad, code);
    }
    let mut fresh = End::of(Client::new(Rc::new(Limits::default()), Scheme::Http));
    fresh.codec.start(&mut fresh.out);
    dies(&mut fresh, b"HTTP/1.1 400 Bad Request\r\n\r\n", FRAME_SIZE_ERROR);
    let mut end = client(Limits::default(), &[(8, 1)]);
    dies(&mut end, &settings(&[(8, 0)]), PROTOCOL_ERROR);
}

#[test]
fn the_peers_limit_on_streams_is_kept() {
    let mut end = End::of(Client::new(Rc::new(Limits::default()), Scheme::Http));
    assert_eq!(end.codec.available(), 100, "until the settings say otherwise");
    end.hear(&settings(&[(3, 2)])).unwrap();
    let get = request("GET", "/", &[]);
    open(&mut end, &get, true);
    open(&mut end, &get, true);
    assert_eq!((end.codec.available(), end.codec.active()), (0, 2));
    assert_eq!(end.codec.open(&get, true, &mut end.out), None);
    end.hear(&answer(1, ES, &[(":status", "200")])).unwrap();
    assert_eq!(open(&mut end, &get, true).id, 5);
    end.hear(&settings(&[(3, 0)])).unwrap();
    assert_eq!(end.codec.available(), 0);
    end.hear(&settings(&[(3, 1000)])).unwrap();
    assert_eq!(end.codec.available(), 998);
}

#[test]
fn extended_connect_waits_for_the_peers_leave() {
    let mut websocket = request("CONNECT", "/chat", &[]);
    websocket.set_protocol(b"websocket");
    let mut end = plain();
    assert_eq!(end.codec.open(&websocket, false, &mut end.out), None);
    end.hear(&settings(&[(8, 1)])).unwrap();
    assert!(end.codec.open(&websocket, false, &mut end.out).is_some());
    let mut tunnel = answer(1, 0, &[(":status", "200"), ("content-length", "1")]);
    tunnel.extend(frame(DATA, 0, 1, b"hello"));
    let seen = end.hear(&tunnel).unwrap();
    assert_eq!(seen[0], Seen::Head { id: 1, end: false, text: "200".into() });
    assert!(matches!(seen[1], Seen::Data { flow: 5, .. }));
}

#[test]
fn goaway_gives_back_what_was_not_begun_and_lets_the_rest_finish() {
    let mut end = plain();
    for _ in 0..4 {
        open(&mut end, &request("GET", "/", &[]), true);
    }
    let seen = end.hear(&frame(GOAWAY, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 0, b'b', b'y', b'e'])).unwrap();
    assert_eq!(seen[0], Seen::GoAway { last: 3, code: 0 });
    let mut gone: Vec<_> = seen[1..]
        .iter()
        .map(|seen| match seen {
            Seen::Reset { id, reset: Reset { unprocessed: true, .. } } => *id,
            other => panic!("{other:?}"),
        })
        .collect();
    gone.sort_unstable();
    assert_eq!(gone, [5, 7]);
    assert_eq!((end.codec.available(), end.codec.active()), (0, 2));
    assert!(end.codec.is_finished());
    end.hear(&[answer(1, ES, &[(":status", "200")]), answer(3, ES, &[(":status", "200")])].concat()).unwrap();
    assert_eq!(end.codec.active(), 0);
}

#[test]
fn a_refused_stream_is_unprocessed_and_a_cancelled_one_is_not() {
    for (code, unprocessed) in [(REFUSED_STREAM, true), (CANCEL, false), (INTERNAL_ERROR, false)] {
        let (mut end, _) = asked("GET");
        let seen = end.hear(&frame(RST_STREAM, 0, 1, &code.to_be_bytes())).unwrap();
        assert!(
            matches!(seen[..], [Seen::Reset { id: 1, reset }] if reset.unprocessed == unprocessed && reset.by_peer)
        );
    }
}

#[test]
fn an_early_response_leaves_the_request_open_until_it_ends_or_is_reset() {
    let mut end = plain();
    let id = open(&mut end, &request("POST", "/", &[]), false);
    assert!(matches!(end.hear(&answer(1, ES, &[(":status", "413")])).unwrap()[..], [Seen::Head { end: true, .. }]));
    assert_eq!(end.codec.active(), 1);
    assert_eq!(end.codec.send_data(id, b"rest", true, &mut end.out), 4);
    assert_eq!(end.codec.active(), 0);
    let id = open(&mut end, &request("POST", "/", &[]), false);
    end.hear(&answer(id.id, ES, &[(":status", "413")])).unwrap();
    let seen = end.hear(&frame(RST_STREAM, 0, id.id, &[0; 4])).unwrap();
    assert!(matches!(seen[..], [Seen::Reset { reset: Reset { code: NO_ERROR, .. }, .. }]));
}

#[test]
fn large_heads_are_cut_into_continuations_and_large_bodies_into_frames() {
    let large = "v".repeat(40_000);
    let mut end = plain();
    let id = open(&mut end, &request("POST", "/", &[("x", &large)]), false);
    let first = end.codec.send_payload(id, Payload::Elsewhere(40_000), true, &mut end.out);
    assert_eq!((first.taken, first.place), (16_384, Place { at: end.out.len(), len: 16_384 }), "one frame at a time");
    end.out.extend_from_slice(&[0; 16_384]);
    assert_eq!(end.codec.send_data(id, &[0; 40_000 - 16_384], true, &mut end.out), 40_000 - 16_384);
    let said = end.said();
    let shape: Vec<_> = said.iter().map(|frame| (frame.kind, frame.flags, frame.payload.len() <= 16_384)).collect();
    assert_eq!(
        shape,
        [
            (HEADERS, 0, true),
            (CONTINUATION, 0, true),
            (CONTINUATION, EH, true),
            (DATA, 0, true),
            (DATA, 0, true),
            (DATA, ES, true)
        ]
    );
}
