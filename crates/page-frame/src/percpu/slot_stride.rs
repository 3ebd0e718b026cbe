//! A machine whose small per-CPU slots of many owners share memory.

use crate::percpu::cpu::{Cpu, InterruptState, forward_cpu};
use crate::percpu::id::CpuId;

/// The machine `C` with [`Cpu::SLOT_STRIDE`] set to `BYTES`: small slots of many owners share
/// memory, in which the slots of one CPU are neighbours.
///
/// It suits machines with many more ids than are in use, such as threads, where an array of slots
/// per owner would touch a page per owner. Owners allocate `BYTES` times the number of ids at once,
/// so it does not suit small memories.
///
/// ```
/// use page_frame::{Cpu, WithSlotStride, SingleCpu};
/// assert_eq!(WithSlotStride::<SingleCpu, 8192>::SLOT_STRIDE, 8192);
/// assert_eq!(WithSlotStride::<_, 8192>(SingleCpu::new()).slots(), 1);
/// ```
///
/// `BYTES` is a multiple of a line, and at least two lines:
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

// SAFETY: clause 7 is asserted; the wrapped machine implements every method and so fulfils all
// other clauses.
unsafe impl<C: Cpu, const BYTES: usize> Cpu for WithSlotStride<C, BYTES> {
    const SLOT_STRIDE: usize = {
        assert!(BYTES % CpuId::LINE == 0, "slots are whole lines");
        assert!(BYTES >= 2 * CpuId::LINE, "the first line is the header, and slots follow");
        BYTES
    };

    const HAS_MISS_HOOK: bool = C::HAS_MISS_HOOK;
    const UNOWNED: Option<CpuId> = C::UNOWNED;

    forward_cpu!(|this| this.0);

    #[inline(always)]
    fn light_fence(&self) {
        self.0.light_fence();
    }

    fn fence_all(&self) -> bool {
        self.0.fence_all()
    }
}
