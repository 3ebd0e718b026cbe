//! Published page allocators, each behind the trait of one thread; [`Locked`] makes any of them
//! shared.

use bitmap_allocator::{BitAlloc, BitAlloc16M};
use buddy_slab_allocator::BuddyAllocator;
use hosted::Mapped;
use page_frame::{Order, PAGE_SIZE};

use crate::pages::allocator::{Pages, SharedPages};

/// Any allocator in a spin lock.
pub(super) struct Locked<P>(spin::Mutex<P>);

impl<P> Locked<P> {
    pub(super) fn new(pages: P) -> Self {
        Self(spin::Mutex::new(pages))
    }
}

impl<P: Pages + Send> SharedPages for Locked<P> {
    #[inline]
    fn allocate(&self, order: Order) -> Option<usize> {
        self.0.lock().allocate(order)
    }

    #[inline]
    fn free(&self, frame: usize, order: Order) {
        self.0.lock().free(frame, order);
    }

    fn metadata_bytes(&self) -> Option<usize> {
        self.0.lock().metadata_bytes()
    }
}

/// `buddy_system_allocator`: an ordered set of free blocks per order. Its metadata is on the heap
/// and grows with use.
pub(super) struct BuddySystem(buddy_system_allocator::FrameAllocator<32>);

impl BuddySystem {
    pub(super) fn new(frames: usize) -> Self {
        let mut allocator = buddy_system_allocator::FrameAllocator::new();
        allocator.add_frame(0, frames);
        Self(allocator)
    }
}

impl Pages for BuddySystem {
    #[inline]
    fn allocate(&mut self, order: Order) -> Option<usize> {
        self.0.alloc(order.pages())
    }

    #[inline]
    fn free(&mut self, frame: usize, order: Order) {
        self.0.dealloc(frame, order.pages());
    }
}

/// `bitmap-allocator`: a tree of 16 bits over 16 children. Its type fixes the capacity at 64 GiB.
pub(super) struct Bitmap(Box<BitAlloc16M>);

impl Bitmap {
    pub(super) fn new(frames: usize) -> Self {
        // The value is two megabytes and is built on a stack before it is moved to the heap.
        let build = move || {
            let mut bits = Box::new(BitAlloc16M::DEFAULT);
            bits.insert(0..frames);
            bits
        };
        let thread = std::thread::Builder::new().stack_size(32 << 20).spawn(build);
        Self(thread.expect("room for a stack").join().expect("building does not panic"))
    }
}

impl Pages for Bitmap {
    #[inline]
    fn allocate(&mut self, order: Order) -> Option<usize> {
        if order == Order::ZERO {
            return self.0.alloc();
        }
        self.0.alloc_contiguous(None, order.pages(), order.index())
    }

    #[inline]
    fn free(&mut self, frame: usize, order: Order) {
        let freed = match order {
            Order::ZERO => self.0.dealloc(frame),
            _ => self.0.dealloc_contiguous(frame, order.pages()),
        };
        assert!(freed, "the workloads free once");
    }

    fn metadata_bytes(&self) -> Option<usize> {
        Some(size_of::<BitAlloc16M>())
    }
}

/// `buddy-slab-allocator`: lists of free blocks through structs of pages, at the start of the
/// memory that it manages.
pub(super) struct BuddySlab {
    allocator: BuddyAllocator<PAGE_SIZE>,
    /// The address of its first page.
    start: usize,
    /// Address space for all frames; only the metadata is ever touched.
    _memory: Mapped,
    metadata_bytes: usize,
}

impl BuddySlab {
    pub(super) fn new(frames: usize) -> Self {
        let metadata_bytes = BuddyAllocator::<PAGE_SIZE>::required_meta_size(frames * PAGE_SIZE);
        // The section's description takes less than a KiB; the rest of its last page is too small
        // to be a frame.
        let bytes = frames * PAGE_SIZE + (metadata_bytes + 1024).next_multiple_of(PAGE_SIZE);
        let memory = Mapped::reserve(bytes).expect("address space for the frames");
        let mut allocator = BuddyAllocator::new();
        let region = std::ptr::slice_from_raw_parts_mut(memory.start().as_ptr(), memory.bytes());
        // SAFETY: the mapping is ours, reads as zero, and no other reference to it exists.
        let region = unsafe { &mut *region };
        // SAFETY: the region is dropped after the allocator: fields drop in order.
        unsafe { allocator.init(region) }.expect("the region has room for its metadata");
        let start = allocator.section(0).expect("just added").start;
        Self { allocator, start, _memory: memory, metadata_bytes }
    }
}

impl Pages for BuddySlab {
    #[inline]
    fn allocate(&mut self, order: Order) -> Option<usize> {
        let address = self.allocator.alloc_pages(order.pages(), PAGE_SIZE).ok()?;
        Some((address - self.start) / PAGE_SIZE)
    }

    #[inline]
    fn free(&mut self, frame: usize, order: Order) {
        self.allocator.dealloc_pages(self.start + frame * PAGE_SIZE, order.pages());
    }

    fn metadata_bytes(&self) -> Option<usize> {
        Some(self.metadata_bytes)
    }
}
