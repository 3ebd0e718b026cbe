//! Blocks of several areas, and the pass over all areas that uses no hint.
//!
//! # Concurrency
//! A call that takes a block above the area's order tries the section's lock and never waits for
//! it. Under the lock it claims the areas one by one, ascending. At the first area that is not free
//! it opens the claimed areas again.
//!
//! # Costs
//! A request that fails looks at every area at most [`MAX_PASSES`] times.

use page_frame::sync::{Ordering, fence};
use page_frame::{FrameNumber, Order};

use crate::bitmap::section::Section;
use crate::bitmap::{Bitmap, frame};
use crate::bits::{AREA_ORDER, SECTION_AREAS};

/// Maximum number of passes over all areas before a request fails.
const MAX_PASSES: usize = 3;

impl Bitmap<'_> {
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
        let mut saw_claim = false;
        let found = self.table.sections().find_map(|(base, section)| {
            if order > AREA_ORDER {
                saw_claim |= section.claims.try_lock().is_none();
                return section.claim_aligned(order).map(|area| frame(base, area, 0));
            }
            (0..SECTION_AREAS).find_map(|area| {
                saw_claim |= section.is_being_claimed(area) || is_busy(frame(base, area, 0));
                let taken = match order < AREA_ORDER {
                    true => section.take(area, order),
                    false => section.claim(area).then_some(0),
                };
                taken.map(|at| frame(base, area, at))
            })
        });
        (found, saw_claim)
    }

    fn undos(&self) -> usize {
        // Relaxed: the caller's fence orders it.
        let undos = self.table.sections().map(|(_, section)| section.undos.load(Ordering::Relaxed));
        undos.fold(0, usize::wrapping_add)
    }
}

impl Section<'_> {
    /// Claims the first aligned group of areas for a block of `order` above the area's; returns its
    /// first area.
    pub(super) fn claim_aligned(&self, order: u32) -> Option<usize> {
        let areas = 1_usize << (order - AREA_ORDER);
        (0..SECTION_AREAS)
            .step_by(areas)
            .filter(|first| first + areas <= SECTION_AREAS)
            .find(|first| self.claim_several(*first, areas))
    }

    /// Claims `areas` areas from `first` on, ascending; returns whether it did. It claims none if
    /// one of them is not free, or if another call holds the section's lock.
    pub(super) fn claim_several(&self, first: usize, areas: usize) -> bool {
        let Some(_claims) = self.claims.try_lock() else { return false };
        let claimed = (first..first + areas).take_while(|area| self.claim(*area)).count();
        if claimed < areas {
            (first..first + claimed).for_each(|area| self.open_empty(area));
            if claimed > 0 {
                self.undos.fetch_add(1, Ordering::Relaxed);
            }
        }
        claimed == areas
    }
}
