//! The routing table: a versioned, checksummed file, memory-mapped and swapped whole
