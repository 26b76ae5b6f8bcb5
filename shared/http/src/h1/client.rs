//! The client role: requests out, responses in, one exchange at a time.

use std::rc::Rc;

use super::body::{Body, Piece};
use super::outgoing::{Outgoing, Sent};
use super::request::names_protocol;
use super::response::{self, Response};
use super::scan::{bad, block_len, is_token, over};
use super::websocket;
use super::write;
use crate::codec::{self, Codec, Event, Framed, Payload, Step, StreamId};
use crate::error::{Error, Reset};
use crate::head::{Head, Method, Name};
use crate::limits::{Limit, Limits};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    /// The final response's head is awaited.
    Waiting,
    /// Its body, or a tunnel.
    Receiving,
    /// Nothing further is carried; input is swallowed.
    Closed,
    /// The request ended short of its declared length: no answer to it can be trusted.
    Short,
}

/// The tunnel that the request asked for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    Connect,
    /// `own_key`: the key is ours, so the answer to it is ours to check and of no use to anyone else.
    WebSocket {
        own_key: bool,
    },
    Other(Box<[u8]>),
}

/// One upstream connection. See [`Codec`], [`codec::Client`], and the module for what is decided.
#[derive(Debug)]
pub struct Client {
    limits: Rc<Limits>,
    seed: u64,
    asked: Asked,
    body: Body,
    outgoing: Outgoing,
    /// Octets of the input in which the end of a block was sought in vain.
    scanned: u32,
    /// The sequence number of the latest request.
    id: u32,
    interims: u32,
    phase: Phase,
    /// The request was HEAD.
    head_only: bool,
    /// After this exchange the connection carries another.
    keep: bool,
    /// Tunnel octets were offered before the tunnel was open.
    held_back: bool,
}

impl Client {
    pub fn new(limits: Rc<Limits>) -> Client {
        Client {
            limits,
            seed: 0,
            asked: Asked::Nothing,
            body: Body::Ended,
            outgoing: Outgoing::Ended,
            scanned: 0,
            id: 0,
            interims: 0,
            phase: Phase::Idle,
            head_only: false,
            keep: true,
            held_back: false,
        }
    }

    /// Makes the `Sec-WebSocket-Key`s that this connection has to invent from `seed`, which should be random (RFC 6455 §4.1).
    pub fn with_seed(self, seed: u64) -> Client {
        Client { seed, ..self }
    }

    fn stream(&self) -> StreamId {
        StreamId { slot: 0, id: self.id }
    }

    fn is_current(&self, stream: StreamId) -> bool {
        matches!(self.phase, Phase::Waiting | Phase::Receiving) && stream == self.stream()
    }

    fn fail(&mut self, error: Error) -> Error {
        self.phase = Phase::Closed;
        Error { status: 502, ..error }
    }

    /// Whether the request asked for something that 101 grants.
    fn asked_upgrade(&self) -> bool {
        matches!(self.asked, Asked::WebSocket { .. } | Asked::Other(_))
    }

    fn receive_head<'i>(&mut self, input: &'i [u8], head: &mut Head) -> Result<Step<'i>, Error> {
        let Some(len) = block_len(input, &mut self.scanned, self.limits.head_bytes_max)? else {
            return Ok(Step { consumed: 0, event: None });
        };
        let response = response::parse(&input[..len], head, &self.limits)?;
        let stream = self.stream();
        self.keep &= !response.facts.close;
        let event = match head.status {
            101 => {
                self.check_switch(&response, head)?;
                head.status = 200;
                self.open_tunnel(head);
                Event::Head { stream, end: false }
            }
            100..200 => {
                self.interims += 1;
                if self.interims > self.limits.interim_max {
                    return Err(over(Limit::Interim, 502, "too many interim responses"));
                }
                if response.facts.chunked || head.content_length.take().is_some_and(|length| length > 0) {
                    return Err(bad("interim response with content"));
                }
                Event::Interim { stream }
            }
            _ => {
                self.keep &= response.keep;
                self.begin(&response, head)?;
                Event::Head { stream, end: self.phase != Phase::Receiving }
            }
        };
        Ok(Step { consumed: len, event: Some(event) })
    }

    /// A 101 must answer an upgrade, name its protocol, and prove that our key was read.
    fn check_switch(&self, response: &Response<'_>, head: &mut Head) -> Result<(), Error> {
        let protocol = match &self.asked {
            Asked::Nothing | Asked::Connect => return Err(bad("101 that nobody asked for")),
            Asked::WebSocket { .. } => b"websocket",
            Asked::Other(protocol) => &protocol[..],
        };
        if !response.facts.upgrade.is_some_and(|value| names_protocol(value, protocol)) {
            return Err(bad("101 to another protocol"));
        }
        if self.asked == (Asked::WebSocket { own_key: true }) {
            let accept = websocket::accept(&websocket::key(self.seed, self.id));
            if head.get(Name::SecWebSocketAccept) != Some(&accept) {
                return Err(bad("wrong Sec-WebSocket-Accept"));
            }
            head.remove(Name::SecWebSocketAccept);
        }
        Ok(())
    }

    fn open_tunnel(&mut self, head: &mut Head) {
        head.content_length = None;
        self.phase = Phase::Receiving;
        self.body = Body::Tunnel;
        self.keep = false;
        if self.outgoing == Outgoing::Held {
            self.outgoing = Outgoing::Tunnel;
        }
    }

    /// Takes up a final response other than 101: RFC 9112 §6.3.
    fn begin(&mut self, response: &Response<'_>, head: &mut Head) -> Result<(), Error> {
        let facts = &response.facts;
        if (200..300).contains(&head.status) {
            if self.asked_upgrade() {
                return Err(bad("upgrade not taken up"));
            }
            if self.asked == Asked::Connect {
                self.open_tunnel(head);
                return Ok(());
            }
        }
        if self.outgoing == Outgoing::Held {
            self.outgoing = Outgoing::Ended;
        }
        self.phase = Phase::Receiving;
        self.body = if self.head_only || head.status == 304 {
            Body::Ended
        } else if head.status == 204 {
            // A server that frames content here may go on to send it.
            self.keep &= !facts.chunked && head.content_length.take().unwrap_or(0) == 0;
            Body::Ended
        } else if facts.chunked {
            Body::ChunkLine
        } else if let Some(length) = facts.content_length {
            Body::of_length(length)
        } else {
            self.keep = false;
            Body::UntilClose
        };
        self.settle();
        Ok(())
    }

    /// The exchange is over when the response is.
    fn settle(&mut self) {
        if self.phase == Phase::Receiving && self.body == Body::Ended {
            let reusable = self.keep && self.outgoing == Outgoing::Ended;
            self.phase = if reusable { Phase::Idle } else { Phase::Closed };
        }
    }

    fn after(&mut self, sent: Sent) {
        match sent {
            Sent::TooLittle => self.phase = Phase::Short,
            Sent::TooMuch => self.keep = false,
            Sent::Well if self.outgoing == Outgoing::Ended && self.is_tunnel() => self.phase = Phase::Closed,
            Sent::Well => {}
        }
    }

    /// Whether a tunnel has been opened (its incoming side may be over).
    fn is_tunnel(&self) -> bool {
        self.phase == Phase::Receiving && matches!(self.body, Body::Tunnel | Body::Ended)
    }

    fn write_request(&mut self, head: &Head, end: bool, out: &mut Vec<u8>) {
        let target = match self.asked {
            Asked::Connect => head.authority(),
            _ if head.path().is_empty() => b"/",
            _ => head.path(),
        };
        let method = if self.asked_upgrade() { b"GET" } else { head.method_bytes() };
        // `#` may stand in a method, though not in a target.
        if is_token(method) {
            out.extend_from_slice(method)
        } else {
            write::part(method, out)
        }
        out.push(b' ');
        write::part(target, out);
        out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
        write::part(head.authority(), out);
        out.extend_from_slice(b"\r\n");
        write::fields(head, |name| name == Name::Cookie, out);
        write_cookies(head, out);
        let te = head.get(Name::Te).is_some();
        if te {
            out.extend_from_slice(b"te: trailers\r\n");
        }
        match &self.asked {
            Asked::WebSocket { own_key } => {
                out.extend_from_slice(b"upgrade: websocket\r\n");
                if *own_key {
                    write::field(Name::SecWebSocketKey.as_bytes(), &websocket::key(self.seed, self.id), out);
                }
            }
            Asked::Other(protocol) => write::field(b"upgrade", protocol, out),
            Asked::Nothing | Asked::Connect => {}
        }
        out.extend_from_slice(match (self.asked_upgrade(), te) {
            (true, true) => b"connection: upgrade, te\r\n",
            (true, false) => b"connection: upgrade\r\n",
            (false, true) => b"connection: te\r\n",
            (false, false) => b"",
        });
        self.outgoing = framing(head, end, &self.asked, out);
        out.extend_from_slice(b"\r\n");
    }
}

/// Chooses the framing of a request's content and writes the field that says so.
fn framing(head: &Head, end: bool, asked: &Asked, out: &mut Vec<u8>) -> Outgoing {
    if *asked != Asked::Nothing {
        return Outgoing::Held;
    }
    match head.content_length {
        Some(length) => {
            write::content_length(length, out);
            Outgoing::Length(length)
        }
        None if !end => {
            out.extend_from_slice(write::CHUNKED);
            Outgoing::Chunked
        }
        None => {
            // RFC 9110 §8.6: where the method makes a server expect content, its absence is said.
            if matches!(head.method, Method::Post | Method::Put | Method::Patch) {
                write::content_length(0, out);
            }
            Outgoing::Length(0)
        }
    }
}

/// HTTP/2 may split a cookie into crumbs; here they are one field again (RFC 9113 §8.2.3). Empty ones say nothing.
fn write_cookies(head: &Head, out: &mut Vec<u8>) {
    let mut crumbs = head.all(Name::Cookie);
    let Some(first) = crumbs.next() else { return };
    out.extend_from_slice(b"cookie: ");
    let start = out.len();
    out.extend_from_slice(first);
    for crumb in crumbs.filter(|crumb| !crumb.is_empty()) {
        if out.len() > start {
            out.extend_from_slice(b"; ");
        }
        out.extend_from_slice(crumb);
    }
    out.extend_from_slice(b"\r\n");
}

impl Codec for Client {
    fn receive<'i>(&mut self, input: &'i [u8], head: &mut Head, _out: &mut Vec<u8>) -> Result<Step<'i>, Error> {
        match self.phase {
            Phase::Closed => Ok(Step { consumed: input.len(), event: None }),
            Phase::Short => Err(self.fail(bad("the request fell short of its declared length"))),
            Phase::Idle if input.is_empty() => Ok(Step { consumed: 0, event: None }),
            Phase::Idle => Err(self.fail(bad("octets that answer no request"))),
            Phase::Waiting => self.receive_head(input, head).map_err(|error| self.fail(error)),
            Phase::Receiving => {
                let stream = self.stream();
                if self.body == Body::Tunnel && std::mem::take(&mut self.held_back) {
                    return Ok(Step { consumed: 0, event: Some(Event::Writable { stream: Some(stream) }) });
                }
                let piece = self.body.receive(input, &mut self.scanned, head, &self.limits);
                let step = match piece.map_err(|error| self.fail(error))? {
                    Piece::Nothing { consumed } => return Ok(Step { consumed, event: None }),
                    Piece::Data { consumed, data, end } => {
                        Step { consumed, event: Some(Event::Data { stream, data, flow: 0, end }) }
                    }
                    Piece::Trailers { consumed } => Step { consumed, event: Some(Event::Trailers { stream }) },
                };
                self.settle();
                Ok(step)
            }
        }
    }

    fn receive_end(&mut self, _out: &mut Vec<u8>) -> Result<Option<Event<'static>>, Error> {
        let stream = self.stream();
        match (self.phase, self.body) {
            (Phase::Closed, _) => Ok(None),
            (Phase::Idle, _) => {
                self.phase = Phase::Closed;
                Ok(None)
            }
            (Phase::Short, _) => Err(self.fail(bad("the request fell short of its declared length"))),
            (Phase::Waiting, _) => Err(self.fail(bad("closed before the response's head was complete"))),
            (Phase::Receiving, Body::Ended) => Ok(None),
            (Phase::Receiving, Body::UntilClose) => {
                self.phase = Phase::Closed;
                Ok(Some(Event::Data { stream, data: &[], flow: 0, end: true }))
            }
            (Phase::Receiving, Body::Tunnel) => {
                self.body = Body::Ended;
                if self.outgoing == Outgoing::Ended {
                    self.phase = Phase::Closed;
                }
                Ok(Some(Event::Data { stream, data: &[], flow: 0, end: true }))
            }
            (Phase::Receiving, _) => Err(self.fail(bad("closed in the middle of a body"))),
        }
    }

    fn send_head(&mut self, _stream: StreamId, _head: &Head, _end: bool, _out: &mut Vec<u8>) {}

    /// 0 while a tunnel has been asked for and not granted.
    fn capacity(&self, stream: StreamId) -> usize {
        if self.is_current(stream) && self.outgoing == Outgoing::Held { 0 } else { usize::MAX }
    }

    fn send_payload(&mut self, stream: StreamId, payload: Payload<'_>, end: bool, out: &mut Vec<u8>) -> Framed {
        let taken = payload.len();
        if !self.is_current(stream) {
            return Framed::dropped(taken);
        }
        if self.outgoing == Outgoing::Held {
            if taken > 0 {
                self.held_back = true;
            } else if end {
                self.outgoing = Outgoing::Ended;
            }
            return Framed::dropped(0);
        }
        if !self.outgoing.is_open() {
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
            self.phase = Phase::Closed;
        }
    }

    fn release(&mut self, _stream: StreamId, _flow: u32, _out: &mut Vec<u8>) {}

    fn grow_window(&mut self, _stream: StreamId, _window: u32, _out: &mut Vec<u8>) {}

    fn go_away(&mut self, _out: &mut Vec<u8>) {
        self.keep = false;
        if self.phase == Phase::Idle {
            self.phase = Phase::Closed;
        }
    }

    fn ping(&mut self, _payload: [u8; 8], _out: &mut Vec<u8>) -> bool {
        false
    }

    fn active(&self) -> usize {
        usize::from(matches!(self.phase, Phase::Waiting | Phase::Receiving))
    }

    fn is_blocked(&self) -> bool {
        false
    }

    fn is_finished(&self) -> bool {
        !self.keep || matches!(self.phase, Phase::Closed | Phase::Short)
    }
}

impl codec::Client for Client {
    fn available(&self) -> usize {
        usize::from(self.phase == Phase::Idle && self.keep)
    }

    /// A request that ends here although it declares a length finishes the connection, see the module.
    fn open(&mut self, head: &Head, end: bool, out: &mut Vec<u8>) -> Option<StreamId> {
        if self.phase != Phase::Idle || !self.keep {
            return None;
        }
        self.asked = match head.protocol() {
            _ if !head.is_connect() => Asked::Nothing,
            b"" => Asked::Connect,
            protocol if protocol.eq_ignore_ascii_case(b"websocket") => {
                Asked::WebSocket { own_key: head.get(Name::SecWebSocketKey).is_none() }
            }
            protocol => Asked::Other(protocol.into()),
        };
        self.phase = Phase::Waiting;
        self.id = self.id.wrapping_add(1);
        self.interims = 0;
        self.head_only = head.method == Method::Head;
        self.held_back = false;
        self.write_request(head, end, out);
        if end && self.outgoing != Outgoing::Held {
            let sent = self.outgoing.end(None, out);
            self.after(sent);
        }
        Some(self.stream())
    }
}
