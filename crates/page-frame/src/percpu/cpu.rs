//! The interface to a machine's CPUs: pin the caller to its CPU, fence all other CPUs, mask
//! interrupts.

use crate::arch::hint::{light_fence, spin_hint};
use crate::percpu::id::CpuId;

/// The interrupt state before [`Cpu::mask_interrupts`], for [`Cpu::restore_interrupts`].
/// It is a plain number: clause 1 of `restore_interrupts` forbids a forged one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptState(pub usize);

/// The CPUs of a machine, as per-CPU slots need them.
///
/// In a kernel: `pin` turns preemption off and reads the CPU's number, `fence_all` sends an
/// interrupt to all CPUs. With threads: `pin` reads a thread-local word, `fence_all` is membarrier.
/// [`SingleCpu`](crate::SingleCpu) is one CPU without interrupts.
///
/// [`SingleCpu`](crate::SingleCpu) is an example. `examples/kernel/src/cpus.rs` implements it for a
/// kernel, `hosted::Threads` for threads.
///
/// # Safety
/// 1. Between a `pin` or `pin_known` that returned an id and its `unpin`, only nested code gets the
///    same id: code that interrupts the pinned code (interrupt, signal) and ends before it
///    continues.
/// 2. An id passes from one context to another (a thread's exit and the next thread's start) by a
///    Release in the old context and an Acquire in the new one.
/// 3. When `fence_all` returns true, each other CPU has executed a full fence at some moment during
///    the call; or `light_fence` is itself a full fence.
/// 4. Between `mask_interrupts` and the first `restore_interrupts` after it, no nested code waits
///    for a lock of these crates on this CPU. `restore_interrupts` accepts the states of several
///    masks in any order, and after the last one interrupts are as they were before the first mask.
/// 5. Each id from `pin` or `pin_known` is below `slots`, which returns the same value each time,
///    for clones and references too, at most [`CpuId::COUNT`].
/// 6. A clone and a reference give the same id to the same context.
/// 7. `SLOT_STRIDE` is zero or a multiple of 64.
pub unsafe trait Cpu {
    /// Bytes between the slots of neighbouring ids where small slots of many owners share memory
    /// ([`StridedPerCpu`](crate::StridedPerCpu)): a multiple of 64. Zero: each owner has an array
    /// of its own.
    ///
    /// [`WithSlotStride`](crate::WithSlotStride) changes it for a machine.
    const SLOT_STRIDE: usize = 0;

    /// Returns the number of ids.
    fn slots(&self) -> usize;

    /// Returns an upper bound on the ids that `pin` has returned so far: a take-over visits no
    /// slots beyond it.
    fn slots_used(&self) -> usize {
        self.slots()
    }

    /// Keeps the caller on its CPU and returns the CPU's id. Returns `None` where the caller has no
    /// slot (too many threads, too early, too late); then the caller is not pinned.
    fn pin(&self) -> Option<CpuId>;

    /// As [`pin`](Self::pin), but assigns no id to a caller that has none. For hot paths whose slow
    /// path calls `pin`.
    #[inline(always)]
    fn pin_known(&self) -> Option<CpuId> {
        self.pin()
    }

    /// Ends a `pin` or `pin_known` that returned an id.
    ///
    /// # Safety
    /// 1. Pairs with a `pin` or `pin_known` of the same context that returned an id.
    unsafe fn unpin(&self);

    /// Lends the caller an id, if it has none and the machine has ids to lend: for slow paths,
    /// which then try the fast path once more. Returns whether it did. Until
    /// [`give_back`](Self::give_back), `pin` and `pin_known` return that id in this context.
    ///
    /// Machines whose CPUs all have ids lend none.
    #[inline(always)]
    fn borrow(&self) -> bool {
        false
    }

    /// Ends a [`borrow`](Self::borrow) that returned true.
    ///
    /// # Safety
    /// 1. Pairs with a `borrow` of the same context that returned true, and the context is inside
    ///    no slot.
    unsafe fn give_back(&self) {}

    /// The owner's side of [`fence_all`](Self::fence_all): a compiler fence where `fence_all`
    /// fences the other CPUs.
    #[inline(always)]
    fn light_fence(&self) {
        light_fence();
    }

    /// Makes every CPU execute a full fence. Returns false, and does nothing, where the caller may
    /// not wait for that.
    fn fence_all(&self) -> bool;

    /// Waits between two tries of a lock; `round` counts the calls for this lock, from zero.
    fn wait(&self, round: usize) {
        let _ = round;
        spin_hint();
    }

    /// Begins a critical section, and returns the state before it. No nested code waits for a lock
    /// until it ends (clause 4).
    ///
    /// A kernel masks interrupts on this CPU. Threads enter the fork lock, so that no child of
    /// `fork` copies a held lock.
    fn mask_interrupts(&self) -> InterruptState {
        InterruptState(0)
    }

    /// Ends the critical section that [`mask_interrupts`](Self::mask_interrupts) began.
    ///
    /// # Safety
    /// 1. `state` came from a `mask_interrupts` of this machine in this context, and is restored
    ///    once. Several states may be restored in any order.
    /// 2. A context that had an id when it masked is still pinned to that CPU.
    unsafe fn restore_interrupts(&self, state: InterruptState) {
        let _ = state;
    }
}

/// Implements all methods of [`Cpu`] except the fences by calling another machine.
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
            // SAFETY: clause 1 of `unpin` is the same for the inner machine.
            unsafe { ($inner).unpin() }
        }

        #[inline(always)]
        fn borrow(&self) -> bool {
            let $this = self;
            ($inner).borrow()
        }

        #[inline(always)]
        unsafe fn give_back(&self) {
            let $this = self;
            // SAFETY: clause 1 of `give_back` is the same for the inner machine.
            unsafe { ($inner).give_back() }
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
            // SAFETY: the clauses of `restore_interrupts` are the same for the inner machine.
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
