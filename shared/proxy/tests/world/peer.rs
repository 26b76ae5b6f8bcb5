//! Nodes that are not the engine: one speaks HTTP with this project's codecs, one speaks raw octets.

use std::collections::BTreeMap;
use std::rc::Rc;

use steady_http::{Client, Codec, Event, Head, Limits, Reset, Scheme, StreamId, h1, h2};
use steady_ring::{Addr, ConnId, Driver, Event as Net, Sim, SimListener, SimNet, Time};

use super::Node;

pub enum Wire {
    H1Server(h1::Server),
    H2Server(Box<h2::Server>),
    H1Client(h1::Client),
    H2Client(Box<h2::Client>),
}

impl Wire {
    pub fn codec(&mut self) -> &mut dyn Codec {
        match self {
            Wire::H1Server(codec) => codec,
            Wire::H2Server(codec) => codec.as_mut(),
            Wire::H1Client(codec) => codec,
            Wire::H2Client(codec) => codec.as_mut(),
        }
    }

    pub fn client(&mut self) -> &mut dyn Client {
        match self {
            Wire::H1Client(codec) => codec,
            Wire::H2Client(codec) => codec.as_mut(),
            _ => panic!("a server"),
        }
    }
}

/// What a codec said, owned.
#[derive(Debug)]
pub enum Heard {
    Head { stream: StreamId, head: Head, end: bool },
    Interim { stream: StreamId, head: Head },
    Data { stream: StreamId, data: Vec<u8>, flow: u32, end: bool },
    Trailers { stream: StreamId, head: Head },
    Reset { stream: StreamId, reset: Reset },
    Writable,
    Other,
}

/// How a connection went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    Refused,
    Reset,
    /// The peer ended it.
    Ended,
    /// The peer broke a rule.
    Rules(&'static str),
}

/// One connection of a [`Peer`].
pub struct Line {
    pub id: ConnId,
    pub wire: Wire,
    pub out: Vec<u8>,
    /// Where it came in, for servers.
    pub listener: u32,
    pub open: bool,
    pending: Vec<u8>,
    sending: bool,
    closing: bool,
    /// Close it once everything has been sent.
    pub last: bool,
    /// Shut our side down once everything has been sent.
    pub shut: bool,
    is_shut: bool,
}

impl Line {
    pub fn is_h2(&self) -> bool {
        matches!(self.wire, Wire::H2Server(_) | Wire::H2Client(_))
    }

    /// The codec and the output it writes to.
    pub fn codec(&mut self) -> (&mut dyn Codec, &mut Vec<u8>) {
        (self.wire.codec(), &mut self.out)
    }

    pub fn client(&mut self) -> (&mut dyn Client, &mut Vec<u8>) {
        (self.wire.client(), &mut self.out)
    }
}

/// What a [`Peer`] is for.
pub trait App {
    fn opened(&mut self, line: &mut Line, now: Time);
    fn heard(&mut self, line: &mut Line, heard: Heard, now: Time);
    fn gone(&mut self, id: ConnId, gone: Gone);
    /// A turn for what it wants to do by itself; when it wants the next one.
    fn turn(&mut self, lines: &mut BTreeMap<usize, Line>, ctl: &mut Ctl<'_>, now: Time) -> Option<Time>;
}

/// What an app may do beside writing to lines.
pub struct Ctl<'a> {
    sim: &'a mut Sim,
    limits: &'a Rc<Limits>,
    opened: Vec<Line>,
    closed: Vec<ConnId>,
}

impl Ctl<'_> {
    pub fn connect(&mut self, addr: &Addr, is_h2: bool) -> ConnId {
        let id = self.sim.connect(addr);
        let limits = Rc::clone(self.limits);
        let wire = if is_h2 {
            Wire::H2Client(Box::new(h2::Client::new(limits, Scheme::Http)))
        } else {
            Wire::H1Client(h1::Client::new(limits))
        };
        self.opened.push(line(id, wire, 0, false));
        id
    }

    /// Cuts it.
    pub fn close(&mut self, id: ConnId) {
        self.closed.push(id);
    }
}

fn line(id: ConnId, wire: Wire, listener: u32, open: bool) -> Line {
    Line {
        id,
        wire,
        out: Vec::new(),
        listener,
        open,
        pending: Vec::new(),
        sending: false,
        closing: false,
        last: false,
        shut: false,
        is_shut: false,
    }
}

pub struct Peer<A> {
    sim: Sim,
    limits: Rc<Limits>,
    /// By slot.
    lines: BTreeMap<usize, Line>,
    /// Which listeners speak HTTP/2.
    h2: Vec<bool>,
    next: Option<Time>,
    head: Head,
    pub app: A,
}

impl<A: App> Peer<A> {
    pub fn new(net: &SimNet, limits: Limits, app: A) -> Peer<A> {
        Peer {
            sim: net.driver(),
            limits: Rc::new(limits),
            lines: BTreeMap::new(),
            h2: Vec::new(),
            next: None,
            head: Head::new(),
            app,
        }
    }

    pub fn listen(&mut self, socket: SimListener, is_h2: bool) {
        self.sim.listen(socket).unwrap();
        self.h2.push(is_h2);
    }

    pub fn lines(&self) -> usize {
        self.lines.len()
    }

    /// Closes every connection.
    pub fn hang_up(&mut self) {
        for line in self.lines.values_mut() {
            line.closing = true;
            self.sim.close(line.id);
        }
    }

    fn line(&mut self, id: ConnId) -> Option<&mut Line> {
        self.lines.get_mut(&id.index()).filter(|line| line.id == id && !line.closing)
    }

    fn end(&mut self, id: ConnId, gone: Gone) {
        if let Some(line) = self.line(id) {
            line.closing = true;
            self.sim.close(id);
            self.app.gone(id, gone);
        }
    }

    fn event(&mut self, event: Net, now: Time) {
        match event {
            Net::Accepted { listener, conn, .. } => {
                let limits = Rc::clone(&self.limits);
                let wire = if self.h2[listener.0 as usize] {
                    Wire::H2Server(Box::new(h2::Server::new(limits, Scheme::Http)))
                } else {
                    Wire::H1Server(h1::Server::new(limits, Scheme::Http))
                };
                self.lines.insert(conn.index(), line(conn, wire, listener.0, true));
            }
            Net::Connected { conn } => {
                let Some(line) = self.lines.get_mut(&conn.index()).filter(|line| line.id == conn) else { return };
                line.open = true;
                if let Wire::H2Client(client) = &mut line.wire {
                    client.start(&mut line.out);
                }
                self.app.opened(line, now);
            }
            Net::Received { conn, buf } => {
                if let Some(line) = self.line(conn) {
                    line.pending.extend_from_slice(&buf);
                    self.feed(conn, now);
                }
            }
            Net::EndOfStream { conn } => {
                let Some(line) = self.line(conn) else { return };
                match line.wire.codec().receive_end(&mut line.out) {
                    Ok(Some(Event::Data { stream, data, flow, end })) => {
                        let heard = Heard::Data { stream, data: data.to_vec(), flow, end };
                        if let Some(line) = self.lines.get_mut(&conn.index()) {
                            self.app.heard(line, heard, now);
                        }
                        self.end(conn, Gone::Ended);
                    }
                    Ok(_) => self.end(conn, Gone::Ended),
                    Err(error) => self.end(conn, Gone::Rules(error.reason)),
                }
            }
            Net::Sent { conn, .. } => {
                if let Some(line) = self.lines.get_mut(&conn.index()).filter(|line| line.id == conn) {
                    line.sending = false;
                }
            }
            Net::Failed { conn, op, .. } => {
                let gone = if op == steady_ring::Op::Connect { Gone::Refused } else { Gone::Reset };
                self.end(conn, gone);
            }
            Net::Closed { conn } => {
                if self.lines.get(&conn.index()).is_some_and(|line| line.id == conn) {
                    self.lines.remove(&conn.index());
                }
            }
            Net::AcceptFailed { .. } | Net::ListenerClosed { .. } | Net::Released { .. } | Net::Woken => {}
        }
    }

    fn feed(&mut self, id: ConnId, now: Time) {
        loop {
            let Some(line) = self.lines.get_mut(&id.index()).filter(|line| line.id == id && !line.closing) else {
                return;
            };
            let input = std::mem::take(&mut line.pending);
            let step = match line.wire.codec().receive(&input, &mut self.head, &mut line.out) {
                Ok(step) => step,
                Err(error) => return self.end(id, Gone::Rules(error.reason)),
            };
            let heard = step.event.map(|event| match event {
                Event::Head { stream, end } => Heard::Head { stream, head: self.head.clone(), end },
                Event::Interim { stream } => Heard::Interim { stream, head: self.head.clone() },
                Event::Data { stream, data, flow, end } => Heard::Data { stream, data: data.to_vec(), flow, end },
                Event::Trailers { stream } => Heard::Trailers { stream, head: self.head.clone() },
                Event::Reset { stream, reset } => Heard::Reset { stream, reset },
                Event::Writable { .. } => Heard::Writable,
                Event::GoAway { .. } | Event::Settings | Event::Pong { .. } => Heard::Other,
            });
            line.pending = input[step.consumed..].to_vec();
            match heard {
                Some(heard) => self.app.heard(line, heard, now),
                None => return,
            }
        }
    }
}

impl<A: App> Node for Peer<A> {
    fn step(&mut self) {
        let mut events = Vec::new();
        self.sim.wait(self.next, &mut events).unwrap();
        let now = self.sim.now();
        for event in events {
            self.event(event, now);
        }
        let mut ctl = Ctl { sim: &mut self.sim, limits: &self.limits, opened: Vec::new(), closed: Vec::new() };
        self.next = self.app.turn(&mut self.lines, &mut ctl, now);
        let Ctl { opened, closed, .. } = ctl;
        for line in opened {
            self.lines.insert(line.id.index(), line);
        }
        for id in closed {
            if let Some(line) = self.line(id) {
                line.closing = true;
                self.sim.close(id);
            }
        }
        // A response that was sent lets the next request of its connection be read.
        let blocked: Vec<ConnId> =
            self.lines.values().filter(|line| !line.pending.is_empty() && !line.closing).map(|line| line.id).collect();
        for id in blocked {
            self.feed(id, now);
        }
        for line in self.lines.values_mut().filter(|line| line.open && !line.closing && !line.sending) {
            if !line.out.is_empty() {
                line.sending = true;
                self.sim.send(line.id, std::mem::take(&mut line.out).into());
            } else if line.last {
                line.closing = true;
                self.sim.close(line.id);
            } else if line.shut && !std::mem::replace(&mut line.is_shut, true) {
                self.sim.shutdown(line.id);
            }
        }
    }
}

/// A node of raw octets, for tests that say each of them.
pub struct Raw {
    sim: Sim,
    conns: BTreeMap<ConnId, RawConn>,
    /// In the order they came.
    pub accepted: Vec<ConnId>,
}

#[derive(Default)]
struct RawConn {
    out: Vec<u8>,
    got: Vec<u8>,
    /// Octets that came in all.
    total: u64,
    open: bool,
    sending: bool,
    ended: bool,
    failed: bool,
    closed: bool,
    shut: bool,
    close: bool,
    count_only: bool,
}

impl Raw {
    pub fn new(net: &SimNet) -> Raw {
        Raw { sim: net.driver(), conns: BTreeMap::new(), accepted: Vec::new() }
    }

    pub fn listen(&mut self, socket: SimListener) {
        self.sim.listen(socket).unwrap();
    }

    pub fn connect(&mut self, addr: impl Into<Addr>) -> ConnId {
        let id = self.sim.connect(&addr.into());
        self.conns.insert(id, RawConn::default());
        id
    }

    pub fn send(&mut self, id: ConnId, bytes: impl AsRef<[u8]>) {
        self.conns.get_mut(&id).unwrap().out.extend_from_slice(bytes.as_ref());
    }

    /// Octets that have not been sent yet.
    pub fn unsent(&self, id: ConnId) -> usize {
        let conn = &self.conns[&id];
        conn.out.len() + usize::from(conn.sending)
    }

    pub fn shutdown(&mut self, id: ConnId) {
        self.conns.get_mut(&id).unwrap().shut = true;
    }

    /// Closes it once all has been sent.
    pub fn close(&mut self, id: ConnId) {
        self.conns.get_mut(&id).unwrap().close = true;
    }

    pub fn pause(&mut self, id: ConnId) {
        self.sim.pause(id);
    }

    pub fn resume(&mut self, id: ConnId) {
        self.sim.resume(id);
    }

    /// From now on octets are counted and not kept.
    pub fn count_only(&mut self, id: ConnId) {
        self.conns.get_mut(&id).unwrap().count_only = true;
    }

    pub fn total(&self, id: ConnId) -> u64 {
        self.conns[&id].total
    }

    /// Everything that came.
    pub fn got(&self, id: ConnId) -> &[u8] {
        &self.conns[&id].got
    }

    pub fn text(&self, id: ConnId) -> String {
        String::from_utf8_lossy(self.got(id)).into_owned()
    }

    /// Takes what came.
    pub fn take(&mut self, id: ConnId) -> Vec<u8> {
        std::mem::take(&mut self.conns.get_mut(&id).unwrap().got)
    }

    pub fn is_over(&self, id: ConnId) -> bool {
        let conn = &self.conns[&id];
        conn.ended || conn.failed
    }

    /// Closes it now, whatever waits.
    pub fn abort(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(&id)
            && !std::mem::replace(&mut conn.closed, true)
        {
            self.sim.close(id);
        }
    }

    /// Ends it by a reset.
    pub fn reset(&mut self, id: ConnId) {
        self.conns.get_mut(&id).unwrap().closed = true;
        self.sim.reset(id);
    }

    /// Closes every connection.
    pub fn hang_up(&mut self) {
        for id in self.conns.keys().copied().collect::<Vec<_>>() {
            self.abort(id);
        }
    }

    pub fn is_failed(&self, id: ConnId) -> bool {
        self.conns[&id].failed
    }
}

impl Node for Raw {
    fn step(&mut self) {
        let mut events = Vec::new();
        self.sim.wait(None, &mut events).unwrap();
        for event in events {
            match event {
                Net::Accepted { conn, .. } => {
                    self.conns.insert(conn, RawConn { open: true, ..RawConn::default() });
                    self.accepted.push(conn);
                }
                Net::Connected { conn } => self.conns.get_mut(&conn).unwrap().open = true,
                Net::Received { conn, buf } => {
                    let conn = self.conns.get_mut(&conn).unwrap();
                    conn.total += buf.len() as u64;
                    if !conn.count_only {
                        conn.got.extend_from_slice(&buf);
                    }
                }
                Net::EndOfStream { conn } => self.conns.get_mut(&conn).unwrap().ended = true,
                Net::Failed { conn, .. } => {
                    let state = self.conns.get_mut(&conn).unwrap();
                    state.failed = true;
                    if !std::mem::replace(&mut state.closed, true) {
                        self.sim.close(conn);
                    }
                }
                Net::Sent { conn, .. } => self.conns.get_mut(&conn).unwrap().sending = false,
                Net::Closed { .. }
                | Net::AcceptFailed { .. }
                | Net::ListenerClosed { .. }
                | Net::Released { .. }
                | Net::Woken => {}
            }
        }
        for (&id, conn) in self.conns.iter_mut().filter(|(_, conn)| conn.open && !conn.sending && !conn.closed) {
            if !conn.out.is_empty() {
                conn.sending = true;
                self.sim.send(id, std::mem::take(&mut conn.out).into());
            } else if conn.close {
                conn.closed = true;
                self.sim.close(id);
            } else if std::mem::take(&mut conn.shut) {
                self.sim.shutdown(id);
            }
        }
    }
}
