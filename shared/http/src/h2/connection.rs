//! The state of one connection, how it begins and how it ends.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::rc::Rc;

use super::frame::{self, WINDOW_INITIAL, setting};
use super::guard::Guard;
use super::hpack::{Decoder, Encoder};
use super::streams::{Recent, Side, Streams};
use crate::codec::{Event, StreamId};
use crate::error::{Error, Reset, code};
use crate::head::Scheme;
use crate::limits::{Limit, Limits};

/// Which side of the connection this is.
pub trait Role: Debug + 'static {
    const SERVER: bool;
}

/// See [`Server`](super::Server).
#[derive(Debug)]
pub struct ServerRole;

/// See [`Client`](super::Client).
#[derive(Debug)]
pub struct ClientRole;

impl Role for ServerRole {
    const SERVER: bool = true;
}

impl Role for ClientRole {
    const SERVER: bool = false;
}

/// Where the reader is in the input.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reading {
    /// Server: so many octets of the preface have matched.
    Preface(usize),
    /// At a frame's head.
    Frame,
    /// Inside DATA: what is left of its content, and the padding after it. `overhead` is the flow-control cost of
    /// padding, charged with the first piece.
    Data { stream: StreamId, left: u32, padding: u32, overhead: u32, end: bool },
    /// Inside HEADERS or CONTINUATION whose fragment is gathered.
    Fragment { left: u32, padding: u32, end_headers: bool },
    /// Inside SETTINGS.
    Settings { left: u32 },
    /// Inside something that is of no interest.
    Skip(u32),
}

/// A header block that has not ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gathering {
    pub id: u32,
    pub end_stream: bool,
    pub continuations: u32,
}

/// The peer's settings, as far as they matter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub initial_window: i32,
    pub frame_bytes_max: u32,
    pub streams_max: u32,
    pub connect_protocol: bool,
    /// Its first SETTINGS frame has arrived.
    pub settled: bool,
}

/// Events that a frame causes beyond its own.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pending {
    pub any: bool,
    /// Any stream may send again.
    pub writable: bool,
    /// Streams above this number are to be reported as unprocessed, from this slot on.
    pub sweep: Option<(u32, u32)>,
}

/// Frames that DATA is cut into at most, whatever the peer would take: larger ones keep other streams waiting.
pub(super) const SEND_FRAME_MAX: u32 = 64 * 1024;

/// Streams assumed to be allowed until the peer's settings arrive (RFC 9113 §6.5.2 recommends no less).
const STREAMS_ASSUMED: u32 = 100;

/// One HTTP/2 connection. See [`Server`](super::Server) and [`Client`](super::Client).
#[derive(Debug)]
pub struct Connection<R: Role> {
    pub(super) limits: Rc<Limits>,
    pub(super) scheme: Scheme,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    pub(super) streams: Streams,
    pub(super) recent: Recent,
    pub(super) reading: Reading,
    pub(super) gathering: Option<Gathering>,
    pub(super) block: Vec<u8>,
    pub(super) pending: Pending,
    pub(super) guard: Guard,
    pub(super) peer: Peer,
    /// The peer acknowledged our settings.
    pub(super) settled: bool,
    pub(super) started: bool,
    /// Pings that wait for their answer.
    pub(super) pings: u32,
    pub(super) send_window: i64,
    pub(super) recv_window: i64,
    /// Received, but not yet given back.
    pub(super) recv_owed: u32,
    /// The highest stream that the peer (server) or we (client) opened.
    pub(super) last_id: u32,
    /// Server: the numbers that the client passed over last, from and up to. Only a broken peer passes any over; the latest
    /// are enough to tell a number that was never used from a stream that has ended.
    pub(super) skipped: (u32, u32),
    /// The peer has been told that this connection ends.
    pub(super) leaving: bool,
    /// What our last GOAWAY said.
    pub(super) said_last: Option<u32>,
    /// What the peer's GOAWAY said.
    pub(super) heard_last: Option<u32>,
    /// The peer sent its FIN.
    pub(super) ended: bool,
    pub(super) dead: Option<Error>,
    role: PhantomData<R>,
}

impl<R: Role> Connection<R> {
    /// A connection that has said nothing. `scheme`: what requests that name none are for.
    pub fn new(limits: Rc<Limits>, scheme: Scheme) -> Connection<R> {
        // Between our own machines octets are cheaper than the work of packing them: what does not repeat goes as it
        // is. Towards browsers, which are the clients that come over TLS, it is packed.
        let huffman = R::SERVER && scheme == Scheme::Https;
        let encoder = Encoder::new(limits.hpack_table_bytes as usize, huffman);
        Connection {
            scheme,
            decoder: Decoder::new(),
            encoder,
            streams: Streams::new(),
            recent: Recent::default(),
            reading: if R::SERVER { Reading::Preface(0) } else { Reading::Frame },
            gathering: None,
            block: Vec::new(),
            pending: Pending::default(),
            guard: Guard::default(),
            peer: Peer {
                initial_window: WINDOW_INITIAL,
                frame_bytes_max: frame::FRAME_INITIAL,
                streams_max: STREAMS_ASSUMED,
                connect_protocol: false,
                settled: false,
            },
            settled: false,
            started: false,
            pings: 0,
            send_window: i64::from(WINDOW_INITIAL),
            recv_window: i64::from(WINDOW_INITIAL),
            recv_owed: 0,
            last_id: 0,
            skipped: (0, 0),
            leaving: false,
            said_last: None,
            heard_last: None,
            ended: false,
            dead: None,
            limits,
            role: PhantomData,
        }
    }

    /// Says what is said first (the client's preface, SETTINGS, the connection's window), unless that was done. Any call
    /// that sends or receives does it too.
    pub fn start(&mut self, out: &mut Vec<u8>) {
        if self.started {
            return;
        }
        self.started = true;
        if !R::SERVER {
            out.extend_from_slice(frame::PREFACE);
        }
        let limits = &*self.limits;
        let mut settings = Vec::with_capacity(36);
        let mut say = |id: u16, value: u32| {
            settings.extend_from_slice(&id.to_be_bytes());
            settings.extend_from_slice(&value.to_be_bytes());
        };
        if limits.hpack_table_bytes != 4096 {
            say(setting::HEADER_TABLE_SIZE, limits.hpack_table_bytes);
        }
        if R::SERVER {
            say(setting::MAX_CONCURRENT_STREAMS, limits.streams_max);
            say(setting::ENABLE_CONNECT_PROTOCOL, 1);
        } else {
            say(setting::ENABLE_PUSH, 0);
        }
        say(setting::INITIAL_WINDOW_SIZE, self.stream_window() as u32);
        if self.frame_bytes_max() != frame::FRAME_INITIAL {
            say(setting::MAX_FRAME_SIZE, self.frame_bytes_max());
        }
        say(setting::MAX_HEADER_LIST_SIZE, u32::try_from(limits.head_bytes_max).unwrap_or(u32::MAX));
        frame::put(out, frame::SETTINGS, 0, 0, &settings);
        let more = self.connection_window() - self.recv_window;
        if more > 0 {
            frame::put_u32(out, frame::WINDOW_UPDATE, 0, more as u32);
            self.recv_window += more;
        }
        self.guard.left(out);
    }

    /// Whether the peer has given no more credit for the connection as a whole: bodies on it wait, whatever their streams may.
    pub fn is_window_spent(&self) -> bool {
        self.send_window <= 0
    }

    /// The stream window that we announce.
    pub(super) fn stream_window(&self) -> i32 {
        i32::try_from(self.limits.stream_window).unwrap_or(i32::MAX)
    }

    /// The connection's receive window; it cannot be made smaller than it begins.
    pub(super) fn connection_window(&self) -> i64 {
        i64::from(self.limits.connection_window).clamp(i64::from(WINDOW_INITIAL), frame::WINDOW_MAX)
    }

    /// The largest frame that we take.
    pub(super) fn frame_bytes_max(&self) -> u32 {
        self.limits.frame_bytes_max.clamp(frame::FRAME_INITIAL, frame::FRAME_MAX)
    }

    /// The window that a new stream's peer has: before it acknowledged our settings, the protocol's.
    pub(super) fn stream_window_now(&self) -> i32 {
        if self.settled { self.stream_window() } else { WINDOW_INITIAL }
    }

    /// Ends the connection: GOAWAY, and every later call gets the same error.
    #[cold]
    pub(super) fn fail(&mut self, out: &mut Vec<u8>, code: u32, reason: &'static str, limit: Option<Limit>) -> Error {
        let last = self.said_last.unwrap_or(if R::SERVER { self.last_id } else { 0 });
        let mut payload = Vec::with_capacity(8 + reason.len());
        payload.extend_from_slice(&last.to_be_bytes());
        payload.extend_from_slice(&code.to_be_bytes());
        payload.extend_from_slice(reason.as_bytes());
        frame::put(out, frame::GOAWAY, 0, 0, &payload);
        self.guard.left(out);
        let error = Error { status: if R::SERVER { 400 } else { 502 }, code, reason, limit };
        self.dead = Some(error);
        error
    }

    /// Ends the connection because a limit was met.
    #[cold]
    pub(super) fn fail_limit(&mut self, out: &mut Vec<u8>, limit: Limit) -> Error {
        let reason = match limit {
            Limit::HeadBytes => "header block is far over the limit",
            Limit::Continuations => "too many CONTINUATION frames",
            Limit::Resets => "too many streams reset",
            Limit::ProvokedResets => "too many streams broke the rules",
            Limit::EmptyData => "too many empty DATA frames",
            Limit::Replies => "replies are not being read",
            Limit::ControlFrames => "too many control frames",
            _ => "a limit was met",
        };
        self.fail(out, code::ENHANCE_YOUR_CALM, reason, Some(limit))
    }

    /// Counts octets of reply that were appended since `out` had this length.
    pub(super) fn replied(&mut self, from: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        let octets = out.len() - from;
        self.guard.left(out);
        self.guard.replied(octets, &self.limits).map_err(|limit| self.fail_limit(out, limit))
    }

    /// Counts a frame that carries nothing forward.
    pub(super) fn count_control(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        self.guard.control(&self.limits).map_err(|limit| self.fail_limit(out, limit))
    }

    /// RST_STREAM for a stream that is not, or no longer, in the slab.
    pub(super) fn put_reset(&mut self, id: u32, code: u32, out: &mut Vec<u8>) {
        frame::put_u32(out, frame::RST_STREAM, id, code);
        self.recent.note(id);
    }

    /// The peer broke a rule on an open stream: resets it. `code` and `reason` as in RFC 9113 §5.4.2.
    pub(super) fn stream_error(
        &mut self,
        stream: StreamId,
        reset: Reset,
        out: &mut Vec<u8>,
    ) -> Result<Event<'static>, Error> {
        let from = out.len();
        if self.streams.get(stream).is_some() {
            self.streams.remove(stream.slot);
        }
        self.put_reset(stream.id, reset.code, out);
        self.replied(from, out)?;
        self.count_provoked(out)?;
        Ok(Event::Reset { stream, reset })
    }

    /// Counts a reset that the peer made us send. (A client's peer is one that it chose; its faults stay with its streams.)
    pub(super) fn count_provoked(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        if R::SERVER {
            self.guard.provoked(&self.limits).map_err(|limit| self.fail_limit(out, limit))?;
        }
        Ok(())
    }

    /// Frees the stream if both its sides are done.
    #[inline]
    pub(super) fn close_if_done(&mut self, slot: u32) {
        let stream = self.streams.at(slot);
        if stream.recv == Side::Done && stream.send == Side::Done {
            self.streams.remove(slot);
            self.guard.ended_well();
        }
    }
}
