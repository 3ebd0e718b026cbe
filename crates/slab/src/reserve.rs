//! Objects that are there when memory is not: reserves, and allocations prepared beforehand.
//!
//! # Concepts
//! A [`Reserve`] keeps N objects back for the way out of a shortage (Linux's mempool; Molnar 2001): it allocates from the
//! cache as long as that works, then from what it kept, and frees refill it first. A [`Prefilled`] is N allocations made
//! in advance, for code that must not fail later (Linux's prefilled sheaves).

use core::ptr::NonNull;

use page_frame::{IrqLock, OutOfMemory};

use crate::cache::Cache;
use crate::checks::{Checks, Off};
use crate::stock::Stock;
use crate::system::System;

/// A cache with objects kept back for when there is no memory. Dropping it gives them back.
#[derive(Debug)]
pub struct Reserve<'c, S: System, K: Checks = Off> {
    cache: &'c Cache<S, K>,
    stock: IrqLock<Option<Stock>>,
    objects: usize,
}

impl<S: System, K: Checks> Cache<S, K> {
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
    /// let reserve = requests.reserve(4)?;
    /// let request = reserve.allocate()?;
    /// // SAFETY: from this reserve, and not used any more.
    /// unsafe { reserve.free(request) };
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reserve(&self, objects: usize) -> Result<Reserve<'_, S, K>, OutOfMemory> {
        let stock = self.core().put_by::<K>(objects)?;
        Ok(Reserve { cache: self, stock: IrqLock::new(Some(stock)), objects })
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
        let stock = self.core().put_by::<K>(objects)?;
        Ok(Prefilled { cache: self, stock: Some(stock) })
    }
}

impl<S: System, K: Checks> Reserve<'_, S, K> {
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
                let token = self.cache.core().system().locking.lock_token();
                let mut stock = token.lock(&self.stock).ok_or(OutOfMemory)?;
                stock.as_mut().and_then(Stock::pop).ok_or(OutOfMemory)?
            };
            // A spoilt object stays isolated; there may be others.
            if let Some(object) = self.cache.core().hand_out::<K>(object) {
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
        let core = self.cache.core();
        let Some(object) = core.take_back::<K>(object) else { return };
        let is_kept = {
            let token = core.system().locking.lock_token();
            token.lock(&self.stock).is_some_and(|mut stock| {
                let short = stock.as_mut().filter(|stock| stock.objects() < self.objects);
                short.is_some_and(|stock| stock.push(object))
            })
        };
        if !is_kept {
            core.put_in(object);
        }
    }

    /// Returns how many objects are kept at this moment.
    pub fn kept(&self) -> usize {
        let token = self.cache.core().system().locking.lock_token();
        token.lock(&self.stock).and_then(|stock| stock.as_ref().map(Stock::objects)).unwrap_or(0)
    }
}

impl<S: System, K: Checks> Drop for Reserve<'_, S, K> {
    fn drop(&mut self) {
        if let Some(stock) = self.stock.get_mut().take() {
            self.cache.core().put_back(stock);
        }
    }
}

/// Allocations made in advance. Dropping it gives back those that were not used.
#[derive(Debug)]
pub struct Prefilled<'c, S: System, K: Checks = Off> {
    cache: &'c Cache<S, K>,
    stock: Option<Stock>,
}

impl<S: System, K: Checks> Prefilled<'_, S, K> {
    /// Takes one of the objects; there are as many as were asked for. O(1), no lock.
    #[track_caller]
    pub fn allocate(&mut self) -> Option<NonNull<u8>> {
        loop {
            let object = self.stock.as_mut()?.pop()?;
            // A spoilt object stays isolated, and is one fewer.
            if let Some(object) = self.cache.core().hand_out::<K>(object) {
                return Some(object);
            }
        }
    }

    /// Returns how many are left.
    pub fn left(&self) -> usize {
        self.stock.as_ref().map_or(0, Stock::objects)
    }
}

impl<S: System, K: Checks> Drop for Prefilled<'_, S, K> {
    fn drop(&mut self) {
        if let Some(stock) = self.stock.take() {
            self.cache.core().put_back(stock);
        }
    }
}
