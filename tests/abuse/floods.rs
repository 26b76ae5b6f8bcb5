//! Floods of HTTP/2 frames that cost the sender little and the receiver much.

use std::time::Instant;

use steady_heap::of_process;

use crate::frames::*;
use crate::house::Setup;
use crate::siege::{limit, withstand};

/// What may have reached the application of requests that were taken back at once, since then: the limit, a connection's streams,
/// and what is forgotten each second.
fn reached_max(since: Instant) -> usize {
    100 + 128 + 10 * (since.elapsed().as_secs() as usize + 1)
}

#[track_caller]
fn is_calmed(heard: &Heard) {
    assert_eq!(heard.goaway(), Some(ENHANCE_YOUR_CALM), "{heard:?}");
}

#[test]
fn rapid_reset_ends_the_connection_and_few_requests_reach_the_application() {
    withstand(Setup::default, &[limit("resets")], |house| {
        let began = Instant::now();
        is_calmed(&Attacker::open(house.plain).flood(|round| {
            let stream = nth(round);
            [get(stream, END_STREAM), reset(stream)].concat()
        }));
        let reached = house.origin.seen().iter().filter(|(line, _)| line == "GET /attack").count();
        assert!(reached <= reached_max(began), "{reached} requests reached the application");
    });
}

#[test]
fn streams_that_we_are_made_to_reset_end_the_connection() {
    type Provoke = fn(u32) -> Vec<u8>;
    let provocations: [Provoke; 4] = [
        |stream| [get(stream, 0), frame(WINDOW_UPDATE, 0, stream, &[0; 4])].concat(),
        |stream| [get(stream, 0), frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff])].concat(),
        |stream| [get(stream, END_STREAM), frame(DATA, 0, stream, b"x")].concat(),
        |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &block("GET", "/attack", &[("connection", "close")])),
    ];
    for provoke in provocations {
        withstand(Setup::default, &[limit("provoked_resets")], |house| {
            let began = Instant::now();
            is_calmed(&Attacker::open(house.plain).flood(|round| provoke(nth(round))));
            let reached = house.origin.seen().iter().filter(|(line, _)| line == "GET /attack").count();
            assert!(reached <= reached_max(began), "{reached} requests reached the application");
        });
    }
}

#[test]
fn a_head_that_never_ends_ends_the_connection() {
    for part in [vec![], field(b"x", b"y")] {
        withstand(Setup::default, &[limit("continuations")], |house| {
            is_calmed(&Attacker::open(house.plain).flood(|round| match round {
                0 => frame(HEADERS, END_STREAM, 1, &block("GET", "/attack", &[])),
                _ => frame(CONTINUATION, 0, 1, &part),
            }));
        });
    }
}

#[test]
fn floods_of_frames_that_carry_nothing_end_the_connection() {
    let floods = [
        frame(PING, 0, 0, &[7; 8]),
        frame(PING, 1, 0, &[7; 8]),
        frame(SETTINGS, 0, 0, &[]),
        setting(4, 65_535),
        frame(SETTINGS, 1, 0, &[]),
        frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 0]),
        frame(77, 0, 0, &[1; 100]),
    ];
    for flood in floods {
        // One that does not read in time is stopped by what would wait for it.
        withstand(Setup::default, &[limit("control_frames"), limit("replies")], |house| {
            is_calmed(&Attacker::open(house.plain).flood(|_| flood.repeat(50)));
        });
    }
}

#[test]
fn data_frames_without_data_end_the_connection() {
    for empty in [frame(DATA, 0, 1, &[]), frame(DATA, 8, 1, &[3, 0, 0, 0])] {
        withstand(Setup::default, &[limit("empty_data")], |house| {
            is_calmed(&Attacker::open(house.plain).flood(|round| match round {
                0 => frame(HEADERS, END_HEADERS, 1, &block("POST", "/attack", &[])),
                _ => empty.clone(),
            }));
        });
    }
}

#[test]
fn replies_that_nobody_reads_are_bounded_and_end_the_connection() {
    withstand(Setup::default, &[limit("control_frames"), limit("replies")], |house| {
        let before = of_process().octets;
        let mut attacker = Attacker::open(house.plain);
        // Not a word is read until writing fails.
        while attacker.say(&frame(PING, 0, 0, &[7; 8]).repeat(200)) {}
        assert!(of_process().octets - before < 1 << 20);
        attacker
    });
}

#[test]
fn more_streams_than_were_offered_are_refused_and_in_the_end_the_connection() {
    // None of them ever ends: the body is not sent.
    let open = |round| frame(HEADERS, END_HEADERS, nth(round), &block("POST", "/hold", &[]));
    let refused = |heard: &Heard| {
        is_calmed(heard);
        heard.frames().iter().filter(|(kind, .., payload)| *kind == RST_STREAM && payload[3] == 7).count()
    };
    withstand(Setup::default, &[limit("provoked_resets")], |house| {
        let mut attacker = Attacker::open(house.plain);
        attacker.say(&frame(SETTINGS, 1, 0, &[]));
        assert!(refused(&attacker.flood(open)) >= 90);
    });
    // Who has not acknowledged how many there may be has more patience, but no more than that.
    withstand(Setup::default, &[limit("control_frames")], |house| {
        assert!(refused(&Attacker::open(house.plain).flood(open)) >= 900);
    });
}
