//! `kmem` shows what memory allocators do: it walks through the allocators of this workspace step
//! by step, and replays recorded kernel traces on them.
//!
//! The tool draws only data that it reads from the real crates; it has no model of an allocator.
//! The program is a thin `main.rs` with one file per command. The library has everything else, so
//! that tests and fuzz targets can use it.

pub mod any_input;
pub mod bundled;
pub mod import;
pub mod input_error;
pub mod kernel_files;
pub mod memory;
pub mod output_file;
pub mod picture;
pub mod recording;
pub mod replay;
pub mod report;
pub mod trace;
pub mod views;
pub mod walkthrough;
