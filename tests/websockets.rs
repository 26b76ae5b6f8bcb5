//! What goes through a WebSocket goes through whole and in order, over HTTP/1.1 and HTTP/2: every kind of frame, fragments, all
//! three forms of a length, many and large messages, close codes, and the end.

mod house;
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use base64::Engine as _;
use bytes::Bytes;
use house::{House, Setup, app, both};
use sha1::Digest as _;
use steady_agent::gate::{Process, Protocol, Role};

/// An application that takes any upgrade and sends back every octet as it came, until its client ends.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || _ = serve(stream));
        }
    });
    addr
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut line, mut key) = (String::new(), String::new());
    while reader.read_line(&mut line)? > 2 {
        if let Some((_, value)) =
            line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
        {
            key = value.trim().to_owned();
        }
        line.clear();
    }
    let digest = sha1::Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
    let accept = base64::engine::general_purpose::STANDARD.encode(digest);
    write!(
        stream,
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )?;
    std::io::copy(&mut reader, &mut stream)?;
    stream.shutdown(std::net::Shutdown::Write)
}

/// One frame of RFC 6455 §5.2, masked as a client's.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len @ 126..65_536 => frame.extend([&[0x80 | 126][..], &(len as u16).to_be_bytes()].concat()),
        len => frame.extend([&[0x80 | 127][..], &(len as u64).to_be_bytes()].concat()),
    }
    let mask = [7, 77, 177, 200];
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(octet, mask)| octet ^ mask));
    frame
}

/// Conversations, each by name.
fn conversations() -> Vec<(&'static str, Vec<u8>)> {
    let (text, binary, close, ping, pong) = (0x81, 0x82, 0x88, 0x89, 0x8a);
    let many = (0..5_000u32).flat_map(|at| frame(text, at.to_string().as_bytes())).collect();
    let closes = [1000u16, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 4999];
    let pattern: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
    vec![
        ("an empty message", frame(text, b"")),
        (
            "every form of a length",
            [125, 126, 65_535, 65_536].iter().flat_map(|&len| frame(binary, &pattern[..len])).collect(),
        ),
        (
            "fragments with a ping between",
            [frame(0x01, b"one "), frame(ping, b"?"), frame(0x00, b"two "), frame(0x80, b"three")].concat(),
        ),
        ("pings and pongs", [frame(ping, b""), frame(pong, b""), frame(ping, &[0xff; 125])].concat()),
        ("many messages", many),
        ("a large message", frame(binary, &pattern)),
        (
            "close codes",
            closes.iter().flat_map(|code| frame(close, &[&code.to_be_bytes()[..], b"why"].concat())).collect(),
        ),
        ("what no extension has agreed to", [frame(0xf1, b"reserved bits"), frame(0x8f, b"opcode 15")].concat()),
    ]
}

fn with_echo(house: &House) {
    let process = Process::Ready { addr: echo().into(), protocol: Protocol::Http1, instance: 7 };
    house.agents[0].set(app("echo", Role::Owner, 1, process));
}

#[test]
fn over_http_1_1_every_frame_comes_back_as_it_went_and_the_end_ends_both_sides() {
    both(Setup::default, |house| {
        with_echo(house);
        for (name, octets) in conversations() {
            let mut stream = TcpStream::connect(house.plain).unwrap();
            stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
            let head = "GET /ws HTTP/1.1\r\nHost: echo.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
            stream.write_all(head.as_bytes()).unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            assert!(line.starts_with("HTTP/1.1 101 "), "{name}: {line}");
            while line != "\r\n" {
                line.clear();
                reader.read_line(&mut line).unwrap();
            }
            let (sent, mut writing) = (octets.clone(), stream.try_clone().unwrap());
            let writer = std::thread::spawn(move || writing.write_all(&sent).unwrap());
            let mut heard = vec![0; octets.len()];
            reader.read_exact(&mut heard).unwrap();
            writer.join().unwrap();
            // The end of one side ends the tunnel (RFC 9110 §9.3.6).
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(reader.read_to_end(&mut heard).unwrap(), 0, "{name}");
            assert!(heard == octets, "{name}: {} octets of {}", heard.len(), octets.len());
        }
    });
}

#[test]
fn over_http_2_every_frame_comes_back_as_it_went_and_the_end_ends_both_sides() {
    both(Setup::default, |house| {
        with_echo(house);
        house::h2c::runtime().block_on(async {
            let stream = tokio::net::TcpStream::connect(house.plain).await.unwrap();
            let (send, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(async move { _ = connection.await });
            let mut send = send.ready().await.unwrap();
            while !send.is_extended_connect_protocol_enabled() {
                // The server's settings are on their way; each turn lets the connection read.
                tokio::task::yield_now().await;
            }
            for (name, octets) in conversations() {
                let uri = "http://echo.localhost/ws";
                let mut request = http::Request::builder().method("CONNECT").uri(uri).body(()).unwrap();
                request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
                send = send.ready().await.unwrap();
                let (response, mut writer) = send.send_request(request, false).unwrap();
                let response = response.await.unwrap();
                assert_eq!(response.status(), 200, "{name}");
                let mut rest = Bytes::from(octets.clone());
                let sending = tokio::spawn(async move {
                    while !rest.is_empty() {
                        writer.reserve_capacity(rest.len());
                        let room =
                            std::future::poll_fn(|context| writer.poll_capacity(context)).await.unwrap().unwrap();
                        writer.send_data(rest.split_to(room.min(rest.len())), false).unwrap();
                    }
                    writer
                });
                let mut body = response.into_body();
                let mut heard = Vec::new();
                while heard.len() < octets.len() {
                    let data = body.data().await.expect("more").unwrap();
                    body.flow_control().release_capacity(data.len()).unwrap();
                    heard.extend_from_slice(&data);
                }
                // The end of one side ends the tunnel (RFC 9110 §9.3.6).
                sending.await.unwrap().send_data(Bytes::new(), true).unwrap();
                assert_eq!(house::h2c::drain(body).await.unwrap(), b"", "{name}");
                assert!(heard == octets, "{name}: {} octets of {}", heard.len(), octets.len());
            }
        });
    });
}
