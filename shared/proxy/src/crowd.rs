//! Who may connect: how many connections each client's address has open at this worker, and how fast new ones come, of each
//! client and of all, so that none takes the places of all others.
//!
//! An IPv6 client has a whole network to itself: its /64 counts as one address. A connection whose client nobody knows (a unix
//! socket, a PROXY header that names none) counts among all only. There is at most one entry a connection, with a bound on
//! rates one more a client that has left within the last second; the memory of the most that there ever were is kept. With
//! the bounds of clients off there is none.

use std::collections::HashMap;
use std::hash::RandomState;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use steady_ring::{ConnId, Driver, Time};

use crate::conn::Http;
use crate::limits::Limits;
use crate::policy::Policy;
use crate::worker::Worker;

/// Whose connections are counted together: an IPv6 network's 64 bits, or those that no client can have (of multicast) with an
/// IPv4 address below them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Origin(u64);

impl From<SocketAddr> for Origin {
    fn from(addr: SocketAddr) -> Origin {
        Origin(match addr.ip().to_canonical() {
            IpAddr::V4(ip) => u64::from(u32::MAX) << 32 | u64::from(ip.to_bits()),
            IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
        })
    }
}

/// How fast something comes: the moment at which all that came would have come had it come evenly (the generic cell rate
/// algorithm). As many as a second allows may come at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pace(Time);

impl Pace {
    /// What the next one would make of it; `None` while it would come too soon. `rate`: so many a second, 0: no bound.
    fn next(self, rate: u32, now: Time) -> Option<Pace> {
        const SECOND: Duration = Duration::from_secs(1);
        if rate == 0 {
            return Some(self);
        }
        let next = self.0.max(now) + SECOND / rate;
        (next <= now + SECOND).then_some(Pace(next))
    }

    /// Whether as many may come again as if none had.
    fn is_forgotten(self, now: Time) -> bool {
        self.0 <= now
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Presence {
    pace: Pace,
    open: u32,
}

/// See the module. Its hash has a key, as strangers choose what is in it.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    clients: HashMap<Origin, Presence, RandomState>,
    /// Of all.
    pace: Pace,
}

impl Crowd {
    /// Lets one more in, of this client if anybody knows it, unless that is against a bound; if it is, it has not counted.
    pub(crate) fn enter(&mut self, client: Option<SocketAddr>, limits: &Limits, now: Time) -> Entry {
        let all = self.pace.next(limits.connection_rate_max, now);
        let client = client.filter(|_| limits.tells_clients_apart());
        let Some(client) = client else {
            let Some(pace) = all else { return Entry::TooSoon };
            self.pace = pace;
            return Entry::Uncounted;
        };
        if limits.connection_rate_per_client_max > 0 && self.clients.len() == self.clients.capacity() {
            self.sweep(now);
        }
        let presence = self.clients.entry(client.into()).or_default();
        let max = limits.connections_per_client_max;
        if max > 0 && presence.open as usize >= max {
            return Entry::Full;
        }
        let Some(own) = presence.pace.next(limits.connection_rate_per_client_max, now) else {
            return Entry::ClientTooSoon;
        };
        let Some(pace) = all else {
            if presence.open == 0 && presence.pace.is_forgotten(now) {
                self.clients.remove(&client.into());
            }
            return Entry::TooSoon;
        };
        presence.pace = own;
        presence.open += 1;
        self.pace = pace;
        Entry::Counted
    }

    /// Takes out who has left long enough ago, and makes room for as many again where that was few: each entry is looked at a
    /// constant number of times.
    #[cold]
    fn sweep(&mut self, now: Time) {
        let before = self.clients.len();
        self.clients.retain(|_, presence| presence.open > 0 || !presence.pace.is_forgotten(now));
        if self.clients.len() > before / 2 {
            self.clients.reserve(self.clients.len());
        }
    }

    /// One that was counted is gone.
    pub(crate) fn leave(&mut self, client: SocketAddr, now: Time) {
        let origin = client.into();
        if let Some(presence) = self.clients.get_mut(&origin) {
            presence.open -= 1;
            if presence.open == 0 && presence.pace.is_forgotten(now) {
                self.clients.remove(&origin);
            }
        }
    }

    /// Counts one that is there already, however many there are.
    fn recount(&mut self, client: SocketAddr) {
        self.clients.entry(client.into()).or_default().open += 1;
    }

    /// Forgets every client, memory included.
    fn forget(&mut self) {
        self.clients = HashMap::default();
    }
}

impl Limits {
    /// Whether any bound is a client's own.
    fn tells_clients_apart(&self) -> bool {
        self.connections_per_client_max > 0 || self.connection_rate_per_client_max > 0
    }
}

/// What becomes of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Uncounted,
    Counted,
    /// Its client has as many as it may.
    Full,
    /// Its client has had as many within a second as it may.
    ClientTooSoon,
    /// So have all together.
    TooSoon,
}

impl<D: Driver, P: Policy> Worker<D, P> {
    /// Whether a new connection may stay, of this client if anybody knows it; counts it either way. `counted`: among its client's.
    pub(crate) fn enter(&mut self, client: Option<SocketAddr>) -> Option<bool> {
        let refused = match self.crowd.enter(client, &self.limits, self.now) {
            Entry::Uncounted => return Some(false),
            Entry::Counted => return Some(true),
            Entry::Full => &self.stats.connections_refused_client,
            Entry::ClientTooSoon => &self.stats.connections_refused_client_rate,
            Entry::TooSoon => &self.stats.connections_refused_rate,
        };
        refused.add(1);
        None
    }

    /// As [`enter`](Worker::enter), of one that is there already: it goes if it may not stay, `false` then.
    pub(crate) fn enter_late(&mut self, id: ConnId, client: Option<SocketAddr>) -> bool {
        let Some(counted) = self.enter(client) else {
            self.close(id);
            return false;
        };
        if let Some(conn) = self.conn(id) {
            conn.counted = counted;
        }
        true
    }

    /// Other limits are in force than `before`: who is connected counts where clients begin to, and no longer where they end to.
    pub(crate) fn recount_clients(&mut self, before: &Limits) {
        let counts = self.limits.tells_clients_apart();
        if before.tells_clients_apart() == counts {
            return;
        }
        self.crowd.forget();
        for conn in self.conns.iter_mut().filter_map(|slot| slot.conn.as_deref_mut()) {
            let is_named = !matches!(conn.http, Http::Proxied);
            let client = conn.peer().filter(|_| counts && is_named);
            conn.counted = client.is_some();
            if let Some(client) = client {
                self.crowd.recount(client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn at(millis: u32) -> Time {
        Time::ZERO + 10_000 * MILLI + millis * MILLI
    }

    fn open(connections_per_client_max: usize) -> Limits {
        Limits { connections_per_client_max, ..Limits::default() }
    }

    fn rates(connection_rate_per_client_max: u32, connection_rate_max: u32) -> Limits {
        Limits {
            connections_per_client_max: 0,
            connection_rate_max,
            connection_rate_per_client_max,
            ..Limits::default()
        }
    }

    fn enter(crowd: &mut Crowd, client: &str, limits: &Limits, now: Time) -> Entry {
        crowd.enter(Some(client.parse().unwrap()), limits, now)
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_network_and_ports_do_not_matter() {
        let mut crowd = Crowd::default();
        let mut enter = |client| enter(&mut crowd, client, &open(1), at(0));
        for client in ["192.0.2.1:1", "[2001:db8:0:1::1]:1"] {
            assert_eq!(enter(client), Entry::Counted);
        }
        for same in ["192.0.2.1:2", "[::ffff:192.0.2.1]:3", "[2001:db8:0:1:ffff::7]:9"] {
            assert_eq!(enter(same), Entry::Full, "{same}");
        }
        for other in ["192.0.2.2:1", "[2001:db8:0:2::1]:1"] {
            assert_eq!(enter(other), Entry::Counted, "{other}");
        }
    }

    #[test]
    fn who_leaves_makes_room_and_nothing_is_kept_of_who_has_left() {
        let mut crowd = Crowd::default();
        let enters = |crowd: &mut Crowd, client| enter(crowd, client, &open(2), at(0));
        assert_eq!(enters(&mut crowd, "192.0.2.1:1"), Entry::Counted);
        assert_eq!(enters(&mut crowd, "192.0.2.1:2"), Entry::Counted);
        crowd.leave("192.0.2.1:1".parse().unwrap(), at(0));
        assert_eq!(enters(&mut crowd, "192.0.2.1:3"), Entry::Counted);
        assert_eq!(enters(&mut crowd, "192.0.2.1:4"), Entry::Full);
        for port in [2, 3] {
            crowd.leave(SocketAddr::from(([192, 0, 2, 1], port)), at(0));
        }
        assert!(crowd.clients.is_empty());
    }

    #[test]
    fn without_a_bound_there_is_no_memory() {
        let mut crowd = Crowd::default();
        assert_eq!(enter(&mut crowd, "192.0.2.1:1", &rates(0, 0), at(0)), Entry::Uncounted);
        assert_eq!(enter(&mut crowd, "192.0.2.1:1", &rates(0, 7), at(0)), Entry::Uncounted);
        assert_eq!(crowd.clients.capacity(), 0);
    }

    #[test]
    fn a_client_may_come_as_often_as_its_rate_says_at_once_or_evenly_and_leaving_helps_nothing() {
        let mut crowd = Crowd::default();
        let limits = rates(4, 0);
        let mut comes = |client: &str, millis: u32| {
            let entry = enter(&mut crowd, client, &limits, at(millis));
            if entry == Entry::Counted {
                crowd.leave(client.parse().unwrap(), at(millis));
            }
            entry
        };
        let (well, soon) = (Entry::Counted, Entry::ClientTooSoon);
        assert_eq!([0; 6].map(|millis| comes("192.0.2.1:1", millis)), [well, well, well, well, soon, soon]);
        assert_eq!(comes("192.0.2.2:1", 0), well, "another's");
        assert_eq!([249, 250, 251, 500].map(|millis| comes("192.0.2.1:1", millis)), [soon, well, soon, well]);
        for turn in 0..100 {
            assert_eq!(comes("192.0.2.1:1", 1000 + 250 * turn), well, "four a second for ever");
        }
    }

    #[test]
    fn what_a_client_is_refused_takes_nothing_from_what_all_may_have() {
        let mut crowd = Crowd::default();
        let limits = rates(1, 3);
        let entries = [1, 1, 1, 1, 2, 3, 4].map(|host| {
            let client = SocketAddr::from(([192, 0, 2, host], 1));
            crowd.enter(Some(client), &limits, at(0))
        });
        use Entry::{ClientTooSoon as Own, Counted, TooSoon};
        assert_eq!(entries, [Counted, Own, Own, Own, Counted, Counted, TooSoon]);
        assert_eq!(crowd.enter(None, &limits, at(0)), TooSoon, "nor does one that nobody knows get in");
        assert_eq!(crowd.clients.len(), 3, "nothing is kept of who was not let in");
        assert_eq!(crowd.enter(None, &limits, at(334)), Entry::Uncounted);
    }

    #[test]
    fn clients_that_come_once_each_are_forgotten_and_their_memory_bounded() {
        let mut crowd = Crowd::default();
        let limits = rates(10, 0);
        for number in 0..200_000u32 {
            let client = SocketAddr::from((number.to_be_bytes(), 1));
            // Ten a millisecond: what came within the last tenth of a second still counts.
            let now = at(number / 10);
            assert_eq!(crowd.enter(Some(client), &limits, now), Entry::Counted);
            crowd.leave(client, now);
        }
        assert!(crowd.clients.capacity() < 20_000, "{}", crowd.clients.capacity());
    }
}
