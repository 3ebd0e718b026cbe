//! Making atomics of raw memory.

use core::mem::{align_of, size_of};
use core::ptr::NonNull;

use crate::access::{AccessKind, report};
use crate::atomic::{AtomicIsize, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicUsize};

/// A type for which all-zero bytes are a value outside loom, and which can be built as that value
/// under loom.
///
/// # Safety
/// 1. Outside loom, all-zero bytes are a valid value of the type, equal to `zero()`.
pub unsafe trait Zeroable: Sized {
    /// Returns the value that all-zero bytes stand for.
    fn zero() -> Self;
}

macro_rules! zeroable {
    ($($atomic:ty),*) => {$(
        // SAFETY: clause 1: outside loom `core` guarantees the atomic the same bit validity as the
        // integer it holds.
        unsafe impl Zeroable for $atomic {
            fn zero() -> Self {
                Self::new(0)
            }
        }
    )*};
}

zeroable!(AtomicIsize, AtomicU8, AtomicU16, AtomicU32, AtomicUsize);

// SAFETY: clause 1: outside loom an `AtomicPtr` has the bit validity of a raw pointer, and zero is
// the null pointer.
unsafe impl<T> Zeroable for AtomicPtr<T> {
    fn zero() -> Self {
        Self::new(core::ptr::null_mut())
    }
}

// SAFETY: clause 1: the bytes of an array are those of its elements, for each of which zero is
// valid.
unsafe impl<T: Zeroable, const N: usize> Zeroable for [T; N] {
    fn zero() -> Self {
        core::array::from_fn(|_| T::zero())
    }
}

#[cfg(target_has_atomic = "ptr")]
use core::sync::atomic::{
    AtomicU8 as ByteInMemory, AtomicU16 as HalfInMemory, AtomicUsize as WordInMemory,
};
#[cfg(not(target_has_atomic = "ptr"))]
use {AtomicU8 as ByteInMemory, AtomicU16 as HalfInMemory, AtomicUsize as WordInMemory};

macro_rules! in_memory {
    ($integer:ty, $atomic:ty, $load:ident, $store:ident, $exchange:ident) => {
        /// Loads the integer at `place` (Relaxed: a plain load of the machine).
        ///
        /// # Safety
        /// 1. `place` is aligned, valid for reads and writes, and initialised; other threads use it
        ///    at the same time only through the functions for this type of integer.
        #[inline(always)]
        pub unsafe fn $load(place: *mut $integer) -> $integer {
            report(AccessKind::Read, place, size_of::<$integer>());
            // SAFETY: clause 1. loom does not model it: its atomics cannot lie in raw memory.
            let atomic = unsafe { <$atomic>::from_ptr(place) };
            atomic.load(core::sync::atomic::Ordering::Relaxed)
        }

        /// Stores `value` at `place` (Relaxed: a plain store of the machine).
        ///
        /// # Safety
        /// 1. As for the load, but `place` need not be initialised.
        #[inline(always)]
        pub unsafe fn $store(place: *mut $integer, value: $integer) {
            report(AccessKind::Write, place, size_of::<$integer>());
            // SAFETY: clause 1; a store does not read what is there.
            let atomic = unsafe { <$atomic>::from_ptr(place) };
            atomic.store(value, core::sync::atomic::Ordering::Relaxed);
        }

        /// Exchanges the integer at `place` from `from` to `to`, atomically (SeqCst).
        ///
        /// # Errors
        /// The integer found instead; the call has changed nothing then.
        ///
        /// # Safety
        /// 1. As for the load.
        pub unsafe fn $exchange(
            place: *mut $integer,
            from: $integer,
            to: $integer,
        ) -> Result<(), $integer> {
            report(AccessKind::Change, place, size_of::<$integer>());
            // SAFETY: clause 1.
            let atomic = unsafe { <$atomic>::from_ptr(place) };
            let order = core::sync::atomic::Ordering::SeqCst;
            atomic.compare_exchange(from, to, order, order).map(|_| ())
        }
    };
}

in_memory!(u8, ByteInMemory, load_byte, store_byte, exchange_byte);
in_memory!(u16, HalfInMemory, load_half, store_half, exchange_half);
in_memory!(usize, WordInMemory, load_word, store_word, exchange_word);

/// Makes a slice of `count` values of zeroed memory.
///
/// Outside loom this writes nothing, so fresh memory of the system stays untouched. Under loom it
/// writes `count` fresh values.
///
/// # Safety
/// 1. `memory` is aligned for `T` and valid for reads and writes of `count * size_of::<T>()` bytes
///    during `'m`.
/// 2. Those bytes are zero, and no other code uses them during `'m`.
pub unsafe fn slice_in<'m, T: Zeroable>(memory: NonNull<u8>, count: usize) -> &'m [T] {
    debug_assert!(memory.addr().get() & (align_of::<T>() - 1) == 0);
    debug_assert!(count.checked_mul(size_of::<T>()).is_some());
    let first = memory.cast::<T>();
    if cfg!(loom) {
        for index in 0..count {
            // SAFETY: clause 1: the element lies inside the memory.
            let element = unsafe { first.add(index) };
            // SAFETY: clauses 1 and 2: valid for writes, and not used by other code.
            unsafe { element.write(T::zero()) };
        }
    }
    // SAFETY: clauses 1 and 2. The bytes are zero, which is a value by clause 1 of `Zeroable`;
    // under loom they were just written.
    unsafe { core::slice::from_raw_parts(first.as_ptr(), count) }
}

/// As [`slice_in`], for values that one owner changes.
///
/// # Safety
/// 1. As for [`slice_in`].
pub unsafe fn slice_in_mut<'m, T: Zeroable>(memory: NonNull<u8>, count: usize) -> &'m mut [T] {
    // SAFETY: clause 1 is that of `slice_in`; the shared slice ends here.
    let _ = unsafe { slice_in::<T>(memory, count) };
    // SAFETY: clause 1: `count` initialised values, aligned, which no other code uses during `'m`.
    unsafe { core::slice::from_raw_parts_mut(memory.cast::<T>().as_ptr(), count) }
}

/// As [`slice_in`], for a constant number of values: the compiler then knows which indices are in
/// bounds.
///
/// # Safety
/// 1. As for [`slice_in`].
pub unsafe fn array_in<'m, T: Zeroable, const COUNT: usize>(memory: NonNull<u8>) -> &'m [T; COUNT] {
    // SAFETY: clause 1 is that of `slice_in`.
    let values = unsafe { slice_in(memory, COUNT) };
    values.try_into().expect("the slice has `COUNT` values")
}
