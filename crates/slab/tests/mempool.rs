//! Reserves and prefilled allocations still have their objects when memory has run out.
#![cfg(not(loom))]

use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use page_frame::{Arena, SingleCpu};
use slab::{Cache, Debugging, Registry};

const OBJECTS: usize = 75;

type SmallCache<'a> = Cache<(&'a Arena<'a>, SingleCpu), Debugging>;

/// Calls `test` with a cache of 600-byte objects in 64 pages.
fn with_cache(test: impl FnOnce(&Arena<'_>, &SmallCache<'_>)) {
    let mut memory = vec![MaybeUninit::uninit(); 65 << 12];
    let arena = Arena::new(&mut memory).expect("large enough");
    let pages = arena.free_pages();
    let registry = Registry::new(&arena, SingleCpu::new()).expect("room");
    let layout = Layout::from_size_align(600, 8).expect("a layout");
    let cache = registry.cache("request", layout).hardening::<Debugging>().build().expect("room");
    test(&arena, &cache);
    registry.validate().expect("consistent");
    cache.destroy().expect("nothing is in use");
    drop(registry);
    assert_eq!(arena.free_pages(), pages);
}

/// Allocates until nothing is left.
fn exhaust(cache: &SmallCache<'_>) -> Vec<NonNull<u8>> {
    let all: Vec<_> = std::iter::from_fn(|| cache.allocate().ok()).collect();
    assert!(cache.allocate().is_err());
    all
}

fn free_all(cache: &SmallCache<'_>, objects: Vec<NonNull<u8>>) {
    // SAFETY: from this cache, not used any more.
    objects.into_iter().for_each(|object| unsafe { cache.free(object) });
}

#[test]
fn a_reserve_gives_out_its_objects_and_is_refilled_first() {
    with_cache(|_, cache| {
        let reserve = cache.mempool(OBJECTS).expect("room");
        let others = exhaust(cache);
        let mut kept: Vec<_> = std::iter::from_fn(|| reserve.allocate().ok()).collect();
        assert_eq!((kept.len(), reserve.kept()), (OBJECTS, 0));
        for object in &kept {
            assert!(!others.contains(object), "only the reserve gives it out");
            // SAFETY: ours, of 600 bytes.
            unsafe { object.write_bytes(0x5a, 600) };
        }
        // SAFETY: from this reserve.
        unsafe { reserve.free(kept.pop().expect("there are many")) };
        assert_eq!(reserve.kept(), 1);
        assert!(cache.allocate().is_err(), "the reserve is refilled before the cache");
        for object in kept {
            // SAFETY: from this reserve.
            unsafe { reserve.free(object) };
        }
        assert_eq!(reserve.kept(), OBJECTS);
        free_all(cache, others);
        // With memory there, the reserve stays whole.
        let object = reserve.allocate().expect("room");
        assert_eq!(reserve.kept(), OBJECTS);
        // SAFETY: from this reserve.
        unsafe { reserve.free(object) };
    });
}

#[test]
fn prefilled_allocations_do_not_fail_and_the_rest_goes_back() {
    with_cache(|_, cache| {
        let mut prefilled = cache.prefill(OBJECTS).expect("room");
        let others = exhaust(cache);
        let used: Vec<_> = (0..OBJECTS / 2).map(|_| prefilled.allocate().expect("sure")).collect();
        assert_eq!(prefilled.left(), OBJECTS - OBJECTS / 2);
        drop(prefilled);
        let back = exhaust(cache);
        assert!(back.len() >= OBJECTS - OBJECTS / 2, "what was not used went back");
        for objects in [used, others, back] {
            free_all(cache, objects);
        }
    });
}

#[test]
fn too_much_is_refused_and_nothing_is_held() {
    with_cache(|arena, cache| {
        assert!(cache.mempool(100_000).is_err());
        assert!(cache.prefill(100_000).is_err());
        cache.shrink_all();
        assert!(arena.free_pages() > 50, "{} pages", arena.free_pages());
        assert_eq!(cache.mempool(0).expect("nothing").kept(), 0);
        assert!(cache.prefill(0).expect("nothing").allocate().is_none());
    });
}
