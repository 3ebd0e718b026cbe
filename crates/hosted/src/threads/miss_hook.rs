//! Work that threads do after a miss in their slots: the pages of the heap look at the clock there.
//!
//! # Concepts
//! A thread that allocates and frees a few objects in turns may hit in its slot for ever, and never
//! look at the clock. So while work is pending, a miss **arms** the thread (`tls`): the next
//! operation finds no valid number, counts as a miss, and calls the hook again. An armed operation
//! takes about 350 instructions. A thread that never sleeps would pay that each time; so between
//! two steps of the clock threads are armed at most [`BUDGET`] times. After that the thread waits
//! for a real miss. A thread that sleeps between its operations stays armed, and does the work in
//! time. After an operation with many pages, which takes much longer than an armed one, threads are
//! armed beyond the budget.
//!
//! # Concurrency
//! The hook is a single word, of which the last value counts. The budget is shared; a lost update
//! only makes it larger or smaller.

use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use crate::threads::tls;

/// The hook, a `fn()`; null before it is set.
static HOOK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
/// How often threads may still be armed before the next step of the clock.
static LEFT: AtomicU32 = AtomicU32::new(0);
/// The last time at which a thread was armed.
static ARMED_AT: AtomicU64 = AtomicU64::new(0);

/// Armed operations that arm again between two steps of the clock: about 0.1 % of the 4
/// milliseconds that usually pass between them.
const BUDGET: u32 = 64;

/// How often threads are armed after an operation with many pages, though the budget is used up:
/// the operations before the next sleep, which may be the last ones that look at the clock.
const AFTER_MANY_PAGES: u32 = 32;

/// Sets the function that a thread calls after a miss, with no lock held and outside all slots. The
/// last one that is set counts.
pub(crate) fn set(hook: fn()) {
    // Release: pairs with the Acquire in `note_miss`; publishes what the hook reads.
    HOOK.store(hook as *mut (), Ordering::Release);
}

/// Calls the hook, if there is one.
#[inline(always)]
pub(crate) fn note_miss() {
    // Acquire: as in `set`.
    let hook = HOOK.load(Ordering::Acquire);
    if !hook.is_null() {
        // SAFETY: `set` stored a `fn()`, and function pointers have the size of data pointers here.
        let hook = unsafe { core::mem::transmute::<*mut (), fn()>(hook) };
        hook();
    }
}

/// The operation that looked at the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// A miss in a slot, or an allocation or a free of a few pages.
    Miss,
    /// An allocation or a free of many pages, beside which an armed operation costs nothing.
    ManyPages,
}

/// Makes the running thread's next hit a miss, as far as the budget allows it at the time `now`.
pub(crate) fn arm(now: u64, after: After) {
    if tls::number().is_none() {
        return;
    }
    if ARMED_AT.load(Ordering::Relaxed) != now {
        ARMED_AT.store(now, Ordering::Relaxed);
        LEFT.store(BUDGET, Ordering::Relaxed);
    }
    let least = if after == After::ManyPages { AFTER_MANY_PAGES } else { 0 };
    let left = LEFT.load(Ordering::Relaxed).max(least);
    if left == 0 {
        return;
    }
    LEFT.store(left - 1, Ordering::Relaxed);
    tls::store(tls::load() | tls::ARMED);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::Threads;
    use page_frame::Cpu;

    /// Mutations that it catches: a thread that stays armed; an armed thread that loses its number;
    /// no budget; a budget that is not renewed.
    #[test]
    fn an_armed_thread_misses_once_and_keeps_its_number() {
        let number = Threads.pin().expect("a number is free");
        arm(1, After::Miss);
        assert_eq!(Threads.pin_known(), None, "a miss");
        assert_eq!(tls::number().map(|own| own + 1), Some(number.index()), "locks need it");
        assert_eq!(Threads.pin(), Some(number));
        assert_eq!(Threads.pin_known(), Some(number), "disarmed");
        // Other tests of this process arm nothing.
        let armed = |now, after, times: u32| {
            let armed = (0..times).filter(|_| {
                arm(now, after);
                let is_armed = Threads.pin_known().is_none();
                let _ = Threads.pin();
                is_armed
            });
            armed.count() as u32
        };
        assert_eq!(armed(2, After::Miss, 2 * BUDGET), BUDGET, "without a step of the clock");
        assert_eq!(armed(2, After::ManyPages, 1), 1);
        assert_eq!(armed(2, After::Miss, BUDGET), AFTER_MANY_PAGES - 1);
        assert_eq!(armed(3, After::Miss, 2 * BUDGET), BUDGET, "a later time");
        // A thread without a number is not armed.
        let other = std::thread::spawn(|| {
            arm(4, After::Miss);
            tls::load()
        });
        assert_eq!(other.join().expect("no panic"), 0);
    }
}
