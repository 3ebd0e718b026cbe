//! Loads and stores of atomic bytes and words that take one instruction less, or cover more bytes,
//! than the compiler's.

use crate::access::{AccessKind, report};
#[cfg(any(loom, miri, not(all(target_arch = "x86_64", target_pointer_width = "64"))))]
use crate::atomic::Ordering;
use crate::atomic::{AtomicPtr, AtomicU8};

/// Loads a byte that only this context, and contexts nested in it, write. Not atomic, so that the
/// compiler may join the load to a comparison.
///
/// # Safety
/// 1. Every write to `byte` happens before or after this call.
#[inline(always)]
pub unsafe fn load_own(byte: &AtomicU8) -> u8 {
    #[cfg(not(loom))]
    // SAFETY: clause 1: no write races with this read; atomic loads by other CPUs may.
    unsafe {
        byte.as_ptr().read()
    }
    #[cfg(loom)]
    // SAFETY: clause 1: no write races with this load, which loom checks.
    unsafe {
        byte.unsync_load()
    }
}

/// Loads byte `index` of `bytes` (Relaxed), zero-extended to an index.
///
/// The compiler extends an atomic byte in a second instruction; the assembly loads and extends in
/// one.
///
/// # Safety
/// 1. `bytes` points to an array of more than `index` bytes that are valid for shared use.
#[inline(always)]
pub unsafe fn load_wide(bytes: *const AtomicU8, index: usize) -> usize {
    report(AccessKind::Read, bytes.wrapping_add(index), 1);
    #[cfg(all(target_arch = "x86_64", not(any(loom, miri))))]
    {
        let wide: u64;
        // SAFETY: clause 1: the byte exists, and a load of one byte is atomic.
        unsafe {
            core::arch::asm!(
                "movzx {wide:e}, byte ptr [{bytes} + {index}]",
                wide = out(reg) wide, bytes = in(reg) bytes, index = in(reg) index,
                options(readonly, nostack, preserves_flags),
            );
        }
        wide as usize
    }
    #[cfg(not(all(target_arch = "x86_64", not(any(loom, miri)))))]
    {
        // SAFETY: clause 1: the index is inside the array.
        let byte = unsafe { bytes.add(index) };
        // SAFETY: clause 1: valid for shared use.
        let byte = unsafe { &*byte };
        usize::from(byte.load(Ordering::Relaxed))
    }
}

/// Loads pointer `index` of `pointers` (Acquire) and returns it advanced by `offset` bytes.
///
/// The compiler joins no atomic load to an addition; the assembly does both in one instruction.
///
/// # Safety
/// 1. `pointers` points to an array of more than `index` pointers that are valid for shared use.
/// 2. The pointer loaded points to an allocation of at least `offset` bytes.
#[inline(always)]
pub unsafe fn load_and_add<T>(
    pointers: *const AtomicPtr<()>,
    index: usize,
    offset: usize,
) -> *mut T {
    report(AccessKind::Read, pointers.wrapping_add(index), size_of::<usize>());
    #[cfg(all(target_arch = "x86_64", target_pointer_width = "64", not(any(loom, miri))))]
    {
        let sum;
        // SAFETY: clause 1: the pointer exists, and an aligned load of it is atomic. x86 orders
        // later loads after it (Acquire).
        unsafe {
            core::arch::asm!(
                "add {sum}, qword ptr [{pointers} + 8*{index}]",
                sum = inout(reg) offset => sum, pointers = in(reg) pointers, index = in(reg) index,
                options(readonly, nostack),
            );
        }
        sum
    }
    #[cfg(not(all(target_arch = "x86_64", target_pointer_width = "64", not(any(loom, miri)))))]
    {
        // SAFETY: clause 1: the index is inside the array.
        let pointer = unsafe { pointers.add(index) };
        // SAFETY: clause 1: valid for shared use.
        let pointer = unsafe { &*pointer };
        let start = pointer.load(Ordering::Acquire);
        // SAFETY: clause 2: the sum stays inside the allocation.
        unsafe { start.byte_add(offset) }.cast()
    }
}

/// Loads the eight bytes of `bytes` from `index` on, each Relaxed; the first becomes the lowest
/// byte of the result.
///
/// # Safety
/// 1. `bytes` has eight bytes from `index` on, and the first is aligned to 8.
#[inline(always)]
pub unsafe fn load_eight(bytes: &[AtomicU8], index: usize) -> u64 {
    debug_assert!(bytes.len() - index >= 8, "clause 1");
    report(AccessKind::Read, bytes.as_ptr().wrapping_add(index), 8);
    #[cfg(all(target_arch = "x86_64", not(any(loom, miri))))]
    {
        debug_assert!(bytes[index..].as_ptr().addr() % 8 == 0, "clause 1");
        let eight: u64;
        // SAFETY: clause 1: the eight bytes are borrowed, and an aligned load tears none of them.
        unsafe {
            core::arch::asm!(
                "mov {eight}, qword ptr [{bytes} + {index}]",
                eight = out(reg) eight, bytes = in(reg) bytes.as_ptr(), index = in(reg) index,
                options(readonly, nostack, preserves_flags),
            );
        }
        eight
    }
    #[cfg(not(all(target_arch = "x86_64", not(any(loom, miri)))))]
    {
        let load = |eight, (place, byte): (usize, &AtomicU8)| {
            eight | u64::from(byte.load(Ordering::Relaxed)) << (8 * place)
        };
        bytes[index..index + 8].iter().enumerate().fold(0, load)
    }
}

/// Stores the eight bytes of `bytes` from `index` on, each Relaxed; the first becomes the lowest
/// byte of `eight`.
///
/// # Safety
/// 1. `bytes` has eight bytes from `index` on, and the first is aligned to 8.
#[inline(always)]
pub unsafe fn store_eight(bytes: &[AtomicU8], index: usize, eight: u64) {
    debug_assert!(bytes.len() - index >= 8, "clause 1");
    report(AccessKind::Write, bytes.as_ptr().wrapping_add(index), 8);
    #[cfg(all(target_arch = "x86_64", not(any(loom, miri))))]
    {
        debug_assert!(bytes[index..].as_ptr().addr() % 8 == 0, "clause 1");
        // SAFETY: clause 1: the eight atomic bytes are borrowed, and an aligned store tears none of
        // them.
        unsafe {
            core::arch::asm!(
                "mov qword ptr [{bytes} + {index}], {eight}",
                eight = in(reg) eight, bytes = in(reg) bytes.as_ptr(), index = in(reg) index,
                options(nostack, preserves_flags),
            );
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(any(loom, miri)))))]
    {
        let store = |(byte, value): (&AtomicU8, u8)| byte.store(value, Ordering::Relaxed);
        bytes[index..index + 8].iter().zip(eight.to_le_bytes()).for_each(store);
    }
}
