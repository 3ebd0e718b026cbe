//! Guards that put magazines, objects and blocks away when code of the user panics.
//!
//! # Concepts
//! Constructors, destructors, observers, page sources and fault hooks are code of the user, and may panic. `cache` cannot catch a
//! panic. So a guard owns whatever a caller holds at such a moment, and its `drop` runs during unwinding. [`MagazineGuard`] owns a
//! magazine and an object, [`BlockGuard`] a block of pages. Other files have guards for slabs (`grow`, `releasing`), chains
//! of magazines (`shrink`), stocks (`pool`) and slices of objects (`many`).
//!
//! # Invariants
//! - I1: `drop` of an empty guard runs no code of the user. A second panic during unwinding ends the program.

use core::ptr::NonNull;

use page_frame::{PageBlock, PageSource};

use crate::cache::inner::CacheInner;
use crate::percpu::magazine::Magazine;
use crate::percpu::path::Patience;
use crate::system::System;

/// A magazine and an object that a caller owns. Dropping it puts away what is left.
pub(crate) struct MagazineGuard<'c, S: System> {
    inner: &'c CacheInner<S>,
    pub(crate) magazine: Option<Magazine>,
    pub(crate) object: Option<NonNull<u8>>,
}

impl<'c, S: System> MagazineGuard<'c, S> {
    /// Makes a guard that holds `magazine`, if there is one, and no object.
    pub(crate) fn new(inner: &'c CacheInner<S>, magazine: Option<Magazine>) -> Self {
        Self { inner, magazine, object: None }
    }

    /// Returns the magazine.
    ///
    /// # Panics
    /// When there is none.
    pub(crate) fn magazine(&mut self) -> &mut Magazine {
        self.magazine.as_mut().expect("the caller put a magazine into the guard")
    }
}

impl<S: System> Drop for MagazineGuard<'_, S> {
    fn drop(&mut self) {
        if let Some(magazine) = self.magazine.take() {
            self.inner.put_away(magazine);
        }
        if let Some(object) = self.object.take() {
            self.inner.give_back(Patience::Wait, &[object]);
        }
    }
}

/// A block of pages that a caller owns. Dropping it gives the block back to its source.
pub(crate) struct BlockGuard<'s, P: PageSource> {
    source: &'s P,
    block: Option<PageBlock>,
}

impl<'s, P: PageSource> BlockGuard<'s, P> {
    /// # Safety
    /// 1. `block` came from `source`, and nothing refers into it until [`release`](Self::release).
    pub(crate) unsafe fn new(source: &'s P, block: PageBlock) -> Self {
        Self { source, block: Some(block) }
    }

    /// Takes the block out of the guard.
    pub(crate) fn release(mut self) -> Option<PageBlock> {
        self.block.take()
    }
}

impl<P: PageSource> Drop for BlockGuard<'_, P> {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            // SAFETY: clause 1 of `new`: from this source, and nothing refers into it.
            unsafe { self.source.free(block) };
        }
    }
}
