//! Machines that need no operating system: one CPU, CPUs played by one thread, and a machine
//! without a heavy fence.

use core::cell::Cell;
use core::marker::PhantomData;

use crate::atomic::{Ordering, fence};
use crate::percpu::cpu::{Cpu, InterruptState, forward_cpu};
use crate::percpu::id::CpuId;

/// One CPU without interrupts and threads. It is not `Sync`, so threads cannot share anything built
/// on it.
///
/// ```
/// use page_frame::{Cpu, SingleCpu};
/// let cpu = SingleCpu::new();
/// assert_eq!((cpu.slots(), cpu.pin().unwrap().index()), (1, 0));
/// ```
#[derive(Clone, Debug, Default)]
pub struct SingleCpu(PhantomData<Cell<()>>);

impl SingleCpu {
    /// Makes the only CPU. Example: see [`SingleCpu`].
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

// SAFETY: clause 1: the type is not `Sync`, so all users of one value run in one thread, without
// nesting. A clone governs other slots, as one `PerCpu` governs an array. Clauses 2 to 4: there is
// no other context. Clauses 5 and 6: the id is always 0 of 1. Clause 7: zero.
unsafe impl Cpu for SingleCpu {
    #[inline]
    fn slots(&self) -> usize {
        1
    }

    #[inline]
    fn pin(&self) -> Option<CpuId> {
        Some(CpuId::new(0))
    }

    #[inline]
    unsafe fn unpin(&self) {}

    fn fence_all(&self) -> bool {
        true
    }
}

/// One CPU whose user promises that one context at a time uses what is built on it. It is `Sync`,
/// so that it fits a static, and costs nothing.
///
/// ```
/// use page_frame::{Cpu, OneContext};
/// // SAFETY: this program has one thread, and no interrupt handler that allocates.
/// static CPU: OneContext = unsafe { OneContext::new() };
/// assert_eq!(CPU.pin().unwrap().index(), 0);
/// ```
#[derive(Clone, Debug)]
pub struct OneContext(());

impl OneContext {
    /// Makes the only CPU. Example: see [`OneContext`].
    ///
    /// # Safety
    /// 1. Of the code that uses what is built on this value or its clones, each call ends before
    ///    the next one begins: no interrupt handler, thread or other core interrupts one with
    ///    another.
    pub const unsafe fn new() -> Self {
        Self(())
    }
}

// SAFETY: clauses 1 to 4: by clause 1 of `new` no other context exists during a call. Clauses 5 and
// 6: the id is always 0 of 1. Clause 7: zero.
unsafe impl Cpu for OneContext {
    #[inline]
    fn slots(&self) -> usize {
        1
    }

    #[inline]
    fn pin(&self) -> Option<CpuId> {
        Some(CpuId::new(0))
    }

    #[inline]
    unsafe fn unpin(&self) {}

    fn fence_all(&self) -> bool {
        true
    }
}

/// CPUs whose callers keep interrupts off, as kernels do that mask them around their allocator: a
/// pin only reads the CPU's number.
///
/// `fence_all` returns false, as a CPU with masked interrupts must not wait for others. So the
/// slots of other CPUs are not drained; [`Fenced`] around it makes that possible, for a fence in
/// each hit.
///
/// ```
/// use page_frame::{Cpu, CpuId, Fenced, MaskedCpu};
/// fn number() -> Option<u32> {
///     Some(0) // in a kernel: from the per-CPU area, `None` before it is there
/// }
/// // SAFETY: this program has one thread and no interrupts, which is CPU 0.
/// static CPUS: Fenced<MaskedCpu> = Fenced(unsafe { MaskedCpu::new(4, number) });
/// assert_eq!((CPUS.slots(), CPUS.pin()), (4, Some(CpuId::new(0))));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct MaskedCpu {
    slots: usize,
    number: fn() -> Option<u32>,
}

impl MaskedCpu {
    /// Makes a machine of `slots` CPUs, the current one of which `number` returns. CPUs whose
    /// number is not below `slots` have no slot. Example: see [`MaskedCpu`].
    ///
    /// # Panics
    /// When there are more than [`CpuId::COUNT`] slots.
    ///
    /// # Safety
    /// 1. Each call of what is built on this value runs on one CPU from its beginning to its end,
    ///    and is not interrupted by another such call.
    /// 2. `number` returns different numbers on different CPUs, and the same one each time on one
    ///    CPU; `None` on a CPU that has no number yet.
    pub const unsafe fn new(slots: usize, number: fn() -> Option<u32>) -> Self {
        assert!(slots <= CpuId::COUNT, "at most 2^26 CPUs");
        Self { slots, number }
    }
}

// SAFETY: clause 1: by clauses 1 and 2 of `new` no other context gets the id between a pin and its
// unpin, which lie in one call. Clause 2: ids do not pass between contexts of different CPUs.
// Clause 3: it returns false. Clause 4: by clause 1 of `new` there is no nested code. Clause 5:
// `pin` checks it. Clause 6: the id is that of the CPU. Clause 7: zero.
unsafe impl Cpu for MaskedCpu {
    #[inline]
    fn slots(&self) -> usize {
        self.slots
    }

    #[inline]
    fn pin(&self) -> Option<CpuId> {
        (self.number)().filter(|number| (*number as usize) < self.slots).map(CpuId::new)
    }

    #[inline]
    unsafe fn unpin(&self) {}

    fn fence_all(&self) -> bool {
        false
    }
}

/// Several CPUs simulated by one thread, which chooses the current one: for replays and tests. Not
/// `Sync`.
///
/// A clone has a current CPU of its own. That is sound as one machine governs an array of slots, in
/// one thread: code that switches away inside a slot and comes back finds the slot busy.
///
/// ```
/// use page_frame::{Cpu, CpuId, SwitchedCpu};
/// let cpus = SwitchedCpu::new(2);
/// cpus.switch_to(Some(CpuId::new(1)));
/// assert_eq!((cpus.pin(), cpus.pin_known()), (Some(CpuId::new(1)), Some(CpuId::new(1))));
/// cpus.switch_to(None); // too early, too late, or one thread too many
/// assert_eq!((cpus.pin(), cpus.slots_used()), (None, 2));
/// ```
#[derive(Clone, Debug, Default)]
pub struct SwitchedCpu {
    slots: usize,
    current: Cell<Option<CpuId>>,
}

impl SwitchedCpu {
    /// Makes `slots` CPUs; CPU 0 is the current one. Example: see [`SwitchedCpu`].
    ///
    /// # Panics
    /// When there are more than [`CpuId::COUNT`].
    pub const fn new(slots: usize) -> Self {
        assert!(slots <= CpuId::COUNT, "at most 2^26 CPUs");
        let first = if slots > 0 { Some(CpuId::new(0)) } else { None };
        Self { slots, current: Cell::new(first) }
    }

    /// Makes `cpu` the current CPU; `None` simulates a context without a slot.
    /// Example: see [`SwitchedCpu`].
    ///
    /// # Panics
    /// When `cpu` is not below the number of slots.
    pub fn switch_to(&self, cpu: Option<CpuId>) {
        assert!(cpu.is_none_or(|cpu| cpu.index() < self.slots), "{cpu:?} of {} CPUs", self.slots);
        self.current.set(cpu);
    }
}

// SAFETY: clause 1: the type is not `Sync`, so all of it runs in one thread, without nesting.
// Clauses 2 to 4: there is no other context. Clause 5: `new` and `switch_to` assert it. Clause 6: a
// clone that is switched simulates other contexts, which run in the same thread all the same.
// Clause 7: zero.
unsafe impl Cpu for SwitchedCpu {
    fn slots(&self) -> usize {
        self.slots
    }

    #[inline]
    fn pin(&self) -> Option<CpuId> {
        self.current.get()
    }

    #[inline]
    unsafe fn unpin(&self) {}

    fn fence_all(&self) -> bool {
        true
    }
}

/// The machine `C` with sequentially consistent fences on both sides.
///
/// loom models this form. Use it where there is no membarrier and no interrupt to all CPUs.
///
/// ```
/// use page_frame::{Cpu, Fenced, SingleCpu};
/// let cpu = Fenced(SingleCpu::new());
/// cpu.light_fence(); // a full fence
/// assert!(cpu.fence_all());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Fenced<C>(pub C);

// SAFETY: clause 3: the light fence is a full one. The wrapped machine fulfils all other clauses.
unsafe impl<C: Cpu> Cpu for Fenced<C> {
    const SLOT_STRIDE: usize = C::SLOT_STRIDE;
    const HAS_MISS_HOOK: bool = C::HAS_MISS_HOOK;
    const UNOWNED: Option<CpuId> = C::UNOWNED;

    forward_cpu!(|this| this.0);

    #[inline]
    fn light_fence(&self) {
        // SeqCst: orders the owner's `busy` store before its `detached` load, against `fence_all`
        // between the same two.
        fence(Ordering::SeqCst);
    }

    fn fence_all(&self) -> bool {
        // SeqCst: orders the taker's `detached` store before its `busy` load, against
        // `light_fence`.
        fence(Ordering::SeqCst);
        true
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
