//! Published allocators as targets: each over a range of memory of its own, asked for every object with its layout. They are
//! played by one thread, so without their locks.

use std::alloc::Layout;
use std::io;
use std::ptr::NonNull;

use hosted::Mapped;
use page_frame::{OutOfMemory, PAGE_SIZE};

use super::outcome::StackTotals;
use super::target::{NoCache, OBJECT_ALIGN, ObjectTarget};
use crate::resident::resident_bytes;

/// Names of those that this program was built with.
pub const NAMES: &[&str] = &[
    #[cfg(feature = "rivals")]
    "talc",
    #[cfg(feature = "rivals")]
    "rlsf",
    #[cfg(feature = "rivals")]
    "buddy_system_allocator",
    #[cfg(feature = "rivals")]
    "buddy-slab-allocator",
    #[cfg(feature = "rivals")]
    "linked_list_allocator",
    "system",
];

/// Names of all that there are.
pub const ALL: [&str; 6] = [
    "talc",
    "rlsf",
    "buddy_system_allocator",
    "buddy-slab-allocator",
    "linked_list_allocator",
    "system",
];

/// Memory of any layout.
///
/// # Safety
/// 1. What `allocate` returns is valid for the layout, and nobody else's until it is freed.
pub unsafe trait Heap {
    /// Allocates.
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>>;

    /// Frees.
    ///
    /// # Safety
    /// 1. `start` came from `allocate` with this layout and was not freed since.
    unsafe fn free(&mut self, start: NonNull<u8>, layout: Layout);
}

/// A heap over memory of its own, as a target.
pub struct HeapTarget<H> {
    // Declared before its memory, so dropped first.
    heap: H,
    memory: Mapped,
}

impl<H> HeapTarget<H> {
    /// Reserves `bytes` and makes a heap of them.
    ///
    /// # Errors
    /// No address space.
    pub fn new(bytes: usize, make: impl FnOnce(&Mapped) -> H) -> io::Result<Self> {
        let memory = Mapped::reserve(bytes)?;
        Ok(Self { heap: make(&memory), memory })
    }
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, OBJECT_ALIGN).expect("a request is at most 1 GiB")
}

// SAFETY: clause 1 is that of `Heap`.
unsafe impl<H: Heap> ObjectTarget for HeapTarget<H> {
    /// The bytes of an object.
    type Cache = usize;

    fn switch_cpu(&mut self, _: u16) {}

    fn open_cache(&mut self, _: &str, object_bytes: usize) -> Result<usize, NoCache> {
        Ok(object_bytes)
    }

    fn allocate_object(&mut self, object_bytes: usize) -> Result<NonNull<u8>, OutOfMemory> {
        self.allocate_bytes(object_bytes)
    }

    unsafe fn free_object(&mut self, object_bytes: usize, object: NonNull<u8>) {
        // SAFETY: clause 1: allocated with the size of its cache.
        unsafe { self.free_bytes(object, object_bytes) }
    }

    fn allocate_bytes(&mut self, bytes: usize) -> Result<NonNull<u8>, OutOfMemory> {
        self.heap.allocate(layout(bytes)).ok_or(OutOfMemory)
    }

    unsafe fn free_bytes(&mut self, start: NonNull<u8>, bytes: usize) {
        // SAFETY: clause 1: allocated with this layout.
        unsafe { self.heap.free(start, layout(bytes)) }
    }

    /// Pages of the range that were ever written: none of these heaps gives any back.
    fn totals(&self) -> StackTotals {
        let start = self.memory.start().addr().get();
        let pages = resident_bytes(start..start + self.memory.bytes()).unwrap_or(0) / PAGE_SIZE;
        StackTotals { held_pages: 0, peak_pages: pages, ..StackTotals::default() }
    }

    fn shrink(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn is_as_at_start(&self) -> bool {
        true
    }
}

#[cfg(feature = "rivals")]
mod published {
    use super::*;
    use buddy_slab_allocator::{BuddyAllocator, SlabAllocResult, SlabAllocator, SlabDeallocResult};

    /// Bits of the segregated lists: up to 8 GiB in one block.
    type Tlsf = rlsf::Tlsf<'static, u32, u32, 28, 32>;
    type Talc = talc::base::Talc<talc::source::Manual, talc::base::binning::DefaultBinning>;
    type Buddies = buddy_system_allocator::Heap<32>;
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
        pub(super) fn new(memory: &Mapped) -> Self {
            let mut start = NonNull::slice_from_raw_parts(memory.start(), memory.bytes());
            let mut buddy = BuddyAllocator::new();
            // SAFETY: fresh memory: valid, zero, nobody else's.
            let region = unsafe { start.as_mut() };
            // SAFETY: it outlives the heap.
            unsafe { buddy.init(region) }.expect("a large range");
            Self { slab: SlabAllocator::new(), buddy, memory: memory.start() }
        }
    }

    // SAFETY: objects are of the slab's class, pages of the buddy's blocks.
    unsafe impl Heap for BuddySlab {
        fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
            if layout.size() > LARGEST_IN_SLAB {
                let pages = layout.size().div_ceil(PAGE_SIZE);
                let address = self.buddy.alloc_pages(pages, PAGE_SIZE).ok()?;
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
}

/// Something to do with any target.
pub trait Visit {
    /// What comes of it.
    type Output;

    /// Does it; `make` makes the target.
    fn visit<T: ObjectTarget>(self, make: impl FnOnce() -> io::Result<T>) -> Self::Output;
}

/// Does something with the rival called `name`, over `bytes` of memory; `None` when this program was built without it.
pub fn with<V: Visit>(name: &str, bytes: usize, visit: V) -> Option<V::Output> {
    match name {
        "system" => Some(visit.visit(|| Ok(super::target::SystemAllocator))),
        #[cfg(feature = "rivals")]
        "talc" => Some(visit.visit(|| HeapTarget::new(bytes, published::talc))),
        #[cfg(feature = "rivals")]
        "rlsf" => Some(visit.visit(|| HeapTarget::new(bytes, published::rlsf))),
        #[cfg(feature = "rivals")]
        "buddy_system_allocator" => {
            Some(visit.visit(|| HeapTarget::new(bytes, published::buddies)))
        }
        #[cfg(feature = "rivals")]
        "buddy-slab-allocator" => {
            Some(visit.visit(|| HeapTarget::new(bytes, published::BuddySlab::new)))
        }
        #[cfg(feature = "rivals")]
        "linked_list_allocator" => {
            Some(visit.visit(|| HeapTarget::new(bytes, published::linked_list)))
        }
        _ => {
            let _ = bytes;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Allocates, writes and frees objects of many sizes.
    struct Exercise;

    impl Visit for Exercise {
        type Output = usize;

        fn visit<T: ObjectTarget>(self, make: impl FnOnce() -> io::Result<T>) -> usize {
            let mut target = make().expect("there is memory");
            let sizes: Vec<usize> = (0..600).map(|n| 1 + n * n % 9000).collect();
            let starts: Vec<_> = sizes.iter().map(|bytes| target.allocate_bytes(*bytes)).collect();
            let mut ranges: Vec<_> = starts
                .iter()
                .zip(&sizes)
                .map(|(start, bytes)| {
                    let start = start.expect("there is room");
                    // SAFETY: so many bytes are ours.
                    unsafe { start.write_bytes(0xa5, *bytes) };
                    start.addr().get()..start.addr().get() + bytes
                })
                .collect();
            for (start, bytes) in starts.into_iter().zip(sizes) {
                // SAFETY: allocated above.
                unsafe { target.free_bytes(start.expect("there is room"), bytes) };
            }
            ranges.sort_by_key(|range| range.start);
            assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "nothing overlaps");
            target.totals().peak_pages
        }
    }

    #[test]
    fn every_rival_hands_out_memory_and_says_how_much_it_touched() {
        for name in NAMES {
            let pages = with(name, 64 << 20, Exercise).expect("it is built in");
            // 2.5 MiB were asked for; the system's allocator does not say.
            assert!(*name == "system" || (600..4000).contains(&pages), "{name}: {pages} pages");
        }
        assert!(NAMES.iter().all(|name| ALL.contains(name)));
        assert!(with("nobody", 0, Exercise).is_none());
    }
}
