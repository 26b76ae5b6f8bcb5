//! The outgoing side of a message after its head.

use super::write;
use crate::codec::{Payload, Place};
use crate::head::Head;

/// How content that is handed to us is framed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Outgoing {
    /// The final head has not been sent.
    #[default]
    Waiting,
    /// This many octets are still owed.
    Length(u64),
    Chunked,
    UntilClose,
    /// Content that may not be there (HEAD, 204, 304): dropped.
    Dropped,
    /// A tunnel has been asked for and not granted: nothing is taken.
    Held,
    Tunnel,
    /// Our side is over.
    Ended,
}

/// How a call left the framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// In order; more may follow, or the message ended well.
    Well,
    /// The message is complete, but more was offered than its head declared: the connection must not be reused.
    TooMuch,
    /// Our side ended, and the peer still waits for what the head declared: the connection must be cut.
    TooLittle,
}

impl Outgoing {
    /// Whether it takes content.
    pub fn is_open(self) -> bool {
        !matches!(self, Outgoing::Waiting | Outgoing::Held | Outgoing::Ended)
    }

    /// Frames content; says where it belongs if it is elsewhere.
    pub fn data(&mut self, payload: Payload<'_>, end: bool, out: &mut Vec<u8>) -> (Sent, Place) {
        let len = payload.len();
        let mut place = Place::default();
        match self {
            Outgoing::Length(left) => {
                let fits = usize::try_from(*left).unwrap_or(usize::MAX).min(len);
                place = payload.put(fits, out);
                *left -= fits as u64;
                if fits < len {
                    *self = Outgoing::Ended;
                    return (Sent::TooMuch, place);
                }
            }
            Outgoing::Chunked if len > 0 => {
                write::hex(len, out);
                out.extend_from_slice(b"\r\n");
                place = payload.put(len, out);
                out.extend_from_slice(b"\r\n");
            }
            Outgoing::UntilClose | Outgoing::Tunnel => place = payload.put(len, out),
            _ => {}
        }
        (if end { self.end(None, out) } else { Sent::Well }, place)
    }

    /// Ends our side, with trailers where there are any and the framing has a place for them.
    pub fn end(&mut self, trailers: Option<&Head>, out: &mut Vec<u8>) -> Sent {
        match std::mem::replace(self, Outgoing::Ended) {
            Outgoing::Length(left) if left > 0 => return Sent::TooLittle,
            Outgoing::Chunked => {
                out.extend_from_slice(b"0\r\n");
                if let Some(trailers) = trailers {
                    write::trailers(trailers, out);
                }
                out.extend_from_slice(b"\r\n");
            }
            _ => {}
        }
        Sent::Well
    }
}
