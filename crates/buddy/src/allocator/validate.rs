//! `validate`: checks the invariants of the crate one by one.
//!
//! # Concepts
//! A walk visits all frames in ascending order and divides them into **parts**. A part is an
//! allocated block or run, a deferred block, an area that is offline, a page of a slab, a cached
//! frame, or a free frame. The bits show whether a frame is taken, and the tag of the part's first
//! frame names the kind of the part. A taken frame without a tag must be in a CPU slot, so the walk
//! compares those frames with the blocks of the slots (`cached_frames.rs`). If a CPU is inside its
//! slot, the walk cannot look at that slot; it then accepts every taken frame without a tag.

use page_frame::{Cpu, FrameNumber, FrameRange, Order, Tag, Violation};

use crate::allocator::cached_frames::{CachedFrames, SlotTotals, check_slots};
use crate::bitmap::bits::{AREA_FRAMES, AREA_ORDER, SECTION_AREAS, WORD_BITS};
use crate::bitmap::check::violated_invariant;
use crate::frames::Frames;
use crate::frames::deferred_free::is_deferrable;
use crate::percpu::Caches;

/// Checks the invariants of areas, then those of slots, then those of blocks. Returns the first
/// violation.
pub(crate) fn validate<'m, T, C: Cpu>(
    frames: &Frames<'m, T>,
    caches: &Caches<'m, C>,
) -> Result<(), Violation> {
    let owned_areas = check_areas(frames)?;
    let slots = check_slots(frames, caches)?;
    if slots.is_some_and(|slots| slots.owned_areas != owned_areas) {
        return Err(Violation::of("section I3: one CPU slot owns each area that is owned"));
    }
    let mut walk = Walk {
        frames,
        caches,
        slots,
        window: CachedFrames::none(),
        part_end: 0,
        last_slab: None,
        cached: 0,
    };
    let mut end = 0;
    for range in frames.bitmap().table().ranges() {
        if range.start.get() != end {
            walk.check_gap(end)?;
        }
        let mut taken = 0;
        for number in range.start.get()..range.end.get() {
            let bit = number % WORD_BITS;
            if bit == 0 || number == range.start.get() {
                taken = frames.bitmap().taken_word(FrameNumber::new(number - bit));
            }
            walk.check_frame(FrameNumber::new(number), taken >> bit & 1 != 0, range)?;
        }
        end = range.end.get();
    }
    walk.check_gap(end)?;
    if slots.is_some_and(|slots| slots.frames != walk.cached) {
        return Err(Violation::of("I1: a cached frame is in one slot, and in no block"));
    }
    Ok(())
}

/// Checks the invariants of all areas; returns the number of areas that are owned.
fn check_areas<T>(frames: &Frames<'_, T>) -> Result<usize, Violation> {
    let table = frames.bitmap().table();
    if table.try_lock().is_none() {
        return Err(Violation::of("I4: no addition of a section outlives its call"));
    }
    if table.is_being_claimed() {
        return Err(Violation::of("I4: no claim outlives its call"));
    }
    let mut owned = 0;
    for (base, section) in table.sections() {
        for area in 0..SECTION_AREAS {
            let frame = FrameNumber::new(base + area * AREA_FRAMES);
            if let Some(invariant) = violated_invariant(section, base, area, table.ranges()) {
                return Err(Violation::at(invariant, frame));
            }
            if frames.deferred().is_reconciling(frame) {
                return Err(Violation::at("I4: no reconciliation outlives its call", frame));
            }
            owned += usize::from(section.is_owned(area));
        }
    }
    Ok(owned)
}

/// A walk over all frames, ascending.
struct Walk<'w, 'm, T, C> {
    frames: &'w Frames<'m, T>,
    caches: &'w Caches<'m, C>,
    /// `None` if the walk could not look at every slot.
    slots: Option<SlotTotals>,
    window: CachedFrames,
    /// The number of the frame after the last part.
    part_end: usize,
    /// The last slab page that the walk has visited: its frame number, tag and owner.
    last_slab: Option<(usize, Tag, *mut ())>,
    /// The number of cached frames that the walk has visited.
    cached: usize,
}

impl<T, C: Cpu> Walk<'_, '_, T, C> {
    /// Checks that no part reaches beyond frame `end`, the first one after a range of frames.
    fn check_gap(&self, end: usize) -> Result<(), Violation> {
        match self.part_end > end {
            true => {
                Err(Violation::at("I6: blocks consist of frames that exist", FrameNumber::new(end)))
            }
            false => Ok(()),
        }
    }

    /// Checks `frame`, which lies in `range`: inside the last part, or as the first frame of the
    /// next one.
    fn check_frame(
        &mut self,
        frame: FrameNumber,
        is_taken: bool,
        range: FrameRange,
    ) -> Result<(), Violation> {
        let number = frame.get();
        let broken = |invariant| Err(Violation::at(invariant, frame));
        if let Some(invariant) = self.frames.tags().violated_invariant(frame) {
            return broken(invariant);
        }
        let tag = self.frames.tags().get(frame);
        let is_inside = number < self.part_end;
        if is_inside && !is_taken {
            return broken("I1: an allocated frame is taken");
        }
        if is_inside && tag != Tag::NONE {
            return broken("I1: blocks do not overlap");
        }
        if is_inside {
            return Ok(());
        }
        if !is_taken {
            return if tag == Tag::NONE { Ok(()) } else { broken("I5: free frames have no tag") };
        }
        if tag == Tag::NONE {
            return self.check_untagged(frame);
        }
        if tag.is_slab() {
            return self.check_slab_page(frame, tag);
        }
        let pages = match self.pages_of(frame, tag, range) {
            Ok(pages) => pages,
            Err(invariant) => return broken(invariant),
        };
        self.part_end = number + pages;
        let last = FrameNumber::new(self.part_end - 1);
        let [first_area, last_area] = [frame, last].map(|frame| frame.get() / AREA_FRAMES);
        let cuts_first =
            number % AREA_FRAMES != 0 || self.part_end < (first_area + 1) * AREA_FRAMES;
        let cuts_last = self.part_end % AREA_FRAMES != 0 || number > last_area * AREA_FRAMES;
        let bitmap = self.frames.bitmap();
        if cuts_first && bitmap.is_whole(frame) || cuts_last && bitmap.is_whole(last) {
            return broken("I2: a whole area belongs to one block");
        }
        Ok(())
    }

    /// Returns the number of frames of the part that begins at `frame` with `tag`, which is not the
    /// tag of a slab.
    ///
    /// # Errors
    /// The invariant that the part breaks.
    fn pages_of(
        &self,
        frame: FrameNumber,
        tag: Tag,
        range: FrameRange,
    ) -> Result<usize, &'static str> {
        if let Some(order) = tag.as_block().or(tag.as_deferred()) {
            if !frame.is_aligned_to(order) {
                return Err("I5: a block is aligned to its order");
            }
            let mut areas = (frame.get()..frame.get() + order.pages()).step_by(AREA_FRAMES);
            let is_whole = |area| self.frames.bitmap().is_whole(FrameNumber::new(area));
            if u32::from(order.get()) >= AREA_ORDER && !areas.all(is_whole) {
                return Err("I2: a block of whole areas has them whole");
            }
            if tag.as_block().is_some() {
                return Ok(order.pages());
            }
            if !is_deferrable(order) {
                return Err("deferred I1: only small blocks are deferred");
            }
            return match self.frames.deferred().is_pending_at(frame) {
                true => Ok(order.pages()),
                false => Err("I7: deferred frees are counted"),
            };
        }
        match tag {
            Tag::RUN => {
                let pages = self.frames.tags().run_pages(frame).unwrap_or(0);
                let is_valid = pages > 0 && pages <= Order::MAX.pages();
                is_valid
                    .then_some(pages)
                    .ok_or("page map: a run is at least a page and at most the largest block")
            }
            Tag::OFFLINE => {
                let area_end = frame.get() - frame.get() % AREA_FRAMES + AREA_FRAMES;
                Ok(area_end.min(range.end.get()) - frame.get())
            }
            _ => Err("page map: a tag has a meaning"),
        }
    }

    /// Checks that a slot caches `frame`, which is taken, has no tag and lies in no block.
    fn check_untagged(&mut self, frame: FrameNumber) -> Result<(), Violation> {
        if self.slots.is_none() {
            return Ok(());
        }
        if !self.window.has(self.caches, frame)? {
            let invariant = "I1: a taken frame without a tag lies in a block or in a CPU slot";
            return Err(Violation::at(invariant, frame));
        }
        self.cached += 1;
        Ok(())
    }

    /// Checks a page of a slab against the page before it.
    fn check_slab_page(&mut self, frame: FrameNumber, tag: Tag) -> Result<(), Violation> {
        let owner = self.frames.tags().owner(frame);
        let before = self.last_slab.replace((frame.get(), tag, owner));
        let before = before.filter(|(page, ..)| page + 1 == frame.get());
        if before.is_some_and(|(_, other, same)| same == owner && other != tag) {
            return Err(Violation::at("page map: all pages of a slab have its tag", frame));
        }
        let begins = frame.get() % AREA_FRAMES == 0;
        let is_same = before.is_some_and(|(_, _, same)| same == owner);
        if !begins && !is_same && self.frames.bitmap().is_whole(frame) {
            return Err(Violation::at("I2: a whole area belongs to one block", frame));
        }
        Ok(())
    }
}
