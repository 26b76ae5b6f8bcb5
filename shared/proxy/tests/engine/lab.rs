//! The places that tests work in: one worker between raw ends, and a chain of two.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use steady_proxy::{Config, Timeouts};
use steady_ring::{ConnId, Faults};

use crate::world::client::{Clients, End, Want};
use crate::world::origin::Origin;
use crate::world::peer::{Peer, Raw};
use crate::world::policy::{Place, Scene};
use crate::world::{World, config};

pub const SECOND: Duration = Duration::from_secs(1);

/// One worker between raw clients and one raw origin.
pub struct Lab {
    pub world: World,
    pub client: Rc<RefCell<Raw>>,
    pub origin: Rc<RefCell<Raw>>,
    pub addr: SocketAddr,
    pub origin_addr: SocketAddr,
}

impl Lab {
    pub fn new(place: impl Fn(SocketAddr) -> Place) -> Lab {
        Lab::with(place, &config(), Timeouts::default())
    }

    pub fn h1() -> Lab {
        Lab::new(|addr| Place::h1(1, addr))
    }

    pub fn with(place: impl Fn(SocketAddr) -> Place, config: &Config, timeouts: Timeouts) -> Lab {
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
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> ConnId {
        let mut client = self.client.borrow_mut();
        let id = client.connect(self.addr);
        client.send(id, bytes);
        id
    }

    /// The origin's connection `index`, once it is there.
    pub fn upstream(&mut self, index: usize) -> ConnId {
        let origin = Rc::clone(&self.origin);
        assert!(self.world.run_until(SECOND, |_| origin.borrow().accepted.len() > index), "no upstream connection");
        self.origin.borrow().accepted[index]
    }

    /// Waits until the origin has got something that ends so.
    pub fn origin_got(&mut self, id: ConnId, end: &[u8]) {
        let origin = Rc::clone(&self.origin);
        let came = self.world.run_until(SECOND, |_| origin.borrow().got(id).ends_with(end));
        assert!(came, "the origin got {:?}", self.origin.borrow().text(id));
    }

    pub fn client_got(&mut self, id: ConnId, end: &[u8]) {
        let client = Rc::clone(&self.client);
        let came = self.world.run_until(SECOND, |_| client.borrow().got(id).ends_with(end));
        let text = self.client.borrow().text(id);
        assert!(came, "the client got {} octets: {:?}", text.len(), &text[..text.len().min(500)]);
    }

    pub fn wait(&mut self, time: Duration) {
        self.world.run_for(time);
    }

    /// Every idle time-out passes; nothing may be left.
    pub fn end(mut self) {
        self.world.run_for(Duration::from_secs(1200));
        self.world.check_quiet();
        for proxy in &self.world.proxies {
            assert_eq!(proxy.worker().connections(), 0, "idle connections end by themselves");
        }
        self.client.borrow_mut().hang_up();
        self.origin.borrow_mut().hang_up();
        self.world.run_for(SECOND);
        self.world.check_gone();
    }
}

pub const GET: &str = "GET / HTTP/1.1\r\nhost: a.test\r\n\r\n";
pub const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// An edge-like worker before an agent-like one before one origin, and clients that check what they get.
pub struct Chain {
    pub world: World,
    pub clients: Rc<RefCell<Peer<Clients>>>,
    pub origin: Rc<RefCell<Peer<Origin>>>,
}

impl Chain {
    pub fn new(origin_is_h2: bool) -> Chain {
        Chain::with(origin_is_h2, &config())
    }

    /// With these bounds in both workers.
    pub fn with(origin_is_h2: bool, config: &Config) -> Chain {
        let mut world = World::new(1, Faults::none());
        let addr = world.address();
        let mut origin = Peer::new(&world.net, steady_http::Limits::default(), Origin::new(1));
        origin.listen(world.net.bind(addr), origin_is_h2);
        let origin = world.add(origin);
        let place = if origin_is_h2 { Place::h2(1, addr) } else { Place::h1(1, addr) };
        let (_, agent) = world.proxy(Scene::to(vec![place]), config, 1);
        let (_, edge) = world.proxy(Scene::to(vec![Place::agent(2, agent)]), config, 2);
        let clients = Peer::new(&world.net, steady_http::Limits::default(), Clients::new(1, vec![edge.into()]));
        let clients = world.add(clients);
        Chain { world, clients, origin }
    }

    pub fn want(&mut self, want: Want) {
        self.clients.borrow_mut().app.wants.push(want);
    }

    pub fn run(&mut self, limit: Duration) {
        let clients = Rc::clone(&self.clients);
        self.world.run_until(limit, |_| clients.borrow().app.is_done());
        assert_eq!(self.clients.borrow().app.wrong, Vec::<String>::new());
        assert_eq!(self.origin.borrow().app.wrong, Vec::<String>::new());
    }

    pub fn end_of(&self, id: u64) -> Option<End> {
        self.clients.borrow().app.end_of(id)
    }
}

/// A WebSocket's request in HTTP/1.1.
pub const UPGRADE: &str = "GET /ws HTTP/1.1\r\nhost: a.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";

/// Octets that the worker may hold of one body: a pipe, two connections' output (256 KiB towards an upstream), and what one
/// batch brings.
pub const HELD_MAX: usize = 900 * 1024;
