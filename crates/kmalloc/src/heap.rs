//! A heap for kernels and firmware: a constant that gets its memory later, region by region.

use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::ptr::NonNull;

#[cfg(feature = "critical-section")]
use page_frame::CriticalSectionCpu;
use page_frame::{Cpu, OneContext, OutOfMemory, PAGE_SIZE, Regions, TooSmall};
use slab::{Hardening, Off, Registry};

use crate::kmalloc::Kmalloc;
use crate::mixed::is_checked;
use crate::static_kmalloc::{KmallocCell, StaticKmalloc, global_alloc};

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
/// In a program `#[global_allocator]` stands above the static. `C` is the machine:
///
/// - `CriticalSectionCpu`, the default, with the feature `critical-section`: one slot, correct in
///   interrupts and on several cores, for every chip whose crate implements a critical section.
///   `static HEAP: Heap = Heap::empty();`
/// - An implementation of [`Cpu`] for machines with several CPUs, which then share no slots:
///   `static HEAP: Heap<MyCpu> = Heap::empty();` if it has a default value, else
///   [`with_cpu`](Self::with_cpu).
/// - [`OneContext`], where nothing runs at the same time:
///   [`for_one_context`](Self::for_one_context).
///
/// # Memory
/// Each region has its own metadata at its start: about ten bytes a page, and in regions of at most
/// 4 MiB a 64th of the memory. Sparse regions cost nothing in between. Regions may lie in one GiB
/// and may touch each other; no request gets memory of two. Add the largest region first: the page
/// map of the first one is the one that [`Kmalloc::free`] looks at without a search.
///
/// A heap of at most 4 MiB is **small**: it has no caches, and each request takes as many bytes as
/// it needs, rounded up to 16. Of 8 KiB about 85 % serve requests, of 32 KiB 93 %, of 100 KiB and
/// above 95 %. 8 KiB are enough for a heap, and less than about 5 KiB are an error: they must hold
/// the metadata, the registry with 64 bytes for each CPU, and as many bytes as a page. Presets with
/// checks use caches in small heaps too, and take more.
///
/// # Costs
/// A hit in a CPU's slot costs what it costs in [`Kmalloc`]. Misses take pages under one lock for
/// each region, in O(pages / 64). A machine with many CPUs and much memory gives
/// [`Global`](crate::Global) a buddy instead, which has no lock.
///
/// In a small heap all requests take that lock, and search the bits of the region.
///
/// A request before the first region fails, and so does one from an interrupt that arrives while
/// the first region is added. Such an interrupt must add no region: it would wait for the code that
/// it interrupted. A panic in a callback of a private cache ends the program, as a
/// global allocator must not unwind.
pub struct Heap<
    #[cfg(feature = "critical-section")] C: Cpu + Clone = CriticalSectionCpu,
    #[cfg(not(feature = "critical-section"))] C: Cpu + Clone,
    K: Hardening = Off,
> {
    cpu: fn() -> C,
    cell: KmallocCell<HeapSystem<C>, K>,
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
            // SAFETY: clause 1 of `new`: by clause 1 the calls of the heap, which is all that is
            // built on the value, do not interrupt each other.
            Self::with_cpu(|| unsafe { OneContext::new() })
        }
    }
}

impl<C: Cpu + Clone, K: Hardening> Heap<C, K> {
    page_frame::const_unless_loom! {
        /// Makes a heap without memory. The first [`add_region`](Self::add_region) calls `cpu` for
        /// the machine, which must not allocate from the heap. Checks by another preset than
        /// [`Off`] are chosen by the type.
        ///
        /// ```
        /// use kmalloc::Heap;
        /// use hosted::Threads;
        /// use slab::Hardened;
        /// static HEAP: Heap<Threads, Hardened> = Heap::with_cpu(|| Threads);
        /// assert_eq!(HEAP.free_bytes(), 0);
        /// ```
        pub fn with_cpu(cpu: fn() -> C) -> Self {
            Self { cpu, cell: KmallocCell::new() }
        }
    }

    /// Adds the `bytes` bytes at `start` to the heap, which may have memory or none. Returns how
    /// many bytes of pages that adds.
    ///
    /// Writes the metadata at the start of the region, about ten bytes per page. O(pages). The
    /// first region also gets the internal caches. Example: see [`Heap`].
    ///
    /// # Errors
    /// [`RegionError`], which says how large the region must be. The memory is not used then.
    ///
    /// # Safety
    /// 1. The memory is valid for reads and writes as long as the heap lives, and no other code
    ///    uses it.
    pub unsafe fn add_region(&self, start: *mut u8, bytes: usize) -> Result<usize, RegionError> {
        let error = |kind| RegionError { start: start.addr(), bytes, kind };
        let (start, bytes) = match NonNull::new(start) {
            Some(start) => (start, bytes),
            // Address zero is memory on some machines, but no pointer of Rust's may point to it.
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
        let made = self.cell.make_by(|| {
            let cpu = (self.cpu)();
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

    /// Returns bytes that are enough for a first region on a machine with `cpus` CPU slots.
    fn needed(cpus: usize) -> usize {
        let own = Registry::<HeapSystem<C>>::needed_bytes(cpus, is_checked::<K>());
        own.map_or(usize::MAX, |own| own.saturating_add(own / 32 + 3 * PAGE_SIZE))
    }

    /// Makes the allocator over its first region, and checks that it can serve a request.
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
        self.cell.get()
    }

    /// Returns the bytes of all regions without their metadata: those of whole pages, and in small
    /// regions also the rest. O(regions). Example: see [`Heap`].
    pub fn bytes(&self) -> usize {
        self.kmalloc().map_or(0, |kmalloc| kmalloc.registry().source().bytes())
    }

    /// Returns the bytes that nothing holds. Free objects of caches do not count;
    /// [`Kmalloc::shrink_all`] returns pages of which all objects are free. Takes the lock of each
    /// region. Example: see [`Heap`].
    pub fn free_bytes(&self) -> usize {
        self.kmalloc().map_or(0, |kmalloc| kmalloc.registry().source().free_bytes())
    }
}

/// The bytes that a region at address zero loses.
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
    /// Not even the bytes of one page fit beside the metadata.
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

impl<C: Cpu + Clone, K: Hardening> StaticKmalloc for Heap<C, K> {
    type System = HeapSystem<C>;
    type Checks = K;

    #[inline(always)]
    fn cell(&self) -> &KmallocCell<HeapSystem<C>, K> {
        &self.cell
    }

    #[inline(always)]
    fn ready(&self) -> Result<&Kmalloc<HeapSystem<C>, K>, OutOfMemory> {
        self.cell.get().ok_or(OutOfMemory)
    }
}

// SAFETY: memory is valid, aligned and not shared until freed (slab cache and page source). Nothing
// unwinds, see `StaticKmalloc`. An address that comes back with a layout without a size, which the
// trait does not allow, enters no cache.
unsafe impl<C: Cpu + Clone + Send + Sync, K: Hardening> GlobalAlloc for Heap<C, K> {
    global_alloc!();
}

impl<C: Cpu + Clone, K: Hardening> fmt::Debug for Heap<C, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap").field("kmalloc", &self.kmalloc()).finish_non_exhaustive()
    }
}
