//! The workloads of page allocators, by name. Means are CPU times; tails are taken by the wall
//! clock.

use page_frame::Order;
use testkit::Random;

use crate::measure::Sample;

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
    /// Orders 0 to 10 mixed, each half as often as the order below it; frees the last allocated
    /// block of 64.
    MixedLifo,
    /// The same orders; frees a random block of 4096.
    MixedRandom,
    /// One thread allocates, another frees.
    ProducerConsumer,
    /// Two threads, each [`Pair`](Self::Pair) of order 0.
    TwoPair,
    /// Two threads, each allocates a quarter of memory in single frames and frees them in random
    /// order.
    TwoBulk,
    /// Two threads, each [`MixedRandom`](Self::MixedRandom).
    TwoMixed,
    /// Wholly free areas after churn, of the ideal. Cached frames count as taken.
    ChurnFree,
    /// The same after draining.
    ChurnDrained,
    /// Areas that can really be allocated after churn and draining, of the ideal.
    ChurnObtainable,
    /// The same where every block may be moved out of the way. For allocators that move blocks.
    ChurnCompacted,
    /// Bytes of metadata per frame.
    Metadata,
    /// Time to build the allocator, per GiB.
    Init,
}

impl Workload {
    /// All workloads, in the order of the table.
    pub const ALL: [Self; 20] = [
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
        Self::ChurnCompacted,
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
            Self::ChurnCompacted => "churn-compacted-2m".into(),
            Self::Metadata => "metadata-bytes-per-frame".into(),
            Self::Init => "init-us-per-gib".into(),
        }
    }

    /// Returns the unit of its figure.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::ChurnFree | Self::ChurnDrained | Self::ChurnObtainable | Self::ChurnCompacted => {
                "%"
            }
            Self::Metadata => "B",
            Self::Init => "us",
            _ => "ns",
        }
    }

    /// Returns whether its figure is a time, so that ratios of contestants make sense.
    pub fn is_time(self) -> bool {
        matches!(self.unit(), "ns" | "us")
    }

    /// Returns the number of threads.
    pub const fn threads(self) -> usize {
        match self {
            Self::ProducerConsumer | Self::TwoPair | Self::TwoBulk | Self::TwoMixed => 2,
            _ => 1,
        }
    }
}

/// Shuffles `blocks`.
pub(crate) fn shuffle<T>(blocks: &mut [T], seed: u64) {
    let mut random = Random::new(seed);
    (1..blocks.len()).for_each(|index| blocks.swap(index, random.below(index + 1)));
}

/// Returns a random order from 0 to 10, each half as often as the order below it.
pub(crate) fn mixed_order(random: &mut Random) -> Order {
    let order = (random.number().trailing_zeros() as u8).min(10);
    Order::new(order).expect("at most 10")
}

/// Returns the sample of a figure for which no single operations were timed.
pub(crate) const fn only(value: f64) -> Sample {
    Sample { mean_ns: value, p999_ns: f64::NAN, max_ns: f64::NAN }
}
