//! Blocks made by moving others, in a memory most of which is in use.

use alloc::vec;
use alloc::vec::Vec;

use buddy::{Relocated, Relocation};
use page_frame::{FrameNumber, Order};

use crate::heap::{Frames, zones};
use crate::held::Random;
use crate::longest::pages::order;
use crate::longest::row::{Report, Row};

/// The share of frames that are free: 1/8.
const FREE: usize = 8;
const BLOCKS: usize = 40;
/// The share of blocks whose owners refuse each move: 1/5.
const REFUSED: usize = 5;

pub(super) fn run(report: &mut Report) {
    let zone = zones().next_back().expect("there is memory");
    compact(report, zone, "page-compact-3", order(3));
    compact(report, zone, "page-compact-9", order(9));
}

fn compact(report: &mut Report, zone: &Frames, name: &'static str, order: Order) {
    let mut row = Row::new(name, BLOCKS);
    let mut random = Random::new(7);
    let ends = zone.blocks().map(|block| block.start.get() + block.frames);
    let end = ends.max().expect("there are frames");
    // For each frame whether this function owns it.
    let mut owned = vec![false; end];
    let mut made = Vec::with_capacity(BLOCKS);
    while let Ok(frame) = zone.allocate_frames(Order::ZERO) {
        owned[frame.get()] = true;
    }
    let free = |frame: usize, order| {
        // SAFETY: allocated by number in this function, and not used any more.
        unsafe { zone.free_frames(FrameNumber::new(frame), order) }.expect("it was allocated");
    };
    for (frame, is_owned) in owned.iter_mut().enumerate() {
        if *is_owned && random.below(FREE) == 0 {
            *is_owned = false;
            free(frame, Order::ZERO);
        }
    }
    zone.drain();
    for number in 0..BLOCKS {
        let relocate = |Relocation { from, to, .. }: Relocation| {
            if number % REFUSED == 0 || !owned[from.get()] {
                return Relocated::Refused;
            }
            owned[from.get()] = false;
            owned[to.get()] = true;
            Relocated::Moved
        };
        // SAFETY: clause 1: it moves only frames that this function owns, and whose memory nobody
        // uses. Clause 2: nobody uses the memory of any.
        let block = row.count(|| unsafe { zone.allocate_compacting(order, relocate) });
        made.extend(block.ok());
    }
    assert!(made.len() > BLOCKS / 4, "{name}: blocks were made");
    made.into_iter().for_each(|block| free(block.get(), order));
    let frames = owned.iter().enumerate().filter(|(_, is_owned)| **is_owned);
    frames.for_each(|(frame, _)| free(frame, Order::ZERO));
    zone.drain();
    report.add([row]);
}
