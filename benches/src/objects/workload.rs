//! Workloads for object allocators, by name.
//!
//! No workload writes into an object, so only the allocator's own writes are measured.

use std::alloc::Layout;
use std::hint::black_box;
use std::ptr::NonNull;

use testkit::Random;

use crate::measure::{LIMIT, Sample, cpu_time_of_two, mean, tail};
use crate::objects::allocator::Objects;
use crate::ring::Ring;

/// Objects of a bulk.
const BULK: usize = 10_000;
/// Operations of a loop over pairs.
const PAIRS: usize = 2_000_000;
/// Objects that go from one thread to another.
const REMOTE: usize = 1_000_000;

/// A workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Allocates and frees the same object of this size in bytes, hot.
    Pair(usize),
    /// Allocates 10,000 objects and frees the last first; time per object.
    BulkLifo(usize),
    /// Allocates 10,000 objects and frees them in random order; time per object.
    BulkRandom(usize),
    /// Two threads, each with an object of its own as in `Pair`; CPU time.
    TwoThreads(usize),
    /// One thread allocates, another frees; CPU time per object, that of the ring between them
    /// included.
    Remote(usize),
}

impl Workload {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 8] = [
        Self::Pair(64),
        Self::Pair(256),
        Self::Pair(1024),
        Self::BulkLifo(64),
        Self::BulkRandom(64),
        Self::BulkLifo(1024),
        Self::TwoThreads(64),
        Self::Remote(64),
    ];

    /// Returns the name in tables and JSON.
    pub fn name(self) -> String {
        match self {
            Self::Pair(size) => format!("pair-{size}"),
            Self::BulkLifo(size) => format!("bulk-{size}-lifo"),
            Self::BulkRandom(size) => format!("bulk-{size}-random"),
            Self::TwoThreads(size) => format!("two-threads-pair-{size}"),
            Self::Remote(size) => format!("remote-{size}"),
        }
    }

    /// Returns the layout of the objects.
    ///
    /// # Panics
    /// For sizes that no workload has.
    pub fn layout(self) -> Layout {
        let (Self::Pair(size)
        | Self::BulkLifo(size)
        | Self::BulkRandom(size)
        | Self::TwoThreads(size)
        | Self::Remote(size)) = self;
        Layout::from_size_align(size, 8).expect("a small size")
    }
}

/// Runs one round of `workload` on an allocator of objects of its layout.
pub fn run<O: Objects>(objects: &O, workload: Workload) -> Sample {
    match workload {
        Workload::Pair(_) => pair(objects),
        Workload::BulkLifo(_) => bulk(objects, <[_]>::reverse),
        Workload::BulkRandom(_) => bulk(objects, shuffle),
        Workload::TwoThreads(_) => cpu_time_alone(|_| {
            (0..PAIRS / 2).for_each(|_| one_pair(objects));
            PAIRS / 2
        }),
        Workload::Remote(_) => remote(objects),
    }
}

#[inline(always)]
fn one_pair<O: Objects>(objects: &O) {
    let object = objects.allocate();
    // SAFETY: just allocated, and not used.
    unsafe { objects.free(black_box(object)) };
}

fn pair<O: Objects>(objects: &O) -> Sample {
    let (mean_ns, _) = mean(PAIRS, |_| one_pair(objects));
    let (p999_ns, max_ns) = tail(100_000, |_| one_pair(objects));
    Sample { mean_ns, p999_ns, max_ns }
}

fn bulk<O: Objects>(objects: &O, arrange: impl Fn(&mut [NonNull<u8>])) -> Sample {
    let mut held = Vec::with_capacity(BULK);
    let (mut spent, mut done) = (0.0, 0);
    // The first bulk brings memory in and is not counted.
    for round in 0..50 {
        let (allocate_ns, _) = mean(BULK, |_| held.push(objects.allocate()));
        arrange(&mut held);
        // `mean` may stop early on a slow machine: after fewer objects, and before all are freed.
        let (free_ns, freed) = mean(held.len(), |index| free(objects, held[index]));
        held.drain(..freed).for_each(drop);
        held.drain(..).for_each(|object| free(objects, object));
        if round > 0 {
            (spent, done) = (spent + allocate_ns + free_ns, done + 1);
        }
        if spent * BULK as f64 > LIMIT.as_nanos() as f64 {
            break;
        }
    }
    let (allocate_p999, allocate_max) = tail(BULK, |_| held.push(objects.allocate()));
    arrange(&mut held);
    let (free_p999, free_max) = tail(BULK, |index| free(objects, held[index]));
    Sample {
        mean_ns: spent / f64::from(done.max(1)),
        p999_ns: allocate_p999.max(free_p999),
        max_ns: allocate_max.max(free_max),
    }
}

fn free<O: Objects>(objects: &O, object: NonNull<u8>) {
    // SAFETY: the workloads free each object that they hold once.
    unsafe { objects.free(object) };
}

fn remote<O: Objects>(objects: &O) -> Sample {
    let ring = Ring::new();
    cpu_time_alone(|which| {
        match which {
            0 => ring.produce(REMOTE, || objects.allocate().as_ptr()),
            _ => ring.consume(REMOTE, |object| {
                free(objects, NonNull::new(object).expect("the producer sends objects"));
            }),
        }
        // The two threads together handle each object once.
        REMOTE / 2
    })
}

/// Measures the mean CPU time of two threads, without the longest operation: the clock of one
/// thread would include the moments in which it waits for the other.
fn cpu_time_alone(work: impl Fn(usize) -> usize + Sync) -> Sample {
    Sample { mean_ns: cpu_time_of_two(work), p999_ns: f64::NAN, max_ns: f64::NAN }
}

fn shuffle<T>(items: &mut [T]) {
    let mut random = Random::new(11);
    (1..items.len()).for_each(|index| items.swap(index, random.below(index + 1)));
}
