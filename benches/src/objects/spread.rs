//! How far apart consecutive allocations lie: the pages and cache lines that they touch.
//!
//! Question: after objects were freed and replaced at random, does the next burst of allocations
//! lie in few pages (entries of the TLB) and in few lines, and how does the order in which an
//! allocator reuses objects change that? The counts are the same on every machine.
//!
//! # The orders
//! - **ours**: magazines, last in, first out; then the fullest slabs.
//! - **slub-like**: sheaves, last in, first out; then the partial slabs in the order in which they
//!   became partial, each to its end.
//! - **free lists**: each free goes to its slab, and allocations empty one slab after the other, as
//!   SLUB did without sheaves.
//! - **first in, first out**: the object that was freed first, as a cache does that delays reuse.
//! - **last in, first out**: the object that was freed last, without slabs.

use std::alloc::Layout;
use std::collections::{BTreeSet, VecDeque};
use std::ptr::NonNull;

use hosted::{Mapped, Threads};
use page_frame::PAGE_SIZE;
use testkit::Random;

use crate::exclusive::SpinLocks;
use crate::objects::allocator::{Objects, Ours};
use crate::objects::slub_like::SlubLike;

/// Objects in use at first. Half of them are freed, and then as many are replaced.
const OBJECTS: usize = 16_384;
/// Bytes of address space: more than any order needs.
const BYTES: usize = 64 << 20;
/// The bytes of a cache line.
const LINE_BYTES: usize = 64;

/// What some objects touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touched {
    /// Pages of 4 KiB.
    pub pages: usize,
    /// Cache lines of 64 bytes.
    pub lines: usize,
}

/// Returns what the next `count` objects of `bytes` bytes touch, for each order, by name.
pub fn measure(bytes: usize, count: usize) -> Vec<(&'static str, Touched)> {
    let layout = Layout::from_size_align(bytes, 8).expect("a small size");
    let mut all = vec![
        ("ours", touched(&Ours::new(BYTES, layout, |builder| builder), bytes, count)),
        ("slub-like", touched(&Slub(SlubLike::new(Threads, layout, BYTES)), bytes, count)),
    ];
    for (name, order) in [
        ("free lists", Order::FreeLists),
        ("first in, first out", Order::FirstFirst),
        ("last in, first out", Order::LastFirst),
    ] {
        all.push((name, touched(&Sequence::new(bytes, order), bytes, count)));
    }
    all
}

/// Returns what the next `count` objects of a fragmented cache touch.
fn touched<O: Objects>(objects: &O, bytes: usize, count: usize) -> Touched {
    let mut random = Random::new(17);
    let mut held: Vec<NonNull<u8>> = (0..OBJECTS).map(|_| objects.allocate()).collect();
    let mut free_one = |held: &mut Vec<NonNull<u8>>| {
        let object = held.swap_remove(random.below(held.len()));
        // SAFETY: allocated above, and used by no code.
        unsafe { objects.free(object) };
    };
    (0..OBJECTS / 2).for_each(|_| free_one(&mut held));
    for _ in 0..OBJECTS / 2 {
        held.push(objects.allocate());
        free_one(&mut held);
    }
    let (mut pages, mut lines) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..count {
        let object = objects.allocate();
        let (first, last) = (object.addr().get(), object.addr().get() + bytes - 1);
        pages.extend(first / PAGE_SIZE..=last / PAGE_SIZE);
        lines.extend(first / LINE_BYTES..=last / LINE_BYTES);
        held.push(object);
    }
    held.into_iter().for_each(|object| {
        // SAFETY: as above.
        unsafe { objects.free(object) };
    });
    Touched { pages: pages.len(), lines: lines.len() }
}

/// The model of SLUB.
struct Slub(SlubLike<Threads, SpinLocks>);

// SAFETY: the model's objects are of its layout, and each one caller's.
unsafe impl Objects for Slub {
    fn allocate(&self) -> NonNull<u8> {
        self.0.allocate()
    }

    unsafe fn free(&self, object: NonNull<u8>) {
        self.0.free(object);
    }
}

/// An order in which freed objects are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    FirstFirst,
    LastFirst,
    FreeLists,
}

/// Objects side by side in pages, and an order of reuse.
struct Sequence {
    memory: Mapped,
    bytes: usize,
    order: Order,
    state: spin::Mutex<Freed>,
}

#[derive(Default)]
struct Freed {
    /// Objects that were ever allocated.
    fresh: usize,
    /// Free objects by number: those of the slab that allocations use, or all of them.
    objects: VecDeque<usize>,
    /// The free objects of each slab of one page, and the slabs that have some.
    slabs: Vec<Vec<usize>>,
    partial: VecDeque<usize>,
}

impl Sequence {
    fn new(bytes: usize, order: Order) -> Self {
        let memory = Mapped::reserve(BYTES).expect("address space");
        let slabs = vec![Vec::new(); BYTES / PAGE_SIZE];
        let state = spin::Mutex::new(Freed { slabs, ..Freed::default() });
        Self { memory, bytes, order, state }
    }
}

// SAFETY: each number is free at most once, and names `bytes` bytes of the memory.
unsafe impl Objects for Sequence {
    fn allocate(&self) -> NonNull<u8> {
        let mut freed = self.state.lock();
        let freed = &mut *freed;
        if freed.objects.is_empty() {
            if let Some(slab) = freed.partial.pop_front() {
                freed.objects.extend(freed.slabs[slab].drain(..));
            }
        }
        let reused = match self.order {
            Order::FirstFirst => freed.objects.pop_front(),
            _ => freed.objects.pop_back(),
        };
        let number = reused.unwrap_or_else(|| {
            freed.fresh += 1;
            freed.fresh - 1
        });
        let in_page = PAGE_SIZE / self.bytes;
        let offset = number / in_page * PAGE_SIZE + number % in_page * self.bytes;
        assert!(offset + self.bytes <= BYTES, "room for all objects");
        // SAFETY: inside the memory.
        unsafe { self.memory.start().add(offset) }
    }

    unsafe fn free(&self, object: NonNull<u8>) {
        let mut freed = self.state.lock();
        let offset = object.addr().get() - self.memory.start().addr().get();
        let (slab, in_page) = (offset / PAGE_SIZE, PAGE_SIZE / self.bytes);
        let number = slab * in_page + offset % PAGE_SIZE / self.bytes;
        if self.order != Order::FreeLists {
            return freed.objects.push_back(number);
        }
        if freed.slabs[slab].is_empty() {
            freed.partial.push_back(slab);
        }
        freed.slabs[slab].push(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation: `SlabSet::take` that begins with the emptiest slabs.
    #[test]
    fn a_burst_touches_less_than_first_in_first_out() {
        let ours_and_fifo = |bytes| {
            let all = measure(bytes, 2048);
            ["ours", "first in, first out"].map(|name| {
                let found = all.iter().find(|(order, _)| *order == name);
                found.expect("an order of that name").1
            })
        };
        let [ours, fifo] = ours_and_fifo(256);
        assert!(3 * ours.pages < 2 * fifo.pages, "{ours:?} {fifo:?}");
        let [ours, fifo] = ours_and_fifo(32);
        assert!(ours.lines < fifo.lines, "{ours:?} {fifo:?}");
    }
}
