//! Caches end to end over an arena: hits, growth, misuse, release.

use std::alloc::Layout;
use std::collections::HashSet;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use page_frame::{Arena, Order, PAGE_SIZE, SingleCpu};
use slab::{BuildError, Cache, GeometryError, Registry};

type TestRegistry<'a> = Registry<(&'a Arena<'a>, SingleCpu)>;
type TestCache<'a> = Cache<(&'a Arena<'a>, SingleCpu)>;

const PAGES: usize = 600;

fn with_registry(test: impl FnOnce(&Arena<'_>, &TestRegistry<'_>)) {
    let mut memory = vec![MaybeUninit::uninit(); PAGES * 4096];
    let arena = Arena::new(&mut memory).expect("large enough");
    let pages = arena.free_pages();
    let registry = Registry::new(&arena, SingleCpu::new()).expect("room");
    test(&arena, &registry);
    registry.shrink_all();
    assert!(registry.pages_held() <= 2, "{}", registry.pages_held());
    drop(registry);
    assert_eq!(arena.free_pages(), pages);
    arena.validate().expect("consistent");
}

fn layout(size: usize, alignment: usize) -> Layout {
    Layout::from_size_align(size, alignment).expect("a layout")
}

fn free_all(cache: &TestCache<'_>, objects: impl IntoIterator<Item = NonNull<u8>>) {
    for object in objects {
        // SAFETY: the callers pass objects of this cache, each once.
        unsafe { cache.free(object) };
    }
}

/// Mutations that it catches: a magazine that is filled from the bottom up; objects that stay at
/// the top of one that is not filled; objects of the last page that come last.
#[test]
fn objects_of_a_fresh_slab_come_by_ascending_address_from_the_last_page_on() {
    with_registry(|_, registry| {
        for size in [64, 200, 512, 1000, 2000] {
            let cache = registry.cache("test", layout(size, 8)).build().expect("fits");
            let capacity = cache.geometry().capacity();
            let objects: Vec<_> =
                (0..capacity * 10).map(|_| cache.allocate().expect("room for them")).collect();
            let slab_bytes = cache.geometry().slab_bytes();
            for slab in objects.chunks(capacity) {
                let mut offsets: Vec<_> =
                    slab.iter().map(|object| object.addr().get() % slab_bytes).collect();
                assert!(offsets[0] >= slab_bytes - PAGE_SIZE, "{size}: {offsets:?}");
                let lowest = (0..capacity).min_by_key(|at| offsets[*at]).expect("some");
                offsets.rotate_left(lowest);
                assert!(offsets.is_sorted(), "{size}: {offsets:?}");
            }
            free_all(&cache, objects);
        }
    });
}

#[test]
fn objects_are_distinct_aligned_and_all_come_back() {
    with_registry(|arena, registry| {
        for (size, alignment) in [(1, 1), (20, 4), (64, 64), (640, 8), (1280, 256), (9000, 8)] {
            let cache = registry.cache("test", layout(size, alignment)).build().expect("fits");
            let objects: Vec<_> =
                (0..100).map(|_| cache.allocate().expect("room for a hundred")).collect();
            let places: HashSet<_> = objects.iter().map(|object| object.addr().get()).collect();
            assert_eq!(places.len(), 100);
            for place in places {
                assert_eq!(place % alignment, 0);
            }
            for object in &objects {
                // SAFETY: ours, of `size` bytes.
                unsafe { object.write_bytes(0xa5, size) };
            }
            registry.validate().expect("consistent");
            free_all(&cache, objects);
            registry.validate().expect("consistent");
            cache.shrink_all();
            assert_eq!((cache.stats().slabs, cache.stats().objects_active), (0, 0));
            cache.destroy().expect("nothing is in use");
        }
        assert!(arena.free_pages() > 0);
    });
}

#[test]
fn exhaustion_is_an_error_and_everything_else_still_works() {
    with_registry(|arena, registry| {
        let cache = registry.cache("hungry", layout(1000, 8)).build().expect("fits");
        let mut objects: Vec<_> = std::iter::from_fn(|| cache.allocate().ok()).collect();
        assert!(arena.free_pages() < 8, "{} pages left", arena.free_pages());
        registry.validate().expect("consistent");
        assert!(objects.len() > PAGES * 3);
        for _ in 0..100 {
            let object = objects.pop().expect("many");
            free_all(&cache, [object]);
            objects.push(cache.allocate().expect("one was freed"));
        }
        free_all(&cache, objects);
    });
}

#[test]
fn an_allocate_and_free_pair_at_the_edge_of_a_slab_asks_the_source_once() {
    with_registry(|_, registry| {
        let cache = registry.cache("edge", layout(4096, 8)).build().expect("fits");
        for _ in 0..100 {
            let object = cache.allocate().expect("room");
            free_all(&cache, [object]);
        }
        assert_eq!((cache.stats().grown, cache.stats().shrunk), (1, 0));
    });
}

#[test]
fn destroying_a_busy_cache_is_refused_lists_what_is_in_use_and_keeps_it() {
    let mut memory = vec![MaybeUninit::uninit(); PAGES * 4096];
    let arena = Arena::new(&mut memory).expect("large enough");
    let pages = arena.free_pages();
    let registry = Registry::new(&arena, SingleCpu::new()).expect("room");
    let cache = registry.cache("busy", layout(100, 4)).build().expect("fits");
    let others: Vec<_> = (0..300).map(|_| cache.allocate().expect("room")).collect();
    let object = cache.allocate().expect("room");
    assert!(cache.owns(object) && !cache.owns(NonNull::from(&mut 0_u8)));
    // SAFETY: allocated above, each freed once.
    others.iter().for_each(|other| unsafe { cache.free(*other) });
    // SAFETY: 100 bytes, in use until `refused` is dealt with.
    unsafe { object.write_bytes(7, 100) };
    let mut refused = cache.destroy().expect_err("an object is in use");
    assert_eq!((refused.name.as_str(), refused.objects), ("busy", 1));
    let mut live = Vec::new();
    refused.cache.for_each_live(|found| live.push(found));
    assert_eq!(live.len(), 1);
    let slab = object.addr().get() / 4096 * 4096;
    assert_eq!((live[0].object, live[0].slab), (object, slab));
    assert_eq!(live[0].index, (object.addr().get() - slab) / 100);
    // The cache goes on: its next object comes from the same slab.
    let next = refused.cache.allocate().expect("room");
    assert_eq!(next.addr().get() / 4096 * 4096, slab);
    // SAFETY: `object` came from the refused cache.
    unsafe { refused.cache.free(next) };
    drop(refused);
    // SAFETY: ours still.
    let last = unsafe { object.add(99) };
    // SAFETY: the last of the object's 100 bytes, all written above.
    assert_eq!(unsafe { last.read() }, 7);
    registry.shrink_all();
    registry.validate().expect("consistent");
    drop(registry);
    assert!(arena.free_pages() < pages);
}

#[test]
fn bad_layouts_are_errors_with_numbers() {
    with_registry(|_, registry| {
        let error = |size, alignment| {
            registry.cache("bad", layout(size, alignment)).build().expect_err("a bad layout")
        };
        assert_eq!(error(0, 8), BuildError::Geometry(GeometryError::ZeroSize));
        let size = (4 << 20) + 1;
        assert_eq!(
            error(size, 1),
            BuildError::Geometry(GeometryError::TooLarge { size, alignment: 1 })
        );
        assert_eq!(
            error(8, 8 << 20),
            BuildError::Geometry(GeometryError::TooLarge { size: 8, alignment: 8 << 20 })
        );
        let small = registry.cache("small", layout(5000, 8)).max_order(Order::ZERO).build();
        assert_eq!(
            small.expect_err("two pages are needed"),
            BuildError::OrderTooSmall {
                needed: Order::new(1).expect("small"),
                allowed: Order::ZERO
            }
        );
    });
}

#[test]
#[should_panic(expected = "DoubleFree")]
fn freeing_the_object_freed_last_again_is_a_fault() {
    with_registry(|_, registry| {
        let cache = registry.cache("twice", layout(100, 4)).build().expect("fits");
        let objects: Vec<_> = (0..40).map(|_| cache.allocate().expect("room")).collect();
        let last = objects[39];
        free_all(&cache, objects);
        free_all(&cache, [last]);
    });
}

#[test]
fn the_slabinfo_text_is_the_kernels() {
    with_registry(|_, registry| {
        let cache = registry.cache("inode_cache", layout(640, 8)).build().expect("fits");
        let object = cache.allocate().expect("room");
        let mut text = String::new();
        registry.slabinfo(&mut text).expect("strings take everything");
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("slabinfo - version: 2.1"));
        assert!(
            lines.next().is_some_and(|line| line.starts_with("# name            <active_objs>"))
        );
        let line = lines.next().expect("a line for each cache");
        let per_slab = cache.geometry().capacity();
        let start = format!("inode_cache            1 {per_slab:>6}    640 {per_slab:>4}    ");
        assert!(line.starts_with(&start), "{line}");
        assert!(line.contains(" : tunables ") && line.contains(" : slabdata      1      1      0"));
        free_all(&cache, [object]);
    });
}

#[test]
fn line_aligned_objects_lie_in_as_few_lines_as_they_can() {
    with_registry(|_, registry| {
        for (size, line, alignment) in
            [(1, 64, 1), (20, 64, 32), (64, 64, 64), (100, 64, 64), (100, 128, 128), (1000, 32, 32)]
        {
            let cache = registry.cache("lines", layout(size, 1)).line_aligned().line_bytes(line);
            let cache = cache.build().expect("fits");
            let objects: Vec<_> = (0..50).map(|_| cache.allocate().expect("room")).collect();
            assert!(objects.iter().all(|object| object.addr().get() % alignment == 0));
            assert_eq!(cache.object_size(), size);
            free_all(&cache, objects);
        }
    });
}
