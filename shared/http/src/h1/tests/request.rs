use super::*;

const HOST: &str = "Host: a.steady.page\r\n";

fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\n{HOST}{fields}\r\n")
}

#[test]
fn a_request_becomes_a_canonical_head() {
    let head = accepted("GET /a?b=c HTTP/1.1\r\nHost: A.steady.page:8080\r\nX-Thing: \t one  two \t\r\nEmpty:\r\n\r\n");
    assert_eq!(head, "GET Http A.steady.page:8080 /a?b=c [] None\nx-thing: one  two\nempty: ");
}

#[test]
fn any_token_is_a_method_and_nothing_else_is() {
    assert!(accepted("BREW /pot HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("BREW "));
    assert!(accepted("get / HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("get "), "methods are case-sensitive");
    for line in ["G(T / HTTP/1.1", " GET / HTTP/1.1", "/ HTTP/1.1", "GET", "", "GET\t/ HTTP/1.1", "G\u{e9}T / HTTP/1.1"]
    {
        // The empty line stands for itself: one may come first, so something else must follow.
        assert_eq!(refused(&format!("{line}\r\nHost: a\r\n\r\n\r\n\r\n")), 400, "{line:?}");
    }
}

#[test]
fn the_request_line_has_single_spaces_and_no_others() {
    for line in [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET /a b HTTP/1.1",
        "GET /",
        "GET / ",
        "GET /\tHTTP/1.1",
    ] {
        assert_eq!(refused(&format!("{line}\r\n{HOST}\r\n")), 400, "{line:?}");
    }
}

#[test]
fn versions_other_than_1_0_and_1_1_are_505_and_what_is_none_is_400() {
    for version in ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "HTTP/3.0"] {
        assert_eq!(refused(&format!("GET / {version}\r\n{HOST}\r\n")), 505, "{version}");
    }
    for version in ["http/1.1", "HTTP/11", "HTTP/1", "HTTP/1.10", "HTTP/1.1x", "HTTPS/1.1", "HTTP/+1.1", "HTTP/1,1"] {
        assert_eq!(refused(&format!("GET / {version}\r\n{HOST}\r\n")), 400, "{version}");
    }
}

#[test]
fn the_http2_preface_is_505() {
    assert_eq!(refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
}

#[test]
fn the_target_has_one_of_four_forms() {
    assert!(accepted("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("OPTIONS Http a * "));
    assert!(accepted("GET http://a HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("GET Http a / "));
    assert!(accepted("GET HTTP://a:80/x?y HTTP/1.1\r\nHost: A\r\n\r\n").starts_with("GET Http a:80 /x?y "));
    assert!(accepted("GET http://a?q HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("GET Http a /?q "));
    assert!(accepted("OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("OPTIONS Http a * "));
    assert!(accepted("GET //b/c HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("GET Http a //b/c "));
    for target in [
        "*",
        "a",
        "a:80",
        "?q",
        "/a#b",
        "/\u{e9}",
        "/\u{7f}",
        "/a\u{1}",
        "ftp://a/",
        "http:///x",
        "http://",
        "http:/a",
        "://a",
    ] {
        assert_eq!(refused(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")), 400, "{target:?}");
    }
}

#[test]
fn connect_takes_a_host_and_a_port_and_nothing_else() {
    assert!(accepted("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n").starts_with("CONNECT Http a:443  [] None"));
    assert!(accepted("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("CONNECT Http a:443  [] None"));
    for target in ["a", "/", "*", "a:", "a:x", "http://a:443/", "a:443/", "u@a:443", ":443", "a:65536"] {
        assert_eq!(refused(&format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n")), 400, "{target:?}");
    }
    assert_eq!(refused("CONNECT a:443 HTTP/1.1\r\nHost: b:443\r\n\r\n"), 400);
    assert_eq!(refused("CONNECT a:443 HTTP/1.1\r\nHost: a:444\r\n\r\n"), 400);
    assert_eq!(refused("CONNECT a:443 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"), 400);
    assert_eq!(refused("CONNECT a:443 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
}

#[test]
fn a_target_claims_only_the_scheme_of_its_listener() {
    assert_eq!(refused("GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
    let mut tls = End::new(Server::new(Rc::new(Limits::default()), Scheme::Https));
    tls.feed(b"GET https://a:443/ HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(matches!(&tls.take()[..], [Said::Head { head, .. }] if head.starts_with("GET Https a:443 / ")));
    let mut tls = End::new(Server::new(Rc::new(Limits::default()), Scheme::Https));
    tls.feed(b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(matches!(tls.take()[..], [Said::Failed { status: 400, .. }]));
}

#[test]
fn http_1_1_has_exactly_one_host() {
    assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(refused("GET http://a/ HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"), 400);
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n"), 400);
    assert!(accepted("GET / HTTP/1.0\r\n\r\n").starts_with("GET Http  / "));
    assert_eq!(refused("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"), 400);
}

#[test]
fn host_is_a_name_or_an_address_with_an_optional_port() {
    for host in ["a", "a.b-c_d~e", "A.B.", "127.0.0.1", "a:1", "a:65535", "[::1]", "[::1]:8080", "[::ffff:1.2.3.4]:1"] {
        assert!(accepted(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).contains(host), "{host}");
    }
    for host in [
        "", "a b", "a,b", "a/b", "u@a", "a:", "a:b", "a:65536", "a:000080", "a:1:2", "a:-1", "[", "[]", "[:]x", "[::1",
        "::1", "[g::]", "a%20", "a\\b", "a?b", "a#b", "\u{e9}", "a\tb", ":80", "a;b", "<a>", "[::1]80",
    ] {
        assert_eq!(refused(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")), 400, "{host:?}");
    }
}

#[test]
fn lines_end_in_crlf_and_nothing_else() {
    for input in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\r: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\rX: a\r\n\r\n",
        "GET / HTTP/1.1\rHost: a\r\n\r\n",
        "GET /\r\n\r\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert_eq!(refused(input), 400, "{input:?}");
    }
}

#[test]
fn a_bare_lf_is_refused_before_the_head_is_complete() {
    assert_eq!(refused("GET / HTTP/1.1\n"), 400);
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\n"), 400);
}

#[test]
fn a_field_has_a_name_a_colon_and_a_value_without_controls() {
    for line in [
        ": a",
        "X",
        "X : a",
        "X\t: a",
        " X: a",
        "\tX: a",
        "X Y: a",
        "X(: a",
        "\u{e9}: a",
        "X: a\u{0}b",
        "X: \u{1}",
        "X: a\u{7f}",
        "X: 12345678\u{b}",
        "X\u{0}: a",
        "\"X\": a",
        "X=a",
        "X: 1234567\u{1f}89",
    ] {
        assert_eq!(refused(&get(&format!("{line}\r\n"))), 400, "{line:?}");
    }
    let head = accepted(&get("X: \u{e9}\tb:c\"\u{80}\r\n"));
    assert!(head.ends_with("x: \u{e9}\tb:c\"\u{80}"), "obs-text and inner tabs are values: {head}");
}

#[test]
fn folded_lines_are_refused_wherever_they_come() {
    for fields in ["X: a\r\n b\r\n", "X: a\r\n\tb\r\n", "X: a\r\n \r\n", "X:\r\n a\r\n"] {
        assert_eq!(refused(&get(fields)), 400, "{fields:?}");
    }
    assert_eq!(refused("GET / HTTP/1.1\r\n Host: a\r\n\r\n"), 400, "white space before the first field");
}

#[test]
fn fields_of_the_connection_are_removed() {
    let head = accepted(&get(
        "Keep-Alive: 5\r\nProxy-Connection: close\r\nConnection: X-One, keep-alive,, x-TWO ,\r\nX-One: 1\r\nx-two: 2\r\nX-One: 3\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AA\r\nTE: gzip\r\nTransfer-Encodings: a\r\nX-Three: 3\r\nConnection: x-four\r\nX-Four: 4\r\n",
    ));
    assert_eq!(head, "GET Http a.steady.page / [] None\ntransfer-encodings: a\nx-three: 3");
}

#[test]
fn te_trailers_alone_survives() {
    for te in ["trailers", "gzip;q=0.5, Trailers", "trailers\r\nTE: deflate", "deflate\r\nTe: trailers"] {
        assert!(accepted(&get(&format!("Connection: TE\r\nTE: {te}\r\n"))).ends_with("None\nte: trailers"), "{te:?}");
    }
    for te in ["", "gzip", "x-trailers"] {
        assert!(accepted(&get(&format!("TE: {te}\r\n"))).ends_with("None"), "{te:?}");
    }
}

#[test]
fn connection_may_not_nominate_framing_or_routing() {
    for name in ["Host", "content-length", "Transfer-Encoding"] {
        assert_eq!(refused(&get(&format!("Connection: close, {name}\r\n"))), 400, "{name}");
    }
    assert_eq!(refused(&get("Connection: a b\r\n")), 400);
    assert_eq!(refused(&get("Connection: \"close\"\r\n")), 400);
    let many: String = (0..17).map(|n| format!("x{n},")).collect();
    assert_eq!(refused(&get(&format!("Connection: {many}\r\n"))), 400, "more names than anyone needs");
}

#[test]
fn expect_is_passed_on_but_for_http_1_0() {
    let post = |version| format!("GET / HTTP/{version}\r\n{HOST}Expect: 100-continue\r\n\r\n");
    assert!(accepted(&post("1.1")).ends_with("expect: 100-continue"));
    assert!(!accepted(&post("1.0")).contains("expect"));
}

#[test]
fn a_few_empty_lines_may_come_first() {
    assert!(accepted(&format!("\r\n\r\n{}", get(""))).starts_with("GET "));
    assert_eq!(limited(&format!("\r\n\r\n\r\n{}", get("")), &Limits::default()), (Limit::EmptyLines, 400));
    let twice = format!("\r\n{}\r\n\r\n{}", get(""), get(""));
    let said = served(twice.as_bytes());
    assert!(
        matches!(said[..], [Said::Head { .. }, Said::Head { .. }]),
        "they are counted anew for each request: {said:?}"
    );
}

#[test]
fn every_limit_of_a_head_has_its_status() {
    let limits = Limits { head_bytes_max: 200, fields_max: 3, target_bytes_max: 20, ..Limits::default() };
    let with = |len: usize| get(&format!("X: {}\r\n", "x".repeat(len - get("X: \r\n").len())));
    assert_eq!(with(200).len(), 200);
    assert_eq!(served_with(with(200).as_bytes(), &limits).len(), 1, "a head of exactly the limit");
    assert!(matches!(served_with(with(200).as_bytes(), &limits)[0], Said::Head { .. }));
    assert_eq!(limited(&with(201), &limits), (Limit::HeadBytes, 431));
    assert_eq!(limited(&format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(300)), &limits), (Limit::HeadBytes, 431));
    assert_eq!(limited(&format!("GET /{}", "x".repeat(300)), &limits), (Limit::HeadBytes, 414));
    assert_eq!(limited(&get("A: 1\r\nB: 2\r\nC: 3\r\n"), &limits), (Limit::Fields, 431));
    let target = |len: usize| format!("GET /{} HTTP/1.1\r\n{HOST}\r\n", "x".repeat(len - 1));
    assert!(matches!(served_with(target(20).as_bytes(), &limits)[0], Said::Head { .. }));
    assert_eq!(limited(&target(21), &limits), (Limit::TargetBytes, 414));
}

#[test]
fn fields_that_are_removed_count_too() {
    let limits = Limits { fields_max: 8, ..Limits::default() };
    assert_eq!(limited(&get(&"Keep-Alive: 1\r\n".repeat(8)), &limits), (Limit::Fields, 431));
}

#[test]
fn a_head_that_comes_octet_by_octet_costs_linear_work() {
    let mut end = server_with(Limits { head_bytes_max: 1 << 20, fields_max: 1 << 20, ..Limits::default() });
    let head = get(&"X: y\r\n".repeat(100_000));
    // A quadratic scan of this would look at some 10^11 octets: minutes, where this takes a moment.
    for len in 1..head.len() {
        let step =
            end.codec.receive(&head.as_bytes()[..len], &mut end.head, &mut end.out).expect("nothing is wrong yet");
        assert_eq!((step.consumed, step.event.is_none()), (0, true));
    }
    let step = end.codec.receive(head.as_bytes(), &mut end.head, &mut end.out).expect("a good request");
    assert_eq!((step.consumed, end.head.field_count()), (head.len(), 100_000));
}
