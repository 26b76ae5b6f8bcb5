//! What can go wrong, and who is at fault.

use std::fmt;

use crate::limits::Limit;

/// The connection cannot go on: the peer broke a rule or met a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// HTTP/1.1 server role: the status to answer with (400, 413, 414, 431, 501, 505). 502 in the client role.
    pub status: u16,
    /// HTTP/2: the error code that went out in GOAWAY (RFC 9113 §7).
    pub code: u32,
    /// What happened, for the log: a short fixed phrase ("bare LF in a field").
    pub reason: &'static str,
    /// The limit that answered, when one did.
    pub limit: Option<Limit>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason)
    }
}

impl std::error::Error for Error {}

/// Why one stream ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// The HTTP/2 error code (RFC 9113 §7).
    pub code: u32,
    /// The peer did it; otherwise this side's codec or engine.
    pub by_peer: bool,
    /// The request was provably not processed: REFUSED_STREAM, or above a GOAWAY's last stream.
    pub unprocessed: bool,
    /// What happened, for the log.
    pub reason: &'static str,
    pub limit: Option<Limit>,
}

/// HTTP/2 error codes (RFC 9113 §7).
pub mod code {
    pub const NO_ERROR: u32 = 0x0;
    pub const PROTOCOL_ERROR: u32 = 0x1;
    pub const INTERNAL_ERROR: u32 = 0x2;
    pub const FLOW_CONTROL_ERROR: u32 = 0x3;
    pub const SETTINGS_TIMEOUT: u32 = 0x4;
    pub const STREAM_CLOSED: u32 = 0x5;
    pub const FRAME_SIZE_ERROR: u32 = 0x6;
    pub const REFUSED_STREAM: u32 = 0x7;
    pub const CANCEL: u32 = 0x8;
    pub const COMPRESSION_ERROR: u32 = 0x9;
    pub const CONNECT_ERROR: u32 = 0xa;
    pub const ENHANCE_YOUR_CALM: u32 = 0xb;
    pub const INADEQUATE_SECURITY: u32 = 0xc;
    pub const HTTP_1_1_REQUIRED: u32 = 0xd;
}

impl Reset {
    /// A reset by this side.
    pub const fn ours(code: u32, reason: &'static str) -> Reset {
        Reset { code, by_peer: false, unprocessed: false, reason, limit: None }
    }
}
