//! Allocators to compare with ours on the same trace, by name.

use std::io;

use super::heap::{Heap, System};
#[cfg(feature = "rivals")]
use super::published::{self, Ranged};

/// Names of the rivals that this program was built with.
pub const NAMES: &[&str] = &[
    #[cfg(feature = "rivals")]
    "talc",
    #[cfg(feature = "rivals")]
    "rlsf",
    #[cfg(feature = "rivals")]
    "buddy_system_allocator",
    #[cfg(feature = "rivals")]
    "buddy-slab-allocator",
    #[cfg(feature = "rivals")]
    "linked_list_allocator",
    "system",
];

/// Names of all rivals, whether built in or not.
pub const ALL: [&str; 6] = [
    "talc",
    "rlsf",
    "buddy_system_allocator",
    "buddy-slab-allocator",
    "linked_list_allocator",
    "system",
];

/// A generic operation on a heap of any type.
pub trait Visit {
    /// The result of the visit.
    type Output;

    /// Runs the operation; `make` makes the heap.
    fn visit<H: Heap>(self, make: impl FnOnce() -> io::Result<H>) -> Self::Output;
}

/// Runs `visit` with the rival called `name`, over `bytes` of memory; `None` when this program was
/// built without it.
pub fn with<V: Visit>(name: &str, bytes: usize, visit: V) -> Option<V::Output> {
    match name {
        "system" => Some(visit.visit(|| Ok(System))),
        #[cfg(feature = "rivals")]
        "talc" => Some(visit.visit(|| Ranged::new(bytes, published::talc))),
        #[cfg(feature = "rivals")]
        "rlsf" => Some(visit.visit(|| Ranged::new(bytes, published::rlsf))),
        #[cfg(feature = "rivals")]
        "buddy_system_allocator" => Some(visit.visit(|| Ranged::new(bytes, published::buddies))),
        #[cfg(feature = "rivals")]
        "buddy-slab-allocator" => {
            Some(visit.visit(|| Ranged::new(bytes, published::BuddySlab::new)))
        }
        #[cfg(feature = "rivals")]
        "linked_list_allocator" => Some(visit.visit(|| Ranged::new(bytes, published::linked_list))),
        _ => {
            let _ = bytes;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::heap::{HeapPages, HeapTarget};
    use super::super::target::{ObjectTarget, PageTarget};
    use super::*;

    /// Allocates, writes and frees objects of many sizes.
    struct Exercise;

    impl Visit for Exercise {
        type Output = usize;

        fn visit<H: Heap>(self, make: impl FnOnce() -> io::Result<H>) -> usize {
            let mut target = HeapTarget(make().expect("there is memory"));
            let sizes: Vec<usize> = (0..600).map(|n| 1 + n * n % 9000).collect();
            let starts: Vec<_> = sizes.iter().map(|bytes| target.allocate_bytes(*bytes)).collect();
            let mut ranges: Vec<_> = starts
                .iter()
                .zip(&sizes)
                .map(|(start, bytes)| {
                    let start = start.expect("there is room");
                    // SAFETY: the rival has just allocated `bytes` bytes.
                    unsafe { start.write_bytes(0xa5, *bytes) };
                    start.addr().get()..start.addr().get() + bytes
                })
                .collect();
            for (start, bytes) in starts.into_iter().zip(sizes) {
                // SAFETY: the rival allocated the object with this size, and it is freed once.
                unsafe { target.free_bytes(start.expect("there is room"), bytes) };
            }
            ranges.sort_by_key(|range| range.start);
            assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "nothing overlaps");
            target.totals().peak_pages
        }
    }

    /// Allocates and frees blocks of pages of many orders.
    struct Blocks;

    impl Visit for Blocks {
        type Output = ();

        fn visit<H: Heap>(self, make: impl FnOnce() -> io::Result<H>) {
            let mut pages = HeapPages(make().expect("there is memory"));
            let orders = [0, 3, 0, 1, 9, 0, 2, 4];
            for _ in 0..3 {
                let blocks: Vec<_> = orders
                    .iter()
                    .map(|order| (pages.allocate(*order, 0).expect("there is room"), *order))
                    .collect();
                let mut ranges: Vec<_> =
                    blocks.iter().map(|(first, order)| *first..first + (1 << order)).collect();
                assert!(blocks.iter().all(|(first, order)| first % (1 << order) == 0));
                ranges.sort_by_key(|range| range.start);
                assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "no overlap");
                for (first, order) in blocks {
                    assert_eq!(pages.free(first, order), Ok(()));
                }
            }
        }
    }

    #[test]
    fn every_rival_serves_blocks_of_pages_aligned_to_their_size() {
        for name in NAMES {
            with(name, 64 << 20, Blocks).expect("it is built in");
        }
    }

    #[test]
    fn every_rival_hands_out_memory_and_says_how_much_it_touched() {
        for name in NAMES {
            let pages = with(name, 64 << 20, Exercise).expect("it is built in");
            // The test requested 2.5 MiB; the system's allocator reports no pages.
            assert!(*name == "system" || (600..4000).contains(&pages), "{name}: {pages} pages");
        }
        assert!(NAMES.iter().all(|name| ALL.contains(name)));
        assert!(with("nobody", 0, Exercise).is_none());
    }
}
