//! Checks the invariants of areas.

use page_frame::FrameRange;

use crate::bitmap::bits::{AREA_FRAMES, AREA_WORDS, words};
use crate::bitmap::section::Section;

/// Returns the first invariant of the crate that `area` of `section` breaks. `base` is the first
/// frame of the section, and `ranges` are the frames that exist. Call it only while no other call
/// is inside the allocator.
pub(crate) fn violated_invariant(
    section: &Section<'_>,
    base: usize,
    area: usize,
    ranges: impl Iterator<Item = FrameRange>,
) -> Option<&'static str> {
    let entry = section.entries.load(area);
    let bits = section.lines[area].load();
    let has_free = bits.iter().any(|word| *word != usize::MAX);
    if entry.is_claiming() || section.claims.is_locked() {
        return Some("I4: no claim outlives its call");
    }
    if !entry.is_valid() {
        return Some("entry: the bits of an entry are a state, a placement and a density");
    }
    if entry.is_whole() && bits != [0; AREA_WORDS] {
        return Some("I2: the bits of a whole area are clear");
    }
    let absent = absent_frames(base + area * AREA_FRAMES, ranges);
    let is_taken = |(taken, absent): (&usize, &usize)| taken & absent == *absent;
    if !section.taken(area).iter().zip(&absent).all(is_taken) {
        return Some("bitmap: frames that do not exist are taken for ever");
    }
    if entry.is_open() && has_free && !section.hints.has_any(area) {
        return Some("I3: an open area with a free frame has a hint");
    }
    None
}

/// Returns the frames of the area at `start` that lie in none of `ranges`, as bits.
fn absent_frames(start: usize, ranges: impl Iterator<Item = FrameRange>) -> [usize; AREA_WORDS] {
    let mut absent = [usize::MAX; AREA_WORDS];
    for range in ranges {
        let first = range.start.get().clamp(start, start + AREA_FRAMES);
        let end = range.end.get().clamp(start, start + AREA_FRAMES);
        for (word, frames) in words(first - start, end - start) {
            absent[word] &= !frames;
        }
    }
    absent
}

/// Changes that a bug might make, for tests.
#[cfg(test)]
pub(crate) mod corrupt {
    use page_frame::FrameNumber;

    use crate::bitmap::Bitmap;
    use crate::bitmap::bits::WORD_BITS;
    use crate::bitmap::entry::Entry;
    use crate::bitmap::hints::HINT_MAPS;

    /// Sets the entry of the area of `frame` to `entry`.
    pub(crate) fn set_entry(bitmap: &Bitmap<'_>, frame: FrameNumber, entry: u8) {
        let (at, section) = bitmap.table().locate(frame).expect("a frame of a section");
        section.entries.store(at.area, Entry::from_byte(entry));
    }

    /// Clears all hints for the area of `frame`.
    pub(crate) fn clear_hints(bitmap: &Bitmap<'_>, frame: FrameNumber) {
        let (at, section) = bitmap.table().locate(frame).expect("a frame of a section");
        (0..HINT_MAPS).for_each(|map| section.hints.clear(map, at.area));
    }

    /// Changes the bit of `frame`, and nothing else.
    pub(crate) fn set_bit(bitmap: &Bitmap<'_>, frame: FrameNumber, is_taken: bool) {
        let (at, section) = bitmap.table().locate(frame).expect("a frame of a section");
        let line = &section.lines[at.area];
        match is_taken {
            true => line.reserve(at.frame, at.frame + 1),
            false => _ = line.clear(at.frame / WORD_BITS, 1 << (at.frame % WORD_BITS)),
        }
    }

    /// Locks the claims of several sections for ever.
    pub(crate) fn lock_section_claims(bitmap: &Bitmap<'_>) {
        core::mem::forget(bitmap.table().claims.try_lock());
    }

    /// Locks the section of `frame` for ever.
    pub(crate) fn lock_claims(bitmap: &Bitmap<'_>, frame: FrameNumber) {
        let (_, section) = bitmap.table().locate(frame).expect("a frame of a section");
        core::mem::forget(section.claims.try_lock());
    }
}
