//! The stage before a configuration is chosen: collects the ClientHello, and reads from it what the choice needs.
//!
//! Each state is consumed by what happens in it: an [`Acceptor`] becomes [`Parked`] when the ClientHello is whole, and a
//! parked one becomes a [`Tls`] when its configuration is there. The octets are kept as they came and fed to rustls then,
//! which judges the ClientHello in full; the parser here only has to be strict about what it reads itself.

use std::sync::Arc;

use rustls::ServerConfig;

use super::record::{self, HEADER, PLAIN_MAX};
use super::{Alert, HelloError, Scratch, Tls, TlsError};

/// A ClientHello with post-quantum shares and a ticket is 2–3 KiB.
pub const HELLO_OCTETS_MAX: usize = 16 * 1024;

/// Some clients split their ClientHello into a handful of records on purpose; nobody needs an octet each.
pub const HELLO_RECORDS_MAX: usize = 64;

/// What a client may send behind its ClientHello while it waits for the certificate to be chosen (a
/// change_cipher_spec; nothing else is possible without 0-RTT).
pub const PARKED_OCTETS_MAX: usize = HELLO_OCTETS_MAX + HELLO_RECORDS_MAX * HEADER + 1024;

/// What the choice of a configuration may depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    server_name: Option<Box<str>>,
    /// The extension's list as it came: lengths (one octet) and names. Checked.
    alpn: Box<[u8]>,
}

impl Hello {
    /// The name asked for, in lower case and without a trailing dot; `None` where there is none or it is an IP address.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    pub(super) fn into_server_name(self) -> Option<Box<str>> {
        self.server_name
    }

    /// The protocols offered, in the client's order.
    pub fn alpn(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.alpn[..];
        std::iter::from_fn(move || {
            let (&length, after) = rest.split_first()?;
            let (name, after) = after.split_at_checked(usize::from(length))?;
            rest = after;
            Some(name)
        })
    }

    pub fn offers(&self, protocol: &[u8]) -> bool {
        self.alpn().any(|offered| offered == protocol)
    }
}

/// Waits for the whole ClientHello.
#[derive(Debug, Default)]
pub struct Acceptor {
    buffer: Vec<u8>,
}

/// What an [`Acceptor`] has become.
#[derive(Debug)]
pub enum Accepting {
    NeedMore(Acceptor),
    Hello(Parked),
}

impl Acceptor {
    /// Takes what came, split anywhere. On an error the alert is in `out` and the connection is over.
    pub fn receive(mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Accepting, TlsError> {
        let taken = input.len().min(PARKED_OCTETS_MAX - self.buffer.len());
        self.buffer.extend_from_slice(&input[..taken]);
        let read = match read(&self.buffer) {
            Ok(Some(_)) if taken < input.len() => Err(HelloError::TooMuchBehind),
            Ok(None) if taken < input.len() => Err(HelloError::TooLong),
            read => read,
        };
        match read {
            Ok(None) => Ok(Accepting::NeedMore(self)),
            Ok(Some(hello)) => Ok(Accepting::Hello(Parked { buffer: self.buffer, hello })),
            Err(error) => {
                if let Some(alert) = error.alert() {
                    alert.write(out);
                }
                Err(error.into())
            }
        }
    }
}

/// A whole ClientHello that waits for its configuration.
#[derive(Debug)]
pub struct Parked {
    buffer: Vec<u8>,
    hello: Hello,
}

impl Parked {
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Keeps what comes in the meantime.
    pub fn receive(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        if input.len() > PARKED_OCTETS_MAX - self.buffer.len() {
            Alert::UnexpectedMessage.write(out);
            return Err(HelloError::TooMuchBehind.into());
        }
        self.buffer.extend_from_slice(input);
        Ok(())
    }

    /// Goes on with the handshake; the server's flight is appended to `out`.
    pub fn resume(
        self,
        config: Arc<ServerConfig>,
        scratch: &mut Scratch,
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Tls, TlsError> {
        let mut tls = Tls::greeted(config, self.hello)?;
        tls.receive(&self.buffer, scratch, plain, out)?;
        Ok(tls)
    }

    /// Ends the handshake: [`Alert::UnrecognizedName`] for a name that is not served, [`Alert::InternalError`] for a
    /// certificate that did not come in time.
    pub fn refuse(self, why: Alert, out: &mut Vec<u8>) {
        why.write(out);
    }
}

/// Reads the ClientHello at the front of the stream; `None`: it is not whole.
fn read(stream: &[u8]) -> Result<Option<Hello>, HelloError> {
    let mut rest = stream;
    // The fragments of a handshake message that is split over records.
    let mut joined = Vec::new();
    for record in 0..HELLO_RECORDS_MAX {
        match rest.first() {
            None => return Ok(None),
            Some(22) => {}
            Some(21) if record == 0 => return alert(rest),
            Some(_) if record == 0 => return Err(HelloError::NotTls),
            Some(_) => return Err(HelloError::NotHello),
        }
        let Some(length) = record::length(rest).map_err(|_| HelloError::NotTls)? else {
            return Ok(None);
        };
        if length > HEADER + PLAIN_MAX {
            return Err(HelloError::TooLong);
        }
        let fragment = &rest[HEADER..length.min(rest.len())];
        if record > 0 || rest.len() > length {
            joined.extend_from_slice(fragment);
        }
        // In nearly every case the whole message is the first record's payload, and nothing is copied.
        let message = if record == 0 { fragment } else { &joined };
        if let Some(body) = body(message)? {
            return parse(body).map(Some);
        }
        let Some(next) = rest.get(length..) else {
            return Ok(None);
        };
        rest = next;
    }
    Err(HelloError::TooManyRecords)
}

/// What a peer that begins with an alert says.
fn alert(record: &[u8]) -> Result<Option<Hello>, HelloError> {
    match record::length(record).map_err(|_| HelloError::NotTls)? {
        Some(length) if length == HEADER + 2 => match record.get(HEADER + 1) {
            Some(description) => Err(HelloError::PeerAlert(*description)),
            None => Ok(None),
        },
        Some(_) => Err(HelloError::Malformed),
        None => Ok(None),
    }
}

/// The body of the handshake message, when it is whole.
fn body(message: &[u8]) -> Result<Option<&[u8]>, HelloError> {
    if message.first().is_some_and(|kind| *kind != 1) {
        return Err(HelloError::NotHello);
    }
    let Some((&[_, a, b, c], rest)) = message.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
    if length > HELLO_OCTETS_MAX {
        return Err(HelloError::TooLong);
    }
    Ok(rest.get(..length))
}

/// Reads a ClientHello's body (RFC 8446 section 4.1.2).
fn parse(body: &[u8]) -> Result<Hello, HelloError> {
    let mut body = Reader(body);
    body.take(2 + 32)?;
    if body.vec8()?.0.len() > 32 {
        return Err(HelloError::Malformed);
    }
    let suites = body.vec16()?.0.len();
    if suites == 0 || !suites.is_multiple_of(2) || body.vec8()?.0.is_empty() {
        return Err(HelloError::Malformed);
    }
    let mut hello = Hello::default();
    if body.0.is_empty() {
        return Ok(hello);
    }
    let mut extensions = body.vec16()?;
    if !body.0.is_empty() {
        return Err(HelloError::Malformed);
    }
    let (mut named, mut offered) = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let mut content = extensions.vec16()?;
        match kind {
            0 if !std::mem::replace(&mut named, true) => hello.server_name = server_name(&mut content)?,
            16 if !std::mem::replace(&mut offered, true) => hello.alpn = protocols(&mut content)?,
            0 | 16 => return Err(HelloError::Malformed),
            _ => {}
        }
    }
    Ok(hello)
}

/// RFC 6066 section 3: a list with exactly one host name.
fn server_name(content: &mut Reader<'_>) -> Result<Option<Box<str>>, HelloError> {
    let mut list = content.vec16()?;
    let kind = list.take(1)?[0];
    let name = list.vec16()?.0;
    if kind != 0 || !list.0.is_empty() || !content.0.is_empty() {
        return Err(HelloError::Malformed);
    }
    let name = std::str::from_utf8(name).map_err(|_| HelloError::BadServerName)?;
    // Not allowed, often sent, and never useful (rustls takes it for absent too).
    if name.parse::<std::net::IpAddr>().is_ok() {
        return Ok(None);
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(HelloError::BadServerName);
    }
    Ok(Some(name.to_ascii_lowercase().into()))
}

/// RFC 7301 section 3.1.
fn protocols(content: &mut Reader<'_>) -> Result<Box<[u8]>, HelloError> {
    let list = content.vec16()?.0;
    if list.is_empty() || !content.0.is_empty() {
        return Err(HelloError::Malformed);
    }
    let mut rest = Reader(list);
    while !rest.0.is_empty() {
        if rest.vec8()?.0.is_empty() {
            return Err(HelloError::Malformed);
        }
    }
    Ok(list.into())
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], HelloError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(HelloError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, HelloError> {
        let octets = self.take(2)?;
        Ok(u16::from_be_bytes([octets[0], octets[1]]))
    }

    fn vec8(&mut self) -> Result<Reader<'a>, HelloError> {
        let length = self.take(1)?[0];
        self.take(usize::from(length)).map(Reader)
    }

    fn vec16(&mut self) -> Result<Reader<'a>, HelloError> {
        let length = self.u16()?;
        self.take(usize::from(length)).map(Reader)
    }
}
