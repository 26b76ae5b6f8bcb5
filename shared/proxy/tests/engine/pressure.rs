//! Back-pressure: who does not read stops who sends, and nobody else.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use steady_proxy::{Late, Outcome, Timeouts};
use steady_ring::{ConnId, Faults};

use crate::frames as h2;
use crate::lab::{Chain, GET, HELD_MAX, Lab, OK, SECOND};
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

/// A lab whose worker may hold a MiB of bodies in all.
fn narrow(place: impl Fn(SocketAddr) -> Place) -> Lab {
    let mut narrow = config();
    narrow.limits.bodies_bytes_max = 1 << 20;
    Lab::with(place, &narrow, Timeouts::default())
}

#[test]
fn past_the_bound_of_all_bodies_those_are_cut_whose_octets_stand_longest() {
    const PIECES: usize = 200;
    let mut lab = narrow(|addr| Place::h1(1, addr));
    let piece = vec![b'x'; 60_000];
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", PIECES * piece.len());
    // The first one reads what it gets; 40 others do not.
    let mut ups = Vec::new();
    let clients: Vec<ConnId> = (0..41)
        .map(|number| {
            let client = lab.send(GET);
            let up = lab.upstream(number);
            lab.client.borrow_mut().count_only(client);
            if number > 0 {
                lab.client.borrow_mut().pause(client);
            }
            lab.origin.borrow_mut().send(up, &head);
            ups.push((up, 0));
            client
        })
        .collect();
    let mut most = 0;
    for _ in 0..2_000 {
        for (up, sent) in &mut ups {
            if *sent < PIECES && lab.origin.borrow().unsent(*up) == 0 {
                lab.origin.borrow_mut().send(*up, &piece);
                *sent += 1;
            }
        }
        lab.wait(Duration::from_millis(1));
        most = most.max(lab.world.proxies[0].stats().bodies_bytes.value());
    }
    let stats = lab.world.proxies[0].stats();
    assert!((700_000..=1 << 20).contains(&most), "{most} octets held");
    assert!(stats.bodies_bytes.value() <= 1 << 19, "what stands for a second may hold half");
    assert_eq!(lab.client.borrow().total(clients[0]), (head.len() + PIECES * piece.len()) as u64, "who reads gets all");
    // Eight that hold a window are half of it.
    let cut = stats.bodies_cut.value();
    assert!((30..=36).contains(&cut), "{cut} were cut");
    assert_eq!(stats.outcomes[Outcome::Cut as usize].value(), cut);
    // Neither does what is on its way to them stay, nor their place.
    assert_eq!(stats.connections_open.value(), clients.len() as u64 - cut);
    for &client in &clients {
        lab.client.borrow_mut().abort(client);
    }
    lab.end();
}

#[test]
fn a_worker_that_was_stopped_reads_who_took_what_meanwhile_before_it_cuts_anyone() {
    let mut lab = narrow(|addr| Place::h1(1, addr));
    let answer = [b"HTTP/1.1 200 OK\r\ncontent-length: 600000\r\n\r\n".to_vec(), vec![b'x'; 600_000]].concat();
    let clients: Vec<ConnId> = (0..12)
        .map(|number| {
            let client = lab.send(GET);
            let up = lab.upstream(number);
            lab.client.borrow_mut().count_only(client);
            lab.client.borrow_mut().pause(client);
            lab.origin.borrow_mut().send(up, &answer);
            client
        })
        .collect();
    lab.wait(SECOND / 2);
    let stats = lab.world.proxies[0].stats();
    assert!(stats.bodies_bytes.value() > 1 << 19, "{} octets held", stats.bodies_bytes.value());
    let until = lab.world.now() + 2 * SECOND;
    lab.world.proxies[0].stall(until);
    lab.wait(2 * SECOND + SECOND / 100);
    for &client in &clients {
        lab.client.borrow_mut().resume(client);
    }
    lab.wait(2 * SECOND);
    assert_eq!(stats.bodies_cut.value(), 0);
    for &client in &clients {
        assert_eq!(lab.client.borrow().total(client), answer.len() as u64);
    }
    lab.end();
}

#[test]
fn uploads_that_wait_for_a_connection_are_refused_past_the_bound_of_all_bodies() {
    let mut narrow = config();
    narrow.limits.bodies_bytes_max = 1 << 20;
    narrow.limits.h1_connections_max = 1;
    let mut lab = Lab::with(|addr| Place::h1(1, addr), &narrow, Timeouts::default());
    let first = lab.send(GET);
    let up = lab.upstream(0);
    let body = vec![b'x'; 60_000];
    let upload =
        [format!("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes(), body]
            .concat();
    let clients: Vec<ConnId> = (0..40).map(|_| lab.send(&upload)).collect();
    lab.wait(2 * SECOND);
    let held = lab.world.proxies[0].stats().bodies_bytes.value();
    assert!((700_000..=1 << 20).contains(&held), "{held} octets held: what an application leaves may be all");
    let refused =
        clients.iter().filter(|&&client| lab.client.borrow().text(client).starts_with("HTTP/1.1 503 ")).count();
    assert_eq!(lab.world.proxies[0].stats().bodies_cut.value(), refused as u64);
    assert!((22..=30).contains(&refused), "{refused} were refused");
    // The request that is with the application may have run; the others have not.
    let text = lab.client.borrow().text(clients[refused_one(&lab, &clients)]);
    assert!(text.contains("overloaded") && text.contains("retry-after: 1\r\n"), "{text}");
    lab.origin.borrow_mut().send(up, OK);
    lab.client_got(first, b"ok");
    for &client in &clients {
        lab.client.borrow_mut().abort(client);
    }
    lab.origin.borrow_mut().abort(up);
    lab.end();
}

#[test]
fn what_is_cut_for_want_of_memory_after_it_was_begun_is_not_said_to_be_safe_to_repeat() {
    let mut lab = narrow(|addr| Place::h1(1, addr));
    let clients = left_uploads(&mut lab, 0..40);
    lab.wait(2 * SECOND);
    let text = lab.client.borrow().text(clients[refused_one(&lab, &clients)]);
    assert!(text.contains("may have been processed") && !text.contains("retry-after"), "{text}");
    for &client in &clients {
        lab.client.borrow_mut().abort(client);
    }
    lab.end();
}

/// Clients that upload more than fits on the way, over these of the origin's connections, which it does not read.
fn left_uploads(lab: &mut Lab, upstreams: Range<usize>) -> Vec<ConnId> {
    let body = vec![b'x'; 600_000];
    let head = format!("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: {}\r\n\r\n", body.len());
    let uploads = upstreams.map(|upstream| {
        let client = lab.send([head.as_bytes(), &body].concat());
        let up = lab.upstream(upstream);
        lab.origin.borrow_mut().pause(up);
        client
    });
    uploads.collect()
}

fn refused_one(lab: &Lab, clients: &[ConnId]) -> usize {
    let is_refused = |&client: &ConnId| lab.client.borrow().text(client).starts_with("HTTP/1.1 503 ");
    clients.iter().position(is_refused).expect("one was refused")
}

#[test]
fn uploads_that_an_application_leaves_cut_no_answer_that_is_read_slowly() {
    let mut lab = narrow(|addr| Place::h1(1, addr));
    // It gives 4 KiB of window a second: by that measure its answer stands.
    let slow = lab.send([&h2::PREFACE[..24], &h2::setting(4, 0), &h2::window(0, 1 << 20), &h2::get(1, true)].concat());
    let up = lab.upstream(0);
    lab.origin.borrow_mut().send(up, "HTTP/1.1 200 OK\r\ncontent-length: 80000\r\n\r\n");
    lab.origin.borrow_mut().send(up, vec![b'x'; 60_000]);
    let clients = left_uploads(&mut lab, 1..10);
    for _ in 0..20 {
        lab.wait(SECOND);
        lab.client.borrow_mut().send(slow, h2::window(1, 4_000));
    }
    let stats = lab.world.proxies[0].stats();
    assert!(stats.bodies_bytes.value() > 1 << 19, "{} octets held", stats.bodies_bytes.value());
    assert_eq!(stats.bodies_cut.value(), 0);
    lab.wait(SECOND);
    let frames = h2::frames(lab.client.borrow().got(slow));
    let got: usize = frames.iter().filter(|frame| frame.0 == 0).map(|frame| frame.3.len()).sum();
    assert_eq!(got, 60_000);
    lab.client.borrow_mut().abort(slow);
    for &client in &clients {
        lab.client.borrow_mut().abort(client);
    }
    lab.end();
}

#[test]
fn a_refusal_that_its_client_does_not_take_has_a_deadline_whatever_drips_and_takes_no_place() {
    let mut few = config();
    few.limits.exchanges_max = 10;
    let timeouts = Timeouts { idle: 20 * SECOND, ..Timeouts::default() };
    let mut lab = Lab::with(|addr| Place::h1(1, addr), &few, timeouts);
    lab.world.proxies[0].plane.publish(Arc::new(Scene { timeouts, ..Scene::to(Vec::new()) }));
    let client = lab.send([&h2::PREFACE[..24], &h2::setting(4, 0)].concat());
    for stream in 0..50 {
        lab.client.borrow_mut().send(client, h2::get(2 * stream + 1, true));
    }
    lab.wait(SECOND);
    assert_eq!(lab.world.proxies[0].worker().exchanges(), 10);
    for _ in 0..5 {
        lab.wait(5 * SECOND);
        for stream in 0..10 {
            lab.client.borrow_mut().send(client, h2::window(2 * stream + 1, 1));
        }
    }
    assert_eq!(lab.world.proxies[0].worker().exchanges(), 0);
    lab.client.borrow_mut().abort(client);
    lab.end();
}

#[test]
fn a_client_that_takes_an_octet_now_and_then_takes_nothing() {
    for (step, late) in [(1, 1), (20_000, 0)] {
        let mut lab = Lab::h1();
        // Its streams get no window of their own.
        let client =
            lab.send([&h2::PREFACE[..24], &h2::setting(4, 0), &h2::window(0, 1 << 20), &h2::get(1, true)].concat());
        let up = lab.upstream(0);
        lab.origin.borrow_mut().send(up, "HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n");
        lab.origin.borrow_mut().send(up, vec![b'x'; 200_000]);
        for _ in 0..8 {
            lab.wait(60 * SECOND);
            lab.client.borrow_mut().send(client, h2::window(1, step));
        }
        lab.wait(SECOND);
        let stats = lab.world.proxies[0].stats();
        assert_eq!(stats.clients_late[Late::Read as usize].value(), late, "{step} octets a minute");
        assert_eq!(stats.outcomes[Outcome::TimedOut as usize].value(), late, "{step} octets a minute");
        lab.client.borrow_mut().abort(client);
        lab.origin.borrow_mut().abort(up);
        lab.end();
    }
}
