//! The state of a heap: its pages and the handle of its caches. It stays until the process ends, in
//! a mapping of its own.

use core::ptr::NonNull;

use page_frame::{OutOfMemory, Reclaiming, Shrink};
use slab::{FrozenSlots, Registry};
use spin::Once;

use crate::pages::Pages;
use crate::purge::trim::Trim;
use crate::system::mapping::Mapped;
use crate::threads::HeapThreads;

/// The page source of a heap: when it runs out of pages, it shrinks the caches and tries again.
type HeapPages = Reclaiming<&'static Pages, HeapCaches>;
/// The pages and the CPUs of a [`Heap`](crate::Heap).
///
/// ```
/// static HEAP: hosted::Heap = hosted::Heap::new();
/// fn classes(kmalloc: &kmalloc::Kmalloc<hosted::HeapSystem>) -> usize {
///     let mut count = 0;
///     kmalloc.registry().stats(|_| count += 1);
///     count
/// }
/// assert!(classes(HEAP.kmalloc()?) > 0);
/// # Ok::<(), page_frame::OutOfMemory>(())
/// ```
pub type HeapSystem = (HeapPages, HeapThreads);

/// The state of a heap.
pub(crate) struct State {
    pages: Pages,
    registry: Once<Registry<HeapSystem>>,
}

/// The heap that takes part in `fork` and returns memory at misses: the first one.
static MAIN: Once<&'static State> = Once::new();

impl State {
    /// Moves `pages` into the state of a heap.
    pub(crate) fn make(pages: Pages) -> Result<&'static Self, OutOfMemory> {
        let memory = Mapped::reserve(size_of::<Self>())?;
        let place: NonNull<Self> = memory.start().cast();
        // SAFETY: fresh memory of that size, aligned to a page.
        unsafe { place.write(Self { pages, registry: Once::new() }) };
        core::mem::forget(memory);
        // SAFETY: written above, and never unmapped.
        Ok(unsafe { place.as_ref() })
    }

    /// Returns a page source over the pages.
    pub(crate) fn source(&'static self) -> HeapPages {
        Reclaiming::new(&self.pages, HeapCaches(self))
    }

    pub(crate) fn pages(&self) -> &Pages {
        &self.pages
    }

    /// Notes the registry that was made over `source`. The first heap of the process becomes the
    /// main one. Returns whether this is the main one.
    pub(crate) fn begin(&'static self, registry: &Registry<HeapSystem>) -> bool {
        self.registry.call_once(|| registry.clone());
        let is_main = core::ptr::eq(*MAIN.call_once(|| self), self);
        if is_main {
            self.pages.decay_at_misses();
        }
        is_main
    }

    /// Returns the main heap, if there is one.
    pub(crate) fn main() -> Option<&'static Self> {
        MAIN.get().copied()
    }

    /// Returns the caches, once they are made.
    pub(crate) fn registry(&self) -> Option<&Registry<HeapSystem>> {
        self.registry.get()
    }
}

/// The frozen slots of a heap's caches.
pub(crate) type Frozen = Option<FrozenSlots<'static, HeapSystem>>;

/// The trim hook: the main heap's caches release memory.
pub(crate) fn trim_main(trim: Trim) {
    if let Some(registry) = State::main().and_then(State::registry) {
        match trim {
            Trim::Surplus => registry.age(),
            Trim::All => _ = registry.shrink_own(),
        }
    }
}

/// The caches of a heap, as the shrinker of its page source.
///
/// ```
/// use page_frame::Shrink;
/// static HEAP: hosted::Heap = hosted::Heap::new();
/// let caches: &hosted::HeapCaches = HEAP.kmalloc()?.registry().source().shrinker();
/// println!("{} pages could be released", caches.reclaimable());
/// # Ok::<(), page_frame::OutOfMemory>(())
/// ```
#[derive(Clone, Copy)]
pub struct HeapCaches(&'static State);

impl HeapCaches {
    pub(crate) fn state(self) -> &'static State {
        self.0
    }
}

impl core::fmt::Debug for HeapCaches {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("HeapCaches").finish_non_exhaustive()
    }
}

impl Shrink for HeapCaches {
    fn reclaimable(&self) -> usize {
        self.0.registry().map_or(0, Registry::reclaimable)
    }

    fn shrink(&self, target_pages: usize) -> usize {
        self.0.registry().map_or(0, |registry| registry.shrink(target_pages))
    }
}
