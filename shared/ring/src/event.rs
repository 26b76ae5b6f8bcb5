//! What a driver reports.

use std::io;
use std::net::SocketAddr;

use crate::{RecvBuf, SendBuf};

/// A connection of one driver: a slot and its generation. A late completion of a past generation is never reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    index: u32,
    generation: u32,
}

impl ConnId {
    pub const fn new(index: u32, generation: u32) -> ConnId {
        ConnId { index, generation }
    }

    /// The slot, dense from zero: an index for the worker's own table of connections.
    pub const fn index(self) -> usize {
        self.index as usize
    }

    pub const fn generation(self) -> u32 {
        self.generation
    }
}

/// A listener of one driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(pub u32);

/// Which operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Connect,
    Receive,
    Send,
}

/// One thing that happened.
#[derive(Debug)]
pub enum Event {
    /// A connection came in; it is already receiving. `peer` is `None` on unix sockets.
    Accepted { listener: ListenerId, conn: ConnId, peer: Option<SocketAddr> },
    /// Accepting failed for now and will resume by itself (EMFILE, ENFILE, ENOMEM, ENOBUFS, ECONNABORTED).
    AcceptFailed { listener: ListenerId, error: io::Error },
    /// No further connection comes from this listener; its descriptor is closed.
    ListenerClosed { listener: ListenerId },
    /// The connect succeeded; receiving has begun.
    Connected { conn: ConnId },
    /// Bytes came; never empty.
    Received { conn: ConnId, buf: RecvBuf },
    /// The peer sends no more (FIN). Sending to it may still work.
    EndOfStream { conn: ConnId },
    /// The send in flight is done, all of it; the buffer is handed back, its bytes still in it.
    Sent { conn: ConnId, buf: SendBuf },
    /// An operation failed. Nothing else of this kind comes from the connection: close it. A failed send's buffer is
    /// dropped.
    Failed { conn: ConnId, op: Op, error: io::Error },
    /// The connection asked to close is closed; its slot may be used again.
    Closed { conn: ConnId },
    /// The connection asked to be released is this driver's no more: [`take`](crate::Driver::take) its socket before the next
    /// wait.
    Released { conn: ConnId },
    /// A [`Waker`](crate::Waker) was used, once or many times.
    Woken,
}
