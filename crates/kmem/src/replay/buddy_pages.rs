//! Page events on the real buddy.

use std::io;

use buddy::{Block, Mobility, Mode};
use page_frame::{CpuId, FrameNumber, Order, OutOfMemory, SwitchedCpu};

use super::target::{FreeCounts, PageTarget};
use crate::simulated::Simulated;

/// A simulated machine's buddy, played by one thread on several CPU slots.
pub struct BuddyPages {
    buddy: Simulated<&'static SwitchedCpu>,
    cpus: &'static SwitchedCpu,
    free_at_start: Vec<(FrameNumber, Order)>,
}

impl BuddyPages {
    /// Returns a buddy over `frames` frames with `cpus` CPU slots.
    ///
    /// # Errors
    /// No frames, or no memory for the metadata.
    pub fn new(frames: usize, cpus: u16) -> io::Result<Self> {
        // Leaked, 32 bytes for each replay: the buddy keeps its `Cpu` inside, and the replay switches it from outside.
        let cpus: &'static SwitchedCpu = Box::leak(Box::new(SwitchedCpu::new(cpus.into())));
        let buddy = Simulated::new(frames, cpus, Mode::Cached)?;
        let free_at_start = buddy.free_blocks().collect();
        Ok(Self { buddy, cpus, free_at_start })
    }

    /// Returns the number of free blocks of each mobility and order.
    pub fn free_counts_by_mobility(&self) -> [[usize; Order::COUNT]; 3] {
        self.buddy.free_counts_by_mobility()
    }

    /// Iterates over all blocks, free or not, lowest first.
    pub fn blocks(&self) -> impl Iterator<Item = Block> {
        self.buddy.blocks()
    }

    /// Returns what the area of a frame was last used for.
    pub fn mobility_at(&self, frame: FrameNumber) -> Mobility {
        self.buddy.mobility_at(frame)
    }

    /// Returns the number behind the last frame's.
    pub fn end_frame(&self) -> usize {
        self.buddy.frames()
    }

    /// Returns how many frames there are.
    pub fn frames(&self) -> usize {
        self.buddy.frames()
    }
}

impl PageTarget for BuddyPages {
    #[inline]
    fn switch_cpu(&mut self, cpu: u16) {
        self.cpus.switch_to(Some(CpuId::new(cpu.into())));
    }

    #[inline]
    fn allocate(&mut self, order: u8, migratetype: u8) -> Result<u64, OutOfMemory> {
        let order = Order::new(order).ok_or(OutOfMemory)?;
        let mobility = match migratetype {
            1 => Mobility::Movable,
            2 => Mobility::Reclaimable,
            _ => Mobility::Unmovable,
        };
        self.buddy.allocate_as(order, mobility).map(|frame| frame.get() as u64)
    }

    #[inline]
    fn free(&mut self, frame: u64, order: u8) -> Result<(), String> {
        let order = Order::new(order).ok_or_else(|| format!("no order {order}"))?;
        let freed = self.buddy.free_frames(FrameNumber::new(frame as usize), order);
        freed.map_err(|fault| fault.to_string())
    }

    fn drain(&mut self) {
        self.buddy.drain();
    }

    fn splits_and_merges(&self) -> (usize, usize) {
        let counts = self.buddy.observer();
        (counts.splits(), counts.merges())
    }

    fn is_as_at_start(&self) -> bool {
        self.buddy.free_blocks().eq(self.free_at_start.iter().copied())
    }

    fn free_counts(&self) -> Option<FreeCounts> {
        Some(self.buddy.free_counts())
    }
}
