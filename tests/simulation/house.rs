//! Clients, edges, hosts and a model of the control side on one simulated network, under one virtual clock.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use steady_agent::gate::Role;
use steady_lb::snapshot::{HostState, Settings, Snapshot};
use steady_proxy::{Config, Limits, Listener};
use steady_ring::{Addr, Faults, SimNet, Time};
use steady_table::{App, AppName, Contents, DomainName, Endpoint, HostIndex, Moving, Routes, TableDir};
use tempfile::TempDir;

use crate::edge::{Edge, snapshot};
use crate::host::{Host, Spec};
use crate::ledger::Ledger;
use crate::moves::Move;
use crate::world::Node as _;
use crate::world::client::Clients;
use crate::world::peer::Peer;

/// Where the store says that an application is.
#[derive(Clone, Debug)]
pub struct Place {
    pub host: usize,
    pub generation: u64,
    /// The new host and its generation.
    pub moving: Option<(usize, u64)>,
    /// The largest generation that was ever given out.
    last: u64,
}

/// What the seed does to the house while requests are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Moves, swaps of tables and versions, successors of edges: what no client may notice.
    Works,
    /// Besides: applications, agents and edges are killed, connections break, hosts are called down.
    Breaks,
}

pub struct House {
    pub net: SimNet,
    pub rng: fastrand::Rng,
    pub specs: Vec<Spec>,
    pub edges: Vec<Edge>,
    pub hosts: Vec<Host>,
    pub clients: Peer<Clients>,
    pub ledger: Ledger,
    pub places: Vec<Place>,
    pub drain_time: Duration,
    weather: Weather,
    moves: Vec<Move>,
    /// Who is down, and until when: edges, then hosts.
    away: Vec<(Away, Time)>,
    states: Vec<HostState>,
    settings: Settings,
    dir: TableDir,
    routes: Arc<Routes>,
    revision: u64,
    /// The next whim of the seed; `None`: the house is left alone.
    next_whim: Option<Time>,
    _folder: TempDir,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Away {
    Edge(usize),
    Host(usize),
}

const SPECS: [(&str, &str, bool, bool); 3] = [
    ("notes", "notes.steady.page", true, false),
    ("hello", "hello.steady.page", false, true),
    ("shop", "shop.steady.sh:443", true, false),
];

pub fn specs() -> Vec<Spec> {
    let spec = |(name, authority, exclusive, is_h2)| Spec { name, authority, exclusive, is_h2 };
    SPECS.into_iter().map(spec).collect()
}

/// Memory where there is any: a table is synced each time it changes.
fn folder() -> TempDir {
    let builder = || tempfile::Builder::new().prefix("steady-simulation").to_owned();
    builder().tempdir_in("/dev/shm").or_else(|_| builder().tempdir()).expect("a folder for the table")
}

impl House {
    pub fn new(seed: u64, faults: Faults, weather: Weather) -> House {
        let mut rng = fastrand::Rng::with_seed(seed);
        let net = SimNet::new(seed, faults);
        let specs = specs();
        let config = bounds(&mut rng, 5_000..65_536, 2_000..70_000);
        let hosts: Vec<Host> = (0..2)
            .map(|index| {
                let addr = ([127, 0, 0, 1], 9_100 + index as u16).into();
                Host::new(&net, index, addr, config.clone(), &specs, rng.u64(..))
            })
            .collect();
        let places = (0..specs.len()).map(|_| Place { host: rng.usize(0..2), generation: 1, moving: None, last: 1 });
        let places: Vec<Place> = places.collect();
        let folder = folder();
        let (mut dir, _, damage) = TableDir::open(folder.path().join("table")).expect("a new table");
        assert!(damage.is_empty());
        let routes = Arc::new(dir.replace(contents(&specs, &places, &hosts), 1).expect("a table"));
        // What an agent takes of a body before it has accepted the request is what an edge keeps of it: the agent's window,
        // but the protocol's first one (64 KiB - 1) until its settings come.
        let config = bounds(&mut rng, 65_536..200_000, 65_536..100_000);
        let mut edges = Vec::new();
        for index in 0..rng.u16(1..3) {
            let addrs = (0..2).map(|worker| ([127, 0, 0, 1], 8_000 + index * 10 + worker).into()).collect();
            edges.push(Edge::new(&net, addrs, config.clone()));
        }
        let addrs = edges.iter().flat_map(|edge| edge.addrs.iter().map(|&addr| Addr::from(addr))).collect();
        let clients = Peer::new(&net, steady_http::Limits::default(), Clients::new(rng.u64(..), addrs));
        let settings = Settings {
            probe_timeout: Duration::from_millis(rng.u64(30..2_000)),
            park_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(100),
            response_timeout: Duration::from_secs(120),
            ..Settings::default()
        };
        let next_whim = Some(Time::ZERO + Duration::from_millis(rng.u64(0..100)));
        let states = vec![HostState::Up; hosts.len()];
        let mut house = House {
            net,
            specs,
            edges,
            hosts,
            clients,
            ledger: Ledger::default(),
            places,
            drain_time: Duration::from_secs(30),
            weather,
            moves: Vec::new(),
            away: Vec::new(),
            states,
            settings,
            dir,
            routes,
            revision: 1,
            next_whim,
            rng,
            _folder: folder,
        };
        for app in 0..house.specs.len() {
            let Place { host, generation, .. } = house.places[app];
            house.hosts[host].put(app, Role::Owner, generation);
        }
        let first = house.snapshot();
        for edge in &mut house.edges {
            edge.start(Arc::clone(&first), &mut house.rng);
        }
        house
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        snapshot(&self.routes, &self.states, &self.settings)
    }

    pub fn next_generation(&mut self, app: usize) -> u64 {
        self.places[app].last += 1;
        self.places[app].last
    }

    /// Writes the table as the store has it, and gives it to every edge that is up.
    pub fn publish(&mut self) {
        self.revision += 1;
        let contents = contents(&self.specs, &self.places, &self.hosts);
        self.routes = Arc::new(self.dir.replace(contents, self.revision).expect("a table"));
        self.republish();
    }

    fn republish(&mut self) {
        let snapshot = self.snapshot();
        for edge in &mut self.edges {
            edge.publish(&snapshot);
        }
    }

    /// Every worker that is there runs by the last table.
    pub fn is_settled(&self) -> bool {
        self.edges.iter().all(Edge::is_settled)
    }

    /// `host` is about to own an exclusive application: no other runs it.
    pub fn own(&mut self, app: usize, host: usize) {
        let other = self.hosts.iter().position(|known| known.index != host && known.processes(app) > 0);
        assert_eq!(other, None, "two hosts would own {}", self.specs[app].name);
    }

    /// Everything that can happen at this moment happens.
    fn settle(&mut self) {
        let (mut quiet, mut rounds) = (0, 0);
        while quiet < 2 {
            for edge in &mut self.edges {
                edge.step(&mut self.ledger);
            }
            for host in &mut self.hosts {
                host.step(&mut self.ledger);
            }
            self.clients.step();
            let acted = self.control();
            quiet = if acted || self.net.runnable() { 0 } else { quiet + 1 };
            rounds += 1;
            assert!(rounds < 100_000, "the same moment goes on for ever");
        }
        self.look();
    }

    /// What must hold at every moment.
    fn look(&mut self) {
        for (app, spec) in self.specs.iter().enumerate() {
            let processes: usize = self.hosts.iter().map(|host| host.processes(app)).sum();
            assert!(!spec.exclusive || processes <= 1, "{} runs twice", spec.name);
        }
        for (left, what) in std::mem::take(&mut self.ledger.stopped) {
            for id in left {
                let waits = self.clients.app.end_of(id).is_none() && !self.ledger.struck.contains(&id);
                if waits && self.weather == Weather::Works {
                    self.ledger.wrong.push(format!("{what}: {id}"));
                }
            }
        }
        if let Some(wrong) = self.ledger.wrong.first().or(self.clients.app.wrong.first()) {
            panic!("{wrong}");
        }
    }

    /// The control side's turn. Whether it did anything.
    fn control(&mut self) -> bool {
        let now = self.net.now();
        let mut acted = false;
        let mut moves = std::mem::take(&mut self.moves);
        for one in &mut moves {
            acted |= one.turn(self);
        }
        moves.retain(|one| !one.is_over());
        self.moves = moves;
        while let Some(at) = self.away.iter().position(|&(_, until)| until <= now) {
            let (who, _) = self.away.swap_remove(at);
            self.bring_back(who);
            acted = true;
        }
        if self.next_whim.is_some_and(|at| at <= now) {
            self.next_whim = Some(now + Duration::from_millis(self.rng.u64(20..400)));
            self.whim();
            acted = true;
        }
        acted
    }

    fn bring_back(&mut self, who: Away) {
        self.ledger.tell(self.net.now(), format!("{who:?} is back"));
        match who {
            Away::Edge(index) => {
                let first = self.snapshot();
                self.edges[index].start(first, &mut self.rng);
            }
            Away::Host(index) => {
                self.hosts[index].start();
                self.states[index] = HostState::Up;
                self.republish();
            }
        }
    }

    /// Nobody runs for a while, as when the machine of all of them is paused: for each the clock jumps, and whatever came and
    /// came due meanwhile is there at once.
    fn jump(&mut self) {
        let most_ms = match (self.weather, self.rng.u32(0..4)) {
            // Less than any deadline of what clients may not notice.
            (Weather::Works, _) => 1_000,
            (Weather::Breaks, 0) => 1_200_000,
            (Weather::Breaks, _) => 20_000,
        };
        let to = self.net.now() + Duration::from_millis(self.rng.u64(1..most_ms));
        self.ledger.tell(self.net.now(), format!("the clock jumps to {to:?}"));
        self.net.advance(to);
    }

    /// One process does not run for a while, and the others go on.
    fn stall(&mut self) {
        let most_ms = match self.weather {
            // Less than any deadline of what clients may not notice: who waits for a connection, be it one that a stalled edge
            // keeps busy, has three seconds.
            Weather::Works => 1_500,
            // A host is asked for a sign of life after 15 s of silence, and given up 10 s later.
            Weather::Breaks => 60_000,
        };
        let until = self.net.now() + Duration::from_millis(self.rng.u64(1..most_ms));
        let at = self.rng.usize(0..self.edges.len() + self.hosts.len());
        self.ledger.tell(self.net.now(), format!("process {at} is stalled until {until}"));
        match at.checked_sub(self.edges.len()) {
            None => self.edges[at].stall(until, &mut self.rng),
            Some(host) => self.hosts[host].stall(until),
        }
    }

    /// Something of this weather.
    fn whim(&mut self) {
        match self.rng.u32(0..12) {
            0 => return self.jump(),
            1 => return self.stall(),
            _ => {}
        }
        let app = self.rng.usize(0..self.specs.len());
        let edge = self.rng.usize(0..self.edges.len());
        let host = self.rng.usize(0..self.hosts.len());
        let whims = if self.weather == Weather::Breaks { 16 } else { 10 };
        match self.rng.u32(0..whims) {
            0..5 if self.moves.iter().any(|one| one.app == app) => {}
            0..5 => {
                let to = 1 - self.places[app].host;
                let one = Move::begin(self, app, to);
                self.moves.push(one);
            }
            5 => self.hosts[self.places[app].host].swap(app),
            6 if self.edges[edge].is_up() => {
                self.ledger.tell(self.net.now(), format!("edge {edge} gets a successor"));
                let first = self.snapshot();
                self.edges[edge].upgrade(first, &mut self.rng);
            }
            6..10 => self.publish(),
            10..12 => {
                self.ledger.tell(self.net.now(), format!("application {app} on host {host} crashes"));
                let struck = self.hosts[host].crash(app);
                self.ledger.struck.extend(struck);
            }
            12 if self.hosts[host].is_up() => {
                self.ledger.tell(self.net.now(), format!("host {host} is killed"));
                self.hosts[host].kill();
                let back = self.net.now() + Duration::from_millis(self.rng.u64(1..3_000));
                self.away.push((Away::Host(host), back));
            }
            13 if self.edges[edge].is_up() => {
                self.ledger.tell(self.net.now(), format!("edge {edge} is killed"));
                self.edges[edge].kill();
                let back = self.net.now() + Duration::from_millis(self.rng.u64(1..1_000));
                self.away.push((Away::Edge(edge), back));
            }
            14 if self.hosts[host].is_up() => {
                let states = [HostState::Up, HostState::Suspected];
                self.states[host] = states[self.rng.usize(0..2)];
                self.republish();
            }
            15 if !self.hosts[host].is_up() => {
                self.states[host] = HostState::Down;
                self.republish();
            }
            _ => {}
        }
    }

    /// No more whims; who is away comes back, moves come to their end.
    pub fn calm_down(&mut self) {
        self.next_whim = None;
        self.net.set_faults(Faults::none());
        for (_, until) in &mut self.away {
            *until = self.net.now();
        }
    }

    pub fn is_at_rest(&self) -> bool {
        self.moves.is_empty() && self.away.is_empty()
    }

    fn next_event_at(&self) -> Option<Time> {
        let moves = self.moves.iter().map(|one| one.at);
        let away = self.away.iter().map(|&(_, until)| until);
        let hosts = self.hosts.iter().filter_map(Host::due);
        let own = moves.chain(away).chain(hosts).chain(self.next_whim).min();
        [own, self.net.next_event_at()].into_iter().flatten().min().map(|at| at.max(self.net.now()))
    }

    /// Goes on until `done`, at most for `limit` of virtual time; whether it came to that.
    pub fn run_until(&mut self, limit: Duration, done: impl Fn(&House) -> bool) -> bool {
        let end = self.net.now() + limit;
        loop {
            self.settle();
            if done(self) {
                return true;
            }
            match self.next_event_at() {
                Some(at) if at <= end => self.net.advance(at),
                _ => {
                    self.net.advance(end);
                    self.settle();
                    return done(self);
                }
            }
        }
    }

    pub fn check_quiet(&mut self) {
        for edge in &self.edges {
            edge.check_quiet(&mut self.ledger);
        }
        self.hosts.iter().for_each(Host::check_quiet);
    }

    pub fn check_gone(&self) {
        self.edges.iter().for_each(Edge::check_gone);
        self.hosts.iter().for_each(Host::check_gone);
        assert_eq!(self.net.open_connections(), 0, "the network has open connections");
    }
}

/// Bounds that are met: small ones, from the seed. `window`: of a stream that comes in; `held`: of a body.
fn bounds(rng: &mut fastrand::Rng, window: Range<u32>, held: Range<usize>) -> Config {
    let mut config = Config {
        listeners: vec![Listener { tls: false, proxy_protocol: false, limits: steady_http::Limits::default() }],
        limits: Limits::default(),
        upstream_limits: steady_http::Limits::default(),
    };
    config.limits.h1_connections_max = rng.usize(1..8);
    config.limits.out_bytes_max = rng.usize(2_000..70_000);
    config.limits.up_out_bytes_max = rng.usize(2_000..70_000);
    config.limits.held_bytes_max = rng.usize(held);
    config.upstream_limits.stream_window = rng.u32(1_000..70_000);
    config.listeners[0].limits.stream_window = rng.u32(window);
    config.listeners[0].limits.streams_max = rng.u32(4..40);
    config
}

fn contents(specs: &[Spec], places: &[Place], hosts: &[Host]) -> Contents {
    let index = |host: usize| HostIndex(host as u32);
    let apps = specs.iter().zip(places).map(|(spec, place)| App {
        name: AppName::new(spec.name).expect("a name"),
        generation: place.generation,
        exclusive: spec.exclusive,
        version: 1,
        endpoints: vec![Endpoint { host: index(place.host), weight: 1, version: 1 }],
        moving: place.moving.map(|(to, generation)| Moving { from: index(place.host), to: index(to), generation }),
    });
    Contents {
        hosts: hosts
            .iter()
            .map(|host| steady_table::Host::new(&format!("h{}", host.index), &host.addr.to_string()).expect("a host"))
            .collect(),
        domains: ["steady.page", "steady.sh"].map(|name| DomainName::new(name).expect("a domain")).to_vec(),
        apps: apps.collect(),
        customs: Vec::new(),
    }
}
