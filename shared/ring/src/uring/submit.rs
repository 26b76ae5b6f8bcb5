//! Operations on their way in.

use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};

use io_uring::{opcode, squeue, types};
use steady_sys::net::{self, RawAddr};

use super::buffers::GROUP;
use super::conn::{Conn, Pinned, State};
use super::token::{Kind, Token};
use super::{Listener, Uring};
use crate::config::ACCEPT_REST;
use crate::{Addr, ConnId, Event, ListenerId, Op, clock};

/// MSG_WAITALL: the kernel itself goes on after a short send. MSG_NOSIGNAL: a broken pipe is an error, not SIGPIPE.
const SEND_FLAGS: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

/// Octets up to which a quiet send is tried quietly. What is larger seldom fits into the socket at once, and would only be
/// tried twice.
const QUIET_BYTES_MAX: usize = 16 * 1024;

impl Uring {
    /// Takes over a connected socket and begins to receive.
    pub(super) fn open(&mut self, fd: OwnedFd, tcp: bool) -> ConnId {
        let mut conn = Conn::new(State::Open, Some(fd));
        conn.watch_hangup = !tcp;
        let id = self.conns.insert(conn);
        self.opened(id);
        id
    }

    /// Everything that begins when a connection is there.
    pub(super) fn opened(&mut self, id: ConnId) {
        self.arm_receive(id);
        let Some(conn) = self.conns.get(id) else { return };
        if conn.watch_hangup {
            conn.begin(Kind::Hangup);
            let fd = conn.raw().expect("an open connection has its descriptor");
            let entry = opcode::PollAdd::new(types::Fd(fd), libc::POLLRDHUP as u32).build();
            self.push(Token::new(Kind::Hangup, id), entry);
        }
    }

    /// Queues an entry whose memory lives in the connection's slot or in the driver until it completes.
    fn push(&mut self, token: Token, entry: squeue::Entry) {
        if !token.cancel {
            self.in_flight += 1;
        }
        // SAFETY: receives use the registered buffers, which outlive the queue's operations (see `Drop`). Sends point
        // into the slot's `SendBuf` and `Pinned`, connects into its `Pinned`: neither is touched, moved or dropped
        // while the slot's in-flight bit is set. The other operations point to nothing.
        unsafe { self.queue.push(&entry.user_data(token.encode())) };
    }

    /// Asks for the end of an operation. Only a failure to find it is reported back.
    pub(super) fn push_cancel(&mut self, token: Token) {
        let entry = opcode::AsyncCancel::new(token.encode()).build().flags(squeue::Flags::SKIP_SUCCESS);
        self.push(token.cancelling(), entry);
    }

    /// As [`push_cancel`](Self::push_cancel), once, if the connection has that operation under way.
    pub(super) fn cancel(&mut self, id: ConnId, kind: Kind) {
        let Some(conn) = self.conns.get(id) else { return };
        let concludes = kind == Kind::Send && conn.quiet;
        if conn.has(kind) && conn.cancelling & kind as u8 == 0 && !concludes {
            conn.cancelling |= kind as u8;
            self.push_cancel(Token::new(kind, id));
        }
    }

    pub(super) fn arm_wake(&mut self) {
        let entry = opcode::PollAdd::new(types::Fd(self.wake.raw()), libc::POLLIN as u32).multi(true).build();
        self.push(Token::new(Kind::Wake, ConnId::new(0, 0)), entry);
    }

    pub(super) fn arm_receive(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        if !conn.wants_receive() {
            return;
        }
        let Some(fd) = conn.raw() else { return };
        conn.begin(Kind::Receive);
        let entry = if conn.hung_up {
            let recv = opcode::Recv::new(types::Fd(fd), std::ptr::null_mut(), 0).buf_group(GROUP);
            recv.build().flags(squeue::Flags::BUFFER_SELECT)
        } else {
            opcode::RecvMulti::new(types::Fd(fd), GROUP).build()
        };
        self.push(Token::new(Kind::Receive, id), entry);
    }

    /// Submits what is left of the connection's send. `quietly`: it is tried in the submission itself (MSG_DONTWAIT), and
    /// has a completion only if it was not done whole; then it is submitted again to be waited for.
    pub(super) fn push_send(&mut self, id: ConnId, quietly: bool) {
        let Some(conn) = self.conns.get(id) else { return };
        let (Some(fd), Some(buf)) = (conn.raw(), conn.send.as_ref()) else { return };
        let quietly = quietly && buf.len() <= QUIET_BYTES_MAX;
        let flags = SEND_FLAGS | if quietly { libc::MSG_DONTWAIT } else { 0 };
        let entry = if buf.is_plain() {
            let rest = &buf.bytes[conn.sent..];
            let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
            opcode::Send::new(types::Fd(fd), rest.as_ptr(), len).flags(flags).build()
        } else {
            let pinned = conn.pinned.get_or_insert_with(|| self.spare_pinned.pop().unwrap_or_else(Pinned::new));
            pinned.message.point_at(buf, conn.sent);
            opcode::SendMsg::new(types::Fd(fd), pinned.message.as_ptr()).flags(flags as u32).build()
        };
        let entry = if quietly { entry.flags(squeue::Flags::SKIP_SUCCESS) } else { entry };
        conn.begin(Kind::Send);
        conn.quiet = quietly;
        if quietly {
            self.quiet.push(id);
        }
        self.push(Token::new(Kind::Send, id), entry);
    }

    pub(super) fn begin_connect(&mut self, addr: &Addr) -> ConnId {
        match self.connecting_socket(addr) {
            Ok((raw, fd)) => {
                let descriptor = types::Fd(fd.as_raw_fd());
                let mut conn = Conn::new(State::Connecting, Some(fd));
                conn.watch_hangup = matches!(addr, Addr::Unix(_));
                let mut pinned = self.spare_pinned.pop().unwrap_or_else(Pinned::new);
                pinned.addr = raw;
                let entry = opcode::Connect::new(descriptor, pinned.addr.as_ptr(), pinned.addr.len()).build();
                conn.pinned = Some(pinned);
                conn.begin(Kind::Connect);
                let id = self.conns.insert(conn);
                self.push(Token::new(Kind::Connect, id), entry);
                id
            }
            Err(error) => {
                let id = self.conns.insert(Conn::new(State::Connecting, None));
                self.ready.push(Event::Failed { conn: id, op: Op::Connect, error });
                id
            }
        }
    }

    fn connecting_socket(&mut self, addr: &Addr) -> io::Result<(RawAddr, OwnedFd)> {
        self.stats.syscalls += 1;
        match addr {
            Addr::Tcp(addr) => {
                let raw = RawAddr::tcp(*addr);
                let fd = net::stream_socket(&raw, false)?;
                self.stats.syscalls += 1;
                net::set_nodelay(&fd)?;
                Ok((raw, fd))
            }
            Addr::Unix(path) => {
                let raw = RawAddr::unix(path)?;
                Ok((raw, net::stream_socket(&raw, false)?))
            }
        }
    }

    /// Half-closes by a plain call: the ring would hand it to a kernel thread, and no send is in flight that it could
    /// overtake.
    pub(super) fn shutdown_now(&mut self, id: ConnId) {
        let Some(fd) = self.conns.get(id).and_then(|conn| conn.raw()) else { return };
        self.stats.syscalls += 1;
        // ENOTCONN: the peer reset it, which the receive reports.
        let _ = net::shutdown_write(fd);
    }

    /// Closes the descriptor of a closing connection that has no operation left.
    pub(super) fn close_when_idle(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        if conn.state != State::Closing || conn.in_flight != 0 {
            return;
        }
        match conn.fd.take() {
            Some(fd) => {
                conn.begin(Kind::Close);
                let entry = opcode::Close::new(types::Fd(fd.into_raw_fd())).build();
                self.push(Token::new(Kind::Close, id), entry);
            }
            None => {
                self.forget(id);
                self.ready.push(Event::Closed { conn: id });
            }
        }
    }

    /// Has a connection that is to be released, and has no operation left, reported as that.
    pub(super) fn release_when_idle(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        if conn.releasing && conn.state == State::Open && conn.in_flight == 0 {
            self.ready.push(Event::Released { conn: id });
        }
    }

    /// Frees the slot; its pinned memory is kept for the next.
    pub(super) fn forget(&mut self, id: ConnId) {
        let pinned = self.conns.remove(id).and_then(|conn| conn.pinned);
        self.spare_pinned.extend(pinned);
    }

    pub(super) fn arm_accept(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners[id.0 as usize].as_mut() else { return };
        if listener.armed || listener.stopping || listener.rest_until.is_some() {
            return;
        }
        listener.armed = true;
        let fd = types::Fd(listener.fd.as_raw_fd());
        let entry = if listener.polling {
            opcode::PollAdd::new(fd, libc::POLLIN as u32).build()
        } else {
            opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build()
        };
        self.push(Token::new(Kind::Accept, ConnId::new(id.0, 0)), entry);
    }

    /// Leaves a listener alone for [`ACCEPT_REST`].
    pub(super) fn rest(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners[id.0 as usize].as_mut() else { return };
        let until = clock() + ACCEPT_REST;
        listener.rest_until = Some(until);
        self.rest_until = Some(self.rest_until.map_or(until, |first| first.min(until)));
    }

    pub(super) fn end_rests(&mut self) {
        let now = clock();
        self.rest_until = None;
        for index in 0..self.listeners.len() {
            let Some(listener) = self.listeners[index].as_mut() else { continue };
            match listener.rest_until {
                Some(until) if until > now => {
                    self.rest_until = Some(self.rest_until.map_or(until, |first| first.min(until)));
                }
                Some(_) => {
                    listener.rest_until = None;
                    self.arm_accept(ListenerId(index as u32));
                }
                None => {}
            }
        }
    }

    pub(super) fn close_listener(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners[id.0 as usize].take() else { return };
        if !self.dropping {
            self.sweep(id, &listener);
        }
        self.stats.syscalls += 1;
        self.ready.push(Event::ListenerClosed { listener: id });
    }

    /// Takes what waits in a listener whose accept has ended. The kernel tells one of those who wait for a connection of it; if
    /// that was the accept which was cancelled then, nobody else was told, and its client would wait until another one comes.
    fn sweep(&mut self, id: ListenerId, listener: &Listener) {
        // Another process may take the last one between a look and an accept, which then must not wait.
        if net::set_nonblocking(&listener.fd, true).is_err() {
            return;
        }
        let mut ready = std::mem::take(&mut self.ready);
        while let Ok(fd) = net::accept(&listener.fd) {
            self.stats.syscalls += 1;
            self.accept(id, fd, listener.tcp, &mut ready);
        }
        self.ready = ready;
    }
}
