//! Runs of [`Pages`]: those of the buddy, and multi-section runs, which are too large for the
//! buddy.

use core::ptr::NonNull;

use page_frame::{
    FrameNumber, FrameRange, Order, OutOfMemory, PAGE_SHIFT, PAGE_SIZE, PageMap, PageResize,
    PageRun, Tag,
};

use super::make_room::open_block;
use super::{Pages, frames_of};
use crate::space::sections::{SECTION_FRAMES, SECTION_ORDER};
use crate::system::os_error::OsError;
use crate::threads::fork_lock::Inside;

/// Runs of more pages than this are multi-section runs.
const LARGEST_IN_BUDDY: usize = SECTION_FRAMES / 2;

/// A multi-section run is mapped in units of this many pages: 1 MiB.
const TAIL_UNIT: usize = (1 << 20) / PAGE_SIZE;

// SAFETY: clause 1: runs are the buddy's, or whole sections of the mapping that the table of
// sections gives to one run. Clause 2: `set_run` follows each change.
unsafe impl PageResize for Pages {
    fn allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        self.decay_if_due(pages);
        let inside = Inside::enter();
        let fits_a_section = pages <= SECTION_FRAMES && alignment <= SECTION_ORDER;
        if (pages > LARGEST_IN_BUDDY || !fits_a_section) && self.space.has_multi_section_runs() {
            return allocate_sections(self, pages.max(LARGEST_IN_BUDDY + 1), alignment);
        }
        let run = loop {
            let run = match self.buddy.allocate_run(pages, alignment) {
                Err(_) if fits_a_section && self.grow() => continue,
                outcome => outcome?,
            };
            match open_block(self, frames_of(run.start(), run.pages())) {
                Ok(()) => break run,
                // The run stays allocated, so that the buddy returns another one.
                Err(OsError::EXISTS) => continue,
                Err(_) => {
                    // SAFETY: the clauses of `free_run`: the run came from the buddy.
                    unsafe { self.buddy.free_run(run.start(), run.pages()) };
                    return Err(OutOfMemory);
                }
            }
        };
        let committed = self.commit(frames_of(run.start(), run.pages()));
        self.thp.note_block(0, run.pages());
        drop(inside);
        self.replace_idle(run.pages() - committed);
        Ok(PageRun::new(run.start(), run.pages(), committed == 0))
    }

    #[track_caller]
    unsafe fn free_run(&self, start: NonNull<u8>, pages: usize) {
        let inside = Inside::enter();
        if is_multi_section(self, start, pages) {
            // SAFETY: clause 1 of `free_sections`: the caller's run, which has whole sections.
            unsafe { free_sections(self, start, pages) };
            return;
        }
        self.note_freed(frames_of(start, pages));
        self.thp.note_block(pages, 0);
        // SAFETY: the clauses of `free_run`: the run came from the buddy.
        unsafe { self.buddy.free_run(start, pages) };
        drop(inside);
        self.decay_if_due(pages);
    }

    unsafe fn resize_run(&self, start: NonNull<u8>, pages: usize, new_pages: usize) -> bool {
        let inside = Inside::enter();
        if new_pages == 0 {
            return false;
        }
        if is_multi_section(self, start, pages) {
            // SAFETY: the clauses of `resize_run`; the run has whole sections.
            return unsafe { resize_sections(self, start, pages, new_pages) };
        }
        if new_pages > LARGEST_IN_BUDDY {
            return false;
        }
        let all = frames_of(start, pages.max(new_pages));
        let changed =
            FrameRange::new(FrameNumber::new(all.start.get() + pages.min(new_pages)), all.end);
        if new_pages < pages {
            self.note_freed(changed);
        }
        // SAFETY: the clauses of `resize_run`: the run came from the buddy.
        let resized = unsafe { self.buddy.resize_run(start, pages, new_pages) };
        if resized && new_pages > pages && open_block(self, changed).is_err() {
            // SAFETY: the clauses of `resize_run`: the caller's run, just resized; no code uses its
            // new part.
            let shrunk = unsafe { self.buddy.resize_run(start, new_pages, pages) };
            debug_assert!(shrunk, "a run can always shrink");
            return false;
        }
        if resized {
            self.thp.note_block(pages, new_pages);
        }
        match (resized, new_pages > pages) {
            (true, true) => {
                let committed = self.commit(changed);
                drop(inside);
                self.replace_idle(changed.frames() - committed);
            }
            (false, false) => _ = self.commit(changed),
            (true, false) | (false, true) => {}
        }
        resized
    }

    unsafe fn move_content(&self, from: NonNull<u8>, to: NonNull<u8>, pages: usize) -> bool {
        let _inside = Inside::enter();
        let bytes = pages << PAGE_SHIFT;
        // SAFETY: clause 1: by the caller's clause both are whole pages of the space that the
        // caller owns.
        let moved = unsafe { self.space.mapping().move_content(from, to, bytes) };
        if moved {
            // The memory of `from` now backs `to`; the memory that backed `to` is released. Pages
            // of multi-section runs are not counted as committed.
            let from = frames_of(from, pages);
            if !self.space.is_multi_section(from.start) {
                self.decay.note_moved(self.committed.remove(from));
            }
        }
        moved
    }
}

/// Returns whether the run of `count` pages at `start` is a multi-section run.
fn is_multi_section(pages: &Pages, start: NonNull<u8>, count: usize) -> bool {
    let first = FrameNumber::containing(start.addr().get());
    count > LARGEST_IN_BUDDY && pages.space.is_multi_section(first)
}

fn allocate_sections(
    pages: &Pages,
    count: usize,
    alignment: Order,
) -> Result<PageRun, OutOfMemory> {
    let mapped = count.next_multiple_of(TAIL_UNIT);
    let range = pages.space.open_sections(mapped, alignment).ok_or(OutOfMemory)?;
    let start = pages.pointer(range.start.get() << PAGE_SHIFT);
    // SAFETY: clause 1: ours, and in the map, which covers all of the space.
    unsafe { pages.set_run(start, count) };
    Ok(PageRun::new(start, count, true))
}

/// Returns the frames that are mapped for the multi-section run of `count` pages at `start`.
fn mapped_of(start: NonNull<u8>, count: usize) -> FrameRange {
    frames_of(start, count.next_multiple_of(TAIL_UNIT))
}

/// Frees a multi-section run.
///
/// # Safety
/// 1. As for `free_run`, and the run is a multi-section run.
unsafe fn free_sections(pages: &Pages, start: NonNull<u8>, count: usize) {
    // SAFETY: clause 1: the caller owns the run, so its head.
    unsafe { pages.set_owner(start, 1, Tag::NONE, NonNull::dangling()) };
    // SAFETY: clause 1: no code uses the run any more.
    unsafe { pages.space.close_sections(mapped_of(start, count)) };
}

/// Changes the length of a multi-section run within the sections that it has. Returns whether that
/// succeeded.
///
/// # Safety
/// 1. As for `resize_run`, and the run is a multi-section run.
unsafe fn resize_sections(
    pages: &Pages,
    start: NonNull<u8>,
    count: usize,
    new_count: usize,
) -> bool {
    let stays = new_count.div_ceil(SECTION_FRAMES) == count.div_ceil(SECTION_FRAMES);
    if !stays || new_count <= LARGEST_IN_BUDDY {
        return false;
    }
    // The run is mapped by whole units, so that one that shrinks or grows page by page does not
    // call the system each time.
    let [end, new_end] = [count, new_count].map(|count| mapped_of(start, count).end);
    let done = if new_end < end {
        // SAFETY: clause 2 of `resize_run`: no code uses the tail, which is in the run.
        unsafe { pages.space.cut_sections(FrameRange::new(new_end, end)) }
    } else {
        new_end == end || pages.space.extend_sections(FrameRange::new(end, new_end))
    };
    if !done {
        return false;
    }
    // SAFETY: clause 1 of `resize_run`: the run is the caller's.
    unsafe { pages.set_run(start, new_count) };
    true
}
