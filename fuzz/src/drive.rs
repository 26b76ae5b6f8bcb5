//! A codec, and what it says of octets that come in pieces.

use steady_http::{Codec, Error, Event, Head, Reset, StreamId};

use crate::message::Said;

/// An event that can be kept; the pieces of a body are put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Head(StreamId, bool, Said),
    Interim(StreamId, Said),
    Data(StreamId, Vec<u8>, bool),
    Trailers(StreamId, Said),
    Reset(StreamId, Reset),
    Writable(Option<StreamId>),
    GoAway(u32, u32),
    Settings,
    Pong([u8; 8]),
}

pub struct Driven<C> {
    pub codec: C,
    pub head: Head,
    pub out: Vec<u8>,
    pub seen: Vec<Seen>,
    pub error: Option<Error>,
    input: Vec<u8>,
}

impl<C: Codec> Driven<C> {
    pub fn new(codec: C) -> Driven<C> {
        Driven { codec, head: Head::new(), out: Vec::new(), seen: Vec::new(), error: None, input: Vec::new() }
    }

    /// Hears these octets in pieces of `piece` (0: all at once). `react` is called after each event.
    pub fn hear(
        &mut self,
        octets: &[u8],
        piece: usize,
        mut react: impl FnMut(&mut C, &Event<'_>, &Head, &mut Vec<u8>),
    ) {
        let piece = if piece == 0 { octets.len().max(1) } else { piece };
        for piece in octets.chunks(piece) {
            self.input.extend_from_slice(piece);
            self.digest(&mut react);
        }
    }

    fn digest(&mut self, react: &mut impl FnMut(&mut C, &Event<'_>, &Head, &mut Vec<u8>)) {
        while self.error.is_none() {
            let before = self.input.len();
            let step = match self.codec.receive(&self.input, &mut self.head, &mut self.out) {
                Ok(step) => step,
                Err(error) => {
                    self.error = Some(error);
                    return;
                }
            };
            assert!(step.consumed <= before, "more was consumed than given");
            let Some(event) = step.event else {
                self.input.drain(..step.consumed);
                return;
            };
            react(&mut self.codec, &event, &self.head, &mut self.out);
            let consumed = step.consumed;
            keep(&mut self.seen, &event, &self.head);
            self.input.drain(..consumed);
        }
    }

    /// The peer's FIN.
    pub fn end(&mut self) {
        if self.error.is_some() {
            return;
        }
        match self.codec.receive_end(&mut self.out) {
            Ok(Some(event)) => keep(&mut self.seen, &event, &self.head),
            Ok(None) => {}
            Err(error) => self.error = Some(error),
        }
    }

    /// What does not depend on how the octets were cut.
    pub fn verdict(&self) -> (&[Seen], Option<(u16, u32, &'static str)>) {
        (&self.seen, self.error.map(|error| (error.status, error.code, error.reason)))
    }

    /// Octets that wait for what comes next.
    pub fn left(&self) -> usize {
        self.input.len()
    }
}

fn keep(seen: &mut Vec<Seen>, event: &Event<'_>, head: &Head) {
    let kept = match *event {
        Event::Head { stream, end } => Seen::Head(stream, end, Said::of(head)),
        Event::Interim { stream } => Seen::Interim(stream, Said::of(head)),
        Event::Trailers { stream } => Seen::Trailers(stream, Said::of(head)),
        Event::Data { stream, data, end, .. } => {
            if let Some(Seen::Data(before, body, ended)) = seen.last_mut()
                && *before == stream
                && !*ended
            {
                body.extend_from_slice(data);
                *ended = end;
                return;
            }
            Seen::Data(stream, data.to_vec(), end)
        }
        Event::Reset { stream, reset } => Seen::Reset(stream, reset),
        Event::Writable { stream } => Seen::Writable(stream),
        Event::GoAway { last, code } => Seen::GoAway(last, code),
        Event::Settings => Seen::Settings,
        Event::Pong { payload } => Seen::Pong(payload),
    };
    seen.push(kept);
}
