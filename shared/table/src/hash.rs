//! The hash of the table's indexes: keyed by a seed that is chosen when the table is built, and fast on names of 5 to 30 bytes.
//!
//! Sixteen bytes at a time are mixed by one 64×64→128-bit multiplication whose halves are folded together (the step that
//! wyhash and its kin made known). It is not a cryptographic hash and need not be: tenants choose names but never see the
//! seed, the index refuses to be built with a probe longer than its bound, and a new seed is drawn then.

/// The key of the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed(pub u64, pub u64);

/// Constants with no structure (the fractions of the golden ratio, of √2 and of √3), so that a factor has about as many ones
/// as zeros even under a seed that has not.
const PHI: u64 = 0x9e37_79b9_7f4a_7c15;
const ROOT_2: u64 = 0x6a09_e667_f3bc_c909;
const ROOT_3: u64 = 0xbb67_ae85_84ca_a73b;

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

pub(crate) fn hash(seed: Seed, key: &[u8]) -> u64 {
    let mut state = seed.0 ^ (key.len() as u64).wrapping_mul(PHI);
    let mut rest = key;
    while let Some((chunk, after)) = rest.split_first_chunk::<16>() {
        if after.is_empty() {
            break; // The tail below takes exactly 16 as well.
        }
        let (low, high) = halves(chunk);
        state = fold(low ^ seed.1 ^ ROOT_2, high ^ state);
        rest = after;
    }
    let (low, high) = tail(rest);
    state = fold(low ^ seed.1 ^ ROOT_2, high ^ state);
    fold(state ^ PHI, seed.0 ^ ROOT_3)
}

fn halves(chunk: &[u8; 16]) -> (u64, u64) {
    let value = u128::from_le_bytes(*chunk);
    (value as u64, (value >> 64) as u64)
}

/// Up to 16 bytes as two words; the length is in the state already, so words that overlap are no collision.
fn tail(rest: &[u8]) -> (u64, u64) {
    if let (Some(first), Some(last)) = (rest.first_chunk::<8>(), rest.last_chunk::<8>()) {
        (u64::from_le_bytes(*first), u64::from_le_bytes(*last))
    } else if let (Some(first), Some(last)) = (rest.first_chunk::<4>(), rest.last_chunk::<4>()) {
        (u32::from_le_bytes(*first).into(), u32::from_le_bytes(*last).into())
    } else {
        let low = rest.iter().fold(0, |word, byte| (word << 8) | u64::from(*byte));
        (low, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_that_differ_in_one_place_fall_on_different_hashes() {
        let seed = Seed(1, 2);
        let mut seen = HashSet::new();
        for len in 1..=63 {
            let base = vec![b'a'; len];
            assert!(seen.insert(hash(seed, &base)));
            for at in 0..len {
                let mut other = base.clone();
                other[at] = b'b';
                assert!(seen.insert(hash(seed, &other)), "length {len}, place {at}");
            }
        }
    }

    #[test]
    fn both_ends_of_the_hash_spread_numbered_names_evenly() {
        let (mut low, mut high) = ([0u32; 256], [0u32; 256]);
        for n in 0..65_536 {
            let h = hash(Seed(3, 4), format!("app-{n}").as_bytes());
            low[(h & 255) as usize] += 1;
            high[(h >> 56) as usize] += 1;
        }
        // 256 expected in each; 6 standard deviations are 96.
        assert!(low.iter().chain(&high).all(|n| (160..=352).contains(n)), "{low:?} {high:?}");
    }

    #[test]
    fn another_seed_is_another_hash() {
        assert_ne!(hash(Seed(1, 2), b"shop"), hash(Seed(1, 3), b"shop"));
        assert_ne!(hash(Seed(1, 2), b"shop"), hash(Seed(2, 2), b"shop"));
    }
}
