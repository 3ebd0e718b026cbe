//! `kmem` shows what memory allocators do: it walks through the allocators of this workspace step
//! by step, and replays recorded kernel traces on them.
//!
//! The tool draws only data that it reads from the real crates; it has no model of an allocator.
//! The program is a thin `main.rs` with one file per command. The library has everything else, so
//! that tests and fuzz targets can use it.

pub mod any_input;
pub mod backed;
pub mod buddyinfo;
pub mod bundled;
pub mod check;
pub mod diff;
pub mod frag;
pub mod free_blocks;
pub mod import;
pub mod input_error;
mod leak;
pub mod map;
pub mod memory_map;
pub mod output_file;
pub mod pagetypeinfo;
pub mod picture;
pub mod plan;
pub mod recording;
pub mod replay;
pub mod report;
pub mod resident;
pub mod simulated;
pub mod slabinfo;
mod text_lines;
pub mod top;
pub mod trace;
pub mod walkthrough;
pub mod watermarks;
