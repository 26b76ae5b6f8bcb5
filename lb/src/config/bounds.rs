//! `[limits]`: the engine's bounds by the names that they have there, with the values that an edge wants.

use std::sync::Arc;
use std::time::Duration;

use steady_proxy::{Bounds, KEYS, Key, Unit};

use super::read::Section;

/// What clients may have under way of one body: more than an agent's stream takes before it has accepted the request, so
/// that a full window there is noticed here (see `relay` in the engine).
const CLIENT_WINDOW: u32 = 96 * 1024;

/// Bounds that mean nothing at an edge: it speaks HTTP/2 to every host.
const NOT_HERE: &[&str] = &["h1_connections_max", "body_rate_min", "body_rate_over"];

/// The bounds of an edge that is told nothing.
pub fn default() -> Bounds {
    let clients = steady_http::Limits { stream_window: CLIENT_WINDOW, ..steady_http::Limits::default() };
    // A host tells of an application's interim responses, as many as that may send, and of its own each time that a request waits there.
    let upstreams = steady_http::Limits { interim_max: 64, ..steady_http::Limits::default() };
    Bounds { clients, upstreams, ..Bounds::default() }
}

/// The bounds that can be configured here.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(|key| !NOT_HERE.contains(&key.name))
}

pub(super) fn read(section: &mut Section) -> Arc<Bounds> {
    let mut bounds = default();
    for key in keys() {
        let default = key.of(&bounds);
        let number = match key.unit {
            Unit::Count => section.count(key.name, default as usize, usize::MAX) as u64,
            Unit::Octets => section.size(key.name, default),
            Unit::Milliseconds => section.duration(key.name).map_or(default, milliseconds),
        };
        if let Err(what) = key.set(&mut bounds, number) {
            section.problem(key.name, what);
        }
    }
    Arc::new(bounds)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
