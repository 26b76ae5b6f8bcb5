//! RFC 9113 §3, §4, §6: frames.

use std::rc::Rc;

use steady_http::error::code::*;
use steady_http::h2::Server;
use steady_http::{Codec, Limits, Scheme};

use crate::support::*;

fn plain() -> End<Server> {
    server(Limits::default())
}

fn open() -> End<Server> {
    let mut end = plain();
    end.hear(&get(1, 0, &[])).unwrap();
    end
}

#[track_caller]
fn ends(mut end: End<Server>, octets: &[u8], code: u32) {
    let error = end.hear(octets).expect_err("the connection goes on");
    assert_eq!(error.code, code, "{error}");
    let last = end.said().pop().unwrap();
    assert_eq!((last.kind, last.id, &last.payload[4..8]), (GOAWAY, 0, &code.to_be_bytes()[..]));
    assert!(end.codec.is_finished());
}

#[track_caller]
fn ends_stream(mut end: End<Server>, octets: &[u8], code: u32) {
    let seen = end.hear(octets).unwrap();
    assert!(matches!(&seen[..], [Seen::Reset { reset, .. }] if reset.code == code), "{seen:?}");
}

#[test]
fn rfc_9113_3_4_the_preface_is_these_octets_and_a_settings_frame_follows() {
    let fresh = || End::of(Server::new(Rc::new(Limits::default()), Scheme::Http));
    for wrong in
        [&b"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n"[..], b"pri * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"]
    {
        ends(fresh(), wrong, PROTOCOL_ERROR);
    }
    for first in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 1, 0, &[]), get(1, ES, &[])] {
        ends(fresh(), &[PREFACE, &first].concat(), PROTOCOL_ERROR);
    }
    let mut end = fresh();
    end.hear(&[PREFACE, &settings(&[])[..]].concat()).unwrap();
    let said = end.said();
    assert_eq!((said[0].kind, said[0].flags), (SETTINGS, 0), "our first frame");
    assert!(said.iter().any(|frame| frame.kind == SETTINGS && frame.flags == 1), "the acknowledgement");
}

#[test]
fn rfc_9113_4_1_the_reserved_bit_and_flags_without_a_meaning_are_ignored() {
    let mut octets = get(1, ES | 0x40 | 0x80, &[]);
    octets[5] |= 0x80;
    assert!(matches!(plain().hear(&octets).unwrap()[..], [Seen::Head { id: 1, end: true, .. }]));
    let mut end = plain();
    end.hear(&frame(PING, 0xfe, 0, b"12345678")).unwrap();
    assert_eq!(end.said()[0].flags, 1);
    let mut update = frame(WINDOW_UPDATE, 0xff, 0, &[0x80, 0, 0, 1]);
    update[5] |= 0x80;
    assert_eq!(plain().hear(&update).unwrap(), []);
}

#[test]
fn rfc_9113_4_2_frames_of_16384_octets_are_taken_and_larger_ones_are_not() {
    let mut end = open();
    assert!(end.hear(&frame(DATA, 0, 1, &[0; 16_384])).is_ok());
    for kind in [DATA, HEADERS, SETTINGS, CONTINUATION, 0xbe] {
        ends(open(), &frame(kind, 0, 1, &[0; 16_385]), FRAME_SIZE_ERROR);
    }
}

#[test]
fn rfc_9113_4_3_a_block_that_cannot_be_decoded_ends_the_connection() {
    for wrong in [&[0x80][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0x0f], &[0x40, 5, b'a'], &[0xbe]] {
        ends(plain(), &frame(HEADERS, EH | ES, 1, wrong), COMPRESSION_ERROR);
        ends(open(), &frame(HEADERS, EH | ES, 1, wrong), COMPRESSION_ERROR);
    }
}

#[test]
fn rfc_9113_4_3_a_block_is_contiguous() {
    let head = frame(HEADERS, ES, 1, &block(&GET));
    for between in [
        frame(PING, 0, 0, &[0; 8]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        get(3, ES, &[]),
        frame(CONTINUATION, EH, 3, &[]),
        frame(PRIORITY, 0, 1, &[0; 5]),
        frame(RST_STREAM, 0, 1, &[0; 4]),
    ] {
        ends(plain(), &[&head[..], &between].concat(), PROTOCOL_ERROR);
    }
}

#[test]
fn rfc_9113_6_1_and_6_2_padding_is_dropped_and_one_as_long_as_its_frame_ends_the_connection() {
    let mut end = open();
    let seen = end.hear(&frame(DATA, 8 | ES, 1, &[&[3][..], b"body", &[0; 3]].concat())).unwrap();
    assert!(matches!(&seen[..], [Seen::Data { data, flow: 8, end: true, .. }] if data == b"body"), "{seen:?}");
    ends(open(), &frame(DATA, 8, 1, &[4, 0, 0, 0]), PROTOCOL_ERROR);
    let padded = [&[2][..], &block(&GET), &[0; 2]].concat();
    assert!(matches!(plain().hear(&frame(HEADERS, EH | ES | 8, 1, &padded)).unwrap()[..], [Seen::Head { .. }]));
    ends(plain(), &frame(HEADERS, EH | ES | 8, 1, &[200, 0x82]), PROTOCOL_ERROR);
    // The padding may not reach into the priority either.
    ends(plain(), &frame(HEADERS, EH | ES | 8 | 32, 1, &[4, 0, 0, 0, 0, 0, 0, 0, 0]), PROTOCOL_ERROR);
    ends(plain(), &frame(HEADERS, EH | ES | 32, 1, &[0; 4]), FRAME_SIZE_ERROR);
}

#[test]
fn rfc_9113_6_frames_about_streams_are_not_on_stream_0_and_those_about_the_connection_are() {
    for kind in [(DATA, 1), (HEADERS, 1), (PRIORITY, 5), (RST_STREAM, 4), (CONTINUATION, 1)] {
        ends(plain(), &frame(kind.0, 0, 0, &vec![0; kind.1]), PROTOCOL_ERROR);
    }
    for kind in [(SETTINGS, 0), (PING, 8), (GOAWAY, 8)] {
        ends(open(), &frame(kind.0, 0, 1, &vec![0; kind.1]), PROTOCOL_ERROR);
    }
}

#[test]
fn rfc_9113_6_frames_of_a_fixed_size_have_it() {
    for (kind, lengths) in [(RST_STREAM, [0, 3, 5]), (WINDOW_UPDATE, [0, 3, 5]), (PRIORITY, [0, 4, 6])] {
        for len in lengths {
            ends(open(), &frame(kind, 0, 1, &vec![1; len]), FRAME_SIZE_ERROR);
        }
    }
    for (kind, flags, len) in
        [(PING, 0, 7), (PING, 0, 9), (PING, 1, 0), (SETTINGS, 0, 5), (SETTINGS, 1, 6), (GOAWAY, 0, 7)]
    {
        ends(plain(), &frame(kind, flags, 0, &vec![0; len]), FRAME_SIZE_ERROR);
    }
}

#[test]
fn rfc_9113_6_5_settings_are_acknowledged_in_order_and_unknown_ones_ignored() {
    let mut end = plain();
    end.hear(&[settings(&[(0xf0f0, 7), (4, 100)]), settings(&[]), frame(PING, 0, 0, &[7; 8])].concat()).unwrap();
    let said: Vec<_> = end.said().iter().map(|frame| (frame.kind, frame.flags, frame.payload.len())).collect();
    assert_eq!(said, [(SETTINGS, 1, 0), (SETTINGS, 1, 0), (PING, 1, 8)]);
}

#[test]
fn rfc_9113_6_5_2_settings_are_held_to_their_ranges() {
    for (id, value, code) in [
        (2, 2, PROTOCOL_ERROR),
        (4, 0x8000_0000, FLOW_CONTROL_ERROR),
        (4, u32::MAX, FLOW_CONTROL_ERROR),
        (5, 16_383, PROTOCOL_ERROR),
        (5, 0x0100_0000, PROTOCOL_ERROR),
        (8, 2, PROTOCOL_ERROR),
    ] {
        ends(plain(), &settings(&[(id, value)]), code);
    }
    for (id, value) in [(1, 0), (2, 0), (2, 1), (3, 0), (4, 0x7fff_ffff), (5, 0x00ff_ffff), (6, 0)] {
        assert!(plain().hear(&settings(&[(id, value)])).is_ok(), "{id}={value}");
    }
}

#[test]
fn rfc_9113_6_5_3_of_two_values_in_one_frame_the_last_is_in_force() {
    let mut end = plain();
    end.hear(&[settings(&[(4, 1), (4, 3)]), get(1, ES, &[])].concat()).unwrap();
    end.codec.send_head(end.ids[&1], &response(200, &[]), false, &mut end.out);
    assert_eq!(end.codec.send_data(end.ids[&1], b"hello", false, &mut end.out), 3);
}

#[test]
fn rfc_9113_6_7_a_ping_is_answered_with_its_octets_and_an_answer_is_not() {
    let mut end = plain();
    end.hear(&[frame(PING, 0, 0, b"octets!!"), frame(PING, 1, 0, b"unasked!")].concat()).unwrap();
    let said = end.said();
    assert_eq!(said, [Frame { kind: PING, flags: 1, id: 0, payload: b"octets!!".to_vec() }]);
}

#[test]
fn rfc_9113_6_9_an_increment_of_0_is_an_error_of_its_stream_or_of_the_connection() {
    ends_stream(open(), &frame(WINDOW_UPDATE, 0, 1, &[0; 4]), PROTOCOL_ERROR);
    ends_stream(open(), &frame(WINDOW_UPDATE, 0, 1, &[0x80, 0, 0, 0]), PROTOCOL_ERROR);
    ends(open(), &frame(WINDOW_UPDATE, 0, 0, &[0; 4]), PROTOCOL_ERROR);
}

#[test]
fn rfc_9113_6_9_1_a_window_above_2_31_less_1_is_an_error_of_its_stream_or_of_the_connection() {
    let most = 0x7fff_ffffu32.to_be_bytes();
    ends_stream(open(), &frame(WINDOW_UPDATE, 0, 1, &most), FLOW_CONTROL_ERROR);
    ends(open(), &frame(WINDOW_UPDATE, 0, 0, &most), FLOW_CONTROL_ERROR);
}

#[test]
fn rfc_9113_6_9_2_a_smaller_initial_window_may_make_a_streams_negative_and_the_connections_is_left_alone() {
    let mut end = plain();
    end.hear(&get(1, ES, &[])).unwrap();
    let stream = end.ids[&1];
    end.codec.send_head(stream, &response(200, &[]), false, &mut end.out);
    assert_eq!(end.codec.send_data(stream, &[0; 1000], false, &mut end.out), 1000);
    end.hear(&settings(&[(4, 100)])).unwrap();
    assert_eq!(end.codec.send_data(stream, b"x", false, &mut end.out), 0, "the window is -900");
    end.hear(&frame(WINDOW_UPDATE, 0, 1, &900u32.to_be_bytes())).unwrap();
    assert_eq!(end.codec.send_data(stream, b"x", false, &mut end.out), 0, "and now it is 0");
    let seen = end.hear(&frame(WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes())).unwrap();
    assert_eq!(seen, [Seen::Writable(Some(1))]);
    assert_eq!(end.codec.send_data(stream, b"xy", false, &mut end.out), 1);
    end.hear(&settings(&[(4, 1 << 20)])).unwrap();
    let room = end.codec.capacity(stream);
    assert_eq!(room, 65_535 - 1001, "the connection's window is what it was");
}

#[test]
fn rfc_9113_6_9_2_a_change_that_overflows_a_window_ends_the_connection() {
    let mut end = open();
    end.hear(&frame(WINDOW_UPDATE, 0, 1, &0x7000_0000u32.to_be_bytes())).unwrap();
    ends(end, &settings(&[(4, 0x7fff_ffff)]), FLOW_CONTROL_ERROR);
}

#[test]
fn rfc_9113_6_10_a_continuation_without_its_head_ends_the_connection() {
    ends(plain(), &frame(CONTINUATION, EH, 1, &[]), PROTOCOL_ERROR);
    ends(open(), &frame(CONTINUATION, EH, 1, &[]), PROTOCOL_ERROR);
    let whole = [get(1, ES, &[]), frame(CONTINUATION, EH, 1, &[])].concat();
    ends(plain(), &whole[get(1, ES, &[]).len()..], PROTOCOL_ERROR);
}

#[test]
fn rfc_9113_6_10_a_block_may_come_in_any_number_of_pieces_up_to_a_limit_empty_ones_too() {
    let whole = block(&GET);
    let mut octets = frame(HEADERS, ES, 1, &[]);
    for piece in whole.chunks(whole.len().div_ceil(6)) {
        octets.extend(frame(CONTINUATION, 0, 1, piece));
    }
    octets.extend(frame(CONTINUATION, EH, 1, &[]));
    assert!(matches!(plain().hear(&octets).unwrap()[..], [Seen::Head { id: 1, end: true, .. }]));
}

#[test]
fn rfc_9113_7_unknown_error_codes_mean_nothing_special() {
    let mut end = open();
    assert!(matches!(end.hear(&frame(RST_STREAM, 0, 1, &[0xff; 4])).unwrap()[..], [Seen::Reset { .. }]));
    assert!(end.hear(&frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])).is_ok());
    assert!(matches!(end.hear(&get(3, ES, &[])).unwrap()[..], [Seen::Head { id: 3, .. }]));
}
