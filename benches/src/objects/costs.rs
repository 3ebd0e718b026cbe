//! Rows about our own caches: each compares two of them, or is a count.

use std::alloc::Layout;
use std::ptr::NonNull;

use hosted::Threads;
use slab::{CacheBuilder, Debugging, Hardened, Hardening, Off};

use crate::asked::Asked;
use crate::measure::{CpuTime, mean};
use crate::objects::allocator::{Objects, Ours, Pages};
use crate::objects::workload::{self, Workload};
use crate::objects::{colour, constructed};
use crate::row::Row;

type Builder<'r> = CacheBuilder<'r, (Pages, Threads)>;

/// Slabs that are grown and given back for a cost.
const SLABS: usize = 1000;

/// A figure: its name, its unit, and one round of it.
type Figure = (&'static str, &'static str, fn() -> f64);

const FIGURES: [Figure; 15] = [
    ("checks-64-off", "ns", || pair_ns::<Off>()),
    ("checks-64-hardened", "ns", || pair_ns::<Hardened>()),
    ("checks-64-debug", "ns", || pair_ns::<Debugging>()),
    ("constructed-488-kept", "ns", constructed::kept_ns),
    ("constructed-488-initialised", "ns", constructed::initialised_ns),
    ("constructed-488", "ratio", constructed::ratio),
    ("colour-640x32", "ratio", || colour::ratio(colour::FIRST_OBJECTS)),
    ("colour-640x32-coloured", "ns", || colour::step_ns(colour::FIRST_OBJECTS, true)),
    ("colour-640x32-uncoloured", "ns", || colour::step_ns(colour::FIRST_OBJECTS, false)),
    ("colour-1280x1024", "ratio", || colour::ratio(colour::ALL_OBJECTS)),
    ("colour-1280x1024-coloured", "ns", || colour::step_ns(colour::ALL_OBJECTS, true)),
    ("colour-1280x1024-uncoloured", "ns", || colour::step_ns(colour::ALL_OBJECTS, false)),
    ("grow-cost", "ns", || slab_costs().0),
    ("shrink-cost", "ns", || slab_costs().1),
    ("cpu-slot-miss", "ns", slot_miss_ns),
];

/// Measures those that are wanted.
pub fn measure(asked: &Asked, mut each: impl FnMut(Row)) {
    for (name, unit, figure) in FIGURES.into_iter().filter(|(name, ..)| asked.wants(name)) {
        each(Row::alone(name, unit, (0..asked.rounds).map(|_| figure()).collect()));
    }
    if asked.wants("idle-pages") {
        each(Row::alone("idle-pages", "pages", vec![idle_pages()]));
    }
}

/// Returns the CPU time of a hot pair of an object of 64 bytes with the checks of `K`, in
/// nanoseconds.
///
/// # Panics
/// When there is no memory.
pub fn pair_ns<K: Hardening>() -> f64 {
    let layout = Layout::from_size_align(64, 8).expect("a small size");
    let ours = Ours::new(1 << 20, layout, |builder| builder.hardening::<K>());
    workload::run(&ours, Workload::Pair(64)).mean_ns
}

/// Returns the CPU time of growing by a slab and of giving one back, in nanoseconds, for objects of
/// 64 bytes.
///
/// Growing is what filling an empty cache takes longer than filling it again from the slabs that it
/// has kept. The pages have been touched before.
///
/// # Panics
/// When there is no memory.
pub fn slab_costs() -> (f64, f64) {
    let ours = cache_of_64(|builder| builder.keep_empty(2 * SLABS));
    let objects = SLABS * ours.cache.geometry().capacity();
    fill(&ours, objects);
    ours.cache.shrink_all();
    let growing_ns = fill(&ours, objects);
    let again_ns = fill(&ours, objects);
    let slabs = ours.cache.stats().slabs as f64;
    let start = CpuTime::now();
    let pages = ours.cache.shrink_all();
    let shrinking_ns = start.elapsed_ns();
    assert!(pages >= SLABS, "all slabs were empty");
    ((growing_ns - again_ns).max(0.0) / slabs, shrinking_ns / slabs)
}

/// Allocates `count` objects and frees them; returns the CPU time of the allocations.
fn fill(ours: &Ours, count: usize) -> f64 {
    let mut objects: Vec<NonNull<u8>> = vec![NonNull::dangling(); count];
    let start = CpuTime::now();
    objects.iter_mut().for_each(|object| *object = ours.allocate());
    let spent = start.elapsed_ns();
    free_all(ours, objects);
    spent
}

/// Returns the extra CPU time of an operation that exchanges a magazine with the depot, in
/// nanoseconds.
///
/// The workload allocates and frees six magazines of objects, over and over. The slot's own two
/// magazines serve a part of them. Each of the other four costs one exchange when it is emptied and
/// one when it is filled.
///
/// # Panics
/// When there is no memory.
pub fn slot_miss_ns() -> f64 {
    const MAGAZINES: usize = 6;
    let ours = cache_of_64(|builder| builder.keep_empty(SLABS));
    let mut objects = Vec::new();
    let mut one_turn = |count: usize| {
        objects.extend((0..count).map(|_| ours.allocate()));
        objects.drain(..).for_each(|object| {
            // SAFETY: allocated above, and not used.
            unsafe { ours.free(object) };
        });
    };
    // Magazines grow with use: until they have grown.
    (0..50).for_each(|_| one_turn(SLABS * 10));
    let count = MAGAZINES * ours.cache.stats().magazine_capacity;
    // Few enough that none is missed.
    let held = count / MAGAZINES / 3;
    let (hits_ns, _) = mean(10_000, |_| one_turn(held));
    let per_object_ns = hits_ns / held as f64;
    let (turn_ns, _) = mean(10_000, |_| one_turn(count));
    let misses = 2 * (MAGAZINES - 2);
    (turn_ns - per_object_ns * count as f64).max(0.0) / misses as f64
}

fn cache_of_64(describe: impl FnOnce(Builder<'_>) -> Builder<'_>) -> Ours {
    Ours::new(64 << 20, Layout::from_size_align(64, 8).expect("a small size"), describe)
}

fn free_all(ours: &Ours, objects: Vec<NonNull<u8>>) {
    for object in objects {
        // SAFETY: the callers allocated each of them, and use none.
        unsafe { ours.free(object) };
    }
}

/// Returns the pages that a cache has after 100,000 objects came and went and all of it was shrunk.
///
/// # Panics
/// When there is no memory.
pub fn idle_pages() -> f64 {
    let ours = cache_of_64(|builder| builder);
    let objects = (0..100_000).map(|_| ours.allocate()).collect();
    free_all(&ours, objects);
    ours.cache.shrink_all();
    ours.cache.stats().pages() as f64
}
