//! What the suite needs of a driver: addresses to listen at, and a wait that makes virtual time go on.
//!
//! Every test runs both sides of its connections on one driver, so that one loop drives all.

#![allow(dead_code)]

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use steady_ring::{
    Addr, Config, ConnId, Driver, Epoll, Event, Faults, ListenerId, Op, SendBuf, Sim, SimNet, SimSocket, Time, Uring,
};

/// Longer than any step of any test takes on a machine that is busy; only a failing test waits for it.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// In virtual time a slow network costs nothing.
const PATIENCE_VIRTUAL: Duration = Duration::from_secs(3_600);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    Tcp,
    Unix,
}

/// A driver under test, with its network.
pub trait Lab: Sized {
    const PATIENCE: Duration = PATIENCE;
    type Socket;
    type D: Driver<Socket = Self::Socket>;

    fn new(config: Config) -> Self;
    fn driver(&mut self) -> &mut Self::D;
    /// A bound socket and where to connect to.
    fn bind(&mut self, family: Family) -> (Self::Socket, Addr);
    fn pair(&mut self) -> (Self::Socket, Self::Socket);
    /// An address that nobody listens at.
    fn nowhere(&mut self) -> Addr;
    /// As [`Driver::wait`], in virtual time where the driver's is.
    fn wait(&mut self, until: Option<Time>, events: &mut Vec<Event>);
}

pub struct Real<D> {
    pub driver: D,
    dir: tempfile::TempDir,
    sockets: u32,
}

pub trait MakeReal: Driver<Socket = OwnedFd> + Sized {
    fn make(config: Config) -> io::Result<Self>;
}

impl MakeReal for Uring {
    fn make(config: Config) -> io::Result<Self> {
        Uring::new(config)
    }
}

impl MakeReal for Epoll {
    fn make(config: Config) -> io::Result<Self> {
        Epoll::new(config)
    }
}

impl<D> Real<D> {
    pub fn of(driver: D) -> Self {
        Real { driver, dir: tempfile::tempdir().unwrap(), sockets: 0 }
    }
}

impl<D: MakeReal> Lab for Real<D> {
    type Socket = OwnedFd;
    type D = D;

    fn new(config: Config) -> Self {
        Real::of(D::make(config).unwrap())
    }

    fn driver(&mut self) -> &mut D {
        &mut self.driver
    }

    fn bind(&mut self, family: Family) -> (OwnedFd, Addr) {
        match family {
            Family::Tcp => {
                let socket = steady_ring::listen_tcp("127.0.0.1:0".parse().unwrap(), 4_096).unwrap();
                let addr = steady_sys::net::local_addr(&socket).unwrap().to_tcp().unwrap();
                (socket, Addr::Tcp(addr))
            }
            Family::Unix => {
                self.sockets += 1;
                let path = self.dir.path().join(self.sockets.to_string());
                (steady_ring::listen_unix(&path, 4_096).unwrap(), Addr::Unix(Arc::from(path)))
            }
        }
    }

    fn pair(&mut self) -> (OwnedFd, OwnedFd) {
        steady_sys::net::socket_pair().unwrap()
    }

    fn nowhere(&mut self) -> Addr {
        // A port that was free would be given to the next test that asks for any.
        Addr::Tcp(([127, 0, 0, 1], 1).into())
    }

    fn wait(&mut self, until: Option<Time>, events: &mut Vec<Event>) {
        self.driver.wait(until, events).unwrap();
    }
}

pub struct Simulated {
    pub net: SimNet,
    pub driver: Sim,
    sockets: u16,
}

impl Simulated {
    pub fn with(seed: u64, faults: Faults) -> Simulated {
        let net = SimNet::new(seed, faults);
        Simulated { driver: net.driver(), net, sockets: 0 }
    }
}

impl Lab for Simulated {
    const PATIENCE: Duration = PATIENCE_VIRTUAL;
    type Socket = SimSocket;
    type D = Sim;

    fn new(config: Config) -> Self {
        let faults = Faults { buffers: config.buffers, buffer_bytes: config.buffer_bytes, ..Faults::rough() };
        Simulated::with(7, Faults { accept_fail_per_million: 0, ..faults })
    }

    fn driver(&mut self) -> &mut Sim {
        &mut self.driver
    }

    fn bind(&mut self, family: Family) -> (SimSocket, Addr) {
        self.sockets += 1;
        let addr = match family {
            Family::Tcp => Addr::Tcp(([127, 0, 0, 1], self.sockets).into()),
            Family::Unix => Addr::Unix(Arc::from(Path::new(&format!("/sim/{}", self.sockets)))),
        };
        (self.net.bind(addr.clone()), addr)
    }

    fn pair(&mut self) -> (SimSocket, SimSocket) {
        self.net.pair()
    }

    fn nowhere(&mut self) -> Addr {
        Addr::Tcp(([127, 0, 0, 1], 9).into())
    }

    fn wait(&mut self, until: Option<Time>, events: &mut Vec<Event>) {
        let before = events.len();
        loop {
            self.driver.wait(until, events).unwrap();
            if events.len() > before || until.is_some_and(|until| until <= self.net.now()) {
                return;
            }
            assert!(self.net.advance_to_next(), "waits for what will never happen");
        }
    }
}

/// A test's view of one driver: what came, sorted by connection.
pub struct Bench<L: Lab> {
    pub lab: L,
    events: Vec<Event>,
    pub seen: HashMap<ConnId, Seen>,
    pub accepted: Vec<(ListenerId, ConnId)>,
    pub accept_failures: usize,
    pub listeners_closed: Vec<ListenerId>,
    pub woken: usize,
}

/// What came of one connection.
#[derive(Default)]
pub struct Seen {
    pub connected: bool,
    pub received: Vec<u8>,
    pub ended: bool,
    pub sent: Vec<SendBuf>,
    pub failed: Vec<Op>,
    pub closed: bool,
    pub released: bool,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Seen { connected, received, ended, sent, failed, closed, released } = self;
        let (received, sent) = (received.len(), sent.len());
        write!(f, "connected {connected}, {received} octets received, ended {ended}, ")?;
        write!(f, "{sent} sends done, failed {failed:?}, closed {closed}, released {released}")
    }
}

impl<L: Lab> Bench<L> {
    pub fn new() -> Self {
        Self::with(Config::default())
    }

    pub fn with(config: Config) -> Self {
        Self::of(L::new(config))
    }

    pub fn of(lab: L) -> Self {
        Bench {
            lab,
            events: Vec::new(),
            seen: HashMap::new(),
            accepted: Vec::new(),
            accept_failures: 0,
            listeners_closed: Vec::new(),
            woken: 0,
        }
    }

    pub fn driver(&mut self) -> &mut L::D {
        self.lab.driver()
    }

    /// One wait, its events filed. `each` sees them first.
    pub fn turn(&mut self, until: Option<Time>, mut each: impl FnMut(&mut L::D, &Event)) {
        let mut events = std::mem::take(&mut self.events);
        self.lab.wait(until, &mut events);
        for event in events.drain(..) {
            each(self.lab.driver(), &event);
            self.file(event);
        }
        self.events = events;
    }

    fn file(&mut self, event: Event) {
        if let Event::Received { conn, .. }
        | Event::EndOfStream { conn }
        | Event::Sent { conn, .. }
        | Event::Failed { conn, .. }
        | Event::Closed { conn }
        | Event::Released { conn }
        | Event::Connected { conn } = &event
        {
            assert!(!self.of_conn(*conn).closed, "an event after Closed: {event:?}");
            assert!(!self.of_conn(*conn).released, "an event after Released: {event:?}");
        }
        match event {
            Event::Accepted { listener, conn, .. } => {
                self.accepted.push((listener, conn));
                self.seen.insert(conn, Seen::default());
            }
            Event::AcceptFailed { .. } => self.accept_failures += 1,
            Event::ListenerClosed { listener } => self.listeners_closed.push(listener),
            Event::Connected { conn } => self.of_conn(conn).connected = true,
            Event::Received { conn, buf } => {
                assert!(!buf.is_empty(), "a receive is never empty");
                let seen = self.of_conn(conn);
                assert!(!seen.ended, "bytes after the end");
                seen.received.extend_from_slice(&buf);
            }
            Event::EndOfStream { conn } => {
                assert!(!std::mem::replace(&mut self.of_conn(conn).ended, true), "the end comes once");
            }
            Event::Sent { conn, buf } => self.of_conn(conn).sent.push(buf),
            Event::Failed { conn, op, .. } => {
                assert!(!self.of_conn(conn).failed.contains(&op), "one failure of a kind");
                self.of_conn(conn).failed.push(op);
            }
            Event::Closed { conn } => self.of_conn(conn).closed = true,
            Event::Released { conn } => self.of_conn(conn).released = true,
            Event::Woken => self.woken += 1,
        }
    }

    pub fn of_conn(&mut self, conn: ConnId) -> &mut Seen {
        self.seen.entry(conn).or_default()
    }

    /// Waits until `done`.
    #[track_caller]
    pub fn until(&mut self, done: impl FnMut(&mut Self) -> bool) {
        self.until_with(done, |_, _| {});
    }

    /// As [`until`](Self::until), with `each` run for every event.
    #[track_caller]
    pub fn until_with(&mut self, mut done: impl FnMut(&mut Self) -> bool, mut each: impl FnMut(&mut L::D, &Event)) {
        let deadline = self.driver().now() + L::PATIENCE;
        while !done(self) {
            assert!(self.driver().now() < deadline, "it never came: {:#?}", self.seen);
            self.turn(Some(deadline), &mut each);
        }
    }

    /// Lets everything happen that is going to happen within `span`.
    pub fn settle(&mut self, span: Duration) {
        let until = self.driver().now() + span;
        while self.driver().now() < until {
            self.turn(Some(until), |_, _| {});
        }
    }

    /// A connection: the side that connected and the side that accepted.
    pub fn connection(&mut self, family: Family) -> (ConnId, ConnId) {
        let (socket, addr) = self.lab.bind(family);
        let listener = self.driver().listen(socket).unwrap();
        let ends = self.connect_to(listener, &addr);
        self.driver().stop_listening(listener);
        self.until(|bench| bench.listeners_closed.contains(&listener));
        ends
    }

    pub fn connect_to(&mut self, listener: ListenerId, addr: &Addr) -> (ConnId, ConnId) {
        let before = self.accepted.len();
        let client = self.connect(addr);
        self.until(|bench| bench.of_conn(client).connected && bench.accepted.len() > before);
        let (by, server) = self.accepted[before];
        assert_eq!(by, listener);
        (client, server)
    }

    /// Begins to connect, with a clean sheet for what comes of it.
    pub fn connect(&mut self, addr: &Addr) -> ConnId {
        let conn = self.driver().connect(addr);
        let before = self.seen.insert(conn, Seen::default());
        assert!(before.is_none(), "an id is never given twice");
        conn
    }

    pub fn send(&mut self, conn: ConnId, buf: impl Into<SendBuf>) {
        self.driver().send(conn, buf.into());
    }

    /// Closes and waits until all are closed.
    #[track_caller]
    pub fn close(&mut self, conns: &[ConnId]) {
        for &conn in conns {
            self.driver().close(conn);
        }
        self.until(|bench| conns.iter().all(|&conn| bench.of_conn(conn).closed));
        self.rest();
    }

    /// One wait that only collects what is there: after it the slots of what was closed may be used again.
    pub fn rest(&mut self) {
        let now = self.driver().now();
        self.turn(Some(now), |_, _| {});
    }
}

/// Bytes that differ from their neighbours, so that any shift shows.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
}
