//! A node's side of the network.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::faults::Faults;
use super::net::{EndKey, Net};
use super::{Kind, SimSocket};
use crate::slots::{NO_GENERATION, Slots};
use crate::{Addr, ConnId, Driver, Event, ListenerId, Op, Pool, SendBuf, Stats, Time, Wake, Waker};

/// The driver of one simulated node. Dropping it closes all that it has, as the end of a process does.
pub struct Sim {
    net: Rc<RefCell<Net>>,
    node: usize,
    listeners: Vec<Option<SimSocket>>,
    /// Sockets that were released, until the next wait.
    released: Vec<(ConnId, SimSocket)>,
}

/// What the network keeps of a node.
pub(super) struct Node {
    pool: Pool,
    conns: Slots<Conn>,
    /// Operations asked for since the last wait.
    asked: Vec<Asked>,
    /// `until` of the last wait.
    deadline: Option<Time>,
    /// Until then it does not run.
    stalled_until: Time,
    /// Ends at which something happened.
    pub(super) touched: Vec<EndKey>,
    /// Connects that were answered: success, or the errno.
    pub(super) answered: Vec<(ConnId, Option<i32>)>,
    pub(super) accepted: VecDeque<(u32, EndKey)>,
    pub(super) accept_rests: bool,
    pub(super) closed: Vec<ConnId>,
    /// Connections given away, with their ends.
    released: Vec<(ConnId, EndKey)>,
    stopped: Vec<u32>,
    /// Ends whose bytes wait for a buffer.
    starved: Vec<EndKey>,
    wake: Arc<Flag>,
    stats: Stats,
    /// Its driver was dropped: nobody looks at what still happens to it.
    gone: bool,
}

struct Conn {
    /// `None` before the connect was submitted and after the close was.
    end: Option<EndKey>,
    closing: bool,
    paused: bool,
    releasing: bool,
    ended: bool,
    /// A send was asked for and not submitted, or is under way.
    sending: bool,
    /// A send failed: none is tried again.
    mute: bool,
}

enum Asked {
    Connect { conn: ConnId, addr: Addr },
    Send { conn: ConnId, buf: SendBuf },
    Shutdown { conn: ConnId },
    Close { conn: ConnId, reset: bool },
    Release { conn: ConnId },
    Look { end: EndKey },
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Slots begin with a generation near the last, so that every history goes past it.
const SOON_OVER: u32 = NO_GENERATION - 4;

impl Node {
    fn new(faults: &Faults) -> Node {
        Node {
            pool: Pool::new(faults.buffers, faults.buffer_bytes),
            conns: Slots::new(SOON_OVER),
            asked: Vec::new(),
            deadline: None,
            stalled_until: Time::ZERO,
            touched: Vec::new(),
            answered: Vec::new(),
            accepted: VecDeque::new(),
            accept_rests: false,
            closed: Vec::new(),
            released: Vec::new(),
            stopped: Vec::new(),
            starved: Vec::new(),
            wake: Arc::new(Flag(AtomicBool::new(false))),
            stats: Stats::default(),
            gone: false,
        }
    }

    pub(super) fn runnable(&self, now: Time) -> bool {
        if self.gone || self.is_stalled(now) {
            return false;
        }
        !self.asked.is_empty()
            || !self.touched.is_empty()
            || !self.answered.is_empty()
            || !self.closed.is_empty()
            || ((!self.accepted.is_empty() || !self.stopped.is_empty()) && !self.accept_rests)
            || (!self.starved.is_empty() && self.pool.has_free())
            || self.deadline.is_some_and(|deadline| deadline <= now)
            || self.wake.0.load(Ordering::SeqCst)
    }

    fn is_stalled(&self, now: Time) -> bool {
        now < self.stalled_until
    }

    /// When it has something to do though nothing more happens.
    pub(super) fn due(&self, now: Time) -> Option<Time> {
        if self.is_stalled(now) { Some(self.stalled_until) } else { self.deadline }
    }

    fn open(&mut self, end: EndKey) -> ConnId {
        let conn = Conn {
            end: Some(end),
            closing: false,
            paused: false,
            releasing: false,
            ended: false,
            sending: false,
            mute: false,
        };
        self.touched.push(end);
        self.conns.insert(conn)
    }
}

impl std::fmt::Debug for Sim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sim(node {})", self.node)
    }
}

impl Sim {
    pub(super) fn new(net: Rc<RefCell<Net>>) -> Sim {
        let node = {
            let mut net = net.borrow_mut();
            let node = Node::new(&net.faults);
            net.nodes.push(node);
            net.nodes.len() - 1
        };
        Sim { net, node, listeners: Vec::new(), released: Vec::new() }
    }

    /// The node does not run until then, as a process that is stopped or a machine without time for it; its sockets and the
    /// network go on. Whoever steps it must leave it alone meanwhile.
    pub fn stall(&self, until: Time) {
        self.with(|node| node.stalled_until = until);
    }

    fn with<R>(&self, act: impl FnOnce(&mut Node) -> R) -> R {
        act(&mut self.net.borrow_mut().nodes[self.node])
    }

    /// Asks for something on a connection that is there and not closing.
    fn ask(&self, conn: ConnId, asked: Asked) {
        self.with(|node| {
            if node.conns.get(conn).is_some_and(|conn| !conn.closing) {
                node.asked.push(asked);
            }
        });
    }

    fn end(&self, conn: ConnId, reset: bool) {
        self.ask(conn, Asked::Close { conn, reset });
        self.with(|node| {
            if let Some(entry) = node.conns.get(conn) {
                entry.closing = true;
            }
        });
    }
}

impl Driver for Sim {
    type Socket = SimSocket;

    fn now(&self) -> Time {
        self.net.borrow().now
    }

    fn listen(&mut self, socket: SimSocket) -> io::Result<ListenerId> {
        let Kind::Listener(addr) = &socket.kind else { return Err(io::ErrorKind::InvalidInput.into()) };
        let id = self.listeners.len() as u32;
        self.net.borrow_mut().accept_from(addr, self.node, id);
        self.listeners.push(Some(socket));
        Ok(ListenerId(id))
    }

    fn stop_listening(&mut self, listener: ListenerId) {
        let Some(socket) = self.listeners.get_mut(listener.0 as usize).and_then(Option::take) else { return };
        if let Kind::Listener(addr) = &socket.kind {
            self.net.borrow_mut().stop_accepting(addr, self.node);
        }
        self.with(|node| node.stopped.push(listener.0));
    }

    fn adopt(&mut self, mut socket: SimSocket) -> io::Result<ConnId> {
        let Kind::Connected(end) = &mut socket.kind else { return Err(io::ErrorKind::InvalidInput.into()) };
        let end = end.take().ok_or(io::ErrorKind::NotConnected)?;
        let mut net = self.net.borrow_mut();
        let conn = net.nodes[self.node].open(end);
        net.ends.get(end).ok_or(io::ErrorKind::NotConnected)?.owner = Some((self.node, conn));
        Ok(conn)
    }

    fn connect(&mut self, addr: &Addr) -> ConnId {
        self.with(|node| {
            node.stats.connects += 1;
            let conn = Conn {
                end: None,
                closing: false,
                paused: false,
                releasing: false,
                ended: false,
                sending: false,
                mute: false,
            };
            let conn = node.conns.insert(conn);
            node.asked.push(Asked::Connect { conn, addr: addr.clone() });
            conn
        })
    }

    fn send(&mut self, conn: ConnId, buf: SendBuf) {
        self.with(|node| {
            let Some(entry) = node.conns.get(conn).filter(|entry| !entry.closing && !entry.mute) else { return };
            assert!(!entry.sending, "one send at a time: await Event::Sent first");
            entry.sending = true;
            node.stats.sends += 1;
            node.asked.push(Asked::Send { conn, buf });
        });
    }

    fn pause(&mut self, conn: ConnId) {
        self.with(|node| {
            if let Some(entry) = node.conns.get(conn) {
                entry.paused = true;
            }
        });
    }

    fn resume(&mut self, conn: ConnId) {
        self.with(|node| {
            let Some(entry) = node.conns.get(conn) else { return };
            entry.paused = false;
            let end = entry.end;
            node.asked.extend(end.map(|end| Asked::Look { end }));
        });
    }

    fn shutdown(&mut self, conn: ConnId) {
        self.ask(conn, Asked::Shutdown { conn });
    }

    fn close(&mut self, conn: ConnId) {
        self.end(conn, false);
    }

    fn reset(&mut self, conn: ConnId) {
        self.end(conn, true);
    }

    fn release(&mut self, conn: ConnId) {
        self.with(|node| {
            let Some(entry) = node.conns.get(conn).filter(|entry| !entry.closing) else { return };
            assert!(entry.end.is_some() && !entry.sending, "only an open connection that sends nothing");
            if !mem::replace(&mut entry.releasing, true) {
                node.asked.push(Asked::Release { conn });
            }
        });
    }

    fn take(&mut self, conn: ConnId) -> Option<SimSocket> {
        let at = self.released.iter().position(|(released, _)| *released == conn)?;
        Some(self.released.swap_remove(at).1)
    }

    fn wait(&mut self, until: Option<Time>, events: &mut Vec<Event>) -> io::Result<()> {
        // What nobody took is closed.
        self.released.clear();
        let shared = Rc::clone(&self.net);
        let net = &mut *self.net.borrow_mut();
        let first = events.len();
        let node = &mut net.nodes[self.node];
        assert!(!node.is_stalled(net.now), "a node that is stalled does not run");
        node.stats.waits += 1;
        node.conns.rest_ended();
        node.deadline = until.filter(|&until| until > net.now);
        if node.wake.0.swap(false, Ordering::SeqCst) {
            events.push(Event::Woken);
        }
        let mut turn = Turn { net, node: self.node, events };
        turn.submit();
        turn.collect();
        for (conn, end) in mem::take(&mut net.nodes[self.node].released) {
            let socket = SimSocket { net: Rc::clone(&shared), kind: Kind::Connected(Some(end)) };
            self.released.push((conn, socket));
        }
        for event in &events[first..] {
            net.fingerprint = mix(net.fingerprint, net.now, self.node, event);
        }
        Ok(())
    }

    fn waker(&self) -> Waker {
        Waker::new(self.with(|node| node.wake.clone()))
    }

    fn stats(&self) -> Stats {
        self.with(|node| node.stats)
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        for index in 0..self.listeners.len() as u32 {
            self.stop_listening(ListenerId(index));
        }
        let mut net = self.net.borrow_mut();
        let node = &mut net.nodes[self.node];
        let pool = node.pool.clone();
        let nobody = Node { gone: true, ..Node::new(&Faults { buffers: 1, buffer_bytes: 1, ..Faults::none() }) };
        let mut node = mem::replace(node, nobody);
        let ids: Vec<ConnId> = node.conns.ids().collect();
        let open = ids.into_iter().filter_map(|id| node.conns.remove(id)?.end);
        for end in open.chain(node.accepted.drain(..).map(|(_, end)| end)) {
            net.close_end(end);
        }
        drop(pool);
    }
}

/// One wait of one node.
struct Turn<'a> {
    net: &'a mut Net,
    node: usize,
    events: &'a mut Vec<Event>,
}

impl Turn<'_> {
    fn node(&mut self) -> &mut Node {
        &mut self.net.nodes[self.node]
    }

    /// Hands what was asked for to the network.
    fn submit(&mut self) {
        for asked in mem::take(&mut self.node().asked) {
            match asked {
                Asked::Connect { conn, addr } => self.connect(conn, addr),
                Asked::Send { conn, buf } => self.send(conn, buf),
                Asked::Shutdown { conn } => self.shutdown(conn),
                Asked::Close { conn, reset } => self.close(conn, reset),
                Asked::Release { conn } => self.release(conn),
                Asked::Look { end } => self.node().touched.push(end),
            }
        }
    }

    fn end_of(&mut self, conn: ConnId) -> Option<EndKey> {
        self.node().conns.get(conn)?.end
    }

    fn connect(&mut self, conn: ConnId, addr: Addr) {
        let end = self.net.connect((self.node, conn), addr);
        if let Some(entry) = self.node().conns.get(conn) {
            entry.end = Some(end);
        }
    }

    fn send(&mut self, conn: ConnId, buf: SendBuf) {
        let Some(key) = self.end_of(conn) else { return };
        let Some(end) = self.net.ends.get(key) else { return };
        end.send = Some(buf);
        end.sent = 0;
        if end.reset.is_some() || end.shut {
            end.reset.get_or_insert(libc::EPIPE);
            self.net.touch(key);
        } else {
            self.net.kick(key);
        }
    }

    fn shutdown(&mut self, conn: ConnId) {
        let Some(key) = self.end_of(conn) else { return };
        let Some(end) = self.net.ends.get(key) else { return };
        if !mem::replace(&mut end.shut, true) && !end.connecting {
            self.net.send_fin(key);
        }
    }

    fn close(&mut self, conn: ConnId, reset: bool) {
        let end = self.node().conns.get(conn).and_then(|entry| entry.end.take());
        match end {
            Some(end) if reset => self.net.abort(end),
            Some(end) => self.net.close_end(end),
            None => {}
        }
        self.net.report_closed(self.node, conn);
    }

    /// The end is nobody's from here on; what comes meanwhile waits in it.
    fn release(&mut self, conn: ConnId) {
        if self.node().conns.get(conn).is_none_or(|entry| entry.closing) {
            return;
        }
        let Some(key) = self.node().conns.remove(conn).and_then(|entry| entry.end) else { return };
        if let Some(end) = self.net.ends.get(key) {
            end.owner = None;
        }
        self.node().released.push((conn, key));
        self.events.push(Event::Released { conn });
    }

    /// Reports everything that is due.
    fn collect(&mut self) {
        self.accept();
        // What a stopped listener has already taken comes out before its end.
        if self.node().accepted.is_empty() {
            for listener in mem::take(&mut self.node().stopped) {
                self.events.push(Event::ListenerClosed { listener: ListenerId(listener) });
            }
        }
        for (conn, errno) in mem::take(&mut self.node().answered) {
            if self.node().conns.get(conn).is_none_or(|entry| entry.closing) {
                continue;
            }
            self.events.push(match errno {
                None => Event::Connected { conn },
                Some(errno) => failed(conn, Op::Connect, errno),
            });
        }
        let mut touched = mem::take(&mut self.node().touched);
        touched.append(&mut self.node().starved);
        touched.sort_unstable();
        touched.dedup();
        self.net.rng.shuffle(&mut touched);
        for end in touched {
            self.look(end);
        }
        for conn in mem::take(&mut self.node().closed) {
            self.node().conns.remove(conn);
            self.events.push(Event::Closed { conn });
        }
    }

    fn accept(&mut self) {
        while !self.node().accept_rests {
            let Some((listener, key)) = self.node().accepted.pop_front() else { break };
            let listener_id = ListenerId(listener);
            if Faults::happens(&mut self.net.rng, self.net.faults.accept_fail_per_million) {
                self.node().stats.accept_failed += 1;
                self.node().accepted.push_front((listener, key));
                let error = io::Error::from_raw_os_error(libc::EMFILE);
                self.events.push(Event::AcceptFailed { listener: listener_id, error });
                self.net.rest_accepting(self.node);
                continue;
            }
            if self.net.ends.get(key).is_none() {
                continue;
            }
            self.node().stats.accepted += 1;
            let conn = self.node().open(key);
            let owner = (self.node, conn);
            let end = self.net.ends.get(key).expect("just seen");
            end.owner = Some(owner);
            let peer = end.from;
            self.events.push(Event::Accepted { listener: listener_id, conn, peer });
        }
    }

    /// Reports what happened at one end.
    fn look(&mut self, key: EndKey) {
        let Some((_, conn)) = self.net.ends.get(key).filter(|end| !end.connecting).and_then(|end| end.owner) else {
            return;
        };
        if self.node().conns.get(conn).is_none_or(|entry| entry.closing) {
            return;
        }
        self.look_at_send(key, conn);
        self.look_at_receive(key, conn);
    }

    fn look_at_send(&mut self, key: EndKey, conn: ConnId) {
        let Some(end) = self.net.ends.get(key) else { return };
        let Some(total) = end.send.as_ref().map(SendBuf::len) else { return };
        let whole = end.sent == total && total > 0;
        let (reset, sent) = (end.reset, end.sent);
        if !whole && reset.is_none() && total > 0 {
            return;
        }
        let Some(buf) = end.send.take() else { return };
        let node = self.node();
        node.stats.sent_bytes += sent as u64;
        if let Some(entry) = node.conns.get(conn) {
            entry.sending = false;
            entry.mute = reset.is_some() && !whole;
        }
        self.events.push(match reset.filter(|_| !whole) {
            None => Event::Sent { conn, buf },
            Some(errno) => failed(conn, Op::Send, errno),
        });
    }

    fn look_at_receive(&mut self, key: EndKey, conn: ConnId) {
        loop {
            if self.node().conns.get(conn).is_none_or(|entry| entry.paused || entry.ended) {
                return;
            }
            let Some(end) = self.net.ends.get(key) else { return };
            if end.unread.is_empty() {
                let ending = match (end.reset, end.fin) {
                    (Some(errno), _) => failed(conn, Op::Receive, errno),
                    (None, true) => Event::EndOfStream { conn },
                    (None, false) => return,
                };
                if let Some(entry) = self.node().conns.get(conn) {
                    entry.ended = true;
                }
                self.events.push(ending);
                return;
            }
            if Faults::happens(&mut self.net.rng, self.net.faults.starve_per_million) {
                self.node().stats.starved += 1;
                return self.net.look_later(key);
            }
            let Some(buffer) = self.node().pool.lend() else {
                let node = self.node();
                node.stats.starved += 1;
                node.starved.push(key);
                return;
            };
            self.fill(key, conn, buffer);
        }
    }

    fn fill(&mut self, key: EndKey, conn: ConnId, buffer: u16) {
        let pool = self.node().pool.clone();
        let short = Faults::happens(&mut self.net.rng, self.net.faults.short_read_per_million);
        let Some(end) = self.net.ends.get(key) else { return pool.give_back(buffer) };
        let most = end.unread.len().min(pool.buffer_size());
        let len = if short { self.net.rng.usize(1..=most) } else { most };
        for (at, byte) in end.unread.drain(..len).enumerate() {
            // SAFETY: the buffer is lent to us alone and has `buffer_size` octets, of which this is one.
            unsafe { pool.address(buffer).add(at).write(byte) };
        }
        self.node().stats.received_bytes += len as u64;
        self.events.push(Event::Received { conn, buf: pool.filled(buffer, len) });
        self.net.read_some(key);
    }
}

fn failed(conn: ConnId, op: Op, errno: i32) -> Event {
    Event::Failed { conn, op, error: io::Error::from_raw_os_error(errno) }
}

/// Folds one event into a fingerprint.
fn mix(seed: u64, now: Time, node: usize, event: &Event) -> u64 {
    let (kind, conn, size) = match event {
        Event::Accepted { conn, .. } => (1, Some(conn), 0),
        Event::AcceptFailed { .. } => (2, None, 0),
        Event::ListenerClosed { .. } => (3, None, 0),
        Event::Connected { conn } => (4, Some(conn), 0),
        Event::Received { conn, buf } => (5, Some(conn), buf.len()),
        Event::EndOfStream { conn } => (6, Some(conn), 0),
        Event::Sent { conn, buf } => (7, Some(conn), buf.len()),
        Event::Failed { conn, op, .. } => (8, Some(conn), *op as usize),
        Event::Closed { conn } => (9, Some(conn), 0),
        Event::Woken => (10, None, 0),
        Event::Released { conn } => (11, Some(conn), 0),
    };
    let conn = conn.map_or(u64::MAX, |conn| conn.index() as u64 ^ u64::from(conn.generation()) << 32);
    [kind, node as u64, size as u64, conn, now.as_nanos()]
        .iter()
        .fold(seed, |hash, &value| (hash ^ value).wrapping_mul(0x0100_0000_01b3).rotate_left(23))
}
