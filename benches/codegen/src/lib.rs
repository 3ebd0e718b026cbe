//! The hot path of each public operation as a function of its own, so that its machine code can be
//! read and counted (`tests/hot_paths.rs`).
#![expect(clippy::missing_safety_doc, reason = "only their machine code is of interest")]

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;

use hosted::{HeapSystem, Threads};
use kmalloc::Kmalloc;
use page_frame::{DirectMap, FrameNumber, Order, OutOfMemory};
use slab::{Cache, System};

static HEAP: hosted::Heap = hosted::Heap::new();

/// The page allocator.
pub type Pages = buddy::Buddy<'static, DirectMap, Threads>;

/// `GlobalAlloc::alloc` of a size that the compiler knows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hot_global_alloc() -> *mut u8 {
    // SAFETY: the layout has a size.
    unsafe { HEAP.alloc(Layout::new::<[u8; 100]>()) }
}

/// `GlobalAlloc::dealloc` of a size that the compiler knows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hot_global_dealloc(start: *mut u8) {
    // SAFETY: the caller's clauses.
    unsafe { HEAP.dealloc(start, Layout::new::<[u8; 100]>()) }
}

/// `Kmalloc::kmalloc` of any size.
#[unsafe(no_mangle)]
pub fn hot_kmalloc(
    kmalloc: &Kmalloc<HeapSystem>,
    bytes: usize,
) -> Result<NonNull<u8>, OutOfMemory> {
    kmalloc.kmalloc(bytes)
}

/// `Kmalloc::free`, which looks the size up.
#[unsafe(no_mangle)]
pub unsafe fn hot_kfree(kmalloc: &Kmalloc<HeapSystem>, start: NonNull<u8>) {
    // SAFETY: the caller's clauses.
    unsafe { kmalloc.free(start) }
}

/// `Cache::allocate` without checks.
#[unsafe(no_mangle)]
pub fn hot_cache_allocate(cache: &Cache<HeapSystem>) -> Result<NonNull<u8>, OutOfMemory> {
    cache.allocate()
}

/// `Cache::free` without checks.
#[unsafe(no_mangle)]
pub unsafe fn hot_cache_free(cache: &Cache<HeapSystem>, object: NonNull<u8>) {
    // SAFETY: the caller's clauses.
    unsafe { cache.free(object) }
}

/// `Buddy::allocate_frames` of one frame.
#[unsafe(no_mangle)]
pub fn hot_frame_allocate(buddy: &Pages) -> Result<FrameNumber, OutOfMemory> {
    buddy.allocate_frames(Order::ZERO)
}

/// `Buddy::free_frames` of one frame.
#[unsafe(no_mangle)]
pub unsafe fn hot_frame_free(buddy: &Pages, frame: FrameNumber) -> bool {
    // SAFETY: the caller's clauses.
    unsafe { buddy.free_frames(frame, Order::ZERO) }.is_ok()
}

const _: fn() = || {
    fn is_system<S: System>() {}
    is_system::<HeapSystem>();
};
