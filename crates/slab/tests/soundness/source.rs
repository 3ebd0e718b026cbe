//! A page source that calls back before it answers, and says when it is dropped.

use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use page_frame::{Arena, Order, OutOfMemory, PageBlock, PageMap, PageSource, Tag, TagRange};

/// Pages of an arena. `asked` runs before each block is allocated, `looked` before each tag is
/// returned.
pub(crate) struct Told<'a> {
    pub(crate) arena: &'a Arena<'a>,
    pub(crate) asked: Box<dyn Fn() + Send + Sync + 'a>,
    pub(crate) looked: Box<dyn Fn() + Send + Sync + 'a>,
    dropped: Arc<AtomicBool>,
}

impl<'a> Told<'a> {
    pub(crate) fn new(arena: &'a Arena<'a>) -> Self {
        let (asked, looked) = (Box::new(|| ()), Box::new(|| ()));
        Self { arena, asked, looked, dropped: Arc::default() }
    }

    /// Returns what becomes true when the source is dropped.
    pub(crate) fn dropped(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.dropped)
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::SeqCst);
    }
}

// SAFETY: both clauses are the arena's, which blocks come from and go to unchanged; a panic in
// `asked` comes before.
unsafe impl PageSource for Told<'_> {
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        (self.asked)();
        self.arena.allocate(order)
    }

    unsafe fn free(&self, block: PageBlock) {
        // SAFETY: the caller's clauses are the arena's.
        unsafe { self.arena.free(block) }
    }
}

// SAFETY: every answer is the arena's. Its range is empty, so that `tag` is asked each time.
unsafe impl PageMap for Told<'_> {
    fn tag(&self, address: usize) -> Tag {
        let tag = self.arena.tag(address);
        (self.looked)();
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

/// Returns an arena that is there for ever.
pub(crate) fn static_arena() -> &'static Arena<'static> {
    let memory = Vec::leak(vec![MaybeUninit::uninit(); 1 << 20]);
    Box::leak(Box::new(Arena::new(memory).expect("large enough")))
}
