//! Blocks of several areas or sections, and the passes over all areas that use no hint.
//!
//! # Concurrency
//! A call that takes a block above the area's order looks first whether all of its areas are free.
//! Then it tries the section's lock, and never waits for it. Under the lock it claims the areas one
//! by one, ascending. If another call has taken a frame since the first look, a claim fails, and
//! the call opens the areas that it has claimed. A block above the section's order is claimed in
//! the same way section by section, under the lock of the table.
//!
//! So an area can be claimed for a moment although nobody keeps it. A pass that finds nothing must
//! not take such an area for one in use. It is **undecided** if an area is being claimed, if a lock
//! of claims is held, or if the deferred frees of an area are being reconciled. A pass is repeated
//! if something was undecided before it or after it: a claim that began earlier is seen before. One
//! that began later is seen after, or has ended by then and was counted as an undo. For that, a
//! claim of one area is counted before the area is open, and claims of several are counted before
//! their lock is released.
//!
//! This is a bound and no proof: a request may still fail beside calls of other CPUs that undo
//! takes again and again, or that are interrupted in a claim during all passes.
//!
//! # Costs
//! [`Bitmap::take_anywhere`] looks at every area at most [`MAX_PASSES`] times to take a block, and
//! twice as often to see whether it is being claimed.

use page_frame::sync::{Ordering, fence};
use page_frame::{FrameNumber, Order};

use crate::bitmap::bits::{AREA_ORDER, SECTION_AREAS, SECTION_FRAMES, SECTION_ORDER};
use crate::bitmap::section::Section;
use crate::bitmap::{Bitmap, frame};

/// Maximum number of passes over all areas before a request fails.
const MAX_PASSES: usize = 3;

impl<'m> Bitmap<'m> {
    /// Takes a block of `order` wherever one is free, without hints. It repeats a failed pass, up
    /// to [`MAX_PASSES`] in all, if a take or claim was undone during it, or an area was undecided.
    /// `is_reconciling` is called with the first frame of an area, and returns whether its deferred
    /// frees are being reconciled.
    pub(crate) fn take_anywhere(
        &self,
        order: Order,
        is_reconciling: impl Fn(FrameNumber) -> bool,
    ) -> Option<FrameNumber> {
        for _ in 0..MAX_PASSES {
            let before = self.undos();
            let was_undecided = self.is_undecided(&is_reconciling);
            let found = self.take_in_one_pass(order);
            if found.is_some() {
                return found;
            }
            let is_undecided = was_undecided || self.is_undecided(&is_reconciling);
            // SeqCst: the loads of the pass before the loads of the counts.
            fence(Ordering::SeqCst);
            if !is_undecided && before == self.undos() {
                return None;
            }
        }
        None
    }

    /// Looks at every area once for a block of `order`, and takes the first one that it can.
    pub(crate) fn take_in_one_pass(&self, order: Order) -> Option<FrameNumber> {
        let order = u32::from(order.get());
        if order > AREA_ORDER {
            return self.claim_lowest(order);
        }
        self.table.sections().find_map(|(base, section)| {
            (0..SECTION_AREAS).find_map(|area| {
                let taken = match order < AREA_ORDER {
                    true => section.take(area, order),
                    false => section.claim(area).then_some(0),
                };
                taken.map(|at| frame(base, area, at))
            })
        })
    }

    /// Returns whether some area is undecided at this moment: its frames may be free without being
    /// takeable. O(areas).
    pub(crate) fn is_undecided(&self, is_reconciling: impl Fn(FrameNumber) -> bool) -> bool {
        let is_area_undecided = |base, section: &Section<'_>, area| {
            section.is_being_claimed(area) || is_reconciling(frame(base, area, 0))
        };
        let is_section_undecided = |(base, section): (usize, &Section<'_>)| {
            section.claims.is_locked()
                || (0..SECTION_AREAS).any(|area| is_area_undecided(base, section, area))
        };
        self.table.is_being_claimed() || self.table.sections().any(is_section_undecided)
    }

    /// Claims the lowest block of `order`, above the area's, whose areas are all free. It skips
    /// what another call is claiming.
    pub(super) fn claim_lowest(&self, order: u32) -> Option<FrameNumber> {
        if order <= SECTION_ORDER {
            return self.table.sections().find_map(|(base, section)| {
                section.claim_aligned(order).map(|area| frame(base, area, 0))
            });
        }
        let starts = self.table.sections().map(|(base, _)| base);
        let mut aligned = starts.filter(|base| base % (1 << order) == 0).map(FrameNumber::new);
        aligned.find(|start| self.claim_sections(*start, 1 << (order - SECTION_ORDER)))
    }

    /// Claims `count` sections from the one that begins at `start` on; returns whether it did. It
    /// claims none if one of them does not exist or is not free, or if another call holds the lock
    /// of the table or of a section.
    pub(super) fn claim_sections(&self, start: FrameNumber, count: usize) -> bool {
        let section = |index: usize| {
            let first = start.checked_add(index * SECTION_FRAMES)?;
            self.table.locate(first).map(|(_, section)| section)
        };
        let seems_free =
            |index| section(index).is_some_and(|section| section.seem_free(0, SECTION_AREAS));
        if !(0..count).all(seems_free) {
            return false;
        }
        // Held until the claims are undone and counted.
        let Some(_held) = self.table.claims.try_lock() else { return false };
        let claim = |index: &usize| {
            section(*index).is_some_and(|section| section.claim_several(0, SECTION_AREAS))
        };
        let claimed = (0..count).take_while(claim).count();
        if claimed < count {
            let undo = |section: &Section<'m>| section.undo_claims(0, SECTION_AREAS);
            (0..claimed).filter_map(section).for_each(undo);
        }
        claimed == count
    }

    fn undos(&self) -> usize {
        let undos = self.table.sections().map(|(_, section)| section.undos());
        undos.fold(0, usize::wrapping_add)
    }
}

impl Section<'_> {
    /// Claims the first aligned group of areas for a block of `order`, above the area's and at most
    /// the section's; returns its first area.
    fn claim_aligned(&self, order: u32) -> Option<usize> {
        let areas = 1_usize << (order - AREA_ORDER);
        (0..SECTION_AREAS).step_by(areas).find(|first| self.claim_several(*first, areas))
    }

    /// Claims `areas` areas from `first` on, ascending; returns whether it did. It claims none if
    /// one of them is not free, or if another call holds the section's lock.
    pub(super) fn claim_several(&self, first: usize, areas: usize) -> bool {
        if !self.seem_free(first, areas) {
            return false;
        }
        // Held until the claims are undone and counted.
        let Some(_held) = self.claims.try_lock() else { return false };
        let claimed = (first..first + areas).take_while(|area| self.claim(*area)).count();
        if (1..areas).contains(&claimed) {
            self.undo_claims(first, claimed);
        }
        claimed == areas
    }

    /// Opens `areas` areas from `first` on, all of which are the caller's, and counts the undo.
    fn undo_claims(&self, first: usize, areas: usize) {
        (first..first + areas).for_each(|area| self.open_empty(area));
        self.count_undo();
    }

    /// Returns whether `areas` areas from `first` on are open and clear at the moment. The claims
    /// that follow decide.
    fn seem_free(&self, first: usize, areas: usize) -> bool {
        (first..first + areas)
            .all(|area| self.entries.advice(area).is_open() && self.lines[area].is_clear())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::cell::Cell;
    use std::boxed::Box;

    use page_frame::FrameRange;
    use page_frame::sync::Zeroable;

    use super::*;
    use crate::bitmap::bits::{AREA_FRAMES, WORD_BITS};
    use crate::bitmap::entry::Entries;
    use crate::bitmap::hints::{Bounds, HintMaps, Hints};
    use crate::bitmap::section::Lines;
    use crate::bitmap::section_table::{SectionCell, SectionTable};

    /// Calls `test` with a bitmap of two sections of which all frames are free, the first of them
    /// at an odd number of sections.
    fn with_bitmap(test: impl FnOnce(&Bitmap<'_>, [&Section<'_>; 2])) {
        let bounds = Bounds::new();
        let lines: [Box<Lines>; 2] = [Box::new(Zeroable::zero()), Box::new(Zeroable::zero())];
        let entries: [Box<Entries>; 2] = [Box::new(Zeroable::zero()), Box::new(Zeroable::zero())];
        let maps: [Box<HintMaps>; 2] = [Box::new(Zeroable::zero()), Box::new(Zeroable::zero())];
        let sections = [0, 1].map(|index| {
            let hints = Hints::new(&maps[index], &bounds, index);
            Section::new(&lines[index], &entries[index], hints)
        });
        let cells = [SectionCell::zero(), SectionCell::zero()];
        (0..2).for_each(|index| cells[index].put_from_start(&sections[index]));
        let span = FrameRange::new(FrameNumber::new(FIRST), FrameNumber::new(3 * FIRST));
        let ranges = [span];
        let bitmap = Bitmap::new(SectionTable::new(&cells, &ranges, span), &bounds);
        test(&bitmap, [&sections[0], &sections[1]]);
    }

    /// The first frame of the first section.
    const FIRST: usize = SECTION_FRAMES;

    fn order(order: u32) -> Order {
        Order::new(order as u8).expect("a valid order")
    }

    fn at(frame: usize) -> Option<FrameNumber> {
        Some(FrameNumber::new(FIRST + frame))
    }

    /// Mutations that it catches: a small block taken as a whole area, or the other way round; a
    /// block of one area that needs the section's lock.
    #[test]
    fn a_pass_takes_the_first_block_of_exactly_the_order() {
        with_bitmap(|bitmap, [first, second]| {
            first.lines[0].reserve(0, AREA_FRAMES);
            assert_eq!(bitmap.take_in_one_pass(order(0)), at(AREA_FRAMES));
            assert_eq!(first.lines[1].free_frames(), AREA_FRAMES - 1);
            assert_eq!(bitmap.take_in_one_pass(order(AREA_ORDER - 1)), at(AREA_FRAMES * 3 / 2));
            assert!(!first.is_whole(1) && first.lines[1].free_frames() == AREA_FRAMES / 2 - 1);
            let locked = first.claims.try_lock();
            assert_eq!(bitmap.take_in_one_pass(order(AREA_ORDER)), at(2 * AREA_FRAMES));
            assert!(first.is_whole(2) && !first.is_whole(3));
            drop(locked);
            // Two areas begin at an even one; the second section begins behind 512 areas.
            assert_eq!(bitmap.take_in_one_pass(order(AREA_ORDER + 1)), at(4 * AREA_FRAMES));
            assert!(first.is_whole(5) && !first.is_whole(3) && !first.is_whole(6));
            assert_eq!(bitmap.take_in_one_pass(order(SECTION_ORDER)), at(SECTION_FRAMES));
            assert!((0..SECTION_AREAS).all(|area| second.is_whole(area)));
            (3..SECTION_AREAS).for_each(|area| first.lines[area].reserve(0, AREA_FRAMES));
            assert_eq!(bitmap.take_in_one_pass(order(AREA_ORDER)), None);
            assert_eq!(bitmap.take_in_one_pass(order(AREA_ORDER - 2)), at(AREA_FRAMES * 5 / 4));
        });
    }

    /// Mutations that it catches: a pass that is not repeated after an undo in it, or beside an
    /// area that was undecided before it or is so after it; passes without end.
    #[test]
    fn a_failed_pass_is_repeated_if_something_was_undone_or_undecided() {
        with_bitmap(|bitmap, sections| {
            let lines = sections.iter().flat_map(|section| section.lines);
            lines.for_each(|line| line.reserve(0, AREA_FRAMES));
            // Returns how often a request asks for undecided areas, twice in a pass. `answer` gets
            // the number of the question, from 0.
            let questions = |answer: &dyn Fn(usize) -> bool| {
                let asked = Cell::new(0);
                let found = bitmap.take_anywhere(order(0), |frame| {
                    let is_first = Some(frame) == at(0);
                    let number = asked.get();
                    asked.set(number + usize::from(is_first));
                    is_first && answer(number)
                });
                assert_eq!(found, None);
                asked.get()
            };
            assert_eq!(questions(&|_| false), 2, "one pass");
            // Where the area was undecided before a pass, nobody asks after it.
            assert_eq!(questions(&|number| number == 0), 1 + 2, "undecided before the first pass");
            assert_eq!(questions(&|number| number == 1), 2 + 2, "undecided after it");
            assert_eq!(questions(&|_| true), MAX_PASSES);
            let undo = |section: &Section<'_>| {
                section.count_undo();
                false
            };
            for section in sections {
                assert_eq!(questions(&|number| number == 0 && undo(section)), 2 + 2);
                assert_eq!(questions(&|number| number == 1 && undo(section)), 2 + 2);
            }
            assert_eq!(questions(&|_| undo(sections[1])), 2 * MAX_PASSES);
            // The frame of a claim that ends after the first pass is found by the second one.
            let asked = Cell::new(0);
            let found = bitmap.take_anywhere(order(0), |frame| {
                asked.set(asked.get() + usize::from(Some(frame) == at(0)));
                let has_ended = Some(frame) == at(0) && asked.get() == 2;
                if has_ended {
                    sections[1].lines[9].clear(2, 1 << 3);
                }
                has_ended
            });
            assert_eq!(found, at(SECTION_FRAMES + 9 * AREA_FRAMES + 2 * WORD_BITS + 3));
        });
    }

    /// Mutations that it catches: sections or areas that stay claimed after a claim that failed; an
    /// undo that opens others, or is not counted.
    #[test]
    fn a_claim_that_fails_opens_what_it_has_claimed() {
        with_bitmap(|bitmap, [first, second]| {
            let is_open = |section: &Section<'_>| {
                (0..SECTION_AREAS).all(|area| section.entries.load(area).is_open())
            };
            // The second section seems free, and another call holds its lock.
            let locked = second.claims.try_lock();
            assert!(!bitmap.claim_sections(FrameNumber::new(FIRST), 2));
            assert!(is_open(first) && is_open(second));
            assert_eq!((first.undos(), second.undos()), (1, 0));
            drop(locked);
            let held = bitmap.table.claims.try_lock();
            assert!(!bitmap.claim_sections(FrameNumber::new(FIRST), 2) && is_open(first));
            drop(held);
            assert!(!bitmap.claim_sections(FrameNumber::new(FIRST), 3), "there are two");
            // Blocks of two sections begin at an even one.
            assert_eq!(bitmap.claim_lowest(SECTION_ORDER + 1), None);
            assert!(bitmap.claim_sections(FrameNumber::new(FIRST), 2));
            assert!(second.is_whole(0) && first.is_whole(SECTION_AREAS - 1));
            second.undo_claims(4, 3);
            let open = (0..SECTION_AREAS).filter(|area| second.entries.load(*area).is_open());
            assert!(open.eq([4, 5, 6]));
            assert_eq!((first.undos(), second.undos()), (1, 1));
            assert!(second.claim_several(4, 2) && !second.claim_several(4, 2));
            assert!(second.seem_free(6, 1) && !second.seem_free(5, 2) && !second.seem_free(6, 2));
        });
    }
}
