//! Blocks of several areas or sections, and the pass over all areas that uses no hint.
//!
//! # Concurrency
//! A call that takes a block above the area's order looks first whether all of its areas are free.
//! Then it tries the section's lock, and never waits for it. Under the lock it claims the areas one
//! by one, ascending. Where another call was faster and an area is not free any more, it opens the
//! claimed areas again. A block above the section's order is claimed in the same way section by
//! section, under the lock of the table.
//!
//! So an area can be claimed for a moment and be opened again. A pass that met such an area as
//! taken notices it, and is repeated: the lock is held still, or the count of undos has grown.
//! Therefore a lock is released only after the areas are open and the undo is counted.
//!
//! # Costs
//! A request that fails looks at every area at most [`MAX_PASSES`] times.

use page_frame::sync::{Ordering, fence};
use page_frame::{FrameNumber, Order};

use crate::bitmap::section::Section;
use crate::bitmap::{Bitmap, frame};
use crate::bits::{AREA_ORDER, SECTION_AREAS, SECTION_FRAMES, SECTION_ORDER};

/// Maximum number of passes over all areas before a request fails.
const MAX_PASSES: usize = 3;

impl<'m> Bitmap<'m> {
    /// Takes a block of `order` wherever one is free, without hints. It repeats a failed pass, up
    /// to [`MAX_PASSES`] in all, if a take or claim was undone during it, or an area was being
    /// claimed or busy. It calls `is_busy` with the first frame of each area.
    pub(crate) fn take_anywhere(
        &self,
        order: Order,
        is_busy: impl Fn(FrameNumber) -> bool,
    ) -> Option<FrameNumber> {
        for _ in 0..MAX_PASSES {
            let before = self.undos();
            let (found, saw_claim) = self.pass(order, &is_busy);
            // SeqCst: the loads of the pass before the loads of the counts.
            fence(Ordering::SeqCst);
            if found.is_some() || (!saw_claim && before == self.undos()) {
                return found;
            }
        }
        None
    }

    /// Looks at every area once; returns the block that it took, and whether an area was being
    /// claimed or busy. It calls `is_busy` with the first frame of each area.
    pub(crate) fn pass(
        &self,
        order: Order,
        is_busy: impl Fn(FrameNumber) -> bool,
    ) -> (Option<FrameNumber>, bool) {
        let order = u32::from(order.get());
        if order > AREA_ORDER {
            let found = self.claim_lowest(order);
            let mut sections = self.table.sections();
            let is_claiming = sections.any(|(_, section)| section.claims.is_locked());
            return (found, is_claiming || self.table.is_being_claimed());
        }
        let mut saw_claim = false;
        let found = self.table.sections().find_map(|(base, section)| {
            let found = (0..SECTION_AREAS).find_map(|area| {
                saw_claim |= section.is_being_claimed(area) || is_busy(frame(base, area, 0));
                let taken = match order < AREA_ORDER {
                    true => section.take(area, order),
                    false => section.claim(area).then_some(0),
                };
                taken.map(|at| frame(base, area, at))
            });
            saw_claim |= found.is_none() && section.claims.is_locked();
            found
        });
        (found, saw_claim || self.table.is_being_claimed())
    }

    /// Claims the lowest block of `order`, above the area's, whose areas are all free.
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
        let Some(_claims) = self.table.claims.try_lock() else { return false };
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
        // Relaxed: the caller's fence orders it.
        let undos = self.table.sections().map(|(_, section)| section.undos.load(Ordering::Relaxed));
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
        let Some(_claims) = self.claims.try_lock() else { return false };
        let claimed = (first..first + areas).take_while(|area| self.claim(*area)).count();
        if claimed < areas && claimed > 0 {
            self.undo_claims(first, claimed);
        }
        claimed == areas
    }

    /// Opens `areas` areas from `first` on, which the caller has claimed, and counts the undo.
    fn undo_claims(&self, first: usize, areas: usize) {
        (first..first + areas).for_each(|area| self.open_empty(area));
        // Relaxed: the release of the caller's lock and the fence of `take_anywhere` order it.
        self.undos.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns whether `areas` areas from `first` on are open and clear at the moment. The claims
    /// that follow decide.
    fn seem_free(&self, first: usize, areas: usize) -> bool {
        (first..first + areas)
            .all(|area| self.entries.advice(area).is_open() && self.lines[area].is_clear())
    }
}
