//! What page allocators are asked to do, by name. Means are CPU times; tails are taken by the wall clock.

mod churn;
pub(crate) mod cpu_time;
pub(crate) mod together;

use page_frame::Order;
use testkit::Random;

use crate::Pages;
use crate::measure::{Sample, tail};
use cpu_time::mean;

/// The frames of an area of 2 MiB.
pub const AREA_FRAMES: usize = 512;

/// A workload: a row of the table.
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
    /// One thread allocates, another frees.
    ProducerConsumer,
    /// Two threads, each [`Pair`](Self::Pair) of order 0.
    TwoPair,
    /// Two threads, each allocates a quarter of memory in single frames and frees them in random order.
    TwoBulk,
    /// Two threads, each [`MixedRandom`](Self::MixedRandom).
    TwoMixed,
    /// Wholly free areas after churn, of the ideal; what is kept at hand counts as taken.
    ChurnFree,
    /// The same after draining.
    ChurnDrained,
    /// Areas that can really be allocated after churn and draining, of the ideal.
    ChurnObtainable,
    /// Bytes of metadata per frame.
    Metadata,
    /// Time to build the allocator, per GiB.
    Init,
}

impl Workload {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 19] = [
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
        Self::ProducerConsumer,
        Self::TwoPair,
        Self::TwoBulk,
        Self::TwoMixed,
        Self::ChurnFree,
        Self::ChurnDrained,
        Self::ChurnObtainable,
        Self::Metadata,
        Self::Init,
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
            Self::ProducerConsumer => "producer-consumer".into(),
            Self::TwoPair => "two-threads-pair".into(),
            Self::TwoBulk => "two-threads-bulk".into(),
            Self::TwoMixed => "two-threads-mixed".into(),
            Self::ChurnFree => "churn-free-2m".into(),
            Self::ChurnDrained => "churn-free-2m-drained".into(),
            Self::ChurnObtainable => "churn-obtainable-2m".into(),
            Self::Metadata => "metadata-bytes-per-frame".into(),
            Self::Init => "init-us-per-gib".into(),
        }
    }

    /// Returns the unit of its figure.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::ChurnFree | Self::ChurnDrained | Self::ChurnObtainable => "%",
            Self::Metadata => "B",
            Self::Init => "us",
            _ => "ns",
        }
    }

    /// Whether its figure is a time, which a rival's can be divided by.
    pub fn is_time(self) -> bool {
        matches!(self.unit(), "ns" | "us")
    }

    /// Returns how many threads it has.
    pub const fn threads(self) -> usize {
        match self {
            Self::ProducerConsumer | Self::TwoPair | Self::TwoBulk | Self::TwoMixed => 2,
            _ => 1,
        }
    }
}

/// Runs one round of `workload`, one of those with one thread, on a fresh allocator of `frames` frames; `None` when the
/// allocator cannot or takes too long.
pub fn run<P: Pages>(pages: &mut P, workload: Workload, frames: usize) -> Option<Sample> {
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
        Workload::ChurnFree | Workload::ChurnDrained | Workload::ChurnObtainable => {
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

/// Runs `count` operations of `workload`, one of pairs, bulks or mixed orders, without a look at any clock: for counters of
/// instructions. Two runs that differ in `count` alone differ by what the operations cost.
pub fn repeat<P: Pages>(pages: &mut P, workload: Workload, count: usize, frames: usize) {
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

pub(crate) fn shuffle<T>(blocks: &mut [T], seed: u64) {
    let mut random = Random::new(seed);
    (1..blocks.len()).for_each(|index| blocks.swap(index, random.below(index + 1)));
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

/// Returns an order from 0 to 10, each as often as half of the one below.
pub(crate) fn mixed_order(random: &mut Random) -> Order {
    let order = (random.number().trailing_zeros() as u8).min(10);
    Order::new(order).expect("at most 10")
}

/// Returns the sample of a figure for which no single operations were timed.
pub(crate) const fn only(value: f64) -> Sample {
    Sample { mean_ns: value, p999_ns: f64::NAN, max_ns: f64::NAN }
}
