//! Random histories on every driver: whatever a worker asks for and whenever, bytes come in order, nothing comes
//! after a close, and what is not cut off arrives whole.

mod common;

use std::collections::HashMap;
use std::time::Duration;

use common::{Family, Lab, Real, Simulated};
use steady_ring::{Addr, Config, ConnId, Driver, Epoll, Event, Faults, ListenerId, Piece, SendBuf, Uring};

/// Connections at once, and how many steps a history has.
const PAIRS: usize = 8;
const STEPS: usize = 400;

/// One end of a connection, as its worker sees it.
#[derive(Default)]
struct End {
    /// Whose bytes these are: the same for both ends but for the direction.
    pair: usize,
    from_client: bool,
    open: bool,
    sent: usize,
    sending: bool,
    shut: bool,
    paused: bool,
    received: usize,
    ended: bool,
    failed: bool,
    closing: bool,
}

/// The byte at `at` of one direction of one connection.
fn byte(pair: usize, from_client: bool, at: usize) -> u8 {
    let mixed = (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (pair as u64 * 2 + u64::from(from_client));
    (mixed >> 13) as u8
}

struct History<L: Lab> {
    lab: L,
    rng: fastrand::Rng,
    ends: HashMap<ConnId, End>,
    /// The other end; known for clients and servers once the first byte told which pair it is.
    clients: Vec<ConnId>,
    next_pair: usize,
    addrs: Vec<Addr>,
    listeners: Vec<ListenerId>,
}

impl<L: Lab> History<L> {
    fn new(lab: L, seed: u64) -> Self {
        let mut history = History {
            lab,
            rng: fastrand::Rng::with_seed(seed),
            ends: HashMap::new(),
            clients: Vec::new(),
            next_pair: 0,
            addrs: Vec::new(),
            listeners: Vec::new(),
        };
        for family in [Family::Tcp, Family::Unix] {
            let (socket, addr) = history.lab.bind(family);
            let listener = history.lab.driver().listen(socket).unwrap();
            history.listeners.push(listener);
            history.addrs.push(addr);
        }
        history
    }

    fn connect(&mut self) {
        let addr = self.rng.choice(&self.addrs).unwrap().clone();
        let conn = self.lab.driver().connect(&addr);
        let end = End { pair: self.next_pair, from_client: true, ..End::default() };
        self.next_pair += 1;
        assert!(self.ends.insert(conn, end).is_none(), "an id is given twice");
        self.clients.push(conn);
        // The first four octets say which connection this is.
        self.send(conn, 4);
    }

    /// Sends `len` more octets, cut into segments at random.
    fn send(&mut self, conn: ConnId, len: usize) {
        let Some(end) = self.ends.get_mut(&conn) else { return };
        if end.sending || end.shut || end.failed || end.closing {
            return;
        }
        end.sending = true;
        let mut bytes: Vec<u8> = (end.sent..end.sent + len)
            .map(|at| match (end.from_client, at) {
                (true, 0..4) => (end.pair as u32).to_be_bytes()[at],
                _ => byte(end.pair, end.from_client, at),
            })
            .collect();
        end.sent += len;
        let mut buf = SendBuf::default();
        if self.rng.bool() {
            buf.bytes = bytes;
        } else {
            while !bytes.is_empty() {
                let rest = bytes.split_off(self.rng.usize(0..=bytes.len()));
                let part = std::mem::replace(&mut bytes, rest);
                match self.rng.bool() {
                    true => buf.bytes.extend_from_slice(&part),
                    false => buf.splice(buf.bytes.len(), Piece::from(part)),
                }
            }
        }
        match self.rng.bool() {
            true => self.lab.driver().send(conn, buf),
            false => self.lab.driver().send_quietly(conn, buf),
        }
    }

    fn act(&mut self) {
        if self.ends.len() < 2 * PAIRS {
            self.connect();
        }
        let mut conns: Vec<ConnId> = self.ends.keys().copied().collect();
        conns.sort_unstable();
        let Some(&conn) = self.rng.choice(&conns) else { return };
        let len = match self.rng.u8(0..4) {
            0 => self.rng.usize(1..60_000),
            _ => self.rng.usize(1..600),
        };
        match self.rng.u8(0..20) {
            0..10 => {
                if self.ends[&conn].from_client || self.ends[&conn].received >= 4 {
                    self.send(conn, len);
                }
            }
            10..13 => self.pause(conn, true),
            13..17 => self.pause(conn, false),
            17 => {
                let end = self.ends.get_mut(&conn).unwrap();
                if !end.sending && !end.closing && end.open {
                    end.shut = true;
                    self.lab.driver().shutdown(conn);
                }
            }
            18 => self.close(conn),
            _ => {
                self.pause(conn, true);
                self.pause(conn, false);
            }
        }
    }

    fn pause(&mut self, conn: ConnId, paused: bool) {
        let Some(end) = self.ends.get_mut(&conn) else { return };
        end.paused = paused;
        match paused {
            true => self.lab.driver().pause(conn),
            false => self.lab.driver().resume(conn),
        }
    }

    fn close(&mut self, conn: ConnId) {
        self.ends.get_mut(&conn).unwrap().closing = true;
        self.lab.driver().close(conn);
    }

    fn turn(&mut self, until: Duration) {
        let until = self.lab.driver().now() + until;
        let mut events = Vec::new();
        self.lab.wait(Some(until), &mut events);
        for event in events {
            self.check(event);
        }
    }

    fn check(&mut self, event: Event) {
        let conn = match &event {
            Event::Accepted { conn, .. } => {
                let end = End { open: true, pair: usize::MAX, ..End::default() };
                assert!(self.ends.insert(*conn, end).is_none(), "an id is given twice");
                return;
            }
            Event::Connected { conn }
            | Event::Received { conn, .. }
            | Event::EndOfStream { conn }
            | Event::Sent { conn, .. }
            | Event::Failed { conn, .. }
            | Event::Closed { conn } => *conn,
            _ => return,
        };
        let end = self.ends.get_mut(&conn).unwrap_or_else(|| panic!("an event of nobody: {event:?}"));
        assert_eq!(matches!(event, Event::Closed { .. }), end.closing, "after close comes Closed alone: {event:?}");
        match event {
            Event::Connected { .. } => assert!(!std::mem::replace(&mut end.open, true)),
            Event::Received { buf, .. } => end.check_bytes(&buf),
            Event::EndOfStream { .. } => assert!(!std::mem::replace(&mut end.ended, true)),
            Event::Sent { .. } => assert!(std::mem::replace(&mut end.sending, false)),
            Event::Failed { .. } => end.failed = true,
            Event::Closed { .. } => drop(self.ends.remove(&conn)),
            _ => {}
        }
    }

    /// Ends every connection in order; those that nobody cut off must have all of their bytes.
    fn finish(&mut self) {
        let deadline = self.lab.driver().now() + L::PATIENCE;
        loop {
            let conns: Vec<ConnId> = self.ends.keys().copied().collect();
            for &conn in &conns {
                let end = &self.ends[&conn];
                let (idle, ended) = (!end.sending && end.open && !end.closing, end.ended || end.failed);
                let shut = end.shut;
                // Once: the driver remembers.
                if end.paused {
                    self.pause(conn, false);
                }
                if ended && (idle || self.ends[&conn].failed) && !self.ends[&conn].closing {
                    self.account(conn);
                    self.close(conn);
                } else if idle && !shut {
                    self.ends.get_mut(&conn).unwrap().shut = true;
                    self.lab.driver().shutdown(conn);
                }
            }
            if self.ends.is_empty() {
                return;
            }
            assert!(self.lab.driver().now() < deadline, "{} connections never end", self.ends.len());
            self.turn(Duration::from_millis(20));
        }
    }

    fn account(&mut self, conn: ConnId) {
        let end = &self.ends[&conn];
        if end.failed || end.pair == usize::MAX {
            return;
        }
        // The peer is still there and was not cut off: then what it sent is what came.
        let peer = self.ends.values().find(|peer| peer.pair == end.pair && peer.from_client != end.from_client);
        if let Some(peer) = peer.filter(|peer| peer.shut && !peer.failed && !peer.closing) {
            assert_eq!(end.received, peer.sent, "bytes are lost before the end");
        }
    }
}

impl End {
    fn check_bytes(&mut self, bytes: &[u8]) {
        assert!(!self.ended, "bytes after the end");
        let mut number = if self.pair == usize::MAX { 0 } else { self.pair as u32 };
        for (at, &got) in (self.received..).zip(bytes) {
            if !self.from_client && at < 4 {
                // Octets that did not come yet are zero here.
                number = if at == 0 { 0 } else { number } | u32::from(got) << (24 - 8 * at);
            } else {
                assert_eq!(got, byte(number as usize, !self.from_client, at), "octet {at} is wrong");
            }
        }
        self.received += bytes.len();
        self.pair = number as usize;
    }
}

fn a_random_history_keeps_the_contract<L: Lab>(lab: L, seed: u64) {
    let mut history = History::new(lab, seed);
    for _ in 0..STEPS {
        for _ in 0..history.rng.usize(1..5) {
            history.act();
        }
        let until = Duration::from_micros(history.rng.u64(0..200));
        history.turn(until);
    }
    history.finish();
}

/// Few buffers, some of them small: every kind of shortage.
fn config(seed: u64) -> Config {
    let (buffers, buffer_bytes) = [(4, 100), (16, 512), (256, 8_192)][seed as usize % 3];
    let generation_first = if seed.is_multiple_of(3) { u32::MAX - 4 } else { 0 };
    Config { buffers, buffer_bytes, entries: [4, 64][seed as usize % 2], defer: seed % 4 != 3, generation_first }
}

#[test]
fn random_histories_keep_the_contract_on_io_uring() {
    for seed in 0..24 {
        a_random_history_keeps_the_contract(Real::<Uring>::new(config(seed)), seed);
    }
}

#[test]
fn random_histories_keep_the_contract_on_epoll() {
    for seed in 0..24 {
        a_random_history_keeps_the_contract(Real::<Epoll>::new(config(seed)), seed);
    }
}

#[test]
fn random_histories_keep_the_contract_on_a_rough_network() {
    for seed in 0..60 {
        a_random_history_keeps_the_contract(Simulated::with(seed, Faults::rough()), seed);
    }
}

#[test]
fn random_histories_keep_the_contract_on_a_harsh_network_and_leave_nothing() {
    for seed in 0..60 {
        let lab = Simulated::with(seed, Faults::harsh());
        let net = lab.net.clone();
        a_random_history_keeps_the_contract(lab, seed);
        net.advance(net.now() + Duration::from_secs(60));
        assert_eq!(net.open_connections(), 0, "seed {seed}");
    }
}
