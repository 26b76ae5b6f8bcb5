//! The engine's behaviour, one sentence at a time, with every octet of both ends said by the test.

mod world;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use steady_proxy::{AttemptEnd, Command, Config, Outcome, Refusal, Timeouts};
use steady_ring::{ConnId, Faults};

use world::client::{Clients, End, Want};
use world::origin::Origin;
use world::peer::{Peer, Raw};
use world::plan::{Fate, Plan};
use world::policy::{Place, Scene};
use world::{World, config};

const SECOND: Duration = Duration::from_secs(1);

/// One worker between raw clients and one raw origin.
struct Lab {
    world: World,
    client: Rc<RefCell<Raw>>,
    origin: Rc<RefCell<Raw>>,
    addr: SocketAddr,
    origin_addr: SocketAddr,
}

impl Lab {
    fn new(place: impl Fn(SocketAddr) -> Place) -> Lab {
        Lab::with(place, &config(), Timeouts::default())
    }

    fn h1() -> Lab {
        Lab::new(|addr| Place::h1(1, addr))
    }

    fn with(place: impl Fn(SocketAddr) -> Place, config: &Config, timeouts: Timeouts) -> Lab {
        let mut world = World::calm();
        let origin_addr = world.address();
        let mut origin = Raw::new(&world.net);
        origin.listen(world.net.bind(origin_addr));
        let scene = Scene { timeouts, ..Scene::to(vec![place(origin_addr)]) };
        let (_, addr) = world.proxy(scene, config, 1);
        let client = Raw::new(&world.net);
        let client = world.add(client);
        let origin = world.add(origin);
        Lab { world, client, origin, addr, origin_addr }
    }

    /// A client's connection that has sent this.
    fn send(&mut self, bytes: impl AsRef<[u8]>) -> ConnId {
        let mut client = self.client.borrow_mut();
        let id = client.connect(self.addr);
        client.send(id, bytes);
        id
    }

    /// The origin's connection `index`, once it is there.
    fn upstream(&mut self, index: usize) -> ConnId {
        let origin = Rc::clone(&self.origin);
        assert!(self.world.run_until(SECOND, |_| origin.borrow().accepted.len() > index), "no upstream connection");
        self.origin.borrow().accepted[index]
    }

    /// Waits until the origin has got something that ends so.
    fn origin_got(&mut self, id: ConnId, end: &[u8]) {
        let origin = Rc::clone(&self.origin);
        let came = self.world.run_until(SECOND, |_| origin.borrow().got(id).ends_with(end));
        assert!(came, "the origin got {:?}", self.origin.borrow().text(id));
    }

    fn client_got(&mut self, id: ConnId, end: &[u8]) {
        let client = Rc::clone(&self.client);
        let came = self.world.run_until(SECOND, |_| client.borrow().got(id).ends_with(end));
        assert!(came, "the client got {:?}", self.client.borrow().text(id));
    }

    fn wait(&mut self, time: Duration) {
        self.world.run_for(time);
    }

    /// Every idle time-out passes; nothing may be left.
    fn end(mut self) {
        self.world.run_for(Duration::from_secs(1200));
        self.world.check_quiet();
        for proxy in &self.world.proxies {
            assert_eq!(proxy.worker.connections(), 0, "idle connections end by themselves");
        }
        self.client.borrow_mut().hang_up();
        self.origin.borrow_mut().hang_up();
        self.world.run_for(SECOND);
        self.world.check_gone();
    }
}

const GET: &str = "GET / HTTP/1.1\r\nhost: a.test\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Frames of HTTP/2, as far as tests say them.
mod h2 {
    pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    pub const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

    pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// `GET / http a.test`, nothing indexed.
    pub fn get(stream: u32, end: bool) -> Vec<u8> {
        frame(1, if end { 5 } else { 4 }, stream, b"\x82\x86\x84\x01\x06a.test")
    }

    pub fn post(stream: u32) -> Vec<u8> {
        frame(1, 4, stream, b"\x83\x86\x84\x01\x06a.test")
    }

    /// A status 200, nothing else.
    pub fn ok(stream: u32, end: bool) -> Vec<u8> {
        frame(1, if end { 5 } else { 4 }, stream, b"\x88")
    }

    pub fn data(stream: u32, payload: &[u8], end: bool) -> Vec<u8> {
        frame(0, u8::from(end), stream, payload)
    }

    pub fn reset(stream: u32, code: u32) -> Vec<u8> {
        frame(3, 0, stream, &code.to_be_bytes())
    }

    pub fn window(stream: u32, more: u32) -> Vec<u8> {
        frame(8, 0, stream, &more.to_be_bytes())
    }

    pub fn goaway(last: u32) -> Vec<u8> {
        let mut payload = last.to_be_bytes().to_vec();
        payload.extend([0; 4]);
        frame(7, 0, 0, &payload)
    }

    pub fn setting(id: u16, value: u32) -> Vec<u8> {
        let mut payload = id.to_be_bytes().to_vec();
        payload.extend(value.to_be_bytes());
        frame(4, 0, 0, &payload)
    }

    /// The frames in `bytes` (after a preface, if there is one): kind, flags, stream, payload.
    pub fn frames(mut bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
        bytes = bytes.strip_prefix(&PREFACE[..24]).unwrap_or(bytes);
        let mut frames = Vec::new();
        while let Some((head, rest)) = bytes.split_at_checked(9) {
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let Some((payload, rest)) = rest.split_at_checked(len) else { break };
            frames.push((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload.to_vec()));
            bytes = rest;
        }
        frames
    }

    /// The body of a stream.
    pub fn body(bytes: &[u8], stream: u32) -> Vec<u8> {
        frames(bytes).into_iter().filter(|frame| frame.0 == 0 && frame.2 == stream).flat_map(|frame| frame.3).collect()
    }

    pub fn count(bytes: &[u8], kind: u8, stream: u32) -> usize {
        frames(bytes).iter().filter(|frame| frame.0 == kind && frame.2 == stream).count()
    }
}

/// An edge-like worker before an agent-like one before one origin, and clients that check what they get.
struct Chain {
    world: World,
    clients: Rc<RefCell<Peer<Clients>>>,
    origin: Rc<RefCell<Peer<Origin>>>,
}

impl Chain {
    fn new(origin_is_h2: bool) -> Chain {
        let mut world = World::new(1, Faults::none());
        let addr = world.address();
        let mut origin = Peer::new(&world.net, steady_http::Limits::default(), Origin::new(1));
        origin.listen(world.net.bind(addr), origin_is_h2);
        let origin = world.add(origin);
        let place = if origin_is_h2 { Place::h2(1, addr) } else { Place::h1(1, addr) };
        let (_, agent) = world.proxy(Scene::to(vec![place]), &config(), 1);
        let (_, edge) = world.proxy(Scene::to(vec![Place::agent(2, agent)]), &config(), 2);
        let clients = Peer::new(&world.net, steady_http::Limits::default(), Clients::new(1, vec![edge.into()]));
        let clients = world.add(clients);
        Chain { world, clients, origin }
    }

    fn want(&mut self, want: Want) {
        self.clients.borrow_mut().app.wants.push(want);
    }

    fn run(&mut self, limit: Duration) {
        let clients = Rc::clone(&self.clients);
        self.world.run_until(limit, |_| clients.borrow().app.is_done());
        assert_eq!(self.clients.borrow().app.wrong, Vec::<String>::new());
        assert_eq!(self.origin.borrow().app.wrong, Vec::<String>::new());
    }

    fn end_of(&self, id: u64) -> Option<End> {
        self.clients.borrow().app.end_of(id)
    }
}

// Uploads and what is kept of them.

#[test]
fn an_upload_that_trickles_in_goes_on_once_the_agent_took_what_came_first() {
    for is_h2 in [false, true] {
        let mut chain = Chain::new(false);
        let plan = Plan { upload: 300_000, ..Plan::plain(1) };
        let now = chain.world.now();
        chain.want(Want { pause: Duration::from_millis(5), ..Want::new(plan, is_h2, now) });
        chain.run(Duration::from_secs(10));
        assert_eq!(chain.end_of(1), Some(End::Answered(200, true)), "HTTP/2: {is_h2}");
    }
}

// Connections to upstreams.

/// A WebSocket's request in HTTP/1.1.
const UPGRADE: &str = "GET /ws HTTP/1.1\r\nhost: a.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";

#[test]
fn a_websocket_that_is_the_first_request_over_an_h2c_connection_waits_for_its_settings() {
    let mut lab = Lab::new(|addr| Place::h2(1, addr));
    let ws = lab.send(UPGRADE);
    let up = lab.upstream(0);
    lab.wait(SECOND);
    assert_eq!(h2::count(lab.origin.borrow().got(up), 1, 1), 0, "nothing is asked before the settings are known");
    lab.origin.borrow_mut().send(up, h2::setting(8, 1));
    lab.wait(SECOND);
    lab.origin.borrow_mut().send(up, [h2::ok(1, false), h2::data(1, b"hello", false)].concat());
    lab.client_got(ws, b"hello");
    assert!(lab.client.borrow().text(ws).starts_with("HTTP/1.1 101 "));
    lab.client.borrow_mut().close(ws);
    lab.end();
}

#[test]
fn a_websocket_to_an_h2c_peer_that_knows_none_is_refused_and_its_neighbours_are_served() {
    let mut lab = Lab::new(|addr| Place::h2(1, addr));
    let ws = lab.send(UPGRADE);
    let get = lab.send(GET);
    let up = lab.upstream(0);
    lab.origin.borrow_mut().send(up, h2::SETTINGS);
    lab.client_got(ws, b"}\n");
    assert!(lab.client.borrow().text(ws).starts_with("HTTP/1.1 502 "));
    lab.origin.borrow_mut().send(up, [h2::ok(1, false), h2::data(1, b"yes", true)].concat());
    lab.client_got(get, b"\r\nyes\r\n0\r\n\r\n");
    lab.end();
}

#[test]
fn an_h2c_peer_that_allows_one_stream_at_a_time_gets_one_at_a_time() {
    let mut lab = Lab::new(|addr| Place::h2(1, addr));
    let first = lab.send(GET);
    let up = lab.upstream(0);
    lab.origin.borrow_mut().send(up, h2::setting(3, 1));
    lab.wait(SECOND);
    lab.origin.borrow_mut().send(up, h2::ok(1, true));
    lab.client_got(first, b"\r\n\r\n");
    let second = lab.send(GET);
    lab.wait(SECOND);
    lab.origin.borrow_mut().send(up, h2::ok(3, true));
    lab.client_got(second, b"\r\n\r\n");
    assert!(lab.client.borrow().text(second).starts_with("HTTP/1.1 200 "));
    lab.end();
}

#[test]
fn those_who_wait_get_new_connections_when_old_ones_end_with_their_response() {
    let mut narrow = config();
    narrow.limits.h1_connections_max = 2;
    let mut lab = Lab::with(|addr| Place::h1(1, addr), &narrow, Timeouts::default());
    let clients: Vec<ConnId> = (0..6).map(|_| lab.send(GET)).collect();
    // The first is answered last: all others go over the other place.
    for index in 1..6 {
        let up = lab.upstream(index);
        lab.origin_got(up, b"\r\n\r\n");
        lab.origin.borrow_mut().send(up, "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
        lab.origin.borrow_mut().close(up);
        lab.wait(SECOND / 100);
    }
    let first = lab.upstream(0);
    lab.origin.borrow_mut().send(first, OK);
    for client in clients {
        lab.wait(SECOND / 100);
        assert!(lab.client.borrow().text(client).starts_with("HTTP/1.1 20"), "{}", lab.client.borrow().text(client));
    }
    lab.end();
}

#[test]
fn a_request_that_waits_too_long_for_its_turn_does_not_count_as_a_failed_connect() {
    let mut narrow = config();
    narrow.limits.h1_connections_max = 1;
    let mut lab = Lab::with(|addr| Place::h1(1, addr), &narrow, Timeouts::default());
    let busy = lab.send(GET);
    let up = lab.upstream(0);
    let late = lab.send(GET);
    lab.wait(6 * SECOND);
    assert!(lab.client.borrow().text(late).starts_with("HTTP/1.1 503 "), "{}", lab.client.borrow().text(late));
    let ledger = Rc::clone(&lab.world.proxies[0].ledger);
    assert_eq!((ledger.borrow().ended(AttemptEnd::Refused), ledger.borrow().ended(AttemptEnd::ConnectFailed)), (1, 0));
    lab.origin.borrow_mut().send(up, OK);
    lab.client_got(busy, b"ok");
    lab.end();
}

#[test]
fn a_target_that_refuses_every_connection_is_forgotten() {
    let mut lab = Lab::h1();
    let nowhere = lab.world.address();
    lab.world.proxies[0].plane.publish(Arc::new(Scene::to(vec![Place::h1(5, nowhere)])));
    let client = lab.send(GET);
    lab.wait(SECOND);
    assert!(lab.client.borrow().text(client).starts_with("HTTP/1.1 502 "));
    assert_eq!(lab.world.proxies[0].worker.upstreams(), 0);
    let record = lab.world.proxies[0].ledger.borrow().records[0].clone();
    assert_eq!((record.attempts, record.refusal), (3, Some(Refusal::ConnectFailed)));
    lab.end();
}
