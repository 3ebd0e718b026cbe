//! The core of a cache: everything it has except its handle, in pages of the page source.
//!
//! # Invariants
//! - I1: a core is alive from its construction until its handle has destroyed it; visitors keep it so (core list I1, I2).
//! - I2: the system that a core points to outlives it.

use core::ptr::NonNull;

use page_frame::sync::{Lock, TakeAll};
use page_frame::{Cpu, Fault, FaultKind, PageMap, PageSource, Slots, Tag};

use crate::checks::Padding;
use crate::core_list::Listed;
use crate::cpu_slot::CpuSlot;
use crate::depot::Depot;
use crate::geometry::Geometry;
use crate::name::Name;
use crate::record::Record;
use crate::registry::System;
use crate::slab_set::SlabSet;

/// Called with an object that is to be constructed or destroyed.
pub type ObjectHook = unsafe fn(NonNull<u8>);

/// What a cache is told when it is built, and keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) name: Name,
    /// The size of an object in bytes, without padding.
    pub(crate) size: usize,
    pub(crate) padding: Padding,
    pub(crate) geometry: Geometry,
    pub(crate) coloured: bool,
    pub(crate) constructor: Option<ObjectHook>,
    pub(crate) destructor: Option<ObjectHook>,
    pub(crate) tag: Tag,
    /// Empty slabs that stay; `None`: by the number of slabs.
    pub(crate) keep_empty: Option<usize>,
    /// Objects in a magazine; zero for caches without slots.
    pub(crate) magazine_capacity: u16,
    /// Which of the internal caches magazines come from.
    pub(crate) magazine_class: u8,
    /// The most bytes of objects in the full magazines of the depot.
    pub(crate) depot_bytes: u32,
    /// What canaries and shuffled slabs depend on.
    pub(crate) secret: usize,
    /// What histories are dated by.
    pub(crate) clock: Option<fn() -> u64>,
}

impl Plan {
    pub(crate) fn magazine_capacity(&self) -> usize {
        self.magazine_capacity.into()
    }
}

/// A cache, without its handle.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Core<P, C> {
    pub(crate) slots: Slots<'static, CpuSlot, C>,
    pub(crate) system: NonNull<System<P, C>>,
    pub(crate) plan: Plan,
    pub(crate) pending: TakeAll<Record>,
    pub(crate) set: Lock<SlabSet>,
    pub(crate) depot: Lock<Depot>,
    pub(crate) listed: Listed<P, C>,
}

impl<P: PageSource + PageMap, C: Cpu + Clone> Core<P, C> {
    pub(crate) fn new(
        system: NonNull<System<P, C>>,
        slots: Slots<'static, CpuSlot, C>,
        plan: Plan,
    ) -> Self {
        let (capacity, stride) = (plan.magazine_capacity(), plan.geometry.stride());
        let depot = Depot::new(capacity.max(1), stride, plan.depot_bytes as usize);
        Self {
            slots,
            system,
            plan,
            pending: TakeAll::new(),
            set: Lock::new(SlabSet::new()),
            depot: Lock::new(depot),
            listed: Listed::new(),
        }
    }

    #[inline]
    pub(crate) fn system(&self) -> &System<P, C> {
        // SAFETY: I2.
        unsafe { self.system.as_ref() }
    }

    /// Returns what records call this cache.
    pub(crate) fn identity(&self) -> NonNull<()> {
        NonNull::from(self).cast()
    }

    pub(crate) fn slab_pages(&self) -> usize {
        self.plan.geometry.order().pages()
    }

    /// Returns how many empty slabs stay when there are `slabs`.
    pub(crate) fn empty_slabs_kept(&self, slabs: usize) -> usize {
        // 1/16: a guess; one at least, so that an allocate and free at the edge of a slab never asks the source twice.
        self.plan.keep_empty.unwrap_or((slabs / 16).max(1))
    }

    /// Finds the slab of the object at `address`, and the object's index. O(1), no lock.
    #[track_caller]
    pub(crate) fn find(&self, address: usize) -> Result<(NonNull<Record>, usize), Fault> {
        let source = &self.system().source;
        let (expected, found) = (self.plan.tag, source.tag(address));
        if !found.is_slab() {
            let (expected, found) = (expected.get().into(), found.get().into());
            return Err(Fault::new(FaultKind::ForeignPointer, address, expected, found));
        }
        let record = NonNull::new(source.owner(address).cast::<Record>())
            .expect("set_owner wrote the record where it wrote the tag");
        // SAFETY: a page with a slab's tag is owned by a live record; the tag is cleared before the record dies, and
        // whoever frees an object of the slab keeps the slab alive.
        let slab = unsafe { record.as_ref() };
        if slab.cache != self.identity() {
            let (expected, found) = (self.identity().addr(), slab.cache.addr());
            return Err(Fault::new(FaultKind::WrongCache, address, expected.get(), found.get()));
        }
        let geometry = &self.plan.geometry;
        let (index, behind) = slab.index_of(geometry, address);
        if index >= geometry.capacity() {
            let first = slab.first_object(geometry);
            return Err(Fault::new(FaultKind::InteriorPointer, address, first, address));
        }
        if behind != 0 {
            return Err(Fault::new(FaultKind::InteriorPointer, address, address - behind, address));
        }
        Ok((record, index))
    }
}
