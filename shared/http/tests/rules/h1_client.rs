//! RFC 9112 and RFC 9110 for one who sends requests on and receives the answers.

use std::rc::Rc;

use steady_http::h1::Client;
use steady_http::{Client as _, Codec, Error, Head, Limits, Method};

use crate::support::{End, Seen, request};

fn client() -> End<Client> {
    End::of(Client::new(Rc::new(Limits::default())))
}

/// A client that has asked, and waits.
fn asked(method: &str) -> End<Client> {
    let mut end = client();
    let mut head = request(method, "/", &[]);
    if head.method == Method::Connect {
        head.set_path(b"");
        head.set_authority(b"a.example:443");
    }
    let stream = end.codec.open(&head, head.method != Method::Connect, &mut end.out).unwrap();
    end.ids.insert(stream.id, stream);
    end
}

fn hear(method: &str, octets: &str) -> Result<Vec<Seen>, Error> {
    asked(method).hear(octets.as_bytes())
}

#[track_caller]
fn broken(octets: &str) {
    let error = hear("GET", octets).expect_err(octets);
    assert_eq!(error.status, 502, "{octets}");
}

fn written(head: &Head, end: bool) -> String {
    let mut client = client();
    client.codec.open(head, end, &mut client.out).unwrap();
    String::from_utf8(client.out).unwrap()
}

#[test]
fn rfc_9112_3_2_every_request_has_one_host_and_it_is_the_targets_authority() {
    let said = written(&request("GET", "/x", &[("host", "other.example")]), true);
    assert_eq!(said.matches("host: ").count(), 1, "{said}");
    assert!(said.starts_with("GET /x HTTP/1.1\r\nhost: a.example\r\n"), "{said}");
}

#[test]
fn rfc_9113_8_2_3_crumbs_of_a_cookie_are_one_field_and_empty_ones_leave_no_trace() {
    for (crumbs, field) in [(&["a=1", "", "b=2", ""][..], "cookie: a=1; b=2\r\n"), (&["", "a=1"], "cookie: a=1\r\n")] {
        let fields: Vec<_> = crumbs.iter().map(|crumb| ("cookie", *crumb)).collect();
        let said = written(&request("GET", "/", &fields), true);
        assert!(said.contains(field) && said.matches("cookie").count() == 1, "{said}");
    }
}

#[test]
fn rfc_9110_9_1_a_method_goes_on_as_it_came_whatever_token_it_is() {
    for method in ["BREW", "get", "M-SEARCH", "#%&'*+.^_`|~!$"] {
        assert!(written(&request(method, "/", &[]), true).starts_with(&format!("{method} / HTTP/1.1\r\n")));
    }
}

#[test]
fn rfc_9112_3_2_4_options_of_the_whole_server_has_the_asterisk_form() {
    assert!(written(&request("OPTIONS", "*", &[]), true).starts_with("OPTIONS * HTTP/1.1\r\n"));
}

#[test]
fn rfc_9112_4_a_status_line_has_three_digits_and_a_version_of_ours() {
    for line in
        ["HTTP/1.1 20", "HTTP/1.1 2000 OK", "HTTP/1.1 2x0 OK", "HTTP/1.1  200 OK", "HTTP/2.0 200 OK", "ICY 200 OK"]
    {
        broken(&format!("{line}\r\nContent-Length: 0\r\n\r\n"));
    }
    for line in ["HTTP/1.1 200 ", "HTTP/1.1 200 what ever it says", "HTTP/1.0 200 OK"] {
        assert!(hear("GET", &format!("{line}\r\nContent-Length: 0\r\n\r\n")).is_ok(), "{line}");
    }
}

#[test]
fn rfc_9110_15_a_status_that_is_not_known_is_one_of_its_class() {
    for status in [299, 399, 499, 599] {
        let seen = hear("GET", &format!("HTTP/1.1 {status} ?\r\nContent-Length: 0\r\n\r\n")).unwrap();
        assert!(matches!(&seen[..], [Seen::Head { end: true, text, .. }] if text.starts_with(&status.to_string())));
    }
}

#[test]
fn rfc_9110_15_2_any_number_of_interim_answers_up_to_a_limit_come_before_the_final_one() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 199 ?\r\n\r\n";
    let seen = hear("GET", &format!("{interim}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")).unwrap();
    assert!(matches!(
        &seen[..],
        [Seen::Interim { .. }, Seen::Interim { .. }, Seen::Interim { .. }, Seen::Head { end: true, .. }]
    ));
}

#[test]
fn rfc_9110_15_2_2_a_switch_that_nobody_asked_for_is_broken() {
    broken("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n");
}

#[test]
fn rfc_9112_6_3_answers_to_head_and_those_of_204_and_304_end_with_their_head_whatever_they_declare() {
    for (method, status, framing) in [
        ("HEAD", 200, "Content-Length: 5"),
        ("HEAD", 200, "Transfer-Encoding: chunked"),
        ("HEAD", 404, "X: no length"),
        ("GET", 304, "Content-Length: 5"),
        ("GET", 204, "X: none"),
    ] {
        let mut end = asked(method);
        let seen = end.hear(format!("HTTP/1.1 {status} X\r\n{framing}\r\n\r\n").as_bytes()).unwrap();
        assert!(matches!(seen[..], [Seen::Head { end: true, .. }]), "{method} {status} {framing}: {seen:?}");
    }
}

#[test]
fn rfc_9112_6_3_an_answer_that_grants_connect_is_a_tunnel_whatever_it_declares() {
    for framing in ["Content-Length: 2\r\n", "Transfer-Encoding: chunked\r\n", ""] {
        let mut end = asked("CONNECT");
        let seen = end.hear(format!("HTTP/1.1 200 OK\r\n{framing}\r\nwhatever\r\n").as_bytes()).unwrap();
        let tunnel = matches!(&seen[1..], [Seen::Data { data, end: false, .. }] if data == b"whatever\r\n");
        assert!(tunnel, "{framing}: {seen:?}");
    }
}

#[test]
fn rfc_9112_6_3_a_length_that_cannot_be_trusted_is_an_unrecoverable_error() {
    for framing in [
        "Content-Length: x",
        "Content-Length: -1",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: gzip",
    ] {
        broken(&format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\nhello"));
    }
}

#[test]
fn rfc_9112_6_3_without_a_length_the_answer_lasts_until_the_server_closes() {
    let mut end = asked("GET");
    end.hear(b"HTTP/1.1 200 OK\r\n\r\nhello").unwrap();
    assert!(end.codec.is_finished(), "and its connection carries no other");
    assert!(end.codec.receive_end(&mut end.out).unwrap().is_some());
}

#[test]
fn rfc_9112_8_an_answer_that_breaks_off_is_incomplete() {
    for part in
        ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", "HTTP/1.1 100 Continue\r\n\r\n"]
    {
        let mut end = asked("GET");
        end.hear(part.as_bytes()).unwrap();
        assert!(end.codec.receive_end(&mut end.out).is_err(), "{part}");
    }
    for part in ["", "5\r\nhel", "5\r\nhello", "5\r\nhello\r\n", "5\r\nhello\r\n0\r\n", "5\r\nhello\r\n0\r\nX: 1\r\n"] {
        let mut end = asked("GET");
        end.hear(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{part}").as_bytes()).unwrap();
        assert!(end.codec.receive_end(&mut end.out).is_err(), "{part}");
    }
}

#[test]
fn rfc_9112_9_2_octets_that_answer_no_request_are_broken() {
    let mut end = client();
    assert!(end.hear(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    let mut end = asked("GET");
    assert!(
        end.hear(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .is_err()
    );
}

#[test]
fn rfc_9112_9_6_after_close_the_connection_carries_no_other_request() {
    for (line, open) in [("Connection: close\r\n", 0), ("Connection: X, Close\r\n", 0), ("", 1)] {
        let mut end = asked("GET");
        end.hear(format!("HTTP/1.1 200 OK\r\n{line}Content-Length: 0\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(end.codec.available(), open, "{line}");
    }
    for (line, open) in [("", 0), ("Connection: keep-alive\r\n", 1)] {
        let mut end = asked("GET");
        end.hear(format!("HTTP/1.0 200 OK\r\n{line}Content-Length: 0\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(end.codec.available(), open, "HTTP/1.0 {line}");
    }
}

#[test]
fn rfc_9110_7_6_1_fields_of_the_servers_connection_end_here() {
    let seen = hear(
        "GET",
        "HTTP/1.1 200 OK\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nX: 2\r\nContent-Length: 0\r\n\r\n",
    );
    assert!(matches!(&seen.unwrap()[..], [Seen::Head { text, .. }] if text == "200|length=0|x=2"));
}

#[test]
fn rfc_9110_10_1_4_te_is_sent_only_as_trailers_and_named_by_connection() {
    let said = written(&request("GET", "/", &[("te", "trailers")]), true);
    assert!(said.contains("\r\nte: trailers\r\n") && said.contains("\r\nconnection: te\r\n"), "{said}");
}

#[test]
fn rfc_9110_8_6_a_request_that_may_have_content_and_has_none_says_so() {
    for (method, says) in
        [("POST", true), ("PUT", true), ("PATCH", true), ("GET", false), ("HEAD", false), ("TRACE", false)]
    {
        let said = written(&request(method, "/", &[]), true);
        assert_eq!(said.contains("content-length: 0\r\n"), says, "{method}: {said}");
    }
}

#[test]
fn rfc_9112_7_1_a_body_of_unknown_length_is_chunked_and_ends_with_an_empty_chunk() {
    let mut end = client();
    let stream = end.codec.open(&request("POST", "/", &[]), false, &mut end.out).unwrap();
    end.out.clear();
    end.codec.send_data(stream, b"hello, world!", false, &mut end.out);
    end.codec.send_data(stream, b"", false, &mut end.out);
    end.codec.send_data(stream, b"", true, &mut end.out);
    assert_eq!(end.out, b"d\r\nhello, world!\r\n0\r\n\r\n");
}
