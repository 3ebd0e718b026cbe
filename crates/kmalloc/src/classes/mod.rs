//! The size classes, and the cache of each class.

pub(crate) mod cache_name;
pub(crate) mod class;
pub(crate) mod class_caches;
