//! The epoll driver: the same seam where io_uring is forbidden.
//!
//! Connections are registered once, edge-triggered, for both directions; the driver remembers what is readable and
//! writable. Sends are tried in `wait`, before it sleeps, so that a worker's batches are the same under either driver.
//! Nothing is ever in the kernel's hands between two calls, so that closing needs no cancelling.
//!
//! - `poller`: the epoll descriptor.
//! - `transfer`: accepting, connecting, receiving, sending.

mod poller;
mod transfer;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use self::poller::Poller;
use crate::message::Message;
use crate::slots::{NO_GENERATION, Slots};
use crate::wake::EventFd;
use crate::{Addr, Config, ConnId, Driver, Event, ListenerId, Op, Pool, SendBuf, Stats, Time, Waker, clock};

/// Tokens of listeners and of the waker have this generation, and no connection has.
const LISTENER: u32 = NO_GENERATION;
const WAKER: u64 = u64::MAX;

/// See the module's description.
pub struct Epoll {
    poller: Poller,
    pool: Pool,
    conns: Slots<Conn>,
    listeners: Vec<Option<Listener>>,
    rest_until: Option<Time>,
    /// Sends to try before the next sleep.
    to_send: Vec<ConnId>,
    /// Connections known to have bytes that were not taken yet.
    to_read: Vec<ConnId>,
    /// Emptied while its elements are handled; the two lists above take turns with it.
    spare: Vec<ConnId>,
    ready: Vec<Event>,
    /// Sockets that were released, until the next wait.
    released: Vec<(ConnId, OwnedFd)>,
    wake: Arc<EventFd>,
    batch: Vec<libc::epoll_event>,
    message: Message,
    stats: Stats,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Open,
    Closing,
}

struct Conn {
    state: State,
    fd: Option<OwnedFd>,
    /// Other descriptors of this socket may exist, so it must be taken out of the poller by hand.
    adopted: bool,
    paused: bool,
    /// To be given away with the next wait.
    releasing: bool,
    ended: bool,
    shut: bool,
    readable: bool,
    /// The peer ended or broke the connection: a short read does not mean that all was read.
    hung_up: bool,
    /// Listed in `to_read`.
    listed: bool,
    /// A send failed: none is tried again.
    mute: bool,
    send: Option<SendBuf>,
    sent: usize,
}

struct Listener {
    fd: OwnedFd,
    tcp: bool,
    rest_until: Option<Time>,
}

impl std::fmt::Debug for Epoll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Epoll({} connections)", self.conns.len())
    }
}

impl Conn {
    fn new(state: State, fd: Option<OwnedFd>) -> Conn {
        Conn {
            state,
            fd,
            adopted: false,
            paused: false,
            releasing: false,
            ended: false,
            shut: false,
            readable: false,
            hung_up: false,
            listed: false,
            mute: false,
            send: None,
            sent: 0,
        }
    }

    fn wants_read(&self) -> bool {
        self.state == State::Open && self.readable && !self.paused && !self.releasing && !self.ended
    }
}

fn data_of(id: ConnId) -> u64 {
    id.index() as u64 | u64::from(id.generation()) << 32
}

impl Epoll {
    /// Of `config` only the buffers and the generation matter.
    ///
    /// # Errors
    /// Descriptors or memory ran out.
    pub fn new(config: Config) -> io::Result<Epoll> {
        config.validate()?;
        let mut poller = Poller::new()?;
        let wake = Arc::new(EventFd::new()?);
        poller.add(wake.raw(), libc::EPOLLIN | libc::EPOLLET, WAKER)?;
        Ok(Epoll {
            poller,
            pool: Pool::new(config.buffers, config.buffer_bytes),
            conns: Slots::new(config.generation_first),
            listeners: Vec::new(),
            rest_until: None,
            to_send: Vec::new(),
            to_read: Vec::new(),
            spare: Vec::new(),
            ready: Vec::new(),
            released: Vec::new(),
            wake,
            batch: Vec::new(),
            message: Message::new(),
            stats: Stats::default(),
        })
    }

    /// Connections open or closing.
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    /// Reports what no readiness brings; a closed connection's slot is freed here.
    fn take_ready(&mut self, events: &mut Vec<Event>) {
        for event in self.ready.drain(..) {
            let stale = match &event {
                Event::Sent { conn, .. } | Event::Failed { conn, .. } => {
                    self.conns.get(*conn).is_none_or(|conn| conn.state == State::Closing)
                }
                Event::Closed { conn } => {
                    self.conns.remove(*conn);
                    false
                }
                Event::Released { conn } => {
                    let open = self.conns.get(*conn).is_some_and(|entry| entry.state == State::Open);
                    let fd = if open { self.conns.remove(*conn).and_then(|entry| entry.fd) } else { None };
                    self.released.extend(fd.map(|fd| (*conn, fd)));
                    !open
                }
                _ => false,
            };
            if !stale {
                events.push(event);
            }
        }
    }

    fn round(&mut self, until: Option<Time>, before: usize, events: &mut Vec<Event>) -> io::Result<()> {
        if self.rest_until.is_some_and(|at| at <= clock()) {
            self.end_rests();
        }
        self.send_all(events);
        self.read_all(events);
        self.take_ready(events);
        let until = match (until, self.rest_until) {
            (Some(until), Some(rest)) => Some(until.min(rest)),
            (until, rest) => until.or(rest),
        };
        let mut timeout = until.map(|until| until.since(clock()));
        // Bytes that wait for a buffer do not keep us awake: only the caller, on this thread, can free one.
        let more_to_read = !self.to_read.is_empty() && self.pool.has_free();
        let sleeps =
            events.len() == before && !more_to_read && timeout != Some(Duration::ZERO) && self.wake.fall_asleep();
        if !sleeps {
            timeout = Some(Duration::ZERO);
        }
        let mut batch = std::mem::take(&mut self.batch);
        let waited = self.poller.wait(timeout, &mut batch);
        if self.wake.awake() {
            events.push(Event::Woken);
        }
        for readiness in batch.drain(..) {
            self.handle(readiness.events as i32, readiness.u64, events);
        }
        self.batch = batch;
        self.read_all(events);
        self.take_ready(events);
        waited
    }

    fn handle(&mut self, readiness: i32, data: u64, events: &mut Vec<Event>) {
        if data == WAKER {
            return;
        }
        let id = ConnId::new(data as u32, (data >> 32) as u32);
        if id.generation() == LISTENER {
            return self.accept_all(ListenerId(id.index() as u32), events);
        }
        let Some(conn) = self.conns.get(id) else { return };
        let broken = readiness & (libc::EPOLLERR | libc::EPOLLHUP) != 0;
        match conn.state {
            State::Closing => return,
            State::Connecting => self.connected(id, events),
            State::Open => {}
        }
        let Some(conn) = self.conns.get(id).filter(|conn| conn.state == State::Open) else { return };
        conn.hung_up |= broken || readiness & libc::EPOLLRDHUP != 0;
        conn.readable |= conn.hung_up || readiness & libc::EPOLLIN != 0;
        let sends = conn.send.is_some() && (broken || readiness & libc::EPOLLOUT != 0);
        self.list_read(id);
        if sends {
            self.send_now(id, events);
        }
    }

    /// Remembers to read from a connection that has bytes and may be read.
    fn list_read(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        if conn.wants_read() && !conn.listed {
            conn.listed = true;
            self.to_read.push(id);
        }
    }

    /// Registers a connection and reports what the kernel refused.
    fn register(&mut self, id: ConnId) -> io::Result<()> {
        let Some(fd) = self.conns.get(id).and_then(|conn| conn.fd.as_ref()).map(AsRawFd::as_raw_fd) else {
            return Ok(());
        };
        let interest = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        self.poller.add(fd, interest, data_of(id))
    }
}

impl Driver for Epoll {
    type Socket = OwnedFd;

    fn now(&self) -> Time {
        clock()
    }

    fn listen(&mut self, socket: OwnedFd) -> io::Result<ListenerId> {
        let tcp = steady_sys::net::is_tcp(&socket)?;
        steady_sys::net::set_nonblocking(&socket, true)?;
        if tcp {
            steady_sys::net::set_nodelay(&socket)?;
        }
        let id = ListenerId(self.listeners.len() as u32);
        let listener = Listener { fd: socket, tcp, rest_until: None };
        self.register_listener(&listener, id)?;
        self.listeners.push(Some(listener));
        Ok(id)
    }

    fn stop_listening(&mut self, listener: ListenerId) {
        let Some(entry) = self.listeners.get(listener.0 as usize).and_then(Option::as_ref) else { return };
        self.poller.remove(entry.fd.as_raw_fd());
        self.stats.syscalls += 1;
        self.sweep(listener);
        self.listeners[listener.0 as usize] = None;
        self.ready.push(Event::ListenerClosed { listener });
    }

    fn adopt(&mut self, socket: OwnedFd) -> io::Result<ConnId> {
        if steady_sys::net::is_tcp(&socket)? {
            steady_sys::net::set_nodelay(&socket)?;
        }
        let mut conn = Conn::new(State::Open, Some(socket));
        conn.adopted = true;
        let id = self.conns.insert(conn);
        self.register(id).inspect_err(|_| drop(self.conns.remove(id)))?;
        Ok(id)
    }

    fn connect(&mut self, addr: &Addr) -> ConnId {
        self.stats.connects += 1;
        let started = self.start_connect(addr);
        let (fd, error) = match started {
            Ok(fd) => (Some(fd), None),
            Err(error) => (None, Some(error)),
        };
        let conn = self.conns.insert(Conn::new(State::Connecting, fd));
        let error = error.or_else(|| self.register(conn).err());
        if let Some(error) = error {
            self.ready.push(Event::Failed { conn, op: Op::Connect, error });
        }
        conn
    }

    fn send(&mut self, conn: ConnId, buf: SendBuf) {
        let Some(entry) = self.conns.get(conn).filter(|entry| entry.state != State::Closing && !entry.mute) else {
            return;
        };
        assert!(entry.send.is_none(), "one send at a time: await Event::Sent first");
        entry.send = Some(buf);
        entry.sent = 0;
        self.stats.sends += 1;
        self.to_send.push(conn);
    }

    fn pause(&mut self, conn: ConnId) {
        if let Some(entry) = self.conns.get(conn) {
            entry.paused = true;
        }
    }

    fn resume(&mut self, conn: ConnId) {
        if let Some(entry) = self.conns.get(conn) {
            entry.paused = false;
            self.list_read(conn);
        }
    }

    fn shutdown(&mut self, conn: ConnId) {
        let Some(entry) = self.conns.get(conn).filter(|entry| entry.state != State::Closing) else { return };
        entry.shut = true;
        if entry.state == State::Open {
            self.shutdown_now(conn);
        }
    }

    fn close(&mut self, conn: ConnId) {
        let Some(entry) = self.conns.get(conn).filter(|entry| entry.state != State::Closing) else { return };
        entry.state = State::Closing;
        entry.send = None;
        let (fd, adopted) = (entry.fd.take(), entry.adopted);
        if let Some(fd) = fd {
            if adopted {
                self.poller.remove(fd.as_raw_fd());
            }
            self.stats.syscalls += 1;
        }
        self.ready.push(Event::Closed { conn });
    }

    fn reset(&mut self, conn: ConnId) {
        let open = self.conns.get(conn).filter(|conn| conn.state != State::Closing);
        if let Some(fd) = open.and_then(|conn| conn.fd.as_ref().map(AsRawFd::as_raw_fd)) {
            self.stats.syscalls += 1;
            // Where it cannot be had the peer sees an end.
            let _ = steady_sys::net::reset_on_close(fd);
        }
        self.close(conn);
    }

    fn release(&mut self, conn: ConnId) {
        let Some(entry) = self.conns.get(conn).filter(|entry| entry.state != State::Closing) else { return };
        assert!(entry.state == State::Open && entry.send.is_none(), "only an open connection that sends nothing");
        if std::mem::replace(&mut entry.releasing, true) {
            return;
        }
        let Some(fd) = entry.fd.as_ref().map(AsRawFd::as_raw_fd) else { return };
        // The socket lives on, and would be reported on.
        self.poller.remove(fd);
        self.ready.push(Event::Released { conn });
    }

    fn take(&mut self, conn: ConnId) -> Option<OwnedFd> {
        let at = self.released.iter().position(|(released, _)| *released == conn)?;
        Some(self.released.swap_remove(at).1)
    }

    fn wait(&mut self, until: Option<Time>, events: &mut Vec<Event>) -> io::Result<()> {
        self.stats.waits += 1;
        self.conns.rest_ended();
        // What nobody took is closed.
        self.released.clear();
        let before = events.len();
        loop {
            self.round(until, before, events)?;
            if events.len() > before || until.is_some_and(|until| until <= clock()) {
                return Ok(());
            }
        }
    }

    fn waker(&self) -> Waker {
        Waker::new(self.wake.clone())
    }

    fn stats(&self) -> Stats {
        Stats { syscalls: self.stats.syscalls + self.poller.syscalls, ..self.stats }
    }
}
