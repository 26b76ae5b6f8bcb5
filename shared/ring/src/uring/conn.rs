//! One connection's state.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use steady_sys::net::RawAddr;

use super::token::Kind;
use crate::SendBuf;
use crate::message::Message;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Connecting,
    Open,
    /// Asked to close; only terminal completions matter now.
    Closing,
}

pub(super) struct Conn {
    pub(super) state: State,
    /// `None` when no socket could be had, and after it was handed to the close operation.
    pub(super) fd: Option<OwnedFd>,
    /// Operations that the kernel has ([`Kind`] bits): their memory is not ours until they complete.
    pub(super) in_flight: u8,
    /// Operations asked to be cancelled.
    pub(super) cancelling: u8,
    pub(super) paused: bool,
    /// Waits for a buffer to receive into.
    pub(super) starved: bool,
    /// Nothing more comes in: the end of the stream or an error was reported.
    pub(super) ended: bool,
    /// To be given away once nothing of it is under way.
    pub(super) releasing: bool,
    /// Half-closed once connected.
    pub(super) shut: bool,
    /// Watch for the peer's end beside the receive (unix sockets).
    pub(super) watch_hangup: bool,
    /// That watch has fired: what is left is there, and is read by single receives.
    pub(super) hung_up: bool,
    /// A send failed: none is tried again.
    pub(super) mute: bool,
    /// The send in flight has a completion only if it is not done whole, see [`Uring::conclude`](super::Uring).
    pub(super) quiet: bool,
    pub(super) send: Option<SendBuf>,
    /// Octets of `send` that the kernel took.
    pub(super) sent: usize,
    pub(super) pinned: Option<Box<Pinned>>,
}

impl Conn {
    pub(super) fn new(state: State, fd: Option<OwnedFd>) -> Conn {
        Conn {
            state,
            fd,
            in_flight: 0,
            cancelling: 0,
            paused: false,
            starved: false,
            ended: false,
            releasing: false,
            shut: false,
            watch_hangup: false,
            hung_up: false,
            mute: false,
            quiet: false,
            send: None,
            sent: 0,
            pinned: None,
        }
    }

    pub(super) fn has(&self, kind: Kind) -> bool {
        self.in_flight & kind as u8 != 0
    }

    pub(super) fn begin(&mut self, kind: Kind) {
        debug_assert!(!self.has(kind));
        self.in_flight |= kind as u8;
    }

    pub(super) fn finish(&mut self, kind: Kind) {
        self.in_flight &= !(kind as u8);
        self.cancelling &= !(kind as u8);
    }

    pub(super) fn raw(&self) -> Option<RawFd> {
        self.fd.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Whether a receive should be under way and is not.
    pub(super) fn wants_receive(&self) -> bool {
        self.state == State::Open && !self.paused && !self.releasing && !self.ended && !self.has(Kind::Receive)
    }
}

/// What an entry points to until it was submitted; boxed, so that it stays where it is. Kept for reuse.
pub(super) struct Pinned {
    pub(super) addr: RawAddr,
    pub(super) message: Message,
}

impl Pinned {
    pub(super) fn new() -> Box<Pinned> {
        Box::new(Pinned { addr: RawAddr::empty(), message: Message::new() })
    }
}
