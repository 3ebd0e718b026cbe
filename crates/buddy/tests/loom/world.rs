//! Shared by the models: a buddy of few areas.

use buddy::Mode;
use loom::sync::Arc;
use page_frame::sync::UnsafeCell;
use page_frame::{Fenced, FrameNumber, Order};

use testkit::Numbered;

use crate::common::{Simulated, range};

/// Frames of an area under loom.
pub(crate) const AREA: usize = 128;
/// The order of an area under loom.
pub(crate) const WHOLE: Order = match Order::new(7) {
    Some(order) => order,
    None => panic!("order 7 exists"),
};

/// A buddy of one area, and for each half of it a cell that its owner writes.
pub(crate) struct World {
    pub(crate) buddy: Simulated<Fenced<Numbered>>,
    pub(crate) content: [UnsafeCell<u32>; 2],
}

pub(crate) fn world(frames: usize) -> Arc<World> {
    let buddy = Simulated::new(&[range(0, frames)], Fenced(Numbered), Mode::Cached);
    Arc::new(World { buddy, content: [UnsafeCell::new(0), UnsafeCell::new(0)] })
}

impl World {
    /// Allocates, writes where the block lies, and returns it.
    pub(crate) fn take(&self, order: Order) -> Option<FrameNumber> {
        let block = self.buddy.allocate_frames(order).ok()?;
        let first = block.get() / (AREA / 2);
        let halves = if order == WHOLE { 0..2 } else { first..first + 1 };
        for half in halves {
            // SAFETY: the block is ours, so no other thread writes here; loom checks it.
            self.content[half].with_mut(|content| unsafe { *content += 1 });
        }
        Some(block)
    }

    pub(crate) fn free(&self, block: FrameNumber, order: Order) {
        self.buddy.free_frames(block, order).expect("allocated with this order");
    }
}

pub(crate) fn half() -> Order {
    Order::new(6).expect("order 6 exists")
}

/// The order of the two areas of a section under loom.
pub(crate) const SECTION: Order = match Order::new(8) {
    Some(order) => order,
    None => panic!("order 8 exists"),
};
