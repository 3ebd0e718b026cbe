//! The first moments of a program: each figure is that of a process of its own, which has allocated
//! nothing before.
//!
//! Question: what do growing and shrinking cost, which warm loops leave out? The time is the CPU
//! time of the process's one thread, with the page faults and system calls that the allocator
//! causes.

use std::alloc::GlobalAlloc;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::hint::black_box;

use testkit::Random;

use crate::measure::CpuTime;
use crate::memory::collections::strings;
use crate::memory::requests::{free, layout, touch};
use crate::switch::{Choice, with_allocator};

/// What the process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cold {
    /// A vector of 100,000 strings that grow piece by piece, dropped; time per string.
    VecString,
    /// An ordered map of 100,000 strings by random keys, half of them replaced, dropped; time per
    /// insertion.
    BTreeMap,
    /// A hash map of 100,000 byte vectors, half of them replaced, dropped; time per insertion.
    HashMap,
    /// 60 rounds of 20,000 objects, each round of other sizes, allocated, touched and freed; time
    /// per object.
    Phases,
    /// 2,000 zeroed arrays of 64 bytes to 256 KiB, of which 200 live at a time; each is read. Time
    /// per array.
    Calloc,
}

impl Cold {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 5] =
        [Self::VecString, Self::BTreeMap, Self::HashMap, Self::Phases, Self::Calloc];

    /// Returns the name in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::VecString => "cold-vec-string",
            Self::BTreeMap => "cold-btreemap",
            Self::HashMap => "cold-hashmap",
            Self::Phases => "cold-phases",
            Self::Calloc => "cold-calloc",
        }
    }

    /// Runs it once on `allocator`; returns the CPU nanoseconds per item.
    pub fn run(self, allocator: Choice) -> f64 {
        let start = CpuTime::now();
        let items = match self {
            Self::Phases => phases(allocator),
            Self::Calloc => calloc(allocator),
            // SAFETY: each drops its collection before it returns a number, and does not panic.
            Self::VecString => unsafe { with_allocator(allocator, vec_string) },
            // SAFETY: as above.
            Self::BTreeMap => unsafe { with_allocator(allocator, btree_map) },
            // SAFETY: as above.
            Self::HashMap => unsafe { with_allocator(allocator, hash_map) },
        };
        start.elapsed_ns() / items as f64
    }
}

const ITEMS: usize = 100_000;

fn vec_string() -> usize {
    black_box(&strings(&mut Random::new(61), ITEMS)).len()
}

fn btree_map() -> usize {
    let mut random = Random::new(67);
    let mut map = BTreeMap::new();
    for _ in 0..ITEMS + ITEMS / 2 {
        let text = "x".repeat(1 + random.below(100));
        map.insert(random.below(ITEMS), text);
    }
    assert!(black_box(&map).len() <= ITEMS);
    ITEMS + ITEMS / 2
}

fn hash_map() -> usize {
    let mut random = Random::new(71);
    let mut map: HashMap<usize, Vec<u8>, BuildHasherDefault<DefaultHasher>> = HashMap::default();
    for _ in 0..ITEMS + ITEMS / 2 {
        let bytes = vec![7; 1 + random.below(100)];
        map.insert(random.below(ITEMS), bytes);
    }
    assert!(black_box(&map).len() <= ITEMS);
    ITEMS + ITEMS / 2
}

fn phases<A: GlobalAlloc + ?Sized>(allocator: &A) -> usize {
    const ROUNDS: usize = 60;
    const OBJECTS: usize = 20_000;
    let mut random = Random::new(73);
    let mut live = Vec::with_capacity(OBJECTS);
    for round in 0..ROUNDS {
        let base = 16 + round * 37 % 30 * 48;
        for _ in 0..OBJECTS {
            let layout = layout(base + random.below(64), 8);
            // SAFETY: not empty.
            let start = unsafe { allocator.alloc(layout) };
            assert!(!start.is_null(), "the workloads use little memory");
            touch(start);
            live.push((start, layout));
        }
        live.drain(..).for_each(|(start, layout)| free(allocator, start, layout));
    }
    ROUNDS * OBJECTS
}

fn calloc<A: GlobalAlloc + ?Sized>(allocator: &A) -> usize {
    const ARRAYS: usize = 2_000;
    let mut random = Random::new(79);
    let mut live = std::collections::VecDeque::with_capacity(201);
    for _ in 0..ARRAYS {
        let layout = layout(64 << random.below(13), 8);
        // SAFETY: not empty.
        let start = unsafe { allocator.alloc_zeroed(layout) };
        assert!(!start.is_null(), "the workloads use little memory");
        let read = |at: usize| {
            // SAFETY: inside the array.
            let word = unsafe { start.add(at) };
            // SAFETY: zeroed memory, which is initialised.
            unsafe { word.read() }
        };
        assert!((0..layout.size()).step_by(64).all(|at| read(at) == 0), "zeroed");
        // The program writes to it: reused memory is not zero.
        (0..layout.size()).step_by(1024).for_each(|at| touch(start.wrapping_add(at)));
        live.push_back((start, layout));
        if live.len() > 200 {
            let (start, layout) = live.pop_front().expect("there are 201");
            free(allocator, start, layout);
        }
    }
    live.into_iter().for_each(|(start, layout)| free(allocator, start, layout));
    ARRAYS
}
