//! Memory runs out: an out-of-memory hook with state, requests that do not call the hook, and a
//! quota of pages for each allocator.

use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use kmalloc::{Kmalloc, LARGEST};
use page_frame::{
    Arena, Limited, Order, OutOfMemory, PAGE_SIZE, PageBlock, PageSource, Reclaiming, Shrink,
    SingleCpu,
};
use slab::Registry;

/// More than a small memory has, so that classes have caches.
const PAGES: usize = 1100;

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 8).expect("a layout")
}

/// An out-of-memory hook with state: blocks in reserve, the number of its calls, and the pages that
/// these asked for.
struct Reserve<'a> {
    arena: &'a Arena<'a>,
    blocks: Mutex<Vec<PageBlock>>,
    asked: AtomicUsize,
    asked_pages: AtomicUsize,
}

impl<'a> Reserve<'a> {
    fn new(arena: &'a Arena<'a>, blocks: usize) -> Self {
        let order = Order::new(4).expect("16 pages");
        let blocks = (0..blocks).map(|_| arena.allocate(order).expect("room")).collect();
        let (asked, asked_pages) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { arena, blocks: Mutex::new(blocks), asked, asked_pages }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Shrink for Reserve<'_> {
    fn reclaimable(&self) -> usize {
        self.blocks.lock().expect("no panic").iter().map(PageBlock::pages).sum()
    }

    fn shrink(&self, target_pages: usize) -> usize {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.asked_pages.fetch_add(target_pages, Ordering::Relaxed);
        let Some(block) = self.blocks.lock().expect("no panic").pop() else { return 0 };
        let pages = block.pages();
        // SAFETY: from the arena, and unused.
        unsafe { self.arena.free(block) };
        pages
    }
}

impl Drop for Reserve<'_> {
    fn drop(&mut self) {
        let blocks = std::mem::take(&mut *self.blocks.lock().expect("no panic"));
        // SAFETY: from the arena, and unused.
        blocks.into_iter().for_each(|block| unsafe { self.arena.free(block) });
    }
}

/// Runs `test` over an arena with a hook that has `blocks` blocks of 16 pages in reserve.
/// Afterwards all pages are returned.
fn with_hook(blocks: usize, test: impl FnOnce(&TestKmalloc<'_>, &Reserve<'_>)) {
    let mut memory = vec![MaybeUninit::uninit(); PAGES * PAGE_SIZE];
    let arena = Arena::new(&mut memory).expect("large enough");
    let free = arena.free_pages();
    let hook = Reserve::new(&arena, blocks);
    let source = Reclaiming::new(&arena, &hook);
    let kmalloc = Kmalloc::new(Registry::new(source, SingleCpu::new()).expect("room"));
    test(&kmalloc, &hook);
    kmalloc.validate().expect("consistent");
    drop(kmalloc);
    drop(hook);
    assert_eq!(arena.free_pages(), free, "all pages are returned");
}

type TestKmalloc<'a> = Kmalloc<(Reclaiming<&'a Arena<'a>, &'a Reserve<'a>>, SingleCpu)>;

/// Allocates by `take` until memory runs out.
fn all(mut take: impl FnMut() -> Result<NonNull<u8>, OutOfMemory>) -> Vec<NonNull<u8>> {
    std::iter::from_fn(|| take().ok()).collect()
}

fn free_all(kmalloc: &TestKmalloc<'_>, starts: Vec<NonNull<u8>>) {
    // SAFETY: the callers pass what this allocator gave them, each once.
    starts.into_iter().for_each(|start| unsafe { kmalloc.free(start) });
}

#[test]
fn a_request_calls_the_hook_once_and_uses_the_pages_that_it_releases() {
    with_hook(2, |kmalloc, hook| {
        let mut most = all(|| kmalloc.try_allocate(layout(16 * PAGE_SIZE)));
        most.extend(all(|| kmalloc.try_allocate(layout(9 * PAGE_SIZE))));
        assert_eq!(hook.asked(), 0);
        let first = kmalloc.allocate(layout(16 * PAGE_SIZE)).expect("the hook has two such blocks");
        let second = kmalloc.allocate(layout(9 * PAGE_SIZE)).expect("the hook has another");
        assert_eq!(hook.asked(), 2);
        assert_eq!(hook.asked_pages.load(Ordering::Relaxed), 16 + 9, "the pages of both requests");
        assert!(kmalloc.allocate(layout(16 * PAGE_SIZE)).is_err());
        assert_eq!(hook.asked(), 3, "asked once more, with nothing in reserve");
        free_all(kmalloc, vec![first, second]);
        free_all(kmalloc, most);
    });
}

#[test]
fn try_allocate_calls_no_hook_whatever_the_size() {
    with_hook(3, |kmalloc, hook| {
        let sizes = [8, 100, 2048, 5000, LARGEST, LARGEST + 1];
        let some = sizes.iter().flat_map(|bytes| {
            (0..3).map(|_| kmalloc.try_allocate(layout(*bytes)).expect("there is room"))
        });
        let mut held: Vec<_> = some.collect();
        for bytes in sizes.into_iter().rev() {
            let rest = all(|| kmalloc.try_allocate(layout(bytes)));
            assert_eq!(hook.asked(), 0, "{bytes} bytes");
            held.extend(rest);
        }
        assert!(held.len() > 400, "{} objects of what there was", held.len());
        // A class without a cache, for which no page is free.
        assert!(kmalloc.try_allocate(layout(640)).is_err());
        assert_eq!(hook.asked(), 0);
        let object = kmalloc.allocate(layout(640)).expect("the hook has some");
        assert!(hook.asked() > 0);
        // Free memory is allocated without asking the hook.
        let before = hook.asked();
        free_all(kmalloc, vec![object]);
        let again = kmalloc.try_allocate(layout(640)).expect("just freed");
        assert_eq!(hook.asked(), before);
        held.push(again);
        free_all(kmalloc, held);
    });
}

#[test]
fn a_quota_stops_one_allocator_and_not_the_other() {
    let mut memory = vec![MaybeUninit::uninit(); PAGES * PAGE_SIZE];
    let arena = Arena::new(&mut memory).expect("large enough");
    let free = arena.free_pages();
    let small_source = Limited::new(&arena).with_quota(40);
    let large_source = Limited::new(&arena).with_quota(300);
    let on = |source| Kmalloc::new(Registry::new(source, SingleCpu::new()).expect("room"));
    let (small, large) = (on(&small_source), on(&large_source));
    let of_small = all(|| small.kmalloc(1000));
    assert!((30 * 4..=40 * 4).contains(&of_small.len()), "{} objects in 40 pages", of_small.len());
    assert!(small.kmalloc(10 * PAGE_SIZE).is_err(), "its quota is used up");
    assert_eq!(small_source.held_pages(), small.pages_held(), "its pages count");
    let of_large: Vec<_> =
        (0..800).map(|_| large.kmalloc(1000).expect("below its quota")).collect();
    assert!(arena.free_pages() > 0);
    // Freed memory may be allocated again.
    for start in of_small {
        // SAFETY: from this allocator, once.
        unsafe { small.kfree(Some(start)) };
    }
    small.shrink_all();
    let run = small.kmalloc(20 * PAGE_SIZE).expect("below its quota again");
    // SAFETY: the twenty pages, from this allocator.
    unsafe { small.kfree(Some(run)) };
    for start in of_large {
        // SAFETY: from this allocator, once.
        unsafe { large.kfree(Some(start)) };
    }
    drop((small, large));
    assert_eq!(arena.free_pages(), free, "all pages are returned");
}
