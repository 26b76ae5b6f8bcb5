//! One wait of one node: what it asked for goes to the network, and what happened to it is reported.

use std::io;
use std::mem;

use super::{Asked, EndKey, Faults, Net, Node};
use crate::{Addr, ConnId, Event, ListenerId, Op, SendBuf};

/// See the module.
pub(super) struct Turn<'a> {
    pub net: &'a mut Net,
    pub node: usize,
    pub events: &'a mut Vec<Event>,
}

impl Turn<'_> {
    fn node(&mut self) -> &mut Node {
        &mut self.net.nodes[self.node]
    }

    /// Hands what was asked for to the network.
    pub fn submit(&mut self) {
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
    pub fn collect(&mut self) {
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
