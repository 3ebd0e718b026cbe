//! The longest path of each operation over a long random history, in instructions.
//!
//! Question: how long can one operation take, beside its usual path? Each operation of a history is
//! counted by itself: under QEMU's instruction counter an instruction takes 32 ticks. The history
//! holds up to 1,000 allocations of an operation's kind, so that slots, depots and slabs run empty
//! and full, and shrinks now and then. Interrupts are off, and one CPU runs, so no operation waits
//! for another CPU.
//!
//! A row that exceeds its limit is a failure. The limits are the figures measured, and a tenth. It
//! was tried: a limit below the figure of one row ends the kernel with failure.

use core::alloc::Layout;
use core::ptr::NonNull;

use page_frame::{Order, PageBlock, PageSource};

use crate::console::print;
use crate::heap::{kmalloc, zones};
use crate::held::Random;
use crate::machine::time;

const OPERATIONS: usize = 100_000;
/// Allocations that a history holds at most.
const HELD: usize = 1000;
/// Operations between two shrinks.
const SHRINK: usize = 20_000;
/// Ticks of one instruction.
const TICKS: u64 = 32;
/// Operations are counted in ranges of this number of instructions.
const RANGE: u64 = 8;
/// The number of such ranges.
const RANGES: usize = 2048;

/// The lengths of the operations of one kind.
struct Lengths {
    /// Operations by range; the last place has all longer ones.
    counts: [u32; RANGES],
    longest: u64,
    total: u32,
}

impl Lengths {
    const fn new() -> Self {
        Self { counts: [0; RANGES], longest: 0, total: 0 }
    }

    fn add(&mut self, ticks: u64) {
        let instructions = ticks / TICKS;
        self.counts[((instructions / RANGE) as usize).min(RANGES - 1)] += 1;
        self.longest = self.longest.max(instructions);
        self.total += 1;
    }

    /// Returns the number of instructions that all but one operation in `rest` need at most,
    /// rounded up to a range.
    fn all_but_one_in(&self, rest: u32) -> u64 {
        let mut longer = self.total;
        let enough = |count: &u32| {
            longer -= count;
            longer <= self.total / rest
        };
        let range = self.counts.iter().position(enough).unwrap_or(RANGES - 1);
        RANGE * (range as u64 + 1)
    }

    fn print(&self, name: &str, limit: u64) -> bool {
        let (median, most) = (self.all_but_one_in(2), self.all_but_one_in(1000));
        print!("longest,{name},{median},{most},{},{limit}", self.longest);
        self.longest <= limit
    }
}

/// Prints median, 99.9th percentile, maximum and limit of each operation; returns whether all are
/// within their limits.
pub(crate) fn run() -> bool {
    print!("instructions of an operation: median, 99.9 %, longest, limit");
    let heap = kmalloc();
    let layout = Layout::from_size_align(192, 8).expect("a layout");
    let cache = heap.registry().cache("longest", layout).build().expect("room");
    let shrink = || _ = heap.registry().shrink_all();
    let objects = history(
        ["cache-allocate", "cache-free"],
        [2_975, 670],
        shrink,
        |_| cache.allocate().ok(),
        // SAFETY: an object of this cache, freed once.
        |object: NonNull<u8>| unsafe { cache.free(object) },
    );
    let memory = history(
        ["kmalloc", "kfree"],
        [14_300, 12_400],
        shrink,
        |random| heap.kmalloc(1 + random.below(2048)).ok(),
        // SAFETY: allocated by `kmalloc`, freed once.
        |start| unsafe { heap.kfree(Some(start)) },
    );
    let zone = zones().next_back().expect("there is memory");
    let frames = history(
        ["page-allocate", "page-free"],
        [7_950, 6_460],
        || (),
        |random| {
            let order = Order::new(random.below(4) as u8).expect("a small order");
            zone.allocate(order).ok()
        },
        // SAFETY: a block of this zone, freed once.
        |block: PageBlock| unsafe { zone.free(block) },
    );
    objects && memory && frames
}

/// Runs a history of `allocate` and `free`, and prints a row for each.
fn history<T>(
    [allocating, freeing]: [&str; 2],
    [allocate_limit, free_limit]: [u64; 2],
    shrink: impl Fn(),
    mut allocate: impl FnMut(&mut Random) -> Option<T>,
    mut free: impl FnMut(T),
) -> bool {
    let mut random = Random::new(7);
    let (mut allocations, mut frees) = (Lengths::new(), Lengths::new());
    let mut held = [const { None }; HELD];
    let floor = {
        let start = time();
        time() - start
    };
    for number in 0..OPERATIONS {
        if number % SHRINK == SHRINK - 1 {
            shrink();
        }
        let place = &mut held[random.below(HELD)];
        let start;
        match place.take() {
            Some(block) => {
                start = time();
                free(block);
                frees.add((time() - start).saturating_sub(floor));
            }
            None => {
                start = time();
                let block = allocate(&mut random);
                allocations.add((time() - start).saturating_sub(floor));
                *place = block;
            }
        }
    }
    held.into_iter().flatten().for_each(free);
    let is_within = allocations.print(allocating, allocate_limit);
    frees.print(freeing, free_limit) && is_within
}
