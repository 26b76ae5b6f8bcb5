//! What goes wrong on a simulated network, and how often.

use std::time::Duration;

/// Chances are per million: integers, so that a history never depends on rounding.
const MILLION: u32 = 1_000_000;

/// The weather of a [`SimNet`](super::SimNet).
#[derive(Clone, Debug)]
pub struct Faults {
    /// One way through the network, drawn anew for every segment (order within a direction is kept).
    pub latency_min: Duration,
    pub latency_max: Duration,
    /// Octets that may be under way and unread in one direction of a connection: the socket buffers. A sender waits
    /// for room.
    pub window_bytes: usize,
    /// The longest segment; each is cut at random up to it, so that any boundary between octets is met.
    pub segment_bytes_max: usize,
    /// Receive buffers of a driver, and the octets of one.
    pub buffers: u16,
    pub buffer_bytes: usize,
    /// Chance that a receive gets less than is there.
    pub short_read_per_million: u32,
    /// Chance, per segment sent, that the connection is reset behind it.
    pub reset_per_million: u32,
    /// Chance, per segment sent, that it and all behind it are held up, and for how long at most.
    pub stall_per_million: u32,
    pub stall_max: Duration,
    /// Chance that a receive finds no buffer, whatever the pool holds.
    pub starve_per_million: u32,
    /// Chance that a connect is refused.
    pub refuse_per_million: u32,
    /// Chance that a connect is never answered, and how long it takes to give up.
    pub connect_lost_per_million: u32,
    pub connect_timeout: Duration,
    /// Chance that accepting runs out of descriptors and rests, as the real drivers do.
    pub accept_fail_per_million: u32,
}

impl Faults {
    /// A network that only delays, and hands over what is there.
    pub fn none() -> Faults {
        Faults {
            latency_min: Duration::from_micros(50),
            latency_max: Duration::from_micros(50),
            window_bytes: 64 << 10,
            segment_bytes_max: 16 << 10,
            buffers: 64,
            buffer_bytes: 4_096,
            short_read_per_million: 0,
            reset_per_million: 0,
            stall_per_million: 0,
            stall_max: Duration::from_millis(200),
            starve_per_million: 0,
            refuse_per_million: 0,
            connect_lost_per_million: 0,
            connect_timeout: Duration::from_secs(30),
            accept_fail_per_million: 0,
        }
    }

    /// Nothing is lost, everything is cut up, jittered and held up: what a correct program must not notice.
    pub fn rough() -> Faults {
        Faults {
            latency_min: Duration::from_micros(10),
            latency_max: Duration::from_millis(5),
            window_bytes: 8 << 10,
            segment_bytes_max: 1_500,
            buffers: 16,
            buffer_bytes: 512,
            short_read_per_million: MILLION / 2,
            stall_per_million: MILLION / 100,
            starve_per_million: MILLION / 50,
            accept_fail_per_million: MILLION / 20,
            ..Faults::none()
        }
    }

    /// As [`rough`](Faults::rough), and connections break and fail: what a correct program must survive.
    pub fn harsh() -> Faults {
        Faults {
            reset_per_million: MILLION / 200,
            refuse_per_million: MILLION / 20,
            connect_lost_per_million: MILLION / 50,
            ..Faults::rough()
        }
    }

    pub(super) fn happens(rng: &mut fastrand::Rng, per_million: u32) -> bool {
        // Nothing is drawn for what cannot happen: a fault that is off leaves the history as it is.
        per_million > 0 && rng.u32(0..MILLION) < per_million
    }

    pub(super) fn latency(&self, rng: &mut fastrand::Rng) -> Duration {
        let (min, max) = (self.latency_min.as_nanos() as u64, self.latency_max.as_nanos() as u64);
        Duration::from_nanos(if max > min { rng.u64(min..=max) } else { min })
    }
}

impl Default for Faults {
    fn default() -> Self {
        Faults::rough()
    }
}
