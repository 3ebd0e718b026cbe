//! Entering a per-CPU slot as its owner, and the guard that leaves it. The protocol is in
//! `per_cpu.rs`.

use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use crate::arch::hint::in_register;
use crate::arch::load::load_own;
use crate::atomic::Ordering;
use crate::percpu::cpu::Cpu;
use crate::percpu::id::CpuId;
use crate::percpu::slot::{PerCpuSlot, slot_stride};

/// Why the caller could not enter its slot, and continues without it.
///
/// ```
/// use page_frame::{EnterError, PerCpu, PerCpuSlot, SingleCpu};
/// let mut slots = [PerCpuSlot::new(0)];
/// let per_cpu = PerCpu::new(&mut slots, SingleCpu::new());
/// let _inside = per_cpu.enter();
/// assert_eq!(per_cpu.enter().err(), Some(EnterError::Nested));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnterError {
    /// The caller has no slot.
    NoSlot,
    /// The caller interrupted the slot's owner: it may only try locks. Or it has no slot, on a
    /// machine with an [unowned id](Cpu::UNOWNED).
    Nested,
    /// Another CPU has taken the slot over.
    Detached,
}

/// Access to the caller's own slot. Dropping it leaves the slot. A forgotten guard keeps the slot
/// busy for ever: its owner continues without it, and takers skip it.
///
/// ```
/// use page_frame::{PerCpu, PerCpuSlot, SingleCpu};
/// let mut slots = [PerCpuSlot::new(0)];
/// let per_cpu = PerCpu::new(&mut slots, SingleCpu::new());
/// let mut count = per_cpu.enter().unwrap();
/// *count += 1;
/// assert_eq!((*count, count.id().index()), (1, 0));
/// ```
///
/// It stays in its thread:
///
/// ```compile_fail,E0277
/// use page_frame::{SingleCpu, PerCpuSlot, PerCpu};
/// let mut slots = [PerCpuSlot::new(0)];
/// let per_cpu = PerCpu::new(&mut slots, SingleCpu::new());
/// let inside = per_cpu.enter().unwrap();
/// std::thread::scope(|scope| _ = scope.spawn(move || drop(inside)));
/// ```
#[derive(Debug)]
#[must_use = "dropping the guard leaves the slot at once"]
pub struct PerCpuGuard<'a, T, C: Cpu> {
    slot: &'a PerCpuSlot<T>,
    id: CpuId,
    cpu: &'a C,
    _not_send: PhantomData<*mut ()>,
}

impl<'a, T, C: Cpu> PerCpuGuard<'a, T, C> {
    /// Enters the slot of `id` as its owner. `find` returns that slot, given its distance in bytes
    /// from the first slot. O(1), never waits, no atomic read-modify-write.
    ///
    /// # Errors
    /// The reason why the caller continues without a slot. Then it holds nothing, and is no longer
    /// pinned.
    ///
    /// # Safety
    /// 1. `pin` or `pin_known` of `cpu` has just returned `id` to the caller.
    /// 2. `find` returns the slot of `id` among slots for the CPUs of `cpu` that are valid for
    ///    shared use during `'a`. They form an array, or with `STRIDED` lie [`Cpu::SLOT_STRIDE`]
    ///    bytes apart.
    #[doc(hidden)]
    #[inline(always)]
    pub unsafe fn enter<const STRIDED: bool>(
        cpu: &'a C,
        id: Option<CpuId>,
        find: impl FnOnce(usize) -> *mut PerCpuSlot<T>,
    ) -> Result<Self, EnterError> {
        let Some(id) = id else { return Err(EnterError::NoSlot) };
        let lines = const { slot_stride::<T, C, STRIDED>() / CpuId::LINE };
        let slot = find(id.line_offset() * lines).cast_const();
        // SAFETY: clause 1: clause 1. Clause 2: clause 2.
        unsafe { Self::enter_slot(cpu, id, slot) }
    }

    /// Enters the caller's slot as [`enter`](Self::enter) does with the id that `pin_known`
    /// returns. `first` is the slot of the first id.
    ///
    /// # Errors
    /// As for [`enter`](Self::enter). A caller without an id gets [`EnterError::Nested`] where the
    /// machine has an [unowned id](Cpu::UNOWNED).
    ///
    /// # Safety
    /// 1. `first` is the first of slots as in clause 2 of [`enter`](Self::enter), and the slot of
    ///    the unowned id is busy.
    #[doc(hidden)]
    #[inline(always)]
    pub unsafe fn enter_known<const STRIDED: bool>(
        cpu: &'a C,
        first: *mut PerCpuSlot<T>,
    ) -> Result<Self, EnterError> {
        let stride = const { slot_stride::<T, C, STRIDED>() };
        let Some(slot) = cpu.known_slot(first.cast(), stride) else {
            return Err(EnterError::NoSlot);
        };
        // The compiler leaves this out where the id is not used.
        let lines = slot.addr().wrapping_sub(first.addr()) / (stride / CpuId::LINE);
        // SAFETY: clause 1: by clause 9 of `Cpu` the distance is a multiple of `stride`.
        let id = unsafe { CpuId::at_line_offset(lines as u32) };
        // SAFETY: clause 1: `known_slot` has just pinned the caller. Clause 2: by clause 1 and
        // clause 9 of `Cpu` this is the slot of `id`, which is the caller's or the unowned one.
        unsafe { Self::enter_slot(cpu, id, slot.cast()) }
    }

    /// # Safety
    /// 1. The caller has just pinned itself. It has the id `id`, or none if that is the unowned id.
    /// 2. `slot` is the slot of `id`, valid for shared use during `'a`. If `id` is the unowned id,
    ///    the slot is busy.
    #[inline(always)]
    unsafe fn enter_slot(
        cpu: &'a C,
        id: CpuId,
        slot: *const PerCpuSlot<T>,
    ) -> Result<Self, EnterError> {
        // SAFETY: clause 2: valid for shared use. `in_register` changes no address.
        let slot = unsafe { &*in_register(slot) };
        // SAFETY: clause 1 of `load_own`: by clause 1 and I2 of `per_cpu.rs` only contexts on
        // this CPU write `busy`, and by I5 none writes that of the unowned id.
        let error = if unsafe { load_own(&slot.busy) } != 0 {
            EnterError::Nested
        } else {
            // Relaxed: the light fence orders it before the load of `detached`; the store of 0
            // publishes the body.
            slot.busy.store(1, Ordering::Relaxed);
            cpu.light_fence();
            // Acquire: pairs with the Release at the end of `take_over`; sees the taker's changes
            // to the body.
            if slot.detached.load(Ordering::Acquire) == 0 {
                return Ok(Self { slot, id, cpu, _not_send: PhantomData });
            }
            // Release: pairs with the Acquire in `owner_has_exited`.
            slot.busy.store(0, Ordering::Release);
            EnterError::Detached
        };
        // SAFETY: clause 1: by clause 1 the caller is pinned, and not yet unpinned.
        unsafe { cpu.unpin() };
        Err(error)
    }

    /// Returns the id of the CPU whose slot this is. Example: see [`PerCpuGuard`].
    #[inline]
    pub fn id(&self) -> CpuId {
        self.id
    }
}

impl<T, C: Cpu> Deref for PerCpuGuard<'_, T, C> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: I1 of `per_cpu.rs`: `enter` set `busy` and read `detached` 0.
        unsafe { &*self.slot.body() }
    }
}

impl<T, C: Cpu> DerefMut for PerCpuGuard<'_, T, C> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: I1 of `per_cpu.rs`: `enter` set `busy` and read `detached` 0; nested code does
        // not pass `busy`.
        unsafe { &mut *self.slot.body() }
    }
}

impl<T, C: Cpu> Drop for PerCpuGuard<'_, T, C> {
    #[inline(always)]
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `owner_has_exited`; publishes the owner's changes to
        // the body.
        self.slot.busy.store(0, Ordering::Release);
        // SAFETY: clause 1 of `enter`: pairs with the `pin` that returned `id`.
        unsafe { self.cpu.unpin() };
    }
}
