//! A rustls peer of the ordinary, buffered kind, in memory, and what both sides need to trust each other.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::ClientConnection;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConnection};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, Connection, RootCertStore, ServerConfig, SupportedProtocolVersion};
use steady_proxy::tls::{self, Scratch, TicketKeys, Tls, TlsError};

pub const NAME: &str = "app.steady.page";
pub const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

/// One certificate for every name.
#[derive(Debug)]
struct Only(Arc<CertifiedKey>);

impl ResolvesServerCert for Only {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

pub struct Trust {
    resolver: Arc<Only>,
    roots: RootCertStore,
}

impl Trust {
    pub fn new() -> Trust {
        let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let certified = CertifiedKey::from_der(vec![made.cert.der().clone()], key, &tls::provider()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        Trust { resolver: Arc::new(Only(Arc::new(certified))), roots }
    }

    pub fn server(&self) -> Arc<ServerConfig> {
        let keys = Arc::new(TicketKeys::in_memory(SystemTime::now()).unwrap());
        Arc::new(tls::server_config(self.resolver.clone(), Some(keys), ALPN).unwrap())
    }

    pub fn client(&self, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        Arc::new(tls::client_config(self.roots.clone(), alpn).unwrap())
    }

    pub fn client_of(&self, version: &'static SupportedProtocolVersion, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }
}

pub fn name() -> ServerName<'static> {
    ServerName::try_from(NAME).unwrap()
}

/// Ours: the state machine and what it appends to.
pub struct Ours {
    pub tls: Tls,
    pub scratch: Scratch,
    pub plain: Vec<u8>,
    pub out: Vec<u8>,
}

impl Ours {
    pub fn server(config: Arc<ServerConfig>) -> Ours {
        Ours { tls: Tls::server(config), scratch: Scratch::default(), plain: Vec::new(), out: Vec::new() }
    }

    pub fn client(config: Arc<ClientConfig>) -> Ours {
        let mut out = Vec::new();
        let tls = Tls::client(config, name(), &mut out).unwrap();
        Ours { tls, scratch: Scratch::default(), plain: Vec::new(), out }
    }

    pub fn receive(&mut self, input: &[u8]) -> Result<(), TlsError> {
        self.tls.receive(input, &mut self.scratch, &mut self.plain, &mut self.out)
    }

    /// The same, in pieces of these sizes, over and over.
    pub fn receive_split(&mut self, mut input: &[u8], cuts: &mut impl Iterator<Item = usize>) -> Result<(), TlsError> {
        while !input.is_empty() {
            let (piece, rest) = input.split_at(cuts.next().unwrap().clamp(1, input.len()));
            self.receive(piece)?;
            input = rest;
        }
        Ok(())
    }

    pub fn send(&mut self, plain: &[u8]) {
        self.tls.send(plain, &mut self.out).unwrap();
    }
}

/// The peer: rustls, buffered.
pub struct Peer {
    pub conn: Connection,
    pub plain: Vec<u8>,
}

impl Peer {
    pub fn client(config: Arc<ClientConfig>) -> Peer {
        let mut conn = ClientConnection::new(config, name()).unwrap();
        conn.set_buffer_limit(None);
        Peer { conn: conn.into(), plain: Vec::new() }
    }

    pub fn server(config: Arc<ServerConfig>) -> Peer {
        let mut conn = ServerConnection::new(config).unwrap();
        conn.set_buffer_limit(None);
        Peer { conn: conn.into(), plain: Vec::new() }
    }

    pub fn send(&mut self, plain: &[u8]) {
        self.conn.writer().write_all(plain).unwrap();
    }

    pub fn output(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while self.conn.wants_write() {
            self.conn.write_tls(&mut out).unwrap();
        }
        out
    }

    pub fn receive(&mut self, mut input: &[u8]) -> Result<(), rustls::Error> {
        while !input.is_empty() {
            self.conn.read_tls(&mut input).unwrap();
            self.conn.process_new_packets()?;
            // `WouldBlock` when there is no more for now.
            let _ = self.conn.reader().read_to_end(&mut self.plain);
        }
        Ok(())
    }
}

/// Carries octets both ways until nobody has anything to say.
pub fn settle(ours: &mut Ours, peer: &mut Peer, cuts: &mut impl Iterator<Item = usize>) -> Result<(), TlsError> {
    loop {
        let from_us = std::mem::take(&mut ours.out);
        peer.receive(&from_us).unwrap();
        let from_peer = peer.output();
        if from_us.is_empty() && from_peer.is_empty() {
            return Ok(());
        }
        ours.receive_split(&from_peer, cuts)?;
    }
}

/// Whole reads.
pub fn uncut() -> impl Iterator<Item = usize> {
    std::iter::repeat(usize::MAX)
}

/// Content types and payload lengths of the records in `wire`.
pub fn records(mut wire: &[u8]) -> Vec<(u8, usize)> {
    let mut found = Vec::new();
    while let [kind, _, _, high, low, rest @ ..] = wire {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        found.push((*kind, length));
        wire = &rest[length..];
    }
    assert!(wire.is_empty(), "a record is cut");
    found
}
