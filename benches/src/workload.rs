//! What page allocators are asked to do, by name.

use page_frame::Order;
use testkit::Random;

use crate::Pages;
use crate::measure::{Sample, mean, tail};

/// A workload: its name in tables and JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Allocates and frees the same block, hot.
    Pair(u8),
    /// Allocates half of memory in blocks of one order.
    BulkAllocate(u8),
    /// Frees half of memory in the order it was allocated.
    BulkFreeOrdered(u8),
    /// Frees half of memory in random order.
    BulkFreeRandom(u8),
    /// Orders 0 to 10 mixed, each as often as half of the one below; frees the last allocated of 64.
    MixedLifo,
    /// The same, frees one of 4096 at random.
    MixedRandom,
}

impl Workload {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 10] = [
        Self::Pair(0),
        Self::Pair(3),
        Self::Pair(9),
        Self::BulkAllocate(0),
        Self::BulkFreeOrdered(0),
        Self::BulkFreeRandom(0),
        Self::BulkAllocate(9),
        Self::BulkFreeRandom(9),
        Self::MixedLifo,
        Self::MixedRandom,
    ];

    /// Returns the name.
    pub fn name(self) -> String {
        match self {
            Self::Pair(order) => format!("pair-{order}"),
            Self::BulkAllocate(order) => format!("bulk-{order}-allocate"),
            Self::BulkFreeOrdered(order) => format!("bulk-{order}-free-ordered"),
            Self::BulkFreeRandom(order) => format!("bulk-{order}-free-random"),
            Self::MixedLifo => "mixed-lifo".into(),
            Self::MixedRandom => "mixed-random".into(),
        }
    }
}

/// Runs one round of `workload` on a fresh allocator of `frames` frames.
pub fn run<P: Pages>(pages: &mut P, workload: Workload, frames: usize) -> Sample {
    let order = |order: u8| Order::new(order).expect("the workloads use valid orders");
    match workload {
        Workload::Pair(size) => pair(pages, order(size)),
        Workload::BulkAllocate(size) => bulk_allocate(pages, order(size), frames),
        Workload::BulkFreeOrdered(size) => bulk_free(pages, order(size), frames, |_| ()),
        Workload::BulkFreeRandom(size) => bulk_free(pages, order(size), frames, shuffle),
        Workload::MixedLifo => mixed(pages, 64, |_, held| held - 1),
        Workload::MixedRandom => mixed(pages, 4096, Random::below),
    }
}

fn pair<P: Pages>(pages: &mut P, order: Order) -> Sample {
    let mut operation = |_| {
        let block = pages.allocate(order).expect("memory is free");
        pages.free(std::hint::black_box(block), order);
    };
    let (mean_ns, _) = mean(2_000_000, &mut operation);
    let (p999_ns, max_ns) = tail(100_000, &mut operation);
    Sample { mean_ns, p999_ns, max_ns }
}

/// Blocks of half of memory, of which the last tenth is for the tail.
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

fn shuffle(blocks: &mut [usize]) {
    let mut random = Random::new(11);
    (1..blocks.len()).for_each(|index| blocks.swap(index, random.below(index + 1)));
}

fn mixed<P: Pages>(
    pages: &mut P,
    hold: usize,
    choose: impl Fn(&mut Random, usize) -> usize,
) -> Sample {
    let mut random = Random::new(5);
    let mut held = Vec::with_capacity(hold + 1);
    let mut operation = |_| {
        let size = (random.number().trailing_zeros() as u8).min(10);
        let order = Order::new(size).expect("at most 10");
        held.push((pages.allocate(order).expect("memory is free"), order));
        if held.len() > hold {
            let (block, order) = held.swap_remove(choose(&mut random, held.len()));
            pages.free(block, order);
        }
    };
    (0..hold).for_each(&mut operation);
    let (mean_ns, _) = mean(1_000_000, &mut operation);
    let (p999_ns, max_ns) = tail(100_000, &mut operation);
    Sample { mean_ns, p999_ns, max_ns }
}
