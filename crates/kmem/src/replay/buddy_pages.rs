//! Page events on the real buddy: one for each zone, of frames that are only numbers.

use std::io;

use buddy::{Block, Mobility, Mode};
use page_frame::{CpuId, FrameNumber, FrameRange, Order, OutOfMemory, SwitchedCpu};

use super::target::{FreeCounts, PageTarget};
use crate::simulated::Simulated;

/// Zones by their name and the frame behind their last, lowest first: the kernel's on x86-64.
const ZONES: [(&str, usize); 3] = [("DMA", 16 << 8), ("DMA32", 4 << 18), ("Normal", usize::MAX)];

/// A simulated machine's buddies, played by one thread on several CPU slots.
pub struct BuddyPages {
    /// Lowest first; at least one.
    zones: Vec<Zone>,
    cpus: &'static SwitchedCpu,
}

/// Frames up to one number, with a buddy of their own.
struct Zone {
    name: &'static str,
    end: usize,
    buddy: Simulated<&'static SwitchedCpu>,
    free_at_start: Vec<(FrameNumber, Order)>,
}

impl BuddyPages {
    /// Returns one zone, `Normal`, of `frames` frames with `cpus` CPU slots.
    ///
    /// # Errors
    /// No frames, or no memory for the metadata.
    pub fn new(frames: usize, cpus: u16) -> io::Result<Self> {
        let all = FrameRange::new(FrameNumber::new(0), FrameNumber::new(frames));
        Self::with_ranges(&[all], false, cpus)
    }

    /// Returns the frames of `ranges`, which ascend and do not touch: in the kernel's zones, or in one.
    ///
    /// # Errors
    /// No frames, or no memory for the metadata.
    pub fn with_ranges(ranges: &[FrameRange], in_zones: bool, cpus: u16) -> io::Result<Self> {
        // Leaked, 32 bytes for each replay: the buddy keeps its `Cpu` inside, and the replay switches it from outside.
        let cpus: &'static SwitchedCpu = Box::leak(Box::new(SwitchedCpu::new(cpus.into())));
        let limits = if in_zones { &ZONES[..] } else { &ZONES[2..] };
        let mut zones = Vec::new();
        let mut start = 0;
        for &(name, end) in limits {
            let parts: Vec<_> =
                ranges.iter().filter_map(|range| part(*range, start, end)).collect();
            start = end;
            if parts.is_empty() {
                continue;
            }
            let buddy = Simulated::with_ranges(&parts, cpus, Mode::Cached)?;
            let free_at_start = buddy.free_blocks().collect();
            zones.push(Zone { name, end, buddy, free_at_start });
        }
        match zones.is_empty() {
            true => Err(io::Error::other("there are no whole frames of usable memory")),
            false => Ok(Self { zones, cpus }),
        }
    }

    /// Iterates over the zones, lowest first: the name, and the number of free blocks of each mobility and order.
    pub fn zones(&self) -> impl Iterator<Item = (&'static str, [FreeCounts; 3])> {
        self.zones.iter().map(|zone| (zone.name, zone.buddy.free_counts_by_mobility()))
    }

    /// Iterates over all blocks, free or not, lowest first.
    pub fn blocks(&self) -> impl Iterator<Item = Block> {
        self.zones.iter().flat_map(|zone| zone.buddy.blocks())
    }

    /// Returns what the area of a frame was last used for.
    pub fn mobility_at(&self, frame: FrameNumber) -> Mobility {
        self.zone(frame.get()).map_or(Mobility::default(), |zone| zone.buddy.mobility_at(frame))
    }

    /// Returns the number behind the last frame's. O(blocks).
    pub fn end_frame(&self) -> usize {
        self.blocks().last().map_or(0, |block| block.start.get() + block.frames)
    }

    /// Returns how many frames there are.
    pub fn frames(&self) -> usize {
        self.zones.iter().map(|zone| zone.buddy.frames()).sum()
    }

    #[inline]
    fn zone(&self, frame: usize) -> Option<&Zone> {
        self.zones.iter().find(|zone| frame < zone.end)
    }
}

/// Returns what of `range` lies from `start` up to but without `end`.
fn part(range: FrameRange, start: usize, end: usize) -> Option<FrameRange> {
    let (from, to) = (range.start.get().max(start), range.end.get().min(end));
    (from < to).then(|| FrameRange::new(FrameNumber::new(from), FrameNumber::new(to)))
}

impl PageTarget for BuddyPages {
    #[inline]
    fn switch_cpu(&mut self, cpu: u16) {
        self.cpus.switch_to(Some(CpuId::new(cpu.into())));
    }

    /// Takes from the highest zone that has a block; lower ones serve for it.
    #[inline]
    fn allocate(&mut self, order: u8, migratetype: u8) -> Result<u64, OutOfMemory> {
        let order = Order::new(order).ok_or(OutOfMemory)?;
        let mobility = match migratetype {
            1 => Mobility::Movable,
            2 => Mobility::Reclaimable,
            _ => Mobility::Unmovable,
        };
        let mut zones = self.zones.iter().rev();
        let found = zones.find_map(|zone| zone.buddy.allocate_as(order, mobility).ok());
        found.map(|frame| frame.get() as u64).ok_or(OutOfMemory)
    }

    #[inline]
    fn free(&mut self, frame: u64, order: u8) -> Result<(), String> {
        let order = Order::new(order).ok_or_else(|| format!("no order {order}"))?;
        let zone = self.zone(frame as usize).ok_or_else(|| format!("no zone has frame {frame}"))?;
        let freed = zone.buddy.free_frames(FrameNumber::new(frame as usize), order);
        freed.map_err(|fault| fault.to_string())
    }

    fn drain(&mut self) {
        self.zones.iter().for_each(|zone| _ = zone.buddy.drain());
    }

    fn splits_and_merges(&self) -> (usize, usize) {
        let counts = self.zones.iter().map(|zone| zone.buddy.observer());
        counts.fold((0, 0), |sum, counts| (sum.0 + counts.splits(), sum.1 + counts.merges()))
    }

    fn is_as_at_start(&self) -> bool {
        let is_same = |zone: &Zone| zone.buddy.free_blocks().eq(zone.free_at_start.iter().copied());
        self.zones.iter().all(is_same)
    }

    fn free_counts(&self) -> Option<FreeCounts> {
        let mut sums = FreeCounts::default();
        for zone in &self.zones {
            for (sum, count) in sums.iter_mut().zip(zone.buddy.free_counts()) {
                *sum += count;
            }
        }
        Some(sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(start: usize, end: usize) -> FrameRange {
        FrameRange::new(FrameNumber::new(start), FrameNumber::new(end))
    }

    #[test]
    fn zones_serve_from_the_highest_and_fall_back_to_lower_ones() {
        let ranges = [frames(1, 0x9f), frames(0x100, 0x1400), frames(1 << 20, (1 << 20) + 512)];
        let mut pages = BuddyPages::with_ranges(&ranges, true, 1).expect("good frames");
        let names: Vec<_> = pages.zones().map(|(name, _)| name).collect();
        assert_eq!(names, ["DMA", "DMA32", "Normal"]);
        assert_eq!(pages.frames(), 0x9e + 0x1300 + 512);
        assert_eq!(pages.end_frame(), (1 << 20) + 512);
        let first = pages.allocate(9, 0).expect("there is room");
        assert_eq!(first, 1 << 20);
        let second = pages.allocate(9, 0).expect("a lower zone has room");
        assert!((0x1000..0x1400).contains(&second), "{second:#x}");
        for frame in [second, first] {
            assert_eq!(pages.free(frame, 9), Ok(()));
        }
        assert!(pages.free(0xfff, 0).is_err(), "nobody has it");
        pages.drain();
        assert!(pages.is_as_at_start());
    }

    #[test]
    fn no_memory_is_an_error() {
        assert!(BuddyPages::with_ranges(&[], true, 1).is_err());
    }
}
