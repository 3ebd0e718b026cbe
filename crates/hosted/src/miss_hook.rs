//! Work that threads do after a miss in their slots: the pages of the heap look at the clock there.
//!
//! # Concepts
//! A thread that allocates and frees a few objects in turns may hit in its slot for ever, and never
//! look at the clock. So while work is pending, a miss **arms** the thread's word (`tls`): the next
//! operation finds no valid number, counts as a miss, and calls the hook again. An armed operation
//! takes about 20 nanoseconds more. A thread that never sleeps would pay that each time; so between
//! two steps of the clock only [`BUDGET`] armed operations arm the word again. After that the
//! thread waits for a real miss. A thread that sleeps between its operations stays armed, and does
//! the work in time.
//!
//! # Concurrency
//! The hook is set once. The budget is shared; a lost update only makes it larger or smaller.

use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use crate::numbers::Numbers;
use crate::tls;

/// The hook, a `fn()`; null before it is set.
static HOOK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
/// A bit for each thread number: set while the thread is in an operation that came armed.
static CAME_ARMED: Numbers = Numbers::new();
/// Armed operations that may arm again before the next step of the clock.
static LEFT: AtomicU32 = AtomicU32::new(0);
/// The last time at which an armed operation armed again.
static ARMED_AT: AtomicU64 = AtomicU64::new(0);

/// Armed operations that arm again between two steps of the clock: about 0.1 % of the 4
/// milliseconds that usually pass between them.
const BUDGET: u32 = 256;

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

/// Notes that the operation of thread `number` counts as a miss because the thread was armed.
#[cold]
pub(crate) fn note_armed(number: u32) {
    CAME_ARMED.insert(number as usize);
}

/// The operation that looked at the clock, with the budget that it leaves at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// A miss in a slot, real or because the thread was armed.
    Miss = 1,
    /// An allocation or a free of pages.
    PageOperation = 4,
}

/// Makes the running thread's next hit a miss. After an operation that only counts as a miss
/// because the thread was armed, only if the budget allows it at the time `now`.
pub(crate) fn arm(now: u64, after: After) {
    let Some(number) = tls::number() else { return };
    let came_armed = CAME_ARMED.contains(number);
    if came_armed {
        CAME_ARMED.free(number);
    }
    if ARMED_AT.load(Ordering::Relaxed) != now {
        ARMED_AT.store(now, Ordering::Relaxed);
        LEFT.store(BUDGET, Ordering::Relaxed);
    }
    let left = LEFT.load(Ordering::Relaxed);
    if came_armed && after == After::Miss {
        LEFT.store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 0 {
            return;
        }
    } else {
        // Expensive operations: a few more armed ones cost little beside them. They matter when the
        // thread sleeps next.
        LEFT.store(left.max(after as u32), Ordering::Relaxed);
    }
    tls::store(tls::load() | tls::ARMED);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Threads;
    use page_frame::Cpu;

    /// Mutations that it catches: a word that stays armed; an armed thread that loses its number;
    /// no budget; a budget that is not renewed.
    #[test]
    fn an_armed_thread_misses_once_and_keeps_its_number() {
        let number = Threads.pin().expect("a number is free");
        arm(1, After::Miss);
        assert_eq!(Threads.pin_known(), None, "a miss");
        assert_eq!(tls::number(), Some(number.index()), "for locks it has its number");
        assert_eq!(Threads.pin(), Some(number));
        assert_eq!(Threads.pin_known(), Some(number), "disarmed");
        // A loop of armed operations, without a step of the clock.
        let mut armed = 0;
        loop {
            arm(2, After::Miss);
            if Threads.pin_known().is_some() {
                break;
            }
            let _ = Threads.pin();
            armed += 1;
        }
        // Other tests of this process arm nothing.
        assert_eq!(armed, BUDGET);
        arm(2, After::Miss);
        assert_eq!((Threads.pin_known(), Threads.pin()), (None, Some(number)), "a real miss");
        arm(2, After::PageOperation);
        assert_eq!((Threads.pin_known(), Threads.pin()), (None, Some(number)), "costs little");
        arm(3, After::Miss);
        assert_eq!((Threads.pin_known(), Threads.pin()), (None, Some(number)), "a later time");
        // A thread without a number is not armed.
        let other = std::thread::spawn(|| {
            arm(4, After::Miss);
            tls::load()
        });
        assert_eq!(other.join().expect("no panic"), 0);
    }
}
