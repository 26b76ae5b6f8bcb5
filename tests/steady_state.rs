//! What a request costs the workers once everything is warm, with the policies of edge and agent and their logs: no heap
//! allocation, and no system call but the one that waits for a batch. Counted in a process of its own.
//!
//! TLS is left out: rustls allocates a buffer for each record, inside.
#![allow(unsafe_code)]

mod house;
mod support;

use std::cell::Cell;

use house::{House, Setup, h2c};
use steady_heap::Counting;
use steady_proxy::log::BLOCKS_PER_WRITER;
use support::http::Conn;

thread_local! {
    static WORKER: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Workers are known by their name.
fn is_worker() -> bool {
    let known = WORKER.try_with(|known| {
        known.get().unwrap_or_else(|| {
            let mut name = [0u8; 16];
            // SAFETY: the kernel writes at most 16 octets to where we say.
            unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
            let worker = name.starts_with(b"worker-");
            known.set(Some(worker));
            worker
        })
    });
    known.unwrap_or(false)
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CLIENTS: usize = 4;
const WARM: usize = 1_500;
const COUNTED: usize = 2_500;

/// No body, a small one, one that is more than a receive buffer.
fn size(number: usize) -> usize {
    [0, 600, 0, 20_000][number % 4]
}

/// What browsers send.
fn h1(conns: Vec<Conn>, requests: usize) -> Vec<Conn> {
    let one = |conn: &mut Conn, number: usize| {
        let fields = [
            ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
            ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
            ("Cookie", "session=8f14e45fceea167a5a36dedd4bea2543"),
        ];
        let body = vec![b'x'; size(number)];
        let method = if body.is_empty() { "GET" } else { "POST" };
        let reply = conn.request(method, "echo.localhost", &format!("/page/{number}"), &fields, &body).unwrap();
        assert_eq!(reply.status, 200);
    };
    let clients: Vec<_> = conns
        .into_iter()
        .map(|mut conn| {
            std::thread::spawn(move || {
                for number in 0..requests {
                    one(&mut conn, number);
                }
                conn
            })
        })
        .collect();
    clients.into_iter().map(|client| client.join().unwrap()).collect()
}

/// The same number of requests over one connection, as many at a time.
async fn h2(conn: &h2c::H2c, requests: usize) {
    let stream = |_| async {
        for number in 0..requests {
            let body = vec![b'x'; size(number)];
            let (status, _) = conn.ask("POST", "echo.localhost", "/page", &body).await.unwrap();
            assert_eq!(status, 200);
        }
    };
    futures_util::future::join_all((0..CLIENTS).map(stream)).await;
}

/// Does the work and checks what it cost all workers.
fn check<T>(house: &House, what: &str, is_uring: bool, work: impl FnOnce() -> T) -> T {
    let driver = |name| house.count(name) + house.agents[0].count(name);
    let (syscalls, waits) = (driver("syscalls_total"), driver("batches_total"));
    let (done, allocations, first) = steady_heap::watch(is_worker, work);
    let (syscalls, waits) = (driver("syscalls_total") - syscalls, driver("batches_total") - waits);
    let total = (CLIENTS * COUNTED) as u64;
    println!("{what}: {allocations} allocations, {syscalls} system calls, {waits} waits, {total} requests");
    // A handful: each of the buffers in use grows, by doubling, to the size of the largest batch that it has met so far. And while
    // a log's thread has no processor its worker makes blocks, as many as it may have; the edge has one and the agent.
    let blocks = 2 * BLOCKS_PER_WRITER as u64;
    assert!(
        allocations <= total / 500 + blocks,
        "{what}: {allocations} allocations for {total} requests; the first:\n{first}"
    );
    // Both are written at a batch's end, one after the other: a look between the two sees one more of the first.
    assert!(!is_uring || syscalls.abs_diff(waits) <= 2, "{what}: {syscalls} system calls, {waits} waits");
    done
}

fn the_allocator_counts() {
    for (name, is_counted) in [("worker-9", true), ("another", false)] {
        let allocate = || {
            let thread = std::thread::Builder::new().name(name.to_owned());
            thread.spawn(|| drop(std::hint::black_box(Box::new(1)))).unwrap().join().unwrap();
        };
        let ((), allocations, _) = steady_heap::watch(is_worker, allocate);
        assert_eq!(allocations > 0, is_counted, "{name}");
    }
}

/// One test, so that nothing else runs while it counts.
#[test]
fn a_request_allocates_nothing_and_makes_no_system_call_of_its_own() {
    the_allocator_counts();
    for uring in [true, false] {
        let driver = if uring { "io_uring" } else { "epoll" };
        let house = House::with_echo(Setup { uring, logs: true, ..Setup::default() });
        let conns = (0..CLIENTS).map(|_| Conn::open(house.plain)).collect();
        let conns = h1(conns, WARM);
        drop(check(&house, &format!("HTTP/1.1 on {driver}"), uring, || h1(conns, COUNTED)));
        let runtime = h2c::runtime();
        let conn = runtime.block_on(async {
            let conn = h2c::H2c::open(house.plain).await;
            h2(&conn, WARM).await;
            conn
        });
        check(&house, &format!("HTTP/2 on {driver}"), uring, || runtime.block_on(h2(&conn, COUNTED)));
    }
}
