//! The network itself: connection ends, what is under way between them, and what happens when.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::driver::Node;
use super::faults::Faults;
use crate::slots::Slots;
use crate::{Addr, ConnId, SendBuf, Time};

/// An end of a connection; as a driver's id, never valid twice.
pub(super) type EndKey = ConnId;

/// Connections that wait to be accepted, per listener; a connect beyond that is lost, as a SYN is.
const BACKLOG_MAX: usize = 128;

pub(super) struct Net {
    pub(super) now: Time,
    pub(super) rng: fastrand::Rng,
    pub(super) faults: Faults,
    pub(super) ends: Slots<End>,
    pub(super) nodes: Vec<Node>,
    pub(super) fingerprint: u64,
    listeners: BTreeMap<String, Listener>,
    scheduled: BinaryHeap<Reverse<Scheduled>>,
    sequence: u64,
    next_port: u16,
}

/// One end.
pub(super) struct End {
    pub(super) peer: EndKey,
    /// Whose it is, under which id: `None` before it was accepted or adopted.
    pub(super) owner: Option<(usize, ConnId)>,
    pub(super) connecting: bool,
    pub(super) from: Option<SocketAddr>,
    // What comes in.
    pub(super) unread: VecDeque<u8>,
    /// Octets on their way here.
    arriving: usize,
    /// Nothing overtakes in one direction.
    last_arrival: Time,
    pub(super) fin: bool,
    /// The connection is broken; the errno to report.
    pub(super) reset: Option<i32>,
    // What goes out.
    pub(super) send: Option<SendBuf>,
    pub(super) sent: usize,
    pub(super) shut: bool,
    stepping: bool,
}

struct Listener {
    /// Descriptors of it.
    references: usize,
    unix: bool,
    /// Nodes that accept from it, by their own listener ids.
    accepting: Vec<(usize, u32)>,
    /// Not yet accepted.
    backlog: VecDeque<EndKey>,
}

struct Scheduled {
    at: Time,
    sequence: u64,
    what: What,
}

enum What {
    /// A connect comes to where it is going.
    Syn {
        from: EndKey,
        addr: Addr,
    },
    /// A connect is answered: `Ok` or the errno.
    Answer {
        to: EndKey,
        errno: Option<i32>,
    },
    /// A sender moves its next segment into the network.
    Step {
        end: EndKey,
    },
    Segment {
        to: EndKey,
        from: EndKey,
        bytes: Vec<u8>,
    },
    Fin {
        to: EndKey,
    },
    Reset {
        to: EndKey,
    },
    /// A node looks at an end again.
    Look {
        end: EndKey,
    },
    /// A closed connection's driver has awaited its completions.
    Closed {
        node: usize,
        conn: ConnId,
    },
    /// A node accepts again after a rest.
    AcceptAgain {
        node: usize,
    },
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

impl Net {
    pub(super) fn new(seed: u64, faults: Faults) -> Net {
        Net {
            now: Time::from_nanos(1_000_000_000),
            rng: fastrand::Rng::with_seed(seed),
            faults,
            ends: Slots::new(0),
            nodes: Vec::new(),
            fingerprint: seed,
            listeners: BTreeMap::new(),
            scheduled: BinaryHeap::new(),
            sequence: 0,
            next_port: 1_024,
        }
    }

    pub(super) fn open_ends(&self) -> usize {
        self.ends.len()
    }

    fn schedule(&mut self, at: Time, what: What) {
        self.sequence += 1;
        self.scheduled.push(Reverse(Scheduled { at, sequence: self.sequence, what }));
    }

    fn soon(&mut self) -> Time {
        self.now + self.faults.latency(&mut self.rng)
    }

    /// A time of arrival at `to`, never before what is already on its way there.
    fn arrival(&mut self, to: EndKey, held_up: Duration) -> Time {
        let at = self.soon() + held_up;
        match self.ends.get(to) {
            Some(end) => {
                end.last_arrival = end.last_arrival.max(at);
                end.last_arrival
            }
            None => at,
        }
    }

    // Time.

    pub(super) fn runnable(&self) -> bool {
        self.nodes.iter().any(|node| node.runnable(self.now))
    }

    pub(super) fn next_event_at(&self) -> Option<Time> {
        if self.runnable() {
            return Some(self.now);
        }
        let network = self.scheduled.peek().map(|Reverse(next)| next.at);
        let nodes = self.nodes.iter().filter_map(|node| node.due(self.now));
        network.into_iter().chain(nodes).min()
    }

    pub(super) fn advance(&mut self, to: Time) {
        self.ends.rest_ended();
        while self.scheduled.peek().is_some_and(|Reverse(next)| next.at <= to) {
            let Some(Reverse(Scheduled { at, what, .. })) = self.scheduled.pop() else { break };
            self.now = self.now.max(at);
            self.happen(what);
        }
        self.now = self.now.max(to);
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Syn { from, addr } => self.syn(from, &addr),
            What::Answer { to, errno } => self.answer(to, errno),
            What::Step { end } => self.step(end),
            What::Segment { to, from, bytes } => self.segment(to, from, &bytes),
            What::Fin { to } => {
                if let Some(end) = self.ends.get(to) {
                    end.fin = true;
                    self.touch(to);
                }
            }
            What::Reset { to } => self.reset(to, libc::ECONNRESET),
            What::Look { end } => self.touch(end),
            What::Closed { node, conn } => self.nodes[node].closed.push(conn),
            What::AcceptAgain { node } => self.nodes[node].accept_rests = false,
        }
    }

    /// Its owner looks at an end in the next wait.
    pub(super) fn touch(&mut self, key: EndKey) {
        if let Some((node, _)) = self.ends.get(key).and_then(|end| end.owner) {
            self.nodes[node].touched.push(key);
        }
    }

    // Listeners.

    pub(super) fn bind(&mut self, addr: Addr) {
        let unix = matches!(addr, Addr::Unix(_));
        let listener = Listener { references: 1, unix, accepting: Vec::new(), backlog: VecDeque::new() };
        assert!(self.listeners.insert(addr.to_string(), listener).is_none(), "{addr} is bound already");
    }

    pub(super) fn bind_again(&mut self, addr: &Addr) {
        self.listeners.get_mut(&addr.to_string()).expect("a live socket is bound").references += 1;
    }

    pub(super) fn unbind(&mut self, addr: &Addr) {
        let name = addr.to_string();
        let Some(listener) = self.listeners.get_mut(&name) else { return };
        listener.references -= 1;
        if listener.references == 0 {
            let waiting = self.listeners.remove(&name).map(|listener| listener.backlog).unwrap_or_default();
            waiting.into_iter().for_each(|end| self.abort(end));
        }
    }

    pub(super) fn accept_from(&mut self, addr: &Addr, node: usize, id: u32) {
        let Some(listener) = self.listeners.get_mut(&addr.to_string()) else { return };
        listener.accepting.push((node, id));
        let waiting = std::mem::take(&mut listener.backlog);
        for end in waiting {
            self.hand_over(end, node, id);
        }
    }

    pub(super) fn stop_accepting(&mut self, addr: &Addr, node: usize) {
        if let Some(listener) = self.listeners.get_mut(&addr.to_string()) {
            listener.accepting.retain(|&(other, _)| other != node);
        }
    }

    fn hand_over(&mut self, end: EndKey, node: usize, id: u32) {
        self.nodes[node].accepted.push_back((id, end));
    }

    pub(super) fn rest_accepting(&mut self, node: usize) {
        self.nodes[node].accept_rests = true;
        let at = self.now + crate::config::ACCEPT_REST;
        self.schedule(at, What::AcceptAgain { node });
    }

    // Connections.

    fn end(&mut self, peer: EndKey, owner: Option<(usize, ConnId)>) -> EndKey {
        self.ends.insert(End {
            peer,
            owner,
            connecting: false,
            from: None,
            unread: VecDeque::new(),
            arriving: 0,
            last_arrival: self.now,
            fin: false,
            reset: None,
            send: None,
            sent: 0,
            shut: false,
            stepping: false,
        })
    }

    /// An end that is nobody's peer yet.
    const NOBODY: EndKey = ConnId::new(u32::MAX, u32::MAX);

    pub(super) fn pair(&mut self) -> (EndKey, EndKey) {
        let one = self.end(Self::NOBODY, None);
        let other = self.end(one, None);
        self.ends.get(one).expect("just made").peer = other;
        (one, other)
    }

    pub(super) fn connect(&mut self, owner: (usize, ConnId), addr: Addr) -> EndKey {
        let key = self.end(Self::NOBODY, Some(owner));
        self.ends.get(key).expect("just made").connecting = true;
        if Faults::happens(&mut self.rng, self.faults.connect_lost_per_million) {
            self.lose_connect(key);
        } else {
            let at = self.soon();
            self.schedule(at, What::Syn { from: key, addr });
        }
        key
    }

    fn lose_connect(&mut self, key: EndKey) {
        let at = self.now + self.faults.connect_timeout;
        self.schedule(at, What::Answer { to: key, errno: Some(libc::ETIMEDOUT) });
    }

    fn syn(&mut self, from: EndKey, addr: &Addr) {
        if self.ends.get(from).is_none() {
            return;
        }
        let refused = Faults::happens(&mut self.rng, self.faults.refuse_per_million);
        let Some(listener) = self.listeners.get_mut(&addr.to_string()).filter(|_| !refused) else {
            let at = self.soon();
            let errno = if matches!(addr, Addr::Unix(_)) && !refused { libc::ENOENT } else { libc::ECONNREFUSED };
            return self.schedule(at, What::Answer { to: from, errno: Some(errno) });
        };
        if listener.backlog.len() >= BACKLOG_MAX {
            return self.lose_connect(from);
        }
        let unix = listener.unix;
        let worker = match listener.accepting.len() {
            0 => None,
            count => Some(listener.accepting[self.rng.usize(0..count)]),
        };
        let key = self.end(from, None);
        self.next_port = self.next_port.checked_add(1).unwrap_or(1_024);
        let peer = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), self.next_port));
        self.ends.get(key).expect("just made").from = (!unix).then_some(peer);
        self.ends.get(from).expect("looked at above").peer = key;
        match worker {
            Some((node, id)) => self.hand_over(key, node, id),
            None => {
                let listener = self.listeners.get_mut(&addr.to_string()).expect("looked at above");
                listener.backlog.push_back(key);
            }
        }
        let at = self.arrival(from, Duration::ZERO);
        self.schedule(at, What::Answer { to: from, errno: None });
    }

    fn answer(&mut self, to: EndKey, errno: Option<i32>) {
        let Some(end) = self.ends.get(to) else { return };
        let Some((node, conn)) = end.owner else { return };
        end.connecting = errno.is_some();
        let shut = end.shut;
        self.nodes[node].answered.push((conn, errno));
        if errno.is_none() {
            self.kick(to);
            if shut {
                self.send_fin(to);
            }
        }
    }

    // Bytes.

    /// Lets a sender go on, soon.
    pub(super) fn kick(&mut self, key: EndKey) {
        let Some(end) = self.ends.get(key) else { return };
        if end.send.is_none() || end.stepping || end.connecting {
            return;
        }
        end.stepping = true;
        let at = self.now + self.faults.latency(&mut self.rng) / 8;
        self.schedule(at, What::Step { end: key });
    }

    /// The room in the direction from `key` to its peer. A peer that is gone takes everything, and answers with a
    /// reset.
    fn room(&mut self, peer: EndKey) -> usize {
        let window = self.faults.window_bytes;
        self.ends.get(peer).map_or(window, |end| window.saturating_sub(end.unread.len() + end.arriving))
    }

    fn step(&mut self, key: EndKey) {
        let Some(end) = self.ends.get(key) else { return };
        end.stepping = false;
        if end.reset.is_some() {
            return self.touch(key);
        }
        let (peer, sent) = (end.peer, end.sent);
        let Some(total) = end.send.as_ref().map(SendBuf::len) else { return };
        let room = self.room(peer);
        let left = total - sent;
        if room == 0 && left > 0 {
            // The peer's next read goes on from here.
            return;
        }
        if left > 0 {
            let cut = self.rng.usize(1..=self.faults.segment_bytes_max.max(1));
            let len = cut.min(room).min(left);
            let end = self.ends.get(key).expect("looked at above");
            end.sent += len;
            let bytes = end.send.as_ref().map(|buf| copy(buf, sent, len)).unwrap_or_default();
            self.emit(key, peer, bytes);
        }
        if left == 0 || self.ends.get(key).is_some_and(|end| end.sent == total) {
            self.touch(key);
        } else {
            self.kick(key);
        }
    }

    fn emit(&mut self, from: EndKey, to: EndKey, bytes: Vec<u8>) {
        let mut held_up = Duration::ZERO;
        if Faults::happens(&mut self.rng, self.faults.stall_per_million) {
            let max = self.faults.stall_max.as_nanos() as u64;
            held_up = Duration::from_nanos(self.rng.u64(0..=max));
        }
        if let Some(end) = self.ends.get(to) {
            end.arriving += bytes.len();
        }
        let at = self.arrival(to, held_up);
        self.schedule(at, What::Segment { to, from, bytes });
        if Faults::happens(&mut self.rng, self.faults.reset_per_million) {
            let at = self.arrival(to, Duration::ZERO);
            self.schedule(at, What::Reset { to });
            let at = self.arrival(from, Duration::ZERO);
            self.schedule(at, What::Reset { to: from });
        }
    }

    fn segment(&mut self, to: EndKey, from: EndKey, bytes: &[u8]) {
        match self.ends.get(to) {
            Some(end) => {
                end.arriving -= bytes.len();
                if end.reset.is_none() {
                    end.unread.extend(bytes);
                    self.touch(to);
                }
            }
            None => {
                let at = self.arrival(from, Duration::ZERO);
                self.schedule(at, What::Reset { to: from });
            }
        }
    }

    pub(super) fn reset(&mut self, key: EndKey, errno: i32) {
        // What came before a reset may be read or lost with it.
        let lost = self.rng.bool();
        let Some(end) = self.ends.get(key) else { return };
        if end.connecting {
            return self.answer(key, Some(errno));
        }
        if end.reset.is_none() {
            end.reset = Some(errno);
            if lost {
                end.unread.clear();
            }
            self.touch(key);
        }
    }

    pub(super) fn send_fin(&mut self, key: EndKey) {
        let Some(peer) = self.ends.get(key).map(|end| end.peer) else { return };
        let at = self.arrival(peer, Duration::ZERO);
        self.schedule(at, What::Fin { to: peer });
    }

    /// The owner read `key`'s bytes: its peer may have room to send again.
    pub(super) fn read_some(&mut self, key: EndKey) {
        if let Some(peer) = self.ends.get(key).map(|end| end.peer) {
            self.kick(peer);
        }
    }

    pub(super) fn look_later(&mut self, key: EndKey) {
        let at = self.soon() + Duration::from_nanos(1);
        self.schedule(at, What::Look { end: key });
    }

    pub(super) fn report_closed(&mut self, node: usize, conn: ConnId) {
        let at = self.soon();
        self.schedule(at, What::Closed { node, conn });
    }

    /// As `close(2)`: unread bytes make it a reset, otherwise the stream ends.
    pub(super) fn close_end(&mut self, key: EndKey) {
        let Some(end) = self.ends.get(key) else { return };
        if !end.unread.is_empty() {
            return self.abort(key);
        }
        if !end.shut && end.reset.is_none() && !end.connecting {
            self.send_fin(key);
        }
        // A connect that is given up after the other side accepted it: that side must hear of it.
        if self.ends.get(key).is_some_and(|end| end.connecting) {
            return self.abort(key);
        }
        self.ends.remove(key);
    }

    /// Ends both directions at once, by a reset.
    pub(super) fn abort(&mut self, key: EndKey) {
        let Some(end) = self.ends.remove(key) else { return };
        if end.reset.is_none() {
            let at = self.arrival(end.peer, Duration::ZERO);
            self.schedule(at, What::Reset { to: end.peer });
        }
    }
}

/// `len` octets of a send from `start` on.
fn copy(buf: &SendBuf, mut start: usize, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    for piece in buf.slices() {
        if start >= piece.len() {
            start -= piece.len();
            continue;
        }
        let take = (piece.len() - start).min(len - bytes.len());
        bytes.extend_from_slice(&piece[start..start + take]);
        start = 0;
        if bytes.len() == len {
            break;
        }
    }
    bytes
}
