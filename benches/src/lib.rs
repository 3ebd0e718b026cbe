//! What the benches share: page allocators behind one trait, workloads, and how a time is taken.
//!
//! To add an allocator implement [`Pages`] for it and name it in [`pages::contestants`]. Workloads live here once; the
//! `versus` program runs them interleaved and prints a table and JSON.

pub mod measure;
pub mod pages;
pub mod workload;

pub use pages::Pages;
