//! A zone list as a page source, for requests with the same constraints.

use core::ptr::NonNull;

use page_frame::{
    Order, OutOfMemory, PageBlock, PageMap, PageResize, PageRun, PageSource, Tag, TagRange,
};

use crate::zones::request::Request;
use crate::zones::zone::Zone;
use crate::zones::zone_list::ZoneList;

/// The page source that serves one kind of request from a [`ZoneList`].
///
/// ```
/// use buddy::{NodeZone, Request, ZoneKind, ZoneList, ZoneSource};
/// use page_frame::{Order, PageResize};
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
/// let buddy = zone(&mut memory, 0)?;
/// let zones = [NodeZone { node: 0, kind: ZoneKind::Normal, buddy: &buddy }];
/// let list = ZoneList::new(&zones)?;
/// // One source for each kind of request, as cheap to copy as a reference:
/// let reserve = Request { may_use_reserve: true, ..Request::default() };
/// let source: ZoneSource<'_, '_, _> = list.source(reserve);
/// assert!(source.request().may_use_reserve);
/// let run = source.allocate_run(3, Order::ZERO)?; // pages
/// // SAFETY: the run came from this source, and nothing refers into it.
/// unsafe { source.free_run(run.start(), run.pages()) };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ZoneSource<'l, 'z, Z> {
    list: &'l ZoneList<'z, Z>,
    request: Request,
}

impl<Z> Clone for ZoneSource<'_, '_, Z> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Z> Copy for ZoneSource<'_, '_, Z> {}

impl<'z, Z: Zone> ZoneList<'z, Z> {
    /// Returns the page source that serves `request`, a value of a few words.
    /// Example: see [`ZoneList`].
    pub const fn source(&self, request: Request) -> ZoneSource<'_, 'z, Z> {
        ZoneSource { list: self, request }
    }
}

impl<Z> ZoneSource<'_, '_, Z> {
    /// Returns the constraints. Example: see [`ZoneSource`].
    pub const fn request(&self) -> Request {
        self.request
    }
}

// SAFETY: clauses 1 and 2: each buddy of the list keeps them. By I1 of `ZoneList`, `zone_of` finds
// the buddy that lent a block.
unsafe impl<Z: Zone> PageSource for ZoneSource<'_, '_, Z> {
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        let mobility = self.request.mobility;
        self.list.serve(self.request, order.pages(), |zone| zone.allocate_as(order, mobility))
    }

    #[track_caller]
    unsafe fn free(&self, block: PageBlock) {
        let zone = self.list.zone_of(block.start().addr().get());
        // SAFETY: clause 1 of `free`: by I1 of `ZoneList` the block came from the zone that covers
        // its first page. Clause 2: clause 2 of this function.
        unsafe { zone.free(block) }
    }
}

// SAFETY: each method forwards to the map of the zone that the address lies in. For an address in
// no zone, the map of the first zone answers as for any address out of its range.
unsafe impl<Z: Zone> PageMap for ZoneSource<'_, '_, Z> {
    #[inline]
    fn tag(&self, address: usize) -> Tag {
        self.list.zone_of(address).tag(address)
    }

    #[inline]
    fn tag_range(&self) -> TagRange {
        let ranges = self.list.zones().iter().map(|zone| zone.buddy.tag_range());
        ranges.max_by_key(TagRange::pages).unwrap_or(TagRange::EMPTY)
    }

    #[inline]
    fn owner(&self, address: usize) -> *mut () {
        self.list.zone_of(address).owner(address)
    }

    unsafe fn set_owner(&self, start: NonNull<u8>, pages: usize, tag: Tag, owner: NonNull<()>) {
        let zone = self.list.zone_of(start.addr().get());
        // SAFETY: clause 1 of `set_owner`: the pages belong to the caller, and a block lies in one
        // zone.
        unsafe { zone.set_owner(start, pages, tag, owner) }
    }

    unsafe fn clear_owner(&self, start: NonNull<u8>, order: Order) {
        let zone = self.list.zone_of(start.addr().get());
        // SAFETY: clause 1 of `clear_owner`: the block belongs to the caller, and lies in the zone
        // of its first page.
        unsafe { zone.clear_owner(start, order) }
    }

    unsafe fn set_run(&self, start: NonNull<u8>, pages: usize) {
        let zone = self.list.zone_of(start.addr().get());
        // SAFETY: clause 1 of `set_run`: the run belongs to the caller, and lies in the zone of its
        // first page, as resizing never leaves a zone.
        unsafe { zone.set_run(start, pages) }
    }

    unsafe fn clear_run(&self, start: NonNull<u8>, order: Order) {
        let zone = self.list.zone_of(start.addr().get());
        // SAFETY: clause 1 of `clear_run`: the block belongs to the caller, and lies in the zone of
        // its first page.
        unsafe { zone.clear_run(start, order) }
    }

    #[inline]
    fn pointer(&self, address: usize) -> NonNull<u8> {
        self.list.zone_of(address).pointer(address)
    }
}

// SAFETY: clauses 1 and 2: each buddy of the list keeps them. A run never crosses from one zone
// into another: each buddy grows it within its own frames.
unsafe impl<Z: Zone> PageResize for ZoneSource<'_, '_, Z> {
    fn allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        self.list.serve(self.request, pages, |zone| zone.allocate_run(pages, alignment))
    }

    #[track_caller]
    unsafe fn free_run(&self, start: NonNull<u8>, pages: usize) {
        let zone = self.list.zone_of(start.addr().get());
        // SAFETY: clause 1 of `free_run`: by I1 of `ZoneList` the run came from the zone of its
        // first page. Clause 2: clause 2 of this function.
        unsafe { zone.free_run(start, pages) }
    }

    unsafe fn resize_run(&self, start: NonNull<u8>, pages: usize, new_pages: usize) -> bool {
        let zone = self.list.zone_of(start.addr().get());
        let growth = new_pages.saturating_sub(pages);
        if growth > 0 && !self.request.may_use_reserve && !zone.allows(growth) {
            return false;
        }
        // SAFETY: clause 1 of `resize_run`: by I1 of `ZoneList` the run came from the zone of its
        // first page. Clause 2: clause 2 of this function.
        unsafe { zone.resize_run(start, pages, new_pages) }
    }
}
