//! Shuffling: links the objects of a fresh slab in an order that depends on a secret, so that an
//! attacker cannot predict it.

use crate::slabs::layout::links::Links;

/// Links the objects of a fresh slab in an order that `seed` decides.
///
/// The links of a slab whose objects are all free form one cycle. Sattolo's algorithm (1986) makes
/// a permutation that is a single cycle, each one with the same probability. So it needs no memory
/// but the links.
///
/// # Safety
/// 1. `links` are those of a slab of `capacity` objects that the caller owns, each object linked to
///    itself.
pub(crate) unsafe fn shuffle(links: Links, capacity: usize, seed: usize) {
    let mut random = Random(seed as u64 | 1);
    for index in (1..capacity).rev() {
        let other = random.below(index);
        // SAFETY: clause 1: both are objects, and no other code uses the links.
        let [link, others] = [index, other].map(|at| unsafe { links.read(at) });
        for (at, link) in [(index, others), (other, link)] {
            // SAFETY: clause 1: no other code reads the links before the slab is in a set.
            unsafe { links.write(at, link) };
        }
    }
}

/// xorshift64* (Vigna 2016), never zero.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as usize % limit
    }
}
