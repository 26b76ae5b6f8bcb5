//! What goes from one driver to another: a listening socket that both accept from, as two processes do while one takes over from
//! the other, and a connection that one of them gives away.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use steady_ring::{Config, ConnId, Driver, Epoll, Event, ListenerId, SendBuf, Time, Uring};

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

/// The kernel tells one of those who wait of a connection. If that one stops listening before it looked, nobody else is told: it
/// takes what is there itself.
fn leaves_nobody_behind<A, B>(first: A, second: impl FnOnce() -> B)
where
    A: Driver<Socket = OwnedFd>,
    B: Driver<Socket = OwnedFd>,
{
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut first = Side::new(first, &socket);
    first.look();
    let mut second = Side::new(second(), &socket);
    second.look();
    let all = clients(socket.local_addr().unwrap(), 5);
    first.driver.stop_listening(first.listener);
    while !first.closed || first.accepted.len() + second.accepted.len() < all.len() {
        if !first.closed {
            first.look();
        }
        second.look();
    }
}

#[test]
fn a_driver_that_stops_listening_leaves_nobody_behind() {
    leaves_nobody_behind(epoll(), epoll);
    if steady_ring::choose(steady_ring::Choice::Uring, 1).is_err() {
        eprintln!("SKIPPED: this machine has no io_uring");
        return;
    }
    leaves_nobody_behind(uring(), uring);
    leaves_nobody_behind(uring(), epoll);
    leaves_nobody_behind(epoll(), uring);
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
    if steady_ring::choose(steady_ring::Choice::Uring, 1).is_err() {
        eprintln!("SKIPPED: this machine has no io_uring");
        return;
    }
    hands_over(uring(), uring);
    hands_over(uring(), epoll);
    hands_over(epoll(), uring);
}

#[test]
fn a_ring_sleeps_on_a_listener_that_does_not_block() {
    if steady_ring::choose(steady_ring::Choice::Uring, 1).is_err() {
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

/// A connection that one driver accepted is served by another one, of any kind: what came before and what comes after.
fn changes_hands<A, B>(mut first: A, mut second: B)
where
    A: Driver<Socket = OwnedFd>,
    B: Driver<Socket = OwnedFd>,
{
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    first.listen(socket.into()).unwrap();
    let mut client = TcpStream::connect(addr).unwrap();
    client.write_all(b"before ").unwrap();
    let (mut received, mut given, mut events) = (Vec::new(), None, Vec::new());
    while given.is_none() {
        first.wait(None, &mut events).unwrap();
        for event in events.drain(..) {
            match event {
                Event::Received { conn, buf } => {
                    received.extend_from_slice(&buf);
                    first.release(conn);
                }
                Event::Released { conn } => given = first.take(conn),
                _ => {}
            }
        }
    }
    client.write_all(b"after").unwrap();
    let conn = second.adopt(given.unwrap()).unwrap();
    while received.len() < b"before after".len() {
        second.wait(None, &mut events).unwrap();
        for event in events.drain(..) {
            if let Event::Received { buf, .. } = event {
                received.extend_from_slice(&buf);
            }
        }
    }
    assert_eq!(received, b"before after");
    second.send(conn, SendBuf::from(b"answer".to_vec()));
    second.wait(None, &mut events).unwrap();
    let mut answer = [0; 6];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
}

#[test]
fn a_connection_changes_hands_between_any_two_drivers() {
    changes_hands(epoll(), epoll());
    if steady_ring::choose(steady_ring::Choice::Uring, 1).is_err() {
        eprintln!("SKIPPED: this machine has no io_uring");
        return;
    }
    changes_hands(uring(), uring());
    changes_hands(uring(), epoll());
    changes_hands(epoll(), uring());
}
