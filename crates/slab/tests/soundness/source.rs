//! A page source with hooks, which the tests use to act in the middle of a call of a cache.

use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use page_frame::{Arena, Order, OutOfMemory, PageBlock, PageMap, PageSource, Tag, TagRange};

/// The pages of an arena.
pub(crate) struct HookedSource<'a> {
    pub(crate) arena: &'a Arena<'a>,
    /// Runs at the start of each allocation of a block.
    pub(crate) on_allocate: Box<dyn Fn() + Send + Sync + 'a>,
    /// Runs in each look-up of a tag, after the tag was read.
    pub(crate) on_tag: Box<dyn Fn() + Send + Sync + 'a>,
    /// Set when the source is dropped.
    dropped: Arc<AtomicBool>,
}

impl<'a> HookedSource<'a> {
    pub(crate) fn new(arena: &'a Arena<'a>) -> Self {
        let (on_allocate, on_tag) = (Box::new(|| ()), Box::new(|| ()));
        Self { arena, on_allocate, on_tag, dropped: Arc::default() }
    }

    /// Returns a flag that becomes true when the source is dropped.
    pub(crate) fn dropped(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.dropped)
    }
}

impl Drop for HookedSource<'_> {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::SeqCst);
    }
}

// SAFETY: clauses 1 and 2: the arena allocates and frees every block. If `on_allocate` panics, no
// block has been allocated yet.
unsafe impl PageSource for HookedSource<'_> {
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        (self.on_allocate)();
        self.arena.allocate(order)
    }

    unsafe fn free(&self, block: PageBlock) {
        // SAFETY: the caller's clauses are the arena's.
        unsafe { self.arena.free(block) }
    }
}

// SAFETY: the arena's map answers every call. The range is empty, so that each look-up of a tag
// calls `tag`.
unsafe impl PageMap for HookedSource<'_> {
    fn tag(&self, address: usize) -> Tag {
        let tag = self.arena.tag(address);
        (self.on_tag)();
        tag
    }

    fn tag_range(&self) -> TagRange {
        TagRange::EMPTY
    }

    fn owner(&self, address: usize) -> *mut () {
        self.arena.owner(address)
    }

    unsafe fn set_owner(&self, start: NonNull<u8>, pages: usize, tag: Tag, owner: NonNull<()>) {
        // SAFETY: the caller's clause is the arena's.
        unsafe { self.arena.set_owner(start, pages, tag, owner) }
    }

    unsafe fn clear_owner(&self, start: NonNull<u8>, order: Order) {
        // SAFETY: the caller's clause is the arena's.
        unsafe { self.arena.clear_owner(start, order) }
    }

    unsafe fn set_run(&self, start: NonNull<u8>, pages: usize) {
        // SAFETY: the caller's clause is the arena's.
        unsafe { self.arena.set_run(start, pages) }
    }

    unsafe fn clear_run(&self, start: NonNull<u8>, order: Order) {
        // SAFETY: the caller's clause is the arena's.
        unsafe { self.arena.clear_run(start, order) }
    }

    fn pointer(&self, address: usize) -> NonNull<u8> {
        self.arena.pointer(address)
    }
}

/// Calls `test` with an arena, which must have all pages again afterwards.
pub(crate) fn with_arena<R>(test: impl FnOnce(&Arena<'_>) -> R) -> R {
    let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    let arena = Arena::new(&mut memory).expect("large enough");
    let pages = arena.free_pages();
    let outcome = test(&arena);
    assert_eq!(arena.free_pages(), pages, "every page is back");
    arena.validate().expect("consistent");
    outcome
}

/// Returns an arena that is never dropped.
pub(crate) fn static_arena() -> &'static Arena<'static> {
    let memory = Vec::leak(vec![MaybeUninit::uninit(); 1 << 20]);
    Box::leak(Box::new(Arena::new(memory).expect("large enough")))
}
