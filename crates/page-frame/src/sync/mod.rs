//! Atomics, cells, fences and locks for the whole stack, real or modelled.
//!
//! Every crate of the stack takes these from here and from nowhere else. Outside loom they are `core`'s and `spin`'s;
//! under `--cfg loom` they are loom's, so that the same protocol code runs under the model checker. This module holds
//! the only `cfg(loom)` of the libraries.
//! With the feature `counted` each read-modify-write is told to a hook, for benches that count them.
//!
//! # Differences that show
//! - loom's types have no `const fn new`: write constructors with [`const_unless_loom!`](crate::const_unless_loom).
//! - loom's types are larger than what they model: state sizes with [`assert_unless_loom!`](crate::assert_unless_loom).
//! - Zeroed memory is an atomic only outside loom: make atomics from memory with [`slice_in`] alone.
//! - loom orders two locations only by `fence(SeqCst)`, so [`light_fence`] is a compiler fence outside it and a full
//!   fence inside. Where a SeqCst access of one location is followed by one of another, and so on the other side, there
//!   is an order without a fence, but loom does not know: [`model_fence`] goes between, which is one inside it and nothing
//!   outside.

#[cfg(all(not(loom), feature = "counted"))]
mod counted;
mod counter;
mod lock;
mod memory;
mod stack;

#[cfg(all(not(loom), feature = "counted"))]
pub use counted::hear_changes;
pub use counter::ShardedCounter;
pub use lock::{Guard, Lock};
pub use memory::{Zeroable, array_in, exchange_byte, slice_in, slice_in_mut};
pub use stack::{Linked, TakeAll, Taken};

#[cfg(not(loom))]
mod shim {
    #[cfg(feature = "counted")]
    pub use super::counted::{
        AtomicBool, AtomicIsize, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicUsize,
    };
    #[cfg(not(feature = "counted"))]
    pub use core::sync::atomic::{
        AtomicBool, AtomicIsize, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicUsize,
    };
    pub use core::sync::atomic::{Ordering, fence};

    /// Keeps the compiler, but not the CPU, from moving accesses across it; pairs with a fence on all CPUs.
    #[inline(always)]
    pub fn light_fence() {
        core::sync::atomic::compiler_fence(Ordering::SeqCst);
    }

    /// Reads what only this context, and those on top of it, write: a plain load, which the compiler may join to the
    /// comparison.
    ///
    /// # Safety
    /// 1. Every write to `byte` happened before, or happens after, this call.
    #[inline(always)]
    pub unsafe fn load_own(byte: &AtomicU8) -> u8 {
        // SAFETY: clause 1: no write races; atomic loads by others may.
        unsafe { byte.as_ptr().read() }
    }

    /// Does nothing: the SeqCst accesses around it have their order.
    #[inline(always)]
    pub fn model_fence() {}

    /// Orders a store before a later Release store to a place that others overwrite without reading it: who overwrites it, has an
    /// atomic read-modify-write (SeqCst) and looks at what was stored first, sees it.
    ///
    /// A machine whose stores reach all others at the same time has this order by itself (x86, Armv8, RISC-V: "other
    /// multi-copy atomic"; test R of Maranget, Sarkar and Sewell 2012). Elsewhere, and under loom, as Rust's model knows no such
    /// machine, it is a full fence.
    #[inline(always)]
    pub fn propagation_fence() {
        if cfg!(not(any(
            target_arch = "x86",
            target_arch = "x86_64",
            target_arch = "aarch64",
            target_arch = "riscv32",
            target_arch = "riscv64",
        ))) {
            fence(Ordering::SeqCst);
        }
    }

    /// Loads byte `index` from `bytes` on, Relaxed, as wide as an index. The compiler widens an atomic byte a second time,
    /// so that where there is assembly this is an instruction less.
    ///
    /// # Safety
    /// 1. There is such a byte.
    #[inline(always)]
    pub unsafe fn load_wide(bytes: *const AtomicU8, index: usize) -> usize {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            let wide: u64;
            // SAFETY: clause 1: a load of a byte, which is atomic.
            unsafe {
                core::arch::asm!(
                    "movzx {wide:e}, byte ptr [{bytes} + {index}]",
                    wide = out(reg) wide, bytes = in(reg) bytes, index = in(reg) index,
                    options(readonly, nostack, preserves_flags),
                );
            }
            wide as usize
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        {
            // SAFETY: clause 1: a byte of the array, which is atomic.
            let byte = unsafe { &*bytes.add(index) };
            usize::from(byte.load(Ordering::Relaxed))
        }
    }

    /// Loads word `index` from `words` on, Acquire, and returns what lies `offset` bytes behind the place that it points to. The
    /// compiler joins no atomic load to an addition, so that where there is assembly this is an instruction less.
    ///
    /// # Safety
    /// 1. There is such a word, and it points to something that has so many bytes before its end.
    #[inline(always)]
    pub unsafe fn load_and_add<T>(
        words: *const AtomicPtr<()>,
        index: usize,
        offset: usize,
    ) -> *mut T {
        #[cfg(all(target_arch = "x86_64", target_pointer_width = "64", not(miri)))]
        {
            let place;
            // SAFETY: clause 1: a load of an aligned word, which is atomic, and which what is loaded by its value comes after.
            unsafe {
                core::arch::asm!(
                    "add {place}, qword ptr [{words} + 8*{index}]",
                    place = inout(reg) offset => place, words = in(reg) words, index = in(reg) index,
                    options(readonly, nostack),
                );
            }
            place
        }
        #[cfg(not(all(target_arch = "x86_64", target_pointer_width = "64", not(miri))))]
        {
            // SAFETY: clause 1 is its own.
            unsafe { super::load_and_add_by_two(words, index, offset) }
        }
    }

    /// Loads eight bytes from byte `index` of `bytes` on, each of them Relaxed, the first as the lowest: in one instruction where
    /// there is assembly.
    ///
    /// # Safety
    /// 1. There are such bytes, and the first is aligned to their number.
    #[inline(always)]
    pub unsafe fn load_eight(bytes: &[AtomicU8], index: usize) -> u64 {
        debug_assert!(bytes.len() - index >= 8 && bytes[index..].as_ptr().addr() % 8 == 0);
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            let eight: u64;
            // SAFETY: clause 1: eight bytes that are borrowed; an aligned load has each of them whole.
            unsafe {
                core::arch::asm!(
                    "mov {eight}, qword ptr [{bytes} + {index}]",
                    eight = out(reg) eight, bytes = in(reg) bytes.as_ptr(), index = in(reg) index,
                    options(readonly, nostack, preserves_flags),
                );
            }
            eight
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        super::load_eight_by_one(bytes, index)
    }

    /// Has the machine bring the line of `place` close, if it knows how: nobody waits for it.
    #[inline(always)]
    pub fn prefetch<T>(place: &T) {
        let place = core::ptr::from_ref(place);
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: it reads nothing that anybody sees.
        unsafe {
            core::arch::asm!("prefetcht0 [{}]", in(reg) place, options(readonly, nostack, preserves_flags));
        }
        #[cfg(all(target_arch = "aarch64", not(miri)))]
        // SAFETY: a hint: no address is wrong for it, and nothing is read.
        unsafe {
            core::arch::asm!("prfm pldl1keep, [{}]", in(reg) place, options(readonly, nostack, preserves_flags));
        }
        #[cfg(not(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri))))]
        let _ = place;
    }

    /// Stores eight bytes from byte `index` of `bytes` on, each of them Relaxed, the first from the lowest: in one instruction where
    /// there is assembly.
    ///
    /// # Safety
    /// 1. There are such bytes, and the first is aligned to their number.
    #[inline(always)]
    pub unsafe fn store_eight(bytes: &[AtomicU8], index: usize, eight: u64) {
        debug_assert!(bytes.len() - index >= 8 && bytes[index..].as_ptr().addr() % 8 == 0);
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: clause 1: eight atomic bytes that are borrowed; an aligned store has each of them whole.
        unsafe {
            core::arch::asm!(
                "mov qword ptr [{bytes} + {index}], {eight}",
                eight = in(reg) eight, bytes = in(reg) bytes.as_ptr(), index = in(reg) index,
                options(nostack, preserves_flags),
            );
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        super::store_eight_by_one(bytes, index, eight);
    }

    /// Tells the CPU that this is a waiting loop.
    #[inline(always)]
    pub fn spin_hint() {
        core::hint::spin_loop();
    }

    /// A cell whose content is reached through raw pointers, in the shape loom can watch.
    #[derive(Debug, Default)]
    #[repr(transparent)]
    pub struct UnsafeCell<T: ?Sized>(core::cell::UnsafeCell<T>);

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

    impl<T: ?Sized> UnsafeCell<T> {
        /// Calls `f` with a pointer for reading.
        #[inline(always)]
        pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }

        /// Calls `f` with a pointer for writing.
        #[inline(always)]
        pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

#[cfg(loom)]
mod shim {
    pub use loom::cell::UnsafeCell;
    pub use loom::sync::atomic::{
        AtomicBool, AtomicIsize, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicUsize, Ordering,
        fence,
    };

    /// The model's light fence is a full one: loom has no fence that acts on other threads.
    pub fn light_fence() {
        fence(Ordering::SeqCst);
    }

    /// Reads what only this context writes; loom checks that.
    ///
    /// # Safety
    /// 1. Every write to `byte` happened before, or happens after, this call.
    pub unsafe fn load_own(byte: &AtomicU8) -> u8 {
        // SAFETY: clause 1: no write races with the load.
        unsafe { byte.unsync_load() }
    }

    /// A full fence: loom takes SeqCst accesses for AcqRel.
    pub fn model_fence() {
        fence(Ordering::SeqCst);
    }

    /// A full fence: loom has no machine that does without.
    pub fn propagation_fence() {
        fence(Ordering::SeqCst);
    }

    /// Loads byte `index` from `bytes` on.
    ///
    /// # Safety
    /// 1. There is such a byte.
    pub unsafe fn load_wide(bytes: *const AtomicU8, index: usize) -> usize {
        // SAFETY: clause 1: inside the array, so its byte may be borrowed.
        let byte = unsafe { &*bytes.add(index) };
        usize::from(byte.load(Ordering::Relaxed))
    }

    /// Loads word `index` from `words` on, and adds `offset` bytes to it.
    ///
    /// # Safety
    /// 1. There is such a word, and it points to something that has so many bytes before its end.
    pub unsafe fn load_and_add<T>(
        words: *const AtomicPtr<()>,
        index: usize,
        offset: usize,
    ) -> *mut T {
        // SAFETY: clause 1 is its own.
        unsafe { super::load_and_add_by_two(words, index, offset) }
    }

    /// Loads eight bytes from byte `index` of `bytes` on.
    ///
    /// # Safety
    /// 1. There are such bytes.
    pub unsafe fn load_eight(bytes: &[AtomicU8], index: usize) -> u64 {
        super::load_eight_by_one(bytes, index)
    }

    /// Does nothing.
    pub fn prefetch<T>(_: &T) {}

    /// Stores eight bytes from byte `index` of `bytes` on.
    ///
    /// # Safety
    /// 1. There are such bytes.
    pub unsafe fn store_eight(bytes: &[AtomicU8], index: usize, eight: u64) {
        super::store_eight_by_one(bytes, index, eight);
    }

    /// Lets loom run another thread.
    pub fn spin_hint() {
        loom::thread::yield_now();
    }
}

pub use shim::{
    AtomicBool, AtomicIsize, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicUsize, Ordering,
    UnsafeCell, fence, light_fence, load_and_add, load_eight, load_own, load_wide, model_fence,
    prefetch, propagation_fence, spin_hint, store_eight,
};

/// # Safety
/// 1. There is such a word, and it points to something that has so many bytes before its end.
#[cfg(any(loom, miri, not(all(target_arch = "x86_64", target_pointer_width = "64"))))]
#[inline(always)]
unsafe fn load_and_add_by_two<T>(
    words: *const AtomicPtr<()>,
    index: usize,
    offset: usize,
) -> *mut T {
    // SAFETY: clause 1: there is such a word, which is atomic.
    let word = unsafe { &*words.add(index) };
    // Acquire: as said.
    let start = word.load(Ordering::Acquire);
    // SAFETY: clause 1: within what it points to.
    unsafe { start.byte_add(offset) }.cast()
}

/// Loads eight bytes, each Relaxed, the first as the lowest.
#[cfg(any(loom, not(all(target_arch = "x86_64", not(miri)))))]
fn load_eight_by_one(bytes: &[AtomicU8], index: usize) -> u64 {
    let load = |eight, (place, byte): (usize, &AtomicU8)| {
        eight | u64::from(byte.load(Ordering::Relaxed)) << (8 * place)
    };
    bytes[index..index + 8].iter().enumerate().fold(0, load)
}

/// Stores eight bytes, each Relaxed, the first from the lowest.
#[cfg(any(loom, not(all(target_arch = "x86_64", not(miri)))))]
fn store_eight_by_one(bytes: &[AtomicU8], index: usize, eight: u64) {
    let store = |(byte, value): (&AtomicU8, u8)| byte.store(value, Ordering::Relaxed);
    bytes[index..index + 8].iter().zip(eight.to_le_bytes()).for_each(store);
}

/// Declares a function that is `const` except under loom, whose types cannot be built at compile time.
#[cfg(not(loom))]
#[macro_export]
macro_rules! const_unless_loom {
    ($(#[$meta:meta])* $vis:vis fn $($rest:tt)*) => { $(#[$meta])* $vis const fn $($rest)* };
    ($(#[$meta:meta])* $vis:vis unsafe fn $($rest:tt)*) => { $(#[$meta])* $vis const unsafe fn $($rest)* };
}

/// Declares a function that is `const` except under loom, whose types cannot be built at compile time.
#[cfg(loom)]
#[macro_export]
macro_rules! const_unless_loom {
    ($(#[$meta:meta])* $vis:vis fn $($rest:tt)*) => { $(#[$meta])* $vis fn $($rest)* };
    ($(#[$meta:meta])* $vis:vis unsafe fn $($rest:tt)*) => { $(#[$meta])* $vis unsafe fn $($rest)* };
}

/// Asserts at compile time, except under loom, whose types have other sizes.
#[cfg(not(loom))]
#[macro_export]
macro_rules! assert_unless_loom {
    ($($condition:tt)*) => { const _: () = assert!($($condition)*); };
}

/// Asserts at compile time, except under loom, whose types have other sizes.
#[cfg(loom)]
#[macro_export]
macro_rules! assert_unless_loom {
    ($($condition:tt)*) => {};
}

/// Has the machine compute the address of `place` into a register of its own, so that what follows names it without an index.
///
/// CPUs forward a store to the next load of the same place at once when both name it by register and constant, and some
/// take five times as long when an index is added: 4.8 instead of 0.7 ns for two increments of a counter on Golden Cove.
/// The compiler adds the index back wherever it can, as it costs no instruction. Where there is no assembly, nothing happens.
#[inline(always)]
pub fn in_register<T>(place: *const T) -> *const T {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        let mut address = place;
        #[expect(clippy::pointers_in_nomem_asm_block, reason = "nothing is read or written")]
        // SAFETY: no instruction is executed: the register holds the same pointer before and after.
        unsafe {
            core::arch::asm!("/* {0} */", inout(reg) address, options(pure, nomem, nostack, preserves_flags));
        }
        address
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    place
}

/// Whether this build runs under the model checker; for constants that are smaller there.
pub const MODELLED: bool = cfg!(loom);
