//! One thread of a round: random operations on the page source, on a cache and on the allocator.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Mutex;

use page_frame::{FrameRange, Order, PageBlock, PageSource};
use slab::Hardening;
use testkit::{Pattern, Random};

use super::world::{Counts, Kmalloc, OBJECT, Objects, Planned, Source};

/// Operations of a thread in a round.
const OPERATIONS: usize = 3000;

/// Memory that a thread holds, filled with the pattern of a number.
pub(super) enum Live {
    Allocation { start: NonNull<u8>, layout: Layout, number: u64 },
    Object { start: NonNull<u8> },
    Block { block: PageBlock, number: u64 },
}

// SAFETY: the memory belongs to the value, whichever thread has it.
unsafe impl Send for Live {}

/// The state that the threads of an episode share.
pub(super) struct Shared<'s, 'w, K: Hardening> {
    pub(super) source: &'s Source<'w>,
    /// All frames of the episode.
    pub(super) frames: FrameRange,
    pub(super) objects: &'s Objects<'w, K>,
    pub(super) kmalloc: &'s Kmalloc<'w, K>,
    /// Memory that ended threads have left for the next ones. So threads free what others
    /// allocated.
    pub(super) handed_on: &'s Mutex<Vec<Live>>,
    pub(super) counts: &'s Counts,
}

impl<K: Hardening> Shared<'_, '_, K> {
    /// Takes some of the memory handed on, does [`OPERATIONS`] random operations, and hands on all
    /// that it then holds.
    pub(super) fn work(&self, seed: u64) {
        let mut random = Random::new(seed);
        let mut live = std::mem::take(&mut *self.handed_on.lock().expect("no panic holds it"));
        let from = random.below(live.len() + 1);
        self.handed_on.lock().expect("no panic holds it").extend(live.drain(from..));
        for step in 0..OPERATIONS {
            let number = seed ^ (step as u64) << 32;
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                self.operation(&mut random, &mut live, number);
            }));
            Counts::add(&self.counts.operations);
            if let Err(payload) = outcome {
                if !payload.is::<Planned>() {
                    std::panic::resume_unwind(payload);
                }
                Counts::add(&self.counts.panics);
            }
        }
        self.handed_on.lock().expect("no panic holds it").append(&mut live);
    }

    fn operation(&self, random: &mut Random, live: &mut Vec<Live>, number: u64) {
        let is_crowded = live.len() > 400;
        match random.below(100) {
            0..35 if !is_crowded => self.allocate(random, live, number),
            35..50 if !is_crowded => match self.objects.allocate() {
                Ok(start) => live.push(Live::Object { start }),
                Err(_) => Counts::add(&self.counts.failures),
            },
            50..55 if !is_crowded => self.allocate_block(random, live, number),
            55..65 if !live.is_empty() => {
                let index = random.below(live.len());
                self.resize(random, &mut live[index]);
            }
            97 => _ = self.kmalloc.registry().shrink(random.below(64)),
            98 => self.kmalloc.registry().age(),
            99 => _ = self.source.source().source().drain(),
            _ if !live.is_empty() => {
                let freed = live.swap_remove(random.below(live.len()));
                self.free(freed, random.one_in(2));
            }
            _ => {}
        }
    }

    fn allocate(&self, random: &mut Random, live: &mut Vec<Live>, number: u64) {
        let alignment = 1 << [0, 3, 3, 4, 6, 12][random.below(6)];
        let layout = Layout::from_size_align(size(random), alignment).expect("small");
        let Ok(start) = self.kmalloc.allocate(layout) else {
            return Counts::add(&self.counts.failures);
        };
        assert_eq!(start.addr().get() % alignment, 0);
        // SAFETY: just allocated, of that many bytes.
        unsafe { Pattern(number).fill(start, layout.size()) };
        live.push(Live::Allocation { start, layout, number });
    }

    fn allocate_block(&self, random: &mut Random, live: &mut Vec<Live>, number: u64) {
        let order = Order::new([0, 0, 0, 1, 2, 3, 9][random.below(7)]).expect("small");
        match self.source.allocate(order) {
            Ok(block) => {
                // SAFETY: just allocated, at least a page. Only the first page is filled.
                unsafe { Pattern(number).fill(block.start(), page_frame::PAGE_SIZE) };
                live.push(Live::Block { block, number });
            }
            Err(_) => Counts::add(&self.counts.failures),
        }
    }

    fn resize(&self, random: &mut Random, live: &mut Live) {
        let Live::Allocation { start, layout, number } = live else { return };
        let bytes = size(random);
        // SAFETY: allocated with this layout; only the address returned is used.
        let Ok(moved) = (unsafe { self.kmalloc.reallocate(*start, *layout, bytes) }) else {
            return Counts::add(&self.counts.failures);
        };
        let kept = bytes.min(layout.size());
        // SAFETY: filled before, and copied.
        assert!(unsafe { Pattern(*number).is_in(moved, kept) }, "a resize lost content");
        // SAFETY: ours, of that many bytes.
        unsafe { Pattern(*number).fill(moved, bytes) };
        *start = moved;
        *layout = Layout::from_size_align(bytes, layout.align()).expect("small");
    }

    /// Checks the content of `live`, and frees it.
    pub(super) fn free(&self, live: Live, by_layout: bool) {
        match live {
            Live::Allocation { start, layout, number } => {
                // SAFETY: filled before.
                let is_whole = unsafe { Pattern(number).is_in(start, layout.size()) };
                assert!(is_whole, "{layout:?} of number {number:#x} was overwritten");
                match by_layout {
                    // SAFETY: allocated with this layout, and not used any more.
                    true => unsafe { self.kmalloc.free_sized(start, layout) },
                    // SAFETY: allocated here, and not used any more.
                    false => unsafe { self.kmalloc.free(start) },
                }
            }
            Live::Object { start } => {
                // SAFETY: constructed, and not written since.
                let is_whole = unsafe { OBJECT.is_in(start, self.objects.object_size()) };
                assert!(is_whole, "an object lost its constructed state");
                // SAFETY: from this cache, in constructed state, and not used any more.
                unsafe { self.objects.free(start) };
            }
            Live::Block { block, number } => {
                // SAFETY: filled before.
                let is_whole =
                    unsafe { Pattern(number).is_in(block.start(), page_frame::PAGE_SIZE) };
                assert!(is_whole, "a block of {:?} was overwritten", block.order());
                // SAFETY: from this source, and nothing refers into it.
                unsafe { self.source.free(block) };
            }
        }
    }
}

/// Returns a random size in bytes: small ones often, large ones seldom.
fn size(random: &mut Random) -> usize {
    let most = [64, 64, 300, 1000, 5_000, 40_000, 300_000][random.below(7)];
    random.below(most)
}
