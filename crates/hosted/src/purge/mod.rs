//! Purging: when the memory behind free pages goes back to the system.

pub(crate) mod background;
pub(crate) mod policy;
pub(crate) mod trim;
