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

/// A connection that has one of a bounded number of places, and that ends if its peer does not ask for anything in time.
#[derive(Debug)]
pub struct Stranger<S> {
    stream: S,
    /// Until its first octets.
    silence: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl<S: AsyncRead + Unpin> Stranger<S> {
    pub(crate) fn new(stream: S, silence: Duration, place: OwnedSemaphorePermit) -> Stranger<S> {
        Stranger { stream, silence: Some(Box::pin(tokio::time::sleep(silence))), _place: place }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_pending()
            && let Some(silence) = &mut self.silence
        {
            ready!(silence.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.silence = self.silence.take().filter(|_| read.is_pending());
        read
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
            Stream::Stranger(stranger) => stranger.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Stranger(stranger) => Pin::new(&mut stranger.stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Stranger(stranger) => Pin::new(&mut stranger.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Stranger(stranger) => Pin::new(&mut stranger.stream).poll_shutdown(cx),
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

    struct Reader(Stranger<tokio::io::DuplexStream>);

    impl AsyncRead for Reader {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            self.0.poll_read(cx, buf)
        }
    }

    #[tokio::test]
    async fn a_stranger_who_asks_for_nothing_is_let_go_of_and_one_who_asked_may_wait_for_its_answer() {
        let places = Arc::new(Semaphore::new(2));
        let place = || Arc::clone(&places).try_acquire_owned().unwrap();
        let (mut other, server) = tokio::io::duplex(64);
        let mut asks = Reader(Stranger::new(server, Duration::from_millis(20), place()));
        let (mut client, server) = tokio::io::duplex(64);
        let mut silent = Reader(Stranger::new(server, Duration::from_millis(20), place()));
        assert_eq!(places.available_permits(), 0);
        other.write_all(b"GET").await.unwrap();
        let mut buf = [0; 8];
        assert_eq!(asks.read(&mut buf).await.unwrap(), 3);
        let waits = tokio::spawn(async move { (asks.read(&mut [0; 8]).await, asks).0 });
        assert_eq!(silent.read(&mut buf).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(silent);
        assert_eq!(places.available_permits(), 1);
        assert_eq!(client.read(&mut buf).await.unwrap(), 0);
        // It began before the one whose time is out.
        assert!(!waits.is_finished());
        drop(other);
        assert_eq!(waits.await.unwrap().unwrap(), 0);
    }
}
