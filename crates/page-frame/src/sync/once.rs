//! [`Once`]: a value that is set later than its static is made, and once.

use core::fmt;
use core::mem::MaybeUninit;

use crate::atomic::{AtomicU8, Ordering};
use crate::sync::cell::UnsafeCell;
use crate::sync::model::const_unless_loom;

/// There is no value.
const EMPTY: u8 = 0;
/// A caller writes the value.
const WRITING: u8 = 1;
/// The value is there, and stays.
const FULL: u8 = 2;

/// A value that is set once: for a static whose value is known only after the boot, for example an
/// allocator. Nothing ever waits for it, and no closure makes it.
///
/// ```
/// use page_frame::{Arena, Once, PageSource};
/// static PAGES: Once<Arena<'static>> = Once::new();
/// assert!(PAGES.get().is_none());
/// let memory = Vec::leak(vec![std::mem::MaybeUninit::uninit(); 64 * 1024]);
/// let pages = PAGES.set(Arena::new(memory)?).expect("set once");
/// assert!(PAGES.get().is_some_and(|same| std::ptr::eq(same, pages)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Once<T> {
    state: AtomicU8,
    /// Invariant I1: written by the caller that changed `state` from empty to writing; read only
    /// after `state` is full.
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: I1: the value is written once and then shared; it may be set on one thread and dropped on
// another, so it must be `Send`.
unsafe impl<T: Send + Sync> Sync for Once<T> {}

impl<T> Once<T> {
    const_unless_loom! {
        /// Makes an empty one. Example: see [`Once`].
        pub fn new() -> Self {
            Self { state: AtomicU8::new(EMPTY), value: UnsafeCell::new(MaybeUninit::uninit()) }
        }
    }

    /// Sets the value; returns it. Does not wait. Example: see [`Once`].
    ///
    /// # Errors
    /// `value`, when another call has set a value, or is doing so.
    pub fn set(&self, value: T) -> Result<&T, T> {
        // Relaxed: nothing is read on either outcome.
        let relaxed = Ordering::Relaxed;
        if self.state.compare_exchange(EMPTY, WRITING, relaxed, relaxed).is_err() {
            return Err(value);
        }
        self.value.with_mut(|place| {
            // SAFETY: I1: this call changed the state, so no other code reads or writes the value.
            unsafe { place.write(MaybeUninit::new(value)) };
        });
        // Release: pairs with the Acquire in `get`; publishes the value.
        self.state.store(FULL, Ordering::Release);
        // As everybody gets it: a reference made from the exclusive one above would end with the
        // first change of the value's interior by another user.
        Ok(self.get().expect("set above"))
    }

    /// Returns the value if it is set. One load. Example: see [`Once`].
    #[inline]
    pub fn get(&self) -> Option<&T> {
        // Acquire: pairs with the Release in `set`; sees the value as it was written.
        if self.state.load(Ordering::Acquire) != FULL {
            return None;
        }
        let value = self.value.with(|value| value);
        // SAFETY: I1: the state is full, and nothing writes the value from then on.
        let value = unsafe { &*value };
        // SAFETY: I1: written before the state was full.
        Some(unsafe { value.assume_init_ref() })
    }
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for Once<T> {
    /// Drops the value. Statics are never dropped.
    fn drop(&mut self) {
        if self.get().is_some() {
            self.value.with_mut(|value| {
                // SAFETY: `&mut self` proves exclusive use.
                let value = unsafe { &mut *value };
                // SAFETY: I1: the state is full, so the value is initialised; not used again.
                unsafe { value.assume_init_drop() };
            });
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Once<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Once").field(&self.get()).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use core::cell::Cell;

    use super::*;

    /// Mutation that it catches, under Miri: `set` returns a reference made from the exclusive one.
    #[test]
    fn what_set_returns_stays_valid_while_others_change_the_value() {
        struct OneThread(Cell<usize>);
        // SAFETY: this test has one thread.
        unsafe impl Sync for OneThread {}
        let once = Once::new();
        let first = once.set(OneThread(Cell::new(1))).ok().expect("set once");
        once.get().expect("set").0.set(2);
        first.0.set(first.0.get() + 1);
        assert_eq!(once.get().map(|value| value.0.get()), Some(3));
        assert!(once.set(OneThread(Cell::new(9))).is_err());
    }
}
