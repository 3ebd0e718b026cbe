//! Counts instructions per operation. QEMU runs with an instruction counter, in which one
//! instruction takes 32 ticks of the time-stamp counter.
//!
//! Question: how many instructions does an operation take in a kernel, and how many of them are
//! locked, beside the figures of Linux 6.1, 6.12 and 7.3 (as Debian builds them, with mitigations
//! and zeroing on allocation off)? Interrupts are off in the loop. Each row is the minimum and the
//! median of 31 rounds of 2,000 operations, less an empty loop. Single steps over one warm
//! operation count the locked instructions.

use core::alloc::Layout;
use core::hint::black_box;
use core::ptr::NonNull;

use kmalloc::Kmalloc;
use page_frame::{Order, PageBlock, PageSource};
use slab::{Cache, Hardened, Hardening};

use crate::console::print;
use crate::cpus::KernelCpu;
use crate::heap::{Source, hardened_kmalloc, kmalloc, zones};
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
        "{:<14} {:>6} {:>7} {:>7} {:>9} {:>7}  Linux 6.1 / 6.12 / 7.3",
        "instructions", "least", "median", "locked", "hardened", "locked"
    );
    let heap = kmalloc();
    let hardened = &hardened_kmalloc();
    let row = Row { name: "pair-const-64", target: 45, linux: "235 / 170 / 182", parts: 1 };
    row.print(Some(&mut move || constant_pair(hardened)), move || constant_pair(heap));
    let row = Row { name: "pair-run-64", target: 55, linux: "262 / 183 / 202", parts: 1 };
    row.print(Some(&mut move || pair_of(hardened, unknown(64))), move || {
        pair_of(heap, unknown(64))
    });
    caches();
    pages();
}

#[inline(always)]
fn constant_pair<K: Hardening>(heap: &Kmalloc<(Source, KernelCpu), K>) {
    pair_of(heap, 64);
}

#[inline(always)]
fn pair_of<K: Hardening>(heap: &Kmalloc<(Source, KernelCpu), K>, bytes: usize) {
    if let Ok(start) = heap.kmalloc(bytes) {
        // SAFETY: the object of this pair.
        unsafe { heap.kfree(Some(used(start))) };
    }
}

fn caches() {
    let layout = Layout::from_size_align(192, 8).expect("a layout");
    let registry = kmalloc().registry();
    let cache = registry.cache("bench", layout).build().expect("room");
    let hardened = registry.cache("bench-hardened", layout).hardening::<Hardened>();
    let hardened = hardened.build().expect("room");
    let row = Row { name: "cache-pair-192", target: 40, linux: "217 / 186 / 180", parts: 1 };
    let (cache, hardened) = (&cache, &hardened);
    row.print(Some(&mut move || pair(hardened)), move || pair(cache));
    let mut objects = [NonNull::dangling(); 16];
    let mut others = objects;
    let row = Row { name: "bulk16-192", target: 15, linux: "100 / 111 / 72", parts: 16 };
    row.print(Some(&mut || bulk(hardened, &mut others)), || bulk(cache, &mut objects));
    let mut objects = [None; 1000];
    let mut others = objects;
    let row = Row { name: "thousand-192", target: 100, linux: "423 / 415 / 322", parts: 1000 };
    row.print(Some(&mut || thousand(hardened, &mut others)), || thousand(cache, &mut objects));
}

fn pair<K: Hardening>(cache: &Cache<(Source, KernelCpu), K>) {
    if let Ok(object) = cache.allocate() {
        // SAFETY: the object of this pair.
        unsafe { cache.free(used(object)) };
    }
}

fn bulk<K: Hardening>(cache: &Cache<(Source, KernelCpu), K>, objects: &mut [NonNull<u8>; 16]) {
    let had = cache.allocate_many(black_box(objects));
    // SAFETY: the first `had` places hold objects of this cache.
    unsafe { cache.free_many(&black_box(&objects)[..had]) };
}

fn thousand<K: Hardening>(
    cache: &Cache<(Source, KernelCpu), K>,
    objects: &mut [Option<NonNull<u8>>; 1000],
) {
    objects.iter_mut().for_each(|place| *place = cache.allocate().ok());
    for object in objects.iter_mut().filter_map(Option::take) {
        // SAFETY: one of the thousand.
        unsafe { cache.free(object) };
    }
}

fn pages() {
    let row = Row { name: "page-0", target: 50, linux: "718 to 988", parts: 1 };
    row.print(None, page_pair::<0>());
    let row = Row { name: "page-3", target: 90, linux: "906 to 1183", parts: 1 };
    row.print(None, page_pair::<3>());
    let row = Row { name: "page-9", target: 90, linux: "5524 to 9983", parts: 1 };
    row.print(None, page_pair::<9>());
}

/// Returns what allocates and frees a block of order `ORDER`, which the compiler knows.
fn page_pair<const ORDER: u8>() -> impl FnMut() {
    let zone = zones().next_back().expect("there is memory");
    move || {
        if let Ok(block) = zone.allocate(const { Order::new(ORDER).expect("small") }) {
            let (start, order) = block.into_raw();
            // SAFETY: the block that was taken apart.
            let block = unsafe { PageBlock::from_raw(used(start), order, false) };
            // SAFETY: the block of this pair, from this zone.
            unsafe { zone.free(block) };
        }
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

/// A row of the table.
struct Row {
    name: &'static str,
    /// The target in instructions.
    target: u64,
    linux: &'static str,
    /// The number of operations in one call of the measured function.
    parts: u64,
}

impl Row {
    /// Measures `operation`, and the same with the checks of the hardened preset where there are
    /// any.
    fn print(&self, hardened: Option<&mut dyn FnMut()>, operation: impl FnMut()) {
        let Self { name, target, linux, .. } = *self;
        let (least, median, locked) = self.measure(operation);
        let checked = hardened.map(|operation| self.measure(operation));
        match checked {
            Some((_, checked, checked_locked)) => print!(
                "{name:<14} {least:>6} {median:>7} {locked:>7.2} {checked:>9} {checked_locked:>7.2}  {linux}"
            ),
            None => print!(
                "{name:<14} {least:>6} {median:>7} {locked:>7.2} {:>9} {:>7}  {linux}",
                "as is", ""
            ),
        }
        print!("bench,{name},{median},{target}");
    }

    /// Returns least and median instructions of an operation, and its locked ones.
    fn measure<F: FnMut()>(&self, operation: F) -> (u64, u64, f64) {
        let repeats = (OPERATIONS / self.parts).max(1);
        let (_, mut operation) = time_of(repeats, operation);
        let (floor, _) = time_of(repeats, || ());
        let mut rounds = [0; ROUNDS];
        for round in &mut rounds {
            (*round, operation) = time_of(repeats, operation);
        }
        rounds.sort_unstable();
        let per = |ticks: u64| ticks.saturating_sub(floor) / TICKS / (repeats * self.parts);
        let locked = step::count(|| _ = time_of(1, operation)).locked as f64 / self.parts as f64;
        (per(rounds[0]), per(rounds[ROUNDS / 2]), locked)
    }
}

/// Hides from the compiler what `size` is, at the cost of the instruction that loads it.
fn unknown(mut size: usize) -> usize {
    // SAFETY: does nothing, and the compiler does not know.
    unsafe { core::arch::asm!("/* {0} */", inout(reg) size, options(nomem, nostack)) };
    size
}

/// Lets the compiler believe that somebody uses what lies at `start`, at no instruction's cost.
fn used(start: NonNull<u8>) -> NonNull<u8> {
    let mut start = start.as_ptr();
    #[expect(clippy::pointers_in_nomem_asm_block, reason = "nothing is read or written")]
    // SAFETY: does nothing, and the compiler does not know.
    unsafe {
        core::arch::asm!("/* {0} */", inout(reg) start, options(nomem, nostack))
    };
    // SAFETY: what it was.
    unsafe { NonNull::new_unchecked(start) }
}

/// Returns the ticks of `repeats` operations, and the operation. It is compiled into the loop, as
/// into any caller, and comes by value, so that what it refers to lies in registers.
#[inline(never)]
fn time_of<F: FnMut()>(repeats: u64, mut operation: F) -> (u64, F) {
    let start = time();
    for round in 0..repeats {
        operation();
        black_box(round);
    }
    (time() - start, operation)
}
