//! Machines that need no operating system: one CPU, CPUs played by one thread, and a machine without a heavy fence.

use core::cell::Cell;
use core::marker::PhantomData;

use crate::percpu::cpu::{Cpu, InterruptState, forward_cpu};
use crate::percpu::id::CpuId;
use crate::sync::atomic::{Ordering, fence};

/// One CPU, no interrupts, no threads. Not `Sync`, so nothing built on it can be shared between threads.
///
/// ```
/// use page_frame::{Cpu, SingleCpu};
/// assert_eq!(SingleCpu::new().slots(), 1);
/// ```
#[derive(Clone, Debug, Default)]
pub struct SingleCpu(PhantomData<Cell<()>>);

impl SingleCpu {
    /// Makes the only CPU.
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

// SAFETY: clause 1: the type is not `Sync`, so everything that uses one value runs in one thread, one after the other,
// and a clone stands for the same thread's use of other slots: one array of slots belongs to one `PerCpu`. Clauses 2 to 4: there
// is no other context. Clauses 5 and 6: 0 of 1, always.
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

/// Several CPUs played by one thread, which says which one it is: for replays and tests. Not `Sync`.
///
/// A clone is switched by itself. That is sound as one array of slots has one machine, and as all runs in one thread: who
/// switches away while inside a slot and comes back finds the slot busy.
///
/// ```
/// use page_frame::{Cpu, CpuId, SwitchedCpu};
/// let cpus = SwitchedCpu::new(2);
/// cpus.switch_to(Some(CpuId::new(1)));
/// assert_eq!(cpus.pin(), Some(CpuId::new(1)));
/// ```
#[derive(Clone, Debug, Default)]
pub struct SwitchedCpu {
    slots: usize,
    current: Cell<Option<CpuId>>,
}

impl SwitchedCpu {
    /// Makes `slots` CPUs; the thread starts on CPU 0.
    ///
    /// # Panics
    /// When there are more than [`CpuId::COUNT`].
    pub const fn new(slots: usize) -> Self {
        assert!(slots <= CpuId::COUNT, "at most 2^26 CPUs");
        let first = if slots > 0 { Some(CpuId::new(0)) } else { None };
        Self { slots, current: Cell::new(first) }
    }

    /// Goes on as CPU `cpu`; `None` plays a context that has no slot.
    ///
    /// # Panics
    /// When `cpu` is not below the number of slots.
    pub fn switch_to(&self, cpu: Option<CpuId>) {
        assert!(cpu.is_none_or(|cpu| cpu.index() < self.slots), "{cpu:?} of {} CPUs", self.slots);
        self.current.set(cpu);
    }
}

// SAFETY: clause 1: the type is not `Sync`, so everything runs in one thread, one after the other. Clauses 2 to 4:
// there is no other context. Clause 5: `new` and `switch_to` assert it. Clause 6: a clone may be switched by itself; it
// plays other contexts then, which run one after the other all the same.
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

/// A machine whose heavy fence is missing: both fences are sequentially consistent ones. Wraps the rest of another.
///
/// This is the form that loom models, and the one to use where nothing like membarrier exists.
///
/// ```
/// use page_frame::{Cpu, Fenced, SingleCpu};
/// assert!(Fenced(SingleCpu::new()).fence_all());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Fenced<C>(pub C);

// SAFETY: clauses 1, 2, 4 and 5 are the wrapped machine's; clause 3: the light fence is a full one.
unsafe impl<C: Cpu> Cpu for Fenced<C> {
    const SLOT_STRIDE: usize = C::SLOT_STRIDE;

    forward_cpu!(|this| this.0);

    #[inline]
    fn light_fence(&self) {
        // SeqCst: orders the owner's `busy` store before its `detached` load, against `fence_all` between the same two.
        fence(Ordering::SeqCst);
    }

    fn fence_all(&self) -> bool {
        // SeqCst: orders the taker's `detached` store before its `busy` load, against `light_fence`.
        fence(Ordering::SeqCst);
        true
    }
}
