//! Tests of a section: entries and hints after takes, claims and frees, and the count of undos.

extern crate std;

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::boxed::Box;

use page_frame::sync::Zeroable;

use super::*;
use crate::bitmap::hints::Bounds;

/// An area that the tests use, not the first one.
const AREA: usize = 70;

/// Calls `test` with a section of which all frames are free, and no area has a hint.
fn with_section(test: impl FnOnce(&Section<'_>)) {
    let bounds = Bounds::new();
    let lines: Box<Lines> = Box::new(Zeroable::zero());
    let entries: Box<Entries> = Box::new(Zeroable::zero());
    let maps: Box<HintMaps> = Box::new(Zeroable::zero());
    test(&Section::new(&lines, &entries, Hints::new(&maps, &bounds, 0)));
}

fn undos(section: &Section<'_>) -> usize {
    section.undos()
}

fn has_hint(section: &Section<'_>, map: usize) -> bool {
    section.hints.word(map, AREA / usize::BITS as usize) >> (AREA % usize::BITS as usize) & 1 == 1
}

fn entry(section: &Section<'_>) -> Entry {
    section.entries.load(AREA)
}

/// The placement that areas have before they are used.
fn first_placement() -> Placement {
    Placement::from_index(0)
}

#[test]
fn a_claim_that_finds_a_frame_taken_opens_the_area_and_counts_an_undo() {
    with_section(|section| {
        assert!(section.begin_claim(AREA) && section.is_being_claimed(AREA));
        assert!(!section.begin_claim(AREA), "one claim at a time");
        // The take of another CPU, between the two halves.
        assert!(section.lines[AREA].take_at(5, 0));
        assert!(!section.end_claim(AREA));
        assert_eq!((undos(section), entry(section).is_open()), (1, true));
        assert!(section.hints.has_any(AREA), "published");
        assert!(!section.is_being_claimed(AREA));
        assert!(!section.claim(AREA), "the first look finds the frame");
        assert_eq!(undos(section), 1, "so nothing was undone");
        section.lines[AREA].free(5, 0);
        assert!(section.claim(AREA) && section.is_whole(AREA));
        assert!(!section.is_being_claimed(AREA));
        assert!(!section.claim(AREA), "it is whole already");
        assert_eq!(undos(section), 1);
    });
}

#[test]
fn of_several_areas_the_clear_ones_are_claimed() {
    with_section(|section| {
        assert!(section.take_at(65, 3, 0));
        section.entries.store(66, Entry::WHOLE);
        assert_eq!(section.claim_each(64, 0b10_1111), 0b10_1001);
        let is_whole = |area: &usize| section.is_whole(*area);
        assert!((64..72).filter(is_whole).eq([64, 66, 67, 69]));
        assert_eq!((undos(section), section.hints.has_any(65)), (1, true));
    });
}

#[test]
fn a_take_needs_an_open_or_owned_area_and_a_lost_one_counts_an_undo() {
    with_section(|section| {
        assert!(section.take_at(AREA, 8, 3));
        assert_eq!(undos(section), 0);
        assert!(!section.take_at(AREA, 8, 0));
        assert_eq!(undos(section), 1, "a frame was taken for a moment, as far as others know");
        assert!(section.acquire(AREA, first_placement()));
        assert!(section.take(AREA, 2).is_some() && section.take_word(AREA).is_some());
        for state in [Entry::WHOLE, Entry::EMPTY.claiming()] {
            section.entries.store(AREA, state);
            let free = section.lines[AREA].free_frames();
            assert_eq!((section.take(AREA, 0), section.take_word(AREA)), (None, None));
            assert!(!section.take_at(AREA, 300, 0));
            assert_eq!((section.lines[AREA].free_frames(), undos(section)), (free, 1));
        }
    });
}

/// Every take that fails its second look is undone by this function.
#[test]
fn an_undo_frees_the_frames_publishes_the_area_and_is_counted() {
    with_section(|section| {
        assert!(section.lines[AREA].take_at(16, 4));
        section.undo(AREA, |line| line.free(16, 4));
        assert!(section.lines[AREA].is_clear());
        assert_eq!((undos(section), has_hint(section, EMPTIED)), (1, true));
    });
}

#[test]
fn the_free_that_empties_an_area_sets_the_hint_of_an_empty_one() {
    with_section(|section| {
        for frame in [3, 70] {
            assert!(section.take_at(AREA, frame, 0));
        }
        assert_eq!(section.free(AREA, 3, 0), Freed::Emptied, "of a word");
        assert!(!section.hints.has_any(AREA), "the area has a frame in use");
        assert_eq!(section.free(AREA, 70, 0), Freed::Emptied);
        assert!(has_hint(section, EMPTIED));
        assert_eq!(section.free(AREA, 70, 0), Freed::Already);
    });
}

#[test]
fn the_first_free_in_a_full_word_sets_a_hint_and_others_do_not() {
    with_section(|section| {
        assert!(section.lines[AREA].take_all());
        assert_eq!(section.clear(AREA, 2, 0b100), Freed::Notable);
        let map = map_for(first_placement(), 1).expect("not full");
        assert!(has_hint(section, map));
        section.hints.clear(map, AREA);
        assert_eq!(section.clear(AREA, 2, 0b1000), Freed::Quiet);
        assert!(!section.hints.has_any(AREA));
        assert_eq!(section.clear_unpublished(AREA, 3, 1), Freed::Notable);
        assert!(!section.hints.has_any(AREA), "left to the caller");
        assert_eq!(section.publish(AREA), 3);
        assert!(has_hint(section, map));
    });
}

#[test]
fn only_open_areas_get_hints_and_the_density_follows_the_free_frames() {
    with_section(|section| {
        assert_eq!(section.publish(AREA), AREA_FRAMES);
        assert!(has_hint(section, EMPTIED) && entry(section) == Entry::EMPTY);
        section.hints.clear(EMPTIED, AREA);
        assert!(section.acquire(AREA, first_placement()) && section.is_owned(AREA));
        assert!(!section.acquire(AREA, first_placement()), "it is owned already");
        assert_eq!(section.publish(AREA), AREA_FRAMES);
        assert!(!section.hints.has_any(AREA));
        let (dense, sparse) = (AREA_FRAMES - MAX_FREE_IF_DENSE, AREA_FRAMES / 2);
        section.lines[AREA].reserve(0, dense);
        section.release_owned(AREA);
        assert!(entry(section).is_open() && section.hints.has_any(AREA));
        assert!(section.is_worth_keeping(AREA, first_placement().mobility()));
        _ = section.clear(AREA, 0, usize::MAX);
        assert!(!section.is_worth_keeping(AREA, first_placement().mobility()));
        assert!(section.lines[AREA].free_frames() < sparse);
    });
}

/// Mutations that it catches: the hint of an area that was never used taken for a wrong one;
/// `clear_empty_hints` that does nothing.
#[test]
fn a_wrong_hint_is_replaced_and_a_right_one_stays() {
    with_section(|section| {
        for map in [EMPTIED, UNUSED] {
            section.hints.set(map, AREA);
            assert!(section.check_hint(map, AREA) && has_hint(section, map));
        }
        section.clear_empty_hints(AREA);
        assert!(!section.hints.has_any(AREA));
        section.hints.set(EMPTIED, AREA);
        assert!(section.take_at(AREA, 0, 0));
        assert!(!section.check_hint(EMPTIED, AREA));
        let right = map_for(first_placement(), AREA_FRAMES - 1).expect("not full");
        assert!(!has_hint(section, EMPTIED) && has_hint(section, right));
        section.entries.store(AREA, Entry::WHOLE);
        assert!(!section.check_hint(right, AREA));
        assert!(!section.hints.has_any(AREA), "a whole area has none");
    });
}

#[test]
fn a_whole_area_is_split_or_opened_empty() {
    with_section(|section| {
        assert!(section.claim(AREA));
        assert_eq!(section.taken(AREA), [usize::MAX; AREA_WORDS]);
        assert!(section.lines[AREA].take_at(9, 0), "a stray bit");
        assert!(!section.split_whole(AREA) && section.is_whole(AREA));
        section.lines[AREA].free(9, 0);
        assert!(section.split_whole(AREA) && entry(section).is_open());
        assert_eq!(section.lines[AREA].free_frames(), 0);
        assert!(!section.hints.has_any(AREA), "it is full");
        section.lines[AREA].free(0, 8);
        section.lines[AREA].free(AREA_FRAMES / 2, 8);
        assert!(section.claim(AREA));
        section.open_empty(AREA);
        assert!(has_hint(section, EMPTIED) && entry(section) == Entry::EMPTY);
        assert_eq!(section.taken(AREA), [0; AREA_WORDS]);
    });
}

#[test]
fn only_an_open_area_gets_a_placement() {
    with_section(|section| {
        let last = Placement::from_index(1);
        section.set_placement(AREA, last);
        assert_eq!(section.placement(AREA).index(), 1);
        assert!(section.claim(AREA));
        section.set_placement(AREA, last);
        assert!(section.is_whole(AREA));
    });
}

/// Maximum number of calls until two threads meet in the same moment of a take. The threads of a
/// single CPU meet within some thousand calls.
const MAX_CALLS: usize = 20_000_000;

/// Calls `ours` until the section has counted an undo, while another thread calls `theirs`.
/// Returns whether it has.
fn meets(section: &Section<'_>, ours: impl Fn(), theirs: impl Fn() + Sync) -> bool {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Relaxed) {
                theirs()
            }
        });
        let met = (0..MAX_CALLS).any(|_| {
            // The other thread may have been interrupted in a claim.
            if !section.allows_takes(AREA) {
                std::thread::yield_now();
            }
            ours();
            section.undos() > 0
        });
        is_over.store(true, Relaxed);
        met
    })
}

/// Mutation that it catches: `take` without `finish_undo` where it loses a run. Another
/// call may have seen the area full for that moment, and then fails instead of looking again.
#[test]
fn a_take_that_loses_its_run_to_another_thread_is_counted() {
    with_section(|section| {
        let take = || {
            if let Some(start) = section.take(AREA, 0) {
                section.free(AREA, start, 0);
            }
        };
        assert!(meets(section, take, take));
        assert!(section.lines[AREA].is_clear() && section.hints.has_any(AREA));
    });
}

/// Mutation that it catches: `take` or `take_word` without its undo after the second look (the
/// frames are lost).
#[test]
fn a_take_that_meets_a_claim_leaves_no_bit() {
    with_section(|section| {
        let take = || {
            if let Some(start) = section.take(AREA, 0) {
                section.free(AREA, start, 0);
            }
        };
        let take_word = || {
            if let Some((word, frames)) = section.take_word(AREA) {
                _ = section.clear(AREA, word, frames);
            }
        };
        let claim = || {
            if section.claim(AREA) {
                section.open_empty(AREA);
            }
        };
        assert!(meets(section, take, claim) && section.lines[AREA].is_clear());
        section.undos.store(0, Relaxed);
        assert!(meets(section, take_word, claim) && section.lines[AREA].is_clear());
    });
}
