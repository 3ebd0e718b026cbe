//! Many objects at once: the slot is entered once for as many as its two magazines have, or have room for.
//!
//! Where a preset looks at every object, each takes the way of a single one.

use core::ptr::NonNull;

use page_frame::{Cpu, PageMap, PageSource};

use crate::checks::{Checks, is_any_on};
use crate::core::Core;

impl<P: PageSource + PageMap, C: Cpu + Clone> Core<P, C> {
    /// Allocates up to as many objects as `objects` has room for; returns how many.
    #[inline]
    #[track_caller]
    pub(crate) fn allocate_many<K: Checks>(&self, objects: &mut [NonNull<u8>]) -> usize {
        let had = if is_any_on::<K>() { 0 } else { self.pop_many(objects) };
        if had == objects.len() { had } else { self.allocate_rest::<K>(objects, had) }
    }

    /// Frees `objects`.
    ///
    /// # Safety
    /// 1. As for `free`, for each of them.
    #[inline]
    #[track_caller]
    pub(crate) unsafe fn free_many<K: Checks>(&self, objects: &[NonNull<u8>]) {
        let gone = if is_any_on::<K>() { 0 } else { self.push_many(objects) };
        if gone < objects.len() {
            // SAFETY: clause 1.
            unsafe { self.free_rest::<K>(&objects[gone..]) }
        }
    }

    /// Goes on with `objects`, of which there are `had`.
    #[cold]
    #[track_caller]
    fn allocate_rest<K: Checks>(&self, objects: &mut [NonNull<u8>], mut had: usize) -> usize {
        while had < objects.len() {
            let Ok(object) = self.allocate::<K>() else { break };
            objects[had] = object;
            had += 1;
            if !is_any_on::<K>() {
                had += self.pop_many(&mut objects[had..]);
            }
        }
        had
    }

    /// Frees `objects`, for the first of which the magazines have no room.
    ///
    /// # Safety
    /// 1. As for `free`, for each of them.
    #[cold]
    #[track_caller]
    unsafe fn free_rest<K: Checks>(&self, objects: &[NonNull<u8>]) {
        let mut gone = 0;
        while gone < objects.len() {
            // SAFETY: clause 1: each of them is the caller's.
            unsafe { self.free::<K>(objects[gone]) };
            gone += 1;
            if !is_any_on::<K>() {
                gone += self.push_many(&objects[gone..]);
            }
        }
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
