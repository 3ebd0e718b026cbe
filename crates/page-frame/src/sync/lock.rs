//! A spin lock that holds its data; loom's mutex under loom.

use core::ops::{Deref, DerefMut};

use super::model::const_unless_loom;

#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};

#[cfg(not(loom))]
use super::spin::{Mutex, MutexGuard};

/// A mutual-exclusion lock that spins while it waits and holds the data it protects.
///
/// It does not mask interrupts. Data that interrupt handlers use too belongs in an
/// [`IrqLock`](crate::IrqLock).
///
/// ```
/// use page_frame::sync::Lock;
/// let lock = Lock::new(1);
/// *lock.lock() += 1;
/// let held = lock.lock();
/// assert!(lock.try_lock().is_none() && lock.is_locked());
/// assert_eq!(*held, 2);
/// ```
#[derive(Debug)]
pub struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    const_unless_loom! {
        /// Wraps `value` in an open lock.
        pub fn new(value: T) -> Self {
            Self(Mutex::new(value))
        }
    }

    /// Waits until the lock is free and takes it.
    pub fn lock(&self) -> Guard<'_, T> {
        #[cfg(not(loom))]
        return Guard(self.0.lock());
        #[cfg(loom)]
        return Guard(
            self.0.lock().expect("loom mutexes are not poisoned: a panic ends the model"),
        );
    }

    /// Takes the lock if it is free; never waits.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        #[cfg(not(loom))]
        return self.0.try_lock().map(Guard);
        #[cfg(loom)]
        return self.0.try_lock().ok().map(Guard);
    }

    /// Returns whether the lock was held at some moment during the call (Acquire: the caller sees
    /// what the last holder did).
    pub fn is_locked(&self) -> bool {
        #[cfg(not(loom))]
        return self.0.is_locked();
        #[cfg(loom)]
        return self.0.try_lock().is_err();
    }

    /// Returns the data; the exclusive reference proves that the lock is free.
    pub fn get_mut(&mut self) -> &mut T {
        #[cfg(not(loom))]
        return self.0.get_mut();
        #[cfg(loom)]
        return self.0.get_mut().expect("loom mutexes are not poisoned: a panic ends the model");
    }
}

/// Access to the data of a [`Lock`]; dropping it releases the lock.
#[derive(Debug)]
#[must_use = "dropping the guard releases the lock at once"]
pub struct Guard<'a, T>(MutexGuard<'a, T>);

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

#[cfg(all(test, not(loom), feature = "counted"))]
mod tests {
    use super::Lock;
    use crate::access::{
        Access,
        AccessKind::{self, Change, Read, Write},
        hear_accesses,
    };
    use crate::atomic::{AtomicUsize, Ordering};

    extern crate std;

    std::thread_local! {
        static HEARD: core::cell::RefCell<std::vec::Vec<Access>> = const { core::cell::RefCell::new(std::vec::Vec::new()) };
    }

    /// Mutations: a method of the atomics, or of the guard, that reports nothing.
    #[test]
    fn atomics_locks_and_their_data_are_reported() {
        hear_accesses(|access| HEARD.with_borrow_mut(|heard| heard.push(access)));
        let (word, lock) = (AtomicUsize::new(1), Lock::new(5_u64));
        word.store(word.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        assert_eq!(word.fetch_add(3, Ordering::Relaxed), 2);
        assert!(word.compare_exchange(9, 1, Ordering::Relaxed, Ordering::Relaxed).is_err());
        let mut guard = lock.try_lock().expect("nobody has it");
        let data = (&raw const *guard).addr();
        *guard += 1;
        drop(guard);
        let heard = HEARD.take();
        let kinds: std::vec::Vec<AccessKind> = heard.iter().map(|access| access.kind).collect();
        // Reading the data, and then changing it: the guard is dereferenced twice.
        assert_eq!(kinds, [Read, Write, Change, Change, Change, Read, Write, Write]);
        let word = Access { kind: Change, address: (&raw const word).addr(), bytes: 8 };
        assert_eq!(heard[2..4], [word, word]);
        assert_eq!(heard[6], Access { kind: Write, address: data, bytes: 8 });
    }
}
