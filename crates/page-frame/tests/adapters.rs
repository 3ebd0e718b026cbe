//! Adapters over a page source: each call reaches the source, and the shrinker is asked where a
//! request may wait, and nowhere else.
#![cfg(not(loom))]

use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use page_frame::{
    Arena, ByteSource, Counted, FaultKind, ForwardPageMap, Limited, NoPages, Order, OutOfMemory,
    PAGE_SIZE, PageBlock, PageMap, PageResize, PageRun, PageSource, Reclaiming, Shrink, ShrinkList,
    Tag,
};

fn memory(pages: usize) -> Vec<MaybeUninit<u8>> {
    vec![MaybeUninit::uninit(); pages * PAGE_SIZE]
}

fn order(order: u8) -> Order {
    Order::new(order).expect("small")
}

/// An arena that notes each call.
struct Noted<'a> {
    arena: &'a Arena<'a>,
    calls: &'a Mutex<Vec<&'static str>>,
}

impl Noted<'_> {
    fn note(&self, call: &'static str) {
        self.calls.lock().expect("no panic").push(call);
    }
}

// SAFETY: clauses 1 and 2: the arena allocates and frees every block.
unsafe impl PageSource for Noted<'_> {
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        self.note("allocate");
        self.arena.allocate(order)
    }
    fn try_allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        self.note("try_allocate");
        self.arena.try_allocate(order)
    }
    unsafe fn free(&self, block: PageBlock) {
        self.note("free");
        // SAFETY: the clauses are the caller's.
        unsafe { self.arena.free(block) }
    }
}

// SAFETY: clause 1: always the arena's map.
unsafe impl ForwardPageMap for Noted<'_> {
    fn page_map(&self) -> &impl PageMap {
        self.arena
    }
}

// SAFETY: clauses 1 and 2: the arena allocates, resizes and frees every run.
unsafe impl PageResize for Noted<'_> {
    fn allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        self.note("allocate_run");
        self.arena.allocate_run(pages, alignment)
    }
    fn try_allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        self.note("try_allocate_run");
        self.arena.try_allocate_run(pages, alignment)
    }
    unsafe fn free_run(&self, start: NonNull<u8>, pages: usize) {
        self.note("free_run");
        // SAFETY: the clauses are the caller's.
        unsafe { self.arena.free_run(start, pages) }
    }
    unsafe fn resize_run(&self, start: NonNull<u8>, pages: usize, new_pages: usize) -> bool {
        self.note("resize_run");
        // SAFETY: the clauses are the caller's.
        unsafe { self.arena.resize_run(start, pages, new_pages) }
    }
    unsafe fn move_content(&self, _: NonNull<u8>, _: NonNull<u8>, pages: usize) -> bool {
        self.note("move_content");
        pages == 3
    }
}

/// Calls everything once; the source has noted the same calls.
fn calls_of(source: &impl PageResize, calls: &Mutex<Vec<&'static str>>) -> Vec<&'static str> {
    calls.lock().expect("no panic").clear();
    let blocks = [source.allocate(order(1)), source.try_allocate(order(0))];
    for block in blocks {
        // SAFETY: allocated above, and not in use.
        unsafe { source.free(block.expect("room")) };
    }
    let runs = [source.allocate_run(3, Order::ZERO), source.try_allocate_run(5, Order::ZERO)];
    let [first, second] = runs.map(|run| run.expect("room"));
    assert_eq!((first.pages(), first.is_zero(), second.pages()), (3, false, 5));
    assert_eq!(source.run_pages(second.start().addr().get()), Some(5));
    // SAFETY: runs of this source with at least as many pages, not in use.
    assert!(unsafe { source.move_content(second.start(), first.start(), 3) });
    // SAFETY: as above.
    assert!(!unsafe { source.move_content(second.start(), first.start(), 2) });
    // SAFETY: the run is ours.
    assert!(unsafe { source.resize_run(second.start(), 5, 4) });
    // SAFETY: allocated above.
    unsafe { source.free_run(first.start(), 3) };
    // SAFETY: as above, with the length that it has now.
    unsafe { source.free_run(second.start(), 4) };
    calls.lock().expect("no panic").clone()
}

/// Mutation that it catches: an adapter without `try_allocate`, whose provided body waits, or
/// without `move_content`, whose provided body moves nothing.
#[test]
fn adapters_forward_each_call_to_the_same_method() {
    const CALLS: [&str; 11] = [
        "allocate",
        "try_allocate",
        "free",
        "free",
        "allocate_run",
        "try_allocate_run",
        "move_content",
        "move_content",
        "resize_run",
        "free_run",
        "free_run",
    ];
    let mut memory = memory(40);
    let arena = Arena::new(&mut memory).expect("large enough");
    let (free, calls) = (arena.free_pages(), Mutex::new(Vec::new()));
    let noted = || Noted { arena: &arena, calls: &calls };
    assert_eq!(calls_of(&&noted(), &calls), CALLS);
    let counted = Counted::new(noted());
    assert_eq!(calls_of(&counted, &calls), CALLS);
    assert_eq!((counted.allocations(), counted.held_pages(), counted.peak_pages()), (4, 0, 8));
    let limited = Limited::new(noted()).with_quota(8);
    assert_eq!(calls_of(&limited, &calls), CALLS);
    assert!(ptr::eq(limited.source().arena, &arena) && limited.held_pages() == 0);
    let list = ShrinkList::<1>::default();
    let reclaiming = Reclaiming::new(noted(), &list);
    assert_eq!(calls_of(&reclaiming, &calls), CALLS);
    assert_eq!((arena.free_pages(), reclaiming.shrinker().reclaimable()), (free, 0));
    arena.validate().expect("consistent");
}

/// A source that has blocks only; runs come from the provided methods.
struct Blocks<'a>(&'a Arena<'a>);

// SAFETY: clauses 1 and 2: the arena allocates and frees every block.
unsafe impl PageSource for Blocks<'_> {
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        self.0.allocate(order)
    }
    unsafe fn free(&self, block: PageBlock) {
        // SAFETY: the clauses are the caller's.
        unsafe { self.0.free(block) }
    }
}

// SAFETY: clause 1: always the arena's map.
unsafe impl ForwardPageMap for Blocks<'_> {
    fn page_map(&self) -> &impl PageMap {
        self.0
    }
}

// SAFETY: clauses 1 and 2: the provided methods, over blocks.
unsafe impl PageResize for Blocks<'_> {}

/// Mutation that it catches: the provided `free_run` without `clear_run` (the block's free is
/// refused), or the provided `allocate_run` that records the pages asked for (the free is wrong).
#[test]
fn a_source_of_blocks_serves_runs_of_whole_blocks() {
    let mut memory = memory(40);
    let arena = Arena::new(&mut memory).expect("large enough");
    let (source, free) = (Blocks(&arena), arena.free_pages());
    for (pages, alignment, whole) in [(1, 0, 1), (3, 0, 4), (3, 3, 8), (4, 2, 4)] {
        let run = source.allocate_run(pages, order(alignment)).expect("room");
        let start = run.start();
        assert_eq!((run.pages(), arena.free_pages()), (whole, free - whole));
        assert_eq!(start.addr().get() % order(alignment).bytes(), 0);
        assert_eq!(source.run_pages(start.addr().get()), Some(whole));
        // SAFETY: the run is ours.
        assert!(!unsafe { source.resize_run(start, whole, whole + 1) });
        // SAFETY: as above.
        assert!(unsafe { source.resize_run(start, whole, whole) });
        // SAFETY: as above.
        assert!(!unsafe { source.move_content(start, start, whole) });
        // SAFETY: allocated above, and not in use.
        unsafe { source.free_run(start, whole) };
        assert_eq!((arena.free_pages(), arena.tag(start.addr().get())), (free, Tag::NONE));
    }
    for pages in [0, 1 << 30, usize::MAX] {
        assert_eq!(source.allocate_run(pages, Order::ZERO).err(), Some(OutOfMemory));
    }
    arena.validate().expect("consistent");
}

/// A shrinker with one run, which counts how many pages it was asked for.
struct Hoard<'a> {
    arena: &'a Arena<'a>,
    run: AtomicPtr<u8>,
    pages: usize,
    asked: AtomicUsize,
}

impl<'a> Hoard<'a> {
    /// Takes `pages` pages and leaves the rest.
    fn new(arena: &'a Arena<'a>, pages: usize) -> Self {
        let run = arena.allocate_run(pages, Order::ZERO).expect("room");
        let run = AtomicPtr::new(run.start().as_ptr());
        Self { arena, run, pages, asked: AtomicUsize::new(0) }
    }

    fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::Relaxed)
    }
}

impl Shrink for Hoard<'_> {
    fn reclaimable(&self) -> usize {
        if self.run.load(Ordering::Relaxed).is_null() { 0 } else { self.pages }
    }
    fn shrink(&self, target_pages: usize) -> usize {
        self.asked.fetch_add(target_pages, Ordering::Relaxed);
        let Some(run) = NonNull::new(self.run.swap(ptr::null_mut(), Ordering::Relaxed)) else {
            return 0;
        };
        // SAFETY: taken by `new`, and not in use.
        unsafe { self.arena.free_run(run, self.pages) };
        self.pages
    }
}

/// Mutation that it catches: `try_allocate_bytes` that asks the shrinker, and `allocate_bytes` that
/// asks it for no page.
#[test]
fn a_shrinker_is_asked_for_bytes_too_and_never_by_a_try() {
    let mut memory = memory(20);
    let arena = Arena::new(&mut memory).expect("large enough");
    let hoard = Hoard::new(&arena, arena.pages() - 1);
    let source = Reclaiming::new(&arena, &hoard);
    let bytes = source.byte_source().expect("a small arena serves bytes");
    assert!(bytes.is_small() && (&&hoard).reclaimable() == arena.pages() - 1);
    let layout = Layout::from_size_align(2 * PAGE_SIZE + 100, 16).expect("a layout");
    assert_eq!(bytes.try_allocate_bytes(layout).err(), Some(OutOfMemory));
    assert_eq!(source.try_allocate(order(2)).err(), Some(OutOfMemory));
    assert_eq!(source.try_allocate_run(4, Order::ZERO).err(), Some(OutOfMemory));
    assert_eq!(hoard.asked(), 0);
    let start = bytes.allocate_bytes(layout).expect("the hoard is free now");
    assert_eq!((hoard.asked(), hoard.reclaimable()), (3, 0));
    let address = start.addr().get();
    assert!(bytes.bytes_at(address).is_ok_and(|bytes| bytes >= layout.size()));
    assert_eq!(bytes.byte_pages(), arena.byte_pages());
    // SAFETY: the memory is ours.
    assert!(unsafe { bytes.resize_at(start, 100) });
    // SAFETY: allocated above, and not in use.
    assert_eq!(unsafe { bytes.free_at(start) }, Ok(()));
    assert!(bytes.bytes_at(address).is_err());
    arena.validate().expect("consistent");
}

/// A large arena serves no bytes, so nor does the adapter, whatever code asks it for.
#[test]
fn without_bytes_in_the_source_there_are_none() {
    let mut memory = vec![MaybeUninit::uninit(); Arena::SMALL_BYTES + 1];
    let arena = Arena::new(&mut memory).expect("large enough");
    let list = ShrinkList::<0>::new();
    let source = Reclaiming::new(&arena, &list);
    assert!(source.byte_source().is_none());
    let (layout, start) = (Layout::new::<u64>(), NonNull::dangling());
    assert!(!source.is_small() && source.byte_pages() == 0);
    assert_eq!(source.allocate_bytes(layout), Err(OutOfMemory));
    assert_eq!(source.try_allocate_bytes(layout), Err(OutOfMemory));
    assert_eq!(source.bytes_at(4096), Err(FaultKind::ForeignPointer));
    // SAFETY: nothing was allocated, which is the test: the call finds no source of bytes.
    assert_eq!(unsafe { source.free_at(start) }, Err(FaultKind::ForeignPointer));
    // SAFETY: as above.
    assert!(!unsafe { source.resize_at(start, 8) });
}

/// Mutation that it catches: a refusal that drops the block (the drop panics too, and aborts).
#[test]
fn no_pages_has_none() {
    assert_eq!(NoPages.allocate(Order::ZERO).err(), Some(OutOfMemory));
    let mut page = MaybeUninit::<[u8; PAGE_SIZE]>::uninit();
    let address = NonNull::from(&mut page).cast::<u8>();
    let aligned = address.as_ptr().wrapping_sub(address.addr().get() % PAGE_SIZE);
    let start = NonNull::new(aligned).expect("not null");
    let refused = std::panic::catch_unwind(|| {
        // SAFETY: not so: no page was allocated. The call only panics.
        let block = unsafe { PageBlock::from_raw(start, Order::ZERO, true) };
        assert!(block.is_zero() && block.bytes() == PAGE_SIZE && block.order() == Order::ZERO);
        // SAFETY: as above.
        unsafe { NoPages.free(block) };
    });
    let text = *refused.expect_err("refused").downcast::<String>().expect("a text");
    assert!(text.contains("NoPages never returned a block"), "{text}");
}
