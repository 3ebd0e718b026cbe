//! The `kmalloc` layer: allocators of any size, their workloads, and the rows that compare them.

pub mod cold;
pub mod collections;
pub mod contestant;
pub mod contestants;
pub mod footprint;
pub(crate) mod requests;
pub mod rows;
mod server;
pub mod small;
pub mod workload;
