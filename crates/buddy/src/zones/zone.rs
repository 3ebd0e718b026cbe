//! The methods of a zone that a zone list calls.

use page_frame::{Order, OutOfMemory, PageBlock, PageMap, PageResize, PageSource};

use crate::bitmap::placement::Mobility;
use crate::trace::Pressure;

/// Keeps other crates from implementing [`Zone`]: the safety of a zone list depends on its methods.
pub(crate) mod sealed {
    pub trait Sealed {}
}

/// A zone of a [`ZoneList`](crate::ZoneList): every [`Buddy`](crate::Buddy) is a zone. No other
/// type can implement it.
///
/// ```
/// use buddy::{Mobility, Pressure, Zone};
/// use page_frame::{Order, PageSource};
/// # use buddy::{Buddy, BuildError, Mode, ZeroedMemory};
/// # use page_frame::{DirectMap, FrameNumber, FrameRange, SingleCpu};
/// # use std::mem::MaybeUninit;
/// # type ZoneBuddy<'m> = Buddy<'m, DirectMap, SingleCpu>;
/// # fn zone(memory: &mut [MaybeUninit<u8>], start: usize) -> Result<ZoneBuddy<'_>, BuildError> {
/// #     let frames = [FrameRange::new(FrameNumber::new(start), FrameNumber::new(start + 64))];
/// #     let memory = ZeroedMemory::zero(memory);
/// #     // SAFETY: this example accesses no frame, so none has to be mapped.
/// #     let map = unsafe { DirectMap::at_offset(1 << 40) };
/// #     // SAFETY: clauses 1 and 2: no other code uses the frames, and `map` covers them.
/// #     unsafe { Buddy::new_in(memory, &frames, map, SingleCpu::new(), Mode::Plain) }
/// # }
/// let mut memory = [MaybeUninit::uninit(); 1 << 16];
/// let buddy = zone(&mut memory, 0)?; // 64 frames, frame 0 at address 1 << 40
/// assert!(buddy.covers(1 << 40) && !buddy.covers((1 << 40) + 64 * 4096));
/// assert!(buddy.maps_like(&buddy));
/// assert!(buddy.allows(64) && buddy.pressure() == Pressure::None); // it has no watermarks
/// let block = Zone::allocate_as(&buddy, Order::ZERO, Mobility::Movable)?;
/// // SAFETY: the block came from this buddy, and nothing refers into it.
/// unsafe { buddy.free(block) };
/// buddy.reconcile_next();
/// assert_eq!(buddy.reconcile_all(), 0); // in plain mode no free is deferred
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Zone: PageSource + PageMap + PageResize + sealed::Sealed {
    /// Returns whether `address` lies in a frame of this zone. O(ranges). Example: see [`Zone`].
    fn covers(&self, address: usize) -> bool;

    /// Returns whether both zones map frames to the same addresses. Example: see [`Zone`].
    fn maps_like(&self, other: &Self) -> bool;

    /// Allocates a block of `order` for content of `mobility`. Example: see [`Zone`].
    ///
    /// # Errors
    /// [`OutOfMemory`] as for [`FramePool::allocate_as`](crate::FramePool::allocate_as).
    fn allocate_as(&self, order: Order, mobility: Mobility) -> Result<PageBlock, OutOfMemory>;

    /// Returns whether an ordinary request may take `pages` frames without touching the reserve.
    /// Example: see [`Zone`].
    fn allows(&self, pages: usize) -> bool;

    /// Returns how short memory is. Example: see [`Zone`].
    fn pressure(&self) -> Pressure;

    /// Looks at the next few areas in turn, and reconciles the first of them that has deferred
    /// frees. Example: see [`Zone`].
    fn reconcile_next(&self);

    /// Reconciles all areas with deferred frees; returns the number of frames that are free again.
    /// O(areas), never waits. Example: see [`Zone`].
    fn reconcile_all(&self) -> usize;
}
