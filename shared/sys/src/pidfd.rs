//! A process as a file descriptor: it becomes readable when the process ends, and never means another process.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Opens process `pid` (pidfd_open(2), Linux 5.3). The descriptor is close-on-exec; it polls readable once the process
/// has ended, reaped or not. Only meaningful for a child that has not been reaped, or when the caller checks afterwards
/// that `pid` still is who it took it for.
pub fn open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::process::Command;

    fn readable(fd: &OwnedFd, timeout_ms: i32) -> bool {
        let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd that outlives the call.
        unsafe { libc::poll(&mut poll, 1, timeout_ms) == 1 }
    }

    #[test]
    fn it_becomes_readable_when_the_process_ends_and_not_before() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let fd = open(child.id()).unwrap();
        assert!(!readable(&fd, 0));
        child.kill().unwrap();
        assert!(readable(&fd, -1));
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_does_not_exist_is_an_error() {
        assert!(open(0x7fff_fff0).is_err());
    }
}
