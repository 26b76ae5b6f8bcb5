//! The real drivers against peers that are not ours: the standard library's blocking sockets, each in a thread.

mod common;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::{MakeReal, pattern};
use steady_ring::{Config, ConnId, Epoll, Event, Piece, SendBuf, Uring};

/// Serves echoes until `stop` says that all clients are done and every connection is closed.
struct EchoServer<D> {
    driver: D,
    conns: HashMap<ConnId, Echo>,
}

#[derive(Default)]
struct Echo {
    waiting: SendBuf,
    sending: bool,
    ended: bool,
    closing: bool,
}

impl<D: MakeReal> EchoServer<D> {
    fn serve(&mut self, clients_left: &AtomicUsize) {
        let mut events = Vec::new();
        while clients_left.load(Ordering::SeqCst) > 0 || !self.conns.is_empty() {
            self.driver.wait(None, &mut events).unwrap();
            for event in events.drain(..) {
                self.handle(event);
            }
            self.answer();
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Accepted { conn, .. } => drop(self.conns.insert(conn, Echo::default())),
            Event::Received { conn, buf } => {
                let echo = self.conns.get_mut(&conn).unwrap();
                // What outlives the batch is kept where that may be, else copied out.
                echo.waiting.splice(0, buf.keep(&buf).unwrap_or_else(|| Piece::from(buf.to_vec())));
                if echo.waiting.len() > 8 * 1024 {
                    self.driver.pause(conn);
                }
            }
            Event::Sent { conn, .. } => {
                self.conns.get_mut(&conn).unwrap().sending = false;
                self.driver.resume(conn);
            }
            Event::EndOfStream { conn } => self.conns.get_mut(&conn).unwrap().ended = true,
            Event::Failed { conn, .. } => {
                self.conns.get_mut(&conn).unwrap().closing = true;
                self.driver.close(conn);
            }
            Event::Closed { conn } => drop(self.conns.remove(&conn)),
            _ => {}
        }
    }

    fn answer(&mut self) {
        for (&conn, echo) in self.conns.iter_mut().filter(|(_, echo)| !echo.sending && !echo.closing) {
            if !echo.waiting.is_empty() {
                echo.sending = true;
                let waiting = std::mem::take(&mut echo.waiting);
                self.driver.send(conn, waiting);
            } else if echo.ended {
                echo.closing = true;
                self.driver.close(conn);
            }
        }
    }
}

trait Stream: Read + Write + Sized {
    fn duplicate(&self) -> Self;
    fn end(&self);
    fn limit(&self);
}

impl Stream for TcpStream {
    fn duplicate(&self) -> Self {
        self.try_clone().unwrap()
    }
    fn end(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
    fn limit(&self) {
        self.set_read_timeout(Some(common::PATIENCE)).unwrap();
    }
}

impl Stream for UnixStream {
    fn duplicate(&self) -> Self {
        self.try_clone().unwrap()
    }
    fn end(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
    fn limit(&self) {
        self.set_read_timeout(Some(common::PATIENCE)).unwrap();
    }
}

/// One client: several connections, of every way to behave.
fn client<S: Stream + Send + 'static>(seed: u64, connect: impl Fn() -> S) {
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..8 {
        let mut stream = connect();
        stream.limit();
        match rng.u8(0..4) {
            // Gone at once, or with the answer unread: a reset.
            0 => {}
            1 => {
                stream.write_all(&pattern(100_000, 1)).unwrap();
                let mut some = [0; 10];
                stream.read_exact(&mut some).unwrap();
            }
            // Everything, both ways at once, ended by us.
            _ => {
                let message = pattern(rng.usize(1..600_000), seed);
                let mut writer = stream.duplicate();
                let to_write = message.clone();
                let writing = thread::spawn(move || {
                    for piece in to_write.chunks(7_001) {
                        writer.write_all(piece).unwrap();
                    }
                    writer.end();
                });
                let mut back = Vec::new();
                stream.read_to_end(&mut back).unwrap();
                writing.join().unwrap();
                assert!(back == message, "the echo differs: {} of {} octets", back.len(), message.len());
            }
        }
    }
}

fn blocking_peers_get_their_echo_whatever_they_do<D: MakeReal>(config: Config) {
    const CLIENTS: usize = 6;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("echo.sock");
    let tcp = steady_ring::listen_tcp("127.0.0.1:0".parse().unwrap(), 64).unwrap();
    let addr = steady_sys::net::local_addr(&tcp).unwrap().to_tcp().unwrap();
    let unix = steady_ring::listen_unix(&path, 64).unwrap();
    let mut server = EchoServer { driver: D::make(config).unwrap(), conns: HashMap::new() };
    server.driver.listen(tcp).unwrap();
    server.driver.listen(unix).unwrap();
    let left = Arc::new(AtomicUsize::new(CLIENTS));
    let clients: Vec<_> = (0..CLIENTS as u64)
        .map(|seed| {
            let (left, path, waker) = (left.clone(), path.clone(), server.driver.waker());
            thread::spawn(move || {
                let result = std::panic::catch_unwind(|| match seed % 2 {
                    0 => client(seed, || TcpStream::connect(addr).unwrap()),
                    _ => client(seed, || UnixStream::connect(&path).unwrap()),
                });
                left.fetch_sub(1, Ordering::SeqCst);
                waker.wake();
                result.unwrap();
            })
        })
        .collect();
    server.serve(&left);
    clients.into_iter().for_each(|client| client.join().unwrap());
    // Whoever was quicker than the accept is still served.
    let until = server.driver.now() + Duration::from_millis(1);
    server.driver.wait(Some(until), &mut Vec::new()).unwrap();
}

#[test]
fn blocking_peers_get_their_echo_from_io_uring() {
    blocking_peers_get_their_echo_whatever_they_do::<Uring>(Config::default());
}

#[test]
fn blocking_peers_get_their_echo_from_io_uring_with_few_small_buffers_and_a_small_queue() {
    let config = Config { buffers: 4, buffer_bytes: 512, entries: 4, ..Config::default() };
    blocking_peers_get_their_echo_whatever_they_do::<Uring>(config);
}

#[test]
fn blocking_peers_get_their_echo_from_io_uring_as_an_older_kernel_has_it() {
    let config = Config { defer: false, ..Config::default() };
    assert!(!Uring::new(config).unwrap().is_deferred());
    blocking_peers_get_their_echo_whatever_they_do::<Uring>(config);
}

#[test]
fn blocking_peers_get_their_echo_from_epoll() {
    blocking_peers_get_their_echo_whatever_they_do::<Epoll>(Config::default());
}
