//! The CPUs of OSTD, for callers that mask interrupts.

use buddy::page_frame::{Cpu, CpuId};

/// The CPUs that OSTD found at boot. Only code that masks interrupts calls what is built on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OstdCpu;

// SAFETY: clauses 1 and 4: interrupts are masked from the beginning of each call of the allocator
// to its end, and OSTD's exception handlers allocate no frames; so no nested code is there. Clause
// 2: ids do not pass between CPUs. Clause 3: it returns false. Clauses 5 and 6: OSTD numbers its
// CPUs from zero; an application processor writes its number before it does anything else, and the
// count is fixed before the first range is added. Clause 7: zero.
unsafe impl Cpu for OstdCpu {
    #[inline]
    fn slots(&self) -> usize {
        ostd::cpu::num_cpus()
    }

    #[inline]
    fn pin(&self) -> Option<CpuId> {
        let number = u32::from(ostd::cpu::CpuId::current_racy());
        // SAFETY: clause 1: a multiple of the line. OSTD has far fewer than 2^26 CPUs, for which
        // the product would overflow.
        Some(unsafe { CpuId::at_line_offset(number * CpuId::LINE as u32) })
    }

    #[inline]
    unsafe fn unpin(&self) {}

    fn fence_all(&self) -> bool {
        false
    }
}
