//! Models of a whole cache over an arena: two CPUs miss, grow the cache, and take slots over; a
//! cache is destroyed while another CPU visits it.

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

/// Calls `test` with a cache of objects of 2,104 bytes: three in a slab of two pages, two in a
/// magazine.
fn with_cache(test: impl FnOnce(&Registry<(Shared, Machine)>, Cache<(Shared, Machine)>)) {
    become_cpu(0);
    let mut memory = vec![MaybeUninit::<u8>::uninit(); PAGES * PAGE_SIZE];
    let start = NonNull::from(&mut memory[..]).cast();
    // SAFETY: the memory is ours until the end of this function, and the arena is dropped before.
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

/// Checks that no object is in use, and none is lost.
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

/// One CPU frees until a magazine goes to the depot, and allocates again. Meanwhile another CPU
/// takes over its slot, and empties its magazines and the depot. No object is lost or allocated
/// twice.
///
/// Mutations that it catches: `put_away` empties a magazine that the depot has taken ("each free
/// object is linked once"); the take-over leaves the previous magazine (an object is still active).
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

/// Two CPUs find no slab and both grow the cache: both slabs are in the set, and the CPUs get
/// different objects.
///
/// Mutation that it catches: the fresh slab is not added to the set.
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

/// One CPU's trip to the slabs raises the capacity of new magazines. Meanwhile another CPU uses
/// magazines of the old capacity. Each magazine keeps its capacity, and its memory returns to the
/// internal cache of that capacity.
///
/// Mutation that it catches: `new_magazine` reads the class twice, for the memory and for the
/// header (the magazine is freed to the wrong internal cache).
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

/// A cache is destroyed while another CPU visits all caches to shrink them.
///
/// Mutation that it catches: `close` does not wait for visits (an object that the shrinker holds
/// counts as in use).
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

/// A shrinker that only tries locks returns objects of another CPU's magazine to a full slab. At
/// the same time that CPU frees the last object of the slab under the lock. The slab is released
/// once.
///
/// Mutation that it catches: the free without the lock does not put the slab on the pending stack
/// (the slab is never released).
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
