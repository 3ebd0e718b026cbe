//! Blocks, runs and bulk calls of the buddy, while there is enough free memory.

use page_frame::{FrameNumber, FrameRange, Order, PageBlock, PageResize, PageSource};

use crate::heap::{Frames, zones};
use crate::longest::history::{Length, history};
use crate::longest::row::{Report, Row};

/// Blocks of a bulk call.
const MANY: usize = 64;
/// Frames that are allocated together and freed alone.
const EACH: usize = 100;
/// Maximum number of pages of a run.
const RUN: usize = 512;

pub(super) fn run(report: &mut Report) {
    let zone = zones().next_back().expect("there is memory");
    let length = |held, rounds| Length { held, rounds };
    blocks(report, zone, ["page-allocate", "page-free"], length(4_000, 8), [0, 4]);
    blocks(report, zone, ["page-3-allocate", "page-3-free"], length(4_000, 16), [3, 4]);
    blocks(report, zone, ["page-6-allocate", "page-6-free"], length(500, 16), [6, 7]);
    blocks(report, zone, ["page-9-allocate", "page-9-free"], length(100, 50), [9, 10]);
    blocks(report, zone, ["page-12-allocate", "page-12-free"], length(12, 300), [12, 13]);
    bulk(report, zone);
    segments(report, zone);
    runs(report, zone);
}

/// Runs a history of blocks of random orders from `from` to `to` (excluded).
fn blocks(
    report: &mut Report,
    zone: &Frames,
    names: [&'static str; 2],
    length: Length,
    [from, to]: [usize; 2],
) {
    let rows = history(
        names,
        length,
        || _ = zone.drain(),
        |random| zone.allocate(order((from + random.below(to - from)) as u8)).ok(),
        // SAFETY: a block of this zone, freed once.
        |block: PageBlock| unsafe { zone.free(block) },
    );
    report.add(rows);
}

fn bulk(report: &mut Report, zone: &Frames) {
    let rows = history(
        ["page-many-allocate", "page-many-free"],
        Length { held: 200, rounds: 8 },
        || _ = zone.drain(),
        |_| {
            let mut blocks = [FrameNumber::default(); MANY];
            (zone.allocate_many(Order::ZERO, &mut blocks) == MANY).then_some(blocks)
        },
        |blocks: [FrameNumber; MANY]| {
            // SAFETY: allocated by number above, and not used any more.
            let freed = unsafe { zone.free_many(Order::ZERO, &blocks) };
            freed.expect("each of them was allocated");
        },
    );
    report.add(rows);
}

fn segments(report: &mut Report, zone: &Frames) {
    let rows = history(
        ["page-each-allocate", "page-each-free"],
        Length { held: 200, rounds: 8 },
        || _ = zone.drain(),
        |_| zone.allocate_each(EACH, Order::ZERO).ok(),
        |first: FrameNumber| {
            let range = FrameRange::new(first, FrameNumber::new(first.get() + EACH));
            // SAFETY: allocated by number above, and not used any more.
            unsafe { zone.free_each(range) }.expect("each of them was allocated");
        },
    );
    report.add(rows);
}

fn runs(report: &mut Report, zone: &Frames) {
    let mut resizes = Row::new("run-resize", 15_000);
    let mut number = 0;
    let rows = history(
        ["run-allocate", "run-free"],
        Length { held: 100, rounds: 60 },
        || _ = zone.drain(),
        |random| {
            let run = zone.allocate_run(1 + random.below(RUN), Order::ZERO).ok()?;
            Some((run.start(), run.pages(), 1 + random.below(RUN)))
        },
        |(start, mut pages, new)| {
            number += 1;
            if number % 2 == 0 {
                // SAFETY: allocated above, and nothing refers into it.
                let resize = || unsafe { zone.resize_run(start, pages, new) };
                if resizes.count_if(|resized| *resized, resize) {
                    pages = new;
                }
            }
            // SAFETY: a run of this zone, freed once.
            unsafe { zone.free_run(start, pages) };
        },
    );
    report.add(rows);
    report.add([resizes]);
}

pub(super) fn order(order: u8) -> Order {
    Order::new(order).expect("at most the largest")
}
