//! Our TLS against rustls' own buffered connections: they share the record layer but not the driving, the framing or the
//! ClientHello parser, which are ours.

mod support;

use aws_lc_rs::aead;
use proptest::prelude::*;
use rustls::ConnectionTrafficSecrets;
use rustls::version::{TLS12, TLS13};
use rustls::{ProtocolVersion, SupportedProtocolVersion};
use steady_proxy::tls::{
    Accepting, Acceptor, Alert, Fault, HANDSHAKE_OCTETS_MAX, HELD_OCTETS_MAX, HelloError, Scratch, Tls, TlsError,
};
use support::{ALPN, NAME, Ours, Peer, Trust, records, settle, uncut};

fn connected(version: &'static SupportedProtocolVersion) -> (Ours, Peer) {
    let trust = Trust::new();
    let mut ours = Ours::server(trust.server());
    let mut peer = Peer::client(trust.client_of(version, ALPN));
    settle(&mut ours, &mut peer, &mut uncut()).unwrap();
    assert!(!ours.tls.is_handshaking());
    (ours, peer)
}

fn connected_client(version: &'static SupportedProtocolVersion) -> (Ours, Peer) {
    let trust = Trust::new();
    let mut ours = Ours::client(trust.client_of(version, ALPN));
    let mut peer = Peer::server(trust.server());
    settle(&mut ours, &mut peer, &mut uncut()).unwrap();
    assert!(!ours.tls.is_handshaking());
    (ours, peer)
}

#[test]
fn a_handshake_tells_what_was_agreed() {
    for (version, expected) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let (ours, peer) = connected(version);
        assert_eq!(ours.tls.protocol_version(), Some(expected));
        assert_eq!(ours.tls.cipher_suite(), peer.conn.negotiated_cipher_suite());
        assert!(ours.tls.cipher_suite().is_some());
        assert_eq!(ours.tls.alpn(), Some(&b"h2"[..]));
        assert_eq!(ours.tls.server_name(), Some(NAME));
        assert!(!ours.tls.is_resumed());
        let (ours, _) = connected_client(version);
        assert_eq!(ours.tls.protocol_version(), Some(expected));
        assert_eq!(ours.tls.alpn(), Some(&b"h2"[..]));
    }
}

#[test]
fn alpn_is_agreed_refused_or_absent() {
    let trust = Trust::new();
    for (offered, agreed) in
        [(&[&b"http/1.1"[..]][..], Some(&b"http/1.1"[..])), (&[&b"http/1.1"[..], b"h2"], Some(b"h2")), (&[], None)]
    {
        let mut ours = Ours::server(trust.server());
        settle(&mut ours, &mut Peer::client(trust.client(offered)), &mut uncut()).unwrap();
        assert_eq!(ours.tls.alpn(), agreed);
    }
    let mut ours = Ours::server(trust.server());
    let mut peer = Peer::client(trust.client(&[b"spdy/1"]));
    let error = ours.receive(&peer.output()).unwrap_err();
    assert_eq!(error.fault(), Fault::PeerIncompatible);
    assert!(matches!(peer.receive(&ours.out), Err(rustls::Error::AlertReceived(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn data_arrives_whole_and_in_order_however_the_stream_is_split(
        tls13: bool,
        server: bool,
        cuts in proptest::collection::vec(prop_oneof![1usize..30, 30usize..3000, Just(20_000)], 1..20),
        messages in proptest::collection::vec((any::<bool>(), prop_oneof![1usize..100, 1000usize..40_000]), 1..10),
    ) {
        let version = if tls13 { &TLS13 } else { &TLS12 };
        let trust = Trust::new();
        let (mut ours, mut peer) = if server {
            (Ours::server(trust.server()), Peer::client(trust.client_of(version, ALPN)))
        } else {
            (Ours::client(trust.client_of(version, ALPN)), Peer::server(trust.server()))
        };
        let mut cuts = cuts.into_iter().cycle();
        settle(&mut ours, &mut peer, &mut cuts).unwrap();
        let (mut to_us, mut to_peer) = (Vec::new(), Vec::new());
        for (index, (from_us, length)) in messages.into_iter().enumerate() {
            let message: Vec<u8> = (0..length).map(|at| (at * 7 + index) as u8).collect();
            if from_us {
                ours.send(&message);
                to_peer.extend_from_slice(&message);
            } else {
                peer.send(&message);
                to_us.extend_from_slice(&message);
            }
            if index % 2 == 0 {
                settle(&mut ours, &mut peer, &mut cuts).unwrap();
            }
        }
        peer.conn.send_close_notify();
        settle(&mut ours, &mut peer, &mut cuts).unwrap();
        prop_assert!(ours.plain == to_us);
        prop_assert!(peer.plain == to_peer);
        prop_assert!(ours.tls.peer_closed());
        prop_assert_eq!(ours.tls.pending_octets(), 0);
    }

    #[test]
    fn garbage_never_panics_and_ends_the_connection(
        start in 0usize..2,
        garbage in proptest::collection::vec(any::<u8>(), 20..400),
    ) {
        let (mut ours, _) = if start == 0 { connected(&TLS13) } else { connected_client(&TLS12) };
        let mut record = vec![23, 3, 3, 0, 0];
        record[4] = (garbage.len() % 250) as u8;
        record.extend_from_slice(&garbage);
        // What begins like a record is waited for to its end, of which its length is the bound.
        let mut given = 0;
        let ended = [garbage, record.clone()].iter().cycle().find_map(|piece| {
            given += piece.len();
            ours.receive(piece).err().map(Some).or_else(|| (given > 20_000).then_some(None))
        });
        prop_assert!(ended.flatten().is_some(), "nothing was amiss with {} octets of garbage", given);
        prop_assert!(matches!(ours.receive(&record), Err(TlsError::Over)));
        prop_assert!(ours.plain.is_empty());
    }

    #[test]
    fn a_changed_hello_never_panics_and_is_judged_alike_however_it_is_split(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut hello = hello();
        for (index, value) in changes {
            let at = index.index(hello.len());
            hello[at] = value;
        }
        type Judgement = Option<Result<(Option<String>, Vec<Vec<u8>>), String>>;
        let judge = |pieces: &[&[u8]]| -> Judgement {
            let mut acceptor = Acceptor::default();
            for piece in pieces {
                acceptor = match acceptor.receive(piece, &mut Vec::new()) {
                    Ok(Accepting::NeedMore(acceptor)) => acceptor,
                    Ok(Accepting::Hello(parked)) => {
                        let hello = parked.hello();
                        return Some(Ok((
                            hello.server_name().map(str::to_owned),
                            hello.alpn().map(<[u8]>::to_vec).collect(),
                        )));
                    }
                    Err(error) => return Some(Err(error.to_string())),
                };
            }
            None
        };
        let (front, back) = hello.split_at(cut.index(hello.len()));
        prop_assert_eq!(judge(&[&hello]), judge(&[front, back]));
    }
}

/// A ClientHello as rustls sends it, one record.
fn hello() -> Vec<u8> {
    let trust = Trust::new();
    Peer::client(trust.client(ALPN)).output()
}

/// `wire`, one record, as records of `size` octets of payload.
fn resplit(wire: &[u8], size: usize) -> Vec<u8> {
    let mut split = Vec::new();
    for piece in wire[5..].chunks(size) {
        split.extend_from_slice(&wire[..3]);
        split.extend_from_slice(&(piece.len() as u16).to_be_bytes());
        split.extend_from_slice(piece);
    }
    split
}

#[test]
fn a_ticket_resumes_a_session_on_any_connection_of_the_same_keys() {
    for version in [&TLS12, &TLS13] {
        let trust = Trust::new();
        let (server, client) = (trust.server(), trust.client_of(version, ALPN));
        for round in 0..3 {
            let mut ours = Ours::server(server.clone());
            let mut peer = Peer::client(client.clone());
            settle(&mut ours, &mut peer, &mut uncut()).unwrap();
            assert_eq!(ours.tls.is_resumed(), round > 0, "{version:?} round {round}");
        }
        let mut elsewhere = Ours::server(trust.server());
        settle(&mut elsewhere, &mut Peer::client(client), &mut uncut()).unwrap();
        assert!(!elsewhere.tls.is_resumed());
    }
}

#[test]
fn a_close_is_told_from_a_truncation_and_ends_one_direction() {
    for version in [&TLS12, &TLS13] {
        let (mut ours, mut peer) = connected(version);
        peer.send(b"last words");
        settle(&mut ours, &mut peer, &mut uncut()).unwrap();
        assert!(!ours.tls.peer_closed(), "the end of the stream here would be a truncation");
        peer.conn.send_close_notify();
        settle(&mut ours, &mut peer, &mut uncut()).unwrap();
        assert!(ours.tls.peer_closed());
        assert_eq!(ours.plain, b"last words");
        ours.receive(b"ignored").unwrap();
        ours.send(b"answer");
        ours.tls.close(&mut ours.out);
        ours.tls.close(&mut ours.out);
        peer.receive(&ours.out).unwrap();
        assert_eq!(peer.plain, b"answer");
        let mut nothing = [0];
        let read = std::io::Read::read(&mut peer.conn.reader(), &mut nothing);
        assert_eq!(read.unwrap(), 0, "a clean end");
        assert!(matches!(ours.tls.send(b"more", &mut ours.out), Err(TlsError::Over)));
    }
}

#[test]
fn data_is_sent_in_as_few_records_as_possible() {
    let (mut ours, _peer) = connected(&TLS13);
    ours.send(&vec![7; 40_000]);
    assert_eq!(records(&ours.out), [(23, 16_384 + 17), (23, 16_384 + 17), (23, 40_000 - 2 * 16_384 + 17)]);
}

#[test]
fn data_before_the_handshake_is_refused_and_nothing_is_lost() {
    let trust = Trust::new();
    let mut ours = Ours::server(trust.server());
    assert!(matches!(ours.tls.send(b"early", &mut ours.out), Err(TlsError::NotReady)));
    assert!(ours.out.is_empty());
}

#[test]
fn what_is_not_tls_gets_an_alert_at_its_first_octet() {
    let trust = Trust::new();
    let mut ours = Ours::server(trust.server());
    let error = ours.receive(b"G").unwrap_err();
    assert_eq!(error.fault(), Fault::PeerMisbehaved);
    assert_eq!(ours.out, [21, 3, 3, 0, 2, 2, 50]);
    assert!(matches!(ours.receive(b"ET / HTTP/1.1"), Err(TlsError::Over)));
}

#[test]
fn a_changed_record_ends_the_connection_with_bad_record_mac() {
    for version in [&TLS12, &TLS13] {
        let (mut ours, mut peer) = connected(version);
        peer.send(b"intact");
        peer.send(b"changed");
        let mut wire = peer.output();
        let last = wire.len() - 1;
        wire[last] ^= 1;
        let error = ours.receive(&wire).unwrap_err();
        assert_eq!(error.fault(), Fault::PeerMisbehaved);
        assert_eq!(ours.plain, b"intact");
        let told = peer.receive(&ours.out).unwrap_err();
        assert_eq!(told, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac));
    }
}

#[test]
fn an_oversized_record_is_refused_from_its_header() {
    for length in [0x4800u16, 0xffff] {
        let (mut ours, mut peer) = connected(&TLS13);
        let mut header = vec![23, 3, 3];
        header.extend_from_slice(&length.to_be_bytes());
        let error = ours.receive(&header).unwrap_err();
        assert_eq!(error.fault(), Fault::PeerMisbehaved);
        assert!(peer.receive(&ours.out).is_err(), "an alert was sent");
    }
}

#[test]
fn a_record_too_short_to_be_sealed_ends_the_connection() {
    for version in [&TLS12, &TLS13] {
        let (mut ours, _) = connected(version);
        let error = ours.receive(&[23, 3, 3, 0, 0]).unwrap_err();
        assert_eq!(error.fault(), Fault::PeerMisbehaved);
    }
}

#[test]
fn key_updates_are_followed_and_answered_in_both_roles() {
    for (mut ours, mut peer) in [connected(&TLS13), connected_client(&TLS13)] {
        for round in 0..3 {
            peer.conn.refresh_traffic_keys().unwrap();
            peer.send(format!("to us {round}").as_bytes());
            ours.receive_split(&peer.output(), &mut [3usize, 50].into_iter().cycle()).unwrap();
            ours.send(format!("to peer {round}").as_bytes());
            settle(&mut ours, &mut peer, &mut uncut()).unwrap();
        }
        assert_eq!(ours.plain, b"to us 0to us 1to us 2");
        assert_eq!(peer.plain, b"to peer 0to peer 1to peer 2");
    }
}

/// A client that has handed its keys to the test, which can then seal what no decent client would say.
struct Sealer {
    key: aead::LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Sealer {
    fn connect() -> (Ours, Sealer) {
        let trust = Trust::new();
        let mut client = (*trust.client_of(&TLS13, ALPN)).clone();
        client.enable_secret_extraction = true;
        let mut ours = Ours::server(trust.server());
        let mut peer = Peer::client(client.into());
        settle(&mut ours, &mut peer, &mut uncut()).unwrap();
        let (sequence, secrets) = peer.conn.dangerous_extract_secrets().unwrap().tx;
        let (ConnectionTrafficSecrets::Aes256Gcm { key, iv } | ConnectionTrafficSecrets::Aes128Gcm { key, iv }) =
            secrets
        else {
            panic!("AES-GCM is preferred");
        };
        let algorithm = if key.as_ref().len() == 32 { &aead::AES_256_GCM } else { &aead::AES_128_GCM };
        let key = aead::LessSafeKey::new(aead::UnboundKey::new(algorithm, key.as_ref()).unwrap());
        (ours, Sealer { key, iv: iv.as_ref().try_into().unwrap(), sequence })
    }

    /// One record (RFC 8446 section 5.2).
    fn seal(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut nonce = self.iv;
        nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()).for_each(|(octet, count)| *octet ^= count);
        self.sequence += 1;
        let length = (content.len() + 17) as u16;
        let header = [&[23, 3, 3][..], &length.to_be_bytes()].concat();
        let mut inner = [content, &[kind]].concat();
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, aead::Aad::from(&header), &mut inner).unwrap();
        [header, inner].concat()
    }
}

#[test]
fn a_handshake_message_may_lie_unfinished_while_data_is_sent() {
    let (mut ours, mut peer) = Sealer::connect();
    // KeyUpdate, update_not_requested, in three pieces.
    for piece in [&[24][..], &[0, 0], &[1, 0]] {
        assert_eq!(records_sent(&mut ours), [17 + 5]);
        ours.receive(&peer.seal(22, piece)).unwrap();
    }
    assert_eq!(records_sent(&mut ours), [17 + 5]);
    assert_eq!(ours.tls.pending_octets(), 0);
    assert!(ours.plain.is_empty());
}

fn records_sent(ours: &mut Ours) -> Vec<usize> {
    ours.out.clear();
    ours.send(b"hello");
    records(&ours.out).into_iter().map(|(_, length)| length).collect()
}

#[test]
fn an_unfinished_handshake_message_is_bounded_after_the_handshake() {
    let (mut ours, mut peer) = Sealer::connect();
    let mut kept = 0;
    let error = [24, 0, 0xff, 0xff].into_iter().chain(std::iter::repeat(0)).find_map(|octet| {
        kept = kept.max(ours.tls.pending_octets());
        ours.receive(&peer.seal(22, &[octet])).err()
    });
    assert!(matches!(error, Some(TlsError::HeldTooLong)), "{error:?}");
    assert!(kept <= HELD_OCTETS_MAX);
    assert_eq!(ours.tls.pending_octets(), 0);
}

#[test]
fn tiny_records_are_data_and_a_run_of_empty_ones_ends_the_connection() {
    let (mut ours, mut peer) = Sealer::connect();
    let mut wire = Vec::new();
    for octet in 0..2000 {
        wire.extend(peer.seal(23, &[octet as u8]));
    }
    ours.receive_split(&wire, &mut [1000usize, 1, 50].into_iter().cycle()).unwrap();
    assert_eq!(ours.plain.len(), 2000);
    let error = (0..100).find_map(|_| ours.receive(&peer.seal(23, &[])).err()).unwrap();
    assert_eq!(error.fault(), Fault::PeerMisbehaved);
}

#[test]
fn a_client_refuses_a_server_that_its_roots_do_not_vouch_for() {
    let mut ours = Ours::client(Trust::new().client(ALPN));
    let mut peer = Peer::server(Trust::new().server());
    let error = settle(&mut ours, &mut peer, &mut uncut()).unwrap_err();
    assert_eq!(error.fault(), Fault::PeerIncompatible);
    assert!(matches!(peer.receive(&ours.out), Err(rustls::Error::AlertReceived(_))));
    assert!(matches!(ours.tls.send(b"x", &mut ours.out), Err(TlsError::Over)));
}

#[test]
fn a_hello_may_come_in_several_records_but_not_in_a_flood_of_them() {
    let trust = Trust::new();
    let mut ours = Ours::server(trust.server());
    let mut peer = Peer::client(trust.client(ALPN));
    let hello = peer.output();
    ours.receive_split(&resplit(&hello, hello.len() / 8), &mut [1usize, 7].into_iter().cycle()).unwrap();
    settle(&mut ours, &mut peer, &mut uncut()).unwrap();
    assert!(!ours.tls.is_handshaking());

    let mut ours = Ours::server(trust.server());
    let error = ours.receive(&resplit(&hello, 1)).unwrap_err();
    assert!(matches!(error, TlsError::Hello(HelloError::TooManyRecords)), "{error}");
    assert_eq!(ours.out[..5], [21, 3, 3, 0, 2]);
}

#[test]
fn a_huge_hello_is_refused_from_its_length() {
    let trust = Trust::new();
    let mut ours = Ours::server(trust.server());
    let error = ours.receive(&[22, 3, 1, 0x40, 0, 1, 0, 0x40, 1]).unwrap_err();
    assert!(matches!(error, TlsError::Hello(HelloError::TooLong)), "{error}");
}

#[test]
fn a_handshake_that_never_ends_is_ended() {
    let trust = Trust::new();
    let mut ours = Ours::server(trust.server());
    let mut peer = Peer::client(trust.client_of(&TLS12, ALPN));
    ours.receive(&peer.output()).unwrap();
    // A ClientKeyExchange of 65,534 octets, one octet a record.
    let mut sent = 0;
    let error = [16, 0, 0xff, 0xfe].into_iter().chain(std::iter::repeat(7)).find_map(|octet| {
        sent += 6;
        ours.receive(&[22, 3, 3, 0, 1, octet]).err()
    });
    assert!(matches!(error, Some(TlsError::HandshakeTooLong)), "{error:?}");
    assert!(sent <= HANDSHAKE_OCTETS_MAX + 6);
    assert_eq!(ours.tls.pending_octets(), 0);
}

#[test]
fn a_parked_handshake_resumes_where_it_was() {
    let trust = Trust::new();
    let mut peer = Peer::client(trust.client(ALPN));
    let (mut scratch, mut plain, mut out) = (Scratch::default(), Vec::new(), Vec::new());
    let hello = peer.output();
    let (front, back) = hello.split_at(100);
    let Accepting::NeedMore(acceptor) = Acceptor::default().receive(front, &mut out).unwrap() else {
        panic!("a hello in its first 100 octets");
    };
    let Accepting::Hello(mut parked) = acceptor.receive(back, &mut out).unwrap() else {
        panic!("no hello");
    };
    assert_eq!(parked.hello().server_name(), Some(NAME));
    assert_eq!(parked.hello().alpn().collect::<Vec<_>>(), ALPN);
    assert!(parked.hello().offers(b"h2") && !parked.hello().offers(b"acme-tls/1"));
    parked.receive(&[20, 3, 3, 0, 1, 1], &mut out).unwrap();
    assert!(out.is_empty());
    let tls = parked.resume(trust.server(), &mut scratch, &mut plain, &mut out).unwrap();
    assert_eq!(tls.server_name(), Some(NAME));
    let mut ours = Ours { tls, scratch, plain, out };
    // The peer sends its own change_cipher_spec too; rustls takes two.
    settle(&mut ours, &mut peer, &mut uncut()).unwrap();
    assert!(!ours.tls.is_handshaking());
}

#[test]
fn a_parked_handshake_can_be_refused_and_bounds_what_it_keeps() {
    let trust = Trust::new();
    let parked = |peer: &mut Peer| match Acceptor::default().receive(&peer.output(), &mut Vec::new()).unwrap() {
        Accepting::Hello(parked) => parked,
        Accepting::NeedMore(_) => panic!("no hello"),
    };
    let mut peer = Peer::client(trust.client(ALPN));
    let mut out = Vec::new();
    parked(&mut peer).refuse(Alert::UnrecognizedName, &mut out);
    let told = peer.receive(&out).unwrap_err();
    assert_eq!(told, rustls::Error::AlertReceived(rustls::AlertDescription::UnrecognisedName));

    let mut parked = parked(&mut Peer::client(trust.client(ALPN)));
    let mut kept = 0;
    while parked.receive(&[0; 1000], &mut Vec::new()).is_ok() {
        kept += 1000;
    }
    assert!(kept < 20_000);
}

#[test]
fn a_name_is_lower_cased_and_what_is_no_name_is_refused() {
    let named = |name: &[u8]| {
        let hello = hello();
        let at = hello.windows(NAME.len()).position(|window| window == NAME.as_bytes()).unwrap();
        let mut changed = hello.clone();
        changed[at..at + name.len()].copy_from_slice(name);
        Acceptor::default().receive(&changed, &mut Vec::new())
    };
    match named(b"APP.Steady.PAGE").unwrap() {
        Accepting::Hello(parked) => assert_eq!(parked.hello().server_name(), Some(NAME)),
        Accepting::NeedMore(_) => panic!("no hello"),
    }
    for bad in [&b"app..teady.page"[..], b"app/steady.page", b"app\0steady.page", b"-pp.steady.page", b"\xff\xff\xff"] {
        let error = named(bad).unwrap_err();
        assert!(matches!(error, TlsError::Hello(HelloError::BadServerName)), "{bad:?}: {error}");
    }
    match named(b"200.200.200.200").unwrap() {
        Accepting::Hello(parked) => assert_eq!(parked.hello().server_name(), None),
        Accepting::NeedMore(_) => panic!("no hello"),
    }
}

#[test]
fn the_types_are_sized_for_ten_thousand_connections() {
    assert!(size_of::<Tls>() <= 1300, "{}", size_of::<Tls>());
    const { assert!(HELD_OCTETS_MAX <= HANDSHAKE_OCTETS_MAX) };
}
