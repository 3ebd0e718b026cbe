//! Building a cache: its options, and the errors.

use core::alloc::Layout;
use core::fmt;
use core::marker::PhantomData;

use page_frame::{Order, OutOfMemory, Tag};

use crate::cache::build_error::BuildError;
use crate::cache::handle::Cache;
use crate::cache_inner::sizing::{MagazineSizing, USUAL_BYTES, usual_class};
use crate::cache_name::CacheName;
use crate::hardening::padding::Padding;
use crate::hardening::presets::{Hardening, Off};
use crate::patience::Reclaim;
use crate::registry::aging::age_if_due;
use crate::registry::handle::Registry;
use crate::registry::inner::RegistryInner;
use crate::slabs::geometry::{Geometry, GeometryError, MAX_OUTSIDE};
use crate::slabs::settings::{CacheSettings, ObjectHook};
use crate::system::System;
use crate::trace::Trace;

/// The description of a cache that is not built yet.
#[must_use = "nothing is built before `build`"]
pub struct CacheBuilder<'r, S: System, K: Hardening = Off> {
    registry: &'r Registry<S>,
    name: CacheName,
    layout: Layout,
    line_bytes: usize,
    is_line_aligned: bool,
    most_order: Order,
    coloured: bool,
    constructor: Option<ObjectHook>,
    destructor: Option<ObjectHook>,
    tag: Tag,
    keep_empty: Option<u16>,
    keep_at_least: u16,
    most_pages: usize,
    is_reclaimable: bool,
    reclaim: Option<&'static (dyn Fn() + Sync)>,
    magazine_bytes: usize,
    secret: Option<usize>,
    clock: Option<fn() -> u64>,
    trace: Option<&'static dyn Trace>,
    is_pinned: bool,
    checks: PhantomData<fn() -> K>,
}

impl<S: System, K: Hardening> fmt::Debug for CacheBuilder<'_, S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, layout, .. } = self;
        f.debug_struct("CacheBuilder")
            .field("name", name)
            .field("layout", layout)
            .finish_non_exhaustive()
    }
}

impl<S: System> Registry<S> {
    /// Begins a cache of objects of `layout`, called `name`.
    pub fn cache(&self, name: &str, layout: Layout) -> CacheBuilder<'_, S> {
        CacheBuilder::new(self, name, layout)
    }
}

impl<'r, S: System> CacheBuilder<'r, S> {
    pub(crate) fn new(registry: &'r Registry<S>, name: &str, layout: Layout) -> Self {
        Self {
            registry,
            name: CacheName::new(name),
            layout,
            line_bytes: 64,
            is_line_aligned: false,
            most_order: Order::MAX,
            coloured: true,
            constructor: None,
            destructor: None,
            tag: Tag::SLAB,
            keep_empty: None,
            keep_at_least: 0,
            most_pages: usize::MAX,
            is_reclaimable: false,
            reclaim: None,
            magazine_bytes: USUAL_BYTES,
            secret: None,
            clock: None,
            trace: None,
            is_pinned: false,
            checks: PhantomData,
        }
    }
}

impl<'r, S: System, K: Hardening> CacheBuilder<'r, S, K> {
    /// Looks for the mistakes that the preset `N` names, instead of none:
    /// [`Hardened`](crate::Hardened), [`Debugging`](crate::Debugging), or one of your own.
    pub fn hardening<N: Hardening>(self) -> CacheBuilder<'r, S, N> {
        let Self { registry, name, layout, line_bytes, is_line_aligned, most_order, .. } = self;
        let Self { constructor, destructor, tag, keep_empty, keep_at_least, most_pages, .. } = self;
        let Self { is_reclaimable, reclaim, magazine_bytes, secret, clock, trace, .. } = self;
        let Self { coloured, is_pinned, .. } = self;
        CacheBuilder {
            registry,
            name,
            layout,
            line_bytes,
            is_line_aligned,
            most_order,
            coloured,
            constructor,
            destructor,
            tag,
            keep_empty,
            keep_at_least,
            most_pages,
            is_reclaimable,
            reclaim,
            magazine_bytes,
            secret,
            clock,
            trace,
            is_pinned,
            checks: PhantomData,
        }
    }

    /// Sets what canaries and shuffled slabs depend on: random bits, where the machine has some. By
    /// default the address of the registry, which is no secret to a reader of the memory.
    pub fn secret(mut self, secret: usize) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Sets the clock that dates the histories of objects, in units of its own.
    pub fn clock(mut self, clock: fn() -> u64) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Calls `trace` for each slab that is made or released and each magazine and object that
    /// moves, see [`Event`](crate::Event). `trace` must not use this cache, and should not panic:
    /// the object of that event may count as in use for ever.
    pub fn trace(mut self, trace: &'static dyn Trace) -> Self {
        self.trace = Some(trace);
        self
    }

    /// Calls `constructor` once for each object when its slab is made, not each time the object is
    /// allocated.
    ///
    /// It runs with no lock held, may allocate, and may panic. It leaves the object in the
    /// **constructed state** that [`Cache::free`] requires.
    ///
    /// # Safety
    /// 1. `constructor` is sound to call with uninitialised memory of this builder's layout that
    ///    only the callee uses.
    /// 2. Clause 1 holds on every CPU or thread that uses the registry.
    pub unsafe fn constructor(mut self, constructor: ObjectHook) -> Self {
        self.constructor = Some(constructor);
        self
    }

    /// Calls `destructor` once for each object when its slab goes back to the page source.
    ///
    /// It runs with no lock held, on any CPU, and may panic: the cache then destroys the other
    /// objects of the slab and releases the slab.
    ///
    /// # Safety
    /// 1. `destructor` is sound to call with objects that are in constructed state, as
    ///    [`Cache::free`] defines it; without a constructor, with memory of this builder's layout
    ///    of any content.
    /// 2. Clause 1 holds on every CPU or thread that uses the registry.
    pub unsafe fn destructor(mut self, destructor: ObjectHook) -> Self {
        self.destructor = Some(destructor);
        self
    }

    pub(crate) fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// Keeps registry and page source alive for ever if the cache is dropped while objects are in
    /// use.
    pub(crate) fn pinned(mut self) -> Self {
        self.is_pinned = true;
        self
    }

    /// Marks the pages of slabs with `tag` instead of [`Tag::SLAB`].
    ///
    /// # Panics
    /// When `tag` is not a tag for slab pages.
    pub fn tag(mut self, tag: Tag) -> Self {
        assert!(tag.is_slab(), "{tag:?} is not a tag of slab pages");
        self.tag = tag;
        self
    }

    /// Puts the first object of every slab at its start.
    pub fn uncoloured(mut self) -> Self {
        self.coloured = false;
        self
    }

    /// Sets the size of a CPU-cache line in bytes, by default 64, for the colours.
    ///
    /// Need not be a power of two: the distance between colours is `bytes` rounded up to a multiple
    /// of the alignment.
    ///
    /// # Panics
    /// When `bytes` is zero.
    pub fn line_bytes(mut self, bytes: usize) -> Self {
        assert!(bytes > 0, "a line has bytes");
        self.line_bytes = bytes;
        self
    }

    /// Aligns objects to the CPU-cache line, so that CPUs that write to different objects do not
    /// write to the same line. Objects smaller than a line are aligned to the next power of two, so
    /// that none lies in two lines.
    pub fn line_aligned(mut self) -> Self {
        self.is_line_aligned = true;
        self
    }

    /// Keeps up to `slabs` empty slabs until memory is short, instead of one in 64 of all slabs and
    /// at least one. From 65,535 on, all of them.
    pub fn keep_empty(mut self, slabs: usize) -> Self {
        self.keep_empty = Some(u16::try_from(slabs).unwrap_or(u16::MAX));
        self
    }

    /// Releases each slab as soon as all its objects are free in it.
    pub fn release_at_once(self) -> Self {
        self.keep_empty(0)
    }

    /// Keeps `slabs` empty slabs even when memory is short, once the cache has had that many.
    /// Destroying the cache releases them. From 65,535 on, all of them.
    pub fn keep_at_least(mut self, slabs: usize) -> Self {
        self.keep_at_least = u16::try_from(slabs).unwrap_or(u16::MAX);
        self
    }

    /// Limits the slabs of the cache to `pages` pages in all; beyond that, allocations fail.
    pub fn most_pages(mut self, pages: usize) -> Self {
        self.most_pages = pages;
        self
    }

    /// Says that users free objects on demand, for [`Registry::totals`].
    pub fn reclaimable(mut self) -> Self {
        self.is_reclaimable = true;
        self
    }

    /// Calls `reclaim` when memory is short and nothing else has helped: it frees objects that the
    /// user can do without. No lock is held during the call; it may allocate, and may panic. It
    /// must not destroy the cache, which would wait for the end of the call. Implies
    /// [`reclaimable`](Self::reclaimable).
    pub fn reclaim(mut self, reclaim: &'static (dyn Fn() + Sync)) -> Self {
        self.reclaim = Some(reclaim);
        self.reclaimable()
    }

    /// Allows slabs of up to `order`, even where a larger one wastes less.
    pub fn max_order(mut self, order: Order) -> Self {
        self.most_order = order;
        self
    }

    /// Sets about how many bytes of objects a magazine usually holds, by default 2 KiB; at least
    /// two objects, at most 60. More means fewer misses, and more memory that idle CPUs keep: twice
    /// as much for each CPU and cache. The magazines of a large cache in heavy use grow by
    /// themselves.
    ///
    /// # Panics
    /// When `bytes` is zero.
    pub fn magazine_bytes(mut self, bytes: usize) -> Self {
        assert!(bytes > 0, "a magazine holds something");
        self.magazine_bytes = bytes;
        self
    }

    /// Returns how the slabs would be cut.
    ///
    /// # Errors
    /// [`BuildError`] when not one object fits in an allowed slab.
    pub fn geometry(&self) -> Result<Geometry, BuildError> {
        Ok(self.padded()?.1)
    }

    /// Returns the padding around the objects, and how the slabs of both would be cut.
    fn padded(&self) -> Result<(Padding, Geometry), BuildError> {
        if self.layout.size() == 0 {
            return Err(BuildError::Geometry(GeometryError::ZeroSize));
        }
        let aligned = self.layout.align_to(self.least_alignment());
        let aligned =
            aligned.map_err(|_| BuildError::bad_layout(self.layout.size(), self.layout.align()))?;
        let (padding, layout) = Padding::of::<K>(aligned).ok_or({
            let (size, alignment) = (self.layout.size(), self.layout.align());
            BuildError::Geometry(GeometryError::TooLarge { size, alignment })
        })?;
        Ok((padding, self.geometry_of(layout)?))
    }

    fn least_alignment(&self) -> usize {
        if !self.is_line_aligned {
            return 1;
        }
        // The size of a layout is at most `isize::MAX`, so it has a next power of two.
        let object = self.layout.size().next_power_of_two();
        self.line_bytes.checked_next_power_of_two().map_or(object, |line| line.min(object))
    }

    fn geometry_of(&self, layout: Layout) -> Result<Geometry, BuildError> {
        let (size, alignment, line) = (layout.size(), layout.align(), self.line_bytes);
        let best = Geometry::new(size, alignment, line).map_err(BuildError::Geometry)?;
        if best.order() <= self.most_order {
            return Ok(best);
        }
        let at = |order: Order| Geometry::at_order(size, alignment, line, order.get());
        let fits = |geometry: &Geometry| geometry.is_inside() || geometry.capacity() <= MAX_OUTSIDE;
        let allowed = self.most_order;
        let below = Order::all().rev().filter(|order| *order <= allowed).find_map(at).filter(fits);
        below.ok_or_else(|| BuildError::OrderTooSmall {
            needed: Order::all().find(|order| at(*order).is_some()).unwrap_or(best.order()),
            allowed,
        })
    }

    /// Builds the cache. Takes no slab yet.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn build(self) -> Result<Cache<S, K>, BuildError> {
        self.build_with(Reclaim::Allowed)
    }

    /// Builds the cache as [`build`](Self::build) does, but only from free pages: the page source
    /// reclaims nothing for it.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn try_build(self) -> Result<Cache<S, K>, BuildError> {
        self.build_with(Reclaim::Forbidden)
    }

    fn build_with(self, reclaim: Reclaim) -> Result<Cache<S, K>, BuildError> {
        let (padding, geometry) = self.padded()?;
        debug_assert!(geometry.is_inside() || geometry.capacity() <= MAX_OUTSIDE);
        let settings = CacheSettings {
            name: self.name,
            // At most `LARGEST_SIZE`.
            size: self.layout.size() as u32,
            padding,
            geometry,
            coloured: self.coloured,
            constructor: self.constructor,
            destructor: self.destructor,
            tag: self.tag,
            keep_empty: self.keep_empty,
            keep_at_least: self.keep_at_least,
            most_slabs: u32::try_from(self.most_pages >> geometry.order().get())
                .unwrap_or(u32::MAX),
            secret: self.secret.unwrap_or_else(|| self.registry.pointer().addr().get()),
            clock: self.clock,
            trace: self.trace,
            is_internal: false,
            is_reclaimable: self.is_reclaimable,
            is_pinned: self.is_pinned,
        };
        let sizing = MagazineSizing::new(usual_class(geometry.stride(), self.magazine_bytes));
        let registry = self.registry.pointer();
        // SAFETY: clause 1 of `make_cache`: `self.registry` is a handle, which owns a reference.
        let made =
            unsafe { RegistryInner::make_cache(registry, settings, self.reclaim, sizing, reclaim) };
        let cache = made.map_err(|OutOfMemory| BuildError::OutOfMemory)?;
        // SAFETY: clause 1 of `from_inner`: the cache is fresh, so this is its only handle, and
        // `make_cache` added a reference to the registry for it.
        let cache = unsafe { Cache::from_inner(cache) };
        age_if_due(self.registry.inner());
        Ok(cache)
    }
}
