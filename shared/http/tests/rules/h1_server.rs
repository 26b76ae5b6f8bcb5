//! RFC 9112 and RFC 9110 for one who receives requests and answers them.

use std::rc::Rc;

use steady_http::h1::Server;
use steady_http::{Codec, Error, Limits, Scheme};

use crate::support::{End, Seen, response};

fn server() -> End<Server> {
    End::of(Server::new(Rc::new(Limits::default()), Scheme::Http))
}

fn hear(octets: impl AsRef<[u8]>) -> Result<Vec<Seen>, Error> {
    server().hear(octets.as_ref())
}

#[track_caller]
fn refused(octets: impl AsRef<[u8]>, status: u16) {
    let octets = octets.as_ref();
    let error = hear(octets).expect_err(&octets.escape_ascii().to_string());
    assert_eq!(error.status, status, "{}: {error}", octets.escape_ascii());
}

/// The first request's head in a line.
#[track_caller]
fn head(octets: impl AsRef<[u8]>) -> String {
    let octets = octets.as_ref();
    match hear(octets).map_err(|error| format!("{}: {error}", octets.escape_ascii())).unwrap().into_iter().next() {
        Some(Seen::Head { text, .. }) => text,
        other => panic!("{}: {other:?}", octets.escape_ascii()),
    }
}

/// A GET with these field lines.
fn get(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n")
}

/// The body of the first request, and whether it ended.
fn body(octets: impl AsRef<[u8]>) -> (Vec<u8>, bool) {
    let (mut body, mut ended) = (Vec::new(), false);
    for seen in hear(octets).unwrap() {
        match seen {
            Seen::Data { data, end, .. } => {
                body.extend(data);
                ended = end;
            }
            Seen::Head { end, .. } => ended = end,
            Seen::Trailers { .. } => ended = true,
            other => panic!("{other:?}"),
        }
    }
    (body, ended)
}

/// What is sent in answer to `asked` by a head of this status with these fields and this body.
fn answer(asked: &str, status: u16, length: Option<u64>, body: &[u8]) -> (String, bool) {
    let mut end = server();
    end.hear(asked.as_bytes()).unwrap();
    let stream = end.ids[&1];
    let mut head = response(status, &[]);
    head.content_length = length;
    end.codec.send_head(stream, &head, false, &mut end.out);
    end.codec.send_data(stream, body, true, &mut end.out);
    (String::from_utf8(end.out.clone()).unwrap(), end.codec.is_finished())
}

#[test]
fn rfc_9112_2_2_an_empty_line_before_the_request_line_is_ignored() {
    assert!(head(format!("\r\n{}", get(""))).starts_with("GET Http a.example /"));
}

#[test]
fn rfc_9112_2_2_a_bare_cr_makes_an_element_invalid() {
    for lines in ["X: a\rb\r\n", "X\r: a\r\n", "X: a\r\r\n"] {
        refused(get(lines), 400);
    }
    refused("GET /\r HTTP/1.1\r\nHost: a.example\r\n\r\n", 400);
    refused("GET / HTTP/1.1\r\r\nHost: a.example\r\n\r\n", 400);
}

#[test]
fn rfc_9112_2_2_white_space_between_the_start_line_and_the_first_field_is_refused() {
    for space in [" ", "\t", " \t "] {
        refused(format!("GET / HTTP/1.1\r\n{space}Host: a.example\r\n\r\n"), 400);
    }
}

#[test]
fn rfc_9112_2_3_the_version_is_case_sensitive_and_one_digit_each_side() {
    for version in ["http/1.1", "HTTP/1.10", "HTTP/01.1", "HTTP/1,1", "HTTP/1", "HTTP /1.1", "HTTPS/1.1", "HTTP/a.b"] {
        refused(format!("GET / {version}\r\nHost: a.example\r\n\r\n"), 400);
    }
    for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/3.0", "HTTP/1.2"] {
        refused(format!("GET / {version}\r\nHost: a.example\r\n\r\n"), 505);
    }
}

#[test]
fn rfc_9112_3_a_request_line_of_8000_octets_is_supported() {
    let path = format!("/{}", "p".repeat(7980));
    assert!(head(format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n")).ends_with(&path));
}

#[test]
fn rfc_9112_3_a_target_that_is_too_long_is_414() {
    refused(format!("GET /{} HTTP/1.1\r\nHost: a.example\r\n\r\n", "p".repeat(20_000)), 414);
    refused(format!("GET /{}", "p".repeat(40_000)), 414);
}

#[test]
fn rfc_9112_3_2_a_target_with_white_space_is_refused_not_mended() {
    for target in ["/a b", "/a\tb", "/ ", " /", "/a\u{b}b"] {
        refused(format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n"), 400);
    }
}

#[test]
fn rfc_9112_3_2_a_request_of_http_1_1_without_host_or_with_two_or_an_invalid_one_is_400() {
    refused("GET / HTTP/1.1\r\n\r\n", 400);
    refused("GET / HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n", 400);
    refused("GET / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n", 400);
    for host in
        ["a b", "a/b", "user@a.example", "a.example:x", "a.example:99999", "[::1", "a.example:80:80", "http://a"]
    {
        refused(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), 400);
    }
    assert!(head("GET / HTTP/1.0\r\n\r\n").is_empty(), "HTTP/1.0 has no such rule");
}

#[test]
fn rfc_9112_3_2_2_the_absolute_form_is_accepted_and_its_authority_is_used() {
    assert_eq!(head("GET http://a.example/x?y HTTP/1.1\r\nHost: a.example\r\n\r\n"), "GET Http a.example /x?y");
    assert_eq!(head("GET HTTP://a.example HTTP/1.1\r\nHost: a.example\r\n\r\n"), "GET Http a.example /");
    assert_eq!(head("GET http://a.example?y HTTP/1.1\r\nHost: a.example\r\n\r\n"), "GET Http a.example /?y");
}

#[test]
fn rfc_9112_3_2_3_the_authority_form_is_for_connect_alone() {
    assert_eq!(head("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n"), "CONNECT Http a.example:443 ");
    refused("GET a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", 400);
    refused("CONNECT / HTTP/1.1\r\nHost: a.example\r\n\r\n", 400);
    refused("CONNECT a.example HTTP/1.1\r\nHost: a.example\r\n\r\n", 400);
}

#[test]
fn rfc_9112_3_2_4_the_asterisk_form_is_for_options_alone_and_an_empty_path_of_its_absolute_form_is_it() {
    assert_eq!(head("OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n"), "OPTIONS Http a.example *");
    assert_eq!(head("OPTIONS http://a.example HTTP/1.1\r\nHost: a.example\r\n\r\n"), "OPTIONS Http a.example *");
    refused("GET * HTTP/1.1\r\nHost: a.example\r\n\r\n", 400);
}

#[test]
fn rfc_9112_5_1_white_space_between_a_name_and_its_colon_is_400() {
    for lines in ["X : a\r\n", "X\t: a\r\n", "Content-Length : 5\r\n", "Transfer-Encoding : chunked\r\n"] {
        refused(get(lines), 400);
    }
}

#[test]
fn rfc_9112_5_2_a_folded_line_is_400() {
    for lines in ["X: a\r\n b\r\n", "X: a\r\n\tb\r\n", "X:\r\n a\r\n", "Transfer-Encoding:\r\n chunked\r\n"] {
        refused(get(lines), 400);
    }
}

#[test]
fn rfc_9110_5_1_names_are_case_insensitive() {
    assert!(head("GET / HTTP/1.1\r\nhOST: a.example\r\nX-Thing: 1\r\n\r\n").ends_with("|x-thing=1"));
    assert_eq!(body("POST / HTTP/1.1\r\nHost: a.example\r\ncOnTeNt-LeNgTh: 2\r\n\r\nhi"), (b"hi".to_vec(), true));
}

#[test]
fn rfc_9110_5_3_fields_of_one_name_keep_their_order_and_are_not_merged() {
    let text = head(get("Set-Cookie: a\r\nX: 1\r\nY: 2\r\nX: 3\r\nSet-Cookie: b\r\n"));
    assert_eq!(text, "GET Http a.example /|set-cookie=a|x=1|y=2|x=3|set-cookie=b");
}

#[test]
fn rfc_9110_5_5_a_value_excludes_the_white_space_around_it_and_may_be_empty() {
    assert_eq!(head(get("X: \t a b \t\r\nY:\r\nZ:c\r\n")), "GET Http a.example /|x=a b|y=|z=c");
}

#[test]
fn rfc_9110_5_5_controls_in_a_value_are_refused_and_obs_text_passes() {
    for control in (0..0x20).chain([0x7f]).filter(|octet| *octet != b'\t') {
        let request = [get("X: a").as_bytes()[..get("X: a").len() - 2].to_vec(), vec![control], b"b\r\n\r\n".to_vec()];
        assert!(hear(request.concat()).is_err(), "{control:#x}");
    }
    let request = [b"GET / HTTP/1.1\r\nHost: a.example\r\nX: ".to_vec(), (0x80..=0xff).collect(), b"\r\n\r\n".to_vec()];
    assert!(hear(request.concat()).is_ok());
}

#[test]
fn rfc_9110_5_6_2_a_name_is_a_token() {
    for octet in (0u8..=0xff).filter(|octet| !octet.is_ascii_alphanumeric() && !b"!#$%&'*+-.^_`|~".contains(octet)) {
        let lines =
            [b"GET / HTTP/1.1\r\nHost: a.example\r\nX".to_vec(), vec![octet], b"X: a\r\n\r\n".to_vec()].concat();
        match hear(&lines) {
            Err(error) => assert_eq!(error.status, 400),
            // A colon ends the name, and a line's end is another matter.
            Ok(_) => assert_eq!(octet, b':'),
        }
    }
}

#[test]
fn rfc_9110_5_6_1_empty_members_of_a_list_are_ignored() {
    let text = head(get("Connection: , ,x-gone ,, keep-alive,\r\nX-Gone: 1\r\nX: 2\r\n"));
    assert_eq!(text, "GET Http a.example /|x=2");
}

#[test]
fn rfc_9112_6_1_chunked_must_be_the_last_coding_and_may_be_applied_once() {
    for coding in
        ["gzip", "chunked, gzip", "chunked, chunked", "identity", "chunked;q=1", "", "chunked,", "\"chunked\""]
    {
        let request = format!("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n");
        refused(request, 400);
    }
}

#[test]
fn rfc_9112_6_1_a_coding_that_is_not_understood_is_501() {
    for coding in ["gzip, chunked", "deflate,chunked", "x-own, gzip, Chunked"] {
        refused(format!("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n"), 501);
    }
}

#[test]
fn rfc_9112_6_1_a_transfer_encoding_in_http_1_0_is_faulty_framing() {
    refused("POST / HTTP/1.0\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400);
}

#[test]
fn rfc_9112_6_3_a_request_with_both_lengths_is_refused_and_nothing_after_it_is_read() {
    let both = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let mut end = server();
    assert_eq!(end.hear(both.as_bytes()).unwrap_err().status, 400);
    assert_eq!(end.hear(get("").as_bytes()).unwrap(), []);
    assert!(end.codec.is_finished());
}

#[test]
fn rfc_9112_6_3_an_invalid_content_length_is_400() {
    for length in [
        "",
        "-1",
        "+1",
        "1 1",
        "0x10",
        "1.0",
        "1e3",
        "18446744073709551616",
        "1, 2",
        "1,",
        "\u{b2}",
        "999999999999999999999",
    ] {
        refused(format!("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: {length}\r\n\r\n"), 400);
    }
}

#[test]
fn rfc_9112_6_3_a_request_without_either_length_has_no_body() {
    for method in ["GET", "POST", "PUT", "DELETE", "BREW"] {
        let seen = hear(format!("{method} / HTTP/1.1\r\nHost: a.example\r\n\r\n")).unwrap();
        assert!(matches!(seen[..], [Seen::Head { end: true, .. }]), "{method}: {seen:?}");
    }
}

#[test]
fn rfc_9112_6_3_a_client_that_closes_before_the_length_is_reached_sent_an_incomplete_message() {
    for head in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let mut end = server();
        end.hear(format!("POST / HTTP/1.1\r\nHost: a.example\r\n{head}").as_bytes()).unwrap();
        assert_eq!(end.codec.receive_end(&mut end.out).unwrap_err().status, 400);
    }
}

#[test]
fn rfc_9112_7_1_chunk_sizes_are_hexadecimal_of_either_case_with_leading_zeros() {
    let post = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks = format!("{post}A\r\n0123456789\r\n0b\r\nabcdefghijk\r\n0001\r\n!\r\n000\r\n\r\n");
    assert_eq!(body(chunks), (b"0123456789abcdefghijk!".to_vec(), true));
}

#[test]
fn rfc_9112_7_1_a_chunk_size_that_overflows_is_refused() {
    let post = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    for size in ["10000000000000000", "FFFFFFFFFFFFFFFFF", "-1", "0x5", " 5", "5 ", "g", ""] {
        refused(format!("{post}{size}\r\nhello\r\n0\r\n\r\n"), 400);
    }
}

#[test]
fn rfc_9112_7_1_1_chunk_extensions_that_are_not_understood_are_ignored() {
    let post = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks = format!("{post}5;a\r\nhello\r\n1;a=b;c=\"d;e\"\r\n!\r\n0;last\r\n\r\n");
    assert_eq!(body(chunks), (b"hello!".to_vec(), true));
}

#[test]
fn rfc_9112_7_1_2_trailers_are_kept_apart_from_the_head_and_never_frame_anything() {
    let post = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    let trailers = "Content-Length: 9\r\nTransfer-Encoding: chunked\r\nHost: b.example\r\nX-Sum: 1\r\n";
    let seen = hear(format!("{post}1\r\nx\r\n0\r\n{trailers}\r\n")).unwrap();
    assert!(matches!(&seen[2..], [Seen::Trailers { text, .. }] if text == "x-sum=1"), "{seen:?}");
}

#[test]
fn rfc_9112_9_3_http_1_1_persists_unless_close_is_said_and_http_1_0_closes_unless_keep_alive_is() {
    let cases = [
        ("HTTP/1.1", "", false),
        ("HTTP/1.1", "Connection: close\r\n", true),
        ("HTTP/1.1", "Connection: foo, CLOSE\r\n", true),
        ("HTTP/1.1", "Connection: keep-alive, close\r\n", true),
        ("HTTP/1.0", "", true),
        ("HTTP/1.0", "Connection: keep-alive\r\n", false),
        ("HTTP/1.0", "Connection: Keep-Alive, close\r\n", true),
    ];
    for (version, line, closes) in cases {
        let (said, finished) = answer(&format!("GET / {version}\r\nHost: a\r\n{line}\r\n"), 200, Some(2), b"ok");
        assert_eq!(finished, closes, "{version} {line}");
        assert_eq!(said.contains("connection: close\r\n"), closes, "{version} {line}: {said}");
    }
}

#[test]
fn rfc_9112_9_3_2_pipelined_requests_are_answered_in_their_order() {
    let mut end = server();
    let two = [get("X: 1\r\n"), get("X: 2\r\n")].concat();
    assert_eq!(end.hear(two.as_bytes()).unwrap().len(), 1, "the second waits");
    assert!(end.codec.is_blocked());
    end.codec.send_head(end.ids[&1], &response(204, &[]), true, &mut end.out);
    let seen = end.hear(b"").unwrap();
    assert!(matches!(&seen[..], [Seen::Head { id: 2, text, .. }] if text.ends_with("x=2")), "{seen:?}");
}

#[test]
fn rfc_9112_9_6_after_close_no_further_request_is_processed() {
    let mut end = server();
    end.hear([get("Connection: close\r\n"), get("X: 2\r\n")].concat().as_bytes()).unwrap();
    end.codec.send_head(end.ids[&1], &response(204, &[]), true, &mut end.out);
    assert_eq!(end.hear(b"").unwrap(), []);
    assert!(end.codec.is_finished());
}

#[test]
fn rfc_9112_9_3_the_version_of_an_answer_is_our_own() {
    let (said, _) = answer("GET / HTTP/1.0\r\nHost: a\r\n\r\n", 200, Some(0), b"");
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said}");
}

#[test]
fn rfc_9112_6_1_an_answer_to_http_1_0_is_never_chunked() {
    let (said, closes) = answer("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", 200, None, b"ok");
    assert!(closes && said.ends_with("\r\n\r\nok") && !said.contains("transfer-encoding"), "{said}");
}

#[test]
fn rfc_9112_6_3_an_answer_to_head_and_those_of_204_and_304_have_no_content() {
    let head = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    for (asked, status) in [(head, 200), (head, 404), (&get(""), 204), (&get(""), 304)] {
        let (said, closes) = answer(asked, status, Some(5), b"hello");
        assert!(!closes && said.ends_with("\r\n\r\n"), "{status}: {said}");
    }
}

#[test]
fn rfc_9110_8_6_there_is_no_content_length_in_204_nor_in_interim_answers() {
    assert!(!answer(&get(""), 204, Some(5), b"").0.contains("content-length"));
    let mut end = server();
    end.hear(get("").as_bytes()).unwrap();
    let mut early = response(103, &[("link", "</a>")]);
    early.content_length = Some(5);
    end.codec.send_head(end.ids[&1], &early, false, &mut end.out);
    assert_eq!(end.out, b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
}

#[test]
fn rfc_9110_9_3_6_an_answer_that_grants_connect_has_no_length_and_everything_after_it_is_the_tunnels() {
    let connect = "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n";
    let mut end = server();
    end.hear(connect.as_bytes()).unwrap();
    let mut head = response(200, &[]);
    head.content_length = Some(10);
    end.codec.send_head(end.ids[&1], &head, false, &mut end.out);
    assert_eq!(end.out, b"HTTP/1.1 200 OK\r\n\r\n");
    let seen = end.hear(get("").as_bytes()).unwrap();
    assert!(matches!(&seen[..], [Seen::Data { data, end: false, .. }] if *data == get("").as_bytes()), "{seen:?}");
}

#[test]
fn rfc_9110_7_6_1_fields_that_connection_names_end_here() {
    let text =
        head(get("Connection: x-hop, te\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: gzip\r\nX: 2\r\n"));
    assert_eq!(text, "GET Http a.example /|x=2");
}

#[test]
fn rfc_9110_7_8_an_upgrade_in_http_1_0_or_without_connection_is_ignored() {
    let upgrade = "Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
    for request in [
        format!("GET / HTTP/1.0\r\nHost: a.example\r\nConnection: upgrade\r\n{upgrade}\r\n"),
        format!("GET / HTTP/1.1\r\nHost: a.example\r\n{upgrade}\r\n"),
    ] {
        assert!(head(&request).starts_with("GET Http a.example /|"), "{request}");
    }
}

#[test]
fn rfc_9110_10_1_1_an_expectation_in_http_1_0_is_ignored() {
    let post = |version| format!("POST / {version}\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n");
    assert!(!head(post("HTTP/1.0")).contains("expect"));
    assert!(head(post("HTTP/1.1")).ends_with("|expect=100-continue"));
}

#[test]
fn rfc_9110_15_2_no_interim_answer_is_sent_to_http_1_0() {
    let mut end = server();
    end.hear(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").unwrap();
    end.codec.send_head(end.ids[&1], &response(100, &[]), false, &mut end.out);
    assert_eq!(end.out, b"");
}

#[test]
fn rfc_9112_4_the_space_before_an_absent_reason_is_there() {
    assert!(answer(&get(""), 299, Some(0), b"").0.starts_with("HTTP/1.1 299 \r\n"));
}
