//! The io_uring driver.
//!
//! One ring a thread. Accepts and receives are multishot: asked once, completed many times. Received bytes land in a
//! ring of provided buffers; the ones that the worker dropped go back in one batch at the next wait. A send is one
//! plain `send`, or one `sendmsg` when it has pieces. Every wait is one `io_uring_enter`, which submits what the last
//! batch asked for, runs the completion work and sleeps.
//!
//! A quiet send has no completion when all goes well: it is tried while it is submitted and is known to be done when
//! the wait returns, which therefore sleeps until something else happens. A request and its response over two
//! connections cost one wait each.
//!
//! Needs Linux 6.0 (multishot receive); 6.1 brings DEFER_TASKRUN. See `probe` for what stands in the way where it
//! fails.
//!
//! - `queue`: the submission and completion queues.
//! - `buffers`: the provided-buffer ring.
//! - `token`: what `user_data` says.
//! - `conn`: a connection's state.
//! - `submit`: operations on their way in.
//! - `complete`: completions on their way out.
//!
//! # The end of a unix stream
//! A multishot receive on AF_UNIX can miss it, on kernels as new as 6.18: it reads until the socket says that no
//! bytes are left and then waits for a wake-up, although the end is there already and no wake-up will come (liburing
//! issue 1549 has one form; another takes more than 32 buffers at once). TCP hints at its end and is spared. So a
//! unix connection has a one-shot poll for POLLRDHUP beside its receive. When it fires, the multishot receive is
//! cancelled and what is left is read by single receives, which find bytes or the end and never have to wait.

mod buffers;
mod complete;
mod conn;
mod queue;
mod submit;
mod token;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use io_uring::cqueue;

use self::buffers::BufRing;
use self::conn::{Conn, Pinned, State};
use self::queue::Queue;
use self::token::{Kind, Token};
use crate::slots::Slots;
use crate::wake::EventFd;
use crate::{Addr, Config, ConnId, Driver, Event, ListenerId, SendBuf, Stats, Time, Waker, clock};

/// How long a dropped driver waits for the kernel to give its memory back before it leaks that memory instead.
const DROP_PATIENCE: Duration = Duration::from_secs(5);
/// Rounds that it takes for that, however late it is.
const DROP_ROUNDS_MIN: u32 = 8;

/// See the module's description. Made and used on one thread.
pub struct Uring {
    queue: Queue,
    buffers: BufRing,
    conns: Slots<Conn>,
    listeners: Vec<Option<Listener>>,
    /// When the first resting listener accepts again.
    rest_until: Option<Time>,
    /// Receives that ended for want of a buffer.
    starved: VecDeque<ConnId>,
    /// Sends that were submitted, or are about to be, without a completion for the case that all goes well.
    quiet: Vec<ConnId>,
    /// The next wait does not sleep: the end of a quiet send is awaited.
    hurried: bool,
    /// Events that no completion brings, for the next wait.
    ready: Vec<Event>,
    /// Nobody is there any more who could be told of anything.
    dropping: bool,
    /// Sockets that were released, until the next wait.
    released: Vec<(ConnId, OwnedFd)>,
    wake: Arc<EventFd>,
    // Boxed because an entry on its way to the kernel points into it while it changes hands.
    #[allow(clippy::vec_box)]
    spare_pinned: Vec<Box<Pinned>>,
    spare_reaped: Vec<cqueue::Entry>,
    /// Operations that the kernel has, listeners and the waker included.
    in_flight: usize,
    stats: Stats,
}

struct Listener {
    fd: OwnedFd,
    tcp: bool,
    stopping: bool,
    /// Whether the kernel has its accept, or with `polling` a poll in its place.
    armed: bool,
    /// It is non-blocking, because it is shared with a process that needs it so: the ring waits for it by a poll.
    polling: bool,
    /// Set while it rests.
    rest_until: Option<Time>,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Uring({} connections, {} operations in flight)", self.conns.len(), self.in_flight)
    }
}

impl Uring {
    /// Sets up a ring for the calling thread, which must be the one that uses it.
    ///
    /// # Errors
    /// What the kernel refused; [`probe`](crate::probe) turns it into a sentence.
    pub fn new(config: Config) -> io::Result<Uring> {
        config.validate()?;
        let queue = Queue::new(config.entries, config.defer)?;
        let buffers = BufRing::register(&queue, config.buffers, config.buffer_bytes)?;
        let mut driver = Uring {
            queue,
            buffers,
            conns: Slots::new(config.generation_first),
            listeners: Vec::new(),
            rest_until: None,
            starved: VecDeque::with_capacity(usize::from(config.buffers)),
            quiet: Vec::new(),
            hurried: false,
            ready: Vec::new(),
            dropping: false,
            released: Vec::new(),
            wake: Arc::new(EventFd::new()?),
            spare_pinned: Vec::new(),
            spare_reaped: Vec::with_capacity(config.entries as usize * 4),
            in_flight: 0,
            stats: Stats::default(),
        };
        driver.arm_wake();
        Ok(driver)
    }

    /// Whether completions are deferred to our own waits (Linux 6.1).
    pub fn is_deferred(&self) -> bool {
        self.queue.deferred
    }

    /// Connections open or closing.
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    /// What must be submitted before sleeping: free buffers, starved receives, rested listeners.
    fn prepare(&mut self) {
        self.buffers.replenish(self.starved.len());
        // No more receives than buffers: the rest would only starve again. They are tried in the next round, see `round`.
        for _ in 0..self.buffers.lent().min(self.starved.len()) {
            let Some(id) = self.starved.pop_front() else { break };
            if let Some(conn) = self.conns.get(id) {
                conn.starved = false;
                self.arm_receive(id);
            }
        }
        if self.rest_until.is_some_and(|at| at <= clock()) {
            self.end_rests();
        }
    }

    /// Moves the events that no completion brings; those of a connection that was closed meanwhile are dropped.
    fn take_ready(&mut self, events: &mut Vec<Event>) {
        for event in self.ready.drain(..) {
            let stale = match &event {
                Event::Sent { conn, .. } | Event::Failed { conn, .. } | Event::Connected { conn } => {
                    self.conns.get(*conn).is_none_or(|conn| conn.state == State::Closing)
                }
                Event::Released { conn } => {
                    let open = self.conns.get(*conn).is_some_and(|entry| entry.state == State::Open);
                    let given = if open { self.conns.remove(*conn) } else { None };
                    let given = given.map(|entry| (entry.fd, entry.pinned));
                    let (fd, pinned) = given.unwrap_or_default();
                    self.spare_pinned.extend(pinned);
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

    /// One round of [`Driver::wait`], which sleeps only if `events` still has the `before` events that it began with.
    fn round(&mut self, until: Option<Time>, before: usize, events: &mut Vec<Event>) -> io::Result<()> {
        self.prepare();
        self.take_ready(events);
        let until = match (until, self.rest_until) {
            (Some(until), Some(rest)) => Some(until.min(rest)),
            (until, rest) => until.or(rest),
        };
        let timeout = until.map(|until| until.since(clock()));
        // A receive that starved wants a buffer even if nothing has come for it: those that were armed just now may take none, and
        // others behind them have something.
        let others_starve = !self.starved.is_empty() && self.buffers.lent() > 0;
        let sleeps = events.len() == before
            && !std::mem::take(&mut self.hurried)
            && !others_starve
            && timeout != Some(Duration::ZERO)
            && !self.queue.has_completions()
            && self.wake.fall_asleep();
        let entered = self.queue.enter(u32::from(sleeps), timeout.filter(|_| sleeps));
        if self.wake.awake() {
            events.push(Event::Woken);
        }
        entered?;
        self.queue.reap();
        self.conclude(events);
        self.complete_all(events);
        Ok(())
    }

    fn begin_send(&mut self, conn: ConnId, buf: SendBuf, quietly: bool) {
        let Some(entry) = self.conns.get(conn).filter(|entry| entry.state != State::Closing && !entry.mute) else {
            return;
        };
        assert!(entry.send.is_none(), "one send at a time: await Event::Sent first");
        let (empty, open) = (buf.is_empty(), entry.state == State::Open);
        self.stats.sends += 1;
        if empty && open {
            self.ready.push(Event::Sent { conn, buf });
            return;
        }
        entry.send = Some(buf);
        entry.sent = 0;
        if open {
            self.push_send(conn, quietly);
        }
    }
}

impl Driver for Uring {
    type Socket = OwnedFd;

    fn now(&self) -> Time {
        clock()
    }

    fn listen(&mut self, socket: OwnedFd) -> io::Result<ListenerId> {
        let tcp = steady_sys::net::is_tcp(&socket)?;
        if tcp {
            steady_sys::net::set_nodelay(&socket)?;
        }
        let id = ListenerId(self.listeners.len() as u32);
        // Whether it blocks is left as it is: that belongs to the open socket, which another process may share whose
        // driver would hang in a blocking one.
        let listener = Listener { fd: socket, tcp, stopping: false, armed: false, polling: false, rest_until: None };
        self.listeners.push(Some(listener));
        self.arm_accept(id);
        Ok(id)
    }

    fn stop_listening(&mut self, listener: ListenerId) {
        let Some(entry) = self.listeners.get_mut(listener.0 as usize).and_then(Option::as_mut) else { return };
        if std::mem::replace(&mut entry.stopping, true) {
            return;
        }
        if entry.armed {
            self.push_cancel(Token::new(Kind::Accept, ConnId::new(listener.0, 0)));
        } else {
            self.close_listener(listener);
        }
    }

    fn adopt(&mut self, socket: OwnedFd) -> io::Result<ConnId> {
        let tcp = steady_sys::net::is_tcp(&socket)?;
        steady_sys::net::set_nonblocking(&socket, false)?;
        if tcp {
            steady_sys::net::set_nodelay(&socket)?;
        }
        Ok(self.open(socket, tcp))
    }

    fn connect(&mut self, addr: &Addr) -> ConnId {
        self.stats.connects += 1;
        self.begin_connect(addr)
    }

    fn send(&mut self, conn: ConnId, buf: SendBuf) {
        self.begin_send(conn, buf, false);
    }

    fn send_quietly(&mut self, conn: ConnId, buf: SendBuf) {
        self.begin_send(conn, buf, true);
    }

    fn pause(&mut self, conn: ConnId) {
        let Some(entry) = self.conns.get(conn).filter(|entry| entry.state != State::Closing) else { return };
        entry.paused = true;
        if entry.has(Kind::Receive) {
            self.cancel(conn, Kind::Receive);
        }
    }

    fn resume(&mut self, conn: ConnId) {
        let Some(entry) = self.conns.get(conn) else { return };
        entry.paused = false;
        // Where the cancelled receive is not over yet, its completion starts the next one.
        self.arm_receive(conn);
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
        self.hurried |= entry.quiet;
        for kind in Kind::CANCELLABLE {
            self.cancel(conn, kind);
        }
        self.close_when_idle(conn);
    }

    fn reset(&mut self, conn: ConnId) {
        let open = self.conns.get(conn).filter(|conn| conn.state != State::Closing);
        if let Some(fd) = open.and_then(|conn| conn.raw()) {
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
        for kind in [Kind::Receive, Kind::Hangup] {
            self.cancel(conn, kind);
        }
        self.release_when_idle(conn);
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
            // What came was of no concern to the caller (the end of a cancelled receive, a rest that is over).
        }
    }

    fn waker(&self) -> Waker {
        Waker::new(self.wake.clone())
    }

    fn stats(&self) -> Stats {
        let syscalls = self.stats.syscalls + self.queue.syscalls;
        Stats { syscalls, overflowed: self.queue.overflowed, ..self.stats }
    }
}

impl Drop for Uring {
    /// Everything that the kernel has is cancelled and awaited, because a closed ring ends its operations only later,
    /// and until then they may use our buffers.
    fn drop(&mut self) {
        self.dropping = true;
        let mut ids: Vec<ConnId> = self.conns.ids().collect();
        ids.drain(..).for_each(|id| self.close(id));
        for index in 0..self.listeners.len() as u32 {
            self.stop_listening(ListenerId(index));
        }
        self.push_cancel(Token::new(Kind::Wake, ConnId::new(0, 0)));
        let deadline = clock() + DROP_PATIENCE;
        let (mut rounds, mut events) = (0, Vec::new());
        // The last round submits the closes that the round before it asked for. A process that was stopped meanwhile finds the
        // deadline passed before it has begun.
        while (self.in_flight > 0 || self.conns.len() > 0) && (rounds < DROP_ROUNDS_MIN || clock() < deadline) {
            if self.round(Some(deadline), 0, &mut events).is_err() {
                break;
            }
            rounds += 1;
            events.clear();
        }
        if self.in_flight > 0 {
            // The kernel may still write: leak what it may write to.
            std::mem::forget(self.buffers.pool().clone());
            while let Some(id) = { self.conns.ids().next() } {
                self.conns.remove(id).into_iter().for_each(std::mem::forget);
            }
        }
    }
}
