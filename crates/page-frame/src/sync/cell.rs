//! A cell that loom can watch, and that reports its accesses to benches.

#[cfg(not(loom))]
use crate::access::{AccessKind, report};

/// Maximum number of bytes of a cell that are reported: larger cells are the bodies of per-CPU
/// slots, of which each call uses a part.
#[cfg(not(loom))]
const REPORTED: usize = 64;

#[cfg(loom)]
pub use loom::cell::UnsafeCell;

/// A cell whose content is reached through raw pointers, with the interface of loom's cell.
#[cfg(not(loom))]
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct UnsafeCell<T: ?Sized>(core::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    /// Wraps `value`.
    pub const fn new(value: T) -> Self {
        Self(core::cell::UnsafeCell::new(value))
    }

    /// Returns the value.
    pub fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

#[cfg(not(loom))]
impl<T: ?Sized> UnsafeCell<T> {
    /// Calls `f` with a pointer for reading.
    #[inline(always)]
    pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        report(AccessKind::Read, self, size_of_val(self).min(REPORTED));
        f(self.0.get())
    }

    /// Calls `f` with a pointer for writing.
    #[inline(always)]
    pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        report(AccessKind::Write, self, size_of_val(self).min(REPORTED));
        f(self.0.get())
    }
}
