//! Zones: zone lists, watermarks, and memory that is added and removed at run time.

pub(crate) mod hotplug;
mod hotplug_error;
pub(crate) mod request;
pub(crate) mod watermark;
pub(crate) mod zone;
pub(crate) mod zone_list;
mod zone_list_error;
pub(crate) mod zone_source;
