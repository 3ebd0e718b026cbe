//! Blocks of several areas, and the pass that believes in no hint.
//!
//! # Concurrency
//! A block above the area's order claims its areas one by one, ascending, under the section's lock, which is only ever
//! tried; at the first area that is not free it opens again those it has.
//!
//! # Costs
//! A failure looks at every area at most [`PASSES`] times.

use page_frame::sync::{Ordering, fence};
use page_frame::{FrameNumber, Order};

use crate::bitmap::Zone;
use crate::bitmap::area::AREA_ORDER;
use crate::bitmap::search::frame;
use crate::bitmap::section::{SECTION_AREAS, Section};

/// How often the last resort goes over all areas before it believes that there is nothing.
pub(crate) const PASSES: usize = 3;

impl Zone<'_> {
    /// Takes a block of `order` wherever one is free, without hints, and believes in failure only when nothing was on its
    /// way meanwhile.
    pub(crate) fn take_anywhere(&self, order: Order) -> Option<FrameNumber> {
        for _ in 0..PASSES {
            let before = self.undos();
            let (found, claim_seen) = self.pass(order);
            // SeqCst: what the pass saw before what the count says.
            fence(Ordering::SeqCst);
            if found.is_some() || (!claim_seen && before == self.undos()) {
                return found;
            }
        }
        None
    }

    /// Looks at every area once: what was taken, and whether somebody was seen claiming or gathering.
    pub(crate) fn pass(&self, order: Order) -> (Option<FrameNumber>, bool) {
        let order = u32::from(order.get());
        let mut claim_seen = false;
        let found = self.sections().find_map(|(base, section)| {
            if order > AREA_ORDER {
                claim_seen |= section.claims.try_lock().is_none();
                return section.claim_aligned(order).map(|area| frame(base, area, 0));
            }
            (0..SECTION_AREAS).find_map(|area| {
                claim_seen |= section.is_being_claimed(area)
                    || self.left.is_being_gathered(frame(base, area, 0));
                let taken = match order < AREA_ORDER {
                    true => section.take(area, order),
                    false => section.claim(area).then_some(0),
                };
                taken.map(|at| frame(base, area, at))
            })
        });
        (found, claim_seen)
    }

    fn undos(&self) -> usize {
        // Relaxed: the caller's fence orders it.
        let undos = self.sections().map(|(_, section)| section.undos.load(Ordering::Relaxed));
        undos.fold(0, usize::wrapping_add)
    }
}

impl Section<'_> {
    /// Claims the first aligned group of areas for a block of `order` above the area's; returns its first area.
    pub(crate) fn claim_aligned(&self, order: u32) -> Option<usize> {
        let areas = 1_usize << (order - AREA_ORDER);
        (0..SECTION_AREAS)
            .step_by(areas)
            .filter(|first| first + areas <= SECTION_AREAS)
            .find(|first| self.claim_several(*first, areas))
    }

    /// Claims `areas` areas from `first`; whether all were free. Ascends, stops at the first conflict and opens again
    /// what it had.
    pub(crate) fn claim_several(&self, first: usize, areas: usize) -> bool {
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
