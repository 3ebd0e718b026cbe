//! Where memory ends: a hook with state, requests that ask no hook, and a budget for each instance.

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

/// An out-of-memory hook with state: blocks put by for the day, and how often it was asked for how
/// much.
struct PutBy<'a> {
    arena: &'a Arena<'a>,
    blocks: Mutex<Vec<PageBlock>>,
    asked: AtomicUsize,
    asked_pages: AtomicUsize,
}

impl<'a> PutBy<'a> {
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

impl Shrink for PutBy<'_> {
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

impl Drop for PutBy<'_> {
    fn drop(&mut self) {
        let blocks = std::mem::take(&mut *self.blocks.lock().expect("no panic"));
        // SAFETY: from the arena, and unused.
        blocks.into_iter().for_each(|block| unsafe { self.arena.free(block) });
    }
}

/// Runs `test` over an arena with a hook that has put so many blocks of 16 pages by; afterwards all
/// pages are returned.
fn with_hook(blocks: usize, test: impl FnOnce(&TestKmalloc<'_>, &PutBy<'_>)) {
    let mut memory = vec![MaybeUninit::uninit(); PAGES * PAGE_SIZE];
    let arena = Arena::new(&mut memory).expect("large enough");
    let free = arena.free_pages();
    let hook = PutBy::new(&arena, blocks);
    let source = Reclaiming::new(&arena, &hook);
    let kmalloc = Kmalloc::new(Registry::new(source, SingleCpu::new()).expect("room"));
    test(&kmalloc, &hook);
    kmalloc.validate().expect("consistent");
    drop(kmalloc);
    drop(hook);
    assert_eq!(arena.free_pages(), free, "all pages are returned");
}

type TestKmalloc<'a> = Kmalloc<(Reclaiming<&'a Arena<'a>, &'a PutBy<'a>>, SingleCpu)>;

/// Allocates by `take` until memory runs out.
fn all(mut take: impl FnMut() -> Result<NonNull<u8>, OutOfMemory>) -> Vec<NonNull<u8>> {
    std::iter::from_fn(|| take().ok()).collect()
}

fn free_all(kmalloc: &TestKmalloc<'_>, starts: Vec<NonNull<u8>>) {
    // SAFETY: the callers pass what this allocator gave them, each once.
    starts.into_iter().for_each(|start| unsafe { kmalloc.free(start) });
}

#[test]
fn a_hook_is_asked_once_for_a_request_and_what_it_gives_serves_it() {
    with_hook(2, |kmalloc, hook| {
        let mut most = all(|| kmalloc.try_allocate(layout(16 * PAGE_SIZE)));
        most.extend(all(|| kmalloc.try_allocate(layout(9 * PAGE_SIZE))));
        assert_eq!(hook.asked(), 0);
        let first = kmalloc.allocate(layout(16 * PAGE_SIZE)).expect("the hook has two such blocks");
        let second = kmalloc.allocate(layout(9 * PAGE_SIZE)).expect("the hook has another");
        assert_eq!(hook.asked(), 2);
        assert_eq!(hook.asked_pages.load(Ordering::Relaxed), 16 + 9, "as many as were missing");
        assert!(kmalloc.allocate(layout(16 * PAGE_SIZE)).is_err());
        assert_eq!(hook.asked(), 3, "asked once more, and then it is out of memory");
        free_all(kmalloc, vec![first, second]);
        free_all(kmalloc, most);
    });
}

#[test]
fn trying_asks_no_hook_whatever_the_size() {
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
        // An unused class, for whose cache there is no page.
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
fn a_budget_stops_one_instance_and_not_the_other() {
    let mut memory = vec![MaybeUninit::uninit(); PAGES * PAGE_SIZE];
    let arena = Arena::new(&mut memory).expect("large enough");
    let free = arena.free_pages();
    let small = Limited::new(&arena).with_quota(40);
    let large = Limited::new(&arena).with_quota(300);
    let on = |source| Kmalloc::new(Registry::new(source, SingleCpu::new()).expect("room"));
    let (poor, rich) = (on(&small), on(&large));
    let poors = all(|| poor.kmalloc(1000));
    assert!((30 * 4..=40 * 4).contains(&poors.len()), "{} objects in 40 pages", poors.len());
    assert!(poor.kmalloc(10 * PAGE_SIZE).is_err(), "its budget is spent");
    assert_eq!(small.held_pages(), poor.pages_held(), "it pays for what it holds");
    let riches: Vec<_> = (0..800).map(|_| rich.kmalloc(1000).expect("in its budget")).collect();
    assert!(arena.free_pages() > 0);
    // Freed memory may be allocated again.
    for start in poors {
        // SAFETY: from the poor one, once.
        unsafe { poor.kfree(Some(start)) };
    }
    poor.shrink_all();
    let large = poor.kmalloc(20 * PAGE_SIZE).expect("its budget is free again");
    // SAFETY: the twenty pages, from the same instance.
    unsafe { poor.kfree(Some(large)) };
    for start in riches {
        // SAFETY: from the rich one, once.
        unsafe { rich.kfree(Some(start)) };
    }
    drop((poor, rich));
    assert_eq!(arena.free_pages(), free, "all pages are returned");
}
