//! CPU slots: state that one CPU uses without atomic read-modify-writes, and that others can take over.
//!
//! # Concepts
//! - A **slot** is the part of a layer that belongs to one CPU. Three bytes in front of it carry the protocol.
//! - `busy`, written by the owner: the owner is inside the slot.
//! - `detached`, written by others: somebody has taken the slot over, or is trying to.
//! - `locking`, written by the owner: it holds, or waits for, a lock of the slow path.
//! - **Nested**: code that finds `busy` or `locking` set runs on top of the owner (interrupt, signal). It may not wait.
//!
//! # Protocol
//! Owner: load `busy` (set: nested, go elsewhere), store `busy` 1, light fence, load `detached` (set: store `busy` 0, go
//! elsewhere), use the slot, store `busy` 0.
//!
//! Taker: compare-exchange `detached` 0 to 1 on the slots wanted, one heavy fence, then each slot whose `busy` reads 0
//! is the taker's until it stores `detached` 0.
//!
//! The fences order each side's store before its load, so at least one of the two sees the other (Dekker's scheme, the
//! store-load order bought once by the taker instead of each time by the owner; Dice, Huang and Yang 2001,
//! "Asymmetric Dekker synchronization").
//!
//! # Invariants
//! - I1: who may touch a slot's body: the owner while `busy` is 1 and it read `detached` 0 after the fence; or the one
//!   taker that changed `detached` from 0 to 1 and read `busy` 0 after the fence.
//! - I2: `busy` and `locking` are written only by contexts whose [`Cpu`] gave them this slot's id.
//!
//! # Costs
//! Enter and leave: two stores and two loads on one line, no atomic read-modify-write. Take-over: one compare-exchange
//! per slot and one heavy fence.

use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use crate::sync::{AtomicU8, Guard, Lock, Ordering, UnsafeCell, Zeroable, spin_hint};
use crate::{Cpu, CpuId, InterruptState};

/// How often a taker looks again at a busy slot before it skips it: a guess, a few hundred nanoseconds.
const BUSY_RETRIES: usize = if crate::sync::MODELLED { 1 } else { 64 };

/// One CPU's part of a layer, with the bytes of the protocol in front. On its own cache line.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Slot<T> {
    busy: AtomicU8,
    detached: AtomicU8,
    locking: AtomicU8,
    body: UnsafeCell<T>,
}

// SAFETY: I1 gives the body to one context at a time, and each hand-over is a Release store read by an Acquire load.
unsafe impl<T: Send> Sync for Slot<T> {}

// SAFETY: clause 1: zero bytes are an idle slot around a body for which they are a value.
unsafe impl<T: Zeroable> Zeroable for Slot<T> {
    fn zero() -> Self {
        Self::new(T::zero())
    }
}

impl<T> Slot<T> {
    crate::const_unless_loom! {
        /// Wraps `body` in a slot that nobody uses.
        pub fn new(body: T) -> Self {
            Self {
                busy: AtomicU8::new(0),
                detached: AtomicU8::new(0),
                locking: AtomicU8::new(0),
                body: UnsafeCell::new(body),
            }
        }
    }

    fn body(&self) -> *mut T {
        self.body.with_mut(|body| body)
    }

    /// Enters the slot for the CPU `id`, which `cpu` has just pinned the caller to; ends the pin where that fails.
    ///
    /// # Errors
    /// As for [`Slots::enter`].
    ///
    /// # Safety
    /// 1. This is the slot of `id`, which the last `pin` of `cpu` returned, and nothing has ended that.
    #[inline(always)]
    pub unsafe fn enter<'a, C: Cpu>(
        &'a self,
        id: CpuId,
        cpu: &'a C,
    ) -> Result<Entered<'a, T, C>, Elsewhere> {
        // Relaxed: only contexts on this CPU write `busy` (I2).
        let why = if self.busy.load(Ordering::Relaxed) != 0 {
            Elsewhere::Nested
        } else {
            // Relaxed: the light fence orders it before the load; what it guards is published by the store of 0.
            self.busy.store(1, Ordering::Relaxed);
            cpu.light_fence();
            // Acquire: pairs with the Release in `hand_back`; sees what the taker did to the body.
            if self.detached.load(Ordering::Acquire) == 0 {
                return Ok(Entered { slot: self, id, cpu, _not_send: PhantomData });
            }
            // Release: pairs with the Acquire in `take_over`.
            self.busy.store(0, Ordering::Release);
            Elsewhere::Detached
        };
        // SAFETY: clause 1.
        unsafe { cpu.unpin() };
        Err(why)
    }
}

/// Why the slot could not be entered, so that the caller goes on without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// The caller has no slot.
    NoSlot,
    /// The caller runs on top of the slot's owner: it may only try locks.
    Nested,
    /// Another CPU has taken the slot over.
    Detached,
}

/// What a take-over achieved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakeOver {
    /// Slots that were handed to the caller.
    pub taken: usize,
    /// Slots that stayed busy, or that another taker had.
    pub skipped: usize,
}

/// The slots of all CPUs for one layer, with the machine that says whose is whose.
///
/// ```
/// use page_frame::{SingleCpu, Slot, Slots};
/// let slots = [Slot::new(0)];
/// let slots = Slots::new(&slots, SingleCpu::new());
/// *slots.enter().unwrap() += 1;
/// let mut seen = 0;
/// slots.take_over(|_| true, |_, body| seen = *body);
/// assert_eq!(seen, 1);
/// ```
#[derive(Debug)]
pub struct Slots<'s, T, C> {
    first: *const Slot<T>,
    // Narrow, as every cache has them.
    count: u32,
    /// From a slot to the next CPU's, in bytes.
    stride: u32,
    cpu: C,
    slots: PhantomData<&'s [Slot<T>]>,
}

// SAFETY: in place of a reference to the slots, which are shared under these conditions.
unsafe impl<T: Send, C: Send> Send for Slots<'_, T, C> {}
// SAFETY: as above.
unsafe impl<T: Send, C: Sync> Sync for Slots<'_, T, C> {}

impl<'s, T, C: Cpu> Slots<'s, T, C> {
    /// Puts `slots` under the protocol. CPUs whose id is beyond the slice have no slot.
    pub const fn new(slots: &'s [Slot<T>], cpu: C) -> Self {
        let (first, count) = (slots.as_ptr(), slots.len() as u32);
        Self { first, count, stride: size_of::<Slot<T>>() as u32, cpu, slots: PhantomData }
    }

    /// Puts slots under the protocol that do not lie side by side, but `stride` bytes from each to the next.
    ///
    /// # Safety
    /// 1. During `'s` there are `count` slots, the first at `first`, aligned; used through this protocol alone.
    pub const unsafe fn apart(first: NonNull<Slot<T>>, count: u32, stride: u32, cpu: C) -> Self {
        Self { first: first.as_ptr(), count, stride, cpu, slots: PhantomData }
    }

    #[inline(always)]
    fn get(&self, index: usize) -> Option<&'s Slot<T>> {
        if index >= self.count() {
            return None;
        }
        // SAFETY: the constructors' slots, of which this is one.
        let slot = unsafe { self.first.byte_add(index * self.stride as usize) };
        // SAFETY: as above.
        Some(unsafe { &*slot })
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &'s Slot<T>)> {
        (0..self.count()).filter_map(|index| Some((index, self.get(index)?)))
    }

    /// Returns the machine.
    pub const fn cpu(&self) -> &C {
        &self.cpu
    }

    /// Returns the number of slots.
    pub const fn count(&self) -> usize {
        self.count as usize
    }

    /// Enters the caller's own slot.
    ///
    /// # Errors
    /// Says why the caller has to go on without a slot; then nothing is held.
    #[inline(always)]
    pub fn enter(&self) -> Result<Entered<'_, T, C>, Elsewhere> {
        let Some(id) = self.cpu.pin() else { return Err(Elsewhere::NoSlot) };
        let Some(slot) = self.get(id.index()) else {
            // SAFETY: pairs with the `pin` above, which returned an id.
            unsafe { self.cpu.unpin() };
            return Err(Elsewhere::NoSlot);
        };
        // SAFETY: the slot of the id that `pin` has just returned.
        unsafe { slot.enter(id, &self.cpu) }
    }

    /// Prepares the caller for locks of the slow path: says whether it is nested, and marks its slot as locking.
    pub fn slow(&self) -> Slow<'_, T, C> {
        let id = self.cpu.pin();
        let slot = id.and_then(|id| self.get(id.index()));
        let nested = slot.is_some_and(|slot| {
            // Relaxed: only contexts on this CPU write either (I2).
            slot.busy.load(Ordering::Relaxed) != 0 || slot.locking.load(Ordering::Relaxed) != 0
        });
        let marked = slot.filter(|_| !nested);
        if let Some(slot) = marked {
            // Relaxed: read only by contexts on this CPU.
            slot.locking.store(1, Ordering::Relaxed);
        }
        Slow { marked, nested, id, cpu: &self.cpu, _not_send: PhantomData }
    }

    /// Takes over the slots that `wanted` names and calls `visit` with each one's body.
    ///
    /// An idle CPU's slot is taken without that CPU doing anything. A slot whose owner is inside is looked at a bounded
    /// number of times and then skipped. The caller must not be inside a slot of its own.
    pub fn take_over(
        &self,
        mut wanted: impl FnMut(CpuId) -> bool,
        mut visit: impl FnMut(CpuId, &mut T),
    ) -> TakeOver {
        let mut outcome = TakeOver::default();
        for first in (0..self.count()).step_by(usize::BITS as usize) {
            let id = |index: usize| CpuId::new((first + index) as u32);
            let count = (self.count() - first).min(usize::BITS as usize);
            let slots = || (0..count).filter_map(|index| Some((index, self.get(first + index)?)));
            let mut detached = 0_usize;
            for (index, slot) in slots().filter(|(index, _)| wanted(id(*index))) {
                // Acquire: pairs with the Release in `hand_back` of the taker before; Relaxed on failure: not ours.
                let won = slot.detached.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed);
                match won {
                    Ok(_) => detached |= 1 << index,
                    Err(_) => outcome.skipped += 1,
                }
            }
            if detached == 0 {
                continue;
            }
            let fenced = self.cpu.fence_all();
            for (index, slot) in slots().filter(|(i, _)| detached >> i & 1 == 1) {
                if fenced && Self::is_left(slot) {
                    // SAFETY: I1: we changed `detached`, and after the fence `busy` read 0.
                    visit(id(index), unsafe { &mut *slot.body() });
                    outcome.taken += 1;
                } else {
                    outcome.skipped += 1;
                }
                // Release: pairs with the Acquire loads of `detached`; publishes what `visit` did to the body.
                slot.detached.store(0, Ordering::Release);
            }
        }
        outcome
    }

    /// Keeps every owner out of its slot until [`let_go`](Self::let_go), and waits until those that are inside have left:
    /// for whoever is about to copy memory while others run (`fork`).
    ///
    /// Meanwhile everybody goes the way without a slot. `own` is the caller's id; its slot is not waited for. Whether the
    /// machine could fence; otherwise an owner may still be inside.
    pub fn hold(&self, own: Option<CpuId>) -> bool {
        for (_, slot) in self.iter() {
            let mut round = 0;
            // Acquire and Release: as in `take_over`, whose takers are waited for.
            while slot.detached.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_err()
            {
                self.cpu.wait(round);
                round += 1;
            }
        }
        let fenced = self.count == 0 || self.cpu.fence_all();
        for (index, slot) in self.iter() {
            let mut round = 0;
            // Acquire: as in `is_left`.
            while own != Some(CpuId::new(index as u32)) && slot.busy.load(Ordering::Acquire) != 0 {
                self.cpu.wait(round);
                round += 1;
            }
        }
        fenced
    }

    /// Ends a [`hold`](Self::hold): lets owners into their slots again.
    ///
    /// # Safety
    /// 1. Pairs with a `hold` of the caller's, or of the process that the caller was forked from.
    pub unsafe fn let_go(&self) {
        for (_, slot) in self.iter() {
            // Release: as in `take_over`.
            slot.detached.store(0, Ordering::Release);
        }
    }

    /// Says that no CPU but `own` is in the middle of anything: in a process that was just forked, where the others' threads
    /// are not.
    ///
    /// # Safety
    /// 1. So it is.
    pub unsafe fn forget_others(&self, own: Option<CpuId>) {
        for (index, slot) in self.iter() {
            if own != Some(CpuId::new(index as u32)) {
                // Release: as the owner's own.
                slot.busy.store(0, Ordering::Release);
                slot.locking.store(0, Ordering::Release);
            }
        }
    }

    /// Whether the owner is outside; waits a little for it.
    fn is_left(slot: &Slot<T>) -> bool {
        (0..=BUSY_RETRIES).any(|round| {
            if round > 0 {
                spin_hint();
            }
            // Acquire: pairs with the Release when the owner leaves; sees what it did to the body.
            slot.busy.load(Ordering::Acquire) == 0
        })
    }

    /// Calls `look` with each body, for `validate` and exact statistics. Needs `&mut self`: nobody is inside.
    pub fn for_each_exclusive(&mut self, mut look: impl FnMut(CpuId, &mut T)) {
        for (index, slot) in self.iter() {
            // SAFETY: `&mut self` on the only view of the slots excludes owners and takers.
            look(CpuId::new(index as u32), unsafe { &mut *slot.body() });
        }
    }
}

/// The caller's own slot, entered. Dropping it leaves the slot.
#[derive(Debug)]
#[must_use = "the slot is left at once when this is dropped"]
pub struct Entered<'a, T, C: Cpu> {
    slot: &'a Slot<T>,
    id: CpuId,
    cpu: &'a C,
    _not_send: PhantomData<*mut ()>,
}

impl<T, C: Cpu> Entered<'_, T, C> {
    /// Returns the id of the CPU whose slot this is.
    #[inline]
    pub fn id(&self) -> CpuId {
        self.id
    }
}

impl<T, C: Cpu> Deref for Entered<'_, T, C> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: I1: `enter` set `busy` and read `detached` 0.
        unsafe { &*self.slot.body() }
    }
}

impl<T, C: Cpu> DerefMut for Entered<'_, T, C> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: I1: `enter` set `busy` and read `detached` 0; nested contexts turn away at `busy`.
        unsafe { &mut *self.slot.body() }
    }
}

impl<T, C: Cpu> Drop for Entered<'_, T, C> {
    #[inline(always)]
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `is_left`; publishes what we did to the body.
        self.slot.busy.store(0, Ordering::Release);
        // SAFETY: pairs with the `pin` of `enter`.
        unsafe { self.cpu.unpin() };
    }
}

/// Leave to take locks of the slow path. While it lives, nested contexts on this CPU only try theirs.
#[derive(Debug)]
pub struct Slow<'a, T, C: Cpu> {
    marked: Option<&'a Slot<T>>,
    nested: bool,
    id: Option<CpuId>,
    cpu: &'a C,
    _not_send: PhantomData<*mut ()>,
}

impl<'a, T, C: Cpu> Slow<'a, T, C> {
    /// Whether the caller runs on top of code that is inside the slot or holds locks.
    pub fn is_nested(&self) -> bool {
        self.nested
    }

    /// Returns the id of the CPU, for callers that have one.
    pub fn id(&self) -> Option<CpuId> {
        self.id
    }

    /// Takes `lock` with interrupts masked: waits for it, or, nested, only tries.
    pub fn lock<'l, U>(&'l self, lock: &'l Lock<U>) -> Option<Masked<'l, U, C>> {
        if self.nested || crate::sync::MODELLED {
            // Loom's own lock knows who waits for whom.
            let wait = || Some(self.masked(|| lock.lock()));
            return if self.nested { self.try_lock(lock) } else { wait() };
        }
        let mut round = 0;
        loop {
            if let Some(held) = self.try_lock(lock) {
                return Some(held);
            }
            self.cpu.wait(round);
            round += 1;
        }
    }

    /// Takes `lock` with interrupts masked if it is free.
    pub fn try_lock<'l, U>(&'l self, lock: &'l Lock<U>) -> Option<Masked<'l, U, C>> {
        let state = self.cpu.mask_interrupts();
        let Some(guard) = lock.try_lock() else {
            // SAFETY: `state` is from the line above.
            unsafe { self.cpu.restore_interrupts(state) };
            return None;
        };
        Some(Masked { guard: Some(guard), state, cpu: self.cpu })
    }

    fn masked<'l, U>(&'l self, take: impl FnOnce() -> Guard<'l, U>) -> Masked<'l, U, C> {
        let state = self.cpu.mask_interrupts();
        Masked { guard: Some(take()), state, cpu: self.cpu }
    }
}

impl<T, C: Cpu> Drop for Slow<'_, T, C> {
    fn drop(&mut self) {
        if let Some(slot) = self.marked {
            // Relaxed: read only by contexts on this CPU.
            slot.locking.store(0, Ordering::Relaxed);
        }
        if self.id.is_some() {
            // SAFETY: pairs with the `pin` of `slow`.
            unsafe { self.cpu.unpin() };
        }
    }
}

/// A lock's data, held with interrupts masked. Dropping it releases the lock, then restores them.
#[derive(Debug)]
#[must_use = "the lock is released at once when this is dropped"]
pub struct Masked<'l, U, C: Cpu> {
    guard: Option<Guard<'l, U>>,
    state: InterruptState,
    cpu: &'l C,
}

impl<U, C: Cpu> Deref for Masked<'_, U, C> {
    type Target = U;

    fn deref(&self) -> &U {
        self.guard.as_ref().expect("the guard is there until drop")
    }
}

impl<U, C: Cpu> DerefMut for Masked<'_, U, C> {
    fn deref_mut(&mut self) -> &mut U {
        self.guard.as_mut().expect("the guard is there until drop")
    }
}

impl<U, C: Cpu> Drop for Masked<'_, U, C> {
    fn drop(&mut self) {
        self.guard = None;
        // SAFETY: `state` is what the masking before the lock returned.
        unsafe { self.cpu.restore_interrupts(self.state) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SwitchedCpu;

    #[test]
    fn a_nested_context_finds_the_slot_busy_and_only_tries_locks() {
        let slots = [Slot::new(0)];
        let slots = Slots::new(&slots, SwitchedCpu::new(1));
        let lock = Lock::new(());
        let inside = slots.enter().expect("nobody is inside");
        assert_eq!(slots.enter().err(), Some(Elsewhere::Nested));
        assert!(slots.slow().is_nested());
        drop(inside);

        let slow = slots.slow();
        let held = slow.lock(&lock).expect("not nested");
        let nested = slots.slow();
        assert!(nested.is_nested() && nested.lock(&lock).is_none());
        drop(held);
        assert!(nested.lock(&lock).is_some());
        drop(nested);
        drop(slow);
        assert!(!slots.slow().is_nested());
    }

    #[test]
    fn a_busy_slot_is_skipped_and_an_idle_one_taken() {
        let slots = [Slot::new(1), Slot::new(2)];
        let slots = Slots::new(&slots, SwitchedCpu::new(2));
        let inside = slots.enter().expect("nobody is inside");
        let mut seen = 0;
        let outcome = slots.take_over(|_| true, |_, body| seen += *body);
        assert_eq!((outcome, seen), (TakeOver { taken: 1, skipped: 1 }, 2));
        drop(inside);
        assert_eq!(slots.take_over(|_| true, |_, _| ()), TakeOver { taken: 2, skipped: 0 });
    }

    #[test]
    fn a_detached_slot_is_not_entered() {
        let slots = [Slot::new(())];
        let slots = Slots::new(&slots, SwitchedCpu::new(1));
        slots
            .take_over(|_| true, |_, _| assert_eq!(slots.enter().err(), Some(Elsewhere::Detached)));
        assert!(slots.enter().is_ok());
    }

    #[test]
    fn without_an_id_there_is_no_slot() {
        let slots = [Slot::new(())];
        let slots = Slots::new(&slots, SwitchedCpu::new(2));
        slots.cpu().switch_to(None);
        assert_eq!(slots.enter().err(), Some(Elsewhere::NoSlot));
        slots.cpu().switch_to(Some(CpuId::new(1)));
        assert_eq!(slots.enter().err(), Some(Elsewhere::NoSlot));
        assert!(!slots.slow().is_nested());
    }
}
