//! The process: what happens when the library is loaded, when the process forks, and when it ends.

use core::cell::UnsafeCell;
use core::ffi::c_int;

use hosted::{Forking, Freeze, HeapThreads, Purger, Threads};
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
struct Place(UnsafeCell<Option<Forking<'static, Slots>>>);

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
    if let Some(forking) = take() {
        forking.end_in_parent();
    }
}

unsafe extern "C" fn in_child() {
    if let Some(forking) = take() {
        // SAFETY: clause 1: the C library calls this in the child, on the thread that called `before_fork`.
        unsafe { forking.end_in_child() };
    }
    stats::start_in_child();
}

fn take() -> Option<Forking<'static, Slots>> {
    // SAFETY: the gate is still ours.
    let place = unsafe { &mut *FORKING.0.get() };
    place.take()
}

/// The slots of the caches of the allocator that serves.
struct Slots;

impl Freeze for Slots {
    type Frozen<'a> = Option<FrozenSlots<'static, (Source, HeapThreads)>>;

    fn freeze(&self) -> Self::Frozen<'_> {
        let own: Option<CpuId> = Threads.pin();
        match existing()? {
            Heap::Plain(heap) => Some(heap.registry().freeze_slots(own)),
            Heap::Checked(heap) => Some(heap.registry().freeze_slots(own)),
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
