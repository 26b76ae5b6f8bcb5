//! Resource limits of this process.

use std::io;

/// Octets that may be locked in memory (RLIMIT_MEMLOCK, soft); `None` if it cannot be read.
pub fn memlock() -> Option<u64> {
    limit(libc::RLIMIT_MEMLOCK).ok().map(|limit| limit.rlim_cur)
}

/// File descriptors that may be open (RLIMIT_NOFILE): soft and hard.
pub fn descriptors() -> io::Result<(u64, u64)> {
    limit(libc::RLIMIT_NOFILE).map(|limit| (limit.rlim_cur, limit.rlim_max))
}

/// Sets the soft limit of file descriptors, at most the hard one.
pub fn set_descriptors(soft: u64) -> io::Result<()> {
    let mut wanted = limit(libc::RLIMIT_NOFILE)?;
    wanted.rlim_cur = soft.min(wanted.rlim_max);
    // SAFETY: a readable limit.
    crate::net::check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &wanted) }).map(drop)
}

fn limit(resource: libc::__rlimit_resource_t) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: room for one limit.
    crate::net::check(unsafe { libc::getrlimit(resource, &mut limit) })?;
    Ok(limit)
}
