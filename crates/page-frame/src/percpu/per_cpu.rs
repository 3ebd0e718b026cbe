//! Per-CPU slots: state that its owner uses without atomic read-modify-writes, and that another CPU
//! can take over.
//!
//! # Concepts
//! - A **slot** holds the state of one CPU for one layer. Three bytes in front of its body carry
//!   the protocol.
//! - `busy`, written by the owner: the owner is inside the slot.
//! - `detached`, written by other CPUs: one of them has taken the slot over, or tries to.
//! - `locking`, written by the owner: it holds, or waits for, an [`IrqLock`](crate::IrqLock).
//! - **Nested** code finds `busy` or `locking` of its own CPU set: it interrupted the owner
//!   (interrupt, signal). It may not wait.
//! - A **detached** slot cannot be entered: its owner continues without it.
//!
//! # Protocol
//! Owner: load `busy` (set: nested, continue without the slot), store `busy` 1, light fence, load
//! `detached` (set: store `busy` 0, continue without the slot), use the slot, store `busy` 0.
//!
//! Taker: compare-exchange `detached` from 0 to 1 in each wanted slot, execute one heavy fence. A
//! slot whose `busy` then reads 0 belongs to the taker until it stores `detached` 0.
//!
//! The fences order each side's store before its load, so at least one of the two sees the other.
//! This is Dekker's scheme with an asymmetric fence: the taker pays for the store-load order once,
//! instead of the owner each time (Dice, Huang and Yang 2001, "Asymmetric Dekker synchronization").
//!
//! # Invariants
//! - I1: two kinds of context may touch a slot's body. The owner may while `busy` is 1 and it read
//!   `detached` 0 after the fence. A taker may that changed `detached` from 0 to 1 and read `busy`
//!   0 after the fence.
//! - I2: `busy` and `locking` are written only by contexts that got this slot's id from their
//!   [`Cpu`].
//! - I3: there is a slot for each id of the [`Cpu`].
//! - I4: one [`PerCpu`] value governs an array of slots, as [`PerCpu::new`] borrows the array
//!   exclusively. Where [`PerCpu::at`] makes several values, its clause 2 applies. A second machine
//!   over the same slots would give one id to two contexts, which breaks I1.
//! - I5: the slot of the [unowned id](Cpu::UNOWNED) is busy from the first [`PerCpu`] over the
//!   slots on, and no context writes its `busy` any more. So no owner and no taker gets its body.
//!
//! # Costs
//! Enter and leave: two stores and two loads on one line, no atomic read-modify-write. Take-over:
//! one compare-exchange per slot and one heavy fence.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::atomic::Ordering;
use crate::percpu::cpu::Cpu;
use crate::percpu::guard::{EnterError, PerCpuGuard};
use crate::percpu::id::CpuId;
use crate::percpu::irq_lock::IrqLockToken;
use crate::percpu::slot::{CLOSED, PerCpuSlot, slot_stride};

/// [`PerCpu`] whose slots lie [`Cpu::SLOT_STRIDE`] bytes apart, with slots of other owners between
/// them. With a stride of zero, the slots form an array.
///
/// [`WithSlotStride`](crate::WithSlotStride) gives a machine a stride. Code for both kinds of
/// slots:
///
/// ```
/// use page_frame::{Cpu, PerCpu, StridedPerCpu};
/// fn total<C: Cpu, const STRIDED: bool>(counters: &PerCpu<'_, usize, C, STRIDED>) -> usize {
///     let mut total = 0;
///     counters.take_over(|_| true, |_, count| total += *count);
///     total
/// }
/// fn total_of_strided<C: Cpu>(counters: &StridedPerCpu<'_, usize, C>) -> usize {
///     total(counters)
/// }
/// ```
pub type StridedPerCpu<'s, T, C> = PerCpu<'s, T, C, true>;

/// The slots of all CPUs for one layer, and the machine that tells the CPUs apart.
///
/// ```
/// use page_frame::{CpuId, EnterError, PerCpu, PerCpuSlot, SwitchedCpu};
/// let mut slots = [PerCpuSlot::new(0), PerCpuSlot::new(0)];
/// let mut counters = PerCpu::new(&mut slots, SwitchedCpu::new(2));
/// *counters.enter().unwrap() += 1; // on CPU 0
/// counters.cpu().switch_to(Some(CpuId::new(1)));
/// *counters.enter_known().unwrap() += 10; // on CPU 1
/// let mut sum = 0;
/// counters.take_over(|_| true, |_, count| sum += *count); // from any CPU
/// assert_eq!((sum, counters.count()), (11, 2));
/// counters.for_each_exclusive(|_, count| sum -= *count);
/// assert_eq!(sum, 0);
/// counters.close();
/// assert_eq!(counters.enter().err(), Some(EnterError::Detached));
/// ```
///
/// One `PerCpu` governs an array of slots:
///
/// ```compile_fail,E0499
/// use page_frame::{SingleCpu, PerCpuSlot, PerCpu};
/// let mut slots = [PerCpuSlot::new(0)];
/// let one = PerCpu::new(&mut slots, SingleCpu::new());
/// let two = PerCpu::new(&mut slots, SingleCpu::new());
/// let _ = (one.enter(), two.enter());
/// ```
///
/// With a machine that is not `Sync`, no other thread reaches the slots:
///
/// ```compile_fail,E0277
/// use page_frame::{SingleCpu, PerCpuSlot, PerCpu};
/// let mut slots = [PerCpuSlot::new(0)];
/// let per_cpu = PerCpu::new(&mut slots, SingleCpu::new());
/// std::thread::scope(|scope| _ = scope.spawn(|| _ = per_cpu.enter()));
/// ```
pub struct PerCpu<'s, T, C, const STRIDED: bool = false> {
    first: NonNull<PerCpuSlot<T>>,
    count: usize,
    pub(crate) cpu: C,
    are_borrowed: PhantomData<&'s [PerCpuSlot<T>]>,
}

// SAFETY: by I4 the bodies are reached only through this value, so they move with it, as `T: Send`
// allows. The guards that it returns (`PerCpuGuard`, `IrqLockToken`, `IrqLockGuard`, `Frozen`)
// borrow it and are not `Send`.
unsafe impl<T: Send, C: Send, const STRIDED: bool> Send for PerCpu<'_, T, C, STRIDED> {}
// SAFETY: by I1 one context at a time has a body, for which `T: Send` suffices. The machine is
// `Sync`, so it tells the threads that share it apart.
unsafe impl<T: Send, C: Sync, const STRIDED: bool> Sync for PerCpu<'_, T, C, STRIDED> {}

impl<'s, T, C: Cpu> PerCpu<'s, T, C> {
    /// Governs `slots`, one for each CPU of `cpu`. Example: see [`PerCpu`].
    ///
    /// # Panics
    /// When there are fewer slots than CPUs.
    pub fn new(slots: &'s mut [PerCpuSlot<T>], cpu: C) -> Self {
        let count = slots.len();
        assert!(count >= cpu.slots(), "{count} slots for {} CPUs", cpu.slots());
        // SAFETY: clauses 1 and 2: the slice is exclusively borrowed for `'s`, is packed, and has
        // the asserted length.
        unsafe { Self::at(NonNull::from(slots).cast(), count, cpu) }
    }

    /// As [`new`](Self::new), but with all slots detached for good: for layers that work without
    /// slots.
    ///
    /// ```
    /// # use page_frame::{EnterError, PerCpu, PerCpuSlot, SingleCpu};
    /// let mut slots = [PerCpuSlot::new(())];
    /// let per_cpu = PerCpu::closed(&mut slots, SingleCpu::new());
    /// assert_eq!(per_cpu.enter().err(), Some(EnterError::Detached));
    /// assert!(!per_cpu.lock_token().is_nested()); // locks work
    /// ```
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn closed(slots: &'s mut [PerCpuSlot<T>], cpu: C) -> Self {
        let slots = Self::new(slots, cpu);
        slots.close();
        slots
    }
}

impl<T, C: Cpu, const STRIDED: bool> PerCpu<'_, T, C, STRIDED> {
    /// Governs `count` slots from `first` on. They form an array, or with `STRIDED` lie
    /// [`Cpu::SLOT_STRIDE`] bytes apart.
    ///
    /// # Safety
    /// 1. The slots are valid for shared use during the lifetime of the value, and there are no
    ///    fewer than `cpu.slots()`.
    /// 2. While the value lives, no other value reaches the slots; or all such values have machines
    ///    that give the same id to the same context, and
    ///    [`for_each_exclusive`](Self::for_each_exclusive) is called on none of them.
    #[doc(hidden)]
    #[inline(always)]
    pub unsafe fn at(first: NonNull<PerCpuSlot<T>>, count: usize, cpu: C) -> Self {
        let slots = Self { first, count, cpu, are_borrowed: PhantomData };
        if let Some(unowned) = C::UNOWNED.and_then(|id| slots.get(id.index())) {
            // Relaxed: as in `close`. Another value over the slots may have stored it (I5).
            if unowned.busy.load(Ordering::Relaxed) == 0 {
                unowned.busy.store(1, Ordering::Relaxed);
            }
        }
        slots
    }

    /// Returns whether the slot with this index is that of the unowned id.
    #[inline]
    pub(crate) fn is_unowned(index: usize) -> bool {
        C::UNOWNED.is_some_and(|id| id.index() == index)
    }

    /// Detaches all slots for good, without waiting. An owner or a taker that is inside stays there
    /// until it leaves. O(slots). Example: see [`PerCpu`].
    pub fn close(&self) {
        for slot in self.iter() {
            // Relaxed: the code that shares the slots with other CPUs publishes this store too.
            slot.detached.store(CLOSED, Ordering::Relaxed);
        }
    }

    /// Returns the first slot.
    #[doc(hidden)]
    pub const fn first(&self) -> NonNull<PerCpuSlot<T>> {
        self.first
    }

    /// Returns the machine. Example: see [`PerCpu`].
    pub const fn cpu(&self) -> &C {
        &self.cpu
    }

    /// Returns the number of slots. Example: see [`PerCpu`].
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Returns the slot of the CPU with this index, if there is one.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&PerCpuSlot<T>> {
        if index >= self.count {
            return None;
        }
        // SAFETY: clause 1 of `at`: the slot exists, `index` strides from the first one.
        let slot = unsafe { self.first.byte_add(index * slot_stride::<T, C, STRIDED>()) };
        // SAFETY: clause 1 of `at`: valid for shared use.
        Some(unsafe { slot.as_ref() })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &PerCpuSlot<T>> {
        (0..self.count).filter_map(|index| self.get(index))
    }

    /// Enters the caller's own slot. O(1), never waits, no atomic read-modify-write.
    /// Example: see [`PerCpu`].
    ///
    /// # Errors
    /// The reason why the caller continues without a slot; it holds nothing then.
    #[inline(always)]
    pub fn enter(&self) -> Result<PerCpuGuard<'_, T, C>, EnterError> {
        let find = |offset| self.first.as_ptr().wrapping_byte_add(offset);
        // SAFETY: clause 1: `pin` has just returned the id. Clause 2: by I3 there is a slot for it,
        // which by clause 1 of `at` lies at that offset and lives as long as `self`.
        unsafe { PerCpuGuard::enter::<STRIDED>(&self.cpu, self.cpu.pin(), find) }
    }

    /// Enters the slot of a caller that already has an id: for hot paths whose slow path calls
    /// [`enter`](Self::enter). Example: see [`PerCpu`].
    ///
    /// # Errors
    /// As for [`enter`](Self::enter); a caller without an id has no slot.
    #[inline(always)]
    pub fn enter_known(&self) -> Result<PerCpuGuard<'_, T, C>, EnterError> {
        if C::UNOWNED.is_some() {
            // SAFETY: clause 1: clause 1 of `at`, I3 and I5.
            return unsafe { PerCpuGuard::enter_known::<STRIDED>(&self.cpu, self.first.as_ptr()) };
        }
        // The first slot's address is loaded after `pin_known`, so that one instruction loads and
        // adds it.
        let find = |offset| self.first.as_ptr().wrapping_byte_add(offset);
        // SAFETY: clauses 1 and 2: as in `enter`, with the id that `pin_known` has just returned.
        unsafe { PerCpuGuard::enter::<STRIDED>(&self.cpu, self.cpu.pin_known(), find) }
    }

    /// Makes the caller's token for interrupt-safe locks, and marks its slot as locking unless the
    /// caller is nested. O(1), never waits. Example: see [`IrqLockToken`].
    pub fn lock_token(&self) -> IrqLockToken<'_, T, C> {
        let id = self.cpu.pin();
        let slot = id.and_then(|id| self.get(id.index()));
        // SAFETY: clause 1: `pin` has just returned `id`. Clause 2: `get` finds the slot of that
        // id.
        unsafe { IrqLockToken::new(slot, id, &self.cpu) }
    }

    /// Calls `look` with each body, for `validate` and exact statistics. As it takes `&mut self`,
    /// no owner is inside a slot: each [`PerCpuGuard`] borrows `self`, and so does every reference
    /// obtained from one. O(slots). Example: see [`PerCpu`].
    pub fn for_each_exclusive(&mut self, mut look: impl FnMut(CpuId, &mut T)) {
        for (index, slot) in self.iter().enumerate() {
            // SAFETY: clause 2 of `at`: this is the only value over the slots, so `&mut self`
            // excludes owners and takers.
            look(CpuId::new(index as u32), unsafe { &mut *slot.body() });
        }
    }
}

impl<T, C: fmt::Debug, const STRIDED: bool> fmt::Debug for PerCpu<'_, T, C, STRIDED> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerCpu").field("count", &self.count).field("cpu", &self.cpu).finish()
    }
}
