//! Replays page events on an allocator of frames: which blocks are live, who allocated them, and
//! the totals.

use page_frame::sync::Zeroable;

use super::caller::Caller;
use super::hash::NumberMap;
use super::outcome::{Findings, PageTotals, Side};
use super::page_owners::{MAX_OWNERS, PageOwners};
use super::table::Table;
use super::target::{MAX_TARGET_FRAMES, PageTarget};
use super::usage::Moments;
use crate::trace::event::MAX_ORDER;

/// Replays page events on `target`.
pub struct Pages<T> {
    target: T,
    live: Table<Live>,
    owners: PageOwners,
    moments: Moments,
    totals: PageTotals,
    now_micros: u64,
}

/// A request of the trace.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// The traced frame number.
    pub frame: u64,
    /// The order of the block.
    pub order: u8,
    /// The recorded kernel's migratetype.
    pub migratetype: u8,
    /// The trace's number of the gfp mask.
    pub gfp: u16,
    /// The trace's number of the call site, where it names one.
    pub site: Option<u16>,
}

/// A live block in one word, which keeps the table small. The order has five bits and the owner 13.
/// Above them is the frame number plus one, or zero for a request that found no memory.
#[derive(Clone, Copy, Default)]
struct Live(u64);

const ORDER_BITS: u32 = 5;
const OWNER_BITS: u32 = 13;
const FRAME_SHIFT: u32 = ORDER_BITS + OWNER_BITS;
const _: () = assert!(MAX_ORDER < 1 << ORDER_BITS && MAX_OWNERS <= 1 << OWNER_BITS);
const _: () = assert!(MAX_TARGET_FRAMES < 1 << (u64::BITS - FRAME_SHIFT));
/// Frames of an area: 2 MiB, the order of a huge page.
const AREA_FRAMES: u64 = 1 << HUGE_ORDER;
const HUGE_ORDER: u8 = 9;
/// Bytes of a page of the recorded kernel.
const PAGE_BYTES: u64 = 4096;

// SAFETY: clause 1 of `Zeroable`: the value is a number, and all bytes zero is zero.
unsafe impl Zeroable for Live {
    fn zero() -> Self {
        Self::default()
    }
}

impl Live {
    #[inline]
    fn new(frame: Option<u64>, order: u8, owner: u16) -> Self {
        let frame = frame.map_or(0, |frame| frame + 1) << FRAME_SHIFT;
        Self(frame | u64::from(owner) << ORDER_BITS | u64::from(order))
    }

    #[inline]
    fn frame(self) -> Option<u64> {
        (self.0 >> FRAME_SHIFT).checked_sub(1)
    }

    #[inline]
    fn order(self) -> u8 {
        self.0 as u8 & ((1 << ORDER_BITS) - 1)
    }

    #[inline]
    fn owner(self) -> u16 {
        (self.0 >> ORDER_BITS) as u16 & ((1 << OWNER_BITS) - 1)
    }
}

impl<T: PageTarget> Pages<T> {
    /// Replays on `target`.
    pub fn new(target: T) -> Self {
        Self {
            target,
            live: Table::new(),
            owners: PageOwners::default(),
            moments: Moments::default(),
            totals: PageTotals::default(),
            now_micros: 0,
        }
    }

    /// Returns the target.
    pub fn target(&self) -> &T {
        &self.target
    }

    /// Returns the totals so far.
    pub fn totals(&self) -> &PageTotals {
        &self.totals
    }

    /// Records that `id` is the trace's number for the call site `name`.
    pub fn name_site(&mut self, id: u32, name: &str) {
        self.owners.name_site(id, name);
    }

    /// Records that `id` is the trace's number for the gfp mask `name`.
    pub fn name_gfp(&mut self, id: u32, name: &str) {
        self.owners.name_gfp(id, name);
    }

    /// Returns the time of the peak of live pages, in microseconds of the trace.
    pub fn peak_micros(&self) -> u64 {
        self.moments.peak_micros()
    }

    /// Returns what each call site allocated, and what of it is live, without what it pins.
    /// O(owners).
    pub fn callers(&self) -> Vec<Caller> {
        self.owners.callers(&self.moments, &[])
    }

    /// As `callers`, with what each call site pins. O(live blocks).
    pub fn pinning_callers(&self) -> Vec<Caller> {
        self.owners.callers(&self.moments, &self.pinned())
    }

    /// Returns the bytes that each owner pins, see [`Caller::pinned_bytes`].
    fn pinned(&self) -> Vec<u64> {
        // For each area: live pages, and live blocks.
        let mut areas: NumberMap<(u64, u64)> = NumberMap::default();
        let small = |live: &&Live| live.order() < HUGE_ORDER;
        let of_area = |live: &Live| live.frame().map(|frame| frame / AREA_FRAMES);
        for live in self.live.values().filter(small) {
            if let Some(area) = of_area(live) {
                let (pages, blocks) = areas.entry(area).or_default();
                *pages += 1 << live.order();
                *blocks += 1;
            }
        }
        let mut pinned = vec![0; self.owners.len()];
        for live in self.live.values().filter(small) {
            if let Some((pages, blocks)) = of_area(live).and_then(|area| areas.get(&area)) {
                let free = AREA_FRAMES.saturating_sub(*pages) * PAGE_BYTES;
                pinned[usize::from(live.owner())] += free / blocks;
            }
        }
        pinned
    }

    /// Prefetches the table entry of the block at the traced `frame`, for an event to come.
    #[inline(always)]
    pub fn prefetch(&self, frame: u64) {
        self.live.prefetch(frame);
    }

    /// Continues on CPU `cpu` at `micros`, the trace's time in microseconds.
    #[inline]
    pub fn switch_to(&mut self, cpu: u16, micros: u64) {
        self.target.switch_cpu(cpu);
        self.now_micros = micros;
    }

    /// Allocates a block for the traced `frame`.
    #[inline(always)]
    pub fn allocate(&mut self, request: &Request, line: u64, findings: &mut Findings) {
        let Request { frame, order, migratetype, gfp, site } = *request;
        let owner = self.owners.find(gfp, site);
        if let Some(live) = self.live.take(frame) {
            self.totals.implied_frees += 1;
            self.release(live, line, findings);
        }
        let ours = self.target.allocate(order, migratetype).ok();
        self.totals.allocations += 1;
        let bytes = PAGE_BYTES << order;
        let usage = self.owners.usage(owner);
        usage.allocations += 1;
        usage.requested_bytes += bytes;
        if ours.is_some() {
            usage.grow(bytes, &mut self.moments);
            self.totals.live_pages += 1 << order;
            if self.totals.live_pages > self.totals.peak_live_pages {
                self.totals.peak_live_pages = self.totals.live_pages;
                self.moments.peak(self.now_micros);
            }
        } else {
            usage.failed += 1;
            self.totals.failed += 1;
            self.totals.shortages.count(self.target.shortage(order));
            let text = format_args!("no memory for a block of order {order}");
            findings.add_shortage(Side::Pages, line, text);
        }
        self.live.insert(frame, Live::new(ours, order, owner));
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
        let usage = self.owners.usage(live.owner());
        usage.shrink(PAGE_BYTES << live.order(), &mut self.moments);
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
        for frame in [None, Some(0), Some(MAX_TARGET_FRAMES - 1)] {
            let owner = MAX_OWNERS as u16 - 1;
            let live = Live::new(frame, 18, owner);
            assert_eq!((live.frame(), live.order(), live.owner()), (frame, 18, owner));
        }
    }
}
