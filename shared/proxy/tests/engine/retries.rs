//! What is sent again, and what never is.

use steady_proxy::AttemptEnd;

use crate::frames as h2;
use crate::lab::{GET, Lab, OK, SECOND};
use crate::world::Node;
use crate::world::policy::Place;

/// One request with a body, to an h2c target that refuses it in some way; how often it was sent and what the client got.
fn refused(body: usize, replay: u32, refuse: impl Fn(u32) -> Vec<u8>) -> (usize, String) {
    let mut lab = Lab::new(|addr| Place { replay, ..Place::h2(1, addr) });
    let head = format!("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: {body}\r\n\r\n");
    let client = lab.send([head.as_bytes(), &vec![b'b'; body]].concat());
    let up = lab.upstream(0);
    lab.origin.borrow_mut().send(up, h2::SETTINGS);
    lab.wait(SECOND);
    lab.origin.borrow_mut().send(up, refuse(1));
    lab.wait(SECOND);
    let mut heads = 0;
    let connections = lab.origin.borrow().accepted.clone();
    for &conn in &connections {
        for stream in [1, 3] {
            heads += h2::count(lab.origin.borrow().got(conn), 1, stream);
        }
    }
    let (conn, stream) = if connections.len() > 1 { (connections[1], 1) } else { (up, 3) };
    if heads > 1 {
        let answer = [h2::window(stream, 1 << 20), h2::window(0, 1 << 20), h2::ok(stream, false)].concat();
        lab.origin.borrow_mut().send(conn, [h2::SETTINGS, &answer].concat());
        lab.wait(SECOND);
        assert_eq!(h2::body(lab.origin.borrow().got(conn), stream), vec![b'b'; body], "the body is whole");
        lab.origin.borrow_mut().send(conn, h2::data(stream, b"ok", true));
    }
    lab.wait(SECOND);
    let text = lab.client.borrow().text(client);
    lab.client.borrow_mut().abort(client);
    lab.end();
    (heads, text.get(..12).unwrap_or_default().into())
}

#[test]
fn a_request_is_sent_again_only_when_it_is_provably_unprocessed() {
    let ok = "HTTP/1.1 200".to_string();
    let marked = |stream| h2::frame(1, 5, stream, b"\x08\x03421\0\x09x-refused\x011");
    let plain_421 = |stream| h2::frame(1, 5, stream, b"\x08\x03421");
    for body in [0, 10, 60_000, 200_000] {
        let goaway = |_| h2::goaway(0);
        assert_eq!(refused(body, 65_536, |stream| h2::reset(stream, 7)), (2, ok.clone()), "REFUSED_STREAM, {body}");
        assert_eq!(refused(body, 65_536, goaway), (2, ok.clone()), "GOAWAY, {body}");
        assert_eq!(refused(body, 65_536, marked), (2, ok.clone()), "marked, {body}");
        assert_eq!(refused(body, 65_536, plain_421), (1, "HTTP/1.1 421".into()), "an application's 421, {body}");
        assert_eq!(refused(body, 65_536, |stream| h2::reset(stream, 8)), (1, "HTTP/1.1 502".into()), "CANCEL, {body}");
        assert_eq!(refused(body, 65_536, |_| h2::goaway(1)), (1, String::new()), "GOAWAY that includes it, {body}");
    }
    assert_eq!(refused(0, 0, |stream| h2::reset(stream, 7)), (2, ok), "without a body there is nothing to keep");
    assert_eq!(refused(10, 0, |stream| h2::reset(stream, 7)), (1, "HTTP/1.1 503".into()), "nothing was kept");
}

#[test]
fn a_body_that_its_upstream_has_begun_to_take_is_not_sent_again() {
    let (heads, text) =
        refused(200_000, 65_536, |stream| [h2::window(0, 10), h2::window(stream, 10), h2::reset(stream, 7)].concat());
    assert_eq!((heads, text.as_str()), (1, "HTTP/1.1 503"));
}

#[test]
fn a_request_whose_connection_broke_is_never_sent_again() {
    let mut lab = Lab::h1();
    let client = lab.send(GET);
    let up = lab.upstream(0);
    lab.origin_got(up, b"\r\n\r\n");
    lab.origin.borrow_mut().abort(up);
    lab.wait(SECOND);
    assert!(lab.client.borrow().text(client).starts_with("HTTP/1.1 502 "));
    assert_eq!(lab.origin.borrow().accepted.len(), 1);
    lab.end();
}

#[test]
fn a_request_with_a_body_whose_idle_connection_ends_in_the_same_batch_is_sent_over_another() {
    let mut lab = Lab::h1();
    let client = lab.send(GET);
    let mut up = lab.upstream(0);
    lab.origin.borrow_mut().send(up, OK);
    // Which of the two is seen first is drawn.
    for round in 1..=10 {
        lab.client_got(client, b"ok");
        lab.client.borrow_mut().take(client);
        lab.client.borrow_mut().send(client, "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 5\r\n\r\nhello");
        lab.origin.borrow_mut().close(up);
        // Both arrive while the worker sleeps.
        for _ in 0..2 {
            lab.client.borrow_mut().step();
            lab.origin.borrow_mut().step();
        }
        let later = lab.world.now() + SECOND / 1000;
        lab.world.net.advance(later);
        up = lab.upstream(round);
        lab.origin_got(up, b"\r\n\r\nhello");
        lab.origin.borrow_mut().send(up, OK);
    }
    lab.client_got(client, b"ok");
    let refused = lab.world.proxies[0].ledger.borrow().ended(AttemptEnd::Refused);
    assert!(refused > 0 && refused == lab.world.proxies[0].stats().retries.value(), "{refused}");
    lab.end();
}
