//! One exchange through the engine, under a policy that only forwards, on the simulated driver, whose own work is not
//! counted: what a worker does between the octets that came in and those that go out.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use steady_http::{Client as _, Codec as _, Event, Head, Limits, Name, Scheme, StreamId, h2};
use steady_proxy::{
    AttemptEnd, Config, Credentials, Decision, Judgement, Listener, ParkKey, Plane, Policy, Protocol, Record, Reply,
    Request, Target, Timeouts, Timing, Worker,
};
use steady_ring::{
    Addr, ConnId, Driver, Event as Net, Faults, ListenerId, SendBuf, Sim, SimNet, SimSocket, Stats, Time, Waker,
};

use crate::{Case, measured, uncounted};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "exchange-h1-1",
        unit: "request of HTTP/1.1 to h2c, alone in its batch",
        run: |times| h1(1, times),
        times: 300,
    },
    Case {
        name: "exchange-h1-64",
        unit: "64 requests of HTTP/1.1 to h2c in one batch",
        run: |times| h1(64, times),
        times: 20,
    },
    Case {
        name: "exchange-h2-64",
        unit: "64 of HTTP/2 on 4 connections in one batch",
        run: |times| h2(4, 16, times),
        times: 20,
    },
];

const REQUEST: &[u8] = b"GET /products/1234 HTTP/1.1\r\nhost: shop.steady.page\r\nuser-agent: Mozilla/5.0 (X11; Linux \
    x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\naccept: text/html,application/xml;q=0.9,*/*;q=0.8\r\n\
    accept-encoding: gzip, deflate, br, zstd\r\ncookie: session=8f14e45fceea167a5a36dedd4bea2543\r\n\r\n";
const BODY: &[u8] = &[b'x'; 100];

fn h1(connections: usize, times: u64) {
    let mut world = World::new();
    let clients = world.connect(connections);
    for number in 0..2 * times {
        for client in &clients {
            world.clients.send(*client, REQUEST.to_vec().into());
        }
        let mut done = 0;
        world.run(number >= times, |_, _, bytes| {
            // One answer is one segment here.
            assert!(bytes.starts_with(b"HTTP/1.1 200") && bytes.ends_with(BODY));
            done += 1;
        });
        assert_eq!(done, connections);
    }
}

fn h2(connections: usize, streams: usize, times: u64) {
    let mut world = World::new();
    let limits = Rc::new(Limits::default());
    let ids = world.connect(connections);
    let mut clients: Vec<(ConnId, h2::Client)> =
        ids.into_iter().map(|id| (id, h2::Client::new(Rc::clone(&limits), Scheme::Http))).collect();
    let (mut request, mut scratch) = (Head::new(), Head::new());
    for number in 0..2 * times {
        request.clear();
        request.scheme = Scheme::Http;
        request.set_authority(b"shop.steady.page");
        request.set_path(format!("/products/{number}").as_bytes());
        request.push_known(Name::UserAgent, b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Firefox/128.0");
        request.push_known(Name::Accept, b"text/html,application/xml;q=0.9,*/*;q=0.8");
        for (id, codec) in &mut clients {
            let mut out = Vec::new();
            for _ in 0..streams {
                codec.open(&request, true, &mut out).expect("a free stream");
            }
            world.clients.send(*id, out.into());
        }
        let mut done = 0;
        world.run(number >= times, |driver, conn, bytes| {
            let (_, codec) = clients.iter_mut().find(|(id, _)| *id == conn).expect("a client");
            let (mut out, mut at) = (Vec::new(), 0);
            loop {
                let step = codec.receive(&bytes[at..], &mut scratch, &mut out).expect("an answer");
                at += step.consumed;
                match step.event {
                    Some(Event::Data { stream, flow, end, .. }) => {
                        codec.release(stream, flow, &mut out);
                        done += usize::from(end);
                    }
                    Some(_) => {}
                    None => break,
                }
            }
            assert_eq!(at, bytes.len(), "frames are whole here");
            if !out.is_empty() {
                driver.send(conn, out.into());
            }
        });
        assert_eq!(done, connections * streams);
    }
}

/// A worker, an origin that speaks h2c, and clients.
struct World {
    net: SimNet,
    worker: Worker<Outside, Forward>,
    origin: Origin,
    clients: Sim,
    addr: SocketAddr,
    // Held, so that the worker is not told to stop.
    _plane: Plane<Forward>,
}

impl World {
    fn new() -> World {
        let mut faults = Faults::none();
        // Segments are cut at random up to this: never, as far as this goes.
        faults.segment_bytes_max = 1 << 50;
        faults.window_bytes = 1 << 20;
        faults.buffer_bytes = 64 << 10;
        faults.buffers = 128;
        let net = SimNet::new(1, faults);
        let [addr, origin] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let socket = net.bind(addr);
        let origin_socket = net.bind(origin);
        let plane = Plane::new(1, Arc::new(()));
        let config = Config {
            listeners: vec![Listener { tls: false, proxy_protocol: false, limits: Limits::default() }],
            limits: steady_proxy::Limits::default(),
            upstream_limits: Limits::default(),
        };
        let driver = Outside(net.driver());
        let worker = Worker::new(driver, Forward(origin), plane.seat(0), &config, vec![socket]).expect("a worker");
        let (origin, clients) = (Origin::new(net.driver(), origin_socket), net.driver());
        World { net, worker, origin, clients, addr, _plane: plane }
    }

    fn connect(&mut self, count: usize) -> Vec<ConnId> {
        let ids = (0..count).map(|_| self.clients.connect(&Addr::Tcp(self.addr))).collect();
        self.run(false, |_, _, _| {});
        ids
    }

    /// Goes on until nothing more happens but the ends of idle connections. What the worker does is counted when `counted`.
    fn run(&mut self, counted: bool, mut received: impl FnMut(&mut Sim, ConnId, &[u8])) {
        let until = self.net.now() + Duration::from_millis(1);
        let mut events = Vec::new();
        while let Some(at) = self.net.next_event_at().filter(|at| *at <= until) {
            self.net.advance(at);
            // At most one turn a moment: all that comes at once is one batch, as it is on a loaded machine.
            let now = Some(self.net.now());
            let worker = &mut self.worker;
            let mut turn = || worker.turn(now).expect("the driver works");
            if counted {
                measured(turn)
            } else {
                turn()
            };
            self.origin.step();
            self.clients.wait(now, &mut events).expect("the driver works");
            for event in events.drain(..) {
                if let Net::Received { conn, buf } = event {
                    received(&mut self.clients, conn, &buf);
                }
            }
        }
        self.net.advance(until);
    }
}

/// Answers at once, over HTTP/2 that it is known to be.
struct Origin {
    driver: Sim,
    /// By slot; a codec, and output that waits for the send before it.
    guests: Vec<Option<Guest>>,
    answer: Head,
    scratch: Head,
}

struct Guest {
    id: ConnId,
    codec: h2::Server,
    out: Vec<u8>,
    sending: bool,
}

impl Origin {
    fn new(mut driver: Sim, socket: SimSocket) -> Origin {
        driver.listen(socket).expect("a listener");
        let mut answer = Head::new();
        answer.reset_to_status(200);
        answer.content_length = Some(BODY.len() as u64);
        answer.push_known(Name::ContentType, b"text/plain; charset=utf-8");
        answer.push_known(Name::Date, b"Sat, 21 Nov 2026 00:00:00 GMT");
        Origin { driver, guests: Vec::new(), answer, scratch: Head::new() }
    }

    fn step(&mut self) {
        let mut events = Vec::new();
        self.driver.wait(Some(self.driver.now()), &mut events).expect("the driver works");
        for event in events {
            match event {
                Net::Accepted { conn, .. } => {
                    let limits = Rc::new(Limits { streams_max: 1024, ..Limits::default() });
                    let codec = h2::Server::new(limits, Scheme::Http);
                    self.guests.resize_with(self.guests.len().max(conn.index() + 1), || None);
                    self.guests[conn.index()] = Some(Guest { id: conn, codec, out: Vec::new(), sending: false });
                }
                Net::Received { conn, buf } => {
                    let Some(guest) = &mut self.guests[conn.index()] else { continue };
                    guest.receive(&buf, &mut self.scratch, &self.answer);
                }
                Net::Sent { conn, .. } => {
                    if let Some(guest) = &mut self.guests[conn.index()] {
                        guest.sending = false;
                    }
                }
                _ => {}
            }
        }
        for guest in self.guests.iter_mut().flatten().filter(|guest| !guest.sending && !guest.out.is_empty()) {
            guest.sending = true;
            self.driver.send(guest.id, std::mem::take(&mut guest.out).into());
        }
    }
}

impl Guest {
    fn receive(&mut self, bytes: &[u8], scratch: &mut Head, answer: &Head) {
        let mut at = 0;
        let mut asked: Vec<StreamId> = Vec::new();
        loop {
            let step = self.codec.receive(&bytes[at..], scratch, &mut self.out).expect("the engine speaks HTTP/2");
            at += step.consumed;
            match step.event {
                Some(Event::Head { stream, .. }) => asked.push(stream),
                Some(_) => {}
                None => break,
            }
        }
        assert_eq!(at, bytes.len(), "frames are whole here");
        for stream in asked {
            self.codec.send_head(stream, answer, false, &mut self.out);
            self.codec.send_data(stream, BODY, true, &mut self.out);
        }
    }
}

/// The simulated driver, uncounted.
struct Outside(Sim);

impl Driver for Outside {
    type Socket = SimSocket;

    fn now(&self) -> Time {
        uncounted(|| self.0.now())
    }

    fn listen(&mut self, socket: SimSocket) -> io::Result<ListenerId> {
        uncounted(|| self.0.listen(socket))
    }

    fn stop_listening(&mut self, listener: ListenerId) {
        uncounted(|| self.0.stop_listening(listener));
    }

    fn adopt(&mut self, socket: SimSocket) -> io::Result<ConnId> {
        uncounted(|| self.0.adopt(socket))
    }

    fn connect(&mut self, addr: &Addr) -> ConnId {
        uncounted(|| self.0.connect(addr))
    }

    fn send(&mut self, conn: ConnId, buf: SendBuf) {
        uncounted(|| self.0.send(conn, buf));
    }

    fn pause(&mut self, conn: ConnId) {
        uncounted(|| self.0.pause(conn));
    }

    fn resume(&mut self, conn: ConnId) {
        uncounted(|| self.0.resume(conn));
    }

    fn shutdown(&mut self, conn: ConnId) {
        uncounted(|| self.0.shutdown(conn));
    }

    fn close(&mut self, conn: ConnId) {
        uncounted(|| self.0.close(conn));
    }

    fn reset(&mut self, conn: ConnId) {
        uncounted(|| self.0.reset(conn));
    }

    fn release(&mut self, conn: ConnId) {
        uncounted(|| self.0.release(conn));
    }

    fn take(&mut self, conn: ConnId) -> Option<SimSocket> {
        uncounted(|| self.0.take(conn))
    }

    fn wait(&mut self, until: Option<Time>, events: &mut Vec<Net>) -> io::Result<()> {
        uncounted(|| self.0.wait(until, events))
    }

    fn waker(&self) -> Waker {
        self.0.waker()
    }

    fn stats(&self) -> Stats {
        uncounted(|| self.0.stats())
    }
}

/// Forwards everything to one place.
struct Forward(SocketAddr);

impl Policy for Forward {
    type Snapshot = ();
    type Ticket = ();

    fn published(&mut self, (): &()) -> Timeouts {
        Timeouts::default()
    }

    fn tls(&mut self, (): &(), _: Option<&str>) -> Credentials {
        Credentials::Refused
    }

    fn admit(&mut self, (): &(), _: &mut Request<'_, ()>) -> Option<Reply> {
        None
    }

    fn route(&mut self, (): &(), _: &mut Request<'_, ()>) -> Decision {
        Decision::Forward(Target {
            upstream: 1,
            addr: Addr::Tcp(self.0),
            protocol: Protocol::H2c,
            tls: None,
            connect_timeout: Duration::from_secs(3),
            response_timeout: Duration::from_secs(60),
            replay_bytes_max: 64 * 1024,
            pings: true,
        })
    }

    fn may_resume(&mut self, (): &(), _: ParkKey) -> bool {
        false
    }

    fn unparked(&mut self, (): &mut (), _: ParkKey, _: Duration) {}

    fn question(&mut self, _: ParkKey, _: &mut Head) {}

    fn answered(&mut self, _: ParkKey, _: Option<&Head>, _: Time) {}

    fn attempt_ended(&mut self, (): &mut (), _: AttemptEnd, _: Time) {}

    fn judge(&mut self, (): &mut (), _: &mut Head) -> Judgement {
        Judgement::Pass
    }

    fn respond(&mut self, _: &mut Request<'_, ()>, _: &mut Head, _: &Timing) {}

    fn finished(&mut self, _: &Record<'_, ()>) {}
}
