use super::*;
use crate::error::{Reset, code};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A server that has read one request.
fn asked(input: &[u8]) -> End<Server> {
    let mut end = server();
    end.feed(input);
    assert!(matches!(end.take()[0], Said::Head { id: 1, .. }));
    end
}

/// What is written in answer to this request by this head and these octets of a body, and whether the connection goes on.
fn answer(input: &[u8], head: &Head, body: Option<&[u8]>) -> (String, bool) {
    let mut end = asked(input);
    end.codec.send_head(stream(1), head, body.is_none(), &mut end.out);
    if let Some(body) = body {
        assert_eq!(end.codec.send_data(stream(1), body, true, &mut end.out), body.len());
    }
    assert_eq!(end.codec.active(), 0);
    (end.written(), !end.codec.is_finished())
}

#[test]
fn a_body_of_known_length_is_written_with_it() {
    let (written, keep) =
        answer(GET, &response(200, Some(2), &[("x-a", "b"), ("set-cookie", "c"), ("set-cookie", "d")]), Some(b"hi"));
    assert_eq!(written, "HTTP/1.1 200 OK\r\nx-a: b\r\nset-cookie: c\r\nset-cookie: d\r\ncontent-length: 2\r\n\r\nhi");
    assert!(keep);
}

#[test]
fn a_body_of_unknown_length_is_chunked_one_chunk_a_call() {
    let mut end = asked(GET);
    end.codec.send_head(stream(1), &response(200, None, &[]), false, &mut end.out);
    for part in ["hello", "", "0123456789abcdef"] {
        end.codec.send_data(stream(1), part.as_bytes(), false, &mut end.out);
    }
    let mut trailers = Head::new();
    trailers.push(b"x-sum", b"7");
    trailers.push(b"content-length", b"9");
    end.codec.send_trailers(stream(1), &trailers, &mut end.out);
    assert_eq!(
        end.written(),
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\nx-sum: 7\r\n\r\n"
    );
    assert!(!end.codec.is_finished());
}

#[test]
fn a_head_that_ends_says_that_there_is_no_body() {
    assert_eq!(
        answer(GET, &response(404, None, &[]), None),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".into(), true)
    );
}

#[test]
fn a_status_without_a_phrase_keeps_its_space() {
    assert!(answer(GET, &response(599, None, &[]), None).0.starts_with("HTTP/1.1 599 \r\n"));
}

#[test]
fn bodies_that_may_not_be_there_are_swallowed() {
    let cases: [(&[u8], u16, &str); 4] = [
        (GET, 204, "HTTP/1.1 204 No Content\r\n\r\n"),
        (GET, 205, "HTTP/1.1 205 Reset Content\r\ncontent-length: 0\r\n\r\n"),
        (GET, 304, "HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\n"),
        (b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", 200, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"),
    ];
    for (input, status, expected) in cases {
        assert_eq!(answer(input, &response(status, Some(2), &[]), Some(b"hi")), (expected.into(), true), "{status}");
        assert_eq!(answer(input, &response(status, Some(2), &[]), None).0, expected, "{status}");
    }
    let head = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(answer(head, &response(200, None, &[]), Some(b"hi")), ("HTTP/1.1 200 OK\r\n\r\n".into(), true));
}

#[test]
fn fields_of_the_connection_are_not_written_from_a_head() {
    let fields = [
        ("connection", "x"),
        ("transfer-encoding", "gzip"),
        ("keep-alive", "5"),
        ("upgrade", "y"),
        ("content-length", "7"),
        ("x", "y"),
    ];
    assert_eq!(
        answer(GET, &response(200, Some(0), &fields), None).0,
        "HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 0\r\n\r\n"
    );
}

#[test]
fn a_client_that_asked_to_close_is_told_so() {
    let (written, keep) =
        answer(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: foo, Close\r\n\r\n", &response(200, Some(0), &[]), None);
    assert_eq!(written, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    assert!(!keep);
}

#[test]
fn http_1_0_closes_unless_it_asked_otherwise_and_the_length_is_known() {
    let plain = b"GET / HTTP/1.0\r\n\r\n";
    let kept = b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n";
    let (written, keep) = answer(plain, &response(200, Some(2), &[]), Some(b"hi"));
    assert_eq!(
        (written.as_str(), keep),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi", false)
    );
    let (written, keep) = answer(kept, &response(200, Some(2), &[]), Some(b"hi"));
    assert_eq!(
        (written.as_str(), keep),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nhi", true)
    );
    let (written, keep) = answer(kept, &response(200, None, &[]), Some(b"hi"));
    assert_eq!((written.as_str(), keep), ("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhi", false));
    let both = b"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n";
    assert!(!answer(both, &response(200, Some(0), &[]), None).1);
}

#[test]
fn interim_responses_go_to_http_1_1_alone() {
    for (input, expected) in [(GET, "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"), (b"GET / HTTP/1.0\r\n\r\n", "")] {
        let mut end = asked(input);
        end.codec.send_head(stream(1), &response(103, None, &[("link", "x")]), false, &mut end.out);
        assert_eq!(end.written(), expected);
        assert_eq!(end.codec.active(), 1);
    }
}

#[test]
fn a_101_is_never_written_where_no_upgrade_was_asked_for() {
    let mut end = asked(GET);
    end.codec.send_head(stream(1), &response(101, None, &[]), false, &mut end.out);
    assert_eq!(end.written(), "");
}

#[test]
fn the_next_request_waits_until_the_exchange_has_ended() {
    let mut end = server();
    end.feed(&GET.repeat(3));
    assert_eq!(end.take().len(), 1);
    assert!(end.codec.is_blocked());
    assert_eq!(end.unread(), 2 * GET.len());
    for id in 1..=3 {
        end.codec.send_head(stream(id), &response(204, None, &[]), true, &mut end.out);
        end.feed(b"");
    }
    assert!(matches!(end.take()[..], [Said::Head { id: 2, .. }, Said::Head { id: 3, .. }]));
    assert!(!end.codec.is_blocked());
}

#[test]
fn a_connection_that_is_to_close_carries_no_pipelined_request() {
    let mut end = server().answering();
    end.feed(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    end.take();
    end.feed(GET);
    assert_eq!((end.take(), end.codec.is_finished(), end.codec.active()), (vec![], true, 0));
}

#[test]
fn after_go_away_the_next_response_is_the_last() {
    let mut end = asked(GET);
    end.codec.go_away(&mut end.out);
    end.codec.send_head(stream(1), &response(200, Some(0), &[]), true, &mut end.out);
    assert!(end.written().contains("connection: close\r\n"));
    assert!(end.codec.is_finished());

    let mut idle = server().answering();
    idle.codec.go_away(&mut idle.out);
    assert!(!idle.codec.is_finished(), "an idle connection still serves the request that may be under way");
    idle.feed(GET);
    assert!(idle.written().contains("connection: close\r\n"));
    assert!(idle.codec.is_finished());

    let mut late = asked(GET);
    late.codec.send_head(stream(1), &response(200, Some(1), &[]), false, &mut late.out);
    late.codec.go_away(&mut late.out);
    late.codec.send_data(stream(1), b"x", true, &mut late.out);
    late.feed(GET);
    assert_eq!(late.take().len(), 1, "this response had promised another");
    late.codec.send_head(stream(2), &response(200, Some(0), &[]), true, &mut late.out);
    assert!(late.codec.is_finished());
}

#[test]
fn an_early_response_ends_the_connection_and_swallows_the_rest() {
    let mut end = asked(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc");
    end.codec.send_head(stream(1), &response(413, Some(0), &[]), true, &mut end.out);
    assert!(end.written().contains("connection: close\r\n"));
    assert_eq!((end.codec.is_finished(), end.codec.active()), (true, 0));
    end.feed(&[b'x'; 97]).feed(GET);
    assert_eq!((end.take(), end.unread()), (vec![], 0));
}

#[test]
fn a_response_that_begins_before_the_request_has_ended_may_end_after_it() {
    let mut end = asked(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n");
    end.codec.send_head(stream(1), &response(200, None, &[]), false, &mut end.out);
    end.feed(b"abc");
    end.codec.send_data(stream(1), b"abc", true, &mut end.out);
    assert!(!end.codec.is_finished());
    end.take();
    end.feed(GET);
    assert!(matches!(end.take()[..], [Said::Head { id: 2, .. }]));
}

#[test]
fn a_body_longer_than_declared_is_cut_there_and_ends_the_connection() {
    let (written, keep) = answer(GET, &response(200, Some(2), &[]), Some(b"hi HTTP/1.1 200 OK"));
    assert!(written.ends_with("\r\n\r\nhi"));
    assert!(!keep);
}

#[test]
fn a_body_shorter_than_declared_ends_the_connection() {
    let (written, keep) = answer(GET, &response(200, Some(3), &[]), Some(b"hi"));
    assert!(written.ends_with("\r\n\r\nhi"));
    assert!(!keep);
    assert!(!answer(GET, &response(200, Some(3), &[]), None).1);
}

#[test]
fn a_reset_ends_the_connection() {
    let mut end = asked(GET);
    end.codec.reset(stream(1), Reset::ours(code::CANCEL, "test"), &mut end.out);
    assert_eq!((end.codec.is_finished(), end.codec.active(), end.written().as_str()), (true, 0, ""));
}

#[test]
fn a_stream_that_is_gone_is_ignored() {
    let mut end = server().answering();
    end.feed(GET).feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n");
    end.written();
    end.codec.send_head(stream(1), &response(200, None, &[]), false, &mut end.out);
    assert_eq!(end.codec.send_data(stream(1), b"stale", true, &mut end.out), 5);
    end.codec.send_trailers(stream(1), &Head::new(), &mut end.out);
    end.codec.reset(stream(1), Reset::ours(code::CANCEL, "test"), &mut end.out);
    assert_eq!((end.written().as_str(), end.codec.active()), ("", 1));
}

#[test]
fn a_client_that_half_closes_still_gets_its_answer() {
    let mut end = asked(GET);
    end.finish();
    assert_eq!(end.take(), [Said::Closed]);
    end.codec.send_head(stream(1), &response(200, Some(0), &[]), true, &mut end.out);
    assert!(end.written().contains("connection: close\r\n"));
    assert!(end.codec.is_finished());
}

#[test]
fn a_refusal_is_one_whole_response_and_only_where_none_had_begun() {
    let mut end = server();
    assert!(!end.codec.refuse(&response(400, None, &[]), b"no", &mut end.out), "nothing to refuse");
    end.feed(b"GET / HTTP/1.1\r\n\r\n");
    assert!(end.codec.refuse(&response(400, None, &[("x", "y")]), b"no", &mut end.out));
    assert_eq!(end.written(), "HTTP/1.1 400 Bad Request\r\nx: y\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno");
    assert!(!end.codec.refuse(&response(400, None, &[]), b"no", &mut end.out), "only once");

    let mut begun = asked(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    begun.codec.send_head(stream(1), &response(200, None, &[]), false, &mut begun.out);
    begun.written();
    begun.feed(b"x\r\n");
    assert!(!begun.codec.refuse(&response(400, None, &[]), b"no", &mut begun.out));
    assert_eq!(begun.written(), "");

    let mut head = server();
    head.feed(b"HEAD / HTTP/1.1\r\n\r\n");
    assert!(head.codec.refuse(&response(400, None, &[]), b"no", &mut head.out));
    assert!(head.written().ends_with("\r\n\r\n"), "HEAD has no body, refused or not");
}

#[test]
fn a_refusal_of_what_never_was_whole_has_its_body_whatever_was_asked_before_and_none_where_head_is_asked() {
    for (given_up, begun, body) in
        [(true, "GET / HTTP/1.1\r\nHo", "no"), (false, "GET /", "no"), (true, "HEAD / HT", "")]
    {
        let mut end = server();
        end.feed(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
        end.codec.send_head(stream(1), &response(200, Some(0), &[]), true, &mut end.out);
        end.written();
        end.feed(begun.as_bytes());
        assert!(!end.codec.refuse(&response(408, None, &[]), b"no", &mut end.out), "it may still become whole");
        if given_up {
            end.codec.give_up();
        } else {
            end.feed(&[b'x'; 100_000]);
        }
        assert!(end.codec.refuse(&response(408, None, &[]), b"no", &mut end.out));
        let written = end.written();
        let (head, written_body) = written.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("content-length: 2\r\n"), "{written}");
        assert_eq!(written_body, body, "{begun:?}");
    }
}

#[test]
fn an_idle_codec_is_small() {
    assert!(size_of::<Server>() <= 96, "{}", size_of::<Server>());
    assert!(size_of::<Client>() <= 112, "{}", size_of::<Client>());
}
