//! Finds the fault of a free that was refused.

use page_frame::{Fault, FaultKind, FrameNumber, FrameRange, Order, Tag};

use crate::frames::Frames;

/// Returns the fault of freeing a block of `order` at `frame`, whose tag does not say that such a
/// block is allocated.
#[cold]
#[track_caller]
pub(crate) fn misuse<T>(frames: &Frames<'_, T>, frame: FrameNumber, order: Order) -> Fault {
    let (table, number) = (frames.bitmap.table(), frame.get());
    let fault = |kind| Fault::at_frame(kind, frame);
    if !table.span().contains(frame) {
        return fault(FaultKind::ForeignPointer);
    }
    if !table.has(FrameRange::new(frame, FrameNumber::new(number.saturating_add(1)))) {
        return fault(FaultKind::ReservedFrame);
    }
    if !frame.is_aligned_to(order) {
        return fault(FaultKind::Misaligned { alignment: order.bytes() });
    }
    let tag = frames.tags.get(frame);
    if let Some(real) = tag.as_block() {
        return fault(FaultKind::WrongOrder { allocated: real, given: order });
    }
    // Without a tag, a taken frame that lies in no block is kept by a CPU slot.
    let is_free = tag.as_deferred().is_some()
        || tag == Tag::NONE
            && (!frames.bitmap.is_taken(frame) || !lies_in_block(frames, frame, order));
    if is_free {
        return fault(FaultKind::DoubleFree);
    }
    fault(FaultKind::InteriorPointer)
}

/// Returns whether an allocated block or run of a larger order begins below `frame` and reaches it.
fn lies_in_block<T>(frames: &Frames<'_, T>, frame: FrameNumber, order: Order) -> bool {
    Order::all().filter(|larger| *larger > order).any(|larger| {
        let head = frame.align_down(larger);
        if head < frames.bitmap.table().span().start {
            return false;
        }
        let pages = frames.tags.get(head).as_block().map(Order::pages);
        let pages = pages.or_else(|| frames.tags.run_pages(head));
        head < frame && pages.is_some_and(|pages| frame.get() - head.get() < pages)
    })
}
