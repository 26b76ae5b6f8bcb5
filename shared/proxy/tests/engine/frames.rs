//! Frames of HTTP/2, as far as tests say them.

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
pub const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `GET / http a.test`, nothing indexed.
pub fn get(stream: u32, end: bool) -> Vec<u8> {
    frame(1, if end { 5 } else { 4 }, stream, b"\x82\x86\x84\x01\x06a.test")
}

pub fn head(stream: u32) -> Vec<u8> {
    frame(1, 5, stream, b"\x02\x04HEAD\x86\x84\x01\x06a.test")
}

/// A status 200, nothing else.
pub fn ok(stream: u32, end: bool) -> Vec<u8> {
    frame(1, if end { 5 } else { 4 }, stream, b"\x88")
}

pub fn data(stream: u32, payload: &[u8], end: bool) -> Vec<u8> {
    frame(0, u8::from(end), stream, payload)
}

pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(3, 0, stream, &code.to_be_bytes())
}

pub fn window(stream: u32, more: u32) -> Vec<u8> {
    frame(8, 0, stream, &more.to_be_bytes())
}

pub fn goaway(last: u32) -> Vec<u8> {
    let mut payload = last.to_be_bytes().to_vec();
    payload.extend([0; 4]);
    frame(7, 0, 0, &payload)
}

pub fn setting(id: u16, value: u32) -> Vec<u8> {
    let mut payload = id.to_be_bytes().to_vec();
    payload.extend(value.to_be_bytes());
    frame(4, 0, 0, &payload)
}

/// The frames in `bytes` (after a preface, if there is one): kind, flags, stream, payload.
pub fn frames(mut bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    bytes = bytes.strip_prefix(&PREFACE[..24]).unwrap_or(bytes);
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some((payload, rest)) = rest.split_at_checked(len) else { break };
        frames.push((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload.to_vec()));
        bytes = rest;
    }
    frames
}

/// The body of a stream.
pub fn body(bytes: &[u8], stream: u32) -> Vec<u8> {
    frames(bytes).into_iter().filter(|frame| frame.0 == 0 && frame.2 == stream).flat_map(|frame| frame.3).collect()
}

pub fn count(bytes: &[u8], kind: u8, stream: u32) -> usize {
    frames(bytes).iter().filter(|frame| frame.0 == kind && frame.2 == stream).count()
}
