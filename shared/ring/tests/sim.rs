//! The simulated network itself: that it repeats, that its faults happen, and that a harness can step several workers.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{Bench, Family, Lab, Simulated, pattern};
use steady_ring::{Addr, ConnId, Driver, Event, Faults, Op, Sim, SimNet, Time};

/// A worker that sends back what it receives, and closes what ended or failed.
struct Echo {
    driver: Sim,
    pending: std::collections::BTreeMap<ConnId, (Vec<u8>, bool, bool)>,
    accepted: usize,
}

impl Echo {
    fn new(net: &SimNet) -> Echo {
        Echo { driver: net.driver(), pending: Default::default(), accepted: 0 }
    }

    /// One turn; how many events it brought.
    fn turn(&mut self) -> usize {
        let mut events = Vec::new();
        self.driver.wait(None, &mut events).unwrap();
        let count = events.len();
        for event in events {
            match event {
                Event::Accepted { conn, .. } => {
                    self.accepted += 1;
                    self.pending.insert(conn, Default::default());
                }
                Event::Received { conn, buf } => self.pending.get_mut(&conn).unwrap().0.extend_from_slice(&buf),
                Event::Sent { conn, .. } => self.pending.get_mut(&conn).unwrap().1 = false,
                Event::EndOfStream { conn } => self.pending.get_mut(&conn).unwrap().2 = true,
                Event::Failed { conn, .. } => self.driver.close(conn),
                Event::Closed { conn } => drop(self.pending.remove(&conn)),
                _ => {}
            }
        }
        for (&conn, (bytes, sending, ended)) in &mut self.pending {
            if !*sending && !bytes.is_empty() {
                *sending = true;
                self.driver.send(conn, std::mem::take(bytes).into());
            } else if *ended && !*sending {
                self.driver.close(conn);
            }
        }
        count
    }
}

/// Three echo workers on one listener and a client that asks each connection for its echo: the outcome of each, and the
/// network.
fn history(seed: u64, faults: Faults) -> (Vec<&'static str>, SimNet, usize) {
    const CONNS: usize = 20;
    const LEN: usize = 3_000;
    let net = SimNet::new(seed, faults);
    let addr: Addr = "10.0.0.9:80".parse().unwrap();
    let socket = net.bind(addr.clone());
    let mut workers: Vec<Echo> = (0..3).map(|_| Echo::new(&net)).collect();
    for worker in &mut workers {
        worker.driver.listen(socket.duplicate()).unwrap();
    }
    drop(socket);
    let mut client = net.driver();
    let conns: Vec<_> = (0..CONNS).map(|_| client.connect(&addr)).collect();
    let mut outcome = vec![""; CONNS];
    let mut received = vec![Vec::new(); CONNS];
    while outcome.contains(&"") {
        assert!(net.now() < Time::ZERO + Duration::from_secs(3_600), "it hangs: {outcome:?}");
        let mut quiet = workers.iter_mut().map(Echo::turn).sum::<usize>() == 0;
        let mut events = Vec::new();
        client.wait(None, &mut events).unwrap();
        quiet &= events.is_empty();
        for event in events {
            let of = |conn: ConnId| conns.iter().position(|&other| other == conn).unwrap();
            match event {
                Event::Connected { conn } => client.send(conn, pattern(LEN, of(conn) as u64).into()),
                Event::Received { conn, buf } => {
                    received[of(conn)].extend_from_slice(&buf);
                    if received[of(conn)].len() == LEN {
                        assert!(received[of(conn)] == pattern(LEN, of(conn) as u64));
                        outcome[of(conn)] = "echoed";
                        client.close(conn);
                    }
                }
                Event::Failed { conn, op, .. } => {
                    outcome[of(conn)] = if op == Op::Connect { "not connected" } else { "reset" };
                    client.close(conn);
                }
                Event::EndOfStream { conn } => {
                    outcome[of(conn)] = "ended";
                    client.close(conn);
                }
                _ => {}
            }
        }
        if quiet && !net.runnable() {
            assert!(net.advance_to_next(), "nothing will ever happen again: {outcome:?}");
        }
    }
    let busy = workers.iter().filter(|worker| worker.accepted > 0).count();
    drop((workers, client));
    (outcome, net, busy)
}

#[test]
fn the_same_seed_gives_the_same_history_and_another_seed_another() {
    let mut fingerprints = BTreeSet::new();
    for seed in 0..20 {
        let (one, other) = (history(seed, Faults::harsh()), history(seed, Faults::harsh()));
        assert_eq!(one.0, other.0);
        assert_eq!(one.1.fingerprint(), other.1.fingerprint());
        fingerprints.insert(one.1.fingerprint());
    }
    assert_eq!(fingerprints.len(), 20);
}

#[test]
fn a_rough_network_loses_nothing_and_spreads_connections_over_the_workers() {
    for seed in 0..50 {
        let (outcome, net, busy) = history(seed, Faults::rough());
        assert!(outcome.iter().all(|outcome| *outcome == "echoed"), "seed {seed}: {outcome:?}");
        assert!(busy > 1, "seed {seed}: one worker took all");
        net.advance(net.now() + Duration::from_secs(60));
        assert_eq!(net.open_connections(), 0, "seed {seed}: ends are left over");
    }
}

#[test]
fn a_harsh_network_brings_every_failure_and_leaves_nothing_behind() {
    let mut met = BTreeSet::new();
    for seed in 0..50 {
        let (outcome, net, _) = history(seed, Faults::harsh());
        met.extend(outcome);
        net.advance(net.now() + Duration::from_secs(60));
        assert_eq!(net.open_connections(), 0, "seed {seed}: ends are left over");
    }
    assert_eq!(met.into_iter().collect::<Vec<_>>(), ["echoed", "not connected", "reset"]);
}

#[test]
fn a_connect_that_is_never_answered_fails_when_its_time_is_up() {
    let faults = Faults { connect_lost_per_million: 1_000_000, ..Faults::none() };
    let timeout = faults.connect_timeout;
    let mut bench = Bench::of(Simulated::with(1, faults));
    let (_socket, addr) = bench.lab.bind(Family::Tcp);
    let start = bench.driver().now();
    let conn = bench.connect(&addr);
    bench.until(|bench| bench.of_conn(conn).failed == [Op::Connect]);
    assert_eq!(bench.driver().now(), start + timeout);
    bench.close(&[conn]);
}

#[test]
fn a_waiting_node_is_stepped_at_its_deadline_and_not_before() {
    let net = SimNet::new(1, Faults::none());
    let mut driver = net.driver();
    let until = net.now() + Duration::from_millis(5);
    driver.wait(Some(until), &mut Vec::new()).unwrap();
    assert!(!net.runnable());
    assert_eq!(net.next_event_at(), Some(until));
    assert!(net.advance_to_next());
    assert!(net.runnable());
    driver.wait(None, &mut Vec::new()).unwrap();
    assert_eq!(net.next_event_at(), None);
    assert!(!net.advance_to_next());
}

#[test]
fn accepting_rests_and_resumes_when_descriptors_run_out() {
    let faults = Faults { accept_fail_per_million: 700_000, ..Faults::none() };
    let mut bench = Bench::of(Simulated::with(3, faults));
    let (socket, addr) = bench.lab.bind(Family::Tcp);
    let listener = bench.driver().listen(socket).unwrap();
    for _ in 0..10 {
        bench.connect_to(listener, &addr);
    }
    assert!(bench.accept_failures > 0);
}
