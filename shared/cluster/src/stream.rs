//! A connection of a control side: TLS, or plain TCP where that is allowed.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Sleep;
use tokio_rustls::TlsStream;

use crate::Member;

/// See the module.
#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// TLS with one who showed no certificate.
    Stranger(Box<Stranger<TlsStream<TcpStream>>>),
}

/// A connection that has one of a bounded number of places. It ends if its peer takes nothing of what is sent for too long; that the
/// peer asks for something, [`serve`](crate::serve) sees to.
#[derive(Debug)]
pub struct Stranger<S> {
    stream: S,
    patience: Duration,
    /// While what is sent waits.
    stalled: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl<S> Stranger<S> {
    pub(crate) fn new(stream: S, patience: Duration, place: OwnedSemaphorePermit) -> Stranger<S> {
        Stranger { stream, patience, stalled: None, _place: place }
    }

    /// `sent`, or an error once it has been pending for too long.
    fn in_time<T>(&mut self, cx: &mut Context<'_>, sent: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if sent.is_ready() {
            self.stalled = None;
            return sent;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stranger<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stranger<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.in_time(cx, sent)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.stream).poll_flush(cx);
        self.in_time(cx, sent)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.in_time(cx, sent)
    }
}

impl Stream {
    /// Whom the other end's certificate is for, as the handshake verified it; `None` without one.
    pub fn member(&self) -> Option<Member> {
        let Stream::Tls(stream) = self else { return None };
        member_of(stream)
    }
}

pub(crate) fn member_of(stream: &TlsStream<TcpStream>) -> Option<Member> {
    stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).and_then(Member::of)
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Stranger(stranger) => Pin::new(stranger).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Stranger(stranger) => Pin::new(stranger).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Stranger(stranger) => Pin::new(stranger).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Stranger(stranger) => Pin::new(stranger).poll_shutdown(cx),
        }
    }
}

/// A connection that a listener has taken. Whether its server has begun to read it can be waited for.
#[derive(Debug)]
pub struct Accepted {
    stream: Stream,
    /// Until its first octets are read: whoever waits has the other end of the channel.
    unread: Option<mpsc::Sender<Infallible>>,
}

impl Accepted {
    pub(crate) fn new(stream: Stream, unread: mpsc::Sender<Infallible>) -> Accepted {
        Accepted { stream, unread: Some(unread) }
    }
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.unread = self.unread.take().filter(|_| read.is_pending());
        read
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stranger_who_takes_nothing_of_its_answer_is_let_go_of_and_one_who_takes_it_slowly_is_not() {
        const PATIENCE: Duration = Duration::from_secs(60);
        let places = Arc::new(Semaphore::new(1));
        let (mut client, server) = tokio::io::duplex(1);
        let mut stranger = Stranger::new(server, PATIENCE, Arc::clone(&places).try_acquire_owned().unwrap());
        let slow = tokio::spawn(async move {
            let mut taken = [0; 3];
            for octet in taken.chunks_mut(1) {
                tokio::time::sleep(PATIENCE * 2 / 3).await;
                client.read_exact(octet).await.unwrap();
            }
            (client, taken)
        });
        // One more than is taken: it has room.
        stranger.write_all(b"slow").await.unwrap();
        let (client, taken) = slow.await.unwrap();
        assert_eq!(&taken, b"slo");
        let stalled = tokio::time::timeout(PATIENCE * 2, stranger.write_all(b"!")).await;
        assert_eq!(stalled.expect("it is cut").unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(stranger);
        assert_eq!(places.available_permits(), 1);
        drop(client);
    }
}
