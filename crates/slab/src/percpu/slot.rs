//! The CPU slot with its two magazines, where hits happen; and the handle to the slots of all CPUs.
//!
//! # Concepts
//! The slot pops from and pushes to the **loaded** magazine. The **previous** one was loaded
//! before; it is full or empty, or partly filled, for example after a take-over of the slot. With
//! two, a CPU that allocates and frees in turns at the edge of one magazine does not go to the
//! depot each time (Bonwick and Adams 2001, section 3.1).
//!
//! For the loaded magazine the slot keeps three pointers: to the first place, past the last object,
//! and past the last place. So a hit compares two pointers and moves one.
//!
//! Pop and push both read `top` once, compute, and store it. A CPU forwards a store to the next
//! load at once if both are plain moves. With a second read the compiler uses one read-modify-write
//! instruction instead, and a pair takes 4.6 instead of 2.9 ns (Golden Cove).
//!
//! A layer that finds a cache through a table (kmalloc, by class) keeps a [`PerCpuHandle`] there,
//! and saves a load: a hit uses nothing else of a cache. A **closed** handle never hits, as its
//! slots stay empty. It takes the place of the handle of a cache that is not built yet, or that
//! checks every object.
//!
//! # Invariants
//! - I1: `bottom`, `top` and `end` are null and nothing is loaded; or they are places of a live
//!   magazine owned by the slot, `bottom <= top <= end`, of which those below `top` are written.

use core::ptr::NonNull;

use page_frame::sync::{AccessKind, AtomicPtr, Ordering, load_and_add, report};
use page_frame::{Cpu, PerCpuGuard, PerCpuSlot, StridedPerCpu};

use crate::percpu::magazine::Magazine;

/// Misses of a slot that transfer a single object before it gets magazines: a guess. A CPU that
/// hardly uses a cache gets no magazines there, which saves memory. Zero under loom, where a model
/// affords few steps.
const MISSES_WITHOUT_MAGAZINES: u16 = if page_frame::sync::MODELLED { 0 } else { 8 };
/// The same for a slot whose misses since the last shrink were all frees: one object in a magazine
/// may keep a whole slab from being released.
const MISSES_AFTER_SHRINKING: u16 = 8 * MISSES_WITHOUT_MAGAZINES;

/// A place for an object in a magazine.
type Place = *mut *mut u8;

/// The part of a cache that belongs to one CPU.
#[derive(Debug)]
pub(crate) struct CpuSlot {
    misses: u16,
    /// Whether the last miss was of an allocation.
    is_draining: bool,
    /// Whether a shrink took the magazines away, and no allocation has missed since.
    is_shrinking: bool,
    top: Place,
    bottom: Place,
    end: Place,
    previous: Option<Magazine>,
}

page_frame::assert_unless_loom!(size_of::<page_frame::PerCpuSlot<CpuSlot>>() == 64);

/// The slots of a cache, at the distance that the machine asks for ([`Cpu::SLOT_STRIDE`]).
pub(crate) type CacheSlots<C> = StridedPerCpu<'static, CpuSlot, C>;

// SAFETY: the slot owns its magazines and the objects in them.
unsafe impl Send for CpuSlot {}

/// The result of a push.
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
        let nothing = core::ptr::null_mut();
        Self {
            misses: 0,
            is_draining: false,
            is_shrinking: false,
            top: nothing,
            bottom: nothing,
            end: nothing,
            previous: None,
        }
    }

    /// Pops an object of the loaded magazine.
    #[inline(always)]
    pub(crate) fn pop(&mut self) -> Option<NonNull<u8>> {
        let top = self.top;
        if top == self.bottom {
            return None;
        }
        // SAFETY: I1: `top` is above `bottom`, so there is a place below it.
        let last = unsafe { top.sub(1) };
        self.top = last;
        // SAFETY: I1: `last` is a place below the old `top`, and such places are written.
        let object = unsafe { last.read() };
        // SAFETY: only objects are pushed, which are not null.
        Some(unsafe { NonNull::new_unchecked(object) })
    }

    /// Pushes `object` to the loaded magazine.
    #[inline(always)]
    pub(crate) fn push(&mut self, object: NonNull<u8>) -> Push {
        let top = self.top;
        if top == self.end {
            return Push::Full;
        }
        // SAFETY: I1: below the first place lies the magazine's header, whose last word is a count.
        let below = unsafe { top.sub(1) };
        // SAFETY: I1: a written place, or the count in the header, which is not an object's
        // address.
        if unsafe { below.read() } == object.as_ptr() {
            return Push::Again;
        }
        // SAFETY: I1: `top` is below `end`, and the places up to `end` belong to our magazine.
        unsafe { top.write(object.as_ptr()) };
        // SAFETY: I1: at most `end`.
        self.top = unsafe { top.add(1) };
        Push::Done
    }

    /// Returns whether `object` is the last one in the loaded magazine, which may be full.
    pub(crate) fn is_last(&self, object: NonNull<u8>) -> bool {
        if self.top == self.bottom {
            return false;
        }
        // SAFETY: I1: `top` is above `bottom`, so there is a place below it.
        let last = unsafe { self.top.sub(1) };
        // SAFETY: I1: a place below `top` is written.
        let freed_last = unsafe { last.read() };
        freed_last == object.as_ptr()
    }

    /// Pops objects from the loaded magazine until it is empty or `objects` is full; returns how
    /// many. They keep the order in which they were pushed.
    #[inline(always)]
    pub(crate) fn pop_many(&mut self, objects: &mut [NonNull<u8>]) -> usize {
        // SAFETY: I1: both are places of one magazine, or null.
        let loaded = unsafe { self.top.offset_from(self.bottom) } as usize;
        let count = loaded.min(objects.len());
        // SAFETY: I1: `count` objects are loaded.
        self.top = unsafe { self.top.sub(count) };
        // SAFETY: I1: the `count` places from `top` on were below the old `top`, so they hold
        // objects, which are not null; the slice does not overlap a magazine.
        unsafe { objects.as_mut_ptr().cast::<*mut u8>().copy_from_nonoverlapping(self.top, count) };
        count
    }

    /// Pushes `objects` until the loaded magazine is full; returns how many.
    #[inline(always)]
    pub(crate) fn push_many(&mut self, objects: &[NonNull<u8>]) -> usize {
        // SAFETY: I1: both are places of one magazine, or null.
        let room = unsafe { self.end.offset_from(self.top) } as usize;
        let count = room.min(objects.len());
        // SAFETY: I1: `count` places from `top` on are ours and below `end`; the slice does not
        // overlap a magazine.
        unsafe { self.top.copy_from_nonoverlapping(objects.as_ptr().cast(), count) };
        // SAFETY: I1: at most `end`.
        self.top = unsafe { self.top.add(count) };
        count
    }

    /// Exchanges the magazines if the previous one has an object. Returns whether it did.
    pub(crate) fn swap_to_objects(&mut self) -> bool {
        self.swap_if(|previous| previous.length() > 0)
    }

    /// Exchanges the magazines if the previous one has room. Returns whether it did.
    pub(crate) fn swap_to_room(&mut self) -> bool {
        self.swap_if(|previous| !previous.is_full())
    }

    fn swap_if(&mut self, is_better: impl FnOnce(&Magazine) -> bool) -> bool {
        let Some(previous) = self.previous.take_if(|previous| is_better(previous)) else {
            return false;
        };
        self.previous = self.unload();
        self.load(previous);
        true
    }

    /// Returns the length of the loaded magazine, if there is one.
    pub(crate) fn loaded_length(&self) -> Option<usize> {
        // SAFETY: I1: both are places of one magazine.
        (!self.bottom.is_null()).then(|| unsafe { self.top.offset_from(self.bottom) } as usize)
    }

    /// Returns whether I1 holds as far as the pointers show it.
    pub(crate) fn is_consistent(&self) -> bool {
        let places = [self.bottom, self.top, self.end];
        let is_unloaded = places.iter().all(|place| place.is_null());
        let is_loaded = !self.bottom.is_null() && places.is_sorted();
        let is_valid = self.previous.as_ref().is_none_or(Magazine::is_valid);
        (is_unloaded || is_loaded) && is_valid
    }

    /// Iterates over the objects of both magazines.
    pub(crate) fn objects(&self) -> impl Iterator<Item = NonNull<u8>> {
        let loaded = (0..self.loaded_length().unwrap_or(0)).filter_map(|index| {
            // SAFETY: I1: below `top`, so a place of the loaded magazine.
            let place = unsafe { self.bottom.add(index) };
            // SAFETY: I1: a place below `top` is written.
            NonNull::new(unsafe { place.read() })
        });
        let previous = self.previous.iter().flat_map(|magazine| magazine.objects());
        loaded.chain(previous.copied())
    }

    /// Returns the length of the previous magazine, if there is one.
    pub(crate) fn previous_length(&self) -> Option<usize> {
        self.previous.as_ref().map(Magazine::length)
    }

    /// Takes the loaded magazine out.
    pub(crate) fn unload(&mut self) -> Option<Magazine> {
        let length = self.loaded_length()?;
        let places = NonNull::new(self.bottom)?.cast();
        let nothing = core::ptr::null_mut();
        (self.top, self.bottom, self.end) = (nothing, nothing, nothing);
        // SAFETY: clause 1 of `from_places`: `load` got the places from `into_places`, and this
        // function has just cleared them. Clause 2: I1: the places below `top` hold objects that
        // the slot owns.
        Some(unsafe { Magazine::from_places(places, length) })
    }

    /// Takes the previous magazine out.
    pub(crate) fn take_previous(&mut self) -> Option<Magazine> {
        self.previous.take()
    }

    /// Loads `magazine`. The loaded magazine becomes the previous one; returns the old previous
    /// one.
    pub(crate) fn insert(&mut self, magazine: Magazine) -> Option<Magazine> {
        let out = self.previous.take();
        self.previous = self.unload();
        self.load(magazine);
        out
    }

    /// Loads `magazine` into a slot without a loaded one.
    fn load(&mut self, magazine: Magazine) {
        let (length, capacity) = (magazine.length(), magazine.capacity());
        self.bottom = magazine.into_places().as_ptr().cast();
        // Another CPU may have used it last.
        report(AccessKind::Write, self.bottom, capacity * size_of::<NonNull<u8>>());
        // SAFETY: at most the capacity.
        self.top = unsafe { self.bottom.add(length) };
        // SAFETY: the magazine has that many places.
        self.end = unsafe { self.bottom.add(capacity) };
    }

    /// Notes whether a miss is of an allocation. Returns whether the miss before it was one too.
    pub(crate) fn was_draining(&mut self, is_allocation: bool) -> bool {
        core::mem::replace(&mut self.is_draining, is_allocation)
    }

    /// Counts the miss that `was_draining` noted last. Returns whether the slot has earned
    /// magazines.
    pub(crate) fn has_earned_magazines(&mut self) -> bool {
        self.misses = self.misses.saturating_add(1);
        self.is_shrinking &= !self.is_draining;
        let most =
            if self.is_shrinking { MISSES_AFTER_SHRINKING } else { MISSES_WITHOUT_MAGAZINES };
        self.misses > most
    }

    /// Resets the count of misses, when a shrink takes the magazines away.
    pub(crate) fn forget_misses(&mut self) {
        self.misses = 0;
        self.is_shrinking = true;
    }
}

/// The CPU slots of a cache.
#[derive(Clone, Copy, Debug)]
pub struct PerCpuHandle {
    /// The first of one slot per CPU; the machine says how far apart they are.
    slots: NonNull<PerCpuSlot<CpuSlot>>,
}

impl PerCpuHandle {
    /// Pops an object from the caller's CPU slot, through a handle in an atomic word. `None` means
    /// a miss, not that memory has run out.
    ///
    /// # Safety
    /// 1. `handle` holds a raw handle ([`into_raw`](Self::into_raw)), which was stored with
    ///    Release.
    /// 2. Its cache is alive or, for a closed handle, its registry; and `cpu` is a clone of, or a
    ///    reference to, its CPUs.
    #[inline(always)]
    pub unsafe fn allocate_through<C: Cpu>(handle: &AtomicPtr<()>, cpu: &C) -> Option<NonNull<u8>> {
        // Acquire: pairs with the Release of clause 1; sees the slots as they were built.
        let first = handle.load(Ordering::Acquire);
        // SAFETY: clause 1: by clauses 1 and 2 `first` is the first of live slots for the CPUs of
        // `cpu`, which lie as far apart as `CacheSlots` do, and are governed by one.
        unsafe { PerCpuGuard::<CpuSlot, C>::enter_known::<true>(cpu, first.cast()) }.ok()?.pop()
    }

    /// Pushes `object` to the caller's CPU slot, through a handle in an atomic word. Returns
    /// whether it was a hit; if not, nothing has changed.
    ///
    /// # Safety
    /// 1. As clause 1 of [`allocate_through`](Self::allocate_through).
    /// 2. As clause 2 of [`allocate_through`](Self::allocate_through).
    /// 3. All clauses of [`Cache::free`], constructed state among them, if the answer is true.
    #[inline(always)]
    pub unsafe fn free_through<C: Cpu>(
        handle: &AtomicPtr<()>,
        cpu: &C,
        object: NonNull<u8>,
    ) -> bool {
        // Acquire: as in `allocate_through`.
        let first = handle.load(Ordering::Acquire);
        // SAFETY: clause 1: as in `allocate_through`.
        let slot = unsafe { PerCpuGuard::<CpuSlot, C>::enter_known::<true>(cpu, first.cast()) };
        slot.is_ok_and(|mut slot| slot.push(object) == Push::Done)
    }

    /// Frees as [`free_through`](Self::free_through) does, through word `index` of `table`. Where
    /// the index is not a constant, this is one instruction less.
    ///
    /// # Safety
    /// 1. As clause 1 of [`allocate_through`](Self::allocate_through), for the word at `index` of
    ///    the table, which has one.
    /// 2. As clause 2 of [`allocate_through`](Self::allocate_through).
    /// 3. As clause 3 of [`free_through`](Self::free_through).
    #[inline(always)]
    pub unsafe fn free_through_index<C: Cpu>(
        table: *const AtomicPtr<()>,
        index: usize,
        cpu: &C,
        object: NonNull<u8>,
    ) -> bool {
        if C::UNOWNED.is_some() {
            // The machine adds the distance itself, from memory.
            // SAFETY: clause 1: there is a word at `index`.
            let handle = unsafe { table.add(index) };
            // SAFETY: clause 1: valid for shared use, as all words of the table.
            let handle = unsafe { &*handle };
            // SAFETY: clauses 1 to 3 of `free_through`: clauses 1 to 3.
            return unsafe { Self::free_through(handle, cpu, object) };
        }
        // SAFETY: clause 1: there is a word, and the slot lies inside the slots that it points to.
        let find = |offset| unsafe { load_and_add(table, index, offset) };
        // SAFETY: clauses 1 and 2: as in `allocate_through`.
        let slot = unsafe { PerCpuGuard::<CpuSlot, C>::enter::<true>(cpu, cpu.pin_known(), find) };
        slot.is_ok_and(|mut slot| slot.push(object) == Push::Done)
    }

    /// Turns the handle into a pointer, to be stored in an atomic word.
    pub fn into_raw(self) -> NonNull<()> {
        self.slots.cast()
    }

    /// Returns the handle of `slots`.
    pub(crate) fn of<C: Cpu>(slots: &CacheSlots<C>) -> Self {
        Self { slots: slots.first() }
    }
}

#[cfg(test)]
impl CpuSlot {
    /// Moves the end of the loaded magazine below its start, as a bug would.
    pub(crate) fn corrupt_end(&mut self) {
        self.end = self.bottom.wrapping_sub(1);
    }
}
