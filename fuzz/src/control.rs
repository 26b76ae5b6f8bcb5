//! What control sides tell each other: the ClientHello that begins it, and the messages that are JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;
use steady_cluster::JoinToken;
use steady_cluster::channel::Registration;
use steady_cluster::channel::talk::{Event, Order};
use steady_cluster::join::{Answer, Join, Renew};
use steady_proxy::tls::{Accepting, Acceptor, Hello, TlsError};

use crate::Octets;

/// What is read is written and read again as the same.
fn again<T: Serialize + DeserializeOwned>(octets: &[u8]) {
    let Ok(read) = serde_json::from_slice::<T>(octets) else { return };
    let written = serde_json::to_vec(&read).expect("it becomes JSON");
    let read_again: T = serde_json::from_slice(&written).expect("our own message");
    assert_eq!(serde_json::to_vec(&read_again).expect("it becomes JSON"), written);
}

/// The first octet: which message.
pub fn control(data: &[u8]) {
    let mut octets = Octets(data);
    let which = octets.one();
    let rest = octets.0;
    match which % 8 {
        0 => again::<Order>(rest),
        1 => again::<Event>(rest),
        2 => again::<Registration>(rest),
        3 => again::<Join>(rest),
        4 => again::<Renew>(rest),
        5 => again::<Answer>(rest),
        6 => again::<steady_lb::upgrade::wire::Message>(rest),
        _ => token(rest),
    }
}

fn token(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    match text.parse::<JoinToken>() {
        Ok(token) => assert_eq!(token.to_string().parse::<JoinToken>(), Ok(token)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A ClientHello in records of the input's lengths. The first octet: whether the input is octets as they are, or the body of
/// a handshake message. The second: how they are cut. What rustls reads too, it reads as the same.
pub fn client_hello(data: &[u8]) {
    let mut octets = Octets(data);
    let (how, piece) = (octets.one(), usize::from(octets.one()));
    let stream = if how & 1 == 0 { octets.0.to_vec() } else { records(octets.0, usize::from(how >> 1)) };
    let whole = ours(&stream, stream.len());
    let cut = ours(&stream, piece);
    match (&whole, &cut) {
        (Ok(Some(whole)), Ok(Some(cut))) => assert_eq!(whole, cut),
        (Ok(None), Ok(None)) => {}
        // What comes behind a whole ClientHello is not looked at when they come apart.
        (Err(_), Ok(Some(_)) | Err(_)) => {}
        other => panic!("what is read depends on how it is cut: {other:?}"),
    }
    if let (Ok(Some(ours)), Some(theirs)) = (&whole, rustls_reads(&stream)) {
        assert_eq!(ours.server_name().map(str::to_owned), theirs.0);
        assert_eq!(ours.alpn().map(<[u8]>::to_vec).collect::<Vec<_>>(), theirs.1);
    }
}

fn ours(stream: &[u8], piece: usize) -> Result<Option<Hello>, TlsError> {
    let mut acceptor = Acceptor::default();
    let mut out = Vec::new();
    for part in stream.chunks(piece.max(1)) {
        acceptor = match acceptor.receive(part, &mut out)? {
            Accepting::NeedMore(acceptor) => acceptor,
            Accepting::Hello(parked) => return Ok(Some(parked.hello().clone())),
        };
    }
    Ok(None)
}

/// The name and the protocols that rustls reads from it, where it reads it at all.
fn rustls_reads(stream: &[u8]) -> Option<(Option<String>, Vec<Vec<u8>>)> {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut rest = stream;
    while !rest.is_empty() {
        acceptor.read_tls(&mut rest).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            let hello = accepted.client_hello();
            let name = hello.server_name().map(|name| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase());
            return Some((name, hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect()));
        }
    }
    None
}

fn records(body: &[u8], fragment: usize) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    let message = [&[1, length[1], length[2], length[3]], body].concat();
    let fragment = if fragment == 0 { message.len() } else { fragment };
    let record = |part: &[u8]| [&[22, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat();
    message.chunks(fragment).flat_map(record).collect()
}
