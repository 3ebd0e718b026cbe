//! Taking over the slots of other CPUs. The protocol, its invariants and its costs are in
//! `per_cpu.rs`.

use crate::arch::hint::spin_hint;
use crate::atomic::Ordering;
use crate::percpu::cpu::Cpu;
use crate::percpu::id::CpuId;
use crate::percpu::per_cpu::PerCpu;
use crate::percpu::slot::{PerCpuSlot, TAKEN};
use crate::sync::model::MODELLED;

/// How often a taker reads `busy` again before it skips the slot: a guess, a few hundred
/// nanoseconds.
const BUSY_RETRIES: usize = if MODELLED { 1 } else { 64 };

/// The outcome of a take-over.
///
/// ```
/// use page_frame::{PerCpu, PerCpuSlot, SingleCpu, TakeOver};
/// let mut slots = [PerCpuSlot::new(5)];
/// let per_cpu = PerCpu::new(&mut slots, SingleCpu::new());
/// let take = || per_cpu.take_over(|_| true, |_, body| *body = 0);
/// assert_eq!(take(), TakeOver { taken: 1, skipped: 0 });
/// let inside = per_cpu.enter().unwrap(); // the owner is inside: it keeps its slot
/// assert_eq!((take(), *inside), (TakeOver { taken: 0, skipped: 1 }, 0));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakeOver {
    /// Slots whose body the caller visited.
    pub taken: usize,
    /// Slots that stayed busy, or that another taker or a freeze had.
    pub skipped: usize,
}

/// A group of neighbouring slots, some of which this taker has detached. Dropping it attaches them,
/// also when `visit` panics.
struct Chunk<'a, 's, T, C: Cpu, const STRIDED: bool> {
    slots: &'a PerCpu<'s, T, C, STRIDED>,
    first: usize,
    /// A bit for each slot that this taker has detached.
    detached: usize,
}

impl<'a, T, C: Cpu, const STRIDED: bool> Chunk<'a, '_, T, C, STRIDED> {
    const SLOTS: usize = usize::BITS as usize;

    fn id(&self, index: usize) -> CpuId {
        CpuId::new((self.first + index) as u32)
    }

    fn slot(&self, index: usize) -> &'a PerCpuSlot<T> {
        self.slots.get(self.first + index).expect("`take_over` passes indices below the count")
    }

    /// Detaches a slot. Returns whether it was attached.
    fn detach(&mut self, index: usize) -> bool {
        // Acquire: pairs with the Release in `attach` of the taker before. Relaxed on failure: the
        // slot is not ours.
        let won = self.slot(index).detached.compare_exchange(
            0,
            TAKEN,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        self.detached |= usize::from(won.is_ok()) << index;
        won.is_ok()
    }

    /// Attaches a slot again, unless it was closed meanwhile.
    fn attach(&mut self, index: usize) {
        self.detached &= !(1 << index);
        // Release: pairs with the Acquire loads of `detached`; publishes the changes of `visit` to
        // the body.
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
    /// Takes over the slots for which `wanted` returns true, and calls `visit` with the body of
    /// each.
    ///
    /// The CPU that owns a slot does nothing for it. When the owner is inside, the call reads
    /// `busy` a bounded number of times and then skips the slot; so it skips the caller's own slot
    /// while the caller is inside. During `visit` no context enters or takes the visited slot. When
    /// `wanted` or `visit` panics, all slots are attached again. Costs one heavy fence for each 64
    /// slots (a word of bits) that have a wanted one. Example: see [`PerCpu`].
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
                if Self::is_unowned(first + index) {
                    continue;
                }
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
                    // SAFETY: I1 of `per_cpu.rs`: this taker changed `detached` from 0, and `busy`
                    // read 0 after the fence. The reference ends with the call, before `attach`.
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

    /// Returns whether the owner is outside its slot; retries a bounded number of times.
    fn owner_has_exited(slot: &PerCpuSlot<T>) -> bool {
        (0..=BUSY_RETRIES).any(|round| {
            if round > 0 {
                spin_hint();
            }
            // Acquire: pairs with the Release when the owner leaves; sees its changes to the body.
            slot.busy.load(Ordering::Acquire) == 0
        })
    }
}
