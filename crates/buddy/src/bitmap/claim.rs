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

use crate::bitmap::section::Section;
use crate::bitmap::{Bitmap, frame};
use crate::bits::{AREA_ORDER, SECTION_AREAS, SECTION_FRAMES, SECTION_ORDER};

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
