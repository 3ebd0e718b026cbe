//! Freezing CPU slots: every owner stays out of its slot while somebody copies the memory (`fork`).
//!
//! # Concepts
//! A frozen slot is detached for good, by nobody who uses its body: owners go the way without a slot, and takers skip it. The
//! guard [`Frozen`] thaws the slots when it is dropped. A child of `fork` has a copy of the guard, and of the slots, and thaws
//! its own.
//!
//! # Invariants
//! - I1: `detached` is `FROZEN` in exactly those slots that a live [`Frozen`], or a caller that forgot one, answers for.

use core::marker::PhantomData;

use crate::percpu::cpu::Cpu;
use crate::percpu::id::CpuId;
use crate::percpu::per_cpu::PerCpu;
use crate::percpu::slot::{CLOSED, FROZEN};
use crate::sync::atomic::Ordering;

/// Slots that no owner enters. Dropping it lets the owners in again; forgetting it keeps them out for ever, which is harmless.
///
/// It stays in its thread:
///
/// ```compile_fail,E0277
/// use page_frame::{Fenced, SingleCpu, PerCpuSlot, PerCpu};
/// let mut slots = [PerCpuSlot::new(0)];
/// let slots = PerCpu::new(&mut slots, SingleCpu::new());
/// let frozen = slots.freeze(None);
/// std::thread::scope(|scope| _ = scope.spawn(move || drop(frozen)));
/// ```
#[must_use = "the slots are open again at once when this is dropped"]
pub struct Frozen<'a> {
    slots: &'a (dyn Thaw + 'a),
    /// How many slots are frozen, from the first on.
    count: usize,
    is_fenced: bool,
    _not_send: PhantomData<*mut ()>,
}

impl Frozen<'_> {
    /// Whether the machine could fence. Otherwise an owner may still be inside.
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

/// Slots of any type, as far as thawing goes.
trait Thaw {
    /// Lets owners into the first `count` slots again, those that are frozen.
    fn thaw_first(&self, count: usize);
}

impl<T, C: Cpu, const STRIDED: bool> Thaw for PerCpu<'_, T, C, STRIDED> {
    fn thaw_first(&self, count: usize) {
        for slot in self.iter().take(count) {
            // Release: pairs with the Acquire of the next taker or freezer, as in `take_over`. It fails for slots that are closed.
            let _ = slot.detached.compare_exchange(FROZEN, 0, Ordering::Release, Ordering::Relaxed);
        }
    }
}

impl<T, C: Cpu, const STRIDED: bool> PerCpu<'_, T, C, STRIDED> {
    /// Keeps every owner out of its slot while the guard lives, and waits until the owners that are inside have left. A
    /// thread that is about to `fork` copies whole slots then.
    ///
    /// Meanwhile everybody goes the way without a slot. `own` is the caller's id; its slot is not waited for. Waits for ever
    /// when the caller has frozen the slots already, or takes them over.
    pub fn freeze(&self, own: Option<CpuId>) -> Frozen<'_> {
        let mut frozen = Frozen { slots: self, count: 0, is_fenced: false, _not_send: PhantomData };
        for slot in self.iter() {
            let mut round = 0;
            // Acquire and Release: as in `take_over`, whose takers are waited for.
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
            // Acquire: as in `owner_has_exited`.
            while own.map(CpuId::index) != Some(index) && slot.busy.load(Ordering::Acquire) != 0 {
                self.cpu.wait(round);
                round += 1;
            }
        }
        frozen
    }

    /// Thaws slots whose [`Frozen`] was forgotten, as where many slots are frozen and there is no room for their guards. Slots
    /// that are not frozen stay as they are.
    ///
    /// # Safety
    /// 1. No other context froze the slots. The caller may have, in this process or in its parent, and forgot the guard.
    pub unsafe fn thaw(&self) {
        self.thaw_first(self.count());
    }

    /// Says that no CPU but `own` is in the middle of anything: in a process that was just forked, where the others' threads
    /// are not.
    ///
    /// # Safety
    /// 1. All contexts but the caller's have ended without leaving their slots.
    /// 2. The slots have been frozen since before that, by a guard whose [`is_fenced`](Frozen::is_fenced) is true. So no
    ///    context was in the middle of a body: one that had set `busy` would have found its slot frozen next. Slots whose
    ///    bodies never change need not be frozen.
    /// 3. `own` is the caller's id.
    pub unsafe fn forget_others(&self, own: Option<CpuId>) {
        for (index, slot) in self.iter().enumerate() {
            if own != Some(CpuId::new(index as u32)) {
                // Release: as the owner's own.
                slot.busy.store(0, Ordering::Release);
                slot.locking.store(0, Ordering::Release);
            }
        }
    }
}
