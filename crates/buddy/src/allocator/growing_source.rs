//! The growing buddy as a page source: each block, run and address belongs to one buddy.

use core::ptr::{self, NonNull};

use page_frame::{
    Cpu, Fault, FaultKind, Order, OutOfMemory, PageBlock, PageMap, PageResize, PageRun, PageSource,
    PhysMap, Tag, TagRange, panic_on_fault,
};

use crate::allocator::buddy::Buddy;
use crate::allocator::growing::GrowingBuddy;

/// Returns the buddy of an address, if it is in some range.
#[inline]
fn at<M: PhysMap, C>(frames: &GrowingBuddy<M, C>, address: usize) -> Option<&Buddy<'static, M, C>> {
    frames.at(frames.phys().frame(address))
}

/// Returns the buddy of a block or run that is freed or resized.
///
/// # Panics
/// With the fault when no range has the address.
#[track_caller]
fn owner_of<M: PhysMap, C>(
    frames: &GrowingBuddy<M, C>,
    start: NonNull<u8>,
) -> &Buddy<'static, M, C> {
    let address = start.addr().get();
    // No closure, as the fault names the caller.
    let Some(buddy) = at(frames, address) else {
        panic_on_fault(&Fault::at_address(FaultKind::ForeignPointer, address));
        unreachable!("`panic_on_fault` panics")
    };
    buddy
}

// SAFETY: clauses 1 and 2: the buddies allocate and free every block, each of its own range.
unsafe impl<M: PhysMap + Clone, C: Cpu + Clone> PageSource for GrowingBuddy<M, C> {
    #[inline]
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        self.allocate_by(|buddy| buddy.allocate(order))
    }

    #[inline]
    #[track_caller]
    unsafe fn free(&self, block: PageBlock) {
        let buddy = owner_of(self, block.start());
        // SAFETY: clauses 1 and 2 are the caller's; the block is in this buddy's range.
        unsafe { buddy.free(block) };
    }
}

// SAFETY: clauses 1 and 3: each address is looked up in the buddy of its range. Clause 2: the range
// is that of the first buddy, which stays where it is (I1 of `growing.rs`).
unsafe impl<M: PhysMap, C> PageMap for GrowingBuddy<M, C> {
    #[inline]
    fn tag(&self, address: usize) -> Tag {
        at(self, address).map_or(Tag::NONE, |buddy| buddy.tag(address))
    }

    fn tag_range(&self) -> TagRange {
        self.parts().next().map_or(TagRange::EMPTY, |part| part.buddy.tag_range())
    }

    #[inline]
    fn owner(&self, address: usize) -> *mut () {
        at(self, address).map_or(ptr::null_mut(), |buddy| buddy.owner(address))
    }

    unsafe fn set_owner(&self, start: NonNull<u8>, pages: usize, tag: Tag, owner: NonNull<()>) {
        if let Some(buddy) = at(self, start.addr().get()) {
            // SAFETY: clause 1 is the same for the buddy, whose range has the pages.
            unsafe { buddy.set_owner(start, pages, tag, owner) };
        }
    }

    unsafe fn clear_owner(&self, start: NonNull<u8>, order: Order) {
        if let Some(buddy) = at(self, start.addr().get()) {
            // SAFETY: clause 1 is the same for the buddy, whose range has the block.
            unsafe { buddy.clear_owner(start, order) };
        }
    }

    unsafe fn set_run(&self, start: NonNull<u8>, pages: usize) {
        if let Some(buddy) = at(self, start.addr().get()) {
            // SAFETY: clause 1 is the same for the buddy, whose range has the run.
            unsafe { buddy.set_run(start, pages) };
        }
    }

    unsafe fn clear_run(&self, start: NonNull<u8>, order: Order) {
        if let Some(buddy) = at(self, start.addr().get()) {
            // SAFETY: clause 1 is the same for the buddy, whose range has the block.
            unsafe { buddy.clear_run(start, order) };
        }
    }

    #[inline]
    fn pointer(&self, address: usize) -> NonNull<u8> {
        match at(self, address) {
            Some(buddy) => buddy.pointer(address),
            // Beyond all ranges there is no memory, so the pointer is to nothing.
            None => {
                NonNull::new(ptr::without_provenance_mut(address)).unwrap_or(NonNull::dangling())
            }
        }
    }
}

// SAFETY: clauses 1 and 2: the buddies allocate, resize and free every run, each of its own range.
unsafe impl<M: PhysMap + Clone, C: Cpu + Clone> PageResize for GrowingBuddy<M, C> {
    fn allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        self.allocate_by(|buddy| buddy.allocate_run(pages, alignment))
    }

    #[track_caller]
    unsafe fn free_run(&self, start: NonNull<u8>, pages: usize) {
        let buddy = owner_of(self, start);
        // SAFETY: clauses 1 and 2 are the caller's; the run is in this buddy's range.
        unsafe { buddy.free_run(start, pages) };
    }

    #[track_caller]
    unsafe fn resize_run(&self, start: NonNull<u8>, pages: usize, new_pages: usize) -> bool {
        let buddy = owner_of(self, start);
        // SAFETY: clauses 1 and 2 are the caller's; the run is in this buddy's range.
        unsafe { buddy.resize_run(start, pages, new_pages) }
    }
}
