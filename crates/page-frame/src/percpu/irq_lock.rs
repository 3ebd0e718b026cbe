//! The slow path's locks: who may wait for one, and that interrupts are masked while one is held.
//!
//! # Concepts
//! A CPU that is inside its slot, or that holds or waits for such a lock, may be interrupted by code that wants one too. That
//! code is nested, finds `busy` or `locking` set, and only tries: waiting for what it came upon would never end. A
//! [`IrqLock`] cannot be taken in any other way, so that no path forgets this.
//!
//! # Invariants
//! - I1: `locking` is set from before a [`IrqLock`] is taken until after it is released, by whoever is not nested.
//! - I2: a [`IrqLockToken`] and the [`IrqLockGuard`] guards that borrow it stay in the context that made them, as neither is `Send`. A
//!   context with an id stays on its CPU, which the `IrqLockToken` pins.
//!
//! # Forgotten guards
//! A forgotten [`IrqLockGuard`] leaves its lock taken and interrupts masked, a forgotten [`IrqLockToken`] its CPU pinned and marked as
//! locking. Both are leaks: contexts on that CPU only try locks from then on, and nothing is reached twice. The lock itself
//! excludes, whatever slots its users came through.

use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use crate::percpu::cpu::{Cpu, InterruptState};
use crate::percpu::id::CpuId;
use crate::percpu::slot::PerCpuSlot;
use crate::sync::atomic::Ordering;
use crate::sync::lock::{Guard, Lock};
use crate::sync::model::{MODELLED, const_unless_loom};

/// A lock that code which an interrupt may come upon takes, and code in interrupts too: through [`IrqLockToken`] alone.
///
/// ```
/// # use page_frame::{SingleCpu, PerCpuSlot, IrqLock, PerCpu};
/// # let mut slots = [PerCpuSlot::new(())];
/// # let slots = PerCpu::new(&mut slots, SingleCpu::new());
/// let lock = IrqLock::new(1);
/// let token = slots.lock_token();
/// *token.lock(&lock).expect("not nested") += 1;
/// ```
#[derive(Debug)]
pub struct IrqLock<U>(Lock<U>);

impl<U> IrqLock<U> {
    const_unless_loom! {
        /// Wraps `value` in an open lock.
        pub fn new(value: U) -> Self {
            Self(Lock::new(value))
        }
    }

    /// Returns the data; the exclusive reference proves that nobody holds the lock.
    pub fn get_mut(&mut self) -> &mut U {
        self.0.get_mut()
    }
}

/// Leave to take locks of the slow path. While it lives, nested contexts on this CPU only try theirs.
///
/// Several may live in one context, as nested ones, and go in any order.
#[derive(Debug)]
pub struct IrqLockToken<'a, T, C: Cpu> {
    marked: Option<&'a PerCpuSlot<T>>,
    nested: bool,
    id: Option<CpuId>,
    cpu: &'a C,
    _not_send: PhantomData<*mut ()>,
}

impl<'a, T, C: Cpu> IrqLockToken<'a, T, C> {
    /// Makes the token of the caller, whose CPU's slot is `slot`, and marks that slot as locking unless the caller is nested.
    ///
    /// # Safety
    /// 1. The caller has just pinned itself by `cpu.pin()`, which returned `id`. The token unpins it.
    /// 2. `slot` is the slot of `id`, if there is one.
    pub(super) unsafe fn new(
        slot: Option<&'a PerCpuSlot<T>>,
        id: Option<CpuId>,
        cpu: &'a C,
    ) -> Self {
        let nested = slot.is_some_and(|slot| {
            // Relaxed: only contexts on this CPU write either (I2 of `per_cpu.rs`).
            slot.busy.load(Ordering::Relaxed) != 0 || slot.locking.load(Ordering::Relaxed) != 0
        });
        let marked = slot.filter(|_| !nested);
        if let Some(slot) = marked {
            // Relaxed: read only by contexts on this CPU.
            slot.locking.store(1, Ordering::Relaxed);
        }
        Self { marked, nested, id, cpu, _not_send: PhantomData }
    }

    /// Whether the caller runs on top of code that is inside the slot or holds locks.
    pub fn is_nested(&self) -> bool {
        self.nested
    }

    /// Returns the id of the CPU, for callers that have one.
    pub fn id(&self) -> Option<CpuId> {
        self.id
    }

    /// Takes `lock` with interrupts masked: waits for it, or, nested, only tries.
    pub fn lock<'l, U>(&'l self, lock: &'l IrqLock<U>) -> Option<IrqLockGuard<'l, U, C>> {
        if self.nested || MODELLED {
            // Loom's own lock knows who waits for whom.
            let wait = || Some(self.masked(|| lock.0.lock()));
            return if self.nested { self.try_lock(lock) } else { wait() };
        }
        let mut round = 0;
        loop {
            if let Some(held) = self.try_lock(lock) {
                return Some(held);
            }
            self.cpu.wait(round);
            round += 1;
        }
    }

    /// Takes `lock` with interrupts masked if it is free.
    pub fn try_lock<'l, U>(&'l self, lock: &'l IrqLock<U>) -> Option<IrqLockGuard<'l, U, C>> {
        let state = self.cpu.mask_interrupts();
        let Some(guard) = lock.0.try_lock() else {
            // SAFETY: clauses 1 and 2: `state` comes from the line above; `self` pins the CPU.
            unsafe { self.cpu.restore_interrupts(state) };
            return None;
        };
        Some(IrqLockGuard { guard: Some(guard), state, cpu: self.cpu, _not_send: PhantomData })
    }

    fn masked<'l, U>(&'l self, take: impl FnOnce() -> Guard<'l, U>) -> IrqLockGuard<'l, U, C> {
        let state = self.cpu.mask_interrupts();
        let _not_send = PhantomData;
        IrqLockGuard { guard: Some(take()), state, cpu: self.cpu, _not_send }
    }
}

impl<T, C: Cpu> Drop for IrqLockToken<'_, T, C> {
    fn drop(&mut self) {
        if let Some(slot) = self.marked {
            // Relaxed: read only by contexts on this CPU.
            slot.locking.store(0, Ordering::Relaxed);
        }
        if self.id.is_some() {
            // SAFETY: clause 1 of `new`: pairs with the `pin` that returned `id`.
            unsafe { self.cpu.unpin() };
        }
    }
}

/// A lock's data, held with interrupts masked. Dropping it releases the lock, then restores them. Several of one context may be
/// dropped in any order (clause 4 of [`Cpu`]).
///
/// It stays in its thread, whose interrupts it masks:
///
/// ```compile_fail,E0277
/// use page_frame::{SingleCpu, PerCpuSlot, IrqLock, PerCpu};
/// let mut slots = [PerCpuSlot::new(0)];
/// let slots = PerCpu::new(&mut slots, SingleCpu::new());
/// static LOCK: IrqLock<u32> = IrqLock::new(1);
/// let token = slots.lock_token();
/// let held = token.lock(&LOCK).unwrap();
/// std::thread::scope(|scope| _ = scope.spawn(move || drop(held)));
/// ```
#[derive(Debug)]
#[must_use = "the lock is released at once when this is dropped"]
pub struct IrqLockGuard<'l, U, C: Cpu> {
    guard: Option<Guard<'l, U>>,
    state: InterruptState,
    cpu: &'l C,
    _not_send: PhantomData<*mut ()>,
}

impl<U, C: Cpu> Deref for IrqLockGuard<'_, U, C> {
    type Target = U;

    fn deref(&self) -> &U {
        self.guard.as_ref().expect("the guard is there until drop")
    }
}

impl<U, C: Cpu> DerefMut for IrqLockGuard<'_, U, C> {
    fn deref_mut(&mut self) -> &mut U {
        self.guard.as_mut().expect("the guard is there until drop")
    }
}

impl<U, C: Cpu> Drop for IrqLockGuard<'_, U, C> {
    fn drop(&mut self) {
        self.guard = None;
        // SAFETY: clause 1: `state` is what the masking before the lock returned, in this context by I2. Clause 2: the `IrqLockToken` that
        // this guard borrows pins the CPU.
        unsafe { self.cpu.restore_interrupts(self.state) };
    }
}
