//! Waking a real driver: an event counter, touched only when the driver sleeps.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

use crate::Wake;

const AWAKE: u8 = 0;
const ASLEEP: u8 = 1;
const WOKEN: u8 = 2;

/// Shared by a driver and its wakers. The driver polls the counter edge-triggered and never reads it: a wake costs its
/// sender one write, and its receiver nothing.
#[derive(Debug)]
pub(crate) struct EventFd {
    state: AtomicU8,
    fd: OwnedFd,
}

impl EventFd {
    pub(crate) fn new() -> io::Result<EventFd> {
        Ok(EventFd { state: AtomicU8::new(AWAKE), fd: steady_sys::net::eventfd()? })
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// The driver is about to block. False when it was woken meanwhile and must not.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.state.compare_exchange(AWAKE, ASLEEP, SeqCst, SeqCst).is_ok()
    }

    /// The driver is awake again (or never slept): whether somebody woke it.
    pub(crate) fn awake(&self) -> bool {
        // A load first: the usual answer costs no locked instruction.
        self.state.load(SeqCst) != AWAKE && self.state.swap(AWAKE, SeqCst) == WOKEN
    }
}

impl Wake for EventFd {
    fn wake(&self) {
        if self.state.swap(WOKEN, SeqCst) == ASLEEP {
            steady_sys::net::signal_eventfd(self.fd.as_fd());
        }
    }
}
