//! One word for each thread, found by two loads: it holds the thread's slot number.
//!
//! # Concepts
//! An allocator reads the word in every operation, from the first call of the dynamic loader to the
//! last destructor of a thread. So it must need no initialisation, allocate nothing and call
//! nothing. In a shared library the compiler's thread-locals call a function of the loader. This
//! word uses the **initial-exec** model: its offset from the thread pointer is a word that the
//! loader fills in once (Drepper 2013, "ELF Handling For Thread-Local Storage", section 4.3). A
//! library with such a word of four bytes can still be loaded late, as the loader reserves some
//! room for that.
//!
//! Each machine needs assembly of its own. The interpreter Miri, which has none, gets a
//! thread-local of the compiler.

// The word. A version in its name: programs may contain two versions of the crate.
#[cfg(not(miri))]
core::arch::global_asm!(
    ".pushsection .tbss.hosted_0_1_word, \"awT\", @nobits",
    ".globl hosted_0_1_word",
    ".hidden hosted_0_1_word",
    ".type hosted_0_1_word, @object",
    ".size hosted_0_1_word, 4",
    ".p2align 2",
    "hosted_0_1_word:",
    ".zero 4",
    ".popsection",
);

#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
mod initial_exec {
    use core::arch::asm;

    /// Returns the thread's word, zero at first.
    #[inline(always)]
    pub(crate) fn load() -> u32 {
        let word: u64;
        // SAFETY: reads the thread's own word, which lives as long as the thread; the first load is
        // of an offset that the loader has written.
        unsafe {
            asm!(
                "mov {at}, qword ptr [rip + hosted_0_1_word@GOTTPOFF]",
                "mov {word:e}, dword ptr fs:[{at}]",
                at = out(reg) _,
                word = out(reg) word,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        word as u32
    }

    /// Sets the thread's word and returns what it was, in one step for signal handlers.
    #[inline]
    pub(crate) fn swap(word: u32) -> u32 {
        let before: u32;
        // SAFETY: exchanges the thread's own word; nothing else is at that place.
        unsafe {
            asm!(
                "mov {at}, qword ptr [rip + hosted_0_1_word@GOTTPOFF]",
                "xchg dword ptr fs:[{at}], {word:e}",
                at = out(reg) _,
                word = inout(reg) word => before,
                options(nostack, preserves_flags),
            );
        }
        before
    }

    /// Sets the thread's word.
    #[inline]
    pub(crate) fn store(word: u32) {
        // SAFETY: writes the thread's own word; nothing else is at that place.
        unsafe {
            asm!(
                "mov {at}, qword ptr [rip + hosted_0_1_word@GOTTPOFF]",
                "mov dword ptr fs:[{at}], {word:e}",
                at = out(reg) _,
                word = in(reg) word,
                options(nostack, preserves_flags),
            );
        }
    }
}

#[cfg(all(target_arch = "aarch64", target_os = "linux", not(miri)))]
mod initial_exec {
    use core::arch::asm;

    /// Returns the address of the thread's word.
    #[inline(always)]
    fn place() -> *mut u32 {
        let place: *mut u32;
        // SAFETY: reads the thread pointer and the offset that the loader has written; changes
        // nothing.
        unsafe {
            asm!(
                "mrs {place}, tpidr_el0",
                "adrp {offset}, :gottprel:hosted_0_1_word",
                "ldr {offset}, [{offset}, #:gottprel_lo12:hosted_0_1_word]",
                "add {place}, {place}, {offset}",
                place = out(reg) place,
                offset = out(reg) _,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        place
    }

    /// Returns the thread's word, zero at first.
    #[inline(always)]
    pub(crate) fn load() -> u32 {
        // SAFETY: the thread's own word, which lives as long as the thread. Volatile: a signal
        // handler of the thread may change it.
        unsafe { place().read_volatile() }
    }

    /// Sets the thread's word and returns what it was. A signal handler may run in between.
    #[inline]
    pub(crate) fn swap(word: u32) -> u32 {
        let before = load();
        store(word);
        before
    }

    /// Sets the thread's word.
    #[inline]
    pub(crate) fn store(word: u32) {
        // SAFETY: the thread's own word, which lives as long as the thread.
        unsafe { place().write_volatile(word) };
    }
}

#[cfg(miri)]
mod initial_exec {
    use std::cell::Cell;

    std::thread_local!(static WORD: Cell<u32> = const { Cell::new(0) });

    /// Returns the thread's word, zero at first.
    pub(crate) fn load() -> u32 {
        WORD.get()
    }

    /// Sets the thread's word and returns what it was.
    pub(crate) fn swap(word: u32) -> u32 {
        WORD.replace(word)
    }

    /// Sets the thread's word.
    pub(crate) fn store(word: u32) {
        WORD.set(word);
    }
}

pub(crate) use initial_exec::{load, store, swap};

use crate::threads::numbers;

/// The number of sets of per-CPU slots: one for each of 112 threads, and 16 that all other threads
/// share.
///
/// ```
/// use buddy::Buddy;
/// use hosted::{Mapped, THREAD_SLOTS, Threads};
/// use page_frame::{Cpu, DirectMap};
/// let memory = Mapped::reserve(64 << 20)?;
/// // The metadata has room for a slot of each thread.
/// let layout = Buddy::<DirectMap, Threads>::metadata_layout(&[memory.frames()], THREAD_SLOTS)?;
/// assert!(layout.size() > 0 && Threads.slots() == THREAD_SLOTS);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub const THREAD_SLOTS: usize = numbers::ALL;

/// Set in the word of a thread that has a number and whose next hit is to be a miss: `load` then
/// returns no valid number.
pub(crate) const ARMED: u32 = 1 << 31;

/// The word of a thread that is ending and has freed its number. The word is zero before the thread
/// takes a number, and then the number plus one.
pub(crate) const ENDED: u32 = u32::MAX;
/// The word of a thread while it takes a number.
pub(crate) const TAKING: u32 = ENDED - 1;
/// The word of a thread without a number that is inside the fork lock. It takes none there.
pub(crate) const INSIDE: u32 = ENDED - 2;

/// Returns the running thread's slot number, if it has one. Does not assign one.
#[inline(always)]
pub(crate) fn number() -> Option<usize> {
    let number = (load() & !ARMED).wrapping_sub(1) as usize;
    (number < THREAD_SLOTS).then_some(number)
}

/// Returns the identity of the running thread, which is never zero. The only thread of a forked
/// child keeps it.
pub(crate) fn identity() -> usize {
    // SAFETY: has no arguments and reads the thread's own identity.
    unsafe { libc::pthread_self() as usize }
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_thread_has_a_word_of_its_own_that_is_zero_at_first() {
        let kept = std::thread::spawn(|| {
            assert_eq!(super::load(), 0);
            super::store(7);
            let other = std::thread::spawn(super::load).join().expect("no panic");
            (super::load(), other)
        });
        assert_eq!(kept.join().expect("no panic"), (7, 0));
    }
}
