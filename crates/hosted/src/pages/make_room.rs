//! Opening the address space of a block: with a huge page where the heap grows, and by unmapping
//! free units first where the system refuses.
//!
//! # Concepts
//! A small block in an area that nothing was opened in may get the whole area, backed by a huge
//! page (`thp/growth.rs`).
//!
//! A process may have a limit of address space or of data (`ulimit -v`, `ulimit -d`), or may have
//! used up its memory under strict accounting. Purged pages still count there. So when a unit
//! cannot be opened, [`open_block`] closes units whose frames are all free, and tries again.

use core::sync::atomic::Ordering;

use page_frame::{FrameRange, Order};

use super::Pages;
use crate::space::SMALL_BLOCK;
use crate::space::units::UNIT_ORDER;
use crate::system::os_error::OsError;

/// Pages that are unmapped beyond those that the request needs, so that the next ones need not: a
/// guess.
const MORE_PAGES: usize = 1024;

/// Opens `range`, a block that the caller has just taken from the buddy.
///
/// # Errors
/// The error of the system, if it refuses although no free unit is mapped any more.
#[inline]
pub(super) fn open_block(pages: &Pages, range: FrameRange) -> Result<(), OsError> {
    if pages.space.is_open(range) { Ok(()) } else { open_closed(pages, range) }
}

#[cold]
fn open_closed(pages: &Pages, range: FrameRange) -> Result<(), OsError> {
    if range.frames() < SMALL_BLOCK
        && pages.thp.may_back_fresh(pages.decay.in_use(), &pages.committed)
    {
        if let Some(area) = pages.space.open_area(range) {
            pages.thp.back_fresh(area, range, pages.space.mapping());
            return Ok(());
        }
    }
    pages.space.open(range).or_else(|error| make_room(pages, range, error))
}

fn make_room(pages: &Pages, range: FrameRange, error: OsError) -> Result<(), OsError> {
    if error == OsError::EXISTS || !close_free_units(pages, range.frames() + MORE_PAGES) {
        return Err(error);
    }
    pages.space.open(range)
}

/// Unmaps free units until they have `count` pages. Returns whether any was unmapped.
///
/// O(units), so it tries again only when there are more free pages than after the last time
/// that it found no unit.
fn close_free_units(pages: &Pages, count: usize) -> bool {
    let Some(_maintenance) = pages.maintenance.try_lock() else { return false };
    // Relaxed, here and below: changed under the maintenance lock.
    let free = pages.space.open_pages().saturating_sub(pages.decay.in_use());
    if free < pages.scattered.load(Ordering::Relaxed) + (1 << UNIT_ORDER) {
        return false;
    }
    pages.buddy.drain();
    let order = Order::new(UNIT_ORDER).expect("below the largest");
    let mut closed = 0;
    let sections = pages.space.sections();
    for unit in sections.in_buddy().flat_map(|limits| pages.space.open_units(limits)) {
        if closed >= count {
            break;
        }
        if unit.frames() == order.pages() && pages.buddy.try_allocate_at(unit.start, order).is_ok()
        {
            pages.thp.forbid(unit, pages.space.mapping());
            // SAFETY: clause 1 of `close`: this loop has allocated the unit, and nobody needs
            // its content.
            if unsafe { pages.space.close(unit) } {
                // A later mapping reads as zero (I1).
                pages.decay.note_purged(pages.committed.remove(unit));
                closed += unit.frames();
            }
            // SAFETY: clause 1 of `free_frames`: this loop allocated the block by number, and
            // no other code uses it.
            let freed = unsafe { pages.buddy.free_frames(unit.start, order) };
            debug_assert!(freed.is_ok(), "allocated above");
        }
    }
    pages.scattered.store(if closed > 0 { 0 } else { free }, Ordering::Relaxed);
    closed > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_blocks::{fill, free, take};

    /// Mutations that it catches: a unit that stays open without a mapping; frames that stay
    /// committed.
    #[test]
    fn closed_units_are_opened_again_and_read_as_zero() {
        let pages = Pages::with_space(1 << 30).expect("address space").without_purging();
        let blocks = take(&pages, 9, 8);
        blocks.iter().for_each(fill);
        free(&pages, blocks);
        assert_eq!(pages.idle_pages(), 8 * 512);
        assert!(close_free_units(&pages, 3 * 512));
        assert_eq!(pages.idle_pages(), 5 * 512);
        assert!(close_free_units(&pages, usize::MAX));
        assert_eq!(pages.idle_pages(), 0);
        assert_eq!(pages.space.open_pages(), 0);
        let blocks = take(&pages, 9, 8);
        for block in &blocks {
            assert!(block.is_zero());
            // SAFETY: the first byte of a block that the test has.
            assert_eq!(unsafe { block.start().read() }, 0);
        }
        close_free_units(&pages, usize::MAX);
        blocks.iter().for_each(fill);
        free(&pages, blocks);
    }
}
