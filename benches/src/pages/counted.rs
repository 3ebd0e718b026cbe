//! Counts how often a CPU must own a cache line that other CPUs own too, for machines with too few
//! cores to time it.
//!
//! Question: does an operation change more shared lines when there are more CPUs? One thread
//! simulates all CPUs and switches after each operation, so that CPUs share every line that they
//! could share. Lost races are not simulated. All atomic read-modify-writes of the allocator count,
//! as CPUs change private lines without them. A change is **met** if more than one CPU changed its
//! line during the count.

use std::cell::RefCell;
use std::collections::HashMap;

use buddy::{FrameAllocator, Mode, ZeroedMemory};
use hosted::Mapped;
use page_frame::sync::{Access, AccessKind, hear_accesses};
use page_frame::{CpuId, FrameNumber, FrameRange, Order, SwitchedCpu};
use testkit::Random;

use crate::pages::workload::{mixed_order, shuffle};
use crate::row::Row;

/// Numbers of slots that are compared.
pub const SLOTS: [usize; 3] = [2, 16, 64];
/// 8 GiB of frames.
const FRAMES: usize = 8 << 18;
/// Blocks that each CPU allocates, or frees, for a count: half of memory where there are 64 CPUs
/// and none is freed yet.
const BLOCKS: usize = 16_000;
/// Blocks that each CPU holds in the mixed history.
const HELD: usize = 1024;
/// Frames between the CPU that allocates and the CPU that frees.
const ON_THE_WAY: usize = 64;
/// The bytes of a cache line.
const LINE: usize = 64;

/// The operations of the CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// Each allocates a frame and frees it.
    Pair,
    /// Each allocates single frames, and then frees its own at random.
    Bulk,
    /// Each holds blocks of orders 0 to 10, and replaces one at random.
    Mixed,
    /// Half of them allocate frames, each for one of the others, which frees them.
    HandedOn,
}

impl History {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pair, Self::Bulk, Self::Mixed, Self::HandedOn];

    /// Returns the name, which is that of the row of times with the same operations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pair => "pair-0",
            Self::Bulk => "bulk-0-random",
            Self::Mixed => "mixed-random",
            Self::HandedOn => "producer-consumer",
        }
    }
}

/// Atomic changes for 1000 blocks allocated and freed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Changes {
    /// All of them.
    pub all: f64,
    /// Those of lines that more than one CPU changed.
    pub met: f64,
}

/// The changes that were counted.
#[derive(Default)]
struct Heard {
    /// The CPU that is simulated.
    cpu: usize,
    /// For each line, by number: the CPUs that changed it, as bits, and the number of changes.
    lines: HashMap<usize, (u64, usize)>,
}

thread_local! {
    static HEARD: RefCell<Heard> = RefCell::default();
}

fn hear(access: Access) {
    if access.kind != AccessKind::Change {
        return;
    }
    HEARD.with_borrow_mut(|heard| {
        let (cpus, count) = heard.lines.entry(access.address / LINE).or_default();
        *cpus |= 1 << heard.cpu;
        *count += 1;
    });
}

/// The CPUs, and the buddy that they use.
struct World<'c> {
    cpus: &'c SwitchedCpu,
    slots: usize,
    buddy: FrameAllocator<'static, &'c SwitchedCpu>,
}

impl World<'_> {
    fn switch_to(&self, cpu: usize) {
        self.cpus.switch_to(Some(CpuId::new(cpu as u32)));
        HEARD.with_borrow_mut(|heard| heard.cpu = cpu);
    }

    fn allocate(&self, cpu: usize, order: Order) -> FrameNumber {
        self.switch_to(cpu);
        self.buddy.allocate_frames(order).expect("memory is free")
    }

    fn free(&self, cpu: usize, frame: FrameNumber, order: Order) {
        self.switch_to(cpu);
        self.buddy.free_frames(frame, order).expect("the histories free once");
    }

    /// Calls `operation` for `blocks` blocks, on each CPU in turn.
    fn turns(&self, blocks: usize, mut operation: impl FnMut(usize)) {
        (0..blocks).for_each(|number| operation(number % self.slots));
    }

    fn play(&self, history: History) -> Changes {
        let zero = Order::ZERO;
        let blocks = BLOCKS * self.slots;
        match history {
            History::Pair => {
                let pair = |cpu| self.free(cpu, self.allocate(cpu, zero), zero);
                self.turns(self.slots, pair);
                counted(blocks, || self.turns(blocks, pair))
            }
            History::Bulk => counted(blocks, || {
                let mut held = Vec::with_capacity(blocks);
                self.turns(blocks, |cpu| held.push((cpu, self.allocate(cpu, zero))));
                shuffle(&mut held, 11);
                held.iter().for_each(|(cpu, block)| self.free(*cpu, *block, zero));
            }),
            History::Mixed => {
                let mut random = Random::new(5);
                let mut held = vec![Vec::with_capacity(HELD + 1); self.slots];
                let mut replace = |cpu: usize| {
                    let order = mixed_order(&mut random);
                    let held = &mut held[cpu];
                    held.push((self.allocate(cpu, order), order));
                    if held.len() > HELD {
                        let (block, order) = held.swap_remove(random.below(held.len()));
                        self.free(cpu, block, order);
                    }
                };
                self.turns(2 * HELD * self.slots, &mut replace);
                counted(blocks, || self.turns(blocks, &mut replace))
            }
            History::HandedOn => {
                let mut passed = vec![Vec::with_capacity(ON_THE_WAY); self.slots];
                let mut pass = |turn: usize| {
                    let producer = turn & !1;
                    let passed = &mut passed[producer];
                    passed.push(self.allocate(producer, zero));
                    if passed.len() == ON_THE_WAY {
                        passed.drain(..).for_each(|block| self.free(producer + 1, block, zero));
                    }
                };
                self.turns(4 * ON_THE_WAY * self.slots, &mut pass);
                counted(blocks, || self.turns(blocks, &mut pass))
            }
        }
    }
}

/// Plays `history` with `slots` CPUs, at most 64, on 8 GiB, and counts.
///
/// # Panics
/// When the system has no memory for the metadata.
pub fn changes(history: History, slots: usize) -> Changes {
    hear_accesses(hear);
    let cpus = SwitchedCpu::new(slots);
    let range = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(FRAMES))];
    let layout = FrameAllocator::<&SwitchedCpu>::metadata_layout(&range, slots);
    let metadata = Mapped::reserve(layout.expect("a good range").size());
    let metadata = metadata.expect("memory for metadata");
    // SAFETY: a fresh mapping is zero and page-aligned, and is dropped after the allocator, as
    // locals are dropped in reverse.
    let zeroed = unsafe { ZeroedMemory::from_zeroed(metadata.start(), metadata.bytes()) };
    let buddy = FrameAllocator::new_in(zeroed, &range, &cpus, Mode::Cached);
    let world = World { cpus: &cpus, slots, buddy: buddy.expect("a good range") };
    world.play(history)
}

/// Calls `work`, which allocates and frees `blocks` blocks, and returns the changes meanwhile.
fn counted(blocks: usize, work: impl FnOnce()) -> Changes {
    HEARD.with_borrow_mut(|heard| heard.lines.clear());
    work();
    HEARD.with_borrow(|heard| {
        let sum = |keep: fn(u64) -> bool| {
            let kept = heard.lines.values().filter(|(cpus, _)| keep(*cpus));
            kept.map(|(_, count)| count).sum::<usize>() as f64 * 1000.0 / blocks as f64
        };
        Changes { all: sum(|_| true), met: sum(|cpus| cpus.count_ones() > 1) }
    })
}

/// Counts for each history and number of slots that `wants` wants, and hands out two rows for each.
pub fn measure(wants: impl Fn(&str) -> bool, each: &mut dyn FnMut(Row)) {
    for history in History::ALL {
        let name = |slots: usize, met: &str| format!("rmw-{}-{slots}{met}", history.name());
        for slots in SLOTS.into_iter().filter(|slots| wants(&name(*slots, ""))) {
            let Changes { all, met } = changes(history, slots);
            each(Row::alone(&name(slots, ""), "/1000", vec![all]));
            each(Row::alone(&name(slots, "-met"), "/1000", vec![met]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_changes_no_more_shared_lines_with_more_cpus() {
        for history in History::ALL {
            let [few, some, many] = SLOTS.map(|slots| changes(history, slots));
            for more in [some, many] {
                // Met changes may grow up to all changes, so all changes must not grow. Of mixed
                // orders they grow a little: blocks above 2 MiB come from the lowest areas for all.
                let growth = if history == History::Mixed { 1.15 } else { 1.05 };
                assert!(more.all <= few.all * growth, "{history:?}: {more:?} after {few:?}");
                assert!(more.met <= more.all, "{history:?}: {more:?}");
            }
            // A count of zero would not grow either.
            assert_eq!(few.all == 0.0, history == History::Pair, "{history:?}: {few:?}");
        }
    }
}
