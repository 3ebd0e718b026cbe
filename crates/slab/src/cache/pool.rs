//! A pool: objects of a cache in magazines, and empty magazines for more of them.

use core::ptr::NonNull;

use crate::percpu::magazine::{Chain, Magazine};

/// Objects of a cache in magazines. Dropping it loses them and the magazines.
#[derive(Debug)]
pub(super) struct Pool {
    filled: Chain,
    empty: Chain,
    objects: usize,
}

impl Pool {
    pub(super) const fn new() -> Self {
        Self { filled: Chain::new(), empty: Chain::new(), objects: 0 }
    }

    /// Takes everything out.
    pub(super) fn take(&mut self) -> Self {
        core::mem::replace(self, Self::new())
    }

    /// Takes the magazines with objects out, and leaves the empty ones.
    pub(super) fn take_filled(&mut self) -> Self {
        let objects = core::mem::take(&mut self.objects);
        Self { filled: self.filled.take(), empty: Chain::new(), objects }
    }

    /// Returns the magazines with objects, and the empty ones.
    pub(super) fn into_chains(self) -> (Chain, Chain) {
        (self.filled, self.empty)
    }

    /// Returns how many objects are in it.
    pub(super) const fn objects(&self) -> usize {
        self.objects
    }

    /// Takes an object out.
    pub(super) fn pop(&mut self) -> Option<NonNull<u8>> {
        let mut magazine = self.filled.pop()?;
        let object = magazine.pop();
        self.objects -= 1;
        let chain = if magazine.length() == 0 { &mut self.empty } else { &mut self.filled };
        chain.push(magazine);
        object
    }

    /// Puts in `object`, an object of the cache that the caller owns. Returns whether there was
    /// room; the pool then owns the object.
    pub(super) fn push(&mut self, object: NonNull<u8>) -> bool {
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

    /// Takes a magazine out, with all objects in it.
    pub(super) fn pop_filled(&mut self) -> Option<Magazine> {
        let magazine = self.filled.pop()?;
        self.objects -= magazine.length();
        Some(magazine)
    }

    /// Takes an empty magazine out.
    pub(super) fn pop_empty(&mut self) -> Option<Magazine> {
        self.empty.pop()
    }

    /// Adds the empty `magazine`.
    pub(super) fn push_empty(&mut self, magazine: Magazine) {
        debug_assert_eq!(magazine.length(), 0, "it is empty");
        self.empty.push(magazine);
    }
}
