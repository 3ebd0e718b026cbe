//! Objects for when memory runs out: reserves, and allocations made in advance.
//!
//! # Concepts
//! A [`Mempool`] keeps N objects in reserve for code that must make progress in a shortage (Linux's
//! mempool; Molnar 2001): it allocates from the cache as long as that works, then from the objects
//! it keeps, and frees refill it first. A [`Prefilled`] is N allocations made in advance, for code
//! that must not fail later (Linux's prefilled sheaves).

use core::ptr::NonNull;

use page_frame::{IrqLock, OutOfMemory};

use crate::cache::handle::Cache;
use crate::cache::pool::Pool;
use crate::cache_inner::CacheInner;
use crate::hardening::presets::{Hardening, Off};
use crate::patience::Patience;
use crate::registry::aging::age_if_due;
use crate::system::System;

/// A cache with a reserve of objects for when there is no memory. Dropping it frees the reserve to
/// the cache.
///
/// ```
/// # use core::{alloc::Layout, mem::MaybeUninit};
/// # use page_frame::{Arena, SingleCpu};
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// # let arena = Arena::new(&mut memory)?;
/// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
/// let requests = registry.cache("request", Layout::new::<[u64; 40]>()).build()?;
/// let reserve = requests.mempool(4)?;
/// let mut pending = Vec::new();
/// while reserve.kept() > 0 {
///     pending.push(reserve.allocate()?); // from the cache until memory runs out, then kept ones
/// }
/// assert!(requests.allocate().is_err());
/// for request in pending {
///     // SAFETY: clause 1: from this reserve, and not used any more.
///     unsafe { reserve.free(request) };
/// }
/// assert_eq!(reserve.kept(), 4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Mempool<'c, S: System, K: Hardening = Off> {
    cache: &'c Cache<S, K>,
    pool: IrqLock<Option<Pool>>,
    objects: usize,
}

impl<'c, S: System, K: Hardening> Mempool<'c, S, K> {
    /// Makes a reserve of `objects` objects of `cache`.
    pub(crate) fn new(cache: &'c Cache<S, K>, objects: usize) -> Result<Self, OutOfMemory> {
        let pool = fill(cache, objects)?;
        Ok(Self { cache, pool: IrqLock::new(Some(pool)), objects })
    }

    /// Allocates an object: from the cache or, when that has none, from the objects kept. O(1)
    /// beyond the cache's cost; takes the reserve's lock only in the second case.
    /// Example: see [`Mempool`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when the cache has no memory and the reserve is empty, or in an interrupt
    /// that found the lock held.
    #[track_caller]
    pub fn allocate(&self) -> Result<NonNull<u8>, OutOfMemory> {
        if let Ok(object) = self.cache.allocate() {
            return Ok(object);
        }
        loop {
            let object = {
                let token = self.cache.inner().environment().lock_token();
                let mut pool = token.lock(&self.pool).ok_or(OutOfMemory)?;
                pool.as_mut().and_then(Pool::pop).ok_or(OutOfMemory)?
            };
            // A corrupted object stays isolated; there may be others.
            if let Some(object) = self.cache.checks().check_allocated::<K>(object) {
                return Ok(object);
            }
        }
    }

    /// Frees an object: to the reserve while it is not full, else to the cache. Takes the lock of
    /// the reserve. Example: see [`Mempool`].
    ///
    /// # Safety
    /// 1. All clauses of [`Cache::free`]; the object came from this reserve or its cache.
    #[track_caller]
    pub unsafe fn free(&self, object: NonNull<u8>) {
        let Some(place) = self.cache.checks().check_freed::<K>(object) else { return };
        let is_kept = {
            let token = self.cache.inner().environment().lock_token();
            token.lock(&self.pool).is_some_and(|mut pool| {
                let short = pool.as_mut().filter(|pool| pool.objects() < self.objects);
                short.is_some_and(|pool| pool.push(place))
            })
        };
        if !is_kept {
            self.cache.free_place(place);
        }
    }

    /// Returns how many objects are kept at this moment. Takes the lock of the reserve; zero in an
    /// interrupt that found it held. Example: see [`Mempool`].
    pub fn kept(&self) -> usize {
        let token = self.cache.inner().environment().lock_token();
        token.lock(&self.pool).and_then(|pool| pool.as_ref().map(Pool::objects)).unwrap_or(0)
    }
}

impl<S: System, K: Hardening> Drop for Mempool<'_, S, K> {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.get_mut().take() {
            drain(self.cache.inner(), pool);
        }
    }
}

/// Allocations made in advance. Dropping it frees those that were not used.
///
/// ```
/// # use core::{alloc::Layout, mem::MaybeUninit};
/// # use page_frame::{Arena, SingleCpu};
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// # let arena = Arena::new(&mut memory)?;
/// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
/// let nodes = registry.cache("node", Layout::new::<[u64; 32]>()).build()?;
/// let mut prefilled = nodes.prefill(3)?; // before a lock is taken
/// let node = prefilled.allocate().expect("one of three"); // while it is held
/// assert_eq!(prefilled.left(), 2);
/// // SAFETY: clauses 1 and 2: from this cache, and not used any more.
/// unsafe { nodes.free(node) };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Prefilled<'c, S: System, K: Hardening = Off> {
    cache: &'c Cache<S, K>,
    pool: Option<Pool>,
}

impl<'c, S: System, K: Hardening> Prefilled<'c, S, K> {
    /// Makes `objects` allocations of `cache` in advance.
    pub(crate) fn new(cache: &'c Cache<S, K>, objects: usize) -> Result<Self, OutOfMemory> {
        let pool = fill(cache, objects)?;
        Ok(Self { cache, pool: Some(pool) })
    }

    /// Takes one of the objects; there are as many as were asked for. O(1), no lock.
    /// Example: see [`Prefilled`].
    #[track_caller]
    pub fn allocate(&mut self) -> Option<NonNull<u8>> {
        loop {
            let object = self.pool.as_mut()?.pop()?;
            // A corrupted object stays isolated, so there is one fewer.
            if let Some(object) = self.cache.checks().check_allocated::<K>(object) {
                return Some(object);
            }
        }
    }

    /// Returns how many are left. Example: see [`Prefilled`].
    pub fn left(&self) -> usize {
        self.pool.as_ref().map_or(0, Pool::objects)
    }
}

impl<S: System, K: Hardening> Drop for Prefilled<'_, S, K> {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            drain(self.cache.inner(), pool);
        }
    }
}

/// Keeps `count` objects in magazines.
///
/// # Errors
/// [`OutOfMemory`]; then nothing is held.
fn fill<S: System, K: Hardening>(cache: &Cache<S, K>, count: usize) -> Result<Pool, OutOfMemory> {
    let inner = cache.inner();
    // Frees the objects if memory runs out or a constructor panics.
    let mut filling = FillGuard { inner, pool: Pool::new() };
    let mut places = 0;
    while places < count {
        let magazine = inner.backing.new_magazine().ok_or(OutOfMemory)?;
        places += magazine.capacity();
        filling.pool.push_empty(magazine);
    }
    while filling.pool.objects() < count {
        let place = inner.allocate_place::<K>()?;
        let has_room = filling.pool.push(place);
        debug_assert!(has_room, "I1: as many places as objects");
    }
    age_if_due(cache.registry());
    Ok(filling.pool.take())
}

/// Frees everything in `pool`.
fn drain<S: System>(inner: &CacheInner<S>, pool: Pool) {
    let (filled, empty) = pool.into_chains();
    inner.backing.drain(filled, empty, Patience::Wait);
}

/// A pool that is being filled. Dropping it frees what is in it.
struct FillGuard<'c, S: System> {
    inner: &'c CacheInner<S>,
    pool: Pool,
}

impl<S: System> Drop for FillGuard<'_, S> {
    fn drop(&mut self) {
        drain(self.inner, self.pool.take());
    }
}
