//! Page maps: from an address to what lies there, a tag and an owner for each page.

pub(crate) mod array;
pub(crate) mod deferred_heads;
pub(crate) mod forward;
pub(crate) mod map;
pub(crate) mod tag;
