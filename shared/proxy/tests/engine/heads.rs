//! Heads and trailers that somebody makes us keep.

use steady_proxy::{Bounds, Late, Limits, Outcome};
use steady_ring::{ConnId, Faults};

use crate::frames as h2;
use crate::lab::{Lab, SECOND};

/// A client whose requests are sent at once and whose answers are not read from then on.
fn deaf(lab: &mut Lab, requests: Vec<u8>) -> ConnId {
    lab.world.net.set_faults(Faults { segment_bytes_max: 1 << 30, ..Faults::none() });
    let client = lab.send([&h2::PREFACE[..24], &h2::setting(4, 1 << 20), &requests].concat());
    lab.wait(SECOND);
    lab.client.borrow_mut().pause(client);
    client
}

#[test]
fn heads_of_answers_that_a_client_does_not_read_are_kept_up_to_a_bound() {
    const STREAMS: usize = 60;
    let mut lab = Lab::h1();
    let client = deaf(&mut lab, (0..STREAMS as u32).flat_map(|stream| h2::get(2 * stream + 1, true)).collect());
    let large = format!("set-cookie: {}\r\n\r\n", "x".repeat(30_000));
    let mut most = 0;
    for index in 0..STREAMS {
        let up = lab.upstream(index);
        let answer =
            [&*format!("HTTP/1.1 103 Early Hints\r\n{large}").repeat(8), "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n"];
        lab.origin.borrow_mut().send(up, [answer.concat(), large.clone()].concat());
        lab.wait(SECOND / 10);
        most = most.max(lab.world.proxies[0].worker().held_bytes());
    }
    assert!(most < 1 << 20, "{most} octets are held");
    let stats = lab.world.proxies[0].stats();
    let cut = stats.outcomes[Outcome::Cut as usize].value();
    assert!(cut > 20 && cut < STREAMS as u64 - 5, "{cut} answers were cut");
    assert_eq!(stats.clients_late[Late::Read as usize].value(), cut);
    lab.client.borrow_mut().abort(client);
    lab.end();
}

#[test]
fn trailers_wait_for_a_client_that_does_not_read() {
    const STREAMS: usize = 60;
    let mut lab = Lab::h1();
    let client = deaf(&mut lab, (0..STREAMS as u32).flat_map(|stream| h2::get(2 * stream + 1, true)).collect());
    let trailer = format!("x-t: {}\r\n\r\n", "x".repeat(30_000));
    for index in 0..STREAMS {
        let up = lab.upstream(index);
        let answer = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{trailer}");
        lab.origin.borrow_mut().send(up, answer);
        lab.wait(SECOND / 10);
    }
    let stats = lab.world.proxies[0].stats();
    assert_eq!(stats.outcomes[Outcome::Cut as usize].value(), 0);
    assert!(stats.heads_bytes.value() > 1 << 20, "they are counted: {}", stats.heads_bytes.value());
    lab.client.borrow_mut().resume(client);
    lab.wait(10 * SECOND);
    assert_eq!(stats.outcomes[Outcome::Complete as usize].value(), STREAMS as u64);
    assert_eq!(stats.heads_bytes.value(), 0);
    for stream in 0..STREAMS as u32 {
        assert_eq!(h2::body(lab.client.borrow().got(client), 2 * stream + 1), b"ok");
        assert_eq!(h2::count(lab.client.borrow().got(client), 1, 2 * stream + 1), 2, "a head and trailers");
    }
    lab.client.borrow_mut().abort(client);
    lab.end();
}

/// `x-t` with so many octets, nothing indexed.
fn trailers(stream: u32, len: usize) -> Vec<u8> {
    let mut block = b"\0\x03x-t\x7f".to_vec();
    let mut rest = len - 127;
    while rest >= 128 {
        block.push(rest as u8 | 128);
        rest >>= 7;
    }
    block.push(rest as u8);
    block.resize(block.len() + len, b'x');
    h2::frame(1, 5, stream, &block)
}

#[test]
fn trailers_count_among_heads_and_are_refused_where_those_fill_their_room() {
    let mut lab = Lab::h1();
    let worker = Limits { exchanges_max: 32, heads_bytes_max: 64 << 10, ..Limits::default() };
    lab.bound(Bounds { worker, ..Bounds::default() });
    let post = |stream| h2::frame(1, 4, stream, b"\x83\x86\x84\x01\x06a.test");
    let client = lab.send([&h2::PREFACE[..24], &h2::setting(4, 1 << 20)].concat());
    for stream in [1, 3, 5, 7, 9, 11] {
        lab.client.borrow_mut().send(client, post(stream));
        lab.wait(SECOND);
        lab.client.borrow_mut().send(client, trailers(stream, 15_000));
        lab.wait(SECOND);
    }
    let stats = lab.world.proxies[0].stats();
    let held = stats.heads_bytes.value();
    assert!((50 << 10..80 << 10).contains(&held), "{held}");
    let refused = String::from_utf8(h2::body(lab.client.borrow().got(client), 9)).unwrap();
    assert!(refused.contains("was cut") || refused.contains("overloaded"), "{refused}");
    lab.client.borrow_mut().abort(client);
    lab.wait(SECOND);
    assert_eq!(stats.heads_bytes.value(), 0, "there is room again");
    lab.end();
}

#[test]
fn a_client_that_pings_for_hours_while_it_listens_is_served_on() {
    let mut lab = Lab::h1();
    let client = lab.send([&h2::PREFACE[..24], &h2::setting(4, 1 << 20), &h2::get(1, true)].concat());
    let up = lab.upstream(0);
    lab.origin.borrow_mut().send(up, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    for ping in 0..3_000 {
        lab.client.borrow_mut().send(client, h2::frame(6, 0, 0, &[7; 8]));
        if ping % 100 == 0 {
            lab.origin.borrow_mut().send(up, "1\r\n!\r\n");
        }
        lab.wait(10 * SECOND);
    }
    lab.origin.borrow_mut().send(up, "0\r\n\r\n");
    lab.wait(SECOND);
    assert_eq!(h2::body(lab.client.borrow().got(client), 1), [b'!'; 30]);
    assert_eq!(lab.world.proxies[0].outcomes(Outcome::Complete), 1);
    lab.end();
}
