//! The interface to anything that can release pages when memory is short.

/// Something that holds pages it can release.
///
/// [`Reclaiming`](crate::Reclaiming) and [`ShrinkList`](crate::ShrinkList) have examples.
pub trait Shrink: Sync {
    /// Returns an estimate of the pages that `shrink` can release. O(1), no lock.
    fn reclaimable(&self) -> usize;

    /// Frees at least `target_pages` pages to their page source if it can; returns the number
    /// freed.
    ///
    /// It never waits (it only tries locks) and never allocates, so any code that may allocate may
    /// call it.
    fn shrink(&self, target_pages: usize) -> usize;
}

impl<S: Shrink + ?Sized> Shrink for &S {
    fn reclaimable(&self) -> usize {
        (**self).reclaimable()
    }

    fn shrink(&self, target_pages: usize) -> usize {
        (**self).shrink(target_pages)
    }
}
