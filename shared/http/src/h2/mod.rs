//! HTTP/2 (RFC 9113) and HPACK (RFC 7541), both roles, as one state machine.
//!
//! - `frame`: what frames look like.
//! - `hpack`: header compression.
//! - `message`: from decoded fields to a canonical [`Head`](crate::Head).
//! - `streams`: the open streams by slot and by number.
//! - `guard`: counts what a peer may not do for ever.
//! - `connection`: the state of one connection, and how it ends.
//! - `receive`, `headers`, `control`: frames in. `send`: frames out.
//!
//! # What is decided here
//! - DATA is handed out as it arrives; nothing of a body is kept. A header block that is whole in the input is decoded from
//!   there, one that is not is gathered first. So the caller keeps at most a frame's fixed part (17 octets).
//! - A malformed request or response (RFC 9113 §8.1.1) resets its stream with PROTOCOL_ERROR. It is reported as
//!   [`Event::Reset`](crate::Event) even when its head never was, in the slot that it would have had: the caller counts it,
//!   and looks the stream up before believing that there is one.
//! - A request whose head is over a limit is answered here, with 431 (414 for a path), and its stream reset with NO_ERROR;
//!   reported the same way, with the limit. One that decodes to four times the limit ends the connection.
//! - A limit that is met ends the connection with GOAWAY ENHANCE_YOUR_CALM, unless the RFC has a code of its own.
//! - Cookie crumbs are joined on receipt. Field names and values are held to RFC 9110 §5.5, which is stricter than
//!   RFC 9113 §8.2.1: no control octets but tab.
//! - The client's `scheme` is that of its connection and is not sent; a request says its own. A server's is that of
//!   requests that name none, and decides on packing: with `Https` strings are Huffman-coded where that is shorter, as
//!   browsers are far; with `Http`, and by clients, only those that enter the dynamic table are, as our machines are near.
//! - One GOAWAY, with the streams begun so far. What crosses it is ignored, and the client knows that it was unprocessed.
//! - DATA on a stream that is gone counts as taken, so that nobody waits for room on it.

mod connection;
mod control;
mod frame;
mod guard;
mod headers;
mod hpack;
mod message;
mod receive;
mod send;
mod streams;

#[cfg(feature = "fuzzing")]
pub(crate) use hpack::plain;

pub use connection::{ClientRole, Connection, Role, ServerRole};

/// The side that answers.
pub type Server = Connection<ServerRole>;

/// The side that asks.
pub type Client = Connection<ClientRole>;
