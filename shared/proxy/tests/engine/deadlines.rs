//! Every wait has its deadline.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use steady_proxy::{Late, Outcome, Refusal, Timeouts};
use steady_ring::{ConnId, Faults};

use crate::lab::{GET, Lab, OK, SECOND, UPGRADE};
use crate::world::peer::Raw;
use crate::world::policy::{Place, Scene};
use crate::world::{World, config};

#[test]
fn an_upgrade_that_the_origin_does_not_answer_ends_by_the_response_timeout() {
    let mut lab = Lab::new(|addr| Place { response_timeout: 5 * SECOND, ..Place::h1(1, addr) });
    let ws = lab.send(UPGRADE);
    lab.wait(6 * SECOND);
    assert!(lab.client.borrow().text(ws).starts_with("HTTP/1.1 504 "), "{}", lab.client.borrow().text(ws));
    lab.end();
}

#[test]
fn a_connect_that_fails_at_the_moment_the_whole_time_is_up_ends_the_exchange() {
    for micros in (0..2_000).step_by(200) {
        connect_fails_as_time_is_up(5 * SECOND + Duration::from_micros(micros));
    }
}

fn connect_fails_as_time_is_up(total: Duration) {
    let mut world = World::new(1, Faults::none());
    let nowhere = world.address();
    let mut quick = config();
    quick.limits.connect_max = 5 * SECOND + SECOND / 1000;
    let timeouts = Timeouts { total: Some(total), ..Timeouts::default() };
    let place = Place { connect_timeout: 60 * SECOND, ..Place::h1(1, nowhere) };
    let (_, addr) = world.proxy(Scene { timeouts, ..Scene::to(vec![place]) }, &quick, 1);
    let mut client = Raw::new(&world.net);
    let id = client.connect(addr);
    client.send(id, GET);
    let client = world.add(client);
    world.settle();
    world.run_for(Duration::from_micros(80));
    world.net.set_faults(Faults { connect_lost_per_million: 1_000_000, ..Faults::none() });
    world.run_for(20 * SECOND);
    assert!(client.borrow().text(id).starts_with("HTTP/1.1 50"), "{}", client.borrow().text(id));
}

fn status_after(timeouts: Timeouts, place: impl Fn(SocketAddr) -> Place, request: &str, time: Duration) -> String {
    let mut lab = Lab::with(place, &config(), timeouts);
    let client = lab.send(request);
    lab.wait(time - SECOND);
    assert_eq!(lab.client.borrow().text(client), "", "not yet");
    lab.wait(2 * SECOND);
    let text = lab.client.borrow().text(client);
    let status = if lab.client.borrow().is_over(client) { "over " } else { "" };
    lab.end();
    status.to_string() + text.get(9..12).unwrap_or_default()
}

#[test]
fn every_wait_has_its_deadline() {
    let timeouts = Timeouts { header: 4 * SECOND, idle: 9 * SECOND, ..Timeouts::default() };
    let h1 = |addr| Place { response_timeout: 6 * SECOND, ..Place::h1(1, addr) };
    assert_eq!(status_after(timeouts, h1, "GET / HTTP/1.1\r\nhos", 4 * SECOND), "over 408", "half a head");
    assert_eq!(status_after(timeouts, h1, "", 4 * SECOND), "over ", "nothing at all");
    assert_eq!(status_after(timeouts, h1, GET, 6 * SECOND), "504", "no response");
    let half = "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 9\r\n\r\nabc";
    assert_eq!(status_after(timeouts, h1, half, 9 * SECOND), "over 408", "half a body");
    let total = Timeouts { total: Some(3 * SECOND), ..timeouts };
    assert_eq!(status_after(total, h1, GET, 3 * SECOND), "504", "the whole time");
    let nowhere = |_| Place { connect_timeout: 2 * SECOND, ..Place::h1(1, SocketAddr::from(([127, 0, 0, 1], 9))) };
    assert_eq!(status_after(timeouts, nowhere, "GET / HTTP/1.1\r\nhost: a.test\r\n", 4 * SECOND), "over 408");
}

#[test]
fn a_head_that_does_not_come_whole_is_answered_counted_and_logged_like_any_refusal() {
    let timeouts = Timeouts { header: 4 * SECOND, ..Timeouts::default() };
    let mut lab = Lab::with(|addr| Place::h1(1, addr), &config(), timeouts);
    let client = lab.send("GET / HTTP/1.1\r\nhost: a.test\r\naccept: text/h");
    lab.client_got(client, b"");
    lab.wait(5 * SECOND);
    let text = lab.client.borrow().text(client);
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 408 Request Timeout\r\n") && head.contains("connection: close"), "{text}");
    assert!(
        head.contains(&format!("content-length: {}\r\n", body.len())) && body.contains("request_timeout"),
        "{text}"
    );
    let stats = lab.world.proxies[0].stats();
    assert_eq!((stats.responses[4].value(), stats.refusals[Refusal::RequestTimeout.index()].value()), (1, 1));
    assert_eq!(lab.world.proxies[0].ledger.borrow().unread, [408]);
    lab.end();
}

#[test]
fn a_body_in_which_nothing_moves_is_cut() {
    let timeouts = Timeouts { stall: 5 * SECOND, ..Timeouts::default() };
    let mut lab = Lab::with(|addr| Place::h1(1, addr), &config(), timeouts);
    let client = lab.send(GET);
    let up = lab.upstream(0);
    lab.origin.borrow_mut().send(up, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc");
    lab.wait(4 * SECOND);
    lab.origin.borrow_mut().send(up, "d");
    lab.wait(4 * SECOND);
    assert!(!lab.client.borrow().is_over(client));
    lab.wait(2 * SECOND);
    assert!(lab.client.borrow().is_over(client));
    assert_eq!(lab.world.proxies[0].outcomes(Outcome::TimedOut), 1);
    lab.end();
}

#[test]
fn a_connect_that_is_never_answered_and_a_parking_place_that_never_opens_have_their_deadlines() {
    let mut lab = Lab::new(|addr| Place { connect_timeout: 3 * SECOND, ..Place::h1(1, addr) });
    let parked = lab.send(GET);
    let scene = Scene::to(vec![Place { connect_timeout: 3 * SECOND, ..Place::h1(1, lab.origin_addr) }]);
    lab.world.proxies[0].plane.publish(Arc::new(Scene { hold: true, park_for: 4 * SECOND, ..scene.clone() }));
    lab.wait(5 * SECOND);
    assert!(lab.client.borrow().text(parked).starts_with("HTTP/1.1 503 "));
    assert!(lab.client.borrow().text(parked).contains("retry-after: 1"));
    lab.world.proxies[0].plane.publish(Arc::new(scene));
    lab.wait(SECOND);
    lab.world.net.set_faults(Faults { connect_lost_per_million: 1_000_000, ..Faults::none() });
    lab.client.borrow_mut().send(parked, GET);
    lab.wait(2 * SECOND);
    assert!(!lab.client.borrow().text(parked).contains("HTTP/1.1 502 "));
    lab.wait(2 * SECOND);
    assert!(lab.client.borrow().text(parked).contains("HTTP/1.1 502 "), "{}", lab.client.borrow().text(parked));
    lab.end();
}

#[test]
fn half_of_what_an_http2_client_says_first_has_the_deadline_of_a_head() {
    let timeouts = Timeouts { header: 4 * SECOND, idle: 60 * SECOND, ..Timeouts::default() };
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    for (what, late) in [(&b"PRI * HTTP/2.0\r\n"[..], 1), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 1)] {
        let mut lab = Lab::with(|addr| Place::h1(1, addr), &config(), timeouts);
        let client = lab.send(what);
        lab.wait(3 * SECOND);
        assert!(!lab.client.borrow().is_over(client), "not yet");
        lab.wait(2 * SECOND);
        assert!(lab.client.borrow().is_over(client), "{what:?}");
        assert_eq!(lab.world.proxies[0].stats().clients_late[Late::Begin as usize].value(), late);
        lab.end();
    }
    let mut lab = Lab::with(|addr| Place::h1(1, addr), &config(), timeouts);
    let client = lab.send([&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings].concat());
    lab.wait(30 * SECOND);
    assert!(!lab.client.borrow().is_over(client), "one that may ask has the time of an idle connection");
    lab.end();
}

const POST: &str = "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 100000\r\n\r\n";

/// What becomes of a body of which so much comes every other second, for ten minutes.
fn dripping(place: impl Fn(SocketAddr) -> Place, octets: usize) -> (String, u64) {
    let mut lab = Lab::with(place, &config(), Timeouts::default());
    let client = lab.send(POST);
    for _ in 0..300 {
        lab.client.borrow_mut().send(client, vec![b'x'; octets]);
        lab.wait(2 * SECOND);
    }
    let status = lab.client.borrow().text(client).get(9..12).unwrap_or_default().to_owned();
    let late = lab.world.proxies[0].stats().clients_late[Late::Send as usize].value();
    lab.client.borrow_mut().hang_up();
    lab.end();
    (status, late)
}

#[test]
fn a_body_that_drips_does_not_hold_an_applications_connection() {
    assert_eq!(dripping(|addr| Place::h1(1, addr), 3), ("408".to_owned(), 1));
    assert_eq!(dripping(|addr| Place::h1(1, addr), 40), (String::new(), 0), "slow, and fast enough");
}

#[test]
fn a_body_that_drips_over_http2_shares_its_connection_and_may() {
    assert_eq!(dripping(|addr| Place::h2(1, addr), 3), (String::new(), 0));
}

#[test]
fn a_client_that_is_held_back_by_its_application_is_not_slow() {
    let mut lab = Lab::new(|addr| Place { response_timeout: 900 * SECOND, ..Place::h1(1, addr) });
    let client = lab.send("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 3000000\r\n\r\n");
    let up = lab.upstream(0);
    lab.origin.borrow_mut().pause(up);
    lab.client.borrow_mut().send(client, vec![b'x'; 3_000_000]);
    lab.wait(200 * SECOND);
    assert_eq!(lab.client.borrow().text(client), "", "nobody is answered that he is late");
    lab.origin.borrow_mut().resume(up);
    lab.wait(SECOND);
    lab.origin.borrow_mut().send(up, OK);
    lab.client_got(client, b"ok");
    lab.end();
}

#[test]
fn an_application_that_does_not_read_what_it_is_sent_is_late_and_not_its_client() {
    let timeouts = Timeouts { idle: 20 * SECOND, ..Timeouts::default() };
    let place = |addr| Place { response_timeout: 6 * SECOND, ..Place::h1(1, addr) };
    let mut lab = Lab::with(place, &config(), timeouts);
    let client = lab.send("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 3000000\r\n\r\n");
    let up = lab.upstream(0);
    lab.origin.borrow_mut().pause(up);
    lab.client.borrow_mut().send(client, vec![b'x'; 2_000_000]);
    lab.wait(5 * SECOND);
    assert_eq!(lab.client.borrow().text(client), "");
    lab.wait(3 * SECOND);
    assert!(lab.client.borrow().text(client).starts_with("HTTP/1.1 504 "), "{}", lab.client.borrow().text(client));
    lab.client.borrow_mut().hang_up();
    lab.end();
}

#[test]
fn a_response_is_late_from_when_the_request_ended() {
    let place = |addr| Place { response_timeout: 6 * SECOND, ..Place::h1(1, addr) };
    for end in ["3\r\nend\r\n0\r\n\r\n", "0\r\nx-t: 1\r\n\r\n"] {
        let mut lab = Lab::new(place);
        let client = lab.send("POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n");
        let up = lab.upstream(0);
        lab.origin_got(up, b"\r\n\r\n");
        lab.wait(10 * SECOND);
        lab.client.borrow_mut().send(client, end);
        lab.wait(5 * SECOND);
        assert_eq!(lab.client.borrow().text(client), "");
        lab.wait(2 * SECOND);
        assert!(lab.client.borrow().text(client).starts_with("HTTP/1.1 504 "), "after {end:?}");
        lab.end();
    }
}

/// A request that its origin has, and a worker that does not run until long after its deadline, when it finds nothing to read at
/// first.
fn stalled() -> (Lab, ConnId, ConnId) {
    let mut lab = Lab::new(|addr| Place { response_timeout: 6 * SECOND, ..Place::h1(1, addr) });
    let client = lab.send(GET);
    let up = lab.upstream(0);
    lab.origin_got(up, b"\r\n\r\n");
    lab.world.net.set_faults(Faults { starve_per_million: 1_000_000, ..Faults::none() });
    let until = lab.world.now() + 10 * SECOND;
    lab.world.proxies[0].stall(until);
    (lab, client, up)
}

#[test]
fn a_worker_that_was_stopped_reads_what_came_meanwhile_before_it_calls_anyone_late() {
    let (mut lab, client, up) = stalled();
    lab.origin.borrow_mut().send(up, OK);
    lab.wait(10 * SECOND + SECOND / 10);
    lab.world.net.set_faults(Faults::none());
    lab.client_got(client, b"ok");
    lab.end();
}

#[test]
fn a_worker_that_is_stopped_again_and_again_still_keeps_its_deadlines() {
    let (mut lab, client, _) = stalled();
    lab.wait(10 * SECOND);
    lab.world.net.set_faults(Faults::none());
    let mut turns = 0;
    while !lab.client.borrow().text(client).starts_with("HTTP/1.1 504 ") {
        turns += 1;
        assert!(turns < 5, "it is put off for ever");
        let until = lab.world.now() + 3 * SECOND;
        lab.world.proxies[0].stall(until);
        lab.wait(3 * SECOND + SECOND / 1000);
    }
    lab.end();
}
