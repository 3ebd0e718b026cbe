//! Random histories of several caches on several CPUs, over four page sources. A list of the live
//! objects says what each must contain.
//!
//! After each step the test checks all invariants of all caches. It fills each object with content
//! of its own, which it checks at the free, and checks the constructed state at each allocation. In
//! the end the source must have all pages again.
#![cfg(not(loom))]

mod common;

use std::alloc::Layout;
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use common::{OurBuddy, Published};
use page_frame::{Arena, Counted, CpuId, Limited, PAGE_SIZE, PageMap, PageSource, SwitchedCpu};
use slab::{BuildError, Cache, Registry};
use testkit::{Pattern, Random, steps};

const CPUS: usize = 3;
const STEPS: usize = steps(3_000);
const MAX_LIVE: usize = 700;
const PAGES: usize = 2048;

/// The constructor's value in the first word of each object.
const CONSTRUCTED: u64 = 0x_c057_0c7e_d0b1_ec75;

thread_local! {
    /// Objects that are constructed, of the history that this thread runs.
    static CONSTRUCTED_NOW: Cell<isize> = const { Cell::new(0) };
}

unsafe fn construct(object: NonNull<u8>) {
    CONSTRUCTED_NOW.set(CONSTRUCTED_NOW.get() + 1);
    // SAFETY: an object of at least eight bytes, aligned to eight.
    unsafe { object.cast::<u64>().write(CONSTRUCTED) };
}

unsafe fn destroy(object: NonNull<u8>) {
    CONSTRUCTED_NOW.set(CONSTRUCTED_NOW.get() - 1);
    // SAFETY: constructed, and users leave the first word as it is.
    assert_eq!(unsafe { object.cast::<u64>().read() }, CONSTRUCTED);
}

/// Size, alignment, and whether there is a constructor.
const KINDS: [(usize, usize, bool); 7] = [
    (8, 8, true),
    (20, 4, false),
    (104, 8, true),
    (640, 64, true),
    (1280, 8, false),
    (4096, 4096, false),
    (9000, 8, true),
];

struct Live {
    object: NonNull<u8>,
    kind: usize,
    number: u64,
}

type Cpus<'a> = &'a SwitchedCpu;

fn open<'a, P: PageSource + PageMap>(
    registry: &Registry<(P, Cpus<'a>)>,
    kind: usize,
) -> Result<Cache<(P, Cpus<'a>)>, BuildError> {
    let (size, alignment, constructed) = KINDS[kind];
    let layout = Layout::from_size_align(size, alignment).expect("a layout");
    let mut builder = registry.cache(&format!("kind-{kind}"), layout);
    if constructed {
        // SAFETY: every kind with a constructor has eight bytes, aligned to eight.
        builder = unsafe { builder.constructor(construct) };
        // SAFETY: the history leaves the first word as it is.
        builder = unsafe { builder.destructor(destroy) };
    }
    builder.build()
}

/// Where the content that the history writes begins: behind the constructed word.
fn content(kind: usize, object: NonNull<u8>) -> (NonNull<u8>, usize) {
    let (size, _, constructed) = KINDS[kind];
    let skip = if constructed { 8 } else { 0 };
    // SAFETY: inside the object.
    (unsafe { object.add(skip) }, size - skip)
}

/// Runs one history; returns how many allocations failed.
fn history<P: PageSource + PageMap>(source: P, seed: u64) -> usize {
    let cpus = SwitchedCpu::new(CPUS);
    let mut random = Random::new(seed);
    // The source may refuse the first block of the registry.
    let registry = (0..100).find_map(|_| Registry::new(&source, &cpus).ok()).expect("one of 100");
    let open_all = |kind| (0..100).find_map(|_| open(&registry, kind).ok()).expect("one of 100");
    let mut caches: Vec<_> = (0..KINDS.len()).map(open_all).collect();
    let mut live: Vec<Live> = Vec::new();
    let mut failures = 0;
    let mut next = 0;
    for step in 0..STEPS {
        let cpu = random.below(CPUS + 1);
        cpus.switch_to((cpu < CPUS).then(|| CpuId::new(cpu as u32)));
        match random.below(100) {
            0..54 if live.len() < MAX_LIVE => {
                let kind = random.below(KINDS.len());
                let Ok(object) = caches[kind].allocate() else {
                    failures += 1;
                    continue;
                };
                let (size, alignment, constructed) = KINDS[kind];
                assert_eq!(object.addr().get() % alignment, 0, "{size} aligned to {alignment}");
                // SAFETY: ours; constructed.
                assert!(!constructed || unsafe { object.cast::<u64>().read() } == CONSTRUCTED);
                let (start, bytes) = content(kind, object);
                next += 1;
                // SAFETY: just allocated, of that many bytes.
                unsafe { Pattern(next).fill(start, bytes) };
                live.push(Live { object, kind, number: next });
            }
            0..97 if !live.is_empty() => {
                let Live { object, kind, number } = live.swap_remove(random.below(live.len()));
                let (start, bytes) = content(kind, object);
                // SAFETY: ours since the fill.
                assert!(unsafe { Pattern(number).is_in(start, bytes) }, "{kind} at step {step}");
                // SAFETY: allocated from this cache, freed once.
                unsafe { caches[kind].free(object) };
            }
            97 => _ = caches[random.below(KINDS.len())].shrink_all(),
            98 => _ = registry.shrink(random.below(20)),
            _ => {
                let kind = random.below(KINDS.len());
                if live.iter().all(|live| live.kind != kind) {
                    caches.remove(kind).destroy().expect("nothing is live");
                    caches.insert(kind, open_all(kind));
                }
            }
        }
        registry.validate_quiet().unwrap_or_else(|broken| panic!("{broken} at step {step}"));
    }
    for Live { object, kind, .. } in live {
        // SAFETY: allocated from this cache, freed once.
        unsafe { caches[kind].free(object) };
    }
    registry.shrink_all();
    let mut objects = 0;
    registry
        .stats(|stats| objects += if stats.name.as_str() == "cache" { 0 } else { stats.objects });
    assert_eq!(objects, 0, "only the caches themselves are left");
    assert_eq!(CONSTRUCTED_NOW.get(), 0, "every object that was constructed was destroyed");
    for cache in caches {
        cache.destroy().expect("nothing is live");
    }
    failures
}

#[test]
fn over_our_buddy() {
    for seed in 0..4 {
        let cpus = SwitchedCpu::new(CPUS);
        // The buddy is asked by one CPU of its own.
        let source = OurBuddy::new(PAGES, cpus);
        let free = source.buddy.free_counts();
        assert_eq!(history(&source.buddy, seed), 0);
        source.buddy.drain();
        source.buddy.validate().expect("consistent");
        assert_eq!(source.buddy.free_counts(), free);
    }
}

#[test]
fn over_an_arena() {
    for seed in 10..14 {
        let mut memory = vec![MaybeUninit::uninit(); PAGES * PAGE_SIZE];
        let arena = Arena::new(&mut memory).expect("large enough");
        let free = arena.free_pages();
        assert_eq!(history(&arena, seed), 0);
        arena.validate().expect("consistent");
        assert_eq!(arena.free_pages(), free);
    }
}

#[test]
fn over_a_published_buddy() {
    for seed in 20..24 {
        let source = Published::new(PAGES);
        assert_eq!(history(&source, seed), 0);
        assert_eq!(source.free_pages(), PAGES);
    }
}

#[test]
fn over_a_source_that_refuses() {
    let mut memory = vec![MaybeUninit::uninit(); PAGES * PAGE_SIZE];
    let arena = Arena::new(&mut memory).expect("large enough");
    let free = arena.free_pages();
    let mut failures = 0;
    for n in 1..30 {
        let source = Counted::new(Limited::new(&arena).failing_every(n + 1));
        failures += history(&source, n as u64);
        assert_eq!((source.held_pages(), arena.free_pages()), (0, free), "failing every {n}");
    }
    let source = Counted::new(Limited::new(&arena).failing_one_in(3, 7));
    failures += history(&source, 31);
    let source = Counted::new(Limited::new(&arena).with_quota(150));
    failures += history(&source, 32);
    assert_eq!(arena.free_pages(), free);
    assert!(failures > 100, "{failures}");
}
