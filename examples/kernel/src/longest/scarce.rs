//! Requests when little memory is free, and when none is.

use alloc::vec::Vec;
use core::ptr::NonNull;

use page_frame::{FrameNumber, Order, PageBlock, PageSource};

use crate::heap::{Frames, kmalloc, pages, zones};
use crate::held::Random;
use crate::longest::history::{Length, history};
use crate::longest::pages::order;
use crate::longest::row::{Report, Row};

/// Frames that are free while little memory is.
const FEW: usize = 600;
/// Requests that find no memory.
const FAILURES: usize = 1_000;

pub(super) fn run(report: &mut Report) {
    let zone = zones().next_back().expect("there is memory");
    let mut frames = Vec::with_capacity(zone.frames());
    let mut drains = Row::new("page-drain", FAILURES);
    while let Ok(frame) = zone.allocate_frames(Order::ZERO) {
        frames.push(frame);
    }
    let mut random = Random::new(7);
    let mut failures = Row::new("page-fail", FAILURES);
    for _ in 0..FAILURES {
        let order = order(random.below(13) as u8);
        failures.count(|| zone.allocate_frames(order)).expect_err("no frame is free");
    }
    report.add([failures]);
    for _ in 0..FEW {
        free(zone, frames.swap_remove(random.below(frames.len())));
    }
    drains.count(|| zone.drain());
    let rows = history(
        ["page-scarce-allocate", "page-scarce-free"],
        Length { held: FEW, rounds: 20 },
        || _ = drains.count(|| zone.drain()),
        |random| {
            let order = order(random.below(8).saturating_sub(6) as u8);
            Some((zone.allocate_frames(order).ok()?, order))
        },
        // SAFETY: allocated by number, freed once.
        |(frame, order)| unsafe { zone.free_frames(frame, order) }.expect("it was allocated"),
    );
    report.add(rows);
    // In the order of allocation, at random, and so that many frees are deferred.
    while !frames.is_empty() {
        free(zone, frames.swap_remove(random.below(frames.len())));
        if frames.len() % 4_000 == 0 {
            drains.count(|| zone.drain());
        }
    }
    report.add([drains]);
    heap(report);
}

fn free(zone: &Frames, frame: FrameNumber) {
    // SAFETY: allocated by number, freed once.
    unsafe { zone.free_frames(frame, Order::ZERO) }.expect("it was allocated");
}

/// Requests for memory of any size when there is no page. The first of them reclaims what caches
/// hold.
fn heap(report: &mut Report) {
    let heap = kmalloc();
    let mut row = Row::new("kmalloc-scarce", FAILURES);
    let most = zones().map(|zone| zone.frames()).sum();
    let mut blocks: Vec<PageBlock> = Vec::with_capacity(most);
    let mut held: Vec<NonNull<u8>> = Vec::with_capacity(FAILURES);
    let mut random = Random::new(7);
    for _ in 0..FAILURES {
        held.extend(heap.kmalloc(1 + random.below(2_048)));
    }
    let kfree = |start| {
        // SAFETY: allocated by this heap, freed once.
        unsafe { heap.kfree(Some(start)) };
    };
    held.drain(..).for_each(kfree);
    while let Ok(block) = pages().allocate(Order::ZERO) {
        blocks.push(block);
    }
    for _ in 0..FAILURES {
        held.extend(row.count(|| heap.kmalloc(1 + random.below(100_000))));
    }
    assert!(held.len() < FAILURES, "some fail");
    held.into_iter().for_each(kfree);
    for block in blocks {
        // SAFETY: from this source, and not used any more.
        unsafe { pages().free(block) };
    }
    report.add([row]);
}
