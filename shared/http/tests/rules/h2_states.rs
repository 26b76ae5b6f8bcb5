//! RFC 9113 §5: what may come on a stream in which state, whatever the frame.

use steady_http::error::code::*;
use steady_http::h2::Server;
use steady_http::{Codec, Limits, Reset};

use crate::support::*;

/// What a frame must bring about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Must {
    /// Nothing at all.
    Pass,
    /// The stream ends with this code, the connection goes on.
    Stream(u32),
    /// The connection ends with this code.
    Connection(u32),
    /// A part of the message.
    Take,
}
use Must::*;

/// A server whose stream 5 is in this state.
fn in_state(state: &str) -> End<Server> {
    let mut end = server(Limits::default());
    match state {
        "idle" => {}
        "open" => _ = end.hear(&get(5, 0, &[])).unwrap(),
        "half-closed (remote)" => _ = end.hear(&get(5, ES, &[])).unwrap(),
        "half-closed (local)" => {
            end.hear(&get(5, 0, &[])).unwrap();
            end.codec.send_head(end.ids[&5], &response(200, &[]), true, &mut end.out);
        }
        "closed" => {
            end.hear(&get(5, ES, &[])).unwrap();
            end.codec.send_head(end.ids[&5], &response(200, &[]), true, &mut end.out);
        }
        "closed by the peer's reset" => {
            end.hear(&get(5, 0, &[])).unwrap();
            end.hear(&frame(RST_STREAM, 0, 5, &CANCEL.to_be_bytes())).unwrap();
        }
        "closed by our reset" => {
            end.hear(&get(5, 0, &[])).unwrap();
            end.codec.reset(end.ids[&5], Reset::ours(CANCEL, "test"), &mut end.out);
        }
        other => panic!("{other}"),
    }
    end.out.clear();
    end
}

fn of_kind(kind: &str) -> Vec<u8> {
    match kind {
        "DATA" => frame(DATA, 0, 5, b"x"),
        "HEADERS" => frame(HEADERS, EH | ES, 5, &block(&[("x-sum", "1")])),
        "PRIORITY" => frame(PRIORITY, 0, 5, &[0, 0, 0, 0, 1]),
        "RST_STREAM" => frame(RST_STREAM, 0, 5, &CANCEL.to_be_bytes()),
        "WINDOW_UPDATE" => frame(WINDOW_UPDATE, 0, 5, &1u32.to_be_bytes()),
        "CONTINUATION" => frame(CONTINUATION, EH, 5, &[]),
        "PUSH_PROMISE" => frame(PUSH_PROMISE, EH, 5, &[0, 0, 0, 8]),
        other => panic!("{other}"),
    }
}

/// What happened.
fn happens(end: &mut End<Server>, octets: &[u8]) -> Must {
    match end.hear(octets) {
        Err(error) => {
            let last = end.said().pop().expect("a GOAWAY");
            assert_eq!((last.kind, &last.payload[4..8]), (GOAWAY, &error.code.to_be_bytes()[..]));
            Connection(error.code)
        }
        Ok(seen) => match &seen[..] {
            [] => {
                assert!(end.said().iter().all(|frame| frame.kind != RST_STREAM));
                Pass
            }
            [Seen::Reset { reset, .. }] if !reset.by_peer => {
                let said = end.said();
                assert!(
                    said.iter().any(|it| it.kind == RST_STREAM && it.id == 5 && it.u32() == reset.code),
                    "{said:?}"
                );
                Stream(reset.code)
            }
            _ => Take,
        },
    }
}

/// §5.1, figure 2 and what follows it. `HEADERS` here are trailers: a request would open another stream.
const MATRIX: &[(&str, [(&str, Must); 7])] = &[
    (
        "idle",
        [
            ("DATA", Connection(PROTOCOL_ERROR)),
            ("HEADERS", Stream(PROTOCOL_ERROR)), // It opens the stream, and is no request (§8.1.1).
            ("PRIORITY", Pass),
            ("RST_STREAM", Connection(PROTOCOL_ERROR)),
            ("WINDOW_UPDATE", Connection(PROTOCOL_ERROR)),
            ("CONTINUATION", Connection(PROTOCOL_ERROR)),
            ("PUSH_PROMISE", Connection(PROTOCOL_ERROR)),
        ],
    ),
    (
        "open",
        [
            ("DATA", Take),
            ("HEADERS", Take),
            ("PRIORITY", Pass),
            ("RST_STREAM", Take),
            ("WINDOW_UPDATE", Pass),
            ("CONTINUATION", Connection(PROTOCOL_ERROR)),
            ("PUSH_PROMISE", Connection(PROTOCOL_ERROR)),
        ],
    ),
    (
        "half-closed (local)",
        [
            ("DATA", Take),
            ("HEADERS", Take),
            ("PRIORITY", Pass),
            ("RST_STREAM", Take),
            ("WINDOW_UPDATE", Pass),
            ("CONTINUATION", Connection(PROTOCOL_ERROR)),
            ("PUSH_PROMISE", Connection(PROTOCOL_ERROR)),
        ],
    ),
    (
        "half-closed (remote)",
        [
            ("DATA", Stream(STREAM_CLOSED)),
            ("HEADERS", Stream(STREAM_CLOSED)),
            ("PRIORITY", Pass),
            ("RST_STREAM", Take),
            ("WINDOW_UPDATE", Pass),
            ("CONTINUATION", Connection(PROTOCOL_ERROR)),
            ("PUSH_PROMISE", Connection(PROTOCOL_ERROR)),
        ],
    ),
    (
        "closed",
        [
            ("DATA", Connection(STREAM_CLOSED)),
            ("HEADERS", Connection(STREAM_CLOSED)),
            ("PRIORITY", Pass),
            ("RST_STREAM", Pass),
            ("WINDOW_UPDATE", Pass),
            ("CONTINUATION", Connection(PROTOCOL_ERROR)),
            ("PUSH_PROMISE", Connection(PROTOCOL_ERROR)),
        ],
    ),
    (
        "closed by the peer's reset",
        [
            ("DATA", Connection(STREAM_CLOSED)),
            ("HEADERS", Connection(STREAM_CLOSED)),
            ("PRIORITY", Pass),
            ("RST_STREAM", Pass),
            ("WINDOW_UPDATE", Pass),
            ("CONTINUATION", Connection(PROTOCOL_ERROR)),
            ("PUSH_PROMISE", Connection(PROTOCOL_ERROR)),
        ],
    ),
    (
        "closed by our reset",
        [
            ("DATA", Pass),
            ("HEADERS", Pass),
            ("PRIORITY", Pass),
            ("RST_STREAM", Pass),
            ("WINDOW_UPDATE", Pass),
            ("CONTINUATION", Connection(PROTOCOL_ERROR)),
            ("PUSH_PROMISE", Connection(PROTOCOL_ERROR)),
        ],
    ),
];

#[test]
fn rfc_9113_5_1_every_frame_in_every_state() {
    for (state, frames) in MATRIX {
        for (kind, must) in frames {
            assert_eq!(happens(&mut in_state(state), &of_kind(kind)), *must, "{kind} while {state}");
        }
    }
}

#[test]
fn rfc_9113_5_1_1_streams_of_a_client_are_odd_grow_and_close_those_that_were_passed_over() {
    for id in [2, 4, 0x7fff_fffe] {
        assert_eq!(happens(&mut in_state("idle"), &get(id, ES, &[])), Connection(PROTOCOL_ERROR), "{id}");
    }
    for id in [1, 3] {
        assert_eq!(happens(&mut in_state("open"), &get(id, ES, &[])), Connection(PROTOCOL_ERROR), "{id} after 5");
    }
    assert_eq!(happens(&mut in_state("open"), &get(0x7fff_ffff, ES, &[])), Take);
}

#[test]
fn rfc_9113_5_1_2_a_stream_beyond_the_limit_is_refused_and_one_after_an_end_is_not() {
    let mut end = server(Limits { streams_max: 2, ..Limits::default() });
    end.hear(&[get(1, 0, &[]), get(3, 0, &[])].concat()).unwrap();
    let seen = end.hear(&get(5, 0, &[])).unwrap();
    assert!(matches!(seen[..], [Seen::Reset { id: 5, reset: Reset { code: REFUSED_STREAM, .. } }]), "{seen:?}");
    end.hear(&frame(RST_STREAM, 0, 1, &[0; 4])).unwrap();
    assert!(matches!(end.hear(&get(7, 0, &[])).unwrap()[..], [Seen::Head { id: 7, .. }]));
}

#[test]
fn rfc_9113_5_4_2_no_reset_answers_a_reset() {
    for state in ["open", "closed", "closed by our reset", "half-closed (remote)"] {
        let mut end = in_state(state);
        end.hear(&of_kind("RST_STREAM")).unwrap();
        assert_eq!(end.said(), [], "{state}");
    }
}

#[test]
fn rfc_9113_5_2_data_of_a_stream_that_is_gone_counts_for_the_connection() {
    let limits = Limits { connection_window: 65_535, ..Limits::default() };
    let mut end = server(limits);
    end.hear(&get(1, 0, &[])).unwrap();
    end.codec.reset(end.ids[&1], Reset::ours(CANCEL, "test"), &mut end.out);
    end.out.clear();
    for _ in 0..3 {
        assert_eq!(end.hear(&frame(DATA, 0, 1, &[0; 16_000])).unwrap(), []);
    }
    let said = end.said();
    assert!(said.iter().any(|frame| frame.kind == WINDOW_UPDATE && frame.id == 0), "given back: {said:?}");
    // What was not given back is not there.
    let mut end = server(Limits { connection_window: 65_535, stream_window: 1 << 20, ..Limits::default() });
    end.hear(&get(1, 0, &[])).unwrap();
    let flood = vec![frame(DATA, 0, 1, &[0; 16_384]); 3].concat();
    end.hear(&flood).unwrap();
    assert!(end.hear(&flood).is_ok(), "half of the window is always returned");
}

#[test]
fn rfc_9113_5_5_frames_of_unknown_kinds_are_ignored_but_not_within_a_block() {
    for id in [0, 5, 99] {
        assert_eq!(happens(&mut in_state("open"), &frame(0xbe, 0xff, id, b"whatever")), Pass, "on stream {id}");
    }
    let mut end = server(Limits::default());
    let open = frame(HEADERS, 0, 1, &block(&GET));
    let split = [open, frame(0xbe, 0, 1, b"whatever")].concat();
    assert_eq!(happens(&mut end, &split), Connection(PROTOCOL_ERROR));
}
