//! Freezing per-CPU slots: every owner stays out of its slot while `fork` copies the memory.
//!
//! # Concepts
//! A frozen slot is detached, and no context uses its body: owners continue without it, and takers
//! skip it. The guard [`Frozen`] thaws the slots when it is dropped. A child of `fork` has copies
//! of the guard and the slots, and thaws its own.
//!
//! # Invariants
//! - I1: `detached` is `FROZEN` in exactly the slots of a [`Frozen`] that lives or was forgotten.

use core::marker::PhantomData;

use crate::atomic::Ordering;
use crate::percpu::cpu::Cpu;
use crate::percpu::id::CpuId;
use crate::percpu::per_cpu::PerCpu;
use crate::percpu::slot::{CLOSED, FROZEN};

/// Slots that no owner enters. Dropping it lets the owners in again; forgetting it keeps them out
/// for ever, which is sound.
///
/// ```
/// use page_frame::{EnterError, PerCpu, PerCpuSlot, SingleCpu};
/// let mut slots = [PerCpuSlot::new(0)];
/// let per_cpu = PerCpu::new(&mut slots, SingleCpu::new());
/// let frozen = per_cpu.freeze(None);
/// assert!(frozen.is_fenced());
/// assert_eq!(per_cpu.enter().err(), Some(EnterError::Detached));
/// drop(frozen); // in both processes, after `fork`
/// assert!(per_cpu.enter().is_ok());
/// ```
///
/// It stays in its thread:
///
/// ```compile_fail,E0277
/// use page_frame::{Fenced, SingleCpu, PerCpuSlot, PerCpu};
/// let mut slots = [PerCpuSlot::new(0)];
/// let per_cpu = PerCpu::new(&mut slots, SingleCpu::new());
/// let frozen = per_cpu.freeze(None);
/// std::thread::scope(|scope| _ = scope.spawn(move || drop(frozen)));
/// ```
#[must_use = "the slots are open again at once when this is dropped"]
pub struct Frozen<'a> {
    slots: &'a (dyn Thaw + 'a),
    /// The number of frozen slots, from the first on.
    count: usize,
    is_fenced: bool,
    _not_send: PhantomData<*mut ()>,
}

impl Frozen<'_> {
    /// Returns whether the machine could fence. If not, an owner may still be inside.
    /// Example: see [`Frozen`].
    pub fn is_fenced(&self) -> bool {
        self.is_fenced
    }
}

impl core::fmt::Debug for Frozen<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Frozen").field("count", &self.count).finish_non_exhaustive()
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.slots.thaw_first(self.count);
    }
}

/// Slots of any type that can be thawed.
trait Thaw {
    /// Lets owners into the frozen ones of the first `count` slots again.
    fn thaw_first(&self, count: usize);
}

impl<T, C: Cpu, const STRIDED: bool> Thaw for PerCpu<'_, T, C, STRIDED> {
    fn thaw_first(&self, count: usize) {
        for slot in self.iter().take(count) {
            // Release: pairs with the Acquire of the next taker or freezer, as in `take_over`.
            // Fails for closed slots.
            let _ = slot.detached.compare_exchange(FROZEN, 0, Ordering::Release, Ordering::Relaxed);
        }
    }
}

impl<T, C: Cpu, const STRIDED: bool> PerCpu<'_, T, C, STRIDED> {
    /// Keeps every owner out of its slot while the guard lives, and waits until the owners that are
    /// inside have left. `fork` then copies consistent slots.
    ///
    /// Meanwhile all owners continue without slots. `own` is the caller's id; the call does not
    /// wait for that slot. It deadlocks when the caller has frozen the slots already, or calls it
    /// from inside a take-over. O(slots), and one heavy fence. Example: see [`Frozen`].
    pub fn freeze(&self, own: Option<CpuId>) -> Frozen<'_> {
        let mut frozen = Frozen { slots: self, count: 0, is_fenced: false, _not_send: PhantomData };
        for slot in self.iter() {
            let mut round = 0;
            // Acquire and Release: as in `take_over`, whose takers this loop waits for.
            while let Err(found) =
                slot.detached.compare_exchange(0, FROZEN, Ordering::AcqRel, Ordering::Relaxed)
            {
                if found == CLOSED {
                    break;
                }
                self.cpu.wait(round);
                round += 1;
            }
            frozen.count += 1;
        }
        frozen.is_fenced = self.count() == 0 || self.cpu.fence_all();
        for (index, slot) in self.iter().enumerate() {
            let mut round = 0;
            let is_awaited = own.map(CpuId::index) != Some(index) && !Self::is_unowned(index);
            // Acquire: as in `owner_has_exited`.
            while is_awaited && slot.busy.load(Ordering::Acquire) != 0 {
                self.cpu.wait(round);
                round += 1;
            }
        }
        frozen
    }

    /// Thaws slots whose [`Frozen`] was forgotten: for callers that freeze many slots and have no
    /// room for the guards. Other slots stay unchanged. O(slots).
    ///
    /// ```
    /// # use page_frame::{PerCpu, PerCpuSlot, SingleCpu};
    /// # let mut slots = [PerCpuSlot::new(0)];
    /// let per_cpu = PerCpu::new(&mut slots, SingleCpu::new());
    /// std::mem::forget(per_cpu.freeze(None));
    /// assert!(per_cpu.enter().is_err());
    /// // SAFETY: clause 1: frozen and forgotten above.
    /// unsafe { per_cpu.thaw() };
    /// assert!(per_cpu.enter().is_ok());
    /// ```
    ///
    /// # Safety
    /// 1. No other context froze the slots. The caller did, in this process or in its parent, and
    ///    forgot the guard.
    pub unsafe fn thaw(&self) {
        self.thaw_first(self.count());
    }

    /// Clears `busy` and `locking` of all slots but `own`: in a child of `fork`, which has no
    /// thread but the caller. O(slots).
    ///
    /// ```
    /// # use page_frame::{CpuId, PerCpu, PerCpuSlot, SwitchedCpu};
    /// # let mut slots = [PerCpuSlot::new(0), PerCpuSlot::new(0)];
    /// let per_cpu = PerCpu::new(&mut slots, SwitchedCpu::new(2));
    /// per_cpu.cpu().switch_to(Some(CpuId::new(1)));
    /// std::mem::forget(per_cpu.lock_token()); // a thread that waits for a lock during `fork`
    /// let own = Some(CpuId::new(0)); // the thread that forks
    /// per_cpu.cpu().switch_to(own);
    /// let frozen = per_cpu.freeze(own);
    /// // SAFETY: clauses 1 to 3: CPU 1 runs nothing more, all slots are frozen, this is CPU 0.
    /// unsafe { per_cpu.forget_others(own) };
    /// drop(frozen);
    /// per_cpu.cpu().switch_to(Some(CpuId::new(1))); // a new thread
    /// assert!(!per_cpu.lock_token().is_nested());
    /// ```
    ///
    /// # Safety
    /// 1. All contexts but the caller's have ended without leaving their slots.
    /// 2. The slots have been frozen since before that, by a guard whose
    ///    [`is_fenced`](Frozen::is_fenced) is true. So no context was in the middle of a body: one
    ///    that had set `busy` would have found its slot frozen next. Slots whose bodies never
    ///    change need not be frozen.
    /// 3. `own` is the caller's id.
    pub unsafe fn forget_others(&self, own: Option<CpuId>) {
        for (index, slot) in self.iter().enumerate() {
            if own != Some(CpuId::new(index as u32)) && !Self::is_unowned(index) {
                // Release: as the owner's own stores.
                slot.busy.store(0, Ordering::Release);
                slot.locking.store(0, Ordering::Release);
            }
        }
    }
}
