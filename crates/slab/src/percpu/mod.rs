//! What each CPU keeps: slots, magazines, the depot, and the allocation path through them.

pub(crate) mod depot;
pub(crate) mod depot_transfer;
pub(crate) mod handle;
pub(crate) mod magazine;
pub(crate) mod path;
pub(crate) mod sizing;
pub(crate) mod slab_transfer;
pub(crate) mod slot;
pub(crate) mod slot_arena;
