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
    /// This number of blocks was split, at least one.
    Split(usize),
    /// This number of pairs of buddies became one block each, at least one.
    Merged(usize),
    /// This number of frames moved between bitmap and CPU slot.
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
        if count > 0 {
            self.push(Event::Split(count));
        }
    }

    fn merge(&self, count: usize) {
        if count > 0 {
            self.push(Event::Merged(count));
        }
    }

    fn transfer(&self, frames: usize) {
        self.push(Event::Moved(frames));
    }
}

/// Returns the blocks that an allocation split, largest first, as first unit and units. Empty where
/// the events are not those of one block, as for the refill of a slot.
pub(crate) fn split_blocks(events: &[Event]) -> Vec<(usize, usize)> {
    match *events {
        [Event::Taken(start, units), Event::Split(count)] if units.is_power_of_two() => {
            parents(start, units).take(count).collect::<Vec<_>>().into_iter().rev().collect()
        }
        _ => Vec::new(),
    }
}

/// Returns the blocks that became whole when a block was freed, smallest first, as
/// [`split_blocks`] does.
pub(crate) fn merged_blocks(events: &[Event]) -> Vec<(usize, usize)> {
    match *events {
        [Event::Returned(start, units), Event::Merged(count)] if units.is_power_of_two() => {
            parents(start, units).take(count).collect()
        }
        _ => Vec::new(),
    }
}

/// Iterates over the blocks that contain a block, each twice as large as the one before.
fn parents(start: usize, units: usize) -> impl Iterator<Item = (usize, usize)> {
    core::iter::successors(Some(2 * units), |units| units.checked_mul(2))
        .map(move |units| (start & !(units - 1), units))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_and_merges_of_one_block_name_the_same_parents() {
        let split = split_blocks(&[Event::Taken(10, 2), Event::Split(3)]);
        assert_eq!(split, [(0, 16), (8, 8), (8, 4)]);
        let merged = merged_blocks(&[Event::Returned(10, 2), Event::Merged(3)]);
        assert_eq!(merged, [(8, 4), (8, 8), (0, 16)]);
        assert!(split_blocks(&[Event::Taken(0, 32), Event::Moved(32), Event::Split(1)]).is_empty());
    }
}
