//! The routing table: a versioned, checksummed file, memory-mapped and swapped whole

/// Replaced by the table room.
#[derive(Debug)]
pub struct Routes;
