//! Replays page events on the real buddy: one buddy per zone. Its frames are numbers without
//! memory.

use std::io;

use buddy::{Block, Mobility, Mode};
use page_frame::{CpuId, FrameNumber, FrameRange, Order, OutOfMemory, SwitchedCpu};

use super::outcome::Shortage;
use super::target::{FreeCounts, PageTarget};
use crate::memory::simulated::Simulated;

/// The kernel's zones on x86-64, lowest first: the name, and the end frame (exclusive).
const ZONES: [(&str, usize); 3] = [("DMA", 16 << 8), ("DMA32", 4 << 18), ("Normal", usize::MAX)];

/// The borders of nodes are multiples of this number of frames, an area.
const SHARE: usize = 512;

/// How a simulated machine's frames are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Division {
    /// `true` divides into the kernel's zones DMA, DMA32 and Normal; `false` puts all in Normal.
    pub in_zones: bool,
    /// The number of nodes of equal size, at least one. CPU n belongs to node n modulo this
    /// number.
    pub nodes: u16,
}

impl Default for Division {
    fn default() -> Self {
        Self { in_zones: false, nodes: 1 }
    }
}

/// A simulated machine's buddies. One thread plays all CPUs.
pub struct BuddyPages {
    /// Lowest first; at least one.
    zones: Vec<Zone>,
    cpus: &'static SwitchedCpu,
    nodes: u16,
    /// The node of the current CPU.
    node: u16,
}

/// One zone of one node. Its frames are below `end`, and it has its own buddy.
struct Zone {
    node: u16,
    name: &'static str,
    end: usize,
    buddy: Simulated<&'static SwitchedCpu>,
    free_at_start: Vec<(FrameNumber, Order)>,
    /// Frames that no block of the replay has, those of CPU slots included.
    free_frames: usize,
    /// Requests of this order and above fail until a block is freed: one has failed, although all
    /// slots were drained, and nothing was freed since. `Order::COUNT` if none is known to fail.
    failing: u8,
}

const NONE_FAILS: u8 = Order::COUNT as u8;

impl Zone {
    /// Allocates a block. A request that must fail is refused without a search, which would visit
    /// every area.
    #[inline]
    fn allocate(&mut self, order: Order, mobility: Mobility) -> Option<FrameNumber> {
        if order.get() >= self.failing || order.pages() > self.free_frames {
            return None;
        }
        match self.buddy.allocate_as(order, mobility) {
            Ok(frame) => {
                self.free_frames -= order.pages();
                Some(frame)
            }
            Err(OutOfMemory) => {
                self.failing = order.get();
                None
            }
        }
    }
}

impl BuddyPages {
    /// Makes one zone, `Normal`, of `frames` frames with `cpus` CPU slots.
    ///
    /// # Errors
    /// No frames, or no memory for the metadata.
    pub fn new(frames: usize, cpus: u16) -> io::Result<Self> {
        let all = FrameRange::new(FrameNumber::new(0), FrameNumber::new(frames));
        Self::with_ranges(&[all], Division::default(), cpus)
    }

    /// Makes the zones of `division` from `ranges`, which ascend and do not touch.
    ///
    /// # Errors
    /// No frames, or no memory for the metadata.
    pub fn with_ranges(ranges: &[FrameRange], division: Division, cpus: u16) -> io::Result<Self> {
        let nodes = division.nodes.max(1);
        // Leaks 32 bytes per replay: the buddies and the replay share the `Cpu`.
        let cpus: &'static SwitchedCpu = Box::leak(Box::new(SwitchedCpu::new(cpus.into())));
        let limits = if division.in_zones { &ZONES[..] } else { &ZONES[2..] };
        let mut zones = Vec::new();
        for node in 0..nodes {
            let (from, to) = (border(ranges, node, nodes), border(ranges, node + 1, nodes));
            let mut start = 0;
            for &(name, limit) in limits {
                let (first, end) = (from.max(start), to.min(limit));
                let parts = ranges.iter().filter_map(|range| part(*range, first, end));
                let parts: Vec<_> = parts.collect();
                start = limit;
                if parts.is_empty() {
                    continue;
                }
                let buddy = Simulated::with_ranges(&parts, cpus, Mode::Cached)?;
                let free_at_start = buddy.free_blocks().collect();
                let free_frames = buddy.frames();
                let failing = NONE_FAILS;
                zones.push(Zone { node, name, end, buddy, free_at_start, free_frames, failing });
            }
        }
        match zones.is_empty() {
            true => Err(io::Error::other("there are no whole frames of usable memory")),
            false => Ok(Self { zones, cpus, nodes, node: 0 }),
        }
    }

    /// Iterates over the zones, lowest first: node, name, and the number of free blocks of each
    /// mobility and order.
    pub fn zones(&self) -> impl Iterator<Item = (u16, &'static str, [FreeCounts; 3])> {
        let counts = |zone: &Zone| (zone.node, zone.name, zone.buddy.free_counts_by_mobility());
        self.zones.iter().map(counts)
    }

    /// Iterates over all blocks, free or not, lowest first.
    pub fn blocks(&self) -> impl Iterator<Item = Block> {
        self.zones.iter().flat_map(|zone| zone.buddy.blocks())
    }

    /// Returns the mobility of the frame's area.
    pub fn mobility_at(&self, frame: FrameNumber) -> Mobility {
        self.zone(frame.get()).map_or(Mobility::default(), |zone| zone.buddy.mobility_at(frame))
    }

    /// Returns the last frame's number plus one. O(blocks).
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

/// Returns the frame at which `node` of `nodes` begins: all nodes have about as many frames.
fn border(ranges: &[FrameRange], node: u16, nodes: u16) -> usize {
    if node == nodes {
        return usize::MAX;
    }
    let all: usize = ranges.iter().map(|range| range.frames()).sum();
    let mut before = all / usize::from(nodes) * usize::from(node);
    for range in ranges {
        if before < range.frames() {
            return (range.start.get() + before) / SHARE * SHARE;
        }
        before -= range.frames();
    }
    usize::MAX
}

/// Returns the part of `range` within `start..end`, unless it is empty.
fn part(range: FrameRange, start: usize, end: usize) -> Option<FrameRange> {
    let (from, to) = (range.start.get().max(start), range.end.get().min(end));
    (from < to).then(|| FrameRange::new(FrameNumber::new(from), FrameNumber::new(to)))
}

impl PageTarget for BuddyPages {
    #[inline]
    fn switch_cpu(&mut self, cpu: u16) {
        self.cpus.switch_to(Some(CpuId::new(cpu.into())));
        self.node = if self.nodes == 1 { 0 } else { cpu % self.nodes };
    }

    /// Tries the CPU's own node first, then the others; in each node, the zones from the highest
    /// to the lowest.
    #[inline]
    fn allocate(&mut self, order: u8, migratetype: u8) -> Result<u64, OutOfMemory> {
        let order = Order::new(order).ok_or(OutOfMemory)?;
        let mobility = match migratetype {
            1 => Mobility::Movable,
            2 => Mobility::Reclaimable,
            _ => Mobility::Unmovable,
        };
        let mut node = self.node;
        loop {
            for zone in self.zones.iter_mut().rev() {
                if zone.node != node {
                    continue;
                }
                if let Some(frame) = zone.allocate(order, mobility) {
                    return Ok(frame.get() as u64);
                }
            }
            node = if node + 1 < self.nodes { node + 1 } else { 0 };
            if node == self.node {
                return Err(OutOfMemory);
            }
        }
    }

    #[inline]
    fn free(&mut self, frame: u64, order: u8) -> Result<(), String> {
        let order = Order::new(order).ok_or_else(|| format!("no order {order}"))?;
        let zone = self.zones.iter_mut().find(|zone| (frame as usize) < zone.end);
        let zone = zone.ok_or_else(|| format!("no zone has frame {frame}"))?;
        let freed = zone.buddy.free_frames(FrameNumber::new(frame as usize), order);
        freed.map_err(|fault| fault.to_string())?;
        zone.free_frames += order.pages();
        zone.failing = NONE_FAILS;
        Ok(())
    }

    fn shortage(&self, order: u8) -> Shortage {
        let needed = 1_usize << order;
        let free: usize = self.zones.iter().map(|zone| zone.free_frames).sum();
        match needed {
            _ if needed > self.frames() => Shortage::TooLarge,
            _ if needed > free => Shortage::TooLittleFree,
            _ => Shortage::InPieces,
        }
    }

    fn drain(&mut self) {
        self.zones.iter().for_each(|zone| _ = zone.buddy.drain());
    }

    fn splits_and_merges(&self) -> (usize, usize) {
        let counts = self.zones.iter().map(|zone| zone.buddy.trace());
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
        let mut pages = BuddyPages::with_ranges(&ranges, Division { in_zones: true, nodes: 1 }, 1)
            .expect("good frames");
        let names: Vec<_> = pages.zones().map(|(_, name, _)| name).collect();
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
    fn a_cpu_takes_from_its_own_node_and_then_from_others() {
        let ranges = [frames(0, 8 * SHARE)];
        let division = Division { in_zones: false, nodes: 2 };
        let mut pages = BuddyPages::with_ranges(&ranges, division, 2).expect("good frames");
        assert_eq!(pages.frames(), 8 * SHARE);
        let mut taken = Vec::new();
        for _ in 0..5 {
            pages.switch_cpu(1);
            taken.push(pages.allocate(9, 0).expect("there is room") as usize / SHARE);
        }
        assert!(taken[..4].iter().all(|area| *area >= 4) && taken[4] < 4, "{taken:?}");
        for area in taken {
            assert_eq!(pages.free((area * SHARE) as u64, 9), Ok(()));
        }
        pages.drain();
        assert!(pages.is_as_at_start());
    }

    #[test]
    fn no_memory_is_an_error() {
        assert!(BuddyPages::with_ranges(&[], Division::default(), 1).is_err());
    }
}
