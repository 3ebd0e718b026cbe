//! Published allocators, each over a range of memory of its own. They are played by one thread, so
//! without their locks.

use std::alloc::Layout;
use std::io;
use std::ptr::NonNull;

use buddy_slab_allocator::{BuddyAllocator, SlabAllocResult, SlabAllocator, SlabDeallocResult};
use hosted::Mapped;
use page_frame::PAGE_SIZE;

use super::heap::Heap;
use crate::resident::resident_bytes;

/// A heap over a range of memory of its own.
pub(super) struct Ranged<H> {
    // Declared before its memory, so dropped first.
    heap: H,
    memory: Mapped,
}

impl<H> Ranged<H> {
    /// Reserves `bytes` and makes a heap of them.
    pub(super) fn new(bytes: usize, make: impl FnOnce(&Mapped) -> H) -> io::Result<Self> {
        let memory = Mapped::reserve(bytes)?;
        Ok(Self { heap: make(&memory), memory })
    }
}

// SAFETY: clause 1 is that of the heap inside.
unsafe impl<H: Heap> Heap for Ranged<H> {
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.heap.allocate(layout)
    }

    unsafe fn free(&mut self, start: NonNull<u8>, layout: Layout) {
        // SAFETY: clause 1: allocations of the heap inside are handed through as they are.
        unsafe { self.heap.free(start, layout) }
    }

    /// Pages of the range: none of these heaps gives any back.
    fn touched_pages(&self) -> usize {
        let start = self.memory.start().addr().get();
        resident_bytes(start..start + self.memory.bytes()).unwrap_or(0) / PAGE_SIZE
    }
}

/// Bits of the segregated lists: up to 8 GiB in one block.
type Tlsf = rlsf::Tlsf<'static, u32, u32, 28, 32>;
type Talc = talc::base::Talc<talc::source::Manual, talc::base::binning::DefaultBinning>;
type Buddies = buddy_system_allocator::Heap<32>;
/// Alignment of the first page of `buddy-slab-allocator`: the largest block of a recorded kernel.
const BLOCK_ALIGN: usize = 4 << 20;
/// Its slabs end here.
const LARGEST_IN_SLAB: usize = 2048;

// SAFETY: what `Talc` returns for a layout is the caller's.
unsafe impl Heap for Talc {
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the layout is not empty.
        unsafe { talc::base::Talc::allocate(self, layout) }
    }

    unsafe fn free(&mut self, start: NonNull<u8>, layout: Layout) {
        // SAFETY: clause 1: it came from this heap, for this layout.
        unsafe { self.deallocate(start.as_ptr(), layout) }
    }
}

/// Returns `talc` over `memory`.
pub(super) fn talc(memory: &Mapped) -> Talc {
    let mut talc = Talc::new(talc::source::Manual);
    // SAFETY: fresh memory that outlives the heap.
    unsafe { talc.claim(memory.start().as_ptr(), memory.bytes()) }.expect("a large range");
    talc
}

// SAFETY: what `Tlsf` returns for a layout is the caller's.
unsafe impl Heap for Tlsf {
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        rlsf::Tlsf::allocate(self, layout)
    }

    unsafe fn free(&mut self, start: NonNull<u8>, layout: Layout) {
        // SAFETY: clause 1: from this heap, of this alignment.
        unsafe { self.deallocate(start, layout.align()) }
    }
}

/// Returns `rlsf` over `memory`.
pub(super) fn rlsf(memory: &Mapped) -> Tlsf {
    let mut tlsf = Tlsf::new();
    let block = NonNull::slice_from_raw_parts(memory.start(), memory.bytes());
    // SAFETY: fresh memory that outlives the heap.
    unsafe { tlsf.insert_free_block_ptr(block) }.expect("a large range");
    tlsf
}

// SAFETY: what the heap returns for a layout is the caller's.
unsafe impl Heap for Buddies {
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.alloc(layout).ok()
    }

    unsafe fn free(&mut self, start: NonNull<u8>, layout: Layout) {
        // SAFETY: clause 1: from `alloc` of this heap, for this layout.
        unsafe { self.dealloc(start, layout) }
    }
}

/// Returns `buddy_system_allocator` over `memory`.
pub(super) fn buddies(memory: &Mapped) -> Buddies {
    let mut heap = Buddies::new();
    // SAFETY: fresh memory that outlives the heap.
    unsafe { heap.init(memory.start().as_ptr().expose_provenance(), memory.bytes()) };
    heap
}

// SAFETY: what the heap returns for a layout is the caller's.
unsafe impl Heap for linked_list_allocator::Heap {
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.allocate_first_fit(layout).ok()
    }

    unsafe fn free(&mut self, start: NonNull<u8>, layout: Layout) {
        // SAFETY: clause 1: from `allocate` of this heap, for this layout.
        unsafe { self.deallocate(start, layout) }
    }
}

/// Returns `linked_list_allocator` over `memory`.
pub(super) fn linked_list(memory: &Mapped) -> linked_list_allocator::Heap {
    // SAFETY: fresh memory that outlives the heap.
    unsafe { linked_list_allocator::Heap::new(memory.start().as_ptr(), memory.bytes()) }
}

/// `buddy-slab-allocator` as its own global allocator has it, for one CPU.
pub(super) struct BuddySlab {
    slab: SlabAllocator<PAGE_SIZE>,
    buddy: BuddyAllocator<PAGE_SIZE>,
    memory: NonNull<u8>,
}

impl BuddySlab {
    /// Its blocks are aligned to their size from its first page on, which lies behind its metadata:
    /// the region begins where that page is aligned too.
    pub(super) fn new(memory: &Mapped) -> Self {
        let mut skipped = 0;
        loop {
            let bytes = memory.bytes() - skipped;
            // SAFETY: less than the range is skipped.
            let start = unsafe { memory.start().byte_add(skipped) };
            let mut start = NonNull::slice_from_raw_parts(start, bytes);
            let mut buddy = BuddyAllocator::new();
            // SAFETY: the memory belongs to the range, and the allocator of the previous round,
            // which used it, is gone.
            let region = unsafe { start.as_mut() };
            // SAFETY: it outlives the heap.
            unsafe { buddy.init(region) }.expect("a large range");
            let first = buddy.section(0).expect("just added").start;
            let missing = first.next_multiple_of(BLOCK_ALIGN) - first;
            if missing == 0 {
                return Self { slab: SlabAllocator::new(), buddy, memory: memory.start() };
            }
            // The metadata of a smaller region may be a page smaller: once more, then.
            skipped += missing;
        }
    }
}

// SAFETY: objects are of the slab's class, pages of the buddy's blocks.
unsafe impl Heap for BuddySlab {
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        if layout.size() > LARGEST_IN_SLAB {
            let pages = layout.size().div_ceil(PAGE_SIZE);
            let align = layout.align().max(PAGE_SIZE);
            let address = self.buddy.alloc_pages(pages, align).ok()?;
            return NonNull::new(self.memory.as_ptr().with_addr(address));
        }
        loop {
            match self.slab.alloc(layout).ok()? {
                SlabAllocResult::Allocated(object) => return Some(object),
                SlabAllocResult::NeedsSlab { size_class, pages } => {
                    let bytes = pages * PAGE_SIZE;
                    let base = self.buddy.alloc_pages(pages, bytes).ok()?;
                    self.slab.add_slab(size_class, base, bytes, 0);
                }
            }
        }
    }

    unsafe fn free(&mut self, start: NonNull<u8>, layout: Layout) {
        if layout.size() > LARGEST_IN_SLAB {
            let pages = layout.size().div_ceil(PAGE_SIZE);
            return self.buddy.dealloc_pages(start.addr().get(), pages);
        }
        if let SlabDeallocResult::FreeSlab { base, pages } = self.slab.dealloc(start, layout) {
            self.buddy.dealloc_pages(base, pages);
        }
    }
}
