//! One body's way from one leg to the other: what of it waits, since when, and what its source is owed.
//!
//! Octets pass straight from the source's input to the sink's output while the sink has room. What it cannot take is held here,
//! at most about a window of it: HTTP/2 sources get their credit back as octets leave, HTTP/1.1 sources are paused.

use steady_http::Head;
use steady_ring::Time;

use crate::exchange::{Exchange, Leg, Phase};
use crate::held::{Held, Total};

/// Which way a body goes: up to the upstream, or down to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Up,
    Down,
}

/// What a sink has to take of what waits for it to count as one that takes it: octets in drips are none. Over `take_stall`, about
/// what the slowest of modems takes.
const STEP_BYTES: usize = 16 * 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Pipe {
    /// Octets the sink has not taken, and before them those that are kept to be sent again.
    pub held: Held,
    /// Keep what was sent, until the upstream has accepted the request.
    pub keep: bool,
    /// While it is kept: octets that may be sent, and that the source can be made to give.
    pub keep_max: usize,
    /// The source has ended (its trailers, if any, are in `trailers`).
    pub source_ended: bool,
    pub trailers: Option<Box<Head>>,
    /// The end has been handed to the sink.
    pub sink_ended: bool,
    /// Octets in all.
    pub bytes: u64,
    /// Since when what waits has moved by less than a step, and how far.
    pub since: Time,
    pub crept: usize,
    /// Rewritten bodies: flow-control credit of what was taken in, given back when all that it became has left.
    pub owed: u32,
}

impl Pipe {
    pub(crate) fn new(total: &Total) -> Pipe {
        Pipe {
            held: Held::new(total),
            keep: false,
            keep_max: 0,
            source_ended: false,
            trailers: None,
            sink_ended: false,
            bytes: 0,
            since: Time::ZERO,
            crept: 0,
            owed: 0,
        }
    }

    /// Empties it, keeping its memory.
    pub(crate) fn renew(&mut self) {
        self.held.clear();
        (self.keep, self.keep_max) = (false, 0);
        (self.source_ended, self.sink_ended) = (false, false);
        self.trailers = None;
        (self.bytes, self.owed, self.crept) = (0, 0, 0);
    }

    /// What is held next begins to wait now, unless something waits already.
    pub(crate) fn begin_to_wait(&mut self, now: Time) {
        if self.waiting() == 0 {
            (self.since, self.crept) = (now, 0);
        }
    }

    /// The sink took so much of what was held.
    pub(crate) fn moved(&mut self, len: usize, now: Time) {
        self.crept += len;
        if self.crept >= STEP_BYTES || self.waiting() == 0 {
            (self.since, self.crept) = (now, 0);
        }
    }

    /// Octets the sink has not taken.
    pub(crate) fn waiting(&self) -> usize {
        self.held.waiting()
    }

    /// Everything is to be sent anew to another sink.
    pub(crate) fn rewind(&mut self) {
        self.held.rewind();
        self.sink_ended = false;
    }

    /// Octets that the source is to be held back for.
    pub(crate) fn burden(&self) -> usize {
        if self.keep { self.held.len() } else { self.waiting() }
    }
}

impl<T> Exchange<T> {
    pub(crate) fn pipe(&mut self, way: Way) -> &mut Pipe {
        match way {
            Way::Up => &mut self.upload,
            Way::Down => &mut self.download,
        }
    }

    pub(crate) fn source(&self, way: Way) -> Option<Leg> {
        match way {
            Way::Up => self.down,
            Way::Down => self.up,
        }
    }

    /// Where octets that go this way can be put now.
    pub(crate) fn sink(&self, way: Way) -> Option<Leg> {
        match (way, self.phase) {
            (Way::Up, Phase::Attached | Phase::Answering) => self.up,
            (Way::Down, Phase::Answering | Phase::Replying) => self.down,
            _ => None,
        }
    }
}
