//! The other side of CPU slots: taking those of other CPUs over.
//!
//! The protocol, its invariants and its costs are in `per_cpu.rs`.

use crate::arch::hint::spin_hint;
use crate::percpu::cpu::Cpu;
use crate::percpu::id::CpuId;
use crate::percpu::per_cpu::PerCpu;
use crate::percpu::slot::{PerCpuSlot, TAKEN};
use crate::sync::atomic::Ordering;
use crate::sync::model::MODELLED;

/// How often a taker looks again at a busy slot before it skips it: a guess, a few hundred nanoseconds.
const BUSY_RETRIES: usize = if MODELLED { 1 } else { 64 };

/// What a take-over achieved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakeOver {
    /// Slots that were handed to the caller.
    pub taken: usize,
    /// Slots that stayed busy, or that another taker had.
    pub skipped: usize,
}

/// Slots of one chunk that this taker has set `detached` of. Dropping it lets the owners in again, also when `visit` panics.
struct Chunk<'a, 's, T, C: Cpu, const STRIDED: bool> {
    slots: &'a PerCpu<'s, T, C, STRIDED>,
    first: usize,
    /// A bit for each slot that is detached.
    detached: usize,
}

impl<'a, T, C: Cpu, const STRIDED: bool> Chunk<'a, '_, T, C, STRIDED> {
    const SLOTS: usize = usize::BITS as usize;

    fn id(&self, index: usize) -> CpuId {
        CpuId::new((self.first + index) as u32)
    }

    fn slot(&self, index: usize) -> &'a PerCpuSlot<T> {
        self.slots.get(self.first + index).expect("`take_over` names slots below the count alone")
    }

    /// Detaches a slot; whether no other taker has it.
    fn detach(&mut self, index: usize) -> bool {
        // Acquire: pairs with the Release in `attach`, of the taker before; Relaxed on failure: not ours.
        let won = self.slot(index).detached.compare_exchange(
            0,
            TAKEN,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        self.detached |= usize::from(won.is_ok()) << index;
        won.is_ok()
    }

    /// Lets the owner in again, unless the slots were closed meanwhile.
    fn attach(&mut self, index: usize) {
        self.detached &= !(1 << index);
        // Release: pairs with the Acquire loads of `detached`; publishes what `visit` did to the body.
        let _ = self.slot(index).detached.compare_exchange(
            TAKEN,
            0,
            Ordering::Release,
            Ordering::Relaxed,
        );
    }
}

impl<T, C: Cpu, const STRIDED: bool> Drop for Chunk<'_, '_, T, C, STRIDED> {
    fn drop(&mut self) {
        while self.detached != 0 {
            self.attach(self.detached.trailing_zeros() as usize);
        }
    }
}

impl<T, C: Cpu, const STRIDED: bool> PerCpu<'_, T, C, STRIDED> {
    /// Takes over the slots that `wanted` names and calls `visit` with each one's body.
    ///
    /// An idle CPU's slot is taken without that CPU doing anything. A slot whose owner is inside is looked at a bounded
    /// number of times and then skipped. The caller's own slot is skipped too while the caller is inside it. Inside `visit`
    /// the visited slot can be neither entered nor taken. When `wanted` or `visit` panics, all slots are open to their owners
    /// again.
    pub fn take_over(
        &self,
        mut wanted: impl FnMut(CpuId) -> bool,
        mut visit: impl FnMut(CpuId, &mut T),
    ) -> TakeOver {
        let mut outcome = TakeOver::default();
        let count = self.count().min(self.cpu.slots_used());
        for first in (0..count).step_by(Chunk::<T, C, STRIDED>::SLOTS) {
            let mut chunk = Chunk { slots: self, first, detached: 0 };
            for index in 0..(count - first).min(Chunk::<T, C, STRIDED>::SLOTS) {
                if wanted(chunk.id(index)) && !chunk.detach(index) {
                    outcome.skipped += 1;
                }
            }
            if chunk.detached == 0 {
                continue;
            }
            let fenced = self.cpu.fence_all();
            while chunk.detached != 0 {
                let index = chunk.detached.trailing_zeros() as usize;
                let slot = chunk.slot(index);
                if fenced && Self::owner_has_exited(slot) {
                    // SAFETY: I1: this taker changed `detached` from 0, and `busy` read 0 after the fence. The reference ends
                    // with the call, before `attach`.
                    visit(chunk.id(index), unsafe { &mut *slot.body() });
                    outcome.taken += 1;
                } else {
                    outcome.skipped += 1;
                }
                chunk.attach(index);
            }
        }
        outcome
    }

    /// Whether the owner is outside; waits a little for it.
    fn owner_has_exited(slot: &PerCpuSlot<T>) -> bool {
        (0..=BUSY_RETRIES).any(|round| {
            if round > 0 {
                spin_hint();
            }
            // Acquire: pairs with the Release when the owner leaves; sees what it did to the body.
            slot.busy.load(Ordering::Acquire) == 0
        })
    }
}
