//! The allocator: a request becomes a class, and a class a cache; what has no class becomes pages.
//!
//! # Concepts
//! - Each class has a cache in the slab registry, built by the first request that needs it.
//! - Slab pages carry their class as the page map's tag. So an address alone is enough to free: the tag says class or
//!   run of pages. Who knows the layout does not even need that look-up ([`free_sized`](Kmalloc::free_sized)).
//! - Hits go by a table of the caches' [fronts](slab::PerCpuHandle), indexed by tag. It has a place for every tag, so that neither a
//!   class nor a foreign tag needs a look of its own: where there is no class, or no cache yet, the front is closed, and
//!   what is no hit is looked at again in the cold.
//!
//! # Invariants
//! - I1: `caches[class]` is null or the raw handle of the cache of `class`, owned by this allocator, the same for ever;
//!   `fronts[tag]` is the front of the cache of the tag's class, or a closed one.
//! - I2: an address whose tag is a class of ours is an object of that class's cache: nobody else tags with classes.
//!
//! # Concurrency
//! Two CPUs that need a class for the first time both build a cache; one compare-exchange decides, and the loser
//! destroys its own, still empty. Everything else is the registry's and the page source's business.

use core::alloc::Layout;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use page_frame::sync::{AtomicPtr, AtomicUsize, Ordering};
use page_frame::{OutOfMemory, PAGE_SHIFT, PageMap, PageResize, Tag, TagRange};
use slab::internals::PerCpuHandle;
use slab::{BuildError, Cache, CacheBuilder, Hardening, Off, Registry, System};

use crate::ClassIndex;

const _: () = assert!(ClassIndex::COUNT <= Tag::CLASSES);

/// How a builder becomes a cache.
type Build<'r, S, K> = fn(CacheBuilder<'r, S, K>) -> Result<Cache<S, K>, BuildError>;

/// How many tags there are.
const TAGS: usize = 1 << u8::BITS;

/// The tag of the first class; those of the others follow it.
const FIRST_TAG: usize = match Tag::class(0) {
    Some(tag) => tag.get() as usize,
    None => panic!("there is a first class"),
};
const _: () = assert!(FIRST_TAG + ClassIndex::COUNT <= TAGS);
const _: () = match Tag::class(ClassIndex::COUNT - 1) {
    Some(last) => assert!(last.get() as usize == FIRST_TAG + ClassIndex::COUNT - 1),
    None => panic!("there are fewer classes than tags for them"),
};

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
#[repr(C)]
pub struct Kmalloc<S: System<Pages: PageResize>, K: Hardening = Off> {
    /// First, so that they lie where the allocator does.
    fronts: [AtomicPtr<()>; TAGS],
    registry: Registry<S>,
    tags: TagRange,
    caches: [AtomicPtr<()>; ClassIndex::COUNT],
    pub(crate) large_pages: AtomicUsize,
    secret: Option<usize>,
    magazine_bytes: Option<usize>,
    checks: PhantomData<fn() -> K>,
}

// SAFETY: the raw handles are caches, which may be sent and shared under the same conditions, as may the registry.
unsafe impl<S: System<Pages: PageResize + Send + Sync, Cpus: Send + Sync>, K: Hardening> Send
    for Kmalloc<S, K>
{
}
// SAFETY: shared use changes the handles by atomic exchanges only.
unsafe impl<S: System<Pages: PageResize + Send + Sync, Cpus: Send + Sync>, K: Hardening> Sync
    for Kmalloc<S, K>
{
}

impl<S: System<Pages: PageResize>> Kmalloc<S> {
    /// Makes an allocator whose caches are in `registry`. Takes no memory before the first request.
    ///
    /// One registry carries one such allocator: a second one would take the first one's objects for its own.
    pub fn new(registry: Registry<S>) -> Self {
        Self::with_hardening(registry)
    }
}

impl<S: System<Pages: PageResize>, K: Hardening> Kmalloc<S, K> {
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
    /// let kmalloc = Kmalloc::<_, Hardened>::with_hardening(registry).with_secret(0x5eed);
    /// let (first, second) = (kmalloc.kmalloc(100)?, kmalloc.kmalloc(100)?);
    /// // SAFETY: the hook returns, so a double free is told of and changes nothing.
    /// unsafe {
    ///     kmalloc.kfree(Some(first));
    ///     kmalloc.kfree(Some(second));
    ///     kmalloc.kfree(Some(first)); // DoubleFree
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_hardening(registry: Registry<S>) -> Self {
        let caches = core::array::from_fn(|_| AtomicPtr::new(core::ptr::null_mut()));
        // The registry keeps its page source where it is now.
        let tags = registry.source().tag_range();
        let closed = registry.closed_handle().into_raw();
        let fronts = core::array::from_fn(|_| AtomicPtr::new(closed.as_ptr()));
        let (large_pages, checks) = (AtomicUsize::new(0), PhantomData);
        Self {
            fronts,
            registry,
            tags,
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
    ///
    /// # Panics
    /// When `bytes` is zero.
    pub const fn with_magazine_bytes(mut self, bytes: usize) -> Self {
        assert!(bytes > 0, "a magazine holds something");
        self.magazine_bytes = Some(bytes);
        self
    }

    /// Returns the registry, for shrinking, statistics and caches of one's own.
    pub const fn registry(&self) -> &Registry<S> {
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
        // One other way, so that nothing is kept for it in a stack frame.
        match self.hit_of(layout) {
            Some(object) => Ok(object),
            None => self.allocate_slowly(layout),
        }
    }

    /// Allocates in the caller's CPU slot; `None` says only that it was no hit.
    #[inline(always)]
    pub(crate) fn hit_of(&self, layout: Layout) -> Option<NonNull<u8>> {
        ClassIndex::of_some_bytes(layout).and_then(|class| self.hit(class))
    }

    /// Allocates what is no hit.
    #[cold]
    #[inline(never)]
    pub(crate) fn allocate_slowly(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        match ClassIndex::for_layout(layout) {
            Some(class) => self.allocate_missed(class),
            None => self.allocate_large(layout).map(|run| run.start),
        }
    }

    /// Allocates memory for `layout` as [`allocate`](Self::allocate) does, of what is at hand: the page source reclaims nothing
    /// for it, so no shrinker and no out-of-memory hook runs. For callers that have another way, or may not wait.
    ///
    /// ```
    /// # use core::alloc::Layout;
    /// # use kmalloc::Kmalloc;
    /// # use page_frame::{Arena, Reclaiming, Shrink, SingleCpu};
    /// # use slab::Registry;
    /// struct Kill;
    /// impl Shrink for Kill {
    ///     fn reclaimable(&self) -> usize { 0 }
    ///     fn shrink(&self, _: usize) -> usize { unreachable!("nobody is killed for it") }
    /// }
    /// # let mut memory = vec![core::mem::MaybeUninit::uninit(); 1 << 20];
    /// let source = Reclaiming::new(Arena::new(&mut memory)?, Kill);
    /// let kmalloc = Kmalloc::new(Registry::new(source, SingleCpu::new())?);
    /// assert!(kmalloc.try_allocate(Layout::new::<[u8; 8 << 20]>()).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`OutOfMemory`](page_frame::OutOfMemory) when nothing is at hand; see [`allocate`](Self::allocate).
    pub fn try_allocate(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        let Some(class) = ClassIndex::for_layout(layout) else {
            return self.try_allocate_large(layout).map(|run| run.start);
        };
        if let Some(object) = self.hit(class) {
            return Ok(object);
        }
        let raw = self.cache_of(class, CacheBuilder::try_build)?;
        // SAFETY: I1.
        unsafe { Self::borrow(raw) }.try_allocate()
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
        // SAFETY: the registry has not moved its source since `with_hardening`.
        if let Some(tag) = unsafe { self.tags.tag_index(start.addr().get()) } {
            let (fronts, cpu) = (self.fronts.as_ptr(), self.registry.cpu());
            // SAFETY: the caller's clauses; I1: a front for each byte. I2: what has a class's tag is an object of its cache.
            if unsafe { PerCpuHandle::free_through(fronts, tag, cpu, start) } {
                return;
            }
        }
        // SAFETY: the caller's clauses, and nothing has happened.
        unsafe { self.free_missed(start) };
    }

    /// Frees what was no hit, or lies in no slab of ours in the range that most pages lie in.
    ///
    /// # Safety
    /// 1. As for [`free`](Self::free).
    #[cold]
    #[inline(never)]
    #[track_caller]
    unsafe fn free_missed(&self, start: NonNull<u8>) {
        match self.class_at(start) {
            // SAFETY: clause 1; I2.
            Some(class) => unsafe { self.free_object(class, start) },
            // SAFETY: clause 1: no object of a class, so it is a run.
            None => unsafe { self.free_large(start) },
        }
    }

    /// Frees what was allocated with `layout`. A hit is a push in the caller's CPU slot, without any look-up.
    ///
    /// # Safety
    /// 1. `start` came from this allocator for `layout` and has not been freed since.
    /// 2. Nobody uses the memory from now on.
    #[inline(always)]
    #[track_caller]
    pub unsafe fn free_sized(&self, start: NonNull<u8>, layout: Layout) {
        if let Some(class) = ClassIndex::of_some_bytes(layout) {
            // SAFETY: clauses 1 and 2: the layout's class is the one it was allocated from.
            if unsafe { self.free_hit(class, start) } {
                return;
            }
        }
        // SAFETY: the caller's clauses, and nothing has happened.
        unsafe { self.free_sized_slowly(start, layout) };
    }

    /// Frees in the caller's CPU slot; whether it was a hit. If not, nothing has happened.
    ///
    /// # Safety
    /// 1. `start` is an object of `class` that the caller owns, if the answer is true; then nobody uses it from now on.
    #[inline(always)]
    pub(crate) unsafe fn free_hit(&self, class: ClassIndex, start: NonNull<u8>) -> bool {
        let front = self.front_of(class);
        // SAFETY: the caches live as long as we do; clause 1, and caches of classes have no constructor.
        unsafe { front.free(self.registry.cpu(), start) }
    }

    /// Frees what is no hit.
    ///
    /// # Safety
    /// 1. As for [`free_sized`](Self::free_sized).
    #[cold]
    #[inline(never)]
    #[track_caller]
    pub(crate) unsafe fn free_sized_slowly(&self, start: NonNull<u8>, layout: Layout) {
        match ClassIndex::for_layout(layout) {
            // SAFETY: clause 1: the layout leads to the class that it was allocated from.
            Some(class) => unsafe { self.free_object(class, start) },
            // SAFETY: clause 1: so large a layout was served by a run.
            None => unsafe { self.free_large(start) },
        }
    }

    /// Returns how many bytes at `start` may be used, at least as many as were asked for; `None` for an address at which
    /// no allocation of this allocator starts, as far as the page map shows. O(1), no lock.
    ///
    /// Reads tags and words of the page map alone, and no memory that `start` leads to, so any address may be asked for. What is
    /// said of one that is freed meanwhile is out of date.
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
        // SAFETY: the registry has not moved its source since `with_hardening`.
        let near = unsafe { self.tags.tag(address) }.and_then(class_of);
        near.or_else(|| class_of(self.registry.source().tag(address)))
    }

    #[inline(always)]
    pub(crate) fn allocate_class(&self, class: ClassIndex) -> Result<NonNull<u8>, OutOfMemory> {
        match self.hit(class) {
            Some(object) => Ok(object),
            None => self.allocate_missed(class),
        }
    }

    #[inline(always)]
    fn hit(&self, class: ClassIndex) -> Option<NonNull<u8>> {
        // SAFETY: the caches live as long as we do.
        unsafe { self.front_of(class).allocate(self.registry.cpu()) }
    }

    #[cold]
    #[inline(never)]
    fn allocate_missed(&self, class: ClassIndex) -> Result<NonNull<u8>, OutOfMemory> {
        let raw = self.cache_of(class, CacheBuilder::build)?;
        // SAFETY: I1.
        unsafe { Self::borrow(raw) }.allocate()
    }

    /// Returns the cache of `class`, which `build` builds if there is none yet.
    #[inline]
    fn cache_of<'r>(
        &'r self,
        class: ClassIndex,
        build: Build<'r, S, K>,
    ) -> Result<NonNull<()>, OutOfMemory> {
        // Acquire: pairs with the Release in `build`; sees the cache as it was built.
        let raw = self.caches[class.index()].load(Ordering::Acquire);
        NonNull::new(raw).map_or_else(|| self.build(class, build), Ok)
    }

    #[inline(always)]
    fn front_of(&self, class: ClassIndex) -> PerCpuHandle {
        // SAFETY: a class is below `COUNT`, and as many tags from `FIRST_TAG` on are asserted to be bytes.
        unsafe { self.front(FIRST_TAG + class.index()) }
    }

    /// Returns the front for the tag of the byte `tag`.
    ///
    /// # Safety
    /// 1. `tag` is a byte.
    #[inline(always)]
    unsafe fn front(&self, tag: usize) -> PerCpuHandle {
        // SAFETY: clause 1: there is a place for each.
        let place = unsafe { self.fronts.get_unchecked(tag) };
        // Acquire: pairs with the Release in `build`; sees the cache's slots as they were built.
        let raw = place.load(Ordering::Acquire);
        // SAFETY: I1: never null.
        let raw = unsafe { NonNull::new_unchecked(raw) };
        // SAFETY: I1: a front.
        unsafe { PerCpuHandle::from_raw(raw) }
    }

    /// # Safety
    /// 1. `start` is an object of `class` that the caller owns and nobody uses.
    #[cold]
    #[inline(never)]
    #[track_caller]
    pub(crate) unsafe fn free_object(&self, class: ClassIndex, start: NonNull<u8>) {
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
    fn build<'r>(
        &'r self,
        class: ClassIndex,
        build: Build<'r, S, K>,
    ) -> Result<NonNull<()>, OutOfMemory> {
        let layout = Layout::from_size_align(class.size(), class.alignment())
            .expect("a class's alignment is a power of two that divides its size");
        let tag = tag_of(class);
        let name = crate::names::cache_name(class);
        let builder = self.registry.cache(name.as_str(), layout).tag(tag).hardening::<K>();
        let builder = match self.secret {
            Some(secret) => builder.secret(secret),
            None => builder,
        };
        let builder = match self.magazine_bytes {
            Some(bytes) => builder.magazine_bytes(bytes),
            None => builder,
        };
        let new = build(builder).map_err(|_| OutOfMemory)?.into_raw();
        let place = &self.caches[class.index()];
        let empty = core::ptr::null_mut();
        // Release: pairs with the Acquire loads; publishes the cache. Acquire on failure: sees the other one.
        match place.compare_exchange(empty, new.as_ptr(), Ordering::Release, Ordering::Acquire) {
            Ok(_) => {
                // SAFETY: I1: from just above.
                let front = unsafe { Self::borrow(new) }.per_cpu_handle().into_raw();
                // Release: pairs with the Acquire in `front` and in `PerCpuHandle::free_through`.
                self.fronts[usize::from(tag.get())].store(front.as_ptr(), Ordering::Release);
                Ok(new)
            }
            Err(first) => {
                // SAFETY: ours from `into_raw` above, seen by nobody else. It never had an object.
                drop(unsafe { Cache::<S, K>::from_raw(new) });
                Ok(NonNull::new(first).expect("the exchange failed because it is not null"))
            }
        }
    }

    /// # Safety
    /// 1. `raw` is one of `caches` (I1).
    #[inline(always)]
    unsafe fn borrow(raw: NonNull<()>) -> ManuallyDrop<Cache<S, K>> {
        // SAFETY: clause 1: from `into_raw`. It is not dropped here, so the handle stays the allocator's.
        ManuallyDrop::new(unsafe { Cache::from_raw(raw) })
    }
}

/// Returns the tag of the slabs of `class`.
#[inline(always)]
const fn tag_of(class: ClassIndex) -> Tag {
    match Tag::class(class.index()) {
        Some(tag) => tag,
        None => panic!("there are fewer classes than tags for them"),
    }
}

#[inline(always)]
fn class_of(tag: Tag) -> Option<ClassIndex> {
    tag.as_class().and_then(ClassIndex::new)
}

impl<S: System<Pages: PageResize>, K: Hardening> Drop for Kmalloc<S, K> {
    /// Destroys the caches. Memory in use stays as it is, and its pages are lost to the page source.
    fn drop(&mut self) {
        for place in &mut self.caches {
            // Relaxed: `&mut self` says that nobody else is there.
            if let Some(raw) = NonNull::new(place.load(Ordering::Relaxed)) {
                // SAFETY: I1: owned, and not used again.
                drop(unsafe { Cache::<S, K>::from_raw(raw) });
            }
        }
    }
}

impl<S: System<Pages: PageResize>, K: Hardening> core::fmt::Debug for Kmalloc<S, K> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Kmalloc").field("pages_held", &self.pages_held()).finish_non_exhaustive()
    }
}
