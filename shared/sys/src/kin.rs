//! Processes that belong together: a child that ends with its parent, and a process named so that another one, which got
//! the same number later, is never mistaken for it.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;

use crate::pidfd;

/// A process: its number and when it began (clock ticks since boot, field 22 of proc_pid_stat(5)). The pair is unique
/// for as long as the machine is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kin {
    pub pid: u32,
    pub started: u64,
}

impl Kin {
    /// The living process of that number; `None` when there is none, or only a zombie.
    pub fn of(pid: u32) -> Option<Kin> {
        let (state, started) = stat(pid)?;
        (state != 'Z' && state != 'X').then_some(Kin { pid, started })
    }

    /// Whether this very process still lives.
    pub fn is_alive(self) -> bool {
        Kin::of(self.pid) == Some(self)
    }

    /// Sends `signal` to this very process, through a pidfd, so that it cannot reach another one. `Ok(false)`: it is
    /// gone.
    pub fn signal(self, signal: i32) -> io::Result<bool> {
        let fd = match pidfd::open(self.pid) {
            Ok(fd) => fd,
            Err(error) => return gone_or(error),
        };
        // The pidfd fixes the process; the look after it makes sure that it is the one meant.
        if !self.is_alive() {
            return Ok(false);
        }
        // SAFETY: an open pidfd; no siginfo is passed, so the kernel reads no memory of ours.
        let result = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
        };
        match result {
            0 => Ok(true),
            _ => gone_or(io::Error::last_os_error()),
        }
    }
}

/// Asks the kernel to send this process SIGTERM when the thread that spawned it ends, and says whether `parent` is still
/// its parent (false: it ended before the call; nothing will be sent). Call it before other threads exist.
pub fn die_with_parent(parent: u32) -> bool {
    // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory.
    let set = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM, 0, 0, 0) } == 0;
    set && std::os::unix::process::parent_id() == parent
}

fn gone_or(error: io::Error) -> io::Result<bool> {
    if error.raw_os_error() == Some(libc::ESRCH) { Ok(false) } else { Err(error) }
}

/// State (field 3) and start time (field 22). The name in field 2 may hold anything, so fields are counted from the last
/// parenthesis.
fn stat(pid: u32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text[text.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_living_process_is_known_and_a_reaped_one_is_not() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let kin = Kin::of(child.id()).unwrap();
        assert!(kin.is_alive());
        assert!(kin.signal(libc::SIGKILL).unwrap());
        child.wait().unwrap();
        assert!(!kin.is_alive());
        assert!(!kin.signal(libc::SIGKILL).unwrap());
    }

    #[test]
    fn a_process_with_another_start_is_another_process() {
        let me = Kin::of(std::process::id()).unwrap();
        let stranger = Kin { started: me.started + 1, ..me };
        assert!(!stranger.is_alive());
        assert!(!stranger.signal(libc::SIGKILL).unwrap());
    }
}
