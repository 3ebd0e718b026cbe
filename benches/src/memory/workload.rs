//! Workloads for allocators of memory of any size, by name. [`crate::memory::collections`] has the
//! workloads that allocate through the standard library.
//!
//! Workloads that hold objects for a while write the first word of each, as a program would.

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::ptr::null_mut;

use testkit::Random;

use crate::measure::{CpuTime, LIMIT, Sample, cpu_time_of_two, mean, tail};
use crate::memory::requests::{allocate, free, layout, log_uniform, touch};
use crate::memory::server;
use crate::ring::Ring;

/// Number of operations whose mean time is measured.
const OPERATIONS: usize = 1_000_000;
/// Number of operations that are timed one by one, for the tail of the distribution.
const TAIL: usize = 50_000;
/// Number of allocations of a bulk.
const BULK: usize = 10_000;
/// The largest size in bytes of a vector that grows.
const GROWN_BYTES: usize = 256 << 10;
/// Number of vectors that grow in turn.
const GROWING: usize = 64;

/// The order in which a bulk is freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The allocation made last is freed first.
    Lifo,
    /// The allocation made first is freed first.
    Fifo,
    /// At random.
    Random,
}

/// A workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Allocates and frees this number of bytes again and again.
    Pair(usize),
    /// Holds this number of allocations of 16 to 2,048 bytes and replaces a random one; time per
    /// replacement.
    Actions(usize),
    /// Holds 100 allocations aligned to 64 bytes to 4 KiB and replaces a random one.
    Aligned,
    /// Grows a random one of 64 vectors by half, from 16 bytes to 256 KiB; time per `realloc`.
    ReallocGrow,
    /// Allocates zeroed memory of 16 bytes to 16 KiB and frees it.
    Zeroed,
    /// Makes 10,000 allocations of 8 to 512 bytes, then frees all; time per allocation.
    Bulk(Order),
    /// One thread allocates 8 to 512 bytes, another frees; CPU time per allocation.
    Handoff,
    /// Two threads serve requests and free some of each other's memory (`server.rs`); CPU time per
    /// buffer.
    Server,
}

impl Workload {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 16] = [
        Self::Pair(8),
        Self::Pair(64),
        Self::Pair(1024),
        Self::Pair(2048),
        Self::Pair(8192),
        Self::Pair(32768),
        Self::Actions(300),
        Self::Actions(20_000),
        Self::Aligned,
        Self::ReallocGrow,
        Self::Zeroed,
        Self::Bulk(Order::Lifo),
        Self::Bulk(Order::Fifo),
        Self::Bulk(Order::Random),
        Self::Handoff,
        Self::Server,
    ];

    /// Returns the name of the workload in tables and JSON.
    pub fn name(self) -> String {
        match self {
            Self::Pair(size) => format!("pair-{size}"),
            Self::Actions(300) => "actions-300".into(),
            Self::Actions(held) => format!("actions-{}k", held / 1000),
            Self::Aligned => "aligned".into(),
            Self::ReallocGrow => "realloc-grow".into(),
            Self::Zeroed => "zeroed".into(),
            Self::Bulk(Order::Lifo) => "bulk-lifo".into(),
            Self::Bulk(Order::Fifo) => "bulk-fifo".into(),
            Self::Bulk(Order::Random) => "bulk-random".into(),
            Self::Handoff => "handoff-2t".into(),
            Self::Server => "server-2t".into(),
        }
    }

    /// Returns whether the workload also runs on the floor, which does nothing and so measures the
    /// harness. It does not if the allocator must copy or zero memory.
    pub fn has_floor(self) -> bool {
        !matches!(self, Self::ReallocGrow | Self::Zeroed)
    }
}

/// Runs one round of `workload`.
pub fn run<A: GlobalAlloc + Sync>(allocator: &A, workload: Workload) -> Sample {
    match workload {
        Workload::Pair(size) => loop_of(OPERATIONS, |_| {
            let layout = layout(size, 8);
            free(allocator, allocate(allocator, layout), layout);
        }),
        Workload::Actions(held) => {
            replace(allocator, held, |random| layout(log_uniform(random, 16, 2048), 8))
        }
        Workload::Aligned => replace(allocator, 100, |random| {
            let alignment = 64 << random.below(7);
            layout(1 + random.below(2 * alignment), alignment)
        }),
        Workload::ReallocGrow => realloc_grow(allocator),
        Workload::Zeroed => zeroed(allocator),
        Workload::Bulk(order) => bulk(allocator, order),
        Workload::Handoff => mean_only(handoff(allocator)),
        Workload::Server => mean_only(server::run(allocator)),
    }
}

fn loop_of(count: usize, mut operation: impl FnMut(usize)) -> Sample {
    let (mean_ns, _) = mean(count, &mut operation);
    let (p999_ns, max_ns) = tail(TAIL, &mut operation);
    Sample { mean_ns, p999_ns, max_ns }
}

fn replace<A: GlobalAlloc>(
    allocator: &A,
    held: usize,
    choose: impl Fn(&mut Random) -> Layout,
) -> Sample {
    let mut random = Random::new(17);
    let mut slots: Vec<(*mut u8, Layout)> = (0..held)
        .map(|_| {
            let layout = choose(&mut random);
            (allocate(allocator, layout), layout)
        })
        .collect();
    let sample = loop_of(OPERATIONS, |_| {
        let slot = &mut slots[random.below(held)];
        free(allocator, slot.0, slot.1);
        slot.1 = choose(&mut random);
        slot.0 = allocate(allocator, slot.1);
        touch_if_large(slot.0, slot.1);
    });
    slots.into_iter().for_each(|(start, layout)| free(allocator, start, layout));
    sample
}

#[inline]
fn touch_if_large(start: *mut u8, layout: Layout) {
    if layout.size() >= 8 {
        touch(start);
    }
}

/// Grows vectors that lie between one another, so that few of them can grow in place, as in a
/// program.
fn realloc_grow<A: GlobalAlloc>(allocator: &A) -> Sample {
    const FIRST_BYTES: usize = 16;
    let mut random = Random::new(19);
    let new = || allocate(allocator, layout(FIRST_BYTES, 8));
    let mut vectors: Vec<(*mut u8, usize)> = (0..GROWING).map(|_| (new(), FIRST_BYTES)).collect();
    let sample = loop_of(OPERATIONS / 10, |_| {
        let (start, size) = &mut vectors[random.below(GROWING)];
        let larger = *size + *size / 2;
        if larger > GROWN_BYTES {
            free(allocator, *start, layout(*size, 8));
            (*start, *size) = (new(), FIRST_BYTES);
            return;
        }
        // SAFETY: allocated with this layout, and the old address is not used again.
        let moved = unsafe { allocator.realloc(*start, layout(*size, 8), larger) };
        assert!(!moved.is_null(), "the workload uses little memory");
        (*start, *size) = (moved, larger);
        touch(moved);
    });
    vectors.into_iter().for_each(|(start, size)| free(allocator, start, layout(size, 8)));
    sample
}

fn zeroed<A: GlobalAlloc>(allocator: &A) -> Sample {
    let mut random = Random::new(23);
    loop_of(OPERATIONS / 4, |_| {
        let layout = layout(log_uniform(&mut random, 16, 16 << 10), 8);
        // SAFETY: not empty.
        let start = black_box(unsafe { allocator.alloc_zeroed(layout) });
        assert!(!start.is_null(), "the workload uses little memory");
        // SAFETY: just allocated, with at least 16 bytes, which are zero.
        let first = unsafe { start.cast::<u64>().read() };
        assert_eq!(first, 0);
        touch(start);
        free(allocator, start, layout);
    })
}

fn bulk<A: GlobalAlloc>(allocator: &A, order: Order) -> Sample {
    let mut random = Random::new(29);
    let layouts: Vec<Layout> =
        (0..BULK).map(|_| layout(log_uniform(&mut random, 8, 512), 8)).collect();
    let mut freeing: Vec<usize> = (0..BULK).collect();
    match order {
        Order::Lifo => freeing.reverse(),
        Order::Fifo => {}
        Order::Random => (1..BULK).for_each(|at| freeing.swap(at, random.below(at + 1))),
    }
    let mut held = vec![null_mut(); BULK];
    let mut one_bulk = |_| {
        for (place, layout) in held.iter_mut().zip(&layouts) {
            *place = allocate(allocator, *layout);
            touch(*place);
        }
        for index in &freeing {
            free(allocator, held[*index], layouts[*index]);
        }
    };
    // The first bulk is not counted: the allocator gets its memory from the system.
    one_bulk(0);
    let start = CpuTime::now();
    let mut bulks = 0;
    while bulks < 30 && (bulks == 0 || start.elapsed_ns() < LIMIT.as_nanos() as f64) {
        one_bulk(bulks);
        bulks += 1;
    }
    let mean_ns = start.elapsed_ns() / (bulks * BULK) as f64;
    let (p999_ns, max_ns) = tail(BULK, |index| held[index] = allocate(allocator, layouts[index]));
    freeing.iter().for_each(|index| free(allocator, held[*index], layouts[*index]));
    Sample { mean_ns, p999_ns, max_ns }
}

fn handoff<A: GlobalAlloc + Sync>(allocator: &A) -> f64 {
    const COUNT: usize = OPERATIONS / 4;
    let ring = Ring::new();
    // Both sides draw the same sizes.
    let sizes = || {
        let mut random = Random::new(31);
        move || layout(log_uniform(&mut random, 8, 512), 8)
    };
    cpu_time_of_two(|which| {
        let mut next = sizes();
        match which {
            0 => ring.produce(COUNT, || {
                let start = allocate(allocator, next());
                touch(start);
                start
            }),
            _ => ring.consume(COUNT, |start| free(allocator, start, next())),
        }
        COUNT / 2
    })
}

/// Returns a sample without a tail, for workloads of two threads: an operation timed by itself
/// would include the time for which the other thread is interrupted.
fn mean_only(mean_ns: f64) -> Sample {
    Sample { mean_ns, p999_ns: f64::NAN, max_ns: f64::NAN }
}
