//! The fork lock: while a thread holds it, no other thread holds a lock of the allocators or is in
//! a page source.
//!
//! # Concepts
//! `fork` copies memory while other threads run. An operation that one of them had begun stays half
//! done in the child for ever. So a thread **enters** the fork lock before it takes a lock of the
//! allocators, and **leaves** it afterwards; any number of threads may be inside. The thread that
//! forks **acquires** it: threads that want to enter wait, and it waits until no other is inside.
//!
//! # Concurrency
//! Entering is a store to the thread's own depth and a load of the holder, with no fence between.
//! The acquiring thread executes the heavy fence (the scheme of `page_frame::PerCpu`). The holder
//! itself may enter and leave.
//!
//! Threads without a number share one counter. Such a thread's state in `tls` says that it is
//! inside; while it is, it gets no number. A nested entry never waits, not even in a signal
//! handler, because the holder waits for the outer entry. One case is left: a signal arrives
//! between the two steps of an entry or a leave without a number, which change the counter and the
//! state. If its handler allocates, it waits for the holder, and the holder for the counter.

use core::sync::atomic::{AtomicUsize, Ordering};

use page_frame::sync::light_fence;

use crate::threads::pause::{self, pause, wait_until};
use crate::threads::tls::THREAD_SLOTS;
use crate::threads::{membarrier, tls};

/// The thread that holds the lock, as `pthread_self` identifies it (the same in a child); zero
/// while the lock is free.
static HOLDER: AtomicUsize = AtomicUsize::new(0);
/// The depth of each thread that has a number.
static INSIDE: [Depth; THREAD_SLOTS] = [const { Depth(AtomicUsize::new(0)) }; THREAD_SLOTS];
/// The number of entries of threads without a number.
static UNNUMBERED: AtomicUsize = AtomicUsize::new(0);

/// How often a thread has entered and not left. It has a cache line of its own, as its thread
/// writes it often. It is a whole word, as safe code may mask interrupts and never restore them: a
/// byte would overflow and read as outside.
#[repr(align(64))]
struct Depth(AtomicUsize);

/// The entry of a thread without a number that is inside already.
const NESTED: usize = 0;
/// The first of the other entries of threads without a number. Entries of threads with a number are
/// the numbers plus one.
const UNNUMBERED_ENTRY: usize = THREAD_SLOTS + 1;
/// The states that a thread without a number may have before it enters. Its entry has the index.
const STATES: [u32; 3] = [0, tls::TAKING, tls::ENDED];

/// An entry of the fork lock. Dropping it leaves.
pub(crate) struct Inside(usize);

impl Inside {
    /// Enters as the running thread. Waits while another thread holds the lock.
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

/// Enters as the thread with this number. Waits while another thread holds the lock. Returns the
/// argument of [`leave`].
#[inline]
pub(crate) fn enter(number: Option<usize>) -> usize {
    let Some(number) = number else { return enter_unnumbered() };
    let own = &INSIDE[number].0;
    // Relaxed: only this thread writes it. The light fence keeps the store before the load; the
    // heavy fence in `acquire` orders the two for the acquiring thread.
    let depth = own.load(Ordering::Relaxed);
    own.store(depth + 1, Ordering::Relaxed);
    light_fence();
    // Acquire: pairs with the Release in `release`.
    if HOLDER.load(Ordering::Acquire) == 0 || depth > 0 {
        return number + 1;
    }
    enter_behind_holder(number)
}

/// Continues [`enter`] for a thread that has just counted its outermost entry, and found the lock
/// held. Each entry of a signal handler since then has left.
#[cold]
fn enter_behind_holder(number: usize) -> usize {
    let own = &INSIDE[number].0;
    // Acquire, and the light fence: as in `enter`. Release: a signal handler may have been inside.
    while HOLDER.load(Ordering::Acquire) != 0 && !is_held_by_caller() {
        own.store(0, Ordering::Release);
        wait_until_free();
        own.store(1, Ordering::Relaxed);
        light_fence();
    }
    number + 1
}

#[cold]
fn enter_unnumbered() -> usize {
    loop {
        let before = tls::load();
        if before == tls::INSIDE {
            // The entry around this one keeps the holder waiting.
            UNNUMBERED.fetch_add(1, Ordering::SeqCst);
            return NESTED;
        }
        let Some(index) = STATES.iter().position(|state| *state == before) else {
            // A signal handler has taken a number for the thread meanwhile.
            return enter(tls::number());
        };
        // SeqCst: before the load of `HOLDER`, against `acquire`, which accesses the two in the
        // other order.
        UNNUMBERED.fetch_add(1, Ordering::SeqCst);
        if HOLDER.load(Ordering::SeqCst) == 0 || is_held_by_caller() {
            let found = tls::swap(tls::INSIDE);
            if found == before {
                return UNNUMBERED_ENTRY + index;
            }
            // A signal handler has changed the state: restores what it left, and tries again.
            tls::store(found);
        }
        leave_unnumbered();
        wait_until_free();
    }
}

/// Counts one entry of a thread without a number less. In a child of `fork` the count begins anew,
/// also if the thread that forked was inside.
fn leave_unnumbered() {
    let less = |count: usize| count.checked_sub(1);
    _ = UNNUMBERED.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
}

/// Leaves; `entered` came from `enter`.
#[inline]
pub(crate) fn leave(entered: usize) {
    match entered.checked_sub(1).filter(|number| *number < THREAD_SLOTS) {
        Some(number) => {
            let own = &INSIDE[number].0;
            // Release: pairs with the Acquire in `acquire`; publishes the changes made inside.
            own.store(own.load(Ordering::Relaxed) - 1, Ordering::Release);
        }
        None => leave_as_unnumbered(entered),
    }
}

#[cold]
fn leave_as_unnumbered(entered: usize) {
    if entered != NESTED {
        tls::store(STATES[entered - UNNUMBERED_ENTRY]);
    }
    leave_unnumbered();
}

/// Waits until the lock is free, or the caller holds it.
pub(crate) fn wait_until_free() {
    wait_until(|| HOLDER.load(Ordering::Acquire) == 0 || is_held_by_caller());
}

/// Acquires the lock, and waits until no other thread is inside. `own` is the number of the caller;
/// `others` returns whether any other thread has a number.
///
/// Returns whether the caller must also freeze the per-CPU slots. It need not when it is the only
/// thread. It cannot when it may be inside itself, in a signal handler: then the interrupted
/// operation stays half done whatever the caller does.
pub(crate) fn acquire(own: Option<usize>, others: impl FnOnce() -> bool) -> bool {
    let caller = tls::identity();
    let take = || HOLDER.compare_exchange(0, caller, Ordering::SeqCst, Ordering::Relaxed);
    wait_until(|| take().is_ok());
    // SeqCst: after the exchange, against `enter_unnumbered`, which accesses the two in the other
    // order. A thread that is ending has no number and may be inside.
    if !others() && UNNUMBERED.load(Ordering::SeqCst) == 0 {
        return false;
    }
    let own_depth = own.map_or(0, |own| INSIDE[own].0.load(Ordering::Relaxed));
    membarrier::fence_all();
    for (number, depth) in INSIDE.iter().enumerate() {
        // Acquire: pairs with the Release in `leave`.
        wait_until(|| own == Some(number) || depth.0.load(Ordering::Acquire) == 0);
    }
    own_depth == 0 && are_unnumbered_outside(own.is_some())
}

/// Waits until no thread without a number is inside, and returns whether that happened. A caller
/// without a number may itself be inside, which it cannot detect, so it waits for about a
/// second at most.
fn are_unnumbered_outside(is_numbered: bool) -> bool {
    let mut round = 0;
    while UNNUMBERED.load(Ordering::SeqCst) != 0 {
        if !is_numbered && round == pause::SECOND {
            return false;
        }
        pause(round);
        round += 1;
    }
    true
}

/// The lock, held by this thread. Dropping it releases the lock, also when a panic unwinds.
pub(crate) struct Held;

impl Drop for Held {
    fn drop(&mut self) {
        release();
    }
}

/// Releases the lock.
pub(crate) fn release() {
    // Release: pairs with the Acquire loads of the threads that wait.
    HOLDER.store(0, Ordering::Release);
}

/// Releases the lock in a child of `fork`, whose only thread is the caller. Where `had_others` is
/// false, no other thread had a number: then the depths of the others stay untouched, as each page
/// of memory that a child writes to is copied.
pub(crate) fn release_in_child(own: Option<usize>, had_others: bool) {
    let others = INSIDE.iter().enumerate().filter(|(number, _)| own != Some(*number));
    for (_, depth) in others.filter(|_| had_others) {
        depth.0.store(0, Ordering::Relaxed);
    }
    UNNUMBERED.store(0, Ordering::SeqCst);
    release();
}

/// Acquires the lock if it is free and no other thread uses the allocators; returns whether it did.
/// Waits for nobody. `others` is as for [`acquire`].
pub(crate) fn try_acquire_alone(others: impl FnOnce() -> bool) -> bool {
    let caller = tls::identity();
    if HOLDER.compare_exchange(0, caller, Ordering::SeqCst, Ordering::Relaxed).is_err() {
        return false;
    }
    // SeqCst: as in `acquire`.
    let is_alone = !others() && UNNUMBERED.load(Ordering::SeqCst) == 0;
    if !is_alone {
        release();
    }
    is_alone
}

/// Returns whether another thread holds the lock.
pub(crate) fn is_held_by_other() -> bool {
    // SeqCst: in one order with the exchange in `acquire` and with the numbers that are taken next.
    let holder = HOLDER.load(Ordering::SeqCst);
    holder != 0 && holder != tls::identity()
}

/// Returns whether the caller holds the lock.
pub(crate) fn is_held_by_caller() -> bool {
    HOLDER.load(Ordering::Relaxed) == tls::identity()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::Threads;
    use page_frame::Cpu;
    use std::sync::{Mutex, PoisonError, mpsc};
    use std::time::Duration;

    /// There is one fork lock, which one test at a time may acquire.
    static ALONE: Mutex<()> = Mutex::new(());

    /// A thread that is ending has no number, and may be inside.
    ///
    /// Mutation seen to fail: an `acquire` that waits only for threads with numbers.
    #[test]
    fn acquire_waits_for_threads_without_a_number() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        for is_numbered in [false, true] {
            let entered = enter(None);
            let (sender, closed) = mpsc::channel();
            let closer = std::thread::spawn(move || {
                let own = Threads.pin().map(|number| number.index()).filter(|_| is_numbered);
                let are_held = acquire(own, || false);
                release();
                sender.send(are_held).expect("the test receives");
            });
            let early = closed.recv_timeout(Duration::from_millis(100));
            leave(entered);
            assert!(early.is_err(), "acquired while a thread is inside");
            assert_eq!(closed.recv_timeout(Duration::from_secs(20)), Ok(true));
            closer.join().expect("no panic");
        }
    }

    /// Mutation that it catches: an entry inside an entry that waits for the holder, which waits
    /// for the outer one (the test hangs, and then fails).
    #[test]
    fn a_thread_inside_without_a_number_enters_again_beside_a_fork() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let (inside, is_inside) = (mpsc::channel(), mpsc::channel());
        let (say_inside, may_go_on) = (inside.0, is_inside.1);
        let enterer = std::thread::spawn(move || {
            // A thread that has ended for the allocators.
            tls::store(tls::ENDED);
            let outer = enter(tls::number());
            assert_eq!((Threads.pin(), tls::load()), (None, tls::INSIDE), "no number inside");
            say_inside.send(()).expect("the test receives");
            let () = may_go_on.recv().expect("the test sends");
            let inner = enter(tls::number());
            leave(inner);
            assert_eq!(tls::load(), tls::INSIDE);
            leave(outer);
            assert_eq!(tls::load(), tls::ENDED);
        });
        let () = inside.1.recv().expect("the thread sends");
        let (sender, is_acquired) = mpsc::channel();
        let closer = std::thread::spawn(move || {
            let own = Threads.pin().map(|number| number.index());
            acquire(own, || false);
            release();
            sender.send(()).expect("the test receives");
        });
        let early = is_acquired.recv_timeout(Duration::from_millis(100));
        assert!(early.is_err(), "acquired while a thread is inside");
        is_inside.0.send(()).expect("the thread receives");
        assert_eq!(is_acquired.recv_timeout(Duration::from_secs(20)), Ok(()));
        enterer.join().expect("no panic");
        closer.join().expect("no panic");
    }

    /// Mutation seen to fail: a wait without a bound (the test hangs).
    #[test]
    fn a_thread_inside_itself_without_a_number_waits_for_one_second() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let entered = enter(None);
        let are_held = acquire(None, || true);
        release();
        leave(entered);
        assert!(!are_held);
    }
}
