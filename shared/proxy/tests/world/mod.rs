//! A simulated house to try the engine in: workers under test policies, scripted clients and origins, one virtual clock.
//!
//! - `policy`: an edge-like and an agent-like policy that keep a ledger of what the engine owes them.
//! - `peer`: a node that speaks HTTP with this project's codecs, and one that speaks raw octets.
//! - `plan`: what one request is to be answered with, and the octets of its bodies, both derived from its number.
//! - `client`, `origin`: the two ends.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod client;
pub mod origin;
pub mod peer;
pub mod plan;
pub mod policy;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use steady_proxy::{Command, Config, Limits, Listener, Outcome, Plane, Stats, Worker};
use steady_ring::{Faults, Sim, SimNet, Time};

use policy::{Ledger, Scene, TestPolicy};

/// Anything that takes part besides the workers.
pub trait Node {
    fn step(&mut self);
}

impl<N: Node> Node for Rc<RefCell<N>> {
    fn step(&mut self) {
        self.borrow_mut().step();
    }
}

/// One worker with its plane and its policy's books.
pub struct Proxy {
    /// `None` once it is over: its driver has closed what it had, as the end of a process does.
    worker: Option<Worker<Sim, TestPolicy>>,
    stats: Arc<Stats>,
    pub plane: Plane<TestPolicy>,
    pub ledger: Rc<RefCell<Ledger>>,
    pub over: bool,
    stalled_until: Time,
}

impl Proxy {
    /// It does not run until then; its sockets do.
    pub fn stall(&mut self, until: Time) {
        self.stalled_until = until;
        self.worker().driver().stall(until);
    }

    pub fn worker(&self) -> &Worker<Sim, TestPolicy> {
        self.worker.as_ref().expect("it is not over")
    }

    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    pub fn outcomes(&self, outcome: Outcome) -> u64 {
        self.stats().outcomes[outcome as usize].value()
    }

    pub fn drain(&self, deadline: Duration) {
        assert!(self.plane.command(&Command::Drain { deadline }));
    }
}

pub struct World {
    pub net: SimNet,
    pub proxies: Vec<Proxy>,
    pub nodes: Vec<Box<dyn Node>>,
    ports: u16,
}

/// The engine's bounds as tests mostly want them.
pub fn config() -> Config {
    Config {
        listeners: vec![Listener { tls: false, proxy_protocol: false, limits: steady_http::Limits::default() }],
        limits: Limits::default(),
        upstream_limits: steady_http::Limits::default(),
    }
}

impl World {
    pub fn new(seed: u64, faults: Faults) -> World {
        World { net: SimNet::new(seed, faults), proxies: Vec::new(), nodes: Vec::new(), ports: 1 }
    }

    pub fn calm() -> World {
        World::new(1, Faults::none())
    }

    /// An address that nobody listens on yet.
    pub fn address(&mut self) -> SocketAddr {
        self.ports += 1;
        SocketAddr::from(([127, 0, 0, 1], self.ports))
    }

    /// Starts a worker; returns its number and where it listens.
    pub fn proxy(&mut self, scene: Scene, config: &Config, seed: u64) -> (usize, SocketAddr) {
        self.seat(&Plane::new(1, Arc::new(scene)), 0, config, seed)
    }

    /// As [`proxy`](World::proxy), in this seat of a plane.
    pub fn seat(&mut self, plane: &Plane<TestPolicy>, seat: usize, config: &Config, seed: u64) -> (usize, SocketAddr) {
        let addr = self.address();
        let socket = self.net.bind(addr);
        let policy = TestPolicy::new(seed);
        let ledger = policy.ledger();
        let driver = self.net.driver();
        let worker = Worker::new(driver, policy, plane.seat(seat), config, vec![socket]).unwrap();
        let stats = plane.stats().remove(seat);
        self.proxies.push(Proxy {
            worker: Some(worker),
            stats,
            plane: plane.clone(),
            ledger,
            over: false,
            stalled_until: Time::ZERO,
        });
        (self.proxies.len() - 1, addr)
    }

    pub fn add<N: Node + 'static>(&mut self, node: N) -> Rc<RefCell<N>> {
        let node = Rc::new(RefCell::new(node));
        self.nodes.push(Box::new(Rc::clone(&node)));
        node
    }

    pub fn now(&self) -> Time {
        self.net.now()
    }

    /// Everything that can happen at this moment happens.
    pub fn settle(&mut self) {
        let mut quiet = 0;
        let mut rounds = 0;
        while quiet < 2 {
            let now = self.net.now();
            for proxy in self.proxies.iter_mut().filter(|proxy| proxy.stalled_until <= now) {
                if let Some(worker) = &mut proxy.worker
                    && !worker.turn(None).unwrap()
                {
                    proxy.worker = None;
                    proxy.over = true;
                }
            }
            for node in &mut self.nodes {
                node.step();
            }
            quiet = if self.net.runnable() { 0 } else { quiet + 1 };
            rounds += 1;
            assert!(rounds < 100_000, "the same moment goes on for ever");
        }
    }

    /// Goes on until `done`, at most for `limit` of virtual time; whether it came to that.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut World) -> bool) -> bool {
        let end = self.now() + limit;
        loop {
            self.settle();
            if done(self) {
                return true;
            }
            match self.net.next_event_at() {
                Some(at) if at <= end => self.net.advance(at),
                _ => {
                    self.net.advance(end);
                    self.settle();
                    return done(self);
                }
            }
        }
    }

    pub fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// What must hold of the workers whenever nothing is under way.
    pub fn check_quiet(&self) {
        for (index, proxy) in self.proxies.iter().enumerate() {
            let stats = proxy.stats();
            assert_eq!(proxy.worker().exchanges(), 0, "worker {index} has exchanges under way");
            assert_eq!(proxy.worker().held_bytes(), 0, "worker {index} holds octets");
            assert_eq!(stats.exchanges_open.value(), 0);
            assert_eq!(stats.parked_open.value(), 0, "worker {index} has parked requests");
            let requests = stats.requests_h1.value() + stats.requests_h2.value();
            let ended: u64 = stats.outcomes.iter().map(|cell| cell.value()).sum();
            assert_eq!(requests, ended, "worker {index}: each request has one outcome");
            proxy.ledger.borrow().check_balanced();
            assert_eq!(proxy.ledger.borrow().finished, ended);
        }
    }

    /// As [`check_quiet`](World::check_quiet), and after every idle time-out nothing is left at all.
    pub fn check_gone(&mut self) {
        self.check_quiet();
        for (index, proxy) in self.proxies.iter().enumerate() {
            assert_eq!(proxy.worker().connections(), 0, "worker {index} has connections: {:?}", proxy.worker());
            assert_eq!(proxy.stats().connections_open.value(), 0);
            assert_eq!(proxy.stats().upstream_open.value(), 0);
            assert_eq!(proxy.worker().upstreams(), 0, "worker {index} remembers upstreams without connections");
        }
        assert_eq!(self.net.open_connections(), 0, "the network has open connections");
    }
}
