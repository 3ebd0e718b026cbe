//! Two words for each thread, found by two loads: the distance of the thread's per-CPU slots, and
//! the thread's state.
//!
//! # Concepts
//! An allocator reads the distance in every operation, from the first call of the dynamic loader to
//! the last destructor of a thread. So it must need no initialisation, allocate nothing and call
//! nothing. In a shared library the compiler's thread-locals call a function of the loader. These
//! words use the **initial-exec** model: their offset from the thread pointer is a word that the
//! loader fills in once (Drepper 2013, "ELF Handling For Thread-Local Storage", section 4.3). A
//! library with such words of 16 bytes can still be loaded late, as the loader reserves some room
//! for that.
//!
//! - The **state** says which number the thread has, if it has one. Slow paths read it.
//! - The **distance** is [`STRIDE`] bytes times the index of the thread's `CpuId`, which is the
//!   number plus one. A hit adds it to the address of a first slot. It is zero while the state is
//!   no number, or armed. Index 0 is the [unowned id](page_frame::Cpu::UNOWNED), whose slots are
//!   always busy. So a hit of a thread without a number finds a busy slot, and takes the slow path.
//!
//! Each machine needs assembly of its own. The interpreter Miri, which has none, gets thread-locals
//! of the compiler.
//!
//! # Invariants
//! - I1: between changes the distance is zero, or that of the number in the state. A signal handler
//!   may run between the stores of a change, and make changes of its own. So the distance becomes
//!   zero before the state changes, and is set from the state after it. In between, the handler's
//!   hits are misses, or use the number that the state had: the thread frees that number only after
//!   the change.

// The words. A version in the name: programs may contain two versions of the crate.
#[cfg(not(miri))]
core::arch::global_asm!(
    ".pushsection .tbss.hosted_0_1_words, \"awT\", @nobits",
    ".globl hosted_0_1_words",
    ".hidden hosted_0_1_words",
    ".type hosted_0_1_words, @object",
    ".size hosted_0_1_words, 16",
    ".p2align 3",
    "hosted_0_1_words:",
    // The distance, eight bytes.
    ".zero 8",
    // The state, four bytes and as many to fill up.
    ".zero 8",
    ".popsection",
);

#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
mod initial_exec {
    use core::arch::asm;

    /// Returns `place` advanced by the thread's distance, which is zero at first.
    #[inline(always)]
    pub(crate) fn advance(place: *mut u8) -> *mut u8 {
        let sum: *mut u8;
        // SAFETY: reads the thread's own distance, which lives as long as the thread; the first
        // load is of an offset that the loader has written.
        unsafe {
            asm!(
                "mov {at}, qword ptr [rip + hosted_0_1_words@GOTTPOFF]",
                "add {sum}, qword ptr fs:[{at}]",
                at = out(reg) _,
                sum = inout(reg) place => sum,
                options(pure, readonly, nostack),
            );
        }
        sum
    }

    /// Returns the thread's distance, zero at first.
    #[inline(always)]
    pub(super) fn load_distance() -> usize {
        let distance: usize;
        // SAFETY: as in `advance`.
        unsafe {
            asm!(
                "mov {distance}, qword ptr [rip + hosted_0_1_words@GOTTPOFF]",
                "mov {distance}, qword ptr fs:[{distance}]",
                distance = out(reg) distance,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        distance
    }

    /// Sets the thread's distance.
    #[inline]
    pub(super) fn store_distance(distance: usize) {
        // SAFETY: writes the thread's own distance; nothing else is at that place.
        unsafe {
            asm!(
                "mov {at}, qword ptr [rip + hosted_0_1_words@GOTTPOFF]",
                "mov qword ptr fs:[{at}], {distance}",
                at = out(reg) _,
                distance = in(reg) distance,
                options(nostack, preserves_flags),
            );
        }
    }

    /// Returns the thread's state, zero at first.
    #[inline(always)]
    pub(crate) fn load() -> u32 {
        let state: u64;
        // SAFETY: as in `advance`, for the state.
        unsafe {
            asm!(
                "mov {at}, qword ptr [rip + hosted_0_1_words@GOTTPOFF]",
                "mov {state:e}, dword ptr fs:[{at} + 8]",
                at = out(reg) _,
                state = out(reg) state,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        state as u32
    }

    /// Sets the thread's state and returns what it was, in one step for signal handlers.
    #[inline]
    pub(super) fn swap_state(state: u32) -> u32 {
        let before: u32;
        // SAFETY: exchanges the thread's own state; nothing else is at that place.
        unsafe {
            asm!(
                "mov {at}, qword ptr [rip + hosted_0_1_words@GOTTPOFF]",
                "xchg dword ptr fs:[{at} + 8], {state:e}",
                at = out(reg) _,
                state = inout(reg) state => before,
                options(nostack, preserves_flags),
            );
        }
        before
    }

    /// Sets the thread's state.
    #[inline]
    pub(super) fn store_state(state: u32) {
        // SAFETY: writes the thread's own state; nothing else is at that place.
        unsafe {
            asm!(
                "mov {at}, qword ptr [rip + hosted_0_1_words@GOTTPOFF]",
                "mov dword ptr fs:[{at} + 8], {state:e}",
                at = out(reg) _,
                state = in(reg) state,
                options(nostack, preserves_flags),
            );
        }
    }
}

#[cfg(all(target_arch = "aarch64", target_os = "linux", not(miri)))]
mod initial_exec {
    use core::arch::asm;

    /// Returns the address of the thread's words.
    #[inline(always)]
    fn place() -> *mut usize {
        let place: *mut usize;
        // SAFETY: reads the thread pointer and the offset that the loader has written; changes
        // nothing.
        unsafe {
            asm!(
                "mrs {place}, tpidr_el0",
                "adrp {offset}, :gottprel:hosted_0_1_words",
                "ldr {offset}, [{offset}, #:gottprel_lo12:hosted_0_1_words]",
                "add {place}, {place}, {offset}",
                place = out(reg) place,
                offset = out(reg) _,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        place
    }

    /// Returns `place` advanced by the thread's distance, which is zero at first.
    #[inline(always)]
    pub(crate) fn advance(place: *mut u8) -> *mut u8 {
        place.wrapping_add(load_distance())
    }

    /// Returns the thread's distance, zero at first.
    #[inline(always)]
    pub(super) fn load_distance() -> usize {
        let distance: usize;
        // SAFETY: reads the thread's own distance, which lives as long as the thread; the offset is
        // one that the loader has written.
        unsafe {
            asm!(
                "mrs {place}, tpidr_el0",
                "adrp {distance}, :gottprel:hosted_0_1_words",
                "ldr {distance}, [{distance}, #:gottprel_lo12:hosted_0_1_words]",
                "ldr {distance}, [{place}, {distance}]",
                place = out(reg) _,
                distance = out(reg) distance,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        distance
    }

    /// Sets the thread's distance.
    #[inline]
    pub(super) fn store_distance(distance: usize) {
        // SAFETY: the thread's own distance, which lives as long as the thread.
        unsafe { place().write_volatile(distance) };
    }

    /// Returns the address of the thread's state.
    #[inline(always)]
    fn state() -> *mut u32 {
        place().wrapping_add(1).cast()
    }

    /// Returns the thread's state, zero at first.
    #[inline(always)]
    pub(crate) fn load() -> u32 {
        // SAFETY: the thread's own state, which lives as long as the thread. Volatile: a signal
        // handler of the thread may change it.
        unsafe { state().read_volatile() }
    }

    /// Sets the thread's state and returns what it was, in one step for signal handlers: the store
    /// fails after a handler has run, and is tried again.
    #[inline]
    pub(super) fn swap_state(state: u32) -> u32 {
        let before: u32;
        // SAFETY: exchanges the thread's own state, which lives as long as the thread; nothing else
        // is at that place.
        unsafe {
            asm!(
                "2:",
                "ldxr {before:w}, [{place}]",
                "stxr {failed:w}, {state:w}, [{place}]",
                "cbnz {failed:w}, 2b",
                place = in(reg) self::state(),
                state = in(reg) state,
                before = out(reg) before,
                failed = out(reg) _,
                options(nostack, preserves_flags),
            );
        }
        before
    }

    /// Sets the thread's state.
    #[inline]
    pub(super) fn store_state(new: u32) {
        // SAFETY: the thread's own state, which lives as long as the thread.
        unsafe { state().write_volatile(new) };
    }
}

#[cfg(miri)]
mod initial_exec {
    use std::cell::Cell;

    std::thread_local! {
        static DISTANCE: Cell<usize> = const { Cell::new(0) };
        static STATE: Cell<u32> = const { Cell::new(0) };
    }

    /// Returns `place` advanced by the thread's distance, which is zero at first.
    pub(crate) fn advance(place: *mut u8) -> *mut u8 {
        place.wrapping_add(load_distance())
    }

    /// Returns the thread's distance, zero at first.
    pub(super) fn load_distance() -> usize {
        DISTANCE.get()
    }

    /// Sets the thread's distance.
    pub(super) fn store_distance(distance: usize) {
        DISTANCE.set(distance);
    }

    /// Returns the thread's state, zero at first.
    pub(crate) fn load() -> u32 {
        STATE.get()
    }

    /// Sets the thread's state and returns what it was.
    pub(super) fn swap_state(state: u32) -> u32 {
        STATE.replace(state)
    }

    /// Sets the thread's state.
    pub(super) fn store_state(state: u32) {
        STATE.set(state);
    }
}

use core::hint::assert_unchecked;

use page_frame::CpuId;

pub(crate) use initial_exec::{advance, load};
use initial_exec::{load_distance, store_distance, store_state, swap_state};

use crate::threads::numbers;

/// The number of sets of per-CPU slots: one for each of 111 threads, 16 that all other threads
/// share, and one that is always busy, for threads without a number.
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
pub const THREAD_SLOTS: usize = numbers::ALL + 1;

/// The distance in bytes between the slots of neighbouring ids for which `advance` needs no
/// arithmetic: that of the caches of a heap.
pub(crate) const STRIDE: usize = 8 << 10;

/// Set in the state of a thread that has a number and whose next hit is to be a miss.
pub(crate) const ARMED: u32 = 1 << 31;

/// The state of a thread that is ending and has freed its number. The state is zero before the
/// thread takes a number, and then the number plus one.
pub(crate) const ENDED: u32 = u32::MAX;
/// The state of a thread while it takes a number.
pub(crate) const TAKING: u32 = ENDED - 1;
/// The state of a thread without a number that is inside the fork lock. It takes none there.
pub(crate) const INSIDE: u32 = ENDED - 2;

/// Returns whether `state` is a number plus one.
#[inline(always)]
pub(crate) const fn is_number(state: u32) -> bool {
    (state.wrapping_sub(1) as usize) < numbers::ALL
}

/// Sets the thread's state.
#[inline]
pub(crate) fn store(state: u32) {
    store_distance(0);
    store_state(state);
    settle();
}

/// Sets the thread's state and returns what it was. No signal handler can run in between.
#[inline]
pub(crate) fn swap(state: u32) -> u32 {
    store_distance(0);
    let before = swap_state(state);
    settle();
    before
}

/// Sets the distance to that of the state, after the state was changed. A signal handler that ran
/// before the change may have set the distance again, and one that runs now may change both.
#[inline]
fn settle() {
    loop {
        store_distance(0);
        let state = load();
        if is_number(state) {
            store_distance(state as usize * STRIDE);
        }
        if load() == state {
            break;
        }
    }
}

/// Returns the line offset of the thread's `CpuId`, or zero if its next hit is to be a miss.
#[inline(always)]
pub(crate) fn line_offset() -> usize {
    let distance = load_distance();
    // SAFETY: I1: a number's distance is a multiple of the stride.
    unsafe { assert_unchecked(distance % STRIDE == 0) };
    // SAFETY: I1: that of the largest number.
    unsafe { assert_unchecked(distance <= numbers::ALL * STRIDE) };
    distance / (STRIDE / CpuId::LINE)
}

/// Returns the running thread's slot number, if it has one. Does not assign one.
#[inline(always)]
pub(crate) fn number() -> Option<usize> {
    let state = load() & !ARMED;
    is_number(state).then(|| state as usize - 1)
}

/// Returns the identity of the running thread, which is never zero. The only thread of a forked
/// child keeps it.
pub(crate) fn identity() -> usize {
    // SAFETY: has no arguments and reads the thread's own identity.
    unsafe { libc::pthread_self() as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> (u32, usize) {
        (load(), load_distance())
    }

    #[test]
    fn each_thread_has_words_of_its_own_that_are_zero_at_first() {
        let kept = std::thread::spawn(|| {
            assert_eq!(words(), (0, 0));
            store(7);
            let other = std::thread::spawn(words).join().expect("no panic");
            (words(), other)
        });
        assert_eq!(kept.join().expect("no panic"), ((7, 7 * STRIDE), (0, 0)));
    }

    /// Mutations that it catches: a distance that a signal handler has set stays when the thread
    /// loses its number; one that it has taken away does not come back.
    #[test]
    fn the_state_decides_after_a_signal_in_the_middle_of_a_change() {
        let ended = std::thread::spawn(|| {
            for (state, distance) in [(ENDED, 0), (TAKING, 0), (5 | ARMED, 0), (5, 5 * STRIDE)] {
                for left in [0, 5 * STRIDE] {
                    store_state(state);
                    store_distance(left);
                    settle();
                    assert_eq!(words(), (state, distance));
                }
            }
            store(0);
        });
        ended.join().expect("no panic");
    }

    /// Mutations that it catches: a distance that stays when the thread loses its number, or is
    /// armed; one that does not come back.
    #[test]
    fn only_a_number_that_is_not_armed_has_a_distance() {
        let ended = std::thread::spawn(|| {
            let last = numbers::ALL as u32;
            for state in [ENDED, TAKING, INSIDE, 0, last + 1, last | ARMED, 1 | ARMED] {
                store(state);
                assert_eq!(words(), (state, 0));
                assert_eq!(swap(last), state);
                assert_eq!((words(), line_offset()), ((last, numbers::ALL * STRIDE), 64 * 127));
                assert_eq!(swap(state), last);
                assert_eq!(words(), (state, 0));
            }
            store(0);
        });
        ended.join().expect("no panic");
    }
}
