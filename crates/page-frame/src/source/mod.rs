//! Page sources: where pages come from, and the adapters around one.

pub(crate) mod arena;
mod arena_bits;
mod arena_bytes;
mod arena_pages;
mod bit_array;
pub(crate) mod byte_source;
pub(crate) mod counted;
mod granules;
pub(crate) mod limited;
mod longest_runs;
mod page_bits;
pub(crate) mod page_source;
pub(crate) mod reclaiming;
pub(crate) mod regions;
pub(crate) mod run;
pub(crate) mod shrink;
pub(crate) mod shrink_list;
