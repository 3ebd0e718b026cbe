//! Blocks of more than a section: 2 GiB and larger.
#![cfg(not(loom))]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use buddy::{BlockState, Mode, Pressure, Trace};
use common::{Metadata, Simulated, range};
use page_frame::{FaultKind, FrameNumber, Order, PageMap, PageResize, PageSource, SingleCpu};
use testkit::Random;

/// Frames of a section.
const SECTION: usize = 1 << 18;

type Buddy = buddy::Buddy<'static, page_frame::DirectMap, SingleCpu>;

fn order(order: u8) -> Order {
    Order::new(order).expect("a valid order")
}

fn frame(number: usize) -> FrameNumber {
    FrameNumber::new(number)
}

/// Section 3 to 9 without the last frames: aligned blocks of 2 GiB begin at 4 and 6, one of 4 GiB
/// at 4.
fn machine(mode: Mode) -> Simulated<SingleCpu> {
    Simulated::new(&[range(3 * SECTION, 9 * SECTION - 5)], SingleCpu::new(), mode)
}

#[test]
fn blocks_of_several_sections_are_allocated_and_merged_again() {
    for mode in [Mode::Cached, Mode::Plain] {
        let buddy = machine(mode);
        let initial = buddy.free_counts();
        assert_eq!((initial[18], initial[19], initial[20]), (1, 0, 1), "canonical blocks");
        assert_eq!(buddy.largest_free(), Some(order(20)));
        let four = buddy.allocate_frames(order(20)).expect("sections 4 to 7 are free");
        assert_eq!(four, frame(4 * SECTION));
        assert!(
            buddy.allocate_frames(order(19)).is_err() && buddy.allocate_frames(order(21)).is_err()
        );
        buddy.validate().expect("consistent");
        buddy.free_frames(four, order(20)).expect("ours");
        assert_eq!(buddy.free_counts(), initial, "merged again");

        let two = buddy.allocate_frames(order(19)).expect("two of them");
        let other = buddy.allocate_frames(order(19)).expect("the other two");
        assert_eq!((two, other), (frame(4 * SECTION), frame(6 * SECTION)));
        assert_eq!(buddy.free_counts()[18..], [[1, 0].as_slice(), &[0; 10]].concat());
        let faults = [(two, 18), (frame(5 * SECTION), 18), (frame(4 * SECTION + 512), 9)]
            .map(|(start, given)| buddy.free_frames(start, order(given)).unwrap_err().kind);
        let wrong = FaultKind::WrongOrder { allocated: order(19), given: order(18) };
        assert_eq!(faults, [wrong, FaultKind::InteriorPointer, FaultKind::InteriorPointer]);
        let allocated = buddy.blocks().filter(|block| block.state == BlockState::Allocated);
        assert!(allocated.map(|block| block.frames).eq([2 * SECTION; 2]));
        for block in [two, other] {
            buddy.free_frames(block, order(19)).expect("ours");
        }
        assert_eq!(buddy.free_frames(two, order(19)).unwrap_err().kind, FaultKind::DoubleFree);
        assert_eq!(buddy.free_counts(), initial, "merged again");
        buddy.validate().expect("consistent");
    }
}

#[test]
fn one_frame_in_use_prevents_a_large_block_and_nothing_else() {
    let buddy = machine(Mode::Cached);
    let all = buddy.free_frames_count();
    for at in [4 * SECTION, 6 * SECTION + 77, 8 * SECTION - 1] {
        buddy.allocate_at(frame(at), Order::ZERO).expect("free");
        assert!(buddy.allocate_frames(order(20)).is_err(), "{at}");
        assert!(buddy.allocate_at(frame(4 * SECTION), order(20)).is_err(), "{at}");
        assert_eq!(buddy.free_frames_count(), all - 1, "nothing is lost");
        let block = buddy.allocate_frames(order(19)).expect("half of it");
        assert!(!range(block.get(), block.get() + 2 * SECTION).contains(frame(at)));
        buddy.free_frames(block, order(19)).expect("ours");
        buddy.free_frames(frame(at), Order::ZERO).expect("ours");
        buddy.drain();
        buddy.validate().expect("consistent");
    }
    assert!(buddy.allocate_at(frame(5 * SECTION), order(19)).is_err(), "not aligned");
    assert!(buddy.allocate_at(frame(8 * SECTION), order(19)).is_err(), "beyond the end");
    buddy.allocate_at(frame(4 * SECTION), order(20)).expect("all is free");
    buddy.free_frames(frame(4 * SECTION), order(20)).expect("ours");
}

#[test]
fn large_blocks_are_freed_in_pieces_and_runs_take_exactly_their_pages() {
    let buddy = machine(Mode::Cached);
    let initial = buddy.free_counts();
    let four = buddy.allocate(order(20)).expect("free");
    buddy.split_block(four, order(18)).map(|_| ()).expect("no other CPU");
    for section in [5, 4, 7, 6] {
        buddy.validate().expect("consistent");
        buddy.free_frames(frame(section * SECTION), order(18)).expect("a piece");
    }
    buddy.drain();
    assert_eq!(buddy.free_counts(), initial, "freed in pieces of 1 GiB");

    let pages = 3 * SECTION + 1000;
    let run = buddy.allocate_run(pages, Order::ZERO).expect("sections 4 to 7");
    assert_eq!((run.pages(), buddy.run_pages(run.start().addr().get())), (pages, Some(pages)));
    buddy.validate().expect("consistent");
    // SAFETY: the run is ours; frames are only numbers.
    assert!(unsafe { buddy.resize_run(run.start(), pages, SECTION + 3) }, "it shrinks in place");
    // SAFETY: as above.
    assert!(unsafe { buddy.resize_run(run.start(), SECTION + 3, 2 * SECTION + 1) }, "and grows");
    buddy.validate().expect("consistent");
    // SAFETY: as above.
    unsafe { buddy.free_run(run.start(), 2 * SECTION + 1) };
    buddy.drain();
    assert_eq!(buddy.free_counts(), initial);
}

#[test]
fn a_block_may_cross_into_a_section_that_was_added() {
    let metadata = [(); 3].map(|()| Metadata::new(Buddy::section_layout()));
    let room = range(3 * SECTION, 9 * SECTION);
    let start = range(4 * SECTION, 5 * SECTION);
    let buddy = Simulated::with_room(&[start], room, SingleCpu::new(), Mode::Cached);
    assert!(buddy.allocate_frames(order(19)).is_err(), "a section alone");
    for (metadata, section) in metadata.iter().zip([6, 7, 5]) {
        assert!(buddy.allocate_frames(order(20)).is_err(), "three sections at most");
        let added = range(section * SECTION, (section + 1) * SECTION);
        buddy.add_section(metadata.memory(), added).expect("room");
    }
    assert_eq!(buddy.free_counts()[18..21], [0, 0, 1], "ranges that touch are one");
    let all = buddy.allocate_frames(order(20)).expect("four sections");
    buddy.validate().expect("consistent");
    buddy.free_frames(all, order(20)).expect("ours");
    buddy.allocate_at(all, order(20)).expect("by number, too");
    buddy.free_frames(all, order(20)).expect("ours");
    buddy.validate().expect("consistent");
}

/// A trace that counts splits and merges.
#[derive(Default)]
struct Count {
    splits: AtomicUsize,
    merges: AtomicUsize,
}

impl Trace for Count {
    fn split(&self, count: usize) {
        self.splits.fetch_add(count, Relaxed);
    }

    fn merge(&self, count: usize) {
        self.merges.fetch_add(count, Relaxed);
    }

    fn allows(&self, _: usize) -> bool {
        true
    }

    fn pressure(&self) -> Pressure {
        Pressure::None
    }
}

#[test]
fn splits_and_merges_above_a_section_are_counted() {
    let buddy = machine(Mode::Cached).traced(Count::default());
    let count = |buddy: &Simulated<SingleCpu, Count>| {
        let trace = buddy.trace();
        (trace.splits.swap(0, Relaxed), trace.merges.swap(0, Relaxed))
    };
    // As a list-based buddy does: 4 GiB are split twice for a block of 1 GiB that lies in it.
    buddy.allocate_at(frame(5 * SECTION), order(18)).expect("free");
    assert_eq!(count(&buddy), (2, 0));
    buddy.free_frames(frame(5 * SECTION), order(18)).expect("ours");
    assert_eq!(count(&buddy), (0, 2));
    buddy.allocate_at(frame(6 * SECTION), order(19)).expect("free");
    assert_eq!(count(&buddy), (1, 0));
}

/// Blocks of all sizes from 2 MiB to 4 GiB, in a random order.
#[test]
fn random_histories_of_large_blocks_lose_nothing() {
    for seed in 0..3 {
        let buddy = machine(Mode::Cached);
        let initial = buddy.free_counts();
        let mut random = Random::new(seed);
        let mut held: Vec<(FrameNumber, Order)> = Vec::new();
        let mut largest_seen = Order::ZERO;
        for _ in 0..testkit::steps(400) {
            if random.below(2) == 0 {
                let size = order(9 + random.below(12) as u8);
                if let Ok(start) = buddy.allocate_frames(size) {
                    let end = start.get() + size.pages();
                    assert!(start.is_aligned_to(size));
                    let apart = |(other, size): &(FrameNumber, Order)| {
                        end <= other.get() || other.get() + size.pages() <= start.get()
                    };
                    assert!(held.iter().all(apart), "handed out twice");
                    held.push((start, size));
                    largest_seen = largest_seen.max(size);
                }
            } else if !held.is_empty() {
                let (start, size) = held.swap_remove(random.below(held.len()));
                buddy.free_frames(start, size).expect("ours");
            }
            let used: usize = held.iter().map(|(_, size)| size.pages()).sum();
            buddy.drain();
            assert_eq!(buddy.free_frames_count(), buddy.frames() - used);
        }
        assert!(largest_seen > order(18), "blocks above a section were among them");
        held.drain(..).for_each(|(start, size)| buddy.free_frames(start, size).expect("ours"));
        buddy.drain();
        buddy.validate().expect("consistent");
        assert_eq!(buddy.free_counts(), initial);
    }
}
