//! A private port: TLS with a member's certificate, and plain HTTP to clients on the same machine.
//!
//! Which of the two a client speaks is told by its first octet. Handshakes run beside each other, bounded in number and
//! time, so that one that hangs delays nobody. [`serve`](crate::serve) answers those that it lets in.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::stream::{Accepted, Stranger, Stream, member_of};
use crate::{Member, Role};

/// Handshakes under way; further clients wait in the kernel's queue. Answers to clients that connect and say nothing.
pub const HANDSHAKES_MAX: usize = 256;
/// From the connection to the end of its handshake.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Connections with TLS and without a certificate: of hosts that join, and of operators with a token. Further ones are refused, so
/// that strangers take no descriptors from members.
pub const STRANGERS_MAX: usize = 256;
/// Silence after which a client is asked whether it is still there: one whose machine is gone holds its descriptor for twice as long.
const QUIET: Duration = Duration::from_secs(60);
/// An answer of which a stranger takes nothing for so long is cut, since it holds its place.
const TAKING_TIME: Duration = Duration::from_secs(60);
/// A pause after an accept that failed (no descriptors).
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// The first octet of a TLS connection: a handshake record.
const HANDSHAKE_RECORD: u8 = 22;

/// From whom plain HTTP is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plain {
    /// From clients whose address is a loopback one.
    Loopback,
    /// From everybody: there is no cluster.
    Anybody,
}

/// The certificate in use; `None`: there is none yet, and TLS is refused.
pub type Configs = watch::Receiver<Option<Arc<ServerConfig>>>;

/// Connections that were not let in.
#[derive(Debug, Default)]
pub struct Refused(AtomicU64);

impl Refused {
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Listener {
    ready: mpsc::Receiver<(Accepted, Peer)>,
    /// Ends when nothing that was taken is left unread.
    unread: mpsc::Receiver<Infallible>,
    accepting: tokio::task::JoinHandle<()>,
    refused: Arc<Refused>,
    closing: Closing,
}

/// Has a [`Listener`] take no more connections and hand out those that it took, for a process that leaves its port to another:
/// who was taken and is then let down would not know whether to ask again. A server that is told to end lets go of those of which
/// it has read nothing yet, so they are waited for too.
#[derive(Clone, Debug)]
pub struct Closing {
    asked: watch::Sender<bool>,
    emptied: watch::Sender<bool>,
}

impl Closing {
    /// Returns when every connection that was taken is handed out and has been read from, or has come to nothing. May take as long
    /// as the quietest of them.
    pub async fn close(&self) {
        self.asked.send_replace(true);
        // This holds a sender, so it cannot fail.
        let _ = self.emptied.subscribe().wait_for(|emptied| *emptied).await;
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub addr: SocketAddr,
    /// The connection is TLS.
    pub secure: bool,
    /// Whom its certificate is for, verified; `None` without one.
    pub member: Option<Member>,
}

impl Peer {
    /// Whether it has proved to be a member of this role.
    pub fn is(&self, role: Role) -> bool {
        self.member.as_ref().is_some_and(|member| member.role() == role)
    }

    /// Whether it comes over TLS and has shown no certificate.
    pub fn is_stranger(&self) -> bool {
        self.secure && self.member.is_none()
    }
}

impl Listener {
    /// Takes connections from a bound listener, on a task of this runtime.
    pub fn new(listener: TcpListener, configs: Configs, plain: Plain) -> io::Result<Listener> {
        steady_sys::net::set_keepalive(&listener, QUIET)?;
        let (sender, ready) = mpsc::channel(HANDSHAKES_MAX);
        let (mark, unread) = mpsc::channel(1);
        let refused = Arc::new(Refused::default());
        let closing = Closing { asked: watch::Sender::new(false), emptied: watch::Sender::new(false) };
        let mut asked = closing.asked.subscribe();
        let counted = Arc::clone(&refused);
        let accepting = tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = asked.wait_for(|asked| *asked) => {}
                () = accept(listener, configs, plain, (sender, mark), counted) => {}
            }
        });
        Ok(Listener { ready, unread, accepting, refused, closing })
    }

    /// How it is closed without letting anybody down.
    pub fn closing(&self) -> Closing {
        self.closing.clone()
    }

    /// The count of those that were not let in.
    pub fn refused(&self) -> Arc<Refused> {
        Arc::clone(&self.refused)
    }

    /// The next that is let in; none any more once it is closed. May be dropped while it waits.
    pub(crate) async fn accept(&mut self) -> (Accepted, Peer) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            None => {
                let None = self.unread.recv().await;
                self.closing.emptied.send_replace(true);
                std::future::pending().await
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    configs: Configs,
    plain: Plain,
    (ready, unread): (mpsc::Sender<(Accepted, Peer)>, mpsc::Sender<Infallible>),
    refused: Arc<Refused>,
) {
    let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, addr) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the private port cannot accept connections for now");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let (configs, ready, unread) = (configs.clone(), ready.clone(), unread.clone());
        let (refused, strangers) = (Arc::clone(&refused), Arc::clone(&strangers));
        tokio::spawn(async move {
            let why = match tokio::time::timeout(HANDSHAKE_TIME, greet(stream, addr, &configs, plain, strangers)).await
            {
                Ok(Ok((stream, peer))) => {
                    // A server that has ended takes no more.
                    let _ = ready.send((Accepted::new(stream, unread), peer)).await;
                    return;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "nothing was said in time".to_owned(),
            };
            refused.0.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%addr, why, "a connection to the private port is refused");
            drop(place);
        });
    }
}

async fn greet(
    stream: TcpStream,
    addr: SocketAddr,
    configs: &Configs,
    plain: Plain,
    strangers: Arc<Semaphore>,
) -> io::Result<(Stream, Peer)> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    stream.set_nodelay(true)?;
    if first[0] != HANDSHAKE_RECORD {
        if plain == Plain::Loopback && !addr.ip().to_canonical().is_loopback() {
            return Err(io::Error::other("plain HTTP is for clients on this machine; use TLS"));
        }
        return Ok((Stream::Plain(stream), Peer { addr, secure: false, member: None }));
    }
    let config = configs.borrow().clone();
    let config = config.ok_or_else(|| io::Error::other("there is no certificate yet"))?;
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let stream = Box::new(TlsStream::Server(stream));
    let member = member_of(&stream);
    let stream = if member.is_some() {
        Stream::Tls(stream)
    } else {
        let place = strangers.try_acquire_owned();
        let place = place.map_err(|_| io::Error::other("there are too many connections without a certificate"))?;
        Stream::Stranger(Box::new(Stranger::new(*stream, TAKING_TIME, place)))
    };
    Ok((stream, Peer { addr, secure: true, member }))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn listener_and_client() -> (Listener, TcpStream) {
        let bound = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = bound.local_addr().unwrap();
        let listener = Listener::new(bound, watch::channel(None).1, Plain::Loopback).unwrap();
        (listener, TcpStream::connect(addr).await.unwrap())
    }

    #[tokio::test]
    async fn a_port_is_closed_once_what_it_took_has_been_read() {
        let (mut listener, mut client) = listener_and_client().await;
        let closing = listener.closing();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let (mut stream, _) = listener.accept().await;
        tokio::spawn(async move { listener.accept().await });
        let closed = tokio::spawn(async move { closing.close().await });
        // As many turns of this thread's runtime as anything here needs.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!closed.is_finished(), "a server that is told to end now lets go of it unread");
        assert_eq!(stream.read(&mut [0; 3]).await.unwrap(), 3);
        closed.await.unwrap();
    }

    #[tokio::test]
    async fn who_leaves_unread_is_not_waited_for() {
        let (mut listener, mut client) = listener_and_client().await;
        let closing = listener.closing();
        client.write_all(b"GET").await.unwrap();
        let (stream, _) = listener.accept().await;
        tokio::spawn(async move { listener.accept().await });
        drop(stream);
        closing.close().await;
    }
}
