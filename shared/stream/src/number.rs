//! Message numbers: a pool that the receiver grants in ranges, and the seeded order in which positions use them.
//!
//! A grant covers the positions `[from, until)` with the numbers `[from, until)`, permuted under a seed. Both ends compute
//! the permutation (a Feistel network over the next power of four, walked until it falls inside the range), so that a
//! message whose number is not the expected one shows that the two disagree about the order before anything is applied.

use crate::rules::Rules;
use crate::types::{Epoch, Position};
use crate::wire;

/// A range of message numbers that the receiver has promised memory for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub from: Position,
    pub until: Position,
    pub seed: u64,
    pub verifier: u32,
}

impl Grant {
    /// A grant for the stream whose sender's side has this direction number.
    #[must_use]
    pub fn new(direction: u32, epoch: Epoch, from: Position, until: Position, seed: u64) -> Grant {
        Grant { from, until, seed, verifier: verifier(direction, epoch, from, until, seed) }
    }

    /// What came over the wire, if its verifier is that of this stream and epoch and its range is one.
    #[must_use]
    pub fn accept<R: Rules>(wire: &wire::Grant, direction: u32, epoch: Epoch) -> Option<Grant> {
        let grant = Grant { from: wire.from, until: wire.until, seed: wire.seed, verifier: wire.verifier };
        let expected = verifier(direction, epoch, grant.from, grant.until, grant.seed);
        let sane = grant.from < grant.until && grant.until - grant.from <= u64::from(u32::MAX);
        (sane && (grant.verifier == expected || R::VERIFIER_IGNORED)).then_some(grant)
    }

    /// The number of a position inside the range.
    #[must_use]
    pub fn number(&self, position: Position) -> u64 {
        debug_assert!((self.from..self.until).contains(&position), "a position outside its grant");
        self.from + permute(position - self.from, self.until - self.from, self.seed)
    }

    #[must_use]
    pub fn covers(&self, position: Position) -> bool {
        (self.from..self.until).contains(&position)
    }
}

impl From<&Grant> for wire::Grant {
    fn from(grant: &Grant) -> wire::Grant {
        wire::Grant { from: grant.from, until: grant.until, seed: grant.seed, verifier: grant.verifier }
    }
}

fn verifier(direction: u32, epoch: Epoch, from: Position, until: Position, seed: u64) -> u32 {
    let mut octets = [0; 36];
    octets[..4].copy_from_slice(&direction.to_le_bytes());
    for (place, value) in [epoch, from, until, seed].into_iter().enumerate() {
        octets[4 + 8 * place..12 + 8 * place].copy_from_slice(&value.to_le_bytes());
    }
    crc32c::crc32c(&octets)
}

/// A permutation of `0..count` (`count` ≤ 2³²) chosen by `seed`.
fn permute(index: u64, count: u64, seed: u64) -> u64 {
    if count < 2 {
        return index;
    }
    let bits = u64::BITS - (count - 1).leading_zeros();
    let half = bits.div_ceil(2);
    let mask = (1u64 << half) - 1;
    let mut value = index;
    // The domain is under four times `count`, so that under four walks are expected.
    loop {
        let (mut left, mut right) = (value >> half, value & mask);
        for round in 0..4 {
            (left, right) = (right, left ^ (mix(right ^ seed.rotate_left(round * 16 + 1)) & mask));
        }
        value = (left << half) | right;
        if value < count {
            return value;
        }
    }
}

/// SplitMix64's finaliser; also the machine's only source of seeds (a counter through this).
#[must_use]
pub(crate) fn mix(value: u64) -> u64 {
    let mut value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Sound;

    #[test]
    fn every_position_of_a_grant_has_a_number_of_its_own_within_it() {
        for count in [1, 2, 3, 5, 16, 17, 100, 1024, 1025] {
            for seed in 0..5 {
                let grant = Grant::new(7, 9, 1000, 1000 + count, seed);
                let mut numbers: Vec<u64> = (1000..1000 + count).map(|position| grant.number(position)).collect();
                numbers.sort_unstable();
                assert_eq!(numbers, (1000..1000 + count).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn another_seed_is_another_order() {
        let order = |seed| {
            let grant = Grant::new(7, 9, 1, 257, seed);
            (1..257).map(|position| grant.number(position)).collect::<Vec<_>>()
        };
        assert_ne!(order(1), order(2));
        assert_ne!(order(1), (1..257).collect::<Vec<_>>());
    }

    #[test]
    fn a_grant_of_another_stream_epoch_range_or_seed_is_refused() {
        let good = wire::Grant::from(&Grant::new(7, 9, 1, 65, 3));
        assert!(Grant::accept::<Sound>(&good, 7, 9).is_some());
        assert!(Grant::accept::<Sound>(&good, 8, 9).is_none());
        assert!(Grant::accept::<Sound>(&good, 7, 10).is_none());
        assert!(Grant::accept::<Sound>(&wire::Grant { until: 66, ..good }, 7, 9).is_none());
        assert!(Grant::accept::<Sound>(&wire::Grant { from: 2, ..good }, 7, 9).is_none());
        assert!(Grant::accept::<Sound>(&wire::Grant { seed: 4, ..good }, 7, 9).is_none());
    }
}
