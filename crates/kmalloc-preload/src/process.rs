//! The process: what happens when the library is loaded, and when the process ends.

use hosted::Purger;

use crate::heap::pages;
use crate::{atfork, environment, stats};

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
    stats::end();
}
