//! `validate`: the invariants, checked one by one.

use core::fmt;

use page_frame::{Cpu, Tag};

use crate::bitmap::area::{AREA_FRAMES, AREA_WORDS};
use crate::bitmap::section::SECTION_AREAS;
use crate::{FrameNumber, FramePool, Observe};

/// An invariant that does not hold, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant, as the crate's documentation numbers it.
    pub invariant: &'static str,
    /// The first frame concerned.
    pub frame: FrameNumber,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} does not hold at {}", self.invariant, self.frame)
    }
}

impl core::error::Error for Violation {}

impl<C: Cpu, O: Observe> FramePool<'_, C, O> {
    /// Checks every invariant that can be seen from the metadata while nobody else uses the allocator.
    ///
    /// O(frames); bounded, allocates nothing, touches no frame.
    ///
    /// # Errors
    /// The first [`Violation`] found.
    pub fn validate(&self) -> Result<(), Violation> {
        for (base, section) in self.zone.sections() {
            for area in 0..SECTION_AREAS {
                let frame = FrameNumber::new(base + area * AREA_FRAMES);
                let violated = |invariant| Err(Violation { invariant, frame });
                if section.is_being_claimed(area) {
                    return violated("I4: no claim outlives its call");
                }
                let bits = section.lines[area].load();
                let has_free = bits.iter().any(|word| *word != usize::MAX);
                if section.is_whole(area) && bits != [0; AREA_WORDS] {
                    return violated("I2: the bits of a whole area are clear");
                }
                let is_unowned = section.is_open(area) && !section.is_owned(area);
                if is_unowned && has_free && !section.hints.has_any(area) {
                    return violated("I3: an open area with a free frame has a hint");
                }
            }
        }
        self.check_blocks()
    }

    fn check_blocks(&self) -> Result<(), Violation> {
        let mut frames = 0;
        for block in self.blocks() {
            let frame = block.start;
            frames += block.frames;
            let inside = (0..block.frames).map(|offset| FrameNumber::new(frame.get() + offset));
            let is_free = block.state == crate::BlockState::Free;
            for (offset, frame) in inside.enumerate() {
                let tag = self.frame_tag(frame);
                if is_free && tag != Tag::NONE {
                    return Err(Violation { invariant: "I5: free frames have no tag", frame });
                }
                if !is_free && !self.zone.is_taken(frame) {
                    return Err(Violation { invariant: "I1: an allocated frame is taken", frame });
                }
                if tag.as_deferred().is_some() && !self.zone.left.has_some_at(frame) {
                    return Err(Violation { invariant: "I7: what was left is counted", frame });
                }
                if offset > 0 && tag.as_block().is_some() {
                    return Err(Violation { invariant: "I1: blocks do not overlap", frame });
                }
            }
        }
        if frames == self.frames() {
            return Ok(());
        }
        let frame = FrameNumber::new(frames);
        Err(Violation { invariant: "I6: blocks cover every frame exactly once", frame })
    }
}
