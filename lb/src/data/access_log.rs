//! The access log: one line of JSON for each request.

use std::time::{SystemTime, UNIX_EPOCH};

use steady_http::Name;
use steady_proxy::log::json;
use steady_proxy::{Record, Refusal};

use super::forwarded::push_ip;
use super::policy::Ticket;

/// Appends the line's object.
pub(super) fn write(out: &mut Vec<u8>, record: &Record<'_, Ticket>, host: &str, stamps: &mut json::Timestamps) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let request = record.request;
    out.extend_from_slice(b"{\"time\":\"");
    stamps.append(out, u64::try_from(now.as_nanos()).unwrap_or(u64::MAX));
    out.extend_from_slice(b"\",\"client\":\"");
    if let Some(peer) = record.peer {
        push_ip(out, peer.ip().to_canonical());
    }
    out.push(b'"');
    for (name, text) in [
        (&b",\"id\":"[..], request.get(Name::XRequestId).unwrap_or_default()),
        (b",\"method\":", request.method_bytes()),
        (b",\"scheme\":", request.scheme.as_bytes()),
        (b",\"authority\":", request.authority()),
        (b",\"path\":", request.path()),
        (b",\"agent\":", request.get(Name::UserAgent).unwrap_or_default()),
        (b",\"app\":", request.get(Name::SteadyApp).unwrap_or_default()),
        (b",\"host\":", host.as_bytes()),
        (b",\"outcome\":", record.outcome.name().as_bytes()),
        (b",\"refusal\":", record.refusal.map_or("", |refusal: Refusal| refusal.explain().name).as_bytes()),
    ] {
        out.extend_from_slice(name);
        json::string(out, text);
    }
    let timing = &record.timing;
    let micros = |from: steady_ring::Time, to: steady_ring::Time| to.since(from).as_micros() as u64;
    for (name, value) in [
        (&b",\"version\":"[..], u64::from(record.version / 10)),
        (b",\"status\":", u64::from(record.status)),
        (b",\"attempts\":", u64::from(record.attempts)),
        (b",\"request_bytes\":", record.request_bytes),
        (b",\"response_bytes\":", record.response_bytes),
        (b",\"queue_us\":", micros(timing.started, timing.routed)),
        (b",\"upstream_us\":", micros(timing.attached, timing.answered)),
        (b",\"application_us\":", record.ticket.timing.application),
        (b",\"total_us\":", micros(timing.started, timing.ended)),
    ] {
        out.extend_from_slice(name);
        json::unsigned(out, value);
    }
    out.push(b'}');
}
