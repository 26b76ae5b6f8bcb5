//! A connection inside the channel: the two bodies of one call as octets both ways, for the message stream.

use std::io;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::{ReaderStream, StreamReader};

/// Octets that were written and not yet taken by the call; a writer waits then.
const PIPE: usize = 64 * 1024;

/// The writing half, to be made whole by the peer's body, and the body that carries what is written.
pub fn pipe() -> (Writing, Body) {
    let (ours, theirs) = tokio::io::simplex(PIPE);
    (Writing(theirs), Body::from_stream(ReaderStream::with_capacity(ours, PIPE)))
}

/// See [`pipe`].
#[derive(Debug)]
pub struct Writing(tokio::io::WriteHalf<tokio::io::SimplexStream>);

impl Writing {
    /// With what comes from the peer.
    pub fn and<E: std::error::Error + Send + Sync + 'static>(
        self,
        body: impl Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
    ) -> impl AsyncRead + AsyncWrite + Send + Unpin + 'static {
        tokio::io::join(StreamReader::new(body.map_err(io::Error::other)), self.0)
    }
}
