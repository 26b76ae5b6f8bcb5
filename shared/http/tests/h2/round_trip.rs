//! Our client against our server: random exchanges, interleaved, through small windows and split input.

use std::collections::HashMap;
use std::rc::Rc;

use crate::support::*;
use proptest::prelude::*;
use steady_http::h2::{Client, Server};
use steady_http::{Client as _, Codec, Framed, Head, Limits, Payload, Scheme, StreamId};

/// One message, either way.
#[derive(Clone, Debug)]
struct Message {
    fields: Vec<(String, String)>,
    body: usize,
    declared: bool,
    trailers: Vec<(String, String)>,
}

impl Message {
    fn fill(&self, head: &mut Head) {
        for (name, value) in &self.fields {
            head.push(name.as_bytes(), value.as_bytes());
        }
        if self.declared {
            head.content_length = Some(self.body as u64);
        }
    }

    fn trailers(&self) -> Head {
        let mut head = Head::new();
        for (name, value) in &self.trailers {
            head.push(name.as_bytes(), value.as_bytes());
        }
        head
    }

    fn ends_at_once(&self) -> bool {
        self.body == 0 && self.trailers.is_empty()
    }
}

fn octets(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + seed * 17) as u8).collect()
}

/// What is left to send on a stream.
struct Sending {
    stream: StreamId,
    body: Vec<u8>,
    sent: usize,
    trailers: Head,
}

/// As `send_data`, with octets that are put where the codec says that they belong.
fn send_from_elsewhere<C: Codec>(codec: &mut C, stream: StreamId, data: &[u8], end: bool, out: &mut Vec<u8>) -> usize {
    let mut sent = 0;
    loop {
        let Framed { taken, place } = codec.send_payload(stream, Payload::Elsewhere(data.len() - sent), end, out);
        assert!(place.len <= taken);
        out.splice(place.at..place.at, data[sent..sent + place.len].iter().copied());
        sent += taken;
        if taken == 0 || sent == data.len() {
            return sent;
        }
    }
}

impl Sending {
    /// Sends what the windows allow; `true` when that was the end.
    fn go<C: Codec>(&mut self, codec: &mut C, out: &mut Vec<u8>) -> bool {
        let with_trailers = self.trailers.field_count() > 0;
        let rest = &self.body[self.sent..];
        let room = codec.capacity(self.stream);
        let taken = match self.body.len() % 2 {
            0 => codec.send_data(self.stream, rest, !with_trailers, out),
            _ => send_from_elsewhere(codec, self.stream, rest, !with_trailers, out),
        };
        assert_eq!(taken, rest.len().min(room));
        self.sent += taken;
        let done = taken == rest.len();
        if done && with_trailers {
            codec.send_trailers(self.stream, &self.trailers, out);
        }
        done
    }
}

/// What one side has received of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Received {
    head: String,
    body: Vec<u8>,
    trailers: String,
    ended: bool,
}

#[derive(Default)]
struct Inbox(HashMap<u32, Received>);

impl Inbox {
    /// Takes an event; gives flow-control credit back at once. Returns the stream that it ended, if it did.
    fn take<C: Codec>(&mut self, seen: Seen, end: &mut End<C>) -> Option<u32> {
        let (id, ended) = match seen {
            Seen::Head { id, end, text } => {
                self.0.entry(id).or_default().head = text;
                (id, end)
            }
            Seen::Data { id, data, flow, end: last } => {
                self.0.get_mut(&id).unwrap().body.extend(data);
                end.codec.release(end.ids[&id], flow, &mut end.out);
                (id, last)
            }
            Seen::Trailers { id, text } => {
                self.0.get_mut(&id).unwrap().trailers = text;
                (id, true)
            }
            Seen::Settings | Seen::Writable(_) => return None,
            other => panic!("{other:?}"),
        };
        let received = self.0.get_mut(&id).unwrap();
        assert!(!received.ended, "nothing follows the end");
        received.ended = ended;
        ended.then_some(id)
    }
}

fn run(exchanges: &[(Message, Message)], client_limits: Limits, server_limits: Limits, cuts: &[usize]) {
    let mut client = End::of(Client::new(Rc::new(client_limits), Scheme::Http));
    let mut server = End::of(Server::new(Rc::new(server_limits), Scheme::Https));
    let (mut at_client, mut at_server) = (Inbox::default(), Inbox::default());
    let (mut uploads, mut downloads): (Vec<Sending>, Vec<Sending>) = (Vec::new(), Vec::new());
    let mut cuts = cuts.iter().cycle();
    let (mut opened, mut idle_rounds, mut settled) = (0, 0, false);
    client.codec.start(&mut client.out);
    let mut requests: HashMap<u32, usize> = HashMap::new();
    while idle_rounds < 3 {
        let mut moved = false;
        // Opened before the server's limit is known, a stream could be refused.
        while settled && opened < exchanges.len() && client.codec.available() > 0 {
            let message = &exchanges[opened].0;
            let mut head = request("POST", "/p", &[]);
            message.fill(&mut head);
            let stream = client.codec.open(&head, message.ends_at_once(), &mut client.out).unwrap();
            client.ids.insert(stream.id, stream);
            requests.insert(stream.id, opened);
            if !message.ends_at_once() {
                let (body, trailers) = (octets(opened, message.body), message.trailers());
                uploads.push(Sending { stream, body, sent: 0, trailers });
            }
            opened += 1;
            moved = true;
        }
        uploads.retain_mut(|sending| !sending.go(&mut client.codec, &mut client.out));
        downloads.retain_mut(|sending| !sending.go(&mut server.codec, &mut server.out));
        // Up.
        let cut = *cuts.next().unwrap();
        for _ in 0..64 {
            let piece: Vec<u8> = client.out.drain(..client.out.len().min(cut)).collect();
            moved |= !piece.is_empty();
            for seen in server.hear(&piece).unwrap() {
                let Some(id) = at_server.take(seen, &mut server) else { continue };
                let message = &exchanges[requests[&id]].1;
                let mut head = response(200, &[]);
                message.fill(&mut head);
                let stream = server.ids[&id];
                server.codec.send_head(stream, &head, message.ends_at_once(), &mut server.out);
                if !message.ends_at_once() {
                    let (body, trailers) = (octets(requests[&id] + 1, message.body), message.trailers());
                    downloads.push(Sending { stream, body, sent: 0, trailers });
                }
            }
        }
        // Down.
        let cut = *cuts.next().unwrap();
        for _ in 0..64 {
            let piece: Vec<u8> = server.out.drain(..server.out.len().min(cut)).collect();
            moved |= !piece.is_empty();
            for seen in client.hear(&piece).unwrap() {
                settled |= seen == Seen::Settings;
                at_client.take(seen, &mut client);
            }
        }
        idle_rounds = if moved { 0 } else { idle_rounds + 1 };
    }
    assert_eq!((client.codec.active(), server.codec.active(), opened), (0, 0, exchanges.len()), "all has ended");
    for (id, number) in requests {
        let (asked, answered) = &exchanges[number];
        let mut head = request("POST", "/p", &[]);
        asked.fill(&mut head);
        let expected = Received {
            head: text(&head),
            body: octets(number, asked.body),
            trailers: text(&asked.trailers()),
            ended: true,
        };
        assert_eq!(at_server.0[&id], expected);
        let mut head = response(200, &[]);
        answered.fill(&mut head);
        let expected = Received {
            head: text(&head),
            body: octets(number + 1, answered.body),
            trailers: text(&answered.trailers()),
            ended: true,
        };
        assert_eq!(at_client.0[&id], expected);
    }
}

fn some_fields() -> impl Strategy<Value = Vec<(String, String)>> {
    let name = proptest::sample::select(vec![
        "accept",
        "user-agent",
        "x-request-id",
        "x-a",
        "x-b",
        "etag",
        "cache-control",
        "authorization",
        "via",
        "steady-app",
    ])
    .prop_map(str::to_owned);
    proptest::collection::vec((name, "([!-~]([ -~]{0,40}[!-~])?)?"), 0..12)
}

fn some_message() -> impl Strategy<Value = Message> {
    (some_fields(), prop_oneof![Just(0), 0usize..300, 0usize..60_000], any::<bool>(), some_fields())
        .prop_map(|(fields, body, declared, trailers)| Message { fields, body, declared, trailers })
}

fn some_limits() -> impl Strategy<Value = Limits> {
    (1u32..200_000, 0u32..200_000, 1u32..20, 0u32..6000).prop_map(|(stream, connection, streams, table)| Limits {
        stream_window: stream.max(64),
        connection_window: connection,
        streams_max: streams,
        hpack_table_bytes: table,
        control_frames_max: 1_000_000,
        replies_bytes_max: 1_000_000,
        ..Limits::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_sent_arrives_whole_in_both_directions(
        exchanges in proptest::collection::vec((some_message(), some_message()), 1..25),
        client_limits in some_limits(),
        server_limits in some_limits(),
        cuts in proptest::collection::vec(prop_oneof![1usize..40, 1usize..20_000], 1..10),
    ) {
        run(&exchanges, client_limits, server_limits, &cuts);
    }
}

/// What either side may do at any time, to a stream that may be long gone.
#[derive(Clone, Debug)]
enum Op {
    Open { end: bool },
    Answer { stream: usize, status: u16, end: bool },
    Upload { stream: usize, len: usize, end: bool },
    Download { stream: usize, len: usize, end: bool },
    ClientReset(usize),
    ServerReset(usize),
    Trailers(usize),
    Grow(usize, u32),
    Ping,
    Up(usize),
    Down(usize),
}

fn some_op() -> impl Strategy<Value = Op> {
    let stream = || 0usize..12;
    prop_oneof![
        3 => any::<bool>().prop_map(|end| Op::Open { end }),
        3 => (stream(), proptest::sample::select(vec![103, 200, 204, 404]), any::<bool>())
            .prop_map(|(stream, status, end)| Op::Answer { stream, status, end }),
        3 => (stream(), 0usize..30_000, any::<bool>()).prop_map(|(stream, len, end)| Op::Upload { stream, len, end }),
        3 => (stream(), 0usize..30_000, any::<bool>()).prop_map(|(stream, len, end)| Op::Download { stream, len, end }),
        2 => stream().prop_map(Op::ClientReset),
        2 => stream().prop_map(Op::ServerReset),
        1 => stream().prop_map(Op::Trailers),
        1 => (stream(), 0u32..200_000).prop_map(|(stream, window)| Op::Grow(stream, window)),
        1 => Just(Op::Ping),
        4 => (1usize..60_000).prop_map(Op::Up),
        4 => (1usize..60_000).prop_map(Op::Down),
    ]
}

/// Two sides and the octets between them.
struct Both {
    client: End<Client>,
    server: End<Server>,
    at_client: Vec<StreamId>,
    at_server: Vec<StreamId>,
}

/// Hears a piece of what the other side said, giving credit back at once; returns how much data that was.
fn hear<A: Codec, B: Codec>(from: &mut End<A>, to: &mut End<B>, len: usize, known: &mut Vec<StreamId>) -> usize {
    let piece: Vec<u8> = from.out.drain(..from.out.len().min(len)).collect();
    let mut octets = 0;
    for seen in to.hear(&piece).expect("both sides keep the rules") {
        match seen {
            Seen::Data { id, flow, data, .. } => {
                octets += data.len();
                to.codec.release(to.ids[&id], flow, &mut to.out);
            }
            Seen::Head { id, .. } if !known.iter().any(|stream| stream.id == id) => known.push(to.ids[&id]),
            _ => {}
        }
    }
    octets
}

impl Both {
    fn up(&mut self, len: usize) -> usize {
        hear(&mut self.client, &mut self.server, len, &mut self.at_server)
    }

    fn down(&mut self, len: usize) -> usize {
        hear(&mut self.server, &mut self.client, len, &mut self.at_client)
    }

    fn drain(&mut self) {
        while !self.client.out.is_empty() || !self.server.out.is_empty() {
            self.up(usize::MAX);
            self.down(usize::MAX);
        }
    }

    /// The stream so many before the last.
    fn pick(streams: &[StreamId], back: usize) -> StreamId {
        let none = StreamId { slot: 0, id: 0 };
        streams.len().checked_sub(back + 1).map_or(none, |at| streams[at])
    }

    fn act(&mut self, op: &Op) {
        let Both { client, server, at_client, at_server } = self;
        let reset = steady_http::Reset::ours(steady_http::error::code::CANCEL, "test");
        let mut trailers = Head::new();
        trailers.push(b"t", b"v");
        match *op {
            Op::Open { end } => {
                let opened = client.codec.open(&request("PUT", "/", &[("x-a", "b")]), end, &mut client.out);
                if let Some(stream) = opened {
                    client.ids.insert(stream.id, stream);
                    at_client.push(stream);
                }
            }
            Op::Answer { stream, status, end } => {
                let head = response(status, &[("x-c", "d")]);
                server.codec.send_head(Both::pick(at_server, stream), &head, end, &mut server.out);
            }
            Op::Upload { stream, len, end } => {
                client.codec.send_data(Both::pick(at_client, stream), &vec![0; len], end, &mut client.out);
            }
            Op::Download { stream, len, end } => {
                server.codec.send_data(Both::pick(at_server, stream), &vec![0; len], end, &mut server.out);
            }
            Op::ClientReset(stream) => client.codec.reset(Both::pick(at_client, stream), reset, &mut client.out),
            Op::ServerReset(stream) => server.codec.reset(Both::pick(at_server, stream), reset, &mut server.out),
            Op::Trailers(stream) => {
                client.codec.send_trailers(Both::pick(at_client, stream), &trailers, &mut client.out);
                server.codec.send_trailers(Both::pick(at_server, stream), &trailers, &mut server.out);
            }
            Op::Grow(stream, window) => {
                client.codec.grow_window(Both::pick(at_client, stream), window, &mut client.out);
                server.codec.grow_window(Both::pick(at_server, stream), window, &mut server.out);
            }
            Op::Ping => {
                client.codec.ping(*b"12345678", &mut client.out);
                server.codec.ping(*b"12345678", &mut server.out);
            }
            Op::Up(len) => {
                self.up(len);
            }
            Op::Down(len) => {
                self.down(len);
            }
        }
    }

    /// A large body both ways on a fresh stream: nothing of any window has been lost.
    fn prove_windows_whole(&mut self) {
        const LEN: usize = 100_000;
        self.act(&Op::Open { end: false });
        self.drain();
        let (up, down) = (Both::pick(&self.at_client, 0), Both::pick(&self.at_server, 0));
        self.server.codec.send_head(down, &response(200, &[]), false, &mut self.server.out);
        let body = vec![0; LEN];
        let (mut sent_up, mut sent_down, mut heard, mut idle_rounds) = (0, 0, 0, 0);
        loop {
            sent_up += self.client.codec.send_data(up, &body[sent_up..], true, &mut self.client.out);
            sent_down += self.server.codec.send_data(down, &body[sent_down..], true, &mut self.server.out);
            let more = self.up(usize::MAX) + self.down(usize::MAX);
            heard += more;
            // What was heard last may let the next round send.
            idle_rounds = if more > 0 { 0 } else { idle_rounds + 1 };
            if idle_rounds == 3 {
                break;
            }
        }
        assert_eq!((sent_up, sent_down, heard), (LEN, LEN, 2 * LEN));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_two_sides_do_neither_finds_fault_with_the_other_and_no_credit_is_lost(
        ops in proptest::collection::vec(some_op(), 0..150),
        client_limits in some_limits(),
        server_limits in some_limits(),
    ) {
        let patient = |limits: Limits| Limits {
            resets_max: 10_000,
            provoked_resets_max: 10_000,
            empty_data_max: 10_000,
            interim_max: 10_000,
            ..limits
        };
        let mut both = Both {
            client: End::of(Client::new(Rc::new(patient(client_limits)), Scheme::Http)),
            server: End::of(Server::new(Rc::new(patient(server_limits)), Scheme::Https)),
            at_client: Vec::new(),
            at_server: Vec::new(),
        };
        both.client.codec.start(&mut both.client.out);
        both.drain();
        for op in &ops {
            both.act(op);
        }
        both.drain();
        for back in 0..both.at_client.len() {
            both.act(&Op::ClientReset(back));
        }
        both.drain();
        prop_assert_eq!((both.client.codec.active(), both.server.codec.active()), (0, 0));
        both.prove_windows_whole();
    }
}
