//! What a boot needs: the memory that a machine has, and the addresses at which its frames are mapped.

pub(crate) mod memory_map;
pub(crate) mod phys_map;
pub(crate) mod region;
pub(crate) mod usable;
