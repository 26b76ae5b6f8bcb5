//! HTTP/2: what is read does not depend on how it is cut, what is said is whole frames within the peer's windows, streams are
//! counted, and a request, or a response, passes on to HTTP/1.1 as one message.
//!
//! The input is a list of steps: frames with right lengths, octets as they are, and what an engine does meanwhile.

use std::collections::HashMap;
use std::rc::Rc;

use steady_http::h2::{Client, Server};
use steady_http::{Client as _, Codec, Error, Event, Head, Limits, Reset, Scheme, StreamId};

use crate::Octets;
use crate::drive::Driven;
use crate::h1::{request_passes_on, response_passes_on};
use crate::message::Message;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const GET: &[u8] = b"\x82\x86\x84\x41\x09a.example";
const OK: &[u8] = b"\x88";

enum Step<'d> {
    Hear(Vec<u8>),
    Answer { stream: usize, status: u16, end: bool },
    Data { stream: usize, len: usize, end: bool },
    Trailers { stream: usize },
    Reset { stream: usize },
    Release { stream: usize, flow: u32 },
    Grow { stream: usize, window: u32 },
    GoAway,
    Ping,
    Open { octets: &'d [u8], end: bool },
}

pub fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(id.to_be_bytes());
    out.extend(payload);
    out
}

fn steps(mut octets: Octets<'_>) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    while !octets.is_empty() && steps.len() < 400 {
        let what = octets.one();
        let stream = usize::from(octets.one());
        steps.push(match what {
            0..100 => {
                let (flags, len) = (octets.one(), usize::from(octets.one()));
                Step::Hear(frame(what % 11, flags, stream as u32, octets.some(len)))
            }
            100..130 => Step::Hear(frame(1, 4 | (what & 1), stream as u32, GET)),
            130..150 => Step::Hear(frame(1, 4 | (what & 1), stream as u32, OK)),
            150..160 => {
                let len = usize::from(octets.two() & 0x3fff);
                Step::Hear(frame(0, what & 1, stream as u32, &vec![b'x'; len]))
            }
            160..170 => Step::Hear(octets.some(stream).to_vec()),
            170..180 => Step::Hear(frame(8, 0, stream as u32, &octets.four().to_be_bytes())),
            180..200 => {
                let status = [100, 103, 200, 204, 304, 404, 500][usize::from(octets.one()) % 7];
                Step::Answer { stream, status, end: what & 1 == 1 }
            }
            200..215 => Step::Data { stream, len: usize::from(octets.two()), end: what & 1 == 1 },
            215..220 => Step::Trailers { stream },
            220..225 => Step::Reset { stream },
            225..230 => Step::Release { stream, flow: octets.two().into() },
            230..235 => Step::Grow { stream, window: octets.four() },
            235..238 => Step::GoAway,
            238..241 => Step::Ping,
            _ => {
                let len = usize::from(octets.one());
                Step::Open { octets: octets.some(len), end: what & 1 == 1 }
            }
        });
    }
    steps
}

/// What the caller of a codec knows of its streams.
#[derive(Default)]
struct Known {
    /// Received side ended, sent side ended.
    open: HashMap<StreamId, (bool, bool)>,
    ids: Vec<StreamId>,
    messages: HashMap<StreamId, Message>,
}

impl Known {
    fn note(&mut self, event: &Event<'_>, head: &Head) {
        let (stream, ended) = match *event {
            Event::Head { stream, end } => {
                if !self.open.contains_key(&stream) {
                    self.ids.push(stream);
                    self.open.insert(stream, (false, false));
                }
                (stream, end)
            }
            Event::Data { stream, end, .. } => (stream, end),
            Event::Trailers { stream } => (stream, true),
            Event::Reset { stream, .. } => {
                self.open.remove(&stream);
                self.messages.remove(&stream);
                return;
            }
            _ => return,
        };
        self.messages.entry(stream).or_default().take(event, head);
        let sides = self.open.get_mut(&stream).expect("an event of a stream that nobody opened");
        assert!(!sides.0, "an event after the end");
        sides.0 = ended;
        self.forget(stream);
    }

    fn sent(&mut self, stream: StreamId) {
        if let Some(sides) = self.open.get_mut(&stream) {
            sides.1 = true;
            self.forget(stream);
        }
    }

    fn forget(&mut self, stream: StreamId) {
        if self.open.get(&stream) == Some(&(true, true)) {
            self.open.remove(&stream);
        }
    }

    fn pick(&self, at: usize) -> Option<StreamId> {
        (!self.ids.is_empty()).then(|| self.ids[at % self.ids.len()])
    }
}

/// The opening of streams, which only the client's side has.
trait Opens: Codec {
    fn opens(&mut self, _: &Head, _: bool, _: &mut Vec<u8>) -> Option<StreamId> {
        None
    }
}

impl Opens for Server {}

impl Opens for Client {
    fn opens(&mut self, head: &Head, end: bool, out: &mut Vec<u8>) -> Option<StreamId> {
        self.open(head, end, out)
    }
}

fn run<C: Opens>(codec: C, hello: &[u8], steps: &[Step<'_>], piece: usize) -> (Driven<C>, Known) {
    let mut driven = Driven::new(codec);
    let mut known = Known::default();
    driven.hear(hello, piece, |_, event, head, _| known.note(event, head));
    for step in steps {
        if let Step::Hear(octets) = step {
            driven.hear(octets, piece, |_, event, head, _| known.note(event, head));
        } else {
            act(&mut driven, &mut known, step);
        }
        if driven.error.is_none() {
            assert_eq!(driven.codec.active(), known.open.len(), "streams are counted");
        }
    }
    driven.end();
    (driven, known)
}

fn act<C: Opens>(driven: &mut Driven<C>, known: &mut Known, step: &Step<'_>) {
    let Driven { codec, out, .. } = driven;
    let from = out.len();
    let dead = driven.error.is_some();
    match *step {
        Step::Hear(_) => {}
        Step::GoAway => codec.go_away(out),
        Step::Ping => _ = codec.ping([1; 8], out),
        Step::Open { octets, end } => {
            let mut head = get();
            head.push(b"x-fuzz", &octets.iter().map(|octet| 0x21 + octet % 0x5e).collect::<Vec<_>>());
            if let Some(stream) = codec.opens(&head, end, out) {
                known.ids.push(stream);
                known.open.insert(stream, (false, end));
            }
        }
        Step::Answer { stream, status, end } => {
            let Some(stream) = known.pick(stream) else { return };
            let mut head = Head::new();
            head.reset_to_status(status);
            codec.send_head(stream, &head, end, out);
            if end && status >= 200 && ended(&out[from..], stream.id) {
                known.sent(stream);
            }
        }
        Step::Data { stream, len, end } => {
            let Some(stream) = known.pick(stream) else { return };
            let room = codec.capacity(stream);
            let taken = codec.send_data(stream, &vec![b'y'; len], end, out);
            // What is taken without being sent is content that may not be there.
            assert!(taken <= len && data_of(&out[from..]) <= room.min(taken) as u64);
            if ended(&out[from..], stream.id) {
                known.sent(stream);
            }
        }
        Step::Trailers { stream } => {
            let Some(stream) = known.pick(stream) else { return };
            let mut head = Head::new();
            head.push(b"x-sum", b"1");
            codec.send_trailers(stream, &head, out);
            if ended(&out[from..], stream.id) {
                known.sent(stream);
            }
        }
        Step::Reset { stream } => {
            let Some(stream) = known.pick(stream) else { return };
            codec.reset(stream, Reset::ours(8, "fuzz"), out);
            if !dead {
                known.open.remove(&stream);
                known.messages.remove(&stream);
            }
        }
        Step::Release { stream, flow } => {
            let Some(stream) = known.pick(stream) else { return };
            // No more than was received may be given back; a little is always there to be.
            codec.release(stream, flow % 16, out);
        }
        Step::Grow { stream, window } => {
            let Some(stream) = known.pick(stream) else { return };
            codec.grow_window(stream, window, out);
        }
    }
    assert!(!dead || out.len() == from, "a dead connection says nothing");
}

/// Whether these frames end the stream from our side.
fn ended(mut out: &[u8], id: u32) -> bool {
    let mut ended = false;
    while let Some((frame, rest)) = next_frame(out) {
        ended |= frame.id == id && frame.kind <= 1 && frame.flags & 1 != 0;
        out = rest;
    }
    ended
}

/// Octets of content in these frames.
fn data_of(mut out: &[u8]) -> u64 {
    let mut octets = 0;
    while let Some((frame, rest)) = next_frame(out) {
        octets += if frame.kind == 0 { frame.payload.len() as u64 } else { 0 };
        out = rest;
    }
    octets
}

pub struct Frame<'o> {
    pub kind: u8,
    pub flags: u8,
    pub id: u32,
    pub payload: &'o [u8],
}

pub fn next_frame(out: &[u8]) -> Option<(Frame<'_>, &[u8])> {
    let [a, b, c, kind, flags, id @ ..] = *out.first_chunk::<9>()?;
    let len = u32::from_be_bytes([0, a, b, c]) as usize;
    let (payload, rest) = out[9..].split_at_checked(len).expect("a frame that is cut off");
    Some((Frame { kind, flags, id: u32::from_be_bytes(id), payload }, rest))
}

fn get() -> Head {
    let mut head = Head::new();
    head.set_authority(b"a.example");
    head.set_path(b"/");
    head
}

/// What we said is frames, and the DATA among them no more than every window that was ever given.
fn check_said(out: &[u8], heard: &[Step<'_>]) {
    let mut rest = out.strip_prefix(PREFACE).unwrap_or(out);
    let data = data_of(rest);
    let mut gone = false;
    while let Some((frame, after)) = next_frame(rest) {
        assert!(!gone || frame.kind != 1, "a head after a GOAWAY with an error");
        gone |= frame.kind == 7 && frame.payload[4..8] != [0; 4];
        rest = after;
    }
    assert_eq!(rest, b"", "octets that are no frame");
    let given = heard.iter().map(|step| match step {
        // However they are cut into frames, no four octets give more than they say.
        Step::Hear(octets) => octets.windows(4).map(|four| u64::from(Octets(four).four() & 0x7fff_ffff)).sum(),
        _ => 0,
    });
    assert!(data <= 65_535 + given.sum::<u64>(), "DATA beyond the connection's window");
}

fn limits(small: bool) -> Rc<Limits> {
    let small_ones = Limits {
        head_bytes_max: 300,
        fields_max: 4,
        streams_max: 3,
        stream_window: 1000,
        connection_window: 65_535,
        hpack_table_bytes: 100,
        continuations_max: 2,
        resets_max: 3,
        provoked_resets_max: 3,
        empty_data_max: 3,
        replies_bytes_max: 300,
        control_frames_max: 10,
        ..Limits::default()
    };
    Rc::new(if small { small_ones } else { Limits::default() })
}

type Verdict = Option<(u16, u32, &'static str)>;

fn verdict(error: Option<Error>) -> Verdict {
    error.map(|error| (error.status, error.code, error.reason))
}

/// The first octet: whether the preface is made for it, whether limits are small. The second: how octets are cut.
pub fn h2_server(data: &[u8]) {
    let mut octets = Octets(data);
    let (how, piece) = (octets.one(), usize::from(octets.one()));
    let steps = steps(octets);
    let mut hello = Vec::new();
    if how & 1 == 0 {
        hello.extend(PREFACE);
        hello.extend(frame(4, 0, 0, &[]));
        hello.extend(frame(4, 1, 0, &[]));
    }
    let server = || Server::new(limits(how & 2 != 0), Scheme::Http);
    let (whole, known) = run(server(), &hello, &steps, 0);
    let (cut, _) = run(server(), &hello, &steps, piece.max(1));
    assert_eq!(whole.verdict().0, cut.verdict().0);
    assert_eq!(verdict(whole.error), verdict(cut.error));
    assert_eq!(whole.out, cut.out, "what is said depends on how it came");
    check_said(&whole.out, &steps);
    for message in known.messages.values().filter(|message| message.whole || message.head.is_connect()) {
        request_passes_on(message, Scheme::Http);
    }
}

/// As [`h2_server`], the other role.
pub fn h2_client(data: &[u8]) {
    let mut octets = Octets(data);
    let (how, piece) = (octets.one(), usize::from(octets.one()));
    let steps = steps(octets);
    let mut hello = Vec::new();
    if how & 1 == 0 {
        hello.extend(frame(4, 0, 0, &[]));
        hello.extend(frame(4, 1, 0, &[]));
    }
    let start = |piece: usize| {
        let mut client = Client::new(limits(how & 2 != 0), Scheme::Http);
        client.start(&mut Vec::new());
        run(client, &hello, &steps, piece)
    };
    let (whole, known) = start(0);
    let (cut, _) = start(piece.max(1));
    assert_eq!(whole.verdict().0, cut.verdict().0);
    assert_eq!(verdict(whole.error), verdict(cut.error));
    assert_eq!(whole.out, cut.out, "what is said depends on how it came");
    check_said(&whole.out, &steps);
    for message in known.messages.values().filter(|message| message.whole) {
        response_passes_on(message, &get());
    }
}
