//! A zone: the sections of a range of frames that may have holes.
//!
//! # Concepts
//! Sections of 1 GiB have places in a table over the zone's span (`table.rs`). Frames that a section has no memory for are
//! taken for ever.
//!
//! # Concurrency
//! No lock. Everything here is about frames that are given; which ones to take is `search.rs`'s and `claim.rs`'s business.

pub(crate) mod area;
mod claim;
pub(crate) mod hints;
pub(crate) mod placement;
pub(crate) mod search;
pub(crate) mod section;
pub(crate) mod section_table;

use page_frame::sync::Lock;
use page_frame::{FrameNumber, FrameRange, Order};

use crate::bitmap::area::{AREA_FRAMES, AREA_ORDER, AREA_WORDS, Freed};
use crate::bitmap::placement::UNTOUCHED;
use crate::bitmap::search::Bounds;
use crate::bitmap::section::{SECTION_AREAS, SECTION_FRAMES, Section};
use crate::bits::{WORD_BITS, mask};
use crate::deferred_free::Left;
use crate::trace::Observe;
use crate::unwind::FreeOnUnwind;

/// All sections between a zone's first and last frame.
#[derive(Debug)]
pub(crate) struct Zone<'m> {
    /// The number of the first section of the table.
    pub(crate) first_section: usize,
    pub(crate) table: &'m [section_table::Place<'m>],
    /// Whether areas have kinds: there are enough for each.
    pub(crate) has_kinds: bool,
    /// Where searches begin.
    pub(crate) bounds: &'m Bounds,
    /// The frames that were there from the start, ascending.
    pub(crate) from_start: &'m [FrameRange],
    /// From the first frame to the last that may ever be there.
    pub(crate) span: FrameRange,
    /// Held, only by trying, by whoever adds a section.
    pub(crate) adding: Lock<()>,
    /// What was freed in each area and left there.
    pub(crate) left: Left<'m>,
}

/// Where a frame is in its section.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) area: usize,
    /// In the area.
    pub(crate) frame: usize,
}

impl<'m> Zone<'m> {
    /// Returns the range from the first frame to the last that may ever be there, holes and room included.
    #[inline]
    pub(crate) fn span(&self) -> FrameRange {
        self.span
    }

    /// Iterates over the sections there are, each with its first frame.
    pub(crate) fn sections(&self) -> impl Iterator<Item = (usize, &Section<'m>)> {
        let first = self.first_section;
        self.table.iter().enumerate().filter_map(move |(index, place)| {
            place.get().map(|section| ((first + index) * SECTION_FRAMES, section))
        })
    }

    /// Takes exactly the block of `order` at `start`; whether all of it was free.
    pub(crate) fn take_at(&self, start: FrameNumber, order: Order) -> bool {
        let order = u32::from(order.get());
        let Some((place, section)) = self.place(start) else { return false };
        match order.checked_sub(AREA_ORDER) {
            None => section.take_at(place.area, place.frame, order),
            Some(0) => section.claim(place.area),
            Some(larger) => section.claim_several(place.area, 1 << larger),
        }
    }

    /// Frees the block of `order`, at most the area's, at `start`; whether it was taken.
    #[inline]
    pub(crate) fn free_block(&self, start: FrameNumber, order: u32) -> bool {
        self.place(start).is_some_and(|(place, section)| {
            if order < AREA_ORDER {
                return section.free(place.area, place.frame, order) != Freed::Already;
            }
            let was_whole = section.is_whole(place.area);
            if was_whole {
                section.open_empty(place.area);
            }
            was_whole
        })
    }

    /// Frees all frames of `range`, which are taken, in whatever blocks they were; whether all of them were taken.
    ///
    /// Whole areas are opened; an area of which only a part goes is split first, and when that does not succeed within
    /// its bound, nothing of the range is freed and `None` returned.
    pub(crate) fn release(&self, range: FrameRange) -> Option<bool> {
        let parts =
            || parts(range).filter_map(|(start, frames)| self.place(start).map(|p| (p, frames)));
        for ((place, section), frames) in parts() {
            let partly = frames < AREA_FRAMES && section.is_whole(place.area);
            if partly && !section.split_whole(place.area) {
                return None;
            }
        }
        let mut all_taken = true;
        for ((place, section), frames) in parts() {
            if section.is_whole(place.area) {
                section.open_empty(place.area);
                continue;
            }
            let mut at = place.frame;
            while at < place.frame + frames {
                let in_word = at % WORD_BITS;
                let count = (WORD_BITS - in_word).min(place.frame + frames - at);
                let bits =
                    if count == WORD_BITS { usize::MAX } else { ((1 << count) - 1) << in_word };
                all_taken &= section.clear(place.area, at / WORD_BITS, bits) != Freed::Already;
                at += count;
            }
        }
        Some(all_taken)
    }

    /// Takes exactly the frames of `range`, block by block; whether all of them were free. Otherwise none stays taken.
    pub(crate) fn take_range(&self, observer: &impl Observe, range: FrameRange) -> bool {
        let mut taken = FreeOnUnwind::new(self, FrameRange::new(range.start, range.start));
        for (part, frames) in parts(range) {
            let end = FrameNumber::new(part.get() + frames);
            for (start, order) in FrameRange::new(part, end).blocks() {
                if !self.take_at(start, order) {
                    let before = taken.forget();
                    let released = self.release(before);
                    debug_assert!(
                        released == Some(true),
                        "frames taken one by one go back one by one"
                    );
                    self.note_release(observer, before);
                    return false;
                }
                taken.extend_to(FrameNumber::new(start.get() + order.pages()));
                self.note_take(observer, start, order);
            }
        }
        _ = taken.forget();
        true
    }

    /// Whether `frame` is taken as a user sees it.
    pub(crate) fn is_taken(&self, frame: FrameNumber) -> bool {
        let bit = frame.get() % WORD_BITS;
        self.taken_word(FrameNumber::new(frame.get() - bit)) & mask(bit, 0) != 0
    }

    /// Returns the taken bits of the word at `word`, all set where there is no memory.
    pub(crate) fn taken_word(&self, word: FrameNumber) -> usize {
        let place = self.place(word);
        place.map_or(usize::MAX, |(at, section)| section.taken(at.area)[at.frame / WORD_BITS])
    }

    /// Whether the block of `order` at `start` is free in all its frames.
    pub(crate) fn is_free(&self, start: FrameNumber, order: Order) -> bool {
        if !self.has(FrameRange::new(start, FrameNumber::new(start.get() + order.pages()))) {
            return false;
        }
        let order = u32::from(order.get());
        let Some((place, section)) = self.place(start) else { return false };
        if order >= AREA_ORDER {
            let areas = place.area..place.area + (1 << (order - AREA_ORDER));
            return areas.into_iter().all(|area| section.taken(area) == [0; AREA_WORDS]);
        }
        let words = section.taken(place.area);
        let bits = mask(place.frame % WORD_BITS, order);
        let count = (1_usize << order).div_ceil(WORD_BITS);
        words[place.frame / WORD_BITS..][..count].iter().all(|word| word & bits == 0)
    }

    #[inline]
    pub(crate) fn place(&self, frame: FrameNumber) -> Option<(Place, &Section<'m>)> {
        let in_section = frame.get() % SECTION_FRAMES;
        let place = Place { area: in_section / AREA_FRAMES, frame: in_section % AREA_FRAMES };
        self.place_of(frame)?.get().map(|section| (place, section))
    }

    /// Returns the place in the table of the section that `frame` lies in.
    #[inline]
    pub(crate) fn place_of(&self, frame: FrameNumber) -> Option<&'m section_table::Place<'m>> {
        self.table.get(section_of(frame).checked_sub(self.first_section)?)
    }
}

/// Cuts a range at the borders of areas: the first frame and the number of frames of each part.
pub(crate) fn parts(range: FrameRange) -> impl Iterator<Item = (FrameNumber, usize)> {
    let mut next = range.start.get();
    core::iter::from_fn(move || {
        let start = next;
        let end = (start - start % AREA_FRAMES + AREA_FRAMES).min(range.end.get());
        next = end;
        (start < end).then(|| (FrameNumber::new(start), end - start))
    })
}

/// Returns the number of the section that `frame` lies in.
pub(crate) fn section_of(frame: FrameNumber) -> usize {
    frame.get() / SECTION_FRAMES
}

/// Withholds every frame of `section`, whose first frame is `base`, that is in none of `ranges`. Nobody else uses it yet.
pub(crate) fn withhold_absent(section: &Section<'_>, base: usize, ranges: &[FrameRange]) {
    if is_whole(base, ranges) {
        return;
    }
    for area in 0..SECTION_AREAS {
        let start = FrameNumber::new(base + area * AREA_FRAMES);
        let whole = FrameRange::new(start, FrameNumber::new(start.get() + AREA_FRAMES));
        let mut next = start;
        let here = ranges.iter().map(|range| range.intersection(whole)).filter(|r| !r.is_empty());
        for present in here {
            section.lines[area]
                .withhold(next.get() - start.get(), present.start.get() - start.get());
            next = present.end;
        }
        section.lines[area].withhold(next.get() - start.get(), AREA_FRAMES);
    }
}

/// Publishes every area of `section`, whose first frame is `base` and of which only what is in `ranges` is there. Of a whole
/// section no line is looked at, so that its bits stay untouched until they are used.
pub(crate) fn open_section(section: &Section<'_>, base: usize, ranges: &[FrameRange]) {
    match is_whole(base, ranges) {
        true => section.hints.set_all(UNTOUCHED),
        false => (0..SECTION_AREAS).for_each(|area| _ = section.publish(area)),
    }
}

/// Whether all frames of the section that begins at `base` are in one of `ranges`.
fn is_whole(base: usize, ranges: &[FrameRange]) -> bool {
    ranges.iter().any(|range| range.start.get() <= base && base + SECTION_FRAMES <= range.end.get())
}
