//! A byte stream in memory between the `h2` crate, which polls, and a runtime whose reads and writes own their buffers.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{BUFFER, Read, Write};

/// Output that waits; past it `h2` waits too.
const OUT_MAX: usize = 256 * 1024;

#[derive(Debug, Default)]
struct Shared {
    came: Vec<u8>,
    taken: usize,
    is_over: bool,
    reader: Option<Waker>,
    out: Vec<u8>,
    writer: Option<Waker>,
    sender: Option<Waker>,
}

/// See the module. Clones are the same stream.
#[derive(Clone, Debug, Default)]
pub struct Pipe(Rc<RefCell<Shared>>);

impl Pipe {
    /// Carries what is received into the stream, until the peer ends it.
    pub async fn fill(self, mut from: impl Read) {
        let mut buffer = Vec::with_capacity(BUFFER);
        while let Ok((1.., full)) = from.read(buffer).await {
            let mut shared = self.0.borrow_mut();
            shared.came.extend_from_slice(&full);
            wake(shared.reader.take());
            buffer = full;
            buffer.clear();
        }
        let mut shared = self.0.borrow_mut();
        shared.is_over = true;
        wake(shared.reader.take());
    }

    /// Carries what is written out of it, everything that there is with one send.
    pub async fn empty(self, mut to: impl Write) {
        let mut spare = Vec::new();
        loop {
            let full = std::future::poll_fn(|context| {
                let mut shared = self.0.borrow_mut();
                if shared.out.is_empty() {
                    shared.sender = Some(context.waker().clone());
                    return Poll::Pending;
                }
                Poll::Ready(std::mem::replace(&mut shared.out, std::mem::take(&mut spare)))
            })
            .await;
            let Ok(mut done) = to.write(full).await else { return };
            done.clear();
            spare = done;
            wake(self.0.borrow_mut().writer.take());
        }
    }
}

fn wake(waiting: Option<Waker>) {
    if let Some(waker) = waiting {
        waker.wake();
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.0.borrow_mut();
        let Shared { came, taken, is_over, reader, .. } = &mut *shared;
        if *taken == came.len() && !*is_over {
            *reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let piece = into.remaining().min(came.len() - *taken);
        into.put_slice(&came[*taken..*taken + piece]);
        *taken += piece;
        if *taken == came.len() {
            came.clear();
            *taken = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut shared = self.0.borrow_mut();
        if shared.out.len() > OUT_MAX {
            shared.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        shared.out.extend_from_slice(bytes);
        wake(shared.sender.take());
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
