use super::*;
use crate::codec::Client as _;

fn get() -> Head {
    request("GET", "/", None, &[])
}

/// A client that has sent this request whole.
fn opened(head: &Head) -> End<Client> {
    let mut end = client();
    assert_eq!(end.codec.open(head, true, &mut end.out), Some(stream(1)));
    end
}

fn failed(said: &[Said]) -> bool {
    matches!(said.last(), Some(Said::Failed { status: 502, .. }))
}

#[test]
fn a_request_is_written_with_host_first_and_its_cookie_crumbs_joined() {
    let head = request(
        "GET",
        "/a?b",
        None,
        &[("cookie", "a=1"), ("accept", "*/*"), ("cookie", "b=2"), ("connection", "x"), ("x-y", "z")],
    );
    assert_eq!(
        opened(&head).written(),
        "GET /a?b HTTP/1.1\r\nhost: a.steady.page\r\naccept: */*\r\nx-y: z\r\ncookie: a=1; b=2\r\n\r\n"
    );
}

#[test]
fn octets_that_would_end_a_part_of_the_request_line_are_percent_encoded() {
    let mut head = Head::new();
    head.set_method(b"GET / HTTP/1.1\r\nX:");
    head.set_authority(b"a\r\nX: y");
    head.set_path("/é b#c\r\n\0".as_bytes());
    assert_eq!(
        opened(&head).written(),
        "GET%20/%20HTTP/1.1%0D%0AX: /%C3%A9%20b%23c%0D%0A%00 HTTP/1.1\r\nhost: a%0D%0AX:%20y\r\n\r\n"
    );
}

#[test]
fn te_is_nominated_by_connection() {
    let written = opened(&request("GET", "/", None, &[("te", "trailers")])).written();
    assert_eq!(written, "GET / HTTP/1.1\r\nhost: a.steady.page\r\nte: trailers\r\nconnection: te\r\n\r\n");
}

#[test]
fn a_method_that_leads_a_server_to_expect_content_says_that_there_is_none() {
    for (method, said) in
        [("POST", true), ("PUT", true), ("PATCH", true), ("GET", false), ("DELETE", false), ("OPTIONS", false)]
    {
        assert_eq!(
            opened(&request(method, "/", None, &[])).written().contains("content-length: 0\r\n"),
            said,
            "{method}"
        );
    }
    assert!(opened(&request("OPTIONS", "*", None, &[])).written().starts_with("OPTIONS * HTTP/1.1\r\n"));
}

#[test]
fn a_request_body_is_framed_by_its_length_or_chunked() {
    let mut end = client();
    let id = end.codec.open(&request("POST", "/", Some(5), &[]), false, &mut end.out).expect("idle");
    end.codec.send_data(id, b"he", false, &mut end.out);
    end.codec.send_data(id, b"llo", true, &mut end.out);
    assert!(end.written().ends_with("content-length: 5\r\n\r\nhello"));

    let mut end = client();
    let id = end.codec.open(&request("POST", "/", None, &[]), false, &mut end.out).expect("idle");
    end.codec.send_data(id, b"hello", false, &mut end.out);
    end.codec.send_data(id, b"", true, &mut end.out);
    assert!(end.written().ends_with("transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"));
}

#[test]
fn a_request_body_longer_than_declared_is_cut_and_its_connection_used_once() {
    let mut end = client();
    let id = end.codec.open(&request("POST", "/", Some(2), &[]), false, &mut end.out).expect("idle");
    assert_eq!(end.codec.send_data(id, b"hi GET", false, &mut end.out), 6);
    assert_eq!(end.codec.send_data(id, b" / HTTP/1.1", true, &mut end.out), 11);
    assert!(end.written().ends_with("\r\n\r\nhi"));
    assert!(end.codec.is_finished());
    end.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(end.take().len(), 1, "its answer still counts");
    assert_eq!((end.codec.available(), end.codec.active()), (0, 0));
}

#[test]
fn a_request_body_shorter_than_declared_fails_the_connection() {
    let mut end = client();
    let id = end.codec.open(&request("POST", "/", Some(5), &[]), false, &mut end.out).expect("idle");
    end.codec.send_data(id, b"hi", true, &mut end.out);
    assert_eq!((end.codec.is_finished(), end.codec.active(), end.codec.available()), (true, 0, 0));
    assert!(failed(&end.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").take()));
    assert!(opened(&request("POST", "/", Some(5), &[])).codec.is_finished(), "at once, too");
}

#[test]
fn a_response_becomes_a_canonical_head() {
    let said = answered(
        &get(),
        b"HTTP/1.1 200 All Right\r\nX-A: b\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nContent-Length: 2\r\n\r\nhi",
    );
    let head = "200 Some(2)\nx-a: b".to_owned();
    assert_eq!(said, [Said::Head { id: 1, end: false, head }, Said::Data(b"hi".to_vec()), Said::End]);
}

#[test]
fn the_status_line_is_read_by_the_letter_but_for_a_missing_reason() {
    for line in [
        "HTTP/1.1 200 OK",
        "HTTP/1.1 200 ",
        "HTTP/1.1 200",
        "HTTP/1.1 200 a  b\t\u{e9}",
        "HTTP/1.0 200 OK",
        "HTTP/1.1 999 x",
    ] {
        let said = answered(&get(), format!("{line}\r\nContent-Length: 0\r\n\r\n").as_bytes());
        assert!(matches!(said[..], [Said::Head { end: true, .. }]), "{line:?}: {said:?}");
    }
    for line in [
        "HTTP/2.0 200 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1  200 OK",
        "http/1.1 200 OK",
        "HTTP/1.1 099 x",
        "HTTP/1.1 2x0 x",
        "ICY 200 OK",
        "HTTP/1.1 200\tOK",
        "",
        "HTTP/1.1",
        "HTTP/1.1 -20 x",
    ] {
        assert!(failed(&answered(&get(), format!("{line}\r\nContent-Length: 0\r\n\r\n").as_bytes())), "{line:?}");
    }
}

#[test]
fn a_connection_is_reusable_when_both_sides_say_so_and_the_length_is_known() {
    let cases = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 1),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 1),
        ("HTTP/1.1 204 No Content\r\n\r\n", 1),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 1),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", 1),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 0),
        ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 0),
        ("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", 0),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", 0),
        ("HTTP/1.1 103 Early Hints\r\nConnection: close\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 0),
    ];
    for (input, available) in cases {
        let mut end = opened(&get());
        end.feed(input.as_bytes());
        assert!(!failed(&end.said), "{input:?}: {:?}", end.said);
        assert_eq!((end.codec.available(), end.codec.active()), (available, 0), "{input:?}");
        assert_eq!(end.codec.is_finished(), available == 0, "{input:?}");
    }
}

#[test]
fn requests_follow_one_another_on_one_connection() {
    let mut end = opened(&get());
    assert_eq!(end.codec.open(&get(), true, &mut end.out), None, "one at a time");
    end.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(end.codec.open(&get(), true, &mut end.out), Some(stream(2)));
    end.take();
    end.feed(b"HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(end.take(), [Said::Head { id: 2, end: true, head: "204 None".into() }]);
}

#[test]
fn answers_to_head_204_and_304_have_no_body() {
    for (method, status) in [("HEAD", 200), ("GET", 204), ("GET", 304)] {
        for framing in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", ""] {
            let said =
                answered(&request(method, "/", None, &[]), format!("HTTP/1.1 {status} x\r\n{framing}\r\n").as_bytes());
            assert!(matches!(said[..], [Said::Head { end: true, .. }]), "{method} {status} {framing:?}: {said:?}");
        }
    }
}

#[test]
fn a_body_without_a_length_lasts_until_the_server_closes() {
    let mut end = opened(&get());
    end.feed(b"HTTP/1.1 200 OK\r\n\r\nhel").feed(b"lo").finish();
    assert_eq!(end.take()[1..], [Said::Data(b"hello".to_vec()), Said::End]);
    assert_eq!((end.codec.is_finished(), end.codec.active()), (true, 0));
}

#[test]
fn a_server_that_stops_in_the_middle_of_its_answer_has_failed() {
    for input in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
    ] {
        let mut end = opened(&get());
        assert!(failed(&end.feed(input.as_bytes()).finish().take()), "{input:?}");
    }
}

#[test]
fn interim_responses_are_passed_on_up_to_a_limit() {
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
    let end = "HTTP/1.1 204 No Content\r\n\r\n";
    let said = answered(&get(), format!("HTTP/1.1 100 Continue\r\n\r\n{hint}{end}").as_bytes());
    assert_eq!(said[..2], [Said::Interim("100 None".into()), Said::Interim("103 None\nlink: x".into())]);
    assert!(matches!(said[2..], [Said::Head { end: true, .. }]));
    assert_eq!(answered(&get(), format!("{}{end}", hint.repeat(16)).as_bytes()).len(), 17);
    let said = answered(&get(), hint.repeat(17).as_bytes());
    assert_eq!(said.last(), Some(&Said::Failed { status: 502, limit: Some(Limit::Interim) }));
    assert!(failed(&answered(&get(), b"HTTP/1.1 100 Continue\r\nContent-Length: 3\r\n\r\nabc")));
}

#[test]
fn octets_that_answer_no_request_fail_the_connection() {
    let mut end = client();
    assert!(end.feed(b"").take().is_empty());
    assert!(failed(&end.feed(b"HTTP/1.1 408 Request Timeout\r\n\r\n").take()));
    let said = answered(&get(), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n");
    assert!(matches!(said[..], [Said::Head { end: true, .. }, Said::Failed { .. }]));
}

#[test]
fn an_early_response_is_whole_and_the_connection_is_used_no_further() {
    let mut end = client();
    let id = end.codec.open(&request("POST", "/", None, &[]), false, &mut end.out).expect("idle");
    end.feed(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno");
    assert_eq!(end.take()[1..], [Said::Data(b"no".to_vec()), Said::End]);
    assert_eq!((end.codec.is_finished(), end.codec.active(), end.codec.available()), (true, 0, 0));
    end.written();
    assert_eq!(end.codec.send_data(id, b"more", true, &mut end.out), 4);
    assert_eq!(end.written(), "");
}

#[test]
fn a_response_may_begin_before_the_request_has_ended() {
    let mut end = client();
    let id = end.codec.open(&request("POST", "/", None, &[]), false, &mut end.out).expect("idle");
    end.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    end.codec.send_data(id, b"b", true, &mut end.out);
    end.feed(b"0\r\nX: y\r\n\r\n");
    assert!(matches!(end.take()[..], [Said::Head { .. }, Said::Data(_), Said::Trailers(_)]));
    assert_eq!(end.codec.available(), 1);
}

#[test]
fn after_go_away_no_request_is_opened_and_the_one_under_way_ends_well() {
    let mut idle = client();
    idle.codec.go_away(&mut idle.out);
    assert_eq!((idle.codec.is_finished(), idle.codec.open(&get(), true, &mut idle.out)), (true, None));
    let mut busy = opened(&get());
    busy.codec.go_away(&mut busy.out);
    assert_eq!((busy.codec.is_finished(), busy.codec.active()), (true, 1));
    busy.feed(b"HTTP/1.1 204 No Content\r\n\r\n");
    assert!(matches!(busy.take()[..], [Said::Head { .. }]));
    assert_eq!((busy.codec.active(), busy.codec.available()), (0, 0));
}

#[test]
fn a_server_that_closes_between_exchanges_finishes_the_connection() {
    let mut end = client();
    end.finish();
    assert_eq!((end.take(), end.codec.is_finished(), end.codec.available()), (vec![Said::Closed], true, 0));
}
