//! What a message costs once everything is warm: no allocation, and on io_uring one system call a wait.

mod common;

use common::{Bench, Family, MakeReal, Real, pattern};
use steady_heap::{Counting, of_thread};
use steady_ring::{ConnId, Driver, Epoll, Event, Piece, SendBuf, Uring};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CONNS: usize = 16;

/// Sends `rounds` messages from every client to its server and back, reusing the buffers that come back. `vectored`
/// sends the payload as a piece.
fn echo<D: Driver>(
    driver: &mut D,
    pairs: &[(ConnId, ConnId)],
    spare: &mut Vec<SendBuf>,
    events: &mut Vec<Event>,
    rounds: usize,
    vectored: bool,
) -> u64 {
    let message = [7u8; 700];
    let piece = Piece::from(message.to_vec());
    let fill = |mut buf: SendBuf, bytes: &[u8]| {
        buf.clear();
        if vectored {
            buf.splice(0, piece.part(0..bytes.len()));
        } else {
            buf.bytes.extend_from_slice(bytes);
        }
        buf
    };
    let before = of_thread().allocations;
    for _ in 0..rounds {
        for &(client, _) in pairs {
            let buf = spare.pop().expect("as many as can be under way");
            driver.send(client, fill(buf, &message));
        }
        let mut back = 0;
        let mut sent = 0;
        // A message of 700 octets arrives whole: it fits one segment and one buffer.
        while back < pairs.len() || sent < 2 * pairs.len() {
            driver.wait(None, events).unwrap();
            for event in events.drain(..) {
                match event {
                    Event::Received { conn, buf } if pairs.iter().any(|&(_, server)| server == conn) => {
                        assert_eq!(buf.len(), message.len());
                        let to_send = spare.pop().expect("as many as can be under way");
                        driver.send(conn, fill(to_send, &buf));
                    }
                    Event::Received { .. } => back += 1,
                    Event::Sent { buf, .. } => {
                        sent += 1;
                        spare.push(buf);
                    }
                    other => panic!("unexpected: {other:?}"),
                }
            }
        }
    }
    of_thread().allocations - before
}

fn measure<D: MakeReal>(family: Family, vectored: bool) -> (u64, u64, u64) {
    let mut bench = Bench::<Real<D>>::new();
    let pairs: Vec<_> = (0..CONNS).map(|_| bench.connection(family)).collect();
    let mut spare: Vec<SendBuf> = (0..2 * CONNS).map(|_| pattern(700, 1).into()).collect();
    let mut events = Vec::with_capacity(1_024);
    let driver = bench.driver();
    echo(driver, &pairs, &mut spare, &mut events, 50, vectored);
    let stats = driver.stats();
    let allocations = echo(driver, &pairs, &mut spare, &mut events, 200, vectored);
    let after = driver.stats();
    assert_eq!(after.sends - stats.sends, 200 * 2 * CONNS as u64);
    assert_eq!(after.received_bytes - stats.received_bytes, 200 * 2 * CONNS as u64 * 700);
    (allocations, after.syscalls - stats.syscalls, after.waits - stats.waits)
}

#[test]
fn on_io_uring_a_message_allocates_nothing_and_a_wait_is_one_system_call() {
    for family in [Family::Tcp, Family::Unix] {
        for vectored in [false, true] {
            let (allocations, syscalls, waits) = measure::<Uring>(family, vectored);
            assert_eq!(allocations, 0, "{family:?}, vectored {vectored}");
            // A signal cuts a wait short, which then takes a second call.
            assert!(syscalls <= waits + 10, "{family:?}, vectored {vectored}: {syscalls} calls in {waits} waits");
            // 6,400 messages: a batch carries many.
            assert!(waits <= 6_400 / 4, "{waits} waits");
        }
    }
}

#[test]
fn on_epoll_a_message_allocates_nothing() {
    for family in [Family::Tcp, Family::Unix] {
        for vectored in [false, true] {
            let (allocations, ..) = measure::<Epoll>(family, vectored);
            assert_eq!(allocations, 0, "{family:?}, vectored {vectored}");
        }
    }
}

#[test]
fn the_allocator_counts() {
    let before = of_thread().allocations;
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(of_thread().allocations, before + 1);
}
