//! A trace that records the events of a step.

use alloc::vec::Vec;
use core::cell::RefCell;

use buddy::Trace;
use page_frame::FrameNumber;

/// An event of the allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Frames left the bitmap: start and number.
    Taken(usize, usize),
    /// Frames returned to the bitmap: start and number.
    Returned(usize, usize),
    /// So many blocks were split.
    Split(usize),
    /// So many pairs of buddies became one block.
    Merged(usize),
    /// So many frames moved between bitmap and CPU slot.
    Moved(usize),
}

/// The events since the last [`take`](Self::take).
#[derive(Debug, Default)]
pub(crate) struct TraceLog(RefCell<Vec<Event>>);

impl TraceLog {
    /// Returns the events, oldest first, and forgets them.
    pub(crate) fn take(&self) -> Vec<Event> {
        self.0.take()
    }

    fn push(&self, event: Event) {
        self.0.borrow_mut().push(event);
    }
}

impl Trace for TraceLog {
    fn take(&self, start: FrameNumber, frames: usize) {
        self.push(Event::Taken(start.get(), frames));
    }

    fn free(&self, start: FrameNumber, frames: usize) {
        self.push(Event::Returned(start.get(), frames));
    }

    fn split(&self, count: usize) {
        self.push(Event::Split(count));
    }

    fn merge(&self, count: usize) {
        self.push(Event::Merged(count));
    }

    fn transfer(&self, frames: usize) {
        self.push(Event::Moved(frames));
    }
}
