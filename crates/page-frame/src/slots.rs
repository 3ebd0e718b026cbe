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
//! - I3: there is a slot for each id of the [`Cpu`].
//! - I4: one [`PerCpu`] value governs an array of slots, as [`PerCpu::new`] borrows the array exclusively. Where
//!   [`PerCpu::at`] makes several, its caller answers for them. A second machine over the same slots would give one id to
//!   two contexts, which breaks I1.
//!
//! # Costs
//! Enter and leave: two stores and two loads on one line, no atomic read-modify-write. Take-over: one compare-exchange
//! per slot and one heavy fence.

use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use crate::sync::{AtomicU8, Ordering, UnsafeCell, Zeroable, in_register, load_own};
use crate::{Cpu, CpuId, Packed, Spacing};

/// `detached` of a slot that a taker has, or tries to take.
pub(crate) const TAKEN: u8 = 1;
/// `detached` of a slot that nobody ever enters.
pub(crate) const CLOSED: u8 = 2;
/// `detached` of a slot that is frozen.
pub(crate) const FROZEN: u8 = 3;

/// One CPU's part of a layer, with the bytes of the protocol in front. On its own cache line.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct PerCpuSlot<T> {
    pub(crate) busy: AtomicU8,
    pub(crate) detached: AtomicU8,
    pub(crate) locking: AtomicU8,
    body: UnsafeCell<T>,
}

// SAFETY: I1 gives the body to one context at a time, and each hand-over is a Release store read by an Acquire load.
unsafe impl<T: Send> Sync for PerCpuSlot<T> {}

// SAFETY: clause 1: three atomics that are valid when zero, a body that is, and padding.
unsafe impl<T: Zeroable> Zeroable for PerCpuSlot<T> {
    fn zero() -> Self {
        Self::new(T::zero())
    }
}

impl<T> PerCpuSlot<T> {
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

    pub(crate) fn body(&self) -> *mut T {
        self.body.with_mut(|body| body)
    }
}

/// Why the slot could not be entered, so that the caller goes on without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnterError {
    /// The caller has no slot.
    NoSlot,
    /// The caller runs on top of the slot's owner: it may only try locks.
    Nested,
    /// Another CPU has taken the slot over.
    Detached,
}

/// The slots of all CPUs for one layer, with the machine that says whose is whose.
///
/// ```
/// use page_frame::{SingleCpu, PerCpuSlot, PerCpu};
/// let mut slots = [PerCpuSlot::new(0)];
/// let slots = PerCpu::new(&mut slots, SingleCpu::new());
/// *slots.enter().unwrap() += 1;
/// let mut seen = 0;
/// slots.take_over(|_| true, |_, body| seen = *body);
/// assert_eq!(seen, 1);
/// ```
///
/// One array of slots belongs to one `PerCpu`:
///
/// ```compile_fail,E0499
/// use page_frame::{SingleCpu, PerCpuSlot, PerCpu};
/// let mut slots = [PerCpuSlot::new(0)];
/// let one = PerCpu::new(&mut slots, SingleCpu::new());
/// let two = PerCpu::new(&mut slots, SingleCpu::new());
/// let _ = (one.enter(), two.enter());
/// ```
///
/// A machine that is not `Sync` makes slots that no other thread reaches:
///
/// ```compile_fail,E0277
/// use page_frame::{SingleCpu, PerCpuSlot, PerCpu};
/// let mut slots = [PerCpuSlot::new(0)];
/// let slots = PerCpu::new(&mut slots, SingleCpu::new());
/// std::thread::scope(|scope| _ = scope.spawn(|| _ = slots.enter()));
/// ```
pub struct PerCpu<'s, T, C, S = Packed> {
    first: NonNull<PerCpuSlot<T>>,
    count: usize,
    pub(crate) cpu: C,
    are_borrowed: PhantomData<(&'s [PerCpuSlot<T>], S)>,
}

// SAFETY: by I4 this is the only value through which anybody reaches the bodies, so they move with it as `T: Send` allows.
// The guards that it lends (`PerCpuGuard`, `IrqLockToken`, `IrqLockGuard`, `Frozen`) borrow it and stay in the thread that made them.
unsafe impl<T: Send, C: Send, S> Send for PerCpu<'_, T, C, S> {}
// SAFETY: I1 gives each body to one context at a time, for which `T: Send` is enough; and several threads share the machine,
// which is `Sync`, so that it tells them apart.
unsafe impl<T: Send, C: Sync, S> Sync for PerCpu<'_, T, C, S> {}

impl<'s, T, C: Cpu> PerCpu<'s, T, C> {
    /// Puts `slots` under the protocol, one for each CPU of `cpu`.
    ///
    /// # Panics
    /// When there are fewer slots than CPUs.
    pub fn new(slots: &'s mut [PerCpuSlot<T>], cpu: C) -> Self {
        let count = slots.len();
        assert!(count >= cpu.slots(), "{count} slots for {} CPUs", cpu.slots());
        // SAFETY: clauses 1 and 2: the slice is exclusively borrowed for `'s`, is packed, and has the asserted length.
        unsafe { Self::at(NonNull::from(slots).cast(), count, cpu) }
    }

    /// The same, but nobody ever enters: who tries is told that the slot is detached. For layers that go without.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn closed(slots: &'s mut [PerCpuSlot<T>], cpu: C) -> Self {
        let slots = Self::new(slots, cpu);
        slots.close();
        slots
    }
}

impl<T, C: Cpu, S: Spacing> PerCpu<'_, T, C, S> {
    /// Puts `count` slots under the protocol of which the first is `first`, and which lie as far apart as `S` says.
    ///
    /// # Safety
    /// 1. The slots are valid for shared use during the lifetime of the value, and there are no fewer than `cpu.slots()`.
    /// 2. While the value lives, the slots are reached through it alone; or through other values whose machines give the
    ///    same id to the same context, and [`for_each_exclusive`](Self::for_each_exclusive) is called on none of them.
    #[inline(always)]
    pub const unsafe fn at(first: NonNull<PerCpuSlot<T>>, count: usize, cpu: C) -> Self {
        Self { first, count, cpu, are_borrowed: PhantomData }
    }

    /// Keeps everybody out for good: who tries is told that the slot is detached. An owner or a taker that is inside
    /// stays until it leaves.
    pub fn close(&self) {
        for slot in self.iter() {
            // Relaxed: who shares the slots with others publishes this store too.
            slot.detached.store(CLOSED, Ordering::Relaxed);
        }
    }

    /// Returns the first slot.
    pub const fn first(&self) -> NonNull<PerCpuSlot<T>> {
        self.first
    }

    /// Returns the machine.
    pub const fn cpu(&self) -> &C {
        &self.cpu
    }

    /// Returns the number of slots.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Returns the slot of the CPU with this index, if there is one.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&PerCpuSlot<T>> {
        if index >= self.count {
            return None;
        }
        // SAFETY: clause 1 of `at`: they are so far apart, and there.
        let slot = unsafe { self.first.byte_add(index * S::bytes::<T, C>()) };
        // SAFETY: clause 1 of `at`: shared by all.
        Some(unsafe { slot.as_ref() })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &PerCpuSlot<T>> {
        (0..self.count).filter_map(|index| self.get(index))
    }

    /// Enters the caller's own slot.
    ///
    /// # Errors
    /// Says why the caller has to go on without a slot; then nothing is held.
    #[inline(always)]
    pub fn enter(&self) -> Result<PerCpuGuard<'_, T, C>, EnterError> {
        self.enter_as(self.cpu.pin())
    }

    /// Enters the slot of a caller that has pinned before: for hot paths, where [`enter`](Self::enter) follows a failure.
    ///
    /// # Errors
    /// As for [`enter`](Self::enter); a caller that is not known yet has no slot.
    #[inline(always)]
    pub fn enter_known(&self) -> Result<PerCpuGuard<'_, T, C>, EnterError> {
        self.enter_as(self.cpu.pin_known())
    }

    #[inline(always)]
    fn enter_as(&self, id: Option<CpuId>) -> Result<PerCpuGuard<'_, T, C>, EnterError> {
        let slot = |offset| {
            // SAFETY: I3, and clause 5 of `Cpu`: there is a slot with this index, and they are whole lines apart.
            unsafe { self.first.as_ptr().byte_add(offset) }
        };
        // SAFETY: clause 1 of `at`: the slots live as long as these.
        unsafe { Self::enter_found(&self.cpu, id, slot) }
    }

    /// Enters the slot of a caller that has pinned before, as [`enter_known`](Self::enter_known) does, where `find` finds it: for
    /// tables of first slots. It is called with how many bytes lie between the first slot and the caller's.
    ///
    /// # Errors
    /// As for [`enter_known`](Self::enter_known).
    ///
    /// # Safety
    /// 1. `find` returns the caller's slot of slots for the CPUs of `cpu` that live as long as `'c`, and lie as far apart as `S` says.
    #[inline(always)]
    pub unsafe fn enter_known_in<'c>(
        cpu: &'c C,
        find: impl FnOnce(usize) -> *mut PerCpuSlot<T>,
    ) -> Result<PerCpuGuard<'c, T, C>, EnterError>
    where
        T: 'c,
    {
        // SAFETY: clause 1 is about `find`; and the caller pins here.
        unsafe { Self::enter_found(cpu, cpu.pin_known(), find) }
    }

    /// # Safety
    /// 1. As for `enter_known_in`; and `id` is that of the caller, who has just pinned.
    #[inline(always)]
    unsafe fn enter_found<'c>(
        cpu: &'c C,
        id: Option<CpuId>,
        find: impl FnOnce(usize) -> *mut PerCpuSlot<T>,
    ) -> Result<PerCpuGuard<'c, T, C>, EnterError>
    where
        T: 'c,
    {
        let Some(id) = id else { return Err(EnterError::NoSlot) };
        let slot = find(id.line_offset() * (S::bytes::<T, C>() / CpuId::LINE));
        // SAFETY: clause 1: it lives, and is shared by all. `in_register` changes no address.
        let slot = unsafe { &*in_register(slot.cast_const()) };
        // SAFETY: I2: only contexts on this CPU write `busy`.
        let why = if unsafe { load_own(&slot.busy) } != 0 {
            EnterError::Nested
        } else {
            // Relaxed: the light fence orders it before the load; what it guards is published by the store of 0.
            slot.busy.store(1, Ordering::Relaxed);
            cpu.light_fence();
            // Acquire: pairs with the Release at the end of `take_over`; sees what the taker did to the body.
            if slot.detached.load(Ordering::Acquire) == 0 {
                return Ok(PerCpuGuard { slot, id, cpu, _not_send: PhantomData });
            }
            // Release: pairs with the Acquire in `owner_has_exited`.
            slot.busy.store(0, Ordering::Release);
            EnterError::Detached
        };
        // SAFETY: pairs with the caller's `pin` or `pin_known`, which returned an id.
        unsafe { cpu.unpin() };
        Err(why)
    }

    /// Calls `look` with each body, for `validate` and exact statistics. Needs `&mut self`: nobody is inside, as every
    /// [`PerCpuGuard`] borrows `self`, and `&mut` of a body that outlives a forgotten one does too.
    pub fn for_each_exclusive(&mut self, mut look: impl FnMut(CpuId, &mut T)) {
        for (index, slot) in self.iter().enumerate() {
            // SAFETY: clause 2 of `at`: this is the only value over the slots, so `&mut self` excludes owners and takers.
            look(CpuId::new(index as u32), unsafe { &mut *slot.body() });
        }
    }
}

impl<T, C: fmt::Debug, S> fmt::Debug for PerCpu<'_, T, C, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerCpu").field("count", &self.count).field("cpu", &self.cpu).finish()
    }
}

/// The caller's own slot, entered. Dropping it leaves the slot. A forgotten one keeps the slot busy for ever: its owner goes
/// on without, and takers skip it.
///
/// It stays in its thread:
///
/// ```compile_fail,E0277
/// use page_frame::{SingleCpu, PerCpuSlot, PerCpu};
/// let mut slots = [PerCpuSlot::new(0)];
/// let slots = PerCpu::new(&mut slots, SingleCpu::new());
/// let inside = slots.enter().unwrap();
/// std::thread::scope(|scope| _ = scope.spawn(move || drop(inside)));
/// ```
#[derive(Debug)]
#[must_use = "the slot is left at once when this is dropped"]
pub struct PerCpuGuard<'a, T, C: Cpu> {
    slot: &'a PerCpuSlot<T>,
    id: CpuId,
    cpu: &'a C,
    _not_send: PhantomData<*mut ()>,
}

impl<T, C: Cpu> PerCpuGuard<'_, T, C> {
    /// Returns the id of the CPU whose slot this is.
    #[inline]
    pub fn id(&self) -> CpuId {
        self.id
    }
}

impl<T, C: Cpu> Deref for PerCpuGuard<'_, T, C> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: I1: `enter` set `busy` and read `detached` 0.
        unsafe { &*self.slot.body() }
    }
}

impl<T, C: Cpu> DerefMut for PerCpuGuard<'_, T, C> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: I1: `enter` set `busy` and read `detached` 0; nested contexts turn away at `busy`.
        unsafe { &mut *self.slot.body() }
    }
}

impl<T, C: Cpu> Drop for PerCpuGuard<'_, T, C> {
    #[inline(always)]
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `owner_has_exited`; publishes what we did to the body.
        self.slot.busy.store(0, Ordering::Release);
        // SAFETY: pairs with the `pin` of `enter`.
        unsafe { self.cpu.unpin() };
    }
}
