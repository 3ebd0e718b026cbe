//! Types for the boot: the memory map, and the map from frames to addresses.

pub(crate) mod memory_map;
pub(crate) mod phys_map;
pub(crate) mod region;
pub(crate) mod usable;
