//! A hasher for keys that control or the policy chose: already well spread, or few. Not for what strangers choose.

use std::hash::{BuildHasherDefault, Hasher};

pub(crate) type KeyHash = BuildHasherDefault<Mix>;

/// One multiplication (Fibonacci hashing).
#[derive(Debug, Default)]
pub(crate) struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }
}
