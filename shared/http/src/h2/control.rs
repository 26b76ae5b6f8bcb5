//! The frames that are about streams and the connection rather than in them.

use super::connection::{Connection, Reading, Role};
use super::frame::{self, FrameHead, WINDOW_INITIAL, WINDOW_MAX, setting};
use super::receive::Progress;
use super::send::LEAVING;
use super::streams::Side;
use crate::codec::{Event, StreamId};
use crate::error::{Error, Reset, code};
use crate::limits::Limit;

/// The code of a connection error and what it is for.
type Fault = (u32, &'static str);

impl<R: Role> Connection<R> {
    pub(super) fn control<'i>(
        &mut self,
        frame: FrameHead,
        body: &'i [u8],
        out: &mut Vec<u8>,
    ) -> Result<Progress<'i>, Error> {
        if let Some((code, reason)) = misplaced(frame) {
            return Err(self.fail(out, code, reason, None));
        }
        let took = frame::HEAD + frame.len as usize;
        match frame.kind {
            frame::SETTINGS => return self.begin_settings(frame, out),
            frame::GOAWAY => {
                let Some(fixed) = body.first_chunk::<8>() else { return Ok(Progress::Wait) };
                self.count_control(out)?;
                self.reading = Reading::Skip(frame.len - 8);
                let event = self.goaway(*fixed);
                return Ok(Progress::Event(frame::HEAD + 8, event));
            }
            frame::RST_STREAM | frame::WINDOW_UPDATE => {
                let Some(value) = body.first_chunk::<4>() else { return Ok(Progress::Wait) };
                let value = u32::from_be_bytes(*value);
                let event = if frame.kind == frame::RST_STREAM {
                    self.rst_stream(frame.id, value, out)?
                } else {
                    self.window_update(frame.id, value & 0x7fff_ffff, out)?
                };
                return Ok(Progress::of(took, event));
            }
            frame::PING => {
                let Some(payload) = body.first_chunk::<8>() else { return Ok(Progress::Wait) };
                let event = self.pinged(frame, *payload, out)?;
                return Ok(Progress::of(took, event));
            }
            // PRIORITY, and frames that nobody has defined yet (RFC 9113 §5.5).
            _ => {}
        }
        self.count_control(out)?;
        self.reading = Reading::Skip(frame.len);
        Ok(Progress::Took(frame::HEAD))
    }

    fn pinged(
        &mut self,
        frame: FrameHead,
        payload: [u8; 8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'static>>, Error> {
        if frame.has(frame::ACK) && self.leaving && self.said_last.is_none() && payload == LEAVING {
            self.say_last(out);
            return Ok(None);
        }
        if frame.has(frame::ACK) && self.pings > 0 {
            self.pings -= 1;
            return Ok(Some(Event::Pong { payload }));
        }
        self.count_control(out)?;
        if !frame.has(frame::ACK) {
            let from = out.len();
            frame::put(out, frame::PING, frame::ACK, 0, &payload);
            self.replied(from, out)?;
        }
        Ok(None)
    }

    fn goaway(&mut self, fixed: [u8; 8]) -> Event<'static> {
        let [a, b, c, d, code @ ..] = fixed;
        let last = u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff;
        // It may only go down (RFC 9113 §6.8); one that goes up is no promise.
        let last = self.heard_last.map_or(last, |before| before.min(last));
        self.heard_last = Some(last);
        if !R::SERVER {
            self.pending.any = true;
            self.pending.sweep = Some((last, 0));
        }
        Event::GoAway { last, code: u32::from_be_bytes(code) }
    }

    fn rst_stream(&mut self, id: u32, code: u32, out: &mut Vec<u8>) -> Result<Option<Event<'static>>, Error> {
        if self.is_idle(id) {
            return Err(self.fail(out, code::PROTOCOL_ERROR, "RST_STREAM on an idle stream", None));
        }
        let Some(slot) = self.streams.find(id) else {
            self.count_control(out)?;
            return Ok(None);
        };
        self.streams.remove(slot);
        if R::SERVER {
            self.guard.reset(&self.limits).map_err(|limit| self.fail_limit(out, limit))?;
        }
        let unprocessed = !R::SERVER && code == code::REFUSED_STREAM;
        let reset = Reset { code, by_peer: true, unprocessed, reason: "reset by the peer", limit: None };
        Ok(Some(Event::Reset { stream: StreamId { slot, id }, reset }))
    }

    fn window_update(&mut self, id: u32, more: u32, out: &mut Vec<u8>) -> Result<Option<Event<'static>>, Error> {
        if id == 0 {
            if more == 0 {
                return Err(self.fail(out, code::PROTOCOL_ERROR, "WINDOW_UPDATE of 0", None));
            }
            let before = self.send_window;
            self.send_window += i64::from(more);
            if self.send_window > WINDOW_MAX {
                return Err(self.fail(out, code::FLOW_CONTROL_ERROR, "connection's window overflows", None));
            }
            return Ok((before <= 0).then_some(Event::Writable { stream: None }));
        }
        let Some(slot) = self.streams.find(id) else {
            if self.is_idle(id) {
                return Err(self.fail(out, code::PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream", None));
            }
            return Ok(None);
        };
        let stream_id = StreamId { slot, id };
        if more == 0 {
            let reset = Reset::ours(code::PROTOCOL_ERROR, "WINDOW_UPDATE of 0");
            return self.stream_error(stream_id, reset, out).map(Some);
        }
        let connection_open = self.send_window > 0;
        let stream = self.streams.at(slot);
        let before = stream.send_window;
        let Some(now) = before.checked_add(more as i32) else {
            let reset = Reset::ours(code::FLOW_CONTROL_ERROR, "stream's window overflows");
            return self.stream_error(stream_id, reset, out).map(Some);
        };
        stream.send_window = now;
        let writable = before <= 0 && now > 0 && stream.send != Side::Done && connection_open;
        Ok(writable.then_some(Event::Writable { stream: Some(stream_id) }))
    }

    fn begin_settings(&mut self, frame: FrameHead, out: &mut Vec<u8>) -> Result<Progress<'static>, Error> {
        if frame.has(frame::ACK) {
            self.settings_acknowledged(out)?;
            return Ok(Progress::Took(frame::HEAD));
        }
        self.count_control(out)?;
        if frame.len / 6 > self.limits.control_frames_max {
            return Err(self.fail_limit(out, Limit::ControlFrames));
        }
        if !self.peer.settled {
            // What it does not say now, it does not limit.
            self.peer.streams_max = u32::MAX;
        }
        self.reading = Reading::Settings { left: frame.len };
        Ok(Progress::Took(frame::HEAD))
    }

    fn settings_acknowledged(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        if self.settled {
            return self.count_control(out);
        }
        self.settled = true;
        self.decoder.announced(self.limits.hpack_table_bytes as usize);
        let change = self.stream_window() - WINDOW_INITIAL;
        for stream in self.streams.iter_mut() {
            stream.recv_window = stream.recv_window.saturating_add(change);
        }
        Ok(())
    }

    pub(super) fn read_settings(
        &mut self,
        input: &[u8],
        left: u32,
        out: &mut Vec<u8>,
    ) -> Result<Progress<'static>, Error> {
        if left > 0 {
            let Some(&[i, j, a, b, c, d]) = input.first_chunk() else { return Ok(Progress::Wait) };
            let id = u16::from_be_bytes([i, j]);
            if id == setting::INITIAL_WINDOW_SIZE {
                // Each of these is work for every stream.
                self.count_control(out)?;
            }
            if let Err((code, reason)) = self.set(id, u32::from_be_bytes([a, b, c, d])) {
                return Err(self.fail(out, code, reason, None));
            }
            self.reading = Reading::Settings { left: left - 6 };
            return Ok(Progress::Took(6));
        }
        self.reading = Reading::Frame;
        self.peer.settled = true;
        let from = out.len();
        frame::put(out, frame::SETTINGS, frame::ACK, 0, &[]);
        self.replied(from, out)?;
        Ok(Progress::Event(0, Event::Settings))
    }

    /// Applies one of the peer's settings (RFC 9113 §6.5.2, RFC 8441 §3).
    fn set(&mut self, id: u16, value: u32) -> Result<(), Fault> {
        match id {
            setting::HEADER_TABLE_SIZE => self.encoder.offered(value as usize),
            setting::ENABLE_PUSH if value > 1 || (value == 1 && !R::SERVER) => {
                return Err((code::PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH is out of range"));
            }
            setting::MAX_CONCURRENT_STREAMS => self.peer.streams_max = value,
            setting::INITIAL_WINDOW_SIZE => {
                let Ok(window) = i32::try_from(value) else {
                    return Err((code::FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE is out of range"));
                };
                return self.set_initial_window(window);
            }
            setting::MAX_FRAME_SIZE if !(frame::FRAME_INITIAL..=frame::FRAME_MAX).contains(&value) => {
                return Err((code::PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE is out of range"));
            }
            setting::MAX_FRAME_SIZE => self.peer.frame_bytes_max = value,
            setting::ENABLE_CONNECT_PROTOCOL => {
                if value > 1 || (value == 0 && self.peer.connect_protocol) {
                    return Err((code::PROTOCOL_ERROR, "SETTINGS_ENABLE_CONNECT_PROTOCOL is out of range"));
                }
                self.peer.connect_protocol = value == 1;
            }
            _ => {}
        }
        Ok(())
    }

    fn set_initial_window(&mut self, window: i32) -> Result<(), Fault> {
        let change = i64::from(window) - i64::from(self.peer.initial_window);
        self.peer.initial_window = window;
        let connection_open = self.send_window > 0;
        for stream in self.streams.iter_mut() {
            let before = stream.send_window;
            let Ok(now) = i32::try_from(i64::from(before) + change) else {
                return Err((code::FLOW_CONTROL_ERROR, "stream's window overflows"));
            };
            stream.send_window = now;
            if before <= 0 && now > 0 && stream.send != Side::Done && connection_open {
                self.pending.any = true;
                self.pending.writable = true;
            }
        }
        Ok(())
    }
}

/// What is wrong with a frame's stream number or length, by its kind alone (RFC 9113 §6).
fn misplaced(frame: FrameHead) -> Option<Fault> {
    let (on_stream, len_is_right, reason) = match frame.kind {
        frame::PRIORITY => (Some(true), frame.len == 5, "PRIORITY has a wrong length"),
        frame::RST_STREAM => (Some(true), frame.len == 4, "RST_STREAM has a wrong length"),
        frame::SETTINGS => {
            let right = if frame.has(frame::ACK) { frame.len == 0 } else { frame.len.is_multiple_of(6) };
            (Some(false), right, "SETTINGS has a wrong length")
        }
        frame::PING => (Some(false), frame.len == 8, "PING has a wrong length"),
        frame::GOAWAY => (Some(false), frame.len >= 8, "GOAWAY has a wrong length"),
        frame::WINDOW_UPDATE => (None, frame.len == 4, "WINDOW_UPDATE has a wrong length"),
        frame::PUSH_PROMISE => return Some((code::PROTOCOL_ERROR, "PUSH_PROMISE, which nobody may send")),
        _ => (None, true, ""),
    };
    if on_stream.is_some_and(|on_stream| on_stream == (frame.id == 0)) {
        return Some((code::PROTOCOL_ERROR, "frame belongs on the other kind of stream"));
    }
    (!len_is_right).then_some((code::FRAME_SIZE_ERROR, reason))
}
