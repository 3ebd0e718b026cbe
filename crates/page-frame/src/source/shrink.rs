//! The interface to anything that can give pages back when memory is short.

/// Something that holds pages it could do without.
pub trait Shrink: Sync {
    /// Returns an estimate of the pages that `shrink` could give back. O(1), no lock.
    fn reclaimable(&self) -> usize;

    /// Gives back at least `target_pages` pages if it can; returns how many it gave.
    ///
    /// It never waits (locks are only tried) and never allocates, so it may be called wherever an allocation may.
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
