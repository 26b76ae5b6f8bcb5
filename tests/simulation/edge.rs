//! An edge: its workers under the real policy on the simulated network. It is killed, started anew, and taken over by a
//! successor while it drains. Its listening sockets outlive it, as they do under a service manager: who connects while it is
//! away waits in their queue.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use steady_lb::certs::Certs;
use steady_lb::data::{EdgePolicy, EdgeStats};
use steady_lb::reports::EdgeMeters;
use steady_lb::snapshot::{HostState, Settings, Snapshot};
use steady_proxy::{Command, Config, Plane, Stats, Worker};
use steady_ring::{Sim, SimListener, SimNet, Time};
use steady_table::Routes;

use crate::ledger::Ledger;

pub struct Edge {
    net: SimNet,
    /// One a worker.
    sockets: Vec<SimListener>,
    pub addrs: Vec<SocketAddr>,
    config: Config,
    /// The last one takes what is new; those before it drain.
    processes: Vec<Process>,
}

struct Process {
    plane: Plane<EdgePolicy>,
    workers: Vec<Option<Worker<Sim, EdgePolicy>>>,
    stats: Vec<Arc<Stats>>,
    edge_stats: Vec<Arc<EdgeStats>>,
    publication: u64,
    /// It does not run until then.
    stalled_until: Time,
}

pub fn snapshot(routes: &Arc<Routes>, hosts: &[HostState], settings: &Settings) -> Arc<Snapshot> {
    Arc::new(Snapshot {
        routes: Arc::clone(routes),
        hosts: hosts.to_vec(),
        certs: Certs::default(),
        settings: settings.clone(),
        cluster: None,
    })
}

impl Edge {
    pub fn new(net: &SimNet, addrs: Vec<SocketAddr>, config: Config) -> Edge {
        let sockets = addrs.iter().map(|&addr| net.bind(addr)).collect();
        Edge { net: net.clone(), sockets, addrs, config, processes: Vec::new() }
    }

    /// Starts a process beside those that drain.
    pub fn start(&mut self, first: Arc<Snapshot>, rng: &mut fastrand::Rng) {
        let count = self.addrs.len();
        let plane = Plane::new(count, first);
        let edge_stats: Vec<Arc<EdgeStats>> = (0..count).map(|_| Arc::default()).collect();
        let (tracer, meters) = (Arc::default(), Arc::new(EdgeMeters::new(64)));
        let workers = (0..count).map(|index| {
            let (tracer, meters) = (Arc::clone(&tracer), Arc::clone(&meters));
            let policy = EdgePolicy::new(Arc::clone(&edge_stats[index]), None, tracer, meters, rng.fork());
            let socket = self.sockets[index].duplicate();
            let worker = Worker::new(self.net.driver(), policy, plane.seat(index), &self.config, vec![socket]);
            Some(worker.expect("a simulated driver takes every listener"))
        });
        let workers = workers.collect();
        self.processes.push(Process {
            stats: plane.stats(),
            plane,
            workers,
            edge_stats,
            publication: 1,
            stalled_until: Time::ZERO,
        });
    }

    /// The process that takes what is new, or one that drains, does not run until then.
    pub fn stall(&mut self, until: Time, rng: &mut fastrand::Rng) {
        let Some(process) = rng.choice(&mut self.processes) else { return };
        process.stalled_until = until;
        for worker in process.workers.iter().flatten() {
            worker.driver().stall(until);
        }
    }

    /// As kill -9 does to all of it.
    pub fn kill(&mut self) {
        self.processes.clear();
    }

    pub fn is_up(&self) -> bool {
        !self.processes.is_empty()
    }

    /// A successor takes what is new; what was begun goes on.
    pub fn upgrade(&mut self, first: Arc<Snapshot>, rng: &mut fastrand::Rng) {
        self.drain();
        self.start(first, rng);
    }

    pub fn drain(&self) {
        if let Some(process) = self.processes.last() {
            assert!(process.plane.command(&Command::Drain { deadline: Duration::from_secs(600) }));
        }
    }

    pub fn publish(&mut self, snapshot: &Arc<Snapshot>) {
        for process in &mut self.processes {
            process.publication = process.plane.publish(Arc::clone(snapshot));
        }
    }

    /// Every worker runs by what was last published.
    pub fn is_settled(&self) -> bool {
        self.processes.iter().all(|process| process.plane.settled() >= process.publication)
    }

    pub fn step(&mut self, ledger: &mut Ledger) {
        let now = self.net.now();
        for process in self.processes.iter_mut().filter(|process| process.stalled_until <= now) {
            for slot in &mut process.workers {
                if let Some(worker) = slot
                    && !worker.turn(None).expect("a simulated driver does not fail")
                {
                    assert_eq!(worker.exchanges(), 0, "a drained worker forgot an exchange");
                    *slot = None;
                }
            }
        }
        self.processes.retain(|process| {
            let over = process.workers.iter().all(Option::is_none);
            if over {
                process.check_counters(ledger);
            }
            !over
        });
    }

    /// What must hold when nothing is under way.
    pub fn check_quiet(&self, ledger: &mut Ledger) {
        for process in &self.processes {
            for worker in process.workers.iter().flatten() {
                assert_eq!(worker.exchanges(), 0, "an edge has exchanges under way");
                assert_eq!(worker.held_bytes(), 0, "an edge holds octets");
            }
            process.check_counters(ledger);
        }
    }

    /// What must hold when every idle time-out has passed too.
    pub fn check_gone(&self) {
        for worker in self.processes.iter().flat_map(|process| process.workers.iter().flatten()) {
            assert_eq!(worker.connections(), 0, "an edge has connections: {worker:?}");
            assert_eq!(worker.upstreams(), 0, "an edge remembers upstreams without connections");
        }
    }
}

impl Process {
    fn check_counters(&self, ledger: &mut Ledger) {
        check_balanced(&self.stats);
        ledger.probes += self.edge_stats.iter().map(|stats| stats.probes.value()).sum::<u64>();
    }
}

/// Every request has one outcome, and nothing is open.
pub fn check_balanced(stats: &[Arc<Stats>]) {
    for stats in stats {
        assert_eq!(stats.exchanges_open.value(), 0, "open exchanges");
        assert_eq!(stats.parked_open.value(), 0, "parked requests");
        let requests = stats.requests_h1.value() + stats.requests_h2.value();
        let ended: u64 = stats.outcomes.iter().map(|cell| cell.value()).sum();
        assert_eq!(requests, ended, "each request has one outcome");
    }
}
