//! Building a cache of its description: how its slabs are cut, and its settings.

use core::alloc::Layout;

use page_frame::{Order, OutOfMemory};

use crate::cache::build_error::BuildError;
use crate::cache::builder::CacheBuilder;
use crate::cache::handle::Cache;
use crate::cache_inner::depot::{Depot, places_for};
use crate::cache_inner::sizing::{MagazineSizing, usual_class};
use crate::hardening::padding::Padding;
use crate::hardening::presets::Hardening;
use crate::hardening::secret::secret_or_default;
use crate::patience::Reclaim;
use crate::registry::aging::age_if_due;
use crate::registry::inner::RegistryInner;
use crate::slabs::layout::geometry::{Geometry, GeometryError, MAX_OUTSIDE};
use crate::slabs::settings::CacheSettings;
use crate::system::System;

impl<S: System, K: Hardening> CacheBuilder<'_, S, K> {
    /// Returns how the slabs would be cut. Example: see [`CacheBuilder`].
    ///
    /// # Errors
    /// [`BuildError`] when not one object fits in an allowed slab.
    pub fn geometry(&self) -> Result<Geometry, BuildError> {
        Ok(self.padded()?.1)
    }

    /// Returns the padding around the objects, and how the slabs of both would be cut.
    fn padded(&self) -> Result<(Padding, Geometry), BuildError> {
        if self.options.layout.size() == 0 {
            return Err(BuildError::Geometry(GeometryError::ZeroSize));
        }
        let aligned = self.options.layout.align_to(self.least_alignment());
        let aligned = aligned.map_err(|_| {
            BuildError::bad_layout(self.options.layout.size(), self.options.layout.align())
        })?;
        let (padding, layout) = Padding::of::<K>(aligned).ok_or({
            let (size, alignment) = (self.options.layout.size(), self.options.layout.align());
            BuildError::Geometry(GeometryError::TooLarge { size, alignment })
        })?;
        Ok((padding, self.geometry_of(layout)?))
    }

    fn least_alignment(&self) -> usize {
        if !self.options.is_line_aligned {
            return 1;
        }
        // The size of a layout is at most `isize::MAX`, so it has a next power of two.
        let object = self.options.layout.size().next_power_of_two();
        self.options.line_bytes.checked_next_power_of_two().map_or(object, |line| line.min(object))
    }

    fn geometry_of(&self, layout: Layout) -> Result<Geometry, BuildError> {
        let (size, alignment, line) = (layout.size(), layout.align(), self.options.line_bytes);
        let usual = Geometry::with_objects(size, alignment, line, self.options.min_objects);
        let usual = usual.map_err(BuildError::Geometry)?;
        let best =
            self.options.tight_order.map_or(usual, |most| usual.tightest(alignment, line, most));
        if best.order() <= self.options.max_order {
            return Ok(self.guarded(best, alignment));
        }
        let at = |order: Order| Geometry::at_order(size, alignment, line, order.get());
        let fits = |geometry: &Geometry| geometry.is_inside() || geometry.capacity() <= MAX_OUTSIDE;
        let allowed = self.options.max_order;
        let below = Order::all().rev().filter(|order| *order <= allowed).find_map(at).filter(fits);
        let below = below.ok_or_else(|| BuildError::OrderTooSmall {
            needed: Order::all().find(|order| at(*order).is_some()).unwrap_or(best.order()),
            allowed,
        })?;
        Ok(self.guarded(below, alignment))
    }

    /// Adds a guard to slabs whose objects have a canary behind them and nothing in front.
    fn guarded(&self, geometry: Geometry, alignment: usize) -> Geometry {
        match K::CANARY && K::RED_ZONE == 0 {
            true => geometry.guarded(alignment, self.options.max_order),
            false => geometry,
        }
    }

    /// Builds the cache. Takes no slab yet. May take locks, and ask the page source for memory of
    /// the cache itself. Longest path counted: 17,919 instructions (`cache-build`).
    /// Example: see [`CacheBuilder`].
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn build(self) -> Result<Cache<S, K>, BuildError> {
        self.build_with(Reclaim::Allowed)
    }

    /// Builds the cache as [`build`](Self::build) does, but only from free pages: the page source
    /// reclaims nothing for it. Example: see [`CacheBuilder`].
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
            name: self.options.name,
            // At most `LARGEST_SIZE`.
            size: self.options.layout.size() as u32,
            padding,
            geometry,
            coloured: self.options.is_coloured,
            constructor: self.options.constructor,
            destructor: self.options.destructor,
            tag: self.options.tag,
            keep_empty: self.options.keep_empty,
            keep_at_least: self.options.keep_at_least,
            most_slabs: u32::try_from(self.options.most_pages >> geometry.order().get())
                .unwrap_or(u32::MAX),
            secret: secret_or_default(self.options.secret, self.registry.pointer().addr().get()),
            clock: self.options.clock,
            trace: self.options.trace,
            is_internal: false,
            is_reclaimable: self.options.is_reclaimable,
            is_pinned: self.options.is_pinned,
            grace: self.options.grace,
        };
        let sizing =
            MagazineSizing::new(usual_class(geometry.stride(), self.options.magazine_bytes));
        let depot = Depot::new(match self.options.keep_empty {
            // No slab is kept empty, so no object waits in the depot.
            Some(0) => 0,
            _ => places_for(self.options.depot_bytes, geometry.stride()),
        });
        let (registry, reclaim_hook) = (self.registry.pointer(), self.options.reclaim);
        // SAFETY: clause 1 of `make_cache`: `self.registry` is a handle, which owns a reference.
        let made = unsafe {
            RegistryInner::make_cache(registry, settings, reclaim_hook, sizing, depot, reclaim)
        };
        let cache = made.map_err(|OutOfMemory| BuildError::OutOfMemory)?;
        // SAFETY: clause 1 of `from_inner`: the cache is fresh, so this is its only handle, and
        // `make_cache` added a reference to the registry for it.
        let cache = unsafe { Cache::from_inner(cache) };
        age_if_due(self.registry.inner());
        Ok(cache)
    }
}
