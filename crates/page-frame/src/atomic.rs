//! The atomics of the stack: `core`'s; loom's under the model checker; counted ones with the
//! feature `counted`.
//!
//! # Counted atomics
//! With the feature `counted`, each method first reports what it does (`access.rs`).
//!
//! # Machines without compare-exchange
//! Small cores (ARMv6-M, RISC-V without the extension A) load and store atomically, but cannot
//! exchange. There all atomics are those of the crate `portable-atomic`, which exchanges inside a
//! critical section. A program that is linked without an implementation of the crate
//! `critical-section` lacks the symbol `_critical_section_1_0_acquire`.

#[cfg(not(any(loom, feature = "counted", not(target_has_atomic = "ptr"))))]
pub use core::sync::atomic::{
    AtomicBool, AtomicIsize, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicUsize,
};
#[cfg(not(loom))]
pub use core::sync::atomic::{Ordering, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{
    AtomicBool, AtomicIsize, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicUsize, Ordering,
    fence,
};
#[cfg(not(target_has_atomic = "ptr"))]
pub use portable_atomic::{
    AtomicBool, AtomicIsize, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicUsize,
};

#[cfg(all(not(loom), feature = "counted"))]
pub use counting::{
    AtomicBool, AtomicIsize, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicUsize,
};

#[cfg(all(not(loom), feature = "counted"))]
mod counting {
    use core::ops::{Deref, DerefMut};
    use core::sync::atomic::{self, Ordering};

    use crate::access::AccessKind::{self, Change, Read, Write};
    use crate::access::report;

    /// Reports an access to all of `place`.
    #[inline]
    fn tell<T>(kind: AccessKind, place: &T) {
        report(kind, place, size_of::<T>());
    }

    macro_rules! counted {
        ($($name:ident $(<$T:ident>)?: $value:ty, [$($change:ident)*];)*) => {$(
            /// The atomic of this name, which reports each access.
            #[derive(Debug, Default)]
            #[repr(transparent)]
            pub struct $name $(<$T>)? (atomic::$name $(<$T>)?);

            impl $(<$T>)? $name $(<$T>)? {
                /// Makes one that holds `value`.
                pub const fn new(value: $value) -> Self {
                    Self(atomic::$name::new(value))
                }

                /// Returns the value.
                pub fn into_inner(self) -> $value {
                    self.0.into_inner()
                }

                /// As `core`'s.
                #[inline]
                pub fn load(&self, order: Ordering) -> $value {
                    tell(Read, self);
                    self.0.load(order)
                }

                /// As `core`'s.
                #[inline]
                pub fn store(&self, value: $value, order: Ordering) {
                    tell(Write, self);
                    self.0.store(value, order);
                }

                /// As `core`'s.
                #[inline]
                pub fn swap(&self, value: $value, order: Ordering) -> $value {
                    tell(Change, self);
                    self.0.swap(value, order)
                }

                /// As `core`'s.
                ///
                /// # Errors
                /// The value found.
                #[inline]
                pub fn compare_exchange(
                    &self, from: $value, to: $value, won: Ordering, lost: Ordering,
                ) -> Result<$value, $value> {
                    tell(Change, self);
                    self.0.compare_exchange(from, to, won, lost)
                }

                /// As `core`'s.
                ///
                /// # Errors
                /// The value found.
                #[inline]
                pub fn compare_exchange_weak(
                    &self, from: $value, to: $value, won: Ordering, lost: Ordering,
                ) -> Result<$value, $value> {
                    tell(Change, self);
                    self.0.compare_exchange_weak(from, to, won, lost)
                }

                /// As `core`'s; counts as one change, however often it retries.
                ///
                /// # Errors
                /// The value for which `change` had none.
                #[inline]
                pub fn fetch_update(
                    &self, won: Ordering, lost: Ordering, change: impl FnMut($value) -> Option<$value>,
                ) -> Result<$value, $value> {
                    tell(Change, self);
                    self.0.fetch_update(won, lost, change)
                }

                $(
                    /// As `core`'s.
                    #[inline]
                    pub fn $change(&self, value: $value, order: Ordering) -> $value {
                        tell(Change, self);
                        self.0.$change(value, order)
                    }
                )*
            }

            /// What is no access, or one of an owner, is `core`'s.
            impl $(<$T>)? Deref for $name $(<$T>)? {
                type Target = atomic::$name $(<$T>)?;

                #[inline]
                fn deref(&self) -> &Self::Target {
                    &self.0
                }
            }

            impl $(<$T>)? DerefMut for $name $(<$T>)? {
                #[inline]
                fn deref_mut(&mut self) -> &mut Self::Target {
                    &mut self.0
                }
            }
        )*};
    }

    counted! {
        AtomicBool: bool, [fetch_and fetch_or fetch_xor];
        AtomicIsize: isize, [fetch_add fetch_sub fetch_and fetch_or fetch_xor fetch_max fetch_min];
        AtomicU8: u8, [fetch_add fetch_sub fetch_and fetch_or fetch_xor fetch_max fetch_min];
        AtomicU16: u16, [fetch_add fetch_sub fetch_and fetch_or fetch_xor fetch_max fetch_min];
        AtomicU32: u32, [fetch_add fetch_sub fetch_and fetch_or fetch_xor fetch_max fetch_min];
        AtomicUsize: usize, [fetch_add fetch_sub fetch_and fetch_or fetch_xor fetch_max fetch_min];
        AtomicPtr<T>: *mut T, [];
    }
}
