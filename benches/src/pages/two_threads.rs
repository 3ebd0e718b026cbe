//! Workloads of two threads. Times are CPU times of the threads: they include spinning, and exclude
//! waiting for a core.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use page_frame::Order;
use testkit::Random;

use crate::measure::Sample;
use crate::pages::allocator::SharedPages;
use crate::pages::cpu_time::{cpu_ns, mean};
use crate::pages::workload::{Workload, mixed_order, only, shuffle};

/// Operations of each thread in the rows of pairs.
const PAIRS: usize = 1_000_000;
/// Operations of each thread in the mixed row.
const MIXED: usize = 300_000;
/// Blocks that each thread of the mixed row holds.
const HELD: usize = 4096;
/// Frames that pass from thread to thread.
const PASSED: usize = 1_000_000;
/// Maximum number of frames in the ring.
const RING: usize = 1024;

/// Runs one round of `workload`, one of those with two threads, on a fresh allocator of `frames`
/// frames.
pub(crate) fn run<S: SharedPages>(pages: &S, workload: Workload, frames: usize) -> Option<Sample> {
    let value = match workload {
        Workload::ProducerConsumer => producer_consumer(pages),
        Workload::TwoPair => mean_of_two(|_| pair(pages)),
        Workload::TwoBulk => mean_of_two(|seed| bulk(pages, frames / 4, seed)),
        Workload::TwoMixed => mean_of_two(|seed| mixed(pages, seed)),
        _ => return None,
    };
    Some(only(value))
}

/// Runs `work` in two threads that start together, each with its own seed; returns the mean of
/// their results.
fn mean_of_two(work: impl Fn(u64) -> f64 + Sync) -> f64 {
    let start = Barrier::new(2);
    let thread = |seed| {
        start.wait();
        work(seed)
    };
    std::thread::scope(|scope| {
        let both = [1, 2].map(|seed| {
            let thread = &thread;
            scope.spawn(move || thread(seed))
        });
        both.map(|thread| thread.join().expect("the workload does not panic")).iter().sum::<f64>()
            / 2.0
    })
}

fn pair<S: SharedPages>(pages: &S) -> f64 {
    let operation = |_| {
        let frame = pages.allocate(Order::ZERO).expect("memory is free");
        pages.free(std::hint::black_box(frame), Order::ZERO);
    };
    mean(PAIRS, operation).0
}

/// The time to allocate a frame and the time to free one, added.
fn bulk<S: SharedPages>(pages: &S, count: usize, seed: u64) -> f64 {
    let mut blocks = Vec::with_capacity(count);
    let allocate = |_| blocks.push(pages.allocate(Order::ZERO).expect("a quarter is free"));
    let (allocate_ns, _) = mean(count, allocate);
    shuffle(&mut blocks, seed);
    let (free_ns, _) = mean(blocks.len(), |index| pages.free(blocks[index], Order::ZERO));
    allocate_ns + free_ns
}

fn mixed<S: SharedPages>(pages: &S, seed: u64) -> f64 {
    let mut random = Random::new(seed);
    let mut held = Vec::with_capacity(HELD + 1);
    let mut operation = |_| {
        let order = mixed_order(&mut random);
        held.push((pages.allocate(order).expect("memory is free"), order));
        if held.len() > HELD {
            let (block, order) = held.swap_remove(random.below(held.len()));
            pages.free(block, order);
        }
    };
    (0..HELD).for_each(&mut operation);
    mean(MIXED, operation).0
}

/// The CPU time of both threads per frame, the ring and the waiting included.
fn producer_consumer<S: SharedPages>(pages: &S) -> f64 {
    // Zero where the ring is empty, otherwise a frame's number plus one.
    let ring: Vec<AtomicUsize> = (0..RING).map(|_| AtomicUsize::new(0)).collect();
    let wait_for = |place: &AtomicUsize, full: bool| {
        for turn in 1.. {
            // Acquire: pairs with the Release stores below; hands the frame over.
            let value = place.load(Ordering::Acquire);
            if (value != 0) == full {
                return value;
            }
            std::hint::spin_loop();
            if turn % 256 == 0 {
                std::thread::yield_now();
            }
        }
        unreachable!("the loop above ends only by returning")
    };
    let produce = || {
        let start = cpu_ns();
        for number in 0..PASSED {
            let frame = pages.allocate(Order::ZERO).expect("memory is free");
            let place = &ring[number % RING];
            wait_for(place, false);
            // Release: pairs with the Acquire above.
            place.store(frame + 1, Ordering::Release);
        }
        cpu_ns() - start
    };
    let consume = || {
        let start = cpu_ns();
        for number in 0..PASSED {
            let place = &ring[number % RING];
            let value = wait_for(place, true);
            // Release: pairs with the Acquire above.
            place.store(0, Ordering::Release);
            pages.free(value - 1, Order::ZERO);
        }
        cpu_ns() - start
    };
    let both = std::thread::scope(|scope| {
        let producer = scope.spawn(produce);
        let consumer = scope.spawn(consume);
        let join = |thread: std::thread::ScopedJoinHandle<'_, u64>| {
            thread.join().expect("the workload does not panic")
        };
        join(producer) + join(consumer)
    });
    both as f64 / PASSED as f64
}
