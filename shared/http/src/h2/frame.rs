//! Frames (RFC 9113 §4, §6): their head, and the few that are written whole.

/// Octets of a frame's head.
pub(super) const HEAD: usize = 9;

/// What a client says first (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const WITH_PRIORITY: u8 = 32;

/// Settings' identifiers (RFC 9113 §6.5.2, RFC 8441 §3).
pub(super) mod setting {
    pub(in crate::h2) const HEADER_TABLE_SIZE: u16 = 1;
    pub(in crate::h2) const ENABLE_PUSH: u16 = 2;
    pub(in crate::h2) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(in crate::h2) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(in crate::h2) const MAX_FRAME_SIZE: u16 = 5;
    pub(in crate::h2) const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub(in crate::h2) const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// The most that a window may reach.
pub(super) const WINDOW_MAX: i64 = 0x7fff_ffff;
/// Every window's size before anyone says otherwise.
pub(super) const WINDOW_INITIAL: i32 = 65_535;
/// The largest frame before anyone says otherwise, and the least that may be said.
pub(super) const FRAME_INITIAL: u32 = 16_384;
pub(super) const FRAME_MAX: u32 = (1 << 24) - 1;

/// A frame's head.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameHead {
    pub len: u32,
    pub kind: u8,
    pub flags: u8,
    pub id: u32,
}

impl FrameHead {
    pub(super) fn parse(octets: &[u8; HEAD]) -> FrameHead {
        let [a, b, c, kind, flags, id @ ..] = *octets;
        FrameHead {
            len: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            // The reserved bit is ignored (RFC 9113 §4.1).
            id: u32::from_be_bytes(id) & 0x7fff_ffff,
        }
    }

    pub(super) fn octets(self) -> [u8; HEAD] {
        let [_, a, b, c] = self.len.to_be_bytes();
        let [i, j, k, l] = self.id.to_be_bytes();
        [a, b, c, self.kind, self.flags, i, j, k, l]
    }

    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

pub(super) fn put(out: &mut Vec<u8>, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    let head = FrameHead { len: payload.len() as u32, kind, flags, id };
    out.extend_from_slice(&head.octets());
    out.extend_from_slice(payload);
}

pub(super) fn put_u32(out: &mut Vec<u8>, kind: u8, id: u32, value: u32) {
    put(out, kind, 0, id, &value.to_be_bytes());
}
