//! The allocator as a shrinker: under memory pressure it releases pages without memory in use.

use page_frame::{PageResize, Shrink};
use slab::{Hardening, System};

use crate::kmalloc::Kmalloc;

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
