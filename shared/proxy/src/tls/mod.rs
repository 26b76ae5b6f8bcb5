//! TLS as a pure state machine: octets in, octets and plaintext out. The only place that knows rustls' connection API.
//!
//! [`Tls`] is one connection. It runs on rustls' *unbuffered* connections, so that an idle connection owns its keys and
//! nothing else. rustls decrypts in place, so that ciphertext passes through a [`Scratch`] that all connections of a worker
//! share; what a connection keeps between two calls is an incomplete record, and no buffer at all when there is none. rustls
//! is only ever shown whole records: we split the stream at record boundaries ourselves, so that it is known what it still
//! points into (the fragments of an unfinished handshake message) and what it has not seen.
//!
//! A server that must look at the ClientHello first (a certificate that has to be fetched) begins with an [`Acceptor`].
//! Certificates and their choice are [`server_config`]'s resolver; session tickets are [`TicketKeys`].

mod config;
mod error;
mod hello;
mod record;
mod tickets;

use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{ClientConfig, CommonState, HandshakeKind, ProtocolVersion, ServerConfig, SupportedCipherSuite};

pub use config::{client_config, provider, server_config};
pub use error::{Alert, Fault, HelloError, TlsError};
pub use hello::{Accepting, Acceptor, Hello, Parked};
pub use tickets::{Rotation, TicketKeys};

/// What a peer may send before its handshake is complete. rustls takes handshake messages of up to 64 KiB, which only a
/// server's chain comes near; answers to memory held by handshakes that never end.
pub const HANDSHAKE_OCTETS_MAX: usize = 64 * 1024;

/// What a connection keeps of an unfinished handshake message (a key update, a ticket) once the handshake is done. A
/// message sent one octet a record would otherwise grow to 23 times its size.
pub const HELD_OCTETS_MAX: usize = 32 * 1024;

/// Where records are decrypted: one a worker, used by whichever connection is being read.
#[derive(Debug, Default)]
pub struct Scratch {
    buf: Vec<u8>,
}

/// One connection's TLS.
///
/// Whatever a call appends to `out` must be sent, in order, also when the call fails: it ends in the alert that tells the
/// peer why (where one can be sent). After an error every further `receive` and `send` fails with [`TlsError::Over`].
pub struct Tls {
    conn: Conn,
    server_name: Option<Box<str>>,
    /// `held` octets that rustls points into, then an incomplete record that it has not seen. Unallocated when empty.
    pending: Vec<u8>,
    held: u32,
    /// Octets received before the handshake was complete.
    handshake_octets: u32,
    failed: bool,
    peer_closed: bool,
    closed: bool,
}

enum Conn {
    /// The ClientHello is not whole; the configuration waits for it, and rustls is not asked for anything yet.
    Waiting(Acceptor, Arc<ServerConfig>),
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

impl Tls {
    /// The server's side, for a configuration that is known at once.
    pub fn server(config: Arc<ServerConfig>) -> Tls {
        Tls::new(Conn::Waiting(Acceptor::default(), config))
    }

    /// The server's side, for a ClientHello that has been read but not fed.
    fn greeted(config: Arc<ServerConfig>, hello: Hello) -> Result<Tls, TlsError> {
        let mut tls = Tls::new(Conn::Server(UnbufferedServerConnection::new(config)?));
        tls.server_name = hello.into_server_name();
        Ok(tls)
    }

    /// The client's side; its ClientHello is appended to `out`.
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>, out: &mut Vec<u8>) -> Result<Tls, TlsError> {
        let mut tls = Tls::new(Conn::Client(UnbufferedClientConnection::new(config, name)?));
        tls.conn.run(&mut [], &mut Vec::new(), out)?;
        Ok(tls)
    }

    fn new(conn: Conn) -> Tls {
        Tls {
            conn,
            server_name: None,
            pending: Vec::new(),
            held: 0,
            handshake_octets: 0,
            failed: false,
            peer_closed: false,
            closed: false,
        }
    }

    /// Takes what came from the network, split anywhere. Appends decrypted application data to `plain` and what must be
    /// sent (handshake flights, tickets, key updates, alerts) to `out`. After the peer's close_notify, input is ignored
    /// (RFC 8446 section 6.1). On an error, `plain` may hold data that was received intact before it.
    pub fn receive(
        &mut self,
        input: &[u8],
        scratch: &mut Scratch,
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), TlsError> {
        if self.failed {
            return Err(TlsError::Over);
        }
        if self.peer_closed || input.is_empty() {
            return Ok(());
        }
        if let Conn::Waiting(acceptor, config) = &mut self.conn {
            let (acceptor, config) = (std::mem::take(acceptor), config.clone());
            return self.greet(acceptor, config, input, scratch, plain, out).map_err(|error| self.fail(error, out));
        }
        if self.is_handshaking() {
            let octets = self.handshake_octets as usize + input.len();
            // One receive may be larger than the limit: application data rides behind a client's Finished.
            if self.handshake_octets as usize >= HANDSHAKE_OCTETS_MAX {
                return Err(self.fail(TlsError::HandshakeTooLong, out));
            }
            self.handshake_octets = octets.min(u32::MAX as usize) as u32;
        }
        if self.pending.len() > self.held as usize {
            let waiting = &self.pending[self.held as usize..];
            if record::missing(waiting).is_some_and(|missing| input.len() < missing) {
                self.pending.extend_from_slice(input);
                return Ok(());
            }
        }
        let buf = &mut scratch.buf;
        buf.clear();
        buf.extend_from_slice(&self.pending);
        buf.extend_from_slice(input);
        self.pending = Vec::new();
        let result = self.receive_joined(buf, plain, out);
        result.map_err(|error| self.fail(error, out))
    }

    fn greet(
        &mut self,
        acceptor: Acceptor,
        config: Arc<ServerConfig>,
        input: &[u8],
        scratch: &mut Scratch,
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), TlsError> {
        match acceptor.receive(input, out)? {
            Accepting::NeedMore(acceptor) => self.conn = Conn::Waiting(acceptor, config),
            Accepting::Hello(parked) => *self = parked.resume(config, scratch, plain, out)?,
        }
        Ok(())
    }

    /// Processes every whole record of `buf`, whose first `held` octets rustls knows already, and keeps the rest.
    fn receive_joined(&mut self, buf: &mut [u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), TlsError> {
        let held = std::mem::take(&mut self.held) as usize;
        let (whole, malformed) = match record::whole(&buf[held..]) {
            Ok(whole) => (held + whole, false),
            // rustls finds the same, says what, and writes the alert.
            Err(record::Malformed) => (buf.len(), true),
        };
        let Ran { consumed, peer_closed } = self.conn.run(&mut buf[..whole], plain, out)?;
        if peer_closed {
            self.peer_closed = true;
            return Ok(());
        }
        if malformed {
            return Err(TlsError::BadRecord);
        }
        let held = whole - consumed;
        if held > HELD_OCTETS_MAX && !self.is_handshaking() {
            return Err(TlsError::HeldTooLong);
        }
        self.held = held as u32;
        if consumed < buf.len() {
            self.pending = buf[consumed..].to_vec();
        }
        Ok(())
    }

    /// Encrypts all of `plain` into as few records as possible (16 KiB of plaintext each), appended to `out`.
    pub fn send(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        if self.failed || self.closed {
            return Err(TlsError::Over);
        }
        if plain.is_empty() {
            return Ok(());
        }
        let held = &mut self.pending[..self.held as usize];
        let result = match &mut self.conn {
            Conn::Waiting(..) => Err(TlsError::NotReady),
            Conn::Server(conn) => write(conn, held, out, Write::Data(plain)),
            Conn::Client(conn) => write(conn, held, out, Write::Data(plain)),
        };
        result.map_err(|error| self.fail(error, out))
    }

    /// Appends close_notify, once; nothing may be sent after it. Before the handshake is done there is nothing to close.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        if self.failed || self.closed {
            return;
        }
        self.closed = true;
        let held = &mut self.pending[..self.held as usize];
        // A connection that cannot be written to has nothing that could be truncated.
        let _ = match &mut self.conn {
            Conn::Waiting(..) => Ok(()),
            Conn::Server(conn) => write(conn, held, out, Write::CloseNotify),
            Conn::Client(conn) => write(conn, held, out, Write::CloseNotify),
        };
    }

    fn fail(&mut self, error: TlsError, out: &mut Vec<u8>) -> TlsError {
        self.failed = true;
        self.pending = Vec::new();
        self.held = 0;
        if matches!(error, TlsError::HandshakeTooLong) && self.protocol_version().is_none() {
            Alert::UnexpectedMessage.write(out);
        }
        error
    }

    /// Application data cannot flow yet, in at least one direction.
    pub fn is_handshaking(&self) -> bool {
        self.common().is_none_or(CommonState::is_handshaking)
    }

    /// The peer has said that it sends no more (close_notify): what came is whole. An end of the stream without it is a
    /// truncation.
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// The protocol agreed on, once known: `h2`, `http/1.1`.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.common()?.alpn_protocol()
    }

    /// The name that the client asked for, in lower case; `None` on the client's side.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    pub fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.common()?.protocol_version()
    }

    pub fn cipher_suite(&self) -> Option<SupportedCipherSuite> {
        self.common()?.negotiated_cipher_suite()
    }

    /// The handshake was a resumption from a ticket.
    pub fn is_resumed(&self) -> bool {
        self.common().and_then(CommonState::handshake_kind) == Some(HandshakeKind::Resumed)
    }

    /// Heap held for an incomplete record or handshake message, in octets.
    pub fn pending_octets(&self) -> usize {
        self.pending.capacity()
    }

    fn common(&self) -> Option<&CommonState> {
        match &self.conn {
            Conn::Waiting(..) => None,
            Conn::Server(conn) => Some(conn),
            Conn::Client(conn) => Some(conn),
        }
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("server", &!matches!(self.conn, Conn::Client(_)))
            .field("version", &self.protocol_version())
            .field("handshaking", &self.is_handshaking())
            .field("peer_closed", &self.peer_closed)
            .field("pending", &self.pending.len())
            .finish_non_exhaustive()
    }
}

/// How far a run came.
struct Ran {
    consumed: usize,
    peer_closed: bool,
}

/// The two roles' connections, as one shape.
trait Machine {
    type Data;
    fn step<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn has_output(&self) -> bool;
}

impl Machine for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn step<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.process_tls_records(records)
    }
    fn has_output(&self) -> bool {
        self.wants_write()
    }
}

impl Machine for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn step<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.process_tls_records(records)
    }
    fn has_output(&self) -> bool {
        self.wants_write()
    }
}

impl Conn {
    fn run(&mut self, records: &mut [u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<Ran, TlsError> {
        match self {
            // Never asked: `receive` leaves this state first.
            Conn::Waiting(..) => Ok(Ran { consumed: 0, peer_closed: false }),
            Conn::Server(conn) => run(conn, records, plain, out),
            Conn::Client(conn) => run(conn, records, plain, out),
        }
    }
}

/// Steps until rustls wants more input.
fn run<M: Machine>(conn: &mut M, records: &mut [u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<Ran, TlsError> {
    let mut consumed = 0;
    let mut peer_closed = false;
    loop {
        let UnbufferedStatus { mut discard, state } = conn.step(&mut records[consumed..]);
        let mut done = false;
        match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    plain.extend_from_slice(record.payload);
                }
            }
            Ok(ConnectionState::EncodeTlsData(encode)) => append(encode, out)?,
            Ok(ConnectionState::TransmitTlsData(transmit)) => transmit.done(),
            Ok(ConnectionState::PeerClosed) => peer_closed = true,
            Ok(ConnectionState::Closed | ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => {
                done = true;
            }
            // 0-RTT is off, and no other state exists in this version.
            Ok(_) => return Err(TlsError::Unexpected),
            Err(error) => {
                flush_alert(conn, out);
                return Err(error.into());
            }
        }
        consumed += discard;
        if done {
            return Ok(Ran { consumed, peer_closed });
        }
    }
}

/// What rustls has queued to say before it failed. It hands that out before it looks at any input.
fn flush_alert<M: Machine>(conn: &mut M, out: &mut Vec<u8>) {
    while conn.has_output() {
        let Ok(ConnectionState::EncodeTlsData(encode)) = conn.step(&mut []).state else { return };
        if append(encode, out).is_err() {
            return;
        }
    }
}

fn append<D>(mut encode: EncodeTlsData<'_, D>, out: &mut Vec<u8>) -> Result<(), TlsError> {
    let at = out.len();
    // Asking with no room tells the size, and changes nothing.
    let Err(EncodeError::InsufficientSize(need)) = encode.encode(&mut []) else {
        return Err(TlsError::Unexpected);
    };
    out.resize(at + need.required_size, 0);
    encode.encode(&mut out[at..]).map(|_| ()).map_err(|_| TlsError::Unexpected)
}

enum Write<'a> {
    Data(&'a [u8]),
    CloseNotify,
}

/// Steps until rustls can write, and writes. `held` is what it points into.
fn write<M: Machine>(conn: &mut M, held: &mut [u8], out: &mut Vec<u8>, what: Write<'_>) -> Result<(), TlsError> {
    loop {
        match conn.step(held).state {
            Ok(ConnectionState::WriteTraffic(traffic)) => return encrypt(traffic, out, what),
            Ok(ConnectionState::EncodeTlsData(encode)) => append(encode, out)?,
            Ok(ConnectionState::TransmitTlsData(transmit)) => transmit.done(),
            // Seen by `receive` already, or the next step tells.
            Ok(ConnectionState::PeerClosed) => {}
            Ok(ConnectionState::BlockedHandshake) => return Err(TlsError::NotReady),
            Ok(ConnectionState::Closed) => return Err(TlsError::Over),
            Ok(_) => return Err(TlsError::Unexpected),
            Err(error) => {
                flush_alert(conn, out);
                return Err(error.into());
            }
        }
    }
}

fn encrypt<D>(mut traffic: WriteTraffic<'_, D>, out: &mut Vec<u8>, what: Write<'_>) -> Result<(), TlsError> {
    let at = out.len();
    let mut room = match what {
        Write::Data(plain) => record::wire_len_max(plain.len()),
        Write::CloseNotify => record::wire_len_max(2),
    };
    loop {
        out.resize(at + room, 0);
        let written = match what {
            Write::Data(plain) => traffic.encrypt(plain, &mut out[at..]),
            Write::CloseNotify => traffic.queue_close_notify(&mut out[at..]),
        };
        match written {
            Ok(written) => {
                out.truncate(at + written);
                return Ok(());
            }
            // A key update goes first.
            Err(EncryptError::InsufficientSize(need)) if need.required_size > room => room = need.required_size,
            Err(error) => {
                out.truncate(at);
                return Err(match error {
                    EncryptError::EncryptExhausted => TlsError::KeysExhausted,
                    EncryptError::InsufficientSize(_) => TlsError::Unexpected,
                });
            }
        }
    }
}
