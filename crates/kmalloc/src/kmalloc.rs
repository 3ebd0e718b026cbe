//! The allocator: takes a request from the cache of its size class, or from whole pages if it has
//! no class.
//!
//! # Concepts
//! An allocation tries the CPU slot of its class ([`ClassCaches`]), and after a miss that class's
//! cache. A request larger than all classes becomes a run of pages ([`LargeRuns`]). Slab pages
//! carry their class as the page map's tag, so an address alone is enough to free: the tag says
//! class or run. A caller that passes the layout saves this look-up
//! ([`free_sized`](Kmalloc::free_sized)).
//!
//! # Invariants
//! - I1: an address whose tag is a class is an object of that class's cache: no other code tags
//!   with classes.

use core::alloc::Layout;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use page_frame::{OutOfMemory, PAGE_SHIFT, PageMap, PageResize, Tag, TagRange, Violation};
use slab::{Cache, Hardening, Off, Registry, System};

use crate::borrowed_id::BorrowedId;
use crate::class::ClassIndex;
use crate::class_caches::{ClassCaches, FIRST_TAG};
use crate::large::LargeRuns;
use crate::mixed::Reclaim;

/// Memory of any size and alignment, from the caches of a registry and, beyond
/// [`LARGEST`](crate::LARGEST), from its page source.
///
/// All methods take `&self` and may be called from every CPU, and from interrupts.
///
/// ```
/// use core::alloc::Layout;
/// use kmalloc::Kmalloc;
/// use page_frame::{Arena, SingleCpu};
/// use slab::Registry;
///
/// let mut memory = vec![core::mem::MaybeUninit::uninit(); 8 << 20];
/// let arena = Arena::new(&mut memory)?;
/// let kmalloc = Kmalloc::new(Registry::new(&arena, SingleCpu::new())?).with_magazine_bytes(4096);
/// let layout = Layout::new::<[u8; 20]>();
/// let twenty = kmalloc.allocate(layout)?;
/// assert_eq!(kmalloc.usable_size(twenty), Some(24));
/// // SAFETY: clauses 1 and 2: from this allocator, and only the result is used below.
/// let large = unsafe { kmalloc.reallocate(twenty, layout, 100_000) }?;
/// assert_eq!(kmalloc.pages_held(), kmalloc.registry().pages_held() + kmalloc.large_pages());
/// let zeros = kmalloc.allocate_zeroed(layout)?;
/// // SAFETY: clauses 1 and 2: from this allocator for `layout`, and not used any more.
/// unsafe { kmalloc.free_sized(zeros, layout) };
/// // SAFETY: clauses 1 and 2: as above. The page map knows the size.
/// unsafe { kmalloc.free(large) };
/// assert!(kmalloc.shrink_all() > 0 && kmalloc.large_pages() == 0);
/// kmalloc.validate()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[repr(C)]
pub struct Kmalloc<S: System<Pages: PageResize>, K: Hardening = Off> {
    /// First, so that the table of per-CPU handles is at the address of the allocator.
    pub(crate) caches: ClassCaches<S, K>,
    tags: TagRange,
    pub(crate) large: LargeRuns,
}

// SAFETY: the raw handles are caches, which may be sent and shared under the same conditions, as
// may the registry.
unsafe impl<S, K: Hardening> Send for Kmalloc<S, K> where
    S: System<Pages: PageResize + Send + Sync, Cpus: Send + Sync>
{
}
// SAFETY: shared use changes the handles by atomic exchanges only.
unsafe impl<S, K: Hardening> Sync for Kmalloc<S, K> where
    S: System<Pages: PageResize + Send + Sync, Cpus: Send + Sync>
{
}

impl<S: System<Pages: PageResize>> Kmalloc<S> {
    /// Makes an allocator whose caches are in `registry`. Takes no memory before the first request.
    ///
    /// A registry may have only one such allocator: a second one would take the first one's objects
    /// for its own. Example: see [`Kmalloc`].
    pub fn new(registry: Registry<S>) -> Self {
        Self::with_hardening(registry)
    }
}

impl<S: System<Pages: PageResize>, K: Hardening> Kmalloc<S, K> {
    /// Makes an allocator as [`new`](Kmalloc::new) does, whose caches make the checks of the preset
    /// `K`. The preset does not matter for large allocations: only the page map checks them.
    /// Example: see [the crate](crate).
    pub fn with_hardening(registry: Registry<S>) -> Self {
        // The registry does not move its page source from now on.
        let tags = registry.source().tag_range();
        Self { caches: ClassCaches::new(registry), tags, large: LargeRuns::new() }
    }

    /// Sets the secret of canaries and shuffled slabs, see
    /// [`CacheBuilder::secret`](slab::CacheBuilder::secret). Call it before the first request.
    /// Example: see [the crate](crate).
    pub const fn with_secret(mut self, secret: usize) -> Self {
        self.caches.secret = Some(secret);
        self
    }

    /// Sets about how many bytes of objects each CPU keeps for each class in one of its two
    /// magazines, see [`CacheBuilder::magazine_bytes`](slab::CacheBuilder::magazine_bytes). Call it
    /// before the first request. Example: see [`Kmalloc`].
    ///
    /// # Panics
    /// When `bytes` is zero.
    pub const fn with_magazine_bytes(mut self, bytes: usize) -> Self {
        assert!(bytes > 0, "a magazine holds something");
        self.caches.magazine_bytes = Some(bytes);
        self
    }

    /// Sets for how many bytes of free objects the depot of each class has room, see
    /// [`CacheBuilder::depot_bytes`](slab::CacheBuilder::depot_bytes). Call it before the first
    /// request. Example: see [the crate](crate).
    pub const fn with_depot_bytes(mut self, bytes: usize) -> Self {
        self.caches.depot_bytes = Some(bytes);
        self
    }

    /// Makes slabs of at least `objects` objects of a class, see
    /// [`CacheBuilder::min_objects`](slab::CacheBuilder::min_objects). Call it before the first
    /// request. Example: see [the crate](crate).
    pub const fn with_min_objects(mut self, objects: usize) -> Self {
        self.caches.min_objects = objects;
        self
    }

    /// Returns the registry, for shrinking, statistics and private caches.
    /// Example: see [`Kmalloc`].
    pub const fn registry(&self) -> &Registry<S> {
        &self.caches.registry
    }

    /// Allocates memory for `layout`, its content arbitrary. A request for zero bytes gets one.
    ///
    /// Up to [`LARGEST`](crate::LARGEST) bytes a hit is a pop in the caller's CPU slot; a miss may
    /// take locks and ask the page source. Larger requests take whole pages, exactly as many as
    /// needed where the source can. Example: see [`Kmalloc`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when neither a slab nor the page source has room, and for sizes and
    /// alignments beyond the largest block (1 GiB).
    #[inline]
    pub fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        // The cold calls come last, so that the hot path needs no stack frame.
        let Some(class) = ClassIndex::fitting(layout.size(), layout.align()) else {
            return self.allocate_missed(layout);
        };
        match self.caches.allocate_hit(class) {
            Some(object) => Ok(object),
            None => self.allocate_in_class_missed(class, layout),
        }
    }

    /// Allocates after a miss, or for a layout without a class: a request for zero bytes gets one,
    /// and large layouts get pages.
    #[cold]
    #[inline(never)]
    pub(crate) fn allocate_missed(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        match ClassIndex::for_layout(layout) {
            Some(class) => self.allocate_in_class_missed(class, layout),
            None => self.caches.allocate_large(&self.large, layout),
        }
    }

    /// Allocates for `layout`, of `class`, after a miss: from the class's cache, or without one.
    #[cold]
    #[inline(never)]
    pub(crate) fn allocate_in_class_missed(
        &self,
        class: ClassIndex,
        layout: Layout,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let borrowed = BorrowedId::new(self.registry().cpu());
        if borrowed.is_lent {
            if let Some(object) = self.caches.allocate_hit(class) {
                return Ok(object);
            }
        }
        let object = match self.caches.get_pure(class) {
            Some(cache) => cache.allocate_missed(),
            None => self.caches.allocate_mixed(class, layout, Reclaim::Allowed),
        }?;
        Ok(self.caches.note_requested_size(class, object, layout.size()))
    }

    /// Allocates memory for `layout` as [`allocate`](Self::allocate) does, without reclaiming: the
    /// page source reclaims nothing for it, so no shrinker and no out-of-memory hook runs. For
    /// callers that can do without the memory, or may not wait. Example: see [the crate](crate).
    ///
    /// # Errors
    /// [`OutOfMemory`](page_frame::OutOfMemory) when nothing is free; see
    /// [`allocate`](Self::allocate).
    pub fn try_allocate(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        let Some(class) = ClassIndex::for_layout(layout) else {
            let run = self.large.try_allocate(self.source(), layout).map(|run| run.start());
            return run.or_else(|_| self.caches.try_allocate_bytes(layout));
        };
        if let Some(object) = self.caches.allocate_hit(class) {
            return Ok(object);
        }
        let object = match self.caches.get_pure(class) {
            Some(cache) => cache.try_allocate(),
            None => self.caches.allocate_mixed(class, layout, Reclaim::Forbidden),
        }?;
        Ok(self.caches.note_requested_size(class, object, layout.size()))
    }

    /// Allocates memory for `layout` that reads as zero, up to its
    /// [`usable_size`](Self::usable_size). Skips the zeroing if the page source says that its pages
    /// are zero. Otherwise O(bytes). Example: see [`Kmalloc`].
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    pub fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        let (start, bytes, is_zero) = match ClassIndex::for_layout(layout) {
            Some(class) => match self.caches.allocate_hit(class) {
                Some(object) => (object, class.size(), false),
                None => {
                    let start = self.allocate_in_class_missed(class, layout)?;
                    (start, self.bytes_in(class, start), false)
                }
            },
            None => match self.large.allocate(self.source(), layout) {
                Ok(run) => (run.start(), run.pages() << PAGE_SHIFT, run.is_zero()),
                Err(OutOfMemory) => {
                    let start = self.caches.retry_large(&self.large, layout)?;
                    (start, self.usable_size(start).unwrap_or(layout.size()), false)
                }
            },
        };
        if !is_zero {
            // SAFETY: the memory was just allocated with that many bytes, and no other code has it.
            unsafe { start.write_bytes(0, bytes) };
        }
        Ok(start)
    }

    /// Allocates for `layout`, which has `class`.
    #[inline]
    pub(crate) fn allocate_in_class(
        &self,
        class: ClassIndex,
        layout: Layout,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        self.caches
            .allocate_hit(class)
            .map_or_else(|| self.allocate_in_class_missed(class, layout), Ok)
    }

    /// Frees an allocation of any size. Takes one load more than [`free_sized`](Self::free_sized).
    ///
    /// Addresses that are not an allocation's start are a [fault](page_frame::Fault) if the page
    /// map shows it: memory that is not the source's, freed or interior pages of large allocations,
    /// raw blocks, objects of private caches. Example: see [`Kmalloc`].
    ///
    /// # Safety
    /// 1. `start` came from this allocator and has not been freed since.
    /// 2. No code uses the memory from now on.
    #[inline(always)]
    #[track_caller]
    pub unsafe fn free(&self, start: NonNull<u8>) {
        // SAFETY: the registry has not moved its source since `with_hardening`.
        if let Some(tag) = unsafe { self.tags.tag_index(start.addr().get()) } {
            // SAFETY: clause 1 of `free_hit_by_tag`: a tag is a byte. Clause 2: by I1 an address
            // with a class's tag is an object of its cache, which the caller gives up (clauses 1
            // and 2).
            if unsafe { self.caches.free_hit_by_tag(tag, start) } {
                return;
            }
        }
        // SAFETY: clauses 1 and 2 still hold, as a miss changes nothing.
        unsafe { self.free_missed(start) };
    }

    /// Frees an object of `class`.
    ///
    /// # Safety
    /// 1. `start` is an object of the cache of `class` that the caller owns, and that no code uses
    ///    from now on.
    #[inline(always)]
    pub(crate) unsafe fn free_object(&self, class: ClassIndex, start: NonNull<u8>) {
        // SAFETY: clause 1 of `free_hit_by_tag`: the tag of a class is a byte. Clause 2: clause 1.
        if !unsafe { self.caches.free_hit_by_tag(FIRST_TAG + class.index(), start) } {
            // SAFETY: clause 1: a miss changes nothing, and the caller owns the object.
            unsafe { self.free_missed(start) };
        }
    }

    /// Frees after a miss, or if the address is not in a slab of ours in the range of most pages.
    ///
    /// # Safety
    /// 1. As for [`free`](Self::free).
    #[cold]
    #[inline(never)]
    #[track_caller]
    unsafe fn free_missed(&self, start: NonNull<u8>) {
        let class = self.class_at(start);
        let find = |class| self.caches.get(class);
        // SAFETY: clause 1 of `free_borrowing`: by I1 `start` is an object of the class's cache, or
        // without a class the caller's by clause 1.
        unsafe { self.free_borrowing(class, find, start) };
    }

    /// Frees an allocation for `layout`. A hit is a push in the caller's CPU slot, without a
    /// look-up. A miss may take locks. Example: see [`Kmalloc`].
    ///
    /// # Safety
    /// 1. `start` came from this allocator for `layout` and has not been freed since.
    /// 2. No code uses the memory from now on.
    #[inline(always)]
    #[track_caller]
    pub unsafe fn free_sized(&self, start: NonNull<u8>, layout: Layout) {
        if let Some(class) = ClassIndex::fitting(layout.size(), layout.align()) {
            // SAFETY: clauses 1 and 2: `start` was allocated for the layout's class, and the
            // caller gives it up.
            if unsafe { self.caches.free_hit(class, start) } {
                return;
            }
        }
        // SAFETY: clauses 1 and 2 still hold, as a miss changes nothing.
        unsafe { self.free_sized_missed(start, layout) };
    }

    /// Frees an allocation for `layout` after a miss.
    ///
    /// # Safety
    /// 1. As for [`free_sized`](Self::free_sized).
    #[cold]
    #[inline(never)]
    #[track_caller]
    pub(crate) unsafe fn free_sized_missed(&self, start: NonNull<u8>, layout: Layout) {
        let find = |class| self.caches.get_pure(class);
        // SAFETY: clause 1 of `free_borrowing`: by clause 1 `start` was allocated for the layout's
        // class, so it is its cache's if the class is pure (I3 of the caches).
        unsafe { self.free_borrowing(ClassIndex::for_layout(layout), find, start) };
    }

    /// Frees memory allocated for `class`, after a miss: to the cache that `find` finds, or as
    /// [`free_mixed`](Self::free_mixed) and [`free_without_class`](ClassCaches::free_without_class)
    /// do. If the machine lends the caller an id, it tries for a hit again.
    ///
    /// # Safety
    /// 1. `start` was allocated for `class`, or without one; it is an object of the cache that
    ///    `find` returns.
    /// 2. The caller owns it, and no code uses it from now on.
    #[inline(always)]
    #[track_caller]
    unsafe fn free_borrowing(
        &self,
        class: Option<ClassIndex>,
        find: impl Fn(ClassIndex) -> Option<ManuallyDrop<Cache<S, K>>>,
        start: NonNull<u8>,
    ) {
        let borrowed = BorrowedId::new(self.registry().cpu());
        if let Some(class) = class.filter(|_| borrowed.is_lent) {
            // SAFETY: clauses 1 and 2 of `free_hit`: clauses 1 and 2.
            if unsafe { self.caches.free_hit(class, start) } {
                return;
            }
        }
        let Some(class) = class else {
            // SAFETY: clauses 1 and 2 of `free_without_class`: clauses 1 and 2.
            return unsafe { self.caches.free_without_class(&self.large, start) };
        };
        match find(class) {
            // SAFETY: clauses 1 and 2: an object of this cache, which the caller gives up.
            Some(cache) => unsafe { cache.free(start) },
            // SAFETY: clause 1 of `free_mixed`: clause 2.
            None => unsafe { self.free_mixed(start) },
        }
    }

    /// Frees memory of a class that is not pure: the page map says whether it is an object.
    ///
    /// # Safety
    /// 1. The caller owns the allocation at `start`, and no code uses it from now on.
    #[cold]
    #[inline(never)]
    #[track_caller]
    unsafe fn free_mixed(&self, start: NonNull<u8>) {
        match self.class_at(start).and_then(|class| self.caches.get(class)) {
            // SAFETY: clauses 1 and 2: by I1 an object of this cache; clause 1.
            Some(cache) => unsafe { cache.free(start) },
            // SAFETY: clauses 1 and 2 of `free_without_class`: it is in no slab of a class; clause
            // 1.
            None => unsafe { self.caches.free_without_class(&self.large, start) },
        }
    }

    /// Returns the class of the slab that `start` lies in, if it is one of ours.
    #[inline]
    pub(crate) fn class_at(&self, start: NonNull<u8>) -> Option<ClassIndex> {
        let far = || class_of(self.source().tag(start.addr().get()));
        self.class_in_range(start).or_else(far)
    }

    /// Returns the class of the slab that `start` lies in, if it is one of ours in the range of
    /// most pages.
    #[inline(always)]
    pub(crate) fn class_in_range(&self, start: NonNull<u8>) -> Option<ClassIndex> {
        // SAFETY: the registry has not moved its source since `with_hardening`.
        unsafe { self.tags.tag(start.addr().get()) }.and_then(class_of)
    }

    /// Returns the pages of large allocations. O(1), no lock. Example: see [`Kmalloc`].
    pub fn large_pages(&self) -> usize {
        self.large.pages()
    }

    /// Returns all pages held: those of the registry with all its caches and with the bytes of a
    /// small memory, and those of large allocations. O(caches), takes their locks.
    /// Example: see [`Kmalloc`].
    pub fn pages_held(&self) -> usize {
        self.registry().pages_held() + self.large_pages()
    }

    /// Releases all pages that hold no memory in use; returns how many. Waits for locks.
    /// Example: see [`Kmalloc`].
    pub fn shrink_all(&self) -> usize {
        self.registry().shrink_all()
    }

    /// Checks the invariants of all caches of the registry. O(objects), takes their locks.
    /// Example: see [`Kmalloc`].
    ///
    /// # Errors
    /// Names the first invariant that does not hold.
    pub fn validate(&self) -> Result<(), Violation> {
        self.registry().validate()
    }

    /// Checks all free objects of all classes for writes since they were freed; see
    /// [`Cache::check_free_objects`](slab::Cache::check_free_objects).
    /// Example: see [`Kmalloc::check`].
    ///
    /// # Safety
    /// 1. No other code uses the allocator or its memory meanwhile.
    pub unsafe fn check_free_objects(&self) -> usize {
        let caches = ClassIndex::all().filter_map(|class| self.caches.get(class));
        // SAFETY: clause 1 is clause 1 of `Cache::check_free_objects`.
        caches.map(|cache| unsafe { cache.check_free_objects() }).sum()
    }

    pub(crate) fn source(&self) -> &S::Pages {
        self.registry().source()
    }
}

impl<S: System<Pages: PageResize>, K: Hardening> core::fmt::Debug for Kmalloc<S, K> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Kmalloc").field("pages_held", &self.pages_held()).finish_non_exhaustive()
    }
}

/// Returns the class that `tag` names.
#[inline(always)]
fn class_of(tag: Tag) -> Option<ClassIndex> {
    tag.as_class().and_then(ClassIndex::new)
}
