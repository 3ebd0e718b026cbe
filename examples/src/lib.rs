//! Programs that a user of these crates would write. Run one with `cargo run -p examples --example NAME`:
//!
//! - `boot`: from a firmware's memory map to a page allocator, as a kernel does it when it starts.
//! - `inode_cache`: a file system's inodes in a cache that grows, keeps objects constructed, shrinks and grows again.
//! - `own_page_source`: a page source of one's own over a plain vector, and caches over it.
//! - `global_allocator`: threads and collections on `kmalloc`, and all pages back at the end.
