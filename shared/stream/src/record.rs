//! What a log holds and what it gives back: the seam between the machine and its storage.

use bytes::Bytes;

use crate::types::{App, Epoch, Position};

/// One fact for the log. They are appended in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Message {
        position: Position,
        app: App,
        checksum: u32,
        body: Bytes,
    },
    /// The message will never be sent; its position stays as a tombstone.
    Withdrawn {
        position: Position,
    },
    /// Everything below is answered. Need not be synced: if it is lost, the peer says it again.
    Trimmed {
        below: Position,
    },
    /// Everything below was given up.
    Dropped {
        below: Position,
    },
}

impl Record {
    pub(crate) fn memory(&self) -> usize {
        size_of::<Record>() + if let Record::Message { body, .. } = self { body.len() } else { 0 }
    }
}

/// A message that a log still holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub app: App,
    pub checksum: u32,
    pub length: usize,
    pub tombstone: bool,
}

/// What a log holds when it is opened: the messages from `floor` on, without a hole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    pub epoch: Epoch,
    pub floor: Position,
    pub pending: Vec<Kept>,
}

impl Recovered {
    /// A log that was begun now.
    #[must_use]
    pub fn new(epoch: Epoch) -> Recovered {
        Recovered { epoch, floor: 1, pending: Vec::new() }
    }
}

/// Where bodies are read that are no longer in memory.
pub trait Bodies {
    /// The body of a stored message. `None`: not at this moment, ask again after the commit that is under way.
    fn body(&mut self, position: Position) -> std::io::Result<Option<Bytes>>;
}

/// For a machine whose bodies are all in memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoBodies;

impl Bodies for NoBodies {
    fn body(&mut self, position: Position) -> std::io::Result<Option<Bytes>> {
        Err(std::io::Error::other(format!("the body of position {position} is not in memory, and there is no log")))
    }
}
