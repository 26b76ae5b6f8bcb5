//! The routing table is swapped under load: no request is lost, no tunnel cut, no worker passed over.

mod house;
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use house::{House, Setup, h2c, placed};
use steady_table::{App, Change};
use support::http::Conn;
use support::websocket::WebSocket;
use support::{eventually, long};

const H1_CLIENTS: usize = 4;
const H2_STREAMS: usize = 8;
const TUNNELS: usize = 4;
const WORKERS: usize = 2;

/// Clients that ask until they are told to stop, and check every answer.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Vec<Arc<AtomicU64>>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(addr: SocketAddr) -> Load {
        let mut load = Load { stop: Arc::default(), answered: Vec::new(), clients: Vec::new() };
        for client in 0..H1_CLIENTS {
            load.spawn(move |stop, answered| h1_client(addr, client, stop, answered));
        }
        load.spawn(move |stop, answered| h2c_client(addr, stop, answered));
        load
    }

    fn spawn(&mut self, run: impl FnOnce(&AtomicBool, &AtomicU64) + Send + 'static) {
        let (stop, answered) = (Arc::clone(&self.stop), Arc::new(AtomicU64::new(0)));
        self.answered.push(Arc::clone(&answered));
        self.clients.push(std::thread::spawn(move || run(&stop, &answered)));
    }

    /// Waits until every client has had another answer.
    fn advance(&self) {
        let before: Vec<u64> = self.answered.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        eventually("every client goes on", || {
            let all = self.answered.iter().zip(&before).all(|(now, before)| now.load(Ordering::Relaxed) > *before);
            all.then_some(())
        });
    }

    fn total(&self) -> u64 {
        self.answered.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Every answer was right, or this panics with the first that was not.
    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().unwrap();
        }
    }
}

fn expected(method: &str, path: &str, body: &str) -> Vec<u8> {
    let reversed: String = body.chars().rev().collect();
    format!("{method} {path} HTTP/1.1|{}{reversed}", body.len()).into_bytes()
}

fn h1_client(addr: SocketAddr, client: usize, stop: &AtomicBool, answered: &AtomicU64) {
    let mut conn = Conn::open(addr);
    for number in 0.. {
        let (path, body) = (format!("/h1/{client}/{number}"), format!("body {client} {number}"));
        let (method, body) = if number % 2 == 0 { ("GET", "") } else { ("POST", body.as_str()) };
        let reply = conn.request(method, "echo.localhost", &path, &[], body.as_bytes()).unwrap();
        assert_eq!((reply.status, &reply.body), (200, &expected(method, &path, body)), "{reply:?}");
        answered.fetch_add(1, Ordering::Relaxed);
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

fn h2c_client(addr: SocketAddr, stop: &AtomicBool, answered: &AtomicU64) {
    h2c::runtime().block_on(async {
        let conn = h2c::H2c::open(addr).await;
        let stream = |at: usize| {
            let conn = conn.clone();
            async move {
                for number in 0.. {
                    let (path, body) = (format!("/h2/{at}/{number}"), format!("stream {at}, {number}"));
                    let answer = conn.ask("POST", "echo.localhost", &path, body.as_bytes()).await.unwrap();
                    assert_eq!(answer, (200, expected("POST", &path, &body)));
                    answered.fetch_add(1, Ordering::Relaxed);
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }
        };
        futures_util::future::join_all((0..H2_STREAMS).map(stream)).await;
    });
}

/// A table of `size` applications. `echo` is on another host in every other one.
fn apps(size: u32, revision: u64) -> impl Iterator<Item = App> {
    let echo = placed("echo", (revision % 2) as u32, revision);
    let others = (1..size).map(move |at| placed(&format!("app-{at}"), at % 2, revision));
    std::iter::once(echo).chain(others)
}

/// Swaps tables of this size, one after the other, with requests and tunnels under way. Each moves `echo` to the other host;
/// every so many are written anew as a whole, the others as a change.
fn swap(house: &House, size: u32, swaps: u64, whole_every: u64) {
    for agent in &house.agents {
        // Ahead of every table: an owner that knows a later generation serves.
        agent.set(house.ready("echo", swaps + 1));
    }
    let build = |revision| Arc::new(house.build_table(house.contents(apps(size, revision))));
    let mut routes = build(1);
    house.publish(Arc::clone(&routes));
    let mut tunnels: Vec<_> =
        (0..TUNNELS).map(|_| WebSocket::open(house.plain, "echo.localhost", "/websocket")).collect();
    let load = Load::start(house.plain);
    load.advance();
    let taken = house.count("snapshots_total");
    let mut longest = Duration::ZERO;
    for revision in 2..=swaps + 1 {
        routes = if revision % whole_every == 0 {
            build(revision)
        } else {
            let echo = placed("echo", (revision % 2) as u32, revision);
            Arc::new(house.change_table(&routes, &[Change::Put(echo)]))
        };
        let begun = Instant::now();
        house.publish(Arc::clone(&routes));
        longest = longest.max(begun.elapsed());
        if revision % (swaps / 10).max(1) == 0 {
            load.advance();
            for (at, tunnel) in tunnels.iter_mut().enumerate() {
                tunnel.echo(&format!("tunnel {at} at {revision}"));
            }
        }
    }
    load.advance();
    for tunnel in &mut tunnels {
        tunnel.echo("still here");
    }
    println!("{} requests answered during {swaps} swaps of {size} entries; longest swap {longest:?}", load.total());
    load.stop();
    // Every worker took every table, and no request ever waited for one or was sent twice.
    assert_eq!(house.count("snapshots_total") - taken, swaps * WORKERS as u64);
    assert_eq!(house.count("parked_total"), 0);
    assert_eq!(house.count("retries_total"), 0);
    assert_eq!(house.count_of("responses_total", "5xx"), 0);
    assert_eq!(house.agents.iter().map(|agent| agent.count("parked_total")).sum::<u64>(), 0);
    assert_eq!(house.count("tunnels_total"), TUNNELS as u64);
}

fn house(uring: bool) -> House {
    House::build(Setup { uring, workers: WORKERS, agents: 2, ..Setup::default() })
}

#[test]
fn a_thousand_swaps_of_a_table_of_ten_thousand_lose_no_request_and_cut_no_tunnel() {
    for uring in [true, false] {
        swap(&house(uring), 10_000, 1000, if long() { 1 } else { 50 });
    }
}

#[test]
fn twenty_swaps_of_a_table_of_a_million_lose_no_request_and_cut_no_tunnel() {
    if !long() {
        return eprintln!("skipped: STEADY_LONG is not set (.ci/long)");
    }
    for uring in [true, false] {
        swap(&house(uring), 1_000_000, 20, 1);
    }
}
