//! Typical uses of an allocator: collections of the standard library, filled and dropped.
//!
//! They reach the allocator through [`crate::switch`]. Each run consists of several rounds, so that
//! a slow allocator can be stopped between two of them.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher};

use testkit::Random;

use crate::measure::{CpuTime, LIMIT, Sample};
use crate::switch::{Choice, with_allocator};

/// A collection and what is done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collection {
    /// A vector of 1,000 strings that grow piece by piece, sorted and dropped; time per string.
    VecString,
    /// An ordered map of 10,000 strings by random keys, half of them replaced; time per insertion.
    BTreeMap,
    /// A hash map of 10,000 byte vectors by random keys, half of them replaced; time per insertion.
    HashMap,
    /// A binary tree of 16,383 boxes, built and dropped; time per node.
    BoxTree,
}

impl Collection {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 4] = [Self::VecString, Self::BTreeMap, Self::HashMap, Self::BoxTree];

    /// Returns the name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::VecString => "vec-string",
            Self::BTreeMap => "btreemap",
            Self::HashMap => "hashmap",
            Self::BoxTree => "box-tree",
        }
    }

    /// Runs rounds of it on `allocator`; the maximum is that of rounds, per item.
    pub fn run(self, allocator: Choice) -> Sample {
        let round = || match self {
            Self::VecString => vec_string(),
            Self::BTreeMap => btree_map(),
            Self::HashMap => hash_map(),
            Self::BoxTree => box_tree(),
        };
        // SAFETY: a round drops its collection before it returns a number, and does not panic.
        let once = || unsafe { with_allocator(allocator, round) };
        // The first round brings memory in and is not counted.
        once();
        let (mut spent, mut items, mut most) = (0.0, 0, 0.0_f64);
        for _ in 0..20 {
            let start = CpuTime::now();
            let count = once();
            let time = start.elapsed_ns();
            (spent, items) = (spent + time, items + count);
            most = most.max(time / count as f64);
            if spent > LIMIT.as_nanos() as f64 {
                break;
            }
        }
        let mean_ns = spent / items as f64;
        Sample { mean_ns, p999_ns: f64::NAN, max_ns: most }
    }
}

/// Builds `count` strings of 8 to 64 bytes, piece by piece.
pub(super) fn strings(random: &mut Random, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    for number in 0..count {
        let mut text = String::new();
        for _ in 0..1 + random.below(8) {
            text.push_str("number ");
            text.push(char::from(b'a' + (number % 26) as u8));
        }
        all.push(text);
    }
    all
}

fn vec_string() -> usize {
    let mut all = strings(&mut Random::new(41), 1000);
    all.sort_unstable();
    std::hint::black_box(&all).len()
}

fn btree_map() -> usize {
    let mut random = Random::new(43);
    let mut map = BTreeMap::new();
    for _ in 0..15_000 {
        let text = "x".repeat(1 + random.below(100));
        map.insert(random.below(10_000), text);
    }
    assert!(std::hint::black_box(&map).len() <= 10_000);
    15_000
}

fn hash_map() -> usize {
    let mut random = Random::new(47);
    // The same order of buckets in each round.
    let mut map: HashMap<usize, Vec<u8>, BuildHasherDefault<DefaultHasher>> = HashMap::default();
    for _ in 0..15_000 {
        let bytes = vec![7; 1 + random.below(100)];
        map.insert(random.below(10_000), bytes);
    }
    assert!(std::hint::black_box(&map).len() <= 10_000);
    15_000
}

struct Node {
    _children: Option<[Box<Node>; 2]>,
    _value: u64,
}

fn box_tree() -> usize {
    fn grow(depth: u32) -> Box<Node> {
        let children = (depth > 1).then(|| [grow(depth - 1), grow(depth - 1)]);
        Box::new(Node { _children: children, _value: u64::from(depth) })
    }
    drop(std::hint::black_box(grow(14)));
    (1 << 14) - 1
}
