//! One connection: octets in, octets out, both under way at once.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::oneshot;

use super::Ended;

/// Octets that wait to be written before the streams are asked for more: one write of this size is as cheap as it gets.
pub(super) const OUT_MAX: usize = 128 << 10;
const READ: usize = 64 << 10;

pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub(super) type BoxedIo = Box<dyn Io>;

pub(super) fn boxed(connection: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> BoxedIo {
    Box::new(connection)
}

pub(super) struct Connection {
    reader: ReadHalf<BoxedIo>,
    writer: WriteHalf<BoxedIo>,
    pub received: BytesMut,
    pub out: BytesMut,
    unflushed: bool,
    ended: Option<oneshot::Sender<Ended>>,
}

impl Connection {
    pub(super) fn new(io: BoxedIo, ended: oneshot::Sender<Ended>) -> Connection {
        let (reader, writer) = tokio::io::split(io);
        let (received, out) = (BytesMut::with_capacity(READ), BytesMut::with_capacity(READ));
        Connection { reader, writer, received, out, unflushed: false, ended: Some(ended) }
    }

    /// Everything that was to be written is with the system.
    pub(super) fn is_flushed(&self) -> bool {
        self.out.is_empty() && !self.unflushed
    }

    /// Reads some or writes some. May be cancelled: each step is one poll that has happened or hasn't.
    pub(super) async fn step(&mut self) -> io::Result<()> {
        self.received.reserve(READ);
        if self.is_flushed() {
            return read(self.reader.read_buf(&mut self.received).await);
        }
        let write = async {
            if self.out.is_empty() {
                self.writer.flush().await?;
                self.unflushed = false;
            } else {
                self.unflushed = true;
                if self.writer.write_buf(&mut self.out).await? == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
            }
            Ok(())
        };
        tokio::select! {
            outcome = self.reader.read_buf(&mut self.received) => read(outcome),
            outcome = write => outcome,
        }
    }

    pub(super) fn end(&mut self, how: Ended) {
        if let Some(ended) = self.ended.take() {
            let _ = ended.send(how);
        }
    }
}

fn read(outcome: io::Result<usize>) -> io::Result<()> {
    match outcome? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed the connection")),
        _ => Ok(()),
    }
}
