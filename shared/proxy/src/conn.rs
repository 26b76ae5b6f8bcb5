//! One connection of a worker: its transport, its codec and what waits on either side of it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::{Deref, DerefMut};

use steady_http::{Codec, StreamId, h1, h2};
use steady_ring::{ConnId, SendBuf, Time};

use crate::exchange::Key;
use crate::limits::Limits;
use crate::liveness::Watch;
use crate::spares::Spares;
use crate::tls::{Acceptor, Parked, Tls};

/// Who is at the other end.
#[derive(Debug)]
pub(crate) enum Side {
    Down { listener: u16, peer: Peer },
    Up { upstream: u64 },
}

/// A client's address in few octets: connections are many, and most are idle. Of an IPv6 address its scope and flow are left out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Peer {
    /// On a unix socket.
    None,
    V4(Ipv4Addr, u16),
    V6(Ipv6Addr, u16),
}

impl Peer {
    pub(crate) fn addr(self) -> Option<SocketAddr> {
        match self {
            Peer::None => None,
            Peer::V4(ip, port) => Some((ip, port).into()),
            Peer::V6(ip, port) => Some((ip, port).into()),
        }
    }
}

impl From<Option<SocketAddr>> for Peer {
    fn from(addr: Option<SocketAddr>) -> Peer {
        match addr {
            None => Peer::None,
            Some(SocketAddr::V4(addr)) => Peer::V4(*addr.ip(), addr.port()),
            Some(SocketAddr::V6(addr)) => Peer::V6(*addr.ip(), addr.port()),
        }
    }
}

/// What the connection speaks. All but a client's HTTP/1.1 is boxed: idle connections are mostly those.
#[derive(Debug)]
pub(crate) enum Http {
    /// The PROXY protocol's header comes first.
    Proxied,
    /// Cleartext: HTTP/2's preface or HTTP/1.1, by the first octets.
    Unknown,
    H1Server(h1::Server),
    H2Server(Box<h2::Server>),
    H1Client(Box<h1::Client>),
    H2Client(Box<h2::Client>),
}

/// What lies between the codec and the socket.
#[derive(Debug)]
pub(crate) enum Secure {
    Plain,
    /// TLS: the ClientHello is not whole yet.
    Hello(Acceptor),
    /// TLS: the certificate is awaited.
    Parked(Box<Parked>),
    Tls(Box<Tls>),
}

/// How far the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Connecting,
    Open,
    /// No more is taken in; once everything is sent: FIN, then read and discard until the peer ends or time is out.
    Finishing,
    /// The FIN is out; reading and discarding.
    Lingering,
    /// `close` was called; the driver reports the end.
    Closed,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Conn {
    pub id: ConnId,
    pub side: Side,
    pub http: Http,
    pub stage: Stage,
    pub secure: Secure,
    bindings: Bindings,
    /// The codec's output; with TLS, not yet encrypted, and without pieces.
    pub out: SendBuf,
    pub aside: Aside,
    /// Since when it is in its present state: accepted, idle, first octet of a head, send begun.
    pub since: Time,
    /// When the send in flight began.
    pub sending_since: Time,
    pub sending: bool,
    /// The send in flight is a quiet one: taken as done, as long as no deadline says otherwise.
    pub quiet: bool,
    pub dirty: bool,
    /// Why it is not being read; read again once there is no reason left.
    pub paused: Paused,
    /// Some exchange wanted to send on it and found no room.
    pub starved: bool,
    /// The peer sent its FIN.
    pub eof: bool,
    /// Upstream: it takes no new request and is no longer counted among its upstream's.
    pub retired: bool,
    /// HTTP/2: the peer's settings have come.
    pub settled: bool,
    /// HTTP/1.1 upstream: nothing of the request under way has been given to the driver.
    pub unsent: bool,
    /// HTTP/2 upstream: a request found no room for its head; those who wait are served once there is some.
    pub full: bool,
    /// Upstream on another machine: when it last gave a sign of life.
    pub watch: Option<Box<Watch>>,
    /// Input waits for another turn of the codec.
    pub refeed: bool,
    /// Downstream: it is counted among its client's.
    pub counted: bool,
}

/// What a connection without TLS hardly ever has: octets that are not for the next send. Apart, and there from when something is
/// first put in.
#[derive(Debug, Default)]
pub(crate) struct Aside(Option<Box<Buffers>>);

#[derive(Debug, Default)]
pub(crate) struct Buffers {
    /// Input that the codec could not use yet.
    pub pending: Vec<u8>,
    /// TLS: encrypted output.
    pub wire: Vec<u8>,
}

static NOTHING: Buffers = Buffers { pending: Vec::new(), wire: Vec::new() };

impl Deref for Aside {
    type Target = Buffers;

    fn deref(&self) -> &Buffers {
        self.0.as_deref().unwrap_or(&NOTHING)
    }
}

impl DerefMut for Aside {
    fn deref_mut(&mut self) -> &mut Buffers {
        self.0.get_or_insert_default()
    }
}

impl Aside {
    pub(crate) fn take(&mut self) -> Buffers {
        self.0.as_deref_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(crate) fn take_wire(&mut self) -> Vec<u8> {
        self.0.as_deref_mut().map(|buffers| std::mem::take(&mut buffers.wire)).unwrap_or_default()
    }
}

/// The reasons for which a connection is not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Paused {
    /// More of a body waits than is to be held.
    pub body: bool,
    /// More pipelined input waits than is to be kept.
    pub pending: bool,
    /// Its peer asks and does not read the answers.
    pub output: bool,
}

impl Paused {
    pub(crate) fn any(self) -> bool {
        self.body || self.pending || self.output
    }
}

/// Which exchange is on which stream slot. HTTP/1.1 has one, so the first is kept in place.
#[derive(Debug, Default)]
struct Bindings {
    first: Option<Key>,
    rest: Option<Box<Rest>>,
}

#[derive(Debug, Default)]
struct Rest {
    slots: Vec<Option<Key>>,
    /// Which slot is served first when room comes back.
    turn: usize,
}

impl Bindings {
    fn at(&self, slot: usize) -> Option<Key> {
        match slot {
            0 => self.first,
            slot => self.rest.as_ref()?.slots.get(slot - 1).copied().flatten(),
        }
    }
}

impl Conn {
    pub(crate) fn new(id: ConnId, side: Side, http: Http, stage: Stage, now: Time) -> Conn {
        Conn {
            id,
            side,
            http,
            stage,
            secure: Secure::Plain,
            bindings: Bindings::default(),
            out: SendBuf::default(),
            aside: Aside::default(),
            since: now,
            sending_since: now,
            sending: false,
            quiet: false,
            dirty: false,
            paused: Paused::default(),
            starved: false,
            eof: false,
            retired: false,
            settled: false,
            unsent: false,
            full: false,
            watch: None,
            refeed: false,
            counted: false,
        }
    }

    /// The codec, once the version is known.
    pub(crate) fn codec(&mut self) -> Option<&mut dyn Codec> {
        match &mut self.http {
            Http::Proxied | Http::Unknown => None,
            Http::H1Server(codec) => Some(codec),
            Http::H2Server(codec) => Some(codec.as_mut()),
            Http::H1Client(codec) => Some(codec.as_mut()),
            Http::H2Client(codec) => Some(codec.as_mut()),
        }
    }

    /// See [`Worker::touch`](crate::worker::Worker::touch).
    pub(crate) fn touch(&mut self, buffers: &mut Spares, dirty: &mut Vec<ConnId>) {
        let out = &mut self.out.bytes;
        if out.capacity() == 0 {
            *out = buffers.take();
            if out.capacity() == 0 {
                out.reserve(2048);
            }
        }
        if !self.dirty {
            self.dirty = true;
            dirty.push(self.id);
        }
    }

    /// Whether a client has more answers to read than are to be kept for it. Bodies wait elsewhere; heads, and what the
    /// codec says by itself, do not, and a client that asks without reading would make us keep them without bound.
    pub(crate) fn is_clogged(&self, limits: &Limits) -> bool {
        self.is_down() && self.out.len() > 2 * limits.out_bytes_max
    }

    /// Whether a client has more heads to read than honest ones leave: as many answers as it may ask for at once, with heads of some
    /// KiB each. They cannot wait elsewhere.
    pub(crate) fn is_choked(&self, limits: &Limits) -> bool {
        self.is_down() && self.out.len() > 8 * limits.out_bytes_max
    }

    /// The codec and the output it writes to, at once.
    pub(crate) fn codec_and_out(&mut self) -> Option<(&mut dyn Codec, &mut Vec<u8>)> {
        let codec: &mut dyn Codec = match &mut self.http {
            Http::Proxied | Http::Unknown => return None,
            Http::H1Server(codec) => codec,
            Http::H2Server(codec) => codec.as_mut(),
            Http::H1Client(codec) => codec.as_mut(),
            Http::H2Client(codec) => codec.as_mut(),
        };
        Some((codec, &mut self.out.bytes))
    }

    /// The name that the peer's TLS asked for.
    pub(crate) fn server_name(&self) -> Option<&str> {
        match &self.secure {
            Secure::Tls(tls) => tls.server_name(),
            Secure::Plain | Secure::Hello(_) | Secure::Parked(_) => None,
        }
    }

    /// The client's address; `None` for upstreams and on unix sockets.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        match self.side {
            Side::Down { peer, .. } => peer.addr(),
            Side::Up { .. } => None,
        }
    }

    /// Which upstream it leads to.
    pub(crate) fn upstream(&self) -> Option<u64> {
        match self.side {
            Side::Down { .. } => None,
            Side::Up { upstream } => Some(upstream),
        }
    }

    pub(crate) fn is_tls(&self) -> bool {
        !matches!(self.secure, Secure::Plain)
    }

    /// TLS is agreed on, or will not be: nothing of HTTP has been said yet.
    pub(crate) fn is_shaking(&self) -> bool {
        match &self.secure {
            Secure::Plain => false,
            Secure::Hello(_) | Secure::Parked(_) => true,
            Secure::Tls(tls) => tls.is_handshaking(),
        }
    }

    pub(crate) fn is_down(&self) -> bool {
        matches!(self.side, Side::Down { .. })
    }

    /// One exchange at a time, pushed back by not reading (HTTP/1.1), rather than by windows.
    pub(crate) fn is_serial(&self) -> bool {
        !matches!(self.http, Http::H2Server(_) | Http::H2Client(_))
    }

    /// Streams open on it now.
    pub(crate) fn active(&self) -> usize {
        match &self.http {
            Http::Proxied | Http::Unknown => 0,
            Http::H1Server(codec) => codec.active(),
            Http::H2Server(codec) => codec.active(),
            Http::H1Client(codec) => codec.active(),
            Http::H2Client(codec) => codec.active(),
        }
    }

    /// Whether nothing is to happen when the send that begins now is done: the worker need not be woken for it.
    pub(crate) fn sends_quietly(&self) -> bool {
        self.stage == Stage::Open && !self.starved && !self.paused.output
    }

    /// Octets more that may be put into `out` now, pieces included.
    pub(crate) fn room(&self, out_bytes_max: usize) -> usize {
        out_bytes_max.saturating_sub(self.out.len())
    }

    pub(crate) fn bind(&mut self, stream: StreamId, key: Key) {
        match stream.slot as usize {
            0 => self.bindings.first = Some(key),
            slot => {
                let slots = &mut self.bindings.rest.get_or_insert_default().slots;
                if slots.len() < slot {
                    slots.resize(slot, None);
                }
                slots[slot - 1] = Some(key);
            }
        }
    }

    pub(crate) fn bound(&self, stream: StreamId) -> Option<Key> {
        self.bindings.at(stream.slot as usize)
    }

    /// Forgets the binding, if it is still this exchange's.
    pub(crate) fn unbind(&mut self, stream: StreamId, key: Key) {
        let place = match stream.slot as usize {
            0 => &mut self.bindings.first,
            slot => match self.bindings.rest.as_mut().and_then(|rest| rest.slots.get_mut(slot - 1)) {
                Some(place) => place,
                None => return,
            },
        };
        if *place == Some(key) {
            *place = None;
        }
    }

    /// The exchange of slot `slot`, for walking over all of them up to [`slots`](Conn::slots).
    pub(crate) fn bound_at(&self, slot: usize) -> Option<Key> {
        self.bindings.at(slot)
    }

    pub(crate) fn slots(&self) -> usize {
        1 + self.bindings.rest.as_ref().map_or(0, |rest| rest.slots.len())
    }

    /// The slot to be served first now that there is room again: each time the next, so that no stream starves another.
    pub(crate) fn turn(&mut self) -> usize {
        let slots = self.slots();
        let Some(rest) = &mut self.bindings.rest else { return 0 };
        let first = rest.turn % slots;
        rest.turn = first + 1;
        first
    }
}
