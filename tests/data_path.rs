//! The data path alone, on real sockets: an edge's workers, an agent's workers and an origin, without their control sides.

mod house;
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use house::{House, Setup};

/// One request over a connection of its own; the whole answer.
fn ask(addr: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn both(test: impl Fn(&House)) {
    house::both(Setup::default, |house| test(house));
}

#[test]
fn a_request_crosses_edge_and_agent_to_the_application_and_back() {
    both(|house| {
        let answer = ask(house.plain, b"GET /a?b HTTP/1.1\r\nHost: echo.localhost\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("GET /a?b HTTP/1.1|0"), "{answer}");
        assert!(answer.contains("x-request-id: "), "{answer}");
        assert!(!answer.contains("steady-"), "{answer}");
    });
}

#[test]
fn an_unknown_name_is_told_so_in_the_form_that_was_asked_for() {
    both(|house| {
        let answer = ask(house.plain, b"GET / HTTP/1.1\r\nHost: nobody.localhost\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
        let answer = ask(
            house.plain,
            b"GET / HTTP/1.1\r\nHost: nobody.localhost\r\nAccept: text/html\r\nConnection: close\r\n\r\n",
        );
        assert!(answer.contains("<!doctype html>"), "{answer}");
    });
}

#[test]
fn a_body_larger_than_every_window_arrives_whole() {
    both(|house| {
        let body: Vec<u8> = (0..3_000_000u32).map(|at| b'a' + (at % 23) as u8).collect();
        let mut request = format!(
            "POST /up HTTP/1.1\r\nHost: echo.localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend(&body);
        let answer = ask(house.plain, &request);
        let mut expected = format!("POST /up HTTP/1.1|{}", body.len());
        expected.extend(body.iter().rev().map(|&byte| byte as char));
        assert!(answer.ends_with(&expected), "{} octets", answer.len());
    });
}

#[test]
fn a_chunked_body_arrives_whole() {
    both(|house| {
        let answer = ask(
            house.plain,
            b"POST /c HTTP/1.1\r\nHost: echo.localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
              3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        );
        assert!(answer.ends_with("POST /c HTTP/1.1|5edcba"), "{answer}");
    });
}

#[test]
fn requests_of_one_connection_are_answered_in_order() {
    both(|house| {
        let mut request = Vec::new();
        for at in 0..50 {
            let close = if at == 49 { "Connection: close\r\n" } else { "" };
            request.extend(format!("GET /{at} HTTP/1.1\r\nHost: echo.localhost\r\n{close}\r\n").bytes());
        }
        let answer = ask(house.plain, &request);
        let seen: Vec<_> = answer.match_indices("GET /").map(|(at, _)| &answer[at + 5..]).collect();
        assert_eq!(seen.len(), 50);
        for (at, text) in seen.iter().enumerate() {
            assert!(text.starts_with(&format!("{at} ")), "{at}: {text}");
        }
    });
}
