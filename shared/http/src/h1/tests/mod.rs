//! The rules of RFC 9110 and 9112, as an observer of both ends of the codecs sees them.

mod body;
mod client;
mod property;
mod request;
mod server;
mod smuggling;
mod tunnel;

use std::rc::Rc;

use super::{Client, Server};
use crate::codec::{Codec, Event, StreamId};
use crate::error::Error;
use crate::head::{Head, Scheme};
use crate::limits::{Limit, Limits};

/// An event without borrows; runs of data are one, and the end of a body is an event of its own, so that histories of the
/// same octets compare equal however these were split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Head { id: u32, end: bool, head: String },
    Interim(String),
    Data(Vec<u8>),
    End,
    Trailers(String),
    Writable,
    Failed { status: u16, limit: Option<Limit> },
    Closed,
}

/// A head as text: the request or status line in canonical form, and the fields.
pub(super) fn text(head: &Head) -> String {
    let show = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    let mut text = match head.status {
        0 => format!(
            "{} {:?} {} {} [{}]",
            show(head.method_bytes()),
            head.scheme,
            show(head.authority()),
            show(head.path()),
            show(head.protocol())
        ),
        status => status.to_string(),
    };
    text.push_str(&format!(" {:?}", head.content_length));
    for field in head.fields() {
        text.push_str(&format!("\n{}: {}", show(field.name), show(field.value)));
    }
    text
}

/// One end of a connection: keeps the input that the codec has not consumed, and what it said.
pub(super) struct End<C> {
    pub codec: C,
    pub head: Head,
    pub out: Vec<u8>,
    pub said: Vec<Said>,
    pending: Vec<u8>,
    /// Answers each request with an empty 204 when its turn has come.
    answering: bool,
}

pub(super) fn server() -> End<Server> {
    server_with(Limits::default())
}

pub(super) fn server_with(limits: Limits) -> End<Server> {
    End::new(Server::new(Rc::new(limits), Scheme::Http))
}

pub(super) fn client() -> End<Client> {
    End::new(Client::new(Rc::new(Limits::default())).with_seed(7))
}

pub(super) fn stream(id: u32) -> StreamId {
    StreamId { slot: 0, id }
}

/// A response's head: its status, length and fields.
pub(super) fn response(status: u16, content_length: Option<u64>, fields: &[(&str, &str)]) -> Head {
    let mut head = Head::new();
    head.status = status;
    head.content_length = content_length;
    fields.iter().for_each(|(name, value)| head.push(name.as_bytes(), value.as_bytes()));
    head
}

/// A request's head.
pub(super) fn request(method: &str, path: &str, content_length: Option<u64>, fields: &[(&str, &str)]) -> Head {
    let mut head = response(0, content_length, fields);
    head.set_method(method.as_bytes());
    head.set_authority(b"a.steady.page");
    head.set_path(path.as_bytes());
    head
}

impl<C: Codec> End<C> {
    pub fn new(codec: C) -> End<C> {
        End { codec, head: Head::new(), out: Vec::new(), said: Vec::new(), pending: Vec::new(), answering: false }
    }

    pub fn answering(self) -> End<C> {
        End { answering: true, ..self }
    }

    /// Octets arrive. Stops at an error, as an engine would.
    pub fn feed(&mut self, input: &[u8]) -> &mut End<C> {
        self.pending.extend_from_slice(input);
        loop {
            let step = match self.codec.receive(&self.pending, &mut self.head, &mut self.out) {
                Ok(step) => step,
                Err(error) => {
                    self.failed(error);
                    return self;
                }
            };
            assert!(step.consumed <= self.pending.len());
            let quiet = step.event.is_none();
            if let Some(event) = step.event {
                note(&mut self.said, &event, &self.head);
            }
            self.pending.drain(..step.consumed);
            if self.answering && self.codec.is_blocked() {
                let id = self.said.iter().filter(|said| matches!(said, Said::Head { .. })).count() as u32;
                self.codec.send_head(stream(id), &response(204, None, &[]), true, &mut self.out);
            } else if quiet {
                return self;
            }
        }
    }

    pub fn finish(&mut self) -> &mut End<C> {
        match self.codec.receive_end(&mut self.out) {
            Ok(Some(event)) => note(&mut self.said, &event, &self.head),
            Ok(None) => self.said.push(Said::Closed),
            Err(error) => self.failed(error),
        }
        self
    }

    fn failed(&mut self, error: Error) {
        assert!(!error.reason.is_empty());
        assert!(self.codec.is_finished(), "a connection that failed is finished");
        assert_eq!(self.codec.active(), 0);
        self.said.push(Said::Failed { status: error.status, limit: error.limit });
    }

    /// What was said since the last call.
    pub fn take(&mut self) -> Vec<Said> {
        std::mem::take(&mut self.said)
    }

    /// What was written since the last call.
    pub fn written(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.out)).into_owned()
    }

    pub fn unread(&self) -> usize {
        self.pending.len()
    }
}

fn note(said: &mut Vec<Said>, event: &Event<'_>, head: &Head) {
    match *event {
        Event::Head { stream, end } => said.push(Said::Head { id: stream.id, end, head: text(head) }),
        Event::Interim { .. } => said.push(Said::Interim(text(head))),
        Event::Data { data, flow, end, .. } => {
            assert_eq!(flow, 0);
            match said.last_mut() {
                _ if data.is_empty() => assert!(end, "data that is empty and no end"),
                Some(Said::Data(before)) => before.extend_from_slice(data),
                _ => said.push(Said::Data(data.to_vec())),
            }
            if end {
                said.push(Said::End);
            }
        }
        Event::Trailers { .. } => said.push(Said::Trailers(text(head))),
        Event::Writable { .. } => said.push(Said::Writable),
        ref other => panic!("{other:?} in HTTP/1.1"),
    }
}

/// What a server says of these octets, the same whether they come at once or one by one.
pub(super) fn served(input: &[u8]) -> Vec<Said> {
    served_with(input, &Limits::default())
}

pub(super) fn served_with(input: &[u8], limits: &Limits) -> Vec<Said> {
    let whole = server_with(limits.clone()).answering().feed(input).take();
    let mut dribbled = server_with(limits.clone()).answering();
    for octet in input {
        if matches!(dribbled.said.last(), Some(Said::Failed { .. })) {
            break;
        }
        dribbled.feed(&[*octet]);
    }
    assert_eq!(whole, dribbled.take(), "split: {}", input.escape_ascii());
    whole
}

/// The head of the one request without content that these octets are.
#[track_caller]
pub(super) fn accepted(input: &str) -> String {
    match &served(input.as_bytes())[..] {
        [Said::Head { head, .. }] => head.clone(),
        other => panic!("{input:?}: {other:?}"),
    }
}

/// The status with which these octets are refused before any request of them is seen.
#[track_caller]
pub(super) fn refused(input: &str) -> u16 {
    match served(input.as_bytes())[..] {
        [Said::Failed { status, .. }] => status,
        ref other => panic!("{:?}: {other:?}", input),
    }
}

/// The limit and the status with which these octets are refused.
#[track_caller]
pub(super) fn limited(input: &str, limits: &Limits) -> (Limit, u16) {
    match served_with(input.as_bytes(), limits).last() {
        Some(&Said::Failed { status, limit: Some(limit) }) => (limit, status),
        other => panic!("{input:?}: {other:?}"),
    }
}

/// What a client says of these octets as the answer to this request, the same however they are split.
pub(super) fn answered(head: &Head, input: &[u8]) -> Vec<Said> {
    use crate::codec::Client as _;
    let run = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut end = client();
        end.codec.open(head, true, &mut Vec::new()).expect("a new connection takes a request");
        for piece in pieces {
            if !matches!(end.said.last(), Some(Said::Failed { .. })) {
                end.feed(piece);
            }
        }
        end.take()
    };
    let whole = run(&mut std::iter::once(input));
    assert_eq!(whole, run(&mut input.chunks(1)), "split: {}", input.escape_ascii());
    whole
}
