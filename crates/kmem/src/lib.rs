//! `kmem` looks at memory: it walks through the allocators of this workspace step by step, and replays recorded kernel
//! traces through them.
//!
//! Everything it draws is the state of the real crates; the tool has no model of an allocator. The program is a thin
//! `main.rs` and its commands; what they do is here, where tests and fuzz targets reach it.

pub mod backed;
pub mod buddyinfo;
pub mod bundled;
pub mod check;
pub mod frag;
pub mod import;
pub mod input_error;
pub mod map;
pub mod memory_map;
pub mod pagetypeinfo;
pub mod picture;
pub mod plan;
pub mod replay;
pub mod report;
pub mod resident;
pub mod simulated;
pub mod slabinfo;
pub mod top;
pub mod trace;
pub mod walkthrough;
