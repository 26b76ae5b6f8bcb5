//! Counts of what is legal once and an attack ten thousand times. All leak: good behaviour earns them back, and so does time.

use crate::limits::{Limit, Limits};

/// How many control frames a new stream makes up for.
const CONTROL_PER_STREAM: u32 = 8;

/// What part of its bound a count loses in a second.
const LEAK: u32 = 10;

#[derive(Debug, Default)]
pub(super) struct Guard {
    /// Until when time has been taken off.
    second: u32,
    resets: u32,
    provoked: u32,
    empty_data: u32,
    control: u32,
    /// Octets of replies in `out` since the caller last took from it.
    replies: usize,
    /// Length of `out` when we last left it.
    out_len: usize,
}

fn count(counter: &mut u32, max: u32, limit: Limit) -> Result<(), Limit> {
    *counter = counter.saturating_add(1);
    if *counter > max { Err(limit) } else { Ok(()) }
}

impl Guard {
    /// The peer reset a stream before it had ended.
    pub(super) fn reset(&mut self, limits: &Limits) -> Result<(), Limit> {
        count(&mut self.resets, limits.resets_max, Limit::Resets)
    }

    /// The peer made us reset a stream.
    pub(super) fn provoked(&mut self, limits: &Limits) -> Result<(), Limit> {
        count(&mut self.provoked, limits.provoked_resets_max, Limit::ProvokedResets)
    }

    pub(super) fn empty_data(&mut self, limits: &Limits) -> Result<(), Limit> {
        count(&mut self.empty_data, limits.empty_data_max, Limit::EmptyData)
    }

    /// SETTINGS, PING, PRIORITY, and what else carries nothing forward.
    pub(super) fn control(&mut self, limits: &Limits) -> Result<(), Limit> {
        count(&mut self.control, limits.control_frames_max, Limit::ControlFrames)
    }

    /// It is this second of the caller's clock.
    #[inline]
    pub(super) fn at_second(&mut self, second: u32, limits: &Limits) {
        if second > self.second {
            let seconds = second - self.second;
            self.second = second;
            self.leak(seconds, limits);
        }
    }

    #[cold]
    fn leak(&mut self, seconds: u32, limits: &Limits) {
        for (counter, max) in [
            (&mut self.resets, limits.resets_max),
            (&mut self.provoked, limits.provoked_resets_max),
            (&mut self.empty_data, limits.empty_data_max),
            (&mut self.control, limits.control_frames_max),
        ] {
            *counter = counter.saturating_sub((max / LEAK).max(1).saturating_mul(seconds));
        }
    }

    pub(super) fn opened(&mut self) {
        self.control = self.control.saturating_sub(CONTROL_PER_STREAM);
    }

    pub(super) fn ended_well(&mut self) {
        self.resets = self.resets.saturating_sub(1);
        self.provoked = self.provoked.saturating_sub(1);
    }

    pub(super) fn data(&mut self) {
        self.empty_data = self.empty_data.saturating_sub(1);
        self.control = self.control.saturating_sub(1);
    }

    /// To be called whenever a method is given `out`: has the caller taken from it since?
    ///
    /// Only the codec appends to `out`, and the caller takes all of it when it sends. So an `out` that is shorter than it was
    /// left means that everything before was sent; while a send is stuck the caller takes nothing, and replies add up.
    #[inline]
    pub(super) fn look(&mut self, out: &[u8]) {
        if out.len() < self.out_len {
            self.replies = 0;
        }
        self.out_len = out.len();
    }

    /// To be called after appending to `out`.
    #[inline]
    pub(super) fn left(&mut self, out: &[u8]) {
        self.out_len = out.len();
    }

    /// This many octets of reply were appended.
    pub(super) fn replied(&mut self, octets: usize, limits: &Limits) -> Result<(), Limit> {
        self.replies += octets;
        if self.replies > limits.replies_bytes_max { Err(Limit::Replies) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_loses_a_tenth_of_its_bound_each_second() {
        let limits = Limits { resets_max: 100, control_frames_max: 5, ..Limits::default() };
        let mut guard = Guard::default();
        guard.at_second(1_000, &limits);
        let resets = |guard: &mut Guard| (0..).take_while(|_| guard.reset(&limits).is_ok()).count();
        assert_eq!(resets(&mut guard), 100);
        guard.at_second(1_000, &limits);
        assert_eq!(resets(&mut guard), 0);
        for _ in 0..1_000 {
            assert_eq!(guard.control(&limits), Ok(()), "one a second, for ever");
            guard.at_second(guard.second + 1, &limits);
        }
        assert_eq!(resets(&mut guard), 100);
        guard.at_second(guard.second + 3, &limits);
        // Two that were refused were counted too.
        assert_eq!(resets(&mut guard), 29);
        guard.at_second(5, &limits);
        assert_eq!(resets(&mut guard), 0, "a clock that goes back takes nothing off");
    }

    #[test]
    fn replies_are_counted_from_when_the_caller_last_took_the_output() {
        let limits = Limits { replies_bytes_max: 100, ..Limits::default() };
        let mut guard = Guard::default();
        let mut out = Vec::new();
        for _ in 0..3 {
            guard.look(&out);
            out.resize(out.len() + 80, 0);
            assert_eq!(guard.replied(80, &limits), Ok(()));
            guard.left(&out);
            out.clear();
        }
        guard.look(&out);
        out.resize(80, 0);
        guard.replied(80, &limits).unwrap();
        guard.left(&out);
        guard.look(&out);
        assert_eq!(guard.replied(80, &limits), Err(Limit::Replies));
    }
}
