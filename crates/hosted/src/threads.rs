//! Threads as CPUs: each running thread has the number of one set of CPU slots, as long as there are enough.
//!
//! # Concepts
//! A thread takes a free number the first time it asks and gives it back when it ends; the next thread that takes the
//! number finds the slots as they were left, magazines and all. A thread that finds no free number works without slots.
//!
//! # Concurrency
//! Numbers are bits of one atomic word: the compare-exchange that takes one has Acquire and pairs with the Release that
//! gave it back, which hands the slots' content from thread to thread. The heavy fence is `membarrier`.

use std::cell::Cell;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use page_frame::{Cpu, CpuId};
use rustix::thread::{MembarrierCommand, membarrier};

/// How many threads have slots of their own at the same time.
pub const THREAD_SLOTS: usize = 64;

/// A bit per number, set while a thread has it.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// Which membarrier this system has.
static BARRIER: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const EXPEDITED: u8 = 1;
const NONE: u8 = 2;

/// The thread has not asked yet.
const UNASSIGNED: u32 = u32::MAX;
/// The thread is ending and has given its number back.
const ENDED: u32 = u32::MAX - 1;

thread_local! {
    static NUMBER: Cell<u32> = const { Cell::new(UNASSIGNED) };
    static AT_EXIT: GiveBack = const { GiveBack };
}

/// Gives the thread's number back when the thread ends.
struct GiveBack;

impl Drop for GiveBack {
    fn drop(&mut self) {
        let number = NUMBER.replace(ENDED);
        if (number as usize) < THREAD_SLOTS {
            // Release: pairs with the Acquire in `assign`; hands the slots over as this thread left them.
            TAKEN.fetch_and(!(1 << number), Ordering::Release);
        }
    }
}

/// The threads of this process as CPUs.
///
/// ```
/// use hosted::Threads;
/// use page_frame::Cpu;
/// let mine = Threads.pin();
/// let theirs = std::thread::spawn(|| Threads.pin()).join().unwrap();
/// assert_ne!(mine, theirs);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Threads;

// SAFETY: clause 1: a number belongs to one thread from the compare-exchange that set its bit until `GiveBack`, after
// which the thread has none; only signal handlers run on top of a thread. Clause 2: the Release and Acquire of `TAKEN`.
// Clause 3: `fence_all` is true only after `membarrier`, which fences all running threads. Clause 4: nothing is
// masked; a signal handler that allocates is nested and only tries.
unsafe impl Cpu for Threads {
    fn slots(&self) -> usize {
        THREAD_SLOTS
    }

    #[inline]
    fn pin(&self) -> Option<CpuId> {
        let number = NUMBER.get();
        if (number as usize) < THREAD_SLOTS { Some(CpuId::new(number)) } else { assign(number) }
    }

    #[inline(always)]
    fn pin_known(&self) -> Option<CpuId> {
        // Threads without a number have one beyond every slot.
        Some(CpuId::new(NUMBER.get()))
    }

    #[inline]
    unsafe fn unpin(&self) {}

    fn fence_all(&self) -> bool {
        if BARRIER.load(Ordering::Relaxed) == UNKNOWN {
            let registered = membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok();
            // Relaxed: each thread that finds it unknown comes to the same answer.
            BARRIER.store(if registered { EXPEDITED } else { NONE }, Ordering::Relaxed);
        }
        let command = match BARRIER.load(Ordering::Relaxed) {
            EXPEDITED => MembarrierCommand::PrivateExpedited,
            _ => MembarrierCommand::Global,
        };
        membarrier(command).is_ok()
    }
}

#[cold]
fn assign(number: u32) -> Option<CpuId> {
    if number == ENDED {
        return None;
    }
    // Acquire: pairs with the Release in `GiveBack`; Relaxed when none is free: nothing is taken.
    let lowest_free = |taken: u64| (taken != u64::MAX).then(|| taken | (taken + 1));
    let before = TAKEN.fetch_update(Ordering::Acquire, Ordering::Relaxed, lowest_free).ok()?;
    let number = before.trailing_ones();
    NUMBER.set(number);
    // Touching the guard registers its destructor; a thread too far gone for that gives the number back at once.
    if AT_EXIT.try_with(|_| ()).is_err() {
        drop(GiveBack);
        return None;
    }
    Some(CpuId::new(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn running_threads_have_different_numbers_and_the_last_have_none() {
        let threads = THREAD_SLOTS + 8;
        let all_started = Barrier::new(threads);
        let numbers: Vec<_> = std::thread::scope(|scope| {
            let ask = || {
                let number = Threads.pin();
                all_started.wait();
                number
            };
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(ask)).collect();
            running.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let mut given: Vec<_> = numbers.iter().flatten().map(|id| id.index()).collect();
        given.sort_unstable();
        given.dedup();
        assert_eq!(given.len(), numbers.iter().flatten().count(), "no number twice");
        assert!(numbers.iter().any(Option::is_none), "more threads than slots");
        for _ in 0..3 * THREAD_SLOTS {
            let number = std::thread::spawn(|| Threads.pin()).join().expect("no panic");
            assert!(number.is_some(), "numbers come back when threads end");
        }
    }

    #[test]
    fn the_heavy_fence_works_here() {
        assert!(Threads.fence_all());
    }
}
