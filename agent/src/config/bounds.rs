//! `[limits]`: the engine's bounds by the names that they have there, with the values that a host wants.

use std::sync::Arc;
use std::time::Duration;

use steady_proxy::{Bounds, KEYS, Key, Limits, Unit};

use crate::toml_read::Reader;

/// Bounds that mean nothing at a host: its clients are edges, which judge their own clients, and its upstreams processes of this
/// machine.
const NOT_HERE: &[&str] = &[
    "connections_per_client_max",
    "connection_rate_max",
    "connection_rate_per_client_max",
    "take_stall",
    "upstream_ping_interval",
    "upstream_ping_timeout",
    "handshake_max",
];

/// The bounds of a host that is told nothing.
pub fn default() -> Bounds {
    Bounds {
        worker: Limits { connections_per_client_max: 0, take_stall: Duration::MAX, ..Limits::default() },
        clients: edges(),
        upstreams: steady_http::Limits::default(),
    }
}

/// What edges may do on a connection that they share among all their clients: more of everything that a single client
/// would be suspected for.
fn edges() -> steady_http::Limits {
    steady_http::Limits {
        // The edge adds fields to heads that were at its own limit.
        head_bytes_max: 48 * 1024,
        fields_max: 160,
        streams_max: 1024,
        // What one client does would end the connection of all of them: each edge judges its own. (All clients that leave, and all
        // whose requests only a host finds malformed, are resets here.)
        resets_max: 10_000_000,
        provoked_resets_max: 10_000_000,
        control_frames_max: 100_000,
        stream_window: 64 * 1024,
        connection_window: 16 * 1024 * 1024,
        ..steady_http::Limits::default()
    }
}

/// The bounds that can be configured here.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(|key| !NOT_HERE.contains(&key.name))
}

pub(super) fn read(limits: &mut Reader<'_>) -> Arc<Bounds> {
    let mut bounds = default();
    for key in keys() {
        let number = match key.unit {
            Unit::Count => limits.number(key.name, 0, u64::MAX),
            Unit::Octets => limits.size(key.name),
            Unit::Milliseconds => limits.duration(key.name).map(milliseconds),
        };
        if let Some(number) = number
            && let Err(what) = key.set(&mut bounds, number)
        {
            limits.fault::<()>(key.name, what);
        }
    }
    Arc::new(bounds)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
