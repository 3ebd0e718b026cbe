//! How far apart the slots of CPUs lie: in an array of their own, or those of one CPU side by side for many owners.

use crate::cpu::forward_cpu;
use crate::{Cpu, CpuId, InterruptState, PerCpuSlot};

/// How far apart the slots of neighbouring CPUs lie. Sealed: slots are found by it, so it must answer the same each time.
///
/// ```compile_fail,E0277
/// struct Between;
/// impl page_frame::Spacing for Between {
///     fn bytes<T, C: page_frame::Cpu>() -> usize { 1 }
/// }
/// ```
pub trait Spacing: sealed::Sealed {
    /// Returns how many bytes, a multiple of 64.
    fn bytes<T, C: Cpu>() -> usize;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Packed {}
    impl Sealed for super::Spread {}
}

/// Side by side, in an array.
#[derive(Debug)]
pub enum Packed {}

/// As far as the machine wants ([`Cpu::SPREAD`]), with slots of other owners between them; side by side where it does not care.
#[derive(Debug)]
pub enum Spread {}

impl Spacing for Packed {
    #[inline(always)]
    fn bytes<T, C: Cpu>() -> usize {
        size_of::<PerCpuSlot<T>>()
    }
}

impl Spacing for Spread {
    #[inline(always)]
    fn bytes<T, C: Cpu>() -> usize {
        const {
            let is_room = C::SPREAD >= size_of::<PerCpuSlot<T>>() || crate::sync::MODELLED;
            let is_aligned = C::SPREAD % align_of::<PerCpuSlot<T>>() == 0;
            assert!(
                C::SPREAD == 0 || is_room && is_aligned,
                "`Cpu::SPREAD` has room for whole slots"
            );
        }
        if C::SPREAD == 0 { size_of::<PerCpuSlot<T>>() } else { C::SPREAD }
    }
}

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
///
/// `BYTES` is a multiple of a slot's line, two lines at least:
///
/// ```compile_fail,E0080
/// use page_frame::{Cpu, SideBySide, SingleCpu};
/// assert_eq!(SideBySide::<SingleCpu, 64>::SPREAD, 64);
/// ```
///
/// ```compile_fail,E0080
/// use page_frame::{Cpu, SideBySide, SingleCpu};
/// assert_eq!(SideBySide::<SingleCpu, 200>::SPREAD, 200);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SideBySide<C, const BYTES: usize>(pub C);

// SAFETY: clause 7 is asserted; all others are those of the wrapped machine, which answers everything.
unsafe impl<C: Cpu, const BYTES: usize> Cpu for SideBySide<C, BYTES> {
    const SPREAD: usize = {
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
