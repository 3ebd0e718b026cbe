//! Churn: the number of whole free areas after many allocations and frees, as a share of the ideal.
//!
//! Four requests in five are for single frames, the fifth for order 1 to 3, and one in 256 for an
//! area. The workload has four steps. It fills memory to nine tenths. It replaces random blocks,
//! half as many as there are frames. It frees random blocks until half of memory is free. It
//! replaces random blocks at that level, as many as there are frames. The **ideal** is that all
//! free frames form whole areas.

use page_frame::Order;
use testkit::Random;

use crate::measure::Sample;
use crate::pages::allocator::Pages;
use crate::pages::cpu_time::cpu_ns;
use crate::pages::workload::{AREA_FRAMES, Workload, only};

/// CPU time in nanoseconds after which an allocator is excluded.
const LIMIT_NS: u64 = 20_000_000_000;
/// Replacements between two readings of the clock.
const LOOK: usize = 4096;
/// The order of an area.
const AREA: Order = match Order::new(9) {
    Some(order) => order,
    None => panic!("order 9 exists"),
};

/// The allocator, and the blocks that the harness holds.
struct World<'p, P> {
    pages: &'p mut P,
    frames: usize,
    blocks: Vec<(usize, Order)>,
    held: usize,
    random: Random,
    end_ns: u64,
}

/// Runs the churn and returns the share, in percent, that `workload` asks for; `None` when it takes
/// too long.
pub(super) fn run<P: Pages>(pages: &mut P, workload: Workload, frames: usize) -> Option<Sample> {
    let end_ns = cpu_ns() + LIMIT_NS;
    let mut world =
        World { pages, frames, blocks: vec![], held: 0, random: Random::new(7), end_ns };
    world.fill(frames / 10 * 9)?;
    world.replace(frames / 2, frames / 10 * 9)?;
    while world.held > frames / 2 {
        world.free_one();
    }
    world.replace(frames, frames / 2)?;
    if workload != Workload::ChurnFree {
        world.pages.drain();
    }
    let ideal = (frames - world.held) / AREA_FRAMES;
    let areas = match workload {
        Workload::ChurnObtainable => world.obtainable()?,
        Workload::ChurnCompacted => world.compacted()?,
        // An allocator that does not count its free areas is taken to cache no frames.
        _ => world.pages.free_areas().unwrap_or_else(|| world.untouched()),
    };
    Some(only(100.0 * areas as f64 / ideal as f64))
}

impl<P: Pages> World<'_, P> {
    fn request(&mut self) -> Order {
        let order = match (self.random.one_in(256), self.random.below(5)) {
            (true, _) => return AREA,
            (false, 0) => 1 + self.random.below(3) as u8,
            _ => 0,
        };
        Order::new(order).expect("at most 3")
    }

    /// Allocates until `target` frames are held, or a request cannot be met.
    fn fill(&mut self, target: usize) -> Option<()> {
        for number in 0.. {
            if self.held >= target {
                break;
            }
            if number % LOOK == 0 && cpu_ns() > self.end_ns {
                return None;
            }
            let order = self.request();
            let Some(frame) = self.pages.allocate(order) else { break };
            self.blocks.push((frame, order));
            self.held += order.pages();
        }
        Some(())
    }

    fn free_one(&mut self) {
        let index = self.random.below(self.blocks.len());
        let (frame, order) = self.blocks.swap_remove(index);
        self.pages.free(frame, order);
        self.held -= order.pages();
    }

    /// Frees `count` blocks at random, and after each allocates until `level` frames are held.
    fn replace(&mut self, count: usize, level: usize) -> Option<()> {
        for number in 0..count {
            if number % LOOK == 0 && cpu_ns() > self.end_ns {
                return None;
            }
            self.free_one();
            self.fill(level)?;
        }
        Some(())
    }

    /// Returns the number of areas of which no frame is held.
    fn untouched(&self) -> usize {
        let mut touched = vec![false; self.frames.div_ceil(AREA_FRAMES)];
        for (frame, order) in &self.blocks {
            let last = frame + order.pages() - 1;
            touched[frame / AREA_FRAMES..=last / AREA_FRAMES].fill(true);
        }
        touched.iter().filter(|touched| !**touched).count()
    }

    /// Allocates all free areas.
    fn obtainable(&mut self) -> Option<usize> {
        let mut areas = 0;
        while self.pages.allocate(AREA).is_some() {
            areas += 1;
            if cpu_ns() > self.end_ns {
                return None;
            }
        }
        Some(areas)
    }

    /// Allocates all areas that can be made by moving blocks. `None` if the allocator moves none.
    fn compacted(&mut self) -> Option<usize> {
        let mut number_of = vec![usize::MAX; self.frames];
        for (number, (frame, _)) in self.blocks.iter().enumerate() {
            number_of[*frame] = number;
        }
        let (mut areas, mut moved) = (0, 0);
        let mut relocate = |from: usize, to: usize| {
            let number = std::mem::replace(&mut number_of[from], usize::MAX);
            let is_ours = number != usize::MAX;
            if is_ours {
                number_of[to] = number;
                moved += 1;
            }
            is_ours
        };
        while self.pages.allocate_compacting(AREA, &mut relocate).is_some() {
            areas += 1;
        }
        (moved > 0).then_some(areas)
    }
}
