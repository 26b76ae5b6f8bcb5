//! The words of the stream: positions, epochs, modes, names, messages and what becomes of them.

use std::fmt;

use bytes::Bytes;

/// Where a message stands in its log. The first is 1; none is used twice while the log lives.
pub type Position = u64;

/// Further on than any log comes: a million messages a second reach it after 146,000 years. What names more is broken, and sums of
/// positions have room.
pub(crate) const POSITION_MAX: Position = 1 << 62;

/// When a log was begun, in nanoseconds since 1970: what tells it from one that was lost. Never 0.
pub type Epoch = u64;

/// Which of the independent streams between two peers. A message never waits for one of another mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mode(pub u32);

/// An application's id, chosen by the user of the stream; 0 where a message concerns none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct App(pub u64);

/// The two ends of a stream and its mode, as seen from here. The peer's view has the names the other way round.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StreamId {
    pub local: String,
    pub peer: String,
    pub mode: Mode,
}

impl StreamId {
    pub fn new(local: impl Into<String>, peer: impl Into<String>, mode: Mode) -> StreamId {
        StreamId { local: local.into(), peer: peer.into(), mode }
    }

    /// The same stream, as the peer names it.
    #[must_use]
    pub fn reversed(&self) -> StreamId {
        StreamId { local: self.peer.clone(), peer: self.local.clone(), mode: self.mode }
    }

    /// A number for the direction from `local` to `peer`; both ends compute the same.
    #[must_use]
    pub fn direction(&self) -> u32 {
        let mut sum = crc32c::crc32c(self.local.as_bytes());
        sum = crc32c::crc32c_append(sum, &[0]);
        sum = crc32c::crc32c_append(sum, self.peer.as_bytes());
        crc32c::crc32c_append(sum, &self.mode.0.to_le_bytes())
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}>{}/{}", self.local, self.peer, self.mode.0)
    }
}

/// A message as the receiver hands it to its inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub position: Position,
    pub app: App,
    pub body: Bytes,
}

/// What accompanies a message from `send` to the inbox of the other end: crc32c over position, application and body.
#[must_use]
pub fn checksum(position: Position, app: App, body: &[u8]) -> u32 {
    let mut head = [0; 16];
    head[..8].copy_from_slice(&position.to_le_bytes());
    head[8..].copy_from_slice(&app.0.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&head), body)
}

/// What became of a message. Each gets exactly one, unless the sender's process ends first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The peer applied it, has that on disk, and said this. Empty when the peer said nothing, or no longer knows
    /// (it answered a process of ours that has ended).
    Answered(Bytes),
    /// It was withdrawn before it was ever sent: the peer never sees it.
    Withdrawn,
    /// It was given up. `in_doubt`: it had been sent, so the peer may have applied it.
    Dropped { in_doubt: bool },
}

/// What the driver and its user are told. Order is the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Both hellos have crossed: messages flow. `resumed` counts those sent before and not yet answered.
    Established { resumed: u64 },
    /// The end of a message of ours.
    Finished { position: Position, outcome: Outcome },
    /// A message of ours has been waiting for its answer this long, connected all the time.
    StuckCall { position: Position, app: App },
    /// Our inbox has been applying the batch that begins with this message for this long.
    StuckWork { position: Position, app: App },
    /// The peer's log is another than the one we knew (it was lost, or given up): from here on its messages count anew.
    PeerBegunAnew { epoch: Epoch, was: Epoch },
    /// The peer gave up these messages, or we lost the memory of having applied them: they will not come.
    Gap { from: Position, until: Position },
    /// The peer's log is older than the one we know: one restored from a copy, or a second process under its name.
    /// Nothing is exchanged. Remove the older log, or give the peer another name.
    PeerIsStale { epoch: Epoch, known: Epoch },
    /// The peer names another stream or speaks another version. Nothing is exchanged.
    PeerIsAnother { detail: String },
    /// Something of ours was outstanding and nothing has been heard for the configured time: end the connection.
    Silent,
    /// The peer was away longer than our patience; what waited was dropped (each with its own `Finished`).
    PatienceEnded { dropped: u64 },
    /// A goodbye ended: drained on both sides (`left` 0), or at its deadline with so many kept in the log.
    Closed { left: u64 },
    /// The peer said goodbye and wants to drain: it takes no new work of ours after this connection.
    PeerLeaves,
}
