//! `validate`: checks the invariants of the crate one by one.

use page_frame::{FrameNumber, Tag, Violation};

use crate::bitmap::check::violated_invariant;
use crate::bits::{AREA_FRAMES, SECTION_AREAS};
use crate::blocks::{self, BlockState};
use crate::frames::Frames;

/// Checks the invariants of areas, then those of blocks.
pub(crate) fn validate<T>(frames: &Frames<'_, T>) -> Result<(), Violation> {
    for (base, section) in frames.bitmap().table().sections() {
        for area in 0..SECTION_AREAS {
            if let Some(invariant) = violated_invariant(section, area) {
                let frame = FrameNumber::new(base + area * AREA_FRAMES);
                return Err(Violation::at(invariant, frame));
            }
        }
    }
    let mut count = 0;
    for block in blocks::blocks(frames.bitmap(), frames.tags()) {
        count += block.frames;
        for offset in 0..block.frames {
            let frame = FrameNumber::new(block.start.get() + offset);
            if let Some(invariant) = violated_at(frames, frame, offset, block.state) {
                return Err(Violation::at(invariant, frame));
            }
        }
    }
    if count == frames.bitmap().table().frames() {
        return Ok(());
    }
    let frame = FrameNumber::new(count);
    Err(Violation::at("I6: blocks cover every frame exactly once", frame))
}

/// Returns the invariant that `frame` breaks. The frame lies `offset` frames after the start of a
/// block in `state`.
fn violated_at<T>(
    frames: &Frames<'_, T>,
    frame: FrameNumber,
    offset: usize,
    state: BlockState,
) -> Option<&'static str> {
    let tag = frames.tags().get(frame);
    let is_free = state == BlockState::Free;
    if is_free && tag != Tag::NONE {
        return Some("I5: free frames have no tag");
    }
    if !is_free && !frames.bitmap().is_taken(frame) {
        return Some("I1: an allocated frame is taken");
    }
    if tag.as_deferred().is_some() && !frames.deferred().is_pending_at(frame) {
        return Some("I7: deferred frees are counted");
    }
    if offset > 0 && tag.as_block().is_some() {
        return Some("I1: blocks do not overlap");
    }
    None
}
