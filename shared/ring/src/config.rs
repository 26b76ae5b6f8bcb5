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
    /// Octets of one. Default 65,536: what a peer can have sent since the last batch comes in one receive, and leaves in one
    /// segment where it is only passed on. Small messages touch only the front of each. Bodies of 64 KiB and 1 MiB cost 0.75 to
    /// 0.88 of the CPU that they cost with buffers of 8,192 of which eight times as many were lent; small requests showed no
    /// difference (Linux 6.18, 2 cores, very busy). All of them are 16 MiB, of which is used what was ever under way at once.
    pub buffer_bytes: usize,
    /// Entries of the submission queue; the completion queue has four times as many. Default 1,024: operations that one
    /// batch may ask for before a second submit is needed.
    pub entries: u32,
    /// Run completion work in the worker's own wait (DEFER_TASKRUN) where the kernel can (6.1). Default true; false
    /// shows what an older kernel does.
    pub defer: bool,
    /// The generation of a slot's first connection. Default 0; tests begin near the end to see what is there.
    pub generation_first: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config { buffers: 256, buffer_bytes: 65_536, entries: 1_024, defer: true, generation_first: 0 }
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
