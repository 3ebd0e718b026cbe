//! The shared part of the benches: allocators of each layer behind one trait per layer, workloads,
//! and the measuring of time.
//!
//! | layer | trait to implement for an allocator | where to name it | workloads |
//! |---|---|---|---|
//! | `buddy` | [`Pages`]: blocks by frame number | [`pages::contestants`] | [`workload`] |
//! | `slab` | [`Objects`](objects::allocator::Objects): objects of one layout | [`objects::rows::contestants`] | [`objects::workload`], [`objects::costs`] |
//! | `kmalloc` | the standard library's [`GlobalAlloc`](std::alloc::GlobalAlloc) | [`memory::contestants`] | [`memory::workload`], [`memory::collections`], [`memory::footprint`] |
//!
//! A contestant is a name and a function that makes the allocator. Each layer has our allocator,
//! one that does nothing (the floor of the harness), and the rivals. The `versus` program runs the
//! workloads interleaved and prints a table and JSON. The criterion benches run some of them one
//! after the other.

pub mod asked;
pub mod measure;
pub mod memory;
pub mod objects;
pub mod pages;
pub mod ring;
pub mod row;
pub mod switch;
pub mod workload;

pub use pages::Pages;

/// All programs of the benches, so that collections can be measured on several allocators in one run.
#[global_allocator]
static SWITCH: switch::Switch = switch::Switch;
