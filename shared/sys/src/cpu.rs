//! Which cores this process may use, and pinning a thread to one.

use std::io;

/// The cores this process may run on, by number.
///
/// # Errors
/// What `sched_getaffinity` says.
pub fn allowed() -> io::Result<Vec<usize>> {
    // SAFETY: an all-zero cpu_set_t is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours and as large as the call is told.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every number asked for is below CPU_SETSIZE, the set's capacity.
    Ok((0..libc::CPU_SETSIZE as usize).filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect())
}

/// Pins the calling thread to one core.
///
/// # Errors
/// What `sched_setaffinity` says, or `InvalidInput` for a number no set can hold.
pub fn pin(core: usize) -> io::Result<()> {
    if core >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: an all-zero cpu_set_t is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `core` is below the set's capacity, as just checked.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the set is ours and as large as the call is told; 0 names the calling thread.
    let result = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_thread_can_be_pinned_to_a_core_that_it_may_use() {
        std::thread::spawn(|| {
            let core = *super::allowed().unwrap().last().unwrap();
            super::pin(core).unwrap();
            assert_eq!(super::allowed().unwrap(), [core]);
        })
        .join()
        .unwrap();
        assert!(super::pin(1 << 20).is_err());
    }
}
