//! What every attack is measured by: the counter that names its answer, the good client beside it, and memory.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use steady_heap::of_process;

use crate::house::{House, Setup};
use crate::support::eventually;
use crate::support::http::Conn;

/// What an attack may cost in heap: edge, host, and the attackers themselves, which are in this process.
const GROWTH_MAX: i64 = 8 << 20;
/// Between two requests of the good client: less than any house gives a client to say something.
const PAUSE: Duration = Duration::from_millis(300);
/// Answers that the good client must get while an attack stands.
const ANSWERS: u64 = 20;

/// Memory is the process's, so one siege at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// A counter of the edge, or one value of its label.
pub type Counter = (&'static str, Option<&'static str>);

pub const fn limit(name: &'static str) -> Counter {
    ("limits_total", Some(name))
}

pub const fn refusal(name: &'static str) -> Counter {
    ("refusals_total", Some(name))
}

/// Attacks a house of one worker with each driver. One of `counters` must have counted by the end of the attack, and how often in
/// all is handed to `check`. What the attack returns is held while the good client shows that it is served.
pub fn withstand<T>(setup: impl Fn() -> Setup, counters: &[Counter], attack: impl Fn(&House) -> T) {
    withstand_within(GROWTH_MAX, setup, counters, attack);
}

/// As [`withstand`], where the attack may cost so many octets of heap.
pub fn withstand_within<T>(
    growth_max: i64,
    setup: impl Fn() -> Setup,
    counters: &[Counter],
    attack: impl Fn(&House) -> T,
) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for uring in [true, false] {
        let house = House::with_echo(Setup { uring, ..setup() });
        let good = Good::start(house.plain);
        good.is_served();
        let counted = || counters.iter().map(|counter| count(&house, *counter)).sum::<u64>();
        let (before, held) = (counted(), of_process().octets);
        good.most.store(held, Relaxed);
        let standing = attack(&house);
        eventually(&format!("one of {counters:?} counts"), || (counted() > before).then_some(()));
        good.is_served();
        let growth = good.most.load(Relaxed).max(of_process().octets) - held;
        println!("{counters:?}: {} times; {} KiB more held (io_uring: {uring})", counted() - before, growth / 1024);
        assert!(growth < growth_max, "{growth} octets more are held");
        drop(standing);
        eventually("the attackers' connections are gone", || (house.count("connections_open") == 1).then_some(()));
        good.stop();
    }
}

pub fn count(house: &House, (name, label): Counter) -> u64 {
    label.map_or_else(|| house.count(name), |label| house.count_of(name, label))
}

/// A client that asks one thing after the other, checks every answer, and looks at the memory meanwhile.
struct Good {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    most: Arc<AtomicI64>,
    client: JoinHandle<()>,
}

impl Good {
    fn start(addr: SocketAddr) -> Good {
        let (stop, answered, most) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::default());
        let (stopped, counter, peak) = (Arc::clone(&stop), Arc::clone(&answered), Arc::clone(&most));
        let client = std::thread::spawn(move || {
            let (mut conn, mut last) = (Conn::open(addr), Instant::now());
            for number in 0u64.. {
                let path = format!("/good/{number}");
                let (method, body) = if number % 2 == 0 { ("GET", "") } else { ("POST", "abc") };
                let reply = loop {
                    match conn.request(method, "echo.localhost", &path, &[], body.as_bytes()) {
                        Ok(reply) => break reply,
                        // It had no processor for so long that it was rightly taken for one that says nothing.
                        Err(_) if last.elapsed() > PAUSE => (conn, last) = (Conn::open(addr), Instant::now()),
                        Err(error) => panic!("the good client: {error}"),
                    }
                };
                last = Instant::now();
                let expected = if body.is_empty() {
                    format!("{method} {path} HTTP/1.1|0")
                } else {
                    format!("{method} {path} HTTP/1.1|3cba")
                };
                assert_eq!((reply.status, reply.text()), (200, expected));
                counter.fetch_add(1, Relaxed);
                AtomicI64::fetch_max(&peak, of_process().octets, Relaxed);
                if stopped.load(Relaxed) {
                    return;
                }
            }
        });
        Good { stop, answered, most, client }
    }

    fn is_served(&self) {
        let before = self.answered.load(Relaxed);
        eventually("the good client is served", || {
            assert!(!self.client.is_finished(), "the good client was not served well");
            (self.answered.load(Relaxed) >= before + ANSWERS).then_some(())
        });
    }

    fn stop(self) {
        self.stop.store(true, Relaxed);
        self.client.join().unwrap();
    }
}
