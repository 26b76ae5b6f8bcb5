//! Messages that two recipients could read differently. Each must be refused, and nothing of it be taken for a request.

use super::*;

fn post(fields: &str, rest: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n{rest}")
}

const INNER: &str = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn both_lengths_are_refused_in_either_order() {
    for fields in
        ["Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n"]
    {
        assert_eq!(refused(&post(fields, "0\r\n\r\nG")), 400, "CL.TE, TE.CL");
        assert_eq!(refused(&post(fields, &format!("0\r\n\r\n{INNER}"))), 400);
    }
    assert_eq!(refused(&post("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")), 400);
}

#[test]
fn a_length_is_given_once_and_in_plain_digits() {
    for value in [
        "",
        "+5",
        "-5",
        "0x5",
        "5,5",
        "5, 5",
        "5 5",
        "5a",
        "a5",
        "5;",
        "\"5\"",
        "1_0",
        "5.0",
        "1e1",
        "18446744073709551616",
        "99999999999999999999",
        "9223372036854775808",
        "\u{665}",
        "5\u{b}",
    ] {
        assert_eq!(refused(&post(&format!("Content-Length: {value}\r\n"), "aaaaa")), 400, "{value:?}");
    }
    for fields in ["Content-Length: 5\r\nContent-Length: 5\r\n", "Content-Length: 5\r\ncontent-length: 6\r\n"] {
        assert_eq!(refused(&post(fields, "aaaaaa")), 400, "{fields:?}");
    }
    let longest = post("Content-Length: 0009223372036854775807\r\n", "");
    assert!(matches!(&served(longest.as_bytes())[..], [Said::Head { end: false, .. }]));
}

#[test]
fn a_transfer_coding_other_than_chunked_is_501_under_chunked_and_400_otherwise() {
    for value in ["gzip, chunked", "gzip,chunked", "deflate , gzip, Chunked"] {
        assert_eq!(refused(&post(&format!("Transfer-Encoding: {value}\r\n"), "0\r\n\r\n")), 501, "{value:?}");
    }
    for value in [
        "",
        "identity",
        "gzip",
        "chunked, gzip",
        "chunked, identity",
        "chunked,",
        ",chunked",
        "chunked, chunked",
        "xchunked",
        "chunkedx",
        "chunked x",
        "x chunked",
        "chunked;",
        "chunked;q=1",
        "\"chunked\"",
        "chunk",
        "chu nked",
        "chunked\u{b}",
        "\u{b}chunked",
        "chunked\u{0}",
        "'chunked'",
        "gzip, \"x\", chunked",
        "[chunked]",
        "ch\u{fc}nked",
    ] {
        assert_eq!(refused(&post(&format!("Transfer-Encoding: {value}\r\n"), "0\r\n\r\n")), 400, "{value:?}");
    }
    for fields in [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-encoding: chunked\r\n",
    ] {
        assert_eq!(refused(&post(fields, "0\r\n\r\n")), 400, "TE.TE {fields:?}");
    }
}

#[test]
fn a_disguised_transfer_encoding_is_refused_as_a_malformed_field() {
    for line in [
        "Transfer-Encoding : chunked",
        " Transfer-Encoding: chunked",
        "Transfer-Encoding\t: chunked",
        "Transfer-Encoding: \r\n chunked",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "Transfer-Encoding\r: chunked",
        "Transfer\u{0}-Encoding: chunked",
        "\u{0}Transfer-Encoding: chunked",
        "Transfer-Encoding\u{a0}: chunked",
        "Transfer Encoding: chunked",
        "Transfer-Encoding:\u{b}chunked",
        "Transfer-Encoding: chunked\r\r",
        "Content-Length : 5",
        "Content-Length\u{b}: 5",
    ] {
        assert_eq!(refused(&post(&format!("{line}\r\n"), "0\r\n\r\n")), 400, "{line:?}");
    }
}

#[test]
fn white_space_around_chunked_and_its_case_mean_nothing() {
    for value in ["chunked", "Chunked", "CHUNKED", " \tchunked\t "] {
        let said = served(post(&format!("Transfer-Encoding:{value}\r\n"), &format!("0\r\n\r\n{INNER}")).as_bytes());
        assert!(
            matches!(&said[..], [Said::Head { end: false, .. }, Said::End, Said::Head { id: 2, .. }]),
            "{value:?}: {said:?}"
        );
    }
}

#[test]
fn http_1_0_has_no_transfer_encoding() {
    assert_eq!(refused("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400);
}

#[test]
fn a_request_without_a_length_has_no_body_whatever_its_method() {
    let said = served(format!("POST / HTTP/1.1\r\nHost: a\r\n\r\n{INNER}").as_bytes());
    assert!(
        matches!(&said[..], [Said::Head { id: 1, end: true, .. }, Said::Head { id: 2, end: true, .. }]),
        "{said:?}"
    );
}

#[test]
fn a_get_with_a_length_has_that_body() {
    let inner = INNER.len();
    let said = served(format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {inner}\r\n\r\n{INNER}").as_bytes());
    assert!(
        matches!(&said[..], [Said::Head { end: false, .. }, Said::Data(data), Said::End] if data == INNER.as_bytes())
    );
}

#[test]
fn an_absolute_target_and_host_must_agree() {
    for (target, host) in [
        ("http://a/", "b"),
        ("http://a:81/", "a"),
        ("http://a/", "a:81"),
        ("http://a.b/", "a"),
        ("http://u@a/", "a"),
        ("http://a@b/", "a"),
        ("http://a\\b/", "a"),
        ("http://a:80:80/", "a"),
        ("http://a;b/", "a"),
    ] {
        assert_eq!(refused(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")), 400, "{target} {host}");
    }
    assert!(accepted("GET http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("GET Http a:80 / "));
}

#[test]
fn a_chunk_is_framed_by_the_letter() {
    let chunked = |rest: &str| served(post("Transfer-Encoding: chunked\r\n", rest).as_bytes());
    for rest in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r\n0\n\n",
        "5\r\nhello\r\n0\r\n\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 ;a\r\nhello\r\n0\r\n\r\n",
        "5;a\n\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;\u{0}\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        ";a\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloo\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "10000000000000000\r\nhello",
        "ffffffffffffffffff\r\nhello",
        "5_\r\nhello\r\n0\r\n\r\n",
        "5,5\r\nhello\r\n0\r\n\r\n",
        "00000000000000005\r\nhello\r\n0\r\n\r\n",
        "0\r\nGET / HTTP/1.1\r\n\r\n",
        "0\r\n X: y\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\n\nX: y\r\n\r\n",
    ] {
        let said = chunked(rest);
        assert!(matches!(said.last(), Some(Said::Failed { status: 400, .. })), "{rest:?}: {said:?}");
        assert!(!said.contains(&Said::End), "{rest:?}: {said:?}");
        assert_eq!(said.iter().filter(|said| matches!(said, Said::Head { .. })).count(), 1, "{rest:?}: {said:?}");
    }
}

#[test]
fn after_a_refusal_no_octet_is_taken_for_a_request() {
    let mut end = server().answering();
    end.feed(post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n").as_bytes());
    end.take();
    end.feed(INNER.as_bytes());
    assert_eq!((end.take(), end.unread()), (vec![], 0));
    assert!(end.codec.is_finished());
}

#[test]
fn responses_with_doubtful_framing_are_502() {
    let get = request("GET", "/", None, &[]);
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 O\rK\r\n\r\n",
        "HTTP/1.1 200 O\u{0}K\r\n\r\n",
    ] {
        assert!(matches!(answered(&get, head.as_bytes())[..], [Said::Failed { status: 502, .. }]), "{head:?}");
    }
}
