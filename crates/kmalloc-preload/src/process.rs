//! The process: what happens when the library is loaded, when the process forks, and when it ends.

use core::cell::UnsafeCell;
use core::ffi::c_int;

use hosted::{Forking, Hold, Purger, Threads};
use page_frame::{Cpu, CpuId};

use crate::heap::{Heap, existing, pages};
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

/// Called by the loader when the library is loaded, usually long after the first `malloc`.
extern "C" fn load() {
    // SAFETY: registers functions that stay, as the library is never unloaded.
    unsafe { pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child)) };
    stats::start();
    if let Some((pages, interval)) = pages().zip(environment::purge_interval()) {
        // The thread ends with the process. Where there can be none, frees give memory back as they always do.
        core::mem::forget(Purger::start(pages, interval));
    }
}

extern "C" fn end() {
    stats::end();
}

/// A fork between its two handlers.
struct Place(UnsafeCell<Option<Forking>>);

// SAFETY: written and read only by the thread that has closed the gate (`Forking`).
unsafe impl Sync for Place {}

static FORKING: Place = Place(UnsafeCell::new(None));

unsafe extern "C" fn before_fork() {
    if let Some(pages) = pages() {
        let forking = Forking::begin(pages, &Slots);
        // SAFETY: the gate is ours until one of the other handlers.
        unsafe { FORKING.0.get().write(Some(forking)) };
    }
}

unsafe extern "C" fn in_parent() {
    if let Some((pages, forking)) = pages().zip(take()) {
        // SAFETY: begun with these.
        unsafe { forking.end_in_parent(pages, &Slots) };
    }
}

unsafe extern "C" fn in_child() {
    if let Some((pages, forking)) = pages().zip(take()) {
        // SAFETY: begun with these, and this is the child.
        unsafe { forking.end_in_child(pages, &Slots) };
    }
    stats::start_in_child();
}

fn take() -> Option<Forking> {
    // SAFETY: the gate is still ours.
    let place = unsafe { &mut *FORKING.0.get() };
    place.take()
}

/// The slots of the caches of the allocator that serves.
struct Slots;

impl Hold for Slots {
    fn hold(&self) {
        let own: Option<CpuId> = Threads.pin();
        match existing() {
            Some(Heap::Plain(heap)) => heap.registry().hold_slots(own),
            Some(Heap::Checked(heap)) => heap.registry().hold_slots(own),
            None => {}
        }
    }

    unsafe fn let_go(&self) {
        match existing() {
            // SAFETY: the caller's clause; with the gate closed nobody builds a cache.
            Some(Heap::Plain(heap)) => unsafe { heap.registry().let_slots_go() },
            // SAFETY: the caller's clause; this heap's registry was held like the other one's.
            Some(Heap::Checked(heap)) => unsafe { heap.registry().let_slots_go() },
            None => {}
        }
    }

    unsafe fn forget_others(&self) {
        let own: Option<CpuId> = Threads.pin();
        match existing() {
            // SAFETY: the caller's clause.
            Some(Heap::Plain(heap)) => unsafe { heap.registry().forget_others(own) },
            // SAFETY: the caller's clause.
            Some(Heap::Checked(heap)) => unsafe { heap.registry().forget_others(own) },
            None => {}
        }
    }
}
