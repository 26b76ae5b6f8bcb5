//! Whoever does not speak the protocol that is spoken here: TLS that is none, handshakes without end, a PROXY header that lies.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use steady_lb::snapshot::Settings;
use steady_proxy::Limits;

use crate::house::{House, Setup};
use crate::siege::{Counter, limit, refusal, withstand};
use crate::support::PATIENCE;

const FAILED: Counter = ("tls_failures_total", None);
const LATE: Counter = ("clients_late_total", Some("begin"));

fn secure() -> Setup {
    let settings = Settings { header_timeout: Duration::from_millis(400), ..Settings::default() };
    Setup { settings, certs: vec![vec!["*.localhost", "echo.localhost"]], ..Setup::default() }
}

/// Says this and hears until the end. What came back.
fn say(addr: SocketAddr, octets: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // What is refused halfway may not be taken whole.
    let _ = stream.write_all(octets);
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    heard
}

/// A handshake record of so many octets that begins a ClientHello of `length`.
fn hello(length: u32, record: usize) -> Vec<u8> {
    let mut message = vec![1];
    message.extend(&length.to_be_bytes()[1..]);
    message.extend([3, 3]);
    message.resize(record, 0x5a);
    [&[22, 3, 1][..], &(record as u16).to_be_bytes(), &message].concat()
}

#[test]
fn what_is_no_tls_gets_an_alert_or_nothing() {
    let garbage: Vec<u8> = (0..5000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let strangers = [
        garbage,
        b"GET / HTTP/1.1\r\nHost: echo.localhost\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        // A record that is longer than records are; another kind first; a version that never was.
        [&[22, 3, 1, 0xff, 0xff][..], &[0; 300]].concat(),
        [&[23, 3, 3, 0, 5][..], b"hello"].concat(),
        [&[22, 9, 9, 0, 5][..], b"hello"].concat(),
    ];
    for octets in strangers {
        withstand(secure, &[FAILED], |house| {
            let heard = say(house.tls, &octets);
            assert!(heard.is_empty() || heard[0] == 21, "{heard:?}");
        });
    }
}

#[test]
fn a_huge_client_hello_is_refused_when_it_says_how_long_it_is() {
    withstand(secure, &[FAILED], |house| {
        let mut attack = hello(0xff_ffff, 16_000);
        for _ in 0..100 {
            attack.extend([&[22, 3, 1][..], &16_000u16.to_be_bytes(), &[0x5a; 16_000]].concat());
        }
        let heard = say(house.tls, &attack);
        assert!(heard.is_empty() || heard[0] == 21, "{heard:?}");
    });
}

#[test]
fn a_handshake_that_does_not_go_on_is_ended_and_counted() {
    for octets in [&b""[..], &hello(500, 100), &hello(500, 100)[..3]] {
        withstand(secure, &[LATE], |house| {
            let heard = say(house.tls, octets);
            assert!(heard.is_empty() || heard[0] == 21, "{heard:?}");
        });
    }
}

fn client(house: &House) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(house.dir.path().join("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    config.with_root_certificates(roots).with_no_client_auth()
}

#[test]
fn the_tiniest_records_carry_a_body_whole_and_cost_no_memory() {
    const BODY: usize = 200_000;
    let patient = || Setup { settings: Settings::default(), ..secure() };
    withstand(patient, &[("tls_handshakes_total", None)], |house| {
        let mut config = client(house);
        // The least that rustls makes: 27 octets of content in each.
        config.max_fragment_size = Some(32);
        let name = ServerName::try_from("echo.localhost").unwrap();
        let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let stream = TcpStream::connect(house.tls).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut tls = rustls::StreamOwned::new(connection, stream);
        write!(tls, "POST /sink HTTP/1.1\r\nHost: echo.localhost\r\nContent-Length: {BODY}\r\n\r\n").unwrap();
        tls.write_all(&vec![b'x'; BODY]).unwrap();
        let mut answer = String::new();
        while !answer.ends_with("200000") {
            let mut byte = [0];
            tls.read_exact(&mut byte).unwrap();
            answer.push(char::from(byte[0]));
        }
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    });
}

#[test]
fn a_proxy_header_that_lies_about_itself_ends_the_connection() {
    let refused: Counter = ("connections_refused_total", None);
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    let request = b"GET / HTTP/1.1\r\nHost: echo.localhost\r\n\r\n";
    let lies: [Vec<u8>; 8] = [
        b"PROXY TCP4 999.0.0.1 192.0.2.2 1 2\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 192.0.2.2 99999 2\r\n".to_vec(),
        b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(),
        [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat(),
        // Another version, another command, addresses that do not fit into the length.
        [&signature[..], b"\x11\x11\0\x0c", &[0; 12]].concat(),
        [&signature[..], b"\x2f\x11\0\x0c", &[0; 12]].concat(),
        [&signature[..], b"\x21\x11\0\x04", &[0; 4]].concat(),
        // More than there is room for.
        [&signature[..], b"\x21\x11\xff\xff", &[0; 600]].concat(),
    ];
    for lie in lies {
        withstand(Setup::default, &[refused], |house| {
            let heard = say(house.proxied, &[&lie[..], request].concat());
            assert_eq!(heard, b"", "{:?} was believed", String::from_utf8_lossy(&lie));
            assert!(!house.origin.seen().iter().any(|(line, _)| line == "GET /"));
        });
    }
    // Where no such header is wanted it is no request.
    withstand(Setup::default, &[refusal("bad_request"), limit("empty_lines")], |house| {
        for lie in [&b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"[..], signature] {
            assert!(say(house.plain, &[lie, request].concat()).starts_with(b"HTTP/1.1 400 "));
        }
    });
}

/// Comes as this client of the PROXY protocol and asks: whether it was served, and the connection.
fn come(house: &House, client: &str) -> (bool, TcpStream) {
    let mut stream = TcpStream::connect(house.proxied).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // One that is refused may be gone before it has said all.
    let _ = write!(stream, "PROXY TCP4 {client} 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: echo.localhost\r\n\r\n");
    let mut heard = [0; 12];
    let served = stream.read_exact(&mut heard).is_ok() && heard == *b"HTTP/1.1 200";
    (served, stream)
}

#[test]
fn a_client_with_more_connections_than_it_may_have_gets_no_more_and_others_do() {
    const MAX: usize = 20;
    let limits = Limits { connections_per_client_max: MAX, ..Limits::default() };
    let setup = || Setup { limits: limits.clone(), ..Setup::default() };
    let counted = ("connections_refused_per_client_total", None);
    withstand(setup, &[counted], |house| {
        let crowd: Vec<_> = (0..5 * MAX).map(|_| come(house, "198.51.100.1")).collect();
        assert_eq!(crowd.iter().filter(|(served, _)| *served).count(), MAX);
        let (served, other) = come(house, "198.51.100.2");
        assert!(served, "another client is served");
        (crowd, other)
    });
}

#[test]
fn a_client_that_connects_faster_than_it_may_is_served_as_often_as_that_and_others_are() {
    let limits = Limits { connection_rate_per_client_max: 1, ..Limits::default() };
    let setup = || Setup { limits: limits.clone(), ..Setup::default() };
    let counted = ("connections_refused_rate_total", Some("client"));
    withstand(setup, &[counted], |house| {
        let began = Instant::now();
        let served = (0..100).filter(|_| come(house, "198.51.100.1").0).count() as u64;
        let most = 2 + began.elapsed().as_secs();
        assert!((1..=most).contains(&served), "{served} in {most} s");
        let (served, other) = come(house, "198.51.100.2");
        assert!(served, "another client is served");
        other
    });
}
