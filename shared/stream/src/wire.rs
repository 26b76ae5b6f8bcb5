//! Frames on the connection: four octets of length, little-endian, then a protobuf message (`proto/stream.proto`).

use bytes::{Buf, Bytes, BytesMut};
use prost::Message as _;

#[allow(missing_debug_implementations, clippy::all)]
#[rustfmt::skip]
mod generated;

pub use generated::frame::Body;
pub use generated::{Answer, Data, Feedback, Frame, Goodbye, Grant, Hello, Pace, Probe, Saved};

/// The version that a hello names. A peer of another is refused, with both numbers in the message.
pub const VERSION: u32 = 1;

/// What a frame may hold beside one body of the configured size: feedback with its answers and bits, and heads.
const FRAME_BESIDE_BODY: usize = 512 << 10;

#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error(
        "the peer announces a frame of {length} octets; {max} is the limit (body_max must be the same on both sides)"
    )]
    TooLong { length: usize, max: usize },
    #[error("what the peer sent is not a frame: {0}")]
    Malformed(#[from] prost::DecodeError),
}

/// Appends a frame behind its length.
pub fn encode(frame: &Frame, into: &mut BytesMut) {
    let length = frame.encoded_len();
    into.reserve(4 + length);
    into.extend_from_slice(&u32::try_from(length).expect("a frame is under 4 GiB: bodies are bounded").to_le_bytes());
    frame.encode(into).expect("room was reserved");
}

/// Takes the next whole frame off the front, or leaves everything until more has come.
pub fn decode(from: &mut BytesMut, body_max: usize) -> Result<Option<Frame>, WireError> {
    let Some(head) = from.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*head) as usize;
    let max = body_max.saturating_mul(2).saturating_add(FRAME_BESIDE_BODY);
    if length > max {
        return Err(WireError::TooLong { length, max });
    }
    if from.len() < 4 + length {
        from.reserve(4 + length - from.len());
        return Ok(None);
    }
    from.advance(4);
    let octets: Bytes = from.split_to(length).freeze();
    Ok(Some(Frame::decode(octets)?))
}
