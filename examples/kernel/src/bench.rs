//! Instructions per operation, counted: QEMU is told to let one instruction take 32 ticks of the time-stamp counter.
//!
//! Question: how many instructions does an operation take in a kernel, and how many of them are locked, beside the figures of
//! Linux 6.1, 6.12 and 7.3 (as Debian builds them, with mitigations and zeroing on allocation off)? Interrupts are off in the
//! loop; least and median of 31 rounds of 2,000 operations, less an empty loop. Locked instructions are counted by single
//! steps over one warm operation.

use core::alloc::Layout;
use core::hint::black_box;
use core::ptr::NonNull;

use page_frame::{Order, PageSource};

use crate::console::print;
use crate::heap::{kmalloc, zones};
use crate::machine::time;
use crate::step;

const ROUNDS: usize = 31;
const OPERATIONS: u64 = 2_000;
/// Ticks of one instruction, as `-icount shift=5` says.
const TICKS: u64 = 32;

/// Measures every row.
pub(crate) fn run() {
    calibrate();
    print!(
        "{:<14} {:>6} {:>7} {:>7}  Linux 6.1 / 6.12 / 7.3",
        "instructions", "least", "median", "locked"
    );
    let heap = kmalloc();
    row("pair-const-64", 45, "235 / 170 / 182", 1, || {
        let start = heap.kmalloc(64);
        // SAFETY: allocated above.
        unsafe { heap.kfree(black_box(start).ok()) };
    });
    row("pair-run-64", 55, "262 / 183 / 202", 1, || {
        let start = heap.kmalloc(black_box(64));
        // SAFETY: allocated above.
        unsafe { heap.kfree(black_box(start).ok()) };
    });
    let layout = Layout::from_size_align(192, 8).expect("a layout");
    let cache = heap.registry().cache("bench", layout).build().expect("room");
    row("cache-pair-192", 40, "217 / 186 / 180", 1, || {
        if let Ok(object) = black_box(cache.allocate()) {
            // SAFETY: from this cache.
            unsafe { cache.free(object) };
        }
    });
    let mut objects = [None::<NonNull<u8>>; 1000];
    row("thousand-192", 100, "423 / 415 / 322", 1000, || {
        objects.iter_mut().for_each(|place| *place = cache.allocate().ok());
        for object in objects.iter_mut().filter_map(Option::take) {
            // SAFETY: from this cache.
            unsafe { cache.free(object) };
        }
    });
    let zone = zones().next_back().expect("there is memory");
    for (name, order, target, linux) in [
        ("page-0", 0, 50, "718 to 988"),
        ("page-3", 3, 90, "906 to 1183"),
        ("page-9", 9, 90, "5524 to 9983"),
    ] {
        let order = Order::new(order).expect("small");
        row(name, target, linux, 1, || {
            if let Ok(block) = black_box(zone.allocate(order)) {
                // SAFETY: ours.
                unsafe { zone.free(block) };
            }
        });
    }
}

/// Checks that the counter counts instructions: a loop of known length.
fn calibrate() {
    let start = time();
    // SAFETY: counts down a register.
    unsafe {
        core::arch::asm!("2: dec {0}", "jnz 2b", inout(reg) 100_000_u64 => _, options(nomem, nostack))
    };
    let ticks = time() - start;
    let per_instruction = ticks as f64 / 200_000.0;
    print!(
        "one instruction takes {per_instruction:.2} ticks; 32 are expected under -icount shift=5"
    );
}

/// Measures `operation`, which is `parts` operations in one.
fn row(name: &str, target: u64, linux: &str, parts: u64, mut operation: impl FnMut()) {
    let repeats = (OPERATIONS / parts).max(1);
    (0..repeats).for_each(|_| operation());
    let floor = measure(repeats, || ());
    let mut rounds = [0; ROUNDS];
    rounds.iter_mut().for_each(|round| *round = measure(repeats, &mut operation));
    rounds.sort_unstable();
    let per = |ticks: u64| ticks.saturating_sub(floor) / TICKS / (repeats * parts);
    let (least, median) = (per(rounds[0]), per(rounds[ROUNDS / 2]));
    let locked = step::count(&mut operation).locked as f64 / parts as f64;
    print!("{name:<14} {least:>6} {median:>7} {locked:>7.2}  {linux}");
    print!("bench,{name},{median},{target}");
}

#[inline(never)]
fn measure(repeats: u64, mut operation: impl FnMut()) -> u64 {
    let start = time();
    for round in 0..repeats {
        operation();
        black_box(round);
    }
    time() - start
}
