//! Empty slabs that caches keep and release: working sets, shrinking in proportion, limits,
//! callbacks.
#![cfg(not(loom))]

use std::alloc::Layout;
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use page_frame::{Arena, CacheName, Order, OutOfMemory, PageBlock, PageSource, SingleCpu};
use slab::{Cache, Event, Registry, Totals};

type Pages<'a> = &'a Arena<'a>;

/// Calls `test` with a registry over 2,000 pages.
fn with_registry(test: impl FnOnce(&Registry<(Pages<'_>, SingleCpu)>)) {
    let mut memory = vec![MaybeUninit::uninit(); 2048 << 12];
    let arena = Arena::new(&mut memory).expect("large enough");
    let pages = arena.free_pages();
    let registry = Registry::new(&arena, SingleCpu::new()).expect("room");
    test(&registry);
    registry.validate().expect("consistent");
    drop(registry);
    assert_eq!(arena.free_pages(), pages);
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("a layout")
}

fn take(cache: &Cache<(Pages<'_>, SingleCpu)>, count: usize) -> Vec<NonNull<u8>> {
    (0..count).map(|_| cache.allocate().expect("room")).collect()
}

fn give(cache: &Cache<(Pages<'_>, SingleCpu)>, objects: Vec<NonNull<u8>>) {
    // SAFETY: all of them from the cache that is given.
    objects.into_iter().for_each(|object| unsafe { cache.free(object) });
}

fn pages_of(cache: &Cache<(Pages<'_>, SingleCpu)>) -> usize {
    cache.stats().pages()
}

#[test]
fn an_idle_cache_gives_up_its_surplus_while_another_grows() {
    with_registry(|registry| {
        let idle = registry.cache("idle", layout(192)).build().expect("room");
        let growing = registry.cache("growing", layout(1000)).build().expect("room");
        // Twice, so that the depot gets room for the magazines that it refused the first time.
        for _ in 0..2 {
            let objects = take(&idle, 2_000);
            give(&idle, objects);
        }
        let before = idle.stats();
        assert!(before.depot_magazines > 10 && before.pages() > 30, "{before:?}");
        let objects = take(&growing, 2_000);
        let after = idle.stats();
        assert_eq!(after.depot_magazines, 0);
        assert!(after.pages() <= 4, "only the CPU's magazines: {after:?}");
        give(&growing, objects);
    });
}

/// Mutations that it catches: a step of unlimited work; a pass that ends after its first step; one
/// that visits a cache twice, and so releases what was needed.
#[test]
fn an_allocation_does_little_of_an_aging_pass() {
    static PAGES: AtomicUsize = AtomicUsize::new(0);
    static OBJECTS: AtomicUsize = AtomicUsize::new(0);
    fn trace(_: &CacheName, event: Event) {
        match event {
            Event::SlabReleased { pages, .. } => PAGES.fetch_add(pages, Relaxed),
            Event::MagazineEmptied { objects } => OBJECTS.fetch_add(objects, Relaxed),
            _ => 0,
        };
    }
    with_registry(|registry| {
        let idle: [_; 4] = std::array::from_fn(|_| {
            let builder = registry.cache("idle", layout(64)).depot_bytes(1 << 20);
            builder.trace(&trace).build().expect("room")
        });
        // All objects wait in the depots.
        for _ in 0..3 {
            for cache in &idle {
                give(cache, take(cache, 4_000));
            }
        }
        let before: usize = idle.iter().map(pages_of).sum();
        let growing = registry.cache("growing", layout(1000)).build().expect("room");
        let (mut objects, mut most) = (Vec::new(), [0; 2]);
        let seen = || [&OBJECTS, &PAGES].map(|count| count.load(Relaxed));
        for _ in 0..4_000 {
            let start = seen();
            objects.push(growing.allocate().expect("room"));
            let end = seen();
            for (most, count) in most.iter_mut().zip([end[0] - start[0], end[1] - start[1]]) {
                *most = count.max(*most);
            }
        }
        let after: usize = idle.iter().map(pages_of).sum();
        assert!(before > 100 && after <= 3 * 4, "{before} pages, {after} at the end");
        assert!(most[0] > 0 && most[1] > 0, "{most:?}");
        // A step works for 32 objects, and exceeds that by a magazine of at most 60.
        assert!(most[0] < 32 + 60 && most[1] < 32 + 60, "{most:?} objects and pages in one call");
        give(&growing, objects);
    });
}

/// Mutations that it catches: `age` does nothing; an idle cache counts slabs that were released
/// long ago as missed.
#[test]
fn ages_release_what_an_idle_cache_holds_and_it_keeps_no_more_when_it_is_used_again() {
    with_registry(|registry| {
        let cache = registry.cache("seldom", layout(192)).build().expect("room");
        for _ in 0..3 {
            let objects = take(&cache, 2_000);
            give(&cache, objects);
            for _ in 0..8 {
                registry.age();
            }
            assert!(pages_of(&cache) <= 4, "only the CPU's magazines: {:?}", cache.stats());
        }
        // Slabs that were released long ago are not missed: few are kept after this use.
        let objects = take(&cache, 2_000);
        let slabs = pages_of(&cache);
        give(&cache, objects);
        let kept = pages_of(&cache);
        assert!(kept <= slabs / 3, "{kept} of {slabs} pages");
    });
}

/// Mutations that it catches: `shrink_own` leaves the depot, the caller's slot or empty slabs as
/// they are.
#[test]
fn shrinking_without_other_cpus_releases_all_pages_of_a_single_one() {
    with_registry(|registry| {
        let cache = registry.cache("burst", layout(192)).build().expect("room");
        // Traffic of two aging passes, which leave the magazines of the frees in the depot.
        let objects = take(&cache, 1_500);
        let pages = pages_of(&cache);
        give(&cache, objects);
        assert!(cache.stats().depot_magazines > 0 && pages_of(&cache) > 0);
        let kept = pages_of(&cache);
        assert_eq!((registry.shrink_own(), pages_of(&cache)), (kept, 0), "{pages} at the peak");
    });
}

/// Mutation that it catches: a depot of the default capacity, whatever the user chose.
#[test]
fn a_depot_has_the_room_that_its_user_chose() {
    with_registry(|registry| {
        let pages_after_burst = |bytes| {
            let cache = registry.cache("burst", layout(192)).depot_bytes(bytes);
            let cache = cache.build().expect("room");
            let objects = take(&cache, 4_000);
            let peak = pages_of(&cache);
            give(&cache, objects);
            let stats = cache.stats();
            let held = stats.depot_magazines * stats.magazine_capacity * 192;
            assert!(held <= bytes, "{held} bytes in the depot");
            (peak, stats.pages())
        };
        let (peak, kept) = pages_after_burst(0);
        assert!(kept <= peak / 10, "{kept} of {peak} pages without a depot");
        let (peak, kept) = pages_after_burst(1 << 20);
        assert_eq!(kept, peak, "all objects wait in the depot");
    });
}

#[test]
fn a_cache_in_use_keeps_its_working_set_and_never_asks_for_pages() {
    with_registry(|registry| {
        let busy = registry.cache("busy", layout(192)).build().expect("room");
        for round in 0..100 {
            let grown = busy.stats().grown;
            let objects = take(&busy, 1_000);
            give(&busy, objects);
            assert!(round < 2 || busy.stats().grown == grown, "round {round}");
        }
    });
}

#[test]
fn under_pressure_the_idle_cache_yields_and_the_hot_one_keeps_its_working_set() {
    with_registry(|registry| {
        let keep = |name| registry.cache(name, layout(1000)).keep_empty(usize::MAX);
        let idle = keep("idle").build().expect("room");
        let hot = keep("hot").build().expect("room");
        for cache in [&idle, &hot] {
            let objects = take(cache, 800);
            give(cache, objects);
        }
        // Each shrink is a pass that releases what was not needed since the last one. Between the
        // two passes below, only the hot cache is used.
        registry.shrink(1);
        let objects = take(&hot, 800);
        give(&hot, objects);
        let (idle_before, hot_before) = (pages_of(&idle), pages_of(&hot));
        let grown = hot.stats().grown;
        let given = registry.shrink(100);
        assert!(given >= 100);
        assert!(idle_before - pages_of(&idle) >= 100);
        assert_eq!(
            pages_of(&hot),
            hot_before,
            "the hot one keeps all while the idle one has a surplus"
        );
        let objects = take(&hot, 800);
        println!("refills of the hot cache from pages: {} of 800", hot.stats().grown - grown);
        assert_eq!(hot.stats().grown, grown);
        give(&hot, objects);
        // More than the idle one has: now both release all.
        registry.shrink(usize::MAX);
        assert_eq!((pages_of(&idle), pages_of(&hot)), (0, 0));
    });
}

#[test]
fn a_capped_cache_is_out_of_memory_at_its_cap_and_one_that_releases_at_once_keeps_nothing() {
    with_registry(|registry| {
        let capped = registry.cache("capped", layout(1000)).most_pages(5).build().expect("room");
        let in_all = capped.geometry().capacity() * (5 >> capped.geometry().order().get());
        let mut objects: Vec<_> = std::iter::from_fn(|| capped.allocate().ok()).collect();
        assert_eq!(objects.len(), in_all);
        assert!(pages_of(&capped) <= 5);
        // SAFETY: its free makes room below the cap.
        unsafe { capped.free(objects.pop().expect("there are some")) };
        objects.push(capped.allocate().expect("one was freed"));
        give(&capped, objects);

        let builder = registry.cache("at once", layout(8192)).release_at_once();
        let at_once = builder.build().expect("room");
        let objects = take(&at_once, 20);
        give(&at_once, objects);
        assert!(pages_of(&at_once) <= 4 * 2, "only the objects in the CPU's magazines");
    });
}

#[test]
fn slabs_kept_at_least_stay_under_pressure_and_are_released_with_the_cache() {
    with_registry(|registry| {
        let builder = registry.cache("kept", layout(1000)).keep_at_least(3);
        let kept = builder.build().expect("room");
        let objects = take(&kept, 200);
        give(&kept, objects);
        registry.shrink_all();
        assert_eq!(kept.stats().slabs, 3);
        kept.destroy().expect("nothing is in use");
    });
}

/// Objects that a client caches and can free on demand.
static CLIENT: Mutex<Vec<usize>> = Mutex::new(Vec::new());

thread_local! {
    static CLIENTS_CACHE: Cell<Option<NonNull<()>>> = const { Cell::new(None) };
}

fn free_what_the_client_keeps() {
    let Some(raw) = CLIENTS_CACHE.get() else { return };
    // SAFETY: the test's cache, alive until it takes the pointer away; this handle is not dropped.
    let cache = unsafe { Cache::<(Pages<'static>, SingleCpu)>::from_raw(raw) };
    for address in std::mem::take(&mut *CLIENT.lock().expect("no panic")) {
        let object = NonNull::new(std::ptr::with_exposed_provenance_mut(address));
        // SAFETY: from this cache, forgotten by the client.
        unsafe { cache.free(object.expect("no null")) };
    }
    std::mem::forget(cache);
}

#[test]
fn reclaim_callbacks_run_last_and_their_pages_are_released() {
    let memory = Box::leak(Box::new(vec![MaybeUninit::uninit(); 1 << 20]));
    let arena: &'static Arena<'static> = Box::leak(Box::new(Arena::new(memory).expect("enough")));
    let registry = Registry::new(arena, SingleCpu::new()).expect("room");
    let builder = registry.cache("dentry", layout(192)).reclaim(&free_what_the_client_keeps);
    let cache = builder.build().expect("room");
    let objects: Vec<_> = (0..500).map(|_| cache.allocate().expect("room")).collect();
    CLIENT.lock().expect("no panic").extend(objects.iter().map(|o| o.expose_provenance().get()));
    // SAFETY: the handle below is the one used from now on.
    let raw = cache.into_raw();
    CLIENTS_CACHE.set(Some(raw));
    let Totals { reclaimable, unreclaimable } = registry.totals();
    assert!(reclaimable >= 24 && unreclaimable < 10, "{reclaimable} and {unreclaimable}");
    assert_eq!(registry.shrink(1), 1, "the internal caches or the CPU's magazines have one");
    assert!(!CLIENT.lock().expect("no panic").is_empty(), "the callback comes last");
    registry.shrink(10);
    assert!(CLIENT.lock().expect("no panic").is_empty());
    CLIENTS_CACHE.set(None);
    // SAFETY: the one handle.
    let cache = unsafe { Cache::<(Pages<'static>, SingleCpu)>::from_raw(raw) };
    assert!(cache.stats().pages() <= 14, "at least ten were released");
    cache.destroy().expect("nothing is in use");
}

thread_local! {
    static DESTROYED: Cell<usize> = const { Cell::new(0) };
}

unsafe fn count_destroyed(_: NonNull<u8>) {
    DESTROYED.set(DESTROYED.get() + 1);
}

#[test]
fn growing_calls_no_destructor_of_another_cache() {
    with_registry(|registry| {
        let builder = registry.cache("destroyed", layout(500));
        // SAFETY: the hook only counts.
        let idle = unsafe { builder.destructor(count_destroyed) }.build().expect("room");
        let growing = registry.cache("growing", layout(1000)).build().expect("room");
        let objects = take(&idle, 700);
        give(&idle, objects);
        let before = DESTROYED.get();
        let objects = take(&growing, 2_000);
        assert_eq!(DESTROYED.get(), before);
        registry.shrink_all();
        assert!(DESTROYED.get() >= 700);
        give(&growing, objects);
    });
}

/// A page source so fragmented that it has only blocks of order 0.
struct Fragmented<'a>(&'a Arena<'a>);

// SAFETY: blocks are the arena's.
unsafe impl PageSource for Fragmented<'_> {
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        if order == Order::ZERO { self.0.allocate(order) } else { Err(OutOfMemory) }
    }

    unsafe fn free(&self, block: PageBlock) {
        // SAFETY: the block is the arena's, as it came from there.
        unsafe { self.0.free(block) }
    }
}

// SAFETY: clause 1: always the map of the field, which lives as long as this value.
unsafe impl<'a> page_frame::ForwardPageMap for Fragmented<'a> {
    #[inline(always)]
    fn page_map(&self) -> &impl page_frame::PageMap {
        &self.0
    }
}

#[test]
fn where_memory_is_fragmented_slabs_are_smaller() {
    let mut memory = vec![MaybeUninit::uninit(); 512 << 12];
    let arena = Arena::new(&mut memory).expect("large enough");
    let pages = arena.free_pages();
    let source = Fragmented(&arena);
    let registry = Registry::new(&source, SingleCpu::new()).expect("room");
    let cache = registry.cache("large", layout(1300)).hardening::<slab::Debugging>().build();
    let mut cache = cache.expect("room");
    assert!(cache.geometry().order() > Order::ZERO, "or the test shows nothing");
    let mut objects = Vec::new();
    for number in 0..200_u8 {
        let object = cache.allocate().expect("single pages do");
        // SAFETY: ours, of 1,300 bytes.
        unsafe { object.write_bytes(number, 1300) };
        objects.push(object);
    }
    registry.validate().expect("consistent");
    let stats = cache.stats();
    assert_eq!((stats.pages(), stats.objects), (stats.slabs, stats.slabs * 2));
    let mut live = 0;
    cache.for_each_live(|_| live += 1);
    assert_eq!(live, 200);
    for (number, object) in objects.into_iter().enumerate() {
        // SAFETY: the last byte of 1,300.
        let last = unsafe { object.add(1299) };
        // SAFETY: written above.
        assert_eq!(unsafe { last.read() }, number as u8);
        // SAFETY: one of the 200 filled above.
        unsafe { cache.free(object) };
    }
    cache.destroy().expect("nothing is in use");
    registry.validate().expect("consistent");
    drop(registry);
    assert_eq!(arena.free_pages(), pages);
}

#[test]
fn an_object_that_needs_more_than_a_page_does_not_fall_back_to_one() {
    let mut memory = vec![MaybeUninit::uninit(); 64 << 12];
    let arena = Arena::new(&mut memory).expect("large enough");
    let source = Fragmented(&arena);
    let registry = Registry::new(&source, SingleCpu::new()).expect("room");
    let cache = registry.cache("larger", layout(5000)).build().expect("room");
    assert!(cache.allocate().is_err());
    cache.destroy().expect("nothing is in use");
}
