//! Fences and hints that return no data.

#[cfg(not(any(loom, miri)))]
use core::sync::atomic::compiler_fence;
#[cfg(not(loom))]
use core::sync::atomic::{Ordering, fence};
#[cfg(loom)]
use loom::sync::atomic::{Ordering, fence};

use crate::access::{AccessKind, report};

/// Keeps the compiler, but not the CPU, from moving accesses across it; pairs with a fence on all
/// CPUs.
///
/// Under loom and Miri it is a full fence: they have no fence that acts on other threads.
#[inline(always)]
pub fn light_fence() {
    #[cfg(not(any(loom, miri)))]
    compiler_fence(Ordering::SeqCst);
    #[cfg(any(loom, miri))]
    fence(Ordering::SeqCst);
}

/// Does nothing outside loom, where the SeqCst accesses around it are ordered already. Under loom,
/// which treats them as AcqRel, it is a full fence.
#[inline(always)]
pub fn model_fence() {
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}

/// Orders a store before a later Release store to a place that other CPUs overwrite without reading
/// it.
///
/// A CPU that overwrites that place, executes an atomic read-modify-write (SeqCst) and then loads
/// the first place sees the first store.
///
/// A machine whose stores reach all other CPUs at the same time has this order by itself (x86,
/// Armv8, RISC-V: "other multi-copy atomic"; test R of Maranget, Sarkar and Sewell 2012).
/// Elsewhere, and under loom, as Rust's model knows no such machine, this is a full fence.
#[inline(always)]
pub fn propagation_fence() {
    let is_multi_copy_atomic = cfg!(any(
        target_arch = "x86",
        target_arch = "x86_64",
        target_arch = "aarch64",
        target_arch = "riscv32",
        target_arch = "riscv64",
    ));
    if cfg!(loom) || !is_multi_copy_atomic {
        fence(Ordering::SeqCst);
    }
}

/// Tells the CPU that the caller spins. Under loom, lets another thread run.
#[inline(always)]
pub fn spin_hint() {
    report(AccessKind::Wait, core::ptr::null::<()>(), 0);
    #[cfg(not(loom))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}

/// Asks the CPU to load the cache line of `place`, which may be any address; never waits. Does
/// nothing where there is no such instruction.
#[inline(always)]
pub fn prefetch<T>(place: *const T) {
    #[cfg(all(target_arch = "x86_64", not(any(loom, miri))))]
    // SAFETY: a prefetch faults at no address and changes nothing that the program sees.
    unsafe {
        core::arch::asm!("prefetcht0 [{}]", in(reg) place, options(readonly, nostack, preserves_flags));
    }
    #[cfg(all(target_arch = "aarch64", not(any(loom, miri))))]
    // SAFETY: a prefetch faults at no address and changes nothing that the program sees.
    unsafe {
        core::arch::asm!("prfm pldl1keep, [{}]", in(reg) place, options(readonly, nostack, preserves_flags));
    }
    let _ = place;
}

/// Returns `place` in a register that the compiler cannot look through, so that accesses to it
/// carry no index register.
///
/// CPUs forward a store to the next load of the same place at once when both name it by register
/// and constant, and some take five times as long when an index is added: 4.8 instead of 0.7 ns for
/// two increments of a counter on Golden Cove. The compiler adds the index back wherever it can, as
/// it costs no instruction. Without assembly this does nothing.
#[inline(always)]
pub fn in_register<T>(place: *const T) -> *const T {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        let mut address = place;
        #[expect(clippy::pointers_in_nomem_asm_block, reason = "nothing is read or written")]
        // SAFETY: no instruction is executed: the register holds the same pointer before and after.
        unsafe {
            core::arch::asm!("/* {0} */", inout(reg) address, options(pure, nomem, nostack, preserves_flags));
        }
        address
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    place
}
