//! An exponentially weighted moving average over time that passes unevenly.

/// A moving average in which an observation's weight halves with every half-life that passes. Time is the caller's, in
/// nanoseconds of a monotonic clock; one that runs backwards counts as standing still.
#[derive(Clone, Copy, Debug)]
pub struct Ewma {
    value: f64,
    /// Of the last observation; `None` before the first.
    at_ns: Option<u64>,
    half_life_ns: f64,
}

impl Ewma {
    /// `half_life_ns` is taken as 1 when it is 0: then only the newest observation counts.
    pub fn new(half_life_ns: u64) -> Ewma {
        Ewma { value: 0.0, at_ns: None, half_life_ns: half_life_ns.max(1) as f64 }
    }

    /// Takes in `value` as observed at `now_ns`. The first is the average. The longer the time since the last, the more it
    /// counts; of several at one instant the first alone does. What is no number is left out.
    pub fn observe(&mut self, value: f64, now_ns: u64) {
        if !value.is_finite() {
            return;
        }
        let Some(at_ns) = self.at_ns else {
            (self.value, self.at_ns) = (value, Some(now_ns));
            return;
        };
        let half_lives = now_ns.saturating_sub(at_ns) as f64 / self.half_life_ns;
        let kept = (-half_lives).exp2();
        self.value = self.value * kept + value * (1.0 - kept);
        self.at_ns = Some(at_ns.max(now_ns));
    }

    /// The average; `None` before the first observation.
    pub fn value(&self) -> Option<f64> {
        self.at_ns.map(|_| self.value)
    }

    /// The average as it would be had 0 been observed since the last observation: for rates and queues, which fade when
    /// nothing comes.
    pub fn faded(&self, now_ns: u64) -> f64 {
        let Some(at_ns) = self.at_ns else { return 0.0 };
        self.value * (-(now_ns.saturating_sub(at_ns) as f64 / self.half_life_ns)).exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_life_moves_the_average_half_of_the_way() {
        let mut ewma = Ewma::new(1_000);
        assert_eq!(ewma.value(), None);
        ewma.observe(100.0, 5_000);
        assert_eq!(ewma.value(), Some(100.0));
        ewma.observe(0.0, 6_000);
        assert_eq!(ewma.value(), Some(50.0));
        ewma.observe(0.0, 8_000);
        assert_eq!(ewma.value(), Some(12.5));
        assert_eq!(ewma.faded(9_000), 6.25);
    }

    #[test]
    fn many_small_steps_weigh_as_one_long_one() {
        let (mut small, mut long) = (Ewma::new(1_000), Ewma::new(1_000));
        small.observe(8.0, 0);
        long.observe(8.0, 0);
        (1..=100).for_each(|step| small.observe(2.0, step * 30));
        long.observe(2.0, 3_000);
        assert!((small.value().unwrap() - long.value().unwrap()).abs() < 1e-9);
    }

    #[test]
    fn a_clock_that_runs_backwards_and_values_that_are_none_change_nothing() {
        let mut ewma = Ewma::new(0);
        ewma.observe(f64::NAN, 1);
        assert_eq!((ewma.value(), ewma.faded(9)), (None, 0.0));
        ewma.observe(7.0, 10);
        ewma.observe(1.0, 3);
        ewma.observe(f64::INFINITY, 20);
        assert_eq!((ewma.value(), ewma.faded(0)), (Some(7.0), 7.0));
    }
}
