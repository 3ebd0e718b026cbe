//! The methods of a zone that a zone list calls.

use page_frame::{Order, OutOfMemory, PageBlock, PageMap, PageResize, PageSource};

use crate::bitmap::placement::Mobility;
use crate::pressure::Pressure;

/// Keeps other crates from implementing [`Zone`]: the safety of a zone list depends on its methods.
pub(crate) mod sealed {
    pub trait Sealed {}
}

/// A zone of a [`ZoneList`](crate::ZoneList): every [`Buddy`](crate::Buddy) is a zone. No other
/// type can implement it.
pub trait Zone: PageSource + PageMap + PageResize + sealed::Sealed {
    /// Returns whether `address` lies in a frame of this zone. O(ranges).
    fn covers(&self, address: usize) -> bool;

    /// Returns whether both zones map frames to the same addresses.
    fn maps_like(&self, other: &Self) -> bool;

    /// Allocates a block of `order` for content of `mobility`.
    ///
    /// # Errors
    /// [`OutOfMemory`] as for [`FramePool::allocate_as`](crate::FramePool::allocate_as).
    fn allocate_as(&self, order: Order, mobility: Mobility) -> Result<PageBlock, OutOfMemory>;

    /// Returns whether an ordinary request may take `pages` frames without touching the reserve.
    fn allows(&self, pages: usize) -> bool;

    /// Returns how short memory is.
    fn pressure(&self) -> Pressure;

    /// Looks at the next few areas in turn, and reconciles the first of them that has deferred
    /// frees.
    fn reconcile_next(&self);

    /// Reconciles all areas with deferred frees; returns the number of frames that are free again.
    fn reconcile_all(&self) -> usize;
}
