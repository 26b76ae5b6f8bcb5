//! What parked requests cost and who may still want them: bounds, cuts, and word of them from an upstream.

use std::sync::Arc;
use std::time::Duration;

use steady_proxy::{Command, Outcome, Refusal, Timeouts};
use steady_ring::ConnId;

use crate::frames as h2;
use crate::lab::{GET, Lab, OK, SECOND};
use crate::world::config;
use crate::world::policy::{Place, Scene};

/// The numbers of an agent-like worker, which says what it parks, and of an edge-like one before it.
const AGENT: usize = 0;
const EDGE: usize = 1;

/// Both, with a response timeout of ten seconds at the edge.
fn chain(park_for: Duration) -> Lab {
    let mut lab = Lab::h1();
    let place = Place { response_timeout: 10 * SECOND, ..Place::agent(2, lab.addr) };
    let (_, edge) = lab.world.proxy(Scene::to(vec![place]), &config(), 2);
    lab.addr = edge;
    hold(&mut lab, park_for, true);
    lab
}

fn hold(lab: &mut Lab, park_for: Duration, tell: bool) {
    let scene = Scene { hold: true, tell, park_for, ..Scene::to(vec![Place::h1(1, lab.origin_addr)]) };
    lab.world.proxies[AGENT].plane.publish(Arc::new(scene));
    lab.wait(SECOND / 10);
}

fn let_go(lab: &mut Lab) {
    let scene = Scene { tell: true, ..Scene::to(vec![Place::h1(1, lab.origin_addr)]) };
    lab.world.proxies[AGENT].plane.publish(Arc::new(scene));
}

fn parked(lab: &Lab) -> (u64, u64) {
    let at_edge = lab.world.proxies[EDGE].stats().upstream_parked_open.value();
    (lab.world.proxies[AGENT].stats().parked_open.value(), at_edge)
}

#[test]
fn a_request_that_waits_at_its_upstream_has_its_response_timeout_once_it_goes_on() {
    let mut lab = chain(100 * SECOND);
    let clients = [lab.send(GET), lab.send([h2::PREFACE.to_vec(), h2::get(1, true)].concat())];
    lab.wait(60 * SECOND);
    assert_eq!(parked(&lab), (2, 2));
    let_go(&mut lab);
    let ups = [lab.upstream(0), lab.upstream(1)];
    lab.wait(9 * SECOND);
    assert_eq!(parked(&lab), (0, 0));
    lab.origin.borrow_mut().send(ups[0], OK);
    lab.wait(2 * SECOND);
    let told = [lab.client.borrow().text(clients[0]), lab.client.borrow().text(clients[1])];
    let statuses = [told[0].contains("HTTP/1.1 200 "), told[0].contains("HTTP/1.1 504 ")];
    let h2_answered = told[1].contains("ok");
    assert!(statuses.contains(&true) && h2_answered != statuses[0], "one has its answer, one was too late: {told:?}");
    assert!(!told.concat().contains("steady-parked") && !told[0].contains("102"), "word of it stays between the two");
    assert_eq!(lab.world.proxies[EDGE].stats().refusals[Refusal::ResponseTimeout.index()].value(), 1);
    lab.end();
}

#[test]
fn a_request_that_waits_too_long_at_its_upstream_gets_the_upstreams_answer() {
    let mut lab = chain(20 * SECOND);
    let client = lab.send(GET);
    lab.wait(21 * SECOND);
    let told = lab.client.borrow().text(client);
    assert!(told.starts_with("HTTP/1.1 503 ") && told.contains("retry-after: 1"), "{told}");
    assert_eq!(parked(&lab), (0, 0));
    lab.end();
}

#[test]
fn a_client_that_ends_its_side_leaves_its_place_at_the_upstream() {
    let mut lab = chain(100 * SECOND);
    let late = lab.send(GET);
    let early = lab.send(GET);
    lab.client.borrow_mut().shutdown(early);
    lab.wait(SECOND);
    assert_eq!(parked(&lab), (1, 1), "who had ended before the word came has left when it comes");
    lab.client.borrow_mut().shutdown(late);
    lab.wait(SECOND);
    assert_eq!(parked(&lab), (0, 0));
    assert_eq!(lab.world.proxies[EDGE].outcomes(Outcome::ClientGone), 2);
    assert_eq!(lab.world.proxies[AGENT].outcomes(Outcome::ClientGone), 2);
    lab.end();
}

#[test]
fn a_client_that_ends_its_side_once_its_request_goes_on_gets_its_answer() {
    let mut lab = chain(100 * SECOND);
    let client = lab.send(GET);
    lab.wait(SECOND);
    let_go(&mut lab);
    let up = lab.upstream(0);
    lab.client.borrow_mut().shutdown(client);
    lab.wait(SECOND);
    lab.origin.borrow_mut().send(up, OK);
    lab.client_got(client, b"ok");
    lab.end();
}

/// An interim response that says so.
fn says(stream: u32, millis: &str) -> Vec<u8> {
    let value = [&[millis.len() as u8], millis.as_bytes()].concat();
    h2::frame(1, 4, stream, &[b"\x08\x03102\0\x0dsteady-parked".as_slice(), &value].concat())
}

/// An edge before an upstream that says all sorts of things; one request with a body is there.
fn told(what: &[u8]) -> (Lab, ConnId, ConnId) {
    let mut lab = Lab::new(|addr| Place::agent(1, addr));
    let client = lab.send("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 5\r\n\r\nhello");
    let up = lab.upstream(0);
    lab.origin.borrow_mut().send(up, [h2::SETTINGS, what].concat());
    lab.wait(SECOND);
    (lab, client, up)
}

#[test]
fn an_upstream_that_does_not_keep_its_word_about_a_request_that_waits_loses_it() {
    let (mut lab, client, up) = told(&says(1, "3000"));
    lab.wait(6 * SECOND);
    assert_eq!(lab.client.borrow().text(client), "", "its answer may be on its way");
    lab.wait(2 * SECOND);
    assert!(lab.client.borrow().text(client).starts_with("HTTP/1.1 503 "));
    assert_eq!(h2::count(lab.origin.borrow().got(up), 3, 1), 1, "RST_STREAM");
    lab.end();
}

#[test]
fn an_upstream_cannot_make_a_request_wait_for_ever() {
    let (mut lab, client, _) = told(&says(1, "18446744073709551615"));
    lab.wait(1000 * SECOND);
    assert!(lab.client.borrow().text(client).starts_with("HTTP/1.1 503 "));
    lab.end();
}

#[test]
fn a_request_that_waited_at_an_upstream_and_was_refused_there_is_sent_elsewhere_whole() {
    let (mut lab, client, up) = told(&[says(1, "9000"), says(1, "0"), says(1, "9000"), h2::reset(1, 7)].concat());
    assert_eq!(h2::body(lab.origin.borrow().got(up), 3), b"hello");
    assert_eq!(lab.world.proxies[0].stats().upstream_parked_open.value(), 0);
    lab.origin.borrow_mut().send(up, h2::ok(3, true));
    lab.client_got(client, b"\r\n\r\n");
    assert!(lab.client.borrow().text(client).starts_with("HTTP/1.1 200 "));
    lab.end();
}

#[test]
fn reserved_fields_of_an_applications_interim_responses_go_no_further() {
    let mut lab = Lab::h1();
    let client = lab.send(GET);
    let up = lab.upstream(0);
    lab.origin.borrow_mut().send(up, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nsteady-timing: 1\r\n\r\n");
    lab.client_got(client, b"\r\n\r\n");
    assert_eq!(lab.client.borrow().text(client), "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
    lab.origin.borrow_mut().send(up, OK);
    lab.client_got(client, b"ok");
    lab.end();
}

// Bounds.

#[test]
fn past_the_bound_of_what_may_be_parked_a_request_is_refused_and_the_others_wait_on() {
    let mut narrow = config();
    narrow.limits.parked_max = 3;
    let mut lab = Lab::with(|addr| Place::h1(1, addr), &narrow, Timeouts::default());
    hold(&mut lab, 60 * SECOND, false);
    let clients: Vec<ConnId> = (0..5).map(|_| lab.send(GET)).collect();
    lab.wait(SECOND);
    let refused = |lab: &Lab| {
        let client = lab.client.borrow();
        let texts = clients.iter().map(|&id| client.text(id));
        texts.filter(|text| text.starts_with("HTTP/1.1 503 ") && text.contains("retry-after: 1")).count()
    };
    assert_eq!(refused(&lab), 2);
    let stats = lab.world.proxies[0].stats();
    assert_eq!((stats.parked_open.value(), stats.refusals[Refusal::ParkingFull.index()].value()), (3, 2));
    lab.wait(60 * SECOND);
    assert_eq!(refused(&lab), 5);
    assert_eq!(stats.parked_bytes.value(), 0);
    lab.end();
}

#[test]
fn what_parked_requests_hold_is_bounded_together_bodies_that_may_still_come_included() {
    let mut narrow = config();
    narrow.limits.parked_bytes_max = 100_000;
    let mut lab = Lab::with(|addr| Place::h1(1, addr), &narrow, Timeouts::default());
    hold(&mut lab, 60 * SECOND, false);
    let large = "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1000000\r\n\r\n";
    let clients = [lab.send(large), lab.send(large), lab.send(GET)];
    lab.wait(SECOND);
    let answered = clients.map(|id| lab.client.borrow().text(id).starts_with("HTTP/1.1 503 "));
    assert_eq!(answered.iter().filter(|&&answered| answered).count(), 1);
    assert!(!answered[2], "small ones still fit");
    let bytes = lab.world.proxies[0].stats().parked_bytes.value();
    assert!((65_000..100_000).contains(&bytes), "{bytes}");
    for id in clients {
        lab.client.borrow_mut().abort(id);
    }
    lab.end();
}

// Cuts and deadlines.

#[test]
fn a_cut_reaches_what_is_parked() {
    let mut lab = chain(100 * SECOND);
    let client = lab.send(GET);
    lab.wait(SECOND);
    assert!(lab.world.proxies[AGENT].plane.command(&Command::Inspect(Arc::new(|_| true))));
    lab.wait(SECOND);
    assert!(lab.client.borrow().text(client).starts_with("HTTP/1.1 503 "));
    assert_eq!(parked(&lab), (0, 0));
    lab.end();
}

#[test]
fn shorter_timeouts_hold_for_what_waits_already() {
    let mut lab = Lab::h1();
    let scene = Scene::to(vec![Place::h1(1, lab.origin_addr)]);
    let idle = lab.send(GET);
    let up = lab.upstream(0);
    lab.origin.borrow_mut().send(up, OK);
    lab.client_got(idle, b"ok");
    let silent = lab.send(GET);
    lab.wait(SECOND);
    let timeouts = Timeouts { idle: 5 * SECOND, total: Some(7 * SECOND), ..Timeouts::default() };
    lab.world.proxies[0].plane.publish(Arc::new(Scene { timeouts, ..scene }));
    lab.wait(5 * SECOND);
    assert!(lab.client.borrow().is_over(idle));
    assert_eq!(lab.client.borrow().text(silent), "");
    lab.wait(2 * SECOND);
    assert!(lab.client.borrow().text(silent).starts_with("HTTP/1.1 504 "));
    lab.end();
}
