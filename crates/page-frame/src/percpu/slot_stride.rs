//! A machine whose small per-CPU slots of many owners share memory.

use crate::percpu::cpu::{Cpu, InterruptState, forward_cpu};
use crate::percpu::id::CpuId;

/// The machine `C`, with small slots of many owners in common memory: those of one CPU side by side, `BYTES` from those of the
/// next ([`Cpu::SLOT_STRIDE`]).
///
/// For machines with many more ids than are in use, as threads are: an array of slots for each owner touches a page for each.
/// Owners take memory for `BYTES` times the number of ids at once, so it is nothing for little memory.
///
/// ```
/// use page_frame::{Cpu, WithSlotStride, SingleCpu};
/// assert_eq!(WithSlotStride::<SingleCpu, 8192>::SLOT_STRIDE, 8192);
/// assert_eq!(WithSlotStride::<_, 8192>(SingleCpu::new()).slots(), 1);
/// ```
///
/// `BYTES` is a multiple of a slot's line, two lines at least:
///
/// ```compile_fail,E0080
/// use page_frame::{Cpu, WithSlotStride, SingleCpu};
/// assert_eq!(WithSlotStride::<SingleCpu, 64>::SLOT_STRIDE, 64);
/// ```
///
/// ```compile_fail,E0080
/// use page_frame::{Cpu, WithSlotStride, SingleCpu};
/// assert_eq!(WithSlotStride::<SingleCpu, 200>::SLOT_STRIDE, 200);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct WithSlotStride<C, const BYTES: usize>(pub C);

// SAFETY: clause 7 is asserted; all others are those of the wrapped machine, which answers everything.
unsafe impl<C: Cpu, const BYTES: usize> Cpu for WithSlotStride<C, BYTES> {
    const SLOT_STRIDE: usize = {
        assert!(BYTES % CpuId::LINE == 0, "slots are whole lines");
        assert!(BYTES >= 2 * CpuId::LINE, "the first line is the header, and slots follow");
        BYTES
    };

    forward_cpu!(|this| this.0);

    #[inline(always)]
    fn light_fence(&self) {
        self.0.light_fence();
    }

    fn fence_all(&self) -> bool {
        self.0.fence_all()
    }
}
