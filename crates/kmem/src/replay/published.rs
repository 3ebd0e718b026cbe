//! Published allocators, each over a range of memory of its own. One thread replays, so they are
//! used without their locks.

use std::alloc::Layout;
use std::io;
use std::ptr::NonNull;

use buddy_slab_allocator::{BuddyAllocator, SlabAllocResult, SlabAllocator, SlabDeallocResult};
use hosted::Mapped;
use page_frame::PAGE_SIZE;

use super::heap::Heap;
use crate::memory::resident::resident_bytes;

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

// SAFETY: clause 1 of `Heap`: the inner heap fulfils it.
unsafe impl<H: Heap> Heap for Ranged<H> {
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.heap.allocate(layout)
    }

    unsafe fn free(&mut self, start: NonNull<u8>, layout: Layout) {
        // SAFETY: clause 1 of `Heap::free`: `allocate` returned the inner heap's pointer unchanged.
        unsafe { self.heap.free(start, layout) }
    }

    /// Returns the resident pages of the range: none of these heaps releases pages to the system.
    fn touched_pages(&self) -> usize {
        let start = self.memory.start().addr().get();
        resident_bytes(start..start + self.memory.bytes()).unwrap_or(0) / PAGE_SIZE
    }
}

/// `rlsf` with 28 x 32 segregated lists: blocks of up to 8 GiB.
type Tlsf = rlsf::Tlsf<'static, u32, u32, 28, 32>;
type Talc = talc::base::Talc<talc::source::Manual, talc::base::binning::DefaultBinning>;
type Buddies = buddy_system_allocator::Heap<32>;
/// Alignment of the first page of `buddy-slab-allocator`: the largest block of a recorded kernel.
const BLOCK_ALIGN: usize = 4 << 20;
/// The largest size in bytes that the slabs of `buddy-slab-allocator` serve.
const LARGEST_IN_SLAB: usize = 2048;

// SAFETY: clause 1 of `Heap`: `Talc` returns memory valid for the layout, to one user at a time.
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

// SAFETY: clause 1 of `Heap`: `Tlsf` returns memory valid for the layout, to one user at a time.
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

// SAFETY: clause 1 of `Heap`: the buddies return memory valid for the layout, to one user at a
// time.
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

// SAFETY: clause 1 of `Heap`: the list returns memory valid for the layout, to one user at a time.
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

/// `buddy-slab-allocator`, composed as in its own global allocator, for one CPU.
pub(super) struct BuddySlab {
    slab: SlabAllocator<PAGE_SIZE>,
    buddy: BuddyAllocator<PAGE_SIZE>,
    memory: NonNull<u8>,
}

impl BuddySlab {
    /// Makes the heap. The allocator aligns blocks relative to its first page, which follows its
    /// metadata. So the region starts where that first page is itself aligned.
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
            // SAFETY: the region outlives the heap.
            unsafe { buddy.init(region) }.expect("a large range");
            let first = buddy.section(0).expect("just added").start;
            let missing = first.next_multiple_of(BLOCK_ALIGN) - first;
            if missing == 0 {
                return Self { slab: SlabAllocator::new(), buddy, memory: memory.start() };
            }
            // A smaller region may have a page less of metadata, so try again.
            skipped += missing;
        }
    }
}

// SAFETY: clause 1 of `Heap`: objects are of their slab class, pages are blocks of the buddy.
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
