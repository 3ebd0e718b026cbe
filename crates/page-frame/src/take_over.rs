//! The other side of CPU slots: taking those of other CPUs over, and keeping their owners out.
//!
//! The protocol, its invariants and its costs are in `slots.rs`.

use crate::slots::{CLOSED, Slot, Slots};
use crate::sync::{Ordering, spin_hint};
use crate::{Cpu, CpuId, Spacing};

/// How often a taker looks again at a busy slot before it skips it: a guess, a few hundred nanoseconds.
const BUSY_RETRIES: usize = if crate::sync::MODELLED { 1 } else { 64 };

/// What a take-over achieved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakeOver {
    /// Slots that were handed to the caller.
    pub taken: usize,
    /// Slots that stayed busy, or that another taker had.
    pub skipped: usize,
}

impl<T, C: Cpu, S: Spacing> Slots<'_, T, C, S> {
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
        let count = self.count().min(self.cpu.slots_used());
        for first in (0..count).step_by(usize::BITS as usize) {
            let id = |index: usize| CpuId::new((first + index) as u32);
            let chunk = || first..count.min(first + usize::BITS as usize);
            let slots = || chunk().filter_map(|index| self.get(index)).enumerate();
            let mut detached = 0_usize;
            for (index, slot) in slots().filter(|(index, _)| wanted(id(*index))) {
                // Acquire: pairs with the Release below, of the taker before; Relaxed on failure: not ours.
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
            for (index, slot) in slots().filter(|(index, _)| detached >> index & 1 == 1) {
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
        for slot in self.iter() {
            let mut round = 0;
            // Acquire and Release: as in `take_over`, whose takers are waited for.
            while let Err(found) =
                slot.detached.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed)
            {
                if found == CLOSED {
                    break;
                }
                self.cpu.wait(round);
                round += 1;
            }
        }
        let fenced = self.count() == 0 || self.cpu.fence_all();
        for (index, slot) in self.iter().enumerate() {
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
        // Relaxed: closed once and for all, before anybody else saw the slot.
        let is_open = |slot: &&Slot<T>| slot.detached.load(Ordering::Relaxed) != CLOSED;
        for slot in self.iter().filter(is_open) {
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
        for (index, slot) in self.iter().enumerate() {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SwitchedCpu;

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
}
