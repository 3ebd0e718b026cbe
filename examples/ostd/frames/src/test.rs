//! Run in the kernel, on the allocator that the kernel itself runs on.

extern crate alloc;

use alloc::vec::Vec;
use core::alloc::Layout;

use ostd::early_println;
use ostd::mm::frame::GlobalFrameAllocator;
use ostd::mm::{FrameAllocOptions, HasSize, PAGE_SIZE, Paddr, Segment, Split};
use ostd::prelude::ktest;

use crate::allocator::FRAMES;
use crate::{drain, frames, free_frames, lost_frames, validate};

/// Returns the number of free frames, none of which is in a CPU's slot.
fn drained() -> usize {
    drain();
    free_frames()
}

fn segment(pages: usize) -> Segment<()> {
    FrameAllocOptions::new().zeroed(false).alloc_segment(pages).expect("room")
}

fn layout(pages: usize, alignment: usize) -> Layout {
    Layout::from_size_align(pages * PAGE_SIZE, alignment * PAGE_SIZE).expect("small")
}

fn allocate(pages: usize, alignment: usize) -> Option<Paddr> {
    FRAMES.alloc(layout(pages, alignment))
}

fn free(start: Paddr, pages: usize) {
    FRAMES.dealloc(start, pages * PAGE_SIZE);
}

#[ktest]
fn the_kernel_runs_on_this_allocator() {
    let before = drained();
    let held = segment(100);
    assert_eq!(free_frames(), before - 100);
    drop(held);
    assert_eq!(drained(), before);
    early_println!(" [{} frames, {} of them free, {} lost]", frames(), before, lost_frames());
    assert!(before > frames() / 2);
    validate().expect("consistent");
}

#[ktest]
fn no_frame_of_the_boot_is_lost() {
    assert_eq!(lost_frames(), 0);
}

#[ktest]
fn segments_of_all_sizes_come_back() {
    let before = drained();
    for pages in (1..40).chain([63, 64, 65, 255, 256, 300, 511, 512, 513, 1000, 1024, 2048, 2049]) {
        let held = segment(pages);
        assert_eq!(held.size(), pages * PAGE_SIZE);
        assert_eq!(drained(), before - pages);
    }
    assert_eq!(drained(), before);
    validate().expect("consistent");
}

#[ktest]
fn a_part_of_a_large_segment_is_free_at_once() {
    let before = drained();
    let (head, tail) = segment(2048).split(2000 * PAGE_SIZE);
    drop(head);
    assert_eq!(drained(), before - 48);
    drop(tail);
    assert_eq!(drained(), before);
}

#[ktest]
fn alignments_are_met() {
    let before = drained();
    for alignment in (0..12).map(|order| 1 << order) {
        for pages in [1, 3, alignment] {
            let start = allocate(pages, alignment).expect("room");
            assert_eq!(start % (alignment * PAGE_SIZE), 0);
            free(start, pages);
        }
    }
    assert_eq!(drained(), before);
    validate().expect("consistent");
}

#[ktest]
fn memory_runs_out_and_comes_back() {
    let before = drained();
    let mut held = Vec::with_capacity(4096);
    for pages in (0..15).rev().map(|order| 1 << order) {
        while held.len() < held.capacity()
            && let Some(start) = allocate(pages, 1)
        {
            held.push((start, pages));
        }
    }
    let left = drained();
    held.sort_unstable();
    let is_below = |pair: &[(Paddr, usize)]| pair[0].0 + pair[0].1 * PAGE_SIZE <= pair[1].0;
    assert!(held.windows(2).all(is_below));
    for (start, pages) in held {
        free(start, pages);
    }
    assert_eq!((left, drained()), (0, before));
    validate().expect("consistent");
}

#[ktest]
#[should_panic]
fn a_frame_that_is_freed_twice_is_reported() {
    let start = allocate(1, 1).expect("room");
    free(start, 1);
    free(start, 1);
}

/// Allocates segments and frees them frame by frame, as reference counts do.
fn churn() {
    let mut held = [None; 64];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64 ^ (&raw const held).addr() as u64;
    for _ in 0..20_000 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let pages = if random >> 60 == 0 { 1 + (random >> 40) as usize % 40 } else { 1 };
        let place: &mut Option<(Paddr, usize)> = &mut held[random as usize % 64];
        *place = match place.take() {
            Some((start, pages)) => {
                (0..pages).for_each(|page| free(start + page * PAGE_SIZE, 1));
                None
            }
            None => allocate(pages, 1).map(|start| (start, pages)),
        };
    }
    held.into_iter().flatten().for_each(|(start, pages)| free(start, pages));
}

#[ktest]
fn no_frame_is_lost_when_all_cpus_allocate() {
    let before = drained();
    frame_tests::on_all_cpus(churn);
    assert_eq!(drained(), before);
    validate().expect("consistent");
}
