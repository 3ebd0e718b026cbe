//! Page sources and machines with more abilities than an arena and a CPU: a source that moves
//! content, and a machine that lends ids. Also the allocator as a shrinker, and its checks of
//! layouts and of free objects.
#![cfg(not(loom))]

use std::alloc::Layout;
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use kmalloc::{Kmalloc, LARGEST};
use page_frame::{
    Arena, Cpu, CpuId, ForwardPageMap, OneContext, Order, OutOfMemory, PAGE_SIZE, PageBlock,
    PageMap, PageResize, PageRun, PageSource, Shrink, SingleCpu,
};
use slab::{Debugging, Hardened, Registry};
use testkit::Pattern;

const PAGES: usize = 4096;

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 8).expect("a layout")
}

/// A source that can move content, like one that maps pages. It copies whole pages instead, and
/// counts them.
struct Moving<'a> {
    arena: &'a Arena<'a>,
    moved: Cell<usize>,
    can_move: bool,
}

// SAFETY: clauses 1 and 2: the arena allocates and frees every block.
unsafe impl PageSource for Moving<'_> {
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        self.arena.allocate(order)
    }
    unsafe fn free(&self, block: PageBlock) {
        // SAFETY: the clauses are the caller's.
        unsafe { self.arena.free(block) }
    }
}

// SAFETY: clause 1: always the arena's map.
unsafe impl ForwardPageMap for Moving<'_> {
    fn page_map(&self) -> &impl PageMap {
        self.arena
    }
}

// SAFETY: clauses 1 and 2: the arena allocates, resizes and frees every run.
unsafe impl PageResize for Moving<'_> {
    fn allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        self.arena.allocate_run(pages, alignment)
    }
    unsafe fn free_run(&self, start: NonNull<u8>, pages: usize) {
        // SAFETY: the clauses are the caller's.
        unsafe { self.arena.free_run(start, pages) }
    }
    unsafe fn move_content(&self, from: NonNull<u8>, to: NonNull<u8>, pages: usize) -> bool {
        if self.can_move {
            self.moved.set(self.moved.get() + pages);
            // SAFETY: clause 1: two runs of the caller's of at least as many pages.
            unsafe { to.copy_from_nonoverlapping(from, pages * PAGE_SIZE) };
        }
        self.can_move
    }
}

/// Mutations that it catches: `remap` moves fewer pages than the content has, or content that is
/// not a run of pages; `reallocate` copies although the source could move (only the count of pages
/// shows it).
#[test]
fn large_content_is_moved_by_the_source_where_it_can() {
    const MIB: usize = 1 << 20;
    let mut memory = vec![MaybeUninit::uninit(); PAGES * PAGE_SIZE];
    let arena = Arena::new(&mut memory).expect("large enough");
    for can_move in [true, false] {
        let source = Moving { arena: &arena, moved: Cell::new(0), can_move };
        let kmalloc = Kmalloc::new(Registry::new(&source, SingleCpu::new()).expect("room"));
        // Below a MiB, at it, in the middle of a page, and from an object of a class.
        let cases =
            [(MIB - 1, 0), (MIB, MIB / PAGE_SIZE), (MIB + 100, MIB / PAGE_SIZE + 1), (LARGEST, 0)];
        for (bytes, pages) in cases {
            let start = kmalloc.allocate(layout(bytes)).expect("room");
            // SAFETY: the allocation has that many bytes.
            unsafe { Pattern(bytes as u64).fill(start, bytes) };
            source.moved.set(0);
            // The source resizes no run, so the content moves.
            // SAFETY: allocated above with this layout, and the new address is used from now on.
            let moved = unsafe { kmalloc.reallocate(start, layout(bytes), 3 * MIB) };
            let moved = moved.expect("room");
            assert_ne!(moved, start);
            assert_eq!(source.moved.get(), if can_move { pages } else { 0 }, "{bytes}");
            // SAFETY: the content of both sizes.
            assert!(unsafe { Pattern(bytes as u64).is_in(moved, bytes) });
            // SAFETY: allocated by the call above.
            unsafe { kmalloc.free(moved) };
        }
        assert_eq!(kmalloc.large_pages(), 0);
        kmalloc.validate().expect("consistent");
        kmalloc.shrink_all();
    }
    arena.validate().expect("consistent");
}

/// A machine with one CPU, whose callers have no id unless they borrow it.
#[derive(Clone, Copy)]
struct Lending<'a>(&'a Cell<(bool, usize)>);

// SAFETY: one context with one id, as the type is not `Sync`; while the id is lent, `pin` returns
// it, and otherwise nothing does.
unsafe impl Cpu for Lending<'_> {
    fn slots(&self) -> usize {
        1
    }
    fn pin(&self) -> Option<CpuId> {
        self.0.get().0.then_some(CpuId::new(0))
    }
    unsafe fn unpin(&self) {}
    fn borrow(&self) -> bool {
        let (is_lent, count) = self.0.get();
        assert!(!is_lent, "the context has an id");
        self.0.set((true, count + 1));
        true
    }
    unsafe fn give_back(&self) {
        self.0.set((false, self.0.get().1));
    }
    fn fence_all(&self) -> bool {
        true
    }
}

/// For example, a thread that is ending has no id, and borrows one for each call. With it the call
/// finds the objects that earlier calls freed into the slot.
///
/// Mutations that it catches: a borrowed id is not given back; the slow path does not try the slot
/// again (each free goes to a slab).
#[test]
fn a_caller_without_an_id_borrows_one_for_each_call() {
    let mut memory = vec![MaybeUninit::uninit(); PAGES * PAGE_SIZE];
    let arena = Arena::new(&mut memory).expect("large enough");
    let lent = Cell::new((false, 0));
    let kmalloc = Kmalloc::new(Registry::new(&arena, Lending(&lent)).expect("room"));
    let warm: Vec<_> = (0..20).map(|_| kmalloc.allocate(layout(100)).expect("room")).collect();
    for start in warm {
        // SAFETY: allocated above.
        unsafe { kmalloc.free(start) };
    }
    let before = lent.get();
    assert!(!before.0 && before.1 >= 40, "each call borrowed: {before:?}");
    for round in 1..=50 {
        let start = kmalloc.allocate(layout(100)).expect("room");
        assert_eq!(lent.get(), (false, before.1 + 2 * round - 1));
        // SAFETY: allocated above.
        unsafe { kmalloc.free(start) };
        assert_eq!(lent.get(), (false, before.1 + 2 * round));
        let again = kmalloc.try_allocate(layout(100)).map(|again| again == start);
        assert!(again.is_ok());
    }
    kmalloc.validate().expect("consistent");
}

/// Mutations that it catches: `Kmalloc` as a shrinker releases nothing, or reports that nothing can
/// be released.
#[test]
fn the_allocator_is_a_shrinker_and_can_be_printed() {
    let mut memory = vec![MaybeUninit::uninit(); PAGES * PAGE_SIZE];
    let arena = Arena::new(&mut memory).expect("large enough");
    // SAFETY: clause 1: the test is the only context.
    let cpu = unsafe { OneContext::new() };
    let kmalloc = Kmalloc::new(Registry::new(&arena, cpu).expect("room"));
    let kmalloc = kmalloc.with_magazine_bytes(256).with_depot_bytes(0).with_min_objects(40);
    let starts: Vec<_> = (0..400).map(|_| kmalloc.allocate(layout(256)).expect("room")).collect();
    let mut stats = None;
    kmalloc.registry().stats(|found| {
        if found.object_size == 256 {
            stats = Some(*found);
        }
    });
    let stats = stats.expect("the class has a cache");
    assert!(stats.objects_per_slab >= 40, "40 objects of 256 bytes: {stats:?}");
    for start in starts {
        // SAFETY: allocated above.
        unsafe { kmalloc.free(start) };
    }
    let held = kmalloc.pages_held();
    assert_eq!(format!("{kmalloc:?}"), format!("Kmalloc {{ pages_held: {held}, .. }}"));
    assert!(kmalloc.reclaimable() > 0);
    let given = Shrink::shrink(&kmalloc, usize::MAX);
    assert!(given > 0 && kmalloc.pages_held() + given <= held);
    assert_eq!(kmalloc.reclaimable(), 0);
}

/// A claimed layout is compared with the requested size, if the preset records it, otherwise with
/// the size of the class.
///
/// Mutation that it catches: `check_layout_owned` compares with the size of the class under a
/// preset that records the requested one.
#[test]
fn a_claimed_layout_is_compared_and_free_objects_are_checked() {
    let mut memory = vec![MaybeUninit::uninit(); PAGES * PAGE_SIZE];
    let arena = Arena::new(&mut memory).expect("large enough");
    let registry = Registry::with_fault_hook(&arena, SingleCpu::new(), |_| ()).expect("room");
    let kmalloc = Kmalloc::<_, Debugging>::with_hardening(registry);
    let start = kmalloc.allocate(layout(100)).expect("room");
    let large = kmalloc.allocate(layout(LARGEST + 1)).expect("room");
    let wrong = |start, bytes| {
        // SAFETY: clauses 1 and 2: the test's own allocation, which no other code uses.
        unsafe { kmalloc.check_layout_owned(start, layout(bytes)) }
    };
    assert!(wrong(start, 100).is_ok() && wrong(large, LARGEST + 5).is_ok());
    let text = wrong(start, 99).expect_err("100").to_string();
    assert!(text.contains("expected one of 100 usable bytes, found one of 99"), "{text}");
    let text = wrong(large, LARGEST + 2 * PAGE_SIZE).expect_err("a page more").to_string();
    assert!(text.starts_with("WrongSize"), "{text}");
    // SAFETY: allocated above.
    unsafe { kmalloc.free(large) };

    let registry = Registry::with_fault_hook(&arena, SingleCpu::new(), |_| ()).expect("room");
    let hardened = Kmalloc::<_, Hardened>::with_hardening(registry);
    let freed = hardened.allocate(layout(100)).expect("room");
    let other = hardened.allocate(layout(1000)).expect("room");
    // SAFETY: allocated above.
    unsafe { hardened.free(freed) };
    // SAFETY: clause 1: no other code uses the allocator.
    assert_eq!(unsafe { hardened.check_free_objects() }, 0);
    let byte = freed.as_ptr().wrapping_add(50);
    // SAFETY: not sound in general: the object is free. The check must find this bug. The byte lies
    // in the arena.
    unsafe { byte.write(1) };
    // SAFETY: as above.
    assert_eq!(unsafe { hardened.check_free_objects() }, 1);
    // SAFETY: allocated above.
    unsafe { hardened.free(other) };
    // SAFETY: allocated above.
    unsafe { kmalloc.free(start) };
}
