//! Children that never outlive their parent, processes that are nobody's child, and signals to whole groups.

use std::io::{self, Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A signal to end a process with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Term,
    Kill,
}

/// Makes the child lead a session and process group of its own (its pid is the number of both), and die by SIGKILL when
/// the **thread** that spawns it ends (prctl(2), PR_SET_PDEATHSIG): spawn it from a thread that lives as long as the
/// process. Also gives it default signal dispositions for SIGPIPE and an empty signal mask.
pub fn lead_session_and_die_with_parent(command: &mut Command) -> &mut Command {
    let parent = std::process::id();
    // SAFETY: between fork and exec the closure makes only async-signal-safe calls (setsid, prctl, getppid, signal,
    // sigemptyset, sigprocmask) on its own stack, and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            if libc::setsid() < 0 {
                return Err(io::Error::last_os_error());
            }
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, 0, 0, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the prctl; then nobody would tell us.
            if libc::getppid() as u32 != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
            Ok(())
        })
    }
}

/// Starts a process that is not this one's child but that of whoever adopts orphans here (process 1, systemd's user manager, any
/// subreaper): who supervises this process hears of that one's end too. Its number; how it ends cannot be asked.
///
/// # Errors
/// It could not be started.
pub fn spawn_orphan(command: &mut Command) -> io::Result<u32> {
    let (mut told, tell) = io::pipe()?;
    let fd = tell.as_raw_fd();
    let (flags, none) = (libc::c_long::from(libc::SIGCHLD), libc::c_long::from(0));
    // SAFETY: between fork and exec the closure makes only async-signal-safe calls (clone, getpid, write, _exit) on its own stack,
    // and allocates nothing. The clone shares nothing and so is a fork(2), without the handlers that a process of several threads
    // must not run there; with all but its flags zero, their order, which differs by machine, does not matter. `fd` is open until
    // the spawn below has returned, and the file that borrows it does not close it.
    unsafe {
        command.pre_exec(move || {
            match libc::syscall(libc::SYS_clone, flags, none, none, none, none) {
                -1 => return Err(io::Error::last_os_error()),
                0 => {}
                _ => libc::_exit(0),
            }
            let number = std::process::id().to_ne_bytes();
            ManuallyDrop::new(std::fs::File::from_raw_fd(fd)).write_all(&number)
        });
    }
    // The one between ends at once.
    command.spawn()?.wait()?;
    drop(tell);
    let mut number = [0; 4];
    told.read_exact(&mut number)?;
    Ok(u32::from_ne_bytes(number))
}

/// Gives the child the score of any other process when memory runs out, where this one was given a lower one (oom_score_adj of
/// proc(5), which children inherit): the kernel then ends the child first. Without `/proc` nothing changes.
pub fn end_before_parent_when_memory_runs_out(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec the closure makes only async-signal-safe calls (open, pread, pwrite, close) on its own stack
    // and a constant, and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            let fd = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
            if fd >= 0 {
                let mut sign = 0u8;
                if libc::pread(fd, (&raw mut sign).cast(), 1, 0) == 1 && sign == b'-' {
                    libc::pwrite(fd, b"0".as_ptr().cast(), 1, 0);
                }
                libc::close(fd);
            }
            Ok(())
        })
    }
}

/// Sends `signal` to every process of group `pgid`. `Ok(false)`: there is none. Refuses the groups 0 and 1, which would
/// mean our own or everybody.
pub fn signal_group(pgid: u32, signal: Signal) -> io::Result<bool> {
    signal_id(pgid, signal, -1)
}

/// Sends `signal` to process `pid`. `Ok(false)`: there is none. The caller knows that `pid` is who it means (an unreaped
/// child, or one whose start time it has just compared).
pub fn signal_process(pid: u32, signal: Signal) -> io::Result<bool> {
    signal_id(pid, signal, 1)
}

fn signal_id(id: u32, signal: Signal, sign: i32) -> io::Result<bool> {
    let id = i32::try_from(id).ok().filter(|id| *id > 1);
    let id = id.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a process id that may be signalled"))?;
    let number = match signal {
        Signal::Term => libc::SIGTERM,
        Signal::Kill => libc::SIGKILL,
    };
    // SAFETY: kill takes two integers and touches no memory of ours.
    if unsafe { libc::kill(sign * id, number) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESRCH) { Ok(false) } else { Err(error) }
}

/// Flushes the whole file system that `file` is on (syncfs(2)): one call for a tree of many small files.
pub fn sync_file_system(file: &std::fs::File) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open for as long as `file` is borrowed.
    if unsafe { libc::syncfs(file.as_raw_fd()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn the_child_leads_its_group_and_a_signal_to_the_group_ends_it() {
        let mut child = lead_session_and_die_with_parent(Command::new("sleep").arg("60")).spawn().unwrap();
        assert!(signal_group(child.id(), Signal::Kill).unwrap());
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert!(!signal_group(child.id(), Signal::Kill).unwrap());
    }

    #[test]
    fn the_child_dies_with_the_thread_that_spawned_it() {
        let mut child =
            std::thread::spawn(|| lead_session_and_die_with_parent(Command::new("sleep").arg("60")).spawn().unwrap())
                .join()
                .unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn an_orphan_is_not_our_child_and_one_that_cannot_be_started_is_an_error() {
        use crate::kin::Kin;
        let number = spawn_orphan(Command::new("sleep").arg("60")).unwrap();
        let status = std::fs::read_to_string(format!("/proc/{number}/status")).unwrap();
        assert!(status.starts_with("Name:\tsleep\n"), "{status}");
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:\t")).unwrap();
        assert_ne!(parent, std::process::id().to_string());
        let kin = Kin::of(number).unwrap();
        assert!(kin.signal(libc::SIGKILL).unwrap());
        while kin.is_alive() {
            std::thread::yield_now();
        }
        assert_eq!(spawn_orphan(&mut Command::new("/nowhere/at/all")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_child_of_one_that_is_spared_when_memory_runs_out_is_not() {
        let own = "/proc/self/oom_score_adj";
        let before = std::fs::read_to_string(own).unwrap();
        // Only root may lower it; for others the child's is as ours is.
        let expected = match std::fs::write(own, "-500") {
            Ok(()) => "0",
            Err(_) => before.trim(),
        };
        let child = end_before_parent_when_memory_runs_out(Command::new("cat").arg(own)).output();
        std::fs::write(own, before.trim()).unwrap();
        assert_eq!(String::from_utf8(child.unwrap().stdout).unwrap().trim(), expected);
    }

    #[test]
    fn ids_that_would_mean_everybody_are_refused() {
        for id in [0, 1, u32::MAX] {
            assert!(signal_group(id, Signal::Term).is_err());
            assert!(signal_process(id, Signal::Term).is_err());
        }
    }
}
