//! Whole caches over an arena: two CPUs that miss, grow, are taken over; a cache that goes while
//! others look at it.

use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use loom::sync::Arc;
use page_frame::{Arena, Fenced, Order, PAGE_SIZE};
use slab::{Cache, Registry};
use testkit::{Numbered, become_cpu, long_model, spawn};

const PAGES: usize = 40;

type Pages = Arc<Arena<'static>>;
type Machine = Fenced<Numbered>;

/// Shares an arena among the threads of a model.
#[derive(Clone)]
struct Shared(Pages);

// SAFETY: every method forwards to the same arena.
unsafe impl page_frame::PageSource for Shared {
    fn allocate(&self, order: Order) -> Result<page_frame::PageBlock, page_frame::OutOfMemory> {
        self.0.allocate(order)
    }
    unsafe fn free(&self, block: page_frame::PageBlock) {
        // SAFETY: the caller's clauses are those of the arena.
        unsafe { page_frame::PageSource::free(&*self.0, block) }
    }
}
// SAFETY: clause 1: always the map of the field, which lives as long as this value.
unsafe impl page_frame::ForwardPageMap for Shared {
    #[inline(always)]
    fn page_map(&self) -> &impl page_frame::PageMap {
        &*self.0
    }
}

/// Three objects of 2,104 bytes in a slab of two pages, two in a magazine.
fn with_cache(test: impl FnOnce(&Registry<(Shared, Machine)>, Cache<(Shared, Machine)>)) {
    become_cpu(0);
    let mut memory = vec![MaybeUninit::<u8>::uninit(); PAGES * PAGE_SIZE];
    let start = NonNull::from(&mut memory[..]).cast();
    // SAFETY: the memory is ours until the end of this function, where the arena has gone.
    let arena = unsafe { Arena::from_raw(start, memory.len()) }.expect("large enough");
    let arena = Arc::new(arena);
    let pages = arena.free_pages();
    let registry = Registry::new(Shared(Arc::clone(&arena)), Fenced(Numbered)).expect("room");
    let layout = Layout::from_size_align(2104, 8).expect("a layout");
    let order = Order::new(1).expect("small");
    let cache = registry.cache("modelled", layout).max_order(order).magazine_bytes(2 * 2104);
    let cache = cache.build().expect("room");
    assert_eq!(cache.geometry().capacity(), 3);
    test(&registry, cache);
    registry.validate().expect("consistent");
    drop(registry);
    assert_eq!(arena.free_pages(), pages, "the source has every page");
}

fn allocate<const N: usize>(cache: &Cache<(Shared, Machine)>) -> [NonNull<u8>; N] {
    core::array::from_fn(|_| cache.allocate().expect("room"))
}

fn free(cache: &Cache<(Shared, Machine)>, objects: impl IntoIterator<Item = NonNull<u8>>) {
    for object in objects {
        // SAFETY: the models free what they allocated, once.
        unsafe { cache.free(object) };
    }
}

/// Nobody has an object any more, and none is lost.
fn everything_is_back(cache: &Cache<(Shared, Machine)>) {
    cache.validate().expect("consistent");
    cache.shrink_all();
    assert_eq!(cache.stats().objects_active, 0);
}

/// Data for the other thread of a model.
struct Sent<T>(T);
// SAFETY: pointers to objects that the receiving thread alone uses.
unsafe impl<T> Send for Sent<T> {}

impl<T> Sent<T> {
    fn receive(self) -> T {
        self.0
    }
}

/// A CPU frees until its magazines go through the depot, and allocates again, while another takes
/// its slot over and empties magazines and depot: no object is lost or handed out twice. Mutations
/// seen to fail: `put_away` emptying a magazine that the depot has taken ("each free object is
/// linked once"); the take-over leaving the previous magazine behind (an object is still active).
#[test]
fn depot_exchange_against_take_over() {
    long_model("slab: depot exchange against take-over", 100, 3, || {
        with_cache(|_, cache| {
            let objects = allocate::<3>(&cache);
            let cache = Arc::new(cache);
            let theirs = Arc::clone(&cache);
            let other = spawn(move || theirs.shrink_all());
            free(&cache, objects);
            let [again] = allocate(&cache);
            other.join().expect("no panic");
            cache.validate().expect("consistent");
            free(&cache, [again]);
            everything_is_back(&cache);
        });
    });
}

/// Two CPUs find no slab and both grow: both slabs are in the set, and the objects are different
/// ones. Mutation seen to fail: the fresh slab not added to the set.
#[test]
fn two_cpus_grow_at_once() {
    long_model("slab: two grow at once", 100, 3, || {
        with_cache(|_, cache| {
            let cache = Arc::new(cache);
            let theirs = Arc::clone(&cache);
            let other = spawn(move || {
                become_cpu(1);
                Sent(allocate::<1>(&theirs))
            });
            let [ours] = allocate(&cache);
            let [object] = other.join().expect("no panic").receive();
            assert_ne!(ours, object);
            cache.validate().expect("consistent");
            let stats = cache.stats();
            assert!(stats.grown <= 2 && stats.objects == 3 * stats.grown);
            free(&cache, [ours, object]);
        });
    });
}

/// A CPU's trip to the slabs makes new magazines larger while another one frees into, exchanges and
/// puts away those of the old capacity: every magazine keeps its own, and goes back to where it
/// came from. Mutation seen to fail: `new_magazine` asking for the class once for the memory and
/// again for the header (the magazine is freed to a cache that it is not of).
#[test]
fn the_capacity_changes_while_old_magazines_are_about() {
    long_model("slab: the capacity changes", 20, 3, || {
        with_cache(|_, cache| {
            let objects = allocate::<3>(&cache);
            let cache = Arc::new(cache);
            let theirs = Arc::clone(&cache);
            let other = spawn(move || {
                become_cpu(1);
                free(&theirs, allocate::<1>(&theirs));
            });
            free(&cache, objects);
            other.join().expect("no panic");
            everything_is_back(&cache);
        });
    });
}

/// A cache is destroyed while another CPU walks all caches to shrink them. Mutation seen to fail:
/// `close` without waiting for visits (an object that the shrinker holds counts as in use).
#[test]
fn destroy_against_a_visitor() {
    long_model("slab: destroy against a visitor", 100, 3, || {
        with_cache(|registry, cache| {
            let objects = allocate::<1>(&cache);
            free(&cache, objects);
            let theirs = registry.clone();
            let other = spawn(move || theirs.shrink(1));
            cache.destroy().expect("no object is in use");
            other.join().expect("no panic");
        });
    });
}

/// A shrinker that only tries locks returns objects to a full slab, from another CPU's
/// magazine, while that CPU frees the last one under the lock: the slab is released once. Mutation
/// seen to fail: the free without the lock not putting the slab on the pending stack (it is never
/// released).
#[test]
fn last_frees_with_and_without_the_lock() {
    long_model("slab: last frees with and without the lock", 10, 3, || {
        with_cache(|registry, cache| {
            let [one, two, three] = allocate(&cache);
            free(&cache, [two, three]);
            let theirs = registry.clone();
            let other = spawn(move || theirs.shrink(usize::MAX));
            become_cpu(None);
            free(&cache, [one]);
            other.join().expect("no panic");
            cache.validate().expect("consistent");
            cache.shrink_all();
            assert_eq!((cache.stats().slabs, cache.stats().grown), (0, 1));
        });
    });
}
