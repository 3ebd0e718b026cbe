//! The CPU slot: two magazines, and the hits on them.
//!
//! # Concepts
//! **Loaded** is the magazine that objects are popped from and pushed to; **previous** was loaded before and is full,
//! empty, or something between when another CPU has taken the slot over. With two, a CPU that allocates and frees around
//! the edge of one does not go to the depot each time (Bonwick and Adams 2001, section 3.1).
//!
//! # Invariants
//! - I1: `loaded` is null and `length` and `limit` are zero, or `loaded` is a live magazine of capacity `limit`, owned by
//!   the slot, its first `length` places written.
//! - I2: `previous` is null or a live magazine of the same capacity, owned by the slot, its length in its header.

use core::ptr::NonNull;

use crate::magazine::Magazine;

/// How often a slot goes to the slabs for one object before it gets magazines: a guess. Caches that a CPU hardly uses
/// stay without, which saves their memory. None under loom, where a model affords few steps.
const MISSES_WITHOUT_MAGAZINES: u16 = if page_frame::sync::MODELLED { 0 } else { 8 };

/// The part of a cache that belongs to one CPU.
#[derive(Debug)]
pub(crate) struct CpuSlot {
    length: u16,
    limit: u16,
    misses: u16,
    loaded: *mut Magazine,
    previous: *mut Magazine,
}

page_frame::assert_unless_loom!(size_of::<page_frame::Slot<CpuSlot>>() == 64);

// SAFETY: the slot owns its magazines and the objects in them.
unsafe impl Send for CpuSlot {}

/// What a push found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Push {
    Done,
    /// No room.
    Full,
    /// The object is on top of the magazine already: it is being freed twice.
    Again,
}

impl CpuSlot {
    pub(crate) const fn new() -> Self {
        Self {
            length: 0,
            limit: 0,
            misses: 0,
            loaded: core::ptr::null_mut(),
            previous: core::ptr::null_mut(),
        }
    }

    /// Pops an object of the loaded magazine.
    #[inline(always)]
    pub(crate) fn pop(&mut self) -> Option<NonNull<u8>> {
        let index = self.length.checked_sub(1)?;
        self.length = index;
        // SAFETY: I1: `length` was not zero, so `loaded` is a magazine.
        let loaded = unsafe { NonNull::new_unchecked(self.loaded) };
        // SAFETY: I1: below `length`.
        let place = unsafe { Magazine::place(loaded, usize::from(index)) };
        // SAFETY: I1: written.
        Some(unsafe { place.read() })
    }

    /// Pushes `object` to the loaded magazine.
    #[inline(always)]
    pub(crate) fn push(&mut self, object: NonNull<u8>) -> Push {
        let index = self.length;
        if index >= self.limit {
            return Push::Full;
        }
        // SAFETY: I1: `limit` is not zero, so `loaded` is a magazine.
        let loaded = unsafe { NonNull::new_unchecked(self.loaded) };
        // SAFETY: I1: below `limit`, the capacity.
        let place = unsafe { Magazine::place(loaded, usize::from(index)) };
        if index > 0 {
            // SAFETY: I1: the place below is one of the magazine.
            let top = unsafe { place.sub(1) };
            // SAFETY: I1: below `length`, so written.
            if unsafe { top.read() } == object {
                return Push::Again;
            }
        }
        // SAFETY: I1: a place of ours.
        unsafe { place.write(object) };
        self.length = index + 1;
        Push::Done
    }

    /// Exchanges loaded and previous.
    pub(crate) fn swap(&mut self, limit: usize) {
        let loaded = self.unload();
        let previous = core::mem::replace(&mut self.previous, core::ptr::null_mut());
        if let Some(magazine) = NonNull::new(previous) {
            // SAFETY: I2: it is the slot's, and nothing is loaded.
            unsafe { self.load(magazine, limit) };
        }
        self.previous = loaded.map_or(core::ptr::null_mut(), NonNull::as_ptr);
    }

    /// Returns the length of the previous magazine, if there is one.
    pub(crate) fn previous_length(&self) -> Option<usize> {
        // SAFETY: I2: live.
        NonNull::new(self.previous).map(|magazine| unsafe { magazine.as_ref() }.length)
    }

    /// Takes the loaded magazine out, its length in its header.
    pub(crate) fn unload(&mut self) -> Option<NonNull<Magazine>> {
        let mut magazine = NonNull::new(self.loaded)?;
        // SAFETY: I1: live and the slot's.
        unsafe { magazine.as_mut() }.length = usize::from(self.length);
        self.loaded = core::ptr::null_mut();
        self.length = 0;
        self.limit = 0;
        Some(magazine)
    }

    /// Takes the previous magazine out.
    pub(crate) fn take_previous(&mut self) -> Option<NonNull<Magazine>> {
        NonNull::new(core::mem::replace(&mut self.previous, core::ptr::null_mut()))
    }

    /// Loads `magazine`; what was loaded becomes the previous one, and the previous one is returned.
    ///
    /// # Safety
    /// 1. The caller owns `magazine`, of capacity `limit`, and gives it to the slot.
    #[must_use = "the magazine that was put out is the caller's"]
    pub(crate) unsafe fn insert(
        &mut self,
        magazine: NonNull<Magazine>,
        limit: usize,
    ) -> Option<NonNull<Magazine>> {
        let out = self.take_previous();
        self.previous = self.unload().map_or(core::ptr::null_mut(), NonNull::as_ptr);
        // SAFETY: clause 1.
        unsafe { self.load(magazine, limit) };
        out
    }

    /// # Safety
    /// 1. As for `insert`, and nothing is loaded.
    unsafe fn load(&mut self, magazine: NonNull<Magazine>, limit: usize) {
        // SAFETY: clause 1.
        self.length = unsafe { magazine.as_ref() }.length as u16;
        self.limit = limit as u16;
        self.loaded = magazine.as_ptr();
    }

    /// Counts a miss; whether the slot has earned magazines.
    pub(crate) fn has_earned_magazines(&mut self) -> bool {
        self.misses = self.misses.saturating_add(1);
        self.misses > MISSES_WITHOUT_MAGAZINES
    }

    /// Forgets the misses, when the magazines are taken away from an idle CPU.
    pub(crate) fn forget_misses(&mut self) {
        self.misses = 0;
    }
}
