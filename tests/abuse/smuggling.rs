//! Messages that another proxy may end elsewhere: nothing of what is hidden in them reaches the application. What HAProxy and
//! nginx make of more of them is in tests/differential.rs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::frames::*;
use crate::house::Setup;
use crate::siege::{count, refusal, withstand};
use crate::support::{PATIENCE, eventually};

/// Must never be asked for.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: echo.localhost\r\n\r\n";

fn say(addr: SocketAddr, octets: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(octets);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    String::from_utf8_lossy(&heard).into_owned()
}

fn corpus() -> Vec<String> {
    let post = |fields: &str, body: &str| format!("POST /open HTTP/1.1\r\nHost: echo.localhost\r\n{fields}\r\n{body}");
    let length = HIDDEN.len();
    let mut corpus = vec![
        // CL.TE and TE.CL: both lengths, in either order.
        post(
            &format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", 5 + length),
            &format!("0\r\n\r\n{HIDDEN}"),
        ),
        post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", &format!("{length:x}\r\n{HIDDEN}\r\n0\r\n\r\n")),
        // Two lengths.
        post(&format!("Content-Length: 0\r\nContent-Length: {length}\r\n"), HIDDEN),
        post(&format!("Content-Length: 0, {length}\r\n"), HIDDEN),
        // CL.0 as HTTP/1.0 and with a sign, a space, another base.
        post("Content-Length: +0\r\n", HIDDEN),
        post("Content-Length: 0x0\r\n", HIDDEN),
        post("Content-Length: 0 0\r\n", HIDDEN),
        post("Content-Length:\r\n", HIDDEN),
        post("Content-Length : 0\r\n", HIDDEN),
        post("Content-Length: 18446744073709551616\r\n", HIDDEN),
        // Chunks that end elsewhere for others.
        post("Transfer-Encoding: chunked\r\n", &format!("0\n\r\n{HIDDEN}")),
        post("Transfer-Encoding: chunked\r\n", &format!("0x0\r\n\r\n{HIDDEN}")),
        post("Transfer-Encoding: chunked\r\n", &format!("-0\r\n\r\n{HIDDEN}")),
        post("Transfer-Encoding: chunked\r\n", &format!("1\r\nx0\r\n\r\n{HIDDEN}")),
        post("Transfer-Encoding: chunked\r\n", &format!("100000000000000000\r\n\r\n{HIDDEN}")),
        // The host of one, the target of another.
        format!("GET http://other.localhost/ HTTP/1.1\r\nHost: echo.localhost\r\n\r\n{HIDDEN}"),
        format!("GET / HTTP/1.1\r\nHost: echo.localhost\r\nHost: other.localhost\r\n\r\n{HIDDEN}"),
        format!("GET / HTTP/1.1\r\nHost: echo.localhost@other.localhost\r\n\r\n{HIDDEN}"),
        format!("GET / HTTP/1.1\r\nHost: echo.localhost\r\n X: folded\r\n\r\n{HIDDEN}"),
        format!("GET / HTTP/1.1\nHost: echo.localhost\n\n{HIDDEN}"),
        format!("GET / HTTP/1.1\r\nHost: echo.localhost\r\nX: a\rContent-Length: 9\r\n\r\n{HIDDEN}"),
        format!("GET / HTTP/1.1\r\nHost: echo.localhost\r\nX: a\0b\r\n\r\n{HIDDEN}"),
    ];
    // TE.TE: disguises that some take for chunked and others do not.
    let disguises = [
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked, chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: chunked\x0c",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;x",
        "Transfer-Encoding:\r\n chunked",
        "Transfer_Encoding: x\r\nTransfer-Encoding: x, chunked, x",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
        "X: y\rTransfer-Encoding: chunked",
    ];
    corpus.extend(disguises.map(|disguise| post(&format!("{disguise}\r\n"), &format!("0\r\n\r\n{HIDDEN}"))));
    corpus
}

#[test]
fn what_others_might_end_elsewhere_is_refused_and_the_connection_closed() {
    withstand(Setup::default, &[refusal("bad_request")], |house| {
        for message in corpus() {
            let before = count(house, refusal("bad_request"));
            let heard = say(house.plain, message.as_bytes());
            assert_eq!(heard.matches("HTTP/1.1 ").count(), 1, "{message:?} was answered {heard:?}");
            let status: u16 = heard[9..12].parse().unwrap();
            assert!((400..=501).contains(&status), "{message:?} was answered {heard:?}");
            let seen = house.origin.seen();
            assert!(!seen.iter().any(|(line, _)| line.contains("/hidden")), "{message:?}: {seen:?}");
            eventually("it is counted", || (count(house, refusal("bad_request")) > before).then_some(()));
        }
    });
}

/// A request of HTTP/2 whose block also has these fields, or others of the four that every request has.
fn downgraded(changes: &[(&[u8], &[u8])], more: &[(&[u8], &[u8])]) -> Vec<u8> {
    let request: [(&[u8], &[u8]); 4] =
        [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"echo.localhost"), (b":path", b"/open")];
    let changed = request.map(|(name, value)| {
        let change = changes.iter().find(|(other, _)| *other == name);
        (name, change.map_or(value, |(_, value)| *value))
    });
    changed.iter().chain(more).flat_map(|(name, value)| field(name, value)).collect()
}

#[test]
fn nothing_that_http_2_carries_becomes_a_second_request_of_http_1_1() {
    let blocks = [
        downgraded(&[], &[(b"x", b"a\r\n\r\nGET /hidden HTTP/1.1\r\nHost: echo.localhost")]),
        downgraded(&[], &[(b"x", b"a\nb")]),
        downgraded(&[], &[(b"x", b"a\0b")]),
        downgraded(&[], &[(b"x\r\ny", b"a")]),
        downgraded(&[], &[(b"x: y\r\nz", b"a")]),
        downgraded(&[], &[(b"transfer-encoding", b"chunked")]),
        downgraded(&[], &[(b"content-length", b"5"), (b"content-length", b"6")]),
        downgraded(&[], &[(b"connection", b"content-length")]),
        downgraded(&[(b":path", b"/open HTTP/1.1\r\nX: y")], &[]),
        downgraded(&[(b":path", b"/open HTTP/1.1")], &[]),
        downgraded(&[(b":method", b"GET /hidden HTTP/1.1\r\nX:")], &[]),
        downgraded(&[(b":authority", b"echo.localhost\r\nX: y")], &[]),
        downgraded(&[(b":authority", b"echo.localhost@other.localhost")], &[]),
        downgraded(&[(b":scheme", b"http\r\nX: y")], &[]),
        downgraded(&[], &[(b"host", b"other.localhost")]),
        downgraded(&[], &[(b":path", b"/hidden")]),
    ];
    withstand(Setup::default, &[refusal("bad_request")], |house| {
        for block in &blocks {
            let before = count(house, refusal("bad_request"));
            let mut attacker = Attacker::open(house.plain);
            attacker.say(&frame(HEADERS, END_HEADERS | END_STREAM, 1, block));
            // A request that is refused takes its stream with it, not the connection: it goes on.
            attacker.say(&frame(PING, 0, 0, &[1; 8]));
            let heard =
                attacker.hear_until(|frames| frames.iter().any(|(kind, flags, ..)| *kind == PING && *flags == 1));
            let answered = heard.frames().iter().any(|(kind, _, stream, _)| *kind == RST_STREAM && *stream == 1);
            assert!(answered, "{:?}: {heard:?}", String::from_utf8_lossy(block));
            let seen = house.origin.seen();
            assert!(!seen.iter().any(|(line, _)| line.contains("/open") || line.contains("/hidden")), "{seen:?}");
            eventually("it is counted", || (count(house, refusal("bad_request")) > before).then_some(()));
        }
    });
}
