//! The `slab` layer: object allocators, their workloads, and the rows that compare them.

pub mod allocator;
pub mod colour;
pub mod constructed;
pub mod contestant;
pub mod costs;
mod rivals;
pub mod rows;
pub(crate) mod slub_like;
mod slub_slabs;
pub mod spread;
pub mod workload;
