//! Heads that are small on the wire and large in memory, or large in both.

use crate::frames::*;
use crate::house::Setup;
use crate::siege::{limit, withstand};
use crate::support::http::Conn;

/// The status of the answer to these octets, and that the connection is closed behind it.
fn told(addr: std::net::SocketAddr, octets: &[u8]) -> u16 {
    let mut conn = Conn::open(addr);
    // What is refused halfway may be too late to be taken whole.
    let _ = conn.send(octets);
    let status = conn.reply(false).unwrap().status;
    assert!(conn.line().is_err(), "the connection goes on");
    status
}

#[test]
fn an_hpack_bomb_ends_the_connection_before_it_is_unpacked() {
    withstand(Setup::default, &[limit("head_bytes"), limit("fields")], |house| {
        let mut bomb = block("GET", "/attack", &[]);
        // One entry that fills the table, then a reference to it, again and again: an octet each.
        bomb.extend(b"\x40\x01x");
        integer(&mut bomb, 4000);
        bomb.extend([b'v'; 4000]);
        bomb.extend([0x80 | 62; 8000]);
        let mut attacker = Attacker::open(house.plain);
        attacker.say(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb));
        assert_eq!(attacker.hear_all().goaway(), Some(ENHANCE_YOUR_CALM));
    });
}

#[test]
fn a_bomb_of_cookies_is_refused_in_both_versions() {
    withstand(Setup::default, &[limit("fields"), limit("head_bytes")], |house| {
        let crumbs: Vec<u8> = (0..10_000).flat_map(|_| field(b"cookie", b"a=b")).collect();
        let head = [block("GET", "/attack", &[]), crumbs].concat();
        let mut attacker = Attacker::open(house.plain);
        let parts: Vec<&[u8]> = head.chunks(16_000).collect();
        for (at, part) in parts.iter().enumerate() {
            let (kind, last) = (if at == 0 { HEADERS } else { CONTINUATION }, at + 1 == parts.len());
            attacker.say(&frame(
                kind,
                if last { END_HEADERS | END_STREAM } else { END_STREAM * u8::from(at == 0) },
                1,
                part,
            ));
        }
        assert_eq!(attacker.hear_all().goaway(), Some(ENHANCE_YOUR_CALM));
    });
    withstand(Setup::default, &[limit("fields")], |house| {
        let request = format!("GET / HTTP/1.1\r\nHost: echo.localhost\r\n{}\r\n", "Cookie: a=b\r\n".repeat(200));
        assert_eq!(told(house.plain, request.as_bytes()), 431);
    });
}

#[test]
fn a_head_that_is_too_large_is_refused_with_the_status_that_says_so() {
    let large = "x".repeat(40_000);
    let many: String = (0..129).map(|number| format!("X-{number}: y\r\n")).collect();
    let host = "Host: echo.localhost\r\n";
    let bombs = [
        ("head_bytes", format!("GET / HTTP/1.1\r\n{host}X: {large}\r\n\r\n"), 431),
        ("fields", format!("GET / HTTP/1.1\r\n{host}{many}\r\n"), 431),
        ("target_bytes", format!("GET /{} HTTP/1.1\r\n{host}\r\n", &large[..9_000]), 414),
    ];
    for (name, octets, status) in bombs {
        withstand(Setup::default, &[limit(name)], |house| assert_eq!(told(house.plain, octets.as_bytes()), status));
    }
}

#[test]
fn chunk_extensions_and_trailers_without_end_are_refused() {
    let head = "POST /sink HTTP/1.1\r\nHost: echo.localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    let extension = format!("{head}1;{}", "x".repeat(10_000));
    let trailers = |count| format!("{head}0\r\n{}", "X: y\r\n".repeat(count));
    let many = format!("{}\r\n", trailers(200));
    for (name, octets) in [("chunk_line", extension), ("head_bytes", trailers(10_000)), ("fields", many)] {
        withstand(Setup::default, &[limit(name)], |house| {
            let status = told(house.plain, octets.as_bytes());
            assert!((400..=431).contains(&status), "{name}: {status}");
        });
    }
}
