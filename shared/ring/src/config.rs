//! The sizes of a real driver, each with its reason.

use std::io;
use std::time::Duration;

/// How long a listener rests after descriptors or memory ran out. Long enough for some to be freed, short enough that
/// the kernel's backlog holds meanwhile.
pub const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Sizes of one driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Receive buffers, a power of two from 1 to 32,768. Default 256: receives that one batch can bring. More than
    /// that are split by the kernel's ENOBUFS into two batches, which costs one more submission a connection.
    pub buffers: u16,
    /// Octets of one. Default 8,192: a request fits, a full TLS record takes three. All buffers together fill a common
    /// second-level cache (2 MiB); small messages touch only the front of each and stay far below it. Receiving bulk
    /// cost 0.28 to 0.30 ns of CPU an octet, against 0.34 to 0.39 with buffers of 4,096 and 0.23 to 0.26 with 64 of
    /// 16,384, which would be too few for a batch; echoing small messages showed no difference (Linux 6.18, 2 cores,
    /// busy).
    pub buffer_bytes: usize,
    /// Entries of the submission queue; the completion queue has four times as many. Default 1,024: operations that one
    /// batch may ask for before a second submit is needed.
    pub entries: u32,
    /// Run completion work in the worker's own wait (DEFER_TASKRUN) where the kernel can (6.1). Default true; false
    /// shows what an older kernel does.
    pub defer: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config { buffers: 256, buffer_bytes: 8_192, entries: 1_024, defer: true }
    }
}

impl Config {
    pub(crate) fn validate(&self) -> io::Result<()> {
        let fault = if !self.buffers.is_power_of_two() || self.buffers > 1 << 15 {
            "buffers must be a power of two from 1 to 32768"
        } else if self.buffer_bytes == 0 || self.buffer_bytes > 1 << 24 {
            "buffer_bytes must be from 1 to 16 MiB"
        } else if self.entries == 0 || self.entries > 1 << 13 {
            "entries must be from 1 to 8192"
        } else {
            return Ok(());
        };
        Err(io::Error::new(io::ErrorKind::InvalidInput, fault))
    }
}
