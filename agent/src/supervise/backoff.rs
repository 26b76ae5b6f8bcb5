//! How long to wait before a crashed process is started again.

use std::time::Duration;

/// The wait after the `failures`-th crash in a row (from 1): `first`, doubling, at most `last`, a fifth more or less by
/// `random` (0 to 1), so that applications that fell together do not rise together.
pub fn delay(failures: u32, first: Duration, last: Duration, random: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(30);
    let plain = first.saturating_mul(1 << doublings).min(last);
    plain.mul_f64(0.8 + 0.4 * random.clamp(0.0, 1.0)).min(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const LAST: Duration = Duration::from_secs(60);

    #[test]
    fn it_doubles_from_the_first_to_the_last() {
        let waits: Vec<u64> = (1..=12).map(|n| delay(n, FIRST, LAST, 0.5).as_millis() as u64).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000]);
        assert_eq!(delay(u32::MAX, FIRST, LAST, 1.0), LAST);
    }

    #[test]
    fn chance_moves_it_by_a_fifth_at_most() {
        assert_eq!(delay(1, FIRST, LAST, 0.0), Duration::from_millis(80));
        assert_eq!(delay(1, FIRST, LAST, 1.0), Duration::from_millis(120));
    }
}
