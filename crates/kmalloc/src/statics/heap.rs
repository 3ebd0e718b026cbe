//! A heap for kernels and firmware: a constant without memory, to which memory regions are added at
//! run time.

use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::ptr::NonNull;

#[cfg(feature = "critical-section")]
use page_frame::CriticalSectionCpu;
use page_frame::{Cpu, OneContext, OutOfMemory, PAGE_SIZE, Regions, TooSmall};
use slab::{Hardening, Off, Registry};

use crate::kmalloc::Kmalloc;
use crate::mixed::is_checked;
use crate::statics::global::{Global, SetUp};

/// The page source and the CPUs of a [`Heap`].
///
/// ```
/// use kmalloc::{Heap, HeapSystem};
/// use page_frame::OneContext;
/// // SAFETY: one thread, and no interrupt handler.
/// static HEAP: Heap<OneContext> = unsafe { Heap::for_one_context() };
/// let kmalloc: Option<&kmalloc::Kmalloc<HeapSystem<OneContext>>> = HEAP.kmalloc();
/// assert!(kmalloc.is_none()); // no region yet
/// ```
pub type HeapSystem<C> = (Regions<C>, C);

/// A heap over memory regions, which can be a static and the program's global allocator.
///
/// ```
/// use kmalloc::Heap;
/// use page_frame::OneContext;
///
/// // SAFETY: one thread, and no interrupt handler allocates.
/// static HEAP: Heap<OneContext> = unsafe { Heap::for_one_context() };
/// # let (start, bytes) = (Vec::leak(vec![0_u8; 1 << 20]).as_mut_ptr(), 1 << 20);
/// # let (more, more_bytes) = (Vec::leak(vec![0_u8; 1 << 20]).as_mut_ptr(), 1 << 20);
///
/// // SAFETY: the memory is valid, and the heap's from now on.
/// unsafe { HEAP.add_region(start, bytes) }?;
/// // Any time later, as often as there is more:
/// // SAFETY: as above.
/// unsafe { HEAP.add_region(more, more_bytes) }?;
/// assert!(HEAP.free_bytes() < HEAP.bytes());
/// let kmalloc = HEAP.kmalloc().expect("there is a region");
/// let buffer = kmalloc.kmalloc(10_000)?;
/// assert!(kmalloc.pages_held() > 0);
/// # // SAFETY: allocated above, and not used any more.
/// # unsafe { kmalloc.kfree(Some(buffer)) };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// To make it the program's allocator, write `#[global_allocator]` above the static. `C` describes
/// the CPUs:
///
/// - `CriticalSectionCpu`, the default with the feature `critical-section`: one slot for all CPUs.
///   It is correct in interrupts and on several cores, and works on every chip whose crate
///   implements a critical section: `static HEAP: Heap = Heap::empty();`.
/// - Your implementation of [`Cpu`], which gives each CPU a slot of its own:
///   `static HEAP: Heap<MyCpu> = Heap::empty();` if it has a default value, otherwise
///   [`with_cpu`](Self::with_cpu).
/// - [`OneContext`], if no two contexts ever use the heap at the same time:
///   [`for_one_context`](Self::for_one_context).
///
/// # Memory
/// Each region has its metadata at its own start: about ten bytes a page, and a 64th of the memory
/// in regions of at most 4 MiB. Addresses between regions cost nothing. Regions may be close to
/// each other and may touch, but no allocation spans two regions. Add the largest region first:
/// [`Kmalloc::free`] searches for the page map of an address, except in the first region.
///
/// A heap of at most 4 MiB is **small**: it has no caches, and each allocation takes its size
/// rounded up to a multiple of 16 bytes. Requests can use about 85 % of 8 KiB, 93 % of 32 KiB, and
/// 95 % of 100 KiB and more. 8 KiB are enough for a heap. Less than about 5 KiB are an
/// error, as the first region holds its metadata, the registry with 64 bytes for each CPU, and as
/// many bytes as a page. Presets with checks use caches in small heaps too, and need more memory.
///
/// # Costs
/// A hit in a CPU's slot costs what it costs in [`Kmalloc`]. A miss takes pages from a region,
/// under the region's lock, in O(pages / 64). In a small heap every request takes that lock. It
/// searches a tree in O(log(bytes)) for up to 2 KiB, and the bits of the region for more, or for
/// an alignment above 16 bytes. For many CPUs and much memory use [`Global`](crate::Global)
/// over a buddy instead, which has no lock.
///
/// # Before the first region
/// Requests fail, also those of an interrupt that arrives while the first region is being added.
/// Such an interrupt must not add a region: it would wait for the code that it interrupted.
///
/// # Panics
/// A panic in a callback of a private cache ends the program if it happens in a request through
/// `GlobalAlloc`, which must not unwind.
pub struct Heap<
    #[cfg(feature = "critical-section")] C: Cpu + Clone = CriticalSectionCpu,
    #[cfg(not(feature = "critical-section"))] C: Cpu + Clone,
    K: Hardening = Off,
> {
    pub(crate) global: Global<HeapSystem<C>, K, WithoutRegion<C>>,
}

/// The set-up of a heap without memory: the function that makes its machine. A request cannot set
/// the heap up; [`Heap::add_region`] does.
pub(crate) struct WithoutRegion<C>(fn() -> C);

impl<C: Cpu + Clone, K: Hardening> SetUp<HeapSystem<C>, K> for WithoutRegion<C> {
    const AT_FIRST_REQUEST: bool = false;

    fn set_up(&self) -> Result<Kmalloc<HeapSystem<C>, K>, OutOfMemory> {
        Err(OutOfMemory)
    }

    fn wait(&self, round: usize) {
        (self.0)().wait(round);
    }
}

impl<C: Cpu + Clone + Default> Heap<C> {
    page_frame::const_unless_loom! {
        /// Makes a heap without memory, for the machine `C::default()`.
        ///
        /// ```
        /// # #[cfg(feature = "critical-section")] {
        /// use kmalloc::Heap;
        /// static HEAP: Heap = Heap::empty();
        /// assert_eq!(HEAP.bytes(), 0);
        /// # }
        /// ```
        pub fn empty() -> Self {
            Self::with_cpu(C::default)
        }
    }
}

impl Heap<OneContext> {
    page_frame::const_unless_loom! {
        /// Makes a heap without memory, for programs in which one context at a time uses it.
        /// Example: see [`Heap`].
        ///
        /// # Safety
        /// 1. Each call of the heap ends before the next one begins: no interrupt handler, thread
        ///    or other core interrupts one with another.
        pub unsafe fn for_one_context() -> Self {
            // SAFETY: clause 1 of `OneContext::new`: only the heap uses the value, and by clause 1
            // calls of the heap do not interrupt each other.
            Self::with_cpu(|| unsafe { OneContext::new() })
        }
    }
}

impl<C: Cpu + Clone, K: Hardening> Heap<C, K> {
    page_frame::const_unless_loom! {
        /// Makes a heap without memory. The first [`add_region`](Self::add_region) calls `cpu`,
        /// which returns the machine and must not allocate from the heap. The type chooses a preset
        /// of checks other than [`Off`].
        ///
        /// ```
        /// use kmalloc::Heap;
        /// use hosted::Threads;
        /// use slab::Hardened;
        /// static HEAP: Heap<Threads, Hardened> = Heap::with_cpu(|| Threads);
        /// assert_eq!(HEAP.free_bytes(), 0);
        /// ```
        pub fn with_cpu(cpu: fn() -> C) -> Self {
            Self { global: Global::new(WithoutRegion(cpu)) }
        }
    }

    /// Adds the region of `bytes` bytes at `start` to the heap. Returns how many bytes of pages
    /// that adds.
    ///
    /// Writes the metadata at the start of the region, about ten bytes per page. O(pages). The
    /// first region also gets the registry's internal caches. Example: see [`Heap`].
    ///
    /// # Errors
    /// [`RegionError`], which says how large the region must be. The heap does not use the memory
    /// then.
    ///
    /// # Safety
    /// 1. The memory is valid for reads and writes while the heap lives, and no other code uses it.
    pub unsafe fn add_region(&self, start: *mut u8, bytes: usize) -> Result<usize, RegionError> {
        let error = |kind| RegionError { start: start.addr(), bytes, kind };
        let (start, bytes) = match NonNull::new(start) {
            Some(start) => (start, bytes),
            // Some machines have memory at address zero, but a Rust reference cannot point there.
            None => {
                let start = NonNull::new(start.wrapping_add(START_AT_ZERO));
                (start.expect("not zero"), bytes.saturating_sub(START_AT_ZERO))
            }
        };
        let add = |regions: &Regions<C>| {
            // SAFETY: clause 1 of `add`: clause 1. The heap keeps the regions while it lives.
            let added = unsafe { regions.add_region(start, bytes) };
            added.map_err(|TooSmall { needed, .. }| error(Kind::NoPage { needed }))
        };
        let mut added = 0;
        let made = self.global.make_by(|| {
            let cpu = (self.global.setup().0)();
            let (cpus, regions) = (cpu.slots(), Regions::new(cpu.clone()));
            (_, added) = add(&regions)?;
            Self::first_caches(regions, cpu)
                .map_err(|OutOfMemory| error(Kind::NoRegistry { needed: Self::needed(cpus) }))
        });
        let (kmalloc, is_first) = made?;
        if !is_first {
            (_, added) = add(kmalloc.registry().source())?;
        }
        Ok(added)
    }

    /// Returns a size in bytes that is enough for a first region on a machine with `cpus` CPU
    /// slots.
    fn needed(cpus: usize) -> usize {
        let own = Registry::<HeapSystem<C>>::needed_bytes(cpus, is_checked::<K>());
        own.map_or(usize::MAX, |own| own.saturating_add(own / 32 + 3 * PAGE_SIZE))
    }

    /// Makes the allocator over its first region. Serves one request, which builds the internal
    /// caches and shows that there is room for them.
    fn first_caches(regions: Regions<C>, cpu: C) -> Result<Kmalloc<HeapSystem<C>, K>, OutOfMemory> {
        let kmalloc = Kmalloc::with_hardening(Registry::new(regions, cpu)?);
        let object = kmalloc.allocate_missed(Layout::new::<u8>())?;
        // SAFETY: clauses 1 and 2: allocated above, and not used any more.
        unsafe { kmalloc.free(object) };
        kmalloc.shrink_all();
        Ok(kmalloc)
    }

    /// Returns the allocator, for statistics, shrinking and private caches; `None` before the first
    /// region. One load. Example: see [`Heap`].
    #[inline(always)]
    pub fn kmalloc(&self) -> Option<&Kmalloc<HeapSystem<C>, K>> {
        self.global.get()
    }

    /// Returns the size of all regions in bytes without their metadata. Regions that are not small
    /// count in whole pages. O(regions). Example: see [`Heap`].
    pub fn bytes(&self) -> usize {
        self.kmalloc().map_or(0, |kmalloc| kmalloc.registry().source().bytes())
    }

    /// Returns the number of free bytes. Free objects in caches do not count, until
    /// [`Kmalloc::shrink_all`] has released the slabs whose objects are all free. Takes the lock of
    /// each region. Example: see [`Heap`].
    pub fn free_bytes(&self) -> usize {
        self.kmalloc().map_or(0, |kmalloc| kmalloc.registry().source().free_bytes())
    }
}

/// The bytes at the start of a region at address zero that the heap leaves unused.
const START_AT_ZERO: usize = 64;

/// A region that is too small for a heap, with the reason.
///
/// ```
/// use kmalloc::{Heap, RegionError};
/// use page_frame::OneContext;
/// // SAFETY: one thread, and no interrupt handler.
/// static HEAP: Heap<OneContext> = unsafe { Heap::for_one_context() };
/// let memory = Vec::leak(vec![0_u8; 1000]);
/// // SAFETY: the memory is leaked.
/// let error: RegionError = unsafe { HEAP.add_region(memory.as_mut_ptr(), 1000) }.unwrap_err();
/// assert_eq!((error.start(), error.bytes()), (memory.as_ptr().addr(), 1000));
/// assert!(error.to_string().contains("1000 bytes"));
/// let enough = Vec::leak(vec![0_u8; error.needed()]);
/// // SAFETY: the memory is leaked.
/// unsafe { HEAP.add_region(enough.as_mut_ptr(), error.needed()) }?;
/// # Ok::<(), RegionError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionError {
    start: usize,
    bytes: usize,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The region has no room for a page's bytes beside the metadata.
    NoPage { needed: usize },
    /// The first region has no room for the registry, or for the first cache of a preset with
    /// checks.
    NoRegistry { needed: usize },
}

impl RegionError {
    /// Returns the address of the region. Example: see [`RegionError`].
    pub const fn start(&self) -> usize {
        self.start
    }

    /// Returns the size of the region in bytes. Example: see [`RegionError`].
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns how many bytes are enough, wherever the region starts. Example: see [`RegionError`].
    pub const fn needed(&self) -> usize {
        match self.kind {
            Kind::NoPage { needed } | Kind::NoRegistry { needed } => needed,
        }
    }
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the region of {} bytes at {:#x} is too small: ", self.bytes, self.start)?;
        match self.kind {
            Kind::NoPage { needed } => {
                write!(f, "the bytes of a page and metadata need {needed}, wherever they start")
            }
            Kind::NoRegistry { needed } => {
                write!(f, "the first region of this machine's heap needs {needed} bytes")
            }
        }
    }
}

impl core::error::Error for RegionError {}

// SAFETY: every method is that of `Global`, which fulfils the trait.
unsafe impl<C: Cpu + Clone + Send + Sync, K: Hardening> GlobalAlloc for Heap<C, K> {
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

impl<C: Cpu + Clone, K: Hardening> fmt::Debug for Heap<C, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap").field("kmalloc", &self.kmalloc()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    extern crate std;
    use super::*;
    use hosted::Threads;
    use std::sync::mpsc::channel;
    use std::time::Duration;
    use std::{thread, vec, vec::Vec};

    /// Another thread stands for the interrupt: an interrupt that waited would wait for ever.
    ///
    /// Mutation that it catches: `AT_FIRST_REQUEST` true for a heap (the request waits for the code
    /// that adds the region).
    #[test]
    fn a_request_while_the_first_region_is_added_fails_and_does_not_wait() {
        static HEAP: Heap<Threads> = Heap::with_cpu(|| {
            let (sender, answer) = channel();
            thread::spawn(move || {
                // SAFETY: the layout has a size.
                let start = unsafe { HEAP.alloc(Layout::new::<u64>()) };
                sender.send(start.is_null())
            });
            assert_eq!(answer.recv_timeout(Duration::from_secs(60)), Ok(true));
            Threads
        });
        let memory = Vec::leak(vec![0_u8; 1 << 20]);
        // SAFETY: the memory is leaked.
        unsafe { HEAP.add_region(memory.as_mut_ptr(), memory.len()) }.expect("1 MiB are enough");
    }
}
