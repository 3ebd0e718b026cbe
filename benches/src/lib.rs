//! Shared by the benches: the allocators of each layer behind one trait per layer, the workloads,
//! and the measurement of times.
//!
//! | layer | trait to implement for an allocator | where to name it |
//! |---|---|---|
//! | `buddy` | [`Pages`](pages::allocator::Pages) | [`pages::rows::contestants`] |
//! | `slab` | [`Objects`](objects::allocator::Objects) | [`objects::rows::contestants`] |
//! | `kmalloc` | [`GlobalAlloc`](std::alloc::GlobalAlloc) | [`memory::contestants`] |
//!
//! The workloads are in [`pages::workload`]; [`objects::workload`] and [`objects::costs`];
//! [`memory::workload`], [`memory::collections`] and [`memory::footprint`].
//!
//! A contestant is a name and a function that makes the allocator. Each layer has a contestant of
//! this workspace, the floor, which does nothing and so measures the harness, and the rivals. The
//! `versus` program runs all workloads interleaved and prints a table and JSON. The criterion
//! benches run some of the same workloads.

pub mod asked;
pub mod exclusive;
pub mod measure;
pub mod memory;
pub mod objects;
pub mod pages;
pub mod ring;
pub mod row;
pub mod scaling;
pub mod soak;
pub mod switch;

/// All programs of the benches, so that collections can be measured on several allocators in one
/// run.
#[global_allocator]
static SWITCH: switch::Switch = switch::Switch;
