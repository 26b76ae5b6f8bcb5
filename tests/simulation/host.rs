//! A host: the agent's workers under the real policy, a model of its control, and the processes of its applications.
//!
//! The model does what the agent's actors do, without their processes: it starts an application that is woken, looks at one
//! that broke, drains, cuts, stops; each after a time from the seed. What it was told survives a crash of the agent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use steady_agent::data::{AgentPolicy, DataPlane};
use steady_agent::gate::{self, Apps, Generation, Notice, Plane as _, Role};
use steady_proxy::{Config, Timeouts, Worker};
use steady_ring::{Addr, Sim, SimListener, SimNet, Time};
use tokio::sync::mpsc;

use crate::ledger::Ledger;
use crate::world::Node as _;
use crate::world::origin::Origin;
use crate::world::peer::Peer;

/// How an application is set up, everywhere.
#[derive(Clone, Debug)]
pub struct Spec {
    pub name: &'static str,
    pub authority: &'static str,
    pub exclusive: bool,
    pub is_h2: bool,
}

pub struct Host {
    pub index: usize,
    pub addr: SocketAddr,
    net: SimNet,
    socket: SimListener,
    config: Config,
    timeouts: Timeouts,
    specs: Vec<Spec>,
    agent: Option<Agent>,
    /// What it was told, by application.
    places: BTreeMap<usize, Place>,
    processes: Vec<Process>,
    rng: fastrand::Rng,
    instances: u64,
    ports: u16,
}

struct Agent {
    plane: DataPlane,
    workers: Vec<Worker<Sim, AgentPolicy>>,
    notices: mpsc::Receiver<Notice>,
    publication: u64,
    /// It does not run until then.
    stalled_until: Time,
}

#[derive(Clone, Debug)]
struct Place {
    role: Role,
    generation: u64,
    run: Run,
    /// An instance that another took the place of, and that ends when it has nothing under way.
    retiring: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    Cold,
    Starting(Time),
    Ready(u64),
}

struct Process {
    app: usize,
    instance: u64,
    addr: SocketAddr,
    peer: Peer<Origin>,
    logged: usize,
}

impl Host {
    pub fn new(net: &SimNet, index: usize, addr: SocketAddr, config: Config, specs: &[Spec], seed: u64) -> Host {
        let timeouts = Timeouts { idle: Duration::from_secs(200), ..Timeouts::default() };
        let mut host = Host {
            index,
            addr,
            net: net.clone(),
            socket: net.bind(addr),
            config,
            timeouts,
            specs: specs.to_vec(),
            agent: None,
            places: BTreeMap::new(),
            processes: Vec::new(),
            rng: fastrand::Rng::with_seed(seed),
            instances: index as u64 * 1_000_000,
            ports: 0,
        };
        host.start();
        host
    }

    /// The agent begins, with what it was told before.
    pub fn start(&mut self) {
        let plane = DataPlane::new(2);
        let (send, notices) = mpsc::channel(64);
        let workers = (0..2).map(|index| {
            let (seat, policy) = plane.part(index, send.clone(), self.timeouts);
            let socket = self.socket.duplicate();
            Worker::new(self.net.driver(), policy, seat, &self.config, vec![socket]).expect("it takes a listener")
        });
        let workers = workers.collect();
        self.agent = Some(Agent { plane, workers, notices, publication: 0, stalled_until: Time::ZERO });
        self.publish();
    }

    /// kill -9 of the agent, and of its applications with it, as its successor's first act would.
    pub fn kill(&mut self) {
        self.agent = None;
        self.processes.clear();
        for place in self.places.values_mut() {
            (place.run, place.retiring) = (Run::Cold, None);
        }
    }

    pub fn is_up(&self) -> bool {
        self.agent.is_some()
    }

    /// The agent does not run until then, its control side included; its applications do.
    pub fn stall(&mut self, until: Time) {
        let Some(agent) = &mut self.agent else { return };
        agent.stalled_until = until;
        for worker in &agent.workers {
            worker.driver().stall(until);
        }
    }

    /// Whether the agent is there and runs: it can be told something.
    pub fn runs(&self) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.stalled_until <= self.net.now())
    }

    pub fn processes(&self, app: usize) -> usize {
        self.processes.iter().filter(|process| process.app == app).count()
    }

    /// Whether a process of the application answers.
    pub fn is_ready(&self, app: usize) -> bool {
        self.places.get(&app).is_some_and(|place| matches!(place.run, Run::Ready(_)))
    }

    /// kill -9 of one application. Those it had begun.
    pub fn crash(&mut self, app: usize) -> Vec<u64> {
        let mut struck = Vec::new();
        self.processes.retain(|process| {
            if process.app == app {
                struck.extend(process.peer.app.under_way());
            }
            process.app != app
        });
        if let Some(place) = self.places.get_mut(&app) {
            place.retiring = None;
            if place.run != Run::Cold {
                let at = self.net.now() + Duration::from_millis(self.rng.u64(1..100));
                place.run = Run::Starting(at);
            }
        }
        self.publish();
        struck
    }

    /// What control says of the application; the same as before does nothing.
    pub fn put(&mut self, app: usize, role: Role, generation: u64) {
        let now = self.net.now();
        let exclusive = self.specs[app].exclusive;
        let fresh = Place { role, generation, run: Run::Cold, retiring: None };
        let place = self.places.entry(app).or_insert(fresh);
        (place.role, place.generation) = (role, generation);
        let starts = role == Role::Owner && self.rng.bool() || role == Role::Incoming && !exclusive;
        if starts && place.run == Run::Cold {
            place.run = Run::Starting(now + Duration::from_millis(self.rng.u64(1..150)));
        }
        self.publish();
    }

    pub fn forget(&mut self, app: usize) {
        self.places.remove(&app);
        self.processes.retain(|process| process.app != app);
        self.publish();
    }

    /// The workers have all heard, and nothing of the application is under way.
    pub fn is_drained(&self, app: usize) -> bool {
        let Some(agent) = &self.agent else { return false };
        agent.plane.settled() >= agent.publication && agent.plane.in_flight(self.specs[app].name) == 0
    }

    pub fn cut(&mut self, app: usize) -> Vec<u64> {
        let Some(agent) = &self.agent else { return Vec::new() };
        agent.plane.cut(self.specs[app].name);
        self.under_way(app)
    }

    pub fn under_way(&self, app: usize) -> Vec<u64> {
        let ours = self.processes.iter().filter(|process| process.app == app);
        ours.flat_map(|process| process.peer.app.under_way()).collect()
    }

    /// Ends its processes. Those it had begun and not finished.
    pub fn stop(&mut self, app: usize) -> Vec<u64> {
        let left = self.under_way(app);
        self.processes.retain(|process| process.app != app);
        if let Some(place) = self.places.get_mut(&app) {
            (place.run, place.retiring) = (Run::Cold, None);
        }
        self.publish();
        left
    }

    /// Another version takes over while the old one finishes; of an exclusive application it begins after that.
    pub fn swap(&mut self, app: usize) {
        let Some(place) = self.places.get(&app) else { return };
        let Run::Ready(old) = place.run else { return };
        if place.retiring.is_some() || self.agent.is_none() {
            return;
        }
        let run = if self.specs[app].exclusive {
            Run::Starting(self.net.now() + Duration::from_millis(self.rng.u64(1..150)))
        } else {
            Run::Ready(self.spawn(app))
        };
        let place = self.places.get_mut(&app).expect("it was there");
        (place.run, place.retiring) = (run, Some(old));
        self.publish();
    }

    fn spawn(&mut self, app: usize) -> u64 {
        self.instances += 1;
        self.ports += 1;
        let addr = SocketAddr::from(([127, 0, 1 + self.index as u8, 1], self.ports));
        let mut peer = Peer::new(&self.net, steady_http::Limits::default(), Origin::new(self.rng.u64(..)));
        peer.listen(self.net.bind(addr), self.specs[app].is_h2);
        self.processes.push(Process { app, instance: self.instances, addr, peer, logged: 0 });
        self.instances
    }

    fn publish(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        let apps = self.places.iter().map(|(&app, place)| {
            let spec = &self.specs[app];
            let process = match place.run {
                Run::Cold => gate::Process::Cold,
                Run::Starting(_) => gate::Process::Starting,
                Run::Ready(instance) => {
                    let process = self.processes.iter().find(|process| process.instance == instance);
                    let addr = Addr::from(process.expect("what is ready runs").addr);
                    let protocol = if spec.is_h2 { gate::Protocol::H2c } else { gate::Protocol::Http1 };
                    gate::Process::Ready { addr, protocol, instance }
                }
            };
            let app = gate::App {
                name: spec.name.into(),
                role: place.role,
                generation: Generation(place.generation),
                version: place.generation,
                process,
                queue_max: 1_000,
                queue_wait: Duration::from_secs(60),
                response_timeout: Duration::from_secs(120),
            };
            (Arc::clone(&app.name), Arc::new(app))
        });
        agent.publication = agent.plane.publish(Arc::new(Apps { apps: apps.collect() }));
    }

    /// When control wants a turn though nothing else happens.
    pub fn due(&self) -> Option<Time> {
        if self.runs() { self.starting().map(|(_, at)| at).min() } else { None }
    }

    /// The applications that begin, and when; not those that wait until their one process has ended.
    fn starting(&self) -> impl Iterator<Item = (usize, Time)> {
        self.places.iter().filter_map(|(&app, place)| match place.run {
            Run::Starting(at) if !self.specs[app].exclusive || place.retiring.is_none() => Some((app, at)),
            _ => None,
        })
    }

    pub fn step(&mut self, ledger: &mut Ledger) {
        let runs = self.runs();
        if let Some(agent) = self.agent.as_mut().filter(|_| runs) {
            for worker in &mut agent.workers {
                assert!(worker.turn(None).expect("it does not fail"), "nobody told it to end");
            }
        }
        for process in &mut self.processes {
            process.peer.step();
            let origin = &mut process.peer.app;
            for &id in &origin.log[process.logged..] {
                ledger.begin(id, self.index, process.app, process.instance, self.net.now());
            }
            process.logged = origin.log.len();
            ledger.wrong.append(&mut origin.wrong);
        }
        if runs {
            self.heed();
            self.retire(ledger);
        }
    }

    /// What the workers ask for, and what is due.
    fn heed(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        let now = self.net.now();
        let mut changed = false;
        while let Ok(notice) = agent.notices.try_recv() {
            let named = |app: &str| self.specs.iter().position(|spec| spec.name == app);
            let (Notice::Wake { app } | Notice::Broken { app, .. }) = &notice;
            let Some(place) = named(app).and_then(|app| self.places.get_mut(&app)) else { continue };
            match notice {
                Notice::Wake { .. } if place.run == Run::Cold && place.role == Role::Owner => {
                    place.run = Run::Starting(now + Duration::from_millis(self.rng.u64(1..150)));
                    changed = true;
                }
                Notice::Broken { instance, .. } if place.run == Run::Ready(instance) => {
                    // It looks at the process, which is there: the same word again lets the workers try again.
                    changed = true;
                }
                _ => {}
            }
        }
        let starts: Vec<usize> = self.starting().filter(|&(_, at)| at <= now).map(|(app, _)| app).collect();
        for app in starts {
            let instance = self.spawn(app);
            self.places.get_mut(&app).expect("it was there").run = Run::Ready(instance);
            changed = true;
        }
        if changed {
            self.publish();
        }
    }

    /// Ends old versions that have nothing under way.
    fn retire(&mut self, ledger: &mut Ledger) {
        let Some(agent) = &self.agent else { return };
        if agent.plane.settled() < agent.publication {
            return;
        }
        for (&app, place) in &mut self.places {
            let Some(old) = place.retiring else { continue };
            if agent.plane.in_flight_of(self.specs[app].name, old) > 0 {
                continue;
            }
            place.retiring = None;
            let process = self.processes.iter().position(|process| process.instance == old);
            if let Some(at) = process {
                let process = self.processes.swap_remove(at);
                ledger.tell(self.net.now(), format!("host {}: instance {old} of {app} retires", self.index));
                ledger.stopped(process.peer.app.under_way(), "an old version ended with requests under way");
            }
        }
    }

    pub fn check_quiet(&self) {
        let Some(agent) = &self.agent else { return };
        for worker in &agent.workers {
            assert_eq!(worker.exchanges(), 0, "an agent has exchanges under way");
            assert_eq!(worker.held_bytes(), 0, "an agent holds octets");
        }
        for spec in &self.specs {
            assert_eq!(agent.plane.in_flight(spec.name), 0, "{} has requests in flight", spec.name);
            assert_eq!(agent.plane.parked(spec.name), 0, "{} has parked requests", spec.name);
        }
    }

    pub fn check_gone(&self) {
        for worker in self.agent.iter().flat_map(|agent| &agent.workers) {
            assert_eq!(worker.connections(), 0, "an agent has connections: {worker:?}");
            assert_eq!(worker.upstreams(), 0, "an agent remembers upstreams without connections");
        }
    }
}
