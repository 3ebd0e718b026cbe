//! Text files in the formats of kernels, read and written: memory maps, zones, caches and free
//! blocks.

pub mod buddyinfo;
pub mod free_blocks;
pub mod memory_map;
pub mod pagetypeinfo;
pub mod slabinfo;
mod text_lines;
pub mod watermarks;
