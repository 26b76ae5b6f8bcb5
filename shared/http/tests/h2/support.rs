//! A codec with its input and output, frames by hand, and events that can be kept.

use std::rc::Rc;

use steady_http::h2::{Client, Server};
use steady_http::{Codec, Error, Event, Head, Limits, Reset, Scheme};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ES: u8 = 1;
pub const EH: u8 = 4;

/// An event that outlives its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Head { id: u32, end: bool, text: String },
    Interim { id: u32, text: String },
    Data { id: u32, data: Vec<u8>, flow: u32, end: bool },
    Trailers { id: u32, text: String },
    Reset { id: u32, reset: Reset },
    Writable(Option<u32>),
    GoAway { last: u32, code: u32 },
    Settings,
    Pong([u8; 8]),
}

/// A head in one line.
pub fn text(head: &Head) -> String {
    let lossy = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    let mut parts = Vec::new();
    if head.status > 0 {
        parts.push(head.status.to_string());
    } else if !head.authority().is_empty() {
        parts.push(format!(
            "{} {:?} {} {}",
            lossy(head.method_bytes()),
            head.scheme,
            lossy(head.authority()),
            lossy(head.path())
        ));
        if !head.protocol().is_empty() {
            parts.push(format!("protocol={}", lossy(head.protocol())));
        }
    }
    if let Some(length) = head.content_length {
        parts.push(format!("length={length}"));
    }
    parts.extend(head.fields().map(|field| format!("{}={}", lossy(field.name), lossy(field.value))));
    parts.join("|")
}

/// One side.
#[derive(Debug)]
pub struct End<C> {
    pub codec: C,
    pub head: Head,
    pub input: Vec<u8>,
    pub out: Vec<u8>,
    /// The stream ids of heads and others, by number.
    pub ids: std::collections::HashMap<u32, steady_http::StreamId>,
}

impl<C: Codec> End<C> {
    pub fn of(codec: C) -> End<C> {
        End { codec, head: Head::new(), input: Vec::new(), out: Vec::new(), ids: Default::default() }
    }

    /// The next event of what has arrived.
    pub fn next(&mut self) -> Result<Option<Seen>, Error> {
        let step = self.codec.receive(&self.input, &mut self.head, &mut self.out)?;
        let consumed = step.consumed;
        let seen = step.event.map(|event| match event {
            Event::Head { stream, end } => {
                self.ids.insert(stream.id, stream);
                Seen::Head { id: stream.id, end, text: text(&self.head) }
            }
            Event::Interim { stream } => Seen::Interim { id: stream.id, text: text(&self.head) },
            Event::Data { stream, data, flow, end } => Seen::Data { id: stream.id, data: data.to_vec(), flow, end },
            Event::Trailers { stream } => Seen::Trailers { id: stream.id, text: text(&self.head) },
            Event::Reset { stream, reset } => Seen::Reset { id: stream.id, reset },
            Event::Writable { stream } => Seen::Writable(stream.map(|stream| stream.id)),
            Event::GoAway { last, code } => Seen::GoAway { last, code },
            Event::Settings => Seen::Settings,
            Event::Pong { payload } => Seen::Pong(payload),
        });
        self.input.drain(..consumed);
        Ok(seen)
    }

    /// Everything that these octets say.
    pub fn hear(&mut self, octets: &[u8]) -> Result<Vec<Seen>, Error> {
        self.input.extend_from_slice(octets);
        let mut all = Vec::new();
        while let Some(seen) = self.next()? {
            all.push(seen);
        }
        Ok(all)
    }

    /// What was said since this was last asked, as frames.
    pub fn said(&mut self) -> Vec<Frame> {
        frames(&std::mem::take(&mut self.out))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub id: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn u32(&self) -> u32 {
        u32::from_be_bytes(self.payload[..4].try_into().unwrap())
    }
}

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub fn frames(octets: &[u8]) -> Vec<Frame> {
    let mut octets = octets.strip_prefix(PREFACE).unwrap_or(octets);
    let mut all = Vec::new();
    while !octets.is_empty() {
        let len = u32::from_be_bytes([0, octets[0], octets[1], octets[2]]) as usize;
        let id = u32::from_be_bytes(octets[5..9].try_into().unwrap());
        all.push(Frame { kind: octets[3], flags: octets[4], id, payload: octets[9..9 + len].to_vec() });
        octets = &octets[9 + len..];
    }
    all
}

pub fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

pub fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        pairs.iter().flat_map(|(id, value)| id.to_be_bytes().into_iter().chain(value.to_be_bytes())).collect();
    frame(SETTINGS, 0, 0, &payload)
}

fn short(out: &mut Vec<u8>, octets: &[u8]) {
    if octets.len() < 127 {
        out.push(octets.len() as u8);
    } else {
        out.push(127);
        let mut rest = octets.len() - 127;
        while rest >= 128 {
            out.push(rest as u8 | 128);
            rest >>= 7;
        }
        out.push(rest as u8);
    }
    out.extend_from_slice(octets);
}

/// A header block of literals that are not indexed.
pub fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        short(&mut out, name.as_ref());
        short(&mut out, value.as_ref());
    }
    out
}

pub const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":authority", "a.example"), (":path", "/")];

/// A GET with more fields.
pub fn get(id: u32, flags: u8, more: &[(&str, &str)]) -> Vec<u8> {
    let fields: Vec<_> = GET.iter().chain(more).copied().collect();
    frame(HEADERS, EH | flags, id, &block(&fields))
}

/// A server that has heard the client's preface and settings, and whose own are acknowledged.
pub fn server(limits: Limits) -> End<Server> {
    let mut end = End::of(Server::new(Rc::new(limits), Scheme::Https));
    let mut hello = PREFACE.to_vec();
    hello.extend(settings(&[]));
    hello.extend(frame(SETTINGS, 1, 0, &[]));
    assert_eq!(end.hear(&hello).unwrap(), [Seen::Settings]);
    end.out.clear();
    end
}

/// A client that has heard the server's settings, and whose own are acknowledged.
pub fn client(limits: Limits, pairs: &[(u16, u32)]) -> End<Client> {
    let mut end = End::of(Client::new(Rc::new(limits), Scheme::Http));
    end.codec.start(&mut end.out);
    let mut hello = settings(pairs);
    hello.extend(frame(SETTINGS, 1, 0, &[]));
    assert_eq!(end.hear(&hello).unwrap()[0], Seen::Settings);
    end.out.clear();
    end
}

/// The request in `text`'s terms.
pub fn request(method: &str, path: &str, fields: &[(&str, &str)]) -> Head {
    let mut head = Head::new();
    head.set_method(method.as_bytes());
    head.scheme = Scheme::Https;
    head.set_authority(b"a.example");
    head.set_path(path.as_bytes());
    for (name, value) in fields {
        head.push(name.as_bytes(), value.as_bytes());
    }
    head
}

pub fn response(status: u16, fields: &[(&str, &str)]) -> Head {
    let mut head = Head::new();
    head.reset_to_status(status);
    for (name, value) in fields {
        head.push(name.as_bytes(), value.as_bytes());
    }
    head
}
