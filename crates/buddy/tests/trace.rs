//! The events of a trace, against a textbook buddy that counts its splits and merges.
#![cfg(not(loom))]

mod common;

use buddy::{EventCounts, Mode};
use common::textbook::Textbook;
use common::{Simulated, range};
use page_frame::{CpuId, FrameNumber, Order, PageResize, SingleCpu, SwitchedCpu};
use testkit::{Random, steps};

fn order(order: u8) -> Order {
    Order::new(order).expect("a valid order")
}

#[test]
fn splits_and_merges_are_those_of_the_textbook() {
    let counts = EventCounts::new();
    let buddy = Simulated::new(&[range(0, 2048)], SingleCpu::new(), Mode::Plain).traced(&counts);
    let mut book = Textbook::new(11);
    let mut random = Random::new(8);
    let mut live: Vec<(usize, u8)> = Vec::new();
    for step in 0..steps(3000) {
        if random.below(100) < 55 {
            let size = (random.number().trailing_zeros() as u8).min(10);
            let expected = book.allocate(size.into());
            let got = buddy.allocate_frames(order(size)).ok().map(FrameNumber::get);
            assert_eq!(got, expected, "step {step}");
            live.extend(got.map(|block| (block, size)));
        } else if !live.is_empty() {
            let (block, size) = live.swap_remove(random.below(live.len()));
            buddy.free_frames(FrameNumber::new(block), order(size)).expect("live");
            book.release(block, size.into());
        }
        let traced = (counts.splits(), counts.merges());
        assert_eq!(traced, (book.splits, book.merges), "step {step}");
    }
    assert!(book.splits > 300 && counts.claims() > 0, "{} splits", book.splits);
}

/// A split adds one free block and a merge removes one; an allocation removes one and a free adds
/// one. So the events and the allocated blocks account for every free block.
#[test]
fn with_slots_the_numbers_account_for_every_free_block() {
    let counts = EventCounts::new();
    let cpus = SwitchedCpu::new(2);
    let buddy = Simulated::new(&[range(0, 4096)], &cpus, Mode::Cached).traced(&counts);
    let mut random = Random::new(9);
    let mut live = Vec::new();
    for _ in 0..steps(4000) {
        cpus.switch_to(Some(CpuId::new(random.below(2) as u32)));
        if random.below(100) < 55 {
            let size = order((random.number().trailing_zeros() as u8).min(9));
            live.extend(buddy.allocate_frames(size).ok().map(|block| (block, size)));
        } else if !live.is_empty() {
            let (block, size) = live.swap_remove(random.below(live.len()));
            buddy.free_frames(block, size).expect("live");
        }
    }
    buddy.drain();
    let free_blocks: usize = buddy.free_counts().iter().sum();
    let made = 1 + counts.splits() - counts.merges();
    assert_eq!(
        free_blocks + live.len(),
        made,
        "one block at the start, and one more for each split"
    );
    live.into_iter().for_each(|(block, size)| buddy.free_frames(block, size).expect("live"));
    buddy.drain();
    assert_eq!(counts.splits(), counts.merges(), "all is one block again");
    assert!(counts.transfers() > 0);
}

#[test]
fn runs_cause_events_too() {
    let counts = EventCounts::new();
    let buddy = Simulated::new(&[range(0, 4096)], SingleCpu::new(), Mode::Cached).traced(&counts);
    // 4096 to 2048 to 1024. The last 24 of the 1024 pages are freed as 8 + 16, and merge with no
    // other block.
    let run = buddy.allocate_run(1000, Order::ZERO).expect("room");
    assert_eq!((counts.splits(), counts.merges()), (2, 0));
    // Eight more pages: the block of 8 itself.
    // SAFETY: the run is ours; frames are only numbers.
    assert!(unsafe { buddy.resize_run(run.start(), 1000, 1008) });
    assert_eq!((counts.splits(), counts.merges()), (2, 0));
    // The first 8 pages do not merge: the 16 beside them are no buddy of 8. The next 8 merge with
    // them.
    for (pages, merges) in [(1000, 0), (992, 2)] {
        // SAFETY: the run that was grown above.
        assert!(unsafe { buddy.resize_run(run.start(), pages + 8, pages) });
        assert_eq!((counts.splits(), counts.merges()), (2, merges));
    }
    // SAFETY: the run with the pages that it has now.
    unsafe { buddy.free_run(run.start(), 992) };
    let pieces_given_back = 2 + 1 + 1 + 5;
    let pieces_taken = 1 + 1;
    let made = 1 + counts.splits() + pieces_given_back - pieces_taken - counts.merges();
    assert_eq!(made, 1, "all is one block again");
    assert_eq!(buddy.largest_free(), Some(order(12)));
}
