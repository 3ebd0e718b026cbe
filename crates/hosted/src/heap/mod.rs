//! The heap of a program: one static, and every allocation of the program comes from it.
//!
//! # Concepts
//! A [`Heap`] is a constant with options. The first request sets it up (`state`): it reserves
//! address space for [`Pages`], builds a registry of caches over them, and registers handlers for
//! `fork` (`fork`). All of it stays until the process ends.

#[cfg(any(feature = "allocator-api2-02", feature = "allocator-api2-04"))]
mod allocator;
mod fault;
mod fork;
mod options;
pub(crate) mod sizes;
mod state;

use core::alloc::{GlobalAlloc, Layout};
use core::time::Duration;

use kmalloc::{Global, Kmalloc};
use page_frame::{OutOfMemory, PAGE_SIZE};
use slab::{Hardened, Hardening, Off};

use crate::heap::options::HeapOptions;
pub use crate::heap::state::{HeapCaches, HeapSystem};
use crate::pages::Pages;

/// The global allocator of a program.
///
/// ```
/// #[global_allocator]
/// static HEAP: hosted::Heap = hosted::Heap::new();
///
/// let numbers: Vec<u32> = (0..1000).collect();
/// let stats: hosted::HeapStats = HEAP.stats();
/// assert!(stats.held_bytes >= 4000);
/// drop(numbers);
/// HEAP.trim(); // also happens by itself, when memory was unused for the purge delay
/// ```
///
/// With options, and with checks: [`Heap::hardened`] finds double frees, writes behind objects and
/// foreign pointers, and ends the program with a line that names the mistake.
///
/// ```
/// use hosted::Heap;
/// use slab::Hardened;
/// use std::time::Duration;
/// static HEAP: Heap<Hardened> =
///     Heap::hardened().with_purge_delay(Duration::from_millis(100)).without_huge_pages();
/// static GROWS_FAST: Heap = Heap::new().with_huge_pages_from(2 << 20);
/// ```
///
/// With the features `allocator-api2-02` and `allocator-api2-04`, `&Heap` is an `Allocator` of that
/// crate: `Vec::new_in(&HEAP)`.
///
/// Threads find their magazines by a thread-local word, without a lock. A child of `fork` may
/// allocate, also if other threads allocated in the parent. A process should have one heap: of
/// several, only the first that is used takes part in `fork` and returns memory at misses.
pub struct Heap<K: Hardening = Off> {
    global: Global<HeapSystem, K, HeapOptions>,
}

/// How much memory a [`Heap`] has, in bytes. Example: see [`Heap`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeapStats {
    /// Pages held by caches and large allocations: in use, or free inside caches.
    pub held_bytes: usize,
    /// The part of `held_bytes` in large allocations, those above [`kmalloc::LARGEST`].
    pub large_bytes: usize,
    /// Free pages that memory still backs; the purge delay returns them to the system.
    pub idle_bytes: usize,
}

impl Heap {
    page_frame::const_unless_loom! {
        /// Makes a heap without checks. Example: see [`Heap`].
        pub fn new() -> Self {
            Self { global: Global::new(HeapOptions::new()) }
        }
    }
}

impl Default for Heap {
    fn default() -> Self {
        Self::new()
    }
}

impl Heap<Hardened> {
    page_frame::const_unless_loom! {
        /// Makes a heap with the checks of [`Hardened`]. Example: see [`Heap`].
        pub fn hardened() -> Self {
            Self { global: Global::new(HeapOptions::new()) }
        }
    }
}

/// Options, to be set in the static's initialiser.
impl<K: Hardening> Heap<K> {
    page_frame::const_unless_loom! {
        /// Sets how long memory stays unused before it returns to the system
        /// ([`PURGE_DELAY`](crate::PURGE_DELAY) otherwise); `Duration::MAX` for ever. Example: see
        /// [`Heap`].
        pub fn with_purge_delay(self, delay: Duration) -> Self {
            let options = HeapOptions { purge_delay: delay, ..*self.global.setup() };
            self.with_options(options)
        }
    }

    page_frame::const_unless_loom! {
        /// Uses no huge pages, however large the heap becomes. Example: see [`Heap`].
        pub fn without_huge_pages(self) -> Self {
            let options = HeapOptions { has_huge_pages: false, ..*self.global.setup() };
            self.with_options(options)
        }
    }

    page_frame::const_unless_loom! {
        /// Uses huge pages behind fresh memory earlier, or later: 2 MiB at a time may be a huge
        /// page that is not full yet for each `bytes` bytes in use (32 MiB otherwise). A program
        /// that grows has fewer page faults then, and a higher peak. Example: see [`Heap`].
        pub fn with_huge_pages_from(self, bytes: usize) -> Self {
            let options = HeapOptions { huge_pages_from: Some(bytes), ..*self.global.setup() };
            self.with_options(options)
        }
    }

    page_frame::const_unless_loom! {
        fn with_options(self, options: HeapOptions) -> Self {
            // A heap that is not set up holds no memory.
            core::mem::forget(self);
            Self { global: Global::new(options) }
        }
    }
}

impl<K: Hardening> Heap<K> {
    /// Returns how much memory the heap has. O(caches), takes their locks. Example: see [`Heap`].
    pub fn stats(&self) -> HeapStats {
        let Some((kmalloc, pages)) = self.parts() else { return HeapStats::default() };
        HeapStats {
            held_bytes: kmalloc.pages_held() * PAGE_SIZE,
            large_bytes: kmalloc.large_pages() * PAGE_SIZE,
            idle_bytes: pages.idle_pages() * PAGE_SIZE,
        }
    }

    /// Returns all unused memory to the system; returns how many bytes. Takes the caches' locks.
    /// Example: see [`Heap`].
    pub fn trim(&self) -> usize {
        self.parts().map_or(0, |(kmalloc, pages)| {
            kmalloc.shrink_all();
            pages.purge(0) * PAGE_SIZE
        })
    }

    /// Returns the allocator behind the heap, and sets it up if no request has done so: for private
    /// caches and statistics.
    ///
    /// ```
    /// static HEAP: hosted::Heap = hosted::Heap::new();
    /// let kmalloc = HEAP.kmalloc()?;
    /// let twenty = kmalloc.kmalloc(20)?;
    /// assert_eq!(kmalloc.ksize(twenty), 32); // aligned to 16, as in C
    /// # Ok::<(), page_frame::OutOfMemory>(())
    /// ```
    ///
    /// # Errors
    /// [`OutOfMemory`] when the system grants no address space.
    pub fn kmalloc(&self) -> Result<&Kmalloc<HeapSystem, K>, OutOfMemory> {
        self.global.kmalloc()
    }

    fn parts(&self) -> Option<(&Kmalloc<HeapSystem, K>, &'static Pages)> {
        let kmalloc = self.global.get()?;
        let state = kmalloc.registry().source().shrinker().state();
        Some((kmalloc, state.pages()))
    }
}

// SAFETY: every method is that of `Global`, which fulfils the trait.
unsafe impl<K: Hardening> GlobalAlloc for Heap<K> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's clauses.
        unsafe { self.global.alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's clauses.
        unsafe { self.global.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's clauses.
        unsafe { self.global.dealloc(start, layout) };
    }

    #[inline]
    unsafe fn realloc(&self, start: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        // SAFETY: the caller's clauses.
        unsafe { self.global.realloc(start, layout, new_bytes) }
    }
}

impl<K: Hardening> core::fmt::Debug for Heap<K> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Heap").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
