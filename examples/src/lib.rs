//! Programs that a user of these crates would write. Run one with `cargo run -p examples --example NAME`:
//!
//! - `boot`: from a firmware's memory map to a page allocator, as a kernel does it when it starts.
