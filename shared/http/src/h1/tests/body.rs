use super::*;

fn chunked(rest: &str) -> Vec<Said> {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut said = served(format!("{head}{rest}").as_bytes());
    assert!(matches!(said.remove(0), Said::Head { end: false, .. }));
    said
}

#[test]
fn chunks_of_any_case_and_with_extensions_make_one_body() {
    let said = chunked("5\r\nhello\r\n00B;a=b;c=\"d e\"\r\n, my world\n\r\n1\r\n\r\r\n0;x\r\n\r\n");
    assert_eq!(said, [Said::Data(b"hello, my world\n\r".to_vec()), Said::End]);
}

#[test]
fn trailers_end_a_body_and_lose_what_may_not_be_among_them() {
    let said = chunked(
        "1\r\na\r\n0\r\nX-Sum: 7\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\nHost: b\r\nAuthorization: x\r\nCookie: y\r\n\
         Connection: x-sum\r\nTrailer: z\r\nX-Forwarded-For: w\r\ngrpc-status: 0\r\n\r\n",
    );
    assert_eq!(
        said,
        [
            Said::Data(b"a".to_vec()),
            Said::Trailers("0 None\nx-sum: 7\ngrpc-status: 0".replace("0 None", &text(&Head::new())))
        ]
    );
}

#[test]
fn trailers_have_the_limits_of_a_head() {
    let limits = Limits { fields_max: 3, head_bytes_max: 100, ..Limits::default() };
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
    assert_eq!(limited(&format!("{head}{}\r\n", "X: y\r\n".repeat(4)), &limits), (Limit::Fields, 431));
    assert_eq!(limited(&format!("{head}X: {}\r\n\r\n", "y".repeat(100)), &limits), (Limit::HeadBytes, 431));
}

#[test]
fn a_size_line_has_a_limit_extensions_included() {
    let limits = Limits { chunk_line_bytes_max: 10, ..Limits::default() };
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let said = served_with(format!("{head}1;23456789\r\na\r\n0\r\n\r\n").as_bytes(), &limits);
    assert_eq!(said[1..], [Said::Data(b"a".to_vec()), Said::End], "a line of exactly the limit");
    assert_eq!(limited(&format!("{head}1;234567890\r\na\r\n0\r\n\r\n"), &limits), (Limit::ChunkLine, 400));
    assert_eq!(limited(&format!("{head}1;{}", "x".repeat(20)), &limits), (Limit::ChunkLine, 400));
}

#[test]
fn octets_of_a_body_are_slices_of_the_input() {
    let mut end = server();
    end.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n");
    let input = b"0123456789GET ".to_vec();
    let step = end.codec.receive(&input, &mut end.head, &mut end.out).expect("a body");
    let Some(Event::Data { data, end: true, .. }) = step.event else { panic!("{step:?}") };
    assert_eq!((data.as_ptr(), data.len(), step.consumed), (input.as_ptr(), 10, 10));
}

#[test]
fn the_last_octets_of_a_chunked_body_come_with_its_end() {
    let mut end = server();
    end.feed(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let step = end.codec.receive(b"5\r\nhello\r\n0\r\n\r\nGET", &mut end.head, &mut end.out).expect("a body");
    assert_eq!(step.consumed, 15);
    assert_eq!(step.event, Some(Event::Data { stream: stream(1), data: b"hello", flow: 0, end: true }));
}

#[test]
fn a_peer_that_stops_in_the_middle_of_a_message_has_failed() {
    let failed = vec![Said::Failed { status: 400, limit: None }];
    for input in ["G", "GET / HTTP/1.1\r\nHost: a\r\n\r", "\r"] {
        assert_eq!(server().feed(input.as_bytes()).finish().take(), failed, "{input:?}");
    }
    for rest in [
        "Content-Length: 5\r\n\r\nabcd",
        "Transfer-Encoding: chunked\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
    ] {
        let mut end = server();
        end.feed(format!("POST / HTTP/1.1\r\nHost: a\r\n{rest}").as_bytes()).finish();
        assert_eq!(end.said.last(), failed.last(), "{rest:?}");
    }
}

#[test]
fn a_peer_that_stops_between_messages_has_not() {
    assert_eq!(server().finish().take(), [Said::Closed]);
    let mut end = server().answering();
    end.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\r\n").finish();
    assert_eq!(end.said.last(), Some(&Said::Closed));
    assert!(end.codec.is_finished());
}
