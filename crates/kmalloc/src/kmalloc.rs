//! The allocator: serves a request from the cache of its size class, or from a run of pages if it
//! has no class.
//!
//! # Concepts
//! An allocation tries the CPU slot of its class ([`ClassCaches`]), and after a miss the cache of
//! the class. A request larger than all classes becomes a run of pages ([`LargeRuns`]). The page
//! map's tag of each slab page is the class. So a free needs only the address: the tag shows
//! whether it is an object, and of which class. A caller that passes the layout
//! ([`free_sized`](Kmalloc::free_sized)) saves this look-up.
//!
//! # Invariants
//! - I1: an allocation in a page whose tag is a class is an object of that class's cache, as only
//!   the caches of classes set such tags.

use core::alloc::Layout;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use page_frame::{OutOfMemory, PAGE_SHIFT, PageMap, PageResize, Tag, TagRange, Violation};
use slab::{Cache, Hardening, Off, Registry, System};

use crate::borrowed_id::BorrowedId;
use crate::classes::class::ClassIndex;
use crate::classes::class_caches::{ClassCaches, FIRST_TAG};
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
    /// The first field, so that the table of per-CPU handles is at the address of the allocator.
    pub(crate) caches: ClassCaches<S, K>,
    /// The page tags of the source's main range, which frees read without a search.
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
    /// A registry may have only one such allocator: a second one would free objects of the first
    /// one to its own caches. Example: see [`Kmalloc`].
    pub fn new(registry: Registry<S>) -> Self {
        Self::with_hardening(registry)
    }
}

impl<S: System<Pages: PageResize>, K: Hardening> Kmalloc<S, K> {
    /// Makes an allocator as [`new`](Kmalloc::new) does, whose caches make the checks of the preset
    /// `K`. Large allocations are checked by the page map only, under every preset.
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

    /// Sets the approximate size in bytes of the objects in a full magazine; each CPU has up to two
    /// magazines for each class. See
    /// [`CacheBuilder::magazine_bytes`](slab::CacheBuilder::magazine_bytes). Call it before the
    /// first request. Example: see [`Kmalloc`].
    ///
    /// # Panics
    /// When `bytes` is zero.
    pub const fn with_magazine_bytes(mut self, bytes: usize) -> Self {
        assert!(bytes > 0, "a magazine holds something");
        self.caches.magazine_bytes = Some(bytes);
        self
    }

    /// Sets the capacity of the depot of each class, in bytes of free objects. See
    /// [`CacheBuilder::depot_bytes`](slab::CacheBuilder::depot_bytes). Call it before the first
    /// request. Example: see [the crate](crate).
    pub const fn with_depot_bytes(mut self, bytes: usize) -> Self {
        self.caches.depot_bytes = Some(bytes);
        self
    }

    /// Sets the minimum number of objects in a slab. See
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
    /// Longest path counted: 21,662 instructions for up to 2,048 bytes (`allocate`).
    ///
    /// # Errors
    /// [`OutOfMemory`] when neither a slab nor the page source has room, and for sizes and
    /// alignments beyond the largest block ([`Order::MAX`](page_frame::Order::MAX)).
    #[inline]
    pub fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        // The cold calls are the last ones, so that a hit needs no stack frame.
        let Some(class) = ClassIndex::fitting(layout.size(), layout.align()) else {
            return self.allocate_missed(layout);
        };
        match self.caches.allocate_hit(class) {
            Some(object) => Ok(object),
            None => self.allocate_in_class_missed(class, layout),
        }
    }

    /// Allocates after a miss, or for a layout without a class. A request for zero bytes gets one
    /// byte, and a large one gets pages.
    #[cold]
    #[inline(never)]
    pub(crate) fn allocate_missed(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        match ClassIndex::for_layout(layout) {
            Some(class) => self.allocate_in_class_missed(class, layout),
            None => self.caches.allocate_large(&self.large, layout),
        }
    }

    /// Allocates for `layout`, of `class`, after a miss: from the class's cache, or from a byte
    /// source.
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
    /// page source calls no shrinker and no out-of-memory hook. For callers that can do without the
    /// memory, or may not wait. Example: see [the crate](crate).
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
    /// are zero. Otherwise O(bytes). Longest path counted: 11,176 instructions for up to 2,048
    /// bytes (`kzalloc`). Example: see [`Kmalloc`].
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

    /// Allocates for `layout`, of `class`.
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

    /// Frees an allocation of any size. Costs one load more than [`free_sized`](Self::free_sized).
    /// Longest path counted: 25,799 instructions for up to 2,048 bytes (`kfree`), 1,128 for up to
    /// 512 KiB (`kfree-large`), 35,823 for up to 2,048 bytes under [`Hardened`](slab::Hardened)
    /// (`hardened-kfree`).
    ///
    /// An address at which no allocation starts is a [fault](page_frame::Fault) if the page map
    /// shows it. These are memory of another source, freed or interior pages of large allocations,
    /// blocks of the page source, and objects of private caches. Example: see [`Kmalloc`].
    ///
    /// # Safety
    /// 1. `start` came from this allocator and has not been freed since.
    /// 2. No code uses the memory from now on.
    #[inline(always)]
    #[track_caller]
    pub unsafe fn free(&self, start: NonNull<u8>) {
        // SAFETY: clauses 1 and 2.
        if !unsafe { self.free_hit(start.as_ptr()) } {
            // SAFETY: clauses 1 and 2 still hold, as a miss changes nothing.
            unsafe { self.free_missed(start) };
        }
    }

    /// Frees an allocation if it is an object of a class, and the caller's CPU slot has room for
    /// it. Returns whether it did; a miss changes nothing. Null is a miss.
    ///
    /// # Safety
    /// 1. `start` is null, or as for [`free`](Self::free).
    /// 2. After a hit no code uses the memory.
    #[doc(hidden)]
    #[inline(always)]
    pub unsafe fn free_hit(&self, start: *mut u8) -> bool {
        // SAFETY: the registry has not moved its source since `with_hardening`.
        let Some(tag) = (unsafe { self.tags.tag_index(start.addr()) }) else { return false };
        // SAFETY: no page of a source is at address zero, so the range has none.
        let start = unsafe { NonNull::new_unchecked(start) };
        // SAFETY: clause 1 of `free_hit_by_tag`: a tag is a byte. Clause 2: if the tag is a class,
        // by clause 1 and I1 the allocation is an object of its cache, which the caller owns and by
        // clause 2 gives up.
        unsafe { self.caches.free_hit_by_tag(tag, start) }
    }

    /// Frees an object of the cache of `class`.
    ///
    /// # Safety
    /// 1. `start` is an object of the cache of `class` that the caller owns. No code uses it from
    ///    now on.
    #[inline(always)]
    pub(crate) unsafe fn free_object(&self, class: ClassIndex, start: NonNull<u8>) {
        // SAFETY: clause 1 of `free_hit_by_tag`: the tag of a class is a byte. Clause 2: clause 1.
        if !unsafe { self.caches.free_hit_by_tag(FIRST_TAG + class.index(), start) } {
            // SAFETY: clause 1: by clause 1 the caller owns the object, as a miss changes nothing.
            unsafe { self.free_missed(start) };
        }
    }

    /// Frees after a miss, or an address outside of the source's main range, or one that is not in
    /// a slab of a class.
    ///
    /// # Safety
    /// 1. As for [`free`](Self::free).
    #[doc(hidden)]
    #[cold]
    #[inline(never)]
    #[track_caller]
    pub unsafe fn free_missed(&self, start: NonNull<u8>) {
        let class = self.class_at(start);
        let cache = class.and_then(|class| self.caches.get(class));
        // SAFETY: clause 1 of `free_to`: by clause 1 the caller has an allocation at `start`, and
        // by I1 it is an object of the class's cache if there is a class. Clause 2: clause 1.
        unsafe { self.free_to(class, cache, start) };
    }

    /// Frees an allocation for `layout`. A hit is a push in the caller's CPU slot, without a
    /// look-up. A miss may take locks. Longest path counted: 29,406 instructions for up to 2,048
    /// bytes (`free-sized`). Example: see [`Kmalloc`].
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
        let class = ClassIndex::for_layout(layout);
        let cache = class.and_then(|class| self.caches.get_pure(class));
        // SAFETY: clause 1 of `free_to`: by clause 1 `start` was allocated for the layout's class.
        // If the class is pure, it is an object of the class's cache (I3 of `class_caches.rs`).
        // Clause 2: clause 1.
        unsafe { self.free_to(class, cache, start) };
    }

    /// Frees memory of `class`, or without a class, after a miss. It goes to `cache`, if there is
    /// one. Otherwise [`free_mixed`](Self::free_mixed) or
    /// [`free_without_class`](ClassCaches::free_without_class) frees it. If the machine lends the
    /// caller an id, this tries for a hit once more.
    ///
    /// # Safety
    /// 1. `start` was allocated for `class`, or without one. It is an object of `cache`, if there
    ///    is one.
    /// 2. The caller owns it, and no code uses it from now on.
    #[inline(always)]
    #[track_caller]
    unsafe fn free_to(
        &self,
        class: Option<ClassIndex>,
        cache: Option<ManuallyDrop<Cache<S, K>>>,
        start: NonNull<u8>,
    ) {
        let borrowed = BorrowedId::new(self.registry().cpu());
        if let Some(class) = class.filter(|_| borrowed.is_lent) {
            // SAFETY: clauses 1 and 2 of `free_hit`: clauses 1 and 2.
            if unsafe { self.caches.free_hit(class, start) } {
                return;
            }
        }
        match (class, cache) {
            // SAFETY: clauses 1 and 2 of `free`: by clause 1 an object of this cache, which by
            // clause 2 the caller owns and gives up. Clause 3: caches of classes have no hooks.
            (_, Some(cache)) => unsafe { cache.free(start) },
            // SAFETY: clause 1 of `free_mixed`: clause 2.
            (Some(class), None) => unsafe { self.free_mixed(class, start) },
            // SAFETY: clauses 1 and 2 of `free_without_class`: clauses 1 and 2.
            (None, None) => unsafe { self.caches.free_without_class(&self.large, start) },
        }
    }

    /// Frees memory of `class`, which is not pure. Without a cache of the class, it is bytes.
    ///
    /// # Safety
    /// 1. The caller owns the allocation at `start`, and no code uses it from now on.
    #[inline(always)]
    #[track_caller]
    unsafe fn free_mixed(&self, class: ClassIndex, start: NonNull<u8>) {
        // SAFETY: clause 1 of `free_bytes`: clause 1.
        if self.caches.get(class).is_some() || !unsafe { self.caches.free_bytes(start) } {
            // SAFETY: clause 1 of `free_by_map`: clause 1, as nothing has changed.
            unsafe { self.free_by_map(start) };
        }
    }

    /// Frees memory of a class: the page map shows whether it is an object.
    ///
    /// # Safety
    /// 1. The caller owns the allocation at `start`, and no code uses it from now on.
    #[cold]
    #[inline(never)]
    #[track_caller]
    unsafe fn free_by_map(&self, start: NonNull<u8>) {
        match self.class_at(start).and_then(|class| self.caches.get(class)) {
            // SAFETY: clauses 1 and 2 of `free`: by I1 an object of this cache, which by clause 1
            // the caller owns and gives up. Clause 3: caches of classes have no hooks.
            Some(cache) => unsafe { cache.free(start) },
            // SAFETY: clause 1 of `free_without_class`: it is in no slab of a class. Clause 2:
            // clause 1.
            None => unsafe { self.caches.free_without_class(&self.large, start) },
        }
    }

    /// Returns the class of the slab that `start` lies in, if it is a slab of a class.
    #[inline]
    pub(crate) fn class_at(&self, start: NonNull<u8>) -> Option<ClassIndex> {
        let outside = || class_of(self.source().tag(start.addr().get()));
        self.class_in_range(start).or_else(outside)
    }

    /// Returns what [`class_at`](Self::class_at) does for an address in the source's main range,
    /// which has most pages; `None` for any other address. Never searches.
    #[inline(always)]
    pub(crate) fn class_in_range(&self, start: NonNull<u8>) -> Option<ClassIndex> {
        // SAFETY: the registry has not moved its source since `with_hardening`.
        unsafe { self.tags.tag(start.addr().get()) }.and_then(class_of)
    }

    /// Returns the pages of large allocations. O(1), no lock. Example: see [`Kmalloc`].
    pub fn large_pages(&self) -> usize {
        self.large.pages()
    }

    /// Returns the number of all pages held: by the registry and its caches, by large allocations,
    /// and by allocations of bytes in a small memory. O(caches), takes their locks.
    /// Example: see [`Kmalloc`].
    pub fn pages_held(&self) -> usize {
        self.registry().pages_held() + self.large_pages()
    }

    /// Releases all pages without memory in use; returns their number. Waits for locks.
    /// Example: see [`Kmalloc`].
    pub fn shrink_all(&self) -> usize {
        self.registry().shrink_all()
    }

    /// Checks the invariants of all caches of the registry. O(objects), takes their locks.
    /// Example: see [`Kmalloc`].
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn validate(&self) -> Result<(), Violation> {
        self.registry().validate()
    }

    /// Checks all free objects of all classes for writes since they were freed, as
    /// [`Cache::check_free_objects`](slab::Cache::check_free_objects) does. Returns the number of
    /// faults. Example: see [`Kmalloc::check`].
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
