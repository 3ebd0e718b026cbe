//! How one slab is laid out: its objects, the links of those that are free, and its header.

pub(crate) mod divisor;
pub(crate) mod geometry;
pub(crate) mod header;
pub(crate) mod links;
