//! What happens when the process forks: the handlers before and after it.

use core::cell::UnsafeCell;
use core::ptr::null_mut;

use hosted::{Forking, HeapThreads, Threads};
use page_frame::{Cpu, CpuId};
use slab::FrozenSlots;

use crate::heap::{CheckedSource, Heap, Source, existing, pages};
use crate::stats;

/// A fork between its two handlers.
struct Fork {
    forking: Forking<'static, Caches>,
    /// The signals that the thread blocked before.
    blocked: libc::sigset_t,
}

/// Holds a fork between its two handlers.
struct PendingFork(UnsafeCell<Option<Fork>>);

// SAFETY: written and read only by the thread that holds the fork lock (`Forking`).
unsafe impl Sync for PendingFork {}

static FORKING: PendingFork = PendingFork(UnsafeCell::new(None));

/// The handler before a fork. It blocks all signals until the fork is over: a signal handler that
/// forks as well would find this fork half done.
pub(crate) unsafe extern "C" fn before_fork() {
    let Some(pages) = existing().and_then(|_| pages()) else { return };
    // SAFETY: zero bytes are a valid value of the C struct.
    let mut all: libc::sigset_t = unsafe { core::mem::zeroed() };
    let mut blocked = all;
    // SAFETY: our own set, which the call writes.
    unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: both sets are ours. `end` restores the mask.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut blocked) };
    let forking = Forking::begin(pages, freeze_caches);
    // SAFETY: `Forking::begin` took the fork lock, so no other thread uses the cell until a handler
    // ends the fork.
    unsafe { FORKING.0.get().write(Some(Fork { forking, blocked })) };
}

/// The handler after a fork in the parent.
pub(crate) unsafe extern "C" fn in_parent() {
    end_fork(Forking::end_in_parent);
}

/// The handler after a fork in the child.
pub(crate) unsafe extern "C" fn in_child() {
    end_fork(|forking| {
        // SAFETY: clause 1: the C library calls this in the child, on its only thread.
        let end = |caches| unsafe { end_in_caches(caches) };
        // SAFETY: clause 1: the C library calls this in the child, on the thread that called
        // `before_fork`.
        unsafe { forking.end_in_child(end) };
    });
    stats::start_in_child();
}

/// Calls `end` with the pending fork, if there is one, and unblocks the signals.
fn end_fork(end: impl FnOnce(Forking<'static, Caches>)) {
    // SAFETY: if a fork is pending, the calling thread has held the fork lock since `before_fork`,
    // so no other thread uses the cell.
    let place = unsafe { &mut *FORKING.0.get() };
    let Some(Fork { forking, blocked }) = place.take() else { return };
    end(forking);
    // SAFETY: the mask that the thread had before.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const blocked, null_mut()) };
}

/// The slots of all caches of the allocator that serves, frozen.
type Caches = Option<FrozenCaches>;

enum FrozenCaches {
    Plain(FrozenSlots<'static, (Source, HeapThreads)>),
    Checked(FrozenSlots<'static, (CheckedSource, HeapThreads)>),
}

fn freeze_caches() -> Caches {
    let own: Option<CpuId> = Threads.pin();
    match existing()? {
        Heap::Plain(heap) => Some(FrozenCaches::Plain(heap.registry().freeze_slots(own))),
        Heap::Checked(heap) => Some(FrozenCaches::Checked(heap.registry().freeze_slots(own))),
    }
}

/// Clears the marks of other threads in the slots of all caches, and thaws the slots.
///
/// # Safety
/// 1. The process was just forked, and the caller is its only thread.
unsafe fn end_in_caches(caches: Caches) {
    let own: Option<CpuId> = Threads.pin();
    match caches {
        // SAFETY: clause 1 is our clause 1. Clause 2: a cache is built under a lock, and the fork
        // lock was held. Clause 3: `own` is the caller's.
        Some(FrozenCaches::Plain(slots)) => unsafe { slots.end_in_child(own) },
        // SAFETY: as above.
        Some(FrozenCaches::Checked(slots)) => unsafe { slots.end_in_child(own) },
        None => {}
    }
}
