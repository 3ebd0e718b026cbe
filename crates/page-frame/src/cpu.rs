//! What the layers ask of the machine about its CPUs.

use core::cell::Cell;
use core::marker::PhantomData;

use crate::sync::{self, Ordering, light_fence};

/// The number of a CPU, or of whatever stands for one (a thread in user space): the index of its CPU slots.
///
/// Kept as the offset of the CPU's line in an array of lines of 64 bytes, which is what hot paths want: a machine that keeps
/// its number in that form saves an instruction on each.
///
/// ```
/// use page_frame::CpuId;
/// assert_eq!(CpuId::new(3).line_offset(), 192);
/// // SAFETY: 192 is three lines of 64 bytes.
/// assert_eq!(unsafe { CpuId::at_line_offset(192) }.index(), 3);
/// ```
///
/// An offset that is no multiple of a line would be a slot between two slots, so it takes a promise:
///
/// ```compile_fail,E0133
/// page_frame::CpuId::at_line_offset(127);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(u32);

impl CpuId {
    /// The size of a line in bytes; slots are one or several.
    pub const LINE: usize = 64;

    /// The number of ids: 2^26, so that the last one's offset fits 32 bits.
    pub const COUNT: usize = 1 << (u32::BITS - Self::LINE.trailing_zeros());

    /// Returns the id of CPU `number`.
    ///
    /// # Panics
    /// When `number` is not below [`COUNT`](Self::COUNT). Where the compiler knows that it is, nothing of the check is left.
    #[inline]
    pub const fn new(number: u32) -> Self {
        assert!((number as usize) < Self::COUNT, "CPU numbers are below 2^26");
        Self(number * Self::LINE as u32)
    }

    /// Returns the id of the CPU whose line lies at `offset` bytes.
    ///
    /// # Safety
    /// 1. `offset` is a multiple of [`LINE`](Self::LINE).
    #[inline(always)]
    pub const unsafe fn at_line_offset(offset: u32) -> Self {
        debug_assert!(offset as usize % Self::LINE == 0, "clause 1");
        Self(offset)
    }

    /// Returns the number as an index.
    #[inline]
    pub const fn index(self) -> usize {
        self.line_offset() / Self::LINE
    }

    /// Returns the offset of the CPU's line in bytes.
    #[inline(always)]
    pub const fn line_offset(self) -> usize {
        self.0 as usize
    }
}

impl core::fmt::Debug for CpuId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("CpuId").field(&self.index()).finish()
    }
}

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
/// 7. `SPREAD` is zero or a multiple of 64.
pub unsafe trait Cpu {
    /// How many bytes lie between the slots of one CPU and those of the next where small ones of many owners share memory
    /// ([`Spread`](crate::Spread)): a multiple of 64. With zero each owner has an array of its own.
    ///
    /// [`SideBySide`](crate::SideBySide) gives a machine another.
    const SPREAD: usize = 0;

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
        sync::spin_hint();
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
    const SPREAD: usize = C::SPREAD;

    forward_cpu!(|this| **this);

    #[inline(always)]
    fn light_fence(&self) {
        (**self).light_fence();
    }

    fn fence_all(&self) -> bool {
        (**self).fence_all()
    }
}

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
    const SPREAD: usize = C::SPREAD;

    forward_cpu!(|this| this.0);

    #[inline]
    fn light_fence(&self) {
        // SeqCst: orders the owner's `busy` store before its `detached` load, against `fence_all` between the same two.
        sync::fence(Ordering::SeqCst);
    }

    fn fence_all(&self) -> bool {
        // SeqCst: orders the taker's `detached` store before its `busy` load, against `light_fence`.
        sync::fence(Ordering::SeqCst);
        true
    }
}
