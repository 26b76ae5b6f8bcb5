//! The message stream: what a peer says in its frames.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use steady_stream::wire::{self, Body, Data, Feedback, Frame, Goodbye, Grant, Hello, Pace, Probe};
use steady_stream::{App, Config, Mode, NoBodies, Outcome, Recovered, Sound, Stream, StreamId, checksum};

use crate::Octets;

const BODY_MAX: usize = 1 << 10;
const EPOCH: u64 = 10;
const PEER_EPOCH: u64 = 20;

/// Frames out of octets as they are, cut anywhere; what is read is written and read again as the same.
fn octets_as_frames(octets: Octets<'_>, piece: usize) -> Vec<Frame> {
    let read = |piece: usize| {
        let mut frames = Vec::new();
        let mut buffer = BytesMut::new();
        for part in octets.0.chunks(piece.max(1)) {
            buffer.extend_from_slice(part);
            loop {
                match wire::decode(&mut buffer, BODY_MAX) {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error.to_string())),
                }
            }
        }
        (frames, None)
    };
    let whole = read(octets.0.len());
    assert_eq!(read(piece), whole, "what is read depends on how it is cut");
    whole.0.iter().for_each(written_and_read);
    whole.0
}

fn written_and_read(frame: &Frame) {
    let mut octets = BytesMut::new();
    wire::encode(frame, &mut octets);
    let again = wire::decode(&mut octets, 1 << 20).expect("our own frame").expect("whole");
    assert_eq!((&again, octets.len()), (frame, 0));
}

fn id() -> StreamId {
    StreamId::new("us", "them", Mode(1))
}

fn hello(octets: &mut Octets<'_>) -> Hello {
    let odd = octets.one();
    let of = |octets: &mut Octets<'_>, bit: u8, usual: u64| if odd & bit == 0 { usual } else { number(octets) };
    Hello {
        version: of(octets, 1, 1) as u32,
        from: if odd & 2 == 0 { "them" } else { "others" }.to_owned(),
        to: "us".to_owned(),
        epoch: of(octets, 4, PEER_EPOCH),
        floor: of(octets, 8, 1),
        next: of(octets, 16, 1),
        peer_epoch: of(octets, 32, EPOCH),
        received_below: of(octets, 64, 1),
        durable_below: of(octets, 128, 1),
        seen: true,
    }
}

/// Small, or near an end of what a number can be.
fn number(octets: &mut Octets<'_>) -> u64 {
    let (how, value) = (octets.one(), u64::from(octets.one()));
    match how {
        0..200 => value,
        200..220 => u64::MAX - value,
        220..235 => u64::from(u32::MAX) + value,
        _ => value << (how % 64),
    }
}

fn pace(octets: &mut Octets<'_>) -> Option<Pace> {
    let how = octets.one();
    (how & 1 == 1).then(|| Pace {
        floor: number(octets),
        granted_below: number(octets),
        blocked: how & 2 != 0,
        immediate: how & 4 != 0,
    })
}

fn feedback(octets: &mut Octets<'_>) -> Feedback {
    let how = octets.one();
    let mut feedback = Feedback {
        epoch: if how & 1 == 0 { EPOCH } else { number(octets) },
        received_below: number(octets),
        durable_below: number(octets),
        ..Feedback::default()
    };
    if how & 2 != 0 {
        feedback.answers_from = number(octets);
        feedback.answers_below = number(octets);
        let position = number(octets);
        feedback.answers.push(wire::Answer { position, body: Bytes::from_static(b"answer") });
    }
    if how & 4 != 0 {
        let (from, until, seed) = (number(octets), number(octets), number(octets));
        let made = steady_stream::Grant::new(id().direction(), EPOCH, from, until, seed);
        feedback.grants.push(Grant::from(&made));
    }
    if how & 8 != 0 {
        feedback.bits = Bytes::copy_from_slice(octets.some(usize::from(how >> 4)));
    }
    feedback
}

/// A message of the peer's: right in everything, unless its octets say otherwise.
fn data(octets: &mut Octets<'_>, grants: &BTreeMap<u64, u64>) -> Data {
    let (how, position) = (octets.one(), number(octets));
    let body = Bytes::copy_from_slice(octets.some(usize::from(how >> 5)));
    let right = grants.get(&position).copied().unwrap_or(position);
    Data {
        epoch: if how & 1 == 0 { PEER_EPOCH } else { number(octets) },
        position,
        number: if how & 2 == 0 { right } else { number(octets) },
        application: 7,
        checksum: if how & 4 == 0 { checksum(position, App(7), &body) } else { 1 },
        body,
        tombstone: how & 8 != 0,
        pace: pace(octets),
    }
}

/// The first octet: whether the rest is octets as they come, or steps of a connection. The second: how they are cut.
pub fn stream_frames(data: &[u8]) {
    let mut octets = Octets(data);
    let (how, piece) = (octets.one(), usize::from(octets.one()));
    let mut machine = Machine::new();
    if how & 1 == 0 {
        let frames = octets_as_frames(octets, piece);
        machine.stream.connected(machine.now);
        for frame in frames {
            machine.hear(frame);
        }
        return;
    }
    machine.stream.connected(machine.now);
    let mut steps = 0;
    while !octets.is_empty() && steps < 300 {
        machine.step(&mut octets);
        steps += 1;
    }
}

struct Machine {
    stream: Stream<Sound>,
    now: Duration,
    /// The numbers that were granted to the peer, by position.
    granted: BTreeMap<u64, u64>,
    /// Where the next message that is applied stands.
    applied: u64,
    /// Messages of ours that have no outcome.
    open: Vec<u64>,
    pending: Option<usize>,
}

impl Machine {
    fn new() -> Machine {
        let config = Config {
            messages_max: 16,
            body_max: BODY_MAX,
            window: 8,
            window_max: 32,
            batch_max: 4,
            patience: Duration::from_secs(30),
            ..Config::default()
        };
        let now = Duration::from_secs(1);
        let stream = Stream::open(id(), config, Recovered::new(EPOCH), None, now, 3).expect("nothing was saved");
        Machine { stream, now, granted: BTreeMap::new(), applied: 1, open: Vec::new(), pending: None }
    }

    fn step(&mut self, octets: &mut Octets<'_>) {
        let frame = |body| Frame { mode: 1, feedback: None, body: Some(body) };
        match octets.one() {
            0..40 => {
                let hello = hello(octets);
                self.hear(frame(Body::Hello(hello)));
            }
            40..110 => {
                let data = data(octets, &self.granted);
                self.hear(frame(Body::Data(data)));
            }
            110..140 => {
                let feedback = Some(feedback(octets));
                self.hear(Frame { mode: 1, feedback, body: None });
            }
            140..150 => {
                let epoch = if octets.one() & 1 == 0 { PEER_EPOCH } else { number(octets) };
                let pace = pace(octets);
                self.hear(frame(Body::Probe(Probe { epoch, pace })));
            }
            150..155 => {
                let drained = octets.one() & 1 == 1;
                self.hear(frame(Body::Goodbye(Goodbye { drained })));
            }
            155..180 => {
                let body = Bytes::copy_from_slice(octets.some(3));
                if let Ok(position) = self.stream.send(self.now, App(5), body) {
                    self.open.push(position);
                }
            }
            180..190 => {
                let at = usize::from(octets.one());
                if let Some(&position) = self.open.get(at) {
                    _ = self.stream.withdraw(position);
                }
            }
            190..205 => {
                _ = self.stream.take_records();
                self.stream.stored(self.now);
            }
            205..215 => self.deliver(),
            215..235 => self.transmit(),
            235..245 => {
                self.now += Duration::from_millis(u64::from(octets.two()));
                self.stream.tick(self.now);
            }
            245..250 => {
                self.stream.disconnected(self.now);
                self.stream.connected(self.now);
            }
            250..252 => self.stream.goodbye(self.now, self.now + Duration::from_secs(5)),
            _ => self.events(),
        }
        assert!(self.stream.in_hand() <= self.stream.window() + 4, "more is held than was granted");
        assert!(self.stream.waiting() <= 16, "more is kept than may be");
        _ = self.stream.deadline(self.now);
    }

    fn hear(&mut self, frame: Frame) {
        written_and_read(&frame);
        self.stream.receive(self.now, frame);
    }

    /// Consecutive positions, each once, until the peer's log is another or messages of it are given up.
    fn deliver(&mut self) {
        if let Some(count) = self.pending.take() {
            self.stream.applied(self.now, vec![Bytes::from_static(b"done"); count]);
        }
        let Some(batch) = self.stream.deliver(self.now) else { return };
        self.events();
        let range = batch.range();
        assert!(range.start >= self.applied, "{range:?} again after {}", self.applied);
        assert!(range.end > range.start);
        let mut last = None;
        for message in &batch.messages {
            assert!(range.contains(&message.position) && last.is_none_or(|last| message.position > last));
            last = Some(message.position);
        }
        self.applied = range.end;
        _ = batch.seal(&vec![Bytes::new(); batch.messages.len()]);
        self.pending = Some(batch.messages.len());
    }

    fn transmit(&mut self) {
        for _ in 0..100 {
            // Bodies that are not in memory any more cannot be read here.
            let Ok(Some(frame)) = self.stream.transmit(self.now, &mut NoBodies) else { return };
            written_and_read(&frame);
            for grant in frame.feedback.iter().flat_map(|feedback| &feedback.grants) {
                let whole = steady_stream::Grant::new(
                    id().reversed().direction(),
                    PEER_EPOCH,
                    grant.from,
                    grant.until,
                    grant.seed,
                );
                self.granted.extend((grant.from..grant.until).map(|position| (position, whole.number(position))));
            }
        }
        panic!("it says something without end");
    }

    fn events(&mut self) {
        while let Some(event) = self.stream.event() {
            match event {
                steady_stream::Event::Finished { position, outcome } => {
                    let at = self.open.iter().position(|&open| open == position);
                    self.open.remove(at.expect("a message has one outcome"));
                    assert!(!matches!(outcome, Outcome::Answered(answer) if answer.len() > BODY_MAX));
                }
                steady_stream::Event::PeerBegunAnew { .. } => self.applied = 0,
                steady_stream::Event::Gap { until, .. } => self.applied = self.applied.max(until),
                _ => {}
            }
        }
    }
}
