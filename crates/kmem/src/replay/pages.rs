//! Replays page events on an allocator of frames: which blocks are live, and the totals.

use page_frame::sync::Zeroable;

use super::outcome::{Findings, PageTotals, Side};
use super::table::Table;
use super::target::PageTarget;
use crate::trace::event::MAX_FRAMES;

/// Replays page events on `target`.
pub struct Pages<T> {
    target: T,
    live: Table<Live>,
    totals: PageTotals,
}

/// A live block in one word, which keeps the table small: the order in the low byte, and above it
/// the frame number plus one, or zero when memory had run out.
#[derive(Clone, Copy, Default)]
struct Live(u64);

const _: () = assert!(MAX_FRAMES <= 1 << 55);

// SAFETY: clause 1 of `Zeroable`: the value is a number, and all bytes zero is zero.
unsafe impl Zeroable for Live {
    fn zero() -> Self {
        Self::default()
    }
}

impl Live {
    #[inline]
    fn new(frame: Option<u64>, order: u8) -> Self {
        Self(frame.map_or(0, |frame| frame + 1) << 8 | u64::from(order))
    }

    #[inline]
    fn frame(self) -> Option<u64> {
        (self.0 >> 8).checked_sub(1)
    }

    #[inline]
    fn order(self) -> u8 {
        self.0 as u8
    }
}

impl<T: PageTarget> Pages<T> {
    /// Replays on `target`.
    pub fn new(target: T) -> Self {
        Self { target, live: Table::new(), totals: PageTotals::default() }
    }

    /// Returns the target.
    pub fn target(&self) -> &T {
        &self.target
    }

    /// Returns the totals so far.
    pub fn totals(&self) -> &PageTotals {
        &self.totals
    }

    /// Prefetches the table entry of the block at the traced `frame`, for an event to come.
    #[inline(always)]
    pub fn prefetch(&self, frame: u64) {
        self.live.prefetch(frame);
    }

    /// Continues on CPU `cpu`.
    #[inline]
    pub fn switch_cpu(&mut self, cpu: u16) {
        self.target.switch_cpu(cpu);
    }

    /// Allocates a block for the traced `frame`.
    #[inline]
    pub fn allocate(
        &mut self,
        frame: u64,
        order: u8,
        migratetype: u8,
        line: u64,
        findings: &mut Findings,
    ) {
        if let Some(live) = self.live.take(frame) {
            self.totals.implied_frees += 1;
            self.release(live, line, findings);
        }
        let ours = self.target.allocate(order, migratetype).ok();
        self.totals.allocations += 1;
        if ours.is_some() {
            self.totals.live_pages += 1 << order;
            self.totals.peak_live_pages = self.totals.peak_live_pages.max(self.totals.live_pages);
        } else {
            self.totals.failed += 1;
            let text = format_args!("no memory for a block of order {order}");
            findings.add_shortage(Side::Pages, line, text);
        }
        self.live.insert(frame, Live::new(ours, order));
    }

    /// Frees the block whose first frame is the traced `frame`, in the order of its allocation.
    #[inline]
    pub fn free(&mut self, frame: u64, order: u8, line: u64, findings: &mut Findings) {
        match self.live.take(frame) {
            Some(live) => {
                self.totals.matched_frees += 1;
                self.totals.other_orders += u64::from(live.order() != order);
                self.release(live, line, findings);
            }
            None => self.totals.unmatched_frees += 1,
        }
    }

    /// Frees all live blocks and drains the target, unless the target gives up. `line` is the
    /// trace's last line.
    pub fn finish(&mut self, line: u64, findings: &mut Findings) {
        for live in std::mem::take(&mut self.live).into_values() {
            if self.target.has_given_up() {
                return;
            }
            self.release(live, line, findings);
        }
        self.target.drain();
    }

    #[inline]
    fn release(&mut self, live: Live, line: u64, findings: &mut Findings) {
        let Some(frame) = live.frame() else { return };
        self.totals.live_pages -= 1 << live.order();
        if let Err(fault) = self.target.free(frame, live.order()) {
            findings.add(line, format_args!("{fault}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_block_fits_a_word() {
        for frame in [None, Some(0), Some(MAX_FRAMES - 1)] {
            let live = Live::new(frame, 18);
            assert_eq!((live.frame(), live.order()), (frame, 18));
        }
    }
}
