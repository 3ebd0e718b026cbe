//! Many objects at once: the slot is entered once for as many as its two magazines have, or have room for.
//!
//! Where a preset looks at every object, each takes the way of a single one.

use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::cache::inner::CacheInner;
use crate::hardening::{Hardening, is_any_on};
use crate::system::System;

impl<S: System> CacheInner<S> {
    /// Allocates up to as many objects as `objects` has room for; returns how many.
    #[inline]
    #[track_caller]
    pub(crate) fn allocate_many<K: Hardening>(&self, objects: &mut [NonNull<u8>]) -> usize {
        let had = if is_any_on::<K>() { 0 } else { self.pop_many(objects) };
        if had == objects.len() { had } else { self.allocate_rest::<K>(objects, had) }
    }

    /// Frees `objects`.
    ///
    /// # Safety
    /// 1. As for `free`, for each of them.
    #[inline]
    #[track_caller]
    pub(crate) unsafe fn free_many<K: Hardening>(&self, objects: &[NonNull<u8>]) {
        let gone = if is_any_on::<K>() { 0 } else { self.push_many(objects) };
        if gone < objects.len() {
            // SAFETY: clause 1.
            unsafe { self.free_rest::<K>(&objects[gone..]) }
        }
    }

    /// Goes on with `objects`, of which there are `had`.
    #[cold]
    #[track_caller]
    fn allocate_rest<K: Hardening>(&self, objects: &mut [NonNull<u8>], had: usize) -> usize {
        let mut taking = Taking::<S, K> { inner: self, objects, had, checks: PhantomData };
        while taking.had < taking.objects.len() {
            let Ok(object) = self.allocate::<K>() else { break };
            taking.objects[taking.had] = object;
            taking.had += 1;
            if !is_any_on::<K>() {
                taking.had += self.pop_many(&mut taking.objects[taking.had..]);
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
    unsafe fn free_rest<K: Hardening>(&self, objects: &[NonNull<u8>]) {
        Giving::<S, K> { inner: self, objects, checks: PhantomData }.free_all();
    }

    #[inline]
    fn pop_many(&self, objects: &mut [NonNull<u8>]) -> usize {
        let Ok(mut slot) = self.slots.enter() else { return 0 };
        let had = slot.pop_many(objects);
        if had == objects.len() || !slot.swap_to_objects() {
            return had;
        }
        had + slot.pop_many(&mut objects[had..])
    }

    #[inline]
    fn push_many(&self, objects: &[NonNull<u8>]) -> usize {
        let Ok(mut slot) = self.slots.enter() else { return 0 };
        let gone = slot.push_many(objects);
        if gone == objects.len() || !slot.swap_to_room() {
            return gone;
        }
        gone + slot.push_many(&objects[gone..])
    }
}

/// Objects that are allocated for a caller, who does not know yet how many there are. Dropping it frees them, when a constructor
/// panics.
struct Taking<'c, 'o, S: System, K: Hardening> {
    inner: &'c CacheInner<S>,
    objects: &'o mut [NonNull<u8>],
    had: usize,
    checks: PhantomData<fn() -> K>,
}

impl<S: System, K: Hardening> Drop for Taking<'_, '_, S, K> {
    fn drop(&mut self) {
        if self.had > 0 {
            // SAFETY: the first `had` were allocated above, and nobody has seen them; they are as they came.
            unsafe { self.inner.free_rest::<K>(&self.objects[..self.had]) };
        }
    }
}

/// Objects of a caller that are freed one after the other. Dropping it frees the rest, when a destructor panics.
struct Giving<'c, 'o, S: System, K: Hardening> {
    inner: &'c CacheInner<S>,
    /// Those that are left. All are the caller's, who gives them up (`free_rest`, clause 1).
    objects: &'o [NonNull<u8>],
    checks: PhantomData<fn() -> K>,
}

impl<S: System, K: Hardening> Giving<'_, '_, S, K> {
    fn free_all(&mut self) {
        while let Some((first, rest)) = self.objects.split_first() {
            // Before the call: what is freed is not freed again.
            self.objects = rest;
            // SAFETY: each of them is the caller's, and given up.
            unsafe { self.inner.free::<K>(*first) };
            if !is_any_on::<K>() {
                let gone = self.inner.push_many(self.objects);
                self.objects = &self.objects[gone..];
            }
        }
    }
}

impl<S: System, K: Hardening> Drop for Giving<'_, '_, S, K> {
    fn drop(&mut self) {
        self.free_all();
    }
}
