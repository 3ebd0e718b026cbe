//! Blocks of whole areas, whose tags lie apart from those of frames: mistakes are named as for
//! other blocks, and the page map shows them by address.
#![cfg(not(loom))]

mod common;

use std::ptr::NonNull;

use buddy::Mode;
use common::{Simulated, range};
use page_frame::{FaultKind, FrameNumber, Order, PAGE_SIZE, PageMap, SingleCpu, Tag};

/// Frames of an area.
const AREA: usize = 512;
/// The first frame of memory, in the middle of an area.
const FIRST: usize = 3 * AREA + 100;
/// The end of memory, in the middle of another area.
const END: usize = 90 * AREA + 17;

type Machine<const CHECKED: bool = false> = Simulated<SingleCpu, (), CHECKED>;

fn order(order: u8) -> Order {
    Order::new(order).expect("a valid order")
}

fn frame(number: usize) -> FrameNumber {
    FrameNumber::new(number)
}

/// Returns the frame that lies `frames` frames after `start`.
fn after(start: FrameNumber, frames: usize) -> FrameNumber {
    frame(start.get() + frames)
}

fn machine(mode: Mode) -> Machine {
    Simulated::new(&[range(FIRST, END)], SingleCpu::new(), mode)
}

fn allocate<const CHECKED: bool>(buddy: &Machine<CHECKED>, number: u8) -> FrameNumber {
    buddy.allocate_frames(order(number)).expect("free")
}

/// Mutations that it catches: a tag of an area looked up for a frame inside the area; a free that
/// leaves the tag; an order that is not compared.
fn names_each_mistake<const CHECKED: bool>(buddy: &Machine<CHECKED>) {
    let kind = |start, given| buddy.free_frames(start, order(given)).expect_err("a mistake").kind;
    let wrong = |allocated, given| {
        let (allocated, given) = (order(allocated), order(given));
        FaultKind::WrongOrder { allocated, given }
    };
    let [single, one, two, eight] = [0, 9, 10, 12].map(|number| allocate(buddy, number));
    for (start, allocated) in [(single, 0), (one, 9), (two, 10), (eight, 12)] {
        for given in [0, 3, 8, 9, 10, 12].into_iter().filter(|given| *given != allocated) {
            let is_aligned = start.is_aligned_to(order(given));
            let misaligned = FaultKind::Misaligned { alignment: order(given).bytes() };
            let expected = if is_aligned { wrong(allocated, given) } else { misaligned };
            assert_eq!(kind(start, given), expected, "{allocated} as {given}");
        }
    }
    for (start, areas) in [(one, 1), (two, 2), (eight, 8)] {
        for at in [1, 2, AREA / 2, AREA - 1] {
            assert_eq!(kind(after(start, at), 0), FaultKind::InteriorPointer);
            let misaligned = FaultKind::Misaligned { alignment: AREA * PAGE_SIZE };
            assert_eq!(kind(after(start, at), 9), misaligned);
        }
        for area in 1..areas {
            assert_eq!(kind(after(start, area * AREA), 9), FaultKind::InteriorPointer);
        }
    }
    for outside in [frame(0), frame(3 * AREA), frame(91 * AREA), frame(1 << 40)] {
        assert_eq!(kind(outside, 9), FaultKind::ForeignPointer, "{outside}");
    }
    assert_eq!(kind(frame(89 * AREA), 9), FaultKind::DoubleFree, "never allocated");
    buddy.validate().expect("no mistake changed anything");
    for (start, number) in [(single, 0), (one, 9), (two, 10), (eight, 12)] {
        buddy.free_frames(start, order(number)).expect("ours");
        assert_eq!(kind(start, number), FaultKind::DoubleFree, "{number}");
    }
    // More areas than a slot keeps: some return to the bitmap.
    let areas: Vec<_> = (0..20).map(|_| allocate(buddy, 9)).collect();
    buddy.free_many(order(9), &areas).expect("ours");
    areas.iter().for_each(|area| assert_eq!(kind(*area, 9), FaultKind::DoubleFree));
    buddy.drain();
    areas.iter().for_each(|area| assert_eq!(kind(*area, 9), FaultKind::DoubleFree));
    assert_eq!(buddy.free_frames_count(), END - FIRST);
    buddy.validate().expect("consistent");
}

#[test]
fn each_mistake_with_whole_areas_is_named() {
    for mode in [Mode::Cached, Mode::Dense, Mode::Plain] {
        names_each_mistake(&machine(mode));
        names_each_mistake(&machine(mode).checked_free());
    }
}

/// Mutations that it catches: pieces whose tags stay those of the block; the tag of the block that
/// stays beside that of its first piece.
#[test]
fn pieces_of_whole_areas_are_freed_one_by_one() {
    for into in [0, 8, 9, 10] {
        let buddy = machine(Mode::Cached);
        let block = allocate(&buddy, 11);
        // SAFETY: the block was allocated by number.
        let frames = unsafe { buddy.frame_allocator() };
        frames.split_block(block, order(11), order(into)).expect("ours");
        buddy.validate().expect("consistent");
        assert!(buddy.free_frames(block, order(11)).is_err());
        for piece in (0..4 * AREA).step_by(order(into).pages()) {
            buddy.free_frames(after(block, piece), order(into)).expect("a piece");
            assert!(buddy.free_frames(after(block, piece), order(into)).is_err());
        }
        buddy.drain();
        assert_eq!(buddy.free_frames_count(), END - FIRST);
        buddy.validate().expect("consistent");
    }
}

/// Mutations that it catches: each setter that leaves a tag of an area, or that sets one in the map
/// of frames; a look-up that ignores the tags of areas, or finds one for each frame of an area.
#[test]
fn the_page_map_shows_whole_areas_by_address() {
    let buddy = machine(Mode::Cached);
    for number in [9, 10] {
        let block = allocate(&buddy, number);
        let range = order(number);
        let address = |at: usize| common::ROOT + (block.get() + at) * PAGE_SIZE;
        let pointer = NonNull::new(std::ptr::without_provenance_mut(address(0))).expect("not zero");
        let tags = || [0, 1, AREA - 1, AREA].map(|at| buddy.tag(address(at)));
        let as_block = [Tag::block(range), Tag::NONE, Tag::NONE, Tag::NONE];
        assert_eq!(tags(), as_block);
        assert_eq!(buddy.tag(address(0) + 100), Tag::block(range), "anywhere in the page");
        // SAFETY: clause 1: the block is ours; frames are only numbers.
        unsafe { buddy.set_owner(pointer, range.pages(), Tag::SLAB, NonNull::dangling()) };
        assert_eq!(tags()[..3], [Tag::SLAB; 3]);
        buddy.validate().expect("a slab");
        assert!(buddy.free_frames(block, range).is_err());
        // SAFETY: clause 1: as above.
        unsafe { buddy.clear_owner(pointer, range) };
        assert_eq!(tags(), as_block);
        buddy.validate().expect("a block");
        // SAFETY: clause 1: as above.
        unsafe { buddy.set_run(pointer, range.pages()) };
        assert_eq!((tags()[0], buddy.run_pages(address(0))), (Tag::RUN, Some(range.pages())));
        buddy.validate().expect("a run");
        assert!(buddy.free_frames(block, range).is_err());
        // SAFETY: clause 1: as above.
        unsafe { buddy.clear_run(pointer, range) };
        assert_eq!(tags(), as_block);
        buddy.free_frames(block, range).expect("ours");
        assert_eq!(tags(), [Tag::NONE; 4]);
        buddy.validate().expect("consistent");
    }
}
