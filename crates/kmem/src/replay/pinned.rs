//! Free memory in slabs that cannot be released because of the live objects in them, by owner.

/// The slabs of a target.
#[derive(Default)]
pub(super) struct Slabs(Vec<Slab>);

/// A slab, and the live objects in it.
#[derive(Default)]
struct Slab {
    start: usize,
    bytes: usize,
    live_objects: u64,
    live_bytes: usize,
}

impl Slabs {
    /// Adds a slab.
    pub(super) fn add(&mut self, start: usize, bytes: usize) {
        self.0.push(Slab { start, bytes, ..Slab::default() });
    }

    /// Returns the bytes that each of `owners` owners pins. `live` iterates over the live objects:
    /// address, bytes, owner. The live objects of a slab have equal shares in its free bytes.
    /// O(live objects).
    pub(super) fn pinned<I: Iterator<Item = (usize, usize, usize)>>(
        mut self,
        live: impl Fn() -> I,
        owners: usize,
    ) -> Vec<u64> {
        self.0.sort_unstable_by_key(|slab| slab.start);
        for (address, bytes, _) in live() {
            if let Some(index) = self.find(address) {
                self.0[index].live_objects += 1;
                self.0[index].live_bytes += bytes;
            }
        }
        let mut pinned = vec![0; owners];
        for (address, _, owner) in live() {
            if let Some(index) = self.find(address) {
                let Slab { bytes, live_objects, live_bytes, .. } = self.0[index];
                pinned[owner] += bytes.saturating_sub(live_bytes) as u64 / live_objects;
            }
        }
        pinned
    }

    fn find(&self, address: usize) -> Option<usize> {
        let after = self.0.partition_point(|slab| slab.start <= address);
        let index = after.checked_sub(1)?;
        (address < self.0[index].start + self.0[index].bytes).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_objects_of_a_slab_have_equal_shares_in_what_is_free() {
        let mut slabs = Slabs::default();
        slabs.add(8192, 4096);
        slabs.add(4096, 4096);
        // Two owners in the first slab, one in the second, and one object outside.
        let live = || [(4096, 96, 0), (5000, 1000, 1), (8192, 96, 1), (20_000, 5, 0)].into_iter();
        assert_eq!(slabs.pinned(live, 2), [1500, 1500 + 4000]);
    }
}
