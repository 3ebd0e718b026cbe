//! Areas: the parts of the space that one huge page can back, 2 MiB each.

use page_frame::{FrameNumber, FrameRange, PAGE_SIZE};

/// The frames of an area.
pub(crate) const AREA: usize = (2 << 20) / PAGE_SIZE;

/// Returns the numbers of all areas that `frames` has a part of, as a range of their own.
pub(crate) fn numbers(frames: FrameRange) -> FrameRange {
    let end = frames.end.get().div_ceil(AREA);
    FrameRange::new(FrameNumber::new(frames.start.get() / AREA), FrameNumber::new(end))
}

/// Returns the number of `area`, as a range of one.
pub(crate) fn number_of(area: FrameRange) -> FrameRange {
    let number = area.start.get() / AREA;
    FrameRange::new(FrameNumber::new(number), FrameNumber::new(number + 1))
}

/// Returns the area with this number, a range of one.
pub(crate) fn area_numbered(number: FrameRange) -> FrameRange {
    let frame = |number: FrameNumber| FrameNumber::new(number.get() * AREA);
    FrameRange::new(frame(number.start), frame(number.end))
}

/// Iterates over the areas that `frames` has a part of.
pub(crate) fn areas(frames: FrameRange) -> impl Iterator<Item = FrameRange> {
    let numbers = numbers(frames);
    (numbers.start.get()..numbers.end.get()).map(|number| {
        FrameRange::new(FrameNumber::new(number * AREA), FrameNumber::new((number + 1) * AREA))
    })
}
