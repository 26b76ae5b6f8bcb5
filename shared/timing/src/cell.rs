//! Numbers that one thread writes and others read.
//!
//! Writing is a plain load and a plain store, never a locked instruction, which is why there may be only one writer: two would
//! lose counts, though nothing worse. Readers see each number whole, and some recent value of it; two numbers that are read
//! one after the other need not be of the same moment.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that only grows (and wraps after 2⁶⁴). One writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    pub fn add(&self, by: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(by), Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down. One writer. It stays at 0 rather than go below.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub const fn new() -> Gauge {
        Gauge(AtomicU64::new(0))
    }

    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    pub fn add(&self, by: u64) {
        self.set(self.value().saturating_add(by));
    }

    pub fn sub(&self, by: u64) {
        debug_assert!(self.value() >= by, "a gauge goes below 0: something was taken off that was never added");
        self.set(self.value().saturating_sub(by));
    }

    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_thread_reads_what_the_writer_wrote_and_never_less_than_before() {
        let (counter, gauge) = (Counter::new(), Gauge::new());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    counter.add(3);
                    gauge.add(1);
                }
            });
            let mut last = 0;
            while last < 30_000 {
                let now = counter.value();
                assert!(now >= last && now.is_multiple_of(3));
                last = now;
                std::hint::spin_loop();
            }
        });
        assert_eq!((counter.value(), gauge.value()), (30_000, 10_000));
    }

    #[test]
    fn a_gauge_goes_up_and_down() {
        let gauge = Gauge::new();
        gauge.add(5);
        gauge.sub(2);
        assert_eq!(gauge.value(), 3);
        gauge.set(9);
        assert_eq!(gauge.value(), 9);
    }
}
