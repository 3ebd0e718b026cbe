//! The part of a cache that one CPU uses alone: slots with magazines, and the memory of the slots.

pub(crate) mod magazine;
pub(crate) mod slot;
pub(crate) mod slot_arena;
