//! Random histories on several CPUs: allocations of any size and alignment, which are resized, and
//! freed by address or by layout. A list of the live objects says what each of them must contain.
//! The test checks all invariants on the way, and in the end all pages must be free again.
#![cfg(not(loom))]

use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use buddy::{Buddy, Mode, ZeroedMemory};
use hosted::Mapped;
use kmalloc::Kmalloc;
use page_frame::{
    Arena, Counted, CpuId, DirectMap, Limited, PAGE_SIZE, PageResize, SingleCpu, SwitchedCpu,
};
use slab::{Debugging, Hardened, Hardening, Off, Registry};
use testkit::{Pattern, Random, steps};

const CPUS: usize = 3;
const STEPS: usize = steps(6_000);
const PAGES: usize = 8192;

struct Live {
    start: NonNull<u8>,
    layout: Layout,
    number: u64,
}

impl Live {
    fn fill(&self) {
        // SAFETY: ours, of that many bytes.
        unsafe { Pattern(self.number).fill(self.start, self.layout.size()) };
    }

    fn check(&self, bytes: usize) {
        // SAFETY: filled before.
        let is_whole = unsafe { Pattern(self.number).is_in(self.start, bytes) };
        assert!(is_whole, "{:?} of number {}", self.layout, self.number);
    }
}

/// Returns a random size in bytes: small ones often, large ones seldom.
fn size(random: &mut Random) -> usize {
    let most = [64, 64, 300, 1000, 5_000, 40_000, 200_000][random.below(7)];
    random.below(most)
}

/// Runs one history; returns how many requests failed.
fn history<K: Hardening, P: PageResize>(source: P, seed: u64) -> usize {
    let cpus = SwitchedCpu::new(CPUS);
    let mut random = Random::new(seed);
    let registry = (0..100).find_map(|_| Registry::new(&source, &cpus).ok()).expect("one of 100");
    let kmalloc = Kmalloc::<_, K>::with_hardening(registry).with_secret(seed as usize);
    let mut live: Vec<Live> = Vec::new();
    let mut failures = 0;
    for step in 0..STEPS {
        let cpu = random.below(CPUS + 1);
        cpus.switch_to((cpu < CPUS).then(|| CpuId::new(cpu as u32)));
        let number = step as u64;
        match random.below(100) {
            0..45 if live.len() < 300 => {
                let alignment = 1 << [0, 3, 3, 3, 4, 6, 9, 13][random.below(8)];
                let layout = Layout::from_size_align(size(&mut random), alignment).expect("small");
                let zeroed = random.one_in(4);
                let got = match zeroed {
                    true => kmalloc.allocate_zeroed(layout),
                    false => kmalloc.allocate(layout),
                };
                let Ok(start) = got else {
                    failures += 1;
                    continue;
                };
                assert_eq!(start.addr().get() % alignment, 0);
                assert!(kmalloc.usable_size(start) >= Some(layout.size().max(1)));
                // SAFETY: zeroed by the allocator.
                let bytes = || unsafe { std::slice::from_raw_parts(start.as_ptr(), layout.size()) };
                assert!(!zeroed || bytes().iter().all(|byte| *byte == 0));
                live.push(Live { start, layout, number });
                live[live.len() - 1].fill();
            }
            0..85 if !live.is_empty() => {
                let freed = live.swap_remove(random.below(live.len()));
                freed.check(freed.layout.size());
                match random.one_in(2) {
                    // SAFETY: allocated with this layout.
                    true => unsafe { kmalloc.free_sized(freed.start, freed.layout) },
                    // SAFETY: allocated here.
                    false => unsafe { kmalloc.free(freed.start) },
                }
            }
            0..98 if !live.is_empty() => {
                let index = random.below(live.len());
                let Live { start, layout, number } = live[index];
                let new_bytes = size(&mut random);
                // SAFETY: allocated with this layout; only the address returned is used.
                let Ok(start) = (unsafe { kmalloc.reallocate(start, layout, new_bytes) }) else {
                    failures += 1;
                    live[index].check(layout.size());
                    continue;
                };
                let new = Layout::from_size_align(new_bytes, layout.align()).expect("small");
                live[index] = Live { start, layout: new, number };
                live[index].check(new_bytes.min(layout.size()));
                live[index].fill();
            }
            _ => _ = kmalloc.shrink_all(),
        }
        if step % 10 == 0 {
            kmalloc.validate().unwrap_or_else(|broken| panic!("{broken} at step {step}"));
        }
    }
    for Live { start, .. } in live {
        // SAFETY: allocated here.
        unsafe { kmalloc.free(start) };
    }
    assert_eq!(kmalloc.large_pages(), 0);
    failures
}

#[test]
fn over_an_arena() {
    let mut memory = vec![MaybeUninit::uninit(); PAGES * PAGE_SIZE];
    let arena = Arena::new(&mut memory).expect("large enough");
    let free = arena.free_pages();
    for seed in 0..3 {
        assert_eq!(history::<Off, _>(&arena, seed), 0);
        arena.validate().expect("consistent");
        assert_eq!(arena.free_pages(), free);
    }
}

/// Runs `test` over a buddy of mapped memory, which must have the same free blocks afterwards as
/// before.
fn over_a_buddy(test: impl Fn(&Buddy<'static, DirectMap, SingleCpu>)) {
    let memory = Mapped::reserve(PAGES * PAGE_SIZE).expect("address space");
    let ranges = [memory.frames()];
    let bytes = Buddy::<DirectMap, SingleCpu>::metadata_layout(&ranges, 1).expect("good").size();
    let metadata = Mapped::reserve(bytes).expect("address space");
    let (map, cpu) = (memory.direct_map(), SingleCpu::new());
    // SAFETY: the mapping is fresh, so zero, page-aligned and not shared, and stays as long as
    // the allocator.
    let zeroed = unsafe { ZeroedMemory::from_zeroed(metadata.start(), metadata.bytes()) };
    // SAFETY: the frames are a fresh mapping that no other code uses, and `map` covers it.
    let buddy = unsafe { Buddy::new_in(zeroed, &ranges, map, cpu, Mode::Cached) };
    let buddy = buddy.expect("good frames");
    let free = buddy.free_counts();
    test(&buddy);
    buddy.drain();
    buddy.validate().expect("consistent");
    assert_eq!(buddy.free_counts(), free);
}

#[test]
fn over_our_buddy() {
    over_a_buddy(|buddy| {
        for seed in 10..13 {
            assert_eq!(history::<Off, _>(buddy, seed), 0);
        }
    });
}

#[test]
fn with_hardening_nothing_is_found_in_histories_without_mistakes() {
    over_a_buddy(|buddy| {
        for seed in 20..22 {
            assert_eq!(history::<Hardened, _>(buddy, seed), 0);
            assert_eq!(history::<Debugging, _>(buddy, seed), 0);
        }
    });
}

#[test]
fn over_a_buddy_that_refuses() {
    over_a_buddy(|buddy| {
        let mut failures = 0;
        for n in 1..12 {
            let source = Counted::new(Limited::new(buddy).failing_every(n + 1));
            failures += history::<Off, _>(&source, n as u64);
            assert_eq!(source.held_pages(), 0);
        }
        let source = Counted::new(Limited::new(buddy).with_quota(600));
        failures += history::<Off, _>(&source, 40);
        assert_eq!(source.held_pages(), 0);
        assert!(failures > 50, "{failures}");
    });
}
