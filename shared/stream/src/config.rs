//! The stream's limits and times: each with its default and the reason for it.

use std::time::Duration;

use crate::fault::Faults;

/// When a message counts as being on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sync {
    /// A write and a sync for each: the lowest latency of a lone message, the lowest rate.
    PerMessage,
    /// One write and one sync for all that came while the last one ran.
    #[default]
    PerBatch,
    /// Written, never synced: survives the death of the process, not that of the machine. A log that a reboot may have
    /// cut short is refused.
    Never,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Messages a sender keeps (waiting, sent or unanswered); further sends are refused. Bounds memory (about 100 octets
    /// each) while a peer is away. 65,536.
    pub messages_max: usize,
    /// Octets of messages a sender keeps on disk. 256 MiB.
    pub bytes_max: u64,
    /// Octets of bodies a sender keeps in memory as well; others are read back from the log when they are sent. 4 MiB.
    pub cache_max: usize,
    /// The longest body, and the longest answer. 1 MiB: a message is a fact, not a file.
    pub body_max: usize,
    /// Message numbers a receiver grants at first: what it promises to hold. A multiple of 4. 256.
    pub window: u64,
    /// What the window may be doubled to when the sender runs out of numbers. 8,192.
    pub window_max: u64,
    /// Messages handed to the inbox at once: one transaction. 512.
    pub batch_max: usize,
    /// How long feedback waits for a frame to ride on. At most a second; 10 ms is half of what a caller notices and one
    /// frame in twenty at 2,000 messages a second.
    pub ack_delay: Duration,
    /// Silence after which the newest message is sent again; grows with the measured round trip, doubles when nothing
    /// comes, up to a second. 20 ms.
    pub probe_after: Duration,
    /// Silence, with something outstanding, after which the connection is given up. 15 s.
    pub silence_max: Duration,
    /// How long what waits is kept for a peer that is away before it is dropped and reported. 5 minutes.
    pub patience: Duration,
    /// Work older than this is reported by the side that does it. 10 s.
    pub stuck_work: Duration,
    /// How much later the side that waits for it says so, beyond a round trip. 2 s.
    pub stuck_call_later: Duration,
    /// Frames to lose on purpose. None.
    pub faults: Faults,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            messages_max: 65_536,
            bytes_max: 256 << 20,
            cache_max: 4 << 20,
            body_max: 1 << 20,
            window: 256,
            window_max: 8192,
            batch_max: 512,
            ack_delay: Duration::from_millis(10),
            probe_after: Duration::from_millis(20),
            silence_max: Duration::from_secs(15),
            patience: Duration::from_secs(300),
            stuck_work: Duration::from_secs(10),
            stuck_call_later: Duration::from_secs(2),
            faults: Faults::default(),
        }
    }
}

impl Config {
    /// The configuration with everything that would contradict itself mended: the window a multiple of four and at least
    /// four, its cap no lower, feedback within a second.
    #[must_use]
    pub fn mended(mut self) -> Config {
        self.window = self.window.max(4).next_multiple_of(4);
        self.window_max = self.window_max.max(self.window);
        self.batch_max = self.batch_max.max(1);
        self.messages_max = self.messages_max.max(1);
        self.ack_delay = self.ack_delay.min(Duration::from_secs(1));
        self
    }
}
