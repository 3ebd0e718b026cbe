//! A pool: free objects put by in magazines, out of everybody's reach, for [`Mempool`](crate::Mempool) and
//! [`Prefilled`](crate::Prefilled).
//!
//! # Invariants
//! - I1: the magazines of `filled` hold an object each at least, and only the first has room for more; those of `empty` hold
//!   none.

use core::ptr::NonNull;

use page_frame::OutOfMemory;

use crate::cache::inner::CacheInner;
use crate::hardening::Hardening;
use crate::percpu::magazine::Chain;
use crate::percpu::path::Patience;
use crate::system::System;

/// Objects of a cache, not yet looked at for handing out, in magazines.
#[derive(Debug)]
pub(crate) struct Pool {
    filled: Chain,
    empty: Chain,
    objects: usize,
}

impl Pool {
    pub(crate) const fn objects(&self) -> usize {
        self.objects
    }

    /// Takes an object out.
    pub(crate) fn pop(&mut self) -> Option<NonNull<u8>> {
        let mut magazine = self.filled.pop()?;
        let object = magazine.pop();
        self.objects -= 1;
        let chain = if magazine.length() == 0 { &mut self.empty } else { &mut self.filled };
        chain.push(magazine);
        object
    }

    /// Puts `object` in, one of the cache that the caller owns; whether there was room, and the object is the pool's.
    pub(crate) fn push(&mut self, object: NonNull<u8>) -> bool {
        let magazine = match self.filled.first() {
            Some(first) if !first.is_full() => self.filled.pop(),
            _ => self.empty.pop(),
        };
        let Some(mut magazine) = magazine else { return false };
        magazine.push(object);
        self.filled.push(magazine);
        self.objects += 1;
        true
    }
}

impl<S: System> CacheInner<S> {
    /// Puts `objects` objects by, with magazines for them.
    ///
    /// # Errors
    /// [`OutOfMemory`]; then nothing is held.
    pub(crate) fn fill_pool<K: Hardening>(&self, objects: usize) -> Result<Pool, OutOfMemory> {
        let pool = Pool { filled: Chain::new(), empty: Chain::new(), objects: 0 };
        // Gives everything back where memory ends, or a constructor panics.
        let mut fill_pool = FillingPool { inner: self, pool: Some(pool) };
        let mut places = 0;
        while places < objects {
            let magazine = self.new_magazine().ok_or(OutOfMemory)?;
            places += magazine.capacity();
            fill_pool.pool().empty.push(magazine);
        }
        while fill_pool.pool().objects < objects {
            let object = self.take_out::<K>()?;
            let has_room = fill_pool.pool().push(object);
            debug_assert!(has_room, "I1: as many places as objects");
        }
        fill_pool.pool.take().ok_or(OutOfMemory)
    }

    /// Gives everything in `pool` back.
    pub(crate) fn drain_pool(&self, pool: Pool) {
        self.empty_all(pool.filled, pool.empty, Patience::Wait);
    }
}

/// A pool that is being put by. Dropping it gives everything back.
struct FillingPool<'c, S: System> {
    inner: &'c CacheInner<S>,
    pool: Option<Pool>,
}

impl<S: System> FillingPool<'_, S> {
    fn pool(&mut self) -> &mut Pool {
        self.pool.as_mut().expect("the pool is there until it is complete")
    }
}

impl<S: System> Drop for FillingPool<'_, S> {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            self.inner.drain_pool(pool);
        }
    }
}
