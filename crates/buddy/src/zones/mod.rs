//! Zones: parts of memory that stand in for one another, with watermarks and lists of zones.

pub(crate) mod request;
pub(crate) mod watermark;
pub(crate) mod zone;
pub(crate) mod zone_list;
mod zone_list_error;
pub(crate) mod zone_source;
