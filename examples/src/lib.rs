//! Example programs for users of these crates. Run one with `cargo run -p examples --example NAME`:
//!
//! - `boot`: from a firmware's memory map to a page allocator, as a kernel does at its start.
//! - `inode_cache`: a file system's inodes in a cache that grows, keeps objects constructed,
//!   shrinks and grows again.
//! - `own_page_source`: a page source over a plain vector, and caches on it.
//! - `global_allocator`: threads and collections on `kmalloc`, with every page returned at the end.
//! - `frame_allocator`: a buddy as the frame allocator of the `x86_64` crate.
//! - `locked_heap`: a heap in one line for users of `linked_list_allocator` and `talc`.
//! - `static_memory`: a microcontroller's static memory as page source.

// The README's example is compiled and run with the tests.
#![cfg_attr(doctest, doc = include_str!("../../README.md"))]
