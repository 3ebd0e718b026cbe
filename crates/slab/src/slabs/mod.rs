//! Slabs: how they are cut, which objects of them are free, and the set of all slabs of a cache.

pub(crate) mod chain;
pub(crate) mod free_word;
pub(crate) mod geometry;
pub(crate) mod grow;
pub(crate) mod header;
pub(crate) mod links;
pub(crate) mod list;
pub(crate) mod release;
pub(crate) mod set;
