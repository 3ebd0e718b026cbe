//! What people and judged allocators write: scripts with their requests, sizes and names; their
//! limits; and what is wrong with them.

pub(crate) mod complaint;
pub(crate) mod limits;
pub(crate) mod names;
pub(crate) mod request;
pub(crate) mod script;
pub(crate) mod size;
