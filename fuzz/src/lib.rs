//! What the fuzz targets check, one public function a target. See README.md for how they are run.
//!
//! A panic is a finding. Beyond not panicking, each function states a property: what is read does not depend on how it is cut,
//! what is passed on is read again as the same message, two implementations agree.

mod chunked;
#[cfg(feature = "config")]
pub mod config;
#[cfg(feature = "config")]
pub mod control;
mod drive;
mod h1;
mod h2;
mod h2_crate;
mod h2_pair;
mod hpack;
mod message;
mod stream;
mod stream_log;
mod table;

pub use chunked::chunked;
pub use h1::{h1_request, h1_response};
pub use h2::{h2_client, h2_server};
pub use h2_crate::h2_crate;
pub use h2_pair::{h2_crate_client, h2_fields};
pub use hpack::hpack;
pub use stream::stream_frames;
pub use stream_log::stream_log;
pub use table::table;

/// Octets that are taken from the front.
#[derive(Clone, Copy)]
struct Octets<'d>(&'d [u8]);

impl<'d> Octets<'d> {
    /// The next octet, 0 past the end.
    fn one(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn two(&mut self) -> u16 {
        u16::from_be_bytes([self.one(), self.one()])
    }

    fn four(&mut self) -> u32 {
        u32::from(self.two()) << 16 | u32::from(self.two())
    }

    /// So many octets, or what is left.
    fn some(&mut self, len: usize) -> &'d [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}
