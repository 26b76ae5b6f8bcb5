//! What TLS costs in heap: an idle connection, and a small record in each direction. One test, for the counter is global.

mod support;

use rustls::version::{TLS12, TLS13};
use steady_heap::{Counting, of_thread};
use steady_proxy::tls::Tls;
use support::{ALPN, Ours, Peer, Trust, settle, uncut};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn calls(work: impl FnOnce()) -> u64 {
    let before = of_thread();
    work();
    (of_thread() - before).allocations
}

const RECORDS: u64 = 100;

/// rustls' own: the Vec that a decrypted record is handed out in, the Vec that an encrypted one is built in, and a chunk
/// queue that it lets go and makes again. Measured; a rise is ours, a fall is to be celebrated.
const RECEIVE_CALLS_MAX: u64 = 1;
const SEND_CALLS_MAX: u64 = 1;

/// Heap of an idle connection, as counted by the Rust allocator (the keys inside aws-lc are not).
const IDLE_OCTETS_MAX: i64 = 2_400;

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
            let before = of_thread().octets;
            let tls = std::mem::replace(&mut ours.tls, Tls::server(server.clone()));
            drop(tls);
            idle += before - of_thread().octets;
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
        assert!(idle + size_of::<Tls>() as i64 <= IDLE_OCTETS_MAX, "{idle}");
    }
}
