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
    // Not `simplex`, whose reading half does not hear that the writing half is gone.
    let (ours, theirs) = tokio::io::duplex(PIPE);
    (Writing(theirs), Body::from_stream(ReaderStream::with_capacity(ours, PIPE)))
}

/// See [`pipe`].
#[derive(Debug)]
pub struct Writing(tokio::io::DuplexStream);

impl Writing {
    /// With what comes from the peer.
    pub fn and<E: std::error::Error + Send + Sync + 'static>(
        self,
        body: impl Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
    ) -> impl AsyncRead + AsyncWrite + Send + Unpin + 'static {
        tokio::io::join(StreamReader::new(body.map_err(io::Error::other)), self.0)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_body_ends_with_whoever_wrote_it() {
        let (writing, body) = pipe();
        let mut connection = writing.and(stream::empty::<Result<Bytes, io::Error>>());
        connection.write_all(b"the last words").await.unwrap();
        drop(connection);
        assert_eq!(axum::body::to_bytes(body, PIPE).await.unwrap(), "the last words");
    }
}
