//! Waiting for another thread that is about to finish.
//!
//! # Concepts
//! A waiter spins a few rounds, then yields, and then sleeps, a little longer each time. Yields
//! alone do not suffice: that of a real-time thread lets no thread of lower priority run, and the
//! owner of the lock may be one. The sleep is a futex, as filters of system calls (seccomp) allow
//! that call to every program with threads; with a filter, waiters do not yield. A waiter that may
//! not sleep spins.

use core::sync::atomic::AtomicU32;

use rustix::thread::{futex, sched_yield};
use rustix::time::Timespec;

use crate::system::seccomp;

/// Rounds of spinning.
const SPINS: usize = 32;
/// Rounds of yielding, after those of spinning.
const YIELDS: usize = 64;
/// The first sleep, in nanoseconds. Linux adds about 50 microseconds to it.
const FIRST_SLEEP: i64 = 1 << 10;
/// A sleep doubles this many times, to 260 microseconds.
const MAX_DOUBLINGS: usize = 8;
/// The number of rounds after which a waiter has waited for a second at least, if it sleeps.
pub(crate) const SECOND: usize = SPINS + YIELDS + 10_000;

/// Waits between two looks at what another thread changes; `round` counts the looks from zero.
pub(crate) fn pause(round: usize) {
    /// Never changes, and is never woken.
    static WORD: AtomicU32 = AtomicU32::new(0);
    if round < SPINS {
        core::hint::spin_loop();
        return;
    }
    // Miri advances time only when a thread runs.
    if cfg!(miri) || round < SPINS + YIELDS && !seccomp::is_filtered() {
        sched_yield();
        return;
    }
    let sleeps = round.saturating_sub(SPINS + YIELDS);
    let timeout = Timespec { tv_sec: 0, tv_nsec: FIRST_SLEEP << sleeps.min(MAX_DOUBLINGS) };
    let _ = futex::wait(&WORD, futex::Flags::PRIVATE, 0, Some(&timeout));
}

/// Waits until `is_done` returns true.
pub(crate) fn wait_until(mut is_done: impl FnMut() -> bool) {
    let mut round = 0;
    while !is_done() {
        pause(round);
        round += 1;
    }
}
