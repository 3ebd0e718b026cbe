//! Claims about any frame allocator: frames are disjoint, come back in pieces, and from all CPUs.

use alloc::vec::Vec;

use ostd::mm::{FrameAllocOptions, HasPaddr, HasSize, PAGE_SIZE, Segment, Split};
use ostd::prelude::ktest;

use crate::cpus::on_all_cpus;

#[ktest]
fn segments_are_disjoint() {
    let mut held: Vec<Segment<()>> = Vec::new();
    for round in 0..200_usize {
        let pages = 1 + round * 7 % 40;
        let segment = FrameAllocOptions::new().alloc_segment(pages).expect("room");
        assert_eq!(segment.size(), pages * PAGE_SIZE);
        for other in &held {
            let is_below =
                |low: &Segment<()>, high: &Segment<()>| low.paddr() + low.size() <= high.paddr();
            assert!(is_below(other, &segment) || is_below(&segment, other));
        }
        held.push(segment);
        if round % 3 == 0 {
            let segment = held.swap_remove(round * 31 % held.len());
            let half = segment.size() / PAGE_SIZE / 2;
            if half > 0 {
                let (head, tail) = segment.split(half * PAGE_SIZE);
                drop(tail);
                drop(head);
            }
        }
    }
}

#[ktest]
fn frames_of_a_segment_come_back_in_any_order() {
    for pages in [2, 10, 100, 512, 1030] {
        let segment = FrameAllocOptions::new().zeroed(false).alloc_segment(pages).expect("room");
        let mut frames: Vec<_> = segment.into_iter().collect();
        assert_eq!(frames.len(), pages);
        while !frames.is_empty() {
            drop(frames.swap_remove(frames.len() / 2));
        }
    }
}

/// Allocates and frees at random, one segment in sixteen of up to forty frames.
fn churn() {
    const LIVE: usize = 64;
    let mut live: [Option<Segment<()>>; LIVE] = [const { None }; LIVE];
    let mut options = FrameAllocOptions::new();
    options.zeroed(false);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64 ^ (&raw const live).addr() as u64;
    for _ in 0..20_000 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let place = &mut live[random as usize % LIVE];
        if place.take().is_none() {
            let pages = if random >> 60 == 0 { 1 + (random >> 40) as usize % 40 } else { 1 };
            *place = Some(options.alloc_segment(pages).expect("room"));
        }
    }
}

#[ktest]
fn all_cpus_allocate_at_once() {
    on_all_cpus(churn);
}
