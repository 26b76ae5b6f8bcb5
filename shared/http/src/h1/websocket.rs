//! The opening handshake of RFC 6455 §4: a key, and the answer that proves that it was read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

/// A `Sec-WebSocket-Key`: sixteen octets in base64.
pub(super) type Key = [u8; 24];

/// A `Sec-WebSocket-Accept`: a SHA-1 in base64.
pub(super) type Accept = [u8; 28];

/// The answer to a key.
pub(super) fn accept(key: &[u8]) -> Accept {
    let digest = Sha1::new().chain_update(key).chain_update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    let mut accept = [b'='; 28];
    encode(&digest, &mut accept);
    accept
}

/// The key of a connection's `id`-th request under `seed`. It need not be secret: it only tells an answer to this handshake
/// from a stored one.
pub(super) fn key(seed: u64, id: u32) -> Key {
    let first = mix(seed ^ mix(u64::from(id)));
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&first.to_le_bytes());
    nonce[8..].copy_from_slice(&mix(first).to_le_bytes());
    let mut key = [b'='; 24];
    encode(&nonce, &mut key);
    key
}

fn encode(octets: &[u8], text: &mut [u8]) {
    let written = STANDARD.encode_slice(octets, text);
    debug_assert!(written.is_ok(), "the text is as long as base64 makes it");
}

/// One step of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
