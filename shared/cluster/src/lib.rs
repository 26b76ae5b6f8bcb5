//! Who is who in a cluster, and how its members prove it to each other.
//!
//! ```text
//!   edge: Authority ──issues──▶ Identity (key, certificate, trust)     one for each member: an edge, a host
//!                                  ├─▶ server_config / client_config   TLS of the data path and of control
//!   join token ──buys a host──────▶┘   (JoinToken → join; later → renew)
//! ```
//!
//! A certificate says a role and a name, as DNS names that no public name can be: `h1.host.steady.internal` and
//! `host.steady.internal`. Whoever connects to a host asks for the first; whoever admits an edge asks for
//! `edge.steady.internal`. The key of a member never leaves its machine: what is sent is a signing request.
//!
//! [`listen`], [`serve`], [`connect`] and [`channel`] carry the control sides' HTTP over this; the data path is given the same configurations.
#![forbid(unsafe_code)]

pub mod authority;
pub mod channel;
pub mod connect;
pub mod identity;
pub mod join;
pub mod listen;
pub mod member;
pub mod serve;
mod stream;
pub mod tls;
pub mod token;
mod verify;

pub use authority::{Authority, AuthorityError};
pub use identity::{Identity, IdentityError, Request};
pub use member::{Member, Role};
pub use stream::Stream;
pub use token::JoinToken;

use sha2::{Digest, Sha256};

/// SHA-256.
pub type Fingerprint = [u8; 32];

pub fn fingerprint(octets: &[u8]) -> Fingerprint {
    Sha256::digest(octets).into()
}

/// Compares two secrets' hashes in a time that says nothing about them.
pub fn same(a: &Fingerprint, b: &Fingerprint) -> bool {
    let differ = a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b));
    std::hint::black_box(differ) == 0
}

/// Lower-case hexadecimal digits.
pub fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// The octets of hexadecimal digits; `None` if there are not exactly `N`.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut octets = [0; N];
    for (at, octet) in octets.iter_mut().enumerate() {
        *octet = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(octets)
}
