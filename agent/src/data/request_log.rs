//! One line of JSON for each request that an application got.

use std::time::{SystemTime, UNIX_EPOCH};

use steady_http::Name;
use steady_proxy::Record;
use steady_proxy::log::json;
use steady_timing::RequestTiming;

use super::policy::Ticket;

/// Appends the line's object.
pub(super) fn write(
    out: &mut Vec<u8>,
    record: &Record<'_, Ticket>,
    timing: &RequestTiming,
    stamps: &mut json::Timestamps,
) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    out.extend_from_slice(b"{\"time\":\"");
    stamps.append(out, u64::try_from(now.as_nanos()).unwrap_or(u64::MAX));
    out.extend_from_slice(b"\",\"app\":");
    json::string(out, record.ticket.app().unwrap_or_default().as_bytes());
    for (name, text) in [
        (&b",\"client\":"[..], client(record)),
        (b",\"id\":", record.request.get(Name::XRequestId).unwrap_or_default()),
        (b",\"method\":", record.request.method_bytes()),
        (b",\"path\":", record.request.path()),
        (b",\"outcome\":", record.outcome.name().as_bytes()),
    ] {
        out.extend_from_slice(name);
        json::string(out, text);
    }
    for (name, value) in [
        (&b",\"status\":"[..], u64::from(record.status)),
        (b",\"request_bytes\":", record.request_bytes),
        (b",\"response_bytes\":", record.response_bytes),
        (b",\"queue_us\":", timing.queue),
        (b",\"connect_us\":", timing.connect),
        (b",\"application_us\":", timing.application),
        (b",\"streaming_us\":", timing.streaming),
        (b",\"own_us\":", timing.own),
    ] {
        out.extend_from_slice(name);
        json::unsigned(out, value);
    }
    out.push(b'}');
}

/// Who asked the edge: the last of `X-Forwarded-For`, which is the edge's own word.
fn client<'r>(record: &Record<'r, Ticket>) -> &'r [u8] {
    let told = record.request.get(Name::XForwardedFor).unwrap_or_default();
    told.rsplit(|octet| *octet == b',').next().unwrap_or_default().trim_ascii()
}
