//! One episode: memory with a seed, rounds of threads over it, and a validation after each.

use core::ptr::NonNull;
use std::alloc::Layout;
use std::os::unix::thread::JoinHandleExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hosted::Threads;
use page_frame::{FrameNumber, FrameRange, Limited, PAGE_SIZE, Reclaiming, Shrink, ShrinkList};
use slab::{Debugging, Hardened, Hardening, ObjectHook, Off, Registry};
use testkit::{Pattern, Random};

use super::interrupts;
use super::worker::{Live, Shared};
use super::world::{Counts, Interrupted, Kmalloc, OBJECT, Objects, Source, panic_one_in};
use crate::objects::allocator::{Pages, pages};

/// The longest time of a round. A longer one is reported as a deadlock.
const LIMIT: Duration = Duration::from_secs(180);
/// Rounds of an episode.
const ROUNDS: usize = 12;
/// Pages of an episode: 128 MiB.
const PAGES: usize = 32 << 10;
/// Frames of an area, the unit of offline memory.
const AREA: usize = 512;

/// Constructors panic once in this number of calls; zero for never.
static PANICS: AtomicUsize = AtomicUsize::new(0);
static CONSTRUCTIONS: AtomicU64 = AtomicU64::new(0);

/// Runs the episode of `seed`.
pub(super) fn run(seed: u64, threads: usize, counts: &Counts) {
    match seed % 3 {
        0 => run_with::<Off>(seed, threads, counts),
        1 => run_with::<Hardened>(seed, threads, counts),
        _ => run_with::<Debugging>(seed, threads, counts),
    }
}

fn in_interrupt<K: Hardening>(allocator: *const (), step: u64) {
    // SAFETY: `run_with` set a `Kmalloc` of this type, which outlives the threads.
    let kmalloc = unsafe { &*allocator.cast::<Kmalloc<'static, K>>() };
    let bytes = [16, 100, 700, 5000][(step % 4) as usize];
    let layout = Layout::from_size_align(bytes, 8).expect("small");
    if let Ok(start) = kmalloc.try_allocate(layout) {
        // SAFETY: just allocated, of that many bytes.
        unsafe { Pattern(step).fill(start, bytes) };
        // SAFETY: just filled.
        assert!(unsafe { Pattern(step).is_in(start, bytes) });
        // SAFETY: allocated above, and not used any more.
        unsafe { kmalloc.free_sized(start, layout) };
    }
}

/// A shrinker that allocates before it shrinks, which shrinkers should not do.
struct Allocating<'s, 'w, K: Hardening>(&'s Kmalloc<'w, K>);

impl<K: Hardening> Shrink for Allocating<'_, '_, K> {
    fn reclaimable(&self) -> usize {
        self.0.reclaimable()
    }

    fn shrink(&self, target_pages: usize) -> usize {
        let layout = Layout::from_size_align(200, 8).expect("small");
        if let Ok(start) = self.0.allocate(layout) {
            // SAFETY: allocated above, and not used any more.
            unsafe { self.0.free(start) };
        }
        self.0.shrink(target_pages)
    }
}

fn run_with<K: Hardening>(seed: u64, threads: usize, counts: &Counts) {
    let mut random = Random::new(seed);
    // Dropped in the opposite order: the memory last.
    let (memory, buddy);
    (buddy, memory) = pages(PAGES * PAGE_SIZE);
    let free = buddy.free_frames_count();
    {
        let limited = Limited::new(&buddy);
        let limited = match random.one_in(2) {
            true => limited.failing_one_in(20 + random.below(200) as u32, seed as usize),
            false => limited,
        };
        let shrinkers = ShrinkList::<2>::new();
        let source = Reclaiming::new(limited, &shrinkers);
        let registry = (0..1000).find_map(|_| Registry::new(&source, Threads).ok());
        let registry = registry.expect("one of a thousand");
        CONSTRUCTIONS.store(0, Ordering::Relaxed);
        PANICS.store(if random.one_in(3) { 200 } else { 0 }, Ordering::Relaxed);
        let kmalloc = Kmalloc::<K>::with_hardening(registry.clone()).with_secret(seed as usize | 1);
        let objects = make_cache::<K>(&registry, &mut random);
        let allocating = Allocating(&kmalloc);
        let shrinker: NonNull<dyn Shrink + '_> = NonNull::from(&allocating);
        // SAFETY: clause 1: unregistered below. Clause 2: the only one.
        unsafe { shrinkers.register(shrinker) }.expect("room for two");
        let interrupted = Interrupted {
            allocator: (&raw const kmalloc).cast(),
            allocate_and_free: in_interrupt::<K>,
        };
        interrupts::set(&raw const interrupted);
        let handed_on = Mutex::new(Vec::<Live>::new());
        let (source, objects, kmalloc) = (&source, &objects, &kmalloc);
        let (frames, handed_on) = (memory[0].frames(), &handed_on);
        let shared = Shared { source, frames, objects, kmalloc, handed_on, counts };
        for _ in 0..ROUNDS {
            round(&shared, &mut random, threads, seed);
            kmalloc.validate().unwrap_or_else(|broken| panic!("{broken}"));
            buddy.validate().unwrap_or_else(|broken| panic!("{broken}"));
            // SAFETY: clause 1: no thread runs.
            assert_eq!(unsafe { kmalloc.check_free_objects() }, 0, "writes after a free");
        }
        interrupts::set(std::ptr::null());
        PANICS.store(0, Ordering::Relaxed);
        for live in std::mem::take(&mut *handed_on.lock().expect("no panic holds it")) {
            shared.free(live, false);
        }
        assert_eq!(kmalloc.large_pages(), 0);
        assert_eq!(shrinkers.unregister(shrinker), Ok(true));
    }
    buddy.drain();
    buddy.validate().unwrap_or_else(|broken| panic!("{broken}"));
    assert_eq!(buddy.free_frames_count(), free, "all pages are back");
}

/// Makes the cache of objects with a constructor, which may panic.
fn make_cache<'w, K: Hardening>(
    registry: &Registry<(&'w Source<'w>, Threads)>,
    random: &mut Random,
) -> Objects<'w, K> {
    const BYTES: usize = 200;
    let construct: ObjectHook = |object| {
        let number = CONSTRUCTIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: clause 1 of `constructor`: room for an object.
        unsafe { OBJECT.fill(object, BYTES) };
        match PANICS.load(Ordering::Relaxed) {
            0 => {}
            one_in => panic_one_in(&mut Random::new(number), one_in),
        }
    };
    let destroy: ObjectHook = |object| {
        // SAFETY: clause 1 of `destructor`: constructed.
        assert!(unsafe { OBJECT.is_in(object, BYTES) }, "destroyed in another state");
    };
    let layout = Layout::from_size_align(BYTES, 8).expect("small");
    let secret = random.below(1000) + 1;
    let build = || {
        let builder = registry.cache("object", layout).hardening::<K>().secret(secret);
        // SAFETY: clause 1: sound for memory of this layout. Clause 2: on any thread.
        let builder = unsafe { builder.constructor(construct) };
        // SAFETY: clause 1: sound for constructed objects. Clause 2: on any thread.
        unsafe { builder.destructor(destroy) }.build().ok()
    };
    // The source refuses at random, also the memory of the cache itself.
    (0..1000).find_map(|_| build()).expect("one of a thousand")
}

/// Runs one round: threads do random operations and end, while this function sends them signals,
/// and takes areas offline and back.
fn round<K: Hardening>(
    shared: &Shared<'_, '_, K>,
    random: &mut Random,
    threads: usize,
    episode: u64,
) {
    let seeds: Vec<u64> = (0..1 + random.below(threads)).map(|_| random.number()).collect();
    let buddy: &Pages = shared.source.source().source();
    // SAFETY: only the lifetime changes: every thread is joined before this function returns.
    let shared: &'static Shared<'static, 'static, K> = unsafe { &*(&raw const *shared).cast() };
    let workers: Vec<_> =
        seeds.into_iter().map(|seed| std::thread::spawn(move || shared.work(seed))).collect();
    let start = Instant::now();
    // A generator of its own, as time decides how often the loop below runs.
    let mut random = Random::new(random.number());
    let frames = shared.frames;
    while let Some(running) = workers.iter().find(|worker| !worker.is_finished()) {
        // SAFETY: clause 1: joined below.
        unsafe { interrupts::interrupt(running.as_pthread_t()) };
        if random.one_in(50) {
            let first = frames.start.get() + random.below(frames.frames() / AREA) * AREA;
            let first = first.next_multiple_of(AREA);
            let area = FrameRange::new(FrameNumber::new(first), FrameNumber::new(first + AREA));
            if area.end <= frames.end && buddy.offline(area).is_ok() {
                // SAFETY: clause 1: the frames are those that were offline, which nobody uses.
                unsafe { buddy.online(area) }.expect("offline before");
                Counts::add(&shared.counts.areas);
            }
        }
        if start.elapsed() > LIMIT {
            eprintln!("a round of the episode with seed {episode} hangs");
            std::process::abort();
        }
        std::thread::sleep(Duration::from_micros(50 + random.below(300) as u64));
    }
    for worker in workers {
        if let Err(payload) = worker.join() {
            std::panic::resume_unwind(payload);
        }
    }
}
