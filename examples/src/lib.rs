//! Programs that a user of these crates would write. Run one with `cargo run -p examples --example NAME`:
//!
//! - `boot`: from a firmware's memory map to a page allocator, as a kernel does it when it starts.
//! - `inode_cache`: a file system's inodes in a cache that grows, keeps objects constructed, shrinks and grows again.
//! - `own_page_source`: a page source of one's own over a plain vector, and caches over it.
//! - `global_allocator`: threads and collections on `kmalloc`, and all pages back at the end.
//! - `frame_allocator`: a buddy as the frame allocator of the `x86_64` crate.
//! - `locked_heap`: a heap that is a constant, for who comes from `linked_list_allocator`.
//! - `static_memory`: a microcontroller's static memory as page source.

// The README's example is compiled and run with the tests.
#![cfg_attr(doctest, doc = include_str!("../../README.md"))]
