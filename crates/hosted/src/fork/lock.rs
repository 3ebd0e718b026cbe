//! The gate: nobody is among locks or page sources while it is closed.
//!
//! # Concepts
//! `fork` copies memory while other threads run; what they were in the middle of stays half done in the child for ever. So
//! whoever takes a lock of the allocators **enters** the gate before and **leaves** it afterwards. Who forks **closes** it and
//! waits until nobody is inside.
//!
//! # Concurrency
//! Entering is a store and a load of a thread's own byte and of the gate, with no fence between: closing has the heavy one
//! (the scheme of `page_frame::PerCpu`). Threads without a number share a counter. The closer itself may go in and out.
//! Contexts on top of one that is inside (signal handlers) never wait: their thread counts as inside already.

use core::sync::atomic::{AtomicUsize, Ordering, compiler_fence};

use rustix::thread::sched_yield;
use rustix::time::{ClockId, clock_gettime};

use crate::tls::THREAD_SLOTS;
use crate::{membarrier, tls};

/// Who has closed the gate, zero while it is open: the thread's identity in the C library, which is the same in a child.
static HOLDER: AtomicUsize = AtomicUsize::new(0);
/// How deep each thread with a number is inside.
static INSIDE: [Depth; THREAD_SLOTS] = [const { Depth(AtomicUsize::new(0)) }; THREAD_SLOTS];
/// How many times threads without a number are inside.
static UNNUMBERED: AtomicUsize = AtomicUsize::new(0);

/// On a line of its own: each thread writes its own often. As wide as it is, as safe code may mask interrupts and never restore
/// them: a byte would run over and read as outside.
#[repr(align(64))]
struct Depth(AtomicUsize);

/// A stay inside the fork lock. Dropping it leaves.
pub(crate) struct Inside(usize);

impl Inside {
    /// Enters as the running thread; waits while another thread forks.
    #[inline]
    pub(crate) fn enter() -> Self {
        Self(enter(tls::number()))
    }
}

impl Drop for Inside {
    #[inline]
    fn drop(&mut self) {
        leave(self.0);
    }
}

/// Goes inside; waits while the gate is closed. Returns what [`leave`] is to be told.
#[inline]
pub(crate) fn enter(number: Option<usize>) -> usize {
    let Some(number) = number else { return enter_unnumbered() };
    let own = &INSIDE[number].0;
    loop {
        // Relaxed: written by this thread alone; the compiler's fence keeps the store before the load, and `close` the rest.
        let depth = own.load(Ordering::Relaxed);
        own.store(depth + 1, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        // Acquire: pairs with the Release in `open`.
        if HOLDER.load(Ordering::Acquire) == 0 || depth > 0 || is_held_by_caller() {
            return number + 1;
        }
        own.store(depth, Ordering::Release);
        wait_until_free();
    }
}

#[cold]
fn enter_unnumbered() -> usize {
    loop {
        // SeqCst: before the load, against `close` in the other order.
        UNNUMBERED.fetch_add(1, Ordering::SeqCst);
        if HOLDER.load(Ordering::SeqCst) == 0 || is_held_by_caller() {
            return 0;
        }
        UNNUMBERED.fetch_sub(1, Ordering::SeqCst);
        wait_until_free();
    }
}

/// Goes outside.
#[inline]
pub(crate) fn leave(entered: usize) {
    match entered.checked_sub(1) {
        Some(number) => {
            let own = &INSIDE[number].0;
            // Release: pairs with the Acquire in `close`; publishes what was done inside.
            own.store(own.load(Ordering::Relaxed) - 1, Ordering::Release);
        }
        None => _ = UNNUMBERED.fetch_sub(1, Ordering::SeqCst),
    }
}

/// Waits until the gate is open, or was closed by the caller.
pub(crate) fn wait_until_free() {
    while HOLDER.load(Ordering::Acquire) != 0 && !is_held_by_caller() {
        sched_yield();
    }
}

/// Closes the gate, and waits until nobody else is inside; `own` is the number of the caller, and `others` says whether any other
/// thread has one.
///
/// Returns whether there is anybody who is kept out of the slots by that. There is not where the caller is alone; and where it
/// may be inside itself (in a signal handler) nothing is known to be whole, with the gate closed all the same.
pub(crate) fn acquire(own: Option<usize>, others: impl FnOnce() -> bool) -> bool {
    let caller = this_thread();
    while HOLDER.compare_exchange(0, caller, Ordering::SeqCst, Ordering::Relaxed).is_err() {
        sched_yield();
    }
    // SeqCst: after the exchange, against `enter_unnumbered` in the other order. A thread that is ending has no number any more.
    if !others() && UNNUMBERED.load(Ordering::SeqCst) == 0 {
        return false;
    }
    let own_depth = own.map_or(0, |own| INSIDE[own].0.load(Ordering::Relaxed));
    membarrier::fence_all();
    for (number, depth) in INSIDE.iter().enumerate() {
        // Acquire: pairs with the Release in `leave`.
        while own != Some(number) && depth.0.load(Ordering::Acquire) != 0 {
            sched_yield();
        }
    }
    own_depth == 0 && are_unnumbered_outside(own.is_some())
}

/// Waits until no thread without a number is inside; whether that came. One that has none itself may be waiting for itself, which
/// it cannot know, and so waits for a second only.
fn are_unnumbered_outside(is_numbered: bool) -> bool {
    const MOST_SECONDS: i64 = 1;
    let start = clock_gettime(ClockId::Monotonic);
    while UNNUMBERED.load(Ordering::SeqCst) != 0 {
        let passed = clock_gettime(ClockId::Monotonic) - start;
        if !is_numbered && passed.tv_sec >= MOST_SECONDS {
            return false;
        }
        sched_yield();
    }
    true
}

/// Opens the gate again.
pub(crate) fn release() {
    // Release: pairs with the Acquire loads of whoever waited.
    HOLDER.store(0, Ordering::Release);
}

/// Opens the gate in a child after a fork, in which only the caller is left.
pub(crate) fn release_in_child(own: Option<usize>) {
    for (number, depth) in INSIDE.iter().enumerate() {
        if own != Some(number) {
            depth.0.store(0, Ordering::Relaxed);
        }
    }
    UNNUMBERED.store(0, Ordering::SeqCst);
    release();
}

/// Whether the caller has closed the gate.
pub(crate) fn is_held_by_caller() -> bool {
    HOLDER.load(Ordering::Relaxed) == this_thread()
}

fn this_thread() -> usize {
    // SAFETY: asks for a word of the thread's own.
    unsafe { libc::pthread_self() as usize }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::Threads;
    use page_frame::Cpu;
    use std::sync::{Mutex, PoisonError, mpsc};
    use std::time::Duration;

    /// There is one gate, which one test at a time may close.
    static GATE: Mutex<()> = Mutex::new(());

    /// A thread that is ending has no number, and may be in the middle of something.
    ///
    /// Mutation seen to fail: a close that looks for others with numbers only.
    #[test]
    fn who_closes_waits_for_threads_that_have_no_number() {
        let _alone = GATE.lock().unwrap_or_else(PoisonError::into_inner);
        for is_numbered in [false, true] {
            let entered = enter(None);
            let (sender, closed) = mpsc::channel();
            let closer = std::thread::spawn(move || {
                let own = Threads.pin().map(|number| number.index()).filter(|_| is_numbered);
                let are_held = acquire(own, || false);
                release();
                sender.send(are_held).expect("somebody asks");
            });
            let early = closed.recv_timeout(Duration::from_millis(100));
            leave(entered);
            assert!(early.is_err(), "closed while somebody is inside");
            assert_eq!(closed.recv_timeout(Duration::from_secs(20)), Ok(true));
            closer.join().expect("no panic");
        }
    }

    /// Mutation seen to fail: no bound on the wait, which then is for ever.
    #[test]
    fn who_is_inside_itself_without_a_number_waits_for_a_second() {
        let _alone = GATE.lock().unwrap_or_else(PoisonError::into_inner);
        let entered = enter(None);
        let are_held = acquire(None, || true);
        release();
        leave(entered);
        assert!(!are_held);
    }
}
