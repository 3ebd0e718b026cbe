//! Workloads of one thread.

use page_frame::Order;
use testkit::Random;

use crate::measure::{Sample, tail};
use crate::pages::allocator::Pages;
use crate::pages::churn;
use crate::pages::cpu_time::mean;
use crate::pages::workload::{Workload, mixed_order, only, shuffle};

/// Runs one round of `workload`, one of those with one thread, on a fresh allocator of `frames`
/// frames; `None` when the allocator cannot or takes too long.
pub(super) fn run<P: Pages>(pages: &mut P, workload: Workload, frames: usize) -> Option<Sample> {
    let order = |order: u8| Order::new(order).expect("the workloads use valid orders");
    let sample = match workload {
        Workload::Pair(size) => pair(pages, order(size)),
        Workload::BulkAllocate(size) => bulk_allocate(pages, order(size), frames),
        Workload::BulkFreeOrdered(size) => bulk_free(pages, order(size), frames, |_| ()),
        Workload::BulkFreeRandom(size) => {
            bulk_free(pages, order(size), frames, |all| shuffle(all, 11))
        }
        Workload::MixedLifo => mixed(pages, 64, |_, held| held - 1),
        Workload::MixedRandom => mixed(pages, 4096, Random::below),
        Workload::ChurnFree
        | Workload::ChurnDrained
        | Workload::ChurnObtainable
        | Workload::ChurnCompacted => {
            return churn::run(pages, workload, frames);
        }
        Workload::Metadata => only(pages.metadata_bytes()? as f64 / frames as f64),
        Workload::ProducerConsumer | Workload::TwoPair | Workload::TwoBulk | Workload::TwoMixed => {
            return None;
        }
        Workload::Init => return None,
    };
    Some(sample)
}

/// Runs `count` operations of `workload`, one of pairs, bulks or mixed orders, without reading a
/// clock, for instruction counters. The difference of two runs with different `count` is the cost
/// of the operations.
pub(super) fn repeat<P: Pages>(pages: &mut P, workload: Workload, count: usize, frames: usize) {
    let order = |order: u8| Order::new(order).expect("the workloads use valid orders");
    match workload {
        Workload::Pair(size) => (0..count).for_each(pair_operation(pages, order(size))),
        Workload::BulkAllocate(size) => {
            let blocks = count.min(frames / 2 / order(size).pages());
            (0..blocks).for_each(|_| _ = std::hint::black_box(pages.allocate(order(size))));
        }
        Workload::BulkFreeOrdered(size) | Workload::BulkFreeRandom(size) => {
            let blocks = frames / 2 / order(size).pages();
            let allocate = |_| pages.allocate(order(size)).expect("half of memory is free");
            let mut blocks: Vec<usize> = (0..blocks).map(allocate).collect();
            if matches!(workload, Workload::BulkFreeRandom(_)) {
                shuffle(&mut blocks, 11);
            }
            blocks.iter().take(count).for_each(|block| pages.free(*block, order(size)));
        }
        Workload::MixedLifo => {
            (0..64 + count).for_each(mixed_operation(pages, 64, |_, held| held - 1));
        }
        Workload::MixedRandom => {
            (0..4096 + count).for_each(mixed_operation(pages, 4096, Random::below));
        }
        _ => {}
    }
}

fn pair_operation<P: Pages>(pages: &mut P, order: Order) -> impl FnMut(usize) {
    move |_| {
        let block = pages.allocate(order).expect("memory is free");
        pages.free(std::hint::black_box(block), order);
    }
}

fn pair<P: Pages>(pages: &mut P, order: Order) -> Sample {
    let mut operation = pair_operation(pages, order);
    let (mean_ns, _) = mean(2_000_000, &mut operation);
    let (p999_ns, max_ns) = tail(100_000, &mut operation);
    Sample { mean_ns, p999_ns, max_ns }
}

/// Returns the number of blocks in half of memory: nine tenths for the mean, and a tenth for the
/// tail.
fn half(order: Order, frames: usize) -> (usize, usize) {
    let all = frames / 2 / order.pages();
    (all - all / 10, all / 10)
}

fn bulk_allocate<P: Pages>(pages: &mut P, order: Order, frames: usize) -> Sample {
    let (count, rest) = half(order, frames);
    let mut allocate = |_| {
        std::hint::black_box(pages.allocate(order).expect("half of memory is free"));
    };
    let (mean_ns, _) = mean(count, &mut allocate);
    let (p999_ns, max_ns) = tail(rest, &mut allocate);
    Sample { mean_ns, p999_ns, max_ns }
}

fn bulk_free<P: Pages>(
    pages: &mut P,
    order: Order,
    frames: usize,
    arrange: impl Fn(&mut [usize]),
) -> Sample {
    let (count, rest) = half(order, frames);
    let allocate = |_| pages.allocate(order).expect("half of memory is free");
    let mut blocks: Vec<usize> = (0..count + rest).map(allocate).collect();
    arrange(&mut blocks);
    let mut free = |index: usize| pages.free(blocks[index], order);
    let (mean_ns, done) = mean(count, &mut free);
    let (p999_ns, max_ns) = tail(rest.min(10_000), |index| free(done + index));
    Sample { mean_ns, p999_ns, max_ns }
}

fn mixed_operation<P: Pages>(
    pages: &mut P,
    hold: usize,
    choose: impl Fn(&mut Random, usize) -> usize,
) -> impl FnMut(usize) {
    let mut random = Random::new(5);
    let mut held = Vec::with_capacity(hold + 1);
    move |_| {
        let order = mixed_order(&mut random);
        held.push((pages.allocate(order).expect("memory is free"), order));
        if held.len() > hold {
            let (block, order) = held.swap_remove(choose(&mut random, held.len()));
            pages.free(block, order);
        }
    }
}

fn mixed<P: Pages>(
    pages: &mut P,
    hold: usize,
    choose: impl Fn(&mut Random, usize) -> usize,
) -> Sample {
    let mut operation = mixed_operation(pages, hold, choose);
    (0..hold).for_each(&mut operation);
    let (mean_ns, _) = mean(1_000_000, &mut operation);
    let (p999_ns, max_ns) = tail(100_000, &mut operation);
    Sample { mean_ns, p999_ns, max_ns }
}
