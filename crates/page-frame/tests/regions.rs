//! Random histories of a page source over several regions: touching ones, ones in the same GiB,
//! and ones that are added while others are in use.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::{cell::Cell, mem::MaybeUninit};

use page_frame::{
    Cpu, CpuId, InterruptState, Order, PAGE_SIZE, PageBlock, PageMap, PageResize, PageSource,
    Regions, Tag,
};
use testkit::Random;

/// One CPU that counts what is pinned and masked.
#[derive(Default)]
struct Counting {
    pinned: Cell<usize>,
    masked: Cell<usize>,
    masks: Cell<usize>,
}

// SAFETY: clauses 1 to 4: the value is not `Sync`, so there is one context. Clauses 5 and 6: the id
// is always 0 of 1. Clause 7: zero.
unsafe impl Cpu for &Counted {
    fn slots(&self) -> usize {
        1
    }
    fn pin(&self) -> Option<CpuId> {
        self.0.pinned.set(self.0.pinned.get() + 1);
        Some(CpuId::new(0))
    }
    unsafe fn unpin(&self) {
        assert_eq!(self.0.masked.get(), 0, "interrupts are restored before the pin ends");
        self.0.pinned.set(self.0.pinned.get() - 1);
    }
    fn fence_all(&self) -> bool {
        true
    }
    fn mask_interrupts(&self) -> InterruptState {
        assert_eq!(self.0.pinned.get(), 1);
        self.0.masks.set(self.0.masks.get() + 1);
        InterruptState(self.0.masked.replace(1))
    }
    unsafe fn restore_interrupts(&self, state: InterruptState) {
        self.0.masked.set(state.0);
    }
}

#[derive(Default)]
struct Counted(Counting);

/// What the test owns: the pages of each block (an order) and run (`None`), by address.
type Owned = BTreeMap<usize, (usize, Option<Order>)>;

fn assert_disjoint(owned: &Owned) {
    let mut end = 0;
    for (start, (pages, _)) in owned {
        assert!(*start >= end, "no page has two owners");
        end = start + pages * PAGE_SIZE;
    }
}

fn step(regions: &Regions<&Counted>, owned: &mut Owned, random: &mut Random) {
    let chosen = owned.keys().nth(random.below(owned.len() + 1)).copied();
    match (random.below(5), chosen) {
        (0, _) => {
            let order = Order::new(random.below(4) as u8).expect("small");
            if let Ok(block) = regions.allocate(order) {
                let start = block.start().addr().get();
                assert_eq!(start % order.bytes(), 0);
                assert_eq!(regions.tag(start), Tag::block(order));
                let _ = block.into_raw();
                owned.insert(start, (order.pages(), Some(order)));
            }
        }
        (1 | 2, _) => {
            let alignment = Order::new(random.below(3) as u8).expect("small");
            if let Ok(run) = regions.allocate_run(1 + random.below(9), alignment) {
                let start = run.start().addr().get();
                assert_eq!(start % alignment.bytes(), 0);
                assert_eq!(regions.run_pages(start), Some(run.pages()));
                owned.insert(start, (run.pages(), None));
            }
        }
        (3, Some(start)) if owned[&start].1.is_none() => {
            let (pages, new) = (owned[&start].0, 1 + random.below(12));
            // SAFETY: clauses 1 and 2: a run of that length, into which nothing refers.
            if unsafe { regions.resize_run(regions.pointer(start), pages, new) } {
                owned.insert(start, (new, None));
            }
        }
        (_, Some(start)) => {
            let (pages, order) = owned.remove(&start).expect("chosen from the map");
            let pointer = regions.pointer(start);
            match order {
                Some(order) => {
                    // SAFETY: clauses 1 to 3: the test owns the block of that order.
                    let block = unsafe { PageBlock::from_raw(pointer, order, false) };
                    // SAFETY: clause 1: it came from these regions. Clause 2: nothing refers to it.
                    unsafe { regions.free(block) };
                }
                // SAFETY: clauses 1 and 2: a run of that length, into which nothing refers.
                None => unsafe { regions.free_run(pointer, pages) },
            }
            assert_eq!(regions.tag(start), Tag::NONE);
        }
        (_, None) => {}
    }
}

#[test]
fn random_histories_over_regions_that_are_added_meanwhile() {
    for seed in 1..=20 {
        let mut random = Random::new(seed);
        let mut memory = vec![MaybeUninit::<u8>::uninit(); 120 * PAGE_SIZE];
        let cpu = Counted::default();
        let regions = Regions::new(&cpu);
        let mut owned = Owned::new();
        // Touching regions of random sizes; those too small for a page are refused.
        let (mut rest, mut pages, mut added) = (&mut memory[..], 0, 0);
        for number in 0..600 {
            if number % 50 == 0 && !rest.is_empty() {
                let bytes = (1 + random.below(24 * PAGE_SIZE)).min(rest.len());
                let (region, others) = rest.split_at_mut(bytes);
                rest = others;
                // SAFETY: clause 1: the vector outlives the value, and this part is given up.
                match unsafe { regions.add(NonNull::from(region).cast(), bytes) } {
                    Ok(more) => (pages, added) = (pages + more, added + 1),
                    Err(error) => assert!(error.given == bytes && error.needed > bytes),
                }
                assert_eq!(regions.pages(), pages);
            }
            step(&regions, &mut owned, &mut random);
            regions.validate().expect("valid after each step");
            assert_disjoint(&owned);
            let used: usize = owned.values().map(|(pages, _)| pages).sum();
            assert_eq!(regions.free_pages(), pages - used);
        }
        assert!(added > 2, "regions were added");
        assert!(cpu.0.masks.get() > 600 && cpu.0.pinned.get() == 0 && cpu.0.masked.get() == 0);
    }
}

#[test]
fn the_smallest_region_that_the_error_names_is_large_enough() {
    let mut memory = vec![MaybeUninit::<u8>::uninit(); 4 * PAGE_SIZE];
    let cpu = Counted::default();
    let regions = Regions::new(&cpu);
    let start = NonNull::from(&mut memory[..]).cast::<u8>();
    // SAFETY: clause 1: the vector outlives the value.
    let error = unsafe { regions.add(start, 100) }.expect_err("no page fits");
    for offset in (0..PAGE_SIZE).step_by(3) {
        assert!(offset + error.needed <= memory.len());
        let regions = Regions::new(&cpu);
        // SAFETY: inside the vector.
        let start = unsafe { start.add(offset) };
        // SAFETY: clause 1: the vector outlives the value, and no other value uses it any more.
        assert!(unsafe { regions.add(start, error.needed) }.is_ok(), "at offset {offset}");
    }
}

#[test]
fn the_last_page_of_aligned_memory_is_used() {
    #[repr(align(4096))]
    struct Aligned([MaybeUninit<u8>; 8 * PAGE_SIZE]);
    let mut memory = Box::new(Aligned([MaybeUninit::uninit(); 8 * PAGE_SIZE]));
    let cpu = Counted::default();
    let regions = Regions::new(&cpu);
    let start = NonNull::from(&mut memory.0).cast();
    // SAFETY: clause 1: the memory outlives the value.
    assert_eq!(unsafe { regions.add(start, 8 * PAGE_SIZE) }, Ok(7), "one page has the metadata");
}
