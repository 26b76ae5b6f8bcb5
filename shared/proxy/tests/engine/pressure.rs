//! Back-pressure: who does not read stops who sends, and nobody else.

use std::sync::Arc;
use std::time::Duration;

use steady_proxy::Timeouts;
use steady_ring::Faults;

use crate::frames as h2;
use crate::lab::{Chain, GET, HELD_MAX, Lab, SECOND};
use crate::world::client::{End, Want};
use crate::world::config;
use crate::world::plan::Plan;
use crate::world::policy::{Place, Scene};

#[test]
fn a_chunked_upload_to_an_origin_that_does_not_read_is_held_back() {
    let mut lab = Lab::h1();
    // What is sent at once arrives at once.
    lab.world.net.set_faults(Faults { segment_bytes_max: 1 << 30, ..Faults::none() });
    let client = lab.send("POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n3");
    let up = lab.upstream(0);
    lab.origin.borrow_mut().pause(up);
    // Each piece ends within a chunk's size line, so that something is left over that cannot be read yet.
    let chunk = [b"fb\r\n".to_vec(), vec![b'x'; 0x3fb], b"\r\n3".to_vec()].concat();
    let mut most = 0;
    for _ in 0..4_000 {
        if lab.client.borrow().unsent(client) == 0 {
            lab.client.borrow_mut().send(client, &chunk);
        }
        lab.wait(Duration::from_millis(1));
        most = most.max(lab.world.proxies[0].worker().held_bytes());
    }
    assert!(most < HELD_MAX, "{most} octets held");
    lab.end();
}

#[test]
fn a_client_that_pipelines_without_reading_is_held_back() {
    let mut lab = Lab::h1();
    let client = lab.send(GET);
    let mut most = 0;
    for _ in 0..4_000 {
        if lab.client.borrow().unsent(client) == 0 {
            lab.client.borrow_mut().send(client, GET.repeat(50));
        }
        lab.wait(Duration::from_millis(1));
        most = most.max(lab.world.proxies[0].worker().held_bytes());
    }
    assert!(most < HELD_MAX, "{most} octets held");
    lab.client.borrow_mut().abort(client);
    lab.end();
}

#[test]
fn a_reader_that_stops_stops_the_origin_and_grows_nothing() {
    let mut lab = Lab::h1();
    let client = lab.send(GET);
    let up = lab.upstream(0);
    lab.client.borrow_mut().pause(client);
    lab.origin.borrow_mut().send(up, "HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n");
    let piece = vec![b'x'; 60_000];
    let (mut most, mut sent) = (0, 0);
    for _ in 0..300 {
        if lab.origin.borrow().unsent(up) == 0 {
            lab.origin.borrow_mut().send(up, &piece);
            sent += piece.len();
        }
        lab.wait(Duration::from_millis(5));
        most = most.max(lab.world.proxies[0].worker().held_bytes());
    }
    assert!(most < HELD_MAX && sent < 2 * HELD_MAX, "{most} held of {sent}");
    lab.client.borrow_mut().abort(client);
    lab.end();
}

#[test]
fn a_slow_reader_on_one_h2_stream_never_freezes_its_neighbours() {
    let mut chain = Chain::new(false);
    // The first stream takes its window's worth and gives nothing back; all others share every connection with it.
    let now = chain.world.now();
    chain.clients.borrow_mut().app.slow = 20 * SECOND;
    chain.want(Want::new(Plan { download: 2 << 20, ..Plan::plain(1) }, true, now));
    chain.world.run_for(SECOND);
    for id in 2..40 {
        let now = chain.world.now();
        chain.want(Want::new(Plan { download: 30_000, upload: 30_000, ..Plan::plain(id) }, true, now));
    }
    chain.world.run_for(5 * SECOND);
    for id in 2..40 {
        assert_eq!(chain.end_of(id), Some(End::Answered(200, true)), "request {id}");
    }
    assert_eq!(chain.end_of(1), None, "it is still being read");
}

#[test]
fn answers_that_a_client_does_not_read_stop_it_from_asking_for_more() {
    for is_h2 in [false, true] {
        let mut lab = Lab::h1();
        lab.world.proxies[0].plane.publish(Arc::new(Scene::to(Vec::new())));
        let client = lab.send(if is_h2 { h2::PREFACE } else { b"" });
        lab.wait(SECOND / 10);
        lab.client.borrow_mut().pause(client);
        let (mut most, mut stream, mut asked) = (0, 1, 0);
        for _ in 0..500 {
            if lab.client.borrow().unsent(client) == 0 {
                for _ in 0..50 {
                    // Without bodies, which HTTP/2 would hold back by itself.
                    let request = if is_h2 { h2::head(stream) } else { GET.into() };
                    lab.client.borrow_mut().send(client, request);
                    stream += 2;
                    asked += 1;
                }
            }
            lab.wait(Duration::from_millis(5));
            most = most.max(lab.world.proxies[0].worker().held_bytes());
        }
        assert!(most < HELD_MAX, "{most} octets held for {asked} requests (HTTP/2: {is_h2})");
        lab.client.borrow_mut().resume(client);
        lab.wait(20 * SECOND);
        // (In HTTP/2 it has more streams open than it was told it may have, and is sent away.)
        let answered = lab.world.proxies[0].stats().responses[4].value();
        assert!(is_h2 || answered == asked, "{answered} of {asked} are answered once the client reads");
        lab.client.borrow_mut().abort(client);
        lab.end();
    }
}

#[test]
fn connections_to_an_upstream_are_as_many_as_streams_that_stay_need_and_no_more_than_a_bound() {
    let mut few = config();
    few.limits.h2_connections_full_max = 4;
    let mut lab = Lab::with(|addr| Place::h2(1, addr), &few, Timeouts::default());
    // Two streams of three are for requests, one is kept for questions.
    for connection in 0..4 {
        lab.send(GET);
        let up = lab.upstream(connection);
        lab.origin.borrow_mut().send(up, h2::setting(3, 3));
        lab.wait(SECOND);
        lab.send(GET);
        lab.wait(SECOND);
        assert_eq!(lab.origin.borrow().accepted.len(), connection + 1);
    }
    let waiting = lab.send(GET);
    lab.wait(SECOND);
    assert_eq!(lab.origin.borrow().accepted.len(), 4, "that is the bound");
    let last = lab.upstream(3);
    lab.origin.borrow_mut().send(last, [h2::ok(1, true), h2::ok(3, true)].concat());
    lab.wait(SECOND);
    lab.origin.borrow_mut().send(last, h2::ok(5, true));
    lab.client_got(waiting, b"\r\n\r\n");
    lab.end();
}

#[test]
fn heads_that_an_upstream_does_not_read_wait_for_a_connection_and_no_more_of_them_is_written_than_a_bound() {
    let mut one = config();
    one.limits.h2_connections_max = 1;
    let mut lab = Lab::with(|addr| Place::h2(1, addr), &one, Timeouts::default());
    let warm = lab.send(GET);
    let up = lab.upstream(0);
    lab.origin.borrow_mut().send(up, [h2::setting(3, 10_000), h2::ok(1, true)].concat());
    lab.client_got(warm, b"\r\n\r\n");
    lab.origin.borrow_mut().pause(up);
    let fields: String = (0..4).map(|field| format!("x-{field}: {}\r\n", "v".repeat(4_000))).collect();
    let get = format!("GET / HTTP/1.1\r\nhost: a.test\r\n{fields}\r\n");
    let clients: Vec<_> = (0..200).map(|_| lab.send(&get)).collect();
    lab.wait(2 * SECOND);
    let held = lab.world.proxies[0].worker().held_bytes();
    assert!(held < HELD_MAX, "{held} octets held");
    lab.origin.borrow_mut().resume(up);
    lab.wait(SECOND);
    let frames = h2::frames(lab.origin.borrow().got(up));
    let streams: Vec<u32> = frames.iter().filter(|frame| frame.0 == 1 && frame.2 > 1).map(|frame| frame.2).collect();
    assert_eq!(streams.len(), 200, "all go on once there is room");
    let answers: Vec<u8> = streams.into_iter().flat_map(|stream| h2::ok(stream, true)).collect();
    lab.origin.borrow_mut().send(up, answers);
    lab.wait(SECOND);
    for client in clients {
        assert!(lab.client.borrow().text(client).starts_with("HTTP/1.1 200 "));
    }
    lab.end();
}
