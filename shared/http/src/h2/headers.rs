//! HEADERS and CONTINUATION: a block is gathered where it must be, decoded whole, and becomes a head or trailers.

use std::rc::Rc;

use super::connection::{Connection, Gathering, Reading, Role};
use super::frame::{self, FrameHead};
use super::hpack::HpackError;
use super::message::{EXCESS, Kind, Message, Verdict};
use super::receive::Progress;
use super::send::ID_LEAVE;
use super::streams::{Side, Stream, UNDECLARED};
use crate::codec::{Codec, Event, StreamId};
use crate::error::{Error, Reset, code};
use crate::head::{Head, Method};
use crate::limits::Limit;

/// A gathering buffer that grew beyond this is freed after use; a smaller one is kept for the next block.
const BLOCK_KEPT: usize = 1024;

impl<R: Role> Connection<R> {
    pub(super) fn begin_headers<'i>(
        &mut self,
        frame: FrameHead,
        body: &'i [u8],
        head: &mut Head,
        out: &mut Vec<u8>,
    ) -> Result<Progress<'i>, Error> {
        if frame.id & 1 == 0 {
            return Err(self.fail(out, code::PROTOCOL_ERROR, "HEADERS on a stream that is not the client's", None));
        }
        let Some((mut took, mut left, padding)) = self.padding(frame, body, out)? else { return Ok(Progress::Wait) };
        if frame.has(frame::WITH_PRIORITY) {
            // Weights and dependencies are ignored (RFC 9113 §5.3.2).
            let Some(rest) = left.checked_sub(5) else {
                let (code, reason) = match padding {
                    0 => (code::FRAME_SIZE_ERROR, "HEADERS is too short for its priority"),
                    _ => (code::PROTOCOL_ERROR, "padding is longer than its frame"),
                };
                return Err(self.fail(out, code, reason, None));
            };
            left = rest;
            took += 5;
            if body.len() + frame::HEAD < took {
                return Ok(Progress::Wait);
            }
        }
        let gathering = Gathering { id: frame.id, end_stream: frame.has(frame::END_STREAM), continuations: 0 };
        let start = took - frame::HEAD;
        let end_headers = frame.has(frame::END_HEADERS);
        if end_headers && let Some(block) = body.get(start..start + left as usize) {
            self.reading = if padding > 0 { Reading::Skip(padding) } else { Reading::Frame };
            let event = self.end_block(gathering, block, head, out)?;
            return Ok(Progress::of(took + left as usize, event));
        }
        self.gathering = Some(gathering);
        self.reading = Reading::Fragment { left, padding, end_headers };
        Ok(Progress::Took(took))
    }

    pub(super) fn begin_continuation(
        &mut self,
        frame: FrameHead,
        out: &mut Vec<u8>,
    ) -> Result<Progress<'static>, Error> {
        let Some(gathering) = self.gathering.as_mut().filter(|gathering| gathering.id == frame.id) else {
            return Err(self.fail(out, code::PROTOCOL_ERROR, "CONTINUATION of another stream", None));
        };
        gathering.continuations += 1;
        if gathering.continuations > self.limits.continuations_max {
            return Err(self.fail_limit(out, Limit::Continuations));
        }
        let end_headers = frame.has(frame::END_HEADERS);
        self.reading = Reading::Fragment { left: frame.len, padding: 0, end_headers };
        Ok(Progress::Took(frame::HEAD))
    }

    pub(super) fn read_fragment<'i>(
        &mut self,
        input: &'i [u8],
        (left, padding, end_headers): (u32, u32, bool),
        head: &mut Head,
        out: &mut Vec<u8>,
    ) -> Result<Progress<'i>, Error> {
        let took = input.len().min(left as usize);
        // A block does not take more octets than it decodes to, but for the worst of Huffman codes.
        if self.block.len() + took > self.limits.head_bytes_max.saturating_mul(EXCESS) {
            return Err(self.fail_limit(out, Limit::HeadBytes));
        }
        self.block.extend_from_slice(&input[..took]);
        let left = left - took as u32;
        if left > 0 {
            self.reading = Reading::Fragment { left, padding, end_headers };
            return Ok(if took == 0 { Progress::Wait } else { Progress::Took(took) });
        }
        self.reading = if padding > 0 { Reading::Skip(padding) } else { Reading::Frame };
        if !end_headers {
            return Ok(Progress::Took(took));
        }
        let Some(gathering) = self.gathering.take() else { return Ok(Progress::Took(took)) };
        let mut block = std::mem::take(&mut self.block);
        let event = self.end_block(gathering, &block, head, out)?;
        if block.capacity() <= BLOCK_KEPT {
            block.clear();
            self.block = block;
        }
        Ok(Progress::of(took, event))
    }

    /// What a block on this stream is; [`Kind::Discarded`] with a slot: HEADERS where none may be.
    fn kind_of(&mut self, id: u32, slot: Option<u32>, out: &mut Vec<u8>) -> Result<Kind, Error> {
        match slot {
            Some(slot) => Ok(match self.streams.at(slot).recv {
                Side::Head => Kind::Response,
                Side::Body => Kind::Trailers,
                Side::Done => Kind::Discarded,
            }),
            None if R::SERVER && id > self.last_id => Ok(Kind::Request),
            None => self.check_closed(id, out).map(|()| Kind::Discarded),
        }
    }

    fn end_block(
        &mut self,
        gathered: Gathering,
        block: &[u8],
        head: &mut Head,
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'static>>, Error> {
        let slot = self.streams.find(gathered.id);
        let mut kind = self.kind_of(gathered.id, slot, out)?;
        if kind == Kind::Discarded {
            self.count_control(out)?;
        }
        if kind == Kind::Request {
            let next = (self.last_id + 1) | 1;
            if gathered.id > next {
                self.skipped = (next, gathered.id);
            }
            self.last_id = gathered.id;
            if self.last_id >= ID_LEAVE {
                self.go_away(out);
            }
            if self.is_refused(gathered.id) {
                kind = Kind::Discarded;
            }
        }
        let limits = Rc::clone(&self.limits);
        let mut message = Message::new(head, &limits, kind);
        if let Err(error) = self.decoder.decode(block, &mut message) {
            return Err(match error {
                HpackError::TooLarge => self.fail_limit(out, Limit::HeadBytes),
                error => self.fail(out, code::COMPRESSION_ERROR, error.reason(), None),
            });
        }
        let verdict = message.finish(self.scheme);
        let event = match (kind, slot) {
            (Kind::Request, _) => self.request(gathered, verdict, head, out)?,
            (Kind::Response, Some(slot)) => {
                self.response(StreamId { slot, id: gathered.id }, gathered.end_stream, verdict, head, out)?
            }
            (Kind::Trailers, Some(slot)) => {
                self.trailers(StreamId { slot, id: gathered.id }, gathered.end_stream, verdict, out)?
            }
            (_, Some(slot)) => {
                let reset = Reset::ours(code::STREAM_CLOSED, "HEADERS after the end of the stream");
                self.stream_error(StreamId { slot, id: gathered.id }, reset, out)?
            }
            (_, None) => return Ok(None),
        };
        Ok(Some(event))
    }

    fn request(
        &mut self,
        gathered: Gathering,
        verdict: Verdict,
        head: &Head,
        out: &mut Vec<u8>,
    ) -> Result<Event<'static>, Error> {
        let Gathering { id, end_stream: end, .. } = gathered;
        // Not a stream yet, nor ever one if anything is wrong.
        let nobody = StreamId { slot: self.streams.next_slot(), id };
        if self.streams.active() >= self.limits.streams_max as usize {
            return self.refuse(nobody, out);
        }
        // One that is refused earns nothing: else a peer that never acknowledges our settings might open them for ever.
        self.guard.opened();
        match verdict {
            Verdict::Fine => {}
            Verdict::Malformed(reason) => {
                return self.stream_error(nobody, Reset::ours(code::PROTOCOL_ERROR, reason), out);
            }
            Verdict::Over(limit) => return self.answer_oversized(nobody, end, limit, out),
        }
        let declared = head.content_length;
        if end && declared.is_some_and(|length| length > 0) {
            let reset = Reset::ours(code::PROTOCOL_ERROR, "content-length without a body");
            return self.stream_error(nobody, reset, out);
        }
        let mut opened = self.new_stream(id, if end { Side::Done } else { Side::Body }, Side::Head);
        opened.remaining = declared.unwrap_or(UNDECLARED);
        opened.bodiless = head.method == Method::Head;
        opened.connect = head.is_connect();
        let stream = self.streams.insert(opened);
        Ok(Event::Head { stream, end })
    }

    /// More streams than we announced. Before the peer has acknowledged that it may not know better.
    fn refuse(&mut self, stream: StreamId, out: &mut Vec<u8>) -> Result<Event<'static>, Error> {
        let reset = Reset {
            unprocessed: true,
            limit: Some(Limit::Streams),
            ..Reset::ours(code::REFUSED_STREAM, "more streams than announced")
        };
        if self.settled {
            return self.stream_error(stream, reset, out);
        }
        let from = out.len();
        self.put_reset(stream.id, reset.code, out);
        self.replied(from, out)?;
        self.count_control(out)?;
        Ok(Event::Reset { stream, reset })
    }

    /// The request's head is over a limit: says so, in the words of RFC 6585 §5 and RFC 9110 §15.5.15.
    fn answer_oversized(
        &mut self,
        stream: StreamId,
        end: bool,
        limit: Limit,
        out: &mut Vec<u8>,
    ) -> Result<Event<'static>, Error> {
        let from = out.len();
        let status = if limit == Limit::TargetBytes { 414 } else { 431 };
        self.put_bare_response(stream.id, status, out);
        let reset = Reset { limit: Some(limit), ..Reset::ours(code::NO_ERROR, "request head is over a limit") };
        if end {
            self.recent.note(stream.id);
        } else {
            self.put_reset(stream.id, reset.code, out);
        }
        self.replied(from, out)?;
        self.count_provoked(out)?;
        Ok(Event::Reset { stream, reset })
    }

    fn response(
        &mut self,
        id: StreamId,
        end: bool,
        verdict: Verdict,
        head: &mut Head,
        out: &mut Vec<u8>,
    ) -> Result<Event<'static>, Error> {
        if let Some(reset) = fault_of(verdict) {
            return self.stream_error(id, reset, out);
        }
        let interims_max = self.limits.interim_max;
        let stream = self.streams.at(id.slot);
        let status = head.status;
        let fault = if status < 200 {
            stream.interims += 1;
            if status == 101 {
                Some(Reset::ours(code::PROTOCOL_ERROR, "101 in HTTP/2"))
            } else if end {
                Some(Reset::ours(code::PROTOCOL_ERROR, "interim response ends the stream"))
            } else if stream.interims > interims_max {
                let limit = Some(Limit::Interim);
                Some(Reset { limit, ..Reset::ours(code::ENHANCE_YOUR_CALM, "too many interim responses") })
            } else {
                return Ok(Event::Interim { stream: id });
            }
        } else {
            let tunnel = stream.connect && status < 300;
            if tunnel {
                head.content_length = None;
            }
            let bodiless = stream.bodiless || status == 204 || status == 304;
            stream.remaining = if bodiless { 0 } else { head.content_length.unwrap_or(UNDECLARED) };
            let short = end && !bodiless && stream.remaining != 0 && stream.remaining != UNDECLARED;
            stream.connect = tunnel;
            short.then_some(Reset::ours(code::PROTOCOL_ERROR, "content-length without a body"))
        };
        if let Some(reset) = fault {
            return self.stream_error(id, reset, out);
        }
        stream.recv = if end { Side::Done } else { Side::Body };
        self.close_if_done(id.slot);
        Ok(Event::Head { stream: id, end })
    }

    fn trailers(
        &mut self,
        id: StreamId,
        end: bool,
        verdict: Verdict,
        out: &mut Vec<u8>,
    ) -> Result<Event<'static>, Error> {
        let stream = self.streams.at(id.slot);
        let fault = if !end {
            Some(Reset::ours(code::PROTOCOL_ERROR, "trailers that do not end the stream"))
        } else if stream.connect {
            Some(Reset::ours(code::PROTOCOL_ERROR, "HEADERS in a tunnel"))
        } else if stream.remaining != UNDECLARED && stream.remaining > 0 {
            Some(Reset::ours(code::PROTOCOL_ERROR, "body is not as long as content-length says"))
        } else {
            fault_of(verdict)
        };
        if let Some(reset) = fault {
            return self.stream_error(id, reset, out);
        }
        stream.recv = Side::Done;
        self.close_if_done(id.slot);
        Ok(Event::Trailers { stream: id })
    }

    /// A stream as it begins.
    pub(super) fn new_stream(&self, id: u32, recv: Side, send: Side) -> Stream {
        Stream {
            id,
            send_window: self.peer.initial_window,
            recv_window: self.stream_window_now(),
            recv_target: self.stream_window(),
            owed: 0,
            remaining: UNDECLARED,
            recv,
            send,
            interims: 0,
            bodiless: false,
            connect: false,
        }
    }
}

fn fault_of(verdict: Verdict) -> Option<Reset> {
    match verdict {
        Verdict::Fine => None,
        Verdict::Malformed(reason) => Some(Reset::ours(code::PROTOCOL_ERROR, reason)),
        Verdict::Over(limit) => {
            Some(Reset { limit: Some(limit), ..Reset::ours(code::ENHANCE_YOUR_CALM, "fields are over a limit") })
        }
    }
}
