//! Signals that interrupt threads at random instructions; their handler allocates and frees.

use std::cell::Cell;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use super::world::Interrupted;

/// The allocator of the episode that runs, while threads of it may be interrupted.
static CURRENT: AtomicPtr<Interrupted> = AtomicPtr::new(std::ptr::null_mut());
static COUNT: AtomicU64 = AtomicU64::new(0);

std::thread_local!(static STEPS: Cell<u64> = const { Cell::new(0) });

/// Installs the handler of `SIGUSR1` for this process.
pub(super) fn install() {
    // SAFETY: `sigaction` is plain data, and all zero is a valid value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: without `SA_SIGINFO` the handler has this signature. It uses only what a signal
    // handler may use.
    let outcome =
        unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) };
    assert_eq!(outcome, 0, "SIGUSR1 has no handler");
}

/// Sets the allocator that interrupts use from now on; null for none.
pub(super) fn set(current: *const Interrupted) {
    // Release: pairs with the Acquire in the handler.
    CURRENT.store(current.cast_mut(), Ordering::Release);
}

/// Interrupts `thread`.
///
/// # Safety
/// 1. The thread has not been joined.
pub(super) unsafe fn interrupt(thread: libc::pthread_t) {
    // SAFETY: clause 1: it exists. The signal has a handler.
    _ = unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
}

/// Returns how many handlers allocated.
pub(super) fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

extern "C" fn on_signal(_: libc::c_int) {
    // Acquire: as in `set`.
    let current = CURRENT.load(Ordering::Acquire);
    // SAFETY: null, or the value of an episode, which outlives its threads.
    let Some(current) = (unsafe { current.as_ref() }) else { return };
    let step = STEPS.get();
    STEPS.set(step + 1);
    current.allocate_and_free(step);
    COUNT.fetch_add(1, Ordering::Relaxed);
}
