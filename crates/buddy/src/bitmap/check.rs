//! Checks the invariants of areas.

use page_frame::sync::Ordering;

use crate::bitmap::section::Section;
use crate::bits::AREA_WORDS;

/// Returns the first invariant of the crate that `area` of `section` breaks. Call it only while no
/// other call is inside the allocator.
pub(crate) fn violated_invariant(section: &Section<'_>, area: usize) -> Option<&'static str> {
    let entry = section.entries.load(area, Ordering::Acquire);
    let bits = section.lines[area].load();
    let has_free = bits.iter().any(|word| *word != usize::MAX);
    if entry.is_claiming() {
        return Some("I4: no claim outlives its call");
    }
    if entry.is_whole() && bits != [0; AREA_WORDS] {
        return Some("I2: the bits of a whole area are clear");
    }
    if entry.is_open() && has_free && !section.hints.has_any(area) {
        return Some("I3: an open area with a free frame has a hint");
    }
    None
}
