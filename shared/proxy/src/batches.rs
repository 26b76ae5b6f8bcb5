//! What batches cost, so that an exchange knows what of its time was ours.
//!
//! A request is given to its upstream in one batch and leaves when that batch is over. The clock is read once more there, for
//! all requests of the batch together.

use std::time::Duration;

/// Batches that are remembered. A response that takes longer than so many others hides our share of it anyway.
const REMEMBERED: usize = 256;

/// See the module.
#[derive(Debug)]
pub(crate) struct Batches {
    number: u64,
    /// Nanoseconds of each, by its number; saturating at four seconds.
    costs: [u32; REMEMBERED],
}

impl Default for Batches {
    fn default() -> Batches {
        Batches { number: 0, costs: [0; REMEMBERED] }
    }
}

impl Batches {
    /// The number of the batch that runs now.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The batch is over; it took so long from its completions to its last send.
    pub(crate) fn ended(&mut self, cost: Duration) {
        self.costs[self.number as usize % REMEMBERED] = u32::try_from(cost.as_nanos()).unwrap_or(u32::MAX);
        self.number += 1;
    }

    /// What a batch cost; nothing where it is forgotten, or runs still.
    pub(crate) fn cost(&self, number: u64) -> Duration {
        let known = number < self.number && self.number - number <= REMEMBERED as u64;
        if known { Duration::from_nanos(self.costs[number as usize % REMEMBERED].into()) } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_a_batch_is_known_from_its_end_until_it_is_forgotten() {
        let mut batches = Batches::default();
        let first = batches.number();
        assert_eq!(batches.cost(first), Duration::ZERO, "it runs still");
        batches.ended(Duration::from_micros(7));
        assert_eq!(batches.cost(first), Duration::from_micros(7));
        for _ in 1..REMEMBERED {
            batches.ended(Duration::from_micros(1));
        }
        assert_eq!(batches.cost(first), Duration::from_micros(7));
        batches.ended(Duration::from_micros(1));
        assert_eq!(batches.cost(first), Duration::ZERO);
    }
}
