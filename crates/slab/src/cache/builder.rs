//! The description of a cache that is not built yet: its options. `build.rs` builds it.

use core::alloc::Layout;
use core::fmt;
use core::marker::PhantomData;

use page_frame::{Order, Tag};

use crate::cache::options::CacheOptions;
use crate::grace::GracePeriods;
use crate::hardening::presets::{Hardening, Off};
use crate::registry::handle::Registry;
use crate::slabs::settings::ObjectHook;
use crate::system::System;
use crate::trace::Trace;

/// The description of a cache that is not built yet.
///
/// ```
/// # use core::{alloc::Layout, mem::MaybeUninit};
/// # use page_frame::{Arena, SingleCpu};
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// # let arena = Arena::new(&mut memory)?;
/// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
/// use page_frame::{Order, Tag};
/// let packets = registry.cache("packet", Layout::new::<[u8; 1500]>());
/// let packets = packets.line_bytes(128).line_aligned().max_order(Order::new(2).unwrap());
/// let packets = packets.magazine_bytes(16 << 10).depot_bytes(256 << 10).most_pages(64);
/// let packets = packets.keep_empty(8).keep_at_least(1); // slabs
/// assert_eq!(packets.geometry()?.stride(), 1536);
/// let packets = packets.min_objects(10);
/// assert!(packets.geometry()?.capacity() >= 10);
/// let packets = packets.build()?;
/// // A cache that is seldom used: no memory waits in it.
/// let rare = registry.cache("rare", Layout::new::<[u8; 700]>()).uncoloured().release_at_once();
/// let rare = rare.tag(Tag::class(3).unwrap()).try_build()?;
/// # drop((packets, rare));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing is built before `build`"]
pub struct CacheBuilder<'r, S: System, K: Hardening = Off> {
    pub(super) registry: &'r Registry<S>,
    pub(super) options: CacheOptions,
    pub(super) checks: PhantomData<fn() -> K>,
}

impl<S: System, K: Hardening> fmt::Debug for CacheBuilder<'_, S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CacheOptions { name, layout, .. } = &self.options;
        f.debug_struct("CacheBuilder")
            .field("name", name)
            .field("layout", layout)
            .finish_non_exhaustive()
    }
}

impl<S: System> Registry<S> {
    /// Begins a cache of objects of `layout`, called `name`. Example: see [`CacheBuilder`].
    pub fn cache(&self, name: &str, layout: Layout) -> CacheBuilder<'_, S> {
        CacheBuilder::new(self, name, layout)
    }
}

impl<'r, S: System> CacheBuilder<'r, S> {
    pub(crate) fn new(registry: &'r Registry<S>, name: &str, layout: Layout) -> Self {
        let options = CacheOptions::new(name, layout);
        Self { registry, options, checks: PhantomData }
    }
}

impl<'r, S: System, K: Hardening> CacheBuilder<'r, S, K> {
    /// Looks for the mistakes that the preset `N` names, instead of none:
    /// [`Hardened`](crate::Hardened), [`Debugging`](crate::Debugging), or one of your own.
    ///
    /// ```
    /// # use core::{alloc::Layout, mem::MaybeUninit};
    /// # use page_frame::{Arena, SingleCpu};
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    /// # let arena = Arena::new(&mut memory)?;
    /// use slab::{Hardened, Registry};
    /// use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    /// static FAULTS: AtomicUsize = AtomicUsize::new(0);
    /// let hook = |fault: &page_frame::Fault| {
    ///     eprintln!("{fault}"); // Overflow at 0x... from src/main.rs:...
    ///     FAULTS.fetch_add(1, Relaxed);
    /// };
    /// let registry = Registry::with_fault_hook(&arena, SingleCpu::new(), hook)?;
    /// let keys = registry.cache("key", Layout::new::<[u8; 24]>()).hardening::<Hardened>();
    /// let keys = keys.secret(0x5eed_5eed).clock(|| 0).build()?;
    /// let key = keys.allocate()?;
    /// // SAFETY: the bug shown: a byte of the canary, which lies behind the object.
    /// unsafe { *key.add(24).as_mut() ^= 1 };
    /// // SAFETY: clauses 1 and 2: allocated above, and not used any more.
    /// unsafe { keys.free(key) };
    /// assert_eq!(FAULTS.load(Relaxed), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn hardening<N: Hardening>(self) -> CacheBuilder<'r, S, N> {
        let Self { registry, options, .. } = self;
        CacheBuilder { registry, options, checks: PhantomData }
    }

    /// Sets what canaries and shuffled slabs depend on: random bits, where the machine has some.
    /// Zero counts as none. The default mixes addresses: it is as random as the machine places
    /// code, stack and registry, and no secret to a reader of the memory.
    /// Example: see [`CacheBuilder::hardening`].
    pub fn secret(mut self, secret: usize) -> Self {
        self.options.secret = Some(secret);
        self
    }

    /// Sets the clock that dates the histories of objects, in units of its own.
    /// Example: see [`CacheBuilder::hardening`].
    pub fn clock(mut self, clock: fn() -> u64) -> Self {
        self.options.clock = Some(clock);
        self
    }

    /// Calls `trace` for each slab that is made or released and each magazine and object that
    /// moves, see [`Event`](crate::Event). `trace` must not use this cache, and should not panic:
    /// the object of that event may count as in use for ever. Example: see [`Trace`].
    pub fn trace(mut self, trace: &'static dyn Trace) -> Self {
        self.options.trace = Some(trace);
        self
    }

    /// Calls `constructor` once for each object when its slab is made, not each time the object is
    /// allocated.
    ///
    /// It runs with no lock held, may allocate, and may panic. It leaves the object in the
    /// **constructed state** that [`Cache::free`](crate::Cache::free) requires.
    ///
    /// ```
    /// # use core::{alloc::Layout, mem::MaybeUninit};
    /// # use page_frame::{Arena, SingleCpu};
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    /// # let arena = Arena::new(&mut memory)?;
    /// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
    /// use core::ptr::NonNull;
    /// use slab::ObjectHook;
    /// # use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    /// static ALIVE: AtomicUsize = AtomicUsize::new(0);
    /// let construct: ObjectHook = |object| {
    ///     ALIVE.fetch_add(1, Relaxed);
    ///     // SAFETY: clause 1 of `constructor`: room for the object, which no other code uses.
    ///     unsafe { object.cast::<[u64; 6]>().write([7; 6]) };
    /// };
    /// let destroy: ObjectHook = |_| _ = ALIVE.fetch_sub(1, Relaxed);
    /// let builder = registry.cache("state", Layout::new::<[u64; 6]>());
    /// // SAFETY: clause 1: the layout is that of the array. Clause 2: the hooks run on any CPU.
    /// let cache = unsafe { builder.constructor(construct).destructor(destroy) }.build()?;
    /// let state = cache.allocate()?.cast::<[u64; 6]>();
    /// // SAFETY: the object is ours, and was constructed.
    /// assert_eq!(unsafe { state.read() }, [7; 6]);
    /// // SAFETY: clauses 1 to 3: allocated above, and in the state that the constructor left.
    /// unsafe { cache.free(state.cast()) };
    /// cache.destroy().map_err(|busy| busy.to_string())?;
    /// assert_eq!(ALIVE.load(Relaxed), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Safety
    /// 1. `constructor` is sound to call with uninitialised memory of this builder's layout that
    ///    only the callee uses.
    /// 2. Clause 1 holds on every CPU or thread that uses the registry.
    pub unsafe fn constructor(mut self, constructor: ObjectHook) -> Self {
        self.options.constructor = Some(constructor);
        self
    }

    /// Calls `destructor` once for each object when its slab goes back to the page source.
    ///
    /// It runs with no lock held, on any CPU, and may panic: the cache then destroys the other
    /// objects of the slab and releases the slab. Example: see [`CacheBuilder::constructor`].
    ///
    /// # Safety
    /// 1. `destructor` is sound to call with objects that are in constructed state, as
    ///    [`Cache::free`](crate::Cache::free) defines it; without a constructor, with memory of
    ///    this builder's layout of any content.
    /// 2. Clause 1 holds on every CPU or thread that uses the registry.
    pub unsafe fn destructor(mut self, destructor: ObjectHook) -> Self {
        self.options.destructor = Some(destructor);
        self
    }

    /// Keeps the type of the cache's memory for readers without locks, as `SLAB_TYPESAFE_BY_RCU`
    /// does on Linux. A slab is released only after it was empty for a whole grace period of
    /// `grace`, and its objects are destroyed only then. Objects are reused at once, so a reader
    /// that finds one must check that it is still the one that it looked for.
    ///
    /// A slab that waits stays usable: an allocation may take it, and its wait begins anew when it
    /// is empty again. Slabs that become empty while others wait begin to wait after them. Waiting
    /// costs nothing in a hit. The cache asks for the end of a grace period when it looks for slabs
    /// to release anyway: at frees beyond the magazines, aging passes and shrinks; no timer runs.
    ///
    /// [`Cache::shrink_all`](crate::Cache::shrink_all) and
    /// [`Cache::destroy`](crate::Cache::destroy) call [`GracePeriods::wait`]. If that does not
    /// wait, the waiting slabs stay, and `destroy` refuses with zero objects in use. Dropping such
    /// a cache loses its waiting slabs to the page source.
    ///
    /// A preset with [poison](Hardening::POISON) does not poison such a cache.
    ///
    /// ```
    /// # use core::{alloc::Layout, mem::MaybeUninit};
    /// # use page_frame::{Arena, SingleCpu};
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    /// # let arena = Arena::new(&mut memory)?;
    /// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
    /// # use std::sync::atomic::{AtomicU64, Ordering::{AcqRel, Acquire}};
    /// use slab::GracePeriods;
    /// struct Epochs(AtomicU64);
    /// // SAFETY: clause 1: nothing is read in this example.
    /// unsafe impl GracePeriods for Epochs {
    ///     fn start(&self) -> u64 {
    ///         self.0.load(Acquire) + 1
    ///     }
    ///     fn has_ended(&self, token: u64) -> bool {
    ///         self.0.load(Acquire) >= token
    ///     }
    /// }
    /// static EPOCHS: Epochs = Epochs(AtomicU64::new(0));
    /// let files = registry.cache("file", Layout::new::<[u64; 32]>()).type_stable(&EPOCHS);
    /// let files = files.build()?;
    /// let file = files.allocate()?;
    /// // SAFETY: clauses 1 and 2: allocated above, and not used any more.
    /// unsafe { files.free(file) };
    /// assert_eq!(files.shrink_all(), 0, "a reader may still look at it");
    /// EPOCHS.0.fetch_add(1, AcqRel); // every reader has ended
    /// assert!(files.shrink_all() > 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn type_stable(mut self, grace: &'static dyn GracePeriods) -> Self {
        self.options.grace = Some(grace);
        self
    }

    pub(crate) fn layout(mut self, layout: Layout) -> Self {
        self.options.layout = layout;
        self
    }

    /// Keeps registry and page source alive for ever if the cache is dropped while objects are in
    /// use.
    pub(crate) fn pinned(mut self) -> Self {
        self.options.is_pinned = true;
        self
    }

    /// Marks the pages of slabs with `tag` instead of [`Tag::SLAB`]. Example: see [`CacheBuilder`].
    ///
    /// # Panics
    /// When `tag` is not a tag for slab pages.
    pub fn tag(mut self, tag: Tag) -> Self {
        assert!(tag.is_slab(), "{tag:?} is not a tag of slab pages");
        self.options.tag = tag;
        self
    }

    /// Puts the first object of every slab at its start. Example: see [`CacheBuilder`].
    pub fn uncoloured(mut self) -> Self {
        self.options.is_coloured = false;
        self
    }

    /// Sets the size of a CPU-cache line in bytes, by default 64, for the colours.
    ///
    /// Need not be a power of two: the distance between colours is `bytes` rounded up to a multiple
    /// of the alignment. Example: see [`CacheBuilder`].
    ///
    /// # Panics
    /// When `bytes` is zero.
    pub fn line_bytes(mut self, bytes: usize) -> Self {
        assert!(bytes > 0, "a line has bytes");
        self.options.line_bytes = bytes;
        self
    }

    /// Aligns objects to the CPU-cache line, so that CPUs that write to different objects do not
    /// write to the same line. Objects smaller than a line are aligned to the next power of two, so
    /// that none lies in two lines. Example: see [`CacheBuilder`].
    pub fn line_aligned(mut self) -> Self {
        self.options.is_line_aligned = true;
        self
    }

    /// Keeps up to `slabs` empty slabs until memory is short, instead of one in 64 of all slabs and
    /// at least one. From 65,535 on, all of them. Example: see [`CacheBuilder`].
    pub fn keep_empty(mut self, slabs: usize) -> Self {
        self.options.keep_empty = Some(u16::try_from(slabs).unwrap_or(u16::MAX));
        self
    }

    /// Releases each slab as soon as all its objects are free in it. Example: see [`CacheBuilder`].
    pub fn release_at_once(self) -> Self {
        self.keep_empty(0)
    }

    /// Keeps `slabs` empty slabs even when memory is short, once the cache has had that many.
    /// Destroying the cache releases them. From 65,535 on, all of them.
    /// Example: see [`CacheBuilder`].
    pub fn keep_at_least(mut self, slabs: usize) -> Self {
        self.options.keep_at_least = u16::try_from(slabs).unwrap_or(u16::MAX);
        self
    }

    /// Limits the slabs of the cache to `pages` pages in all; beyond that, allocations fail.
    /// Example: see [`CacheBuilder`].
    pub fn most_pages(mut self, pages: usize) -> Self {
        self.options.most_pages = pages;
        self
    }

    /// Says that users free objects on demand, for [`Registry::totals`].
    /// Example: see [`Totals`](crate::Totals).
    pub fn reclaimable(mut self) -> Self {
        self.options.is_reclaimable = true;
        self
    }

    /// Calls `reclaim` when memory is short and nothing else has helped: it frees objects that the
    /// user can do without. No lock is held during the call; it may allocate, and may panic. It
    /// must not destroy the cache, which would wait for the end of the call. If it allocates while
    /// nothing is free it is called again. At most eight calls run at the same time, on all CPUs
    /// together; a request that would make another one goes on without. Implies
    /// [`reclaimable`](Self::reclaimable).
    ///
    /// ```
    /// # use core::{alloc::Layout, mem::MaybeUninit};
    /// # use page_frame::{Arena, SingleCpu};
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    /// # let arena = Arena::new(&mut memory)?;
    /// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
    /// # use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    /// static CALLS: AtomicUsize = AtomicUsize::new(0);
    /// let dentries = registry.cache("dentry", Layout::new::<[u64; 24]>());
    /// // A kernel frees the entries that no file uses.
    /// let dentries = dentries.reclaim(&|| _ = CALLS.fetch_add(1, Relaxed)).build()?;
    /// let dentry = dentries.allocate()?;
    /// assert!(registry.totals().reclaimable > 0);
    /// registry.shrink(1000); // pages: memory is short
    /// assert!(CALLS.load(Relaxed) > 0);
    /// # // SAFETY: allocated above, and not used any more.
    /// # unsafe { dentries.free(dentry) };
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reclaim(mut self, reclaim: &'static (dyn Fn() + Sync)) -> Self {
        self.options.reclaim = Some(reclaim);
        self.reclaimable()
    }

    /// Allows slabs of up to `order`, even where a larger one wastes less.
    /// Example: see [`CacheBuilder`].
    pub fn max_order(mut self, order: Order) -> Self {
        self.options.max_order = order;
        self
    }

    /// Makes slabs of at least `objects` objects, or as many as a slab of
    /// [`LARGEST_ORDER`](crate::LARGEST_ORDER) holds; by default 8 up to 512 bytes and 4 beyond.
    /// More means that slabs are made and released less often, and that one object in use keeps
    /// more pages. For page sources of which untouched pages cost nothing. See
    /// [`Geometry::with_objects`](crate::Geometry::with_objects). Example: see [`CacheBuilder`].
    pub fn min_objects(mut self, objects: usize) -> Self {
        self.options.min_objects = objects;
        self
    }

    /// Chooses the order that wastes least, up to `order`, instead of the lowest one that wastes
    /// little: for memories in which each percent counts.
    #[doc(hidden)]
    pub fn tight_order(mut self, order: Order) -> Self {
        self.options.tight_order = Some(order);
        self
    }

    /// Sets about how many bytes of objects a magazine usually holds, by default 2 KiB; at least
    /// two objects, at most 60. More means fewer misses, and more memory that idle CPUs keep: twice
    /// as much for each CPU and cache. The magazines of a large cache in heavy use grow by
    /// themselves. Example: see [`CacheBuilder`].
    ///
    /// # Panics
    /// When `bytes` is zero.
    pub fn magazine_bytes(mut self, bytes: usize) -> Self {
        assert!(bytes > 0, "a magazine holds something");
        self.options.magazine_bytes = bytes;
        self
    }

    /// Sets the initial capacity of the depot, in bytes of free objects in full magazines. The
    /// default is 32 KiB; with zero the depot holds no object. Objects for which the depot has no
    /// room return to their slabs. With a larger depot, freeing many objects costs less, but free
    /// objects keep their pages until an aging pass releases them. Example: see [`CacheBuilder`].
    pub fn depot_bytes(mut self, bytes: usize) -> Self {
        self.options.depot_bytes = bytes;
        self
    }
}
