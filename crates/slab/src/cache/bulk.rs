//! Many objects at once: one call enters the CPU slot once for all objects that its two magazines
//! hold, or have room for. Also makes reserves of objects.
//!
//! Under a preset that checks each object, a call allocates or frees the objects one by one.

use core::ptr::NonNull;

use page_frame::OutOfMemory;

use crate::cache::deferred::DeferredFrees;
use crate::cache::handle::Cache;
use crate::cache::mempool::{Mempool, Prefilled};
use crate::grace::GracePeriods;
use crate::hardening::presets::{Hardening, is_any_on};
use crate::system::System;

impl<S: System, K: Hardening> Cache<S, K> {
    /// Allocates as many objects as `objects` has room for, as [`allocate`](Self::allocate) does
    /// one, and writes them there; returns how many. Fewer than `objects.len()` means that memory
    /// ran out. If a constructor panics, none is allocated.
    ///
    /// Enters the CPU slot once for all objects that its magazines hold. O(objects).
    /// Longest path counted: 850 instructions an object of 16 (`cache-many-allocate`).
    ///
    /// ```
    /// # use core::{alloc::Layout, mem::MaybeUninit, ptr::NonNull};
    /// # use page_frame::{Arena, SingleCpu};
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    /// # let arena = Arena::new(&mut memory)?;
    /// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
    /// let cache = registry.cache("message", Layout::new::<[u64; 6]>()).build()?;
    /// let mut messages = [NonNull::dangling(); 16];
    /// assert_eq!(cache.allocate_many(&mut messages), 16);
    /// // SAFETY: from this cache, and not used any more.
    /// unsafe { cache.free_many(&messages) };
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[track_caller]
    pub fn allocate_many(&self, objects: &mut [NonNull<u8>]) -> usize {
        let had = if is_any_on::<K>() { 0 } else { self.inner().percpu.pop_many(objects) };
        if had == objects.len() { had } else { self.allocate_rest(objects, had) }
    }

    /// Frees objects, as [`free`](Self::free) does one. Enters the CPU slot once for all objects
    /// that its magazines have room for. If code of the user panics meanwhile, all are freed all
    /// the same. O(objects). Longest path counted: 946 instructions an object of 16
    /// (`cache-many-free`). Example: see [`Cache::allocate_many`].
    ///
    /// # Safety
    /// 1. All clauses of [`free`](Self::free), for each of `objects`; none is there twice.
    #[inline]
    #[track_caller]
    pub unsafe fn free_many(&self, objects: &[NonNull<u8>]) {
        let gone = if is_any_on::<K>() { 0 } else { self.inner().percpu.push_many(objects) };
        if gone < objects.len() {
            // SAFETY: clause 1, of those that are left.
            unsafe { self.free_rest(&objects[gone..]) }
        }
    }

    /// Makes a reserve of `objects` objects. O(objects); may take locks and ask the page source.
    /// Example: see [`Mempool`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when the cache cannot provide that many; then nothing is held.
    pub fn mempool(&self, objects: usize) -> Result<Mempool<'_, S, K>, OutOfMemory> {
        Mempool::new(self, objects)
    }

    /// Makes `objects` allocations in advance, which then cannot fail. O(objects); may take locks
    /// and ask the page source. Example: see [`Prefilled`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when the cache cannot provide that many; then nothing is held.
    pub fn prefill(&self, objects: usize) -> Result<Prefilled<'_, S, K>, OutOfMemory> {
        Prefilled::new(self, objects)
    }

    /// Makes a list of frees that wait for grace periods of `grace`, for up to `most` objects,
    /// rounded up to whole magazines. Allocates nothing yet. Example: see [`DeferredFrees`].
    pub fn deferred_frees<G: GracePeriods>(
        &self,
        grace: G,
        most: usize,
    ) -> DeferredFrees<'_, S, G, K> {
        DeferredFrees::new(self, grace, most)
    }

    /// Allocates the rest of `objects`, after the first `had`.
    #[cold]
    #[track_caller]
    fn allocate_rest(&self, objects: &mut [NonNull<u8>], had: usize) -> usize {
        let mut taking = TakeGuard { cache: self, objects, had };
        while taking.had < taking.objects.len() {
            let Ok(object) = self.allocate() else { break };
            taking.objects[taking.had] = object;
            taking.had += 1;
            if !is_any_on::<K>() {
                taking.had += self.inner().percpu.pop_many(&mut taking.objects[taking.had..]);
            }
        }
        core::mem::take(&mut taking.had)
    }

    /// Frees `objects`, for the first of which the magazines have no room.
    ///
    /// # Safety
    /// 1. As for `free`, for each of them.
    #[cold]
    #[track_caller]
    unsafe fn free_rest(&self, objects: &[NonNull<u8>]) {
        GiveGuard { cache: self, objects }.free_all();
    }
}

/// Objects allocated so far for a caller. Dropping it frees them, if a constructor panics.
struct TakeGuard<'c, 'o, S: System, K: Hardening> {
    cache: &'c Cache<S, K>,
    objects: &'o mut [NonNull<u8>],
    had: usize,
}

impl<S: System, K: Hardening> Drop for TakeGuard<'_, '_, S, K> {
    fn drop(&mut self) {
        if self.had > 0 {
            // SAFETY: this call allocated the first `had` objects, and the caller has not seen
            // them, so they are unchanged.
            unsafe { self.cache.free_rest(&self.objects[..self.had]) };
        }
    }
}

/// Objects of a caller that are freed one after the other. Dropping it frees the rest, if a
/// destructor panics.
struct GiveGuard<'c, 'o, S: System, K: Hardening> {
    cache: &'c Cache<S, K>,
    /// The objects that are not freed yet. The caller gives them up (clause 1 of `free_rest`).
    objects: &'o [NonNull<u8>],
}

impl<S: System, K: Hardening> GiveGuard<'_, '_, S, K> {
    #[track_caller]
    fn free_all(&mut self) {
        while let Some((first, rest)) = self.objects.split_first() {
            // Before the call: an object whose free panicked is not freed again.
            self.objects = rest;
            // SAFETY: each of them is the caller's, and given up.
            unsafe { self.cache.free(*first) };
            if !is_any_on::<K>() {
                let gone = self.cache.inner().percpu.push_many(self.objects);
                self.objects = &self.objects[gone..];
            }
        }
    }
}

impl<S: System, K: Hardening> Drop for GiveGuard<'_, '_, S, K> {
    fn drop(&mut self) {
        self.free_all();
    }
}
