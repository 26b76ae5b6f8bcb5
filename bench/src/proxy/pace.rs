//! The ticks of an open loop.

use std::collections::VecDeque;
use std::time::Duration;

use steady_ring::{ConnId, Time};

/// When requests are due, and which connections may take them.
#[derive(Debug)]
pub struct Pace {
    begun: Time,
    nanos_each: f64,
    ticks: u64,
    /// Ticks whose request found no free connection yet.
    pub due: VecDeque<Time>,
    /// Connections with room. One may be here though it has closed meanwhile.
    pub free: VecDeque<ConnId>,
}

impl Pace {
    /// So many ticks a second from `begun` on.
    pub fn new(begun: Time, rate: f64) -> Pace {
        Pace { begun, nanos_each: 1e9 / rate, ticks: 0, due: VecDeque::new(), free: VecDeque::new() }
    }

    /// The next tick.
    pub fn next(&self) -> Time {
        self.begun + Duration::from_nanos((self.ticks as f64 * self.nanos_each) as u64)
    }

    /// Notes what is due, and names the connections that are to see to it.
    pub fn tick(&mut self, now: Time, mut wake: impl FnMut(ConnId)) {
        while self.next() <= now {
            self.due.push_back(self.next());
            self.ticks += 1;
        }
        for _ in 0..self.due.len() {
            let Some(free) = self.free.pop_front() else { break };
            wake(free);
        }
    }
}
