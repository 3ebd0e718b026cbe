//! The rows of all three layers that consist of allocations and frees, for any number of CPUs.
//!
//! Names are those of the tables of times. Each CPU does what one thread does there; the rows of
//! two threads are those of the same operations here. A row without a name here times no
//! operations (metadata, initialisation, footprints), or what one process does once.

use std::alloc::Layout;
use std::sync::Arc;

use page_frame::Order;
use testkit::Random;

use crate::memory::requests::log_uniform;
use crate::pages::workload::mixed_order;
use crate::scaling::contestants::{
    Cpus, DeferredObjects, DeferredSlub, Frames, Linux, LockedFrames, LockedMemory, Memory,
    Objects, Slub,
};
use crate::scaling::shape::{Allocator, Choose, Freed, Shape, programs};

/// Blocks of a bulk of single frames: more than a CPU caches.
const FRAMES: usize = 4096;
/// Objects of a bulk: more than a CPU caches.
const OBJECTS: usize = 2048;
/// Blocks of a bulk of areas.
const AREAS: usize = 16;
/// Blocks of all CPUs from which on a CPU frees a quarter: the pages or objects that a machine
/// which is short of memory has.
const PURGED: usize = 4096;
/// Blocks of a process.
const PROCESS: usize = 1024;

/// A layer of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Page frames.
    Buddy,
    /// Objects of one size.
    Slab,
    /// Memory of any size.
    Kmalloc,
}

/// An allocator that takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contestant {
    /// This workspace's.
    Ours,
    /// The model of Linux: for frames lists for each CPU, and common lists under a lock; for
    /// objects SLUB with sheaves.
    Linux,
    /// A published allocator in one lock.
    Locked,
}

impl Contestant {
    /// Returns the name: for a locked one that of the allocator.
    pub const fn name(self, layer: Layer) -> &'static str {
        match (self, layer) {
            (Self::Ours, _) => "ours",
            (Self::Linux, Layer::Slab) => "slub-like",
            (Self::Linux, _) => "linux-like",
            (Self::Locked, Layer::Buddy) => "buddy_system_allocator, locked",
            (Self::Locked, _) => "rlsf, locked",
        }
    }
}

/// A row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its layer.
    pub layer: Layer,
    /// Its name in that layer.
    pub name: &'static str,
    /// The work of each CPU.
    pub shape: Shape,
    choose: Requests,
}

/// The requests of a row.
#[derive(Clone, Copy, Debug)]
enum Requests {
    Frames(fn(&mut Random) -> Order),
    Objects(usize),
    /// Objects whose frees wait for grace periods.
    Deferred(usize),
    Memory(fn(&mut Random) -> Layout),
}

/// A program of a CPU, which returns how many blocks it allocated and freed.
pub type Program = Box<dyn FnMut() -> usize + Send>;

impl Row {
    /// All rows.
    pub fn all() -> Vec<Self> {
        use Freed::{AtRandom, FirstFirst, LastFirst};
        use Shape::{Bulk, Exit, Grow, HandOn, Pair, Purge, Replace, ReplaceLast, Serve};
        let frames = |name, shape, choose| Self {
            layer: Layer::Buddy,
            name,
            shape,
            choose: Requests::Frames(choose),
        };
        let objects = |name, shape, bytes| Self {
            layer: Layer::Slab,
            name,
            shape,
            choose: Requests::Objects(bytes),
        };
        let deferred = |name, shape, bytes| Self {
            layer: Layer::Slab,
            name,
            shape,
            choose: Requests::Deferred(bytes),
        };
        let memory = |name, shape, choose| Self {
            layer: Layer::Kmalloc,
            name,
            shape,
            choose: Requests::Memory(choose),
        };
        vec![
            frames("pair-0", Pair, |_| order(0)),
            frames("pair-3", Pair, |_| order(3)),
            frames("pair-9", Pair, |_| order(9)),
            frames("bulk-0-free-ordered", Bulk(FRAMES, FirstFirst), |_| order(0)),
            frames("bulk-0-free-random", Bulk(FRAMES, AtRandom), |_| order(0)),
            frames("bulk-9-free-random", Bulk(AREAS, AtRandom), |_| order(9)),
            frames("mixed-lifo", ReplaceLast(64), mixed_order),
            frames("mixed-random", Replace(1024), mixed_order),
            frames("producer-consumer", HandOn, |_| order(0)),
            frames("purge-remote", Purge(PURGED), |_| order(0)),
            frames("mass-exit", Exit(PROCESS), exit_order),
            objects("pair-64", Pair, 64),
            objects("pair-256", Pair, 256),
            objects("pair-1024", Pair, 1024),
            objects("bulk-64-lifo", Bulk(OBJECTS, LastFirst), 64),
            objects("bulk-64-random", Bulk(OBJECTS, AtRandom), 64),
            objects("bulk-1024-lifo", Bulk(OBJECTS, LastFirst), 1024),
            objects("remote-64", HandOn, 64),
            objects("purge-256", Purge(PURGED), 256),
            deferred("rcu-batches-64", HandOn, 64),
            deferred("rcu-batches-256", HandOn, 256),
            memory("pair-8", Pair, |_| bytes(8)),
            memory("pair-64", Pair, |_| bytes(64)),
            memory("pair-1024", Pair, |_| bytes(1024)),
            memory("pair-2048", Pair, |_| bytes(2048)),
            memory("pair-8192", Pair, |_| bytes(8192)),
            memory("pair-32768", Pair, |_| bytes(32768)),
            memory("actions-300", Replace(300), actions),
            memory("actions-2k", Replace(2000), actions),
            memory("aligned", Replace(100), aligned),
            memory("realloc-grow", Grow(64), |_| bytes(16)),
            memory("zeroed", Pair, |random| bytes(log_uniform(random, 16, 16 << 10))),
            memory("bulk-lifo", Bulk(OBJECTS, LastFirst), small),
            memory("bulk-fifo", Bulk(OBJECTS, FirstFirst), small),
            memory("bulk-random", Bulk(OBJECTS, AtRandom), small),
            memory("handoff-2t", HandOn, small),
            memory("server-2t", Serve(512), actions),
        ]
    }

    /// Returns those who run this row.
    pub fn contestants(&self) -> &'static [Contestant] {
        match (self.layer, self.choose) {
            (_, Requests::Deferred(_)) => &[Contestant::Ours, Contestant::Linux],
            (Layer::Kmalloc, _) => &[Contestant::Ours, Contestant::Locked],
            _ => &[Contestant::Ours, Contestant::Linux, Contestant::Locked],
        }
    }

    /// Returns how many blocks a CPU has to handle before the row is in its steady state.
    pub const fn warm_blocks(&self) -> usize {
        match self.shape {
            Shape::Pair => 2000,
            // Magazines grow with use.
            Shape::Bulk(blocks, _) if matches!(self.layer, Layer::Buddy) => blocks,
            Shape::Bulk(blocks, _) => 4 * blocks,
            Shape::HandOn => 4096,
            Shape::Purge(blocks) | Shape::Exit(blocks) => 2 * blocks,
            Shape::ReplaceLast(held) | Shape::Replace(held) | Shape::Serve(held) => 2 * held + 4000,
            Shape::Grow(held) => 40 * held,
        }
    }

    /// Returns programs of this row for `cpus` of the CPUs of `cpu`, on a fresh allocator of
    /// `contestant`.
    pub fn programs<C: Cpus>(&self, contestant: Contestant, cpu: C, cpus: usize) -> Vec<Program> {
        match (self.choose, contestant) {
            (Requests::Frames(choose), Contestant::Ours) => self.on(Frames::new(cpu), choose, cpus),
            (Requests::Frames(choose), Contestant::Linux) => self.on(Linux::new(cpu), choose, cpus),
            (Requests::Frames(choose), Contestant::Locked) => {
                self.on(LockedFrames::new(), choose, cpus)
            }
            (Requests::Objects(size), Contestant::Ours) => {
                self.on(Objects::new(cpu, bytes(size)), |_| (), cpus)
            }
            (Requests::Objects(size), Contestant::Linux) => {
                self.on(Slub::new(cpu, bytes(size)), |_| (), cpus)
            }
            (Requests::Deferred(size), Contestant::Ours) => {
                self.on(DeferredObjects::new(cpu, bytes(size)), |_| (), cpus)
            }
            (Requests::Deferred(size), _) => {
                self.on(DeferredSlub::new(cpu, bytes(size)), |_| (), cpus)
            }
            (Requests::Objects(64), _) => self.on(LockedMemory::new(), |_| bytes(64), cpus),
            (Requests::Objects(256), _) => self.on(LockedMemory::new(), |_| bytes(256), cpus),
            (Requests::Objects(_), _) => self.on(LockedMemory::new(), |_| bytes(1024), cpus),
            (Requests::Memory(choose), Contestant::Ours) => self.on(Memory::new(cpu), choose, cpus),
            (Requests::Memory(choose), _) => self.on(LockedMemory::new(), choose, cpus),
        }
    }

    fn on<A: Allocator>(&self, allocator: A, choose: Choose<A>, cpus: usize) -> Vec<Program> {
        programs(&Arc::new(allocator), self.shape, choose, cpus)
    }
}

fn order(order: u8) -> Order {
    Order::new(order).expect("a small order")
}

/// The orders of a process' blocks: pages and page tables, stacks, large folios, huge pages.
fn exit_order(random: &mut Random) -> Order {
    order(match random.below(512) {
        0 => 9,
        1..5 => 1,
        5..30 => 2,
        30..50 => 3,
        50..60 => 4,
        _ => 0,
    })
}

fn bytes(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("a small size")
}

fn actions(random: &mut Random) -> Layout {
    bytes(log_uniform(random, 16, 2048))
}

fn small(random: &mut Random) -> Layout {
    bytes(log_uniform(random, 8, 512))
}

fn aligned(random: &mut Random) -> Layout {
    let alignment = 64 << random.below(7);
    let size = 1 + random.below(2 * alignment);
    Layout::from_size_align(size, alignment).expect("a small size")
}
