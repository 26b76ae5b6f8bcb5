//! Completions on their way out.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use io_uring::cqueue;

use super::Uring;
use super::conn::State;
use super::token::{Kind, Token};
use crate::{ConnId, Event, ListenerId, Op, SendBuf};

/// What the kernel answered: the result, or the errno.
type Outcome = Result<u32, i32>;

impl Uring {
    /// Handles what was reaped, which may reap more.
    pub(super) fn complete_all(&mut self, events: &mut Vec<Event>) {
        loop {
            let mut batch = std::mem::take(&mut self.spare_reaped);
            self.queue.take_reaped(&mut batch);
            let empty = batch.is_empty();
            for entry in batch.drain(..) {
                self.complete(&entry, events);
            }
            self.spare_reaped = batch;
            if empty {
                break;
            }
        }
        self.take_ready(events);
    }

    /// Reports the quiet sends of which nothing was heard: they were tried in the submission itself, so that with it they
    /// are done, unless a completion among those reaped says otherwise. To be called between reaping and handling.
    pub(super) fn conclude(&mut self, events: &mut Vec<Event>) {
        if self.quiet.is_empty() || !self.queue.is_settled() {
            return;
        }
        for entry in self.queue.reaped() {
            if let Some(Token { kind: Kind::Send, cancel: false, id }) = Token::decode(entry.user_data())
                && let Some(conn) = self.conns.get(id)
            {
                conn.quiet = false;
            }
        }
        let mut quiet = std::mem::take(&mut self.quiet);
        for id in quiet.drain(..) {
            let Some(conn) = self.conns.get(id).filter(|conn| conn.quiet) else { continue };
            let len = conn.send.as_ref().map_or(0, SendBuf::len) as u32;
            self.in_flight -= 1;
            self.sent(id, Ok(len), events);
        }
        self.quiet = quiet;
    }

    fn complete(&mut self, entry: &cqueue::Entry, events: &mut Vec<Event>) {
        let Some(Token { kind, cancel, id }) = Token::decode(entry.user_data()) else { return };
        let outcome = u32::try_from(entry.result()).map_err(|_| -entry.result());
        if cancel {
            return self.cancel_failed(kind, id, outcome);
        }
        let more = cqueue::more(entry.flags());
        if !more {
            self.in_flight -= 1;
        }
        match kind {
            Kind::Receive => {
                let buffer = cqueue::buffer_select(entry.flags());
                self.received(id, outcome, buffer, more, events);
                self.release_when_idle(id);
            }
            Kind::Send => self.sent(id, outcome, events),
            Kind::Connect => self.connected(id, outcome, events),
            Kind::Hangup => {
                self.hung_up(id);
                self.release_when_idle(id);
            }
            Kind::Close => {
                self.forget(id);
                events.push(Event::Closed { conn: id });
            }
            Kind::Accept => self.accepted(ListenerId(id.index() as u32), outcome, more, events),
            Kind::Wake => {
                if !more && outcome != Err(libc::ECANCELED) {
                    self.arm_wake();
                }
            }
        }
    }

    /// An operation that was to be cancelled was not found. Either it completed on its own, and that completion came
    /// before this one; or it was in a place where the kernel does not look, and the request is made again.
    fn cancel_failed(&mut self, kind: Kind, id: ConnId, outcome: Outcome) {
        if outcome.is_ok() {
            return;
        }
        let under_way = match kind {
            Kind::Accept => self.listeners[id.index()].as_ref().is_some_and(|listener| listener.armed),
            _ => self.conns.get(id).is_some_and(|conn| conn.has(kind) && conn.cancelling & kind as u8 != 0),
        };
        if under_way {
            self.push_cancel(Token::new(kind, id));
        }
    }

    fn received(&mut self, id: ConnId, outcome: Outcome, buffer: Option<u16>, more: bool, events: &mut Vec<Event>) {
        let filled = buffer.map(|buffer| {
            let len = outcome.unwrap_or(0) as usize;
            self.buffers.taken(len);
            self.buffers.pool().filled(buffer, len)
        });
        let Some(conn) = self.conns.get(id) else { return };
        if !more {
            conn.finish(Kind::Receive);
        }
        if conn.state == State::Closing {
            drop(filled);
            return self.close_when_idle(id);
        }
        match outcome {
            Ok(0) => {
                conn.ended = true;
                events.push(Event::EndOfStream { conn: id });
            }
            Ok(len) => {
                let buf = filled.expect("octets came in a buffer of the group");
                self.stats.received_bytes += u64::from(len);
                events.push(Event::Received { conn: id, buf });
            }
            Err(libc::ENOBUFS) => {
                self.stats.starved += 1;
                if conn.wants_receive() && !std::mem::replace(&mut conn.starved, true) {
                    self.starved.push_back(id);
                }
                return;
            }
            Err(libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {}
            Err(errno) => {
                conn.ended = true;
                let error = io::Error::from_raw_os_error(errno);
                events.push(Event::Failed { conn: id, op: Op::Receive, error });
            }
        }
        // The kernel ends a multishot receive for reasons of its own (a full completion queue) beside ours.
        self.arm_receive(id);
    }

    fn sent(&mut self, id: ConnId, outcome: Outcome, events: &mut Vec<Event>) {
        let Some(conn) = self.conns.get(id) else { return };
        conn.finish(Kind::Send);
        conn.quiet = false;
        if let Ok(len) = outcome {
            conn.sent += len as usize;
            self.stats.sent_bytes += u64::from(len);
        }
        if conn.state == State::Closing {
            conn.send = None;
            return self.close_when_idle(id);
        }
        let whole = conn.send.as_ref().is_none_or(|buf| conn.sent >= buf.len());
        match outcome {
            Ok(_) if whole => {
                let Some(buf) = conn.send.take() else { return };
                events.push(Event::Sent { conn: id, buf });
            }
            // Nothing taken and no error would repeat for ever.
            Ok(0) => self.send_failed(id, libc::EPIPE, events),
            Ok(_) | Err(libc::EINTR | libc::EAGAIN) => self.push_send(id, false),
            Err(errno) => self.send_failed(id, errno, events),
        }
    }

    fn send_failed(&mut self, id: ConnId, errno: i32, events: &mut Vec<Event>) {
        let Some(conn) = self.conns.get(id) else { return };
        conn.send = None;
        conn.mute = true;
        events.push(Event::Failed { conn: id, op: Op::Send, error: io::Error::from_raw_os_error(errno) });
    }

    fn connected(&mut self, id: ConnId, outcome: Outcome, events: &mut Vec<Event>) {
        let Some(conn) = self.conns.get(id) else { return };
        conn.finish(Kind::Connect);
        if conn.state == State::Closing {
            return self.close_when_idle(id);
        }
        if let Err(errno) = outcome {
            let error = io::Error::from_raw_os_error(errno);
            events.push(Event::Failed { conn: id, op: Op::Connect, error });
            return;
        }
        conn.state = State::Open;
        let (shut, sending) = (conn.shut, conn.send.is_some());
        events.push(Event::Connected { conn: id });
        self.opened(id);
        if sending {
            self.push_send(id, false);
        } else if shut {
            self.shutdown_now(id);
        }
    }

    /// The peer of a unix socket ended its side, which a multishot receive may have missed.
    fn hung_up(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        conn.finish(Kind::Hangup);
        conn.hung_up = true;
        match conn.state {
            State::Closing => self.close_when_idle(id),
            _ if !conn.ended => self.cancel(id, Kind::Receive),
            _ => {}
        }
    }

    fn accepted(&mut self, id: ListenerId, outcome: Outcome, more: bool, events: &mut Vec<Event>) {
        let Some(listener) = self.listeners[id.0 as usize].as_mut() else { return };
        if !more {
            listener.armed = false;
        }
        let tcp = listener.tcp;
        match outcome {
            Ok(_) if std::mem::take(&mut listener.polling) => {}
            // The socket does not block, so the ring's accept does not wait.
            Err(libc::EAGAIN) => listener.polling = !more,
            Ok(fd) => {
                // SAFETY: the kernel just made this descriptor for us, and nobody else knows it.
                let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
                self.accept(id, fd, tcp, events);
            }
            Err(libc::ECANCELED | libc::EINTR) => {}
            Err(errno) => {
                self.stats.accept_failed += 1;
                let error = io::Error::from_raw_os_error(errno);
                events.push(Event::AcceptFailed { listener: id, error });
                if errno != libc::ECONNABORTED && !more {
                    self.rest(id);
                }
            }
        }
        if self.listeners[id.0 as usize].as_ref().is_some_and(|listener| listener.stopping && !listener.armed) {
            self.close_listener(id);
        } else {
            self.arm_accept(id);
        }
    }

    pub(super) fn accept(&mut self, listener: ListenerId, fd: OwnedFd, tcp: bool, events: &mut Vec<Event>) {
        // A multishot accept does not say who it is.
        let peer = tcp.then(|| {
            self.stats.syscalls += 1;
            steady_sys::net::peer_addr(&fd)
        });
        let peer = match peer.transpose() {
            Ok(peer) => peer.and_then(|raw| raw.to_tcp()),
            Err(_) => {
                self.stats.accept_failed += 1;
                let error = io::Error::from_raw_os_error(libc::ECONNABORTED);
                events.push(Event::AcceptFailed { listener, error });
                return;
            }
        };
        self.stats.accepted += 1;
        let conn = self.open(fd, tcp);
        events.push(Event::Accepted { listener, conn, peer });
    }
}
