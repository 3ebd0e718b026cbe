//! A zone: the sections of a range of frames that may have holes, and the searches over all of them.
//!
//! # Concepts
//! Sections of 1 GiB are entries of a table over the zone's span; a section without frames costs its entry and nothing
//! else. Frames that a section has no memory for are taken for ever.
//!
//! # Concurrency
//! No lock on the way of orders up to the area's. A larger block claims its areas one by one under the section's
//! try-lock, and opens those it has again when one is not free.
//!
//! # Costs
//! A hit by hint looks at one area. A failure looks at every area at most [`PASSES`] times.

use page_frame::sync::{Ordering, fence};
use page_frame::{FrameNumber, FrameRange, Order};

use crate::area::{AREA_FRAMES, AREA_ORDER, AREA_WORDS, Freed};
use crate::observer::Observe;
use crate::run::{WORD_BITS, mask};
use crate::section::{SECTION_AREAS, SECTION_FRAMES, Section};

/// How often the last resort goes over all areas before it believes that there is nothing.
pub(crate) const PASSES: usize = 3;

/// All sections between a zone's first and last frame.
#[derive(Debug)]
pub(crate) struct Zone<'m> {
    /// The number of the first section of the table.
    pub(crate) first_section: usize,
    pub(crate) sections: &'m [Option<Section<'m>>],
    /// The frames there are, ascending.
    pub(crate) ranges: &'m [FrameRange],
}

/// Where a frame is in the table.
#[derive(Clone, Copy)]
struct Place {
    section: usize,
    area: usize,
    frame: usize,
}

impl<'m> Zone<'m> {
    /// Whether every frame of `range` is one of the zone's.
    pub(crate) fn has(&self, range: FrameRange) -> bool {
        self.ranges.iter().any(|own| own.start <= range.start && range.end <= own.end)
    }

    /// Returns the range from the first to the last frame, holes included.
    #[inline]
    pub(crate) fn span(&self) -> FrameRange {
        match (self.ranges.first(), self.ranges.last()) {
            (Some(first), Some(last)) => FrameRange::new(first.start, last.end),
            _ => FrameRange::default(),
        }
    }

    /// Returns how many frames there are.
    pub(crate) fn frames(&self) -> usize {
        self.ranges.iter().map(|range| range.frames()).sum()
    }

    /// Iterates over the sections there are, each with its first frame.
    pub(crate) fn sections(&self) -> impl Iterator<Item = (usize, &Section<'m>)> {
        let first = self.first_section;
        self.sections.iter().enumerate().filter_map(move |(index, section)| {
            section.as_ref().map(|section| ((first + index) * SECTION_FRAMES, section))
        })
    }

    /// Takes a block of `order` from the area that the hints say is best.
    pub(crate) fn take_hinted(&self, order: Order) -> Option<FrameNumber> {
        let order = u32::from(order.get());
        self.sections().find_map(|(base, section)| {
            if order > AREA_ORDER {
                return section.claim_aligned(order).map(|area| frame(base, area, 0));
            }
            section.search(order, |area| {
                take_any(section, area, order).map(|at| frame(base, area, at))
            })
        })
    }

    /// Takes a block of `order` wherever one is free, without hints, and believes in failure only when nothing was on its
    /// way meanwhile.
    pub(crate) fn take_anywhere(&self, order: Order) -> Option<FrameNumber> {
        let order = u32::from(order.get());
        for _ in 0..PASSES {
            let before = self.undos();
            let mut claim_seen = false;
            let found = self.sections().find_map(|(base, section)| {
                if order > AREA_ORDER {
                    claim_seen |= section.claims.try_lock().is_none();
                    return section.claim_aligned(order).map(|area| frame(base, area, 0));
                }
                (0..SECTION_AREAS).find_map(|area| {
                    claim_seen |= section.is_being_claimed(area);
                    take_any(section, area, order).map(|at| frame(base, area, at))
                })
            });
            // SeqCst: what the pass saw before what the count says.
            fence(Ordering::SeqCst);
            if found.is_some() || (!claim_seen && before == self.undos()) {
                return found;
            }
        }
        None
    }

    fn undos(&self) -> usize {
        // Relaxed: the caller's fence orders it.
        let undos = self.sections().map(|(_, section)| section.undos.load(Ordering::Relaxed));
        undos.fold(0, usize::wrapping_add)
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

    /// Takes all free frames of the best word for single frames: its first frame, and the frames as bits.
    pub(crate) fn take_word(&self) -> Option<(FrameNumber, usize)> {
        self.sections().find_map(|(base, section)| {
            let take = |area| section.take_word(area).map(|got| (area, got));
            let (area, (word, frames)) = section.search(0, take)?;
            Some((frame(base, area, word * WORD_BITS), frames))
        })
    }

    /// Frees the frames that are set in `frames` of the word at `word`.
    pub(crate) fn clear_word(&self, word: FrameNumber, frames: usize) {
        if let Some((place, section)) = self.place(word) {
            section.clear(place.area, place.frame / WORD_BITS, frames);
        }
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
                section.open(place.area);
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
        let mut next = range.start;
        for (part, frames) in parts(range) {
            let end = FrameNumber::new(part.get() + frames);
            for (start, order) in FrameRange::new(part, end).blocks() {
                if !self.take_at(start, order) {
                    let before = FrameRange::new(range.start, next);
                    let released = self.release(before);
                    debug_assert!(
                        released == Some(true),
                        "frames taken one by one go back one by one"
                    );
                    self.note_release(observer, before);
                    return false;
                }
                self.note_take(observer, start, order);
                next = FrameNumber::new(start.get() + order.pages());
            }
        }
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

    fn place(&self, frame: FrameNumber) -> Option<(Place, &Section<'m>)> {
        let section = (frame.get() / SECTION_FRAMES).checked_sub(self.first_section)?;
        let in_section = frame.get() % SECTION_FRAMES;
        let place =
            Place { section, area: in_section / AREA_FRAMES, frame: in_section % AREA_FRAMES };
        self.sections.get(place.section)?.as_ref().map(|section| (place, section))
    }
}

fn frame(base: usize, area: usize, at: usize) -> FrameNumber {
    FrameNumber::new(base + area * AREA_FRAMES + at)
}

/// Takes a block of `order`, at most the area's, anywhere in `area`.
fn take_any(section: &Section<'_>, area: usize, order: u32) -> Option<usize> {
    if order < AREA_ORDER { section.take(area, order) } else { section.claim(area).then_some(0) }
}

/// Cuts a range at the borders of areas: the first frame and the number of frames of each part.
fn parts(range: FrameRange) -> impl Iterator<Item = (FrameNumber, usize)> {
    let mut next = range.start.get();
    core::iter::from_fn(move || {
        let start = next;
        let end = (start - start % AREA_FRAMES + AREA_FRAMES).min(range.end.get());
        next = end;
        (start < end).then(|| (FrameNumber::new(start), end - start))
    })
}

/// Where multi-area blocks come from.
impl Section<'_> {
    /// Claims the first aligned group of areas for a block of `order` above the area's; returns its first area.
    fn claim_aligned(&self, order: u32) -> Option<usize> {
        let areas = 1_usize << (order - AREA_ORDER);
        (0..SECTION_AREAS)
            .step_by(areas)
            .filter(|first| first + areas <= SECTION_AREAS)
            .find(|first| self.claim_several(*first, areas))
    }

    /// Claims `areas` areas from `first`; whether all were free. Ascends, stops at the first conflict and opens again
    /// what it had.
    fn claim_several(&self, first: usize, areas: usize) -> bool {
        let Some(_claims) = self.claims.try_lock() else { return false };
        let claimed = (first..first + areas).take_while(|area| self.claim(*area)).count();
        if claimed < areas {
            (first..first + claimed).for_each(|area| self.open(area));
            if claimed > 0 {
                self.undos.fetch_add(1, Ordering::Relaxed);
            }
        }
        claimed == areas
    }
}

/// Returns the number of the section that `frame` lies in.
pub(crate) fn section_of(frame: FrameNumber) -> usize {
    frame.get() / SECTION_FRAMES
}

/// Withholds every frame of `section`, whose first frame is `base`, that is in none of `ranges`, and publishes the rest.
pub(crate) fn open_section(section: &Section<'_>, base: usize, ranges: &[FrameRange]) {
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
        section.publish(area);
    }
}
