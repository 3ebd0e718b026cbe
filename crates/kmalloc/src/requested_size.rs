//! The size that a caller asked for, for presets that keep it beside each object.
//!
//! Such a preset finds a write of one byte more than was asked for. Therefore no caller may use the
//! rest of the class: the usable size of an allocation is what was asked for. (Linux's `ksize`
//! extends the permitted size to the whole object instead, so that one query hides the overflow.)
//! Other presets let callers use all bytes of the class, and compile none of this.

use core::ptr::NonNull;

use page_frame::PageResize;
use slab::{Hardening, System};

use crate::class::ClassIndex;
use crate::class_caches::ClassCaches;

impl<S: System<Pages: PageResize>, K: Hardening> ClassCaches<S, K> {
    /// Records that `bytes` bytes of `object`, which was just allocated for `class`, were asked
    /// for. A request for zero bytes gets one. Returns the object.
    #[inline(always)]
    pub(crate) fn note_requested_size(
        &self,
        class: ClassIndex,
        object: NonNull<u8>,
        bytes: usize,
    ) -> NonNull<u8> {
        if K::REQUESTED_SIZE {
            if let Some(cache) = self.get_pure(class) {
                // SAFETY: clauses 1 and 2: just allocated from this cache, the only source of
                // memory of a pure class; no code has it yet.
                unsafe { cache.set_requested_size(object, bytes.max(1)) };
            }
        }
        object
    }

    /// Returns how many bytes of the object at `start`, of `class`, may be used.
    #[inline(always)]
    pub(crate) fn usable_size_of(&self, class: ClassIndex, start: NonNull<u8>) -> usize {
        if K::REQUESTED_SIZE {
            if let Some(Ok(bytes)) = self.get_pure(class).map(|cache| cache.requested_size(start)) {
                return bytes;
            }
        }
        class.size()
    }

    /// Returns [`usable_size_of`](Self::usable_size_of) without a lock.
    ///
    /// # Safety
    /// 1. The caller owns the object at `start`, of `class`, as far as checks can tell.
    #[inline(always)]
    pub(crate) unsafe fn usable_size_owned(&self, class: ClassIndex, start: NonNull<u8>) -> usize {
        if K::REQUESTED_SIZE {
            if let Some(cache) = self.get_pure(class) {
                // SAFETY: clause 1.
                return unsafe { cache.requested_size_owned(start) };
            }
        }
        class.size()
    }

    /// Prepares the allocation at `start`, of `class`, for `bytes` bytes in place. Returns whether
    /// that succeeded: it fails for an object with a fault, which the free of it reports.
    ///
    /// # Safety
    /// 1. The caller owns the allocation at `start`, as far as checks can tell, and gives up the
    ///    bytes behind the new size.
    #[inline(always)]
    pub(crate) unsafe fn resize_in_class(
        &self,
        class: ClassIndex,
        start: NonNull<u8>,
        bytes: usize,
    ) -> bool {
        if !K::REQUESTED_SIZE {
            return true;
        }
        let Some(cache) = self.get_pure(class) else { return true };
        // SAFETY: clauses 1 and 2: clause 1.
        if unsafe { cache.check_owned(start) }.is_err() {
            return false;
        }
        // SAFETY: clauses 1 and 2: the check has found the object in use; clause 1.
        unsafe { cache.set_requested_size(start, bytes.max(1)) };
        true
    }
}
