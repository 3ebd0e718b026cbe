//! The part of a lock that contestants with a common lock use, so that the lock can be chosen.

/// A value that one caller at a time uses.
pub trait Exclusive<T> {
    /// Wraps `value`.
    fn new(value: T) -> Self;
    /// Calls `f` with the value, alone.
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R;
}

impl<T> Exclusive<T> for spin::Mutex<T> {
    fn new(value: T) -> Self {
        Self::new(value)
    }

    #[inline]
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.lock())
    }
}

/// A choice of the lock for all values of a contestant.
pub trait Locks: 'static {
    /// The lock.
    type Lock<T: Send>: Exclusive<T> + Send + Sync;
}

/// Spin locks.
pub struct SpinLocks;

impl Locks for SpinLocks {
    type Lock<T: Send> = spin::Mutex<T>;
}
