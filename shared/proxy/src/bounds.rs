//! The bounds that may change while running: all of the engine's and the codecs' in one piece, and by what name, in what unit
//! and within what range a configuration says each.

use std::time::Duration;

use crate::limits::Limits;

/// What a policy may ask of its worker, whenever something is published. The worker's own hold at once, for what is there too;
/// the codecs' for connections that begin from then on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    pub worker: Limits,
    /// Of the codecs towards clients.
    pub clients: steady_http::Limits,
    /// Of the codecs towards upstreams.
    pub upstreams: steady_http::Limits,
}

/// What a bound's number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Count,
    Octets,
    Milliseconds,
}

/// A bound that can be configured.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub unit: Unit,
    least: u64,
    most: u64,
    read: fn(&Bounds) -> u64,
    write: fn(&mut Bounds, u64),
}

impl Key {
    /// Its number in `bounds`.
    pub fn of(&self, bounds: &Bounds) -> u64 {
        (self.read)(bounds)
    }

    /// Sets it.
    ///
    /// # Errors
    /// What would be right, when it is out of its range; nothing is changed.
    pub fn set(&self, bounds: &mut Bounds, number: u64) -> Result<(), String> {
        if (self.least..=self.most).contains(&number) {
            (self.write)(bounds, number);
            return Ok(());
        }
        let (what, unit) = match self.unit {
            Unit::Count => ("a number", ""),
            Unit::Octets => ("a size", " octets"),
            Unit::Milliseconds => ("a time", " ms"),
        };
        let (least, most) = (self.least, self.most);
        Err(format!("it is {number}{unit}: write {what} from {least} to {most}{unit}"))
    }
}

/// A number of any of the types that bounds have.
trait Number {
    fn plain(self) -> u64;
    fn from_plain(number: u64) -> Self;
}

macro_rules! whole {
    ($($type:ty),*) => {$(
        impl Number for $type {
            fn plain(self) -> u64 {
                u64::try_from(self).unwrap_or(u64::MAX)
            }

            fn from_plain(number: u64) -> Self {
                Self::try_from(number).unwrap_or(Self::MAX)
            }
        }
    )*};
}

whole!(u8, u32, usize);

impl Number for Duration {
    fn plain(self) -> u64 {
        u64::try_from(self.as_millis()).unwrap_or(u64::MAX)
    }

    fn from_plain(number: u64) -> Self {
        Duration::from_millis(number)
    }
}

macro_rules! keys {
    ($($part:ident.$name:ident: $unit:ident, $least:expr, $most:expr;)*) => {
        &[$(Key {
            name: stringify!($name),
            unit: Unit::$unit,
            least: $least,
            most: $most,
            read: |bounds| Number::plain(bounds.$part.$name),
            write: |bounds, number| bounds.$part.$name = Number::from_plain(number),
        }),*]
    };
}

const MILLION: u64 = 1_000_000;
const MIB: u64 = 1 << 20;
/// In milliseconds.
const HOUR: u64 = 3_600_000;

/// Every bound that can be configured. A range's lower end is what honest clients need; its upper end, what a mistyped number
/// exceeds. What is not here fits the engine's own buffers to each other.
pub const KEYS: &[Key] = keys! {
    worker.connections_max: Count, 1, 10 * MILLION;
    worker.connections_per_client_max: Count, 0, 10 * MILLION;
    worker.connection_rate_max: Count, 0, 10 * MILLION;
    worker.connection_rate_per_client_max: Count, 0, 10 * MILLION;
    worker.exchanges_max: Count, 1, 10 * MILLION;
    worker.parked_max: Count, 0, 10 * MILLION;
    worker.parked_bytes_max: Octets, MIB, MIB << 16;
    worker.heads_bytes_max: Octets, MIB, MIB << 16;
    worker.bodies_bytes_max: Octets, 64 * MIB, MIB << 16;
    worker.waiting_max: Count, 1, 10 * MILLION;
    worker.attempts_max: Count, 1, 10;
    worker.h1_connections_max: Count, 1, 60_000;
    worker.h2_connections_max: Count, 1, 1_000;
    worker.h2_connections_full_max: Count, 1, 1_000;
    worker.upstream_park_max: Milliseconds, 1_000, 24 * HOUR;
    worker.connect_max: Milliseconds, 100, HOUR;
    worker.handshake_max: Milliseconds, 100, HOUR;
    worker.linger: Milliseconds, 1, HOUR;
    worker.leave: Milliseconds, 1, HOUR;
    worker.write_stall: Milliseconds, 1_000, 24 * HOUR;
    worker.take_stall: Milliseconds, 1_000, 24 * HOUR;
    worker.body_rate_min: Count, 0, MILLION;
    worker.body_rate_over: Milliseconds, 1_000, HOUR;
    worker.upstream_ping_interval: Milliseconds, 1_000, HOUR;
    worker.upstream_ping_timeout: Milliseconds, 1_000, HOUR;
    worker.upstream_idle: Milliseconds, 100, 24 * HOUR;
    clients.head_bytes_max: Octets, 4 << 10, MIB;
    clients.fields_max: Count, 32, 10_000;
    clients.target_bytes_max: Octets, 256, MIB;
    clients.chunk_line_bytes_max: Octets, 16, 64 << 10;
    clients.streams_max: Count, 1, 10_000;
    clients.stream_window: Octets, 64 << 10, 64 * MIB;
    clients.connection_window: Octets, 64 << 10, 1024 * MIB;
    clients.continuations_max: Count, 0, 1_000;
    clients.resets_max: Count, 10, 10 * MILLION;
    clients.provoked_resets_max: Count, 10, 10 * MILLION;
    clients.empty_data_max: Count, 10, 10 * MILLION;
    clients.replies_bytes_max: Octets, 1 << 10, 64 * MIB;
    clients.control_frames_max: Count, 100, 10 * MILLION;
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_within_its_own_range_and_reads_as_it_was_set() {
        for key in KEYS {
            let mut bounds = Bounds::default();
            let default = key.of(&bounds);
            assert_eq!(key.set(&mut bounds, default), Ok(()), "{}", key.name);
            assert_eq!(bounds, Bounds::default(), "{}", key.name);
            for number in [key.least, key.most] {
                assert_eq!(key.set(&mut bounds, number), Ok(()));
                assert_eq!(key.of(&bounds), number, "{}", key.name);
            }
            assert_ne!(bounds, Bounds::default(), "{}", key.name);
        }
    }

    #[test]
    fn a_number_out_of_range_changes_nothing_and_is_told_what_would_be_right() {
        let mut bounds = Bounds::default();
        let key = |name: &str| KEYS.iter().find(|key| key.name == name).unwrap();
        let error = key("attempts_max").set(&mut bounds, 11).unwrap_err();
        assert_eq!(error, "it is 11: write a number from 1 to 10");
        let error = key("take_stall").set(&mut bounds, 0).unwrap_err();
        assert_eq!(error, "it is 0 ms: write a time from 1000 to 86400000 ms");
        assert_eq!(bounds, Bounds::default());
    }
}
