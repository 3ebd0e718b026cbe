//! Objects that are there when memory is not: reserves, and allocations prepared beforehand.
//!
//! # Concepts
//! A [`Mempool`] keeps N objects back for the way out of a shortage (Linux's mempool; Molnar 2001): it allocates from the
//! cache as long as that works, then from what it kept, and frees refill it first. A [`Prefilled`] is N allocations made
//! in advance, for code that must not fail later (Linux's prefilled sheaves).

use core::ptr::NonNull;

use page_frame::{IrqLock, OutOfMemory};

use crate::cache::handle::Cache;
use crate::cache::stock::Pool;
use crate::hardening::{Hardening, Off};
use crate::system::System;

/// A cache with objects kept back for when there is no memory. Dropping it gives them back.
#[derive(Debug)]
pub struct Mempool<'c, S: System, K: Hardening = Off> {
    cache: &'c Cache<S, K>,
    pool: IrqLock<Option<Pool>>,
    objects: usize,
}

impl<S: System, K: Hardening> Cache<S, K> {
    /// Keeps `objects` objects back.
    ///
    /// # Errors
    /// [`OutOfMemory`] when there are not so many now; then nothing is held.
    ///
    /// ```
    /// # use core::{alloc::Layout, mem::MaybeUninit};
    /// # use page_frame::{Arena, SingleCpu};
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    /// # let arena = Arena::new(&mut memory)?;
    /// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
    /// let requests = registry.cache("request", Layout::new::<[u64; 40]>()).build()?;
    /// let reserve = requests.mempool(4)?;
    /// let request = reserve.allocate()?;
    /// // SAFETY: from this reserve, and not used any more.
    /// unsafe { reserve.free(request) };
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn mempool(&self, objects: usize) -> Result<Mempool<'_, S, K>, OutOfMemory> {
        let pool = self.inner().fill_pool::<K>(objects)?;
        Ok(Mempool { cache: self, pool: IrqLock::new(Some(pool)), objects })
    }

    /// Makes `objects` allocations in advance, which then cannot fail.
    ///
    /// # Errors
    /// [`OutOfMemory`] when there are not so many; then nothing is held.
    ///
    /// ```
    /// # use core::{alloc::Layout, mem::MaybeUninit};
    /// # use page_frame::{Arena, SingleCpu};
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    /// # let arena = Arena::new(&mut memory)?;
    /// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
    /// let nodes = registry.cache("node", Layout::new::<[u64; 32]>()).build()?;
    /// let mut prefilled = nodes.prefill(3)?;
    /// let node = prefilled.allocate().expect("one of three");
    /// // SAFETY: from this cache, and not used any more.
    /// unsafe { nodes.free(node) };
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn prefill(&self, objects: usize) -> Result<Prefilled<'_, S, K>, OutOfMemory> {
        let pool = self.inner().fill_pool::<K>(objects)?;
        Ok(Prefilled { cache: self, pool: Some(pool) })
    }
}

impl<S: System, K: Hardening> Mempool<'_, S, K> {
    /// Allocates an object: from the cache or, when that has none, from what is kept. O(1) beyond the cache's cost; takes
    /// the reserve's lock only in the second case.
    ///
    /// # Errors
    /// [`OutOfMemory`] when nothing is kept any more; or for an interrupt that came upon the lock.
    #[track_caller]
    pub fn allocate(&self) -> Result<NonNull<u8>, OutOfMemory> {
        if let Ok(object) = self.cache.allocate() {
            return Ok(object);
        }
        loop {
            let object = {
                let token = self.cache.inner().system().locking.lock_token();
                let mut pool = token.lock(&self.pool).ok_or(OutOfMemory)?;
                pool.as_mut().and_then(Pool::pop).ok_or(OutOfMemory)?
            };
            // A spoilt object stays isolated; there may be others.
            if let Some(object) = self.cache.inner().hand_out::<K>(object) {
                return Ok(object);
            }
        }
    }

    /// Frees an object: to what is kept, as long as that is short, or to the cache.
    ///
    /// # Safety
    /// 1. All clauses of [`Cache::free`]; the object came from this reserve or its cache.
    #[track_caller]
    pub unsafe fn free(&self, object: NonNull<u8>) {
        let inner = self.cache.inner();
        let Some(object) = inner.take_back::<K>(object) else { return };
        let is_kept = {
            let token = inner.system().locking.lock_token();
            token.lock(&self.pool).is_some_and(|mut pool| {
                let short = pool.as_mut().filter(|pool| pool.objects() < self.objects);
                short.is_some_and(|pool| pool.push(object))
            })
        };
        if !is_kept {
            inner.put_in(object);
        }
    }

    /// Returns how many objects are kept at this moment.
    pub fn kept(&self) -> usize {
        let token = self.cache.inner().system().locking.lock_token();
        token.lock(&self.pool).and_then(|pool| pool.as_ref().map(Pool::objects)).unwrap_or(0)
    }
}

impl<S: System, K: Hardening> Drop for Mempool<'_, S, K> {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.get_mut().take() {
            self.cache.inner().drain_pool(pool);
        }
    }
}

/// Allocations made in advance. Dropping it gives back those that were not used.
#[derive(Debug)]
pub struct Prefilled<'c, S: System, K: Hardening = Off> {
    cache: &'c Cache<S, K>,
    pool: Option<Pool>,
}

impl<S: System, K: Hardening> Prefilled<'_, S, K> {
    /// Takes one of the objects; there are as many as were asked for. O(1), no lock.
    #[track_caller]
    pub fn allocate(&mut self) -> Option<NonNull<u8>> {
        loop {
            let object = self.pool.as_mut()?.pop()?;
            // A spoilt object stays isolated, and is one fewer.
            if let Some(object) = self.cache.inner().hand_out::<K>(object) {
                return Some(object);
            }
        }
    }

    /// Returns how many are left.
    pub fn left(&self) -> usize {
        self.pool.as_ref().map_or(0, Pool::objects)
    }
}

impl<S: System, K: Hardening> Drop for Prefilled<'_, S, K> {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            self.cache.inner().drain_pool(pool);
        }
    }
}
