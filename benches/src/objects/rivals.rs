//! The rivals of the object caches: published object allocators, and general allocators that get
//! requests of one size.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::NonNull;

use buddy_slab_allocator::slab::page::SlabPageHeader;
use buddy_slab_allocator::{
    BuddyAllocator, RemoteFreeHint, SizeClass, SlabAllocResult, SlabAllocator, SlabDeallocResult,
};
use hosted::{Mapped, Threads};
use page_frame::{Cpu, PAGE_SIZE};
use slabmalloc::{AllocationError, Allocator, LargeObjectPage, ObjectPage, ZoneAllocator};
use spin::mutex::SpinMutex;

use crate::objects::allocator::Objects;
use crate::objects::contestant::Make;

/// Returns the rivals by name.
pub(crate) fn all() -> Vec<(&'static str, Make)> {
    let mut all: Vec<(&'static str, Make)> = vec![
        ("slabmalloc", |layout| Box::new(SlabMalloc::new(layout))),
        ("buddy-slab-allocator", |layout| Box::new(BuddySlab::new(layout))),
        ("system", |layout| Box::new(General(System, layout))),
    ];
    #[cfg(feature = "c-rivals")]
    all.extend([
        ("mimalloc", (|layout| Box::new(General(mimalloc::MiMalloc, layout))) as Make),
        ("snmalloc", |layout| Box::new(General(snmalloc_rs::SnMalloc, layout))),
        ("jemalloc", |layout| Box::new(General(tikv_jemallocator::Jemalloc, layout))),
        ("rpmalloc", |layout| Box::new(General(rpmalloc::RpMalloc, layout))),
    ]);
    all.shrink_to_fit();
    all
}

/// An allocator of memory of any size, which gets requests of one layout.
struct General<G>(G, Layout);

// SAFETY: a global allocator returns memory of the layout that no other code uses.
unsafe impl<G: GlobalAlloc + Sync> Objects for General<G> {
    #[inline]
    fn allocate(&self) -> NonNull<u8> {
        // SAFETY: the workloads' layouts are not empty.
        let object = unsafe { self.0.alloc(self.1) };
        // The compiler knows the system's allocator, and would remove allocations that are not
        // used.
        NonNull::new(std::hint::black_box(object)).expect("the workloads use little memory")
    }

    #[inline]
    unsafe fn free(&self, object: NonNull<u8>) {
        // SAFETY: by the caller's clause allocated by this allocator, with the same layout.
        unsafe { self.0.dealloc(object.as_ptr(), self.1) };
    }
}

/// `slabmalloc` in a spin mutex, with pages from the system's allocator, as in its own example.
struct SlabMalloc {
    zone: SpinMutex<ZoneAllocator<'static>>,
    layout: Layout,
    /// The pages taken, which `drop` frees: `slabmalloc` returns no page by itself.
    pages: SpinMutex<Vec<(NonNull<u8>, Layout)>>,
}

// SAFETY: the pointers are used under their lock only.
unsafe impl Sync for SlabMalloc {}

impl SlabMalloc {
    fn new(layout: Layout) -> Self {
        Self { zone: SpinMutex::new(ZoneAllocator::new()), layout, pages: SpinMutex::default() }
    }

    #[cold]
    fn refill(&self, zone: &mut ZoneAllocator<'static>) {
        let is_small = self.layout.size() <= ZoneAllocator::MAX_BASE_ALLOC_SIZE;
        let size = if is_small { PAGE_SIZE } else { 512 * PAGE_SIZE };
        let page = Layout::from_size_align(size, size).expect("a page");
        // SAFETY: not empty.
        let start = unsafe { System.alloc_zeroed(page) };
        let start = NonNull::new(start).expect("the workloads use little memory");
        self.pages.lock().push((start, page));
        let outcome = if is_small {
            // SAFETY: zero, of a page's size and alignment, and the zone's until all is freed at
            // the end.
            let page = unsafe { start.cast::<ObjectPage<'static>>().as_mut() };
            // SAFETY: an empty page that is in no zone.
            unsafe { zone.refill(self.layout, page) }
        } else {
            // SAFETY: as above, for a large page.
            let page = unsafe { start.cast::<LargeObjectPage<'static>>().as_mut() };
            // SAFETY: a page of the larger size, which the zone keeps until the end.
            unsafe { zone.refill_large(self.layout, page) }
        };
        outcome.expect("the zone has a class for the layout");
    }
}

// SAFETY: the zone allocates objects of the layout's class, each of them to one caller.
unsafe impl Objects for SlabMalloc {
    #[inline]
    fn allocate(&self) -> NonNull<u8> {
        let mut zone = self.zone.lock();
        match zone.allocate(self.layout) {
            Ok(object) => object,
            Err(AllocationError::OutOfMemory) => {
                self.refill(&mut zone);
                zone.allocate(self.layout).expect("there is a fresh page")
            }
            Err(AllocationError::InvalidLayout) => panic!("the zone has a class for the layout"),
        }
    }

    #[inline]
    unsafe fn free(&self, object: NonNull<u8>) {
        self.zone.lock().deallocate(object, self.layout).expect("it is the zone's object");
    }
}

impl Drop for SlabMalloc {
    fn drop(&mut self) {
        for (start, layout) in self.pages.lock().drain(..) {
            // SAFETY: allocated with this layout. The zone is dropped with this value, and its drop
            // touches no page.
            unsafe { System.dealloc(start.as_ptr(), layout) };
        }
    }
}

/// `buddy-slab-allocator`: its slabs for each CPU over its buddy, each in a spin mutex, with
/// threads as CPUs. Its own `PerCpuSlab` needs the locks of the operating system that it belongs
/// to, so this type combines the parts in the same way.
struct BuddySlab {
    slabs: Vec<CpuSlab>,
    buddy: SpinMutex<BuddyAllocator<PAGE_SIZE>>,
    layout: Layout,
    class: SizeClass,
    slab_bytes: usize,
    _memory: Mapped,
}

#[derive(Default)]
struct CpuSlab {
    slab: SpinMutex<SlabAllocator<PAGE_SIZE>>,
    remote: RemoteFreeHint,
}

impl BuddySlab {
    fn new(layout: Layout) -> Self {
        let memory = Mapped::reserve(256 << 20).expect("address space");
        let mut start = NonNull::slice_from_raw_parts(memory.start(), memory.bytes());
        let mut buddy = BuddyAllocator::new();
        // SAFETY: a fresh mapping is valid, reads as zero, and has no other user.
        let region = unsafe { start.as_mut() };
        // SAFETY: the memory stays mapped as long as the allocator lives: the struct owns both.
        unsafe { buddy.init(region) }.expect("a large region");
        let class = SizeClass::from_layout(layout).expect("at most 2048 bytes");
        Self {
            slabs: (0..hosted::THREAD_SLOTS).map(|_| CpuSlab::default()).collect(),
            buddy: SpinMutex::new(buddy),
            layout,
            class,
            slab_bytes: class.slab_pages(PAGE_SIZE) * PAGE_SIZE,
            _memory: memory,
        }
    }

    #[inline]
    fn cpu(&self) -> usize {
        Threads.pin().expect("few threads run").index()
    }
}

// SAFETY: the slabs allocate objects of the layout's class, each of them to one caller.
unsafe impl Objects for BuddySlab {
    #[inline]
    fn allocate(&self) -> NonNull<u8> {
        let cpu = self.cpu();
        let mut slab = self.slabs[cpu].slab.lock();
        loop {
            let outcome = slab.alloc_hinted(self.layout, Some(&self.slabs[cpu].remote));
            match outcome.expect("a good layout") {
                SlabAllocResult::Allocated(object) => return object,
                SlabAllocResult::NeedsSlab { size_class, pages } => {
                    let bytes = pages * PAGE_SIZE;
                    let base = self.buddy.lock().alloc_pages(pages, bytes).expect("room");
                    slab.add_slab(size_class, base, bytes, cpu as u16);
                }
            }
        }
    }

    #[inline]
    unsafe fn free(&self, object: NonNull<u8>) {
        let address = object.addr().get();
        let base = SlabPageHeader::base_from_obj_addr::<PAGE_SIZE>(address, self.slab_bytes);
        let header = object.as_ptr().with_addr(base).cast::<SlabPageHeader>();
        // SAFETY: the caller's clause: the object lies in a slab, which begins with its header.
        let owner = unsafe { (*header).owner_cpu };
        let at = &self.slabs[usize::from(owner)];
        if usize::from(owner) != self.cpu() {
            // SAFETY: a live object of a slab whose header names this owner.
            unsafe { SlabPageHeader::remote_free_object(object, owner, PAGE_SIZE) };
            return at.remote.mark(self.class);
        }
        match at.slab.lock().dealloc(object, self.layout) {
            SlabDeallocResult::Done => {}
            SlabDeallocResult::FreeSlab { base, pages } => {
                self.buddy.lock().dealloc_pages(base, pages);
            }
        }
    }
}
