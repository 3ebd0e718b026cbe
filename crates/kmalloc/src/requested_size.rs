//! The requested size of each allocation, under presets that record it beside the object.
//!
//! Such a preset finds a write of a single byte beyond the requested size. So the usable size of an
//! allocation is its requested size there, not that of the class. (Linux's `ksize` extends the
//! permitted size to the whole object instead, so that one query hides the overflow.) Other presets
//! let callers use all bytes of the class, and compile no code of this file.

use core::ptr::NonNull;

use page_frame::PageResize;
use slab::{Hardening, System};

use crate::classes::class::ClassIndex;
use crate::classes::class_caches::ClassCaches;

impl<S: System<Pages: PageResize>, K: Hardening> ClassCaches<S, K> {
    /// Records `bytes` as the requested size of `object`, which was just allocated for `class`. A
    /// request for zero bytes gets one. Returns the object.
    #[inline(always)]
    pub(crate) fn note_requested_size(
        &self,
        class: ClassIndex,
        object: NonNull<u8>,
        bytes: usize,
    ) -> NonNull<u8> {
        if K::REQUESTED_SIZE {
            if let Some(cache) = self.get_pure(class) {
                // SAFETY: clause 1: the object was just allocated from this cache, as all memory of
                // a pure class is. Clause 2: no other code has the object yet.
                unsafe { cache.set_requested_size(object, bytes.max(1)) };
            }
        }
        object
    }

    /// Returns the usable size in bytes of the object at `start`, of `class`.
    #[inline(always)]
    pub(crate) fn usable_size_of(&self, class: ClassIndex, start: NonNull<u8>) -> usize {
        if K::REQUESTED_SIZE {
            if let Some(Ok(bytes)) = self.get_pure(class).map(|cache| cache.requested_size(start)) {
                return bytes;
            }
        }
        class.size()
    }

    /// Returns the usable size as [`usable_size_of`](Self::usable_size_of) does, without a lock.
    ///
    /// # Safety
    /// 1. The caller owns the object at `start`, of `class`. Where that is a mistake, the checks
    ///    report it as they do in a free.
    #[inline(always)]
    pub(crate) unsafe fn usable_size_owned(&self, class: ClassIndex, start: NonNull<u8>) -> usize {
        if K::REQUESTED_SIZE {
            if let Some(cache) = self.get_pure(class) {
                // SAFETY: clause 1 of `requested_size_owned`: clause 1.
                return unsafe { cache.requested_size_owned(start) };
            }
        }
        class.size()
    }

    /// Changes the requested size of the allocation at `start`, of `class`, to `bytes` in place.
    /// Returns whether that succeeded. It fails for an object with a fault: the caller then moves
    /// the content and frees the object, which reports the fault.
    ///
    /// # Safety
    /// 1. The caller owns the allocation at `start`, and gives up the bytes after the new size.
    ///    Where that is a mistake, the checks report it as they do in a free.
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
        // SAFETY: clauses 1 and 2 of `check_owned`: clause 1.
        if unsafe { cache.check_owned(start) }.is_err() {
            return false;
        }
        // SAFETY: clause 1 of `set_requested_size`: the check has found the object in use. Clause
        // 2: clause 1.
        unsafe { cache.set_requested_size(start, bytes.max(1)) };
        true
    }
}
