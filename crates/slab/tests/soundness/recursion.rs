//! Callbacks that allocate when nothing is free do not recurse without a bound.

use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::Relaxed};
use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use hosted::Threads;
use page_frame::{Arena, Reclaiming, Shrink, ShrinkList};
use slab::{Cache, Registry};

type Pages = Reclaiming<Arena<'static>, &'static ShrinkList<2>>;
type Objects = Cache<(Pages, Threads)>;

static LIST: ShrinkList<2> = ShrinkList::new();
static CACHE: AtomicPtr<Objects> = AtomicPtr::new(core::ptr::null_mut());
static DEPTH: AtomicUsize = AtomicUsize::new(0);
static DEEPEST: AtomicUsize = AtomicUsize::new(0);

/// Allocates from the cache whose request runs the callback.
fn allocate_again() {
    let depth = DEPTH.fetch_add(1, Relaxed) + 1;
    assert!(depth < 100, "unbounded");
    DEEPEST.fetch_max(depth, Relaxed);
    // SAFETY: the test stores a leaked cache.
    let cache = unsafe { CACHE.load(Relaxed).as_ref() }.expect("stored before memory runs out");
    if let Ok(object) = cache.allocate() {
        // SAFETY: allocated above.
        unsafe { cache.free(object) };
    }
    DEPTH.fetch_sub(1, Relaxed);
}

struct Asking<'r>(&'r Registry<(Pages, Threads)>);

impl Shrink for Asking<'_> {
    fn reclaimable(&self) -> usize {
        1
    }

    fn shrink(&self, target_pages: usize) -> usize {
        allocate_again();
        self.0.shrink(target_pages)
    }
}

/// Mutation that it catches: no bound in the list, or in the cache.
#[test]
fn callbacks_that_allocate_from_the_cache_that_asks_end() {
    let memory = Vec::leak(vec![MaybeUninit::uninit(); 1 << 20]);
    let source = Reclaiming::new(Arena::new(memory).expect("large enough"), &LIST);
    let registry = Registry::new(source, Threads).expect("room");
    let registry = Box::leak(Box::new(registry));
    let builder = registry.cache("asking", Layout::new::<[u64; 100]>());
    let cache = Box::leak(Box::new(builder.reclaim(&allocate_again).build().expect("room")));
    CACHE.store(cache, Relaxed);
    let mut objects: Vec<NonNull<u8>> = Vec::new();
    while let Ok(object) = cache.allocate() {
        objects.push(object);
    }
    assert_eq!(DEEPEST.load(Relaxed), 0, "the registry is not a shrinker yet");
    let asking: &'static Asking<'static> = Box::leak(Box::new(Asking(registry)));
    let asking: &dyn Shrink = asking;
    // SAFETY: clause 1: leaked. Clause 2: the only one.
    unsafe { LIST.register(NonNull::from(asking)) }.expect("room");
    objects.extend((0..10).filter_map(|_| cache.allocate().ok()));
    assert!((1..=16).contains(&DEEPEST.load(Relaxed)), "{}", DEEPEST.load(Relaxed));
    cache.validate().expect("consistent");
    for object in objects {
        // SAFETY: allocated above.
        unsafe { cache.free(object) };
    }
    assert!(cache.allocate().is_ok());
}
