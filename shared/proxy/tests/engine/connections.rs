//! Connections to upstreams: when they are opened, shared, waited for and forgotten.

use std::rc::Rc;
use std::sync::Arc;

use steady_proxy::{AttemptEnd, Refusal, Timeouts};
use steady_ring::ConnId;

use crate::frames as h2;
use crate::lab::{Chain, GET, Lab, OK, SECOND, UPGRADE};
use crate::world::client::{End, Want};
use crate::world::config;
use crate::world::plan::Plan;
use crate::world::policy::{Place, Scene};

/// The last number that a stream can have.
const LAST: u32 = (1 << 31) - 1;

#[test]
fn an_h2c_connection_whose_numbers_are_used_up_finishes_what_it_has_and_the_next_request_gets_another() {
    let mut near = config();
    near.upstream_limits.stream_first = LAST - 2;
    let mut chain = Chain::with(true, &near);
    let start = chain.world.now();
    for id in 1..=20 {
        // Each is under way while the next begins.
        let plan = Plan { download: 20_000, upload: 20_000, ..Plan::plain(id) };
        let at = start + 10 * SECOND / 1000 * id as u32;
        chain.want(Want { pause: 5 * SECOND / 1000, ..Want::new(plan, id % 2 == 0, at) });
    }
    chain.run(60 * SECOND);
    for id in 1..=20 {
        assert_eq!(chain.end_of(id), Some(End::Answered(200, true)), "request {id}");
    }
    for proxy in &chain.world.proxies {
        let connects = proxy.stats().upstream_connects.value();
        assert!((10..=20).contains(&connects), "two streams a connection at most: {connects}");
    }
    chain.world.run_for(1200 * SECOND);
    chain.world.check_quiet();
}

#[test]
fn a_websocket_that_is_the_first_request_over_an_h2c_connection_waits_for_its_settings() {
    let mut lab = Lab::new(|addr| Place::h2(1, addr));
    let ws = lab.send(UPGRADE);
    let up = lab.upstream(0);
    lab.wait(SECOND);
    assert_eq!(h2::count(lab.origin.borrow().got(up), 1, 1), 0, "nothing is asked before the settings are known");
    lab.origin.borrow_mut().send(up, h2::setting(8, 1));
    lab.wait(SECOND);
    lab.origin.borrow_mut().send(up, [h2::ok(1, false), h2::data(1, b"hello", false)].concat());
    lab.client_got(ws, b"hello");
    assert!(lab.client.borrow().text(ws).starts_with("HTTP/1.1 101 "));
    lab.client.borrow_mut().close(ws);
    lab.end();
}

#[test]
fn a_websocket_to_an_h2c_peer_that_knows_none_is_refused_and_its_neighbours_are_served() {
    let mut lab = Lab::new(|addr| Place::h2(1, addr));
    let ws = lab.send(UPGRADE);
    let get = lab.send(GET);
    let up = lab.upstream(0);
    lab.origin.borrow_mut().send(up, h2::SETTINGS);
    lab.client_got(ws, b"}\n");
    assert!(lab.client.borrow().text(ws).starts_with("HTTP/1.1 502 "));
    lab.origin.borrow_mut().send(up, [h2::ok(1, false), h2::data(1, b"yes", true)].concat());
    lab.client_got(get, b"\r\nyes\r\n0\r\n\r\n");
    lab.end();
}

#[test]
fn an_h2c_peer_that_allows_one_stream_at_a_time_gets_one_at_a_time() {
    let mut lab = Lab::new(|addr| Place::h2(1, addr));
    let first = lab.send(GET);
    let up = lab.upstream(0);
    lab.origin.borrow_mut().send(up, h2::setting(3, 1));
    lab.wait(SECOND);
    lab.origin.borrow_mut().send(up, h2::ok(1, true));
    lab.client_got(first, b"\r\n\r\n");
    let second = lab.send(GET);
    lab.wait(SECOND);
    lab.origin.borrow_mut().send(up, h2::ok(3, true));
    lab.client_got(second, b"\r\n\r\n");
    assert!(lab.client.borrow().text(second).starts_with("HTTP/1.1 200 "));
    lab.end();
}

#[test]
fn those_who_wait_get_new_connections_when_old_ones_end_with_their_response() {
    let mut narrow = config();
    narrow.limits.h1_connections_max = 2;
    let mut lab = Lab::with(|addr| Place::h1(1, addr), &narrow, Timeouts::default());
    let clients: Vec<ConnId> = (0..6).map(|_| lab.send(GET)).collect();
    // The first is answered last: all others go over the other place.
    for index in 1..6 {
        let up = lab.upstream(index);
        lab.origin_got(up, b"\r\n\r\n");
        lab.origin.borrow_mut().send(up, "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
        lab.origin.borrow_mut().close(up);
        lab.wait(SECOND / 100);
    }
    let first = lab.upstream(0);
    lab.origin.borrow_mut().send(first, OK);
    for client in clients {
        lab.wait(SECOND / 100);
        assert!(lab.client.borrow().text(client).starts_with("HTTP/1.1 20"), "{}", lab.client.borrow().text(client));
    }
    lab.end();
}

#[test]
fn a_request_that_waits_too_long_for_its_turn_does_not_count_as_a_failed_connect() {
    let mut narrow = config();
    narrow.limits.h1_connections_max = 1;
    let mut lab = Lab::with(|addr| Place::h1(1, addr), &narrow, Timeouts::default());
    let busy = lab.send(GET);
    let up = lab.upstream(0);
    let late = lab.send(GET);
    lab.wait(6 * SECOND);
    assert!(lab.client.borrow().text(late).starts_with("HTTP/1.1 503 "), "{}", lab.client.borrow().text(late));
    let ledger = Rc::clone(&lab.world.proxies[0].ledger);
    assert_eq!((ledger.borrow().ended(AttemptEnd::Refused), ledger.borrow().ended(AttemptEnd::ConnectFailed)), (1, 0));
    lab.origin.borrow_mut().send(up, OK);
    lab.client_got(busy, b"ok");
    lab.end();
}

#[test]
fn past_the_bound_of_those_that_may_wait_a_request_is_answered_once_and_its_target_not_blamed() {
    let mut narrow = config();
    narrow.limits.h1_connections_max = 1;
    narrow.limits.waiting_max = 1;
    let mut lab = Lab::with(|addr| Place::h1(1, addr), &narrow, Timeouts::default());
    let busy = lab.send(GET);
    let up = lab.upstream(0);
    let waits = lab.send(GET);
    lab.wait(SECOND / 100);
    let late = lab.send(GET);
    lab.wait(SECOND / 100);
    assert!(lab.client.borrow().text(late).starts_with("HTTP/1.1 503 "), "{}", lab.client.borrow().text(late));
    let ledger = Rc::clone(&lab.world.proxies[0].ledger);
    assert_eq!(ledger.borrow().ended(AttemptEnd::Refused), 0);
    assert_eq!(lab.world.proxies[0].stats().retries.value(), 0);
    for client in [busy, waits] {
        lab.origin.borrow_mut().send(up, OK);
        lab.client_got(client, b"ok");
    }
    lab.end();
}

#[test]
fn a_target_that_refuses_every_connection_is_forgotten() {
    let mut lab = Lab::h1();
    let nowhere = lab.world.address();
    lab.world.proxies[0].plane.publish(Arc::new(Scene::to(vec![Place::h1(5, nowhere)])));
    let client = lab.send(GET);
    lab.wait(SECOND);
    assert!(lab.client.borrow().text(client).starts_with("HTTP/1.1 502 "));
    assert_eq!(lab.world.proxies[0].worker().upstreams(), 0);
    let record = lab.world.proxies[0].ledger.borrow().records[0].clone();
    assert_eq!((record.attempts, record.refusal), (3, Some(Refusal::ConnectFailed)));
    lab.end();
}

#[test]
fn a_second_h2c_connection_is_opened_when_the_first_has_no_stream_left_and_a_third_is_not() {
    let mut lab = Lab::new(|addr| Place::h2(1, addr));
    let warm = lab.send(GET);
    let first = lab.upstream(0);
    lab.origin.borrow_mut().send(first, [h2::setting(3, 3), h2::ok(1, true)].concat());
    lab.client_got(warm, b"\r\n\r\n");
    // Two of three streams are for requests, on each of two connections: four run, one waits.
    let clients: Vec<ConnId> = (0..5).map(|_| lab.send(GET)).collect();
    let second = lab.upstream(1);
    lab.origin.borrow_mut().send(second, h2::setting(3, 3));
    lab.wait(SECOND);
    let heads = |lab: &Lab, conn| h2::frames(lab.origin.borrow().got(conn)).iter().filter(|frame| frame.0 == 1).count();
    assert_eq!(lab.origin.borrow().accepted.len(), 2);
    // The second was asked for everything that waited before its settings came.
    assert_eq!(heads(&lab, first) - 1 + heads(&lab, second), 5);
    for (conn, streams) in [(first, vec![3, 5]), (second, vec![1, 3, 5])] {
        for stream in streams {
            lab.origin.borrow_mut().send(conn, h2::ok(stream, true));
        }
    }
    lab.wait(SECOND);
    for client in clients {
        assert!(lab.client.borrow().text(client).starts_with("HTTP/1.1 200 "));
    }
    lab.end();
}

#[test]
fn a_second_h2c_connection_is_opened_when_the_window_of_the_first_is_spent() {
    let mut lab = Lab::new(|addr| Place::h2(1, addr));
    // 70,000 octets for a connection that has credit for 65,535.
    let upload =
        [b"POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 70000\r\n\r\n".as_slice(), &[b'x'; 70_000]].concat();
    lab.send(&upload);
    let first = lab.upstream(0);
    lab.wait(SECOND);
    assert_eq!(lab.origin.borrow().accepted.len(), 1);
    let other = lab.send(GET);
    let second = lab.upstream(1);
    lab.origin.borrow_mut().send(second, [h2::setting(3, 100), h2::ok(1, true)].concat());
    lab.client_got(other, b"\r\n\r\n");
    assert!(lab.client.borrow().text(other).starts_with("HTTP/1.1 200 "));
    // The first goes on when it is answered; a third is not needed.
    lab.origin.borrow_mut().send(first, [h2::setting(3, 100), h2::ok(1, true)].concat());
    lab.wait(SECOND);
    assert_eq!(lab.origin.borrow().accepted.len(), 2);
}

#[test]
fn what_waits_beyond_the_queue_is_refused_at_once() {
    let mut narrow = config();
    narrow.limits.h1_connections_max = 1;
    narrow.limits.waiting_max = 3;
    let mut lab = Lab::with(|addr| Place::h1(1, addr), &narrow, Timeouts::default());
    let clients: Vec<ConnId> = (0..4).map(|_| lab.send(GET)).collect();
    lab.wait(SECOND);
    let refused =
        |lab: &Lab| clients.iter().filter(|&&id| lab.client.borrow().text(id).starts_with("HTTP/1.1 503 ")).count();
    assert_eq!(refused(&lab), 1);
    let up = lab.upstream(0);
    for _ in 0..3 {
        lab.origin.borrow_mut().send(up, OK);
        lab.wait(SECOND / 10);
    }
    let served = clients.iter().filter(|&&id| lab.client.borrow().text(id).ends_with("ok")).count();
    assert_eq!((served, refused(&lab)), (3, 1));
    lab.end();
}
