//! Purging: when the memory of free pages is returned to the system.

pub(crate) mod background;
pub(crate) mod decay;
pub(crate) mod trim;
