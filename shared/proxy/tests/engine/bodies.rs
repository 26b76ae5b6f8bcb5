//! Bodies and trailers as they pass, and responses that do not wait for them.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::frames as h2;
use crate::lab::{Chain, GET, HELD_MAX, Lab, OK, SECOND};
use crate::world::client::{End, Want};
use crate::world::plan::{Fate, Plan};
use crate::world::policy::{Place, Scene};

#[test]
fn an_upload_that_trickles_in_goes_on_once_the_agent_took_what_came_first() {
    for is_h2 in [false, true] {
        let mut chain = Chain::new(false);
        let plan = Plan { upload: 300_000, ..Plan::plain(1) };
        let now = chain.world.now();
        chain.want(Want { pause: Duration::from_millis(5), ..Want::new(plan, is_h2, now) });
        chain.run(Duration::from_secs(10));
        assert_eq!(chain.end_of(1), Some(End::Answered(200, true)), "HTTP/2: {is_h2}");
    }
}

#[test]
fn a_filter_rewrites_a_body_however_slowly_it_is_read_and_trailers_follow_it() {
    for place in [Place::h1 as fn(u64, SocketAddr) -> Place, Place::h2] {
        let mut lab = Lab::new(|addr| place(1, addr));
        let scene = Scene::to(vec![place(1, lab.origin_addr)]);
        lab.world.proxies[0].plane.publish(Arc::new(Scene { echo: true, ..scene }));
        lab.wait(SECOND / 10);
        let client = lab.send(GET);
        let up = lab.upstream(0);
        if place(1, lab.origin_addr).protocol == steady_proxy::Protocol::Http1 {
            lab.origin_got(up, b"\r\n\r\n");
            lab.origin.borrow_mut().send(
                up,
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\nx-sum: 4\r\n\r\n",
            );
            lab.client_got(client, b"x-sum: 4\r\n\r\n");
        } else {
            let answer = [h2::SETTINGS.to_vec(), h2::ok(1, false), h2::data(1, b"abc", false), h2::data(1, b"d", true)];
            lab.origin.borrow_mut().send(up, answer.concat());
            lab.client_got(client, b"0\r\n\r\n");
        }
        let text = lab.client.borrow().text(client);
        let body: String = text.split("\r\n\r\n").nth(1).unwrap().lines().skip(1).step_by(2).collect();
        assert!(body.starts_with("aabbccddEND"), "{text:?}");
        lab.end();
    }
}

#[test]
fn a_large_body_passes_both_ways_in_constant_memory() {
    for is_h2 in [false, true] {
        let mut chain = Chain::new(is_h2);
        let now = chain.world.now();
        let plan = Plan { upload: 6 << 20, download: 6 << 20, ..Plan::plain(1) };
        chain.want(Want::new(plan, is_h2, now));
        let clients = Rc::clone(&chain.clients);
        let mut most = 0;
        chain.world.run_until(600 * SECOND, |world| {
            let held = world.proxies.iter().map(|proxy| proxy.worker().held_bytes()).max().unwrap();
            most = most.max(held);
            clients.borrow().app.is_done()
        });
        assert_eq!(chain.end_of(1), Some(End::Answered(200, true)));
        assert!(most < HELD_MAX, "{most} octets held at once (HTTP/2: {is_h2})");
    }
}

#[test]
fn a_connections_credit_in_crumbs_is_dealt_out_to_its_streams_in_turn() {
    const STREAMS: u32 = 10;
    let numbers = || (0..STREAMS).map(|number| 2 * number + 1);
    let mut lab = Lab::new(|addr| Place::h2(1, addr));
    let mut asked = [h2::PREFACE, &h2::setting(4, 1 << 20)].concat();
    numbers().for_each(|stream| asked.extend(h2::get(stream, true)));
    let client = lab.send(asked);
    let up = lab.upstream(0);
    lab.wait(SECOND / 10);
    let mut answers = h2::SETTINGS.to_vec();
    for stream in numbers() {
        let body = [h2::data(stream, &[b'x'; 10_000], false), h2::data(stream, &[b'x'; 10_000], true)].concat();
        answers.extend([h2::ok(stream, false), body].concat());
    }
    lab.origin.borrow_mut().send(up, answers);
    lab.wait(SECOND);
    let got = |lab: &Lab| h2::frames(lab.client.borrow().got(client));
    let octets = |frames: &[(u8, u8, u32, Vec<u8>)]| -> usize {
        frames.iter().filter(|frame| frame.0 == 0).map(|frame| frame.3.len()).sum()
    };
    assert_eq!(octets(&got(&lab)), 65_535, "what a connection may send unasked");
    let before = got(&lab).len();
    for crumb in 1..=20 {
        lab.client.borrow_mut().send(client, h2::window(0, 1));
        lab.wait(SECOND / 10);
        assert_eq!(octets(&got(&lab)), 65_535 + crumb);
    }
    let fed: std::collections::BTreeSet<u32> = got(&lab)[before..].iter().map(|frame| frame.2).collect();
    assert!(fed.len() > 3, "only {fed:?}");
    lab.client.borrow_mut().send(client, h2::window(0, 1 << 20));
    lab.wait(SECOND);
    let frames = got(&lab);
    assert_eq!(octets(&frames), STREAMS as usize * 20_000);
    assert!(numbers().all(|stream| frames.iter().any(|frame| (frame.0, frame.1 & 1, frame.2) == (0, 1, stream))));
    lab.end();
}

#[test]
fn an_early_answer_arrives_while_the_body_still_comes() {
    for (is_h2, origin_is_h2) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut chain = Chain::new(origin_is_h2);
        let now = chain.world.now();
        let plan = Plan { fate: Fate::Early, upload: 400_000, download: 5_000, ..Plan::plain(1) };
        chain.want(Want { pause: 5 * SECOND / 1000, ..Want::new(plan, is_h2, now) });
        chain.run(60 * SECOND);
        assert_eq!(chain.end_of(1), Some(End::Answered(200, true)), "{is_h2} {origin_is_h2}");
    }
}

#[test]
fn a_client_that_expects_100_gets_it_from_the_origin_and_then_sends_its_body() {
    let mut lab = Lab::h1();
    let client = lab.send("POST / HTTP/1.1\r\nhost: a.test\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n");
    let up = lab.upstream(0);
    lab.origin_got(up, b"\r\n\r\n");
    assert!(lab.origin.borrow().text(up).contains("expect: 100-continue"));
    lab.origin.borrow_mut().send(up, "HTTP/1.1 100 Continue\r\n\r\n");
    lab.client_got(client, b"HTTP/1.1 100 Continue\r\n\r\n");
    lab.client.borrow_mut().send(client, "body");
    lab.origin_got(up, b"body");
    lab.origin.borrow_mut().send(up, OK);
    lab.client_got(client, b"ok");
    lab.end();
}

#[test]
fn trailers_cross_both_ways() {
    let mut lab = Lab::new(|addr| Place::h2(1, addr));
    let client = lab.send(
        "POST / HTTP/1.1\r\nhost: a.test\r\nte: trailers\r\nconnection: te\r\ntransfer-encoding: chunked\r\n\r\n\
         2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n",
    );
    let up = lab.upstream(0);
    lab.origin.borrow_mut().send(up, h2::SETTINGS);
    lab.wait(SECOND);
    let heads = h2::count(lab.origin.borrow().got(up), 1, 1);
    assert_eq!((heads, h2::body(lab.origin.borrow().got(up), 1)), (2, b"hi".to_vec()));
    let trailers = h2::frame(1, 5, 1, b"\0\x05x-sum\x018");
    lab.origin.borrow_mut().send(up, [h2::ok(1, false), h2::data(1, b"yo", false), trailers].concat());
    lab.client_got(client, b"2\r\nyo\r\n0\r\nx-sum: 8\r\n\r\n");
    lab.end();
}
