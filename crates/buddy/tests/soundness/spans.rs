//! Ranges of absurd spans and ranges at the last frame number: no call hangs, panics or loses a
//! frame.

use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use buddy::{FrameAllocator, HotplugError, Mode, ZeroedMemory};
use page_frame::{FaultKind, FrameNumber, FrameRange, Order, OutOfMemory, SingleCpu};

use crate::common::range;

type Frames<'m> = FrameAllocator<'m, SingleCpu>;

/// The frame behind the last one that has an address and an end.
const END: usize = usize::MAX >> 12;

fn with_frames(ranges: &[FrameRange], test: impl FnOnce(Frames<'_>)) {
    let layout = Frames::metadata_layout(ranges, 1).expect("good ranges");
    let mut buffer = vec![MaybeUninit::uninit(); layout.size() + 64];
    let memory = ZeroedMemory::zero(&mut buffer);
    test(Frames::new_in(memory, ranges, SingleCpu::new(), Mode::Cached).expect("enough"));
}

/// Two frames so far apart that a table between them has 2^34 entries: the plan is made in time
/// that depends on the ranges only.
///
/// Mutation that it catches: a plan that visits each section between the ranges (it takes minutes).
#[test]
fn a_plan_costs_the_same_for_any_distance() {
    let begun = Instant::now();
    for distance in [1 << 31, 1 << 43, END - 2] {
        for room in [FrameRange::default(), range(0, END)] {
            let ranges = [range(0, 1), range(distance, distance + 1)];
            let layout = Frames::metadata_layout_with_room(&ranges, room, 1);
            let sections = layout.map(|layout| layout.size()).expect("below `isize::MAX` bytes");
            assert!(sections > distance, "a byte for each frame at least");
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

/// The metadata has room for each section that has frames, and no more: sections with frames of
/// several ranges count once.
///
/// Mutation that it catches: `present_sections` that counts a section for each of its ranges, or
/// that leaves out the last section of a range.
#[test]
fn each_section_with_frames_counts_once() {
    const SECTION: usize = 1 << 18;
    let bytes = |ranges: &[FrameRange]| {
        let room = range(0, 8 * SECTION);
        Frames::metadata_layout_with_room(ranges, room, 1).expect("good ranges").size()
    };
    let one = bytes(&[range(0, 8)]);
    let section = bytes(&[range(0, SECTION + 8)]) - one;
    assert!(section > 30_000, "lines, entries and hints: {section}");
    let rounded = |ranges: &[FrameRange]| (bytes(ranges) - one + section / 2) / section;
    assert_eq!(rounded(&[range(0, 8), range(9, 20), range(30, SECTION)]), 0);
    assert_eq!(rounded(&[range(0, 8), range(SECTION - 1, SECTION + 1)]), 1);
    assert_eq!(rounded(&[range(0, 8), range(5 * SECTION, 7 * SECTION)]), 2);
    assert_eq!(rounded(&[range(0, 8 * SECTION)]), 7);
    assert_eq!(rounded(&[range(SECTION / 2, 3 * SECTION), range(3 * SECTION, 3 * SECTION + 1)]), 3);
}

/// Mutation that it catches: `free_each` that visits each number of its range (it never ends).
#[test]
fn ranges_of_absurd_spans_are_refused_at_once() {
    with_frames(&[range(1000, 3000), range(5000, 6000)], |frames| {
        let absurd = [range(0, usize::MAX / 8 + 1), range(0, usize::MAX), range(2000, usize::MAX)];
        let above = [range(usize::MAX / 8 + 1, usize::MAX), range(usize::MAX - 1, usize::MAX)];
        let held = [1000, 2999, 5500].map(|start| range(start, start + 1));
        for range in absurd.into_iter().chain(above) {
            assert_eq!(frames.withhold(range), Err(OutOfMemory));
            assert_eq!(frames.offline(range), Err(HotplugError::Absent));
            assert_eq!(frames.online(range), Err(HotplugError::Absent));
            held.iter().for_each(|frame| frames.withhold(*frame).expect("free"));
            // Frames of the range that are blocks of their own are freed, as it promises.
            let fault = frames.free_each(range).expect_err("foreign frames");
            let first = if range.start.get() == 2000 { 2000 } else { range.start.get() };
            assert_eq!(fault.frame(), Some(FrameNumber::new(first)), "{fault}");
            let expected =
                if first == 2000 { FaultKind::DoubleFree } else { FaultKind::ForeignPointer };
            assert_eq!(fault.kind, expected);
            let still = held.iter().filter(|frame| frame.intersection(range).is_empty());
            still.for_each(|frame| frames.free_each(*frame).expect("held"));
            frames.drain();
            assert_eq!(frames.free_frames_count(), 3000);
            frames.validate().expect("consistent");
        }
        assert!(frames.free_each(range(7, 7)).is_ok() && frames.free_each(range(9, 3)).is_ok());
        frames.withhold(range(1000, 3000)).expect("free");
        let fault = frames.free_each(range(1000, 5000)).expect_err("a hole");
        assert_eq!(
            (fault.kind, fault.frame()),
            (FaultKind::ReservedFrame, Some(range(3000, 0).start))
        );
        frames.withhold(range(5000, 6000)).expect("free");
        let fault = frames.free_each(range(5000, 7000)).expect_err("beyond the span");
        assert_eq!(
            (fault.kind, fault.frame()),
            (FaultKind::ForeignPointer, Some(range(6000, 0).start))
        );
        assert_eq!(frames.free_frames_count(), 3000);
        for wanted in [usize::MAX / 8 + 1, usize::MAX] {
            assert_eq!(frames.allocate_each(wanted, Order::MAX), Err(OutOfMemory));
        }
        frames.validate().expect("consistent");
    });
}

/// Mutation that it catches: a sum of frames that wraps around behind the last one.
#[test]
fn the_last_frames_that_have_addresses_are_used_like_all_others() {
    with_frames(&[range(END - 1500, END)], |frames| {
        let blocks: Vec<_> =
            std::iter::from_fn(|| frames.allocate_frames(Order::ZERO).ok()).collect();
        assert_eq!(blocks.len(), 1500);
        assert_eq!(blocks.iter().max(), Some(&FrameNumber::new(END - 1)));
        for block in blocks {
            frames.free_frames(block, Order::ZERO).expect("allocated above");
        }
        frames.drain();
        let block = frames.allocate_frames(Order::new(9).expect("small")).expect("a whole area");
        frames.free_frames(block, Order::new(9).expect("small")).expect("allocated above");
        frames.drain();
        let each = frames.allocate_each(1500, Order::ZERO).expect("all of them");
        assert_eq!(each.get(), END - 1500);
        frames.free_each(range(END - 1500, END)).expect("allocated above");
        let last = frames.allocate_at(FrameNumber::new(END - 1), Order::ZERO);
        assert!(last.is_ok());
        let fault = frames.free_frames(FrameNumber::new(END), Order::ZERO).expect_err("behind");
        assert_eq!(fault.kind, FaultKind::ForeignPointer);
        frames.free_frames(FrameNumber::new(END - 1), Order::ZERO).expect("allocated above");
        frames.drain();
        assert_eq!(frames.blocks().map(|block| block.frames).sum::<usize>(), 1500);
        frames.validate().expect("consistent");
    });
}
