//! The options of a heap, which its static holds, and the set-up at the first request.

use core::time::Duration;

use kmalloc::{Kmalloc, SetUp};
use page_frame::{OutOfMemory, WithSlotStride};
use slab::{Hardening, Registry};

use crate::heap::fault::stop;
use crate::heap::fork;
use crate::heap::sizes::{DEPOT_BYTES, MAGAZINE_BYTES, MIN_OBJECTS};
use crate::heap::state::{HeapSystem, State, trim_main};
use crate::pages::Pages;
use crate::purge::decay::PURGE_DELAY;
use crate::threads::Threads;
use crate::threads::pause::pause;

/// The options of a heap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeapOptions {
    pub(crate) purge_delay: Duration,
    pub(crate) has_huge_pages: bool,
    /// The bytes in use for which one fresh area may have a huge page that is not full.
    pub(crate) huge_pages_from: Option<usize>,
}

impl HeapOptions {
    pub(crate) const fn new() -> Self {
        Self { purge_delay: PURGE_DELAY, has_huge_pages: true, huge_pages_from: None }
    }
}

impl<K: Hardening> SetUp<HeapSystem, K> for HeapOptions {
    fn set_up(&self) -> Result<Kmalloc<HeapSystem, K>, OutOfMemory> {
        let pages = Pages::new()?.with_trim_hook(trim_main).with_purge_delay(self.purge_delay);
        let pages = match self.huge_pages_from {
            _ if !self.has_huge_pages => pages.without_huge_pages(),
            Some(bytes) => pages.with_huge_pages_from(bytes),
            None => pages,
        };
        let state = State::make(pages)?;
        let cpus = WithSlotStride(Threads);
        let registry = Registry::with_fault_hook(state.source(), cpus, stop)?;
        if state.begin(&registry) {
            fork::register();
        }
        let kmalloc = Kmalloc::with_hardening(registry).with_magazine_bytes(MAGAZINE_BYTES);
        let kmalloc = kmalloc.with_depot_bytes(DEPOT_BYTES).with_min_objects(MIN_OBJECTS);
        Ok(kmalloc.with_secret(random_bits()))
    }

    fn wait(&self, round: usize) {
        pause(round);
    }
}

/// Returns a word of random bits that the kernel chose for this process, for canaries and shuffled
/// slabs; zero where the kernel passed none.
fn random_bits() -> usize {
    // SAFETY: `getauxval` accepts any type and only reads.
    let at = unsafe { libc::getauxval(libc::AT_RANDOM) } as *const usize;
    // SAFETY: `AT_RANDOM` is null or the address of 16 bytes that stay for the life of the process.
    if at.is_null() { 0 } else { unsafe { at.read_unaligned() } }
}
