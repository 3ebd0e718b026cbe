//! CPUs take areas apart from one another while there are enough.
#![cfg(not(loom))]

mod common;

use std::cell::Cell;
use std::collections::BTreeSet;

use buddy::Mode;
use common::{Simulated, range};
use page_frame::{Cpu, CpuId, FrameNumber, Order};
use testkit::{Random, steps};

const CPUS: usize = 4;
/// Frames of a word of hints, which is a CPU's home.
const HOME: usize = usize::BITS as usize * 512;
/// A home for each CPU.
const FRAMES: usize = CPUS * HOME;

thread_local! {
    static CPU: Cell<u32> = const { Cell::new(0) };
}

/// A machine of [`CPUS`] CPUs that one thread plays in turn.
#[derive(Clone, Copy, Debug)]
struct InTurn;

// SAFETY: each test has an allocator of its own, which one thread uses.
unsafe impl Cpu for InTurn {
    fn slots(&self) -> usize {
        CPUS
    }
    fn pin(&self) -> Option<CpuId> {
        Some(CpuId::new(CPU.get()))
    }
    unsafe fn unpin(&self) {}
    fn fence_all(&self) -> bool {
        true
    }
}

fn buddy(mode: Mode) -> Simulated<InTurn> {
    Simulated::new(&[range(0, FRAMES)], InTurn, mode)
}

fn order(order: usize) -> Order {
    Order::all().nth(order).expect("a valid order")
}

/// Lets the CPUs allocate `number` blocks of `order` each in turn; returns the homes of each.
fn homes(buddy: &Simulated<InTurn>, order: Order, number: usize) -> [BTreeSet<usize>; CPUS] {
    let mut homes = [const { BTreeSet::new() }; CPUS];
    for _ in 0..number {
        for (cpu, homes) in homes.iter_mut().enumerate() {
            CPU.set(cpu as u32);
            let block = buddy.allocate_frames(order).expect("there is room");
            homes.insert(block.get() / HOME);
        }
    }
    homes
}

/// Mutations that it catches: a search without one of the steps for slots with homes; a request of
/// a slot that passes no home (each of the four places).
#[test]
fn each_cpu_takes_its_blocks_from_a_home_of_its_own() {
    for small in [0, 1, 3, 5, 7, 8, 9] {
        let buddy = buddy(Mode::Cached);
        // Half of a home.
        let homes = homes(&buddy, order(small), (HOME / 2) >> small);
        let all: BTreeSet<usize> = homes.iter().flatten().copied().collect();
        assert_eq!(all.len(), CPUS, "order {small}: {homes:?}");
        assert!(homes.iter().all(|homes| homes.len() == 1), "order {small}: {homes:?}");
        buddy.validate().expect("consistent");
    }
}

/// Mutation that it catches: homes in the dense mode.
#[test]
fn dense_memory_is_filled_from_the_lowest_area_by_all_cpus() {
    let buddy = buddy(Mode::Dense);
    let homes = homes(&buddy, Order::ZERO, 4096);
    assert!(homes.iter().all(|homes| homes.iter().eq(&[0])), "{homes:?}");
}

/// Homes are advice: a search, or at the latest the pass without hints, finds every frame.
#[test]
fn one_cpu_gets_all_frames_whosever_home_they_are_in() {
    let buddy = buddy(Mode::Cached);
    homes(&buddy, order(9), 1);
    buddy.drain();
    let left = buddy.free_frames_count();
    assert_eq!(left, FRAMES - CPUS * 512);
    CPU.set(2);
    let mut frames = vec![FrameNumber::default(); left];
    assert_eq!(buddy.allocate_many(Order::ZERO, &mut frames), left);
    assert!(buddy.allocate_frames(Order::ZERO).is_err());
}

/// Mutation that it catches: a slot that does not leave its old home when it moves.
#[test]
fn a_home_that_was_left_becomes_the_home_of_another_cpu() {
    let buddy = buddy(Mode::Cached);
    let take = |cpu: u32, number: usize| {
        CPU.set(cpu);
        let block = || buddy.allocate_frames(order(9)).expect("there is room");
        (0..number).map(|_| block()).collect::<Vec<_>>()
    };
    let home = |blocks: &[FrameNumber]| blocks.last().expect("not empty").get() / HOME;
    // The first CPU fills its home and moves on; what it frees there is for the second CPU.
    let mut first = take(0, HOME / 512 + 8);
    let (old, new) = (home(&first[..1]), home(&first));
    assert_ne!(old, new);
    for block in first.drain(..HOME / 512) {
        buddy.free_frames(block, order(9)).expect("ours");
    }
    buddy.drain();
    assert_eq!(home(&take(1, 1)), old);
    assert_eq!(home(&take(0, 8)), new);
}

#[test]
fn whatever_cpus_did_all_frames_merge_again() {
    let buddy = buddy(Mode::Cached);
    let initial = buddy.free_counts();
    let mut random = Random::new(23);
    let mut live = Vec::new();
    for _ in 0..steps(100_000) {
        CPU.set(random.below(CPUS) as u32);
        if random.below(100) < 52 {
            let order = order([0, 0, 1, 3, 6, 8, 9, 9, 10, 12][random.below(10)]);
            if let Ok(block) = buddy.allocate_frames(order) {
                live.push((block, order));
            }
        } else if !live.is_empty() {
            let (block, order) = live.swap_remove(random.below(live.len()));
            buddy.free_frames(block, order).expect("ours");
        }
    }
    buddy.validate().expect("consistent");
    for (block, order) in live {
        buddy.free_frames(block, order).expect("ours");
    }
    buddy.drain();
    buddy.validate().expect("consistent");
    assert_eq!(buddy.free_counts(), initial);
}
