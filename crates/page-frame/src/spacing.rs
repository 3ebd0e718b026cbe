//! How far apart the slots of CPUs lie: in an array of their own, or those of one CPU side by side for many owners.

use crate::cpu::forward_cpu;
use crate::{Cpu, CpuId, InterruptState, Slot};

/// How far apart the slots of neighbouring CPUs lie.
pub trait Spacing {
    /// Returns how many bytes, a multiple of 64.
    fn bytes<T, C: Cpu>() -> usize;
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
        size_of::<Slot<T>>()
    }
}

impl Spacing for Spread {
    #[inline(always)]
    fn bytes<T, C: Cpu>() -> usize {
        if C::SPREAD == 0 { size_of::<Slot<T>>() } else { C::SPREAD }
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
#[derive(Clone, Copy, Debug, Default)]
pub struct SideBySide<C, const BYTES: usize>(pub C);

// SAFETY: all clauses are those of the wrapped machine, which answers everything.
unsafe impl<C: Cpu, const BYTES: usize> Cpu for SideBySide<C, BYTES> {
    const SPREAD: usize = BYTES;

    forward_cpu!(|this| this.0);

    #[inline(always)]
    fn light_fence(&self) {
        self.0.light_fence();
    }

    fn fence_all(&self) -> bool {
        self.0.fence_all()
    }
}
