//! The process: what happens when the library is loaded, when the process forks, and when it ends.

use core::cell::UnsafeCell;
use core::ffi::c_int;

use hosted::{Forking, HeapThreads, Purger, Threads};
use page_frame::{Cpu, CpuId};
use slab::FrozenSlots;

use crate::heap::{Heap, Source, existing, pages};
use crate::{environment, stats};

unsafe extern "C" {
    fn pthread_atfork(
        prepare: Option<unsafe extern "C" fn()>,
        parent: Option<unsafe extern "C" fn()>,
        child: Option<unsafe extern "C" fn()>,
    ) -> c_int;
}

#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = load;

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_END: extern "C" fn() = end;

/// The loader calls this when it loads the library, usually long after the first `malloc`.
extern "C" fn load() {
    // SAFETY: registers functions that stay, as the library is never unloaded.
    unsafe { pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child)) };
    stats::start();
    if let Some((pages, interval)) = pages().zip(environment::purge_interval()) {
        // The thread ends with the process. If it cannot start, only frees purge.
        core::mem::forget(Purger::start(pages, interval));
    }
}

extern "C" fn end() {
    stats::end();
}

/// Holds a fork between its two handlers.
struct PendingFork(UnsafeCell<Option<Forking<'static, Caches>>>);

// SAFETY: written and read only by the thread that holds the fork lock (`Forking`).
unsafe impl Sync for PendingFork {}

static FORKING: PendingFork = PendingFork(UnsafeCell::new(None));

unsafe extern "C" fn before_fork() {
    if let Some(pages) = pages() {
        let forking = Forking::begin(pages, freeze_caches);
        // SAFETY: `Forking::begin` took the fork lock, so no other thread uses the cell until a
        // handler ends the fork.
        unsafe { FORKING.0.get().write(Some(forking)) };
    }
}

unsafe extern "C" fn in_parent() {
    if let Some(forking) = take() {
        forking.end_in_parent();
    }
}

unsafe extern "C" fn in_child() {
    if let Some(forking) = take() {
        // SAFETY: clause 1: the C library calls this in the child, on its only thread. Clause 2:
        // `end_in_child` says so.
        let forget = || unsafe { forget_others() };
        // SAFETY: clause 1: the C library calls this in the child, on the thread that called
        // `before_fork`.
        unsafe { forking.end_in_child(forget) };
    }
    stats::start_in_child();
}

fn take() -> Option<Forking<'static, Caches>> {
    // SAFETY: the calling thread has held the fork lock since `before_fork`, so no other thread
    // uses the cell.
    let place = unsafe { &mut *FORKING.0.get() };
    place.take()
}

/// The slots of all caches of the allocator that serves, frozen.
type Caches = Option<FrozenSlots<'static, (Source, HeapThreads)>>;

fn freeze_caches() -> Caches {
    let own: Option<CpuId> = Threads.pin();
    match existing()? {
        Heap::Plain(heap) => Some(heap.registry().freeze_slots(own)),
        Heap::Checked(heap) => Some(heap.registry().freeze_slots(own)),
    }
}

/// Clears the marks of other threads in the slots of all caches.
///
/// # Safety
/// 1. The process was just forked, and the caller is its only thread.
/// 2. The guard of `freeze_caches` has lived since before the fork, on a system that can fence.
unsafe fn forget_others() {
    let own: Option<CpuId> = Threads.pin();
    match existing() {
        // SAFETY: clauses 1 and 2 are its clauses 1 and 2; clause 3: `own` is the caller's.
        Some(Heap::Plain(heap)) => unsafe { heap.registry().forget_others(own) },
        // SAFETY: clauses 1 and 2 are its clauses 1 and 2; clause 3: `own` is the caller's.
        Some(Heap::Checked(heap)) => unsafe { heap.registry().forget_others(own) },
        None => {}
    }
}
