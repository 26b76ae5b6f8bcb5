//! Ports for programs that listen on `$PORT`.
//!
//! Between the choice of a port and the program's bind somebody else could take it. Two things prevent that: a port is chosen
//! outside the range from which the kernel gives ports to whoever asks for any (`net.ipv4.ip_local_port_range`), so that only a
//! program that names it can take it; and every agent of this machine that chooses it first takes a lock of that
//! number, an abstract unix socket, which the kernel frees however its holder ends, and which is seen just where the port is (both belong
//! to the network namespace). What is left is a program that names the very number: it shows in a start's output and
//! is met by another port (see `PORT_CLASHES_MAX` in `actor`).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

/// Ports that are looked at before it is given up: all of a range at most.
const TRIES_MAX: u32 = 4096;
/// Programs of users do not listen below it, and many services have their well-known port there.
const LOWEST: u16 = 10_240;
/// A range that holds less is not worth preferring.
const FEWEST: u16 = 1024;

/// Where ports are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    first: u16,
    last: u16,
}

/// A port of 127.0.0.1 that is this start's; given back when dropped.
#[derive(Debug)]
pub struct Port {
    pub number: u16,
    _lock: UnixListener,
}

impl Default for Ports {
    fn default() -> Ports {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        Ports::beside(&text)
    }
}

impl Ports {
    /// The larger of what the kernel's own range (`LOW HIGH`) leaves below it and above it; all where it leaves next to nothing.
    fn beside(range: &str) -> Ports {
        let mut bounds = range.split_ascii_whitespace().filter_map(|number| number.parse::<u16>().ok());
        let (Some(low), Some(high)) = (bounds.next(), bounds.next()) else {
            return Ports { first: LOWEST, last: 32_767 };
        };
        let below = Ports { first: LOWEST, last: low.saturating_sub(1) };
        let above = Ports { first: high.saturating_add(1).max(LOWEST), last: u16::MAX };
        let widest = if below.count() >= above.count() { below } else { above };
        if widest.count() >= FEWEST { widest } else { Ports { first: LOWEST, last: u16::MAX } }
    }

    fn count(self) -> u16 {
        if self.last >= self.first { (self.last - self.first).saturating_add(1) } else { 0 }
    }

    /// Takes a port that nobody has. `seed`: where to begin, so that a port that was just left is not the next one.
    ///
    /// # Errors
    /// When none is found.
    pub fn take(self, seed: u32) -> io::Result<Port> {
        let count = u32::from(self.count());
        for step in 0..TRIES_MAX.min(count) {
            let number = self.first + (seed.wrapping_add(step) % count) as u16;
            if let Ok(lock) = lock(number)
                && steady_sys::net::can_bind(SocketAddr::from((Ipv4Addr::LOCALHOST, number)))?
            {
                return Ok(Port { number, _lock: lock });
            }
        }
        let Ports { first, last } = self;
        Err(io::Error::new(io::ErrorKind::AddrInUse, format!("all that were tried of {first} to {last} are taken")))
    }
}

fn lock(number: u16) -> io::Result<UnixListener> {
    UnixListener::bind_addr(&UnixAddr::from_abstract_name(format!("steady-port-{number}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::time::{Duration, Instant};

    #[test]
    fn ports_are_taken_where_the_kernel_gives_none_away() {
        assert_eq!(Ports::beside("32768\t60999\n"), Ports { first: LOWEST, last: 32_767 });
        assert_eq!(Ports::beside("10000 50000"), Ports { first: 50_001, last: 65_535 });
        assert_eq!(Ports::beside("1024 65535"), Ports { first: LOWEST, last: 65_535 }, "it leaves none");
        assert_eq!(Ports::beside("1024 65000"), Ports { first: LOWEST, last: 65_535 }, "it leaves too few");
        assert_eq!(Ports::beside("nonsense"), Ports { first: LOWEST, last: 32_767 });
    }

    #[test]
    fn a_port_is_one_starts_alone_until_it_is_given_back() {
        let ports = Ports::default();
        let seed = std::process::id().wrapping_mul(31);
        let first = ports.take(seed).unwrap();
        let second = ports.take(first.number.wrapping_sub(ports.first).into()).unwrap();
        assert_ne!(first.number, second.number, "no other agent or start is given it");
        let number = first.number;
        // The program itself may listen on it.
        let program = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).unwrap();
        drop(first);
        let seed = u32::from(number - ports.first);
        assert_ne!(ports.take(seed).unwrap().number, number, "a program still listens there");
        drop(program);
        let one = Ports { first: number, last: number };
        // A child that another test has forked and which has not come to its exec has open what was dropped here.
        let begun = Instant::now();
        let again = loop {
            match one.take(0) {
                Ok(port) => break port,
                Err(error) => assert!(begun.elapsed() < Duration::from_secs(60), "{error}"),
            }
            std::thread::yield_now();
        };
        assert_eq!(again.number, number);
    }

    #[test]
    fn when_every_port_is_taken_the_error_says_which() {
        let held = Ports::default().take(std::process::id()).unwrap();
        let one = Ports { first: held.number, last: held.number };
        let error = one.take(7).unwrap_err().to_string();
        assert!(error.contains(&held.number.to_string()), "{error}");
    }
}
