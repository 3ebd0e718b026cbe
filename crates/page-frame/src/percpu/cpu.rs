//! What the layers ask of the machine about its CPUs.

use crate::arch::hint::{light_fence, spin_hint};
use crate::percpu::id::CpuId;

/// The interrupt state before [`Cpu::mask_interrupts`], for [`Cpu::restore_interrupts`].
/// It is a plain number: restoring a forged one is the caller's fault, by the clause of `restore_interrupts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptState(pub usize);

/// The CPUs of a machine, as far as per-CPU slots need them.
///
/// In a kernel: `pin` turns preemption off and reads the CPU's number, `fence_all` sends an interrupt to all CPUs. With
/// threads: `pin` reads a thread-local word, `fence_all` is membarrier. On one CPU without interrupts there is nothing
/// to do: [`SingleCpu`].
///
/// # Safety
/// 1. Between a `pin` or `pin_known` that returned an id and its `unpin`, code that gets the same id runs only on top of
///    the pinned code (interrupts, signals) and has ended before the pinned code goes on.
/// 2. An id handed from one context to another (a thread's exit and the next thread's start) is handed over with a
///    Release in the old and an Acquire in the new context.
/// 3. When `fence_all` returns true, each other CPU has executed a full fence at some moment during the call; or
///    `light_fence` is itself a full fence.
/// 4. Between `mask_interrupts` and the first `restore_interrupts` after it no code runs on top of the caller that may take a
///    lock of these crates other than by trying. `restore_interrupts` accepts the states of several masks in any order, and
///    after the last one interrupts are as they were before the first mask.
/// 5. Each id from `pin` or `pin_known` is below `slots`, which returns the same value each time, for clones and references too,
///    at most [`CpuId::COUNT`].
/// 6. A clone, and a reference, give the same id to the same context.
/// 7. `SLOT_STRIDE` is zero or a multiple of 64.
pub unsafe trait Cpu {
    /// How many bytes lie between the slots of one CPU and those of the next where small ones of many owners share memory
    /// ([`StridedPerCpu`](crate::StridedPerCpu)): a multiple of 64. With zero each owner has an array of its own.
    ///
    /// [`WithSlotStride`](crate::WithSlotStride) gives a machine another.
    const SLOT_STRIDE: usize = 0;

    /// Returns the number of ids.
    fn slots(&self) -> usize;

    /// Returns how many of the ids, from the lowest on, may have been given to anybody so far: no slots beyond are looked at by who
    /// takes slots over.
    fn slots_used(&self) -> usize {
        self.slots()
    }

    /// Keeps the caller on its CPU and returns the CPU's id, or `None` where there is no slot for the caller (too many
    /// threads, too early, too late); then nothing is to be undone.
    fn pin(&self) -> Option<CpuId>;

    /// Like [`pin`](Self::pin), but a caller that is not known yet has no slot: for hot paths, whose other way pins.
    #[inline(always)]
    fn pin_known(&self) -> Option<CpuId> {
        self.pin()
    }

    /// Ends a `pin` or `pin_known` that returned an id.
    ///
    /// # Safety
    /// 1. Pairs with a `pin` or `pin_known` of the same context that returned an id.
    unsafe fn unpin(&self);

    /// The owner's side of [`fence_all`](Self::fence_all): a compiler fence where that is a real one.
    #[inline(always)]
    fn light_fence(&self) {
        light_fence();
    }

    /// Makes every CPU execute a full fence. False where the caller may not wait for that; then nothing has happened.
    fn fence_all(&self) -> bool;

    /// Passes the time while a lock is waited for, the `round`th time for the same one.
    fn wait(&self, round: usize) {
        let _ = round;
        spin_hint();
    }

    /// Masks interrupts on this CPU and returns what was before.
    fn mask_interrupts(&self) -> InterruptState {
        InterruptState(0)
    }

    /// Restores what [`mask_interrupts`](Self::mask_interrupts) found.
    ///
    /// # Safety
    /// 1. `state` came from a `mask_interrupts` of this machine in this context, and is restored once. Several states may be
    ///    restored in any order.
    /// 2. A context that had an id when it masked is pinned to that CPU still.
    unsafe fn restore_interrupts(&self, state: InterruptState) {
        let _ = state;
    }
}

/// Answers all but the fences, and how far slots lie apart, by asking another machine.
macro_rules! forward_cpu {
    (|$this:ident| $inner:expr) => {
        #[inline(always)]
        fn slots(&self) -> usize {
            let $this = self;
            ($inner).slots()
        }

        fn slots_used(&self) -> usize {
            let $this = self;
            ($inner).slots_used()
        }

        #[inline(always)]
        fn pin(&self) -> Option<CpuId> {
            let $this = self;
            ($inner).pin()
        }

        #[inline(always)]
        fn pin_known(&self) -> Option<CpuId> {
            let $this = self;
            ($inner).pin_known()
        }

        #[inline(always)]
        unsafe fn unpin(&self) {
            let $this = self;
            // SAFETY: the caller's clause is that of the machine asked.
            unsafe { ($inner).unpin() }
        }

        fn wait(&self, round: usize) {
            let $this = self;
            ($inner).wait(round);
        }

        fn mask_interrupts(&self) -> InterruptState {
            let $this = self;
            ($inner).mask_interrupts()
        }

        unsafe fn restore_interrupts(&self, state: InterruptState) {
            let $this = self;
            // SAFETY: the caller's clause is that of the machine asked.
            unsafe { ($inner).restore_interrupts(state) }
        }
    };
}
pub(crate) use forward_cpu;

// SAFETY: every method forwards to the same machine.
unsafe impl<C: Cpu> Cpu for &C {
    const SLOT_STRIDE: usize = C::SLOT_STRIDE;

    forward_cpu!(|this| **this);

    #[inline(always)]
    fn light_fence(&self) {
        (**self).light_fence();
    }

    fn fence_all(&self) -> bool {
        (**self).fence_all()
    }
}
