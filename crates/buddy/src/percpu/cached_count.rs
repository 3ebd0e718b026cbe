//! The count of a CPU slot, which other CPUs read.

use page_frame::sync::{AtomicUsize, Ordering, Zeroable};

/// The number of frames in the stacks of a slot, for readers on other CPUs. It has a cache line of
/// its own.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct CachedCount(AtomicUsize);

// SAFETY: clause 1: one atomic, valid when zero, and padding.
unsafe impl Zeroable for CachedCount {
    fn zero() -> Self {
        Self(Zeroable::zero())
    }
}

impl CachedCount {
    #[inline]
    pub(super) fn get(&self) -> usize {
        // Relaxed: an estimate, which publishes nothing.
        self.0.load(Ordering::Relaxed)
    }

    /// Adds `frames`. The caller holds the slot.
    #[inline]
    pub(crate) fn add(&self, frames: isize) {
        // Relaxed: as in `get`; only the holder of the slot writes.
        self.0.store(self.get().wrapping_add_signed(frames), Ordering::Relaxed);
    }
}
