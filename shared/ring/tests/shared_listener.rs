//! One listening socket that two drivers accept from, as two processes do while one takes over from the other.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use steady_ring::{Config, ConnId, Driver, Epoll, Event, ListenerId, Time, Uring};

struct Side<D> {
    driver: D,
    listener: ListenerId,
    closed: bool,
    accepted: Vec<ConnId>,
}

impl<D: Driver<Socket = OwnedFd>> Side<D> {
    fn new(mut driver: D, socket: &TcpListener) -> Side<D> {
        let listener = driver.listen(socket.try_clone().unwrap().into()).unwrap();
        Side { driver, listener, closed: false, accepted: Vec::new() }
    }

    /// Collects what is there, waiting a little at most.
    fn look(&mut self) {
        let mut events = Vec::new();
        let until: Time = self.driver.now() + Duration::from_millis(1);
        self.driver.wait(Some(until), &mut events).unwrap();
        for event in events {
            match event {
                Event::Accepted { conn, .. } => self.accepted.push(conn),
                Event::ListenerClosed { .. } => self.closed = true,
                Event::AcceptFailed { error, .. } => panic!("{error}"),
                _ => {}
            }
        }
    }
}

fn clients(addr: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect(addr).unwrap()).collect()
}

/// The second driver joins the first, both accept, the first one leaves, the second one accepts the rest: every connection
/// is accepted by exactly one of them.
fn hands_over<A, B>(first: A, second: impl FnOnce() -> B)
where
    A: Driver<Socket = OwnedFd>,
    B: Driver<Socket = OwnedFd>,
{
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    let mut first = Side::new(first, &socket);
    let mut all = clients(addr, 3);
    while first.accepted.len() < 3 {
        first.look();
    }
    let mut second = Side::new(second(), &socket);
    for _ in 0..20 {
        all.extend(clients(addr, 3));
        while first.accepted.len() + second.accepted.len() < all.len() {
            first.look();
            second.look();
        }
        // With nothing to accept neither may hang, nor fail.
        first.look();
        second.look();
    }
    first.driver.stop_listening(first.listener);
    all.extend(clients(addr, 5));
    while !first.closed {
        first.look();
    }
    all.extend(clients(addr, 5));
    while first.accepted.len() + second.accepted.len() < all.len() {
        second.look();
    }
    assert_eq!(first.accepted.len() + second.accepted.len(), all.len());
    // Their ends close what they accepted.
    drop((first, second));
    for mut client in all {
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "closed by whoever accepted it");
    }
}

fn uring() -> Uring {
    Uring::new(Config::default()).unwrap()
}

fn epoll() -> Epoll {
    Epoll::new(Config::default()).unwrap()
}

#[test]
fn a_listener_goes_from_any_driver_to_any_other_without_losing_a_connection() {
    hands_over(epoll(), epoll);
    if steady_ring::choose(steady_ring::Choice::Uring).is_err() {
        eprintln!("SKIPPED: this machine has no io_uring");
        return;
    }
    hands_over(uring(), uring);
    hands_over(uring(), epoll);
    hands_over(epoll(), uring);
}

#[test]
fn a_ring_sleeps_on_a_listener_that_does_not_block() {
    if steady_ring::choose(steady_ring::Choice::Uring).is_err() {
        eprintln!("SKIPPED: this machine has no io_uring");
        return;
    }
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut side = Side::new(uring(), &socket);
    let before = side.driver.stats().syscalls;
    let until = side.driver.now() + Duration::from_millis(50);
    side.driver.wait(Some(until), &mut Vec::new()).unwrap();
    assert!(side.driver.stats().syscalls - before < 10, "it spins");
    let _client = TcpStream::connect(socket.local_addr().unwrap()).unwrap();
    while side.accepted.is_empty() {
        side.look();
    }
}
