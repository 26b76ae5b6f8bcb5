//! The seam between a version of HTTP and the engine.

use crate::error::{Error, Reset};
use crate::head::Head;

/// A stream of one connection: the codec's slot for it, and the number it has on the wire (HTTP/2), or its sequence
/// number on the connection (HTTP/1.1, slot 0, from 1).
///
/// Slots are dense from zero and reused, so that a caller may index a table of its own by them. Every method ignores a
/// stream that is gone (its slot holds another number).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId {
    pub slot: u32,
    pub id: u32,
}

/// What one call of [`Codec::receive`] found.
#[derive(Debug, PartialEq, Eq)]
pub struct Step<'i> {
    /// Octets of the input that are done with. The caller passes the rest again, with what follows.
    pub consumed: usize,
    /// `None`: nothing more can be said of this input. More octets are needed, or (HTTP/1.1) the exchange under way must
    /// end first, see [`Codec::is_blocked`].
    pub event: Option<Event<'i>>,
}

/// What the peer said.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'i> {
    /// A request's head (server role), or the final response's head (client role), is complete in the [`Head`] that was
    /// passed in. `end`: no body and no trailers follow.
    Head { stream: StreamId, end: bool },
    /// Client role: an informational response (1xx except 101) is in the [`Head`].
    Interim { stream: StreamId },
    /// Octets of a body or a tunnel. `data` may be empty when `end`. `flow` is what this costs in flow control, padding
    /// included: give it back with [`Codec::release`] once the octets have left (always 0 in HTTP/1.1).
    Data { stream: StreamId, data: &'i [u8], flow: u32, end: bool },
    /// Trailers are in the [`Head`] (fields only); they end the stream's incoming side.
    Trailers { stream: StreamId },
    /// The stream is over in both directions: the peer reset it, or broke a rule and the codec did. The slot is free.
    Reset { stream: StreamId, reset: Reset },
    /// There is room to send again on this stream, or (`None`) on any stream of the connection.
    Writable { stream: Option<StreamId> },
    /// The peer will process no stream above `last`: those were not, and never will be, begun (RFC 9113 §6.8). Each of
    /// them is also reported as [`Event::Reset`] with `unprocessed`. Those at or below go on. No stream can be opened.
    GoAway { last: u32, code: u32 },
    /// The peer's settings arrived or changed.
    Settings,
    /// A ping of ours was answered.
    Pong { payload: [u8; 8] },
}

/// Octets of a body on their way out.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// To be copied into the output.
    Here(&'a [u8]),
    /// So many octets that the caller has and sends itself, from where they are, at the place that [`Framed`] says.
    Elsewhere(usize),
}

impl Payload<'_> {
    pub(crate) fn len(self) -> usize {
        match self {
            Payload::Here(data) => data.len(),
            Payload::Elsewhere(len) => len,
        }
    }

    /// Puts the first `len` octets into `out`, or says that they belong there.
    pub(crate) fn put(self, len: usize, out: &mut Vec<u8>) -> Place {
        match self {
            Payload::Here(data) => {
                out.extend_from_slice(&data[..len]);
                Place::default()
            }
            Payload::Elsewhere(_) => Place { at: out.len(), len },
        }
    }
}

/// Where octets belong that are not in the output themselves: the next `len` of them go in front of `out[at]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub at: usize,
    pub len: usize,
}

/// What became of a [`Payload`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framed {
    /// Octets that are done with.
    pub taken: usize,
    /// Of these, where those of [`Payload::Elsewhere`] go. Fewer than were taken where the rest is dropped.
    pub place: Place,
}

impl Framed {
    /// Done with, and sent nowhere.
    pub(crate) fn dropped(taken: usize) -> Framed {
        Framed { taken, place: Place::default() }
    }
}

/// One connection's HTTP, in either role.
///
/// All output is appended to `out`; what the codec must say by itself (settings, acknowledgements, window updates,
/// resets, GOAWAY) is appended too, in any call that takes `out`. Nothing here blocks, waits or reads a clock.
pub trait Codec {
    /// Reads from the front of `input` up to the next event. Call again with the rest until `event` is `None`.
    ///
    /// `head` is scratch space of the caller: it is cleared and filled when the event is `Head`, `Interim` or `Trailers`
    /// (and may hold a partial block in no other case).
    ///
    /// # Errors
    /// The connection cannot go on. HTTP/2 has already put a GOAWAY into `out`. In HTTP/1.1's server role
    /// [`Error::status`] is the answer to give (if no response has begun) before closing.
    fn receive<'i>(&mut self, input: &'i [u8], head: &mut Head, out: &mut Vec<u8>) -> Result<Step<'i>, Error>;

    /// The peer sent its FIN. May end a body that is delimited by it, or a tunnel: `Some(Data { end: true, .. })`.
    ///
    /// # Errors
    /// The peer stopped in the middle of a message.
    fn receive_end(&mut self, out: &mut Vec<u8>) -> Result<Option<Event<'static>>, Error>;

    /// Server role: sends a response head, informational (1xx) or final. `end`: no body follows. In HTTP/1.1 the framing
    /// is chosen here: `content_length`, else chunked, else (HTTP/1.0) by closing; a body that may not be there (HEAD,
    /// 204, 304) is dropped by the codec.
    fn send_head(&mut self, stream: StreamId, head: &Head, end: bool, out: &mut Vec<u8>);

    /// How many octets [`send_data`](Codec::send_data) would take now (`usize::MAX` in HTTP/1.1).
    fn capacity(&self, stream: StreamId) -> usize;

    /// Sends a prefix of `payload`, as much as the windows allow, and of octets that are elsewhere no more than fit into one
    /// frame; the caller offers the rest again, after [`Event::Writable`] where nothing was taken. `end` takes effect only when
    /// all of it was taken. An empty one with `end` always is.
    fn send_payload(&mut self, stream: StreamId, payload: Payload<'_>, end: bool, out: &mut Vec<u8>) -> Framed;

    /// Sends a prefix of `data`, as much as the windows allow, and returns its length; the caller offers the rest again after
    /// [`Event::Writable`]. `end` takes effect only when all of `data` was taken. An empty `data` with `end` always is.
    fn send_data(&mut self, stream: StreamId, data: &[u8], end: bool, out: &mut Vec<u8>) -> usize {
        self.send_payload(stream, Payload::Here(data), end, out).taken
    }

    /// Sends trailers and ends our side. (HTTP/1.1: the end of a chunked body; dropped where the framing has no place.)
    fn send_trailers(&mut self, stream: StreamId, trailers: &Head, out: &mut Vec<u8>);

    /// Ends the stream in both directions at once. HTTP/2: RST_STREAM; the slot is free. HTTP/1.1: the connection cannot
    /// be used further, [`is_finished`](Codec::is_finished) turns true.
    fn reset(&mut self, stream: StreamId, reset: Reset, out: &mut Vec<u8>);

    /// Gives back the stream-level flow-control credit of `flow` octets that have left (HTTP/2; connection-level credit is
    /// given back on receipt by the codec itself). Batched inside.
    fn release(&mut self, stream: StreamId, flow: u32, out: &mut Vec<u8>);

    /// HTTP/2: from now on the peer may have `window` octets of this stream outstanding (it only grows). HTTP/1.1: nothing.
    fn grow_window(&mut self, stream: StreamId, window: u32, out: &mut Vec<u8>);

    /// Graceful end, which loses no request that is on its way. HTTP/2's server says so with a GOAWAY that refuses nothing
    /// and a PING; once that has come back, what was sent before the peer knew has come too, and the last GOAWAY names the
    /// last stream (RFC 9113 §6.8). HTTP/1.1's server says `Connection: close` in the next response. A client uses the
    /// connection no further.
    fn go_away(&mut self, out: &mut Vec<u8>);

    /// As [`go_away`](Codec::go_away), and no stream is taken from now on: for a peer that had its time to hear.
    fn go_away_now(&mut self, out: &mut Vec<u8>) {
        self.go_away(out);
    }

    /// It is this second of a clock of the caller's that never goes back: what is bounded in a while is counted anew by it. Without it
    /// such counts are for good.
    fn at_second(&mut self, _second: u32) {}

    /// Sends a PING (HTTP/2); `false` where the version has none.
    fn ping(&mut self, payload: [u8; 8], out: &mut Vec<u8>) -> bool;

    /// No octet of any body goes out before the peer gives the connection credit ([`Event::Writable`] without a stream).
    fn is_spent(&self) -> bool {
        false
    }

    /// Streams open now, in either direction.
    fn active(&self) -> usize;

    /// HTTP/1.1 server role: the next request waits in the input until the exchange under way has ended. Keep the input,
    /// stop reading when it grows, and call [`receive`](Codec::receive) again when the response has been sent.
    fn is_blocked(&self) -> bool;

    /// No further stream will be carried: the connection is to be closed once everything in `out` has been sent and
    /// [`active`](Codec::active) is 0.
    fn is_finished(&self) -> bool;
}

/// The client role's addition.
pub trait Client: Codec {
    /// How many more requests may be opened now (the peer's limit, stream numbers left, GOAWAY). HTTP/1.1: 1 or 0.
    fn available(&self) -> usize;

    /// Sends a request's head; the response comes as events of the returned stream. `None` when
    /// [`available`](Client::available) is 0, or when the head needs what the peer lacks (extended CONNECT without
    /// SETTINGS_ENABLE_CONNECT_PROTOCOL).
    fn open(&mut self, head: &Head, end: bool, out: &mut Vec<u8>) -> Option<StreamId>;
}
