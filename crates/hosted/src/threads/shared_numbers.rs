//! Numbers that threads without one of their own borrow for one operation.
//!
//! # Concepts
//! There are more threads than numbers in some programs, and most of them sleep. A thread without a
//! number borrows one of a few shared numbers while it is in the allocator's slow path: its
//! thread-local state has that number, so that all slots of that number are its own. It gives the
//! number back before it returns to the program.
//!
//! Where many numbers are taken, threads begin like this. Each [`TURN`]th operation with a
//! shared number earns its thread a number of its own, so that threads that allocate much have
//! numbers, and those that sleep do not.
//!
//! # Concurrency
//! A lock for each shared number, on a line of its own. The Acquire of the exchange pairs with the
//! Release in `give_back`, which publishes the content of the slots. A thread that finds all of
//! them locked works without a slot. A signal handler that interrupts a thread with a borrowed
//! number finds that number in its state, as it would find the thread's own.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::threads::numbers::{OWN, SHARED};
use crate::threads::tls;

/// Operations with a shared number until one earns its thread a number of its own: 13 microseconds
/// with a shared number, 0.1 each. Chosen with 64 threads that work and 1,936 that sleep: with 256,
/// threads of 2,000 operations spend more of them without a number; with less, sleepers that do two
/// operations get more of the numbers.
pub(crate) const TURN: u32 = 128;

#[repr(align(64))]
struct Shared {
    is_locked: AtomicBool,
    /// Operations with the number, changed under the lock.
    operations: AtomicU32,
}

static NUMBERS: [Shared; SHARED] =
    [const { Shared { is_locked: AtomicBool::new(false), operations: AtomicU32::new(0) } }; SHARED];

/// Locks a shared number for the running thread, which has none. The caller stores it in the
/// thread's state.
pub(crate) fn lock() -> Option<usize> {
    // Threads begin at different numbers: their stacks lie at different pages.
    let first = (tls::identity() >> 12) ^ (tls::identity() >> 18);
    (0..SHARED).map(|index| (first + index) % SHARED).find_map(|index| {
        let is_locked = &NUMBERS[index].is_locked;
        // A load first: the line stays shared.
        if is_locked.load(Ordering::Relaxed) || is_locked.swap(true, Ordering::Acquire) {
            return None;
        }
        Some(OWN + index)
    })
}

/// Counts an operation with the shared number `number`, which the running thread has locked;
/// returns whether it earns the thread a number of its own.
pub(crate) fn earns_own(number: usize) -> bool {
    let operations = &NUMBERS[number - OWN].operations;
    // Relaxed: the lock orders it.
    let count = operations.load(Ordering::Relaxed).wrapping_add(1);
    operations.store(count, Ordering::Relaxed);
    count % TURN == 0
}

/// Unlocks the shared number `number`, which the running thread has locked. Its state does not have
/// the number any more.
pub(crate) fn unlock(number: usize) {
    NUMBERS[number - OWN].is_locked.store(false, Ordering::Release);
}

/// Unlocks all shared numbers but `own`, in a child of `fork`: the threads that had them are not
/// there.
pub(crate) fn forget_others(own: Option<usize>) {
    for (index, shared) in NUMBERS.iter().enumerate() {
        if own != Some(OWN + index) {
            shared.is_locked.store(false, Ordering::Relaxed);
        }
    }
}
