//! Every limit answers, with its name.

use std::rc::Rc;

use crate::support::*;
use proptest::prelude::*;
use steady_http::error::code::*;
use steady_http::h2::{Client, Server};
use steady_http::{Client as _, Codec, Error, Limit, Limits, Scheme};

/// Says `octets(n)` for n = 0, 1, … until the connection ends, taking the output each time or never.
fn until_it_ends(
    end: &mut End<Server>,
    take: bool,
    rounds: u32,
    octets: impl Fn(u32) -> Vec<u8>,
) -> Option<(u32, Error)> {
    (0..rounds).find_map(|round| {
        let result = end.hear(&octets(round));
        if take {
            end.out.clear();
        }
        result.err().map(|error| (round, error))
    })
}

#[track_caller]
fn ends(end: &mut End<Server>, take: bool, rounds: u32, limit: Limit, octets: impl Fn(u32) -> Vec<u8>) -> u32 {
    let (round, error) = until_it_ends(end, take, rounds, octets).expect("the limit should have answered");
    assert_eq!((error.code, error.limit), (ENHANCE_YOUR_CALM, Some(limit)));
    round
}

fn cancel(id: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, id, &CANCEL.to_be_bytes())
}

#[test]
fn rapid_reset() {
    let attack = |round: u32| [get(round * 2 + 1, ES, &[]), cancel(round * 2 + 1)].concat();
    assert_eq!(ends(&mut server(Limits::default()), true, 200, Limit::Resets, attack), 100);
}

#[test]
fn a_browser_that_cancels_now_and_then_is_no_attack() {
    let mut end = server(Limits::default());
    for round in 0..2000 {
        let id = round * 2 + 1;
        end.hear(&get(id, ES, &[])).unwrap();
        if round % 2 == 0 {
            end.hear(&cancel(id)).unwrap();
        } else {
            end.codec.send_head(end.ids[&id], &response(204, &[]), true, &mut end.out);
        }
        end.out.clear();
    }
}

#[test]
fn made_you_reset() {
    let provoke = |round: u32| {
        let id = round * 2 + 1;
        [get(id, 0, &[]), frame(WINDOW_UPDATE, 0, id, &[0; 4])].concat()
    };
    assert_eq!(ends(&mut server(Limits::default()), true, 200, Limit::ProvokedResets, provoke), 100);
    let malformed = |round: u32| get(round * 2 + 1, ES, &[("connection", "close")]);
    assert_eq!(ends(&mut server(Limits::default()), true, 200, Limit::ProvokedResets, malformed), 100);
    let late = |round: u32| [get(round * 2 + 1, ES, &[]), frame(DATA, 0, round * 2 + 1, b"x")].concat();
    assert_eq!(ends(&mut server(Limits::default()), true, 200, Limit::ProvokedResets, late), 100);
}

#[test]
fn streams_beyond_the_limit_again_and_again() {
    let mut end = server(Limits { streams_max: 1, ..Limits::default() });
    end.hear(&get(1, 0, &[])).unwrap();
    assert_eq!(ends(&mut end, true, 200, Limit::ProvokedResets, |round| get(round * 2 + 3, ES, &[])), 100);
}

#[test]
fn streams_beyond_the_limit_of_a_peer_that_never_acknowledges_it() {
    let mut end = End::of(Server::new(Rc::new(Limits { streams_max: 1, ..Limits::default() }), Scheme::Https));
    end.hear(&[PREFACE, &settings(&[])].concat()).unwrap();
    end.hear(&get(1, 0, &[])).unwrap();
    assert_eq!(ends(&mut end, true, 2000, Limit::ControlFrames, |round| get(round * 2 + 3, ES, &[])), 1000);
}

#[test]
fn continuation_flood() {
    let attack = |round: u32| match round {
        0 => frame(HEADERS, ES, 1, &block(&GET)),
        _ => frame(CONTINUATION, 0, 1, &[]),
    };
    assert_eq!(ends(&mut server(Limits::default()), true, 100, Limit::Continuations, attack), 9);
}

#[test]
fn a_block_that_is_gathered_is_bounded_in_octets() {
    let mut end = server(Limits { head_bytes_max: 1000, ..Limits::default() });
    let error = end.hear(&frame(HEADERS, ES, 1, &[0; 5000])).unwrap_err();
    assert_eq!((error.code, error.limit), (ENHANCE_YOUR_CALM, Some(Limit::HeadBytes)));
}

#[test]
fn hpack_bomb() {
    let mut end = server(Limits::default());
    let mut bomb = block(&GET);
    bomb.extend(b"\x40\x01x\x7f\xa1\x1e");
    bomb.extend([b'v'; 4000]);
    bomb.extend([0x80 | 62; 8000]);
    let error = end.hear(&frame(HEADERS, EH | ES, 1, &bomb)).unwrap_err();
    assert_eq!((error.code, error.limit), (ENHANCE_YOUR_CALM, Some(Limit::HeadBytes)));
    assert!(end.head.footprint() < 200 * 1024, "{}", end.head.footprint());
}

#[test]
fn empty_data() {
    let mut end = server(Limits::default());
    end.hear(&get(1, 0, &[])).unwrap();
    assert_eq!(ends(&mut end, true, 200, Limit::EmptyData, |_| frame(DATA, 0, 1, &[])), 100);
    let mut end = server(Limits::default());
    end.hear(&get(1, 0, &[])).unwrap();
    assert_eq!(ends(&mut end, true, 200, Limit::EmptyData, |_| frame(DATA, 8, 1, &[1, 0])), 100);
    let mut end = server(Limits::default());
    end.hear(&get(1, 0, &[])).unwrap();
    let mixed = |_| [frame(DATA, 0, 1, &[]), frame(DATA, 0, 1, b"x")].concat();
    assert_eq!(until_it_ends(&mut end, true, 1000, mixed), None);
}

#[test]
fn pings_settings_priorities_and_noise() {
    for flood in [
        frame(PING, 0, 0, &[0; 8]),
        frame(PING, 1, 0, &[0; 8]),
        settings(&[]),
        frame(SETTINGS, 1, 0, &[]),
        frame(PRIORITY, 0, 1, &[0; 5]),
        frame(77, 0, 0, &[]),
        frame(GOAWAY, 0, 0, &[0; 8]),
    ] {
        let ended = ends(&mut server(Limits::default()), true, 2000, Limit::ControlFrames, |_| flood.clone());
        assert!((990..=1000).contains(&ended), "{ended}");
    }
    let entries = vec![(99, 1); 1001];
    let error = server(Limits::default()).hear(&settings(&entries)).unwrap_err();
    assert_eq!(error.limit, Some(Limit::ControlFrames));
    let with_streams =
        |round: u32| [frame(PING, 0, 0, &[0; 8]), get(round * 2 + 1, ES, &[]), cancel(round * 2 + 1)].concat();
    let mut patient = server(Limits { resets_max: 10_000, ..Limits::default() });
    assert_eq!(until_it_ends(&mut patient, true, 5000, with_streams), None);
}

#[test]
fn replies_that_nobody_reads() {
    for flood in [frame(PING, 0, 0, &[0; 8]), settings(&[])] {
        let mut end = server(Limits { control_frames_max: 1_000_000, ..Limits::default() });
        ends(&mut end, false, 5000, Limit::Replies, |_| flood.clone());
        assert!(end.out.len() < 20_000);
        let mut end = server(Limits { control_frames_max: 1_000_000, ..Limits::default() });
        assert_eq!(until_it_ends(&mut end, true, 5000, |_| flood.clone()), None);
    }
}

#[test]
fn windows_overrun_by_name() {
    let large = Limits { frame_bytes_max: 1 << 20, stream_window: 1 << 20, connection_window: 0, ..Limits::default() };
    let mut end = server(large);
    end.hear(&get(1, 0, &[])).unwrap();
    let error = end.hear(&frame(DATA, 0, 1, &[0; 65_536])).unwrap_err();
    assert_eq!((error.code, error.limit), (FLOW_CONTROL_ERROR, Some(Limit::ConnectionWindow)));
    let mut end = server(Limits { stream_window: 100, ..Limits::default() });
    end.hear(&get(1, 0, &[])).unwrap();
    let seen = end.hear(&frame(DATA, 0, 1, &[0; 101])).unwrap();
    assert!(matches!(seen[..], [Seen::Reset { reset, .. }] if reset.limit == Some(Limit::StreamWindow)));
    let error = server(Limits::default()).hear(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]).unwrap_err();
    assert_eq!((error.code, error.limit), (FRAME_SIZE_ERROR, Some(Limit::FrameBytes)));
}

fn some_frames() -> impl Strategy<Value = Vec<u8>> {
    let one = prop_oneof![
        (0u8..12, any::<u8>(), 0u32..8, proptest::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(kind, flags, id, payload)| frame(kind, flags, id, &payload)),
        (0u32..8, any::<bool>()).prop_map(|(id, end)| get(id | 1, u8::from(end), &[("a", "b")])),
        (0u32..8, any::<bool>(), 0usize..50).prop_map(|(id, end, len)| frame(
            DATA,
            u8::from(end),
            id | 1,
            &vec![7; len]
        )),
        (0u16..9, any::<u32>()).prop_map(|(id, value)| settings(&[(id, value % 70_000)])),
        proptest::collection::vec(any::<u8>(), 0..30),
    ];
    proptest::collection::vec(one, 0..30).prop_map(|frames| frames.concat())
}

proptest! {
    #[test]
    fn whatever_arrives_nothing_panics_and_any_split_says_the_same(
        octets in some_frames(),
        cuts in proptest::collection::vec(1usize..60, 1..40),
    ) {
        let whole = hear_split(&octets, &[octets.len().max(1)]);
        prop_assert_eq!(&hear_split(&octets, &cuts), &whole);
        prop_assert_eq!(&hear_split(&octets, &[1]), &whole);
    }

    #[test]
    fn random_octets_do_not_panic_a_client(octets in some_frames()) {
        let mut end = End::of(Client::new(Rc::new(Limits::default()), Scheme::Http));
        for _ in 0..3 {
            end.codec.open(&request("GET", "/", &[]), false, &mut end.out);
        }
        let _ = end.hear(&settings(&[]));
        let _ = end.hear(&octets);
    }
}

type Heard = (Vec<Seen>, Option<Error>, Vec<Frame>);

/// What a server hears and says when the octets arrive in pieces of these sizes (again and again), pieces of one DATA
/// frame put together.
fn hear_split(octets: &[u8], cuts: &[usize]) -> Heard {
    let mut end = server(Limits::default());
    let (mut all, mut error) = (Vec::<Seen>::new(), None);
    let mut rest = octets;
    for cut in cuts.iter().cycle() {
        let (piece, after) = rest.split_at(rest.len().min(*cut));
        rest = after;
        end.input.extend_from_slice(piece);
        loop {
            match end.next() {
                Ok(None) => break,
                Ok(Some(seen)) => match (all.last_mut(), seen) {
                    (
                        Some(Seen::Data { id, data, flow, end: last }),
                        Seen::Data { id: next_id, data: more, flow: more_flow, end: next_last },
                    ) if *id == next_id && !*last => {
                        data.extend(more);
                        *flow += more_flow;
                        *last = next_last;
                    }
                    (_, seen) => all.push(seen),
                },
                Err(ended) => {
                    error = Some(ended);
                    break;
                }
            }
        }
        assert!(end.input.len() < 17 || error.is_some(), "little stays unconsumed: {}", end.input.len());
        if rest.is_empty() || error.is_some() {
            break;
        }
    }
    (all, error, end.said())
}
