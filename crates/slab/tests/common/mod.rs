//! Page sources for the tests: the buddy of this repository, one from crates.io, and a wrapper with
//! a callback.

#![allow(dead_code, unreachable_pub)]

use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::Mutex;

use buddy::{Buddy, Mode, ZeroedMemory};
use buddy_system_allocator::FrameAllocator;
use hosted::Mapped;
use page_frame::{
    Cpu, DirectMap, Order, OutOfMemory, PAGE_SIZE, PageBlock, PageMap, PageMapArray, PageSource,
};

/// The buddy of this repository over mapped memory.
pub struct OurBuddy<C: Cpu> {
    // Declared before the memory that it lies in, and so dropped first.
    pub buddy: Buddy<'static, DirectMap, C>,
    _memory: [Mapped; 2],
}

impl<C: Cpu> OurBuddy<C> {
    pub fn new(pages: usize, cpu: C) -> Self {
        let memory = Mapped::reserve(pages * PAGE_SIZE).expect("address space");
        let ranges = [memory.frames()];
        let layout = Buddy::<DirectMap, C>::metadata_layout(&ranges, cpu.slots()).expect("frames");
        let metadata = Mapped::reserve(layout.size()).expect("address space");
        let map = memory.direct_map();
        // SAFETY: the mapping is fresh, so zero, page-aligned and not shared, and stays as long
        // as the allocator.
        let zeroed = unsafe { ZeroedMemory::from_zeroed(metadata.start(), metadata.bytes()) };
        // SAFETY: the frames are a fresh mapping that no other code uses, and `map` covers it.
        let buddy = unsafe { Buddy::new_in(zeroed, &ranges, map, cpu, Mode::Cached) };
        Self { buddy: buddy.expect("frames"), _memory: [memory, metadata] }
    }
}

/// The allocator of the crate `buddy_system_allocator`, which has frame numbers only, with a page
/// map beside it.
pub struct Published {
    frames: Mutex<FrameAllocator<20>>,
    map: PageMapArray<'static>,
    start: NonNull<u8>,
    _memory: [Mapped; 2],
}

// SAFETY: `start` is a base for address arithmetic.
unsafe impl Sync for Published {}
// SAFETY: shared references change nothing.
unsafe impl Send for Published {}

impl Published {
    pub fn new(pages: usize) -> Self {
        let memory = Mapped::reserve(pages * PAGE_SIZE).expect("address space");
        let entries = Mapped::reserve(PageMapArray::metadata_bytes(pages)).expect("address space");
        // SAFETY: fresh mappings: zero, ours, aligned to pages; they live as long as the map, in
        // the same struct.
        let map = unsafe { PageMapArray::new_in(memory.start(), pages, entries.start()) };
        let mut frames = FrameAllocator::new();
        frames.add_frame(0, pages);
        let (frames, start) = (Mutex::new(frames), memory.start());
        Self { frames, map, start, _memory: [memory, entries] }
    }

    /// Returns how many single pages are free: allocates all of them, and frees them again.
    pub fn free_pages(&self) -> usize {
        let mut frames = self.frames.lock().expect("no panic");
        let taken: Vec<_> = std::iter::from_fn(|| frames.alloc(1)).collect();
        taken.iter().for_each(|frame| frames.dealloc(*frame, 1));
        taken.len()
    }
}

// SAFETY: clause 1: the frames of the mapping are handed out by the published allocator, each to
// one owner; the mapping starts aligned to its largest block. Clause 2: nothing panics after the
// frame was given back.
unsafe impl PageSource for Published {
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        let frame = self.frames.lock().expect("no panic").alloc(order.pages());
        let offset = frame.ok_or(OutOfMemory)? * PAGE_SIZE;
        // SAFETY: the frame is one of the mapping's.
        let start = unsafe { self.start.add(offset) };
        // SAFETY: ours since the line above, aligned as the allocator's blocks are.
        Ok(unsafe { PageBlock::from_raw(start, order, false) })
    }

    unsafe fn free(&self, block: PageBlock) {
        let (start, order) = block.into_raw();
        let frame = (start.addr().get() - self.start.addr().get()) / PAGE_SIZE;
        self.frames.lock().expect("no panic").dealloc(frame, order.pages());
    }
}

// SAFETY: clause 1: always the map of the field, which lives as long as this value.
unsafe impl page_frame::ForwardPageMap for Published {
    #[inline(always)]
    fn page_map(&self) -> &impl page_frame::PageMap {
        &self.map
    }
}

/// A page source that runs a callback at each allocation and at each free. A cache that holds a
/// lock or a slot meanwhile would hang or fail in the callback.
pub struct CallingBack<'a, P> {
    pub source: P,
    pub called: RefCell<Option<Box<dyn FnMut() + 'a>>>,
}

impl<P> CallingBack<'_, P> {
    fn call(&self) {
        // Taken out during the call, so that the callback does not run inside itself.
        let called = self.called.borrow_mut().take();
        if let Some(mut call) = called {
            call();
            *self.called.borrow_mut() = Some(call);
        }
    }
}

// SAFETY: blocks come from and go to the wrapped source unchanged.
unsafe impl<P: PageSource> PageSource for CallingBack<'_, P> {
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        self.call();
        self.source.allocate(order)
    }

    unsafe fn free(&self, block: PageBlock) {
        self.call();
        // SAFETY: the wrapped source returned this block: calling back changes no block.
        unsafe { self.source.free(block) }
    }
}

// SAFETY: clause 1: always the map of the field, which lives as long as this value.
unsafe impl<'a, P: PageMap> page_frame::ForwardPageMap for CallingBack<'a, P> {
    #[inline(always)]
    fn page_map(&self) -> &impl page_frame::PageMap {
        &self.source
    }
}
