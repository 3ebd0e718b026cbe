//! The lock outside loom: a flag that a caller sets, and spins for while another one has it.

use core::cell::UnsafeCell;
use core::fmt;
use core::ops::{Deref, DerefMut};

use crate::access::{AccessKind, report};
use crate::arch::hint::spin_hint;
use crate::atomic::{AtomicBool, Ordering};

/// A lock that holds its data.
///
/// Invariant I1: while `is_held` is set, only the guard that set it reaches `data`.
pub(super) struct Mutex<T> {
    is_held: AtomicBool,
    data: UnsafeCell<T>,
}

// SAFETY: I1: one guard at a time reaches the data, on whichever thread has it.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    pub(super) const fn new(data: T) -> Self {
        Self { is_held: AtomicBool::new(false), data: UnsafeCell::new(data) }
    }

    #[inline(always)]
    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        loop {
            // Acquire: pairs with the Release in `MutexGuard::drop`.
            let (acquire, relaxed) = (Ordering::Acquire, Ordering::Relaxed);
            if self.is_held.compare_exchange_weak(false, true, acquire, relaxed).is_ok() {
                return MutexGuard { mutex: self };
            }
            // Relaxed: the exchange decides. Loads leave the line shared while the caller waits.
            while self.is_held.load(Ordering::Relaxed) {
                spin_hint();
            }
        }
    }

    #[inline(always)]
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        // Acquire: as in `lock`.
        let (acquire, relaxed) = (Ordering::Acquire, Ordering::Relaxed);
        let taken = self.is_held.compare_exchange(false, true, acquire, relaxed);
        taken.is_ok().then(|| MutexGuard { mutex: self })
    }

    #[inline(always)]
    pub(super) fn is_locked(&self) -> bool {
        // Acquire: pairs with the Release in `MutexGuard::drop`.
        self.is_held.load(Ordering::Acquire)
    }

    #[inline(always)]
    pub(super) fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }
}

impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_lock() {
            Some(guard) => f.debug_tuple("Mutex").field(&*guard).finish(),
            None => f.write_str("Mutex(<held>)"),
        }
    }
}

/// Access to the data of a [`Mutex`]. It was made by the call that set `is_held` (I1).
pub(super) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
}

// SAFETY: a shared guard gives shared references to the data only.
unsafe impl<T: Sync> Sync for MutexGuard<'_, T> {}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        report(AccessKind::Read, self.mutex.data.get(), size_of::<T>());
        // SAFETY: I1: this guard has set `is_held`.
        unsafe { &*self.mutex.data.get() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        report(AccessKind::Write, self.mutex.data.get(), size_of::<T>());
        // SAFETY: I1: this guard has set `is_held`, and is borrowed exclusively.
        unsafe { &mut *self.mutex.data.get() }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `lock`; publishes the changes of the data.
        self.mutex.is_held.store(false, Ordering::Release);
    }
}

impl<T: fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
