//! A machine that wants what one of its CPUs uses of many owners side by side.

use crate::{Cpu, CpuId, InterruptState};

/// The machine `C`, with small slots of many owners in common memory: those of one CPU side by side, `BYTES` from those of the
/// next ([`Cpu::SPREAD`]).
///
/// For machines with many more ids than are in use, as threads are: an array of slots for each owner touches a page for each.
/// Owners take memory for `BYTES` times the number of ids at once, so it is nothing for little memory.
///
/// ```
/// use page_frame::{Cpu, SideBySide, SingleCpu};
/// assert_eq!(SideBySide::<SingleCpu, 8192>::SPREAD, 8192);
/// assert_eq!(SideBySide::<_, 8192>(SingleCpu::new()).slots(), 1);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SideBySide<C, const BYTES: usize>(pub C);

// SAFETY: all clauses are those of the wrapped machine, which answers everything.
unsafe impl<C: Cpu, const BYTES: usize> Cpu for SideBySide<C, BYTES> {
    const SPREAD: usize = BYTES;

    #[inline(always)]
    fn slots(&self) -> usize {
        self.0.slots()
    }

    fn slots_used(&self) -> usize {
        self.0.slots_used()
    }

    #[inline(always)]
    fn pin(&self) -> Option<CpuId> {
        self.0.pin()
    }

    #[inline(always)]
    fn pin_known(&self) -> Option<CpuId> {
        self.0.pin_known()
    }

    #[inline(always)]
    unsafe fn unpin(&self) {
        // SAFETY: the caller's clause is that of the wrapped machine.
        unsafe { self.0.unpin() }
    }

    #[inline(always)]
    fn light_fence(&self) {
        self.0.light_fence();
    }

    fn fence_all(&self) -> bool {
        self.0.fence_all()
    }

    fn wait(&self, round: usize) {
        self.0.wait(round);
    }

    fn mask_interrupts(&self) -> InterruptState {
        self.0.mask_interrupts()
    }

    unsafe fn restore_interrupts(&self, state: InterruptState) {
        // SAFETY: the caller's clause is that of the wrapped machine.
        unsafe { self.0.restore_interrupts(state) }
    }
}
