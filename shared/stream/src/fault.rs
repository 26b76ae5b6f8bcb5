//! Faults by configuration: drop one frame in so many, on either leg, from a seed.
//!
//! For tests of whole systems. The choice depends only on the seed and on how many frames went before, so that a run
//! can be repeated.

use crate::number::mix;

/// Which frames are lost. The default loses none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// One in so many of the frames that this side sends; 0: none.
    pub lose_sent_one_in: u32,
    /// One in so many of the frames that reach this side; 0: none.
    pub lose_received_one_in: u32,
    pub seed: u64,
}

/// [`Faults`] at work on one connection.
#[derive(Clone, Debug)]
pub struct Loss {
    faults: Faults,
    sent: u64,
    received: u64,
}

impl Loss {
    #[must_use]
    pub fn new(faults: Faults) -> Loss {
        Loss { faults, sent: 0, received: 0 }
    }

    /// Whether the next frame of ours is lost.
    pub fn of_sent(&mut self) -> bool {
        self.sent += 1;
        hit(self.faults.seed, self.sent, self.faults.lose_sent_one_in)
    }

    /// Whether the next frame of the peer's is lost.
    pub fn of_received(&mut self) -> bool {
        self.received += 1;
        hit(!self.faults.seed, self.received, self.faults.lose_received_one_in)
    }
}

fn hit(seed: u64, count: u64, one_in: u32) -> bool {
    one_in != 0 && mix(seed ^ mix(count)).is_multiple_of(u64::from(one_in))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_ten_is_lost_on_either_leg_and_a_seed_repeats_it() {
        let faults = Faults { lose_sent_one_in: 10, lose_received_one_in: 10, seed: 4 };
        let run = || {
            let mut loss = Loss::new(faults);
            (0..10_000).map(|_| (loss.of_sent(), loss.of_received())).collect::<Vec<_>>()
        };
        let lost = run();
        assert_eq!(lost, run());
        let (sent, received) = (lost.iter().filter(|one| one.0).count(), lost.iter().filter(|one| one.1).count());
        assert!((850..1150).contains(&sent) && (850..1150).contains(&received), "{sent} and {received}");
        assert_ne!(lost.iter().map(|one| one.0).collect::<Vec<_>>(), lost.iter().map(|one| one.1).collect::<Vec<_>>());
    }

    #[test]
    fn nothing_is_lost_unless_asked_for() {
        let mut loss = Loss::new(Faults::default());
        assert!((0..1000).all(|_| !loss.of_sent() && !loss.of_received()));
    }
}
