//! Hotplug: sections that are added and removed at run time, and ranges that are taken offline and
//! brought online.
//!
//! # Concepts
//! - An allocator that is built **with room** has cells in its section table, and entries in its
//!   page map, for frames that may be added later.
//! - A section that is **added** brings its own metadata.
//! - A section that was added is **removed** when all of it is offline. Its frames and its metadata
//!   belong to the caller again.
//! - **Offlining** works area by area: it takes all frames of a range, like one large allocation,
//!   and tags them. The error names the first frame that is in use, so that the caller can move its
//!   content and try again.
//!
//! # Concurrency
//! Adding holds one try-lock of the section table; `section_table.rs` describes how the section is
//! published. Removing requires that no other call is inside the allocator. An exclusive reference
//! proves that; a machine may instead stop its other CPUs. Going offline and online only takes and
//! frees frames.

use page_frame::{FrameNumber, FrameRange, Tag};

pub use crate::allocator::hotplug_error::HotplugError;
use crate::bitmap::area_parts;
use crate::bitmap::bits::{AREA_FRAMES, SECTION_FRAMES};
use crate::bitmap::section_table::{SectionCell, section_number};
use crate::frames::Frames;
use crate::metadata::section::{added_section, section_layout};
use crate::trace::Trace;
use crate::zeroed_memory::ZeroedMemory;

/// Adds the frames of `range`, all of them free, see
/// [`FrameAllocator::add_section`](crate::FrameAllocator::add_section).
pub(crate) fn add_section<'m, T: Trace>(
    frames: &Frames<'m, T>,
    metadata: ZeroedMemory<'m>,
    range: FrameRange,
) -> Result<(), HotplugError> {
    let (bitmap, table) = (frames.bitmap(), frames.bitmap().table());
    let number = section_number(range.start);
    if range.is_empty() || section_number(FrameNumber::new(range.end.get() - 1)) != number {
        return Err(HotplugError::NotOneSection);
    }
    let cell = table.cell(range.start).ok_or(HotplugError::NoRoom)?;
    if range.start < table.span().start || table.span().end < range.end {
        return Err(HotplugError::NoRoom);
    }
    let _adding = table.try_lock().ok_or(HotplugError::Occupied)?;
    if cell.get().is_some() {
        return Err(HotplugError::Occupied);
    }
    let (needed, given) = (section_layout().size(), metadata.bytes());
    if given < needed {
        return Err(HotplugError::MetadataTooSmall { needed, given });
    }
    let index = table.index(range.start);
    // SAFETY: clause 1: `ZeroedMemory` is zero, aligned to 64 and ours during `'m`, or until
    // `remove_section` has emptied the cell, after which no reference to it exists. It is large
    // enough, as was checked above.
    let section = unsafe { added_section(metadata.start(), bitmap.bounds(), index) };
    let base = number * SECTION_FRAMES;
    section.reserve_absent(base, &[range]);
    table.put(section, range);
    // The hints are set after the pointer: a search that follows a hint finds the section.
    section.publish_all(base, &[range]);
    frames.trace_free_range(range);
    Ok(())
}

/// Returns the cell and the frames of the added section that `frame` lies in.
pub(crate) fn find_added<'m, T>(
    frames: &Frames<'m, T>,
    frame: FrameNumber,
) -> Result<(&'m SectionCell<'m>, FrameRange), HotplugError> {
    let cell = frames.bitmap().table().cell(frame).ok_or(HotplugError::Absent)?;
    if cell.get().is_none() {
        return Err(HotplugError::Absent);
    }
    cell.added().map(|range| (cell, range)).ok_or(HotplugError::FromStart)
}

/// Removes the added section that `frame` lies in. The caller has drained the CPU slots.
///
/// # Safety
/// 1. No other call of this allocator is under way, and none begins before this one has returned.
///    Calls that begin later happen after this one. No iterator over sections is used afterwards.
pub(crate) unsafe fn remove_section<T>(
    frames: &Frames<'_, T>,
    frame: FrameNumber,
) -> Result<FrameRange, HotplugError> {
    let (cell, range) = find_added(frames, frame)?;
    let is_used = |start: &FrameNumber| {
        let located = frames.bitmap().table().locate(*start);
        let is_owned = located.is_some_and(|(at, section)| section.is_owned(at.area));
        frames.tags().get(*start) != Tag::OFFLINE || is_owned
    };
    let starts = || area_parts(range).map(|(start, _)| start);
    if let Some(frame) = starts().find(is_used) {
        return Err(HotplugError::InUse { frame });
    }
    starts().for_each(|start| frames.tags().set(start, Tag::NONE));
    // SAFETY: clause 1: references to sections live in calls and iterators, and this call uses none
    // after `take`.
    let removed = unsafe { cell.take() };
    debug_assert_eq!(removed, Some(range), "no other call changed it");
    Ok(range)
}

/// Takes all frames of `range` out of use. [`check_areas`] has accepted `range`, and the caller has
/// drained the CPU slots.
pub(crate) fn offline<T: Trace>(
    frames: &Frames<'_, T>,
    range: FrameRange,
) -> Result<(), HotplugError> {
    if !frames.take_range(range) {
        let mut candidates = (range.start.get()..range.end.get()).map(FrameNumber::new);
        let in_use = candidates.find(|frame| frames.bitmap().is_taken(*frame));
        return Err(HotplugError::InUse { frame: in_use.unwrap_or(range.start) });
    }
    area_parts(range).for_each(|(start, _)| frames.tags().set(start, Tag::OFFLINE));
    Ok(())
}

/// Brings frames that are offline back into use.
pub(crate) fn online<T: Trace>(
    frames: &Frames<'_, T>,
    range: FrameRange,
) -> Result<(), HotplugError> {
    check_areas(frames, range)?;
    let starts = || area_parts(range).map(|(start, _)| start);
    // If two calls bring the same area online at once, one of them succeeds.
    let is_used = |start: &FrameNumber| !frames.tags().exchange(*start, Tag::OFFLINE, Tag::NONE);
    if let Some(frame) = starts().find(is_used) {
        let ours = starts().take_while(|start| *start < frame);
        ours.for_each(|start| frames.tags().set(start, Tag::OFFLINE));
        return Err(HotplugError::InUse { frame });
    }
    let freed = frames.free_range(range);
    debug_assert!(freed == Some(true), "frames that are offline are taken, and areas whole");
    Ok(())
}

/// Returns an error unless `range` consists of whole areas, or of all frames that exist of an area.
pub(crate) fn check_areas<T>(
    frames: &Frames<'_, T>,
    range: FrameRange,
) -> Result<(), HotplugError> {
    let table = frames.bitmap().table();
    if range.is_empty() || !table.has(range) {
        return Err(HotplugError::Absent);
    }
    let begins =
        range.start.get() % AREA_FRAMES == 0 || table.ranges().any(|own| own.start == range.start);
    let ends = range.end.get() % AREA_FRAMES == 0 || table.ranges().any(|own| own.end == range.end);
    if begins && ends { Ok(()) } else { Err(HotplugError::PartOfArea) }
}
