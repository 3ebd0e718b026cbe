//! A full memory fence on every CPU that runs a thread of this process.
//!
//! # Concepts
//! The system call for it is `membarrier`. Filters of system calls may kill a process at it. In a
//! process with a filter, unmapping a page that was written serves instead, on x86-64: Linux
//! interrupts all CPUs that run a thread of the process, so that they forget the translation, and
//! waits for them. The interrupt drains the CPU's store buffer. Processors with a broadcast
//! instruction for that (`INVLPGB`) need no interrupt, and get `membarrier`.

use core::sync::atomic::{AtomicU8, Ordering, fence};

use rustix::thread::{MembarrierCommand, membarrier};

use crate::system::seccomp;

/// Which membarrier this system has.
static BARRIER: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const EXPEDITED: u8 = 1;
const NONE: u8 = 2;

/// Makes every thread of this process execute a full fence; whether the system could.
pub(crate) fn fence_all() -> bool {
    if cfg!(miri) {
        // Miri has no `membarrier`. There `light_fence` is a full fence, so one here suffices.
        fence(Ordering::SeqCst);
        return true;
    }
    if seccomp::is_filtered() && unmapping::is_fence() {
        return unmapping::fence_all();
    }
    // Relaxed: each thread that finds it unknown comes to the same answer.
    if BARRIER.load(Ordering::Relaxed) == UNKNOWN {
        let registered = membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok();
        BARRIER.store(if registered { EXPEDITED } else { NONE }, Ordering::Relaxed);
    }
    let command = match BARRIER.load(Ordering::Relaxed) {
        EXPEDITED => MembarrierCommand::PrivateExpedited,
        _ => MembarrierCommand::Global,
    };
    membarrier(command).is_ok()
}

/// Forgets that the process registered: a child of `fork` has to register itself.
pub(crate) fn forget() {
    BARRIER.store(UNKNOWN, Ordering::Relaxed);
}

#[cfg(target_arch = "x86_64")]
mod unmapping {
    use core::arch::x86_64::{__cpuid, CpuidResult};

    use page_frame::PAGE_SIZE;

    use crate::system::mapping::Mapped;

    /// Returns whether unmapping a page interrupts all CPUs that run a thread of this process.
    pub(super) fn is_fence() -> bool {
        const LEAF: u32 = 0x8000_0008;
        /// The bit of `INVLPGB` in EBX (AMD64 Architecture Programmer's Manual, volume 3).
        const INVLPGB: u32 = 1 << 3;
        cpuid(0x8000_0000).eax < LEAF || cpuid(LEAF).ebx & INVLPGB == 0
    }

    /// Returns what the instruction says about `leaf`.
    #[allow(unused_unsafe, reason = "older compilers do not know that the function is safe")]
    fn cpuid(leaf: u32) -> CpuidResult {
        // SAFETY: every x86-64 CPU has the instruction.
        unsafe { __cpuid(leaf) }
    }

    /// Writes to a new page and unmaps it. Returns whether there was a page.
    pub(super) fn fence_all() -> bool {
        let Ok(page) = Mapped::reserve(PAGE_SIZE) else { return false };
        // SAFETY: the first byte of a mapping of ours. Volatile: the write must happen.
        unsafe { page.start().write_volatile(1) };
        drop(page);
        true
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod unmapping {
    /// Returns whether unmapping a page interrupts all CPUs that run a thread of this process.
    pub(super) fn is_fence() -> bool {
        false
    }

    /// Is not called, as `is_fence` returns false.
    pub(super) fn fence_all() -> bool {
        false
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, compiler_fence};

    /// One thread stores and loads without a fence, the other with this one between: at least one
    /// of the two sees the store of the other (Dekker's scheme).
    ///
    /// Mutation seen to fail: no call of `fence_all`.
    #[test]
    fn unmapping_fences_other_threads() {
        const ROUNDS: usize = 20_000;
        if !unmapping::is_fence() {
            eprintln!("this processor broadcasts: not tested");
            return;
        }
        let (x, y) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let seen = AtomicUsize::new(0);
        let (begin, end) = (Barrier::new(2), Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    begin.wait();
                    x.store(round, Ordering::Relaxed);
                    compiler_fence(Ordering::SeqCst);
                    seen.store(y.load(Ordering::Relaxed), Ordering::Relaxed);
                    end.wait();
                }
            });
            for round in 1..=ROUNDS {
                begin.wait();
                y.store(round, Ordering::Relaxed);
                assert!(unmapping::fence_all());
                let saw = x.load(Ordering::Relaxed) == round;
                end.wait();
                assert!(saw || seen.load(Ordering::Relaxed) == round, "round {round}");
            }
        });
    }
}
