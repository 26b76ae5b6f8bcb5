//! Upstreams that vanish without a word.

use steady_proxy::AttemptEnd;
use steady_ring::ConnId;

use crate::frames as h2;
use crate::lab::{GET, Lab, SECOND};
use crate::world::policy::Place;

/// A worker whose upstream is on another machine; a request that was answered, and the connection that it came by.
fn lab() -> (Lab, ConnId, ConnId) {
    let mut lab = Lab::new(|addr| Place { pings: true, ..Place::agent(1, addr) });
    let client = lab.send(GET);
    let up = lab.upstream(0);
    lab.origin.borrow_mut().send(up, [h2::SETTINGS.to_vec(), h2::ok(1, true)].concat());
    lab.client_got(client, b"\r\n\r\n");
    (lab, client, up)
}

/// The payloads of the PINGs that the origin got.
fn pings(lab: &Lab, up: ConnId) -> Vec<Vec<u8>> {
    let frames = h2::frames(lab.origin.borrow().got(up));
    frames.into_iter().filter(|frame| (frame.0, frame.1) == (6, 0)).map(|frame| frame.3).collect()
}

#[test]
fn streams_on_a_connection_that_gives_no_sign_of_life_end_long_before_their_own_timeouts() {
    let (mut lab, _, up) = lab();
    let clients = [lab.send(GET), lab.send([h2::PREFACE.to_vec(), h2::get(1, true)].concat())];
    lab.wait(14 * SECOND);
    assert_eq!(pings(&lab, up).len(), 0);
    lab.wait(2 * SECOND);
    assert_eq!(pings(&lab, up).len(), 1);
    lab.wait(8 * SECOND);
    assert_eq!(lab.client.borrow().text(clients[0]), "");
    lab.wait(2 * SECOND);
    assert!(lab.client.borrow().text(clients[0]).starts_with("HTTP/1.1 502 "));
    assert_eq!(h2::count(lab.client.borrow().got(clients[1]), 1, 1), 1);
    assert_eq!(lab.world.proxies[0].ledger.borrow().ended(AttemptEnd::Broken), 2, "it may have been begun");
    assert!(lab.origin.borrow().is_over(up));
    let stats = lab.world.proxies[0].stats();
    assert_eq!((stats.upstream_pings.value(), stats.upstream_silent.value()), (1, 1));
    lab.end();
}

#[test]
fn a_sign_of_life_of_any_kind_keeps_a_connection() {
    let (mut lab, _, up) = lab();
    let client = lab.send(GET);
    for round in 0..3 {
        lab.wait(16 * SECOND);
        let asked = pings(&lab, up);
        assert_eq!(asked.len(), round + 1);
        let sign = if round == 1 { h2::window(0, 1) } else { h2::frame(6, 1, 0, &asked[round]) };
        lab.origin.borrow_mut().send(up, sign);
    }
    lab.origin.borrow_mut().send(up, h2::ok(3, true));
    lab.client_got(client, b"\r\n\r\n");
    assert_eq!(lab.origin.borrow().accepted.len(), 1);
    lab.end();
}

#[test]
fn an_idle_connection_is_looked_after_too_and_one_in_use_is_never_asked() {
    let (mut lab, client, up) = lab();
    for stream in [3, 5, 7] {
        lab.wait(12 * SECOND);
        lab.client.borrow_mut().send(client, GET);
        lab.wait(SECOND);
        lab.origin.borrow_mut().send(up, h2::ok(stream, true));
    }
    lab.wait(SECOND);
    assert_eq!(pings(&lab, up).len(), 0);
    lab.wait(15 * SECOND);
    assert_eq!(pings(&lab, up).len(), 1);
    lab.wait(11 * SECOND);
    assert!(lab.origin.borrow().is_over(up), "the next request meets no dead connection");
    lab.client.borrow_mut().send(client, GET);
    let next = lab.upstream(1);
    lab.origin.borrow_mut().send(next, [h2::SETTINGS.to_vec(), h2::ok(1, true)].concat());
    lab.wait(SECOND);
    assert_eq!(lab.client.borrow().text(client).matches("HTTP/1.1 200 ").count(), 5);
    lab.end();
}

#[test]
fn signs_of_life_do_not_keep_an_idle_connection_for_ever() {
    let (mut lab, _, up) = lab();
    for round in 0..3 {
        lab.wait(16 * SECOND);
        let asked = pings(&lab, up);
        assert_eq!(asked.len(), round + 1);
        lab.origin.borrow_mut().send(up, h2::frame(6, 1, 0, &asked[round]));
    }
    lab.wait(10 * SECOND);
    assert!(lab.origin.borrow().is_over(up));
    assert_eq!(lab.world.proxies[0].stats().upstream_silent.value(), 0);
    lab.end();
}

#[test]
fn an_upstream_on_this_machine_is_not_asked() {
    let mut lab = Lab::new(|addr| Place::h2(1, addr));
    lab.send(GET);
    let up = lab.upstream(0);
    lab.origin.borrow_mut().send(up, h2::SETTINGS);
    lab.wait(50 * SECOND);
    assert_eq!(pings(&lab, up).len(), 0);
    lab.end();
}
