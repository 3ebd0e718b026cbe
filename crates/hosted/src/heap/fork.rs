//! The handlers that the C library calls around `fork`, for the main heap.

use core::cell::UnsafeCell;
use core::ffi::c_int;

use page_frame::{Cpu, CpuId};

use crate::heap::state::{Frozen, State};
use crate::pages::forking::Forking;
use crate::threads::Threads;

unsafe extern "C" {
    fn pthread_atfork(
        prepare: Option<unsafe extern "C" fn()>,
        parent: Option<unsafe extern "C" fn()>,
        child: Option<unsafe extern "C" fn()>,
    ) -> c_int;
}

/// Registers the handlers. Called once, by the set-up of the main heap. When it fails, a child of a
/// process with threads may find a lock held for ever.
pub(crate) fn register() {
    // SAFETY: the handlers stay: what holds them is never unloaded while the heap is in use.
    let _ = unsafe { pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child)) };
}

/// Holds a fork between its two handlers.
struct PendingFork(UnsafeCell<Option<Forking<'static, Frozen>>>);

// SAFETY: written and read only by the thread that holds the fork lock (`Forking`).
unsafe impl Sync for PendingFork {}

static FORKING: PendingFork = PendingFork(UnsafeCell::new(None));

unsafe extern "C" fn before_fork() {
    let Some(state) = State::main() else { return };
    let own: Option<CpuId> = Threads.pin();
    let freeze = || state.registry().map(|registry| registry.freeze_slots(own));
    let forking = Forking::begin(state.pages(), freeze);
    // SAFETY: `begin` acquired the fork lock, so no other thread uses the cell until a handler ends
    // the fork.
    unsafe { FORKING.0.get().write(Some(forking)) };
}

unsafe extern "C" fn in_parent() {
    if let Some(forking) = take() {
        forking.end_in_parent();
    }
}

unsafe extern "C" fn in_child() {
    let Some(forking) = take() else { return };
    let own: Option<CpuId> = Threads.pin();
    let end_in_caches = |caches: Frozen| {
        if let Some(caches) = caches {
            // SAFETY: clause 1: the process was just forked, and this is its only thread. Clause 2:
            // a cache is built under a lock, and the fork lock was held. Clause 3: `own` is the
            // caller's.
            unsafe { caches.end_in_child(own) };
        }
    };
    // SAFETY: clause 1: the C library calls this in the child, on the thread that called
    // `before_fork`.
    unsafe { forking.end_in_child(end_in_caches) };
}

fn take() -> Option<Forking<'static, Frozen>> {
    // SAFETY: the calling thread has held the fork lock since `before_fork`, so no other thread
    // uses the cell.
    let place = unsafe { &mut *FORKING.0.get() };
    place.take()
}
