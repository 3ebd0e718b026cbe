//! Instructions of each operation, printed one a line: `count NAME NUMBER`.
//!
//! QEMU's `-icount shift=0` advances the time stamp by one for each instruction. Without it the
//! numbers are cycles of the host's clock, and mean nothing.

use alloc::vec::Vec;

use ostd::arch::read_tsc;
use ostd::early_println;
use ostd::mm::FrameAllocOptions;
use ostd::prelude::ktest;

/// Prints how many instructions one of the `operations` in `body` takes.
fn count(name: &str, operations: u64, body: impl FnOnce()) {
    let start = read_tsc();
    body();
    let each = (read_tsc() - start) / operations;
    early_println!("\ncount {} {}", name, each);
}

/// Frames are not zeroed: that would hide the allocator.
fn options() -> FrameAllocOptions {
    let mut options = FrameAllocOptions::new();
    options.zeroed(false);
    options
}

#[ktest]
fn instructions_of_frames() {
    let options = options();
    count("frame", 20_000, || {
        for _ in 0..20_000 {
            drop(options.alloc_frame().expect("room"));
        }
    });
    let mut held = Vec::with_capacity(1000);
    count("thousand", 20_000, || {
        for _ in 0..20 {
            held.extend((0..1000).map(|_| options.alloc_frame().expect("room")));
            held.clear();
        }
    });
}

#[ktest]
fn instructions_of_segments() {
    let options = options();
    for (name, pages, rounds) in [("segment-of-10", 10, 2_000), ("segment-of-512", 512, 50)] {
        count(name, rounds, || {
            for _ in 0..rounds {
                drop(options.alloc_segment(pages).expect("room"));
            }
        });
    }
}
