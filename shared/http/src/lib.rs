//! HTTP/1.1 and HTTP/2, server and client roles, as pure state machines: bytes in, events and bytes out. No I/O, no
//! clock, no allocation per request in steady state.
//!
//! Every codec implements [`Codec`], and every head, whichever version it came in, is one [`Head`] in one canonical
//! form. So the engine joins any downstream with any upstream without knowing their versions, and translation between
//! versions (framing, `Host` against `:authority`, `Upgrade` against extended CONNECT, cookie crumbs, 101 against 200) is
//! nowhere but here.
//!
//! # The canonical head
//! - Names are lower case. `Connection` and every field it nominates, `Keep-Alive`, `Proxy-Connection`,
//!   `Transfer-Encoding`, `Upgrade`, `HTTP2-Settings` and `TE` (except `te: trailers`) are gone.
//! - `Host`/`:authority` is [`Head::authority`], `Content-Length` is [`Head::content_length`]; neither is among the fields.
//! - A WebSocket (or other) upgrade is an extended CONNECT (RFC 8441): method `CONNECT` and a [`Head::protocol`]. A
//!   successful answer to it is a 200 in canonical form, whatever the wire says (101 in HTTP/1.1). Upgrades to `h2c` and
//!   `TLS/*` are ignored, as RFC 9110 §7.8 permits, and an extended CONNECT for one is malformed. `Sec-WebSocket-Key` and
//!   `-Accept` cross as plain fields where they are given; the HTTP/1.1 codecs make them where they are missing.
//! - After a successful CONNECT the stream is a tunnel: [`Event::Data`] both ways until [`Event::Data`] with `end`.

mod authority;
pub mod codec;
mod decimal;
pub mod error;
pub mod h1;
pub mod h2;
pub mod head;
pub mod limits;

/// HPACK by itself, for the fuzz targets.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    pub use crate::h2::plain::{HpackDecoder, HpackEncoder, Pairs};
}

pub use codec::{Client, Codec, Event, Framed, Payload, Place, Step, StreamId};
pub use decimal::decimal;
pub use error::{Error, Reset};
pub use head::{Field, Head, Method, Name, Scheme};
pub use limits::{Limit, Limits};
