//! Interrupt-safe locks: interrupts are masked while one is held, and nested code never waits for
//! one.
//!
//! # Concepts
//! An interrupt may arrive while its CPU is inside a slot, or holds or waits for a lock, and its
//! handler may need a lock too. The handler is nested code: it finds `busy` or `locking` set and
//! only tries the lock, as the code that it interrupted cannot release it. An [`IrqLock`] is taken
//! through an [`IrqLockToken`], which enforces this rule.
//!
//! # Invariants
//! - I1: code that is not nested sets `locking` before it takes an [`IrqLock`] and clears it after
//!   the release.
//! - I2: an [`IrqLockToken`] and the [`IrqLockGuard`]s that borrow it stay in the context that made
//!   them, as neither is `Send`. The token pins a context that has an id to its CPU.
//!
//! # Forgotten guards
//! A forgotten [`IrqLockGuard`] leaves its lock taken and interrupts masked. A forgotten
//! [`IrqLockToken`] leaves its CPU pinned and marked as locking. Both are leaks and sound: contexts
//! on that CPU only try locks from then on, and the lock itself still excludes all its users.

use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use crate::atomic::Ordering;
use crate::percpu::cpu::{Cpu, InterruptState};
use crate::percpu::id::CpuId;
use crate::percpu::slot::PerCpuSlot;
use crate::sync::lock::{Guard, Lock};
use crate::sync::model::{MODELLED, const_unless_loom};

/// A lock for data that interrupt handlers use too. It is taken through an [`IrqLockToken`].
///
/// ```
/// use page_frame::{IrqLock, PerCpu, PerCpuSlot, SingleCpu};
/// let mut slots = [PerCpuSlot::new(())];
/// let per_cpu = PerCpu::new(&mut slots, SingleCpu::new());
/// let mut lock = IrqLock::new(1);
/// let token = per_cpu.lock_token();
/// *token.lock(&lock).expect("not nested") += 1;
/// drop(token);
/// assert_eq!(*lock.get_mut(), 2); // without a token, as nobody else has the lock
/// ```
#[derive(Debug)]
pub struct IrqLock<U>(Lock<U>);

impl<U> IrqLock<U> {
    const_unless_loom! {
        /// Wraps `value` in an open lock. Example: see [`IrqLock`].
        pub fn new(value: U) -> Self {
            Self(Lock::new(value))
        }
    }

    /// Returns the data; the exclusive reference proves that the lock is free.
    /// Example: see [`IrqLock`].
    pub fn get_mut(&mut self) -> &mut U {
        self.0.get_mut()
    }
}

/// The permission to take [`IrqLock`]s. While it lives, nested code on this CPU only tries its
/// locks.
///
/// One context may have several, dropped in any order; all but the first are nested.
///
/// ```
/// use page_frame::{CpuId, IrqLock, PerCpu, PerCpuSlot, SingleCpu};
/// let mut slots = [PerCpuSlot::new(())];
/// let per_cpu = PerCpu::new(&mut slots, SingleCpu::new());
/// let lock = IrqLock::new(1);
/// let token = per_cpu.lock_token();
/// assert_eq!((token.id(), token.is_nested()), (Some(CpuId::new(0)), false));
/// let held = token.try_lock(&lock).expect("the lock is free");
/// // An interrupt handler is nested: it does not wait for the code that it interrupted.
/// let nested = per_cpu.lock_token();
/// assert!(nested.is_nested() && nested.lock(&lock).is_none());
/// ```
#[derive(Debug)]
pub struct IrqLockToken<'a, T, C: Cpu> {
    marked: Option<&'a PerCpuSlot<T>>,
    nested: bool,
    id: Option<CpuId>,
    cpu: &'a C,
    _not_send: PhantomData<*mut ()>,
}

impl<'a, T, C: Cpu> IrqLockToken<'a, T, C> {
    /// Makes the token of the caller, whose CPU's slot is `slot`, and marks that slot as locking
    /// unless the caller is nested.
    ///
    /// # Safety
    /// 1. The caller has just pinned itself by `cpu.pin()`, which returned `id`. The token unpins
    ///    it.
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

    /// Returns whether the caller interrupted code that is inside the slot, or that holds or waits
    /// for a lock. Example: see [`IrqLockToken`].
    pub fn is_nested(&self) -> bool {
        self.nested
    }

    /// Returns the id of the CPU, if the caller has one. Example: see [`IrqLockToken`].
    pub fn id(&self) -> Option<CpuId> {
        self.id
    }

    /// Takes `lock` with interrupts masked. Waits for the lock by [`Cpu::wait`], unless the caller
    /// is nested: then the call only tries, and returns `None` when the lock is taken.
    /// Example: see [`IrqLockToken`].
    pub fn lock<'l, U>(&'l self, lock: &'l IrqLock<U>) -> Option<IrqLockGuard<'l, U, C>> {
        if self.nested {
            return self.try_lock(lock);
        }
        if MODELLED {
            // loom's lock has to see the wait.
            let state = self.cpu.mask_interrupts();
            return Some(self.guard(state, lock.0.lock()));
        }
        let mut round = 0;
        loop {
            if let Some(held) = self.try_lock(lock) {
                return Some(held);
            }
            // A look leaves the line shared; a try would take it from the holder, whose data may
            // lie there too.
            while lock.0.is_locked() {
                self.cpu.wait(round);
                round += 1;
            }
        }
    }

    /// Takes `lock` with interrupts masked if it is free. Never waits; `None` changes nothing.
    /// Example: see [`IrqLockToken`].
    pub fn try_lock<'l, U>(&'l self, lock: &'l IrqLock<U>) -> Option<IrqLockGuard<'l, U, C>> {
        let state = self.cpu.mask_interrupts();
        let Some(guard) = lock.0.try_lock() else {
            // SAFETY: clause 1: `state` comes from the line above. Clause 2: `self` pins the CPU.
            unsafe { self.cpu.restore_interrupts(state) };
            return None;
        };
        Some(self.guard(state, guard))
    }

    fn guard<'l, U>(
        &'l self,
        state: InterruptState,
        guard: Guard<'l, U>,
    ) -> IrqLockGuard<'l, U, C> {
        IrqLockGuard { guard: Some(guard), state, cpu: self.cpu, _not_send: PhantomData }
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

/// Access to the data of an [`IrqLock`], with interrupts masked. Dropping it releases the lock,
/// then restores interrupts. One context may drop several in any order (clause 4 of [`Cpu`]).
///
/// ```
/// use page_frame::{IrqLock, PerCpu, PerCpuSlot, SingleCpu};
/// let mut slots = [PerCpuSlot::new(())];
/// let per_cpu = PerCpu::new(&mut slots, SingleCpu::new());
/// let (free, lent) = (IrqLock::new(5), IrqLock::new(0));
/// let token = per_cpu.lock_token();
/// let (mut free, mut lent) = (token.lock(&free).unwrap(), token.lock(&lent).unwrap());
/// *free -= 1;
/// *lent += 1;
/// assert_eq!((*free, *lent), (4, 1));
/// ```
///
/// It is not `Send`, as it masks the interrupts of its own context:
///
/// ```compile_fail,E0277
/// use page_frame::{SingleCpu, PerCpuSlot, IrqLock, PerCpu};
/// let mut slots = [PerCpuSlot::new(0)];
/// let per_cpu = PerCpu::new(&mut slots, SingleCpu::new());
/// static LOCK: IrqLock<u32> = IrqLock::new(1);
/// let token = per_cpu.lock_token();
/// let held = token.lock(&LOCK).unwrap();
/// std::thread::scope(|scope| _ = scope.spawn(move || drop(held)));
/// ```
#[derive(Debug)]
#[must_use = "dropping the guard releases the lock at once"]
pub struct IrqLockGuard<'l, U, C: Cpu> {
    guard: Option<Guard<'l, U>>,
    state: InterruptState,
    cpu: &'l C,
    _not_send: PhantomData<*mut ()>,
}

impl<U, C: Cpu> Deref for IrqLockGuard<'_, U, C> {
    type Target = U;

    fn deref(&self) -> &U {
        self.guard.as_ref().expect("only `drop` takes the guard")
    }
}

impl<U, C: Cpu> DerefMut for IrqLockGuard<'_, U, C> {
    fn deref_mut(&mut self) -> &mut U {
        self.guard.as_mut().expect("only `drop` takes the guard")
    }
}

impl<U, C: Cpu> Drop for IrqLockGuard<'_, U, C> {
    fn drop(&mut self) {
        self.guard = None;
        // SAFETY: clause 1: `mask_interrupts` returned `state` before the lock was taken, in this
        // context by I2. Clause 2: the token that this guard borrows pins the CPU.
        unsafe { self.cpu.restore_interrupts(self.state) };
    }
}
