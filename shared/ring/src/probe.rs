//! Which driver this machine allows, and why not the better one.

use std::fmt;
use std::io;
use std::str::FromStr;

use crate::{Config, Uring};

/// What the operator asked for (`--io auto|uring|epoll`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// io_uring where it works, epoll elsewhere.
    #[default]
    Auto,
    Uring,
    Epoll,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Choice::Auto),
            "uring" => Ok(Choice::Uring),
            "epoll" => Ok(Choice::Epoll),
            _ => Err(format!("`{text}` is not a driver: write auto, uring or epoll")),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Choice::Auto => "auto",
            Choice::Uring => "uring",
            Choice::Epoll => "epoll",
        })
    }
}

/// The driver to use.
#[derive(Debug)]
pub enum Chosen {
    Uring,
    /// `Some` when `auto` had to do without io_uring: say so loudly, once, and count it.
    Epoll(Option<Unavailable>),
}

/// Why io_uring cannot be used. Its `Display` is one sentence for the log that says what to do.
#[derive(Debug)]
pub enum Unavailable {
    /// The kernel has no io_uring, or a filter says so (ENOSYS).
    Missing,
    /// `kernel.io_uring_disabled` forbids it: 1 for processes outside a group, 2 for all.
    Sysctl(u8),
    /// EPERM or EACCES without that sysctl: a seccomp filter, as most containers have, or a security module.
    Forbidden,
    /// RLIMIT_MEMLOCK or a memory limit is too small for the rings (ENOMEM). The limit in octets, `None` if it cannot
    /// be read.
    Memory(Option<u64>),
    /// Older than Linux 6.0: no multishot receive or no buffer rings (EINVAL).
    TooOld,
    /// Out of descriptors (EMFILE, ENFILE).
    Descriptors,
    Other(io::Error),
}

impl Unavailable {
    fn from_error(error: io::Error) -> Unavailable {
        match error.raw_os_error() {
            Some(libc::ENOSYS) => Unavailable::Missing,
            Some(libc::EPERM | libc::EACCES) => match sysctl() {
                0 => Unavailable::Forbidden,
                value => Unavailable::Sysctl(value),
            },
            Some(libc::ENOMEM) => Unavailable::Memory(steady_sys::limits::memlock()),
            Some(libc::EINVAL | libc::EOPNOTSUPP) => Unavailable::TooOld,
            Some(libc::EMFILE | libc::ENFILE) => Unavailable::Descriptors,
            _ => Unavailable::Other(error),
        }
    }

    /// One word for a metric's label.
    pub fn label(&self) -> &'static str {
        match self {
            Unavailable::Missing => "missing",
            Unavailable::Sysctl(_) => "sysctl",
            Unavailable::Forbidden => "seccomp",
            Unavailable::Memory(_) => "memlock",
            Unavailable::TooOld => "kernel",
            Unavailable::Descriptors => "descriptors",
            Unavailable::Other(_) => "other",
        }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unavailable::Missing => f.write_str(
                "io_uring is not there: the kernel was built without it, or a filter answers ENOSYS for io_uring_setup",
            ),
            Unavailable::Sysctl(value) => {
                write!(
                    f,
                    "io_uring is switched off: sysctl kernel.io_uring_disabled is {value}, set it to 0 to allow it"
                )
            }
            Unavailable::Forbidden => f.write_str(
                "io_uring is forbidden (EPERM), most likely by a container's seccomp profile: \
                 allow io_uring_setup, io_uring_enter and io_uring_register",
            ),
            Unavailable::Memory(limit) => {
                f.write_str("io_uring could not get its memory (ENOMEM): raise LimitMEMLOCK or the memory limit")?;
                limit.map_or(Ok(()), |limit| write!(f, " (RLIMIT_MEMLOCK is {limit} octets)"))
            }
            Unavailable::TooOld => f.write_str(
                "io_uring lacks multishot receive or buffer rings here: Linux 6.0 or later is needed, 6.1 recommended",
            ),
            Unavailable::Descriptors => {
                f.write_str("io_uring could not be set up for want of file descriptors: raise LimitNOFILE")
            }
            Unavailable::Other(error) => write!(f, "io_uring could not be set up: {error}"),
        }
    }
}

impl std::error::Error for Unavailable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Unavailable::Other(error) => Some(error),
            _ => None,
        }
    }
}

fn sysctl() -> u8 {
    let text = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Tries to set up the drivers of so many workers as they will, all at once, unless epoll was asked for: what one may have
/// (memory, descriptors) the last may find used up.
///
/// # Errors
/// io_uring was asked for by name and cannot be had.
pub fn choose(choice: Choice, workers: usize) -> Result<Chosen, Unavailable> {
    choose_by(choice, || (0..workers).map(|_| Uring::new(Config::default())).collect::<io::Result<Vec<_>>>())
}

fn choose_by<T>(choice: Choice, set_up: impl FnOnce() -> io::Result<T>) -> Result<Chosen, Unavailable> {
    if choice == Choice::Epoll {
        return Ok(Chosen::Epoll(None));
    }
    match (set_up(), choice) {
        (Ok(_), _) => Ok(Chosen::Uring),
        (Err(error), Choice::Uring) => Err(Unavailable::from_error(error)),
        (Err(error), _) => Ok(Chosen::Epoll(Some(Unavailable::from_error(error)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_reads_what_it_writes_and_explains_what_it_does_not() {
        for choice in [Choice::Auto, Choice::Uring, Choice::Epoll] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert!("kqueue".parse::<Choice>().unwrap_err().contains("auto, uring or epoll"));
    }

    #[test]
    fn epoll_is_had_without_asking_for_io_uring() {
        assert!(matches!(choose(Choice::Epoll, 1), Ok(Chosen::Epoll(None))));
    }

    #[test]
    fn for_want_of_memory_auto_falls_to_epoll_and_says_why_and_uring_refuses_and_says_what_to_do() {
        let short = || Err::<(), _>(io::Error::from_raw_os_error(libc::ENOMEM));
        let Ok(Chosen::Epoll(Some(why))) = choose_by(Choice::Auto, short) else { panic!("it serves with epoll") };
        let Err(refused) = choose_by(Choice::Uring, short) else {
            panic!("what was asked for by name is not replaced")
        };
        for sentence in [why.to_string(), refused.to_string()] {
            assert!(sentence.contains("raise LimitMEMLOCK"), "{sentence}");
        }
        assert_eq!(why.label(), "memlock");
    }

    #[test]
    fn every_refusal_of_the_kernel_has_its_own_reason() {
        let reason = |errno| Unavailable::from_error(io::Error::from_raw_os_error(errno)).label();
        assert_eq!(reason(libc::ENOSYS), "missing");
        assert_eq!(reason(libc::ENOMEM), "memlock");
        assert_eq!(reason(libc::EINVAL), "kernel");
        assert_eq!(reason(libc::EMFILE), "descriptors");
        assert_eq!(reason(libc::EIO), "other");
        assert!(["seccomp", "sysctl"].contains(&reason(libc::EPERM)));
    }
}
