//! Histories against two oracles: a textbook buddy with free lists, and a map from each frame to
//! its owner.
#![cfg(not(loom))]

mod common;

use std::collections::BTreeSet;

use buddy::{Marks, Mode, Trace, Watermarks};
use common::textbook::Textbook;
use common::users::{Company, Users};
use common::{Simulated, range};
use page_frame::{
    CpuId, FaultKind, FrameNumber, FrameRange, Order, PageMap, PageResize, SingleCpu, SwitchedCpu,
};
use testkit::Random;

fn order(order: u8) -> Order {
    Order::new(order).expect("a valid order")
}

fn explore(
    buddy: &Simulated<SingleCpu>,
    book: &Textbook,
    live: &[(usize, u8)],
    depth: usize,
) -> usize {
    let counts = buddy.free_counts();
    let expected = book.free_counts();
    assert_eq!(counts[..expected.len()], expected[..], "canonical blocks are the textbook's lists");
    if depth == 0 {
        return 1;
    }
    let mut histories = 1;
    for asked in 0..=4 {
        let mut book = book.clone();
        let expected = book.allocate(usize::from(asked));
        let got = buddy.allocate_frames(order(asked)).ok();
        assert_eq!(got.map(FrameNumber::get), expected, "best fit, leftmost");
        let Some(block) = got else { continue };
        let live = [live, &[(block.get(), asked)]].concat();
        histories += explore(buddy, &book, &live, depth - 1);
        buddy.free_frames(block, order(asked)).expect("allocated above");
    }
    for (index, &(block, size)) in live.iter().enumerate() {
        let mut book = book.clone();
        let frame = FrameNumber::new(block);
        buddy.free_frames(frame, order(size)).expect("live");
        book.release(block, usize::from(size));
        let mut rest = live.to_vec();
        rest.remove(index);
        histories += explore(buddy, &book, &rest, depth - 1);
        // Take the same block again, even if best fit takes another: occupy all other frames.
        retake(buddy, block, size);
    }
    histories
}

/// Allocates exactly the block of `size` at `block`: tries blocks of that size, and frees the
/// others.
fn retake(buddy: &Simulated<SingleCpu>, block: usize, size: u8) {
    let mut others = Vec::new();
    loop {
        let got = buddy.allocate_frames(order(size)).expect("the block is free");
        if got.get() == block {
            break;
        }
        others.push(got);
    }
    others.into_iter().for_each(|other| buddy.free_frames(other, order(size)).expect("ours"));
}

#[test]
fn all_histories_of_seven_operations_on_sixteen_frames_equal_the_textbook() {
    let buddy = Simulated::new(&[range(0, 16)], SingleCpu::new(), Mode::Plain);
    let histories = explore(&buddy, &Textbook::new(4), &[], 7);
    assert!(histories > 50_000, "{histories} histories");
    buddy.validate().expect("consistent at the end");
}

/// Plays a random history of all operations on three CPUs. At each drain it checks that exactly the
/// frames without an owner are free, and that they can be allocated. Ranges of `absent` are added
/// on the way. Every other seed has checked frees. Returns the number of removed sections.
fn play(
    ranges: &[FrameRange],
    absent: &[FrameRange],
    mode: Mode,
    seed: u64,
    steps: usize,
    largest: usize,
) -> usize {
    let cpus = SwitchedCpu::new(3);
    let users = Users::new(ranges, absent, largest, Company::Alone);
    let last = ranges.iter().chain(absent).map(|range| range.end).max().expect("some frames");
    let room = FrameRange::new(ranges[0].start, last);
    let buddy = Simulated::with_room(ranges, room, &cpus, mode);
    let watermarks: Watermarks = Watermarks::new(buddy.frames(), Marks::default(), |_| ());
    let mut random = Random::new(seed);
    if seed % 2 == 0 {
        play_on(&buddy.traced(&watermarks), &cpus, &users, &watermarks, &mut random, steps);
    } else {
        play_on(
            &buddy.traced(&watermarks).checked_free(),
            &cpus,
            &users,
            &watermarks,
            &mut random,
            steps,
        );
    }
    users.removals()
}

fn play_on<T: Trace, const K: bool>(
    buddy: &Simulated<&SwitchedCpu, T, K>,
    cpus: &SwitchedCpu,
    users: &Users,
    watermarks: &Watermarks,
    random: &mut Random,
    steps: usize,
) {
    for step in 0..steps {
        cpus.switch_to((!random.one_in(5)).then(|| CpuId::new(random.below(3) as u32)));
        users.play(buddy, random);
        if random.one_in(50) {
            let (before, drained) = (buddy.free_frames_count(), buddy.drain());
            assert_eq!(buddy.free_frames_count(), before + drained, "step {step}");
            users.assert_free(buddy);
            assert_eq!(watermarks.free_frames(), buddy.free_frames_count(), "step {step}");
            users.assert_obtainable(buddy, order(random.below(users.largest() + 1) as u8));
        }
        if step % 16 == 0 {
            buddy.validate().unwrap_or_else(|violation| panic!("step {step}: {violation}"));
        }
    }
    users.free_all(buddy);
    buddy.drain();
    buddy.validate().expect("consistent at the end");
    users.assert_free(buddy);
    assert_eq!(buddy.free_frames_count(), buddy.frames(), "everything is free again");
}

#[test]
fn random_histories_of_all_operations_lose_nothing() {
    const SECTION: usize = 1 << 18;
    let added = [
        range(SECTION + 5, SECTION + 1700),
        range(2 * SECTION, 2 * SECTION + 512),
        range(4 * SECTION - 1100, 4 * SECTION),
    ];
    let mut removals = 0;
    for seed in 0..6 {
        play(&[range(0, 700)], &[], Mode::Cached, seed, 4000, 9);
        let ragged = [range(5, 700), range(1300, 1311)];
        play(&ragged, &added[..1], Mode::Plain, seed, 300, 6);
        let holes = [range(77, 512 * 5 + 3), range(512 * 6 + 1, 512 * 9)];
        removals += play(&holes, &added, Mode::Cached, seed, 4000, 11);
    }
    assert!(removals > 0, "sections came and went");
}

#[test]
fn random_histories_with_placements_and_owners_lose_nothing() {
    for seed in 0..2 {
        // There are enough areas for owners, and then too few.
        play(&[range(3, 512 * 400)], &[], Mode::Cached, seed, 2000, 12);
        play(&[range(3, 512 * 64)], &[], Mode::Cached, seed, 8000, 12);
        play(&[range(3, 512 * 64)], &[], Mode::Dense, seed, 8000, 12);
    }
}

/// Mutation seen to fail: a search in `Mode::Dense` that tries empty areas first.
#[test]
fn in_dense_mode_blocks_of_other_orders_fill_an_area_before_another_is_opened() {
    let areas_of = |mode| {
        let buddy = Simulated::new(&[range(0, 512 * 64)], SingleCpu::new(), mode);
        let areas: BTreeSet<_> = (0..4)
            .map(|kind| {
                let start = buddy.allocate_frames(order(kind)).expect("room");
                // The CPU owns the area for blocks of this order, until its slot is drained.
                buddy.drain();
                start.get() / 512
            })
            .collect();
        buddy.validate().expect("consistent");
        areas.len()
    };
    assert_eq!((areas_of(Mode::Cached), areas_of(Mode::Dense)), (4, 1));
}

/// The tail of a large run leaves an area nearly unused. When another such run is freed, its area
/// serves the next requests, as its memory has been touched.
///
/// Mutations seen to fail: no release of owned areas after the free of the run; a search that
/// trusts the hint of an area for its time as a fuller one.
#[test]
fn in_dense_mode_the_area_of_a_freed_run_is_used_before_one_that_is_nearly_unused() {
    let buddy = Simulated::new(&[range(0, 512 * 64)], SingleCpu::new(), Mode::Dense);
    let run = buddy.allocate_run(512 + 17, Order::ZERO).expect("room");
    let take = |count: usize| -> BTreeSet<_> {
        (0..count).map(|_| buddy.allocate_frames(Order::ZERO).expect("room").get() / 512).collect()
    };
    // All that is free of a word, so that the slot keeps none of this area.
    assert_eq!(take(64 - 17), [1].into(), "the rest of the run's second area");
    // SAFETY: the run is ours; frames are only numbers.
    unsafe { buddy.free_run(run.start(), run.pages()) };
    assert_eq!(take(512), [0].into(), "the run's first area");
    assert_eq!(take(64), [1].into(), "then its second one");
    buddy.drain();
    buddy.validate().expect("consistent");
}

#[test]
fn sections_holes_and_high_bases_work() {
    let section = 1 << 18;
    let base = 40 * section;
    let ranges = [
        range(base - 3, base + 2),
        range(base + 2 * section - 1000, base + 2 * section + 1000),
        range(base + 5 * section, base + 6 * section),
    ];
    let buddy = Simulated::new(&ranges, SingleCpu::new(), Mode::Cached);
    assert_eq!(buddy.frames(), 5 + 2000 + section);
    let largest = buddy.allocate_frames(order(18)).expect("a whole section is free");
    assert_eq!(largest.get(), base + 5 * section);
    assert_eq!(buddy.free_frames_count(), 2005);
    assert!(buddy.allocate_frames(order(18)).is_err());
    let hole = buddy.free_frames(FrameNumber::new(base + section), Order::ZERO);
    assert_eq!(hole.expect_err("a hole").kind, FaultKind::ReservedFrame);
    for outside in [0, base - 4, base + 6 * section, usize::MAX] {
        let foreign = buddy.free_frames(FrameNumber::new(outside), Order::ZERO);
        assert_eq!(foreign.expect_err("outside").kind, FaultKind::ForeignPointer, "{outside:#x}");
    }
    buddy.free_frames(largest, order(18)).expect("allocated above");
    buddy.validate().expect("consistent");
}

#[test]
fn orders_up_to_a_gibibyte_can_be_allocated_from_an_empty_one_and_freed() {
    let buddy = Simulated::new(&[range(0, 1 << 18)], SingleCpu::new(), Mode::Cached);
    let initial = buddy.free_counts();
    for size in Order::all().take_while(|size| size.get() <= 18) {
        let block = buddy.allocate_frames(size).expect("all of memory is free");
        assert!(block.is_aligned_to(size));
        buddy.free_frames(block, size).expect("allocated above");
        buddy.drain();
        assert_eq!(buddy.free_counts(), initial, "{size:?}");
    }
}

#[test]
fn when_memory_runs_out_every_frame_was_handed_out_once() {
    let cpus = SwitchedCpu::new(3);
    let buddy = Simulated::new(&[range(3, 1500)], &cpus, Mode::Cached);
    let mut seen = BTreeSet::new();
    for turn in 0.. {
        cpus.switch_to(Some(CpuId::new(turn % 3)));
        let Ok(frame) = buddy.allocate_frames(Order::ZERO) else { break };
        assert!(seen.insert(frame), "{frame} twice");
    }
    assert_eq!(seen.len(), 1497, "frames in other CPUs' slots were taken over");
    assert!(Order::all().all(|size| buddy.allocate_frames(size).is_err()));
    let some: Vec<_> = seen.iter().copied().filter(|frame| frame.get() / 8 == 20).collect();
    some.iter().for_each(|frame| buddy.free_frames(*frame, Order::ZERO).expect("ours"));
    assert_eq!(buddy.allocate_frames(order(3)).expect("eight buddies are free").get(), 160);
}

#[test]
fn runs_take_exactly_their_pages_and_change_size_in_place() {
    let buddy = Simulated::new(&[range(0, 4096)], SingleCpu::new(), Mode::Cached);
    let initial = buddy.free_counts();
    let mut free = 4096;
    for pages in [1, 2, 3, 5, 64, 65, 511, 512, 513, 1000, 1536] {
        let run = buddy.allocate_run(pages, Order::ZERO).expect("room");
        buddy.drain();
        assert_eq!((run.pages(), buddy.free_frames_count()), (pages, free - pages));
        assert_eq!(buddy.run_pages(run.start().addr().get()), Some(pages));
        // SAFETY: the run is ours; frames are only numbers.
        let grown = unsafe { buddy.resize_run(run.start(), pages, pages + 7) };
        assert!(grown, "the tail of {pages} pages is free again, and 7 more behind it");
        // SAFETY: the run was grown to this number of pages.
        let shrunk = unsafe { buddy.resize_run(run.start(), pages + 7, pages.div_ceil(2)) };
        assert!(shrunk);
        assert_eq!(buddy.free_frames_count(), free - pages.div_ceil(2));
        buddy.validate().expect("consistent");
        if pages % 2 == 0 {
            // SAFETY: the run was shrunk to this number of pages.
            unsafe { buddy.free_run(run.start(), pages.div_ceil(2)) };
        } else {
            free -= pages.div_ceil(2);
        }
    }
    let runs: Vec<_> =
        buddy.blocks().filter(|block| block.state == buddy::BlockState::Allocated).collect();
    for run in runs {
        let start = std::ptr::NonNull::new(std::ptr::without_provenance_mut(
            (1 << 40) + run.start.get() * 4096,
        ))
        .expect("not zero");
        // SAFETY: the runs that the history still holds, each once.
        unsafe { buddy.free_run(start, run.frames) };
    }
    assert_eq!(buddy.free_counts(), initial);
    assert!(buddy.allocate_run(0, Order::ZERO).is_err());
    assert!(buddy.allocate_run(Order::MAX.pages() + 1, Order::ZERO).is_err());
    assert!(buddy.allocate_run(usize::MAX, Order::ZERO).is_err());
}
