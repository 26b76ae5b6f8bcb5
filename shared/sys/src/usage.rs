//! What a process uses: its processor time and its memory.

use std::fs;
use std::io::Read;

/// Processor time of all threads of a process so far, in ns; `None` when it is not there. One system call, no file.
pub fn cpu_nanos(pid: u32) -> Option<u64> {
    let pid = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 0)?;
    // As clock_getcpuclockid(3) makes it, which asks the kernel once more whether there is such a process.
    let clock: libc::clockid_t = !pid << 3 | CPUCLOCK_SCHED;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: room for one timespec; the clock of a process that has ended meanwhile is refused.
    if unsafe { libc::clock_gettime(clock, &mut time) } != 0 {
        return None;
    }
    Some(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// The clock of a process that counts what it ran (`CPUCLOCK_SCHED` of Linux' `posix-timers.h`).
const CPUCLOCK_SCHED: libc::clockid_t = 2;

/// Resident memory of a process in octets (proc_pid_statm(5), the second field); 0 when it is not there.
pub fn resident_bytes(pid: u32) -> u64 {
    // Three calls: reading to the end would be six.
    let mut text = [0; 128];
    let read = fs::File::open(format!("/proc/{pid}/statm")).and_then(|mut file| file.read(&mut text));
    let text = read.ok().and_then(|length| std::str::from_utf8(&text[..length]).ok()).unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * page_bytes()
}

/// The octets of a page of memory.
pub fn page_bytes() -> u64 {
    // SAFETY: asks for a number that never changes.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(page).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_is_seen_to_and_one_that_is_not_there_is_not() {
        let me = std::process::id();
        let before = cpu_nanos(me).unwrap();
        let mut sum = 0u64;
        while cpu_nanos(me).unwrap() < before + 1_000_000 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(resident_bytes(me) > 100_000);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert_eq!((cpu_nanos(pid), resident_bytes(pid)), (None, 0));
        assert_eq!((cpu_nanos(0), cpu_nanos(u32::MAX)), (None, None));
    }
}
