//! Finding the slabs of many objects: neighbours are often of the same slab.

use core::ptr::NonNull;

use page_frame::{Cpu, Fault, PageMap, PageSource};

use crate::core::Core;
use crate::record::Record;

/// Finds slabs and indices of objects, one after another, and remembers the slab found last.
#[derive(Debug)]
pub(crate) struct Finder<'c, P, C> {
    core: &'c Core<P, C>,
    record: NonNull<Record>,
    /// The address of the first object of the slab found last.
    first: usize,
    /// The bytes of its objects together; zero before the first one is found.
    bytes: usize,
    stride: usize,
    /// 2^64 / stride, rounded up: the upper half of its product with a number below 2^32 is their quotient. Zero where it does
    /// not fit, for a stride of one byte; then each object is looked up.
    reciprocal: u64,
}

impl<'c, P: PageSource + PageMap, C: Cpu + Clone> Finder<'c, P, C> {
    pub(crate) fn new(core: &'c Core<P, C>) -> Self {
        let stride = core.plan.geometry.stride();
        let reciprocal = (u64::MAX / stride as u64).wrapping_add(1);
        let record = NonNull::dangling();
        Self { core, record, first: 0, bytes: 0, stride, reciprocal }
    }

    /// As [`Core::find`], for less when the object is of the same slab as the one before. The slab found last must be alive,
    /// as it is while the caller owns an object of it, or holds the lock of the slab set.
    #[inline]
    #[track_caller]
    pub(crate) fn find(&mut self, address: usize) -> Result<(NonNull<Record>, usize), Fault> {
        let offset = address.wrapping_sub(self.first);
        if offset < self.bytes {
            let index = self.divide(offset);
            if index * self.stride == offset {
                return Ok((self.record, index));
            }
        }
        self.find_slab(address)
    }

    #[track_caller]
    fn find_slab(&mut self, address: usize) -> Result<(NonNull<Record>, usize), Fault> {
        let (record, index) = self.core.find(address)?;
        // SAFETY: `find` says that it is alive.
        let capacity = unsafe { record.as_ref() }.geometry(&self.core.plan.geometry).capacity();
        self.record = record;
        self.first = address - index * self.stride;
        self.bytes = capacity * self.stride;
        Ok((record, index))
    }

    #[inline]
    fn divide(&self, offset: usize) -> usize {
        if usize::BITS < 64 {
            return offset / self.stride;
        }
        (u128::from(self.reciprocal) * offset as u128 >> 64) as usize
    }
}
