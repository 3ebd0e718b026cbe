//! The one error of every allocation.

use core::alloc::LayoutError;
use core::fmt;

/// There was no memory for the request.
///
/// Running out is ordinary and carries no further data: free something, or do without.
///
/// ```
/// use page_frame::{NoPages, Order, OutOfMemory, PageSource};
/// assert_eq!(NoPages.allocate(Order::ZERO).unwrap_err(), OutOfMemory);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of memory")
    }
}

impl core::error::Error for OutOfMemory {}

/// No memory has a layout whose size or alignment does not fit.
impl From<LayoutError> for OutOfMemory {
    fn from(_: LayoutError) -> Self {
        Self
    }
}
