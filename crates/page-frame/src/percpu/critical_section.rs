//! A machine of one slot for every target with the crate `critical-section`: pinned code runs in a
//! critical section.
//!
//! # Concepts
//! A critical section excludes all other code: interrupt handlers, threads, and other cores. A pin
//! begins one and its unpin ends it, so slot 0 has one user at a time. Masked interrupts are a
//! critical section too.
//!
//! Implementations of `critical-section` require that nested sections end in reverse order, whereas
//! [`Cpu::restore_interrupts`] accepts any order. So only the outermost section is a real one: a
//! count in a static says how many pins and masks it contains, and the last one to end releases it.
//!
//! # Invariants
//! - I1: only code inside a critical section accesses `SECTION`.
//! - I2: `depth` is the number of pins and masks that have not ended; while it is not zero,
//!   `outermost` is the state to which the last of them restores.

use core::cell::Cell;

use critical_section::RestoreState;

use crate::percpu::cpu::{Cpu, InterruptState};
use crate::percpu::id::CpuId;

/// One slot for every machine that has the crate `critical-section`: callers enter a critical
/// section while they are pinned. It is `Sync`, and correct in interrupts, with threads, and on
/// several cores. It exists with the feature `critical-section`.
///
/// The program must have an implementation of that crate, which chip crates provide (`cortex-m`
/// with `critical-section-single-core`, `riscv`, `esp-hal`). A hit masks interrupts for the time of
/// about ten instructions, and a miss while it refills the slot or holds a lock. Where cores shall
/// not share a slot, implement [`Cpu`].
///
/// ```
/// use page_frame::{Cpu, CpuId, CriticalSectionCpu};
/// let cpu = CriticalSectionCpu::new();
/// assert_eq!(cpu.pin(), Some(CpuId::new(0))); // the critical section begins
/// // SAFETY: pairs with the `pin`.
/// unsafe { cpu.unpin() };
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct CriticalSectionCpu(());

impl CriticalSectionCpu {
    /// Makes the machine. All values are the same machine. Example: see [`CriticalSectionCpu`].
    pub const fn new() -> Self {
        Self(())
    }
}

/// The critical section that is open.
struct Section {
    depth: Cell<usize>,
    outermost: Cell<RestoreState>,
}

// SAFETY: I1: critical sections exclude each other, so the cells have one user at a time.
unsafe impl Sync for Section {}

static SECTION: Section =
    Section { depth: Cell::new(0), outermost: Cell::new(RestoreState::invalid()) };

/// Begins a critical section, or counts one more inside the open one.
#[inline]
fn enter() {
    // SAFETY: the state is released below or, by I2, in `leave`; a nested section ends here, before
    // the one around it.
    let state = unsafe { critical_section::acquire() };
    let depth = SECTION.depth.get();
    SECTION.depth.set(depth + 1);
    if depth == 0 {
        SECTION.outermost.set(state);
    } else {
        // SAFETY: the state of the `acquire` above. The outer section stays open.
        unsafe { critical_section::release(state) };
    }
}

/// Ends a section that `enter` began.
///
/// # Safety
/// 1. Pairs with an `enter` of the same context.
#[inline]
unsafe fn leave() {
    // Clause 1: inside a critical section, as the `enter` has not been paired yet.
    let depth = SECTION.depth.get() - 1;
    SECTION.depth.set(depth);
    if depth == 0 {
        // SAFETY: I2: the state of the outermost `acquire`, which has not been released.
        unsafe { critical_section::release(SECTION.outermost.get()) };
    }
}

// SAFETY: clauses 1 and 2: from a pin to its unpin the caller is in a critical section, which
// excludes all other contexts and orders its memory accesses after those of earlier ones. Clause 3:
// the light fence is a full one. Clause 4: interrupts are masked inside a critical section; the
// count accepts any order, and the last end restores the first state (I2). Clauses 5 and 6: the id
// is always 0 of 1. Clause 7: zero.
unsafe impl Cpu for CriticalSectionCpu {
    #[inline]
    fn slots(&self) -> usize {
        1
    }

    #[inline]
    fn pin(&self) -> Option<CpuId> {
        enter();
        Some(CpuId::new(0))
    }

    #[inline]
    unsafe fn unpin(&self) {
        // SAFETY: clause 1 of `unpin`: pairs with a `pin`.
        unsafe { leave() };
    }

    #[inline]
    fn light_fence(&self) {
        // SeqCst: the other side of `fence_all`, on a core that enters its section later.
        crate::atomic::fence(crate::atomic::Ordering::SeqCst);
    }

    fn fence_all(&self) -> bool {
        // SeqCst: as in `light_fence`.
        crate::atomic::fence(crate::atomic::Ordering::SeqCst);
        true
    }

    fn mask_interrupts(&self) -> InterruptState {
        enter();
        InterruptState(0)
    }

    unsafe fn restore_interrupts(&self, _: InterruptState) {
        // SAFETY: clause 1 of `restore_interrupts`: pairs with a `mask_interrupts`.
        unsafe { leave() };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    extern crate std;
    use super::*;
    use crate::percpu::per_cpu::PerCpu;
    use crate::percpu::slot::PerCpuSlot;
    use std::sync::Barrier;
    use std::thread;

    #[test]
    fn threads_exclude_each_other_inside_pins_and_masks_in_any_order() {
        struct Count(Cell<usize>);
        // SAFETY: changed only by pinned code, which critical sections exclude from each other.
        unsafe impl Sync for Count {}
        static COUNT: Count = Count(Cell::new(0));
        const ROUNDS: usize = 2000;
        let start = Barrier::new(4);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let cpu = CriticalSectionCpu::new();
                    start.wait();
                    for _ in 0..ROUNDS {
                        assert_eq!(cpu.pin(), Some(CpuId::new(0)));
                        let (first, second) = (cpu.mask_interrupts(), cpu.mask_interrupts());
                        let before = COUNT.0.get();
                        // SAFETY: clause 1: restored once, in another order. Clause 2: pinned.
                        unsafe { cpu.restore_interrupts(first) };
                        thread::yield_now();
                        COUNT.0.set(before + 1);
                        // SAFETY: clauses 1 and 2: as above; the pin is still there.
                        unsafe { cpu.restore_interrupts(second) };
                        // SAFETY: pairs with the `pin`.
                        unsafe { cpu.unpin() };
                    }
                });
            }
        });
        assert_eq!(COUNT.0.get(), 4 * ROUNDS);
    }

    #[test]
    fn a_slot_is_used_through_it() {
        let mut slots = [PerCpuSlot::new(1)];
        let per_cpu = PerCpu::new(&mut slots, CriticalSectionCpu::new());
        *per_cpu.enter().expect("slot 0 is free") += 1;
        assert_eq!(*per_cpu.enter().expect("left"), 2);
    }
}
