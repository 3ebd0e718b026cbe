//! The interface to a machine's CPUs: pin the caller to its CPU, fence all other CPUs, mask
//! interrupts.

use crate::arch::hint::{light_fence, spin_hint};
use crate::percpu::id::CpuId;

/// The interrupt state before [`Cpu::mask_interrupts`], for [`Cpu::restore_interrupts`].
/// It is a plain number: clause 1 of `restore_interrupts` forbids a forged one.
///
/// ```
/// use page_frame::{Cpu, InterruptState, SingleCpu};
/// let cpu = SingleCpu::new();
/// let state = cpu.mask_interrupts();
/// // ... no interrupt handler runs on this CPU ...
/// // SAFETY: clause 1: a state of this machine, restored once. Clause 2: nothing is pinned.
/// unsafe { cpu.restore_interrupts(state) };
/// assert_eq!(state, InterruptState(0)); // a machine without interrupts
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptState(pub usize);

/// The longest wait of [`Cpu::wait`] is this power of two, in spin hints: a guess, one or two
/// microseconds.
const MAX_WAIT_SHIFT: usize = 6;

/// The CPUs of a machine, as per-CPU slots need them.
///
/// In a kernel: `pin` turns preemption off and reads the CPU's number, `fence_all` sends an
/// interrupt to all CPUs. With threads: `pin` reads a thread-local word, `fence_all` is membarrier.
/// [`SingleCpu`](crate::SingleCpu) is one CPU without interrupts;
/// `CriticalSectionCpu`, with the feature `critical-section`, is one slot for every machine with
/// the crate of that name.
///
/// # Which contexts get an id
/// `pin` returns `None` where the caller has no CPU number that is valid by the clauses below: on a
/// CPU that has not set its number up yet (early boot, an application processor before its per-CPU
/// area is there), in an interrupt that may arrive before that, and on more CPUs than `slots`. The
/// allocators serve such callers from shared memory, without a slot. A `pin` that reads a number
/// that is not there, or returns a default one, gives two CPUs the same slot, which is undefined
/// behaviour.
///
/// # Examples
/// `examples/kernel/src/cpus.rs` implements it for a kernel, `hosted::Threads` for threads. A board
/// with one CPU, whose interrupts a counter masks:
///
/// ```
/// use page_frame::{Cpu, CpuId, InterruptState, IrqLock, PerCpu, PerCpuSlot};
/// use std::cell::Cell;
/// #[derive(Default)]
/// struct Board { pinned: Cell<usize>, masked: Cell<usize> } // not `Sync`
/// // SAFETY: clause 1: handlers end before the code that they interrupt. Clauses 2 and 3: there is
/// // no other context. Clause 4: the count accepts states in any order. 5 and 6: always 0 of 1.
/// unsafe impl Cpu for Board {
///     fn slots(&self) -> usize { 1 }
///     fn pin(&self) -> Option<CpuId> {
///         self.pinned.set(self.pinned.get() + 1);
///         Some(CpuId::new(0))
///     }
///     unsafe fn unpin(&self) { self.pinned.set(self.pinned.get() - 1) }
///     fn fence_all(&self) -> bool { true }
///     fn wait(&self, round: usize) { assert!(round < 1000, "a deadlock") }
///     fn mask_interrupts(&self) -> InterruptState {
///         InterruptState(self.masked.replace(self.masked.get() + 1))
///     }
///     unsafe fn restore_interrupts(&self, _: InterruptState) {
///         self.masked.set(self.masked.get() - 1);
///     }
/// }
/// let (mut slots, lock) = ([PerCpuSlot::new(0)], IrqLock::new(0));
/// let per_cpu = PerCpu::new(&mut slots, Board::default());
/// let token = per_cpu.lock_token();
/// let held = token.lock(&lock).unwrap();
/// assert_eq!((per_cpu.cpu().pinned.get(), per_cpu.cpu().masked.get()), (1, 1));
/// ```
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
/// 8. No context ever has the id `UNOWNED`, which is below `slots`. `None` keeps this clause.
/// 9. `known_slot` pins the caller and returns `first` plus `stride` times the number of the id, as
///    `pin_known` would have returned it. For a caller without an id it returns `None` and does not
///    pin, or takes `UNOWNED` for the caller's id. The provided method keeps this clause.
pub unsafe trait Cpu {
    /// Bytes between the slots of neighbouring ids where small slots of many owners share memory
    /// ([`StridedPerCpu`](crate::StridedPerCpu)): a multiple of 64. Zero: each owner has an array
    /// of its own.
    ///
    /// Example: see [`WithSlotStride`](crate::WithSlotStride).
    const SLOT_STRIDE: usize = 0;

    /// An id that no context has, where the machine sets one aside: its slots are always busy.
    ///
    /// [`known_slot`](Self::known_slot) may return a slot of this id to a caller without an id. So
    /// the check that finds nested code also finds such callers, and a hit has one check less. The
    /// price is one unused slot in each array of slots.
    ///
    /// ```
    /// use page_frame::{Cpu, SingleCpu};
    /// fn count_usable<C: Cpu>(cpu: &C) -> usize {
    ///     cpu.slots() - usize::from(C::UNOWNED.is_some())
    /// }
    /// assert_eq!(count_usable(&SingleCpu::new()), 1);
    /// ```
    const UNOWNED: Option<CpuId> = None;

    /// Returns the number of ids. Example: see [`Cpu`].
    fn slots(&self) -> usize;

    /// Returns an upper bound on the ids that `pin` has returned so far: a take-over visits no
    /// slots beyond it. Example: see [`SwitchedCpu`](crate::SwitchedCpu).
    fn slots_used(&self) -> usize {
        self.slots()
    }

    /// Keeps the caller on its CPU and returns the CPU's id. Returns `None` where the caller has no
    /// slot (too many threads, too early, too late); then the caller is not pinned. A CPU without a
    /// number must get `None`, see [`Cpu`]. A kernel that pins by a guard keeps it in
    /// [`PinGuards`](crate::PinGuards).
    /// Example: see [`Cpu`].
    fn pin(&self) -> Option<CpuId>;

    /// As [`pin`](Self::pin), but assigns no id to a caller that has none. For hot paths whose slow
    /// path calls `pin`. Example: see [`SwitchedCpu`](crate::SwitchedCpu).
    #[inline(always)]
    fn pin_known(&self) -> Option<CpuId> {
        self.pin()
    }

    /// Calls [`pin_known`](Self::pin_known), and returns the address of the id's slot. The slots of
    /// neighbouring ids are `stride` bytes apart, and `first` is the address of the first one. A
    /// machine that keeps the distance in memory overrides this: the hit adds a word, and computes
    /// nothing.
    ///
    /// ```
    /// use page_frame::{Cpu, CpuId, SwitchedCpu};
    /// let cpus = SwitchedCpu::new(4);
    /// cpus.switch_to(Some(CpuId::new(3)));
    /// let mut slots = [[0_u8; 128]; 4];
    /// let own = cpus.known_slot(slots.as_mut_ptr().cast(), 128);
    /// assert_eq!(own, Some(slots[3].as_mut_ptr()));
    /// ```
    #[inline(always)]
    fn known_slot(&self, first: *mut u8, stride: usize) -> Option<*mut u8> {
        let id = self.pin_known()?;
        Some(first.wrapping_add(id.line_offset() * (stride / CpuId::LINE)))
    }

    /// Ends a `pin` or `pin_known` that returned an id. Example: see [`Cpu`].
    ///
    /// # Safety
    /// 1. Pairs with a `pin` or `pin_known` of the same context that returned an id.
    unsafe fn unpin(&self);

    /// Lends the caller an id, if it has none and the machine has ids to lend: for slow paths,
    /// which then try the fast path once more. Returns whether it did. Until
    /// [`give_back`](Self::give_back), `pin` and `pin_known` return that id in this context.
    ///
    /// Machines whose CPUs all have ids lend none.
    ///
    /// ```
    /// use page_frame::{Cpu, SingleCpu};
    /// let cpu = SingleCpu::new();
    /// if cpu.borrow() {
    ///     // SAFETY: `borrow` has just returned true, and no slot was entered.
    ///     unsafe { cpu.give_back() };
    /// }
    /// ```
    #[inline(always)]
    fn borrow(&self) -> bool {
        false
    }

    /// Ends a [`borrow`](Self::borrow) that returned true. Example: see [`Cpu::borrow`].
    ///
    /// # Safety
    /// 1. Pairs with a `borrow` of the same context that returned true, and the context is inside
    ///    no slot.
    unsafe fn give_back(&self) {}

    /// The owner's side of [`fence_all`](Self::fence_all): a compiler fence where `fence_all`
    /// fences the other CPUs. Example: see [`Fenced`](crate::Fenced).
    #[inline(always)]
    fn light_fence(&self) {
        light_fence();
    }

    /// Makes every CPU execute a full fence. Returns false, and does nothing, where the caller may
    /// not wait for that. Example: see [`Cpu`].
    fn fence_all(&self) -> bool;

    /// Waits between two looks at a lock; `round` counts the calls for this lock, from zero.
    /// Doubles its wait each time, up to 64 spin hints (Anderson 1990, "The Performance of Spin
    /// Lock Alternatives"). Example: see [`Cpu`].
    fn wait(&self, round: usize) {
        (0..1 << round.min(MAX_WAIT_SHIFT)).for_each(|_| spin_hint());
    }

    /// Whether [`note_miss`](Self::note_miss) does anything: without it, misses cost nothing more.
    /// Example: see [`Cpu::note_miss`].
    const HAS_MISS_HOOK: bool = false;

    /// Object caches call this after a miss in a per-CPU slot, with no lock held and outside all
    /// slots, where [`HAS_MISS_HOOK`](Self::HAS_MISS_HOOK) is true. A system may do deferred work
    /// in it, such as returning memory that has been free for a while: each CPU misses now and then
    /// as long as it allocates. The call may itself allocate and free.
    ///
    /// ```
    /// use page_frame::{Cpu, CpuId};
    /// use std::cell::Cell;
    /// #[derive(Clone, Default)]
    /// struct Counting { misses: Cell<usize> }
    /// // SAFETY: one context with one id, as the value is not `Sync`.
    /// unsafe impl Cpu for Counting {
    ///     const HAS_MISS_HOOK: bool = true;
    ///     fn note_miss(&self) { self.misses.set(self.misses.get() + 1) }
    ///     fn slots(&self) -> usize { 1 }
    ///     fn pin(&self) -> Option<CpuId> { Some(CpuId::new(0)) }
    ///     unsafe fn unpin(&self) {}
    ///     fn fence_all(&self) -> bool { true }
    /// }
    /// let cpu = Counting::default();
    /// cpu.note_miss(); // a cache does so
    /// assert!(Counting::HAS_MISS_HOOK && cpu.misses.get() == 1);
    /// ```
    #[inline(always)]
    fn note_miss(&self) {}

    /// Begins a critical section, and returns the state before it. No nested code waits for a lock
    /// until it ends (clause 4).
    ///
    /// A kernel masks interrupts on this CPU. Threads enter the fork lock, so that no child of
    /// `fork` copies a held lock. Example: see [`Cpu`].
    fn mask_interrupts(&self) -> InterruptState {
        InterruptState(0)
    }

    /// Ends the critical section that [`mask_interrupts`](Self::mask_interrupts) began.
    /// Example: see [`Cpu`].
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
        fn known_slot(&self, first: *mut u8, stride: usize) -> Option<*mut u8> {
            let $this = self;
            ($inner).known_slot(first, stride)
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

        #[inline(always)]
        fn note_miss(&self) {
            let $this = self;
            ($inner).note_miss();
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
    const HAS_MISS_HOOK: bool = C::HAS_MISS_HOOK;
    const UNOWNED: Option<CpuId> = C::UNOWNED;

    forward_cpu!(|this| **this);

    #[inline(always)]
    fn light_fence(&self) {
        (**self).light_fence();
    }

    fn fence_all(&self) -> bool {
        (**self).fence_all()
    }
}
