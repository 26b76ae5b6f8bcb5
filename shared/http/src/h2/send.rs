//! Frames out, and the [`Codec`] and [`Client`](crate::Client) that callers see.

use super::connection::{ClientRole, Connection, Reading, Role, SEND_FRAME_MAX};
use super::frame::{self, FrameHead, WINDOW_MAX};
use super::hpack::Which;
use super::streams::Side;
use crate::codec::{self, Codec, Event, Framed, Payload, Place, Step, StreamId};
use crate::error::{Error, Reset, code};
use crate::head::{Head, Method, Name, Scheme};

impl<R: Role> Connection<R> {
    /// Leaves room for a frame's head and begins a block.
    fn begin_block(&mut self, out: &mut Vec<u8>) -> usize {
        let from = out.len();
        out.extend_from_slice(&[0; frame::HEAD]);
        self.encoder.begin(out);
        from
    }

    /// Makes the block since `from` a HEADERS frame, and CONTINUATIONs where it is too long for one.
    fn end_block_out(&mut self, from: usize, id: u32, end: bool, out: &mut Vec<u8>) {
        let max = self.peer.frame_bytes_max as usize;
        let len = out.len() - from - frame::HEAD;
        let end_stream = if end { frame::END_STREAM } else { 0 };
        if len > max {
            let block = out.split_off(from + frame::HEAD);
            out.truncate(from);
            let mut kind = frame::HEADERS;
            let mut chunks = block.chunks(max).peekable();
            while let Some(chunk) = chunks.next() {
                let flags = if chunks.peek().is_none() { frame::END_HEADERS } else { 0 };
                let flags = if kind == frame::HEADERS { flags | end_stream } else { flags };
                frame::put(out, kind, flags, id, chunk);
                kind = frame::CONTINUATION;
            }
            return;
        }
        let flags = frame::END_HEADERS | end_stream;
        let head = FrameHead { len: len as u32, kind: frame::HEADERS, flags, id };
        out[from..from + frame::HEAD].copy_from_slice(&head.octets());
    }

    fn put_fields(&mut self, head: &Head, out: &mut Vec<u8>) {
        for field in head.fields() {
            let which = Which::of(field.id);
            if field.never_indexed {
                self.encoder.never_indexed(which, field.name, field.value, out);
            } else {
                self.encoder.field(which, field.name, field.value, out);
            }
        }
    }

    fn put_content_length(&mut self, length: u64, out: &mut Vec<u8>) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = length;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.encoder.field(Which::of(Name::ContentLength), b"content-length", &digits[at..], out);
    }

    fn put_status(&mut self, status: u16, out: &mut Vec<u8>) {
        let index = match status {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => {
                let digits = [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8);
                return self.encoder.field(Which::STATUS, b":status", &digits, out);
            }
        };
        self.encoder.static_field(index, out);
    }

    /// A response of nothing but its status.
    pub(super) fn put_bare_response(&mut self, id: u32, status: u16, out: &mut Vec<u8>) {
        let from = self.begin_block(out);
        self.put_status(status, out);
        self.end_block_out(from, id, true, out);
    }

    fn put_request(&mut self, head: &Head, out: &mut Vec<u8>) {
        match head.method {
            Method::Get => self.encoder.static_field(2, out),
            Method::Post => self.encoder.static_field(3, out),
            _ => self.encoder.field(Which::METHOD, b":method", head.method_bytes(), out),
        }
        if !head.is_connect() || !head.protocol().is_empty() {
            let scheme = if head.scheme == Scheme::Https { 7 } else { 6 };
            self.encoder.static_field(scheme, out);
            match head.path() {
                b"/" => self.encoder.static_field(4, out),
                path => self.encoder.field(Which::PATH, b":path", path, out),
            }
        }
        if !head.authority().is_empty() {
            self.encoder.field(Which::AUTHORITY, b":authority", head.authority(), out);
        }
        if !head.protocol().is_empty() {
            self.encoder.field(Which::PROTOCOL, b":protocol", head.protocol(), out);
        }
        if let Some(length) = head.content_length.filter(|_| !head.is_connect()) {
            self.put_content_length(length, out);
        }
        self.put_fields(head, out);
    }

    /// Whether any of the two windows is empty.
    fn room(&self, stream_window: i32) -> usize {
        i64::from(stream_window).min(self.send_window).max(0) as usize
    }

    /// Gives back `flow` octets of stream credit, once half of the window is owed.
    pub(super) fn give_back(&mut self, id: StreamId, flow: u32, out: &mut Vec<u8>) {
        let Some(stream) = self.streams.get_mut(id).filter(|stream| stream.recv == Side::Body) else { return };
        stream.owed = stream.owed.saturating_add(flow);
        if i64::from(stream.owed) * 2 >= i64::from(stream.recv_target) && stream.owed > 0 {
            stream.recv_window = stream.recv_window.saturating_add_unsigned(stream.owed);
            frame::put_u32(out, frame::WINDOW_UPDATE, id.id, stream.owed);
            stream.owed = 0;
        }
    }

    /// DATA frames for `payload`, which fits the windows, and into one frame if it is elsewhere.
    fn put_data(&mut self, id: u32, payload: Payload<'_>, end: bool, out: &mut Vec<u8>) -> Place {
        let flags = |last| if end && last { frame::END_STREAM } else { 0 };
        match payload {
            Payload::Here(data) => {
                let mut rest = data;
                loop {
                    let (chunk, after) = rest.split_at(rest.len().min(self.data_bytes_max()));
                    rest = after;
                    frame::put(out, frame::DATA, flags(rest.is_empty()), id, chunk);
                    if rest.is_empty() {
                        return Place::default();
                    }
                }
            }
            Payload::Elsewhere(len) => {
                let head = FrameHead { len: len as u32, kind: frame::DATA, flags: flags(true), id };
                out.extend_from_slice(&head.octets());
                payload.put(len, out)
            }
        }
    }

    /// Octets of one DATA frame.
    fn data_bytes_max(&self) -> usize {
        self.peer.frame_bytes_max.min(SEND_FRAME_MAX) as usize
    }
}

impl<R: Role> Codec for Connection<R> {
    fn receive<'i>(&mut self, input: &'i [u8], head: &mut Head, out: &mut Vec<u8>) -> Result<Step<'i>, Error> {
        self.read(input, head, out)
    }

    #[inline]
    fn at_second(&mut self, second: u32) {
        self.guard.at_second(second, &self.limits);
    }

    fn receive_end(&mut self, _out: &mut Vec<u8>) -> Result<Option<Event<'static>>, Error> {
        if let Some(error) = self.dead {
            return Err(error);
        }
        self.ended = true;
        if self.streams.active() == 0
            && self.gathering.is_none()
            && matches!(self.reading, Reading::Frame | Reading::Preface(0))
        {
            return Ok(None);
        }
        let reason = "the peer closed the connection in the middle of it";
        let status = if R::SERVER { 400 } else { 502 };
        let error = Error { status, code: code::NO_ERROR, reason, limit: None };
        self.dead = Some(error);
        Err(error)
    }

    fn send_head(&mut self, id: StreamId, head: &Head, end: bool, out: &mut Vec<u8>) {
        if self.dead.is_some() {
            return;
        }
        self.guard.look(out);
        let Some(stream) = self.streams.get_mut(id).filter(|stream| stream.send == Side::Head) else { return };
        let interim = head.status < 200;
        let end = end && !interim;
        let tunnel = stream.connect && (200..300).contains(&head.status);
        if !interim {
            stream.send = if end { Side::Done } else { Side::Body };
            stream.bodiless |= head.status == 204 || head.status == 304;
        }
        let from = self.begin_block(out);
        self.put_status(head.status, out);
        if let Some(length) = head.content_length.filter(|_| !interim && !tunnel && head.status != 204) {
            self.put_content_length(length, out);
        }
        self.put_fields(head, out);
        self.end_block_out(from, id.id, end, out);
        self.close_if_done(id.slot);
        self.guard.left(out);
    }

    fn capacity(&self, id: StreamId) -> usize {
        match self.streams.get(id) {
            Some(stream) if !stream.bodiless || !R::SERVER => self.room(stream.send_window),
            // Nothing is sent, so everything can be.
            _ => usize::MAX,
        }
    }

    fn send_payload(&mut self, id: StreamId, payload: Payload<'_>, end: bool, out: &mut Vec<u8>) -> Framed {
        let len = payload.len();
        if self.dead.is_some() {
            return Framed::dropped(len);
        }
        self.guard.look(out);
        let Some(stream) = self.streams.get(id).filter(|stream| stream.send == Side::Body) else {
            return Framed::dropped(len);
        };
        let bodiless = R::SERVER && stream.bodiless;
        let room = match payload {
            _ if bodiless => usize::MAX,
            Payload::Here(_) => self.room(stream.send_window),
            Payload::Elsewhere(_) => self.room(stream.send_window).min(self.data_bytes_max()),
        };
        let taken = len.min(room);
        let end = end && taken == len;
        if (taken == 0 || bodiless) && !end {
            return Framed::dropped(taken);
        }
        let payload = match payload {
            _ if bodiless => Payload::Here(&[]),
            Payload::Here(data) => Payload::Here(&data[..taken]),
            Payload::Elsewhere(_) => Payload::Elsewhere(taken),
        };
        let place = self.put_data(id.id, payload, end, out);
        let sent = payload.len();
        self.send_window -= sent as i64;
        let stream = self.streams.at(id.slot);
        stream.send_window -= sent as i32;
        if end {
            stream.send = Side::Done;
            self.close_if_done(id.slot);
        }
        self.guard.left(out);
        Framed { taken, place }
    }

    fn send_trailers(&mut self, id: StreamId, trailers: &Head, out: &mut Vec<u8>) {
        if self.dead.is_some() {
            return;
        }
        self.guard.look(out);
        let Some(stream) = self.streams.get_mut(id).filter(|stream| stream.send == Side::Body) else { return };
        stream.send = Side::Done;
        // A tunnel has none (RFC 9113 §8.5), and an empty block is no trailers.
        if stream.connect || trailers.field_count() == 0 {
            self.put_data(id.id, Payload::Here(&[]), true, out);
        } else {
            let from = self.begin_block(out);
            self.put_fields(trailers, out);
            self.end_block_out(from, id.id, true, out);
        }
        self.close_if_done(id.slot);
        self.guard.left(out);
    }

    fn reset(&mut self, id: StreamId, reset: Reset, out: &mut Vec<u8>) {
        if self.dead.is_some() || self.streams.get(id).is_none() {
            return;
        }
        self.guard.look(out);
        self.streams.remove(id.slot);
        self.put_reset(id.id, reset.code, out);
        self.guard.left(out);
    }

    fn release(&mut self, id: StreamId, flow: u32, out: &mut Vec<u8>) {
        if self.dead.is_some() {
            return;
        }
        self.guard.look(out);
        self.give_back(id, flow, out);
        self.guard.left(out);
    }

    fn grow_window(&mut self, id: StreamId, window: u32, out: &mut Vec<u8>) {
        if self.dead.is_some() {
            return;
        }
        self.guard.look(out);
        let window = i64::from(window).min(WINDOW_MAX) as i32;
        let Some(stream) = self.streams.get_mut(id).filter(|stream| stream.recv != Side::Done) else { return };
        if window > stream.recv_target {
            let more = (window - stream.recv_target) as u32;
            stream.recv_target = window;
            // Before the peer has our settings its window may exceed ours; it must not pass the maximum.
            let more = more.min((i32::MAX - stream.recv_window.max(0)) as u32);
            if more > 0 {
                stream.recv_window = stream.recv_window.saturating_add_unsigned(more);
                frame::put_u32(out, frame::WINDOW_UPDATE, id.id, more);
            }
        }
        self.guard.left(out);
    }

    fn go_away(&mut self, out: &mut Vec<u8>) {
        if !R::SERVER {
            return self.go_away_now(out);
        }
        if self.dead.is_some() || self.leaving {
            return;
        }
        self.leaving = true;
        self.guard.look(out);
        self.start(out);
        put_go_away(ID_MAX, out);
        frame::put(out, frame::PING, 0, 0, &LEAVING);
        self.guard.left(out);
    }

    fn go_away_now(&mut self, out: &mut Vec<u8>) {
        if self.dead.is_some() || self.said_last.is_some() {
            return;
        }
        self.leaving = true;
        self.guard.look(out);
        self.start(out);
        self.say_last(out);
        self.guard.left(out);
    }

    fn ping(&mut self, payload: [u8; 8], out: &mut Vec<u8>) -> bool {
        if self.dead.is_some() {
            return false;
        }
        self.guard.look(out);
        self.start(out);
        frame::put(out, frame::PING, 0, 0, &payload);
        self.pings += 1;
        self.guard.left(out);
        true
    }

    fn active(&self) -> usize {
        self.streams.active()
    }

    fn is_spent(&self) -> bool {
        self.send_window <= 0
    }

    fn is_blocked(&self) -> bool {
        false
    }

    fn is_finished(&self) -> bool {
        self.dead.is_some()
            || self.ended
            || self.said_last.is_some()
            // A client's GOAWAY is about pushed streams: its own may go on, and the end is its to make.
            || (!R::SERVER && (self.heard_last.is_some() || self.last_id >= ID_MAX))
    }
}

impl<R: Role> Connection<R> {
    /// Whether the peer has been told that the connection ends.
    pub fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// The GOAWAY that is meant: streams above the last are not looked at.
    pub(super) fn say_last(&mut self, out: &mut Vec<u8>) {
        let last = if R::SERVER { self.last_id } else { 0 };
        self.said_last = Some(last);
        put_go_away(last, out);
    }
}

fn put_go_away(last: u32, out: &mut Vec<u8>) {
    let mut payload = [0; 8];
    payload[..4].copy_from_slice(&last.to_be_bytes());
    frame::put(out, frame::GOAWAY, 0, 0, &payload);
}

/// The last number that a client's stream can have.
const ID_MAX: u32 = 0x7fff_ffff;

/// From this number on a server tells its client to go on elsewhere (RFC 9113 §5.1.1), who has numbers left for what he asks
/// before he has read it.
pub(super) const ID_LEAVE: u32 = ID_MAX - 20_000;

/// What the PING carries that asks whether the peer has read our first GOAWAY.
pub(super) const LEAVING: [u8; 8] = *b"leaving.";

impl codec::Client for Connection<ClientRole> {
    fn available(&self) -> usize {
        if self.is_finished() {
            return 0;
        }
        let numbers = match self.last_id {
            0 => (ID_MAX - self.limits.stream_first) / 2 + 1,
            last => (ID_MAX - last) / 2,
        } as usize;
        (self.peer.streams_max as usize).saturating_sub(self.streams.active()).min(numbers)
    }

    fn open(&mut self, head: &Head, end: bool, out: &mut Vec<u8>) -> Option<StreamId> {
        if self.available() == 0 || (!head.protocol().is_empty() && !self.peer.connect_protocol) {
            return None;
        }
        self.guard.look(out);
        self.start(out);
        let id = if self.last_id == 0 { self.limits.stream_first } else { self.last_id + 2 };
        self.last_id = id;
        self.guard.opened();
        let mut opened = self.new_stream(id, Side::Head, if end { Side::Done } else { Side::Body });
        opened.bodiless = head.method == Method::Head;
        opened.connect = head.is_connect();
        let stream = self.streams.insert(opened);
        let from = self.begin_block(out);
        self.put_request(head, out);
        self.end_block_out(from, id, end, out);
        self.guard.left(out);
        Some(stream)
    }
}
