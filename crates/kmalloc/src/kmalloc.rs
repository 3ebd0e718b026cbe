//! The allocator: a request becomes a class, and a class a cache; what has no class becomes pages.
//!
//! # Concepts
//! - Each class has a cache in the slab registry, built by the first request that needs it.
//! - Slab pages carry their class as the page map's tag. So an address alone is enough to free: the tag says class or
//!   run of pages. Who knows the layout does not even need that look-up ([`free_sized`](Kmalloc::free_sized)).
//!
//! # Invariants
//! - I1: `caches[class]` is null or the raw handle of the cache of `class`, owned by this allocator, the same for ever.
//! - I2: an address whose tag is a class of ours is an object of that class's cache: nobody else tags with classes.
//! - I3: `rows` is null or the raw rows of slots of all caches, made for the registry's CPUs, the same for ever.
//!
//! # Concurrency
//! Two CPUs that need a class for the first time both build a cache; one compare-exchange decides, and the loser destroys its
//! own, which nobody has seen. The winner's is listed in the registry only then: visitors of two caches on one column of slots
//! would take each other's objects. Everything else is the registry's and the page source's business.

use core::alloc::Layout;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use page_frame::sync::{AtomicPtr, AtomicUsize, Ordering};
use page_frame::{Cpu, OutOfMemory, PAGE_SHIFT, PageResize, Tag, TagRange};
use slab::{COLUMNS, Cache, Checks, Off, Registry, SlotRows, is_any_on};

use crate::ClassIndex;

const _: () = assert!(ClassIndex::COUNT <= Tag::CLASSES && ClassIndex::COUNT <= COLUMNS);

/// Memory of any size and alignment, from the caches of a registry and, beyond [`LARGEST`](crate::LARGEST), from its page
/// source.
///
/// All methods take `&self` and may be called from every CPU, and from interrupts.
///
/// ```
/// use core::alloc::Layout;
/// use kmalloc::Kmalloc;
/// use page_frame::{Arena, SingleCpu};
/// use slab::Registry;
///
/// let mut memory = vec![core::mem::MaybeUninit::uninit(); 1 << 20];
/// let arena = Arena::new(&mut memory)?;
/// let kmalloc = Kmalloc::new(Registry::new(&arena, SingleCpu::new())?);
/// let twenty = kmalloc.allocate(Layout::new::<[u8; 20]>())?;
/// assert_eq!(kmalloc.usable_size(twenty), Some(24));
/// // SAFETY: from this allocator, and not used any more.
/// unsafe { kmalloc.free(twenty) };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Kmalloc<P: PageResize, C: Cpu + Clone, K: Checks = Off> {
    registry: Registry<P, C>,
    tags: TagRange,
    rows: AtomicPtr<()>,
    cpu: C,
    caches: [AtomicPtr<()>; ClassIndex::COUNT],
    pub(crate) large_pages: AtomicUsize,
    secret: Option<usize>,
    magazine_bytes: Option<usize>,
    checks: PhantomData<fn() -> K>,
}

// SAFETY: the raw handles are caches, which may be sent and shared under the same conditions, as may the registry.
unsafe impl<P: PageResize + Send + Sync, C: Cpu + Clone + Send + Sync, K: Checks> Send
    for Kmalloc<P, C, K>
{
}
// SAFETY: as above.
unsafe impl<P: PageResize + Send + Sync, C: Cpu + Clone + Send + Sync, K: Checks> Sync
    for Kmalloc<P, C, K>
{
}

impl<P: PageResize, C: Cpu + Clone> Kmalloc<P, C> {
    /// Makes an allocator whose caches are in `registry`. Takes no memory before the first request.
    ///
    /// One registry carries one such allocator: a second one would take the first one's objects for its own.
    pub fn new(registry: Registry<P, C>) -> Self {
        Self::with_checks(registry)
    }
}

impl<P: PageResize, C: Cpu + Clone, K: Checks> Kmalloc<P, C, K> {
    /// Makes an allocator as [`new`](Kmalloc::new) does, whose caches look for the mistakes that the preset `K` names.
    /// Large allocations are looked at as always: by the page map alone.
    ///
    /// ```
    /// # use kmalloc::Kmalloc;
    /// # use page_frame::{Arena, SingleCpu};
    /// # use slab::{Hardened, Registry};
    /// # let mut memory = vec![core::mem::MaybeUninit::uninit(); 1 << 20];
    /// # let arena = Arena::new(&mut memory)?;
    /// let registry = Registry::with_fault_hook(&arena, SingleCpu::new(), |fault| eprintln!("{fault}"))?;
    /// let kmalloc = Kmalloc::<_, _, Hardened>::with_checks(registry).with_secret(0x5eed);
    /// let (first, second) = (kmalloc.kmalloc(100)?, kmalloc.kmalloc(100)?);
    /// // SAFETY: the hook returns, so a double free is told of and changes nothing.
    /// unsafe {
    ///     kmalloc.kfree(Some(first));
    ///     kmalloc.kfree(Some(second));
    ///     kmalloc.kfree(Some(first)); // DoubleFree
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_checks(registry: Registry<P, C>) -> Self {
        let caches = core::array::from_fn(|_| AtomicPtr::new(core::ptr::null_mut()));
        // The registry keeps its page source where it is now.
        let tags = registry.source().tag_range();
        let (large_pages, checks) = (AtomicUsize::new(0), PhantomData);
        let (rows, cpu) = (AtomicPtr::new(core::ptr::null_mut()), registry.cpu().clone());
        Self {
            registry,
            tags,
            rows,
            cpu,
            caches,
            large_pages,
            secret: None,
            magazine_bytes: None,
            checks,
        }
    }

    /// Sets what canaries and shuffled slabs depend on, see [`CacheBuilder::secret`](slab::CacheBuilder::secret). To be
    /// called before the first request.
    pub const fn with_secret(mut self, secret: usize) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Sets about how many bytes of objects each CPU keeps at hand for each class in one of its two magazines, see
    /// [`CacheBuilder::magazine_bytes`](slab::CacheBuilder::magazine_bytes). To be called before the first request.
    pub const fn with_magazine_bytes(mut self, bytes: usize) -> Self {
        self.magazine_bytes = Some(bytes);
        self
    }

    /// Returns the registry, for shrinking, statistics and caches of one's own.
    pub const fn registry(&self) -> &Registry<P, C> {
        &self.registry
    }

    /// Allocates memory for `layout`, its content arbitrary. Zero bytes are served like one.
    ///
    /// Up to [`LARGEST`](crate::LARGEST) bytes a hit is a pop in the caller's CPU slot; a miss may take locks and ask the
    /// page source. Larger requests take whole pages, exactly as many as needed where the source can.
    ///
    /// # Errors
    /// [`OutOfMemory`] when neither a slab nor the page source has room; so do sizes and alignments beyond the largest
    /// block (1 GiB).
    #[inline]
    pub fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        match ClassIndex::for_layout(layout) {
            Some(class) => self.allocate_class(class),
            None => self.allocate_large(layout).map(|run| run.start),
        }
    }

    /// Allocates memory for `layout` that reads as zero. Skips the zeroing where the page source says that its pages are.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    pub fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        let (start, is_zero) = match ClassIndex::for_layout(layout) {
            Some(class) => (self.allocate_class(class)?, false),
            None => self.allocate_large(layout).map(|run| (run.start, run.is_zero))?,
        };
        if !is_zero {
            // SAFETY: just allocated for as many bytes, and nobody else's.
            unsafe { start.write_bytes(0, layout.size()) };
        }
        Ok(start)
    }

    /// Frees what an allocation returned, whatever its size. One load more than [`free_sized`](Self::free_sized).
    ///
    /// Addresses that are not an allocation's start are a [fault](page_frame::Fault) where the page map shows it: memory
    /// of others, freed or interior pages of large allocations, raw blocks, objects of private caches.
    ///
    /// # Safety
    /// 1. `start` came from this allocator and has not been freed since.
    /// 2. Nobody uses the memory from now on.
    #[inline(always)]
    #[track_caller]
    pub unsafe fn free(&self, start: NonNull<u8>) {
        // SAFETY: the registry has not moved its source since `with_checks`.
        match class_of(unsafe { self.tags.tag(start.addr().get()) }) {
            // SAFETY: the caller's clauses; I2.
            Some(class) => unsafe { self.free_object(class, start) },
            // SAFETY: the caller's clauses.
            None => unsafe { self.free_elsewhere(start) },
        }
    }

    /// Frees what does not lie in a slab of a class of ours in the range that most pages lie in.
    ///
    /// # Safety
    /// 1. As for [`free`](Self::free).
    #[cold]
    #[inline(never)]
    #[track_caller]
    unsafe fn free_elsewhere(&self, start: NonNull<u8>) {
        match self.class_at(start) {
            // SAFETY: clause 1; I2.
            Some(class) => unsafe { self.free_object(class, start) },
            // SAFETY: clause 1.
            None => unsafe { self.free_large(start) },
        }
    }

    /// Frees what was allocated with `layout`. A hit is a push in the caller's CPU slot, without any look-up.
    ///
    /// # Safety
    /// 1. `start` came from this allocator for `layout` and has not been freed since.
    /// 2. Nobody uses the memory from now on.
    #[inline]
    #[track_caller]
    pub unsafe fn free_sized(&self, start: NonNull<u8>, layout: Layout) {
        match ClassIndex::for_layout(layout) {
            // SAFETY: the caller's clauses: the layout leads to the class that it was allocated from.
            Some(class) => unsafe { self.free_object(class, start) },
            // SAFETY: the caller's clauses.
            None => unsafe { self.free_large(start) },
        }
    }

    /// Returns how many bytes at `start` may be used, at least as many as were asked for; `None` for an address at which
    /// no allocation of this allocator starts, as far as the page map shows. O(1), no lock.
    pub fn usable_size(&self, start: NonNull<u8>) -> Option<usize> {
        match self.class_at(start) {
            Some(class) => Some(class.size()),
            None => self.large_pages_at(start.addr().get()).map(|pages| pages << PAGE_SHIFT),
        }
    }

    /// Returns the class of the slab that `start` lies in, if it is one of ours.
    #[inline]
    pub(crate) fn class_at(&self, start: NonNull<u8>) -> Option<ClassIndex> {
        let address = start.addr().get();
        // SAFETY: the registry has not moved its source since `with_checks`.
        let near = class_of(unsafe { self.tags.tag(address) });
        near.or_else(|| class_of(self.registry.source().tag(address)))
    }

    #[inline(always)]
    pub(crate) fn allocate_class(&self, class: ClassIndex) -> Result<NonNull<u8>, OutOfMemory> {
        if !is_any_on::<K>() {
            if let Some(rows) = self.rows() {
                // SAFETY: I3; there are fewer classes than columns.
                if let Some(object) = unsafe { rows.pop(class.index(), &self.cpu) } {
                    return Ok(object);
                }
            }
        }
        self.allocate_missed(class)
    }

    #[cold]
    #[inline(never)]
    fn allocate_missed(&self, class: ClassIndex) -> Result<NonNull<u8>, OutOfMemory> {
        // Acquire: pairs with the Release in `build`; sees the cache as it was built.
        let raw = self.caches[class.index()].load(Ordering::Acquire);
        let raw = match NonNull::new(raw) {
            Some(raw) => raw,
            None => self.build(class)?,
        };
        // SAFETY: I1.
        let cache = unsafe { Self::borrow(raw) };
        // Where that cannot be done now, a later miss does it.
        cache.enlist();
        cache.allocate()
    }

    /// Returns the rows of slots, once there are some.
    #[inline(always)]
    fn rows(&self) -> Option<SlotRows> {
        // Acquire: pairs with the Release in `build_rows`; sees them as they were made.
        let raw = NonNull::new(self.rows.load(Ordering::Acquire))?;
        // SAFETY: I3.
        Some(unsafe { SlotRows::from_raw(raw) })
    }

    /// # Safety
    /// 1. `start` is an object of `class` that the caller owns and nobody uses.
    #[inline(always)]
    #[track_caller]
    pub(crate) unsafe fn free_object(&self, class: ClassIndex, start: NonNull<u8>) {
        if !is_any_on::<K>() {
            // Relaxed: whoever has an object has seen the rows: they were there before its slab was.
            let raw = self.rows.load(Ordering::Relaxed);
            // SAFETY: clause 1: there is an object, so there are rows.
            let raw = unsafe { NonNull::new_unchecked(raw) };
            // SAFETY: I3.
            let rows = unsafe { SlotRows::from_raw(raw) };
            // SAFETY: I3; there are fewer classes than columns; clause 1.
            if unsafe { rows.push(class.index(), &self.cpu, start) } {
                return;
            }
        }
        // SAFETY: clause 1.
        unsafe { self.free_missed(class, start) };
    }

    /// # Safety
    /// 1. As for `free_object`.
    #[cold]
    #[inline(never)]
    #[track_caller]
    unsafe fn free_missed(&self, class: ClassIndex, start: NonNull<u8>) {
        // Acquire: as in `allocate_class`.
        let raw = self.caches[class.index()].load(Ordering::Acquire);
        let Some(raw) = NonNull::new(raw) else { return self.foreign(start) };
        // SAFETY: I1.
        let cache = unsafe { Self::borrow(raw) };
        // SAFETY: clause 1: an object of this class came from the class's cache.
        unsafe { cache.free(start) };
    }

    /// Builds the cache of `class`, unless somebody else has meanwhile.
    #[cold]
    fn build(&self, class: ClassIndex) -> Result<NonNull<()>, OutOfMemory> {
        let layout = Layout::from_size_align(class.size(), class.alignment())
            .expect("a class's alignment is a power of two that divides its size");
        let tag = Tag::class(class.index()).expect("there are fewer classes than tags for them");
        let name = crate::names::cache_name(class);
        let rows = match self.rows() {
            Some(rows) => rows,
            None => self.build_rows()?,
        };
        let builder = self.registry.cache(name.as_str(), layout).tag(tag).checks::<K>();
        // SAFETY: made for this registry's CPUs (I3). Of several caches for the class only the one that is published is ever
        // used or listed.
        let builder = unsafe { builder.slots_in(rows, class.index()) };
        let builder = match self.magazine_bytes {
            Some(bytes) => builder.magazine_bytes(bytes),
            None => builder,
        };
        let builder = match self.secret {
            Some(secret) => builder.secret(secret),
            None => builder,
        };
        let new = builder.build_unlisted().map_err(|_| OutOfMemory)?.into_raw();
        let place = &self.caches[class.index()];
        let empty = core::ptr::null_mut();
        // Release: pairs with the Acquire loads; publishes the cache. Acquire on failure: sees the other one.
        match place.compare_exchange(empty, new.as_ptr(), Ordering::Release, Ordering::Acquire) {
            Ok(_) => Ok(new),
            Err(first) => {
                // SAFETY: ours from `into_raw` above, seen by nobody else.
                let unused = unsafe { Cache::<P, C, K>::from_raw(new) };
                // SAFETY: as above: not listed, and it never had an object.
                unsafe { unused.discard() };
                Ok(NonNull::new(first).expect("the exchange failed because it is not null"))
            }
        }
    }

    /// Returns the pages of the rows of slots.
    pub(crate) fn row_pages(&self) -> usize {
        self.rows().map_or(0, |_| SlotRows::pages(&self.cpu))
    }

    /// Makes the rows of slots, unless somebody else has meanwhile.
    fn build_rows(&self) -> Result<SlotRows, OutOfMemory> {
        let source = self.registry.source();
        let new = SlotRows::new(source, &self.cpu)?;
        let (empty, raw) = (core::ptr::null_mut(), new.into_raw().as_ptr());
        // Release: pairs with the Acquire in `rows`. Acquire on failure: sees the other ones.
        match self.rows.compare_exchange(empty, raw, Ordering::Release, Ordering::Acquire) {
            Ok(_) => Ok(new),
            Err(_) => {
                // SAFETY: ours, seen by nobody else.
                unsafe { new.free(source, &self.cpu) };
                Ok(self.rows().expect("the exchange failed because there are some"))
            }
        }
    }

    /// # Safety
    /// 1. `raw` is one of `caches` (I1).
    #[inline(always)]
    unsafe fn borrow(raw: NonNull<()>) -> ManuallyDrop<Cache<P, C, K>> {
        // SAFETY: clause 1: from `into_raw`. It is not dropped here, so the handle stays the allocator's.
        ManuallyDrop::new(unsafe { Cache::from_raw(raw) })
    }
}

#[inline(always)]
fn class_of(tag: Tag) -> Option<ClassIndex> {
    const FIRST: u8 = match Tag::class(0) {
        Some(tag) => tag.get(),
        None => panic!("there are tags of classes"),
    };
    // Tags below the first class's wrap round to beyond the last.
    ClassIndex::new(tag.get().wrapping_sub(FIRST).into())
}

impl<P: PageResize, C: Cpu + Clone, K: Checks> Drop for Kmalloc<P, C, K> {
    /// Destroys the caches. Memory in use stays as it is, and its pages are lost to the page source.
    fn drop(&mut self) {
        let mut all_gone = true;
        for place in &mut self.caches {
            // Relaxed: `&mut self` says that nobody else is there.
            if let Some(raw) = NonNull::new(place.load(Ordering::Relaxed)) {
                // SAFETY: I1: owned, and not used again.
                let cache = unsafe { Cache::<P, C, K>::from_raw(raw) };
                all_gone &= cache.destroy().is_ok();
            }
        }
        // Caches with objects in use live on in the registry, and their slots with them.
        if let Some(rows) = self.rows().filter(|_| all_gone) {
            // SAFETY: made with these, and no cache is left.
            unsafe { rows.free(self.registry.source(), &self.cpu) };
        }
    }
}

impl<P: PageResize, C: Cpu + Clone, K: Checks> core::fmt::Debug for Kmalloc<P, C, K> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Kmalloc").field("pages_held", &self.pages_held()).finish_non_exhaustive()
    }
}
