//! Memory of any size.

use core::alloc::Layout;
use core::ptr::NonNull;

use kmalloc::{ClassIndex, LARGEST};

use crate::heap::{hardened_kmalloc, kmalloc};
use crate::held::Random;
use crate::longest::history::{Length, history};
use crate::longest::row::{Report, Row};

/// Maximum number of bytes of a small request.
const SMALL: usize = 2_048;
/// Maximum number of bytes of a large request.
const LARGE: usize = 512 << 10;
const MANY: Length = Length { held: 20_000, rounds: 4 };
const FEW: Length = Length { held: 200, rounds: 40 };

pub(super) fn run(report: &mut Report) {
    let heap = kmalloc();
    let shrink = || _ = heap.shrink_all();
    let small = |random: &mut Random| 1 + random.below(SMALL);
    let large = |random: &mut Random| LARGEST + 1 + random.below(LARGE - LARGEST);
    // SAFETY: allocated by this heap, freed once.
    let free = |start: NonNull<u8>| unsafe { heap.kfree(Some(start)) };
    first_requests(report);
    let names = ["kmalloc", "kfree"];
    report.add(history(names, MANY, shrink, |random| heap.kmalloc(small(random)).ok(), free));
    let names = ["kmalloc-large", "kfree-large"];
    report.add(history(names, FEW, shrink, |random| heap.kmalloc(large(random)).ok(), free));
    let names = ["kzalloc", "kfree"];
    let [row, _] = history(names, MANY, shrink, |random| heap.kzalloc(small(random)).ok(), free);
    report.add([row]);
    layouts(report);
    hardened(report);
    resizes(report, "krealloc", small, 40_000);
    resizes(report, "krealloc-large", large, 2_000);
}

/// The first request of each class builds its cache.
fn first_requests(report: &mut Report) {
    let heap = kmalloc();
    let mut row = Row::new("kmalloc-first", ClassIndex::COUNT);
    for class in ClassIndex::all() {
        let start = row.count(|| heap.kmalloc(class.size())).expect("room");
        // SAFETY: allocated above, freed once.
        unsafe { heap.kfree(Some(start)) };
    }
    report.add([row]);
}

/// Allocates and frees by layout.
fn layouts(report: &mut Report) {
    let heap = kmalloc();
    let rows = history(
        ["allocate", "free-sized"],
        MANY,
        || _ = heap.shrink_all(),
        |random| {
            let (bytes, alignment) = (1 + random.below(SMALL), 8 << random.below(4));
            let layout = Layout::from_size_align(bytes, alignment).expect("a layout");
            Some((heap.allocate(layout).ok()?, layout))
        },
        // SAFETY: allocated by this heap for the layout, freed once.
        |(start, layout)| unsafe { heap.free_sized(start, layout) },
    );
    report.add(rows);
}

fn hardened(report: &mut Report) {
    let heap = &hardened_kmalloc();
    let rows = history(
        ["hardened-kmalloc", "hardened-kfree"],
        MANY,
        || _ = heap.shrink_all(),
        |random| heap.kmalloc(1 + random.below(SMALL)).ok(),
        // SAFETY: allocated by this heap, freed once.
        |start: NonNull<u8>| unsafe { heap.kfree(Some(start)) },
    );
    report.add(rows);
}

/// Resizes allocations of sizes by `size`, `count` times.
fn resizes(
    report: &mut Report,
    name: &'static str,
    size: impl Fn(&mut Random) -> usize,
    count: usize,
) {
    const HELD: usize = 100;
    let heap = kmalloc();
    let mut row = Row::new(name, count);
    let mut random = Random::new(7);
    let mut held = [None; HELD];
    for _ in 0..count {
        let place = &mut held[random.below(HELD)];
        let bytes = size(&mut random);
        // SAFETY: allocated by this heap, and only the result is used.
        let resized = row.count(|| unsafe { heap.krealloc(*place, bytes) });
        *place = Some(resized.expect("room"));
    }
    for start in held {
        // SAFETY: allocated by this heap, freed once.
        unsafe { heap.kfree(start) };
    }
    report.add([row]);
}
