//! The benefit of colours: a walk over the first line of many objects, with and without them.
//!
//! Objects at the same offset of different slabs share the sets of the CPU's caches; a colour
//! shifts the objects of a slab by one or more lines. Each step of the walk depends on the previous
//! one, in random order, so its time is the latency of the cache level that holds the lines.

use std::alloc::Layout;
use std::hint::black_box;
use std::ptr::NonNull;

use page_frame::Order;
use testkit::Random;

use crate::measure::mean;
use crate::objects::allocator::{Objects, Ours};

/// Steps of a walk.
const STEPS: usize = 200_000;

/// Which objects are walked over.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// The size of an object in bytes; slabs have one page.
    pub size: usize,
    /// How many slabs.
    pub slabs: usize,
    /// Whether all objects of a slab are visited, or only its first.
    pub all: bool,
}

/// The first object of each of 32 slabs: as many lines as the smallest cache has room for, if they
/// spread.
pub const FIRST_OBJECTS: Walk = Walk { size: 640, slabs: 32, all: false };
/// All objects of 1,024 slabs, as a list through every object of a cache visits them.
pub const ALL_OBJECTS: Walk = Walk { size: 1280, slabs: 1024, all: true };

/// Returns the time of a step without colours over that with them.
pub fn ratio(walk: Walk) -> f64 {
    step_ns(walk, false) / step_ns(walk, true)
}

/// Returns the time of a step of `walk` in nanoseconds, with or without colours.
///
/// # Panics
/// When there is no memory.
pub fn step_ns(walk: Walk, coloured: bool) -> f64 {
    let layout = Layout::from_size_align(walk.size, 8).expect("a small size");
    let ours = Ours::new(64 << 20, layout, |builder| {
        let builder = builder.max_order(Order::ZERO);
        if coloured { builder } else { builder.uncoloured() }
    });
    let capacity = ours.cache.geometry().capacity();
    let objects: Vec<NonNull<u8>> = (0..walk.slabs * capacity).map(|_| ours.allocate()).collect();
    let mut firsts = Vec::new();
    ours.cache.for_each_slab(|slab| firsts.push(slab.start + slab.colour_offset));
    firsts.sort_unstable();
    let is_visited =
        |object: &&NonNull<u8>| walk.all || firsts.binary_search(&object.addr().get()).is_ok();
    let mut visited: Vec<NonNull<u8>> = objects.iter().filter(is_visited).copied().collect();
    let mut random = Random::new(3);
    (1..visited.len()).for_each(|index| visited.swap(index, random.below(index + 1)));
    for (index, object) in visited.iter().enumerate() {
        let next = visited[(index + 1) % visited.len()];
        // SAFETY: an object of ours, larger than a pointer and as aligned.
        unsafe { object.cast::<NonNull<u8>>().write(next) };
    }
    let mut here = visited[0];
    // SAFETY: every visited object holds the next one.
    let mut step = |_| here = unsafe { here.cast::<NonNull<u8>>().read() };
    // Once round first, so that only the walk's own cache misses remain.
    (0..visited.len()).for_each(&mut step);
    let (ns, _) = mean(STEPS, step);
    black_box(here);
    for object in objects {
        // SAFETY: allocated above, and not used any more.
        unsafe { ours.free(object) };
    }
    ns
}
