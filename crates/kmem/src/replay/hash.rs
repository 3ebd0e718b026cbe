//! The hash of traced addresses and frame numbers: one multiplication.
//!
//! Most keys are multiples of 8 or of 4096. The table takes its index from the low bits and its tag
//! from the high bits, so the hash folds both halves of the product together. The keys come from a
//! recording; there is no defence against keys chosen to collide.

use std::hash::{BuildHasherDefault, Hasher};

/// A map from traced numbers.
pub type NumberMap<V> = hashbrown::HashMap<u64, V, BuildHasherDefault<FoldedProduct>>;

/// 2^64 divided by the golden ratio (Knuth TAOCP 3 §6.4), odd.
const FACTOR: u128 = 0x9e37_79b9_7f4a_7c15;

/// Hashes one number.
#[derive(Debug, Default, Clone, Copy)]
pub struct FoldedProduct(u64);

impl Hasher for FoldedProduct {
    fn write_u64(&mut self, number: u64) {
        let product = u128::from(number ^ self.0) * FACTOR;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiples_of_a_page_spread_over_the_low_bits_and_the_high_ones() {
        let hash = |number| {
            let mut hasher = FoldedProduct::default();
            hasher.write_u64(number);
            hasher.finish()
        };
        for shift in [0, 57] {
            let mut seen = [0_u32; 128];
            (0..12_800).for_each(|n| seen[(hash(n << 12) >> shift) as usize % 128] += 1);
            assert!(seen.iter().all(|count| (50..200).contains(count)), "{seen:?}");
        }
    }
}
