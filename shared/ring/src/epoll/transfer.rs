//! Accepting, connecting, receiving, sending.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use steady_sys::net::{self, RawAddr, check};

use super::{Conn, Epoll, LISTENER, Listener, State, data_of};
use crate::config::ACCEPT_REST;
use crate::{Addr, ConnId, Event, ListenerId, Op, clock};

/// Connections taken from one listener in one wait, so that a flood does not starve those already there. The listener
/// is level-triggered: the rest comes with the next wait.
const ACCEPTS_MAX: usize = 64;

/// Reads of one connection in one wait, for the same reason; and so that little comes of a body that nobody takes before it is paused.
const READS_MAX: usize = 4;

const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

impl Epoll {
    /// Level-triggered and exclusive: of several workers on one socket only some are woken for a connection.
    pub(super) fn register_listener(&mut self, listener: &Listener, id: ListenerId) -> io::Result<()> {
        let interest = libc::EPOLLIN | libc::EPOLLEXCLUSIVE;
        self.poller.add(listener.fd.as_raw_fd(), interest, data_of(ConnId::new(id.0, LISTENER)))
    }

    pub(super) fn accept_all(&mut self, id: ListenerId, events: &mut Vec<Event>) {
        for _ in 0..ACCEPTS_MAX {
            let Some(listener) = self.listeners[id.0 as usize].as_ref() else { return };
            let (raw, tcp) = (listener.fd.as_raw_fd(), listener.tcp);
            self.stats.syscalls += 1;
            let accepted = accept(raw).and_then(|(fd, peer)| {
                let conn = self.conns.insert(Conn::new(State::Open, Some(fd)));
                self.register(conn).inspect_err(|_| drop(self.conns.remove(conn)))?;
                Ok((conn, peer))
            });
            match accepted {
                Ok((conn, peer)) => {
                    self.stats.accepted += 1;
                    let peer = if tcp { peer.to_tcp() } else { None };
                    events.push(Event::Accepted { listener: id, conn, peer });
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return,
                    Some(libc::EINTR) => {}
                    errno => {
                        self.stats.accept_failed += 1;
                        events.push(Event::AcceptFailed { listener: id, error });
                        if errno != Some(libc::ECONNABORTED) {
                            return self.rest(id);
                        }
                    }
                },
            }
        }
    }

    /// Takes what waits in a listener that is left alone from now on. The kernel tells one of those who wait for a connection of
    /// it; if that was us, and we had not looked yet, nobody else was told, and its client would wait until another one comes.
    pub(super) fn sweep(&mut self, id: ListenerId) {
        let mut ready = std::mem::take(&mut self.ready);
        loop {
            let before = self.stats.accepted;
            self.accept_all(id, &mut ready);
            // Nothing came, or nothing more can be had.
            let rests = self.listeners[id.0 as usize].as_ref().is_none_or(|listener| listener.rest_until.is_some());
            if rests || self.stats.accepted == before {
                break;
            }
        }
        self.ready = ready;
    }

    fn rest(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners[id.0 as usize].as_mut() else { return };
        let until = clock() + ACCEPT_REST;
        listener.rest_until = Some(until);
        self.poller.remove(listener.fd.as_raw_fd());
        self.rest_until = Some(self.rest_until.map_or(until, |first| first.min(until)));
    }

    pub(super) fn end_rests(&mut self) {
        let now = clock();
        self.rest_until = None;
        for index in 0..self.listeners.len() {
            let Some(mut listener) = self.listeners[index].take() else { continue };
            if listener.rest_until.is_some_and(|until| until <= now) {
                let registered = self.register_listener(&listener, ListenerId(index as u32));
                // Memory is still short: rest once more.
                listener.rest_until = registered.err().map(|_| now + ACCEPT_REST);
            }
            self.rest_until = match (self.rest_until, listener.rest_until) {
                (Some(first), Some(until)) => Some(first.min(until)),
                (first, until) => first.or(until),
            };
            self.listeners[index] = Some(listener);
        }
    }

    pub(super) fn start_connect(&mut self, addr: &Addr) -> io::Result<OwnedFd> {
        let raw = match addr {
            Addr::Tcp(addr) => RawAddr::tcp(*addr),
            Addr::Unix(path) => RawAddr::unix(path)?,
        };
        self.stats.syscalls += 2;
        let fd = net::stream_socket(&raw, true)?;
        if matches!(addr, Addr::Tcp(_)) {
            self.stats.syscalls += 1;
            net::set_nodelay(&fd)?;
        }
        // SAFETY: `raw` is a valid address of `len` octets for the time of the call.
        match check(unsafe { libc::connect(fd.as_raw_fd(), raw.as_ptr(), raw.len()) }) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(fd),
        }
    }

    /// The first readiness of a connecting socket says that the connect is over.
    pub(super) fn connected(&mut self, id: ConnId, events: &mut Vec<Event>) {
        let Some(conn) = self.conns.get(id) else { return };
        let Some(fd) = conn.fd.as_ref() else { return };
        self.stats.syscalls += 1;
        if let Err(error) = net::take_error(fd) {
            // Once: the descriptor goes, so that no further readiness comes.
            conn.fd = None;
            events.push(Event::Failed { conn: id, op: Op::Connect, error });
            return;
        }
        conn.state = State::Open;
        let (shut, sending) = (conn.shut, conn.send.is_some());
        events.push(Event::Connected { conn: id });
        if sending {
            self.send_now(id, events);
        } else if shut {
            self.shutdown_now(id);
        }
    }

    pub(super) fn shutdown_now(&mut self, id: ConnId) {
        let Some(fd) = self.conns.get(id).and_then(|conn| conn.fd.as_ref()) else { return };
        self.stats.syscalls += 1;
        // ENOTCONN: the peer reset it, which the receive reports.
        let _ = net::shutdown_write(fd.as_raw_fd());
    }

    pub(super) fn send_all(&mut self, events: &mut Vec<Event>) {
        std::mem::swap(&mut self.to_send, &mut self.spare);
        let mut list = std::mem::take(&mut self.spare);
        for id in list.drain(..) {
            self.send_now(id, events);
        }
        self.spare = list;
    }

    /// Sends until all is taken or the socket is full; then the next edge goes on.
    pub(super) fn send_now(&mut self, id: ConnId, events: &mut Vec<Event>) {
        loop {
            let Some(conn) = self.conns.get(id).filter(|conn| conn.state == State::Open) else { return };
            let (Some(fd), Some(buf)) = (conn.fd.as_ref(), conn.send.as_ref()) else { return };
            let left = buf.len() - conn.sent;
            if left == 0 {
                let buf = conn.send.take().expect("just seen");
                events.push(Event::Sent { conn: id, buf });
                return;
            }
            let fd = fd.as_raw_fd();
            let sent = if buf.is_plain() {
                let rest = &buf.bytes[conn.sent..];
                // SAFETY: `rest` is readable for its length.
                unsafe { libc::send(fd, rest.as_ptr().cast(), rest.len(), SEND_FLAGS) }
            } else {
                self.message.point_at(buf, conn.sent);
                // SAFETY: the message points into `buf`, which is borrowed until the call has returned.
                unsafe { libc::sendmsg(fd, self.message.as_ptr(), SEND_FLAGS) }
            };
            self.stats.syscalls += 1;
            match usize::try_from(sent) {
                Ok(len) => {
                    conn.sent += len;
                    self.stats.sent_bytes += len as u64;
                }
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::WouldBlock => return,
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => {
                        conn.send = None;
                        conn.mute = true;
                        events.push(Event::Failed { conn: id, op: Op::Send, error });
                        return;
                    }
                },
            }
        }
    }

    pub(super) fn read_all(&mut self, events: &mut Vec<Event>) {
        std::mem::swap(&mut self.to_read, &mut self.spare);
        let mut list = std::mem::take(&mut self.spare);
        for id in list.drain(..) {
            let Some(conn) = self.conns.get(id) else { continue };
            conn.listed = false;
            self.read(id, events);
            self.list_read(id);
        }
        self.spare = list;
    }

    /// Receives what is there, up to [`READS_MAX`] buffers.
    fn read(&mut self, id: ConnId, events: &mut Vec<Event>) {
        let size = self.pool.buffer_size();
        for _ in 0..READS_MAX {
            let Some(conn) = self.conns.get(id).filter(|conn| conn.wants_read()) else { return };
            let Some(fd) = conn.fd.as_ref() else { return };
            let Some(buffer) = self.pool.lend() else {
                self.stats.starved += 1;
                return;
            };
            self.stats.syscalls += 1;
            // SAFETY: a lent buffer of `size` octets that nobody else touches.
            let len = unsafe { libc::recv(fd.as_raw_fd(), self.pool.address(buffer).cast(), size, libc::MSG_DONTWAIT) };
            let len = usize::try_from(len);
            if let Ok(len @ 1..) = len {
                self.stats.received_bytes += len as u64;
                // Less than asked for: all was read, and what comes later raises a new edge.
                conn.readable = len == size || conn.hung_up;
                events.push(Event::Received { conn: id, buf: self.pool.filled(buffer, len) });
                continue;
            }
            let error = io::Error::last_os_error();
            self.pool.give_back(buffer);
            if len == Ok(0) {
                conn.ended = true;
                events.push(Event::EndOfStream { conn: id });
                return;
            }
            match error.kind() {
                io::ErrorKind::WouldBlock => conn.readable = false,
                io::ErrorKind::Interrupted => {}
                _ => {
                    conn.ended = true;
                    events.push(Event::Failed { conn: id, op: Op::Receive, error });
                }
            }
        }
    }
}

fn accept(listener: i32) -> io::Result<(OwnedFd, RawAddr)> {
    let mut peer = RawAddr::empty();
    let (addr, len) = peer.parts_mut();
    // SAFETY: address and length are valid, and the kernel writes at most `len` octets.
    let fd = check(unsafe { libc::accept4(listener, addr, len, libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) })?;
    // SAFETY: the kernel just made it for us.
    Ok((unsafe { OwnedFd::from_raw_fd(fd) }, peer))
}
