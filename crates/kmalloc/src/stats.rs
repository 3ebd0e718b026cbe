//! What the allocator holds, and giving it back.

use page_frame::sync::Ordering;
use page_frame::{PageResize, Shrink};
use slab::{Hardening, System};

use crate::Kmalloc;

impl<S: System<Pages: PageResize>, K: Hardening> Kmalloc<S, K> {
    /// Returns the pages of large allocations.
    pub fn large_pages(&self) -> usize {
        // Relaxed: a statistic.
        self.large_pages.load(Ordering::Relaxed)
    }

    /// Returns all pages held: those of the registry with all its caches, and those of large allocations. O(caches),
    /// takes their locks.
    pub fn pages_held(&self) -> usize {
        self.registry().pages_held() + self.large_pages()
    }

    /// Gives back all pages that hold no memory in use; returns how many. Waits for locks.
    pub fn shrink_all(&self) -> usize {
        self.registry().shrink_all()
    }

    /// Checks the invariants of all caches of the registry.
    ///
    /// # Errors
    /// Names the first invariant that does not hold.
    pub fn validate(&self) -> Result<(), &'static str> {
        self.registry().validate()
    }
}

impl<S, K: Hardening> Shrink for Kmalloc<S, K>
where
    S: System<Pages: PageResize + Send + Sync, Cpus: Send + Sync>,
{
    fn reclaimable(&self) -> usize {
        self.registry().reclaimable()
    }

    fn shrink(&self, target_pages: usize) -> usize {
        self.registry().shrink(target_pages)
    }
}
