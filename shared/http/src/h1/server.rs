//! The server role: requests in, responses out, one exchange at a time.

use std::rc::Rc;

use super::body::{Body, Piece};
use super::outgoing::{Outgoing, Sent};
use super::request::{self, Content};
use super::scan::{bad, block_len, over};
use super::websocket;
use super::write;
use crate::codec::{Codec, Event, Framed, Payload, Step, StreamId};
use crate::error::{Error, Reset};
use crate::head::{Head, Method, Name, Scheme};
use crate::limits::{Limit, Limits};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Between exchanges: the next head is awaited.
    Idle,
    Exchange,
    /// Nothing further is carried; input is swallowed.
    Closed,
}

/// What a granted upgrade must be answered with.
#[derive(Debug)]
struct Upgrade {
    protocol: Box<[u8]>,
    accept: Option<websocket::Accept>,
}

/// One downstream connection. See [`Codec`], and the module for what is decided.
///
/// After [`Codec::receive`] has failed, or [`give_up`](Server::give_up), [`refuse`](Server::refuse) writes the answer.
#[derive(Debug)]
pub struct Server {
    limits: Rc<Limits>,
    upgrade: Option<Box<Upgrade>>,
    body: Body,
    outgoing: Outgoing,
    /// Octets of the input in which the end of a block was sought in vain.
    scanned: u32,
    /// The sequence number of the latest request.
    id: u32,
    empty_lines: u32,
    scheme: Scheme,
    phase: Phase,
    http10: bool,
    /// The request was HEAD.
    head_only: bool,
    /// After this exchange the connection carries another.
    keep: bool,
    /// [`Codec::go_away`] was called.
    leaving: bool,
    /// A response may still be begun by [`Server::refuse`].
    refusable: bool,
}

impl Server {
    /// `scheme` is what the listener speaks: https under TLS.
    pub fn new(limits: Rc<Limits>, scheme: Scheme) -> Server {
        Server {
            limits,
            upgrade: None,
            body: Body::Ended,
            outgoing: Outgoing::Waiting,
            scanned: 0,
            id: 0,
            empty_lines: 0,
            scheme,
            phase: Phase::Idle,
            http10: false,
            head_only: false,
            keep: true,
            leaving: false,
            refusable: false,
        }
    }

    /// What has come of a request is no longer waited for to be whole: it may be [refused](Server::refuse).
    pub fn give_up(&mut self) {
        self.fail(bad("a request that did not come whole"));
    }

    /// Answers a request that [`Codec::receive`] or [`Codec::receive_end`] refused: a whole response, with
    /// `Connection: close`. `false`, and nothing is written, when there was no error or a response had begun already.
    pub fn refuse(&mut self, head: &Head, body: &[u8], out: &mut Vec<u8>) -> bool {
        if !std::mem::take(&mut self.refusable) {
            return false;
        }
        write::status_line(head.status, out);
        write::fields(head, |_| false, out);
        write::content_length(body.len() as u64, out);
        out.extend_from_slice(b"connection: close\r\n\r\n");
        if !self.head_only {
            out.extend_from_slice(body);
        }
        true
    }

    /// Whether nothing but the connection's end says where the response under way ends (HTTP/1.0).
    pub fn is_close_delimited(&self) -> bool {
        self.outgoing == Outgoing::UntilClose
    }

    /// Whether the request under way came in HTTP/1.0.
    pub fn is_http10(&self) -> bool {
        self.http10
    }

    fn stream(&self) -> StreamId {
        StreamId { slot: 0, id: self.id }
    }

    fn is_current(&self, stream: StreamId) -> bool {
        self.phase == Phase::Exchange && stream == self.stream()
    }

    fn fail(&mut self, error: Error) -> Error {
        self.refusable =
            self.phase == Phase::Idle || (self.phase == Phase::Exchange && self.outgoing == Outgoing::Waiting);
        self.close();
        error
    }

    fn close(&mut self) {
        self.phase = Phase::Closed;
        self.upgrade = None;
    }

    fn receive_head<'i>(&mut self, input: &'i [u8], head: &mut Head) -> Result<Step<'i>, Error> {
        let mut consumed = 0;
        while let [b'\r', b'\n', ..] = input[consumed..] {
            consumed += 2;
            self.scanned = 0;
            self.empty_lines += 1;
            if self.empty_lines as usize > self.limits.empty_lines_max {
                return Err(over(Limit::EmptyLines, 400, "too many empty lines before a request"));
            }
        }
        let rest = &input[consumed..];
        // Known early, for it may be refused before it is whole.
        self.head_only = rest.starts_with(b"HEAD ");
        let max = self.limits.head_bytes_max;
        let len = block_len(rest, &mut self.scanned, max).map_err(|error| {
            // A request line without end is a target without end.
            let endless = error.limit.is_some() && memchr::memchr(b'\n', &rest[..max.min(rest.len())]).is_none();
            Error { status: if endless { 414 } else { error.status }, ..error }
        })?;
        let Some(len) = len else { return Ok(Step { consumed, event: None }) };
        let request = request::parse(&rest[..len], self.scheme, head, &self.limits)?;
        self.begin(request, head);
        let event = Event::Head { stream: self.stream(), end: self.body == Body::Ended };
        Ok(Step { consumed: consumed + len, event: Some(event) })
    }

    fn begin(&mut self, request: request::Request, head: &Head) {
        self.phase = Phase::Exchange;
        self.id = self.id.wrapping_add(1);
        self.empty_lines = 0;
        self.http10 = request.http10;
        self.head_only = head.method == Method::Head;
        self.keep = request.keep && !self.leaving;
        self.outgoing = Outgoing::Waiting;
        self.body = match request.content {
            Content::Length(length) => Body::of_length(length),
            Content::Chunked => Body::ChunkLine,
            Content::Connect | Content::Upgrade => Body::Held,
        };
        if request.content == Content::Upgrade {
            let key = head.get(Name::SecWebSocketKey).filter(|_| head.protocol() == b"websocket");
            self.upgrade =
                Some(Box::new(Upgrade { protocol: head.protocol().into(), accept: key.map(websocket::accept) }));
        }
    }

    fn send_final(&mut self, head: &Head, end: bool, out: &mut Vec<u8>) {
        if self.body == Body::Held {
            if (200..300).contains(&head.status) {
                return self.open_tunnel(head, end, out);
            }
            self.body = Body::Ended;
            self.keep &= self.upgrade.is_some();
        }
        let early = end && self.body != Body::Ended;
        self.keep &= !(self.leaving || early);
        let (outgoing, length) = match head.status {
            204 => (Outgoing::Dropped, None),
            205 => (Outgoing::Dropped, Some(0)),
            304 => (Outgoing::Dropped, head.content_length),
            _ if self.head_only => (Outgoing::Dropped, head.content_length),
            _ => match head.content_length {
                None if end => (Outgoing::Length(0), Some(0)),
                None if self.http10 => (Outgoing::UntilClose, None),
                None => (Outgoing::Chunked, None),
                Some(length) => (Outgoing::Length(length), Some(length)),
            },
        };
        self.keep &= outgoing != Outgoing::UntilClose;
        write::status_line(head.status, out);
        write::fields(head, |_| false, out);
        if let Some(length) = length {
            write::content_length(length, out);
        } else if outgoing == Outgoing::Chunked {
            out.extend_from_slice(write::CHUNKED);
        }
        if !self.keep {
            out.extend_from_slice(b"connection: close\r\n");
        } else if self.http10 {
            out.extend_from_slice(b"connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
        self.outgoing = outgoing;
        if end {
            let sent = self.outgoing.end(None, out);
            self.after(sent);
        }
    }

    fn open_tunnel(&mut self, head: &Head, end: bool, out: &mut Vec<u8>) {
        self.keep = false;
        self.body = Body::Tunnel;
        self.outgoing = Outgoing::Tunnel;
        if let Some(upgrade) = self.upgrade.take() {
            write::status_line(101, out);
            write::fields(head, |_| false, out);
            out.extend_from_slice(b"connection: upgrade\r\n");
            write::field(b"upgrade", &upgrade.protocol, out);
            if let Some(accept) = upgrade.accept.filter(|_| head.get(Name::SecWebSocketAccept).is_none()) {
                write::field(Name::SecWebSocketAccept.as_bytes(), &accept, out);
            }
        } else {
            write::status_line(head.status, out);
            write::fields(head, |_| false, out);
        }
        out.extend_from_slice(b"\r\n");
        if end {
            self.close();
        }
    }

    /// Takes note of what was sent: the exchange may be over.
    fn after(&mut self, sent: Sent) {
        if sent != Sent::Well {
            self.keep = false;
        }
        if self.outgoing == Outgoing::Ended {
            if self.keep && self.body == Body::Ended {
                self.phase = Phase::Idle;
                self.upgrade = None;
            } else {
                self.close();
            }
        }
    }
}

impl Codec for Server {
    fn receive<'i>(&mut self, input: &'i [u8], head: &mut Head, _out: &mut Vec<u8>) -> Result<Step<'i>, Error> {
        match self.phase {
            Phase::Closed => Ok(Step { consumed: input.len(), event: None }),
            Phase::Idle => self.receive_head(input, head).map_err(|error| self.fail(error)),
            Phase::Exchange => {
                let stream = self.stream();
                let piece = self.body.receive(input, &mut self.scanned, head, &self.limits);
                Ok(match piece.map_err(|error| self.fail(error))? {
                    Piece::Nothing { consumed } => Step { consumed, event: None },
                    Piece::Data { consumed, data, end } => {
                        Step { consumed, event: Some(Event::Data { stream, data, flow: 0, end }) }
                    }
                    Piece::Trailers { consumed } => Step { consumed, event: Some(Event::Trailers { stream }) },
                })
            }
        }
    }

    /// In the middle of a request's head or body this is an error. A client that has sent its request whole and then its
    /// FIN still gets the answer, and then the connection ends.
    fn receive_end(&mut self, _out: &mut Vec<u8>) -> Result<Option<Event<'static>>, Error> {
        match (self.phase, self.body) {
            (Phase::Closed, _) => Ok(None),
            (Phase::Idle, _) if self.scanned > 0 => Err(self.fail(bad("closed in the middle of a head"))),
            (Phase::Idle, _) => {
                self.close();
                Ok(None)
            }
            (Phase::Exchange, Body::Ended) => {
                self.keep = false;
                Ok(None)
            }
            (Phase::Exchange, Body::Tunnel) => {
                self.body = Body::Ended;
                Ok(Some(Event::Data { stream: self.stream(), data: &[], flow: 0, end: true }))
            }
            (Phase::Exchange, Body::Held) => Err(self.fail(bad("closed before the tunnel was open"))),
            (Phase::Exchange, _) => Err(self.fail(bad("closed in the middle of a body"))),
        }
    }

    fn send_head(&mut self, stream: StreamId, head: &Head, end: bool, out: &mut Vec<u8>) {
        if !self.is_current(stream) || self.outgoing != Outgoing::Waiting {
            return;
        }
        match head.status {
            // The tunnel of an upgrade is granted by a 200; HTTP/1.0 has no interim responses.
            101 => {}
            100..200 if self.http10 => {}
            100..200 => {
                write::status_line(head.status, out);
                write::fields(head, |_| false, out);
                out.extend_from_slice(b"\r\n");
            }
            _ => self.send_final(head, end, out),
        }
    }

    fn capacity(&self, _stream: StreamId) -> usize {
        usize::MAX
    }

    fn send_payload(&mut self, stream: StreamId, payload: Payload<'_>, end: bool, out: &mut Vec<u8>) -> Framed {
        let taken = payload.len();
        if !self.is_current(stream) || !self.outgoing.is_open() {
            return Framed::dropped(taken);
        }
        let (sent, place) = self.outgoing.data(payload, end, out);
        self.after(sent);
        Framed { taken, place }
    }

    fn send_trailers(&mut self, stream: StreamId, trailers: &Head, out: &mut Vec<u8>) {
        if self.is_current(stream) && self.outgoing.is_open() {
            let sent = self.outgoing.end(Some(trailers), out);
            self.after(sent);
        }
    }

    fn reset(&mut self, stream: StreamId, _reset: Reset, _out: &mut Vec<u8>) {
        if self.is_current(stream) {
            self.close();
        }
    }

    fn release(&mut self, _stream: StreamId, _flow: u32, _out: &mut Vec<u8>) {}

    fn grow_window(&mut self, _stream: StreamId, _window: u32, _out: &mut Vec<u8>) {}

    /// Between exchanges this does not finish the connection: the next request is served, and its response says that it
    /// was the last, so that no client meets a closed connection unawares.
    fn go_away(&mut self, _out: &mut Vec<u8>) {
        self.leaving = true;
        if self.phase == Phase::Exchange && self.outgoing == Outgoing::Waiting {
            self.keep = false;
        }
    }

    fn ping(&mut self, _payload: [u8; 8], _out: &mut Vec<u8>) -> bool {
        false
    }

    fn active(&self) -> usize {
        usize::from(self.phase == Phase::Exchange)
    }

    fn is_blocked(&self) -> bool {
        self.phase == Phase::Exchange && matches!(self.body, Body::Ended | Body::Held)
    }

    fn is_finished(&self) -> bool {
        match self.phase {
            Phase::Idle => false,
            Phase::Exchange => !self.keep,
            Phase::Closed => true,
        }
    }
}
