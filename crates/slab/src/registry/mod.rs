//! The caches of a system: their list, what they share, and their statistics.

pub(crate) mod cache_list;
pub(crate) mod frozen;
pub(crate) mod handle;
pub(crate) mod inner;
pub(crate) mod shared;
pub(crate) mod stats;
