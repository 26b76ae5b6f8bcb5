//! How many connections each client's address has open at this worker, so that none takes the places of all others.
//!
//! An IPv6 client has a whole network to itself: its /64 counts as one address. A connection whose client nobody knows (a unix
//! socket, a PROXY header that names none) is not counted. There is at most one entry a connection, and the memory of the most
//! that there ever were is kept; with the bound off there is none.

use std::collections::HashMap;
use std::hash::RandomState;
use std::net::{IpAddr, SocketAddr};

use steady_ring::Driver;

use crate::conn::Http;
use crate::policy::Policy;
use crate::worker::Worker;

/// Whose connections are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Origin {
    V4(u32),
    /// The network's 64 bits.
    V6(u64),
}

impl From<SocketAddr> for Origin {
    fn from(addr: SocketAddr) -> Origin {
        match addr.ip().to_canonical() {
            IpAddr::V4(ip) => Origin::V4(ip.to_bits()),
            IpAddr::V6(ip) => Origin::V6((ip.to_bits() >> 64) as u64),
        }
    }
}

/// See the module. Its hash has a key, as strangers choose what is in it.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    open: HashMap<Origin, u32, RandomState>,
}

impl Crowd {
    /// Counts one more of this client's, unless it has `max` (0: no bound) already: whether it may stay, and was counted.
    pub(crate) fn enter(&mut self, client: SocketAddr, max: usize) -> Entry {
        if max == 0 {
            return Entry::Uncounted;
        }
        let open = self.open.entry(client.into()).or_default();
        if *open as usize >= max {
            return Entry::Full;
        }
        *open += 1;
        Entry::Counted
    }

    /// One that was counted is gone.
    pub(crate) fn leave(&mut self, client: SocketAddr) {
        let origin = client.into();
        if let Some(open) = self.open.get_mut(&origin) {
            *open -= 1;
            if *open == 0 {
                self.open.remove(&origin);
            }
        }
    }

    /// Counts one that is there already, however many there are.
    pub(crate) fn recount(&mut self, client: SocketAddr) {
        *self.open.entry(client.into()).or_default() += 1;
    }

    /// Forgets everything, memory included.
    pub(crate) fn forget(&mut self) {
        self.open = HashMap::default();
    }
}

/// What becomes of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Uncounted,
    Counted,
    Full,
}

impl<D: Driver, P: Policy> Worker<D, P> {
    /// The bound is there from now on: whoever is connected counts.
    pub(crate) fn count_clients(&mut self) {
        for conn in self.conns.iter_mut().filter_map(|slot| slot.conn.as_deref_mut()) {
            let is_named = !matches!(conn.http, Http::Proxied);
            if let Some(client) = conn.peer().filter(|_| is_named && !conn.counted) {
                conn.counted = true;
                self.crowd.recount(client);
            }
        }
    }

    /// There is no bound any more.
    pub(crate) fn forget_clients(&mut self) {
        self.conns.iter_mut().filter_map(|slot| slot.conn.as_deref_mut()).for_each(|conn| conn.counted = false);
        self.crowd.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(crowd: &mut Crowd, client: &str, max: usize) -> Entry {
        crowd.enter(client.parse().unwrap(), max)
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_network_and_ports_do_not_matter() {
        let mut crowd = Crowd::default();
        for client in ["192.0.2.1:1", "[2001:db8:0:1::1]:1"] {
            assert_eq!(enter(&mut crowd, client, 1), Entry::Counted);
        }
        for same in ["192.0.2.1:2", "[::ffff:192.0.2.1]:3", "[2001:db8:0:1:ffff::7]:9"] {
            assert_eq!(enter(&mut crowd, same, 1), Entry::Full, "{same}");
        }
        for other in ["192.0.2.2:1", "[2001:db8:0:2::1]:1"] {
            assert_eq!(enter(&mut crowd, other, 1), Entry::Counted, "{other}");
        }
    }

    #[test]
    fn who_leaves_makes_room_and_nothing_is_kept_of_who_has_left() {
        let mut crowd = Crowd::default();
        assert_eq!(enter(&mut crowd, "192.0.2.1:1", 2), Entry::Counted);
        assert_eq!(enter(&mut crowd, "192.0.2.1:2", 2), Entry::Counted);
        crowd.leave("192.0.2.1:1".parse().unwrap());
        assert_eq!(enter(&mut crowd, "192.0.2.1:3", 2), Entry::Counted);
        assert_eq!(enter(&mut crowd, "192.0.2.1:4", 2), Entry::Full);
        for port in [2, 3] {
            crowd.leave(SocketAddr::from(([192, 0, 2, 1], port)));
        }
        assert!(crowd.open.is_empty());
    }

    #[test]
    fn without_a_bound_there_is_no_memory() {
        let mut crowd = Crowd::default();
        assert_eq!(enter(&mut crowd, "192.0.2.1:1", 0), Entry::Uncounted);
        assert_eq!(crowd.open.capacity(), 0);
    }
}
