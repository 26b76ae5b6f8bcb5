//! The epoll descriptor.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use steady_sys::net::check;

/// Readiness taken in one call; more waits for the next.
const BATCH: usize = 256;

pub(super) struct Poller {
    fd: OwnedFd,
    batch: Vec<libc::epoll_event>,
    pub(super) syscalls: u64,
    /// `epoll_pwait2` (5.11) sleeps to the nanosecond; before it a sleep is rounded up to the millisecond.
    fine: bool,
}

impl Poller {
    pub(super) fn new() -> io::Result<Poller> {
        // SAFETY: no pointers.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the kernel just made it for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Poller { fd, batch: Vec::with_capacity(BATCH), syscalls: 0, fine: true })
    }

    pub(super) fn add(&mut self, fd: RawFd, interest: i32, data: u64) -> io::Result<()> {
        self.syscalls += 1;
        let mut event = libc::epoll_event { events: interest as u32, u64: data };
        // SAFETY: a readable event.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) }).map(drop)
    }

    /// Needed where other descriptors of the same socket live on: closing ours alone does not take it out.
    pub(super) fn remove(&mut self, fd: RawFd) {
        self.syscalls += 1;
        // SAFETY: no event is needed for a removal.
        unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
    }

    /// Sleeps for readiness or until `timeout` (`None`: for ever) and swaps what came for `batch`, which is empty.
    pub(super) fn wait(&mut self, timeout: Option<Duration>, batch: &mut Vec<libc::epoll_event>) -> io::Result<()> {
        self.syscalls += 1;
        let count = match self.sleep(timeout) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        // SAFETY: the kernel wrote `count` events, at most the capacity.
        unsafe { self.batch.set_len(count) };
        std::mem::swap(&mut self.batch, batch);
        self.batch.reserve(BATCH);
        Ok(())
    }

    fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let (fd, events) = (self.fd.as_raw_fd(), self.batch.as_mut_ptr());
        if self.fine {
            let timespec = timeout.map(|timeout| libc::timespec {
                tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
                tv_nsec: timeout.subsec_nanos().into(),
            });
            let timespec = timespec.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
            let no_mask = std::ptr::null::<libc::sigset_t>();
            // SAFETY: room for BATCH events; the time is readable or null; no signal mask.
            let count = unsafe { libc::syscall(libc::SYS_epoll_pwait2, fd, events, BATCH, timespec, no_mask, 0usize) };
            match usize::try_from(count) {
                Ok(count) => return Ok(count),
                Err(_) => match io::Error::last_os_error() {
                    error if error.raw_os_error() == Some(libc::ENOSYS) => self.fine = false,
                    error => return Err(error),
                },
            }
        }
        let millis =
            timeout.map_or(-1, |timeout| i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX));
        // SAFETY: room for BATCH events.
        check(unsafe { libc::epoll_wait(fd, events, BATCH as i32, millis) }).map(|count| count as usize)
    }
}
