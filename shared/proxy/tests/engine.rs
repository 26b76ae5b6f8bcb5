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
        let text = self.client.borrow().text(id);
        assert!(came, "the client got {} octets: {:?}", text.len(), &text[..text.len().min(500)]);
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

// Back-pressure.

/// Octets that the worker may hold of one body: a pipe, two connections' output, and what one batch brings.
const HELD_MAX: usize = 600 * 1024;

#[test]
fn a_chunked_upload_to_an_origin_that_does_not_read_is_held_back() {
    let mut lab = Lab::h1();
    // What is sent at once arrives at once.
    lab.world.net.set_faults(Faults { segment_bytes_max: 1 << 30, ..Faults::none() });
    let client = lab.send("POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n3");
    let up = lab.upstream(0);
    lab.origin.borrow_mut().pause(up);
    // Each piece ends within a chunk's size line, so that something is left over that cannot be read yet.
    let chunk = [b"fb\r\n".to_vec(), vec![b'x'; 0x3fb], b"\r\n3".to_vec()].concat();
    let mut most = 0;
    for _ in 0..4_000 {
        if lab.client.borrow().unsent(client) == 0 {
            lab.client.borrow_mut().send(client, &chunk);
        }
        lab.wait(Duration::from_millis(1));
        most = most.max(lab.world.proxies[0].worker.held_bytes());
    }
    assert!(most < HELD_MAX, "{most} octets held");
    lab.end();
}

#[test]
fn a_client_that_pipelines_without_reading_is_held_back() {
    let mut lab = Lab::h1();
    let client = lab.send(GET);
    let mut most = 0;
    for _ in 0..4_000 {
        if lab.client.borrow().unsent(client) == 0 {
            lab.client.borrow_mut().send(client, GET.repeat(50));
        }
        lab.wait(Duration::from_millis(1));
        most = most.max(lab.world.proxies[0].worker.held_bytes());
    }
    assert!(most < HELD_MAX, "{most} octets held");
    lab.client.borrow_mut().abort(client);
    lab.end();
}

// Ends.

#[test]
fn a_whole_response_reaches_a_slow_reader_whatever_becomes_of_the_upstream() {
    for reset in [false, true] {
        let mut lab = Lab::h1();
        let client = lab.send(GET);
        lab.wait(SECOND);
        lab.client.borrow_mut().pause(client);
        let up = lab.upstream(0);
        let body = vec![b'y'; 150_000];
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        lab.origin.borrow_mut().send(up, [head.as_bytes(), &body].concat());
        lab.wait(5 * SECOND);
        if reset {
            // Something unread makes the close a reset.
            lab.origin.borrow_mut().pause(up);
            lab.origin.borrow_mut().close(up);
        }
        lab.wait(Duration::from_secs(200));
        lab.client.borrow_mut().resume(client);
        lab.client_got(client, b"y");
        lab.wait(SECOND);
        assert_eq!(lab.client.borrow().total(client), (head.len() + body.len()) as u64, "reset: {reset}");
        assert_eq!(lab.world.proxies[0].outcomes(Outcome::Complete), 1);
        lab.end();
    }
}

#[test]
fn an_early_response_survives_the_reset_that_says_that_the_rest_is_not_wanted() {
    // RFC 9113 §8.1: NO_ERROR after a complete response.
    let mut lab = Lab::new(|addr| Place::h2(1, addr));
    let client = lab.send("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1000\r\n\r\nabc");
    let up = lab.upstream(0);
    lab.origin.borrow_mut().send(up, h2::SETTINGS);
    lab.wait(SECOND);
    lab.client.borrow_mut().pause(client);
    // More than the sockets on the way hold, so that some of it is still here when the reset comes.
    let body = vec![b'z'; 16_000];
    let mut answer = h2::ok(1, false);
    for index in 0..9 {
        answer.extend(h2::data(1, &body, index == 8));
    }
    answer.extend(h2::reset(1, 0));
    lab.origin.borrow_mut().send(up, h2::window(0, 1));
    lab.origin.borrow_mut().send(up, &answer[..60_000]);
    lab.wait(SECOND);
    lab.origin.borrow_mut().send(up, &answer[60_000..]);
    lab.wait(SECOND);
    lab.client.borrow_mut().resume(client);
    lab.client_got(client, b"\r\n0\r\n\r\n");
    assert_eq!(lab.world.proxies[0].outcomes(Outcome::Complete), 1);
    lab.end();
}

#[test]
fn a_connection_whose_last_stream_its_client_reset_ends_by_its_idle_timeout() {
    let mut lab = Lab::h1();
    let client = lab.send([h2::PREFACE.to_vec(), h2::get(1, true)].concat());
    // Longer than any deadline that was set before.
    lab.wait(Duration::from_secs(50));
    lab.client.borrow_mut().send(client, h2::reset(1, 8));
    lab.wait(Duration::from_secs(70));
    assert!(!lab.client.borrow().is_over(client), "idle for less than its time");
    lab.wait(Duration::from_secs(20));
    assert!(lab.client.borrow().is_over(client));
    lab.end();
}

#[test]
fn a_client_that_ends_its_side_after_its_request_gets_its_answer_though_no_connection_was_there_yet() {
    let mut lab = Lab::h1();
    let client = lab.send(GET);
    lab.client.borrow_mut().shutdown(client);
    let up = lab.upstream(0);
    lab.origin_got(up, b"\r\n\r\n");
    lab.origin.borrow_mut().send(up, OK);
    lab.client_got(client, b"ok");
    lab.end();
}

#[test]
fn every_pipelined_request_before_the_clients_end_is_answered() {
    let mut lab = Lab::h1();
    let client = lab.send(GET.repeat(3));
    lab.client.borrow_mut().shutdown(client);
    let up = lab.upstream(0);
    for _ in 0..3 {
        lab.origin_got(up, b"\r\n\r\n");
        lab.origin.borrow_mut().take(up);
        lab.origin.borrow_mut().send(up, OK);
    }
    lab.wait(SECOND);
    assert_eq!(lab.client.borrow().text(client).matches("200 OK").count(), 3);
    lab.end();
}

#[test]
fn a_parked_request_is_freed_when_its_client_leaves() {
    for is_h2 in [false, true] {
        let mut lab = Lab::h1();
        let scene = Scene::to(vec![Place::h1(1, lab.origin_addr)]);
        lab.world.proxies[0].plane.publish(Arc::new(Scene { hold: true, park_for: 60 * SECOND, ..scene }));
        let request = if is_h2 { [h2::PREFACE.to_vec(), h2::get(1, true)].concat() } else { GET.into() };
        let client = lab.send(request);
        lab.wait(SECOND);
        assert_eq!(lab.world.proxies[0].stats().parked_open.value(), 1);
        if is_h2 {
            lab.client.borrow_mut().send(client, h2::reset(1, 8));
        } else {
            lab.client.borrow_mut().shutdown(client);
        }
        lab.wait(SECOND);
        assert_eq!(lab.world.proxies[0].stats().parked_open.value(), 0, "HTTP/2: {is_h2}");
        assert_eq!(lab.world.proxies[0].outcomes(Outcome::ClientGone), 1);
        lab.end();
    }
}

// Deadlines.

#[test]
fn an_upgrade_that_the_origin_does_not_answer_ends_by_the_response_timeout() {
    let mut lab = Lab::new(|addr| Place { response_timeout: 5 * SECOND, ..Place::h1(1, addr) });
    let ws = lab.send(UPGRADE);
    lab.wait(6 * SECOND);
    assert!(lab.client.borrow().text(ws).starts_with("HTTP/1.1 504 "), "{}", lab.client.borrow().text(ws));
    lab.end();
}

#[test]
fn a_connect_that_fails_at_the_moment_the_whole_time_is_up_ends_the_exchange() {
    for micros in (0..2_000).step_by(200) {
        connect_fails_as_time_is_up(5 * SECOND + Duration::from_micros(micros));
    }
}

fn connect_fails_as_time_is_up(total: Duration) {
    let mut world = World::new(1, Faults::none());
    let nowhere = world.address();
    let mut quick = config();
    quick.limits.connect_max = 5 * SECOND + SECOND / 1000;
    let timeouts = Timeouts { total: Some(total), ..Timeouts::default() };
    let place = Place { connect_timeout: 60 * SECOND, ..Place::h1(1, nowhere) };
    let (_, addr) = world.proxy(Scene { timeouts, ..Scene::to(vec![place]) }, &quick, 1);
    let mut client = Raw::new(&world.net);
    let id = client.connect(addr);
    client.send(id, GET);
    let client = world.add(client);
    world.settle();
    world.run_for(Duration::from_micros(80));
    world.net.set_faults(Faults { connect_lost_per_million: 1_000_000, ..Faults::none() });
    world.run_for(20 * SECOND);
    assert!(client.borrow().text(id).starts_with("HTTP/1.1 50"), "{}", client.borrow().text(id));
}

// Tunnels.

#[test]
fn octets_that_a_client_sends_before_its_upgrade_is_granted_go_on_once_it_is() {
    let mut lab = Lab::h1();
    let ws = lab.send([UPGRADE.as_bytes(), b"early"].concat());
    let up = lab.upstream(0);
    lab.wait(SECOND);
    assert!(lab.origin.borrow().got(up).ends_with(b"\r\n\r\n"), "{}", lab.origin.borrow().text(up));
    lab.origin.borrow_mut().send(
        up,
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    );
    lab.origin_got(up, b"early");
    lab.client.borrow_mut().close(ws);
    lab.end();
}

// Questions.

#[test]
fn a_question_that_is_cut_is_answered_by_nothing_and_frees_what_waits_for_it() {
    let mut lab = Lab::new(|addr| Place::h2(1, addr));
    let place = Place::h2(1, lab.origin_addr);
    let scene = Scene { ask: 1000, park_for: 500 * SECOND, ask_for: 100 * SECOND, ..Scene::to(vec![place]) };
    lab.world.proxies[0].plane.publish(Arc::new(scene.clone()));
    let client = lab.send(GET);
    lab.upstream(0);
    lab.wait(SECOND);
    lab.world.proxies[0].plane.publish(Arc::new(Scene { ask: 0, ..scene }));
    lab.world.proxies[0].plane.command(&Command::Cut(Arc::new(|ticket| ticket.id == 0)));
    lab.wait(SECOND);
    assert_eq!(lab.world.proxies[0].ledger.borrow().answers, [None]);
    lab.client.borrow_mut().close(client);
    lab.end();
}

// TLS to upstreams.

#[test]
fn a_tls_upstream_that_speaks_no_tls_is_a_connection_that_failed() {
    let mut lab = Lab::new(|addr| Place { tls: true, ..Place::h2(1, addr) });
    let client = lab.send(GET);
    for attempt in 0..3 {
        let up = lab.upstream(attempt);
        lab.wait(SECOND / 10);
        lab.origin.borrow_mut().send(up, "SSH-2.0-OpenSSH_9.9\r\n");
    }
    lab.client_got(client, b"}\n");
    assert!(lab.client.borrow().text(client).starts_with("HTTP/1.1 502 "));
    assert_eq!(lab.world.proxies[0].ledger.borrow().ended(AttemptEnd::ConnectFailed), 3);
    lab.end();
}

#[test]
fn a_crowd_whose_parking_time_is_up_at_once_is_answered_at_once() {
    let mut lab = Lab::h1();
    let scene = Scene::to(vec![Place::h1(1, lab.origin_addr)]);
    lab.world.proxies[0].plane.publish(Arc::new(Scene { hold: true, park_for: 2 * SECOND, ..scene }));
    let clients: Vec<ConnId> = (0..200).map(|_| lab.send(GET)).collect();
    lab.wait(SECOND / 2);
    assert_eq!(lab.world.proxies[0].stats().parked_open.value(), 200);
    lab.wait(10 * SECOND);
    let client = lab.client.borrow();
    let answered = clients.iter().filter(|&&id| client.text(id).starts_with("HTTP/1.1 503 ")).count();
    drop(client);
    assert_eq!(answered, 200);
    lab.end();
}
