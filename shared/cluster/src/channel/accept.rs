//! The edge's side: from an upgraded connection to a client of the host's API.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::oneshot;

use super::{CALL_WINDOW, CHANNEL_WINDOW, PING_EVERY, PING_TIMEOUT};

/// Calls over a channel. Cheap to clone; calls of clones run beside each other.
pub type Calls = SendRequest<Body>;

/// Ends its connection when it is dropped, whatever is under way on it: answers that have no end would hold it open.
#[derive(Debug)]
pub struct Grip {
    _end: oneshot::Sender<()>,
}

/// Turns the roles round. The future is the connection: it ends when the host is gone, or when the [`Grip`] is.
pub async fn accept(
    upgraded: Upgraded,
) -> Result<(Calls, Grip, impl Future<Output = Result<(), hyper::Error>> + Send), hyper::Error> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(CALL_WINDOW)
        .initial_connection_window_size(CHANNEL_WINDOW)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    let (_end, ended) = oneshot::channel();
    let (calls, connection) = builder.handshake(Held { io: upgraded, ended }).await?;
    Ok((calls, Grip { _end }, connection))
}

/// A connection that fails once its [`Grip`] is gone.
struct Held {
    io: Upgraded,
    ended: oneshot::Receiver<()>,
}

impl Read for Held {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if Pin::new(&mut self.ended).poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Held {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}
