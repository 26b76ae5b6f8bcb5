//! How a body ends tells whether it is whole, in every pair of versions.

use steady_proxy::{Config, Limits, Outcome, Timeouts};
use steady_ring::ConnId;

use crate::frames as h2;
use crate::lab::{GET, Lab, OK, SECOND};
use crate::world::config;
use crate::world::policy::Place;

const GET_10: &str = "GET / HTTP/1.0\r\nhost: a.test\r\n\r\n";

/// An origin that delimits its body by the end of the connection, having sent some of it; and the client.
fn close_delimited(request: &[u8]) -> (Lab, ConnId, ConnId) {
    let mut lab = Lab::h1();
    let client = lab.send(request);
    let up = lab.upstream(0);
    lab.origin_got(up, b"\r\n\r\n");
    lab.origin.borrow_mut().send(up, "HTTP/1.0 200 OK\r\n\r\nabc");
    lab.wait(SECOND);
    (lab, client, up)
}

/// The origin's connection ends by a reset rather than a FIN.
fn reset(lab: &mut Lab, up: ConnId) {
    lab.origin.borrow_mut().reset(up);
    lab.wait(SECOND);
}

fn h2_get() -> Vec<u8> {
    [h2::PREFACE.to_vec(), h2::get(1, true)].concat()
}

#[test]
fn a_body_that_a_fin_ends_is_whole() {
    let (mut lab, client, up) = close_delimited(GET.as_bytes());
    lab.origin.borrow_mut().close(up);
    lab.client_got(client, b"3\r\nabc\r\n0\r\n\r\n");
    lab.end();
    let (mut lab, client, up) = close_delimited(&h2_get());
    lab.origin.borrow_mut().close(up);
    lab.wait(SECOND);
    let last = h2::frames(lab.client.borrow().got(client)).into_iter().rfind(|frame| frame.2 == 1);
    assert!(last.is_some_and(|frame| frame.0 == 0 && frame.1 == 1), "DATA with END_STREAM");
    assert_eq!(h2::body(lab.client.borrow().got(client), 1), b"abc");
    lab.end();
}

#[test]
fn a_body_that_a_reset_cuts_does_not_look_whole() {
    let (mut lab, client, up) = close_delimited(GET.as_bytes());
    reset(&mut lab, up);
    assert!(lab.client.borrow().text(client).ends_with("3\r\nabc\r\n"), "no last chunk");
    assert!(lab.client.borrow().is_over(client));
    assert_eq!(lab.world.proxies[0].outcomes(Outcome::UpstreamBroken), 1);
    lab.end();
    let (mut lab, client, up) = close_delimited(&h2_get());
    reset(&mut lab, up);
    let frames = h2::frames(lab.client.borrow().got(client));
    assert!(
        frames.iter().all(|frame| frame.0 != 0 || frame.1 == 0)
            && h2::count(lab.client.borrow().got(client), 3, 1) == 1
    );
    lab.end();
    let (mut lab, client, up) = close_delimited(GET_10.as_bytes());
    reset(&mut lab, up);
    assert!(lab.client.borrow().is_failed(client), "where only the end delimits, a cut is a reset");
    lab.end();
}

#[test]
fn a_client_of_http_1_0_gets_a_body_without_chunks_and_no_interim_response() {
    let mut lab = Lab::h1();
    let client = lab.send(GET_10);
    let up = lab.upstream(0);
    let head = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    lab.origin.borrow_mut().send(up, [head, "3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n"].concat());
    lab.wait(SECOND);
    assert_eq!(lab.client.borrow().text(client), "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc");
    assert!(lab.client.borrow().is_over(client) && !lab.client.borrow().is_failed(client));
    assert_eq!(lab.world.proxies[0].ledger.borrow().records[0].version, 10);
    lab.end();
}

#[test]
fn a_client_of_http_1_0_that_asks_to_keep_its_connection_keeps_it_where_the_length_is_known() {
    let mut lab = Lab::h1();
    let client = lab.send("GET / HTTP/1.0\r\nhost: a.test\r\nconnection: keep-alive\r\n\r\n");
    let up = lab.upstream(0);
    lab.origin_got(up, b"\r\n\r\n");
    lab.origin.borrow_mut().send(up, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    lab.client_got(client, b"ok");
    assert!(lab.client.borrow().text(client).contains("connection: keep-alive"));
    lab.client.borrow_mut().take(client);
    lab.origin.borrow_mut().take(up);
    lab.client.borrow_mut().send(client, GET);
    lab.origin_got(up, b"\r\n\r\n");
    lab.origin.borrow_mut().send(up, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    lab.client_got(client, b"ok");
    let versions: Vec<u8> = lab.world.proxies[0].ledger.borrow().records.iter().map(|record| record.version).collect();
    assert_eq!(versions, [10, 11]);
    lab.end();
}

#[test]
fn octets_behind_a_response_are_not_taken_for_the_answer_to_the_next_request() {
    // RFC 9112 §9.2: what comes while no request is outstanding is no response. The second request waits for the connection,
    // and gets it in the middle of what the origin has sent.
    let limits = Limits { h1_connections_max: 1, ..Limits::default() };
    for body in ["", "hello"] {
        let mut lab =
            Lab::with(|addr| Place::h1(1, addr), &Config { limits: limits.clone(), ..config() }, Timeouts::default());
        let first = lab.send(GET);
        let up = lab.upstream(0);
        lab.origin_got(up, b"\r\n\r\n");
        let second =
            lab.send(format!("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
        lab.wait(SECOND);
        lab.origin.borrow_mut().send(up, format!("{OK}HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged"));
        lab.client_got(first, b"ok");
        let another = lab.upstream(1);
        lab.origin_got(another, body.as_bytes());
        assert_eq!(lab.client.borrow().text(second), "", "nobody has answered it");
        lab.origin.borrow_mut().send(another, OK);
        lab.client_got(second, b"ok");
        lab.end();
    }
}
