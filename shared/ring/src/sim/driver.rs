//! A node's side of the network; `turn`: what one wait of it does.

mod turn;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use self::turn::Turn;
use super::faults::Faults;
use super::net::{EndKey, Net};
use super::{Kind, SimSocket};
use crate::slots::{NO_GENERATION, Slots};
use crate::{Addr, ConnId, Driver, Event, ListenerId, Pool, SendBuf, Stats, Time, Wake, Waker};

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
