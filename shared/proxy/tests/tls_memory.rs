//! What TLS costs in heap: an idle connection, and a small record in each direction. One test, for the counter is global.
#![allow(unsafe_code, reason = "a counting allocator")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering::Relaxed};

use rustls::version::{TLS12, TLS13};
use steady_proxy::tls::Tls;
use support::{ALPN, Ours, Peer, Trust, settle, uncut};

struct Counting;

static COUNTING: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicUsize = AtomicUsize::new(0);
static LIVE: AtomicIsize = AtomicIsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTING.load(Relaxed) {
            CALLS.fetch_add(1, Relaxed);
        }
        LIVE.fetch_add(layout.size() as isize, Relaxed);
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as isize, Relaxed);
        // SAFETY: the caller's contract is the same.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn calls(work: impl FnOnce()) -> usize {
    CALLS.store(0, Relaxed);
    COUNTING.store(true, Relaxed);
    work();
    COUNTING.store(false, Relaxed);
    CALLS.load(Relaxed)
}

const RECORDS: usize = 100;

/// rustls' own: the Vec that a decrypted record is handed out in, the Vec that an encrypted one is built in, and a chunk
/// queue that it lets go and makes again. Measured; a rise is ours, a fall is to be celebrated.
const RECEIVE_CALLS_MAX: usize = 1;
const SEND_CALLS_MAX: usize = 1;

/// Heap of an idle connection, as counted by the Rust allocator (the keys inside aws-lc are not).
const IDLE_OCTETS_MAX: isize = 2_400;

#[test]
fn an_idle_connection_is_small_and_a_record_allocates_only_inside_rustls() {
    for version in [&TLS12, &TLS13] {
        let trust = Trust::new();
        let (server, client) = (trust.server(), trust.client_of(version, ALPN));
        let (mut ours, mut peer) = (Ours::server(server.clone()), Peer::client(client.clone()));
        settle(&mut ours, &mut peer, &mut uncut()).unwrap();

        peer.send(&[7; 200]);
        ours.receive(&peer.output()).unwrap();
        let mut wire = Vec::new();
        for _ in 0..RECORDS {
            peer.send(&[7; 200]);
            wire.push(peer.output());
        }
        let received = calls(|| {
            for record in &wire {
                ours.plain.clear();
                ours.receive(record).unwrap();
            }
        });
        ours.out.reserve(1000);
        let sent = calls(|| {
            for _ in 0..RECORDS {
                ours.out.clear();
                ours.tls.send(&[7; 200], &mut ours.out).unwrap();
            }
        });

        let mut connections: Vec<Tls> = Vec::with_capacity(20);
        let mut idle = 0;
        for _ in 0..20 {
            let (mut ours, mut peer) = (Ours::server(server.clone()), Peer::client(client.clone()));
            settle(&mut ours, &mut peer, &mut uncut()).unwrap();
            ours.plain = Vec::new();
            let before = LIVE.load(Relaxed);
            let tls = std::mem::replace(&mut ours.tls, Tls::server(server.clone()));
            drop(tls);
            idle += before - LIVE.load(Relaxed);
            connections.push(ours.tls);
        }
        let idle = idle / 20;
        println!(
            "{:?}: idle {idle} octets of heap + {} inline; per record: {} allocations received, {} sent",
            version.version,
            size_of::<Tls>(),
            received as f64 / RECORDS as f64,
            sent as f64 / RECORDS as f64
        );
        assert!(received <= RECEIVE_CALLS_MAX * RECORDS, "{received}");
        assert!(sent <= SEND_CALLS_MAX * RECORDS, "{sent}");
        assert!(idle + size_of::<Tls>() as isize <= IDLE_OCTETS_MAX, "{idle}");
    }
}
