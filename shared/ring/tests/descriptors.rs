//! What a process can run out of. One test in a binary of its own, because it counts and limits the descriptors of
//! the whole process.

mod common;

use std::os::fd::AsRawFd;
use std::time::Duration;

use common::{Bench, Family, Lab, MakeReal, Real};
use steady_ring::{Epoll, Op, Uring};
use steady_sys::limits;

fn open_descriptors() -> usize {
    // Less the one that reads the directory.
    std::fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

/// Connections opened and closed over and over leave no descriptor behind; nor does the driver.
fn nothing_leaks<D: MakeReal>(name: &str) {
    let before = open_descriptors();
    {
        let mut bench = Bench::<Real<D>>::new();
        let (socket, addr) = bench.lab.bind(Family::Tcp);
        let listener = bench.driver().listen(socket).unwrap();
        let (client, server) = bench.connect_to(listener, &addr);
        bench.close(&[client, server]);
        let idle = open_descriptors();
        for _ in 0..10 {
            let first = bench.accepted.len();
            let clients: Vec<_> = (0..100).map(|_| bench.connect(&addr)).collect();
            bench.until(|bench| bench.accepted.len() == first + 100);
            let servers: Vec<_> = bench.accepted[first..].iter().map(|&(_, conn)| conn).collect();
            assert!(open_descriptors() >= idle + 200, "{name}: the count sees what is open");
            bench.close(&[clients, servers].concat());
            assert_eq!(open_descriptors(), idle, "{name}: connections leak");
        }
        // Left open, for the drop to close.
        bench.connect_to(listener, &addr);
    }
    assert_eq!(open_descriptors(), before, "{name}: the driver leaks");
}

/// With no descriptor left, accepting fails, rests, and resumes by itself; connecting fails and can be tried again.
fn accepting_survives_running_out<D: MakeReal>(name: &str) {
    let (soft, _) = limits::descriptors().unwrap();
    let mut bench = Bench::<Real<D>>::new();
    let (socket, addr) = bench.lab.bind(Family::Tcp);
    // Room for three more: both ends of the first connection and the connecting end of the second. Set before
    // listening, because the kernel keeps the limit that it saw when a multishot accept began.
    let spare: Vec<_> = (0..3).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
    let limit = spare.iter().map(|file| file.as_raw_fd() as u64 + 1).max().unwrap();
    drop(spare);
    limits::set_descriptors(limit).unwrap();
    bench.driver().listen(socket).unwrap();
    let first = bench.connect(&addr);
    bench.until(|bench| bench.accepted.len() == 1);
    let second = bench.connect(&addr);
    bench.until(|bench| bench.accept_failures > 0);
    let third = bench.connect(&addr);
    bench.until(|bench| bench.of_conn(third).failed == [Op::Connect]);
    assert_eq!(bench.accepted.len(), 1);
    limits::set_descriptors(soft).unwrap();
    bench.until(|bench| bench.accepted.len() == 2);
    assert!(bench.driver().stats().accept_failed > 0, "{name}");
    let servers: Vec<_> = bench.accepted.iter().map(|&(_, conn)| conn).collect();
    bench.close(&[servers, vec![first, second, third]].concat());
    bench.settle(Duration::from_millis(1));
}

#[test]
fn descriptors_neither_leak_nor_stop_a_driver_for_good() {
    nothing_leaks::<Uring>("uring");
    nothing_leaks::<Epoll>("epoll");
    accepting_survives_running_out::<Uring>("uring");
    accepting_survives_running_out::<Epoll>("epoll");
}
