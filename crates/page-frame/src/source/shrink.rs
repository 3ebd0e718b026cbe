//! The interface to anything that can release pages when memory is short.

/// Something that holds pages it can release.
///
/// ```
/// use page_frame::Shrink;
/// use std::sync::Mutex;
/// /// Free pages that are kept for the next request.
/// struct Kept(Mutex<Vec<Box<[u8; 4096]>>>);
/// impl Shrink for Kept {
///     fn reclaimable(&self) -> usize {
///         self.0.try_lock().map_or(0, |pages| pages.len())
///     }
///     fn shrink(&self, target_pages: usize) -> usize {
///         let Ok(mut pages) = self.0.try_lock() else { return 0 }; // never waits
///         let rest = pages.len().saturating_sub(target_pages);
///         pages.drain(rest..).count()
///     }
/// }
/// let kept = Kept(Mutex::new(vec![Box::new([0; 4096]); 3]));
/// assert_eq!((kept.shrink(2), kept.reclaimable(), kept.shrink(2)), (2, 1, 1));
/// ```
pub trait Shrink: Sync {
    /// Returns an estimate of the pages that `shrink` can release. Cheap, and waits for nothing but
    /// locks that are held briefly with interrupts masked.
    /// Example: see [`Shrink`].
    fn reclaimable(&self) -> usize;

    /// Frees at least `target_pages` pages to their page source if it can; returns the number
    /// freed.
    ///
    /// Any code that may allocate may call it. So it only tries locks, but for those that are held
    /// briefly with interrupts masked. If it allocates, and that calls it again, the inner call
    /// must end. Example: see [`Shrink`].
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
