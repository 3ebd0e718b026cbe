//! Units: the parts of the space that are mapped one by one, 256 KiB each.

use page_frame::{FrameNumber, FrameRange};

/// The order of a unit: 256 KiB.
pub(crate) const UNIT_ORDER: u8 = 6;
/// The frames of a unit.
pub(crate) const UNIT: usize = 1 << UNIT_ORDER;

/// Returns the numbers of all units that `frames` has a part of, as a range of their own.
#[inline]
pub(crate) fn units(frames: FrameRange) -> FrameRange {
    let end = FrameNumber::new(frames.end.get().div_ceil(UNIT));
    FrameRange::new(FrameNumber::new(frames.start.get() / UNIT), end)
}

/// Returns the frames of the units with these numbers.
pub(crate) fn frames_of_units(units: FrameRange) -> FrameRange {
    let frame = |unit: FrameNumber| FrameNumber::new(unit.get() * UNIT);
    FrameRange::new(frame(units.start), frame(units.end))
}
