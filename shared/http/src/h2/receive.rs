//! Frames in: the reader, and DATA.

use super::connection::{Connection, Reading, Role};
use super::frame::{self, FrameHead};
use super::streams::{Side, UNDECLARED};
use crate::codec::{Event, Step, StreamId};
use crate::error::{Error, Reset, code};
use crate::head::Head;
use crate::limits::Limit;

/// What became of some input.
#[derive(Debug)]
pub(super) enum Progress<'i> {
    /// More must arrive.
    Wait,
    /// So many octets are done with.
    Took(usize),
    /// So many octets are done with, and there is something to say.
    Event(usize, Event<'i>),
}

impl<'i> Progress<'i> {
    pub(super) fn of(took: usize, event: Option<Event<'i>>) -> Progress<'i> {
        event.map_or(Progress::Took(took), |event| Progress::Event(took, event))
    }
}

impl<R: Role> Connection<R> {
    pub(super) fn read<'i>(&mut self, input: &'i [u8], head: &mut Head, out: &mut Vec<u8>) -> Result<Step<'i>, Error> {
        if let Some(error) = self.dead {
            return Err(error);
        }
        self.guard.look(out);
        self.start(out);
        let mut at = 0;
        loop {
            // Not before a SETTINGS frame has been applied whole.
            if self.pending.any
                && !matches!(self.reading, Reading::Settings { .. })
                && let Some(event) = self.next_pending()
            {
                return Ok(Step { consumed: at, event: Some(event) });
            }
            let input = &input[at..];
            let progress = match self.reading {
                Reading::Frame => self.read_frame(input, head, out)?,
                Reading::Data { .. } => self.read_data(input),
                Reading::Fragment { left, padding, end_headers } => {
                    self.read_fragment(input, (left, padding, end_headers), head, out)?
                }
                Reading::Settings { left } => self.read_settings(input, left, out)?,
                Reading::Skip(left) => {
                    let took = input.len().min(left as usize);
                    self.reading =
                        if took == left as usize { Reading::Frame } else { Reading::Skip(left - took as u32) };
                    if took == 0 && left > 0 { Progress::Wait } else { Progress::Took(took) }
                }
                Reading::Preface(matched) => self.read_preface(input, matched, out)?,
            };
            match progress {
                Progress::Took(took) => at += took,
                Progress::Event(took, event) => return Ok(Step { consumed: at + took, event: Some(event) }),
                Progress::Wait => return Ok(Step { consumed: at, event: None }),
            }
        }
    }

    fn next_pending(&mut self) -> Option<Event<'static>> {
        if let Some((last, slot)) = self.pending.sweep {
            if let Some(stream) = self.streams.above(last, slot) {
                self.pending.sweep = Some((last, stream.slot + 1));
                self.streams.remove(stream.slot);
                let reason = "above the last stream of GOAWAY";
                let reset = Reset { code: code::NO_ERROR, by_peer: true, unprocessed: true, reason, limit: None };
                return Some(Event::Reset { stream, reset });
            }
            self.pending.sweep = None;
        }
        if self.pending.writable {
            self.pending.writable = false;
            return Some(Event::Writable { stream: None });
        }
        self.pending.any = false;
        None
    }

    fn read_preface(&mut self, input: &[u8], matched: usize, out: &mut Vec<u8>) -> Result<Progress<'static>, Error> {
        let rest = &frame::PREFACE[matched..];
        let took = rest.len().min(input.len());
        if input[..took] != rest[..took] {
            return Err(self.fail(out, code::PROTOCOL_ERROR, "not HTTP/2: the preface differs", None));
        }
        if took < rest.len() {
            self.reading = Reading::Preface(matched + took);
            return Ok(if took == 0 { Progress::Wait } else { Progress::Took(took) });
        }
        self.reading = Reading::Frame;
        Ok(Progress::Took(took))
    }

    fn read_frame<'i>(&mut self, input: &'i [u8], head: &mut Head, out: &mut Vec<u8>) -> Result<Progress<'i>, Error> {
        let Some(octets) = input.first_chunk() else { return Ok(Progress::Wait) };
        let frame = FrameHead::parse(octets);
        let body = &input[frame::HEAD..];
        if frame.len > self.frame_bytes_max() {
            let limit = Some(Limit::FrameBytes);
            return Err(self.fail(out, code::FRAME_SIZE_ERROR, "frame is larger than announced", limit));
        }
        if self.gathering.is_some() != (frame.kind == frame::CONTINUATION) {
            return Err(self.fail(out, code::PROTOCOL_ERROR, "CONTINUATION is missing or out of place", None));
        }
        if !self.peer.settled && (frame.kind != frame::SETTINGS || frame.has(frame::ACK)) {
            return Err(self.fail(out, code::PROTOCOL_ERROR, "the first frame is not SETTINGS", None));
        }
        match frame.kind {
            frame::DATA => self.begin_data(frame, body, out),
            frame::HEADERS => self.begin_headers(frame, body, head, out),
            frame::CONTINUATION => self.begin_continuation(frame, out),
            _ => self.control(frame, body, out),
        }
    }

    /// A frame's head and the pad length after it, if any: octets of them, content, padding. `None`: wait.
    pub(super) fn padding(
        &mut self,
        frame: FrameHead,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<(usize, u32, u32)>, Error> {
        if !frame.has(frame::PADDED) {
            return Ok(Some((frame::HEAD, frame.len, 0)));
        }
        if frame.len == 0 {
            return Err(self.fail(out, code::FRAME_SIZE_ERROR, "padded frame without a pad length", None));
        }
        let Some(&padding) = body.first() else { return Ok(None) };
        let padding = u32::from(padding);
        if padding >= frame.len {
            return Err(self.fail(out, code::PROTOCOL_ERROR, "padding is longer than its frame", None));
        }
        Ok(Some((frame::HEAD + 1, frame.len - 1 - padding, padding)))
    }

    fn begin_data<'i>(&mut self, frame: FrameHead, body: &[u8], out: &mut Vec<u8>) -> Result<Progress<'i>, Error> {
        if frame.id == 0 {
            return Err(self.fail(out, code::PROTOCOL_ERROR, "DATA on stream 0", None));
        }
        let Some((took, left, padding)) = self.padding(frame, body, out)? else { return Ok(Progress::Wait) };
        self.charge_connection(frame.len, out)?;
        let end = frame.has(frame::END_STREAM);
        let Some(slot) = self.streams.find(frame.id) else {
            self.check_closed(frame.id, out)?;
            if left == 0 {
                self.count_control(out)?;
            }
            self.reading = Reading::Skip(left + padding);
            return Ok(Progress::Took(took));
        };
        let id = StreamId { slot, id: frame.id };
        let stream = self.streams.at(slot);
        let fault = match stream.recv {
            Side::Head => Some(Reset::ours(code::PROTOCOL_ERROR, "DATA before the response's head")),
            Side::Done => Some(Reset::ours(code::STREAM_CLOSED, "DATA after the end of the stream")),
            Side::Body if i64::from(frame.len) > i64::from(stream.recv_window) => {
                let limit = Some(Limit::StreamWindow);
                Some(Reset { limit, ..Reset::ours(code::FLOW_CONTROL_ERROR, "DATA beyond the stream's window") })
            }
            Side::Body if stream.remaining != UNDECLARED => {
                let rest = stream.remaining.checked_sub(u64::from(left));
                stream.remaining = rest.unwrap_or(0);
                let wrong = rest.is_none_or(|rest| end && rest > 0);
                wrong.then_some(Reset::ours(code::PROTOCOL_ERROR, "body is not as long as content-length says"))
            }
            Side::Body => None,
        };
        if let Some(reset) = fault {
            self.reading = Reading::Skip(left + padding);
            return self.stream_error(id, reset, out).map(|event| Progress::Event(took, event));
        }
        stream.recv_window -= frame.len as i32;
        let overhead = frame.len - left;
        if left > 0 {
            self.guard.data();
        } else if !end {
            self.guard.empty_data(&self.limits).map_err(|limit| self.fail_limit(out, limit))?;
            self.give_back(id, overhead, out);
            self.reading = Reading::Skip(padding);
            return Ok(Progress::Took(took));
        }
        self.reading = Reading::Data { stream: id, left, padding, overhead, end };
        Ok(Progress::Took(took))
    }

    /// Takes a DATA frame from the connection's window, and gives back what is owed once that is half of it.
    fn charge_connection(&mut self, len: u32, out: &mut Vec<u8>) -> Result<(), Error> {
        self.recv_window -= i64::from(len);
        if self.recv_window < 0 {
            let limit = Some(Limit::ConnectionWindow);
            return Err(self.fail(out, code::FLOW_CONTROL_ERROR, "DATA beyond the connection's window", limit));
        }
        self.recv_owed += len;
        if i64::from(self.recv_owed) >= self.connection_window() / 2 {
            let from = out.len();
            frame::put_u32(out, frame::WINDOW_UPDATE, 0, self.recv_owed);
            self.recv_window += i64::from(self.recv_owed);
            self.recv_owed = 0;
            self.replied(from, out)?;
        }
        Ok(())
    }

    fn read_data<'i>(&mut self, input: &'i [u8]) -> Progress<'i> {
        let Reading::Data { stream, left, padding, overhead, end } = self.reading else { return Progress::Wait };
        let Some(found) = self.streams.get_mut(stream) else {
            // It was reset meanwhile.
            self.reading = Reading::Skip(left + padding);
            return Progress::Took(0);
        };
        let took = input.len().min(left as usize);
        if took == 0 && left > 0 {
            return Progress::Wait;
        }
        let left = left - took as u32;
        let end = end && left == 0;
        let event = Event::Data { stream, data: &input[..took], flow: took as u32 + overhead, end };
        if end {
            found.recv = Side::Done;
            self.close_if_done(stream.slot);
        }
        self.reading = match (left, padding) {
            (0, 0) => Reading::Frame,
            (0, padding) => Reading::Skip(padding),
            _ => Reading::Data {
                stream,
                left,
                padding,
                overhead: 0,
                end: matches!(self.reading, Reading::Data { end: true, .. }),
            },
        };
        Progress::Event(took, event)
    }

    /// A frame came for a stream that is not open: may it be ignored?
    ///
    /// # Errors
    /// The stream is idle, or it closed in a way that the peer knows of (RFC 9113 §5.1).
    pub(super) fn check_closed(&mut self, id: u32, out: &mut Vec<u8>) -> Result<(), Error> {
        if self.is_idle(id) {
            return Err(self.fail(out, code::PROTOCOL_ERROR, "frame on an idle stream", None));
        }
        if (self.skipped.0..self.skipped.1).contains(&id) {
            // Closed, but never a stream (RFC 9113 §5.1.1).
            return Err(self.fail(out, code::PROTOCOL_ERROR, "stream number below one that was used", None));
        }
        if self.recent.may_have(id) || self.is_refused(id) {
            return Ok(());
        }
        Err(self.fail(out, code::STREAM_CLOSED, "frame on a closed stream", None))
    }

    /// Whether this stream was never opened. Those with numbers that are the other side's to give stay so for ever.
    pub(super) fn is_idle(&self, id: u32) -> bool {
        id & 1 == 0 || id > self.last_id
    }

    /// Whether our GOAWAY said that this stream would not be processed.
    pub(super) fn is_refused(&self, id: u32) -> bool {
        R::SERVER && self.said_last.is_some_and(|last| id > last)
    }
}
