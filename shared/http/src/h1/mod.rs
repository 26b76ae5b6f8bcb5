//! HTTP/1.1 (RFC 9112), both roles, over the canonical head of this crate.
//!
//! A head is parsed in one go once its end is in the input (the codec remembers how far it has looked, so that a peer who
//! sends one octet at a time costs linear work), straight into the caller's [`Head`](crate::Head). Bodies pass through as
//! slices of the input. Nothing is kept between calls but a few numbers, and nothing is allocated but for an upgrade.
//!
//! # What is refused
//! An edge that reads a message otherwise than the server behind it lets requests be smuggled. So what is doubtful is
//! refused, never repaired: bare CR or LF anywhere, folded lines, white space around a name, controls in a value, both
//! lengths, a length twice (even the same one), any transfer coding but a single `chunked`, white space in a chunk's size line,
//! a target that is not plain ASCII or has a fragment, an absolute-form target whose authority is not `Host`'s or whose
//! scheme is not the listener's, `Host` that is empty or not a plain name or address with an optional port. Every refusal ends
//! the connection. Versions other than 1.0 and 1.1 are answered with 505.
//!
//! # What is decided where the RFCs leave a choice
//! - `Connection` may not nominate `Host`, `Content-Length` or `Transfer-Encoding` (400). Other nominated fields are removed.
//! - Trailers that frame, route, authenticate or change how the message is processed (RFC 9110 §6.5.1) are dropped in both
//!   directions, see `fields::is_forbidden_in_trailers`; malformed ones are refused.
//! - An exchange is over when its response is (client role: when the response has been received), whether or not the
//!   request's other side has ended: no event reports that. If a body is still under way then, the connection carries nothing
//!   further, and what arrives is swallowed, so that the caller may linger before it closes.
//! - A body longer than its declared length is cut at that length; one that is shorter leaves the peer short. Either way
//!   [`is_finished`](crate::Codec::is_finished) turns true at once and the connection must be closed, never reused.
//! - A tunnel ends in both directions when our side ends it (RFC 9110 §9.3.6). When the peer ends it, ours goes on until it
//!   is ended too.
//! - While a tunnel is asked for and not granted, nothing is read after the request (server role) and nothing is taken
//!   (client role, [`capacity`](crate::Codec::capacity) 0, [`Event::Writable`](crate::Event::Writable) once it is). A declined
//!   upgrade leaves the connection usable; a declined plain CONNECT ends it, for its client may have sent tunnel octets already.
//! - `TE: trailers` is written with the `Connection: te` that RFC 9110 §10.1.4 demands.

mod body;
mod client;
mod fields;
mod outgoing;
mod request;
mod response;
mod scan;
mod server;
mod websocket;
mod write;

#[cfg(test)]
mod tests;

pub use client::Client;
pub use server::Server;
