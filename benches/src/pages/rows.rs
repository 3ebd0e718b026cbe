//! The contestants among page allocators, and one round of a workload on a fresh one.

use std::time::Instant;

use hosted::Threads;

use crate::measure::Sample;
use crate::pages::contestant::{Alone, Make, OnlyShared, Shared};
use crate::pages::floor::Nothing;
use crate::pages::linux_like::LinuxLike;
use crate::pages::ours::Ours;
use crate::pages::rivals;
use crate::pages::workload::{self, Workload};

/// Returns the contestants with their names: this workspace's, the floor, and the rivals.
pub fn contestants() -> [(&'static str, Make); 9] {
    [
        ("ours", |frames| Box::new(Shared(Ours::new(frames)))),
        ("floor", |_| Box::new(Nothing)),
        ("linux-like", |frames| Box::new(Shared(<LinuxLike<_>>::new(frames, Threads)))),
        ("buddy_system_allocator", |frames| Box::new(Alone(rivals::BuddySystem::new(frames)))),
        ("buddy_system_allocator-locked", |frames| {
            Box::new(Shared(rivals::Locked::new(rivals::BuddySystem::new(frames))))
        }),
        ("bitmap-allocator", |frames| Box::new(Alone(rivals::Bitmap::new(frames)))),
        ("bitmap-allocator-locked", |frames| {
            Box::new(OnlyShared(rivals::Locked::new(rivals::Bitmap::new(frames))))
        }),
        ("buddy-slab-allocator", |frames| Box::new(Alone(rivals::BuddySlab::new(frames)))),
        ("buddy-slab-allocator-locked", |frames| {
            Box::new(OnlyShared(rivals::Locked::new(rivals::BuddySlab::new(frames))))
        }),
    ]
}

/// Runs one round of `workload` on a fresh allocator of `frames` frames; `None` as for
/// [`Contestant::run`](crate::pages::contestant::Contestant::run).
pub fn measure(make: Make, workload: Workload, frames: usize) -> Option<Sample> {
    let start = Instant::now();
    let mut contestant = make(frames);
    let elapsed_us = start.elapsed().as_nanos() as f64 / 1e3;
    if workload == Workload::Init {
        // An allocator whose metadata grows with use builds nothing here.
        contestant.run(Workload::Metadata, frames)?;
        return Some(workload::only(elapsed_us / (frames as f64 / (1 << 18) as f64)));
    }
    contestant.run(workload, frames)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::allocator::Pages;
    use page_frame::Order;
    use testkit::Random;

    /// Allocates and frees at random, and tracks the owner of each frame. At the end all frames
    /// merge again.
    fn behaves(mut pages: impl Pages, name: &str) {
        const FRAMES: usize = 4096;
        let mut owners = vec![false; FRAMES];
        let mut live: Vec<(usize, Order)> = Vec::new();
        let mut random = Random::new(3);
        for step in 0..20_000 {
            if random.below(100) < 51 {
                let order = workload::mixed_order(&mut random);
                let Some(frame) = pages.allocate(order) else { continue };
                assert_eq!(frame % order.pages(), 0, "{name}, step {step}");
                for owner in &mut owners[frame..frame + order.pages()] {
                    assert!(!std::mem::replace(owner, true), "{name}, step {step}");
                }
                live.push((frame, order));
            } else if !live.is_empty() {
                let (frame, order) = live.swap_remove(random.below(live.len()));
                owners[frame..frame + order.pages()].fill(false);
                pages.free(frame, order);
            }
        }
        live.into_iter().for_each(|(frame, order)| pages.free(frame, order));
        pages.drain();
        let largest = Order::new(10).expect("order 10 exists");
        let all = (0..FRAMES / largest.pages()).filter_map(|_| pages.allocate(largest)).count();
        assert_eq!(all, FRAMES / largest.pages(), "{name}: all frames are in blocks of order 10");
    }

    #[test]
    fn every_contestant_hands_out_aligned_blocks_once_and_merges_them() {
        behaves(&Ours::new(4096), "ours");
        behaves(&<LinuxLike<_>>::new(4096, Threads), "linux-like");
        behaves(rivals::BuddySystem::new(4096), "buddy_system_allocator");
        behaves(rivals::Bitmap::new(4096), "bitmap-allocator");
        behaves(rivals::BuddySlab::new(4096), "buddy-slab-allocator");
    }

    #[test]
    fn every_row_has_a_figure_for_ours() {
        for workload in Workload::ALL {
            let (_, make) = contestants()[0];
            let sample = measure(make, workload, 1 << 18).expect("ours takes part in every row");
            assert!(sample.mean_ns.is_finite(), "{workload:?}");
        }
    }
}
