//! The process: what happens when the library is loaded, and when the process ends.

use hosted::{Purger, Threads};

use crate::heap::{Heap, existing, pages};
use crate::{environment, stats};

mod atfork;
mod fork;

#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = load;

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_END: extern "C" fn() = end;

/// The loader calls this when it loads the library, usually long after the first `malloc`.
extern "C" fn load() {
    atfork::register();
    stats::start();
    if let Some((interval, pages)) =
        environment::purge_interval().and_then(|interval| Some((interval, pages()?)))
    {
        // The thread ends with the process. If it cannot start, only frees purge.
        core::mem::forget(Purger::start(pages, interval));
    }
}

extern "C" fn end() {
    if let Some(Heap::Checked(heap)) = existing() {
        // SAFETY: clause 1: no other thread is in the allocator or gets into it meanwhile, and what
        // others have allocated is not free. This thread does not return to the program.
        let _ = Threads.while_alone(|| unsafe { heap.check_free_objects() });
    }
    stats::end();
}
