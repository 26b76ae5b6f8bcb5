//! CONNECT, upgrades, and WebSockets.

use super::*;
use crate::codec::Client as _;

/// The example of RFC 6455 §1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn upgrade(fields: &str) -> String {
    format!("GET /chat HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

fn websocket_request(fields: &[(&str, &str)]) -> Head {
    let mut head = request("CONNECT", "/chat", None, fields);
    head.set_protocol(b"websocket");
    head
}

#[test]
fn an_upgrade_is_an_extended_connect() {
    let head = accepted_upgrade(&format!(
        "Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Key: {KEY}\r\n"
    ));
    assert_eq!(head, format!("CONNECT Http a /chat [websocket] None\nsec-websocket-key: {KEY}"));
    assert!(accepted_upgrade("Upgrade: h2c, Foo/2, bar\r\nConnection: upgrade\r\n").contains("[Foo/2]"));
}

#[track_caller]
fn accepted_upgrade(fields: &str) -> String {
    let mut end = server();
    end.feed(upgrade(fields).as_bytes());
    match &end.take()[..] {
        [Said::Head { end: false, head, .. }] => head.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_upgrade_that_cannot_be_is_an_ordinary_request() {
    for fields in [
        "Upgrade: websocket\r\n",
        "Upgrade: websocket\r\nConnection: close\r\n",
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAA\r\n",
        "Upgrade: TLS/1.2\r\nConnection: upgrade\r\n",
        "Upgrade: HTTP/3.0, h2, tls/1.3\r\nConnection: upgrade\r\n",
        "Upgrade: web socket\r\nConnection: upgrade\r\n",
        "Upgrade:\r\nConnection: upgrade\r\n",
        "Connection: upgrade\r\n",
    ] {
        let head = accepted(&upgrade(fields));
        assert_eq!(head, "GET Http a /chat [] None", "{fields:?}");
    }
    let fields = "Upgrade: websocket\r\nConnection: upgrade\r\n";
    let plain = |input: String| matches!(&served(input.as_bytes())[0], Said::Head { head, .. } if head.contains("[]"));
    assert!(plain(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")));
    assert!(plain(format!("GET / HTTP/1.0\r\nHost: a\r\n{fields}\r\n")));
    assert!(plain(upgrade(&format!("{fields}Content-Length: 1\r\n")) + "x"));
    assert!(plain(upgrade(&format!("{fields}Transfer-Encoding: chunked\r\n"))));
}

#[test]
fn two_keys_are_refused() {
    let key = format!("Sec-WebSocket-Key: {KEY}\r\n");
    assert_eq!(refused(&upgrade(&format!("Upgrade: websocket\r\nConnection: upgrade\r\n{key}{key}"))), 400);
}

#[test]
fn a_granted_upgrade_is_a_101_and_then_a_tunnel_until_our_side_ends() {
    let mut end = server();
    let fields = format!("Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Key: {KEY}\r\n");
    end.feed(upgrade(&fields).as_bytes()).feed(b"early");
    assert!(end.codec.is_blocked());
    assert_eq!((end.take().len(), end.unread()), (1, 5), "nothing is read before the tunnel is granted");
    end.codec.send_head(stream(1), &response(200, None, &[("x", "y")]), false, &mut end.out);
    assert_eq!(
        end.written(),
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nx: y\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {ACCEPT}\r\n\r\n"
        )
    );
    end.feed(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(end.take(), [Said::Data(b"earlyGET / HTTP/1.1\r\n\r\n".to_vec())]);
    assert_eq!(end.codec.send_data(stream(1), b"0\r\n", false, &mut end.out), 3);
    assert_eq!(end.written(), "0\r\n");
    assert_eq!((end.codec.is_finished(), end.codec.active()), (true, 1));
    end.finish();
    assert_eq!((end.take(), end.codec.active()), (vec![Said::End], 1), "ours goes on");
    end.codec.send_data(stream(1), b"bye", true, &mut end.out);
    assert_eq!((end.written().as_str(), end.codec.active()), ("bye", 0));
}

#[test]
fn an_accept_that_is_given_is_kept_and_none_is_made_without_a_key() {
    let fields = format!("Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Key: {KEY}\r\n");
    let mut end = server();
    end.feed(upgrade(&fields).as_bytes());
    end.codec.send_head(stream(1), &response(200, None, &[("sec-websocket-accept", "given")]), false, &mut end.out);
    let written = end.written();
    assert!(written.contains("sec-websocket-accept: given\r\n") && !written.contains(ACCEPT));
    let mut end = server();
    end.feed(upgrade("Upgrade: other\r\nConnection: upgrade\r\n").as_bytes());
    end.codec.send_head(stream(1), &response(200, None, &[]), false, &mut end.out);
    let written = end.written();
    assert!(written.contains("upgrade: other\r\n") && !written.contains("sec-websocket"), "{written}");
}

#[test]
fn a_declined_upgrade_leaves_the_connection_to_the_next_request() {
    let mut end = server();
    end.feed(upgrade("Upgrade: websocket\r\nConnection: upgrade\r\n").as_bytes());
    end.codec.send_head(stream(1), &response(403, Some(2), &[]), false, &mut end.out);
    end.codec.send_data(stream(1), b"no", true, &mut end.out);
    assert!(end.written().starts_with("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"));
    assert_eq!((end.codec.is_finished(), end.codec.active()), (false, 0));
    end.take();
    end.feed(upgrade("").as_bytes());
    assert!(matches!(end.take()[..], [Said::Head { id: 2, end: true, .. }]));
}

#[test]
fn a_granted_connect_has_no_framing_and_a_declined_one_ends_the_connection() {
    let mut end = server();
    end.feed(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n");
    end.codec.send_head(stream(1), &response(200, Some(5), &[]), false, &mut end.out);
    assert_eq!(end.written(), "HTTP/1.1 200 OK\r\n\r\n");
    end.take();
    end.feed(b"x");
    assert_eq!(end.take(), [Said::Data(b"x".to_vec())]);

    let mut end = server();
    end.feed(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    end.take();
    end.codec.send_head(stream(1), &response(403, None, &[]), true, &mut end.out);
    assert!(end.written().contains("connection: close\r\n"));
    end.feed(b"");
    assert_eq!((end.take(), end.codec.is_finished(), end.codec.active()), (vec![], true, 0));
}

#[test]
fn a_client_that_leaves_before_its_tunnel_is_open_has_failed() {
    let mut end = server();
    end.feed(upgrade("Upgrade: websocket\r\nConnection: upgrade\r\n").as_bytes()).finish();
    assert!(matches!(end.take()[1..], [Said::Failed { .. }]));
}

#[test]
fn an_extended_connect_is_written_as_an_upgrade() {
    let mut end = client();
    end.codec.open(&websocket_request(&[("sec-websocket-key", KEY)]), false, &mut end.out).expect("idle");
    assert_eq!(
        end.written(),
        format!(
            "GET /chat HTTP/1.1\r\nhost: a.steady.page\r\nsec-websocket-key: {KEY}\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
        )
    );
    let mut head = request("CONNECT", "", None, &[]);
    head.set_protocol(b"foo");
    let mut end = client();
    end.codec.open(&head, false, &mut end.out).expect("idle");
    assert_eq!(end.written(), "GET / HTTP/1.1\r\nhost: a.steady.page\r\nupgrade: foo\r\nconnection: upgrade\r\n\r\n");
    let mut end = client();
    let mut plain = request("CONNECT", "", None, &[]);
    plain.set_authority(b"b:1");
    end.codec.open(&plain, false, &mut end.out).expect("idle");
    assert_eq!(end.written(), "CONNECT b:1 HTTP/1.1\r\nhost: b:1\r\n\r\n");
}

fn switched(accept: &str) -> String {
    format!("HTTP/1.1 101 x\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n")
}

#[test]
fn tunnel_octets_wait_for_the_101_and_are_asked_for_after_it() {
    let mut end = client();
    let id = end.codec.open(&websocket_request(&[("sec-websocket-key", KEY)]), false, &mut end.out).expect("idle");
    end.written();
    assert_eq!(end.codec.capacity(id), 0);
    assert_eq!(end.codec.send_data(id, b"early", false, &mut end.out), 0);
    end.feed((switched(ACCEPT) + "frame").as_bytes());
    let head = format!("200 None\nsec-websocket-accept: {ACCEPT}");
    assert_eq!(end.take(), [Said::Head { id: 1, end: false, head }, Said::Writable, Said::Data(b"frame".to_vec())]);
    assert_eq!(end.codec.capacity(id), usize::MAX);
    assert_eq!(end.codec.send_data(id, b"early", false, &mut end.out), 5);
    assert_eq!(end.written(), "early");
    end.finish();
    assert_eq!((end.take(), end.codec.active()), (vec![Said::End], 1));
    end.codec.send_data(id, b"", true, &mut end.out);
    assert_eq!((end.codec.active(), end.codec.is_finished()), (0, true));
}

#[test]
fn a_key_that_we_made_is_answered_for_us_alone() {
    let opened = || {
        let mut end = client();
        end.codec.open(&websocket_request(&[]), false, &mut end.out).expect("idle");
        let written = end.written();
        let key = written
            .split("sec-websocket-key: ")
            .nth(1)
            .and_then(|rest| rest.split("\r\n").next())
            .expect("a key")
            .to_owned();
        (end, key)
    };
    let (mut end, key) = opened();
    assert_eq!(key.len(), 24);
    let accept = crate::h1::websocket::accept(key.as_bytes());
    end.feed(switched(std::str::from_utf8(&accept).expect("base64")).as_bytes());
    assert_eq!(end.take(), [Said::Head { id: 1, end: false, head: "200 None".into() }]);
    let (mut end, _) = opened();
    assert!(matches!(end.feed(switched(ACCEPT).as_bytes()).take()[..], [Said::Failed { status: 502, .. }]));
}

#[test]
fn different_seeds_and_requests_make_different_keys() {
    let keys = [(1, 1), (1, 2), (2, 1), (2, 2)].map(|(seed, id)| crate::h1::websocket::key(seed, id));
    for (at, key) in keys.iter().enumerate() {
        assert!(key.ends_with(b"==") && !keys[..at].contains(key));
    }
}

#[test]
fn the_accept_of_the_rfcs_example_is_computed() {
    assert_eq!(crate::h1::websocket::accept(KEY.as_bytes()), *ACCEPT.as_bytes());
}

#[test]
fn a_switch_that_was_not_asked_for_or_not_made_is_502() {
    let keyed = websocket_request(&[("sec-websocket-key", KEY)]);
    for (head, input) in [
        (request("GET", "/", None, &[]), switched(ACCEPT)),
        (keyed.clone(), "HTTP/1.1 101 x\r\nConnection: Upgrade\r\n\r\n".into()),
        (keyed.clone(), "HTTP/1.1 101 x\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n".into()),
        (keyed.clone(), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into()),
        (keyed.clone(), "HTTP/1.1 204 OK\r\n\r\n".into()),
    ] {
        let said = answered(&head, input.as_bytes());
        assert!(matches!(said[..], [Said::Failed { status: 502, .. }]), "{input:?}: {said:?}");
    }
}

#[test]
fn a_refusal_of_an_upgrade_is_an_ordinary_response() {
    let mut end = client();
    end.codec.open(&websocket_request(&[]), false, &mut end.out).expect("idle");
    end.feed(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno");
    assert_eq!(end.take()[1..], [Said::Data(b"no".to_vec()), Said::End]);
    assert_eq!((end.codec.available(), end.codec.is_finished()), (1, false));
}

#[test]
fn a_granted_connect_is_a_tunnel_whatever_its_framing_says() {
    let mut end = client();
    let id = end.codec.open(&request("CONNECT", "", None, &[]), false, &mut end.out).expect("idle");
    end.written();
    end.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nabc");
    assert_eq!(end.take(), [Said::Head { id: 1, end: false, head: "200 None".into() }, Said::Data(b"abc".to_vec())]);
    end.codec.send_data(id, b"x", true, &mut end.out);
    assert_eq!((end.written().as_str(), end.codec.active(), end.codec.is_finished()), ("x", 0, true));
}
